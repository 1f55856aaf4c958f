"""`bedplate keygen` and `bedplate pack`: what happens where images are made."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.bar import bar
from agent.cli.ending import orderly
from agent.cli.output import json_option, make_directory, show_json
from agent.cli.source import existing, open_source
from agent.cli.table import table_of
from agent.payload.fetch import Source
from agent.payload.manifest import CHUNK_SIZE, CHUNK_SIZES, Manifest
from agent.payload.options import FetchOptions
from agent.payload.pack import LEVEL, Packed, PackOptions, pack
from agent.payload.pack_disk import DiskSource, os_of, pack_disk, zero_bytes
from agent.payload.previous import Reused
from agent.payload.sign import keygen as make_keys
from agent.payload.sign import load_signing_key
from agent.payload.sources.oci import Platform
from agent.payload.sources.opening import Wish
from agent.plan.size import parse_bytes, render


@click.command()
@click.argument("name", default="image", metavar="[NAME]")
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to put the two files; by default here.",
)
@json_option
def keygen(name: str, directory: Path, *, as_json: bool) -> None:
    """Make a pair of Ed25519 keys to sign images with: NAME.key and NAME.pub.

    NAME.key (mode 0600) stays where images are made. NAME.pub is baked into the live image: put it
    into build/keys/ before `make image`.
    """
    make_directory(directory)
    private, public = directory / f"{name}.key", directory / f"{name}.pub"
    made = make_keys(private, public)
    if as_json:
        show_json({"id": made.id, "private": str(private), "public": str(public)})
    else:
        click.echo(f"{private}  private, keep it\n{public}  public, key id {made.id}")


_SIZES = (
    f"whole pages of {render(CHUNK_SIZES.step)}, from {render(CHUNK_SIZES.start)} to "
    f"{render(CHUNK_SIZES.stop - 1)}"
)


def _chunk_size(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Return bytes for "1 MiB" or "1048576"; None where the option was left out."""
    if value is None:
        return None
    try:
        size = parse_bytes(int(value) if value.isdecimal() else value)
    except ValueError as error:
        raise click.BadParameter(f"{error}; chunks have {_SIZES}") from None
    if size not in CHUNK_SIZES:
        raise click.BadParameter(f"{value} is {size} bytes, must be {_SIZES}")
    return size


def _chosen_size(size: int | None, previous: Path | None) -> int:
    if size is not None and previous is not None:
        # Cut otherwise, no chunk of the older image would come again.
        raise click.UsageError("--chunk-size: with --previous it is that of the older image")
    return size or CHUNK_SIZE


@click.command("pack")
@click.argument("source", callback=existing)
@click.option("-n", "--name", required=True, help="Name of the image: NAME.json is its manifest.")
@click.option(
    "-k",
    "--key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key to sign with, made by `bedplate keygen`.",
)
@click.option(
    "-d",
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to put the three files; by default here.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(["tree", "disk"]),
    help="tree: of a whole disk, take the tree of the system on it. disk: take any file as it is.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Which image of a container to take, as linux/amd64; by default this machine's.",
)
@click.option(
    "--ca",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Authorities (PEM) to trust for a registry instead of the system's.",
)
@click.option("--os-id", help="What is on a disk, as the ID of os-release(5) says it: debian.")
@click.option("--level", type=click.IntRange(1, 22), default=LEVEL, show_default=True)
@click.option(
    "--chunk-size",
    metavar="SIZE",
    callback=_chunk_size,
    help=f"Largest piece that is fetched and verified by itself: {_SIZES}.  "
    f"[default: {render(CHUNK_SIZE)}]",
)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="Where the payload will lie, if not beside the manifest; may be given several times.",
)
@click.option(
    "--previous",
    metavar="OLD.json",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Manifest of an older image: what did not change keeps its bytes, and is not packed again "
    "if the older payload lies beside it.",
)
@json_option
def pack_command(
    source: str,
    name: str,
    key: Path,
    directory: Path,
    *,
    as_json: bool,
    **more: Any,
) -> None:
    """Turn SOURCE into an image that can be streamed and verified.

    SOURCE is told by its content. A tar archive, a directory, a container image (an OCI layout, its
    archive, what `docker save` writes, docker://IMAGE or oci://REGISTRY/REPOSITORY@sha256:... of a
    registry), a squashfs or another file system makes a tree: a root file system that is laid over
    any storage. A whole disk (raw, qcow2, vmdk, a device) makes a disk, or
    with `--as tree` the tree of the system on it. Tar archives and raw disks may be compressed
    (gzip, xz, bzip2, zstd) and may come from a pipe, as -.

    Writes NAME.tar.zst (which plain `zstd -d | tar x` still reads) or NAME.raw.zst, NAME.json and
    its signature NAME.json.sig.
    """
    make_directory(directory)
    began = time.monotonic()
    wish = Wish(more["kind"], Platform.of(more["platform"]) if more["platform"] else None)
    options = PackOptions(
        level=more["level"],
        chunk_size=_chosen_size(more["chunk_size"], more["previous"]),
        urls=more["urls"],
        previous=more["previous"],
    )
    signing = load_signing_key(key)
    with (
        orderly(),
        open_source(source, wish, more["ca"]) as opened,
        bar(f"packing {source}", quiet=as_json) as progress,
    ):
        if isinstance(opened, DiskSource):
            os = os_of(more["os_id"])
            packed = pack_disk(
                opened, directory, name, signing, options=options, os=os, progress=progress
            )
        elif more["os_id"] is not None:
            raise click.UsageError("--os-id is for a disk, a tree says itself what it is")
        else:
            packed = pack(opened, directory, name, signing, options=options, progress=progress)
    _show(packed, time.monotonic() - began, as_json=as_json)
    if packed.manifest.kind == "disk" and not as_json:
        _warn_of_table(packed)


