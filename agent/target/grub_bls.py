"""shim and GRUB as Fedora, RHEL and what is made from them use them: Boot Loader Specification.

grub.cfg is written once and reads the entries in /boot/loader/entries, one for each kernel. When a
kernel is installed, kernel-install(8) runs GRUB's plugin (20-grub.install), which writes an entry
with the command line of /etc/kernel/cmdline and makes it the default in grubenv. It first runs
grub2-mkconfig where /etc/default/grub is newer than that command line: so that is written last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target import boot_files, shell_settings, signed
from agent.target.boot import Boot, Copy, Host
from agent.target.contents import Unpacked
from agent.target.grub import SIGNED, defaults, named, stubs, write_menu
from agent.target.needs import Needs
from agent.target.package import Piece
from agent.target.tree import TargetFile, Tree

DEFAULTS = "/etc/default/grub"
ENTRIES = "/boot/loader/entries"
DIRECTORY = "/boot/grub2"
ENVIRONMENT = f"{DIRECTORY}/grubenv"


@dataclass(frozen=True)
class GrubBls:
    name: str = "GRUB with Boot Loader Specification entries"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        del needs
        yield from SIGNED
        yield Piece("grub2-mkconfig", "writes its menu", "grub2-common", "grub2-tools", "grub2")

    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return the small grub.cfg of the ESPs; entries and kernels lie in /boot."""
        vendor = signed.fedora(tree).vendor
        places = boot_files.in_boot(tree, host.os, kernels)
        return Boot((), stubs(vendor, host.boot, "/grub2"), named(places))

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return GRUB's defaults, an entry for each kernel, and what makes later ones alike."""
        del esp
        wanted = {**defaults(host), "GRUB_DEFAULT": "saved", "GRUB_ENABLE_BLSCFG": "true"}
        text = shell_settings.assigned(shell_settings.read(tree, DEFAULTS), wanted)
        places = boot_files.in_boot(tree, host.os, Unpacked(tree).kernels())
        return (
            TargetFile.text(DEFAULTS, text),
            TargetFile.text("/etc/kernel/cmdline", " ".join(host.options) + "\n"),
            *(self._entry(host, kernel) for kernel in places),
        )

    def prepare(self, target: Target, root: Path) -> None:
        """Write grub.cfg, and forget what the machine had that the image was made on.

        Entries of another machine id would start first, or not at all; its grubenv (in RHEL 8 a
        link to the ESP) would choose one of them.
        """
        tree = Tree(root)
        own = tree.read("/etc/machine-id").strip()
        for name in tree.names(ENTRIES):
            if not name.startswith(f"{own}-"):
                tree.remove(f"{ENTRIES}/{name}")
        tree.directory(DIRECTORY, 0o755)
        tree.remove(ENVIRONMENT)
        target.run(root, "grub2-editenv", ENVIRONMENT, "create")
        write_menu(target, tree, "grub2-mkconfig", f"{DIRECTORY}/grub.cfg")

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return shim first, which firmware entries name, and what it starts in turn."""
        return signed.fedora(tree).copies()

    def _entry(self, host: Host, kernel: Kernel) -> TargetFile:
        """Return an entry as 20-grub.install writes it; GRUB sorts them by their names."""
        fields = (
            ("title", f"{host.os.title} ({kernel.version})"),
            ("version", kernel.version),
            ("linux", f"/{PurePosixPath(kernel.image).relative_to('/boot')}"),
            ("initrd", f"/{PurePosixPath(kernel.initrd or '').relative_to('/boot')}"),
            ("options", " ".join(host.options)),
            ("grub_users", "$grub_users"),
            ("grub_arg", "--unrestricted"),
            ("grub_class", host.os.id),
        )
        return TargetFile.text(
            f"{ENTRIES}/{host.machine_id.hex}-{kernel.version}.conf",
            "".join(f"{key} {value}\n" for key, value in fields),
        )
