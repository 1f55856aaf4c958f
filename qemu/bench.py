"""`make bench-vm`: streaming an image into a tree, side by side with the shell pipe, in a VM.

Rounds are interleaved and ratios are of medians, because these machines are noisy. Times are never
asserted in a test; a row that misses its goal makes `make bench-vm` fail with its name.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from qemu.disk import GiB, MiB
from qemu.hardware import Chassis, Disk
from qemu.lab import Lab
from qemu.program import repository
from qemu.site import IMAGE, Site
from qemu.vm import Vm

ROUNDS = 5
ROOT = "/mnt"
MOST_RSS = 200 * MiB


@dataclass(frozen=True)
class Row:
    """One comparison; `ratio` is peer over ours where more is better for us."""

    row: str
    ours: float
    peer: float
    ratio: float
    goal: float
    ok: bool


def bench(console: Console) -> bool:
    """Run everything, print the table, write build/bench-vm.json; tell if all goals are met."""
    with Lab.fresh(repository() / "build/lab/bench") as lab:
        site = Site(lab)
        chassis = Chassis(disks=(Disk("d0", "virtio", 8 * GiB, "BPBENCH"),), tpm=False)
        machine = lab.live(lab.hardware("bench", chassis), "bench")
        with lab.booted(machine, until=lambda vm: vm.ssh.wait(300)) as vm:
            rounds = _rounds(vm, f"{site.server.url}/images/{IMAGE}.json", console)
    rows = _rows(rounds)
    target = repository() / "build/bench-vm.json"
    target.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    table = Table("row", "ours", "peer", "ratio", "goal", "")
    for row in rows:
        verdict = "ok" if row.ok else "MISSED"
        table.add_row(
            row.row,
            f"{row.ours:.1f}",
            f"{row.peer:.1f}",
            f"{row.ratio:.2f}",
            f"{row.goal:.2f}",
            verdict,
        )
    console.print(table)
    return all(row.ok for row in rows)


def _rounds(vm: Vm, url: str, console: Console) -> dict[str, list[dict[str, Any]]]:
    vm.ssh.run("systemctl stop bedplate-shells bedplate 2>/dev/null; true")
    vm.ssh.write("/run/bench_guest.py", Path(__file__).with_name("bench_guest.py").read_bytes())
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "pipe": []}
    for number in range(ROUNDS):
        for what, results in found.items():
            vm.ssh.run(
                f"umount {ROOT} 2>/dev/null; mkfs.xfs -qf /dev/vda && mount /dev/vda {ROOT}", 120
            )
            done = vm.ssh.run(f"python3 /run/bench_guest.py {what} {url} {ROOT}", 900)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            console.print(f"round {number + 1} {what}: {results[-1]}", highlight=False)
    return found


def _rows(rounds: dict[str, list[dict[str, Any]]]) -> list[Row]:
    def middle(what: str, key: str) -> float:
        return float(median(each[key] for each in rounds[what]))

    def compared(name: str, key: str, goal: float) -> Row:
        ours, peer = middle("ours", key), middle("pipe", key)
        return Row(name, ours, peer, peer / ours, goal, peer / ours >= goal)

    rss = max(each["rss"] for each in rounds["ours"]) / MiB
    most = MOST_RSS / MiB
    return [
        compared("tree in the VM, wall seconds, against curl | zstd | tar", "wall", 1.0),
        compared("tree in the VM, CPU seconds, against curl | zstd | tar", "cpu", 0.8),
        Row("peak RSS of the agent while streaming, MiB", rss, most, most / rss, 1.0, rss < most),
    ]
