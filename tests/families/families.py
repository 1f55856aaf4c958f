"""The families that are started in machines: a release of Debian, and what boots it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qemu.program import repository
from qemu.site import FAMILIES

_NAMES = {"bookworm": "12 (bookworm)", "trixie": "13 (trixie)", "testing": "/sid"}
_ESP = {
    "systemd-boot": ("EFI/systemd/systemd-bootx64.efi", "loader/loader.conf"),
    "grub": ("EFI/debian/shimx64.efi", "EFI/debian/grubx64.efi", "EFI/debian/grub.cfg",
             "EFI/BOOT/grubx64.efi"),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """systemd-boot comes with dracut, GRUB with initramfs-tools and shim."""

    suite: Literal["bookworm", "trixie", "testing"]
    loader: Literal["systemd-boot", "grub"]

    def __str__(self) -> str:
        return f"{self.suite}-{self.loader}"

    @property
    def image(self) -> str:
        """Return the sample's name in `qemu.site.FAMILIES`."""
        group = "grub" if self.loader == "grub" else "packages"
        return group if self.suite == "trixie" else f"{group}-{self.suite}"

    @property
    def pretty(self) -> str:
        """Return what PRETTY_NAME of its os-release(5) ends with."""
        return _NAMES[self.suite]

    @property
    def kernel(self) -> Path:
        """Return the package of another kernel than the image's, where the release has two."""
        return repository() / "build" / FAMILIES[self.image][0] / "kernel.deb"

    @property
    def files(self) -> tuple[str, ...]:
        """Return what every ESP has besides the fallback; firmware entries name the first."""
        return _ESP[self.loader]


# Those whose kernel is changed come first: pytest keeps the tests of one family together by its
# place in the list, and each family is installed once.
UPDATED = (
    Family("trixie", "systemd-boot"),
    Family("trixie", "grub"),
    Family("bookworm", "systemd-boot"),
)
KNOWN = (
    *UPDATED,
    Family("bookworm", "grub"),
    Family("testing", "systemd-boot"),
    Family("testing", "grub"),
)
