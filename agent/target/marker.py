"""The note a finished installation leaves on every ESP, by which the same plan is a no-op later."""

from __future__ import annotations

import json

from agent.inventory.model import Marker

PATH = "EFI/bedplate/installed.json"
VERSION = 1


def render(marker: Marker) -> bytes:
    """Return the file's bytes: the marker's fields and the version of the form."""
    return json.dumps({"version": VERSION, **marker.model_dump(mode="json")}, indent=2).encode()


def parse(content: bytes) -> Marker | None:
    """Return the marker, or None for what is no marker of a version known here.

    Keys of a later version are passed over: an old live image must not erase what a newer one
    installed only because the note says more.
    """
    try:
        fields = json.loads(content)
    except ValueError:
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("version"), int):
        return None
    known = {key: value for key, value in fields.items() if key in Marker.model_fields}
    try:
        return Marker.model_validate(known)
    except ValueError:
        return None
