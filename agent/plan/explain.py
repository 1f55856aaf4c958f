"""What pydantic found wrong, in the operator's words, with the path and line of the document."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from agent.plan.loader import Found, Node, join
from agent.plan.part import NOT_YET, Part, Path, kind_of, nearest

Context = Mapping[str, Any] | None


def explain(
    error: ValidationError, root: Node, top: type[Part], context: Context = None
) -> Iterator[Found]:
    """Yield every problem of a validation of `root` as a `top`, done in `context`."""
    wrong = list(still_wrong(root, top, context))
    for detail in error.errors(include_url=False, include_input=False):
        location = detail["loc"]
        # Pydantic counts the entries that are right: one wrong entry alone is "too short" too.
        spurious = detail["type"] == "too_short" and _has_entries(root, location)
        if detail["type"] == "faults":
            wrong += [((*location, *path), text) for path, text in detail["ctx"]["faults"]]
        elif not spurious:
            yield _found(root, location, _message(detail, root, top))
    yield from dict.fromkeys(_found(root, location, message) for location, message in wrong)


def still_wrong(
    node: Node, part: type[Part], context: Context = None, path: Path = ()
) -> Iterator[tuple[Path, str]]:
    """Yield what the checks of a part find between those of its fields that are right.

    Pydantic runs them only where every field is right; here the groups that read a wrong field are
    left out, and the others speak.
    """
    values: dict[str, Any] = {}
    for name, field in part.model_fields.items():
        child = node.at(name)
        if child is None:
            if not field.is_required():
                values[name] = field.get_default(call_default_factory=True)
            continue
        with contextlib.suppress(ValidationError):
            values[name] = _adapter(part, name).validate_python(child.plain(), context=context)
        if part_in(field.annotation) is not None and name not in values:
            for below, value in _mappings(child, (*path, name)):
                inner = part_of(field.annotation, value)
                if inner is not None:
                    yield from still_wrong(value, inner, context, below)
    given = {name for name in values if node.at(name) is not None}
    partial = part.model_construct(_fields_set=given, **values)
    for name in part.model_fields.keys() - values.keys():
        partial.__dict__.pop(name, None)  # it has the default, which is not what the plan says
    for group in partial.checks():
        with contextlib.suppress(AttributeError):  # the group needs a field that is not right
            for fault in group:
                yield (*path, *fault.path), fault.message


@functools.cache
def _adapter(part: type[Part], name: str) -> TypeAdapter[Any]:
    field = part.model_fields[name]
    kind: Any = Annotated[field.annotation, name, *field.metadata]
    return TypeAdapter(kind)


def _mappings(node: Node, path: Path) -> Iterator[tuple[Path, Node]]:
    if isinstance(node.value, dict):
        yield path, node
    elif isinstance(node.value, list):
        for number, child in enumerate(node.value):
            if isinstance(child.value, dict):
                yield (*path, number), child


def part_at(top: type[Part], path: Path, root: Node | None = None) -> type[Part] | None:
    """Return the class of the part at a path, by the annotations of the classes above it.

    Where there are several kinds of it, `root`, the document, says which it is.
    """
    kind: object = top
    for number, key in enumerate(path):
        part = part_of(kind, root and _node_at(root, path[:number]))
        if isinstance(key, int):
            continue
        if part is None or key not in part.model_fields:
            return None
        kind = part.model_fields[key].annotation
    return part_of(kind, root and _node_at(root, path))


def parts_in(annotation: object) -> Iterator[type[Part]]:
    """Yield the classes of part that an annotation such as `tuple[Volume, ...]` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
        return
    for part in get_args(annotation):
        yield from parts_in(part)


def part_in(annotation: object) -> type[Part] | None:
    """Return the first class of part that an annotation speaks of, None if it speaks of none."""
    return next(parts_in(annotation), None)


def part_of(annotation: object, node: Node | None) -> type[Part] | None:
    """Return the class of part that a mapping of the document is, by its `type` if it has one."""
    named = node and node.at("type")
    for part in parts_in(annotation):
        kind = part.model_fields.get("type")
        if named and kind is not None and named.value in get_args(kind.annotation):
            return part
    return part_in(annotation)


def _found(root: Node, location: Path, message: str) -> Found:
    node, where = root, ""
    lost = False
    for key in location:
        if isinstance(key, int) and not isinstance(node.value, list) and not lost:
            continue  # a single value stands for a list of one
        if key == "[key]":
            continue
        where = join(where, key)
        child = None if lost else node.at(key)
        lost = child is None
        node = child or node
    return Found(node.line, node.column, where, message)


def _node_at(root: Node, location: Path) -> Node | None:
    node: Node | None = root
    for key in location:
        if node is not None and (isinstance(node.value, list) or isinstance(key, str)):
            node = node if key == "[key]" else node.at(key)
    return node


def _has_entries(root: Node, location: Path) -> bool:
    node = _node_at(root, location)
    return node is not None and node.value != []


def _message(detail: ErrorDetails, root: Node, top: type[Part]) -> str:
    kind, location = detail["type"], detail["loc"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden":
        return _unknown(str(location[-1]), part_at(top, location[:-1], root))
    if kind == "missing":
        part = part_at(top, location[:-1], root)
        field = part.model_fields.get(str(location[-1])) if part else None
        return f"is missing: {field.description}" if field and field.description else "is missing"
    if kind in _BOUNDS:
        word, limit = _BOUNDS[kind]
        node = _node_at(root, location)
        return f"must be {word} {context[limit]}, is {node.text if node else 'not'}"
    if kind == "too_short":
        return "is empty: give at least one"
    if kind == "too_long":
        return f"has {context['actual_length']} entries, at most {context['max_length']} are taken"
    words = _WRONG_KIND.get(kind)
    node = _node_at(root, location)
    if words is None or node is None:
        return detail["msg"][:1].lower() + detail["msg"][1:].rstrip(".")
    return words(node)


def _unknown(key: str, part: type[Part] | None) -> str:
    if part is None:
        return "unknown key"
    if key in part.later:
        return NOT_YET
    return f"unknown key{nearest(key, [*part.model_fields, *part.later])}"


def _text(node: Node) -> str:
    value = node.value
    if value is None:
        return "is empty: give text"
    if isinstance(value, (dict, list)):
        return f"must be text, is {kind_of(value)}"
    read = str(value).lower() if isinstance(value, bool) else f"the number {value}"
    return f'write it in quotes, "{node.text[:60]}": bare, YAML reads it as {read}'


def _must_be(what: str) -> Callable[[Node], str]:
    def words(node: Node) -> str:
        return f"must be {what}, is {kind_of(node.value)}"

    return words


_BOUNDS = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
_WRONG_KIND: dict[str, Callable[[Node], str]] = {
    "string_type": _text,
    "bool_type": _must_be("true or false"),
    "int_type": _must_be("a whole number"),
    "dict_type": _must_be("a mapping of keys"),
    "mapping_type": _must_be("a mapping of keys"),
    "model_type": _must_be("a mapping of keys"),
    "model_attributes_type": _must_be("a mapping of keys"),
    "tuple_type": _must_be("a list"),
}
