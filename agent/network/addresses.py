"""What one `ip=` says (dracut.cmdline(7)): fields between colons, IPv6 addresses in brackets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

METHODS = {
    # method: (DHCP=, LinkLocalAddressing=, IPv6AcceptRA=)
    "none": ("no", "ipv6", "no"),
    "off": ("no", "ipv6", "no"),
    "": ("no", "ipv6", "no"),
    "dhcp": ("ipv4", "ipv6", "yes"),
    "on": ("yes", "ipv6", "yes"),
    "any": ("yes", "ipv6", "yes"),
    "dhcp6": ("ipv6", "ipv6", "yes"),
    "auto6": ("no", "ipv6", "yes"),
    "either6": ("ipv6", "ipv6", "yes"),
    "link6": ("no", "ipv6", "no"),
    "link-local": ("no", "yes", "no"),
}
STATIC = frozenset({"none", "off", ""})
_FIELD = re.compile(r"\[([^\]]*)\](?::|$)|([^:\[\]]*)(?::|$)")
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}", re.IGNORECASE)


@dataclass(frozen=True)
class Ip:
    """One `ip=`; no interface means whichever there is."""

    interface: str = ""
    method: str = "none"
    address: Interface | None = None
    gateway: Address | None = None
    mtu: int | None = None
    mac: str | None = None
    dns: tuple[Address, ...] = ()


def parse_ip(value: str) -> Ip:
    """Read an `ip=` in one of dracut's three forms; `ValueError` says what is wrong."""
    parts = fields(value)
    if len(parts) == 1:
        return Ip(method=_method(parts[0]))
    if parts[0] and parts[1] and parts[1] in METHODS and not _is_address(parts[0]):
        mtu, mac = _mtu_and_mac(parts[2:])
        return Ip(interface(parts[0]), _method(parts[1]), mtu=mtu, mac=mac)
    if len(parts) < 7:
        raise ValueError(
            "must be METHOD, INTERFACE:METHOD or ADDRESS::GATEWAY:MASK:HOST:INTERFACE:METHOD"
        )
    address, peer, gateway, mask, _host, name, method, *rest = parts
    if peer:
        raise ValueError(f"{peer}: a peer's address is not understood, leave it empty")
    here = _interface(address, mask) if address else None
    way = parse_address(gateway, "gateway") if gateway else None
    if here is not None and way is not None and here.version != way.version:
        raise ValueError(f"gateway {way} is not of the family of {here.ip}")
    mtu, mac, dns = None, None, tuple[Address, ...]()
    if rest and _is_address(rest[0]):
        dns = tuple(parse_address(each, "name server") for each in rest[:2] if each)
    elif rest:
        mtu, mac = _mtu_and_mac(rest)
    found = Ip(interface(name) if name else "", _method(method), here, way, mtu, mac, dns)
    if found.method in STATIC and found.address is None:
        raise ValueError("has neither an address nor a method to get one")
    return found


def fields(value: str) -> list[str]:
    """Split at colons that are not inside brackets, and take the brackets off."""
    found, at = list[str](), 0
    while at <= len(value):
        match = _FIELD.match(value, at)
        if match is None:
            raise ValueError("has a bracket that is not closed, or a text behind one")
        found.append(match.group(1) if match.group(1) is not None else match.group(2))
        at = match.end()
        if not match.group().endswith(":"):
            break
    return found


def parse_address(text: str, what: str) -> Address:
    """Read an address, in brackets or not."""
    try:
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{text}: is not the address of a {what}") from None


def parse_network(text: str) -> Network:
    """Read NET/PREFIX or NET/NETMASK."""
    try:
        return ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        raise ValueError(f"{text}: is not a network such as 192.0.2.0/24") from None


def parse_cidr(text: str) -> Interface:
    """Read ADDRESS/PREFIX."""
    try:
        return ip_interface(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ValueError(f"{text}: is not an address such as 192.0.2.5/24") from None


def interface(name: str) -> str:
    """Return a name that a network interface can have, and that is no pattern."""
    if not 0 < len(name) <= 15 or re.search(r"[\s/:*?\[\]!%]", name) or name in (".", ".."):
        raise ValueError(f"{name or 'nothing'}: is not the name of a network interface")
    return name


def parse_mac(text: str) -> str:
    """Return a MAC as aa:bb:cc:dd:ee:ff; dashes are read too."""
    if _MAC.fullmatch(text) is None:
        raise ValueError(f"{text or 'nothing'}: is not a MAC address")
    return text.replace("-", ":").lower()


def parse_mtu(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 68 <= int(text) <= 65535):
        raise ValueError(f"{text}: is not an MTU (68 to 65535)")
    return int(text)


def _method(text: str) -> str:
    if text == "ibft":
        raise ValueError("ibft: what the firmware set up for iSCSI is not read; give the address")
    if text not in METHODS:
        known = ", ".join(sorted(method for method in METHODS if method))
        raise ValueError(f"{text}: must be one of {known}")
    return text or "none"


def _interface(address: str, mask: str) -> Interface:
    here = parse_address(address, "machine")
    if not mask:
        return ip_interface(here)
    try:
        return ip_interface(f"{here}/{mask}")
    except ValueError:
        raise ValueError(f"{mask}: is not a netmask of {here}") from None


def _mtu_and_mac(rest: Sequence[str]) -> tuple[int | None, str | None]:
    mtu = parse_mtu(rest[0]) if rest and rest[0] else None
    mac = parse_mac(":".join(rest[1:])) if len(rest) > 1 and any(rest[1:]) else None
    return mtu, mac


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
