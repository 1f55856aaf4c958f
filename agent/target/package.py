"""Which package would bring a piece that an image lacks, so that a refusal says what to do."""

from __future__ import annotations

from dataclasses import dataclass

from agent.errors import Problem
from agent.target.contents import Contents
from agent.target.os_release import OsRelease


@dataclass(frozen=True)
class Piece:
    """A word of `Contents`, why it is needed, and the packages of the big families with it.

    `suse` is empty where it is called as in Fedora.
    """

    word: str
    why: str
    debian: str
    fedora: str
    suse: str = ""

    def problem(self, image: str, contents: Contents, os: OsRelease) -> Problem | None:
        """Return what is wrong with the image without this piece; None with it."""
        if contents.has(self.word):
            return None
        package = self.package(os)
        return Problem(
            "image.manifest",
            f"{image} has no {self.word}, which {self.why}: build it with the package {package}",
        )

    def package(self, os: OsRelease) -> str:
        if os.debian:
            return self.debian
        return (self.suse or self.fedora) if os.suse else self.fedora
