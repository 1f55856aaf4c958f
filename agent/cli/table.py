"""What the partition table of a whole-disk image says, and whether a machine would take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.errors import ImageError
from agent.payload import gpt
from agent.payload.fetch import Source
from agent.payload.head import head
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.sources.partitions import ESP, PLACES, ROOTS

_TYPES = {
    ESP: "EFI system partition",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "swap",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "RAID member",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "LVM",
    **dict.fromkeys(ROOTS, "root"),
    **PLACES,
}
WITHOUT = "no machine takes it as a whole disk"


def table_of(manifest: Manifest, source: Source, options: FetchOptions) -> gpt.Table | str:
    """Return the table in an image's first MiB, which is fetched, or why there is none to see."""
    try:
        return gpt.parse(head(manifest, source, options))
    except gpt.NoTable as error:
        return f"{error}: {WITHOUT}"
    except ImageError as error:
        return f"not read: {error}"


def described(table: gpt.Table | str) -> Iterator[str]:
    """Yield lines for people."""
    if isinstance(table, str):
        yield f"table      {table}"
        return
    boots = "" if table.esp else "; firmware finds no loader: it has no EFI system partition"
    count = len(table.partitions)
    yield f"table      GPT, sectors of {table.sector} bytes, {count} partitions{boots}"
    for part in table.partitions:
        kind = _TYPES.get(str(part.type), str(part.type))
        size = f"{part.size / 1e6:11.1f} MB"
        yield f"partition  {part.number:3}  {size}  {kind}  {part.name}".rstrip()


def plain(table: gpt.Table | str) -> dict[str, Any]:
    """Return the same as JSON-able data; sizes are bytes."""
    if isinstance(table, str):
        return {"problem": table}
    return {
        "sector_size": table.sector,
        "partitions": [
            {
                "number": part.number,
                "type": str(part.type),
                "partuuid": str(part.partuuid),
                "name": part.name,
                "start": part.start,
                "size": part.size,
            }
            for part in table.partitions
        ],
    }
