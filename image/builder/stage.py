"""What is laid over the packages, gathered in one tree with its modes set right.

A tree is gathered first and hashed then, so that a file which somebody edits during the build
cannot get into the image without getting into the digest.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from image.builder.report import BuildError, timed

BLIVET = "3.14.2"
BLIVET_SHA256 = "db2cd996ed354d47fdc60740d912a102250a0fc469bfe17df6bced649c172e5b"
SKIPPED = ("__pycache__", ".mypy_cache", ".ruff_cache")


def copy_tree(source: Path, target: Path) -> None:
    """Copy `source` over `target`; modes become 0755 or 0644, whatever the umask was."""
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o755)
    for entry in sorted(source.iterdir()):
        if entry.name in SKIPPED or entry.suffix == ".pyc":
            continue
        copy = target / entry.name
        if entry.is_symlink():
            copy.unlink(missing_ok=True)
            copy.symlink_to(entry.readlink())
        elif entry.is_dir():
            copy_tree(entry, copy)
        else:
            copy_file(entry, copy)


def copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def copy_keys(keys: Iterable[Path], target: Path) -> int:
    """Copy public keys or certificates; returns how many. A private key is refused by name."""
    count = 0
    for key in sorted(keys):
        if b"PRIVATE" in key.read_bytes():
            raise BuildError(f"{key}: holds a private key, only public ones belong in an image")
        copy_file(key, target / key.name)
        count += 1
    return count


def fetch_blivet(workshop: Path) -> Path:
    """blivet, which Debian does not package, from its pinned source; returns its tree."""
    modules = workshop / f"blivet-{BLIVET}"
    if not modules.exists():
        requirements = workshop / "blivet.txt"
        requirements.write_text(f"blivet=={BLIVET} --hash=sha256:{BLIVET_SHA256}\n")
        partial = workshop / "blivet.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with timed(f"pip: fetching blivet {BLIVET}"):
            done = subprocess.run(
                [
                    *("/usr/bin/python3", "-m", "pip", "--disable-pip-version-check", "install"),
                    *("--quiet", "--no-deps", "--no-compile", "--no-build-isolation"),
                    *("--require-hashes", f"--requirement={requirements}", f"--target={partial}"),
                ],
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise BuildError(f"pip: blivet {BLIVET} could not be installed:\n{done.stderr}")
        partial.rename(modules)
    return modules


def digest(paths: Iterable[Path], *extra: str) -> str:
    """SHA-256 over names, modes and contents of `paths` (trees or files) and over `extra`."""
    total = hashlib.sha256()
    for top in paths:
        for path in [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]:
            if any(part in SKIPPED for part in path.parts):
                continue
            name = path.relative_to(top.parent)
            if path.is_symlink():
                total.update(f"{name}\0link\0{path.readlink()}\0".encode())
            elif path.is_file():
                mode = path.stat().st_mode & 0o777
                total.update(f"{name}\0{mode:o}\0{path.stat().st_size}\0".encode())
                total.update(path.read_bytes())
    for text in extra:
        total.update(f"\0{text}\0".encode())
    return total.hexdigest()
