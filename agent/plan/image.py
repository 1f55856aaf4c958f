"""Which image is installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from agent.plan.disks import OneOrMore
from agent.plan.part import Fault, Part, one_of
from agent.plan.text import Url

Verify = Literal["sample", "full"]
VERIFY: tuple[Verify, ...] = ("sample", "full")


class Image(Part):
    """The image, by the address of its signed manifest.

    The signature lies beside it (`.sig`), the manifest says where the payload lies. Which keys are
    trusted is a matter of the live image, not of the plan.
    """

    later: ClassVar[frozenset[str]] = frozenset({"oci"})
    example: ClassVar[str] = """\
manifest:
  - https://images.example.com/debian13.json
  - https://mirror.example.com/debian13.json
"""

    manifest: OneOrMore[Url] = Field(
        description="where the manifest lies; several addresses are mirrors, tried in this order"
    )
    verify: Annotated[Verify, one_of(VERIFY)] = Field(
        "sample",
        description="how much of a whole-disk image is read back from the disks before they may "
        "boot: both ends and places chosen by chance, or every byte",
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._mirrors_differ(),)

    def _mirrors_differ(self) -> Iterator[Fault]:
        for number, url in enumerate(self.manifest):
            if url in self.manifest[:number]:
                yield Fault(("manifest", number), f"{url} is there twice")
