"""`bedplate pack`: its options, from the words on the command line to the manifest."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.payload.document import parse
from agent.payload.manifest import Manifest
from agent.payload.sign import keygen
from tests.unit.payload.images import SMALL, root_file_system


@pytest.fixture
def room(tmp_path: Path) -> Path:
    keygen(tmp_path / "image.key", tmp_path / "image.pub")
    return tmp_path


def pack(room: Path, name: str, *more: str | Path) -> Result:
    argv = ["pack", "-", "-n", name, "-k", room / "image.key", "-d", room, "--level", "1", *more]
    done = CliRunner().invoke(main, [str(word) for word in argv], input=root_file_system())
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def manifest(room: Path, name: str) -> Manifest:
    return parse((room / f"{name}.json").read_bytes())


@pytest.mark.parametrize(("text", "size"), [("64 KiB", SMALL), ("1MiB", 1 << 20), ("69632", 69632)])
def test_chunks_are_as_large_as_was_asked(room: Path, text: str, size: int) -> None:
    assert pack(room, "new", "--chunk-size", text).exit_code == 0
    made = manifest(room, "new")
    assert made.chunk_size == size
    assert max(chunk.length for chunk in made.chunks) <= size
    assert len(made.chunks) >= made.size // size


def test_chunks_have_4_mib_unless_asked_otherwise(room: Path) -> None:
    assert pack(room, "new").exit_code == 0
    assert manifest(room, "new").chunk_size == 4 << 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("60 KiB", "60 KiB is 61440 bytes, must be"),
        ("65 MiB", "65 MiB is 68157440 bytes, must be"),
        ("100 kB", "100 kB is 100000 bytes, must be"),
        ("many", '"many" is not a size'),
        ("0", "0 is not a size"),
    ],
)
def test_a_chunk_size_that_cannot_be_is_refused_with_the_bounds(
    room: Path, text: str, said: str
) -> None:
    done = pack(room, "new", "--chunk-size", text)
    words = " ".join(done.stderr.split())
    assert done.exit_code == 2
    assert said in words
    assert "whole pages of 4 KiB, from 64 KiB to 64 MiB" in words
    assert not (room / "new.json").exists()


def test_an_older_image_decides_the_chunk_size(room: Path) -> None:
    pack(room, "old", "--chunk-size", "64 KiB")
    done = pack(room, "new", "--previous", room / "old.json")
    assert done.exit_code == 0
    assert manifest(room, "new").chunk_size == SMALL
    assert "100.0 % is that of the older image" in done.stdout
    done = pack(room, "new", "--previous", room / "old.json", "--chunk-size", "1 MiB")
    assert done.exit_code == 2
    assert "--chunk-size: with --previous it is that of the older image" in done.stderr


# What runs the tests may have ignored some of them, as nohup and shells do for what they start.
ALIVE_TO_SIGNALS = """
import signal
for one in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(one, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
from agent.cli import main
main()
"""


@pytest.mark.parametrize(
    ("told", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)]
)
def test_a_pack_that_is_told_to_end_leaves_nothing(
    room: Path, told: signal.Signals | None, status: int
) -> None:
    images = room / "images"
    argv = ["pack", "-", "-n", "web", "-k", room / "image.key", "-d", images]
    with subprocess.Popen(
        [sys.executable, "-c", ALIVE_TO_SIGNALS, *map(str, argv)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    ) as program:  # fmt: skip
        assert program.stdin is not None
        begun = tarfile.TarInfo("usr/large")
        begun.size = 4 << 30
        # It goes on until nobody reads: Python notes a signal only when a read has ended.
        with suppress(BrokenPipeError):
            program.stdin.write(begun.tobuf())
            while program.poll() is None:
                program.stdin.write(bytes(1 << 16))
                if told is not None and list(images.glob(".web.*/payload")):
                    program.send_signal(told)
                    told = None
    assert list(images.iterdir()) == []
    assert program.returncode == status
