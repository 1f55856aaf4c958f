"""A bootable container: surveyed before anything is erased, then streamed into the target.

Nothing is staged, so the layers are read twice, and what has no room in spare memory comes twice.
The first time they are verified and laid over each other by name only: what is left of each, and
what the whole contains (kernels, programs, room per volume). The second time every block is
verified before use, and what was left is passed on as one tar, each path once and no whiteouts.
"""

from __future__ import annotations

import platform
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Literal

from agent.errors import ImageError
from agent.oci.blob import Blob, Placed
from agent.oci.layer import PulledLayer, packing
from agent.oci.manifest import CONFIG, Descriptor, Document, ImageManifest
from agent.oci.patience import patiently
from agent.oci.repository import Repository
from agent.oci.spare import Spare
from agent.payload.client import Client
from agent.payload.contents import Tree
from agent.payload.manifest import Os, Payload
from agent.payload.options import FetchOptions
from agent.payload.sources.headers import END, Members
from agent.payload.sources.layers import Entry, Layer, Merge
from agent.payload.survey import Survey, wanted
from agent.payload.tar import BLOCK, Member, Type
from agent.reference import Reference

MOST_LAYERS = 500
"""Docker stops at 127."""
_PIECE = 1 << 20
_LONGER = 10 << 10
"""Bytes by which a header may grow that gets another path and target: two pax records of 4 KiB."""
_TYPES: tuple[Type, ...] = ("file", "directory", "symlink", "hardlink", "other")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "s390x": "s390x"}
"""What `uname -m` says -> what Go says, and so every index."""


