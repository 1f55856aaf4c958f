"""systemd-boot with Boot Loader Specification entries (type 1) on each ESP.

It reads FAT only, so kernel and initrd lie on the ESPs; kernel-install(8) keeps them there when the
installed system changes its kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.errors import StepError
from agent.machine import Target
from agent.payload.contents import Kernel
from agent.target.boot import Boot, Copy, Host
from agent.target.contents import SYSTEMD_BOOT
from agent.target.needs import Needs
from agent.target.package import Piece
from agent.target.tree import TargetFile, Tree

# editor no: otherwise anyone at the console adds init=/bin/sh to the command line.
LOADER_CONF = ("loader/loader.conf", b"timeout 1\neditor no\nconsole-mode keep\n")
# Debian's plugin that hands kernel-install the initrd that a package hook has built already; the
# second is what Debian 12 calls it.
_DEBIAN_INITRD = (
    "/usr/lib/kernel/install.d/55-initrd.install",
    "/usr/lib/kernel/install.d/85-initrd.install",
)
_NO_SECOND_INITRD = TargetFile.text(
    "/etc/kernel/install.d/50-dracut.install",
    """\
#!/bin/sh
# In place of dracut's plugin, which would build a second initrd: a hook of the kernel's package
# has built one, and 55-initrd.install hands it over. Not by initrd_generator=none in
# install.conf: since Debian 14 that makes 55-initrd.install hand over nothing.
exit 0
""",
    0o755,
)


@dataclass(frozen=True)
class Start:
    """One boot entry: its path on the ESP, its text, and the two files it names."""

    entry: str
    text: bytes
    kernel: Copy
    initrd: Copy


@dataclass(frozen=True)
class SystemdBoot:
    name: str = "systemd-boot"

    def pieces(self, needs: Needs) -> Iterator[Piece]:
        del needs
        yield Piece(
            "systemd-boot", "starts it from each disk", "systemd-boot-efi", "systemd-boot-unsigned"
        )

    def boot(self, tree: Tree, host: Host, kernels: Sequence[Kernel]) -> Boot:
        """Return the kernels with their initrds and entries, and the loader's own settings."""
        starts = []
        for kernel in kernels:
            if kernel.initrd is None:
                raise StepError(f"{kernel.image}: this kernel has no initrd")
            starts.append(self.start(tree, host, kernel, kernel.initrd))
        return Boot(
            copies=tuple(copy for start in starts for copy in (start.kernel, start.initrd)),
            texts=(LOADER_CONF, *((start.entry, start.text) for start in starts)),
            entries=tuple(start.entry for start in starts),
        )

    def prepare(self, target: Target, root: Path) -> None:
        """Do nothing: it reads its entries from the ESP as they are."""

    def start(self, tree: Tree, host: Host, kernel: Kernel, initrd: str) -> Start:
        """Return what starts one kernel: a Boot Loader Specification entry and its files.

        The names are those that kernel-install(8) would choose, so that it replaces and removes
        what it finds here and leaves nothing behind.
        """
        directory = f"{host.machine_id.hex}/{kernel.version}"
        name = PurePosixPath(initrd).name if _hands_over(tree) else "initrd"
        fields = (
            ("title", host.os.title),
            ("version", kernel.version),
            ("machine-id", host.machine_id.hex),
            ("sort-key", host.os.id),
            ("options", " ".join(host.options)),
            ("linux", f"/{directory}/linux"),
            ("initrd", f"/{directory}/{name}"),
        )
        return Start(
            entry=f"loader/entries/{host.machine_id.hex}-{kernel.version}.conf",
            text="".join(f"{key:<10} {value}\n" for key, value in fields).encode(),
            kernel=Copy(kernel.image, f"{directory}/linux"),
            initrd=Copy(initrd, f"{directory}/{name}"),
        )

    def settings(self, tree: Tree, host: Host, esp: str) -> tuple[TargetFile, ...]:
        """Return what kernel-install(8) reads: it must write entries like ours, to the same place.

        Where a plugin hands over an initrd that is there already, none is built a second time: the
        entry would name both, and Debian 14's would name the second.
        """
        return (
            TargetFile.text("/etc/kernel/cmdline", " ".join(host.options) + "\n"),
            TargetFile.text("/etc/kernel/entry-token", f"{host.machine_id.hex}\n"),
            TargetFile.text("/etc/kernel/install.conf", f"layout=bls\nBOOT_ROOT={esp}\n"),
            *((_NO_SECOND_INITRD,) if _hands_over(tree) else ()),
        )

    def loaders(self, tree: Tree) -> tuple[Copy, ...]:
        """Return the EFI programs that make an ESP bootable: its own name and the fallback's.

        A signed one is preferred, as bootctl(1) does. The fallback starts a disk that is put into
        another machine, or whose boot entry the firmware has lost (UEFI 2.10 §3.5.1.1).
        """
        for name in sorted(tree.names(SYSTEMD_BOOT), key=lambda name: not name.endswith(".signed")):
            match = re.fullmatch(r"(systemd-boot(\w+)\.efi)(?:\.signed)?", name)
            if match:
                source = f"{SYSTEMD_BOOT}/{name}"
                return (
                    Copy(source, f"EFI/systemd/{match[1]}"),
                    Copy(source, f"EFI/BOOT/BOOT{match[2].upper()}.EFI"),
                )
        raise StepError(f"{SYSTEMD_BOOT}: the image has no systemd-boot there")


def _hands_over(tree: Tree) -> bool:
    """Tell whether kernel-install is handed the initrd of a package hook, under its own name."""
    return any(tree.exists(plugin) for plugin in _DEBIAN_INITRD)
