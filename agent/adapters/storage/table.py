"""The GPT of a disk, written in one go with the identities that were chosen.

sfdisk and not parted (which blivet uses), because parted can set neither a PARTUUID nor the disk's
GUID: the table would be written twice, and every later write by parted would be one more chance to
lose them.
"""

from __future__ import annotations

from agent.layout.model import DiskLayout


def script(layout: DiskLayout) -> str:
    """Return sfdisk(8) input for a whole disk: extents in sectors of the disk's own size."""
    sector = layout.disk.sector_size
    lines = ["label: gpt", f"label-id: {layout.guid}", "unit: sectors", "first-lba: 34", ""]
    for part in layout.partitions:
        if part.start % sector or part.size % sector:
            raise ValueError(f"{part.name}: {part.start}+{part.size} splits a {sector} byte sector")
        fields = (
            f"start={part.start // sector}",
            f"size={part.size // sector}",
            f"type={part.type_guid}",
            f"uuid={part.partuuid}",
            f'name="{part.name}"',
        )
        lines.append(f"{part.number} : {', '.join(fields)}")
    return "\n".join(lines) + "\n"
