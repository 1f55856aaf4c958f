"""What an operator puts on a medium for one host, and under which names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PlanError, Problem
from agent.media import names
from agent.payload.sign import load_public_keys

_FORBIDDEN = "'\"\\"
# setup_header.cmdline_size of x86 kernels, with room for the live image's own options.
_LONGEST_OPTIONS = 1500


@dataclass(frozen=True)
class Cargo:
    """Files by their role; `images` are manifests, whose signature and payload lie beside them."""

    plan: Path | None = None
    signature: Path | None = None
    authorities: Sequence[Path] = ()
    image_keys: Sequence[Path] = ()
    plan_keys: Sequence[Path] = ()
    images: Sequence[Path] = ()

    def files(self) -> dict[str, Path]:
        """Return every file by its name on the medium; raise `PlanError` with what is wrong."""
        problems = list(self._problems())
        placed = list(self._placed())
        twice = [name for name, count in Counter(name for name, _ in placed).items() if count > 1]
        problems += [Problem(name, "would be on the medium twice") for name in twice]
        if problems:
            raise PlanError(problems)
        return dict(placed)

    def _placed(self) -> Iterator[tuple[str, Path]]:
        if self.plan is not None:
            yield names.PLAN, self.plan
        if self.signature is not None:
            yield f"{names.PLAN}.sig", self.signature
        for directory, suffix, paths in (
            (names.AUTHORITIES, ".pem", self.authorities),
            (names.IMAGE_KEYS, ".pub", self.image_keys),
            (names.PLAN_KEYS, ".pub", self.plan_keys),
        ):
            for path in paths:
                yield f"{directory}/{path.stem}{suffix}", path
        for manifest in self.images:
            for path in _image(manifest):
                yield f"{names.IMAGES}/{path.name}", path

    def _problems(self) -> Iterator[Problem]:
        for path in (*self.image_keys, *self.plan_keys):
            content = path.read_bytes()
            if b"PRIVATE KEY" in content:
                yield Problem(str(path), "holds a private key, only public ones belong on a medium")
                continue
            try:
                load_public_keys(content, str(path))
            except PlanError as error:
                yield from error.problems
        for path in self.authorities:
            content = path.read_bytes()
            if b"PRIVATE KEY" in content:
                yield Problem(str(path), "holds a private key, only certificates belong here")
            elif b"-----BEGIN CERTIFICATE-----" not in content:
                yield Problem(str(path), "holds no certificate in PEM")
        for manifest in self.images:
            yield from _incomplete(manifest)


def check_options(options: str) -> None:
    """Raise `PlanError` where GRUB could not hand kernel options on as they are written."""
    bad = sorted({letter for letter in options if letter in _FORBIDDEN or not letter.isprintable()})
    if bad:
        shown = " ".join(repr(letter) for letter in bad)
        raise PlanError([Problem("--cmdline", f"may not hold {shown}, GRUB would change them")])
    if len(options) > _LONGEST_OPTIONS:
        message = f"has {len(options)} characters, {_LONGEST_OPTIONS} fit beside the image's own"
        raise PlanError([Problem("--cmdline", message)])


def _image(manifest: Path) -> Iterable[Path]:
    stem = manifest.name.removesuffix(".json")
    signature = manifest.with_name(f"{manifest.name}.sig")
    payloads = (manifest.with_name(f"{stem}{suffix}") for suffix in _PAYLOADS)
    return [path for path in (manifest, signature, *payloads) if path.exists()]


_PAYLOADS = (".tar.zst", ".raw.zst")


def _incomplete(manifest: Path) -> Iterator[Problem]:
    found = {path.name for path in _image(manifest)}
    if f"{manifest.name}.sig" not in found:
        yield Problem(str(manifest), f"has no signature beside it, {manifest.name}.sig")
    if not any(name.endswith(_PAYLOADS) for name in found):
        yield Problem(str(manifest), "has no payload beside it, NAME.tar.zst or NAME.raw.zst")
