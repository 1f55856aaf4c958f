"""Pages in a pipe: what a program reads is what was put there, and a buffer comes back after it."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.payload.direct import pages
from agent.payload.lent import Buffers, Spliced, waiting
from agent.payload.room import EACH, Piece, Room

SIZE = 64 << 10


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    out, into = os.pipe()
    os.set_blocking(into, False)
    yield out, into
    for end in (out, into):
        os.close(end)


def filled(content: bytes) -> mmap.mmap:
    buffer = pages(len(content))
    buffer[:] = content
    return buffer


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(1, SIZE), min_size=1, max_size=6),
    first=st.integers(0, 5000),
    reads=st.integers(3_000, 70_000),
)
def test_a_program_reads_what_was_put_there(cuts: list[int], first: int, reads: int) -> None:
    content = os.urandom(SIZE + first)
    out, into = os.pipe()
    with os.fdopen(out, "rb", 0) as reader, os.fdopen(into, "wb", 0):
        os.set_blocking(into, False)
        spliced, got = Spliced(into), b""
        with memoryview(filled(content)) as view:
            for cut in cuts:
                with view[first : first + cut] as piece:
                    done = 0
                    while done < cut:
                        try:
                            with piece[done:] as left:
                                done += spliced.put(left)
                        except BlockingIOError:
                            got += reader.read(reads) or b""
                            assert spliced.read == len(got)
        while waiting(into):
            got += reader.read(reads) or b""
        assert got == b"".join(content[first : first + cut] for cut in cuts)
        assert spliced.read == spliced.given == len(got)


def test_a_page_in_the_pipe_is_the_page_itself(pipe: tuple[int, int]) -> None:
    """Why nobody may write to a buffer before it has come back."""
    out, into = pipe
    buffer = filled(b"a" * mmap.PAGESIZE)
    spliced = Spliced(into)
    with memoryview(buffer) as view:
        assert spliced.put(view) == len(buffer)
    assert spliced.read == 0
    buffer[:1] = b"b"
    assert os.read(out, 1) == b"b"
    assert spliced.read == 1


def test_what_cannot_be_lent_is_written(pipe: tuple[int, int]) -> None:
    out, into = pipe
    spliced = Spliced(into)
    assert spliced.put(memoryview(b"zeros")) == 5
    assert os.read(out, 9) == b"zeros"
    assert (spliced.given, spliced.read) == (5, 5)


def test_a_full_pipe_and_one_without_a_reader_are_told_apart(pipe: tuple[int, int]) -> None:
    _, into = pipe
    spliced = Spliced(into)
    with memoryview(filled(bytes(4 << 20))) as view:
        assert 0 < spliced.put(view) < len(view)
        with pytest.raises(BlockingIOError):
            spliced.put(view)
        alone_out, alone = os.pipe()
        os.close(alone_out)
        try:
            with pytest.raises(BrokenPipeError):
                Spliced(alone).put(view)
        finally:
            os.close(alone)


def test_a_buffer_is_lent_again_when_it_came_back() -> None:
    first, second = pages(4096), pages(4096)
    buffers = Buffers()
    buffers.own([first, second])
    assert [buffers.take(wait=False) for _ in range(3)] == [first, second, None]
    buffers.back(memoryview(second)[:10])
    buffers.back(memoryview(bytes(9)))  # zeros, which nobody owns
    buffers.back(memoryview(pages(4096)))  # one of before
    assert [buffers.take(wait=True), buffers.take(wait=False)] == [second, None]


def test_who_waits_for_a_buffer_gets_the_one_that_comes_back() -> None:
    buffer, buffers = pages(4096), Buffers()
    buffers.own([buffer])
    taken = buffers.take(wait=True)
    assert taken is buffer
    thread = threading.Timer(0.05, buffers.back, [memoryview(buffer)])
    thread.start()
    assert buffers.take(wait=True) is buffer
    thread.join()


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20_480), st.integers(0, 99)), min_size=1, max_size=40)
)
def test_pieces_of_a_room_never_overlap(lengths: list[tuple[int, int]]) -> None:
    room, there = Room(5 * 20_480, threading.Event()), list[tuple[Piece, int]]()
    for length, which in lengths:
        if len(there) == 3:  # with two of them, wherever they are, there is room for a third
            piece, mark = there.pop(which % 3)
            assert bytes(piece.view) == bytes([mark]) * len(piece.view)
            room.give(piece)
        got = room.take(length)
        assert got is not None
        assert len(got.view) == length
        got.view[:] = bytes([which]) * length
        there.append((got, which))
    for piece, mark in there:
        assert bytes(piece.view) == bytes([mark]) * len(piece.view)


def test_the_longest_frame_has_room_where_each_has_less() -> None:
    piece = Room.of(2, 3 * EACH, threading.Event()).take(3 * EACH)
    assert piece is not None
    assert len(piece.view) == 3 * EACH


def test_who_waits_for_room_gets_it_or_hears_that_nobody_wants_it() -> None:
    stopped = threading.Event()
    room = Room(8192, stopped)
    piece = room.take(8192)
    assert piece is not None
    got = list[Piece | None]()
    threads = [threading.Thread(target=lambda: got.append(room.take(8000))) for _ in range(2)]
    for thread in threads:
        thread.start()
    room.give(piece)
    while not got:
        threads[0].join(0.01)
    stopped.set()
    room.wake()
    for thread in threads:
        thread.join()
    assert [found is None for found in got] == [False, True]
