"""The images port: `agent.payload` over HTTP and from registries, GNU tar at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.adapters import command
from agent.adapters.storage.stack import Kernel, kernel_name
from agent.errors import Problem
from agent.machine import Progress
from agent.oci import container
from agent.oci.container import Container
from agent.oci.registries import Registries
from agent.oci.spare import Spare
from agent.payload.apart import apart_of
from agent.payload.client import origin
from agent.payload.described import Described
from agent.payload.direct import Target
from agent.payload.disk import Flashed, FlashOptions, Verify, flash
from agent.payload.fetch import Source, get_manifest, probe
from agent.payload.head import head
from agent.payload.lay import lay
from agent.payload.manifest import Manifest
from agent.payload.options import ANYONE, Access, FetchOptions
from agent.payload.sign import PublicKey
from agent.payload.stamp import Stamp
from agent.payload.stream import Tally
from agent.payload.tree import extract
from agent.proxy import DIRECT, Proxies
from agent.reference import Reference
from agent.tls import OLDEST

CHECK_PATIENCE = 30.0
"""Seconds that a manifest may take before anything is erased; somebody is waiting."""


@dataclass(frozen=True)
class HttpImages:
    """The `Images` port. `ca` is PEM text to trust for TLS instead of the system's authorities.

    `proxies` are those of the live image, used where a plan does not name its own. TLS older than
    `minimum_tls` is not spoken. `spare` tells how many bytes of memory a container may take.
    """

    trusted: Sequence[PublicKey]
    ca: str | None = None
    proxies: Proxies = DIRECT
    registries: Registries = field(default_factory=Registries)
    minimum_tls: str = OLDEST
    spare: Callable[[], int] = lambda: 0

    def options(self, access: Access = ANYONE) -> FetchOptions:
        """Return how this live image fetches what may be had with `access`."""
        return FetchOptions(
            ca=self.ca,
            registry=self.registries,
            token=access.token,
            proxies=self.proxies if access.proxies is None else access.proxies,
            minimum_tls=self.minimum_tls,
        )

    def find(self, urls: Sequence[str], access: Access = ANYONE) -> tuple[Manifest, Source]:
        options = replace(self.options(access), patience=CHECK_PATIENCE)
        return get_manifest(urls, self.trusted, options)

    def survey(self, reference: str, access: Access = ANYONE) -> tuple[Described, Source]:
        named = Reference.parse_image(reference)
        origins, spare = frozenset({origin(named.base)}), Spare(self.spare())
        found = container.survey(named, self.options(access), origins, spare)
        return found, Source(
            manifest_url=str(found.reference),
            sha256=found.sha256,
            key="",
            payload_urls=tuple(layer.url for layer in found.layers),
            origins=origins,
            access=access,
            layers=tuple(layer.digest for layer in found.layers),
        )

    def problems(self, image: Described, source: Source) -> Iterator[Problem]:
        if not isinstance(image, Manifest):
            return
        answers = probe(image, source, self.options(source.access))
        # One good mirror is enough; the others are told of while streaming.
        if any(answer.problem is None for answer in answers):
            return
        for answer in answers:
            yield Problem("image.manifest", f"{answer.url}: {answer.problem}")

    def lay(self, image: Described, source: Source, root: Path, progress: Progress) -> Tally:
        if isinstance(image, Container):
            with closing(image.stream()) as pieces:
                extract(
                    pieces,
                    root,
                    command.feeding,
                    size=image.size,
                    progress=progress,
                    apart=apart_of(image.tree.links, root),
                )
            return Tally(dict(zip(source.payload_urls, image.sizes, strict=True)))
        assert isinstance(image, Manifest)
        options = self.options(source.access)
        return lay(image, source, root, command.feeding, options=options, progress=progress)

    def head(self, image: Manifest, source: Source) -> bytes:
        return head(image, source, self.options(source.access))

    def flash(
        self,
        image: Manifest,
        source: Source,
        target: Target,
        stamp: Stamp,
        *,
        verify: Verify,
        progress: Progress,
    ) -> Flashed:
        # The node in /dev must be the device that the kernel has by that name.
        number = Kernel().number(kernel_name(target.path))
        options = FlashOptions(self.options(source.access), verify, stamp)
        return flash(image, source, replace(target, number=number), options, progress)
