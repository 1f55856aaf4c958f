"""A libvirt of one's own: libvirtd in namespaces, started for a test and gone with it.

What it takes for /etc/libvirt, /var/lib/libvirt and /run are directories below the rig's, so a
libvirt that this machine has is neither used nor noticed. It is in a process namespace of its own:
however the rig ends, the kernel ends libvirtd, its emulators and their TPMs. Needs root.

Tried with Debian 12's libvirt 9.0, which `make boot` installs.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

from qemu import accel, firmware
from qemu.disk import MiB
from qemu.errors import RigError
from qemu.hardware import Disk, Hardware
from qemu.program import find, run
from qemu.redfish import Driver

PACKAGES = "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt"
POOL = "media"
"""The storage pool that images are uploaded to."""
_PRIVATE = (
    "etc/libvirt",
    "var/cache/libvirt",
    "var/lib/libvirt",
    "var/lib/swtpm-localca",
    "var/log/libvirt",
    "var/log/swtpm",
)
# The shell is process 1 in there: `wait` also reaps the emulators, which libvirtd lets go of.
_INSIDE = """
set -eu
own=$1; shift
for place; do mkdir -p "/$place"; mount --bind "$own/$place" "/$place"; done
for file in passwd group; do mount --bind "$own/etc/$file" "/etc/$file"; done
mount -t tmpfs -o mode=755 tmpfs /run
LIBVIRT_DRIVER_DIR=$own/drivers libvirtd --config "$own/libvirtd.conf" &
wait $!
"""
_ACCOUNT = "libvirt-qemu"
# No security module, no cgroups, no daemon for logs: containers have none of them.
_QEMU_CONF = """\
user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
"""


@dataclass(frozen=True)
class Libvirt:
    """A libvirtd that runs; made by `libvirt`."""

    directory: Path
    uri: str

    def virsh(self, *words: str | Path, timeout: float = 120) -> str:
        """Return what virsh prints; RigError with its words where it fails."""
        return run("virsh", "--quiet", "--connect", self.uri, *words, timeout=timeout).decode()

    def define(self, hardware: Hardware, name: str) -> Path:
        """Make a domain of a machine's disks; returns the file that its console is written to.

        Firmware variables and TPM are libvirt's, as new as the domain; they outlive power-ons.
        """
        console = self.directory / f"{name}.console"
        console.touch()
        file = self.directory / f"{name}.xml"
        file.write_text(_domain(hardware, name, console, self.directory / f"{name}.fd"))
        self.virsh("define", "--validate", file)
        return console

    def is_on(self, name: str) -> bool:
        return self.virsh("domstate", name).strip() != "shut off"

    def cut(self, name: str) -> None:
        """Cut a domain's power."""
        if self.is_on(name):
            self.virsh("destroy", name)

    def definition(self, name: str) -> str:
        """Return the domain's XML, as it will be at its next power-on."""
        return self.virsh("dumpxml", "--inactive", name)

    def driver(self) -> Driver:
        """Return what makes these domains the machines of sushy-emulator."""
        here = firmware.find()
        options = {
            "SUSHY_EMULATOR_LIBVIRT_URI": self.uri,
            "SUSHY_EMULATOR_STORAGE_POOL": POOL,
            "SUSHY_EMULATOR_BOOT_LOADER_MAP": {
                "UEFI": {"x86_64": str(here.code)},
                "Legacy": {"x86_64": None},
            },
            "SUSHY_EMULATOR_SECURE_BOOT_DISABLED_NVRAM": str(here.template),
        }
        return Driver(options, self._modules())

    def _modules(self) -> Path:
        """Return a directory with Debian's Python module for libvirt, and nothing else of Debian's.

        It is made for the interpreter that the virtual environment stands on.
        """
        place = self.directory / "python"
        place.mkdir(exist_ok=True)
        found = [
            each
            for pattern in ("libvirt.py", "libvirtmod.*.so")
            for each in Path("/usr/lib/python3/dist-packages").glob(pattern)
        ]
        if len(found) < 2:
            raise RigError(f"python3-libvirt: not installed; {_hint()}")
        for each in found:
            link = place / each.name
            link.unlink(missing_ok=True)
            link.symlink_to(each)
        return place


def _hint() -> str:
    return f"run qemu/install-deps {PACKAGES}"


@contextmanager
def libvirt(directory: Path) -> Iterator[Libvirt]:
    """Run a libvirtd for the length of the context; RigError if it does not start.

    Every domain that still runs at the end is cut off.
    """
    for place in (*_PRIVATE, POOL):
        (directory / place).mkdir(parents=True, exist_ok=True)
    (directory / "etc/libvirt/qemu.conf").write_text(_QEMU_CONF)
    _accounts(directory / "etc")
    _drivers(directory / "drivers")
    # Not below `directory`: the path of a socket has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="bedplate-libvirt-") as sockets:
        made = Libvirt(directory, f"qemu+unix:///system?socket={sockets}/libvirt-sock")
        (directory / "libvirtd.conf").write_text(
            f'unix_sock_dir = "{sockets}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
        )
        process = _start(directory)
        try:
            _wait(made, process)
            made.virsh("pool-create-as", POOL, "dir", "--target", directory / POOL)
            yield made
            for name in made.virsh("list", "--name").split():
                made.cut(name)
        finally:
            process.kill()
            process.wait()


