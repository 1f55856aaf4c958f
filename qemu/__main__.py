"""Boot machines of the rig by hand: `python -m qemu --help`, from the repository's root."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import click

from qemu.disk import GiB, MiB
from qemu.errors import RigError
from qemu.hardware import Chassis, Disk
from qemu.lab import Lab
from qemu.machine import Machine, kernel_options
from qemu.program import repository
from qemu.shell import BOTH
from qemu.terminal import HELP, attach

_BY_HAND = "hand"


@click.group()
def main() -> None:
    """Emulated machines with OVMF, a TPM and blank disks."""


@main.command()
@click.option("--tpm/--no-tpm", default=False, help="Build a TPM in (the boot takes longer).")
@click.option(
    "--disk", "disks", multiple=True, default=("virtio:12", "nvme:12"), show_default=True,
    metavar="BUS:GIB", help="A blank disk on virtio, nvme, sata, scsi or usb; repeat it.",
)  # fmt: skip
@click.option("--cmdline", default="", metavar="TEXT", help="Kernel options to add.")
@click.option("--plan", type=click.File("rb"), help="A plan, handed over as credential.")
@click.option("--serve", is_flag=True, help="Start Tang and a deploy server, and point at it.")
@click.option("--memory", default=2048, show_default=True, metavar="MIB")
@click.option("--name", default="by-hand", show_default=True, help="Name of the new machine.")
def live(
    tpm: bool,
    disks: tuple[str, ...],
    cmdline: str,
    plan: BinaryIO | None,
    serve: bool,
    memory: int,
    name: str,
) -> None:
    """Boot the live image on a new machine, with its console on this terminal."""
    chassis = Chassis(
        disks=tuple(_disk(number, text) for number, text in enumerate(disks)),
        tpm=tpm,
        memory=memory * MiB,
    )
    with _lab() as lab:
        if serve:
            tang, server = lab.tang(), lab.serve()
            cmdline = f"bedplate.server={server.url} {cmdline}"
            click.echo(f"tang    {tang.url}  thumbprint {tang.thumbprint()}")
            click.echo(f"server  {server.url}  serves {server.directory}")
        credentials = [("bedplate.plan", plan.read())] if plan else []
        hardware = lab.hardware(name, chassis)
        _run(lab, lab.live(hardware, name, cmdline, credentials=credentials))


@main.command()
@click.argument("name", default="by-hand")
@click.option("--without", multiple=True, metavar="DISK", help="Pull this disk (d0, d1 …).")
@click.option("--lab", "directory", type=click.Path(path_type=Path), help="The lab it is in.")
@click.option("--branch", is_flag=True, help="Boot a copy, so that the machine stays as it is.")
def boot(name: str, without: tuple[str, ...], directory: Path | None, branch: bool) -> None:
    """Boot machine NAME from its own disks, with its console on this terminal."""
    with _lab(directory) as lab:
        hardware = lab.open(name)
        if branch:
            hardware = lab.branch(hardware, f"{name}-branch")
        lab.tang()
        _run(lab, hardware.machine(name, without=without, strings=(kernel_options(BOTH),)))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("name", default="by-hand")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(name: str, command: tuple[str, ...]) -> None:
    """Log in to machine NAME, which runs, as root by ssh; or run COMMAND there."""
    script = repository() / "build" / "vm" / name / "ssh"
    if not script.exists():
        raise click.ClickException(f"{name}: does not run, or lets no key in")
    sys.exit(subprocess.run([script, *command]).returncode)


@main.command("demo")
def demo_command() -> None:
    """Install a machine, start it from its disks, and show the proof taken from inside it."""
    from rich.console import Console

    from qemu.demo import demo

    demo(Console(width=None if sys.stdout.isatty() else 140))


@main.command("bench")
def bench_command() -> None:
    """Measure streaming against the shell pipe; writes build/bench-vm.json."""
    from rich.console import Console

    from qemu.bench import bench

    sys.exit(0 if bench(Console(width=140)) else 1)


def _disk(number: int, text: str) -> Disk:
    bus, _, size = text.partition(":")
    if bus not in ("virtio", "nvme", "sata", "scsi", "usb") or not size.isdigit():
        raise click.BadParameter(f"{text}: must be BUS:GIB, such as nvme:12")
    return Disk(f"d{number}", bus, int(size) * GiB, f"BP{bus.upper()}{number}")  # type: ignore[arg-type]


def _lab(directory: Path | None = None) -> Lab:
    return Lab(directory or repository() / "build" / "lab" / _BY_HAND)


def _run(lab: Lab, machine: Machine) -> None:
    with lab.power_on(machine) as vm:
        click.echo(f"{HELP}\r\nroot by ssh: python -m qemu shell {machine.name}")
        attach(vm)


if __name__ == "__main__":
    try:
        main()
    except RigError as error:
        sys.exit(f"rig: {error}")
