"""Choose the accelerator: KVM only where a guest was seen to run under it, else TCG.

Containers and CI machines often show a /dev/kvm that opens but runs nothing, or hangs. So the
processor must have the extension *and* a guest of nine bytes must finish.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from qemu.program import find

KVM = ("-accel", "kvm", "-cpu", "host")
TCG = ("-accel", "tcg,thread=multi", "-cpu", "max")

_ROM_SIZE = 64 * 1024
# At the reset vector (16 bytes below the end):  mov al, 0x2a;  out 0xf4, al;  hlt;  jmp to hlt
_RESET = bytes.fromhex("b02a e6f4 f4 ebfd")
_EXIT_STATUS = (0x2A << 1) | 1  # isa-debug-exit: (value << 1) | 1


@functools.cache
def options() -> tuple[str, ...]:
    """Return QEMU's options for the best accelerator that works here."""
    flags = Path("/proc/cpuinfo").read_text().split()
    if ("vmx" in flags or "svm" in flags) and runs(KVM):
        return KVM
    return TCG


def runs(accelerator: tuple[str, ...], timeout: float = 10) -> bool:
    """Run a guest that writes one byte to a debug port; true when QEMU saw the byte."""
    with tempfile.TemporaryDirectory(prefix="bedplate-") as scratch:
        rom = Path(scratch, "rom")
        rom.write_bytes((b"\xf4" * (_ROM_SIZE - 16) + _RESET).ljust(_ROM_SIZE, b"\xf4"))
        argv = [
            find("qemu-system-x86_64"), *accelerator, "-machine", "pc", "-m", "4",
            "-nodefaults", "-no-user-config", "-display", "none", "-bios", str(rom),
            "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04",
        ]  # fmt: skip
        try:
            done = subprocess.run(argv, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == _EXIT_STATUS
