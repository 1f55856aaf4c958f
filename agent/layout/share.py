"""Share a volume group among its volumes: fixed sizes, percentages, and who takes the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.errors import Problem
from agent.layout.extents import gib
from agent.plan.size import Percent


@dataclass(frozen=True)
class Want:
    """What one volume asks for.

    Exactly one of `size` (bytes), `percent` (of the whole group) and `grow` (a weight: a share of
    what the others leave) is given. `minimum` bounds the outcome from below in every case, and
    `maximum` from above where it is not less.
    """

    mount: str
    size: int | None = None
    percent: Percent | None = None
    grow: int | None = None
    minimum: int = 0
    maximum: int | None = None


def share(
    wants: Sequence[Want], total: int, extent: int, leave: int = 0
) -> Mapping[str, int] | list[Problem]:
    """Return mount point -> bytes, in whole extents, or every reason why it does not fit.

    What the fixed and percentage volumes leave goes to the growing ones by weight; without a
    growing one it stays free in the group, and `leave` bytes do so in any case.
    """
    sizes = {want.mount: _asked(want, total, extent) for want in wants}
    needed = sum(sizes.values())
    if needed + leave > total:
        return [_too_much(wants, sizes, total, leave)]
    return _grow(wants, sizes, total - leave - needed, extent)


def _asked(want: Want, total: int, extent: int) -> int:
    def up(size: int) -> int:
        return (size + extent - 1) // extent * extent

    if want.size is not None:
        asked = up(want.size)
    elif want.percent is not None:
        # Rounded down, so that 60 % and 40 % fit together.
        asked = want.percent.of(total) // extent * extent
    else:
        asked = 0
    if want.maximum is not None:
        asked = min(asked, want.maximum // extent * extent)
    return max(asked, up(want.minimum), extent)


def _grow(
    wants: Sequence[Want], sizes: Mapping[str, int], spare: int, extent: int
) -> Mapping[str, int]:
    grown = dict(sizes)

    def room(want: Want) -> int:
        """Return how much more the volume may have, in whole extents."""
        most = spare if want.maximum is None else want.maximum - grown[want.mount]
        return max(0, most) // extent * extent

    hungry = [want for want in wants if want.grow and room(want)]
    while hungry and spare >= extent:
        weight = sum(want.grow or 0 for want in hungry)
        before = spare
        for want in hungry:
            share_of = before * (want.grow or 0) // weight // extent * extent
            more = min(share_of, room(want))
            grown[want.mount] += more
            spare -= more
        if spare == before:  # less than an extent each: the first in the list takes what it may
            more = min(room(hungry[0]), spare // extent * extent)
            grown[hungry[0].mount] += more
            spare -= more
        hungry = [want for want in hungry if room(want)]
    return grown


def _too_much(wants: Sequence[Want], sizes: Mapping[str, int], total: int, leave: int) -> Problem:
    needed = sum(sizes.values())
    free = f" of which {gib(leave)} shall stay free" if leave else ""
    largest = sorted(wants, key=lambda want: -sizes[want.mount])[:3]
    named = ", ".join(f"{want.mount} {gib(sizes[want.mount])}" for want in largest)
    return Problem(
        "storage.volumes",
        f"need {gib(needed)} together, the volume group has {gib(total)}{free} "
        f"(the largest: {named})",
    )
