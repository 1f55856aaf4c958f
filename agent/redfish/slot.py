"""A place for a virtual CD, and how the address of an image is shown."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Slot:
    """A place for a virtual CD: on the system, or on a manager where BMCs are older."""

    name: str
    where: str
    image: str
    inserted: bool


def shown(url: str) -> str:
    """Return a URL without user information: sites put passwords there."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
