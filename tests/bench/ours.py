"""The product's own code as one program, so that it is measured as its peers are.

    python -m tests.bench.ours disk|tree MANIFEST-URL TARGET PUBLIC-KEY
    python -m tests.bench.ours start

`disk` writes the image onto the device TARGET, `tree` unpacks it below the mounted TARGET; both
as an installation does. `start` only loads what they load. Prints one JSON
object: `worked`, the seconds from the first request to the last flush, without Python's start.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from agent.adapters.images import HttpImages
from agent.payload.direct import Target
from agent.payload.disk import flash
from agent.payload.sign import load_trusted


def main(what: str, url: str, target: Path, key: Path) -> None:
    images = HttpImages(load_trusted([key]))
    began = time.monotonic()
    manifest, source = images.find([url])
    if what == "disk":
        flash(manifest, source, Target(target))
    else:
        images.lay(manifest, source, target, lambda done, total: None)
    sys.stdout.write(json.dumps({"worked": time.monotonic() - began}))


if __name__ == "__main__":
    if sys.argv[1:] != ["start"]:
        main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
