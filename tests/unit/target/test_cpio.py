import bz2
import contextlib
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ImageError
from agent.target.cpio import names
from tests.unit.target.archive import newc

FILES = ("bin", "usr/bin/clevis", "usr/lib/modules/6.12/kernel/fs/xfs/xfs.ko.xz")


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def zstd_in_frames(data: bytes) -> bytes:
    return b"".join(zstd(data[at : at + 100]) for at in range(0, len(data), 100))


@pytest.fixture
def initrd(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "initrd.img"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize(
    "packed", [bytes, zstd, zstd_in_frames, gzip.compress, lzma.compress, bz2.compress]
)
def test_names_are_read_through_every_compression(
    initrd: Callable[[bytes], Path], packed: Callable[[bytes], bytes]
) -> None:
    assert names(initrd(packed(newc(FILES)))) == set(FILES)


def test_microcode_in_front_is_part_of_it(initrd: Callable[[bytes], Path]) -> None:
    early = newc({"kernel/x86/microcode/GenuineIntel.bin": b"\1" * 5000})
    assert names(initrd(early + b"\0" * 3000 + zstd(newc(FILES)))) == {
        "kernel/x86/microcode/GenuineIntel.bin",
        *FILES,
    }


def test_a_host_specific_archive_behind_a_plain_one_is_part_of_it(
    initrd: Callable[[bytes], Path],
) -> None:
    assert names(initrd(newc(FILES) + newc(["etc/hostname"]))) == {*FILES, "etc/hostname"}


def test_names_padded_for_reflinks_are_whole(initrd: Callable[[bytes], Path]) -> None:
    assert names(initrd(newc(FILES, padded_names=True))) == set(FILES)


def test_a_leading_dot_or_slash_makes_no_difference(initrd: Callable[[bytes], Path]) -> None:
    assert names(initrd(newc(["./etc/a", "/etc/b"]))) == {"etc/a", "etc/b"}


def test_an_empty_file_is_an_initrd_without_files(initrd: Callable[[bytes], Path]) -> None:
    assert names(initrd(b"")) == set()


@pytest.mark.parametrize("packed", [bytes, zstd, gzip.compress, lzma.compress])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_initrd_that_ends_early_is_refused(
    initrd: Callable[[bytes], Path], packed: Callable[[bytes], bytes], share: float
) -> None:
    files = {f"file{number}": bytes([number]) * 999 for number in range(50)}
    whole = packed(newc(files))
    with pytest.raises(ImageError, match=r"initrd\.img: is not an initrd that can be read"):
        names(initrd(whole[: int(len(whole) * share)]))


def test_lz4_is_named_by_its_magic(initrd: Callable[[bytes], Path]) -> None:
    with pytest.raises(ImageError, match="starts with 02214c18"):
        names(initrd(b"\x02\x21\x4c\x18" + b"x" * 100))


def test_damage_inside_is_refused(initrd: Callable[[bytes], Path]) -> None:
    whole = bytearray(newc(FILES))
    whole[54:62] = b"FFFFFFFF"
    with pytest.raises(ImageError, match="ends in the middle"):
        names(initrd(bytes(whole)))


@given(st.binary(max_size=400))
def test_any_bytes_end_in_names_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    with contextlib.suppress(ImageError):
        assert isinstance(names(path), frozenset)


@given(st.integers(0, 300), st.sampled_from([b"\0", b"F", b"zz", b"070701"]))
def test_any_damaged_header_ends_in_names_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, at: int, damage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    whole = newc(FILES)
    path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    with contextlib.suppress(ImageError):
        assert isinstance(names(path), frozenset)
