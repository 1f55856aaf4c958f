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
from agent.payload.options import ANYONE, Access, FetchOptions
from agent.payload.sign import PublicKey
from agent.payload.stream import Tally, stream
from agent.payload.tree import extract
from agent.proxy import DIRECT, Proxies

CHECK_PATIENCE = 30.0
"""Seconds that a manifest may take before anything is erased; somebody is waiting."""


@dataclass(frozen=True)
class HttpImages:
    """The `Images` port. `ca` is PEM text to trust for TLS instead of the system's authorities.

    `proxies` are those of the live image, used where a plan does not name its own.
    """

    trusted: Sequence[PublicKey]
    ca: str | None = None
    proxies: Proxies = DIRECT
    registries: Registries = field(default_factory=Registries)

    def options(self, access: Access = ANYONE) -> FetchOptions:
        """Return how this live image fetches what may be had with `access`."""
        return FetchOptions(
            ca=self.ca,
            registry=self.registries,
            token=access.token,
            proxies=self.proxies if access.proxies is None else access.proxies,
        )

    def find(self, urls: Sequence[str], access: Access = ANYONE) -> tuple[Manifest, Source]:
        options = replace(self.options(access), patience=CHECK_PATIENCE)
        return get_manifest(urls, self.trusted, options)

    def problems(self, manifest: Manifest, source: Source) -> Iterator[Problem]:
        answers = probe(manifest, source, self.options(source.access))
        # One good mirror is enough; the others are told of while streaming.
        if any(answer.problem is None for answer in answers):
            return
        for answer in answers:
            yield Problem("image.manifest", f"{answer.url}: {answer.problem}")

    def lay(self, manifest: Manifest, source: Source, root: Path, progress: Progress) -> Tally:
        tally = Tally()
        with closing(stream(manifest, source, self.options(source.access), tally)) as chunks:
            extract(chunks, root, command.feeding, size=manifest.size, progress=progress)
        return tally
