"""A sysfs and procfs on disk, and the programs that change them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent.adapters.command import Argument, Finished
from agent.adapters.storage.stack import Kernel
from agent.secret import Secret

GIB = 1024**3


class Sysfs:
    """A sysfs and procfs on disk, with the devices a test puts there."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = root / "sys", root / "proc"
        (self.sys / "class/block").mkdir(parents=True)
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "self/mountinfo").write_text("")
        (self.proc / "swaps").write_text("Filename Type Size Used Priority\n")
        self.kernel = Kernel(self.sys, self.proc)
        self._numbers = 0

    def disk(self, name: str, place: str = "pci0000:00/0000:00:05.0/virtio1/block") -> None:
        self._add(self.sys / "devices" / place / name, name)

    def part(self, disk: str, name: str, start: int = 2048) -> None:
        directory = (self.sys / "class/block" / disk).resolve() / name
        self._add(directory, name)
        (directory / "partition").write_text("1\n")
        (directory / "start").write_text(f"{start}\n")

    def stack(self, name: str, *under: str, mapping: str = "", uuid: str = "") -> None:
        directory = self.sys / "devices/virtual/block" / name
        self._add(directory, name)
        if mapping:
            (directory / "dm").mkdir()
            (directory / "dm/name").write_text(f"{mapping}\n")
            (directory / "dm/uuid").write_text(f"{uuid}\n")
        else:
            (directory / "md").mkdir()
        for below in under:
            (self.sys / "class/block" / below / "holders" / name).symlink_to(directory)

    def mount(self, name: str, place: str) -> None:
        number = (self.sys / "class/block" / name / "dev").read_text().strip()
        with (self.proc / "self/mountinfo").open("a") as table:
            table.write(f"36 25 {number} / {place} rw shared:1 - xfs /dev/{name} rw\n")

    def swap(self, name: str) -> None:
        with (self.proc / "swaps").open("a") as table:
            table.write(f"/dev/{name} partition 1024 0 -2\n")

    def write(self, path: str, text: str) -> None:
        place = self.sys / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def remove(self, name: str) -> None:
        for holder in self.sys.glob(f"class/block/*/holders/{name}"):
            holder.unlink()
        shutil.rmtree((self.sys / "class/block" / name).resolve())
        (self.sys / "class/block" / name).unlink()

    def _add(self, directory: Path, name: str) -> None:
        self._numbers += 1
        (directory / "holders").mkdir(parents=True)
        (directory / "dev").write_text(f"254:{self._numbers}\n")
        (directory / "size").write_text(f"{GIB // 512}\n")
        (self.sys / "class/block" / name).symlink_to(directory)


class Programs:
    """umount, swapoff, mdadm, dmsetup and cryptsetup, as far as they change the fake sysfs."""

    def __init__(self, sysfs: Sysfs, refuses_before: dict[str, str] | None = None) -> None:
        self.sysfs = sysfs
        self.refuses_before = refuses_before or {}
        self.ran: list[str] = []

    def __call__(
        self, *argv: Argument, secret: Secret | None = None, timeout: float = 60
    ) -> Finished:
        words = [os.fspath(word) for word in argv]
        status, stderr = self._do(words[0], words[-1])
        if status == 0:
            self.ran.append(" ".join(words))
        return Finished(tuple(words), status, "", stderr)

    def _do(self, program: str, what: str) -> tuple[int, str]:
        if program == "umount":
            return self._drop("self/mountinfo", f" {what} ")
        if program == "swapoff":
            return self._drop("swaps", f"{what} ")
        names = {
            (path / "dm/name").read_text().strip(): path.name
            for path in (self.sysfs.sys / "class/block").iterdir()
            if (path / "dm").is_dir()
        }
        name = names.get(what, Path(what).name)
        first = self.sysfs.sys / "class/block" / self.refuses_before.get(name, "none")
        if self.sysfs.kernel.holders(name) or self.sysfs.kernel.mounts(name) or first.exists():
            return 1, f"{what}: device or resource busy"
        self.sysfs.remove(name)
        return 0, ""

    def _drop(self, table: str, mark: str) -> tuple[int, str]:
        path = self.sysfs.proc / table
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if mark not in line]
        path.write_text("".join(kept))
        return (0, "") if len(kept) < len(lines) else (32, f"{mark}: not there")
