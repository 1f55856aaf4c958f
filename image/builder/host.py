"""The build machine: its packages and the directory everything is built in."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from image.builder.report import BuildError, say, timed

# What the build uses of this machine besides apt and dpkg; everything else is in the tools tree.
NEEDED = {
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"): "debian-archive-keyring",
    Path("/usr/lib/python3/dist-packages/pip"): "python3-pip",
    Path("/usr/lib/python3/dist-packages/setuptools"): "python3-setuptools",
    Path("/usr/lib/python3/dist-packages/wheel"): "python3-wheel",
}


def missing_packages() -> list[str]:
    """Debian packages the build needs and this machine lacks, sorted."""
    missing = {package for path, package in NEEDED.items() if not path.exists()}
    # apt verifies signatures with the one (Debian 13) or the other (Debian 12).
    if not shutil.which("sqv") and not shutil.which("gpgv"):
        missing.add("gpgv")
    return sorted(missing)


def install_missing_packages() -> None:
    missing = missing_packages()
    if not missing:
        return
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with timed(f"apt: installing {' '.join(missing)}"):
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
            done = subprocess.run(
                ["apt-get", "--quiet", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise BuildError(f"apt-get {arguments[0]} failed:\n{done.stdout}{done.stderr}")


@contextmanager
def build_directory(build: Path) -> Iterator[Path]:
    """build/mkosi, where mkosi works; held by one build at a time.

    Two builds would share mkosi's cache, so the second waits for the first.
    """
    if os.geteuid() != 0:
        raise BuildError("must run as root (mkosi installs packages into trees): use sudo")
    workshop = build / "mkosi"
    workshop.mkdir(parents=True, exist_ok=True)
    with (workshop / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another image build is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield workshop