def _warn_of_table(packed: Packed) -> None:
    source = Source("", "", "", (packed.payload.absolute().as_uri(),), frozenset())
    table = table_of(packed.manifest, source, FetchOptions())
    if isinstance(table, str):
        click.echo(f"bedplate: warning: {packed.payload}: {table}", err=True)


def _show(packed: Packed, seconds: float, *, as_json: bool) -> None:
    manifest = packed.manifest
    stored, zero = manifest.payload.size, zero_bytes(packed)
    if as_json:
        show_json(
            {
                "name": manifest.name,
                "manifest": str(packed.document),
                "payload": str(packed.payload),
                "signature": str(packed.signature),
                "size": manifest.size,
                "stored": stored,
                "sha256": manifest.sha256,
                "kind": manifest.kind,
                "chunks": len(manifest.chunks),
                "zero": zero,
                "ordered": packed.ordered or None,
                "reused": packed.reused
                and {
                    "chunks": packed.reused.chunks,
                    "stored": packed.reused.stored,
                    "percent": _percent(packed.reused.stored, stored),
                },
                "seconds": round(seconds, 3),
            }
        )
        return
    holds = f"{manifest.os.id} {manifest.os.version}".strip() if manifest.os else "unknown"
    if manifest.tree:
        kernels = ", ".join(kernel.version for kernel in manifest.tree.kernels)
        holds += f", kernel {kernels or 'none'}"
    else:
        holds = f"a disk ({holds}), {zero / manifest.size:.0%} of it zero"
    click.echo(
        f"{packed.document}: {holds}\n"
        f"{manifest.size / 1e6:.1f} MB in {len(manifest.chunks)} chunks packed to "
        f"{stored / 1e6:.1f} MB ({stored / manifest.size:.0%}) in {seconds:.1f} s "
        f"({manifest.size / 1e6 / max(seconds, 1e-3):.0f} MB/s)"
    )
    if packed.ordered and manifest.os:
        click.echo(f"one tar must unpack it from front to back: {packed.ordered}")
    if packed.reused:
        click.echo(_comparison(packed.reused, manifest))
        if packed.dated and 2 * packed.reused.stored < stored:
            click.echo(
                f"{packed.dated} members carry the time they were read or changed, which no two "
                "builds share: make the archive with tar --pax-option=delete=atime,delete=ctime"
            )


def _comparison(reused: Reused, manifest: Manifest) -> str:
    stored = manifest.payload.size
    return (
        f"{_percent(reused.stored, stored)} % is that of the older image "
        f"({reused.chunks} of {len(manifest.chunks)} chunks), "
        f"{(stored - reused.stored) / 1e6:.1f} MB are new"
    )


def _percent(part: int, whole: int) -> float:
    """Return a percentage that says 100 only of all."""
    return math.floor(1000 * part / whole) / 10


image_commands: tuple[click.Command, ...] = (keygen, pack_command)
