"""How a disk can be made to forget everything it ever held, and which way is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Method = Literal["nvme-sanitize", "nvme-format", "ata", "discard"]
BEST_FIRST: tuple[Method, ...] = ("nvme-sanitize", "nvme-format", "ata", "discard")
"""What `auto` tries: the device's own command for all it has, then for a namespace, then for the
blocks that it shows."""


@dataclass(frozen=True)
class Way:
    """One way to erase one disk, or why it is none."""

    method: Method
    detail: str = ""
    """What exactly the device does: `crypto erase`, `block erase`, `enhanced`…"""
    why_not: str = ""
    seconds: int = 0
    """How long the device says it takes; 0 where it does not say."""


def pick(ways: Sequence[Way], wanted: Method | Literal["auto"]) -> Way | str:
    """Return the way that is taken, or every reason why there is none."""
    asked = BEST_FIRST if wanted == "auto" else (wanted,)
    found = {way.method: way for way in ways}
    reasons = []
    for method in asked:
        way = found.get(method)
        if way is not None and not way.why_not:
            return way
        if way is not None:
            reasons.append(f"{method}: {way.why_not}")
    return "; ".join(reasons) or f"{wanted}: not for a disk of this kind"
