"""The results of a build: moved to their place, listed with their hashes, stamped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from image.builder.report import say

STAMP = ".stamp"
SUMS = "SHA256SUMS"


def is_current(target: Path, names: Sequence[str], stamp: str) -> bool:
    """Whether `target` holds all of `names`, built from what `stamp` was computed over."""
    recorded = target / STAMP
    return (
        all((target / name).is_file() for name in [*names, SUMS])
        and recorded.is_file()
        and recorded.read_text() == stamp
    )


def publish(
    target: Path, files: Mapping[str, Path], stamp: str, facts: Mapping[str, object]
) -> None:
    """Move `files` (name -> where it is now) to `target`, with manifest.json and SHA256SUMS.

    Each file is replaced in one go, so whoever holds the old one open keeps it; the stamp comes
    last, so an interrupted build is not taken for a finished one.
    """
    target.mkdir(parents=True, exist_ok=True)
    (target / STAMP).unlink(missing_ok=True)
    listing = {}
    for name, built in files.items():
        listing[name] = {"size": built.stat().st_size, "sha256": _sha256(built)}
        built.replace(target / name)
    manifest = target / "manifest.json"
    manifest.write_text(json.dumps({**facts, "files": listing}, indent=1) + "\n")
    sums = {name: str(entry["sha256"]) for name, entry in listing.items()}
    sums[manifest.name] = _sha256(manifest)
    (target / SUMS).write_text("".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    (target / STAMP).write_text(stamp)
    for name, entry in listing.items():
        say(f"  {target / name}  {int(str(entry['size'])) / 2**20:.1f} MiB")


def packages(mkosi_manifest: Path) -> dict[str, str]:
    """Package name -> version, from mkosi's manifest."""
    return {
        package["name"]: package["version"]
        for package in json.loads(mkosi_manifest.read_text())["packages"]
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
