"""What a machine boots from the network: a segment with its own DHCP, and files to serve.

    segment    a network namespace with a tap: dnsmasq, and what else is run inside it
    unpacked   programs of Debian's, fetched and unpacked, not installed

The namespace keeps the DHCP server off every network of the host; needs root. QEMU stays outside:
`tap_helper` goes in, opens the tap and hands it over (QEMU's protocol for bridge helpers).
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from qemu.errors import RigError
from qemu.program import end, find, mortal, repository, run

TAP = "tap0"
PREFIX = "bedplate-"
HERE4, HERE6 = "192.168.77.1", "fd00:77::1"
HELPER = Path(__file__).with_name("tap_helper.py")


@dataclass(frozen=True)
class Segment:
    """A network of one machine and the host's end of it; made by `segment`."""

    namespace: str
    directory: Path
    stack: ExitStack

    def options(self, mac: str, *, rom: str = "", boot: bool = True) -> tuple[str, ...]:
        """Return QEMU's options for a card on this segment."""
        command = shlex.join([sys.executable, str(HELPER), self.namespace, TAP])
        card = f"virtio-net-pci,netdev=segment,mac={mac},romfile={rom}"
        return (
            "-netdev", f"tap,id=segment,helper={command.replace(',', ',,')}",
            "-device", card + (",bootindex=0" if boot else ""),
        )  # fmt: skip

    def run(self, *argv: str) -> None:
        """Run a program inside to its end."""
        run("ip", "netns", "exec", self.namespace, *argv, timeout=30)

    def start(self, name: str, *argv: str) -> Path:
        """Start a program inside that ends with the segment; returns where its words go."""
        log = self.directory / f"{name}.log"
        with log.open("wb") as words:
            process = subprocess.Popen(
                mortal([find("ip"), "netns", "exec", self.namespace, *argv]),
                stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True,
            )  # fmt: skip
        self.stack.callback(end, process)
        time.sleep(0.2)
        if process.poll() is not None:
            raise RigError(f"{name}: did not start: {log.read_text(errors='replace')[-2000:]}")
        return log

    def dnsmasq(self, *lines: str) -> Path:
        """Give out addresses, and what the lines of dnsmasq's configuration say."""
        config = self.directory / "dnsmasq.conf"
        config.write_text(
            "\n".join(
                [
                    "port=0", f"interface={TAP}", "bind-interfaces", "log-dhcp", "user=root",
                    f"dhcp-leasefile={self.directory}/leases", "log-facility=-",
                    f"pid-file={self.directory}/dnsmasq.pid", *lines, "",
                ]
            )
        )  # fmt: skip
        return self.start(
            "dnsmasq", find("dnsmasq"), "--keep-in-foreground", f"--conf-file={config}"
        )

    def serve(self, directory: Path, address: str, plan_key: Path, port: int = 8080) -> str:
        """Run a deploy server inside; returns its URL."""
        shown = f"[{address}]" if ":" in address else address
        log = self.start(
            "serve", sys.executable, "-m", "agent", "serve", str(directory),
            "--listen", f"{shown}:{port}", "--plan-key", str(plan_key),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while "serves" not in log.read_text(errors="replace"):
            if time.monotonic() > deadline:
                raise RigError(f"the deploy server did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        return f"http://{shown}:{port}"


@contextmanager
def segment(directory: Path, *, four: bool = True, six: bool = False) -> Iterator[Segment]:
    """Make a segment for the length of the context, with addresses of the families asked for."""
    directory.mkdir(parents=True, exist_ok=True)
    _sweep()
    name = f"{PREFIX}{os.getpid()}"
    with ExitStack() as stack:
        run("ip", "netns", "add", name)
        stack.callback(run, "ip", "netns", "del", name)
        made = Segment(name, directory, stack)
        made.run("ip", "link", "set", "lo", "up")
        made.run("ip", "tuntap", "add", TAP, "mode", "tap")
        made.run("ip", "link", "set", TAP, "up")
        if four:
            made.run("ip", "address", "add", f"{HERE4}/24", "dev", TAP)
        if six:
            made.run("ip", "address", "add", f"{HERE6}/64", "dev", TAP, "nodad")
        yield made


def _sweep() -> None:
    """Remove what processes that were killed have left: namespaces outlive them."""
    for place in Path("/run/netns").glob(f"{PREFIX}*"):
        process = place.name.removeprefix(PREFIX)
        if process.isdigit() and not Path("/proc", process).exists():
            # dnsmasq changes its credentials, and with them loses the signal of `mortal`.
            for left in run("ip", "netns", "pids", place.name).split():
                os.kill(int(left), signal.SIGTERM)
            run("ip", "netns", "del", place.name)


def unpacked(packages: Sequence[str]) -> Path:
    """Return a directory with Debian packages unpacked, fetched by apt where they are missing."""
    place = repository() / "build/boot/debian"
    stamp = place / ".unpacked"
    if stamp.exists() and stamp.read_text().split() == list(packages):
        return place
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["apt-get", "download", "-q", *packages], cwd=place, capture_output=True, timeout=300
    )
    if done.returncode:
        raise RigError(f"apt-get download: {done.stderr.decode(errors='replace')[-500:]}")
    for package in packages:
        (newest,) = sorted(place.glob(f"{package}_*.deb"))[-1:]
        run("dpkg", "-x", newest, place)
    stamp.write_text(" ".join(packages))
    return place
