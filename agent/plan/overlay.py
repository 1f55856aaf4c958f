"""Small images that are laid over the first: a group's, then the host's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from agent.plan.disks import OneOrMore
from agent.plan.image import NOT_OLDER_THAN
from agent.plan.part import Fault, Part
from agent.plan.text import ImageUrl, Time, Token


class Overlay(Part):
    """An image that is laid over what is there: a group's layer, then the host's own.

    It is packed as any tree (`bedplate pack`) and signed as any image. Its files take the place of
    those that are there; directories get its owners and modes; nothing is removed. Proxies are
    those of `image`.
    """

    example: ClassVar[str] = """\
manifest: https://images.example.com/databases.json
"""

    manifest: OneOrMore[ImageUrl] = Field(
        description="where its manifest lies; several addresses are mirrors, as in `image`"
    )
    token: Token | None = Field(
        None, description="bearer token for the hosts named in `manifest`, sent to no other"
    )

    not_older_than: Time | None = Field(None, description=NOT_OLDER_THAN)

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._mirrors_differ(),)

    def _mirrors_differ(self) -> Iterator[Fault]:
        for number, url in enumerate(self.manifest):
            if url in self.manifest[:number]:
                yield Fault(("manifest", number), f"{url} is there twice")
