"""The ends of a disk image, which are written last: what a device needs to be started from.

Until `finish` both ends of the device are zero. The image's backup table is moved to the device's
end on the way, see `agent.payload.gpt`.
"""

from __future__ import annotations

import mmap

from agent.errors import ImageError, StepError
from agent.payload import gpt
from agent.payload.direct import ALIGNMENT, Device, pages
from agent.payload.manifest import Manifest
from agent.payload.stamp import UNDER_WAY, Stamp, place

MIB = 1 << 20
END = MIB
"""Bytes at either end of the image that are written last."""


class Ends:
    """The image's bytes before `first` and from `last` on, kept in memory. A context manager."""

    def __init__(self, manifest: Manifest, device: Device, stamp: Stamp | None) -> None:
        self._manifest, self._device, self._stamp = manifest, device, stamp
        size = manifest.size
        self.first = min(END, size)
        self.last = max(self.first, (size - END) // ALIGNMENT * ALIGNMENT)
        self._maps = [pages(2 * END) for _ in range(3)]
        self._head, self._tail, self._spare = (memoryview(found) for found in self._maps)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for view, found in zip((self._head, self._tail, self._spare), self._maps, strict=True):
            view.release()
            found.close()

    @property
    def head(self) -> bytes:
        """The image before `first`, once it was kept."""
        return bytes(self._head[: self.first])

    @property
    def tail(self) -> bytes:
        """The image from `last` on, once it was kept."""
        return bytes(self._tail[: self._manifest.size - self.last])

    def begin(self) -> None:
        """Take the device's table away, and say that it is ours and not complete."""
        self.wipe()
        if self._stamp is not None:
            self._put(place(self._device.size), UNDER_WAY.ljust(MIB, b"\0"))
        self._device.flush()
        self._maps[-1].madvise(mmap.MADV_DONTNEED)  # not needed again before all else is written

    def wipe(self) -> None:
        """Make both ends of the device zero, and have that on it."""
        self._put(self._device.size - END, bytes(END))
        self._put(0, bytes(END))
        self._device.flush()

    def keep(self, offset: int, content: memoryview) -> tuple[int, int]:
        """Keep what of some content is in an end; return where the rest begins and ends."""
        end = offset + len(content)
        if offset < self.first:
            upto = min(end, self.first)
            self._head[offset:upto] = content[: upto - offset]
        if end > self.last:
            begin = max(offset, self.last)
            self._tail[begin - self.last : end - self.last] = content[begin - offset :]
        return max(offset, self.first), min(end, self.last)

    def finish(self) -> int | None:
        """Write both, the first last of all, and read them back.

        Returns where the backup table is now, None for an image without one.
        """
        device, stamp, table = self._device, self._stamp, self._table()
        head, backup = self.head, []
        if table is not None:
            moved = table.moved(device.size, stamp.entry(device.size) if stamp else None)
            self._make_room(table, moved)
            head, backup = moved.head, [(moved.backup_at, moved.backup)]
        places = [(self.last, self.tail), *backup]
        if stamp is not None:
            places.append((place(device.size), stamp.page()))
        for at, content in places:
            self._put(at, content)
        device.flush()
        self._put(0, head)
        device.flush()
        for at, content in (*places, (0, head)):
            self._compare(at, content)
        return backup[0][0] if backup else None

    def _table(self) -> gpt.Table | None:
        """Return the image's table; only where a stamp must be entered is one needed."""
        name, sector = self._manifest.name, self._device.sector
        try:
            table = gpt.parse(self.head)
        except gpt.NoTable as error:
            if self._stamp is None:
                return None
            raise ImageError(f"image {name}: {error}") from error
        if table.sector != sector:
            raise ImageError(
                f"image {name}: its partition table counts sectors of {table.sector} bytes, those "
                f"of {self._device.path} have {sector}"
            )
        return table

    def _make_room(self, table: gpt.Table, moved: gpt.Moved) -> None:
        """Take the image's own backup table out of its end, where the moved one is not there too.

        A device that is hardly larger than the image has it where that end is.
        """
        if table.end > moved.backup_at:
            raise StepError(
                f"{self._device.path}: the last partition of {self._manifest.name} ends at byte "
                f"{table.end}, the backup of the table begins at {moved.backup_at}"
            )
        at = table.alternate - self.last
        if at >= 0 and bytes(self._tail[at : at + 8]) == gpt.SIGNATURE:
            self._tail[at : at + table.sector] = bytes(table.sector)
        at = moved.backup_at - self.last
        shared = moved.backup[: max(0, self._manifest.size - moved.backup_at)]
        self._tail[at : at + len(shared)] = shared

    def _put(self, at: int, content: bytes) -> None:
        """Write through pages of our own, filled up with zeros to a whole sector."""
        length = self._whole(content)
        self._spare[:length] = content.ljust(length, b"\0")
        with self._spare[:length] as view:
            self._device.write(at, view)

    def _compare(self, at: int, content: bytes) -> None:
        length = self._whole(content)
        for device in self._device.proven_by:
            with self._spare[:length] as view:
                device.read(at, view)
                if view[: len(content)] != content:
                    raise StepError(
                        f"{device.path}: reads back other bytes from {at} to "
                        f"{at + len(content) - 1} than were written there"
                    )

    def _whole(self, content: bytes) -> int:
        sector = self._device.sector
        return -(-len(content) // sector) * sector
