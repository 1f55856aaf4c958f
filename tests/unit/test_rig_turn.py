"""One machine at a time: whose turn it is."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from qemu.errors import RigError, WaitTimeoutError
from qemu.turn import one_at_a_time


def test_a_process_that_would_wait_for_itself_is_told(tmp_path: Path) -> None:
    lock = tmp_path / "vm" / ".lock"
    with (
        one_at_a_time(lock, "first"),
        pytest.raises(RigError, match="second: one machine at a time: first"),
        one_at_a_time(lock, "second"),
    ):
        pass


def test_the_second_waits_says_for_whom_and_goes_on_when_the_first_is_done(tmp_path: Path) -> None:
    lock, said = tmp_path / ".lock", list[str]()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("install (process 1)\n")
        held.flush()
        threading.Timer(0.7, fcntl.flock, (held, fcntl.LOCK_UN)).start()
        began = time.monotonic()
        with one_at_a_time(lock, "refusals", say=said.append):
            waited = time.monotonic() - began
    assert waited >= 0.5
    assert said == [f"refusals: waiting for install (process 1) to end ({lock})"]


def test_a_wait_without_end_is_given_up(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(WaitTimeoutError, match=r"waited 0\.2 s for another process"),
            one_at_a_time(lock, "late", timeout=0.2, say=lambda _: None),
        ):
            pass


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with pytest.raises(ValueError, match="boom"), one_at_a_time(lock, "first"):
        raise ValueError("boom")
    with one_at_a_time(lock, "second"):
        assert lock.read_text().startswith("second (process ")


OTHER = """
import pathlib, sys
from qemu.turn import one_at_a_time
lock = pathlib.Path(sys.argv[1])
with one_at_a_time(lock, "other", say=lambda _: print("waits", flush=True)):
    print("has it", flush=True)
    sys.stdin.readline()
"""


def test_one_that_wants_it_again_at_once_comes_after_the_one_that_waits(tmp_path: Path) -> None:
    lock, said = tmp_path / ".lock", list[str]()
    argv = [sys.executable, "-c", OTHER, str(lock)]
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        with one_at_a_time(lock, "first"):
            process = stack.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe))
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"waits\n"
            time.sleep(0.2)  # it says so just before it does
        threading.Timer(0.3, process.stdin.close).start()
        with one_at_a_time(lock, "second", say=said.append):
            assert process.stdout.readline() == b"has it\n"
        assert len(said) == 1
