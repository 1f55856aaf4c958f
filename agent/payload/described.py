"""What the checks and the report ask of an image, whatever it is made of."""

from __future__ import annotations

from typing import Literal, Protocol

from agent.payload.contents import Tree
from agent.payload.manifest import Os, Payload


class Described(Protocol):
    """A signed `Manifest`, or a bootable container that was surveyed."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Literal["tree", "disk"]: ...
    @property
    def os(self) -> Os | None: ...
    @property
    def size(self) -> int:
        """Bytes of the raw image."""

    @property
    def sha256(self) -> str: ...
    @property
    def payload(self) -> Payload:
        """What has to be fetched, and how much that is."""

    @property
    def tree(self) -> Tree | None: ...
