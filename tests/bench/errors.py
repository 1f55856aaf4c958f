"""What keeps the bench from measuring at all."""

from __future__ import annotations


class BenchError(Exception):
    """The bench cannot go on; the message says what is missing or wrong."""
