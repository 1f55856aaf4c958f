"""Everything for one test module or one demo: machines, Tang, the deploy server, a way in.

    with Lab.fresh(Path("build/lab/demo")) as lab:
        tang, server = lab.tang(), lab.serve()
        target = lab.hardware("db01")
        (server.directory / "plans" / "db01.yaml").write_text(...)
        with lab.booted(lab.live(target, "install", f"bedplate.server={server.url}")) as vm:
            vm.wait_exit(1200)
        with lab.booted(target.machine("first-boot"), until="login:") as vm:
            vm.ssh.run("lsblk")

A lab is a directory below `build/lab/`, with one directory per machine and server; opened again,
it has the same keys, ports and machines. Everything it started ends with its block.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from qemu import ssh
from qemu.errors import EmulationFlakeError
from qemu.hardware import Chassis, Hardware
from qemu.live import LiveImage
from qemu.machine import Kernel, Machine
from qemu.saved import Saved
from qemu.server import PLAN_KEY, DeployServer
from qemu.tang import Tang
from qemu.vm import Vm

BOOT = 300.0
"""Seconds that a boot may take under emulation on a busy host."""


class Lab:
    """A work directory and what runs for it."""

    def __init__(self, directory: Path) -> None:
        """Open a lab, with what it had when it was used last."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.key = ssh.generate_key(directory / "ssh" / "key")
        self._stack = ExitStack()
        self._tangs: dict[str, Tang] = {}
        self._servers: dict[str, DeployServer] = {}

    @classmethod
    def fresh(cls, directory: Path) -> Lab:
        """Open an empty lab; what was in the directory is deleted."""
        shutil.rmtree(directory, ignore_errors=True)
        return cls(directory)

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # -- servers -------------------------------------------------------------------------------

    def tang(self, name: str = "tang") -> Tang:
        """Return the Tang server of this name, started; a new one has its own keys and port."""
        if name not in self._tangs:
            self._tangs[name] = self._stack.enter_context(Tang(self.directory / name))
        return self._tangs[name].start()

    def serve(self, name: str = "deploy") -> DeployServer:
        """Return the deploy server of this name, started, with `plans/` and `images/` made."""
        if name not in self._servers:
            directory = self.directory / name
            for part in ("plans", "images"):
                (directory / part).mkdir(parents=True, exist_ok=True)
            server = DeployServer(directory, PLAN_KEY if PLAN_KEY.exists() else None)
            self._servers[name] = self._stack.enter_context(server)
        return self._servers[name]

    # -- machines ------------------------------------------------------------------------------

    def hardware(self, name: str, chassis: Chassis | None = None) -> Hardware:
        """Return a new machine with blank disks; one of this name that was there is deleted."""
        directory = self.machines / name
        shutil.rmtree(directory, ignore_errors=True)
        return Hardware.create(directory, chassis)

    def branch(self, base: Hardware, name: str, *, new_tpm: bool = False) -> Hardware:
        """Return a copy-on-write copy of a machine that is switched off; see `Hardware.branch`."""
        directory = self.machines / name
        shutil.rmtree(directory, ignore_errors=True)
        return base.branch(directory, new_tpm=new_tpm)

    def open(self, name: str) -> Hardware:
        """Return a machine that was made before."""
        return Hardware.open(self.machines / name)

    @property
    def machines(self) -> Path:
        """Where the machines are."""
        return self.directory / "machines"

    @property
    def login(self) -> tuple[str, bytes]:
        """The credential that lets this lab's key in as root on a live system (tmpfiles, ssh)."""
        return ("ssh.authorized_keys.root", ssh.public_half(self.key).encode() + b"\n")

    def live(
        self,
        hardware: Hardware,
        name: str,
        cmdline: str = "",
        *,
        without: Sequence[str] = (),
        credentials: Sequence[tuple[str, bytes]] = (),
        image: LiveImage | None = None,
    ) -> Machine:
        """Return a boot of the live image on this machine, by direct kernel boot.

        It lets the lab's key in, has the root shell, and is switched off where it would reboot.
        """
        kernel: Kernel = (image or LiveImage.built()).kernel(cmdline)
        given = (self.login, *credentials)
        return hardware.machine(name, kernel, without=without, credentials=given)

    # -- running -------------------------------------------------------------------------------

    def power_on(self, machine: Machine) -> Vm:
        """Return the machine to be switched on by `with`."""
        return Vm(machine, key=self.key)

    @contextmanager
    def booted(
        self,
        machine: Machine,
        *,
        until: str | Callable[[Vm], object] = r"Reached target|login:",
        timeout: float = BOOT,
        attempts: int = 3,
    ) -> Iterator[Vm]:
        """Switch a machine on and wait until the console shows `until`, or `until(vm)` returns.

        A boot that dies of the emulator's known flake is made again, `attempts` in all. It strikes
        in the kernel's first ten seconds: so `until` must come after those (the kernel's own first
        line does not). Any other failure, and the flake afterwards, is passed on.
        """
        for left in reversed(range(attempts)):
            with self.power_on(machine) as vm:
                try:
                    vm.wait_for(until, timeout) if isinstance(until, str) else until(vm)
                except EmulationFlakeError:
                    if not left:
                        raise
                    print(f"{machine.name}: emulator flake, booting again", file=sys.stderr)
                    vm.quit()
                    continue
                yield vm
                return

    def saved(self, machine: Machine, until: Callable[[Vm], object]) -> Saved:
        """Boot a machine, wait for `until(vm)` to return, and save it for `resumed`."""
        with self.booted(machine, until=until) as vm:
            return Saved.of(vm, self.directory / "saved" / f"{machine.name}.state")

    @contextmanager
    def resumed(self, saved: Saved, name: str) -> Iterator[Vm]:
        """Continue a saved machine under another name, its clock set right."""
        directory = self.directory / "resumed" / name
        shutil.rmtree(directory, ignore_errors=True)
        with self.power_on(saved.machine_for(name, directory)) as vm:
            vm.set_clock()
            yield vm
