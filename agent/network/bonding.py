"""Bond options by the kernel's names, as networkd's (systemd.netdev(5), kernel's bonding.rst)."""

from __future__ import annotations

from agent.network.wished import Bond

MODES = (
    "balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb",
    "balance-alb",
)  # fmt: skip
MILLISECONDS = {
    "miimon": "MIIMonitorSec",
    "updelay": "UpDelaySec",
    "downdelay": "DownDelaySec",
    "arp_interval": "ARPIntervalSec",
}
SAME = {
    "xmit_hash_policy": "TransmitHashPolicy",
    "ad_select": "AdSelect",
    "fail_over_mac": "FailOverMACPolicy",
    "arp_validate": "ARPValidate",
    "arp_all_targets": "ARPAllTargets",
    "primary_reselect": "PrimaryReselectPolicy",
    "resend_igmp": "ResendIGMP",
    "packets_per_slave": "PacketsPerSlave",
    "num_grat_arp": "GratuitousARP",
    "num_unsol_na": "GratuitousARP",
    "all_slaves_active": "AllSlavesActive",
    "min_links": "MinLinks",
}
RATES = {"0": "slow", "slow": "slow", "1": "fast", "fast": "fast"}


def bond_sections(bond: Bond) -> tuple[list[str], list[str]]:
    """Return the [Bond] section, and what is wrong with options that were left out of it.

    Links are watched every 100 ms where nothing else is said: unwatched, a bond never notices.
    """
    lines, wrong = ["[Bond]"], list[str]()
    given = dict(bond.options)
    for key, value in given.items():
        try:
            lines += _option(bond, key, value)
        except ValueError as error:
            wrong.append(str(error))
    if not {"miimon", "arp_interval"} & given.keys():
        lines.append("MIIMonitorSec=100ms")
    return lines, wrong


def _option(bond: Bond, key: str, value: str) -> list[str]:
    if key == "mode":
        return [f"Mode={_mode(value)}"]
    if key in MILLISECONDS:
        if not value.isdigit():
            raise ValueError(f"{key}={value}: must be milliseconds")
        return [f"{MILLISECONDS[key]}={value}ms"]
    if key == "lacp_rate":
        if value not in RATES:
            raise ValueError(f"lacp_rate={value}: must be slow or fast")
        return [f"LACPTransmitRate={RATES[value]}"]
    if key == "arp_ip_target":
        return [f"ARPIPTargets={' '.join(value.replace('+', ';').split(';'))}"]
    if key == "primary":
        if value not in bond.ports:
            raise ValueError(f"primary={value}: is none of its ports, {', '.join(bond.ports)}")
        return []  # said of the port
    if key not in SAME:
        raise ValueError(f"{key}={value}: is not known")
    return [f"{SAME[key]}={value}"]


def _mode(value: str) -> str:
    if value.isdigit() and int(value) < len(MODES):
        return MODES[int(value)]
    if value not in MODES:
        raise ValueError(f"mode={value}: must be one of {', '.join(MODES)}, or its number")
    return value
