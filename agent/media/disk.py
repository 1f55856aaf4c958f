"""A disk image with a GUID partition table: an ESP, and a volume for the operator's files."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid5

from agent.media.tools import Tools
from agent.payload import gpt

MIB = 1 << 20
ESP_AT = MIB
_BASIC_DATA = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7"
_SECTOR = 512


def lay_out(image: Path, esp: int, volume: int, guid: UUID, tools: Tools) -> tuple[int, int]:
    """Make the image a disk with the two partitions of these sizes in bytes.

    Returns where they begin. Every id is derived from `guid`, the disk's own. What the file holds
    already stays, so an ESP that lies at `ESP_AT` may be there.
    """
    volume_at = ESP_AT + esp
    with image.open("ab") as file:
        file.truncate(volume_at + volume + MIB)
    # sfdisk reads from a file here: programs run without a pipe on stdin.
    table = image.with_name(f"{image.name}.sfdisk")
    table.write_text(
        f"label: gpt\nlabel-id: {guid}\nfirst-lba: 34\n"
        f"start={ESP_AT // _SECTOR}, size={esp // _SECTOR}, type={gpt.TYPE_ESP},"
        f' uuid={uuid5(guid, "esp")}, name="bedplate-boot"\n'
        f"start={volume_at // _SECTOR}, size={volume // _SECTOR}, type={_BASIC_DATA},"
        f' uuid={uuid5(guid, "volume")}, name="bedplate"\n'
    )
    try:
        tools.run("sh", "-c", 'exec sfdisk --quiet "$1" <"$2"', "sfdisk", image, table)
    finally:
        table.unlink()
    return ESP_AT, volume_at