@dataclass(frozen=True)
class Container:
    """What `image.oci` names, as far as checks and report ask (`agent.payload.described`).

    `size` is of the tar that `stream` yields.
    """

    reference: Reference
    """By the digest of the image manifest."""
    name: str
    os: Os | None
    tree: Tree
    size: int
    payload: Payload
    layers: tuple[Placed, ...]
    left: Left = field(repr=False, compare=False)
    kind: Literal["tree"] = "tree"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the stored bytes of each layer."""
        return tuple(layer.size for layer in self.layers)

    @property
    def sha256(self) -> str:
        return (self.reference.digest or "").removeprefix("sha256:")

    def stream(self) -> Generator[bytes, None, None]:
        """Yield the tar of what the layers make; raise `ImageError` where they have changed."""
        return self.left.stream()


def survey(
    reference: Reference,
    options: FetchOptions,
    origins: frozenset[str] = frozenset(),
    spare: Spare | None = None,
) -> Container:
    """Read a container once, from the first layer to the last, and say what it makes.

    `origins` may be sent the bearer token of `options`. What fits into `spare` is held until it is
    streamed. Raises `ImageError` where it is not to be
    had, or is not what its digest says, and `PlanError` where a layer is unsound.
    """
    reference, image = _image(reference, options, origins)
    if not 0 < len(image.layers) <= MOST_LAYERS:
        raise ImageError(f"{reference}: has {len(image.layers)} layers")
    layers = tuple(
        Placed(layer.digest, layer.size, _url(reference, layer)) for layer in image.layers
    )
    pulled = []
    for layer, placed in zip(image.layers, layers, strict=True):
        name = f"{reference.repository} layer {layer.digest}"
        blob = Blob(placed, name, options, origins, spare)
        pulled.append(PulledLayer(name, blob, packing(layer, name)))
    left = Left(pulled)
    found = left.settle()
    stored = sum(layer.size for layer in image.layers)
    return Container(
        reference=reference,
        name=f"{reference.repository}@{(reference.digest or '')[7:19]}",
        os=found.os(),
        tree=found.tree(),
        size=left.size,
        payload=Payload(urls=(_url(reference, image.config),), size=stored),
        layers=layers,
        left=left,
    )


class Left:
    """What is left of several layers, in little memory: a byte a member, and the few new names."""

    def __init__(self, layers: Sequence[PulledLayer]) -> None:
        self._layers = layers
        self._kept: list[bytearray] = []
        self._renamed: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}
        self.size = 0
        """Bytes of the tar, which is padded to it: how long a new header is shows only later."""

    def settle(self) -> Survey:
        """Read all layers once, verify them, and return what they make together."""
        merge = Merge()
        seen = [_Seen() for _ in self._layers]
        for at, layer in enumerate(self._layers):
            with layer.open() as stream:
                merge.lay(at, seen[at].entries(Members(stream, layer.name)), layer.name)
        merge.settle()
        found = Survey()
        self.size = len(END)
        for at, notes in enumerate(seen):
            self._kept.append(bytearray(len(notes)))
            for number in range(len(notes)):
                place = merge.kept(at, number)
                if place is not None:
                    self._kept[at][number] = 1
                    if not notes.same(number, *place):
                        self._renamed[at, number] = place
                        self.size += _LONGER
                    self.size += notes.sizes[number]
                    found.see(notes.member(number, *place))
        return found

    def stream(self) -> Generator[bytes, None, None]:
        """Yield the members that are left, in pieces of a MiB or so."""
        piece, done = bytearray(), 0
        for at, layer in enumerate(self._layers):
            with layer.open() as stream:
                for part in self._members(at, layer, stream):
                    piece += part
                    if len(piece) >= _PIECE:
                        yield bytes(piece)
                        done += len(piece)
                        piece.clear()
        yield bytes(piece + END)
        done += len(piece) + len(END)
        while done < self.size:  # readers pass over zeros after the end
            padding = bytes(min(_PIECE, self.size - done))
            yield padding
            done += len(padding)

    def _members(self, at: int, layer: Layer, stream: IO[bytes]) -> Iterator[bytes]:
        members = Members(stream, layer.name)
        kept = self._kept[at]
        for number, header in enumerate(members):
            if number >= len(kept) or not kept[number]:
                continue
            place = self._renamed.get((at, number))
            yield header.raw if place is None else header.named(*place).raw
            yield from members.content()


class _Seen:
    """What is remembered of a layer's members until it is known which are left: some 30 bytes."""

    def __init__(self) -> None:
        self._kinds, self._names = bytearray(), array("q")
        self._contents, self.sizes = array("Q"), array("Q")
        self._heads: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._kinds)

    def entries(self, members: Members) -> Iterator[Entry]:
        """Yield what `Merge` wants to know of each member, and note the rest."""
        for number, header in enumerate(members):
            self._kinds.append(_TYPES.index(header.type))
            link = header.link if header.type == "hardlink" else None
            self._names.append(_name(header.path, link))
            self._contents.append(header.size)
            self.sizes.append(len(header.raw) + -(-header.size // BLOCK) * BLOCK)
            head = wanted(_shown(header.path)) if header.type == "file" else 0
            if head:
                self._heads[number] = next(members.content(), b"")[: min(head, header.size)]
            yield Entry(number, header.path, header.type, header.link)

    def same(self, number: int, path: bytes, link: bytes | None) -> bool:
        """Tell whether a member is left under its own name, with its own target."""
        return self._names[number] == _name(path, link)

    def member(self, number: int, path: bytes, link: bytes | None) -> Member:
        kind: Type = _TYPES[self._kinds[number]]
        if link is not None:
            kind = "hardlink"
        head = self._heads.get(number, b"")
        target = _shown(link) if link is not None else ""
        return Member(_shown(path), kind, self._contents[number], 0, target, head)


def _image(
    reference: Reference, options: FetchOptions, origins: frozenset[str]
) -> tuple[Reference, ImageManifest]:
    """Return the image manifest for this machine, and the reference that names only it."""
    client = Client(options, origins)
    with closing(client):
        repository = Repository(client, reference, options.request)
        document = _ask(repository, reference, options)
        index = patiently(document.index, str(reference), options)
        if index is not None:
            reference = reference.by_digest(_for_here(reference, index.manifests).digest)
            document = _ask(repository, reference, options)
        image = patiently(document.image, str(reference), options)
    if image.config.media_type == CONFIG:
        raise ImageError(
            f"{reference}: was packed by bedplate and is no container: name it in image.manifest"
        )
    return reference, image


def _ask(repository: Repository, reference: Reference, options: FetchOptions) -> Document:
    return patiently(lambda: repository.manifest(reference.digest), str(reference), options)


def _for_here(reference: Reference, manifests: Sequence[Descriptor]) -> Descriptor:
    machine = platform.machine()
    here = _ARCHITECTURES.get(machine, machine)
    for descriptor in manifests:
        there = descriptor.platform
        if there is not None and (there.os, there.architecture) == ("linux", here):
            return descriptor
    known = ", ".join(
        f"{found.platform.os}/{found.platform.architecture}"
        for found in manifests
        if found.platform
    )
    raise ImageError(
        f"{reference}: is there for {known or 'nothing'}, this machine is linux/{here}"
    )


def _url(reference: Reference, blob: Descriptor) -> str:
    return f"{reference.base}/blobs/{blob.digest}"


def _name(path: bytes, link: bytes | None) -> int:
    """Return 64 bits that stand for a name: 200 000 names take 1.6 MB so, not 30."""
    return hash((path, link))


def _shown(path: bytes) -> str:
    return path.decode(errors="replace")
