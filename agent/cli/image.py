"""`bedplate keygen` and `bedplate pack`: what happens where images are made."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from agent.cli.output import json_option, make_directory, show_json
from agent.payload.decompress import Progress
from agent.payload.pack import LEVEL, Packed, PackOptions, pack
from agent.payload.sign import keygen as make_keys
from agent.payload.sign import load_signing_key


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


@click.command("pack")
@click.argument("tar", type=click.File("rb"))
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
@click.option("--level", type=click.IntRange(1, 22), default=LEVEL, show_default=True)
@click.option(
    "--url",
    "urls",
    multiple=True,
    help="Where the payload will lie, if not beside the manifest; may be given several times.",
)
@json_option
def pack_command(
    tar: BinaryIO,
    name: str,
    key: Path,
    directory: Path,
    level: int,
    urls: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    """Turn the root file system in TAR into an image that can be streamed and verified.

    TAR is plain or compressed (gzip, xz, bzip2, zstd); - reads stdin. Writes NAME.tar.zst (which
    plain `zstd -d | tar x` still reads), NAME.json and its signature NAME.json.sig.
    """
    make_directory(directory)
    began = time.monotonic()
    with _bar(tar, quiet=as_json) as progress:
        packed = pack(
            tar,
            directory,
            name,
            load_signing_key(key),
            options=PackOptions(level=level, urls=urls),
            progress=progress,
        )
    _show(packed, time.monotonic() - began, as_json=as_json)


def _show(packed: Packed, seconds: float, *, as_json: bool) -> None:
    manifest = packed.manifest
    stored = manifest.payload.size
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
                "chunks": len(manifest.chunks),
                "seconds": round(seconds, 3),
            }
        )
        return
    kernels = manifest.tree.kernels if manifest.tree else ()
    system = f"{manifest.os.id} {manifest.os.version}".strip() if manifest.os else "unknown"
    click.echo(
        f"{packed.document}: {system}, kernel {', '.join(k.version for k in kernels) or 'none'}\n"
        f"{manifest.size / 1e6:.1f} MB in {len(manifest.chunks)} chunks packed to "
        f"{stored / 1e6:.1f} MB ({stored / manifest.size:.0%}) in {seconds:.1f} s "
        f"({manifest.size / 1e6 / max(seconds, 1e-3):.0f} MB/s)"
    )


@contextmanager
def _bar(source: BinaryIO, *, quiet: bool) -> Iterator[Progress]:
    """Show a progress bar on stderr where somebody is looking."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars("packing", *columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(str(getattr(source, "name", "")), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


image_commands: tuple[click.Command, ...] = (keygen, pack_command)
