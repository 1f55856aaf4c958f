"""A BMC for machines of the rig: OpenStack's sushy-emulator, whose machine is one of ours.

    emulator  sushy-tools, as a process, on a free port of loopback
    switch    what it notifies of power and media: switches a machine on and off as it says

The emulator downloads what is inserted, keeps the state of power and boot, and tells it to a URL;
QEMU is started from that, as a BMC would start the machine. That is its fake driver; with a
`Driver` it has machines of its own, such as the domains of `qemu.libvirt`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qemu.errors import EmulationFlakeError, RigError
from qemu.program import end, mortal
from qemu.vm import Vm

SYSTEM = "3f5a1b7e-2c0d-4b36-9d35-6a1f0b5c7e01"
_LISTENS = re.compile(r"Running on (https?://[^\s]+)")


@dataclass(frozen=True)
class Driver:
    """Machines that the emulator switches by itself."""

    options: Mapping[str, object]
    """The emulator's own, for this driver."""
    modules: Path
    """Directory with the Python modules that the driver needs."""


@dataclass(frozen=True)
class Setting:
    """What the emulated BMC is like."""

    user: str = "admin"
    password: str = "tr0ub4dor"  # noqa: S105  # of a machine that does not exist
    systems: tuple[str, ...] = ("rig",)
    """Machines of the fake driver, as are the options `on` and `notify`."""
    on: bool = False
    devices: Mapping[str, Any] | None = None
    """SUSHY_EMULATOR_VMEDIA_DEVICES; None has a CD and a floppy."""
    features: str = "vmedia"
    """sushy-emulator's own word: minimum has no virtual media at all."""
    notify: str | None = None
    tls: tuple[Path, Path] | None = None
    driver: Driver | None = None
    """None is the fake driver."""


@contextmanager
def emulator(directory: Path, setting: Setting | None = None) -> Iterator[str]:
    """Run an emulated BMC for the length of the context; yields its URL. RigError if it fails."""
    setting = setting or Setting()
    directory.mkdir(parents=True, exist_ok=True)
    config, log = directory / "emulator.conf", directory / "emulator.log"
    (directory / "state").mkdir(exist_ok=True)
    (directory / "htpasswd").write_text(_htpasswd(setting))
    config.write_text(
        "".join(f"{name} = {value!r}\n" for name, value in _options(setting, directory))
    )
    # Its temporary files are the images that were inserted.
    environment = {"TMPDIR": str(directory / "state"), "PATH": "/usr/bin:/bin"}
    if setting.driver is not None:
        environment["PYTHONPATH"] = str(setting.driver.modules)
    argv = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "sushy_tools.emulator.main",
        "--config",
        str(config),
    ]
    with log.open("wb") as words:
        process = subprocess.Popen(
            mortal(argv), stdin=subprocess.DEVNULL, stdout=words, stderr=words,
            env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        yield _address(process, log)
    finally:
        end(process)


def _address(process: subprocess.Popen[bytes], log: Path, timeout: float = 60) -> str:
    deadline = time.monotonic() + timeout
    while True:
        said = log.read_text(errors="replace")
        if found := _LISTENS.search(said):
            return found.group(1)
        if process.poll() is not None or time.monotonic() > deadline:
            raise RigError(f"sushy-emulator did not start: {said[-2000:]}")
        time.sleep(0.05)


def _htpasswd(setting: Setting) -> str:
    import bcrypt  # comes with sushy-tools

    digest: bytes = bcrypt.hashpw(setting.password.encode(), bcrypt.gensalt(4))
    return f"{setting.user}:{digest.decode()}\n"


def _options(setting: Setting, directory: Path) -> Iterator[tuple[str, object]]:
    yield "SUSHY_EMULATOR_LISTEN_IP", "127.0.0.1"
    yield "SUSHY_EMULATOR_LISTEN_PORT", 0
    yield "SUSHY_EMULATOR_FEATURE_SET", setting.features
    yield "SUSHY_EMULATOR_AUTH_FILE", str(directory / "htpasswd")
    yield "SUSHY_EMULATOR_STATE_DIR", str(directory / "state")
    yield from _machines(setting) if setting.driver is None else setting.driver.options.items()
    if setting.devices is not None:
        yield "SUSHY_EMULATOR_VMEDIA_DEVICES", dict(setting.devices)
    if setting.tls is not None:
        yield "SUSHY_EMULATOR_SSL_CERT", str(setting.tls[0])
        yield "SUSHY_EMULATOR_SSL_KEY", str(setting.tls[1])


def _machines(setting: Setting) -> Iterator[tuple[str, object]]:
    yield "SUSHY_EMULATOR_FAKE_DRIVER", True
    yield (
        "SUSHY_EMULATOR_FAKE_SYSTEMS",
        [
            {
                "uuid": f"{SYSTEM[:-2]}{number + 1:02}",
                "name": name,
                "power_state": "On" if setting.on else "Off",
                "external_notifier": setting.notify is not None,
                "nics": [{"mac": f"52:54:00:12:34:{number + 0x56:02x}", "ip": "10.0.2.15"}],
            }
            for number, name in enumerate(setting.systems)
        ],
    )
    if setting.notify is not None:
        yield "EXTERNAL_NOTIFICATION_URL", setting.notify


@dataclass(frozen=True)
class State:
    """What the emulator says of its machine."""

    on: bool
    from_cd: bool
    image: Path | None

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> State:
        inserted = (told.get("boot_image") or {}).get("Cd") or [None]
        return cls(
            told["power_state"] == "On",
            told.get("boot_device") in ("Cd", "UsbCd"),
            Path(inserted[0]) if inserted[0] else None,
        )


def force_off(url: str, setting: Setting) -> None:
    """Tell an emulator that its only machine is off: it cannot see that QEMU has ended."""
    pair = base64.b64encode(f"{setting.user}:{setting.password}".encode()).decode()
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port or 80, timeout=30)
    try:
        connection.request(
            "POST",
            f"/redfish/v1/Systems/{SYSTEM[:-2]}01/Actions/ComputerSystem.Reset",
            b'{"ResetType": "ForceOff"}',
            {"Authorization": f"Basic {pair}", "Content-Type": "application/json"},
        )
        if connection.getresponse().status >= 300:
            raise RigError(f"{url}: does not switch its machine off")
    finally:
        connection.close()


