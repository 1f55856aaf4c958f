"""Runs in the live system for `make bench-vm`: one round of ours, or of the shell pipe.

    python3 bench_guest.py ours|pipe MANIFEST-URL ROOT

Prints one JSON object: wall seconds, CPU seconds of the process and its children, peak RSS of the
process in bytes. Both end with syncfs, so that what is timed is on the disk. The agent's program
is loaded before the clock starts: in an installation it has been running for a while, and under
emulation Python takes longer to start than the sample image takes to arrive.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from agent import wiring

PIPE = (
    "set -o pipefail; curl -sf {url} | zstd -dc | "
    "tar -x --numeric-owner -p --xattrs '--xattrs-include=*' --acls -C {root} -f - && "
    "sync -f {root}"
)


def ours(url: str, root: Path) -> None:
    """Fetch, verify, decode and unpack as the agent does."""
    port = wiring.images()
    manifest, source = port.find([url])
    port.lay(manifest, source, root, lambda done, total: None)


def pipe(url: str, root: Path) -> None:
    """Do the same by the usual pipe, which verifies nothing."""
    payload = url.removesuffix(".json") + ".tar.zst"
    subprocess.run(["bash", "-c", PIPE.format(url=payload, root=root)], check=True)


def main() -> None:
    what, url, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run = ours if what == "ours" else pipe
    began, before = time.monotonic(), cpu_seconds()
    run(url, root)
    wall, cpu = time.monotonic() - began, cpu_seconds() - before
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": rss}))


def cpu_seconds() -> float:
    """Return what this process and its ended children have used so far."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


main()
