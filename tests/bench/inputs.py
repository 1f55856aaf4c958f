"""The images that are raced, made once of Debian packages and kept below build/bench.

A real tree, unpacked package by package; the tar, the disk image and the squashfs of that same
tree. The directory is named by the recipe, so that it is made anew when the recipe changes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.packages import INPUT, NEWEST, Archive
from tests.bench.process import Argv, run
from tests.bench.scale import MiB, Scale

TAR = (
    "tar", "--create", "--sort=name", "--numeric-owner", "--owner=0", "--group=0",
    "--format=posix", "--pax-option=delete=atime,delete=ctime", "--xattrs", "--acls",
)  # fmt: skip
LARGEST_ESP = 256 * MiB
ALIGN = 1 * MiB
# Fixed, so that the same packages make the same image.
_UUID = "6b1f6a0e-2f5c-4d52-9c1a-7d8a4a0b1c{:02x}"
_TIME = "1767225600"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """Where the inputs lie."""

    directory: Path
    scale: Scale

    @property
    def tree(self) -> Path:
        return self.directory / "tree"

    def tar(self, stage: str) -> Path:
        """Return the tar of a stage, or "changed": the last one after an upgrade of a package."""
        return self.directory / f"{stage}.tar"

    def disk(self, name: str) -> Path:
        """Return the disk image "small", "disk" or "big"."""
        return self.directory / f"{name}.raw"

    @property
    def squashfs(self) -> Path:
        return self.directory / "whole.squashfs"

    def many(self) -> Path:
        """Return a directory with the tree several times in it, of hard links to the one."""
        many = self.directory / "many"
        if not many.exists():
            fresh = self.directory / "many.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for number in range(self.scale.copies):
                run(["cp", "--archive", "--link", self.tree, fresh / f"copy{number}"])
            fresh.rename(many)
        return many


def make(
    directory: Path, scale: Scale, archive: Archive, squash: Sequence[str], say: Say
) -> Inputs:
    """Make all inputs, unless they are there. `squash` is mksquashfs with its environment."""
    recipe = hashlib.sha256(repr(scale).encode() + Path(__file__).read_bytes()).hexdigest()[:12]
    inputs = Inputs(directory / f"{scale.name}-{recipe}", scale)
    if (inputs.directory / "complete").exists():
        return inputs
    for old in directory.glob(f"{scale.name}-*"):
        shutil.rmtree(old)
    inputs.tree.mkdir(parents=True)
    debs = _unpack_stages(inputs, archive, say)
    say("inputs: disk images")
    _disks(inputs, archive)
    say("inputs: squashfs")
    run([*squash, inputs.tree, inputs.squashfs, "-comp", "zstd", "-Xcompression-level", "9",
         "-all-root", "-noappend", "-quiet", "-no-progress"])  # fmt: skip
    say(f"inputs: another version of {scale.changed}")
    _change(inputs, archive, debs)
    (inputs.directory / "complete").touch()
    return inputs


def pack_tree(tree: Path, tar: Path) -> None:
    run([*TAR, "--file", tar, "--directory", tree, "."])


def _unpack_stages(inputs: Inputs, archive: Archive, say: Say) -> list[Path]:
    """Unpack stage after stage, with a tar of each; return all packages."""
    asked: list[str] = []
    done: list[Path] = []
    for stage, packages in inputs.scale.stages:
        asked += packages
        debs = archive.closure(asked)
        say(f"inputs: stage {stage}: {len(debs)} packages of Debian")
        for file in debs:
            if file not in done:
                run(["dpkg-deb", "-x", file, inputs.tree])
                done.append(file)
        pack_tree(inputs.tree, inputs.tar(stage))
        size = {"first": inputs.scale.small_disk, "whole": inputs.scale.disk}.get(stage)
        if size is not None:
            _ext4(inputs.tree, inputs.directory / f"{stage}.ext4", root_size(size))
    (inputs.directory / "packages").write_text("".join(f"{file.name}\n" for file in done))
    return done


def _change(inputs: Inputs, archive: Archive, debs: Sequence[Path]) -> None:
    """Make the tar of the tree as it is after an upgrade of one package."""
    name = inputs.scale.changed
    (old,) = [deb for deb in debs if deb.name.startswith(f"{name}_")]
    changed = inputs.directory / "changed"
    run(["cp", "--archive", "--link", inputs.tree, changed])
    listing: Argv = ["sh", "-c", 'dpkg-deb --fsys-tarfile "$1" | tar --list', "list", old]
    for line in run(listing).splitlines():
        path = changed / line.removeprefix("./")
        if path.is_symlink() or path.is_file():
            path.unlink()
    # dpkg unpacks into new files, so the links to the other tree's stay as they are.
    new = archive.download(name, NEWEST)
    if new.name == old.name:
        raise BenchError(f"{name}: is of the same version in {INPUT} and in {NEWEST}")
    run(["dpkg-deb", "-x", new, changed])
    pack_tree(changed, inputs.tar("changed"))
    shutil.rmtree(changed)


def _disks(inputs: Inputs, archive: Archive) -> None:
    """Put partition images together to whole-disk images."""
    first, whole = inputs.directory / "first.ext4", inputs.directory / "whole.ext4"
    esp = inputs.directory / "esp"
    _esp(inputs, archive, esp)
    _assemble(inputs.disk("small"), inputs.scale.small_disk, [esp, first])
    _assemble(inputs.disk("disk"), inputs.scale.disk, [esp, whole])
    _assemble(inputs.disk("big"), inputs.scale.big_disk, [esp, whole, whole])
    for part in (esp, first, whole):
        part.unlink()


def esp_size(scale: Scale) -> int:
    """Return the bytes of the ESP: small enough for the smallest of the disks."""
    return min(LARGEST_ESP, scale.small_disk // 8)


def root_size(disk: int) -> int:
    """Return how large the root is, so that two of them fit on a disk twice as large."""
    return (disk - min(LARGEST_ESP, disk // 8) - 2 * ALIGN) // ALIGN * ALIGN


def _ext4(tree: Path, file: Path, size: int) -> None:
    with file.open("wb") as image:
        image.truncate(size)
    uuid = _UUID.format(0)
    run(
        ["mkfs.ext4", "-q", "-d", tree, "-U", uuid, "-E", f"hash_seed={uuid}", file],
        environment={"E2FSPROGS_FAKE_TIME": _TIME},
    )


def _esp(inputs: Inputs, archive: Archive, file: Path) -> None:
    with file.open("wb") as image:
        image.truncate(esp_size(inputs.scale))
    run(["mkfs.vfat", "-F", "32", "-i", "BED0BED0", "--invariant", file])
    mtools = archive.unpack("mtools", ["mtools"], "")
    for kernel in sorted((inputs.tree / "boot").glob("vmlinuz-*")):
        run([mtools.program("mtools"), "-c", "mcopy", "-m", "-i", file, kernel, "::/VMLINUZ"])


def _assemble(disk: Path, size: int, parts: Sequence[Path]) -> None:
    """Write a GPT with these partitions, keeping holes."""
    lines = ["label: gpt", f"label-id: {_UUID.format(0xFF)}"]
    start = ALIGN
    places = []
    for number, part in enumerate(parts, 1):
        kind = "uefi" if number == 1 else "linux"
        length = part.stat().st_size
        lines.append(
            f"start={start // 512}, size={length // 512}, type={kind}, uuid={_UUID.format(number)}"
        )
        places.append(start)
        start += length
    with disk.open("wb") as image:
        image.truncate(size)
    script = disk.with_suffix(".sfdisk")
    script.write_text("\n".join(lines) + "\n")
    with script.open("rb") as stdin:
        run(["sfdisk", "--quiet", disk], stdin=stdin)
    script.unlink()
    for part, place in zip(parts, places, strict=True):
        run(["dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={place // ALIGN}",
             "conv=sparse,notrunc", "status=none"])  # fmt: skip
