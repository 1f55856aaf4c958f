"""The plans of the directory: found by id, or by the machine they are for.

A plan is served byte by byte as it lies there, since its signature covers its bytes. It is parsed
here only as far as matching needs; whether it is a good plan, the agent says.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.errors import Problem
from agent.report.event import PLAN_ID
from agent.report.text import counted, plain
from agent.secret import Secret
from agent.server.refusal import RefusalError

FILE_LIMIT = 1024 * 1024
"""Bytes of one plan."""
COUNT_LIMIT = 10_000
DEPTH_LIMIT = 50
TRUSTED_SECONDS = 5.0
"""For which names stand for what they stood for, unless the directory or the file changes."""
_Version = tuple[int, int, int]

# Every scalar stays text: as YAML 1.1 has it, the MAC 52:54:00:12:34:56 is a number in base 60 and
# the serial 0123 is 83.
_LOADER: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(frozen=True)
class Identity:
    """What a machine says about itself: MACs in lower case with colons, serial, UUID."""

    macs: frozenset[str]
    serial: str
    uuid: str

    @classmethod
    def of(cls, macs: Sequence[str], serial: str, uuid: str) -> Identity:
        """Normalise; a MAC may have dashes and the `01-` that PXELINUX puts before it (BOOTIF)."""
        known = frozenset(_mac(mac) for mac in macs if mac.strip())
        return cls(known, serial.strip(), uuid.strip().lower())

    def __str__(self) -> str:
        parts = [f"mac={mac}" for mac in sorted(self.macs)]
        parts += [f"serial={self.serial}"] if self.serial else []
        parts += [f"uuid={self.uuid}"] if self.uuid else []
        return plain(" ".join(parts), limit=300) or "nothing"


@dataclass(frozen=True)
class PlanFile:
    """One plan: its exact bytes, and what the server needs of them."""

    id: str
    path: Path
    content: bytes
    hostname: str
    machine: Identity
    tokens: tuple[Secret, ...]
    version: _Version = (0, 0, 0)
    """Modification time in nanoseconds, size and inode of the file when it was read."""

    @property
    def signed(self) -> bool:
        """Whether a signature lies beside it: its bytes may not be changed then."""
        return self.path.with_name(f"{self.path.name}.sig").exists()

    def is_for(self, machine: Identity) -> bool:
        """Return whether all that the plan says about its machine is so; it must say something."""
        wanted = self.machine
        if not (wanted.macs or wanted.serial or wanted.uuid):
            return False
        return (
            (not wanted.macs or not wanted.macs.isdisjoint(machine.macs))
            and wanted.serial in ("", machine.serial)
            and wanted.uuid in ("", machine.uuid)
        )

    def admits(self, token: str) -> bool:
        """Return whether events may be written with this token, in constant time."""
        if not self.tokens:
            return True
        given = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        # All are compared, so that the time does not tell which of them came near.
        fits = [
            hmac.compare_digest(given, hashlib.sha256(known.value).digest())
            for known in self.tokens
        ]
        return any(fits)


class PlanStore:
    """Reads `directory`/*.yaml anew whenever a file has changed. Safe in threads."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._clock = clock
        self._read: dict[str, tuple[_Version, PlanFile | Problem]] = {}
        self._index = _Index(())
        self._looked: tuple[int, float] = (0, float("-inf"))

    def all(self) -> tuple[PlanFile, ...]:
        """Return every readable plan, by file name."""
        return tuple(each for each in self._refreshed() if isinstance(each, PlanFile))

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong with the files that are not served."""
        return tuple(each for each in self._refreshed() if isinstance(each, Problem))

    def find(self, plan: str) -> PlanFile | None:
        """Return the plan with this id, or else the one whose file is called so."""
        found = self._remembered(lambda index: index.named(plan))
        if found is None:
            self._refreshed()
            found = self._index.named(plan)
        if len(found) > 1:
            raise RefusalError(409, _several(f"plan {plain(plan, limit=140)}", found))
        return found[0] if found else None

    def match(self, machine: Identity) -> PlanFile:
        """Return the one plan for a machine; raise `RefusalError` 404 or 409 with the reason."""
        found = self._remembered(lambda index: index.of(machine))
        count = 0
        if not found:
            count = len(self.all())
            found = self._index.of(machine)
        if len(found) > 1:
            raise RefusalError(409, _several(str(machine), found))
        if not found:
            raise RefusalError(404, "\n".join(self._why_none(machine, count)))
        return found[0]

    def _remembered(self, choose: Callable[[_Index], list[PlanFile]]) -> list[PlanFile] | None:
        """Return what `choose` finds, if the directory and the found files are as they were.

        Every batch of events asks for a plan: with a thousand of them in the directory each answer
        would cost a thousand calls of stat. A file that is changed in place and takes over a name
        that another has, or that nobody had, may stay unseen for a few seconds.
        """
        with self._lock:
            index, (modified, looked) = self._index, self._looked
        if modified != self._directory.stat().st_mtime_ns:
            return None
        if self._clock() - looked >= TRUSTED_SECONDS:
            return None
        found = choose(index)
        same = all(each.version == _version(each.path) for each in found)
        return found if same else None

    def _why_none(self, machine: Identity, count: int) -> Iterator[str]:
        yield f"no plan for {machine}"
        known = counted(count, "plan")
        yield f"{known} known; every key under a plan's machine: must match the query"
        problems = self.problems()
        for problem in problems[:10]:
            yield f"not served: {problem}"
        if len(problems) > 10:
            yield f"and {len(problems) - 10} more files that are not served"

    def _refreshed(self) -> list[PlanFile | Problem]:
        with self._lock:
            self._looked = self._directory.stat().st_mtime_ns, self._clock()
            read: dict[str, tuple[_Version, PlanFile | Problem]] = {}
            for name, version in _plan_files(self._directory):
                known = self._read.get(name)
                if known is None or known[0] != version:
                    known = version, _read(self._directory / name, version)
                read[name] = known
            if read != self._read:
                self._index = _Index([p for _, p in read.values() if isinstance(p, PlanFile)])
            self._read = read
            return [each for _, each in read.values()]


class _Index:
    """Plans by what they are asked for with. Never changed once it is made."""

    def __init__(self, plans: Sequence[PlanFile]) -> None:
        self._ids: dict[str, list[PlanFile]] = {}
        self._stems: dict[str, list[PlanFile]] = {}
        self._machines: dict[str, list[PlanFile]] = {}
        for plan in plans:
            self._ids.setdefault(plan.id, []).append(plan)
            self._stems.setdefault(plan.path.stem, []).append(plan)
            for key in _keys(plan.machine):
                self._machines.setdefault(key, []).append(plan)

    def named(self, plan: str) -> list[PlanFile]:
        """Return the plans with this id, or else those whose file is called so."""
        # The agent writes a UUID in lower case, whatever the plan's author did.
        return self._ids.get(plan.lower(), []) or self._stems.get(plan, [])

    def of(self, machine: Identity) -> list[PlanFile]:
        """Return the plans for a machine, in the order of their files."""
        near = [plan for key in _keys(machine) for plan in self._machines.get(key, ())]
        found = {plan.path: plan for plan in near if plan.is_for(machine)}
        return sorted(found.values(), key=lambda plan: plan.path.name)


def _keys(machine: Identity) -> list[str]:
    keys = [f"mac {mac}" for mac in machine.macs]
    keys += [f"serial {machine.serial}"] if machine.serial else []
    return keys + ([f"uuid {machine.uuid}"] if machine.uuid else [])


def _version(path: Path) -> _Version | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _plan_files(directory: Path) -> list[tuple[str, _Version]]:
    files = []
    with os.scandir(directory) as entries:
        for entry in entries:
            # A name that begins with a dot is a file still being copied.
            if entry.name.endswith((".yaml", ".yml")) and not entry.name.startswith("."):
                try:
                    found = entry.stat()
                except OSError:  # removed meanwhile, or a link to nothing
                    continue
                version = (found.st_mtime_ns, found.st_size, found.st_ino)
                files.append((entry.name, version))
    return sorted(files)[:COUNT_LIMIT]


def _read(path: Path, version: _Version) -> PlanFile | Problem:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            return Problem(path.name, f"is larger than {FILE_LIMIT} bytes")
        _check_depth(content)
        document = yaml.load(content, _LOADER)  # noqa: S506  # knows no types but text
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        return Problem(path.name, plain(str(error), limit=300))
    if not isinstance(document, dict) or not PLAN_ID.fullmatch(_text(document.get("id"))):
        return Problem(path.name, "has no id of letters, digits, dots, dashes and underscores")
    machine = document.get("machine")
    machine = machine if isinstance(machine, dict) else {}
    return PlanFile(
        id=document["id"].lower(),
        path=path,
        content=content,
        hostname=_text(document.get("hostname")),
        machine=Identity.of(
            _texts(machine.get("mac")), _text(machine.get("serial")), _text(machine.get("uuid"))
        ),
        tokens=tuple(_tokens(document.get("report"))),
        version=version,
    )


def _check_depth(content: bytes) -> None:
    """Raise `ValueError` for nesting on which libyaml's composer would overflow the C stack."""
    depth = 0
    for event in yaml.parse(content, _LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > DEPTH_LIMIT:
            raise ValueError(f"is nested deeper than {DEPTH_LIMIT}")


def _tokens(report: object) -> Iterator[Secret]:
    for entry in report if isinstance(report, list) else []:
        if isinstance(entry, dict) and entry.get("type") == "http" and _text(entry.get("token")):
            yield Secret(entry["token"])


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> list[str]:
    return [_text(each) for each in value] if isinstance(value, list) else [_text(value)]


def _mac(text: str) -> str:
    mac = text.strip().lower().replace("-", ":")
    return mac[3:] if len(mac) == 20 and mac.startswith("01:") else mac


def _several(what: str, found: Sequence[PlanFile]) -> str:
    names = ", ".join(f"{each.path.name} (id {each.id})" for each in found[:10])
    return f"{what} has {len(found)} plans, there must be one: {names}"
