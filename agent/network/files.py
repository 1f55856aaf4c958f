"""What was asked for, as files of systemd-networkd (systemd.network(5), systemd.netdev(5))."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from agent.errors import Problem
from agent.network.addresses import METHODS, STATIC, Ip
from agent.network.bonding import bond_sections
from agent.network.wished import Bond, Bridge, Route, Wished

HEAD = "# From the kernel command line, by python3 -m agent.network.\n"
WIRED = ("Type=ether", "Kind=!*")
NEARER = 512
"""Metric of routes over the card that was booted from; networkd's default is 1024."""


@dataclass
class Link:
    """One .network file to be."""

    match: tuple[str, ...]
    ips: list[Ip] = field(default_factory=list)
    vlans: list[str] = field(default_factory=list)
    master: str = ""
    primary: bool = False
    default: str = "none"
    """The method where no ip= says one."""
    nearer: bool = False


def written(wished: Wished) -> dict[str, str]:
    """Return the files, name to text; none where nothing was asked for.

    60- are interfaces by name, 65- is the card that was booted from, 69- is every other card.
    Problems with bond options are added to `wished.problems`.
    """
    links = _links(wished)
    found = {_file(name): _network(each, wished) for name, each in links.items()}
    found.update(_netdevs(wished))
    for name, mac in wished.names.items():
        # The permanent one: a VLAN or a bond on the card shows the same and is another link.
        match = f"PermanentMACAddress={mac}"
        found[f"60-{name}.link"] = f"{HEAD}[Match]\n{match}\n\n[Link]\nName={name}\n"
    return found


def _links(wished: Wished) -> dict[str, Link]:
    """Return the .network files: by interface, "" for the one booted from, "*" for the rest."""
    links: dict[str, Link] = {}

    def link(name: str) -> Link:
        match = (f"Name={name}",) if name else _boot_match(wished)
        return links.setdefault(name, Link(match))

    for ip in wished.ips:
        if ip.address is not None or ip.interface:
            link(ip.interface).ips.append(ip)
    for vlan in wished.vlans:
        link(vlan.parent).vlans.append(vlan.name)
    for master in wished.masters:
        for port in master.ports:
            _enslave(link(port), master, port)
    for each in wished.made:
        # What is made is wanted: it gets addresses, unless it only carries VLANs.
        link(each.name).default = "none" if link(each.name).vlans else "any"
    if wished.boot_mac:
        if "" not in links:
            link("").default = _everywhere(wished)
        links[""].nearer = True
    if (rest := _rest(wished)) is not None:
        links["*"] = rest
    return links


def _enslave(link: Link, master: Bond | Bridge, port: str) -> None:
    if isinstance(master, Bond):
        link.master, link.primary = f"Bond={master.name}", master.primary == port
    else:
        link.master = f"Bridge={master.name}"


def _boot_match(wished: Wished) -> tuple[str, ...]:
    # The permanent one: a bond gives all its ports the same.
    return (f"PermanentMACAddress={wished.boot_mac}",) if wished.boot_mac else WIRED


def _everywhere(wished: Wished) -> str:
    """Return the method that holds for cards that nothing is said of."""
    for ip in wished.ips:
        if not ip.interface and ip.address is None:
            return ip.method
    return "any"


def _rest(wished: Wished) -> Link | None:
    """Return the file for all other cards; None where 80-wired.network says it already."""
    if wished.only_boot and wished.boot_mac:
        return Link(WIRED, default="unmanaged")
    method = _everywhere(wished)
    static = any(not ip.interface and ip.address is not None for ip in wished.ips)
    if static and not wished.boot_mac:
        return None  # that one is for all of them
    plain = not (wished.dns or wished.domains) and wished.peer_dns and method == "any"
    return None if plain else Link(WIRED, default=method)


def _file(name: str) -> str:
    if name == "":
        return "65-boot.network"
    return "69-wired.network" if name == "*" else f"60-{name}.network"


