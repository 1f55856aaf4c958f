"""The peers: how each is installed below build/bench, what it reads, and how it is started.

All are given what serves them best: the payload and the images lie in the server's page cache,
device writes are direct where the tool can, and every one of them ends with its bytes flushed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.inputs import Inputs, Say
from tests.bench.packages import INPUT, NEWEST, Archive, Unpacked
from tests.bench.process import Argv, run
from tests.bench.rounds import Case

IRONIC = "13.0.0"

PIPE = """\
set -o pipefail
curl -sf "$1" | zstd -dc |
  dd of="$2" bs=4M oflag=direct iflag=fullblock conv=fsync,nocreat status=none"""
STAGED = """\
set -e -o pipefail
trap 'rm -f "$3"' EXIT
curl -sf -o "$3" "$1"
echo "$4  $3" | sha256sum --check --quiet
zstd -dc "$3" | dd of="$2" bs=4M oflag=direct iflag=fullblock conv=fsync,nocreat status=none"""
# Never without --in-place: it would put a regular file where the device node is, and exit with 0.
DESYNC = '"$1" extract --in-place --concurrency 4 --store "$2" "$3" "$4" && sync "$4"'
BMAPTOOL = '/usr/bin/python3 -m bmaptool --quiet copy --bmap "$1" "$2" "$3"'
TAR = """\
set -o pipefail
curl -sf "$1" | tar --zstd -x --xattrs --acls -C "$2" -f - && sync -f "$2\""""
UNSQUASHFS = '"$1" -quiet -no-progress -processors 2 -force -dest "$2" "$3" && sync -f "$2"'
ZSTD = 'zstd -q -f -T0 "-$1" "$2" -o "$3" && sha256sum "$3" && sync "$3"'


def script(text: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a shell script with arguments."""
    return ["bash", "-c", text, "bench", *map(str, arguments)]


def available(name: str, make: Callable[[], Case]) -> Case:
    """Return the case, or one that says why its program cannot be had."""
    try:
        return make()
    except BenchError as error:
        return Case(name, (), missing=str(error).splitlines()[0][:300])


@dataclass(frozen=True)
class Peers:
    """Installs the peers and makes what they read, each when it is first asked for."""

    directory: Path
    archive: Archive
    inputs: Inputs
    say: Say

    def nginx(self) -> Unpacked:
        return self.archive.unpack("nginx", ["nginx"], "")

    def squashfs_tools(self) -> Unpacked:
        return self.archive.unpack("squashfs-tools", ["squashfs-tools", "liblzo2-2"], "")

    def bmaptool(self, url: str, bmap: str, device: Path) -> Case:
        """`bmaptool copy` of a .zst by its .bmap: sha256 of each mapped range."""
        package = self._bmaptool()
        name = f"bmaptool {package.version}"
        return Case(name, script(BMAPTOOL, bmap, url, device), environment=package.environment())

    def bmap(self) -> Path:
        """Return the .bmap of the disk image."""
        package, disk = self._bmaptool(), self.inputs.disk("disk")
        bmap = disk.with_suffix(".bmap")
        if not bmap.exists():
            argv: Argv = ["/usr/bin/python3", "-m", "bmaptool", "create", disk, "--output", bmap]
            run(argv, environment=package.environment())
        return bmap

    def desync(self, store: str, index: str, device: Path) -> Case:
        """`desync extract` into the device: sha of each chunk before it is written."""
        package = self._desync()
        argv = script(DESYNC, package.program("desync"), store, index, device)
        return Case(f"desync {package.version}", argv)

    def chopped(self) -> tuple[Path, Path]:
        """Return desync's store of the disk image's chunks, and the index."""
        store, index = self.inputs.directory / "desync", self.inputs.directory / "disk.caibx"
        if not index.exists():
            package = self._desync()
            self.say("inputs: desync make")
            store.mkdir(exist_ok=True)
            fresh = index.with_name("fresh.caibx")
            disk = self.inputs.disk("disk")
            run([package.program("desync"), "make", "--store", store, fresh, disk])
            fresh.rename(index)
        return store, index

    def ironic(self, url: str, sha256: str, device: Path) -> Case:
        """Ironic's agent streaming a raw image: the hash is compared after the write."""
        place = self.directory / "peers/ironic"
        if not (place / "complete").exists():
            self.say("peers: ironic-python-agent")
            run([sys.executable, "-m", "venv", "--clear", place])
            pip: Argv = [place / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, f"ironic-python-agent=={IRONIC}"])
            (place / "complete").touch()
        driver = Path(__file__).with_name("ironic.py")
        argv: Argv = [place / "bin/python", driver, url, sha256, device]
        return Case(f"ironic-python-agent {IRONIC}", argv)

    def plain(self, level: int) -> Path:
        """Return the tar of the tree as `zstd` packs it, at the level that `pack` uses."""
        return self._made(f"whole.tar.{level}.zst", ["zstd", "-q", "-T0", f"-{level}",
                                                     self.inputs.tar("whole"), "-o"])  # fmt: skip

    def _made(self, name: str, argv: Sequence[str | Path]) -> Path:
        file = self.inputs.directory / name
        if not file.exists():
            self.say(f"inputs: {name}")
            fresh = file.with_name(f"fresh.{name}")
            run([*argv, fresh])
            fresh.rename(file)
        return file

    def _bmaptool(self) -> Unpacked:
        return self.archive.unpack("bmaptool", ["bmaptool"], INPUT)

    def _desync(self) -> Unpacked:
        return self.archive.unpack("desync", ["desync"], NEWEST)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
