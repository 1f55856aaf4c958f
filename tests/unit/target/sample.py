"""A layout and a tree to try things on: small, complete, and nothing in them is special."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from agent.inventory.model import Disk
from agent.layout.model import (
    TYPE_ESP,
    TYPE_RAID,
    Array,
    DiskLayout,
    FileSystem,
    Layout,
    Luks,
    Partition,
    Role,
    Volume,
    VolumeGroup,
)
from agent.target.tree import Tree

GIB = 1 << 30
MIB = 1 << 20
LUKS = UUID("11111111-1111-4111-8111-111111111111")
MACHINE_ID = UUID("22222222-2222-4222-8222-222222222222")
KERNEL = "6.12.1-amd64"
HARDENED = ("nodev", "nosuid", "noexec")


def uuid(number: int) -> UUID:
    return UUID(int=number)


def layout(
    *,
    disks: int = 2,
    encrypted: bool = True,
    rotational: bool = False,
    group: str = "vg0",
    mounts: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("/", ()),
        ("/tmp", HARDENED),
        ("/var/log/audit", HARDENED),
    ),
) -> Layout:
    placed = tuple(_disk(number, rotational) for number in range(1, disks + 1))
    arrays = _arrays(placed) if disks > 1 else ()
    below = Path("/dev/md/root") if arrays else placed[0].partition(Role.ROOT).path
    luks = Luks(below, LUKS, "bedplate-root", "bedplate-root") if encrypted else None
    boot_device = Path("/dev/md/boot") if arrays else placed[0].partition(Role.BOOT).path
    volumes = tuple(_volume(group, mount, options) for mount, options in mounts)
    return Layout(
        disks=placed,
        arrays=arrays,
        luks=luks,
        group=VolumeGroup(group, luks.path if luks else below, 8 * GIB, volumes),
        boot=FileSystem(
            boot_device,
            f"UUID={uuid(900)}",
            "/boot",
            "ext4",
            str(uuid(900)),
            "boot",
            ("nodev", "nosuid"),
            passno=2,
        ),
        esps=tuple(_esp(number, disk) for number, disk in enumerate(placed, start=1)),
        memory=(FileSystem(Path("tmpfs"), "tmpfs", "/dev/shm", "tmpfs", "", "", HARDENED),),
    )


def _disk(number: int, rotational: bool) -> DiskLayout:
    partitions = tuple(
        Partition(role, at, at * GIB, GIB, uuid(number * 100 + at), kind)
        for at, (role, kind) in enumerate(
            ((Role.ESP, TYPE_ESP), (Role.BOOT, TYPE_RAID), (Role.ROOT, TYPE_RAID)), start=1
        )
    )
    disk = Disk(
        path=f"/dev/vd{'ab'[number - 1]}",
        size=16 * GIB,
        serial=f"SN{number}",
        rotational=rotational,
    )
    return DiskLayout(disk, uuid(number * 100), partitions)


def _arrays(disks: tuple[DiskLayout, ...]) -> tuple[Array, ...]:
    def array(role: Role, number: int, metadata: str) -> Array:
        members = tuple(disk.partition(role).path for disk in disks)
        return Array(role, uuid(number), metadata, bitmap=False, members=members, size=GIB)

    return (array(Role.BOOT, 501, "1.0"), array(Role.ROOT, 502, "1.2"))


def _volume(group: str, mount: str, options: tuple[str, ...]) -> Volume:
    name = mount.strip("/").replace("/", "_") or "root"
    device = Path(f"/dev/mapper/{group.replace('-', '--')}-{name}")
    fs = FileSystem(device, str(device), mount, "xfs", str(uuid(700)), name[:12], options)
    return Volume(name, GIB, fs)


def _esp(number: int, disk: DiskLayout) -> FileSystem:
    volume_id = f"AAAA-000{number}"
    mount = "/boot/efi" if number == 1 else f"/boot/efi{number}"
    return FileSystem(
        disk.partition(Role.ESP).path,
        f"UUID={volume_id}",
        mount,
        "vfat",
        volume_id,
        f"ESP{number}",
        ("nodev", "nosuid"),
    )


DRACUT_MODULES = ("clevis", "clevis-pin-sss", "clevis-pin-tang", "clevis-pin-tpm2", "crypt", "lvm")
PROGRAMS = (
    "clevis",
    "clevis-decrypt-sss",
    "clevis-decrypt-tang",
    "clevis-decrypt-tpm2",
    "clevis-luks-bind",
    "cryptsetup",
    "dracut",
    "lvm",
    "mdadm",
    "tpm2_unseal",
)


def debian(root: Path, kernels: tuple[str, ...] = (KERNEL,)) -> Tree:
    """Make a Debian tree with all that a mirrored, encrypted machine needs; no initrd yet."""
    files = {
        "etc/os-release": 'ID=debian\nNAME="Debian GNU/Linux"\nVERSION_ID="13"\n'
        'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\n',
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "etc/mdadm/.keep": "",
        "usr/lib/systemd/systemd": "",
        "usr/lib/systemd/systemd-networkd": "",
        "usr/lib/systemd/systemd-resolved": "",
        "usr/lib/systemd/systemd-cryptsetup": "",
        "usr/lib/systemd/system/clevis-luks-askpass.path": "",
        "usr/lib/systemd/boot/efi/systemd-bootx64.efi": "MZ loader",
        "usr/lib/systemd/boot/efi/linuxx64.efi.stub": "MZ stub",
        "usr/lib/kernel/install.d/55-initrd.install": "",
        "boot/.keep": "",
    }
    files |= {f"usr/bin/{name}": "" for name in PROGRAMS}
    files |= {
        f"usr/lib/dracut/modules.d/60{name}/module-setup.sh": ""
        for name in (*DRACUT_MODULES, "mdraid", "network")
    }
    for version in kernels:
        files[f"boot/vmlinuz-{version}"] = f"kernel {version}"
        files[f"usr/lib/modules/{version}/modules.builtin"] = "kernel/drivers/md/dm-mod.ko\n"
    for path, text in files.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return Tree(root)
