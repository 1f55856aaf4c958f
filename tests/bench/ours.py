"""The product's own code as one program, so that it is measured as its peers are.

    python -m tests.bench.ours disk|tree MANIFEST-URL TARGET PUBLIC-KEY
    python -m tests.bench.ours start

`disk` writes the image onto the device TARGET, `tree` unpacks it below the mounted TARGET; both
as an installation does. `start` only loads what `disk` does. Prints one JSON
object: `worked`, the seconds from the first request to the last flush, without Python's start.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.payload.direct import Target
from agent.payload.disk import flash
from agent.payload.fetch import get_manifest
from agent.payload.sign import PublicKey, load_trusted


def disk(url: str, target: Path, trusted: Sequence[PublicKey]) -> None:
    manifest, source = get_manifest([url], trusted)
    flash(manifest, source, Target(target))


def tree(url: str, target: Path, trusted: Sequence[PublicKey]) -> None:
    # Loads what a disk image has no need of.
    from agent.adapters.command import feeding
    from agent.payload.lay import lay

    manifest, source = get_manifest([url], trusted)
    lay(manifest, source, target, feeding)


def main(what: str, url: str, target: Path, key: Path) -> None:
    trusted = load_trusted([key])
    began = time.monotonic()
    {"disk": disk, "tree": tree}[what](url, target, trusted)
    sys.stdout.write(json.dumps({"worked": time.monotonic() - began}))


if __name__ == "__main__":
    if sys.argv[1:] != ["start"]:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
