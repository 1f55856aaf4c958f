"""The sample target systems: Debians that can be installed, as tars of their root file systems."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from image.builder import apt, mkosi, outputs, stage
from image.builder.report import BuildError, say

NAME = "debian.tar.zst"
UPDATE = "kernel.deb"
SUITES = ("bookworm", "trixie", "testing")
METAPACKAGE = "linux-image-cloud-amd64"
KERNEL = r"^linux-image-[0-9][^ ]*-cloud-amd64$"


@dataclass(frozen=True)
class Family:
    """How a sample starts: its configuration below qemu/, and whether packages can change it."""

    directory: str
    dracut: bool
    packages: bool


FAMILIES = {
    "dracut": Family("sample", dracut=True, packages=False),
    "packages": Family("sample-packages", dracut=True, packages=True),
    "grub": Family("sample-grub", dracut=False, packages=True),
}
"""dracut and systemd-boot, without and with dpkg; initramfs-tools, shim and GRUB."""


def build(
    root: Path,
    workshop: Path,
    family: str,
    suite: str = apt.RELEASE,
    *,
    force: bool,
    verbose: bool,
) -> None:
    """Build it into build/sample…, unless it is there and nothing changed.

    A family with packages gets the last kernel but one, and the last one lies beside it as
    kernel.deb, to be installed by the package manager of the installed system.
    """
    chosen = FAMILIES[family]
    if suite != apt.RELEASE and not chosen.packages:
        raise BuildError(f"{family}: is built from {apt.RELEASE} only; see --family")
    name = chosen.directory if suite == apt.RELEASE else f"{chosen.directory}-{suite}"
    source = root / "qemu" / chosen.directory
    target = root / "build" / name
    tree = workshop / f"stage-{name}"
    shutil.rmtree(tree, ignore_errors=True)
    # All are reached and looked at alike.
    stage.copy_tree(root / "qemu/sample/tree", tree)
    if not chosen.dracut:
        shutil.rmtree(tree / "etc/dracut.conf.d")
    configuration = [*sorted(source.glob("*.chroot")), *sorted(source.glob("mkosi.*"))]
    # mkosi.conf includes the list of kernel modules from the live image.
    modules = root / "mkosi.conf.d/31-modules.conf"
    stamp = stage.digest([*configuration, modules, root / "image/builder", tree])
    wanted = [NAME, "manifest.json"]
    if not force and outputs.is_current(target, wanted, stamp):
        say(f"{name}: up to date, nothing to do ({target})")
        return
    arguments = [f"--extra-tree={tree}"]
    archive = apt.Archive(mkosi.sandbox(workshop, suite) / "etc/apt", workshop / f"apt-{suite}")
    update = None
    if chosen.packages:
        installed, update = kernels(archive)
        arguments.append(f"--package={installed}")
    results = mkosi.build(
        workshop, source, name, arguments, release=suite, force=force, verbose=verbose
    )
    files = {NAME: results / f"{name}.tar.zst"}
    if update is not None:
        files[UPDATE] = Path(shutil.copy(archive.download(update), results / UPDATE))
    outputs.publish(
        target,
        files,
        stamp,
        {
            "name": name,
            "update": update,
            "packages": outputs.packages(results / f"{name}.manifest"),
        },
    )


def kernels(archive: apt.Archive) -> tuple[str, str | None]:
    """The kernel for the image and the one to install later; of a suite with one, that and None.

    Of the series that the suite itself takes: Debian 12 has newer ones beside it.
    """
    archive.update()
    chosen = [name for name in archive.depends(METAPACKAGE) if re.search(KERNEL, name)]
    if not chosen:
        raise BuildError(f"{archive.etc_apt}: {METAPACKAGE} depends on no kernel")
    series = _age(chosen[0])[:2]
    found = [name for name in archive.names(KERNEL) if _age(name)[:2] == series]
    found.sort(key=_age)
    if len(found) == 1:
        return found[0], None
    return found[-2], found[-1]


def _age(package: str) -> list[int]:
    version = package.removeprefix("linux-image-").removesuffix("-cloud-amd64")
    return [int(number) for number in re.findall(r"\d+", version)]
