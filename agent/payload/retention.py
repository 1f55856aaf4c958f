"""Which images of a directory are still named by a plan, and which can go.

Images of hosts are transient and those of groups stay, so the plans decide. What cannot be told for
sure is kept: a file that belongs to no image here, a manifest that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from agent.errors import PlanError
from agent.payload.document import parse
from agent.payload.manifest import Manifest


@dataclass(frozen=True)
class Stored:
    """An image in a directory: its manifest and every file of it that lies there."""

    document: Path
    manifest: Manifest
    files: tuple[Path, ...]
    size: int
    """Bytes that go when it goes."""
    changed: float
    """When the youngest of its files was written, in Unix seconds."""


@dataclass(frozen=True)
class Keep:
    """What keeps an image: a plan that names it, a pattern that its name matches, its youth.

    A plan names it by the file name of its manifest: one directory is known by many addresses.
    """

    named: Mapping[str, str]
    """File name of a manifest → the plan that names it."""
    patterns: Sequence[str] = ()
    since: float = float("inf")
    """Unix seconds; what was written later stays. A plan for it may not be there yet."""

    def reason(self, image: Stored) -> str | None:
        """Return why the image stays, or None when it can go."""
        if plan := self.named.get(image.document.name):
            return f"named by {plan}"
        for pattern in self.patterns:
            if fnmatchcase(image.manifest.name, pattern):
                return f"matches {pattern}"
        if image.changed > self.since:
            return "is new"
        return None


@dataclass(frozen=True)
class Sweep:
    """What stays and why, what can go, and which files can go with it.

    A payload that a staying image shares with a going one stays.
    """

    stays: tuple[tuple[Stored, str], ...]
    goes: tuple[Stored, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """The files to remove, manifests before payloads: a manifest promises its payload."""
        needed = {path for image, _ in self.stays for path in image.files}
        order = [path for image in self.goes for path in sorted(image.files, key=_rank)]
        return tuple(path for path in dict.fromkeys(order) if path not in needed)


def stored(directory: Path) -> Iterator[Stored]:
    """Yield the images of a directory: every valid manifest with what lies beside it."""
    for document in sorted(directory.glob("*.json")):
        try:
            manifest = parse(document.read_bytes())
        except (OSError, PlanError):
            continue  # some other JSON, or a manifest of another version: not ours to remove
        payloads = (directory / name for name in _beside(manifest))
        every = (document, document.with_name(f"{document.name}.sig"), *payloads)
        files = tuple(path for path in every if path.is_file())
        states = [path.stat() for path in files]
        size, changed = sum(s.st_size for s in states), max(s.st_mtime for s in states)
        yield Stored(document, manifest, files, size, changed)


def manifest_names(urls: Iterable[str]) -> Iterator[str]:
    """Yield the file name at the end of each manifest's address."""
    for url in urls:
        yield unquote(PurePosixPath(urlsplit(url).path).name)


def sweep(images: Iterable[Stored], keep: Keep) -> Sweep:
    """Decide for each image; removes nothing."""
    stays, goes = [], []
    for image in images:
        reason = keep.reason(image)
        if reason is None:
            goes.append(image)
        else:
            stays.append((image, reason))
    return Sweep(tuple(stays), tuple(goes))


def _beside(manifest: Manifest) -> Iterator[str]:
    """Yield the payload's file names in the manifest's own directory."""
    return (url for url in manifest.payload.urls if "/" not in url)


def _rank(path: Path) -> int:
    return (".json", ".sig").index(path.suffix) if path.suffix in {".json", ".sig"} else 2
