"""The images port: `agent.payload` over HTTP and from registries, GNU tar at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.adapters import command
from agent.errors import Problem
from agent.machine import Progress
from agent.oci.registries import Registries
from agent.payload.fetch import Source, get_manifest, probe
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import PublicKey
from agent.payload.stream import stream
from agent.payload.tree import extract

CHECK_PATIENCE = 30.0
"""Seconds that a manifest may take before anything is erased; somebody is waiting."""


@dataclass(frozen=True)
class HttpImages:
    """The `Images` port. `ca` is PEM text to trust for TLS instead of the system's authorities."""

    trusted: Sequence[PublicKey]
    ca: str | None = None
    registries: Registries = field(default_factory=Registries)

    @property
    def options(self) -> FetchOptions:
        return FetchOptions(ca=self.ca, registry=self.registries)

    def find(self, urls: Sequence[str]) -> tuple[Manifest, Source]:
        return get_manifest(urls, self.trusted, replace(self.options, patience=CHECK_PATIENCE))

    def problems(self, manifest: Manifest, source: Source) -> Iterator[Problem]:
        answers = probe(manifest, source, self.options)
        # One good mirror is enough; the others are told of while streaming.
        if any(answer.problem is None for answer in answers):
            return
        for answer in answers:
            yield Problem("image.manifest", f"{answer.url}: {answer.problem}")

    def lay(self, manifest: Manifest, source: Source, root: Path, progress: Progress) -> None:
        with closing(stream(manifest, source, self.options)) as chunks:
            extract(chunks, root, command.feeding, size=manifest.size, progress=progress)
