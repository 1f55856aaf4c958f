"""A machine as Foreman or Facter knows it: facts become an inventory, with what they cannot know.

Facts come flat (`blockdevice_sda_size`, `macaddress_eth0`: Facter 2 and Foreman's discovery) or
structured (`disks`, `networking`, `dmi`: Facter 3 and 4), as a bare mapping, as Foreman was sent
them (`{"facts": …}`), or as its API gives them back: `{"results": {HOST: …}}`, nested keys joined
by `::`, every value text. What they do not say is named in `unknown` and never guessed: what lies
on a disk, and, unless our own discovery sent them, how the firmware starts and whether there is a
TPM.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import UUID

from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Nic, Tpm, Transport

_MIB = 1024 * 1024
# Whole disks by their kernel names; loop devices, CD drives, arrays and mappings are none.
_DISK = re.compile(r"(?:sd|vd|xvd|hd)[a-z]+|nvme\d+n\d+|mmcblk\d+")
# What a kernel name alone says for certain; SATA, SAS, USB and SANs are all called sd.
_BY_NAME: tuple[tuple[str, Transport], ...] = (
    ("nvme", "nvme"),
    ("vd", "virtio"),
    ("mmcblk", "mmc"),
)
_NO_CARDS = re.compile(
    r"lo|(?:br|docker|dummy|ovs|tap|tun|virbr|vlan|bond|team)\W?\d*|veth\w*|.*[.@:].*"
)
_EMPTY = {"", "unknown", "not specified", "none", "to be filled by o.e.m.", "default string"}
FIRMWARE, TPM, MEMORY = "whether it starts by UEFI", "whether it has a TPM 2.0", "its memory"
"""Words of `Inventory.unknown`; the fields have no meaning then."""


def machines(document: object) -> Iterator[tuple[str, Inventory]]:
    """Yield (name, machine) of every host in a document; none where it holds no facts at all.

    Raises ValueError naming the fact that is missing or wrong, after the host's name.
    """
    if not isinstance(document, Mapping):
        return
    results = document.get("results")
    if isinstance(results, Mapping):
        for host, found in results.items():
            if isinstance(found, Mapping):
                yield str(host), _named(str(host), found)
        return
    for wrapper in ("facts", "values"):
        inner = document.get(wrapper)
        if isinstance(inner, Mapping):
            document = inner
            break
    if is_facts(document):
        yield "", of_facts(document)


def is_facts(document: Mapping[Any, Any]) -> bool:
    """Tell whether a document looks like the facts of one machine; ours has a list of disks."""
    known = ("blockdevices", "interfaces", "networking", "macaddress", "facterversion")
    return isinstance(document.get("disks"), Mapping) or any(
        str(key).partition("::")[0] in known or str(key).startswith("disks::") for key in document
    )


def _named(host: str, facts: Mapping[str, Any]) -> Inventory:
    try:
        return of_facts(facts)
    except ValueError as error:
        raise ValueError(f"{host}: {error}") from None


def of_facts(facts: Mapping[str, Any]) -> Inventory:
    """Return the machine; raise ValueError naming a fact that is missing or wrong."""
    facts = _nested(facts)
    memory, uefi, tpm = _memory(facts), _flag(facts, "uefi"), _flag(facts, "tpm2")
    told = ((FIRMWARE, uefi), (TPM, tpm), (MEMORY, memory))
    return Inventory(
        dmi=Dmi(
            vendor=_said(_first(facts, "dmi.manufacturer", "manufacturer")),
            product=_said(_first(facts, "dmi.product.name", "productname")),
            serial=_said(_first(facts, "dmi.product.serial_number", "serialnumber")),
            uuid=_uuid(_first(facts, "dmi.product.uuid", "uuid")),
        ),
        firmware=Firmware(uefi=bool(uefi), secure_boot=bool(_flag(facts, "secure_boot"))),
        tpm=Tpm(device="/dev/tpmrm0") if tpm else None,
        memory=memory or 0,
        cpus=_whole(_first(facts, "processors.count", "processorcount")) or 1,
        disks=tuple(_disks(facts)),
        nics=tuple(_nics(facts)),
        unknown=tuple(words for words, value in told if value is None),
    )


def _disks(facts: Mapping[str, Any]) -> Iterator[Disk]:
    structured = facts.get("disks")
    found = dict(structured) if isinstance(structured, Mapping) else {}
    flat = str(facts.get("blockdevices") or "")
    for name in (*found, *(name for name in flat.split(",") if name and name not in found)):
        if not _DISK.fullmatch(name):
            continue
        told = found.get(name)
        told = told if isinstance(told, Mapping) else {}
        size = _whole(told.get("size_bytes", facts.get(f"blockdevice_{name}_size")))
        if size is None:
            fact = f"disks::{name}::size_bytes" if told else f"blockdevice_{name}_size"
            raise ValueError(f"{fact}: is missing or no number of bytes")
        if size:  # a card reader without a card
            yield _disk(name, size, told, facts)


def _disk(name: str, size: int, told: Mapping[str, Any], facts: Mapping[str, Any]) -> Disk:
    kind = str(told.get("type", "")).lower()
    transport = next((how for start, how in _BY_NAME if name.startswith(start)), None)
    known: dict[str, Any] = {
        "serial": _said(told.get("serial", facts.get(f"blockdevice_{name}_serial"))),
        "wwn": _said(told.get("wwn")),
        "model": _said(told.get("model", facts.get(f"blockdevice_{name}_model"))),
        "transport": transport,
        "rotational": {"ssd": False, "hdd": True, "nvme": False}.get(kind)
        if transport != "nvme"
        else False,
    }
    unknown = [key for key, value in known.items() if value is None]
    return Disk(
        path=f"/dev/{name}",
        size=size,
        **{key: value for key, value in known.items() if value is not None},
        unknown=(*unknown, "sector_size", "controller", "by_path", "content"),
    )


def _nics(facts: Mapping[str, Any]) -> Iterator[Nic]:
    networking = facts.get("networking")
    structured = networking.get("interfaces") if isinstance(networking, Mapping) else None
    found: dict[str, tuple[Any, Any]] = {}
    if isinstance(structured, Mapping):
        for name, told in structured.items():
            if isinstance(told, Mapping):
                found[str(name)] = (told.get("mac"), told.get("ip"))
    for name in str(facts.get("interfaces") or "").split(","):
        mac = facts.get(f"macaddress_{name}")
        if name and mac is not None:
            found.setdefault(name, (mac, facts.get(f"ipaddress_{name}")))
    for name, (mac, _) in found.items():
        if mac is not None and not _NO_CARDS.fullmatch(name):
            yield Nic(name=name, mac=str(mac).lower())


def _flag(facts: Mapping[str, Any], name: str) -> bool | None:
    """Return a fact of our own discovery (`bedplate_NAME`), None where it was not sent."""
    return {"true": True, "false": False}.get(str(facts.get(f"bedplate_{name}")).lower())


def _memory(facts: Mapping[str, Any]) -> int | None:
    whole = _whole(_first(facts, "memory.system.total_bytes", "memorysize_bytes"))
    if whole is not None:
        return whole
    try:
        return int(float(str(facts["memorysize_mb"])) * _MIB)
    except (KeyError, ValueError, OverflowError):
        return None


def _nested(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts whose names were joined by `::` as the mappings they were."""
    nested: dict[str, Any] = {}
    for name, value in facts.items():
        *above, last = str(name).split("::")
        place = nested
        for part in above:
            inner = place.get(part)
            if not isinstance(inner, dict):  # Foreman keeps an empty value beside what is below
                inner = place[part] = {}
            place = inner
        if not (isinstance(place.get(last), dict) and not isinstance(value, Mapping)):
            place[last] = value
    return nested


def _first(facts: Mapping[str, Any], *paths: str) -> Any:
    """Return the first of these facts that is there, None if none is."""
    for path in paths:
        place: Any = facts
        for part in path.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        if place is not None:
            return place
    return None


def _said(value: Any) -> str | None:
    text = str(value).strip() if value is not None else ""
    return None if text.lower() in _EMPTY else text


def _whole(value: Any) -> int | None:
    text = str(value).strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _uuid(value: Any) -> UUID | None:
    try:
        return UUID(str(value))
    except ValueError:
        return None
