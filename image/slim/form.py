"""Build the slim form beside the live image that it fetches."""

from __future__ import annotations

import hashlib
from pathlib import Path

from image.builder import mkosi, outputs, stage
from image.builder.report import BuildError, say

UKI, INITRD, OPTIONS = "bedplate-slim.efi", "initrd-slim.img", "slim.options"
STAMP = ".slim"


def build(root: Path, workshop: Path, target: Path, *, force: bool, verbose: bool) -> None:
    """Build it for the live image in `target`, unless it is there for the same bytes.

    Its kernel must be the live image's, whose modules are loaded later. The UKI's command line has
    the digest, so with Secure Boot nothing else can be fetched by it.
    """
    variant, digest = target.name, _digest(target / "initrd.img")
    source = root / "image/slim"
    stamp = stage.digest([source, root / "mkosi.conf.d"], variant, digest)
    recorded = target / STAMP
    there = all((target / name).exists() for name in (UKI, INITRD, OPTIONS))
    if not force and there and recorded.exists() and recorded.read_text() == stamp:
        say(f"{variant}: the slim form is up to date")
        return
    name = f"slim-{variant}"
    option = f"bedplate.rest.sha256={digest}"
    results = mkosi.build(
        workshop,
        source,
        name,
        [f"--profile={variant}", f"--kernel-command-line={option}"],
        force=force,
        verbose=verbose,
    )
    kernel = results / f"{name}.vmlinuz"
    if kernel.read_bytes() != (target / "vmlinuz").read_bytes():
        raise BuildError(
            f"{variant}: the live image has another kernel than the mirror: build it with --force"
        )
    recorded.unlink(missing_ok=True)
    (results / f"{name}.efi").replace(target / UKI)
    (results / f"{name}.initrd").replace(target / INITRD)
    (target / OPTIONS).unlink(missing_ok=True)  # who holds the old one keeps it
    (target / OPTIONS).write_text(f"{option}\n")
    recorded.write_text(stamp)
    packages = outputs.packages(results / f"{name}.manifest")
    for file in (UKI, INITRD):
        say(f"  {target / file}  {(target / file).stat().st_size / 2**20:.1f} MiB")
    say(f"  {len(packages)} packages; boot with bedplate.rest=URL of initrd.img, {option}")


def drop_stale(target: Path) -> None:
    """Remove a slim form that would fetch another initrd than the one that lies there now."""
    told = target / OPTIONS
    if told.exists() and _digest(target / "initrd.img") not in told.read_text():
        for name in (UKI, INITRD, OPTIONS, STAMP):
            (target / name).unlink(missing_ok=True)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
