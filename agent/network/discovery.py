"""The options of Foreman's discovery image that describe a network, as dracut's.

Read last, because they belong together: one card (`fdi.pxmac`, else `BOOTIF`), its address
(`fdi.pxip` with `fdi.pxgw` and `fdi.pxdns`; without, DHCP) and the VLAN it is in
(`fdi.vlan.primary`). An `ip=` beside them wins.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.errors import Problem
from agent.network.addresses import Ip, parse_address, parse_cidr, parse_mac
from agent.network.wished import Vlan, Wished, vlan_number
from agent.network.words import options

NAMES = (
    "fdi.initnet",
    "fdi.pxmac",
    "fdi.pxip",
    "fdi.pxgw",
    "fdi.pxdns",
    "fdi.vlan.primary",
    "fdi.dns_nameserver",
    "fdi.dns_search",
)


def add(words: Sequence[str], wished: Wished) -> None:
    """Add to `wished` what these options ask for; what is wrong becomes a problem by name."""
    given = {name: value for name, value in options(words) if name in NAMES and value}

    for name in given:
        try:
            _one(name, given[name], wished)
        except ValueError as error:
            wished.problems.append(Problem("kernel command line", f"{name}={given[name]}: {error}"))
    _address(given, wished)


def _one(name: str, value: str, wished: Wished) -> None:
    match name:
        case "fdi.initnet":
            if value not in ("all", "bootif"):
                raise ValueError("must be all or bootif")
            wished.only_boot = value == "bootif"
        case "fdi.pxmac":
            wished.boot_mac = parse_mac(value)
        case "fdi.pxdns" | "fdi.dns_nameserver":
            wished.dns += [parse_address(each, "name server") for each in value.split(",") if each]
        case "fdi.dns_search":
            wished.domains += [each for each in value.split(",") if each]
        case "fdi.vlan.primary":
            if not value.isdigit():
                raise ValueError("must be the number of a VLAN")
            number = vlan_number(value)
            wished.vlans.append(Vlan(f"vlan{number}", number, ""))
        case "fdi.pxgw":
            parse_address(value, "gateway")  # so that a wrong one is named
        case _:  # fdi.pxip
            parse_cidr(value)


def _address(given: dict[str, str], wished: Wished) -> None:
    """Give the address to the VLAN, if there is one, else to the card."""
    if "fdi.pxip" not in given or wished.ips:
        return
    try:
        here = parse_cidr(given["fdi.pxip"])
        way = parse_address(given["fdi.pxgw"], "gateway") if "fdi.pxgw" in given else None
    except ValueError:
        return  # named already
    name = next((vlan.name for vlan in wished.vlans if vlan.parent == ""), "")
    wished.ips.append(Ip(name, "none", here, way))
