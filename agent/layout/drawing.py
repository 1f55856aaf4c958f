"""Draw a layout to scale: disks, their partitions, mirrors, LUKS, volumes, one above the other.

Every bar lies over the bytes it is made of, and the largest disk fills the width. A bar too narrow
for its name has it in the list below and in its tooltip. SVG 1.1, no scripts, no fonts from afar;
light and dark by the reader's own setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from agent.layout.extents import MIB, gib
from agent.layout.model import Array, DiskLayout, FileSystem, Layout, Luks, Role, VolumeGroup

WIDTH, MARGIN = 960, 24
ROW, BAR = 58, 34
NARROWEST = 3.0
"""Width of the smallest bar: an ESP on 32 TB would not be seen at all."""
COLUMNS = (0, 190, 290, 350)
"""Where the words of a line of the list begin."""
LETTER = 7.0
"""Width of a letter of the font, about; a name is written where it fits."""

STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #1d2733; }
.what { font-weight: 600; }
.fine { fill: #5a6a7a; }
.disk { fill: #dfe5ec; } .esp { fill: #f2c14e; } .boot { fill: #7fb069; }
.root, .data { fill: #6a8caf; } .luks { fill: #b5838d; }
.volume { fill: #8ecae6; } .volume.odd { fill: #5fa8d3; } .free { fill: #eef1f4; }
@media (prefers-color-scheme: dark) {
  svg { background: #14191f; } text { fill: #e6ebf0; } .fine { fill: #9aa8b5; }
  .disk { fill: #2c3640; } .free { fill: #222a32; }
  .bar text { fill: #14191f; } .free + text { fill: #e6ebf0; }
}
"""


@dataclass(frozen=True)
class Bar:
    """A stretch of a row: `start` and `size` in bytes from the beginning of a disk."""

    start: float
    size: float
    kind: str
    name: str
    exact: str
    named: bool = True
    """Whether the name is written into it; a disk's would lie below its partitions."""


@dataclass(frozen=True)
class Row:
    title: str
    bars: tuple[Bar, ...]


def drawing(layout: Layout, title: str) -> str:
    """Return the SVG document; `title` says whose layout it is."""
    rows = tuple(_rows(layout))
    notes = tuple(_notes(layout))
    scale = (WIDTH - 2 * MARGIN) / _widest(layout)
    height = MARGIN + 30 + ROW * len(rows) + 20 * len(notes) + MARGIN
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<text class="what" x="{MARGIN}" y="{MARGIN + 8}">{escape(title)}</text>',
    ]
    top = MARGIN + 30
    for row in rows:
        body.append(f'<text class="fine" x="{MARGIN}" y="{top}">{escape(row.title)}</text>')
        body += (_drawn(bar, top + 6, scale) for bar in row.bars)
        top += ROW
    for note in notes:
        for column, words in zip(COLUMNS, note, strict=False):
            body.append(f'<text x="{MARGIN + column}" y="{top + 12}">{escape(words)}</text>')
        top += 20
    return "\n".join([*body, "</svg>\n"])


def _widest(layout: Layout) -> int:
    """Return the bytes of the largest disk or array: a RAID10 is larger than each of its disks."""
    disks = [laid.disk.size for laid in layout.every_disk]
    return max([*disks, *(MIB + array.size for array in layout.every_array)])


def _drawn(bar: Bar, top: float, scale: float) -> str:
    left = MARGIN + bar.start * scale
    width = max(NARROWEST, bar.size * scale)
    told = quoteattr(f"{bar.name}: {bar.exact}")
    parts = [
        f'<g class="bar" aria-label={told}><title>{escape(f"{bar.name}: {bar.exact}")}</title>',
        f'<rect class="{bar.kind}" x="{left:.2f}" y="{top}" width="{width:.2f}" height="{BAR}"/>',
    ]
    if bar.named and len(bar.name) * LETTER < width - 8:
        parts.append(f'<text x="{left + 5:.2f}" y="{top + 21}">{escape(bar.name)}</text>')
    return "".join([*parts, "</g>"])


def _rows(layout: Layout) -> Iterator[Row]:
    yield from (_disk(laid) for laid in layout.disks)
    if layout.arrays:
        bars = tuple(_array(array, layout.disks[0]) for array in layout.arrays)
        yield Row(f"RAID1 over {len(layout.disks)} disks", bars)
    yield from _stack(layout.luks, layout.group, layout.disks[0].partition(Role.ROOT).start)
    for one in layout.data:
        yield from (_disk(laid) for laid in one.disks)
        start = one.disks[0].partition(Role.DATA).start
        if one.array is not None:
            title = f"{one.level.upper()} over {len(one.disks)} disks"
            yield Row(title, (_array(one.array, one.disks[0]),))
        yield from _stack(one.luks, one.group, start)


def _disk(laid: DiskLayout) -> Row:
    whole = Bar(0, laid.disk.size, "disk", laid.disk.path, _exact(laid.disk.size), named=False)
    partitions = tuple(
        Bar(p.start, p.size, p.role.value, p.role.value, _exact(p.size)) for p in laid.partitions
    )
    return Row(f"{laid.disk}, {gib(laid.disk.size)}", (whole, *partitions))


def _array(array: Array, first: DiskLayout) -> Bar:
    what = "mirror" if array.level == "raid1" else array.level.upper()
    return Bar(
        first.partition(array.role).start,
        array.size,
        array.role.value,
        f"{array.name} {what}",
        f"{_exact(array.size)}, metadata {array.metadata}, {len(array.members)} members",
    )


def _stack(luks: Luks | None, group: VolumeGroup, start: int) -> Iterator[Row]:
    if luks is not None:
        what = f"{luks.cipher} {luks.key_size} bit"
        bar = Bar(start, group.size, "luks", "LUKS2", f"{what}, UUID {luks.uuid}")
        yield Row(f"LUKS2, {what}", (bar,))
    yield Row(f"volume group {group.name}", tuple(_volumes(group, start)))


def _volumes(group: VolumeGroup, start: int) -> Iterator[Bar]:
    at = start
    for number, volume in enumerate(group.volumes):
        filesystem = volume.filesystem
        kind = "volume odd" if number % 2 else "volume"
        exact = f"{_exact(volume.size)}, {filesystem.kind}, {','.join(filesystem.options)}"
        yield Bar(at, volume.size, kind, filesystem.mount, exact)
        at += volume.size
    if group.free:
        yield Bar(at, group.free, "free", "free", _exact(group.free))


def _notes(layout: Layout) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the list, each as its words: mount point, size, file system, options."""
    esp, boot = (layout.disks[0].partition(role) for role in (Role.ESP, Role.BOOT))
    yield _note(layout.boot, boot.size)
    for filesystem in layout.esps:
        yield _note(filesystem, esp.size)
    for group in layout.every_group:
        for volume in group.volumes:
            yield _note(volume.filesystem, volume.size)
    for deviation in layout.deviations:
        yield (deviation,)


def _note(filesystem: FileSystem, size: int) -> tuple[str, ...]:
    return filesystem.mount, gib(size), filesystem.kind, ",".join(filesystem.options)


def _exact(size: int) -> str:
    return f"{gib(size)} ({size} bytes)"
