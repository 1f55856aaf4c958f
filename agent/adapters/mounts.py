"""Mounts of the target's file systems in the live system (mount(8), findmnt(8))."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.adapters import command
from agent.adapters.storage.stack import unescape
from agent.errors import StepError
from agent.layout.model import FileSystem

# fstab options that would get in the way while the system is being written: its package scripts
# run from /tmp and /var, its device nodes and set-user-ID bits must survive.
_NOT_NOW = {"nodev", "nosuid", "noexec", "ro", "defaults", "nofail", "auto", "noauto", "user"}
# The target's own findmnt reads the target's own fstab, with the live system's devices, in a mount
# namespace that vanishes with it. Without /run, or it would complain of the live system's systemd.
_VERIFY = (
    'for place in dev proc sys; do mount --rbind "/$place" "$1/$place"; done; '
    'exec chroot "$1" findmnt --verify --verbose'
)
# What findmnt calls a warning and the installed system would not get over (verify_source and others
# in util-linux's findmnt-verify.c).
_BROKEN = ("unreachable", "does not match", "specified more than once", "cannot detect")


@dataclass(frozen=True)
class SystemMounts:
    """The `Mounts` port."""

    run: command.Run = command.run
    attempt: command.Attempt = command.attempt
    proc: Path = Path("/proc")

    def attach(self, filesystems: Sequence[FileSystem], root: Path) -> None:
        """Mount them below `root` in the order given; mount points are made as needed, 0755."""
        for filesystem in filesystems:
            self._mount(filesystem, root / filesystem.mount.lstrip("/"))

    def detach(self, root: Path) -> None:
        """Unmount everything below `root`, the latest first."""
        for place in reversed(self._below(root)):
            self.run("umount", place)

    @contextmanager
    def mounted(self, filesystem: FileSystem, at: Path) -> Iterator[Path]:
        """Mount one file system at `at` for the length of the context."""
        self._mount(filesystem, at)
        try:
            yield at
        finally:
            self.run("umount", at)

    def verify_fstab(self, root: Path) -> str:
        """Return what `findmnt --verify` says in the target; raise unless every line would mount.

        findmnt only warns of some lines that cannot work, so its exit status is not enough.
        """
        argv = ("unshare", "--mount", "--propagation", "slave", "sh", "-euc", _VERIFY, "sh")
        done = self.attempt(*argv, root)
        broken = list(complaints(done.stdout))
        if done.status:
            broken.append(done.stderr.strip() or f"findmnt exited with status {done.status}")
        if broken:
            raise StepError(f"{root}/etc/fstab: {'; '.join(broken)}")
        return done.stdout

    def freeze(self, root: Path) -> None:
        """Write everything of the file system at `root` to its devices (syncfs(2))."""
        self.run("sync", "--file-system", root, timeout=600)

    def _mount(self, filesystem: FileSystem, at: Path) -> None:
        make_directory(at)
        options = mount_options(filesystem)
        extra = ("-o", ",".join(options)) if options else ()
        self.run("mount", "-t", filesystem.kind, *extra, filesystem.device, at)

    def _below(self, root: Path) -> list[Path]:
        """Return the mount points at and below `root`, in the order of mounting."""
        root = root.resolve()
        lines = (self.proc / "self/mountinfo").read_text().splitlines()
        places = [Path(unescape(line.split(" ")[4])) for line in lines]
        return [place for place in places if place.is_relative_to(root)]


def complaints(verified: str) -> Iterator[str]:
    """Yield the lines of findmnt's report that mean a mount would fail, with its mount point."""
    place = ""
    for line in verified.splitlines():
        if not line.startswith(" "):
            place = line
            continue
        mark, _, what = line.strip().partition("] ")
        if mark == "[E" or (mark == "[W" and any(sign in what for sign in _BROKEN)):
            yield f"{place}: {what}"


def mount_options(filesystem: FileSystem) -> list[str]:
    """Return the options that matter while installing: vfat's masks, and nothing for the others.

    vfat has no owners and modes of its own, so who may read the ESP is an option; systemd's own
    (`x-systemd.…`) say nothing to the kernel.
    """
    if filesystem.kind != "vfat":
        return []
    kept = [o for o in filesystem.options if o not in _NOT_NOW and not o.startswith("x-")]
    masked = any(option.startswith(("umask=", "fmask=", "dmask=")) for option in kept)
    return kept if masked else [*kept, "umask=0077"]


def make_directory(path: Path) -> None:
    """Make a directory and its parents with mode 0755 whatever the umask is."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    for directory in reversed(missing):
        directory.mkdir()
        directory.chmod(0o755)
