"""Print an inventory, a layout, an order: for people, or as JSON."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from agent.cli.output import show_json
from agent.inventory.model import Disk, Inventory
from agent.layout.extents import gib
from agent.layout.picture import losses
from agent.preview import Preview, of_steps
from agent.resolve import Order


def show_inventory(machine: Inventory) -> None:
    dmi = machine.dmi
    click.echo(f"machine   {dmi.vendor or '-'} {dmi.product or '-'}, serial {dmi.serial or '-'}")
    click.echo(f"uuid      {dmi.uuid or '-'}")
    booted = "UEFI" if machine.firmware.uefi else "legacy BIOS"
    secure = ", Secure Boot on" if machine.firmware.secure_boot else ""
    click.echo(f"firmware  {booted}{secure}")
    click.echo(f"memory    {gib(machine.memory)}, {machine.cpus} CPUs")
    click.echo(f"TPM 2.0   {machine.tpm.vendor or machine.tpm.device if machine.tpm else 'none'}")
    for nic in machine.nics:
        link = "carrier" if nic.carrier else "no carrier"
        addresses = ", ".join(nic.addresses) or "no address"
        click.echo(f"nic       {nic.name}  {nic.mac}  {nic.driver or '-'}  {link}  {addresses}")
    for disk in machine.disks:
        _show_disk(disk)


def _show_disk(disk: Disk) -> None:
    click.echo(f"disk      {disk}  {gib(disk.size)}  {disk.transport}")
    if disk.marker is not None:
        click.echo(f"            installed by plan {disk.marker.plan} at {disk.marker.finished}")
    for line in list(losses(disk, datetime.now(UTC))) or ["blank"]:
        click.echo(f"            {line}")
    for use in disk.in_use:
        click.echo(f"            in use: {use}")


def show_preview(preview: Preview, *, as_json: bool) -> None:
    if as_json:
        show_json(preview.plain())
        return
    for line in preview.lines(datetime.now(UTC)):
        click.echo(line)


def show_order(order: Order, *, as_json: bool) -> None:
    shown = of_steps(
        order.plan,
        order.inventory,
        order.layout,
        (order.manifest, *order.overlays),
        order.steps,
    )
    if as_json:
        show_json({**order.summary(), **shown.plain()})
        return
    show_preview(shown, as_json=False)
    click.echo("nothing stands in the way")
