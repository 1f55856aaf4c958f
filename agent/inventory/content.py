"""What lies on a disk, in words: for preview, for the report, for the refusal to erase it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.inventory.model import Content
from agent.layout.extents import gib


def described(content: Content, now: datetime | None = None) -> str:
    """Return one line: device, kind, size, label, and when it was last used; its age at `now`."""
    words = [content.kind, gib(content.size)]
    if content.label:
        words.append(f'label "{content.label}"')
    if content.partition_name:
        words.append(f'partition name "{content.partition_name}"')
    if content.last_used is not None:
        day = content.last_used.astimezone(UTC).date().isoformat()
        ago = "" if now is None else f", {age(now - content.last_used)}"
        words.append(f"last used {day}{ago}")
    return f"{content.device}: {', '.join(words)}"


def age(passed: timedelta) -> str:
    """Return how long ago that was, in the largest unit of which it is two: "3 years ago"."""
    days = passed.total_seconds() / 86400
    for unit, length in (("years", 365.25), ("months", 30.44), ("days", 1), ("hours", 1 / 24)):
        if days >= 2 * length:
            return f"{int(days / length)} {unit} ago"
    return "within the last two hours"
