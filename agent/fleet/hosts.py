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
from dataclasses import dataclass
from typing import Any

import yaml

from agent.errors import PlanError, Problem

MOST_HOSTS = 100_000
_STEP = re.compile(r"([A-Za-z0-9_-]+)((?:\[\d+\])*)")


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


def _csv(text: str, name: str) -> Iterator[Host]:
    lines = (line for line in io.StringIO(text, newline="") if not line.startswith("#"))
    reader = csv.reader(lines, strict=True)
    problems: list[Problem] = []
    try:
        header = [column.strip() for column in next(reader, [])]
        paths = [_path(column, name) for column in header]
        for column in sorted({column for column in header if header.count(column) > 1}):
            problems.append(Problem(name, f"has the column {column} twice"))
        for cells in reader:
            where = f"{name} line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                message = f"has {len(cells)} cells, the header has {len(header)} columns"
                problems.append(Problem(where, message))
                continue
            values: dict[str, Any] = {}
            for path, cell in zip(paths, cells, strict=True):
                if cell.strip():
                    _put(values, path, _scalar(path, cell.strip()), where)
            yield Host(where, values)
    except csv.Error as error:
        problems.append(Problem(f"{name} line {reader.line_num}", f"is not CSV: {error}"))
    if problems:
        raise PlanError(problems)


def _yaml(text: str, name: str) -> Iterator[Host]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise _refused(name, f"is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(content, Mapping):
        content = content.get("hosts")
    if not isinstance(content, list):
        raise _refused(name, "is neither a list of hosts nor a mapping with the key hosts")
    for number, entry in enumerate(content):
        if not isinstance(entry, Mapping):
            raise _refused(f"{name}: hosts[{number}]", "is not a mapping of a plan's keys")
        yield Host(f"{name}: hosts[{number}]", entry)


def _path(column: str, name: str) -> tuple[str | int, ...]:
    path: list[str | int] = []
    for step in column.split("."):
        match = _STEP.fullmatch(step)
        if match is None:
            message = f"the column {column!r} is no path of a plan such as machine.serial"
            raise _refused(name, message)
        path.append(match[1])
        path += [int(index) for index in re.findall(r"\d+", match[2])]
    return tuple(path)


def _scalar(path: tuple[str | int, ...], cell: str) -> object:
    """Read a cell as YAML would, but leave what looks like a number in a name a text.

    A serial number 0012 is not 10, and a host is not called 1e3.
    """
    last = path[-1]
    if last in {"count", "grow", "rotational", "fips"} or cell[:1] in "[{":
        return yaml.safe_load(cell)
    return cell


def _put(values: dict[str, Any], path: tuple[str | int, ...], value: object, where: str) -> None:
    here: Any = values
    for step, following in itertools.pairwise(path):
        fresh: Any = [] if isinstance(following, int) else {}
        here = _at(here, step, fresh, where)
    if isinstance(here, list):
        _at(here, path[-1], value, where)
    else:
        here[path[-1]] = value


def _at(here: Any, step: str | int, fresh: Any, where: str) -> Any:
    if isinstance(here, list) and isinstance(step, int):
        if step > len(here):
            raise _refused(where, f"has a value for [{step}] and none for [{len(here)}]")
        if step == len(here):
            here.append(fresh)
        return here[step]
    return here.setdefault(step, fresh)


def _refused(where: str, message: str) -> PlanError:
    return PlanError([Problem(where, message)])
