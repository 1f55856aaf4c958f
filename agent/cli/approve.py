"""Ask a person before disks are erased: each one must be named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from agent.errors import MachineError, Problem
from agent.inventory.model import Disk
from agent.layout.picture import losses
from agent.resolve import Order
from agent.session import Approve


def approval(named: Sequence[str]) -> Approve:
    """Return what approves an order whose every disk is in `named` or is typed when asked."""

    def approve(order: Order) -> None:
        disks = [laid.disk for laid in order.layout.every_disk]
        missing = [disk for disk in disks if not set(named) & names(disk)]
        for disk in missing:
            if not _typed(disk):
                raise MachineError([_refusal(disk) for disk in missing])

    return approve


def names(disk: Disk) -> set[str]:
    """Return what a disk may be called: serial, WWN, kernel name, links in /dev/disk."""
    return {name for name in (disk.serial, disk.wwn, disk.path, *disk.by_id, *disk.by_path) if name}


def _typed(disk: Disk) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    click.echo(f"{disk} will be ERASED:", err=True)
    for line in list(losses(disk, datetime.now(UTC))) or ["it is blank"]:
        click.echo(f"  {line}", err=True)
    answer: str = click.prompt(f"type {disk.serial or disk.path} to go on", err=True, default="")
    return answer in names(disk)


def _refusal(disk: Disk) -> Problem:
    lost = "; ".join(losses(disk, datetime.now(UTC))) or "it is blank"
    return Problem(
        str(disk), f"would be erased ({lost}): say so with --erase {disk.serial or disk.path}"
    )
