"""Which image is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from agent.plan.disks import OneOrMore
from agent.plan.part import Fault, Part, one_of
from agent.plan.text import ContainerAddress, ImageUrl, NoProxy, ProxyUrl, Time, Token

Verify = Literal["sample", "full"]
VERIFY: tuple[Verify, ...] = ("sample", "full")


NOT_OLDER_THAN = (
    "refuses an image that was packed before this: one with a good signature may still be an old "
    "one, which a mirror kept or somebody put there"
)


class Image(Part):
    """The image: by the address of its signed manifest, or a bootable container by its digest.

    A manifest's signature lies beside it (`.sig`), it says where the payload lies. Which keys are
    trusted is a matter of the live image, not of the plan. A container has no signature of ours:
    the digest in the plan decides what it is, so who can change the plan can change the system.
    """

    # Editors are told by the schema what `_one_image` says.
    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["manifest"]}, {"required": ["oci"]}]}
    )
    example: ClassVar[str] = """\
manifest:
  - https://images.example.com/debian13.json
  - https://mirror.example.com/debian13.json
"""

    manifest: OneOrMore[ImageUrl] = Field(
        (),
        description="where the manifest lies: http, https, file for a medium in the machine, "
        "`oci://registry/repository:tag` for a registry (`oci+http://`: without TLS); several "
        "addresses are mirrors, tried in this order, and then share the work by their speed",
    )
    oci: ContainerAddress | None = Field(
        None,
        description="instead of `manifest`: a bootable container, "
        "`registry.example.com/repository@sha256:…`; its layers are laid over each other",
    )
    token: Token | None = Field(
        None,
        description="bearer token (RFC 6750) for the hosts named in `manifest` or `oci`, sent to "
        "no other",
    )
    proxy: ProxyUrl | None = Field(
        None,
        description="HTTP proxy the image is fetched through, `http://[user:password@]host:port`; "
        "by default the one of the live image's kernel command line (`bedplate.proxy=`), if any",
    )
    no_proxy: OneOrMore[NoProxy] = Field(
        (),
        description="hosts asked without the proxy: names (with all below them), addresses, "
        "networks such as 192.0.2.0/24",
    )
    not_older_than: Time | None = Field(None, description=NOT_OLDER_THAN)
    verify: Annotated[Verify, one_of(VERIFY)] = Field(
        "sample",
        description="how much of a whole-disk image is read back from the disks before they may "
        "boot: both ends and places chosen by chance, or every byte",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (
            self._one_image(),
            self._mirrors_differ(),
            self._proxy_is_there(),
            self._one_way_to_pin(),
        )

    def _one_way_to_pin(self) -> Iterator[Fault]:
        if self.not_older_than is not None and self.oci is not None:
            message = "the digest in oci says which image it is already: leave this out"
            yield Fault(("not_older_than",), message)

    def _one_image(self) -> Iterator[Fault]:
        if not self.manifest and self.oci is None:
            yield Fault(
                ("manifest",),
                "is missing: where the manifest lies; or give oci, a container by its digest",
            )
        elif self.manifest and self.oci is not None:
            yield Fault(("oci",), "is given beside manifest: one image is installed, drop one")

    def _mirrors_differ(self) -> Iterator[Fault]:
        for number, url in enumerate(self.manifest):
            if url in self.manifest[:number]:
                yield Fault(("manifest", number), f"{url} is there twice")

    def _proxy_is_there(self) -> Iterator[Fault]:
        if self.no_proxy and self.proxy is None:
            yield Fault(("no_proxy",), "names hosts to ask without a proxy, and there is no proxy")
