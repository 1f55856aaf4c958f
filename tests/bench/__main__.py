"""`python -m tests.bench`: run the races, judge them, write the numbers down."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.table import Table

from tests.bench import document, inputs, plot, races, scratch, table
from tests.bench.errors import BenchError
from tests.bench.inputs import Say
from tests.bench.names import FILESYSTEMS
from tests.bench.packages import Archive
from tests.bench.payloads import REPOSITORY, Packer
from tests.bench.peers import Peers
from tests.bench.process import FailedError
from tests.bench.races import Ground
from tests.bench.rows import Figures, Row, missed, to_json
from tests.bench.scale import FULL, QUICK, GiB, Scale

FEWEST = 5
"""Rounds of a run whose numbers count."""


def _disk(ground: Ground) -> list[Row]:
    return table.disk_rows(races.disk(ground), _cores())


def _wire(ground: Ground) -> list[Row]:
    return table.wire_rows(races.wire(ground), races.fetched_bytes(ground))


def _tree(ground: Ground) -> list[Row]:
    return table.tree_rows({kind: races.tree(ground, kind) for kind in FILESYSTEMS})


def _memory(ground: Ground) -> list[Row]:
    return table.memory_rows(races.memory(ground))


def _pack(ground: Ground) -> list[Row]:
    return table.pack_rows(races.pack(ground))


def _repack(ground: Ground) -> list[Row]:
    try:
        new, full = races.repack(ground)
    except FailedError as error:
        missing = Figures((), str(error))
        return table.repack_rows(missing, missing)
    return table.repack_rows(Figures((new / table.MB,)), Figures((full / table.MB,)))


PARTS: dict[str, Callable[[Ground], list[Row]]] = {
    "disk": _disk,
    "wire": _wire,
    "tree": _tree,
    "memory": _memory,
    "pack": _pack,
    "repack": _repack,
}


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=FEWEST, show_default=True)
@click.option(
    "--only", "only", multiple=True, type=click.Choice(tuple(PARTS)), help="Just these rows."
)
@click.option("--quick", is_flag=True, help="Small images: to try the bench, not to measure.")
def main(rounds: int, only: tuple[str, ...], *, quick: bool) -> None:
    """Measure the image pipeline beside its peers: as root, with 14 GiB of memory, 20 GB of disk.

    A full run writes build/bench.json, the table of docs/performance.md and its plot. With --only,
    --quick or fewer than 5 rounds the rows go to build/bench/trial.json instead. Every single run
    is in build/bench/costs.json.
    """
    console = Console(width=None if sys.stdout.isatty() else 140)
    scale = QUICK if quick else FULL
    try:
        scratch.enter_namespace()
        parts = only or tuple(PARTS)
        with _ground(scale, parts, rounds, console) as ground:
            began = time.monotonic()
            rows = [row for name in parts for row in PARTS[name](ground)]
            seconds = time.monotonic() - began
            every = [run for results in ground.ran for run in results.every()]
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise click.ClickException("interrupted") from None
    console.print(f"measured in {seconds / 60:.1f} minutes", highlight=False)
    (REPOSITORY / "build/bench/costs.json").write_text(json.dumps(every, indent=1) + "\n")
    _write_down(rows, counts=not only and not quick and rounds >= FEWEST)
    _show(rows, console)
    failed = missed(rows)
    for row in failed:
        click.echo(f"bench: missed: {row.row}", err=True)
    sys.exit(1 if failed else 0)


@contextmanager
def _ground(scale: Scale, parts: Sequence[str], rounds: int, console: Console) -> Iterator[Ground]:
    """Prepare everything that can be prepared, and clean up at the end, however that comes."""
    directory = REPOSITORY / "build/bench"
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"[{time.monotonic() - began:4.0f} s] {text}", markup=False, highlight=False)

    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:
        stack.enter_context(_alone(directory))
        _must_have_room(scale, parts)
        archive = Archive(directory)
        made = _inputs(directory, scale, archive, say)
        packer = Packer(directory, say)
        memory = stack.enter_context(scratch.memory(directory / "memory"))
        run = directory / "run"
        run.mkdir(exist_ok=True)
        peers = Peers(directory, archive, made, say)
        yield Ground(directory, memory, run, made, packer, peers, rounds, console)


def _inputs(directory: Path, scale: Scale, archive: Archive, say: Say) -> inputs.Inputs:
    tools = archive.unpack("squashfs-tools", ["squashfs-tools", "liblzo2-2"], "")
    variables = [f"{name}={value}" for name, value in tools.environment().items()]
    squash = ["env", *variables, str(tools.program("mksquashfs"))]
    return inputs.make(directory / "inputs", scale, archive, squash, say)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError("another bench is running") from None
        yield


def _must_have_room(scale: Scale, parts: Sequence[str]) -> None:
    """Refuse a machine that would begin to swap, or kill us, in the middle."""
    need = 14 if "memory" in parts else 6
    need = need * GiB if scale is FULL else 4 * GiB
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if free < need:
        raise BenchError(f"memory: needs {need / GiB:.0f} GiB free, has {free / GiB:.1f} GiB")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _kernel() -> str:
    """Return the kernel's version without what its builder added: 6.18."""
    return ".".join(platform.release().split(".")[:2])


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _write_down(rows: list[Row], *, counts: bool) -> None:
    if not counts:
        (REPOSITORY / "build/bench/trial.json").write_text(to_json(rows))
        return
    (REPOSITORY / "build/bench.json").write_text(to_json(rows))
    when = datetime.now(UTC).date().isoformat()
    heading = f"{when}, {_cores()} cores, {_processor()}, Linux {_kernel()}"
    document.rewrite(REPOSITORY / "docs/performance.md", rows, f"Measured {heading}.")
    (REPOSITORY / "docs/performance.svg").write_text(plot.svg(rows, f"Bedplate: {heading}"))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _show(rows: list[Row], console: Console) -> None:
    shown = Table("row", "ours", "peer", "", "ratio", "asked", "")
    for row in rows:
        shown.add_row(
            row.row,
            document.number(row.ours),
            document.number(row.peer),
            row.unit,
            document.number(row.ratio),
            document.number(row.goal),
            document.verdict(row),
        )
    console.print(shown)


if __name__ == "__main__":
    main()
