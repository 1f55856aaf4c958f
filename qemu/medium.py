"""A stick to boot from: a raw disk with one ESP that holds a UKI."""

from __future__ import annotations

import tempfile
from pathlib import Path

from qemu.disk import MiB
from qemu.program import run

ESP = "C12A7328-F81F-11D2-BA4B-00C04FC93EC9"


def stick(path: Path, uki: Path) -> Path:
    """Write a bootable disk image; needs neither root nor loop devices (mtools, sfdisk)."""
    size = uki.stat().st_size // MiB + 40
    with tempfile.TemporaryDirectory(dir=path.parent) as place:
        esp = Path(place) / "esp.img"
        _sparse(esp, size * MiB)
        run("mkfs.vfat", "-F", "32", "-n", "BEDPLATE", esp)
        run("mmd", "-i", esp, "::/EFI", "::/EFI/BOOT")
        run("mcopy", "-i", esp, uki, "::/EFI/BOOT/BOOTX64.EFI")
        _sparse(path, (size + 4) * MiB)
        table = f"label: gpt\nstart=2048, size={size * 2048}, type={ESP}, name=live\n"
        run("sfdisk", "-q", path, content=table.encode())
        run("dd", f"if={esp}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    return path


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)
