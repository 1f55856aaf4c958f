"""The races: which programs run side by side, on what, and with which inputs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from agent.payload.pack import PackOptions
from tests.bench import peers, scratch
from tests.bench.errors import BenchError
from tests.bench.inputs import Inputs
from tests.bench.names import BMAPTOOL, CURL, DESYNC, IMAGES, IRONIC, OURS, PIPE, STAGED, TAR, ZSTD
from tests.bench.nginx import Server, serving
from tests.bench.payloads import Packed, Packer, fetched, new_bytes, warm
from tests.bench.peers import Peers, available, script, sha256_of
from tests.bench.process import Argv, FailedError, last_line
from tests.bench.rounds import Case, Results, race
from tests.bench.scale import GiB

LEVEL = PackOptions().level


@dataclass(frozen=True)
class Ground:
    """What all races share. `memory` is a tmpfs, `run` a directory on a disk."""

    directory: Path
    memory: Path
    run: Path
    inputs: Inputs
    packer: Packer
    peers: Peers
    rounds: int
    console: Console
    ran: list[Results] = field(default_factory=list)
    """Every race so far."""

    @contextmanager
    def server(self, address: str = "127.0.0.1") -> Iterator[Server]:
        """Serve everything below build/bench."""
        with serving(self.directory, self.peers.nginx(), self.run / "nginx", address) as server:
            yield server

    def url(self, server: Server, file: Path) -> str:
        return f"{server.url}/{file.relative_to(self.directory)}"

    def ours(self, what: str, url: str, target: Path) -> list[str | os.PathLike[str]]:
        """Return the command that runs the product."""
        return [sys.executable, "-m", "tests.bench.ours", what, url, target, self.packer.trusted]

    def disk(self) -> Packed:
        return self.packer.pack(self.inputs.disk("disk"), "disk")

    def race(self, name: str, cases: list[Case]) -> Results:
        self.ran.append(race(name, cases, self.rounds, self.console))
        return self.ran[-1]


def disk(ground: Ground) -> Results:
    """The disk image onto a loop device, by ours, by every peer, and stage by stage."""
    packed, image = ground.disk(), ground.inputs.disk("disk")
    device = ground.memory / "disk"
    with ground.server() as server, scratch.loop(device, image.stat().st_size) as loop:
        cases = [
            Case(OURS, ground.ours("disk", ground.url(server, packed.document), loop.device)),
            *_disk_peers(ground, server, packed, loop.device),
        ]
        cases = [_blanked(case, loop, image) for case in cases]
        warm([packed.payload, image])
        return ground.race("disk", cases + _stages(ground, server, packed, loop))


def _disk_peers(ground: Ground, server: Server, packed: Packed, device: Path) -> list[Case]:
    url, the = ground.url(server, packed.payload), ground.peers
    stage = ground.memory / "staged"

    def bmaptool() -> Case:
        return the.bmaptool(url, ground.url(server, the.bmap()), device)

    def desync() -> Case:
        store, index = the.chopped()
        warm([index, *store.rglob("*.cacnk")])
        return the.desync(ground.url(server, store), ground.url(server, index), device)

    def ironic() -> Case:
        raw = ground.url(server, ground.inputs.disk("disk"))
        return the.ironic(raw, packed.manifest.sha256, device)

    return [
        available(BMAPTOOL, bmaptool),
        Case(PIPE, script(peers.PIPE, url, device)),
        Case(STAGED, script(peers.STAGED, url, device, stage, sha256_of(packed.payload))),
        available(IRONIC, ironic),
        available(DESYNC, desync),
    ]


def _blanked(case: Case, loop: scratch.Loop, image: Path) -> Case:
    return Case(
        case.name,
        case.argv,
        prepare=loop.blank,
        check=partial(loop.must_hold, image),
        environment=case.environment,
        missing=case.missing,
    )


def _stages(ground: Ground, server: Server, packed: Packed, loop: scratch.Loop) -> list[Case]:
    module = (sys.executable, "-m", "tests.bench.stages")
    payload = packed.payload
    url = ground.url(server, payload)
    return [
        Case("start", (sys.executable, "-m", "tests.bench.ours", "start")),
        Case("fetch", (*module, "fetch", packed.document, url, str(server.pid))),
        Case("hash", (*module, "hash", packed.document, payload)),
        Case("decode", (*module, "decode", packed.document, payload)),
        Case("write", (*module, "write", packed.document, loop.device), prepare=loop.blank),
    ]


def wire(ground: Ground) -> Results:
    """The disk image over a link of 1 Gbit/s."""
    packed, image = ground.disk(), ground.inputs.disk("disk")
    with (
        scratch.wire() as link,
        ground.server(link.address) as server,
        scratch.loop(ground.memory / "disk", image.stat().st_size) as loop,
    ):
        url = ground.url(server, packed.document)
        curl = ("curl", "-sf", "-o", "/dev/null", "-w", "%{json}")
        ours: Argv = [*link.inside, *ground.ours("disk", url, loop.device)]
        cases = [
            _blanked(Case(OURS, ours), loop, image),
            Case(CURL, [*link.inside, *curl, ground.url(server, packed.payload)]),
        ]
        warm([packed.payload])
        return ground.race("wire", cases)


def tree(ground: Ground, kind: str) -> Results:
    """The tree into a file system on a loop device."""
    whole, root = ground.inputs.tar("whole"), ground.run / "root"
    packed = ground.packer.pack(whole, "tree")
    plain = ground.peers.plain(LEVEL)

    def unsquashfs() -> Case:
        package = ground.peers.squashfs_tools()
        argv = script(peers.UNSQUASHFS, package.program("unsquashfs"), root, ground.inputs.squashfs)
        return Case("unsquashfs", argv, environment=package.environment())

    size = max(2 * whole.stat().st_size, GiB)
    with ground.server() as server, scratch.loop(ground.memory / "tree", size) as loop:
        cases = [
            Case(OURS, ground.ours("tree", ground.url(server, packed.document), root)),
            Case(TAR, script(peers.TAR, ground.url(server, plain), root)),
            available("unsquashfs", unsquashfs),
        ]
        cases = [
            Case(
                case.name,
                case.argv,
                prepare=partial(scratch.make_filesystem, loop, kind, root),
                check=partial(scratch.same_tree, whole, root),
                finish=partial(scratch.unmount, root),
                environment=case.environment,
                missing=case.missing,
            )
            for case in cases
        ]
        warm([packed.payload, plain, ground.inputs.squashfs])
        return ground.race(f"tree/{kind}", cases)


def memory(ground: Ground) -> Results:
    """Images of 1 GB and of 8 GB, as disks and as trees: what the product takes of memory."""
    fast = ("--level", "1")  # what is decoded takes the same memory, whatever the level
    sources = {
        "small disk": ground.inputs.disk("small"),
        "large disk": ground.inputs.disk("big"),
        "small tree": ground.inputs.tar("second"),
        "large tree": ground.inputs.many(),
    }
    root = ground.run / "root"
    large = ground.inputs.tar("whole").stat().st_size * ground.inputs.scale.copies
    size = max(ground.inputs.scale.big_disk, large * 5 // 4)
    with ground.server() as server, scratch.loop(ground.memory / "memory", size) as loop:
        cases = []
        for name in IMAGES:
            packed = ground.packer.pack(sources[name], name.replace(" ", "-"), *fast)
            url = ground.url(server, packed.document)
            if name.endswith("disk"):
                cases.append(Case(name, ground.ours("disk", url, loop.device), prepare=loop.blank))
            else:
                prepare = partial(scratch.make_filesystem, loop, "xfs", root)
                finish = partial(scratch.unmount, root)
                ours = ground.ours("tree", url, root)
                cases.append(Case(name, ours, prepare=prepare, finish=finish))
        return ground.race("memory", cases)


def pack(ground: Ground) -> Results:
    """A tar packed at the default level, and by zstd at the same."""
    tar, out = ground.inputs.tar("first"), ground.run / "packed"

    def empty() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()

    argv = ground.packer.argv(tar, "first", out)
    peer = script(peers.ZSTD, str(LEVEL), tar, out / "first.tar.zst")
    warm([tar])
    return ground.race("pack", [Case(OURS, argv, empty), Case(ZSTD, peer, empty)])


def repack(ground: Ground) -> tuple[int, int]:
    """Return the new bytes and all bytes of an image in which one package was changed.

    Raises `FailedError` when it cannot be packed so.
    """
    before = ground.packer.pack(ground.inputs.tar("whole"), "tree")
    try:
        after = ground.packer.pack(
            ground.inputs.tar("changed"), "changed", "--previous", str(before.document)
        )
    except BenchError as error:
        raise FailedError(last_line(str(error))) from None
    manifest = after.manifest
    return new_bytes(manifest, before.manifest), manifest.payload.size


def fetched_bytes(ground: Ground) -> int:
    """Return how much of the disk image's payload crosses the wire."""
    return fetched(ground.disk().manifest)
