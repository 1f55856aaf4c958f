from __future__ import annotations

import logging
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.report.tail import LogTail
from agent.report.text import amount, duration, plain, plain_lines


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters(exclude_categories=[])))
def test_shown_text_has_nothing_that_a_terminal_would_obey(text: str) -> None:
    shown = plain(text)
    for each in shown:
        assert unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp"), hex(ord(each))
        assert unicodedata.bidirectional(each) not in ("RLO", "LRO", "RLE", "LRE", "RLI", "LRI")
    shown.encode()


@settings(deadline=None)  # the machine may be busy
@given(st.text(st.characters(exclude_categories=[])))
def test_text_for_serial_consoles_is_printable_ascii(text: str) -> None:
    assert all(" " <= each <= "~" for each in plain(text, ascii_only=True))


def test_a_layouts_picture_is_drawn_in_ascii_on_a_serial_console() -> None:
    assert plain(" ├─ 1 esp", ascii_only=True) == " |- 1 esp"
    assert plain(" └─ 2 röt…", ascii_only=True) == " `- 2 r\\xf6t..."


def test_an_escape_sequence_is_shown_and_not_obeyed() -> None:
    assert plain("a\x1b[31mred\x9b2J\r\n") == "a\\x1b[31mred\\x9b2J\\x0d\\x0a"


def test_a_long_line_is_cut_visibly() -> None:
    assert plain("x" * 50, limit=10) == "xxxxxxxxx…"


def test_lines_stay_lines_and_their_number_is_bounded() -> None:
    assert plain_lines("a\r\nb\x07", most=5) == ["a", "b\\x07"]
    assert plain_lines("\n" * 99, most=2) == ["", "", "(98 more lines)"]


@pytest.mark.parametrize(
    ("number", "unit", "shown"),
    [
        (0, "bytes", "0 B"),
        (1023, "bytes", "1023 B"),
        (1536, "bytes", "1.5 KiB"),
        (3 * 2**30, "bytes", "3.0 GiB"),
        (5 * 2**40, "bytes", "5.0 TiB"),
        (12, "volumes", "12 volumes"),
        (12, "", "12"),
        (123456, "chunks", "123456 chunks"),
    ],
)
def test_amounts_are_shown_as_people_read_them(number: float, unit: str, shown: str) -> None:
    assert amount(number, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-1, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations_are_shown_as_people_read_them(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def record(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("agent", logging.INFO, "", 0, message, arguments, None)


def test_the_tail_keeps_the_newest_lines_in_their_order() -> None:
    tail = LogTail(lines=3)
    for number in range(10):
        tail.handle(record("line %d", number))
    assert [line.rsplit(" ", 1)[1] for line in tail.lines()] == ["7", "8", "9"]


def test_the_tail_fits_into_the_bytes_it_is_given() -> None:
    tail = LogTail()
    for _ in range(100):
        tail.handle(record("é" * 100))
    lines = tail.lines(size=2000)
    assert 0 < len("\n".join(lines).encode()) <= 2000
    assert tail.lines(size=0) == []


def test_a_log_line_that_cannot_be_formatted_raises_nothing() -> None:
    tail = LogTail()
    tail.handle(record("%d", "not a number"))
    assert "a log line failed: TypeError" in tail.lines()[0]


def test_escape_sequences_do_not_get_into_the_tail() -> None:
    tail = LogTail()
    tail.handle(record("tar: \x1b]0;evil\x07"))
    assert tail.lines()[0].endswith("\\x1b]0;evil\\x07")
