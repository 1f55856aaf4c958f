"""Hold disks open while they are erased, and make sure that each is the one that was chosen.

A kernel name is only as good as the moment: between the choice and the first write a disk may have
been pulled and another have taken its name. As long as a descriptor is open the kernel gives the
device's name and number to no other, so what is verified on the descriptor holds for every program
that is then given the name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyudev

from agent.adapters.disks import Properties, identity
from agent.adapters.storage.stack import Kernel
from agent.errors import StepError
from agent.inventory.identity import Identity, differences
from agent.inventory.model import Disk


def properties_of(number: int) -> Properties:
    """Return udev's properties of a block device by its number, as st_rdev has it."""
    try:
        device = pyudev.Devices.from_device_number(pyudev.Context(), "block", number)
    except pyudev.DeviceNotFoundError as error:
        raise StepError(f"{os.major(number)}:{os.minor(number)}: is gone") from error
    return dict(device.properties)


def identity_of(number: int, kernel: Kernel, properties: Properties) -> Identity:
    """Return (serial, WWN, size) of the block device with this number, by sysfs (sysfs(5))."""
    name = kernel.by_number(number)
    if name is None:
        raise StepError(f"{os.major(number)}:{os.minor(number)}: is gone")
    return identity(name, kernel, properties)


@contextmanager
def held(
    disks: Sequence[Disk],
    kernel: Kernel,
    look: Callable[[int], Properties] = properties_of,
) -> Iterator[None]:
    """Open every disk and verify it on its descriptor; raise `StepError` before anything is done.

    Opened for reading only: closing a descriptor for writing would make udev look at the disk.
    """
    with ExitStack() as stack:
        for disk in disks:
            number = _device_number(stack.enter_context(_opened(disk.path)), disk.path)
            found = identity_of(number, kernel, look(number))
            if changed := "; ".join(differences(disk, found)):
                raise StepError(f"{disk.path}: is not the disk that was chosen: {changed}")
        yield


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        descriptor = os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise StepError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _device_number(descriptor: int, path: str) -> int:
    status = os.fstat(descriptor)
    if not stat.S_ISBLK(status.st_mode):
        raise StepError(f"{path}: is not a block device")
    return status.st_rdev
