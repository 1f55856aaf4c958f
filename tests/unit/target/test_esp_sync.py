"""The installed system's own script, run as it is on directories instead of mounted ESPs."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.target.kit import SBIN, UNITS, Kit
from agent.target.kit.esp_sync import HOOKS, kit
from agent.target.tree import Tree
from tests.unit.target.sample import layout

SCRIPT = Path(__file__).parents[3] / "agent/target/kit/bedplate-esp-sync.sh"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners are set, which only root may do")


@dataclass(frozen=True)
class Installed:
    """Two ESPs; `mountpoint` and `mount` are stubs that look into and write a list of mounts."""

    place: Path

    @property
    def first(self) -> Path:
        return self.place / "efi"

    @property
    def second(self) -> Path:
        return self.place / "efi2"

    @property
    def third(self) -> Path:
        return self.place / "efi3"

    def mount(self, *esps: Path) -> None:
        (self.place / "mounts").write_text("".join(f"{esp}\n" for esp in esps))

    def sync(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", SCRIPT, self.first, self.second, self.third],
            env={
                "PATH": f"{self.place}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "STATE_DIRECTORY": str(self.place / "state"),
                "MOUNTS": str(self.place / "mounts"),
            },
            capture_output=True,
            text=True,
            timeout=20,
        )

    def synced(self) -> str:
        done = self.sync()
        assert done.returncode == 0, done.stderr
        return done.stdout


def fill(esp: Path, **more: str) -> None:
    files = {
        "EFI/BOOT/BOOTX64.EFI": "loader",
        "EFI/systemd/systemd-bootx64.efi": "loader",
        "loader/loader.conf": "timeout 1",
        "loader/entries/mid-6.12.conf": "linux /mid/6.12/linux",
        "mid/6.12/linux": "kernel",
        **more,
    }
    for path, text in files.items():
        place = esp / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)


def content(esp: Path) -> dict[str, str]:
    return {
        p.relative_to(esp).as_posix(): p.read_text() for p in sorted(esp.rglob("*")) if p.is_file()
    }


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    stubs = {
        "mountpoint": 'grep -qx "$2" "$MOUNTS"',
        "sync": "exit 0",  # costs seconds on a busy host and leaves nothing to look at
        # One argument: what fstab names, if its disk is there. Three: --bind.
        "mount": """if [ $# -eq 1 ]; then
            grep -qx "$1" "$MOUNTS.late" 2>/dev/null && echo "$1" >>"$MOUNTS"
            exit
        fi
        echo "$3" >>"$MOUNTS"; rmdir "$3" && ln -s "$2" "$3\"""",
    }
    (tmp_path / "bin").mkdir()
    for name, text in stubs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    machine = Installed(tmp_path)
    for esp in (machine.first, machine.second):
        esp.mkdir()
    machine.mount(machine.first, machine.second)
    return machine


def test_an_empty_second_esp_becomes_equal_to_the_first(installed: Installed) -> None:
    fill(installed.first, **{"EFI/bedplate/installed.json": "{}", "a name/with blank": "x"})
    assert "is equal to" in installed.synced()
    assert content(installed.second) == content(installed.first)


@pytest.mark.parametrize("late", ["first", "second"])
def test_an_esp_that_systemd_gave_up_is_mounted_once_its_disk_is_there(
    installed: Installed, late: str
) -> None:
    fill(installed.first, **{"mid/6.13/linux": "new"})
    if late == "second":
        fill(installed.second)
    here = {"first": installed.second, "second": installed.first}[late]
    installed.mount(here)
    esp = {"first": installed.first, "second": installed.second}[late]
    (installed.place / "mounts.late").write_text(f"{esp}\n")
    assert f"{esp} came late and is mounted now" in installed.synced()
    assert content(installed.second) == content(installed.first)


def test_a_second_run_changes_nothing_and_says_nothing(installed: Installed) -> None:
    fill(installed.first)
    installed.synced()
    before = (installed.second / "mid/6.12/linux").stat()
    assert installed.synced() == ""
    after = (installed.second / "mid/6.12/linux").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_new_kernel_is_copied_and_a_removed_one_goes_with_its_directory(
    installed: Installed,
) -> None:
    fill(installed.first)
    fill(installed.second, **{"mid/6.11/linux": "old", "loader/entries/mid-6.11.conf": "old"})
    fill(installed.first, **{"mid/6.13/linux": "new", "loader/entries/mid-6.13.conf": "new"})
    installed.synced()
    assert content(installed.second) == content(installed.first)
    assert not (installed.second / "mid/6.11").exists()


def test_each_loader_keeps_its_own_seed(installed: Installed) -> None:
    fill(installed.first, **{"loader/random-seed": "one"})
    fill(installed.second, **{"loader/random-seed": "two"})
    installed.synced()
    assert (installed.second / "loader/random-seed").read_text() == "two"
    fill(installed.first)
    (installed.second / "loader/random-seed").unlink()
    installed.synced()
    assert not (installed.second / "loader/random-seed").exists()


def test_what_a_power_cut_left_of_a_copy_is_cleared(installed: Installed) -> None:
    fill(installed.first)
    fill(installed.second, **{"mid/6.12/linux.new": "ha"})
    installed.synced()
    assert content(installed.second) == content(installed.first)


def test_without_the_second_esp_nothing_happens(installed: Installed) -> None:
    fill(installed.first)
    installed.mount(installed.first)
    assert "not mounted" in installed.synced()
    assert content(installed.second) == {}


def test_with_neither_esp_nothing_happens(installed: Installed) -> None:
    installed.mount()
    assert "not mounted" in installed.synced()


