"""initramfs-tools, which builds the initrds of Debian and Ubuntu.

It writes into an initrd what that host unlocks (cryptroot/crypttab) and assembles (mdadm.conf), so
an image cannot bring one that fits: every host builds its own, now and at every kernel update.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.layout.model import Layout
from agent.machine import Target
from agent.plan.network import Interface
from agent.target.initrd import lacking_modules, lacking_programs
from agent.target.needs import Needs
from agent.target.os_release import OsRelease
from agent.target.package import Piece
from agent.target.tree import TargetFile

SETTINGS = "/etc/initramfs-tools/conf.d/zz-bedplate"
"""Read last, so that an image's own choice of a compression we cannot read back does not count."""
BUILD_TIMEOUT = 3600.0
"""Seconds. A minute on hardware, many in emulation."""
PATIENCE_SCRIPT = "/etc/initramfs-tools/scripts/init-premount/bedplate"
PATIENCE = 60
"""Seconds for which the initrd looks for /; after two thirds mdadm starts a mirror with one leg."""
_PATIENCE = f"""\
#!/bin/sh
# How long the initrd looks for the root file system. Not rootdelay= on the kernel command line:
# initramfs-tools sleeps that long at every start, and then has no time left for a mirror that
# lost a disk.
[ "$1" != prereqs ] || exit 0
echo ROOTDELAY={PATIENCE} >>/conf/param.conf
"""


@dataclass(frozen=True)
class InitramfsTools:
    name: str = "initramfs-tools"
    generic: bool = False
    """Whether an initrd that the image brings can fit any host."""
    crypttab_options: tuple[str, ...] = ("initramfs",)
    """crypttab(5) of cryptsetup-initramfs: what the initrd must open."""
    unneeded: frozenset[str] = frozenset({"clevis-askpass", "systemd-cryptsetup"})
    """It has its own scripts in place of systemd's units."""

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        yield Piece("update-initramfs", "builds its initrd", "initramfs-tools", "initramfs-tools")
        yield Piece("initramfs/lvm2", "finds its volumes at boot", "lvm2", "lvm2")
        if needs.mirror:
            yield Piece("initramfs/mdadm", "assembles the mirror at boot", "mdadm", "mdadm")
        if needs.encryption:
            yield Piece(
                "initramfs/cryptroot", "asks for the key", "cryptsetup-initramfs", "cryptsetup"
            )
        if needs.tang or needs.tpm2:
            yield Piece(
                "initramfs/clevis", "unlocks without a person", "clevis-initramfs", "clevis"
            )

    def settings(self, needs: Needs) -> tuple[TargetFile, ...]:
        """Return what makes every initrd able to start the machine with either disk missing."""
        del needs
        text = "MODULES=most\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n"
        return (
            TargetFile.text(SETTINGS, text),
            TargetFile.text(PATIENCE_SCRIPT, _PATIENCE, 0o755),
        )

    def path(self, version: str, os: OsRelease) -> str:
        del os
        return f"/boot/initrd.img-{version}"

    def build(self, target: Target, root: Path, version: str, path: str) -> None:
        """Build the initrd of one kernel inside the tree, or raise `CommandError`."""
        del path  # update-initramfs(8) knows only its own
        target.run(root, "update-initramfs", "-c", "-k", version, timeout=BUILD_TIMEOUT)

    def lacks(
        self, names: frozenset[str], builtin: frozenset[str], needs: Needs
    ) -> tuple[str, ...]:
        """Return what an initrd lacks, in words for a message."""
        programs = [("lvm",)]
        places: list[str] = []
        if needs.mirror:
            programs.append(("mdadm",))
            places.append(PATIENCE_SCRIPT.removeprefix("/etc/initramfs-tools/"))
        if needs.encryption:
            programs.append(("cryptsetup",))
            places.append("cryptroot/crypttab")
        if needs.tang or needs.tpm2:
            programs += [("clevis",), ("clevis-decrypt-sss",)]
            places.append("scripts/local-top/clevis")
        if needs.tang:
            programs.append(("clevis-decrypt-tang",))
        if needs.tpm2:
            programs += [("clevis-decrypt-tpm2",), ("tpm2_unseal",)]
        known = {str(PurePosixPath(name)) for name in names}
        return (
            *lacking_programs(names, programs),
            *(place for place in places if place not in known),
            *lacking_modules(names, builtin, needs),
        )

    def kernel_options(self, layout: Layout) -> Iterator[str]:
        """Yield how / is found; what must be opened on the way stands in the initrd itself."""
        yield f"root={layout.root.device}"
        yield "ro"
        yield "systemd.gpt_auto=0"

    def network_options(
        self, network: Sequence[Interface], names: Mapping[str, str]
    ) -> tuple[str, ...]:
        """Return `ip=` as initramfs-tools(7) has it: one interface, IPv4.

        No bond and no VLAN, of which it makes none (`agent.checks.network`). The first that has a
        fixed address, else DHCP on the first that is named, else on all. Never the short `ip=dhcp`:
        Clevis' script takes its only word for the name of an interface, waits for that and asks no
        Tang server (clevis-initramfs, get_specified_device).
        """
        plain = [one for one in network if one.link is None]
        static = [one for one in plain if any(a.version == 4 for a in one.addresses)]
        for interface in (*static, *plain):
            mac = interface.match.mac
            name = names.get(mac, "") if mac is not None else interface.match.name or ""
            address = next((a for a in interface.addresses if a.version == 4), None)
            if address is None:
                return (f"ip=:::::{name}:dhcp",)
            gateway = next((str(g) for g in interface.gateway if g.version == 4), "")
            return (f"ip={address.ip}::{gateway}:{address.netmask}::{name}:none",)
        return ("ip=::::::dhcp",)
