"""Images that bring a unified kernel image and no initrd apart from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import StepError
from agent.target import cpio, uki
from agent.target.contents import Unpacked
from agent.target.family import problems
from agent.target.needs import Needs
from agent.target.tree import Tree
from tests.unit.target.archive import GENERIC, newc
from tests.unit.target.sample import KERNEL, debian
from tests.unit.target.test_family import DEBIAN, WORDS, listed
from tests.unit.target.unified import pe

NEEDS = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
INITRD = newc(GENERIC)
SECTIONS = (
    (".osrel", b"ID=debian\n"),
    (".cmdline", b"root=/dev/gpt-auto-root quiet\0"),
    (".uname", KERNEL.encode()),
    (".initrd", INITRD),
    (".linux", b"kernel"),
    (".initrd", b"of another profile"),
)
PLACES = [
    "boot/EFI/Linux/debian.efi",
    "efi/EFI/Linux/debian.efi",
    f"usr/lib/modules/{KERNEL}/vmlinuz-virt.efi",
]


def with_uki(root: Path, content: bytes, place: str = PLACES[0]) -> Tree:
    tree = debian(root)
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(content)
    return tree


@pytest.mark.parametrize("place", PLACES)
def test_its_initrd_is_found_and_taken_out_whole(tmp_path: Path, place: str) -> None:
    tree = with_uki(tmp_path, pe(SECTIONS), place)
    assert Unpacked(tree).has("uki")
    found = uki.find(tree, KERNEL)
    assert found is not None
    assert found.path == f"/{place}"
    assert found.text(tree, ".cmdline") == "root=/dev/gpt-auto-root quiet"
    uki.take_initrd(tree, found, "/boot/initrd.img-x")
    assert (tmp_path / "boot/initrd.img-x").read_bytes() == INITRD
    assert cpio.names(tmp_path / "boot/initrd.img-x") == frozenset(GENERIC)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"MZ",
        b"not a program at all" * 100,
        pe(SECTIONS)[:300],
        pe([section for section in SECTIONS if section[0] != ".initrd"]),
        pe([(".uname", b"6.1.0-other"), (".initrd", INITRD)]),
        pe([(".initrd", INITRD)]),
    ],
)
def test_what_is_no_unified_image_of_this_kernel_is_passed_over(
    tmp_path: Path, content: bytes
) -> None:
    assert uki.find(with_uki(tmp_path, content), KERNEL) is None


def test_one_that_ends_too_early_is_a_named_failure(tmp_path: Path) -> None:
    whole = pe([(".uname", KERNEL.encode()), (".initrd", INITRD)])
    tree = with_uki(tmp_path, whole[:-700])
    found = uki.find(tree, KERNEL)
    assert found is not None
    with pytest.raises(StepError, match=r"debian\.efi: ends .* bytes too early"):
        uki.take_initrd(tree, found, "/boot/initrd.img-x")
    assert not (tmp_path / "boot/initrd.img-x").exists()


def refusals(words: set[str], kernels: int = 1) -> list[str]:
    found = listed(words, initrd=None, kernels=kernels)
    return [problem.message for problem in problems("image", found, DEBIAN, NEEDS, "x86_64")]


def test_an_image_with_one_may_do_without_dracut() -> None:
    without = {word for word in WORDS if not word.startswith("dracut")}
    assert refusals({*without, "uki"}) == []
    assert len(refusals(without)) == 1


def test_an_image_with_nothing_else_is_refused() -> None:
    """Its own command line cannot name the disks of a host, and a signed one takes no other."""
    [message] = refusals({*WORDS, "uki"}, kernels=0)
    assert "a unified kernel image only" in message
    assert "leave /usr/lib/modules/VERSION/vmlinuz in it" in message
