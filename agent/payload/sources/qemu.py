"""A qcow2 or vmdk image as a disk, by qemu-nbd: no temporary raw copy, no root, no kernel module.

Such an image may name other files: a backing file, extents, a data file. Whoever made the image
would then choose what is read on this machine, so an image that names any is refused before qemu
sees it.

Sources: docs/interop/qcow2.txt of QEMU; VMware's "Virtual Disk Format 5.0".
"""

from __future__ import annotations

import json
import os
import re
import select
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

from agent.errors import CommandError
from agent.payload.sources.disk import Extent
from agent.payload.sources.nbd import NbdClient
from agent.payload.sources.ports import Reading, refused, run_for

Format = Literal["qcow2", "vmdk"]

_PATIENCE = 30.0
"""Seconds in which the server must listen, and answer each request."""
_SECTOR = 512
_DATA_FILE = 1 << 2
"""Of qcow2's incompatible features: the content is in another file."""
_LEAKS = "exited with status 3"
"""Of `qemu-img check`: clusters that nobody uses, as a machine leaves them that lost its power."""
_HEADER = 104
"""Bytes of qcow2's header that are looked at; a vmdk's is longer."""
_FIELD = re.compile(rb'^\s*(\w+)\s*=\s*"?([^"\n\r]*)', re.MULTILINE)
_KINDS = {"monolithicSparse", "streamOptimized"}
_LARGEST_DESCRIPTION = 1 << 20


class QemuDisk:
    """A disk that qemu-nbd serves, and the map of what it holds."""

    def __init__(self, name: str, client: NbdClient, extents: tuple[Extent, ...]) -> None:
        self.name, self._client, self._extents = name, client, extents
        self.size = client.size

    def extents(self) -> Iterable[Extent]:
        return self._extents

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._client.read_into(offset, buffer)


@contextmanager
def qemu_disk(path: Path, format: Format, reading: Reading) -> Iterator[QemuDisk]:
    """Open the disk in a qcow2 or vmdk file.

    Raises `PlanError` if it names other files, is encrypted, or qemu cannot read it.
    """
    name = str(path)
    self_contained(path, format)
    node = node_of(path, format)
    with (
        run_for(name),
        tempfile.TemporaryDirectory(prefix=f"bedplate-source-{os.getpid()}-") as made,
    ):
        _check(node, reading)
        with reading("qemu-img", "map", "--output=json", f"json:{node}") as out:
            extents = tuple(_data(json.loads(out.read())))
        place = Path(made) / "nbd"
        # It ends with the first connection.
        argv = ("qemu-nbd", "--read-only", f"--socket={place}", f"json:{node}")
        with reading(*argv) as server, closing(_connected(place, server, name)) as client:
            yield QemuDisk(name, client, extents)


def _check(node: str, reading: Reading) -> None:
    """Have qemu follow all its tables: what is missing at the end of a file reads as zeros."""
    try:
        with reading("qemu-img", "check", "-q", f"json:{node}") as out:
            out.read()
    except CommandError as error:
        if error.what != _LEAKS:
            raise


def node_of(path: Path, format: Format, node_name: str = "") -> str:
    """Return how qemu is told to open an image read-only, and nothing besides it, as JSON."""
    file = {"driver": "file", "filename": str(path.absolute()), "read-only": True}
    node = {"driver": format, "read-only": True, "backing": None, "file": file}
    return json.dumps(node | {"node-name": node_name} if node_name else node)


def self_contained(path: Path, format: Format) -> None:
    """Raise `PlanError` if the image names other files or is encrypted."""
    with path.open("rb") as file:
        head = file.read(_HEADER)
        if format == "qcow2":
            _check_qcow2(head, str(path))
        else:
            _check_vmdk(head, file, str(path))


def _check_qcow2(head: bytes, name: str) -> None:
    if len(head) < _HEADER:
        raise refused(name, "ends in the middle of its qcow2 header")
    version, backing = struct.unpack_from(">IQ", head, 4)
    (encryption,) = struct.unpack_from(">I", head, 32)
    (features,) = struct.unpack_from(">Q", head, 72) if version >= 3 else (0,)
    if backing:
        message = "has a backing file, which could be any file of this machine"
        raise refused(name, f"{message}: make one image of both with qemu-img convert")
    if encryption:
        raise refused(name, "is encrypted by qemu, which is not taken")
    if features & _DATA_FILE:
        message = "has its content in another file, which could be any file of this machine"
        raise refused(name, f"{message}: make one image of both with qemu-img convert")


def _check_vmdk(head: bytes, file: BinaryIO, name: str) -> None:
    if len(head) < _HEADER:
        raise refused(name, "ends in the middle of its vmdk header")
    capacity, _, at, size = struct.unpack_from("<QQQQ", head, 12)
    description = b""
    if 0 < at < _LARGEST_DESCRIPTION and size * _SECTOR <= _LARGEST_DESCRIPTION:
        file.seek(at * _SECTOR)
        description = file.read(size * _SECTOR)
    fields = dict(_FIELD.findall(description.partition(b"\0")[0]))
    kind = fields.get(b"createType", b"").decode(errors="replace")
    # Without a capacity in the header qemu believes the description, and opens what it names.
    if not capacity or kind not in _KINDS:
        kinds = " and ".join(sorted(_KINDS))
        message = f"is a vmdk of type {kind or 'unknown'}, only {kinds} hold all in one file"
        raise refused(name, f"{message}: use qemu-img convert")
    parent = fields.get(b"parentCID", b"ffffffff").lower()
    if parent != b"ffffffff" or b"parentFileNameHint" in fields:
        message = "has a parent, which could be any file of this machine"
        raise refused(name, f"{message}: make one image of both with qemu-img convert")


def _data(entries: list[dict[str, Any]]) -> Iterator[Extent]:
    """Take the map of `qemu-img map`: what is stored and is not known to be zero."""
    for entry in entries:
        if entry["data"] and not entry["zero"]:
            yield int(entry["start"]), int(entry["length"])


def _connected(place: Path, server: IO[bytes], name: str) -> NbdClient:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            return NbdClient(place, _PATIENCE)
        except (FileNotFoundError, ConnectionRefusedError):
            pass  # it does not listen yet
        except OSError as error:
            raise refused(name, f"qemu-nbd cannot be asked: {error.strerror or error}") from None
        if select.select([server], [], [], 0.02)[0]:
            server.read(1)  # it ended, and this says why
    raise refused(name, f"qemu-nbd did not listen in {_PATIENCE:g} s")
