"""blivet's classes for arrays and LUKS, taught to keep the names and UUIDs that were chosen.

Written against blivet 3.14.2. Each override says what blivet does by itself, because that is what
has to be looked at again when the version changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blivet import blockdev, udev
from blivet.devices import LVMLogicalVolumeDevice, MDRaidArrayDevice
from blivet.devices.storage import StorageDevice
from blivet.errors import MDRaidError
from blivet.formats import DeviceFormat, get_format
from blivet.formats.fs import FATFS, XFS, Ext4FS
from blivet.formats.luks import LUKS, LUKS2PBKDFArgs

from agent.adapters.command import Run
from agent.keyslots import INSTALL, METADATA_SIZE
from agent.layout.model import Array, FileSystem, Luks
from agent.secret import Secret


class ChosenArray(MDRaidArrayDevice):  # type: ignore[misc]  # blivet is untyped
    """An array with the name, level, UUID, size and bitmap of the layout."""

    def __init__(self, array: Array, members: list[Any], *, clean: bool) -> None:
        super().__init__(
            array.name,
            level=array.level,
            member_devices=len(members),
            total_devices=len(members),
            metadata_version=array.metadata,
            parents=members,
        )
        self._array = array
        self._clean = clean

    def _create(self) -> None:
        """Create it as mdadm(8) is told to here.

        blivet lets mdadm choose the UUID and the size, puts a bitmap on every redundant array, and
        leaves the host's name in front of the array's, which then shows as /dev/md/host:root.
        With --homehost=any that is the wild card `any`, which every host takes for its own.
        """
        array = self._array
        extra = [
            blockdev.ExtraArg.new("--homehost=any", ""),
            blockdev.ExtraArg.new(f"--name={array.name}", ""),
            blockdev.ExtraArg.new(f"--uuid={array.mdadm_uuid}", ""),
            blockdev.ExtraArg.new(f"--size={array.component // 1024}", ""),
        ]
        if self._clean:
            extra.append(blockdev.ExtraArg.new("--assume-clean", ""))
        try:
            blockdev.md.create(
                self.path,
                str(self.level),
                [member.path for member in self.members],
                0,
                version=array.metadata,
                bitmap="internal" if array.bitmap else "none",
                chunk_size=0,
                extra=extra,
            )
        except blockdev.MDRaidError as error:
            raise MDRaidError(error) from error
        if not self._clean:
            # At once: what follows would compete with the resync for the disks.
            md = Path("/sys/class/block") / Path(self.path).resolve().name
            (md / "md/sync_action").write_text("frozen")
        udev.settle()

    def _post_create(self) -> None:
        """Take note of the array.

        blivet sleeps 5 s here for stale volume groups to appear; the adapter has erased both ends
        of the members before and of the array after, and nothing is activated by itself.
        """
        self.exists = True
        self.update_sysfs_path()
        StorageDevice._post_create(self)
        self.uuid = str(self._array.uuid)
        for member in self.members:
            member.format.md_uuid = self.uuid


class ChosenLuks(LUKS):  # type: ignore[misc]  # blivet is untyped
    """A LUKS2 format with the UUID, label and mapping name of the layout."""

    def __init__(self, luks: Luks, key: Secret, run: Run) -> None:
        super().__init__(
            name=luks.mapping,
            label=luks.label,
            luks_version="luks2",
            cipher=luks.cipher,
            key_size=luks.key_size,
            pbkdf_args=LUKS2PBKDFArgs(type="pbkdf2", iterations=luks.iterations),
        )
        # Not as an argument: blivet logs the arguments of constructors when it debugs.
        self.contexts.add_passphrase(key.text)
        self._luks = luks
        self._key = key
        self._run = run

    def _pre_create(self, **kwargs: Any) -> None:
        """Keep the mapping's name; blivet forgets it here and calls it luks-UUID."""
        super()._pre_create(**kwargs)
        self.map_name = self._luks.mapping

    def _create(self, **kwargs: Any) -> None:
        """Format with cryptsetup: libblockdev has no field for the UUID or the header's size.

        The header must hold two Clevis bindings at once, see `agent.keyslots.METADATA_SIZE`.
        """
        DeviceFormat._create(self, **kwargs)
        luks = self._luks
        self._run(
            "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
            "--uuid", str(luks.uuid), "--label", luks.label,
            "--cipher", luks.cipher, "--key-size", str(luks.key_size), "--hash", "sha256",
            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(luks.iterations),
            "--luks2-metadata-size", f"{METADATA_SIZE // 1024}k",
            "--key-slot", str(INSTALL), "--key-file", "-", self.device,
            secret=self._key, timeout=300,
        )  # fmt: skip


class ChosenVolume(LVMLogicalVolumeDevice):  # type: ignore[misc]  # blivet is untyped
    """A linear logical volume that has its size or does not come to be.

    blivet asks the volume group first, and where that is too small it makes the volume smaller.
    """

    def _pre_create(self) -> None:
        StorageDevice._pre_create(self)


class _LabelledAtOnce:
    """Makes blivet give the label to mkfs, and not to a second program after udev has looked."""

    def relabels(self) -> bool:
        return False


class ChosenXfs(_LabelledAtOnce, XFS):  # type: ignore[misc]  # blivet is untyped
    pass


class ChosenExt4(_LabelledAtOnce, Ext4FS):  # type: ignore[misc]
    pass


class ChosenFat(_LabelledAtOnce, FATFS):  # type: ignore[misc]
    pass


OLDER_READERS = {
    # e2fsck before 1.47 (RHEL 9, Ubuntu 22.04) refuses the one, GRUB before 2.12 the other.
    "ext4": "-O ^orphan_file,^metadata_csum_seed",
    # Linux before 5.19 does not mount it (xfs(5), nrext64).
    "xfs": "-i nrext64=0",
}
"""Features that the live system's mkfs would switch on and installed systems cannot read."""


def new_filesystem(filesystem: FileSystem) -> Any:
    """Return blivet's format for a file system with the UUID and label of the layout."""
    chosen = {
        "device": str(filesystem.device), "label": filesystem.label, "uuid": filesystem.uuid,
    }  # fmt: skip
    if filesystem.kind == "vfat":
        # FAT32 whatever the size: firmware need not read FAT16 on a fixed disk (UEFI 2.10 §13.3.1).
        return ChosenFat(create_options="-F 32", **chosen)
    kind = {"xfs": ChosenXfs, "ext4": ChosenExt4}[filesystem.kind]
    # The disks were discarded as a whole; once more for each volume only costs time.
    return kind(nodiscard=True, create_options=OLDER_READERS[filesystem.kind], **chosen)


def array_member(path: str) -> Any:
    """Return the format of a partition that is about to join an array.

    As already existing, because creating it means nothing on disk but makes blivet write the
    partition table again, through parted.
    """
    return get_format("mdmember", device=path, exists=True)
