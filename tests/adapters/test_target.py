"""Programs in the installed tree: shut in, with the kernel's file systems, and nothing is left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agent.adapters.command import run
from agent.adapters.target import ChrootTarget
from agent.errors import CommandError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot(2) and mounts are root's")

PROGRAMS = ("sh", "ls", "cat", "sleep", "readlink")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with a few programs of this system and what they are linked with."""
    place = tmp_path_factory.mktemp("tree")
    for name in ("dev", "proc", "sys", "run", "usr/bin", "etc"):
        (place / name).mkdir(parents=True)
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found is not None
        shutil.copy(found, place / "usr/bin" / program)
        linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"/\S+", linked):
            copy = place / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    (place / "bin").symlink_to("usr/bin")
    (place / "etc/os-release").write_text("ID=inside\n")
    return place


def mounts_below(place: Path) -> list[str]:
    return [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(place) in line
    ]


def test_a_program_sees_the_tree_and_nothing_else(root: Path) -> None:
    target = ChrootTarget(run)
    assert target.run(root, "cat", "/etc/os-release") == "ID=inside\n"
    assert "home" not in target.run(root, "ls", "/").split()


def test_a_program_has_the_kernels_file_systems(root: Path) -> None:
    told = ChrootTarget(run).run(
        root, "sh", "-c", "cat /proc/self/comm; ls -d /dev/null /sys/kernel"
    )
    assert told.split() == ["cat", "/dev/null", "/sys/kernel"]


def test_an_argument_is_an_argument_and_never_part_of_a_script(root: Path) -> None:
    words = ("$HOME", "; exit 3", "a  b", "'\"")
    told = ChrootTarget(run).run(
        root, "sh", "-c", 'for word; do echo "<$word>"; done', "sh", *words
    )
    assert told.splitlines() == [f"<{word}>" for word in words]


def test_a_program_that_fails_or_is_missing_is_named(root: Path) -> None:
    with pytest.raises(CommandError, match="exited with status 5: no room"):
        ChrootTarget(run).run(root, "sh", "-c", "echo no room >&2; exit 5")
    with pytest.raises(CommandError, match=r"dracut.*exited with status 127"):
        ChrootTarget(run).run(root, "dracut", "--force")


def test_nothing_stays_mounted_neither_after_the_end_nor_after_a_timeout(root: Path) -> None:
    target = ChrootTarget(run)
    target.run(root, "ls", "/proc")
    with pytest.raises(CommandError, match=r"did not finish in 0\.5 s"):
        target.run(root, "sh", "-c", "sleep 50 & sleep 50", timeout=0.5)
    assert mounts_below(root) == []
    deadline = time.monotonic() + 10  # a killed process is gone when the kernel gets to it
    while _inside(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _inside(root) == []


def _inside(root: Path) -> list[Path]:
    return [p for p in Path("/proc").glob("[0-9]*/root") if _leads_to(p, root)]


def _leads_to(link: Path, root: Path) -> bool:
    try:
        return link.readlink() == root
    except OSError:
        return False
