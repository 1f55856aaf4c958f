"""Packed images, made by `bedplate pack` as operators make them; kept until its code changes."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.payload.manifest import Manifest
from qemu.program import repository
from tests.bench.inputs import TAR, Say
from tests.bench.process import Argv, run

REPOSITORY = repository()
BEDPLATE = (sys.executable, "-m", "agent")


@dataclass(frozen=True)
class Packed:
    """An image below build/bench, which is what the bench's server serves."""

    document: Path

    @property
    def manifest(self) -> Manifest:
        return Manifest.model_validate_json(self.document.read_bytes())

    @property
    def payload(self) -> Path:
        (url,) = json.loads(self.document.read_bytes())["payload"]["urls"]
        return self.document.with_name(url)


class Packer:
    """Packs into a directory that is named by the code that packs."""

    def __init__(self, directory: Path, say: Say) -> None:
        self._say = say
        self.key = directory / "image.key"
        self.trusted = directory / "image.pub"
        if not self.trusted.exists():
            directory.mkdir(parents=True, exist_ok=True)
            run([*BEDPLATE, "keygen", "image", "-d", directory], cwd=REPOSITORY)
        code = hashlib.sha256()
        for file in sorted((REPOSITORY / "agent/payload").rglob("*.py")):
            code.update(file.read_bytes())
        self._directory = directory / "packed" / code.hexdigest()[:12]
        for old in (directory / "packed").glob("*"):
            if old != self._directory:
                shutil.rmtree(old)

    def pack(self, source: Path, name: str, *more: str) -> Packed:
        """Pack a file, or a directory as a tar of it, unless that was done; `more` are options."""
        digest = hashlib.sha256(repr((str(source), more)).encode()).hexdigest()[:12]
        place = self._directory / f"{name}-{digest}"
        packed = Packed(place / f"{name}.json")
        if packed.document.exists():
            return packed
        self._say(f"inputs: packing {name}")
        place.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # Copies are hard links to one file, and are to be many files in the image.
            tar: list[str] = [*TAR, "--hard-dereference", "--directory", str(source), "."]
            pipe = ["bash", "-c", 'set -o pipefail; n=$1; shift; "${@:1:n}" | "${@:n+1}"', "pack"]
            command: Argv = [*pipe, str(len(tar)), *tar, *self.argv(Path("-"), name, place, *more)]
            run(command, cwd=REPOSITORY)
        else:
            run(self.argv(source, name, place, *more), cwd=REPOSITORY)
        return packed

    def argv(self, source: Path, name: str, directory: Path, *more: str) -> list[str]:
        """Return the command that packs."""
        given = ["--name", name, "--key", str(self.key), "--directory", str(directory)]
        return [*BEDPLATE, "pack", str(source), *given, *more]


def new_bytes(manifest: Manifest, before: Manifest) -> int:
    """Return how many bytes of the payload are in no chunk of the one before."""
    known = {chunk.sha256 for chunk in before.chunks}
    chunks = {chunk.sha256: chunk.stored for chunk in manifest.chunks}
    return sum(stored for digest, stored in chunks.items() if digest not in known)


def fetched(manifest: Manifest) -> int:
    """Return how many bytes of the payload an installation fetches."""
    return sum(chunk.stored for chunk in manifest.chunks if not chunk.zero)


def warm(files: Iterable[Path]) -> None:
    """Read files into the page cache, so that the first round is like the others."""
    buffer = bytearray(4 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
