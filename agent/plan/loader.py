"""YAML for documents that nobody vouches for yet: bytes -> a small tree that knows its lines.

Built on the events of PyYAML's parser and not on its constructors, so that depth and size are
bounded while reading, nothing recurses on the input, and every value remembers what was written:
YAML 1.1 reads `0644` and `no` as a number and a truth value, and messages must be able to say so.
Messages here quote no values, because what is there may be a secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from agent.errors import PlanError, Problem

LARGEST_DOCUMENT = 1 << 20  # bytes
DEEPEST = 24
LONGEST_NUMBER = 100  # characters
MOST_VALUES = 100_000  # after aliases are expanded

# libyaml where PyYAML was built with it: ten times as fast, the same events.
PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONSTRUCTORS = {
    "tag:yaml.org,2002:bool": yaml.SafeLoader.construct_yaml_bool,
    "tag:yaml.org,2002:int": yaml.SafeLoader.construct_yaml_int,
    "tag:yaml.org,2002:float": yaml.SafeLoader.construct_yaml_float,
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
}
_SURROGATE = re.compile("[\ud800-\udfff]")
Scalar = str | int | float | bool | None


class Found(NamedTuple):
    """A problem and the place in the document that decides its order; both count from 1."""

    line: int
    column: int
    where: str
    message: str

    def problem(self) -> Problem:
        """Return the problem with its line, for people who look at the file."""
        return Problem(self.where, f"{self.message} (line {self.line})")


@dataclass
class Node:
    """A value of the document: a scalar, or a dict or list of nodes.

    `text` is a scalar as it was written. `size` counts the values in it and `depth` the levels,
    both after aliases are expanded.
    """

    value: Scalar | dict[str, Node] | list[Node]
    line: int
    column: int
    text: str = ""
    size: int = 1
    depth: int = 0
    finished: bool = True

    def at(self, key: str | int) -> Node | None:
        """Return the child under a key or index, if there is one."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def children(self) -> list[Node]:
        """Return the values directly in this one."""
        if isinstance(self.value, dict):
            return list(self.value.values())
        return self.value if isinstance(self.value, list) else []

    def plain(self) -> object:
        """Return the value with dicts and lists of plain values."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


def load(text: bytes) -> tuple[Node, list[Found]]:
    """Return the document's tree and what is wrong with it that can be read past.

    Raises `PlanError` where no tree can be had: not UTF-8, over 1 MiB, not YAML, too deep or large,
    several documents, not a mapping.
    """
    if len(text) > LARGEST_DOCUMENT:
        raise _fatal("", f"the plan has {len(text)} bytes, at most {LARGEST_DOCUMENT} are read")
    try:
        characters = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _fatal("", f"the plan is not UTF-8: {error.reason} at byte {error.start}") from None
    reader = Reader()
    try:
        for event in yaml.parse(characters, Loader=PARSER):
            reader.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise _fatal(f"line {mark.line + 1}" if mark else "", f"is not YAML: {what}") from None
    except yaml.YAMLError as error:
        raise _fatal("", f"the plan is not YAML: {str(error).splitlines()[0]}") from None
    if reader.root is None or reader.root.value is None:
        raise _fatal("", "the plan is empty")
    if not isinstance(reader.root.value, dict):
        raise _fatal("", "the plan is not a mapping of keys such as version, id and machine")
    return reader.root, reader.found


def join(path: str, key: str | int) -> str:
    """Return the path of a key or index below `path`: storage.volumes[2].size."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if path else key


@dataclass
class _Open:
    """A mapping or list that is being read; `key` is that of the value that comes next."""

    node: Node
    path: str
    key: str | None = None

    def next_path(self) -> str:
        if isinstance(self.node.value, list):
            return join(self.path, len(self.node.value))
        return join(self.path, self.key) if self.key is not None else self.path


