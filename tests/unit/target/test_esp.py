import json
from pathlib import Path
from uuid import UUID

import pytest

from agent.errors import StepError
from agent.inventory.model import Marker
from agent.target import marker
from agent.target.boot import Copy
from agent.target.esp import Esp
from agent.target.tree import Tree

DONE = Marker(
    plan=UUID(int=7), hostname="db01", machine="CZ1", finished="2026-11-22T12:00:00+00:00"
)


def test_a_file_of_the_tree_arrives_whole_and_under_its_name_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot/vmlinuz").write_bytes(b"kernel" * 500)
    (tmp_path / "esp").mkdir()
    esp = Esp(tmp_path / "esp")
    assert esp.copy(Tree(root), Copy("/boot/vmlinuz", "mid/6.12/linux")) == 3000
    assert [p.name for p in (tmp_path / "esp").rglob("*") if p.is_file()] == ["linux"]
    assert (tmp_path / "esp/mid/6.12/linux").read_bytes() == b"kernel" * 500


def test_a_copy_that_fails_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    esp = Esp(tmp_path)
    esp.write("EFI/BOOT/BOOTX64.EFI", b"old")
    with pytest.raises(StepError, match="/none: no such file"):
        esp.copy(Tree(tmp_path), Copy("/none", "EFI/BOOT/BOOTX64.EFI"))
    assert esp.digests().keys() == {"EFI/BOOT/BOOTX64.EFI"}
    assert (tmp_path / "EFI/BOOT/BOOTX64.EFI").read_bytes() == b"old"


def test_the_seed_of_a_loader_is_not_compared(tmp_path: Path) -> None:
    one, other = Esp(tmp_path / "1"), Esp(tmp_path / "2")
    for number, esp in enumerate((one, other)):
        esp.write("loader/loader.conf", b"timeout 1\n")
        esp.write("loader/random-seed", bytes([number]) * 32)
    assert one.digests() == other.digests()
    assert one.digests().keys() == {"loader/loader.conf"}


def test_what_is_in_the_way_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "EFI").write_text("a file where a directory must be")
    with pytest.raises(StepError, match=r"EFI/BOOT/BOOTX64\.EFI: "):
        Esp(tmp_path).write("EFI/BOOT/BOOTX64.EFI", b"x")


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    esp = Esp(tmp_path)
    esp.write("a/b", b"x")
    assert esp.holds("a/b")
    esp.remove("a/b")
    esp.remove("a/b")
    assert not esp.holds("a/b")


def test_a_marker_is_read_back_as_it_was_written() -> None:
    text = marker.render(DONE)
    assert json.loads(text)["version"] == 1
    assert marker.parse(text) == DONE


def test_a_marker_of_a_later_version_still_says_what_is_installed() -> None:
    later = {**json.loads(marker.render(DONE)), "version": 2, "operator": "me"}
    assert marker.parse(json.dumps(later).encode()) == DONE


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"version": 1}', b'{"plan": "x"}', b"\xff\xfe"]
)
def test_what_is_no_marker_is_none(content: bytes) -> None:
    assert marker.parse(content) is None
