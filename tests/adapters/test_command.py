"""Programs are run: secrets stay off their command line, and nothing of them is left behind."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from agent.adapters.command import STDERR_KEPT, attempt, feeding, reading, run
from agent.errors import CommandError
from agent.secret import Secret

SECRET = Secret("0123456789abcdef" * 4)
PYTHON = sys.executable


def shell(script: str, *arguments: str | Path) -> tuple[str | Path, ...]:
    return ("sh", "-euc", script, "sh", *arguments)


def gone(pid: int) -> bool:
    """Wait a little for a process that was killed; a zombie of somebody else's counts as gone."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# --- secrets ---


def test_a_secret_comes_on_stdin_and_is_in_no_argument_and_no_environment(
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = (
        "import sys, pathlib\n"
        "given = sys.stdin.buffer.read()\n"
        "seen = pathlib.Path('/proc/self/cmdline').read_bytes()\n"
        "seen += pathlib.Path('/proc/self/environ').read_bytes()\n"
        "print(len(given), given in seen, b'PATH=' in seen and b'-c' in seen)\n"
    )
    with caplog.at_level(logging.DEBUG):
        told = run(PYTHON, "-c", program, secret=SECRET)
    assert told.split() == ["64", "False", "True"]
    assert SECRET.text not in caplog.text
    assert "run " in caplog.text


def test_a_secret_can_be_read_twice_as_cryptenroll_does() -> None:
    program = (
        "import sys; s = sys.stdin.buffer; a = s.read(); s.seek(0); print(a == s.read() != b'')"
    )
    assert run(PYTHON, "-c", program, secret=SECRET) == "True\n"


def test_a_secret_lies_in_memory_and_not_in_a_file() -> None:
    assert run("readlink", "/proc/self/fd/0", secret=SECRET).startswith("/memfd:")


def test_without_a_secret_there_is_nothing_to_read() -> None:
    assert run("wc", "-c") == "0\n"


def test_a_failure_names_the_program_and_not_its_secret() -> None:
    with pytest.raises(CommandError) as caught:
        run(*shell("cat >/dev/null; echo bad passphrase >&2; exit 2"), secret=SECRET)
    assert caught.value.what == "exited with status 2"
    assert caught.value.stderr == "bad passphrase"
    assert SECRET.text not in f"{caught.value!s}{caught.value!r}{caught.value.argv}"


# --- run and attempt ---


def test_the_agents_environment_does_not_reach_a_program() -> None:
    names = {line.partition("=")[0] for line in run("env").splitlines()}
    assert names == {"PATH", "LC_ALL", "HOME", "TERM"}


def test_an_exit_status_may_be_the_answer() -> None:
    done = attempt(*shell("echo out; echo err >&2; exit 7"))
    assert (done.status, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert done.argv[0] == "sh"


def test_only_the_end_of_a_long_complaint_is_kept() -> None:
    with pytest.raises(CommandError) as caught:
        run(*shell("seq 10000 >&2; exit 1"))
    assert len(caught.value.stderr) < STDERR_KEPT
    assert caught.value.stderr.endswith("\n10000")


def test_output_that_is_no_text_does_not_break_anything() -> None:
    assert run("printf", r"\377ok") == "�ok"


@pytest.mark.parametrize("start", [run, attempt])
def test_a_missing_program_is_named(start: object) -> None:
    assert callable(start)
    with pytest.raises(CommandError, match="bedplate-no-such-program -x: is not installed"):
        start("bedplate-no-such-program", "-x")


def test_a_program_that_may_not_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(CommandError, match="program: cannot be started: Permission denied"):
        run(program)


def test_a_program_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    began = time.monotonic()
    with pytest.raises(CommandError, match=r"did not finish in 0\.5 s"):
        # Its child holds the output open, as a chroot's or dracut's would.
        run(*shell('sleep 60 & echo $$ $! > "$1"; wait', note), timeout=0.5)
    assert time.monotonic() - began < 20
    pids = [int(pid) for pid in note.read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_a_program_has_no_terminal_to_ask_a_person_on() -> None:
    # In a session of its own; the leader's id is its own.
    assert run(*shell('test "$(ps -o sid= -p $$)" -eq $$ && echo alone')) == "alone\n"


# --- feeding ---


def test_a_fed_program_gets_every_byte_and_its_end(tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    with feeding(*shell('cat > "$1"', tmp_path / "out")) as stdin:
        for start in range(0, len(content), 100_000):
            stdin.write(content[start : start + 100_000])
    assert (tmp_path / "out").read_bytes() == content


def feed(script: str, *pieces: bytes, pause: float = 0) -> None:
    with feeding(*shell(script)) as stdin:
        time.sleep(pause)
        for piece in pieces:
            stdin.write(piece)


def test_a_fed_program_that_fails_says_why() -> None:
    with pytest.raises(CommandError, match="exited with status 3: disk is full"):
        feed("cat >/dev/null; echo disk is full >&2; exit 3", b"x")


def test_a_fed_program_that_dies_half_way_says_why_and_not_that_the_pipe_broke() -> None:
    with pytest.raises(CommandError, match="exited with status 3: disk is full"):
        feed("head -c 10 >/dev/null; echo disk is full >&2; exit 3", *[bytes(1 << 20)] * 64)


@pytest.mark.parametrize(
    "pieces", [[b"x"], [bytes(1 << 20)] * 64], ids=["found at the end", "found while writing"]
)
def test_a_program_that_ends_well_without_reading_everything_is_a_failure(
    pieces: list[bytes],
) -> None:
    """What was not read is missing somewhere, whatever the program thinks of it."""
    with pytest.raises(CommandError, match="ended before it had read everything"):
        feed("exec <&-; exit 0", *pieces, pause=0.5)


def test_a_missing_program_cannot_be_fed() -> None:
    with pytest.raises(CommandError, match="is not installed"):
        feeding("bedplate-no-such-program").__enter__()


@pytest.mark.parametrize("error", [ValueError("a bad chunk"), KeyboardInterrupt()], ids=repr)
def test_a_fed_program_is_killed_when_the_feeding_breaks_off(
    tmp_path: Path, error: BaseException
) -> None:
    note = tmp_path / "pid"
    script = 'echo $$ > "$1"; trap "" TERM; cat > /dev/null; echo the end > "$1.end"'

    def break_off() -> None:
        with feeding(*shell(script, note)) as stdin:
            stdin.write(b"half of it")
            stdin.flush()
            while not note.exists() or not note.read_text().endswith("\n"):
                time.sleep(0.01)
            raise error

    with pytest.raises(type(error)) as caught:
        break_off()
    assert caught.value is error
    assert gone(int(note.read_text()))
    assert not Path(f"{note}.end").exists(), "it must not take half of it for the whole"


def test_a_broken_pipe_of_somebody_else_ends_the_program_and_does_not_wait_for_ever() -> None:
    def break_another() -> None:
        with feeding("cat") as stdin:
            stdin.write(b"x")
            raise BrokenPipeError

    with pytest.raises(CommandError, match="ended before it had read everything"):
        break_another()


def test_a_killed_program_is_a_failure() -> None:
    with pytest.raises(CommandError, match=f"exited with status -{signal.SIGKILL.value}"):
        run(*shell("kill -KILL $$"))


# --- reading ---


def test_what_a_program_writes_is_read_as_it_comes() -> None:
    with reading(*shell("printf one; head -c 3000000 /dev/zero; printf two")) as out:
        assert out.read(3) == b"one"
        assert out.read() == bytes(3_000_000) + b"two"


def test_a_program_that_fails_has_no_end_that_could_be_read() -> None:
    def take(what: list[bytes]) -> None:
        with reading(*shell("printf half; echo broke in the middle >&2; exit 3")) as out:
            what.append(out.read(4))
            what.append(out.read(1))

    taken: list[bytes] = []
    with pytest.raises(CommandError, match="exited with status 3: broke in the middle"):
        take(taken)
    assert taken == [b"half"]


def test_a_failure_after_the_last_byte_that_was_asked_for_counts_too() -> None:
    with pytest.raises(CommandError, match="status 3"), reading(*shell("echo all; exit 3")) as out:
        assert out.read(4) == b"all\n"


def test_who_stops_reading_leaves_no_program_behind(tmp_path: Path) -> None:
    def stop() -> None:
        script = "sleep 100 & echo $! > $1; echo $$ >> $1; yes"
        with reading(*shell(script, tmp_path / "pids")) as out:
            out.read(100_000)
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        stop()
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
