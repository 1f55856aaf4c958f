from __future__ import annotations

import io
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.background import Background
from agent.report.buffer import EventBuffer
from agent.report.event import Event, State, envelope_evidence
from agent.report.journal import JournalSink, PriorityFormatter, under_journal
from agent.report.jsonl import JsonLines
from tests.unit.report.receivers import event

ENVELOPE = envelope_evidence(b"\x30\x00", {})


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from([*State, "escrow"]), max_size=80), st.integers(1, 9))
def test_a_full_buffer_loses_the_oldest_progress_and_nothing_else(
    states: list[State | str], kept: int
) -> None:
    buffer = EventBuffer(progress_kept=kept)
    events = [
        event(seq, State.PROGRESS, step="escrow", evidence=ENVELOPE)
        if state == "escrow"
        else event(seq, State(state))
        for seq, state in enumerate(states, start=1)
    ]
    for each in events:
        buffer.put(each)
    progress = [each for each in events if each.is_progress]
    expected = [each for each in events if not each.is_progress or each in progress[-kept:]]
    assert buffer.take(1000, 1 << 30) == expected
    assert buffer.dropped == max(0, len(progress) - kept)


def test_a_batch_is_bounded_in_number_and_bytes_but_never_empty() -> None:
    buffer = EventBuffer()
    for seq in range(1, 7):
        buffer.put(event(seq, message="x" * 1000))
    assert [each.seq for each in buffer.take(2, 1 << 20)] == [1, 2]
    assert [each.seq for each in buffer.take(9, 2500)] == [3, 4]
    assert [each.seq for each in buffer.take(9, 1)] == [5]


def test_what_is_taken_counts_until_it_is_settled() -> None:
    buffer = EventBuffer()
    buffer.put(event())
    buffer.take(1, 1 << 20)
    assert len(buffer) == 1
    assert not buffer.drained(0)
    buffer.settle()
    assert buffer.drained(0)


def test_lingering_ends_when_more_than_progress_waits() -> None:
    buffer = EventBuffer()
    buffer.put(event(1, State.PROGRESS))
    threading.Timer(0.05, buffer.put, [event(2, State.FINISHED)]).start()
    began = time.monotonic()
    buffer.linger(10)
    assert time.monotonic() - began < 5


def test_a_console_that_does_not_drain_does_not_hold_up_the_install(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A socket pair whose other end nobody reads: writing blocks, as on a stuck serial line."""
    stuck, other = socket.socketpair()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sink = Background(lambda each: stuck.sendall(each.line), "ttyS0")
    began = time.monotonic()
    for seq in range(1, 501):
        sink(event(seq, State.PROGRESS, message="x" * 2000))
    sink.close(0.1)
    assert time.monotonic() - began < 20
    assert "ttyS0: does not take what is written to it" in caplog.text
    other.close()  # lets the thread go
    stuck.close()


def test_a_console_that_fails_is_named_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown: list[int] = []

    def flaky(each: Event) -> None:
        if each.seq < 3:
            raise OSError("unplugged")
        shown.append(each.seq)

    sink = Background(flaky, "tty9")
    for seq in (1, 2, 3):
        sink(event(seq))
    sink.close(10)
    assert shown == [3]
    assert caplog.text.count("tty9: cannot show events") == 1


def test_events_are_appended_to_a_file_only_the_operator_reads(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for seq in (1, 2):
        sink = JsonLines(path)
        sink(event(seq))
        sink.close(1)
    assert [Event.from_json(line).seq for line in path.read_bytes().splitlines()] == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_descriptor_that_was_given_stays_open() -> None:
    reader, writer = os.pipe()
    sink = JsonLines(writer)
    sink(event(7))
    sink.close(1)
    os.write(writer, b"still open")
    assert Event.from_json(os.read(reader, 65536).splitlines()[0]).seq == 7
    os.close(reader)
    os.close(writer)


def test_the_journal_gets_a_priority_and_one_line_an_event() -> None:
    stream = io.StringIO()
    sink = JournalSink(stream)
    sink(event(1, message="Encrypt"))
    sink(event(2, State.FINISHED, evidence={"seconds": 2.5, "log": ["not this"]}))
    sink(event(3, State.FAILED, message="first\nsecond\x1b[2J"))
    assert stream.getvalue().splitlines() == [
        "<5>step=encrypt state=started seq=1 plan=plan-1: Encrypt",
        "<5>step=encrypt state=finished seq=2 plan=plan-1 seconds=2.5",
        "<3>step=encrypt state=failed seq=3 plan=plan-1: first",
        "<3>second\\x1b[2J",
    ]


def test_the_journal_gets_progress_twice_a_minute() -> None:
    stream = io.StringIO()
    sink = JournalSink(stream)
    for second in range(1, 121):
        sink(event(second, State.PROGRESS, done=second, total=120, unit="bytes", rate=1.0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].endswith("done=1 total=120 rate=1B/s")


def test_log_records_get_their_priority_on_every_line() -> None:
    formatter = PriorityFormatter()
    try:
        raise OSError("gone")
    except OSError as error:
        caught = (OSError, error, error.__traceback__)
    lines = {
        level: formatter.format(
            logging.LogRecord("agent.x", level, "", 0, "said", (), caught if level > 30 else None)
        ).splitlines()
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
    }
    assert lines[logging.DEBUG] == ["<7>agent.x: said"]
    assert lines[logging.INFO] == ["<6>agent.x: said"]
    assert lines[logging.WARNING] == ["<4>agent.x: said"]
    assert lines[logging.ERROR][-1] == "<3>OSError: gone"
    assert all(line.startswith("<3>") for line in lines[logging.ERROR])


def test_only_the_journals_own_socket_is_taken_for_it() -> None:
    reader, writer = os.pipe()
    found = os.fstat(writer)
    assert under_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, writer)
    assert not under_journal({"JOURNAL_STREAM": "1:2"}, writer)
    assert not under_journal({}, writer)
    os.close(reader)
    os.close(writer)
