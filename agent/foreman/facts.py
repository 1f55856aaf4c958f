"""What Foreman's discovery is told about a machine it does not know: facts, as facter names them.

Foreman reads interfaces from flat facts (`macaddress_eth0`) or from structured ones
(`networking.interfaces`), by version: both are sent. Names that match `DROPPED` are thrown away
there, so none is used. Pure: everything comes from the recorded inventory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from agent import __version__
from agent.inventory.model import Inventory, Nic

MIB = 1 << 20
DROPPED = re.compile(r"kernel|operatingsystem|osfamily|ruby|path|time|swap|free|filesystem", re.I)
"""Top-level names that Foreman's importer ignores."""
FACTER = "4.0.0"
"""Version 3 and later makes Foreman read the structured interfaces."""


def facts(inventory: Inventory, mac: str, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the facts of a machine that was booted from the card `mac`; `more` wins over them."""
    told: dict[str, Any] = {
        "facterversion": FACTER,
        "discovery_bootif": mac,
        "discovery_version": __version__,
        # Foreman then sends an order that names the plan, instead of one to reboot.
        "discovery_kexec": f"bedplate {__version__}",
        "architecture": "x86_64",
        "hardwaremodel": "x86_64",
        "memorysize_mb": round(inventory.memory / MIB, 2),
        "processorcount": inventory.cpus,
        "physicalprocessorcount": inventory.cpus,
        "bedplate_uefi": inventory.firmware.uefi,
        "bedplate_secure_boot": inventory.firmware.secure_boot,
        "bedplate_tpm2": inventory.tpm is not None,
    }
    told |= _board(inventory)
    told |= _disks(inventory)
    told |= _flat(inventory)
    told["networking"] = {"interfaces": {nic.name: _structured(nic) for nic in inventory.nics}}
    told |= _booted(inventory, mac)
    return told | dict(more or {})


def has_address(inventory: Inventory, mac: str) -> bool:
    """Tell whether the card `mac` has an address: Foreman takes no host without one."""
    return any(nic.mac == mac and nic.addresses for nic in inventory.nics)


def _board(inventory: Inventory) -> dict[str, str]:
    dmi = inventory.dmi
    known = {
        "manufacturer": dmi.vendor,
        "productname": dmi.product,
        "serialnumber": dmi.serial,
        "uuid": str(dmi.uuid) if dmi.uuid else None,
    }
    return {name: value for name, value in known.items() if value}


def _disks(inventory: Inventory) -> dict[str, Any]:
    told: dict[str, Any] = {}
    fixed = [disk for disk in inventory.disks if not disk.removable and not disk.boot_medium]
    for disk in fixed:
        told[f"blockdevice_{disk.stem.name}_size"] = disk.size
        if disk.model:
            told[f"blockdevice_{disk.stem.name}_model"] = disk.model
        if disk.serial:
            told[f"blockdevice_{disk.stem.name}_serial"] = disk.serial
    return {"blockdevices": ",".join(disk.stem.name for disk in fixed)} | told


def _flat(inventory: Inventory) -> dict[str, Any]:
    told: dict[str, Any] = {"interfaces": ",".join(_legacy(nic.name) for nic in inventory.nics)}
    for nic in inventory.nics:
        name = _legacy(nic.name)
        told[f"macaddress_{name}"] = nic.mac
        four, six = _addresses(nic)
        if four:
            told[f"ipaddress_{name}"] = str(four.ip)
            told[f"netmask_{name}"] = str(four.netmask)
        if six:
            told[f"ipaddress6_{name}"] = str(six.ip)
    return told


def _structured(nic: Nic) -> dict[str, Any]:
    four, six = _addresses(nic)
    told: dict[str, Any] = {"mac": nic.mac}
    if four:
        told |= {
            "ip": str(four.ip),
            "netmask": str(four.netmask),
            "network": str(four.network.network_address),
        }
    if six:
        told |= {"ip6": str(six.ip), "netmask6": str(six.netmask)}
    return told


def _booted(inventory: Inventory, mac: str) -> dict[str, str]:
    """Return the facts that Foreman's kexec templates read."""
    nic = next((nic for nic in inventory.nics if nic.mac == mac), None)
    four, six = _addresses(nic) if nic else (None, None)
    address = four or six
    if address is None:
        return {}
    told = {"discovery_ip": str(address.ip), "discovery_ip_cidr": str(address)}
    return told | ({"discovery_netmask": str(four.netmask)} if four else {})


def _addresses(nic: Nic) -> tuple[IPv4Interface | None, IPv6Interface | None]:
    """Return the first address of each family."""
    all_of_them = [ip_interface(text) for text in nic.addresses]
    four = next((one for one in all_of_them if isinstance(one, IPv4Interface)), None)
    six = next((one for one in all_of_them if isinstance(one, IPv6Interface)), None)
    return four, six


def _legacy(name: str) -> str:
    return name.replace(".", "_").replace(":", "_")
