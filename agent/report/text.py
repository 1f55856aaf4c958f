"""Text that came from elsewhere, made safe to show; sizes and times as people read them."""

from __future__ import annotations

import re

# C0, DEL and C1 hold the terminal escapes; the rest turns the reading direction or hides text
# (Unicode 15, Cf and Zl/Zp); lone surrogates cannot be encoded at all.
_HOSTILE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)

# What our own pictures are drawn with, for lines that can show ASCII only.
_ASCII = str.maketrans({"…": "...", "├": "|", "│": "|", "└": "`", "─": "-"})


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters; a `…` at the end shows that there was more."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def plain(text: str, *, limit: int = 1024, ascii_only: bool = False) -> str:
    """Return one line without control, direction or invisible characters, shown as escapes.

    At most about `limit` characters. With `ascii_only` lines of pictures become ASCII ones and
    everything else beyond ASCII is escaped too.
    """
    text = _HOSTILE.sub(_escape, cut(text, limit).replace("\t", " "))
    if ascii_only:
        text = text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")
    return text


def plain_lines(
    text: str, *, limit: int = 1024, most: int = 40, ascii_only: bool = False
) -> list[str]:
    """Return the lines of a message, each as `plain` makes it, at most `most` of them."""
    lines = text.replace("\r\n", "\n").split("\n")
    shown = [plain(line, limit=limit, ascii_only=ascii_only) for line in lines[:most]]
    if len(lines) > most:
        shown.append(f"({len(lines) - most} more lines)")
    return shown


def counted(number: int, noun: str) -> str:
    """Return `1 plan`, `2 plans`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def amount(number: float, unit: str) -> str:
    """Return a count in its unit; bytes with a binary prefix: `1.4 GiB`, `12 volumes`."""
    if unit != "bytes":
        return (
            f"{number:.4g} {unit}".rstrip() if number < 10_000 else f"{number:.0f} {unit}".rstrip()
        )
    if abs(number) < 1024:
        return f"{number:.0f} B"
    for prefix in ("KiB", "MiB", "GiB"):
        number /= 1024
        if abs(number) < 1024:
            return f"{number:.1f} {prefix}"
    return f"{number / 1024:.1f} TiB"


def progress(done: int, total: int | None, unit: str) -> str:
    """Return `1.0 GiB of 2.7 GiB`, `3 of 13 checks`, or what there is of it."""
    if not total:
        return amount(done, unit)
    return f"{amount(done, unit if unit == 'bytes' else '')} of {amount(total, unit)}"


def duration(seconds: float) -> str:
    """Return `12.3 s`, `4 min 05 s` or `2 h 07 min`."""
    seconds = max(0.0, seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