def test_an_esp_that_lost_its_loaders_is_never_copied_over_a_good_one(installed: Installed) -> None:
    fill(installed.second)
    good = content(installed.second)
    done = installed.sync()
    assert done.returncode != 0
    assert "has no boot loader" in done.stderr
    assert content(installed.second) == good


def test_while_the_first_disk_is_gone_the_second_takes_its_place(installed: Installed) -> None:
    fill(installed.second)
    installed.mount(installed.second)
    assert "stands in" in installed.synced()
    assert content(installed.first) == content(installed.second)
    fill(installed.first, **{"mid/6.13/linux": "new"})
    assert installed.synced() == ""
    assert (installed.second / "mid/6.13/linux").read_text() == "new"


def test_a_first_disk_that_comes_back_is_brought_up_to_date_and_not_copied_from(
    installed: Installed,
) -> None:
    fill(installed.second)
    installed.mount(installed.second)
    installed.synced()
    fill(installed.second, **{"mid/6.13/linux": "new", "loader/entries/mid-6.13.conf": "new"})
    installed.first.unlink()
    installed.first.mkdir()
    fill(installed.first)
    installed.mount(installed.first, installed.second)
    installed.synced()
    assert (installed.first / "mid/6.13/linux").read_text() == "new"
    assert content(installed.first) == content(installed.second)
    fill(installed.first, **{"mid/6.14/linux": "newer"})
    installed.synced()
    assert (installed.second / "mid/6.14/linux").read_text() == "newer"


def test_an_empty_esp_on_a_new_first_disk_is_filled_from_the_second(installed: Installed) -> None:
    fill(installed.second)
    installed.mount(installed.second)
    installed.synced()
    installed.first.unlink()
    installed.first.mkdir()
    installed.mount(installed.first, installed.second)
    installed.synced()
    assert content(installed.first) == content(installed.second)


def test_a_third_esp_is_kept_equal_too(installed: Installed) -> None:
    installed.third.mkdir()
    installed.mount(installed.first, installed.second, installed.third)
    fill(installed.first)
    installed.synced()
    assert content(installed.second) == content(installed.third) == content(installed.first)


def test_a_second_esp_that_fails_does_not_keep_the_third_from_its_copy(
    installed: Installed,
) -> None:
    installed.third.mkdir()
    installed.mount(installed.first, installed.second, installed.third)
    fill(installed.first)
    (installed.second / "EFI").write_text("in the way")
    assert installed.sync().returncode != 0
    assert content(installed.third) == content(installed.first)


def test_what_the_third_esp_learned_alone_reaches_all_when_they_come_back(
    installed: Installed,
) -> None:
    fill(installed.second)
    installed.third.mkdir()
    fill(installed.third)
    installed.mount(installed.third)
    assert f"{installed.third} stands in" in installed.synced()
    fill(installed.third, **{"mid/6.13/linux": "new"})
    installed.first.unlink()
    installed.first.mkdir()
    fill(installed.first)
    installed.mount(installed.first, installed.second, installed.third)
    installed.synced()
    assert (installed.first / "mid/6.13/linux").read_text() == "new"
    assert content(installed.second) == content(installed.third) == content(installed.first)


def test_a_full_second_esp_fails_and_keeps_what_it_had(installed: Installed) -> None:
    fill(installed.second)
    fill(installed.first, **{"mid/6.13/linux": "new", "loader/entries/mid-6.13.conf": "new"})
    (installed.place / "bin/cp").write_text('#!/bin/sh\necho "No space left" >&2\nexit 1\n')
    (installed.place / "bin/cp").chmod(0o755)
    before = content(installed.second)
    assert installed.sync().returncode != 0
    assert content(installed.second) == before


def test_an_entry_is_never_there_before_its_kernel_nor_a_loader_before_both(
    installed: Installed,
) -> None:
    fill(installed.first, **{"zz/linux": "kernel with a name that sorts last"})
    (installed.place / "bin/mv").write_text(
        f'#!/bin/sh\necho "$3" >>{installed.place}/order\nexec /bin/mv "$@"\n'
    )
    (installed.place / "bin/mv").chmod(0o755)
    installed.synced()
    order = [
        Path(line).relative_to(installed.second).parts[:2]
        for line in (installed.place / "order").read_text().splitlines()
    ]
    kernels = [i for i, path in enumerate(order) if path[0] in ("mid", "zz")]
    entries = [i for i, path in enumerate(order) if path == ("loader", "entries")]
    loaders = [i for i, path in enumerate(order) if path[0] == "EFI"]
    assert max(kernels) < min(entries) <= max(entries) < min(loaders)


def test_one_disk_needs_no_kit() -> None:
    assert kit(layout(disks=1)) == Kit()


@needs_root
def test_the_kit_enables_its_units_and_hooks_into_kernel_updates(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    kit(layout()).write(tree)
    assert tree.read(f"{SBIN}/bedplate-esp-sync") == SCRIPT.read_text()
    for path in (f"{SBIN}/bedplate-esp-sync", *HOOKS):
        assert (tmp_path / path.lstrip("/")).stat().st_mode & 0o777 == 0o755
        subprocess.run(["sh", "-n", tmp_path / path.lstrip("/")], check=True)
    wants = tmp_path / UNITS.lstrip("/") / "multi-user.target.wants"
    assert {link.name for link in wants.iterdir()} == {
        "bedplate-esp-sync.path",
        "bedplate-esp-sync.service",
    }
    for link in wants.iterdir():
        assert tree.exists(f"{UNITS}/multi-user.target.wants/{link.name}")


@needs_root
def test_a_hook_never_fails_an_update(tmp_path: Path) -> None:
    kit(layout()).write(Tree(tmp_path))
    hook = tmp_path / HOOKS[0].lstrip("/")
    done = subprocess.run(["sh", hook, "6.13"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
