"""Presets that extend others: plain mappings laid over each other, mount point by mount point.

What extends comes first in every list, so that the place of an entry is still its place in the
document and a problem can name it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.plan.part import Part

Content = Mapping[str, Any]

_OWN = ("name", "extends", "without", "summary", "benchmark")
_BY_MOUNT = ("volumes", "tmpfs")
_PARTITIONS = ("boot", "esp")


def contents(preset: Part) -> dict[str, Any]:
    """Return a whole preset as a mapping, without what it says of those that it extends itself."""
    whole = _plain(preset)
    for key in _OWN:
        whole.pop(key)
    for entry in (*whole["volumes"], *whole["tmpfs"], whole["boot"], whole["esp"]):
        entry.pop("without")
    return dict(whole)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def extended(bases: Iterable[Content], own: Content) -> dict[str, Any]:
    """Return what `own` makes of the presets that it extends; of two bases the first decides.

    `own` may be anything that YAML can say: what is not of the right kind is left as it is, for the
    types to refuse.
    """
    result: dict[str, Any] = {}
    for base in bases:
        result = _joined(result, base) if result else dict(base)
    left_out = own.get("without", ())
    if isinstance(left_out, (list, tuple)):
        result["volumes"] = [v for v in result["volumes"] if v["mount"] not in left_out]
    if _grows(own.get("volumes")):
        result["volumes"] = [{**volume, "grow": False} for volume in result["volumes"]]
    for key in _BY_MOUNT:
        new = {"options": result["others"]} if key == "volumes" else {}
        result[key] = _over_all(result[key], own.get(key, ()), new)
    for key in _PARTITIONS:
        if key in own:
            result[key] = _over(result[key], own[key])
    if isinstance(own.get("others"), Mapping):
        result["others"] = _union(result["others"], own["others"])
    taken = {*_BY_MOUNT, *_PARTITIONS, "others"}
    return {**result, **{key: value for key, value in own.items() if key not in taken}}


def _grows(volumes: Any) -> bool:
    entries = volumes if isinstance(volumes, (list, tuple)) else ()
    return any(isinstance(entry, Mapping) and entry.get("grow") is True for entry in entries)


def _joined(first: Content, second: Content) -> dict[str, Any]:
    """Return two whole presets in one: every volume, every option and every rule of both."""
    grows = any(volume["grow"] for volume in first["volumes"])
    result = {**second, **first}
    for key in _BY_MOUNT:
        result[key] = [_both(a, b) for a, b in _pairs(first[key], second[key])]
    if grows:
        here = {volume["mount"] for volume in first["volumes"] if volume["grow"]}
        for volume in result["volumes"]:
            volume["grow"] = volume["mount"] in here
    for key in _PARTITIONS:
        result[key] = _both(first[key], second[key])
    for key in ("encryption", "unmet"):
        result[key] = _distinct(first[key], second[key])
    result["others"] = _union(first["others"], second["others"])
    return result


def _pairs(first: Iterable[Content], second: Iterable[Content]) -> Iterable[tuple[Content, ...]]:
    others = {entry["mount"]: entry for entry in second}
    for entry in first:
        other = others.pop(entry["mount"], None)
        yield (entry, entry if other is None else other)
    yield from ((entry, entry) for entry in others.values())


def _both(first: Content, second: Content) -> dict[str, Any]:
    if first is second:
        return dict(first)
    result = {**second, **first, "options": _union(first["options"], second["options"])}
    if "rules" in first:
        result["rules"] = _distinct(first["rules"], second["rules"])
    if "size" in first:
        result["size"] = max(first["size"], second["size"])
    if "optional" in first:
        result["optional"] = first["optional"] and second["optional"]
        result["least"] = _least(first["least"], second["least"])
    return result


def _least(first: Content | None, second: Content | None) -> Content | None:
    if first is None or second is None:
        return first or second
    larger = max(first, second, key=lambda least: int(least["size"]))
    return {**larger, "rules": _distinct(first["rules"], second["rules"])}


def _union(first: Content, second: Content) -> dict[str, Any]:
    """Return the options of both, each with the rules of both."""
    result: dict[str, Any] = dict(first)
    for option, rules in second.items():
        listed = isinstance(rules, (list, tuple))
        result[option] = _distinct(result.get(option, ()), rules) if listed else rules
    return result


def _over_all(base: Iterable[Content], own: Any, new: Content) -> Any:
    """Return the entries of both; one that the base does not have has what `new` says."""
    if not isinstance(own, (list, tuple)):
        return own
    below = {entry["mount"]: entry for entry in base}
    changed = [_over(below.get(_mount(entry), new), entry) for entry in own]
    named = {_mount(entry) for entry in own}
    return [*changed, *(entry for mount, entry in below.items() if mount not in named)]


def _over(base: Content, own: Any) -> Any:
    """Return an entry laid over that of the base: options and rules are added, `without` taken."""
    if not isinstance(own, Mapping):
        return own
    result = {**base, **own}
    if isinstance(own.get("options"), Mapping):
        result["options"] = _union(base.get("options", {}), own["options"])
    if isinstance(own.get("rules"), (list, tuple)):
        result["rules"] = _distinct(base.get("rules", ()), own["rules"])
    without = own.get("without", ())
    if isinstance(without, (list, tuple)) and isinstance(result.get("options"), Mapping):
        result["options"] = {o: r for o, r in result["options"].items() if o not in without}
    return result


def _mount(entry: Any) -> Any:
    mount = entry.get("mount") if isinstance(entry, Mapping) else None
    return mount if isinstance(mount, str) else None


def _distinct(first: Iterable[Any], second: Iterable[Any]) -> list[Any]:
    """Return both in one list, each once; by comparing, because hashing could fail."""
    result: list[Any] = []
    for item in (*first, *second):
        if item not in result:
            result.append(item)
    return result