@dataclass
class Reader:
    """Turns events into nodes; what can be read past gathers in `found`."""

    root: Node | None = None
    found: list[Found] = field(default_factory=list)
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, Node] = field(default_factory=dict)
    values: int = 0
    constructor: Any = field(default_factory=lambda: yaml.SafeLoader(""))

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise _at(event, "a second document begins: a plan is one document")
        if isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.NodeEvent):
            self._value(event)

    def _value(self, event: Any) -> None:
        if event.tag is not None:
            self._note(event, "has a tag (!): write the value without, text in quotes")
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            if _SURROGATE.search(event.value):
                raise _at(event, "is not text: half of a surrogate pair")
            node = Node(self._scalar(event), line, column, event.value)
        elif isinstance(event, yaml.MappingStartEvent):
            node = Node({}, line, column, finished=False)
        else:
            node = Node([], line, column, finished=False)
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        self._count(event, node)
        if self._wants_key():
            self._take_key(event, node)
        else:
            path = self._attach(event, node)
            if not node.finished:
                self.stack.append(_Open(node, path))

    def _alias(self, event: Any) -> None:
        node = self.anchors.get(event.anchor)
        if node is None:
            raise _at(event, "an alias (*) has no anchor (&) before it")
        if not node.finished:
            raise _at(event, "an alias (*) stands inside its own anchor (&)")
        self._count(event, node)
        if self._wants_key():
            self._take_key(event, node)
        else:
            self._attach(event, node)

    def _close(self) -> None:
        node = self.stack.pop().node
        children = node.children()
        node.size = 1 + sum(child.size for child in children)
        node.depth = 1 + max((child.depth for child in children), default=0)
        node.finished = True

    def _count(self, event: Any, node: Node) -> None:
        self.values += node.size
        if self.values > MOST_VALUES:
            raise _at(event, f"the plan expands to more than {MOST_VALUES} values")
        if len(self.stack) + node.depth >= DEEPEST:
            raise _at(event, f"the plan is nested more than {DEEPEST} levels deep")

    def _wants_key(self) -> bool:
        return (
            bool(self.stack)
            and isinstance(self.stack[-1].node.value, dict)
            and (self.stack[-1].key is None)
        )

    def _take_key(self, event: Any, node: Node) -> None:
        if isinstance(node.value, (dict, list)):
            raise _at(event, "a key is not plain text")
        top = self.stack[-1]
        # The text of a key is the key, so that `on:` and `1000:` are not truth values or numbers.
        top.key = node.text
        first = top.node.at(node.text)
        if node.text == "<<" and not isinstance(event, yaml.AliasEvent) and event.implicit[0]:
            self._note(event, "is a merge key: write the keys out")
        elif first is not None:
            self._note(event, f"is there twice, first on line {first.line}")

    def _attach(self, event: Any, node: Node) -> str:
        """Put a value where it belongs and return its path."""
        if not self.stack:
            self.root = node
            return ""
        top = self.stack[-1]
        path = top.next_path()
        if isinstance(top.node.value, list):
            top.node.value.append(node)
        elif isinstance(top.node.value, dict) and top.key is not None:
            if node.value is None:
                self._note(event, "is empty: give a value or leave the key out")
            elif top.key != "<<":
                top.node.value.setdefault(top.key, node)
            top.key = None
        return path

    def _note(self, event: Any, message: str) -> None:
        mark = event.start_mark
        where = self.stack[-1].next_path() if self.stack else ""
        self.found.append(Found(mark.line + 1, mark.column + 1, where, message))

    def _scalar(self, event: Any) -> Scalar:
        text: str = event.value
        if not event.implicit[0]:
            return text
        tag = self.constructor.resolve(yaml.ScalarNode, text, (True, False))
        construct = _CONSTRUCTORS.get(tag)
        # Times are read by the plan. Numbers to the base 60 are a thing of YAML 1.1 alone, and what
        # a plan has of that form is a MAC address. No number of a plan has hundreds of digits.
        if construct is None or ":" in text or len(text) > LONGEST_NUMBER:
            return text
        try:
            value: Scalar = construct(self.constructor, yaml.ScalarNode(tag, text))
        except ValueError:
            return text  # "0x_"
        return value


def _at(event: Any, message: str) -> PlanError:
    return _fatal(f"line {event.start_mark.line + 1}", message)


def _fatal(where: str, message: str) -> PlanError:
    return PlanError([Problem(where, " ".join(message.split())[:300])])
