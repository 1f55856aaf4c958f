"""Devices, file systems and a network of the bench's own, which vanish with it.

The bench runs in a mount namespace of its own and holds every loop device open with autoclear set,
so that even a bench that is killed leaves no mount, loop device or network namespace behind.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.process import FailedError, run

_INSIDE = "BEDPLATE_BENCH_NAMESPACE"
RATE = "1gbit"
"""Of the link of `wire`, each way."""
_SERVER, _CLIENT = "198.18.74.1", "198.18.74.2"
"""In the block for benchmarks, RFC 2544."""


def enter_namespace() -> None:
    """Start this program again in a mount namespace of its own, unless it is in one."""
    if os.geteuid() != 0:
        raise BenchError("must run as root: it needs loop devices, mounts and a network namespace")
    if os.environ.get(_INSIDE) == str(os.getpid()):
        return
    # exec keeps the process id, so a child that inherits the variable is not taken for inside.
    os.environ[_INSIDE] = str(os.getpid())
    argv = ["unshare", "--mount", "--propagation", "private"]
    os.execvp(argv[0], [*argv, sys.executable, "-m", "tests.bench", *sys.argv[1:]])


@contextmanager
def memory(directory: Path) -> Iterator[Path]:
    """Mount a tmpfs, the stand-in for a disk that is faster than what writes to it."""
    directory.mkdir(parents=True, exist_ok=True)
    run(["mount", "-t", "tmpfs", "-o", "size=90%,mode=0700", "bedplate-bench", directory])
    try:
        yield directory
    finally:
        run(["umount", "--lazy", directory])


class Loop:
    """A loop device over a file in `memory`."""

    def __init__(self, device: Path, file: Path) -> None:
        self.device = device
        self._file = file
        self._descriptor = self._hold()

    def blank(self) -> None:
        """Empty it, so that every run begins with the same device and gives its memory back."""
        self.check()
        # A request to zero that a tmpfs refuses (BLKZEROOUT makes one) switches the device's
        # ability to punch holes off for good. Whoever comes next would start with a worse device.
        limit = Path("/sys/block") / self.device.name / "queue/write_zeroes_max_bytes"
        if not int(limit.read_text()):
            self.close()
            self._attach()
            self._descriptor = self._hold()
        run(["blkdiscard", "--force", self.device])

    def close(self) -> None:
        os.close(self._descriptor)

    def _attach(self) -> None:
        """Attach the device again; where udev still looks at it, that takes a moment."""
        for _ in range(20):
            with suppress(BenchError):
                run(["losetup", self.device, self._file])
                return
            time.sleep(0.1)
        raise BenchError(f"{self.device}: is held by another program, cannot be attached again")

    def _hold(self) -> int:
        # While it is open, --detach only marks it: it goes when the last user does.
        descriptor = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
        run(["losetup", "--detach", self.device])
        return descriptor

    def check(self) -> None:
        """Raise `BenchError` unless it is still a device: a peer may put a file in its place."""
        if not stat.S_ISBLK(self.device.stat().st_mode):
            raise BenchError(f"{self.device}: was replaced by a file; remove it and use mknod")

    def must_hold(self, image: Path) -> None:
        """Raise `FailedError` unless the device holds the image, byte by byte."""
        self.check()
        size = image.stat().st_size
        # Past the page cache: what is on the device counts.
        run(["blockdev", "--flushbufs", self.device])
        _same(["cmp", "--bytes", str(size), str(image), str(self.device)])


@contextmanager
def loop(file: Path, size: int) -> Iterator[Loop]:
    """Yield a loop device of `size` bytes over a new file."""
    with file.open("wb") as backing:
        backing.truncate(size)
    device = Loop(Path(run(["losetup", "--find", "--show", file]).strip()), file)
    try:
        yield device
    finally:
        device.close()
        file.unlink()


def make_filesystem(target: Loop, kind: str, root: Path) -> None:
    """Make an empty file system and mount it, with nothing left to do in the background."""
    root.mkdir(parents=True, exist_ok=True)
    target.blank()
    if kind == "ext4":
        eager = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"
        run(["mkfs.ext4", "-q", "-F", "-E", eager, target.device])
    else:
        run(["mkfs.xfs", "-q", "-f", "-K", target.device])
    run(["mount", target.device, root])
    run(["sync", "--file-system", root])


def unmount(root: Path) -> None:
    """Unmount what is mounted there, if anything is."""
    if os.path.ismount(root):
        run(["umount", root])


def same_tree(tar: Path, root: Path) -> None:
    """Raise `FailedError` unless everything in the archive is below `root` and equal to it."""
    _same(["tar", "--compare", "--numeric-owner", "--file", str(tar), "--directory", str(root)])


def _same(argv: list[str]) -> None:
    try:
        run(argv)
    except BenchError as error:
        raise FailedError(f"wrote something else: {error}") from None


@dataclass(frozen=True)
class Wire:
    """A link of 1 Gbit/s: the server is at `address`, a client starts with `inside`."""

    address: str
    inside: tuple[str, ...]


@contextmanager
def wire(name: str = "bedplate-bench") -> Iterator[Wire]:
    """Yield a veth pair between this network namespace and a new one, limited at both ends.

    MTU 1500. A token bucket (tc-tbf(8)) of a rate with room for 250 microseconds of it: less and
    the emulated link would be slower than its rate.
    """
    here, there = "bpbench0", "bpbench1"
    limit = ("root", "tbf", "rate", RATE, "burst", "256kb", "latency", "50ms")
    # Names of namespaces are files there; in a tmpfs of ours they vanish with us.
    names = Path("/run/netns")
    names.mkdir(exist_ok=True)
    run(["mount", "-t", "tmpfs", "bedplate-bench", names])
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", name])
        run(["ip", "address", "add", f"{_SERVER}/30", "dev", here])
        run(["ip", "-n", name, "address", "add", f"{_CLIENT}/30", "dev", there])
        run(["ip", "link", "set", here, "up"])
        run(["ip", "-n", name, "link", "set", there, "up"])
        run(["tc", "qdisc", "add", "dev", here, *limit])
        run(["tc", "-n", name, "qdisc", "add", "dev", there, *limit])
        yield Wire(_SERVER, ("nsenter", f"--net=/run/netns/{name}", "--"))
    finally:
        with suppress(BenchError):  # it was not made
            run(["ip", "link", "delete", here])
        run(["ip", "netns", "delete", name])
        run(["umount", "--lazy", "--recursive", names])
