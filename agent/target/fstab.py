"""Make /etc/fstab from the layout, readable by `findmnt --verify` and by an auditor's scanner.

Sources are `/dev/mapper/…` and `UUID=…`: the fstab half of the STIG mount-option rules looks at no
other kind of line (ComplianceAsCode, template mount_option).
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.layout.model import FileSystem, Layout
from agent.target.crypttab import DATA_TIMEOUT

# A degraded /boot is forced by mdadm-last-resort@.timer 30 s after udev saw the first leg; the rest
# is for slow controllers. nofail: boot does not wait, the second column only ends the job.
BOOT_TIMEOUT = 120  # seconds
# The machine cannot do without its volumes: systemd's 90 s would drop it into an emergency shell
# that nobody can log in to, when all it needed was patience.
VOLUME_TIMEOUT = 300  # seconds
# An ESP is a plain partition: where its disk is gone nothing will bring it.
ESP_TIMEOUT = 60  # seconds

HEADER = "# Written by Bedplate at installation. <source> <mount> <type> <options> <dump> <pass>\n"


def fstab(layout: Layout) -> str:
    """Return the text of /etc/fstab: file systems in mount order, swap, then the tmpfs lines."""
    lines = [_line(fs, options_of(fs, layout)) for fs in layout.formatted]
    lines += [_line(fs, ("rw", *_without(fs.options, "rw"))) for fs in layout.memory]
    return HEADER + "".join(lines)


def options_of(filesystem: FileSystem, layout: Layout) -> tuple[str, ...]:
    """Return the options of a disk file system as fstab carries them, never empty.

    To those of the layout come what the machine needs to boot with one disk, and privacy of the
    ESP, whose random seed only root may read (bootctl(1)).
    """
    options = list(filesystem.options)
    if filesystem in layout.esps:
        if not any(option.startswith(("umask=", "fmask=", "dmask=")) for option in options):
            options.append("umask=0077")
        options += _may_be_missing(options, ESP_TIMEOUT)
    elif filesystem == layout.boot:
        options += _may_be_missing(options, BOOT_TIMEOUT)
    elif filesystem in layout.on_data:
        # Of an encrypted one the network is needed to open it, so it goes before the network does.
        network = ["_netdev"] if layout.luks is not None and "_netdev" not in options else []
        options += [*network, *_may_be_missing(options, DATA_TIMEOUT)]
    elif filesystem.mount != "/":
        options += _timeout(options, VOLUME_TIMEOUT)
    return tuple(options) or ("defaults",)


def _may_be_missing(options: Sequence[str], timeout: int) -> list[str]:
    return [*([] if "nofail" in options else ["nofail"]), *_timeout(options, timeout)]


def _timeout(options: Sequence[str], timeout: int) -> list[str]:
    if any(option.startswith("x-systemd.device-timeout=") for option in options):
        return []
    return [f"x-systemd.device-timeout={timeout}s"]


def _line(filesystem: FileSystem, options: tuple[str, ...]) -> str:
    fields = (
        filesystem.source,
        _escaped(filesystem.mount),
        filesystem.kind,
        ",".join(options),
        "0",
        str(filesystem.passno),
    )
    return " ".join(fields) + "\n"


def _without(options: tuple[str, ...], known: str) -> tuple[str, ...]:
    return tuple(option for option in options if option != known)


def _escaped(mount: str) -> str:
    r"""Write blanks and backslashes of a mount point in octal: `\040` (fstab(5))."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in mount)
