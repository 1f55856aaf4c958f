"""Make small initrds: newc archives, plain or compressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GENERIC = (
    "usr/sbin/lvm",
    "usr/sbin/mdadm",
    "usr/lib/systemd/systemd-cryptsetup",
    "usr/lib/systemd/systemd-networkd",
    "usr/libexec/clevis-luks-askpass",
    "usr/bin/clevis-decrypt-sss",
    "usr/bin/clevis-decrypt-tang",
    "usr/bin/clevis-decrypt-tpm2",
    "usr/bin/tpm2_unseal",
    "usr/lib/modules/6.12.1-amd64/kernel/fs/xfs/xfs.ko.xz",
    "usr/lib/modules/6.12.1-amd64/kernel/drivers/md/raid1.ko.xz",
    "usr/lib/modules/6.12.1-amd64/kernel/drivers/md/dm-crypt.ko.zst",
    "usr/lib/modules/6.12.1-amd64/kernel/drivers/md/dm-mod.ko",
)


def newc(files: Sequence[str] | Mapping[str, bytes], *, padded_names: bool = False) -> bytes:
    """Return one archive in the newc format, as cpio(1) or dracut-cpio writes it."""
    contents = files if isinstance(files, Mapping) else {name: name.encode() for name in files}
    out = bytearray()
    for name, content in {**contents, "TRAILER!!!": b""}.items():
        field = name.encode() + b"\0"
        if padded_names and content:
            field += b"\0" * (-(len(out) + 110 + len(field)) % 64)
        numbers = (1, 0o100644, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(field), 0)
        out += b"070701" + b"".join(b"%08X" % number for number in numbers) + field
        out += b"\0" * (-len(out) % 4)
        out += content + b"\0" * (-len(content) % 4)
    return bytes(out) + b"\0" * (-len(out) % 512)
