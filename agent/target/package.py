"""Which package would bring a piece that an image lacks, so that a refusal says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import Problem
from agent.target.contents import Contents


@dataclass(frozen=True)
class Piece:
    """A word of `Contents`, why it is needed, and the packages of the two big families with it."""

    word: str
    why: str
    debian: str
    fedora: str

    def problem(self, image: str, contents: Contents, *, debian: bool) -> Problem | None:
        """Return what is wrong with the image without this piece; None with it."""
        if contents.has(self.word):
            return None
        package = self.debian if debian else self.fedora
        return Problem(
            "image.manifest",
            f"{image} has no {self.word}, which {self.why}: build it with the package {package}",
        )
