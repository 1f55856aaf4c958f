"""Open a tap of a network namespace for QEMU, which runs outside of it.

    tap_helper.py NAMESPACE TAP --fd=N …    as QEMU's `-netdev tap,helper=` calls it

The open tap goes to QEMU over the socket N (SCM_RIGHTS), as qemu-bridge-helper does it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CLONE_NEWNET = 0x40000000


def main() -> None:
    namespace, tap = sys.argv[1:3]
    (number,) = (word[len("--fd=") :] for word in sys.argv[3:] if word.startswith("--fd="))
    inside = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(inside, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", tap.encode(), IFF_TAP | IFF_NO_PI))
    with socket.socket(fileno=int(number)) as qemu:
        socket.send_fds(qemu, [b"\0"], [device])


main()
