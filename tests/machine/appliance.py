"""Disks as makers of appliances ship them, made of what the rig has, without a mount."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qemu.disk import MiB
from qemu.hardware import Hardware
from qemu.live import LiveImage
from qemu.program import repository, run
from qemu.site import KEY, Site

ESP = "aaaaaaaa-0000-4000-8000-000000000001"
ROOT = "aaaaaaaa-0000-4000-8000-000000000002"
# rd.auto: dracut assembles what it finds; it cannot know the UUID that our array gets. rd.retry:
# and starts what lacks a disk, before systemd gives up on /. gpt_auto: the ESP is not mounted.
_OPTIONS = (
    f"root=PARTUUID={ROOT} rw rd.auto rd.retry=20 systemd.gpt_auto=0 "
    "console=tty0 console=ttyS0,115200 no_timer_check"
)


def live(path: Path) -> None:
    """Write a disk whose ESP starts the live image, and holes that must become zeros."""
    loader = LiveImage.built().uki
    esp = (loader.stat().st_size // MiB + 40) * MiB
    _table(path, esp + 66 * MiB, f"start=1MiB, size={esp // 512}, type=uefi, uuid={ESP}\n")
    _fat(path, esp, {"EFI/BOOT/BOOTX64.EFI": loader})


def debian(path: Path) -> None:
    """Write a disk with the sample Debian on ext4, whose initrd assembles mirrors (root).

    Nothing in it knows the machine: systemd-boot is at the fallback's path, / is found by PARTUUID.
    What it is made of stays beside it.
    """
    scratch = path.parent
    tree = scratch / "tree"
    tree.mkdir()
    run(
        "tar", "--extract", "--zstd", "--file", repository() / "build/sample/debian.tar.zst",
        "--directory", tree, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner",
    )  # fmt: skip
    (tree / "etc/fstab").write_text(f"PARTUUID={ROOT} / ext4 defaults 0 1\n")
    # Without an address mdmonitor.service fails at every boot (mdadm.conf(5)).
    (tree / "etc/mdadm/mdadm.conf").write_text("HOMEHOST <ignore>\nMAILADDR root\n")
    (kernel,), (initrd,) = (tree / "boot").glob("vmlinuz-*"), (tree / "boot").glob("initrd.img-*")
    loader = tree / "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
    texts = {"loader.conf": "timeout 0\n", "appliance.conf": (
        f"title Appliance\nlinux /linux\ninitrd /initrd\noptions {_OPTIONS}\n"
    )}  # fmt: skip
    for name, text in texts.items():
        (scratch / name).write_text(text)
    esp, root = 80 * MiB, 400 * MiB
    filesystem = scratch / "root.ext4"
    with filesystem.open("wb") as file:
        file.truncate(root)
    run("mkfs.ext4", "-q", "-d", tree, filesystem)
    _table(
        path,
        esp + root + 2 * MiB,
        f"start=1MiB, size={esp // 512}, type=uefi, uuid={ESP}\n"
        f"size={root // 512}, type=linux, uuid={ROOT}\n",
    )
    _fat(
        path,
        esp,
        {
            "EFI/BOOT/BOOTX64.EFI": loader,
            "loader/loader.conf": scratch / "loader.conf",
            "loader/entries/appliance.conf": scratch / "appliance.conf",
            "linux": kernel,
            "initrd": initrd,
        },
    )
    run(
        "dd", f"if={filesystem}", f"of={path}", "bs=1M", f"seek={1 + esp // MiB}",
        "conv=notrunc,sparse",
    )  # fmt: skip


def _table(path: Path, size: int, partitions: str) -> None:
    with path.open("wb") as file:
        file.truncate(size)
    argv = ("sfdisk", "--quiet", "--no-reread", path)
    run(*argv, content=f"label: gpt\n{partitions}".encode())


def _fat(disk: Path, size: int, files: Mapping[str, Path]) -> None:
    """Make the file system at one MiB, with these files by their paths in it."""
    place = f"{disk}@@1M"
    run("mformat", "-i", place, "-F", "-T", str(size // 512), "::")
    directories = {str(above) for name in files for above in Path(name).parents} - {"."}
    for directory in sorted(directories):
        run("mmd", "-i", place, f"::/{directory}")
    for name, file in files.items():
        run("mcopy", "-i", place, file, f"::/{name}")


@contextmanager
def offered(
    site: Site, write: Callable[[Path], None], hardware: Hardware, name: str, **changes: Any
) -> Iterator[dict[str, Any]]:
    """Pack what `write` writes onto the site's server; yield a plan for all disks of a machine."""
    packed = site.server.directory / "images"
    with TemporaryDirectory(prefix="appliance-", dir=site.lab.directory) as scratch:
        raw = Path(scratch, f"{name}.raw")
        write(raw)
        run(
            sys.executable, "-m", "agent", "pack", raw, "--name", name, "--key", KEY,
            "--level", "1", "--directory", packed, timeout=600,
        )  # fmt: skip
    serials = [disk.serial for disk in hardware.chassis.disks]
    plan = site.plan(
        hardware,
        disks={"count": len(serials), "where": {"serial": serials}},
        storage={"preset": "whole-disk"},
        image={"manifest": f"{site.server.url}/images/{name}.json"},
        **changes,
    )
    del plan["encryption"], plan["configure"]
    yield plan
    for made in packed.glob(f"{name}.*"):
        made.unlink()