PowerOn = Callable[[State], Vm]
"""Returns the machine as it is switched on: from the CD if the state says so."""


@dataclass
class Switch:
    """Switches a machine as an emulator tells; `boots` are the power-ons, as they were told."""

    power_on: PowerOn
    boots: list[State] = field(default_factory=list)
    trouble: list[BaseException] = field(default_factory=list)
    went_off: Callable[[], object] = lambda: None
    """Called when the guest has switched the machine off by itself."""
    running: int = 0
    """How many power-ons have got their turn: one machine runs at a time on this host."""
    _now: Vm | None = None
    _told: queue.SimpleQueue[State | None] = field(default_factory=queue.SimpleQueue)

    @property
    def console(self) -> str:
        """What the machine that was switched on last has shown."""
        return self._now.console.text if self._now else ""

    @contextmanager
    def listening(self) -> Iterator[str]:
        """Follow an emulator for the length of the context; yields the URL it is to notify."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        worker = threading.Thread(target=self._work, name="switch")
        listener = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        worker.start()
        listener.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            server.server_close()
            self._told.put(None)
            worker.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        told = self._told

        class Notified(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.put(State.of(json.loads(body)))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Notified

    def _work(self) -> None:
        """Do what is told, one thing after another; a machine belongs to this thread."""
        state = self._told.get()
        while state is not None:
            state = self._run(state) if state.on else self._told.get()

    def _run(self, state: State) -> State | None:
        """Keep the machine on until it is told off or goes off by itself; returns what is next."""
        self.boots.append(state)
        try:
            with self.power_on(state) as vm:
                self._now, self.running = vm, self.running + 1
                news: State | None = state
                while news is not None and news.on and vm.running:
                    vm.check()
                    with contextlib.suppress(queue.Empty):
                        news = self._told.get(timeout=0.5)
                by_itself = not vm.running
                if vm.running:
                    vm.quit()
        except EmulationFlakeError:
            return state  # switched on once more, as an operator would
        except RigError as error:
            self.trouble.append(error)
            by_itself, news = True, state
        if not by_itself:
            return news
        self.went_off()
        while news is not None and news.on:
            news = self._told.get()
        return news