def _network(link: Link, wished: Wished) -> str:
    lines = [HEAD + "[Match]", *link.match]
    if link.default == "unmanaged":
        return "\n".join([*lines, "", "[Link]", "Unmanaged=yes", ""])
    sizes = [ip.mtu for ip in link.ips if ip.mtu]
    macs = [ip.mac for ip in link.ips if ip.mac]
    if sizes or macs:
        lines += ["", "[Link]"]
        lines += [f"MTUBytes={sizes[-1]}"] if sizes else []
        lines += [f"MACAddress={macs[-1]}"] if macs else []
    lines += ["", "[Network]", *_addressing(link)]
    lines += [f"VLAN={name}" for name in link.vlans]
    if link.master:
        lines += [link.master, *(["PrimarySlave=yes"] if link.primary else [])]
        return "\n".join([*lines, ""])
    lines += [f"DNS={each}" for each in (*(dns for ip in link.ips for dns in ip.dns), *wished.dns)]
    if wished.domains:
        lines.append(f"Domains={' '.join(wished.domains)}")
    for ip in link.ips:
        if ip.address is not None:
            lines += ["", "[Address]", f"Address={ip.address}"]
        if ip.gateway is not None:
            lines += _route("", str(ip.gateway), on_link=_on_link(ip), nearer=link.nearer)
    for route in _routes(link, wished):
        lines += _route(f"Destination={route.destination}", str(route.gateway), on_link=False)
    return "\n".join([*lines, "", *_tail(link, wished), ""])


def _addressing(link: Link) -> list[str]:
    if link.master:
        return ["LinkLocalAddressing=no", "IPv6AcceptRA=no"]
    methods = [ip.method for ip in link.ips] or [link.default]
    if methods == ["none"] and not link.ips:  # the parent of a VLAN, and nothing else
        return ["LinkLocalAddressing=no", "IPv6AcceptRA=no", "LLDP=yes"]
    chosen = [METHODS[method] for method in methods]
    families = {each[0] for each in chosen} - {"no"}
    dhcp = "yes" if families >= {"ipv4", "ipv6"} or "yes" in families else "".join(families) or "no"
    local = "yes" if any(each[1] == "yes" for each in chosen) else "ipv6"
    advertised = "yes" if any(each[2] == "yes" for each in chosen) else "no"
    return [
        f"DHCP={dhcp}",
        f"LinkLocalAddressing={local}",
        f"IPv6AcceptRA={advertised}",
        "LLDP=yes",
    ]


def _route(destination: str, gateway: str, *, on_link: bool, nearer: bool = False) -> list[str]:
    lines = ["", "[Route]", *([destination] if destination else []), f"Gateway={gateway}"]
    lines += ["GatewayOnLink=yes"] if on_link else []
    return [*lines, *([f"Metric={NEARER}"] if nearer else [])]


def _on_link(ip: Ip) -> bool:
    """Whether the gateway is beyond the address's own network, so that it must be said."""
    gateway = ip.gateway
    if gateway is None or ip.address is None or gateway.is_link_local:
        return False
    return gateway not in ip.address.network


def _routes(link: Link, wished: Wished) -> Iterator[Route]:
    """Yield the rd.route= of this interface: named, or else by which network its gateway is in.

    networkd gives up on an interface with a route whose gateway it cannot reach.
    """
    names = {each.removeprefix("Name=") for each in link.match}
    nets = [ip.address.network for ip in link.ips if ip.address is not None]
    for route in wished.routes:
        reached = any(route.gateway in net for net in nets if net.version == route.gateway.version)
        dynamic = not nets and any(ip.method not in STATIC for ip in link.ips)
        if route.interface in names or (not route.interface and (reached or dynamic)):
            yield route


def _tail(link: Link, wished: Wished) -> Sequence[str]:
    extra = [f"RouteMetric={NEARER}"] if link.nearer else []
    if not wished.peer_dns:
        extra.append("UseDNS=no")
    four = extra
    six = [each for each in extra if not each.startswith("RouteMetric")]
    return [
        "[DHCPv4]", "ClientIdentifier=mac", "UseDomains=yes", "UseHostname=no", *four,
        "", "[DHCPv6]", "UseHostname=no", *six,
        "", "[IPv6AcceptRA]", "UseDomains=yes", *extra,
    ]  # fmt: skip


def _netdevs(wished: Wished) -> Iterator[tuple[str, str]]:
    for vlan in wished.vlans:
        yield f"60-{vlan.name}.netdev", _netdev("vlan", vlan.name, ["[VLAN]", f"Id={vlan.number}"])
    for bond in wished.bonds:
        lines, unknown = bond_sections(bond)
        for each in unknown:
            wished.problems.append(Problem("kernel command line", f"bond={bond.name}: {each}"))
        yield f"60-{bond.name}.netdev", _netdev("bond", bond.name, lines, bond.mtu)
    for bridge in wished.bridges:
        yield f"60-{bridge.name}.netdev", _netdev("bridge", bridge.name, [])


def _netdev(kind: str, name: str, more: Sequence[str], mtu: int | None = None) -> str:
    size = [f"MTUBytes={mtu}"] if mtu else []
    return "\n".join([HEAD + "[NetDev]", f"Kind={kind}", f"Name={name}", *size, "", *more, ""])
