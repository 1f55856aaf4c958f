"""Runs in the live system for `make bench`: one round of ours, or of the shell pipe.

    python3 bench_guest.py ours|pipe MANIFEST-URL ROOT

Prints one JSON object: wall seconds, CPU seconds of the process and its children, peak RSS of the
process in bytes. Both end with syncfs, so that what is timed is on the disk.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

PIPE = (
    "set -o pipefail; curl -sf {url} | zstd -dc | "
    "tar -x --numeric-owner -p --xattrs '--xattrs-include=*' --acls -C {root} -f - && "
    "sync -f {root}"
)


def ours(url: str, root: Path) -> None:
    """Fetch, verify, decode and unpack as the agent does."""
    from agent.wiring import images

    port = images()
    manifest, source = port.find([url])
    port.lay(manifest, source, root, lambda done, total: None)


def pipe(url: str, root: Path) -> None:
    """Do the same by the usual pipe, which verifies nothing."""
    payload = url.removesuffix(".json") + ".tar.zst"
    subprocess.run(["bash", "-c", PIPE.format(url=payload, root=root)], check=True)


def main() -> None:
    what, url, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run = ours if what == "ours" else pipe
    began = time.monotonic()
    run(url, root)
    wall = time.monotonic() - began
    self, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    cpu = self.ru_utime + self.ru_stime + children.ru_utime + children.ru_stime
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": self.ru_maxrss * 1024}))


main()
