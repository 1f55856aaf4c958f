"""How large the inputs are: the sizes of docs/performance.md, or small ones to try the bench."""

from __future__ import annotations

from dataclasses import dataclass

MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True)
class Scale:
    """What the images are made of.

    `stages` are Debian packages, unpacked with all they depend on into one tree; each stage adds to
    the one before. The image that is raced is the last stage, the first is what `pack` is timed
    with. `changed` is a package of the first stage that a newer release has in another version.
    """

    name: str
    stages: tuple[tuple[str, tuple[str, ...]], ...]
    changed: str
    disk: int
    """Bytes of the disk image that is raced."""
    small_disk: int
    big_disk: int
    """Bytes of the two disk images whose memory is compared."""
    copies: int
    """How often the tree is in the large tree whose memory is compared."""


FULL = Scale(
    name="full",
    stages=(
        # 0.5 GB
        ("first", ("base-files", "linux-image-amd64", "systemd", "openssh-server", "git",
                   "python3-full")),
        # 1 GB
        ("second", ("gcc", "g++", "perl", "vim", "gdb", "emacs-nox", "cmake")),
        # 1.6 GB
        ("whole", ("docker.io", "podman", "openjdk-21-jre-headless")),
    ),
    changed="git",
    disk=4 * GiB,
    small_disk=1 * GiB,
    big_disk=8 * GiB,
    copies=5,
)  # fmt: skip
QUICK = Scale(
    name="quick",
    stages=(
        ("first", ("base-files", "bash", "coreutils", "git")),
        ("second", ("python3",)),
        ("whole", ("vim",)),
    ),
    changed="git",
    disk=512 * MiB,
    small_disk=256 * MiB,
    big_disk=1 * GiB,
    copies=3,
)