def _accounts(etc: Path) -> None:
    """Write passwd and group with the account that libvirt's QEMU driver will not start without.

    Debian makes it in libvirt-daemon-system, which would start services too.
    """
    for name, entry in (
        ("passwd", f"{_ACCOUNT}:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n"),
        ("group", f"{_ACCOUNT}:x:64055:\n"),
    ):
        there = Path("/etc", name).read_text()
        known = any(line.startswith(f"{_ACCOUNT}:") for line in there.splitlines())
        (etc / name).write_text(there if known else there + entry)


def _drivers(directory: Path) -> None:
    """Choose what libvirtd loads; its network driver would look after this machine's firewall."""
    directory.mkdir(exist_ok=True)
    for kind in ("storage", "qemu"):
        found = sorted(
            Path("/usr/lib").glob(f"*/libvirt/connection-driver/libvirt_driver_{kind}.so")
        )
        if not found:
            raise RigError(f"libvirt: has no driver for {kind}; {_hint()}")
        link = directory / found[0].name
        link.unlink(missing_ok=True)
        link.symlink_to(found[0])


def _start(directory: Path) -> subprocess.Popen[bytes]:
    for program in ("libvirtd", "virsh"):
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            raise RigError(f"{program}: not installed; {_hint()}")
    # KILL, and not TERM as elsewhere: unshare waits for its child, and only its own end ends that.
    argv = [
        find("setpriv"), "--pdeathsig", "KILL", "--",
        find("unshare"), "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        "/bin/sh", "-c", _INSIDE, "libvirt", str(directory.resolve()), *_PRIVATE,
    ]  # fmt: skip
    with (directory / "libvirtd.log").open("wb") as words:
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
        )


def _wait(made: Libvirt, process: subprocess.Popen[bytes], timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            made.virsh("list")
            return
        except RigError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (made.directory / "libvirtd.log").read_text(errors="replace")
                raise RigError(f"libvirtd did not start: {log[-2000:]}") from error
        time.sleep(0.2)


# -- the domain ------------------------------------------------------------------------------------


def _domain(hardware: Hardware, name: str, console: Path, variables: Path) -> str:
    """Return libvirt's XML for a machine of the rig (https://libvirt.org/formatdomain.html).

    It starts from its disks; an emulated BMC changes that, and adds a CD.
    """
    chassis, ovmf = hardware.chassis, firmware.find()
    kind = "kvm" if accel.options() == accel.KVM else "qemu"
    who = chassis.identity
    about = "".join(
        f"<entry name='{key}'>{escape(text)}</entry>"
        for key, text in (
            ("manufacturer", who.manufacturer),
            ("product", who.product),
            ("serial", who.serial),
            ("uuid", who.uuid),
        )
    )
    disks = "\n".join(_disk(hardware, disk, index) for index, disk in enumerate(chassis.disks))
    return f"""\
<domain type='{kind}'>
  <name>{escape(name)}</name>
  <uuid>{who.uuid}</uuid>
  <memory unit='MiB'>{chassis.memory // MiB}</memory>
  <vcpu>{chassis.cpus}</vcpu>
  <sysinfo type='smbios'><system>{about}</system></sysinfo>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <loader readonly='yes' secure='no' type='pflash'>{escape(str(ovmf.code))}</loader>
    <nvram template='{escape(str(ovmf.template))}'>{escape(str(variables))}</nvram>
    <boot dev='hd'/>
    <smbios mode='sysinfo'/>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <devices>
    <emulator>{find("qemu-system-x86_64")}</emulator>
{disks}
    <interface type='user'><mac address='{chassis.mac}'/><model type='virtio'/></interface>
    <serial type='file'><source path='{escape(str(console))}' append='on'/></serial>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    {_TPM if chassis.tpm else ""}
    <controller type='usb' model='none'/>
    <video><model type='none'/></video>
    <memballoon model='none'/>
  </devices>
</domain>
"""


# One PCR bank: firmware measures the live image into each of them.
_TPM = """<tpm model='tpm-crb'><backend type='emulator' version='2.0'>
      <active_pcr_banks><sha256/></active_pcr_banks></backend></tpm>"""


def _disk(hardware: Hardware, disk: Disk, index: int) -> str:
    bus = {"virtio": "virtio", "sata": "sata", "scsi": "scsi"}.get(disk.bus)
    if bus is None:
        raise RigError(f"{disk.name}: libvirt emulates no disk on {disk.bus}")
    letter = chr(ord("a") + index)
    target = f"{'vd' if bus == 'virtio' else 'sd'}{letter}"
    file = escape(str(hardware.disk(disk.name).resolve()))
    # A new mirror is synchronised by writing zeroes, 30 GB of them; they shall take no room here.
    return f"""\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='unsafe' discard='unmap' detect_zeroes='unmap'/>
      <source file='{file}'/>
      <target dev='{target}' bus='{bus}'/>
      <serial>{escape(disk.serial or disk.name)}</serial>
    </disk>"""
