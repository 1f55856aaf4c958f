"""Make the kernel command line of the installed system: how to find / and what opens it.

Everything host-specific is on it and not in the initrd, so that an image's generic initrd serves
every host (dracut.cmdline(7), systemd-cryptsetup-generator(8), kernel-command-line(7)).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

from agent.layout.model import Layout, Role
from agent.target import crypttab

# dracut forces a one-legged array after two thirds of this, by default only after the 90 s in which
# systemd gives up on the disk, and gives up altogether after all of it. It counts rounds of half a
# second and more, not seconds, and stops counting while a passphrase is asked for
# (dracut-initqueue). Long enough for a controller that is slow to show its disks.
GIVE_UP_AFTER = 60
# What the encrypted volume lies on may take longer than systemd's 90 s, and there is no second try.
DEVICE_TIMEOUT = 600  # seconds


def kernel_options(
    root: Iterable[str], machine_id: UUID, network: Sequence[str], extra: Sequence[str]
) -> tuple[str, ...]:
    """Return the options in their order; the plan's own (`extra`) come last, where they win.

    `root` is how the family's initrd finds /; `network` how it reaches Tang, empty where nothing
    in the initrd needs it.
    `fips=1` is among `extra` where the plan asks for it and the image can (`agent.target.fips`).
    """
    return (*root, *network, f"systemd.machine_id={machine_id.hex}", *extra)


def root_options(layout: Layout) -> Iterator[str]:
    """Yield how dracut's initrd finds / and opens what lies on the way."""
    yield f"root={layout.root.device}"
    yield "ro"
    # fstab names every mount; without this the ESP of a single disk would appear at /efi as well,
    # and a swap partition on any disk would be used (systemd-gpt-auto-generator(8)).
    yield "systemd.gpt_auto=0"
    if layout.luks is not None:
        yield f"rd.luks.name={layout.luks.uuid}={layout.luks.mapping}"
        options = (*crypttab.options_of(layout), f"x-systemd.device-timeout={DEVICE_TIMEOUT}s")
        yield f"rd.luks.options={','.join(options)}"
    if layout.mirrored:
        yield f"rd.md.uuid={layout.array(Role.ROOT).mdadm_uuid}"
        yield f"rd.retry={GIVE_UP_AFTER}"
    # The whole group, not / alone: what the initrd has activated need not wait for udev's own
    # activation later, which a slow machine may not reach in the time systemd gives a device.
    yield f"rd.lvm.vg={layout.group.name}"
