"""May the members of an archive be moved? Whether unpacking it depends on their order.

Hard links and directories may go last when each name comes once, nothing lies below what is no
directory, and no header speaks for several members: then no two members touch the same inode but
a directory and what lies in it, or a file and its hard links, and those go last in both cases.
docs/image-format.md tells the rules; each is one `_doubt` below.

Names are kept as numbers of 64 bits, some 80 bytes of memory for each member; two names that share
one are taken for the same name, which only costs the order.
"""

from __future__ import annotations

from agent.payload.cuts import digest64
from agent.payload.tar import Member


class Order:
    """Sees every member in order; `reason` is empty as long as they may be moved."""

    def __init__(self) -> None:
        self.reason = ""
        self._directories: set[int] = set()
        self._others: set[int] = set()
        self._parents: set[int] = set()
        self._awaited: set[int] = set()
        self._missing: dict[int, bytes] = {}
        self._giving: set[bytes] = set()

    def see(self, member: Member) -> None:
        name = member.place.name
        key = digest64(name)
        if key in self._others or (key in self._directories and member.type != "directory"):
            self._doubt(member.path, "is there twice")
        if member.type == "directory":
            self._directories.add(key)
            self._missing.pop(key, None)
            if member.place.gives:
                self._giving.add(name)
        else:
            self._others.add(key)
            if key in self._parents:
                self._doubt(member.path, "is no directory, and comes after what lies below it")
            if key in self._awaited:
                self._doubt(member.path, "comes after a hard link to it")
        self._look_above(member, name)
        if member.type == "hardlink":
            self._look_above(member, member.place.link)
            target = digest64(member.place.link)
            if target not in self._others:
                self._awaited.add(target)

    @property
    def parents(self) -> bool:
        """Whether each directory that something lies in has a member, but for the root."""
        return not any(self._missing.values())

    def close(self) -> None:
        """Say that there are no more members."""
        for missing in self._missing.values():
            above = missing
            while above:
                above = above.rpartition(b"/")[0]
                if above in self._giving:
                    shown = missing.decode(errors="replace")
                    self._doubt(shown, "has no entry, and takes its group or ACL from above")

    def _look_above(self, member: Member, name: bytes) -> None:
        """Take note of the directories that `name` lies in."""
        while name:
            name = name.rpartition(b"/")[0]
            key = digest64(name)
            if key in self._parents:
                return
            self._parents.add(key)
            if key in self._others:
                self._doubt(member.path, "lies below what is no directory")
            if key not in self._directories:
                self._missing[key] = name

    def _doubt(self, path: str, what: str) -> None:
        self.reason = self.reason or f"{path}: {what}"
