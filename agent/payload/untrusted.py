"""What an archive that nobody we know has signed may bring: nothing to become root by.

Such an archive is read before GNU tar gets it, by a reader that refuses whatever the two might
understand differently; and the kernel refuses devices and capabilities to a tar without the right
to make them, should they differ all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.errors import ImageError
from agent.payload.tar import Member, TarError, TarReader

DROPPED = ("setpriv", "--bounding-set=-mknod,-setfcap")
"""Run a program that can make neither device nodes nor files with capabilities: setpriv(1)."""


def admitted(chunks: Iterable[bytes | memoryview], where: object) -> Iterator[bytes | memoryview]:
    """Yield the chunks of an archive as long as no member brings privileges.

    Refused are device nodes, set-id bits of anything but directories, and capabilities: raises
    `ImageError` that begins with `where` and names the member, before its header is yielded whole.
    """

    def judge(member: Member) -> None:
        if member.privilege:
            what = f"{member.path}: {member.privilege}"
            raise ImageError(f"{where}: {what}, which only a signed image may bring")

    reader = TarReader(judge, lambda path: 0)
    try:
        for chunk in chunks:
            reader.feed(chunk)
            yield chunk
        reader.close()
    except TarError as error:
        raise ImageError(f"{where}: the archive {error}") from None
