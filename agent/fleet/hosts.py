"""Read the list of hosts of a fleet: what each plan has that the base has not.

CSV has a column for each key, written as a path (`machine.serial`, `disks.where.serial[0]`); an
empty cell leaves the base's value. YAML has a list of mappings, as deep as needed.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from agent.errors import PlanError, Problem

MOST_HOSTS = 100_000
_STEP = re.compile(r"([A-Za-z0-9_-]+)((?:\[\d+\])*)")
NO_TEXT = frozenset(
    {
        "count", "fips", "grow", "on_different_controllers", "optional", "pcrs", "rotational",
        "version", "vlan",
    }
)  # fmt: skip
"""Keys of a plan whose value is true, false or a number; a cell of any other is text."""
SIZES = frozenset({"leave", "max", "min", "size", "swap", "zram"})
"""Keys whose value may be a bare number too: of bytes."""
Path = tuple[str | int, ...]


class Written(str):
    """A number or truth value as it was written: `0012` stays 0012 for the plan to judge."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):
    """YAML without what it makes of bare words, and without a key that is there twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(
                    None, None, f"{key.value} is there twice", key.start_mark
                )
            seen.update([key.value] if isinstance(key, yaml.ScalarNode) else ())
        return super().construct_mapping(node, deep)


def _as_written(loader: yaml.SafeLoader, node: Any) -> str:
    del loader
    # Numbers to the base 60 are a thing of YAML 1.1 alone: what is written so is a MAC address.
    dated = node.tag.endswith("timestamp")
    return str(node.value) if dated or ":" in node.value else Written(node.value)


for _kind in ("bool", "int", "float", "timestamp"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _as_written)


@dataclass(frozen=True)
class Host:
    """One entry of the list; `where` names it in messages: `hosts.csv line 7`."""

    where: str
    values: Mapping[str, Any]


def read_hosts(text: bytes, name: str) -> tuple[Host, ...]:
    """Return the hosts in a file; CSV where its name says so, else YAML.

    Raises `PlanError` with every problem in it.
    """
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(name, f"is not UTF-8: {error.reason} at byte {error.start}") from None
    hosts = tuple(_csv(decoded, name) if name.endswith(".csv") else _yaml(decoded, name))
    if not hosts:
        raise _refused(name, "names no host")
    if len(hosts) > MOST_HOSTS:
        raise _refused(name, f"names {len(hosts)} hosts, at most {MOST_HOSTS} are read")
    return hosts


@dataclass
class _Lines:
    """The lines of a CSV file without comments; knows the number that each had with them."""

    text: str
    numbers: list[int] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        quoted = False
        for number, line in enumerate(io.StringIO(self.text, newline=""), start=1):
            if line.startswith("#") and not quoted:
                continue
            quoted ^= line.count('"') % 2 == 1
            self.numbers.append(number)
            yield line


def _csv(text: str, name: str) -> Iterator[Host]:
    lines = _Lines(text)
    reader = csv.reader(lines, strict=True)
    problems: list[Problem] = []

    def here() -> str:
        return f"{name} line {lines.numbers[reader.line_num - 1]}"

    try:
        header = [column.strip() for column in next(reader, [])]
        paths = [_path(column, name) for column in header]
        for column in sorted({column for column in header if header.count(column) > 1}):
            problems.append(Problem(name, f"has the column {column} twice"))
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                message = f"has {len(cells)} cells, the header has {len(header)} columns"
                problems.append(Problem(here(), message))
                continue
            try:
                yield Host(here(), _values(paths, cells, here()))
            except PlanError as error:
                problems += error.problems
    except csv.Error as error:
        problems.append(Problem(here(), f"is not CSV: {error}"))
    if problems:
        raise PlanError(problems)


def _values(paths: list[Path], cells: list[str], where: str) -> dict[str, Any]:
    """Return what a line says of its host, whatever the order of its columns."""
    given = [(path, cell.strip()) for path, cell in zip(paths, cells, strict=True) if cell.strip()]
    values: dict[str, Any] = {}
    for path, cell in sorted(given, key=lambda one: [(isinstance(s, int), s) for s in one[0]]):
        _put(values, path, _scalar(path, cell, where), where)
    return values


def _yaml(text: str, name: str) -> Iterator[Host]:
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 – a SafeLoader
    except yaml.YAMLError as error:
        raise _refused(name, f"is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise _refused(name, "is nested too deep for a list of hosts") from None
    if isinstance(content, Mapping):
        content = content.get("hosts")
    if not isinstance(content, list):
        raise _refused(name, "is neither a list of hosts nor a mapping with the key hosts")
    for number, entry in enumerate(content):
        if not isinstance(entry, Mapping):
            raise _refused(f"{name}: hosts[{number}]", "is not a mapping of a plan's keys")
        yield Host(f"{name}: hosts[{number}]", entry)


def _path(column: str, name: str) -> Path:
    path: list[str | int] = []
    for step in column.split("."):
        match = _STEP.fullmatch(step)
        if match is None:
            hint = "; commas stand between columns" if ";" in column or "\t" in column else ""
            message = f"the column {column!r} is no path of a plan such as machine.serial{hint}"
            raise _refused(name, message)
        path.append(match[1])
        path += [int(index) for index in re.findall(r"\d+", match[2])]
    return tuple(path)


def _scalar(path: Path, cell: str, where: str) -> object:
    """Read a cell as YAML would, but leave what looks like a number in a name a text.

    A serial number 0012 is not 10, and a host is not called 1e3.
    """
    key = next(step for step in reversed(path) if isinstance(step, str))
    if key in SIZES and cell.isascii() and cell.isdigit():
        return Written(cell)
    if key not in NO_TEXT and cell[:1] not in {"[", "{"}:
        return cell
    try:
        return yaml.load(cell, _Loader)  # noqa: S506 – a SafeLoader
    except yaml.YAMLError as error:
        what = getattr(error, "problem", None) or str(error)
        raise _refused(where, f"{_column(path)}: is not YAML: {what}") from None


def _put(values: dict[str, Any], path: Path, value: object, where: str) -> None:
    here: Any = values
    for number, (step, following) in enumerate(itertools.pairwise(path), start=1):
        fresh: Any = [] if isinstance(following, int) else {}
        here = _below(here, step, fresh, where)
        if not isinstance(here, type(fresh)):
            raise _twice(path[:number], path, where)
    if _below(here, path[-1], value, where) is not value:
        raise _twice(path[:-1], path, where)


def _below(here: Any, step: str | int, fresh: Any, where: str) -> Any:
    """Return what lies under a key or an index; `fresh` where nothing was there."""
    if isinstance(here, list) and isinstance(step, int):
        if step > len(here):
            raise _refused(where, f"has a value for [{step}] and none for [{len(here)}]")
        if step == len(here):
            here.append(fresh)
        return here[step]
    return here.setdefault(step, fresh)


def _twice(one: Path, other: Path, where: str) -> PlanError:
    message = f"has a value for {_column(one)} and one for {_column(other)}: give one of the two"
    return _refused(where, message)


def _column(path: Path) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path).removeprefix(".")


def _refused(where: str, message: str) -> PlanError:
    return PlanError([Problem(where, message)])
