"""`bedplate image inspect`, `verify` and `diff`: look at images that were packed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import click

from agent.cli.bar import bar
from agent.cli.fetching import FIRST, fetching
from agent.cli.output import json_option, show_json
from agent.cli.table import described, plain, table_of
from agent.errors import ImageError, PlanError, Problem
from agent.payload import compare
from agent.payload.look import Found, find
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.pieces import Pieces
from agent.payload.sign import PublicKey, load_trusted
from agent.payload.stream import Tally, stream

Command = TypeVar("Command", bound=Callable[..., None])

BAKED_IN = Path("/etc/bedplate/keys")
LARGEST = 8
"""Directories shown; `--json` has all."""


def access_options(command: Command) -> Command:
    """Add what says how an image is reached and whom to trust."""
    trust = click.option(
        "--trust",
        "trusted",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Public key that may have signed; several may be given. "
        f"By default those in {BAKED_IN}, if there are any.",
    )
    ca = click.option(
        "--ca",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Authorities (PEM) to trust for TLS instead of the system's.",
    )
    return trust(ca(command))


@click.command("inspect")
@click.argument("image", metavar="MANIFEST")
@access_options
@json_option
def inspect(image: str, trusted: tuple[Path, ...], ca: Path | None, *, as_json: bool) -> None:
    """Show what is in an image: MANIFEST is the file or address of its NAME.json."""
    found = find(image, _keys(trusted), fetching(ca, patience=FIRST))
    table = None
    if found.manifest.kind == "disk":
        table = table_of(found.manifest, found.source, fetching(ca))
    if as_json:
        manifest = found.manifest.model_dump(mode="json", exclude={"chunks"}, exclude_none=True)
        counted = {"chunks": len(found.manifest.chunks), "zero": _zeros(found.manifest)}
        show_json({**manifest, **counted, "table": table and plain(table), **_where(found)})
        return
    for line in (*_described(found), *(described(table) if table else ())):
        click.echo(line)


@click.command("verify")
@click.argument("image", metavar="MANIFEST")
@access_options
@json_option
def verify(image: str, trusted: tuple[Path, ...], ca: Path | None, *, as_json: bool) -> None:
    """Fetch an image as a machine would, and check every chunk and the whole of it.

    Exit status 0: the signature is good (if there was a key to check it with), every chunk has its
    digest, and the whole has the digest that the manifest says.
    """
    found = find(image, _keys(trusted), fetching(ca, patience=FIRST))
    manifest, tally, began = found.manifest, Tally(), time.monotonic()
    digest = sha256()
    with bar("verifying", quiet=as_json) as progress:
        done = 0
        for view in stream(manifest, found.source, fetching(ca), tally):
            digest.update(view)
            done += len(view)
            progress(done, manifest.size)
    if digest.hexdigest() != manifest.sha256:
        raise ImageError(
            f"image {manifest.name}: every chunk is right, but the whole has sha256 "
            f"{digest.hexdigest()}, must be {manifest.sha256}"
        )
    seconds = time.monotonic() - began
    if as_json:
        corrupt = dict(tally.corrupt)
        show_json({"ok": True, "seconds": round(seconds, 3), "corrupt": corrupt, **_where(found)})
        return
    click.echo(
        f"{found.source.manifest_url}: good, {len(manifest.chunks)} chunks, "
        f"{manifest.size / 1e6:.1f} MB in {seconds:.1f} s; {_signature(found)}"
    )
    for url, times in tally.corrupt.items():
        click.echo(f"{url}: sent {times} chunks with a bad digest, needs a look", err=True)


@click.command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@access_options
@json_option
def diff(old: str, new: str, trusted: tuple[Path, ...], ca: Path | None, *, as_json: bool) -> None:
    """Show what changed between two builds of an image, file by file.

    OLD and NEW are manifests, as files or addresses. Only chunks that differ are fetched. Times of
    files are not compared. Exit status 0 whether they differ or not.
    """
    options, first = fetching(ca), fetching(ca, patience=FIRST)
    keys = _keys(trusted)
    before, after = find(old, keys, first), find(new, keys, first)
    if before.manifest.kind != after.manifest.kind:
        kinds = f"{before.manifest.kind} and {after.manifest.kind}"
        raise PlanError([Problem(f"{old}, {new}", f"are of two kinds, {kinds}")])
    saved = compare.shared(before.manifest, after.manifest)
    if after.manifest.kind == "disk":
        _show_disk(before, after, saved, as_json=as_json)
        return
    changes = tuple(
        compare.differences(
            _members(before, after, options, quiet=as_json),
            _members(after, before, options, quiet=as_json),
        )
    )
    _show_tree(before, after, (saved, changes), as_json=as_json)


def _members(
    found: Found, other: Found, options: FetchOptions, *, quiet: bool
) -> dict[str, compare.File]:
    runs = compare.unshared(found.manifest, other.manifest)
    total = sum(found.manifest.chunks[number].length for run in runs for number in run)
    with (
        Pieces(found.manifest, found.source, options) as pieces,
        bar(f"reading {found.manifest.name}", quiet=quiet) as progress,
    ):
        done = 0

        def fetch(number: int) -> bytes:
            nonlocal done
            piece = pieces.get(number)
            done += len(piece)
            progress(done, total)
            return piece

        return compare.members(found.manifest, runs, fetch)


def _show_tree(
    before: Found,
    after: Found,
    result: tuple[compare.Shared, Sequence[compare.Difference]],
    *,
    as_json: bool,
) -> None:
    saved, changes = result
    if as_json:
        show_json(
            {
                "old": _where(before),
                "new": _where(after),
                **_saving(saved),
                "changes": [
                    {
                        "path": one.path,
                        "change": one.change,
                        "before": one.before,
                        "after": one.after,
                        "what": list(one.what),
                    }
                    for one in changes
                ],
            }
        )
        return
    for line in _systems(before.manifest, after.manifest):
        click.echo(line)
    signs = {"added": "+", "removed": "-", "content": "~", "metadata": "m"}
    for one in changes:
        size = _sizes(one)
        click.echo(f"{signs[one.change]} {one.path}  {' '.join((*one.what, size))}".rstrip())
    kinds = [one.change for one in changes]
    click.echo(
        f"{kinds.count('added')} added, {kinds.count('removed')} removed, "
        f"{kinds.count('content')} changed, {kinds.count('metadata')} with other owner, mode or "
        f"attributes"
    )
    click.echo(_saving_text(saved))


def _sizes(one: compare.Difference) -> str:
    if one.change == "added":
        return f"{one.after} bytes"
    if one.change == "removed":
        return f"{one.before} bytes"
    return f"{one.before} -> {one.after} bytes" if one.before != one.after else ""


def _show_disk(before: Found, after: Found, saved: compare.Shared, *, as_json: bool) -> None:
    ranges = compare.changed_ranges(before.manifest, after.manifest)
    if as_json:
        changed = [{"offset": one.start, "length": len(one)} for one in ranges]
        show_json(
            {"old": _where(before), "new": _where(after), **_saving(saved), "changes": changed}
        )
        return
    for one in ranges:
        click.echo(f"~ bytes {one.start} to {one.stop - 1}  ({len(one) / 1e6:.1f} MB)")
    click.echo(_saving_text(saved))


def _systems(old: Manifest, new: Manifest) -> Iterator[str]:
    """Yield what changed that an operator asks for first."""

    def facts(manifest: Manifest) -> dict[str, str]:
        tree = manifest.tree
        return {
            "system": f"{manifest.os.id} {manifest.os.version}".strip() if manifest.os else "none",
            "kernels": ", ".join(k.version for k in tree.kernels) if tree else "none",
            "size": f"{manifest.size / 1e6:.1f} MB",
            "members": str(tree.members) if tree else "none",
        }

    ours, theirs = facts(old), facts(new)
    for name, value in ours.items():
        if value != theirs[name]:
            yield f"{name}: {value or 'none'} -> {theirs[name] or 'none'}"


def _described(found: Found) -> Iterator[str]:
    manifest = found.manifest
    system = f"{manifest.os.id} {manifest.os.version}".strip() if manifest.os else "not said"
    stored, zeros = manifest.payload.size, _zeros(manifest)
    made = f"{manifest.created:%Y-%m-%d %H:%M} UTC"
    yield f"image      {manifest.name}, kind {manifest.kind}, made {made}"
    yield f"system     {system}"
    yield f"signature  {_signature(found)}"
    yield (
        f"size       {manifest.size / 1e6:.1f} MB in {len(manifest.chunks)} chunks, "
        f"{zeros / 1e6:.1f} MB of it zero"
    )
    where = ", ".join(manifest.payload.urls)
    yield f"payload    {stored / 1e6:.1f} MB ({stored / manifest.size:.0%}): {where}"
    yield f"sha256     {manifest.sha256}"
    tree = manifest.tree
    if tree is None:
        return
    yield f"members    {tree.members}, for {tree.architecture or 'an architecture not said'}"
    yield f"extracts   {'side by side' if tree.tail is not None else 'by one tar: order matters'}"
    for kernel in tree.kernels:
        yield f"kernel     {kernel.version}{', brings an initrd' if kernel.initrd else ''}"
    yield f"programs   {', '.join(sorted(tree.programs)) or 'none that matter here'}"
    largest = sorted(tree.directories.items(), key=lambda item: -item[1].bytes)[:LARGEST]
    for path, need in largest:
        yield f"needs      {need.bytes / 1e6:9.1f} MB  {need.inodes:7} inodes  {path}"


def _signature(found: Found) -> str:
    if found.signed_by is None:
        return "signature not checked (give --trust KEY.pub)"
    return f"signed by key {found.signed_by}"


def _where(found: Found) -> dict[str, object]:
    return {
        "manifest_url": found.source.manifest_url,
        "manifest_sha256": found.source.sha256,
        "signed_by": found.signed_by,
    }


def _saving(saved: compare.Shared) -> dict[str, object]:
    return {
        "chunks": saved.of_chunks,
        "chunks_shared": saved.chunks,
        "stored": saved.of_stored,
        "stored_shared": saved.stored,
    }


def _saving_text(saved: compare.Shared) -> str:
    fetched = saved.of_stored - saved.stored
    return (
        f"{saved.chunks} of {saved.of_chunks} chunks are in both: {saved.share:.1%} of the "
        f"payload; {fetched / 1e6:.1f} MB are new"
    )


def _zeros(manifest: Manifest) -> int:
    return sum(chunk.length for chunk in manifest.chunks if chunk.zero)


def _keys(given: Sequence[Path]) -> Sequence[PublicKey]:
    paths = list(given) or sorted(BAKED_IN.glob("*.pub"))
    return load_trusted(paths) if paths else ()


look_commands: tuple[click.Command, ...] = (inspect, verify, diff)
