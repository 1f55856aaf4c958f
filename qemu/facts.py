"""What an installed machine says of itself, read from inside over ssh in one go."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qemu.vm import Vm

LUKS = "/dev/md/root"
"""What holds the LUKS2 header of a mirrored machine."""

# One command for all: each round trip costs a second under emulation.
_ASK = r"""
FIELDS=NAME,PATH,SERIAL,SIZE,TYPE,FSTYPE,UUID,PARTUUID,PARTLABEL,PARTTYPE,START
say() { printf '%s ' "$1"; shift; "$@" 2>&1 | base64 -w0; echo; }
say state systemctl is-system-running
say failed systemctl --failed --no-legend --plain
say mounts findmnt --json --list --output TARGET,SOURCE,FSTYPE,OPTIONS
say fstab cat /etc/fstab
say tree lsblk --output NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS
say mdstat cat /proc/mdstat
say luks cryptsetup luksDump --dump-json-metadata "$(ls /dev/md/root 2>/dev/null || echo "$LUKS")"
say data cryptsetup luksDump --dump-json-metadata /dev/md/pgdata
say devices lsblk --json --bytes --output "$FIELDS"
say sealed cat /var/lib/bedplate/sealed.json
say unlock journalctl -b -o short-monotonic --no-pager -u 'systemd-cryptsetup@*'
say time systemd-analyze time
say cmdline cat /proc/cmdline
say motd cat /etc/motd
say machine cat /etc/machine-id
say hostname hostname
"""


@dataclass(frozen=True)
class Facts:
    """The answers, by name."""

    said: Mapping[str, str]

    @property
    def state(self) -> str:
        """`running`, `degraded`… (systemctl(1), is-system-running)."""
        return self.said["state"].strip()

    def mounts(self) -> dict[str, dict[str, str]]:
        """Return mount point -> source, fstype, options, as they are now."""
        found = json.loads(self.said["mounts"])["filesystems"]
        return {each["target"]: each for each in found}

    def fstab(self) -> dict[str, list[str]]:
        """Return mount point -> options of /etc/fstab."""
        lines = [line.split() for line in self.said["fstab"].splitlines()]
        return {
            line[1]: line[3].split(",") for line in lines if line and not line[0].startswith("#")
        }

    def bindings(self, header: str = "luks") -> dict[int, dict[str, Any]]:
        """Return keyslot -> the Clevis configuration that its token shows.

        `header` is `luks` for the system's volume, `data` for that of an array named pgdata.
        """
        tokens = json.loads(self.said[header])["tokens"].values()
        return {
            int(token["keyslots"][0]): _protected(token["jwe"])
            for token in tokens
            if token["type"] == "clevis"
        }

    def keyslots(self, header: str = "luks") -> list[int]:
        return sorted(int(slot) for slot in json.loads(self.said[header])["keyslots"])

    def devices(self) -> dict[str, dict[str, Any]]:
        """Return kernel name -> what lsblk(8) says of every block device; sizes are bytes."""
        found: dict[str, dict[str, Any]] = {}

        def add(devices: list[dict[str, Any]]) -> None:
            for each in devices:
                add(each.pop("children", []))
                found[each["name"]] = each

        add(json.loads(self.said["devices"])["blockdevices"])
        return found

    def unlock_seconds(self) -> float | None:
        """Return how long systemd-cryptsetup took in the initrd, from start to open."""
        times = [
            float(match[1])
            for line in self.said["unlock"].splitlines()
            if (match := re.match(r"\[\s*([0-9.]+)\]", line))
        ]
        return round(times[-1] - times[0], 1) if len(times) > 1 else None


def facts(vm: Vm, luks: str = LUKS) -> Facts:
    """Ask a running machine; `luks` is the device with the LUKS2 header."""
    answer = vm.ssh.run(f"LUKS={luks}\n{_ASK}", timeout=180).stdout
    pairs = (line.split(" ", 1) for line in answer.splitlines() if " " in line)
    return Facts({name: base64.b64decode(text).decode(errors="replace") for name, text in pairs})


def pins(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (pin, its header) of every leaf of a Clevis configuration, nested sss included."""
    if config["pin"] != "sss":
        yield config["pin"], config.get(config["pin"], {})
        return
    for jwe in config["sss"]["jwe"]:
        yield from pins(_header(jwe.split(".")[0])["clevis"])


def _protected(jwe: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = _header(jwe["protected"])["clevis"]
    return found


def _header(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found
