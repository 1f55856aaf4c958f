"""A bootable container: surveyed before anything is erased, then streamed into the target.

Nothing is staged, so the layers come twice. The first time they are verified and laid over each
other by name only: what is left of each, and what the whole contains (kernels, programs, room per
volume). The second time every block is verified before use, and what was left is passed on as one
tar, each path once and no whiteouts.
"""

from __future__ import annotations

import platform
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Literal

from agent.errors import ImageError
from agent.oci.blob import Blob
from agent.oci.layer import PulledLayer, packing
from agent.oci.manifest import CONFIG, Descriptor, Document, ImageManifest
from agent.oci.patience import patiently
from agent.oci.repository import Repository
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
Progress = Callable[[int, int], None]
_PIECE = 1 << 20
_TYPES: tuple[Type, ...] = ("file", "directory", "symlink", "hardlink", "other")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "s390x": "s390x"}
"""What `uname -m` says -> what Go says, and so every index."""


@dataclass(frozen=True)
class Container:
    """What `image.oci` names, as far as checks and report ask (`agent.payload.described`).

    `size` counts the members that are left, with their headers as they came.
    """

    reference: Reference
    """By the digest of the image manifest."""
    name: str
    os: Os | None
    tree: Tree
    size: int
    payload: Payload
    layers: tuple[Descriptor, ...]
    left: Left = field(repr=False, compare=False)
    kind: Literal["tree"] = "tree"

    @property
    def sha256(self) -> str:
        return (self.reference.digest or "").removeprefix("sha256:")

    def stream(self, progress: Progress = lambda done, total: None) -> Iterator[bytes]:
        """Yield the tar of what the layers make; raise `ImageError` where a byte is another one.

        `progress` counts stored bytes of the layers.
        """
        return self.left.stream(_counting(progress, self.payload.size))


def survey(reference: Reference, options: FetchOptions) -> Container:
    """Read a container once, from the first layer to the last, and say what it makes.

    Raises `ImageError` where it is not to be had, or is not what its digest says, and `PlanError`
    where a layer is unsound.
    """
    reference, image = _image(reference, options)
    names = [f"{reference.repository} layer {layer.digest}" for layer in image.layers]
    if not 0 < len(image.layers) <= MOST_LAYERS:
        raise ImageError(f"{reference}: has {len(image.layers)} layers")
    left = Left(
        [
            (
                PulledLayer(
                    name,
                    Blob(_url(reference, layer), layer.digest, layer.size, name, options),
                    packing(layer, name),
                )
            )
            for name, layer in zip(names, image.layers, strict=True)
        ]
    )
    found = left.settle()
    stored = sum(layer.size for layer in image.layers)
    return Container(
        reference=reference,
        name=f"{reference.repository}@{(reference.digest or '')[7:19]}",
        os=found.os(),
        tree=found.tree(),
        size=left.size,
        payload=Payload(urls=(_url(reference, image.config),), size=stored),
        layers=image.layers,
        left=left,
    )


class Left:
    """What is left of several layers, in little memory: a byte a member, and the few new names."""

    def __init__(self, layers: Sequence[PulledLayer]) -> None:
        self._layers = layers
        self._kept: list[bytearray] = []
        self._renamed: dict[tuple[int, int], tuple[bytes, bytes | None]] = {}
        self.size = 0
        """Bytes of the tar, but for headers that change their length with their name."""

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
                    self.size += notes.sizes[number]
                    found.see(notes.member(number, *place))
        return found

    def stream(self, count: Callable[[int], None]) -> Iterator[bytes]:
        """Yield the members that are left, in pieces of a MiB or so."""
        piece = bytearray()
        for at, layer in enumerate(self._layers):
            with PulledLayer(layer.name, layer.blob, layer.packing, count).open() as stream:
                for part in self._members(at, layer, stream):
                    piece += part
                    if len(piece) >= _PIECE:
                        yield bytes(piece)
                        piece.clear()
        yield bytes(piece + END)

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


def _image(reference: Reference, options: FetchOptions) -> tuple[Reference, ImageManifest]:
    """Return the image manifest for this machine, and the reference that names only it."""
    client = Client(options)
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


def _counting(progress: Progress, total: int) -> Callable[[int], None]:
    done = 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        progress(done, total)

    return count


def _name(path: bytes, link: bytes | None) -> int:
    """Return 64 bits that stand for a name: 200 000 names take 1.6 MB so, not 30."""
    return hash((path, link))


def _shown(path: bytes) -> str:
    return path.decode(errors="replace")
