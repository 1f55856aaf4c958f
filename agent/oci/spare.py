"""Memory that nobody needs for now: what fits stays from a layer's first reading to its second.

A machine of a server's size has room for a whole container, which then comes over the network once.
One that is short of memory keeps what it can, or nothing, and asks for the rest again.
"""

from __future__ import annotations


class Spare:
    """A number of bytes that may be held in all, by whoever takes them. For one thread."""

    def __init__(self, size: int = 0) -> None:
        self.left = max(0, size)

    def take(self, size: int) -> bool:
        """Take `size` bytes; False where they are not there."""
        if size > self.left:
            return False
        self.left -= size
        return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.left += size
