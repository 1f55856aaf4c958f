"""Cuts fall where members begin, by their names, so that a change stays where it was made."""

from __future__ import annotations

import random
from hashlib import sha256

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.payload.cuts import Cutter, digest64
from agent.payload.frames import Piece

SIZE = 64 << 10
Members = list[tuple[bytes, bytes]]


def cut(members: Members, step: int = 1 << 30) -> list[Piece]:
    """Return the pieces of these members, fed `step` bytes at a time."""
    cutter = Cutter(SIZE)
    pieces: list[Piece] = []
    for name, content in members:
        cutter.mark(digest64(name), len(content))
        for start in range(0, len(content), step):
            cutter.feed(content[start : start + step])
            pieces += cutter.taken()
    cutter.flush()
    pieces += cutter.taken()
    assert cutter.count == len(pieces)
    assert cutter.total == sum(len(content) for _, content in members)
    return pieces


def tree(seed: int, count: int, largest: int = 9000) -> Members:
    numbers = random.Random(seed)
    return [
        (b"usr/%d" % number, numbers.randbytes(512 * numbers.randint(1, largest // 512)))
        for number in range(count)
    ]


SIZES = st.lists(
    st.one_of(st.integers(1, 300), st.integers(1, 5 * SIZE), st.sampled_from([SIZE, SIZE // 2])),
    max_size=12,
)


@settings(max_examples=30, deadline=None)
@given(SIZES, st.integers(1, 2 * SIZE))
def test_pieces_are_the_stream_and_do_not_depend_on_how_it_is_fed(
    sizes: list[int], step: int
) -> None:
    members = [
        (b"%d" % number, random.Random(number).randbytes(size)) for number, size in enumerate(sizes)
    ]
    pieces = cut(members)
    assert b"".join(bytes(piece.content) for piece in pieces) == b"".join(c for _, c in members)
    assert all(1 <= len(piece.content) <= SIZE for piece in pieces)
    assert cut(members, max(step, 50)) == pieces
    begins = {0}
    for size in sizes:
        begins.add(max(begins) + size)
    at = 0
    for piece in pieces:
        assert piece.continues == (at not in begins)
        at += len(piece.content)


def test_small_members_make_chunks_of_which_every_one_begins_with_a_member() -> None:
    pieces = cut(tree(1, 500))
    assert not any(piece.continues for piece in pieces)
    lengths = [len(piece.content) for piece in pieces]
    assert min(lengths[:-1]) >= SIZE // 8
    assert max(lengths) <= SIZE // 2
    assert sum(lengths) / len(lengths) > SIZE // 5


def test_a_large_member_begins_a_chunk_and_is_cut_at_fixed_distances() -> None:
    large = random.Random(2).randbytes(3 * SIZE + 999)
    for before in ([], tree(3, 1), tree(4, 30)):
        pieces = cut([*before, (b"large", large), *tree(5, 40)])
        start = b"".join(content for _, content in before)
        at = len(b"".join(bytes(p.content) for p in pieces).partition(large)[0])
        assert at == len(start)
        offsets, offset = [], 0
        for piece in pieces:
            offsets.append(offset)
            offset += len(piece.content)
        assert {at, at + SIZE, at + 2 * SIZE, at + 3 * SIZE} <= set(offsets)


def digests(members: Members) -> set[str]:
    return {sha256(piece.content).hexdigest() for piece in cut(members)}


def test_a_changed_an_added_and_a_removed_member_cost_few_chunks() -> None:
    """The bound is what a change costs; fixed cuts would make all that follows new."""
    members = tree(6, 1200)
    before = digests(members)
    assert len(before) > 160
    numbers = random.Random(7)
    costs = []
    for _ in range(6):
        place = numbers.randrange(len(members))
        name, content = members[place]
        changed = [*members[:place], (name, b"+" * 777 + content), *members[place + 1 :]]
        added = [*members[:place], (b"usr/new", bytes(3000)), *members[place:]]
        removed = [*members[:place], *members[place + 1 :]]
        costs += [len(digests(after) - before) for after in (changed, added, removed)]
    assert sum(costs) / len(costs) < 4
    assert max(costs) <= 15
