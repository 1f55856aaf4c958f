"""The manual pages of plans and presets and the JSON Schema, written from the types.

`python -m agent.plan.manual docs` writes `plan.md`, `presets.md` and `plan.schema.json` into that
folder; a test checks that what lies there is what the types say.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from agent.plan.explain import part_in, parts_in
from agent.plan.model import Plan
from agent.plan.part import Kind, OneOrMany, Part
from agent.plan.preset import Preset, all_presets
from agent.plan.preset_table import table
from agent.plan.schema import schema

Parts = list[tuple[str, type[Part]]]


def manual() -> str:
    """Return the manual page as Markdown."""
    parts = list(parts_of(Plan, ""))
    lines = [
        _prose("introduction"),
        "\n## Top level\n",
        *_table(Plan, "", dict(parts)),
        *(line for path, part in parts for line in _section(path, part, dict(parts))),
        _prose("sizes"),
        "\n## Keys of later versions\n",
        "These are refused by name, so that a plan is never carried out without them:\n",
        ", ".join(f"`{key}`" for key in sorted(_later(Plan, "", parts))) + ".",
        _prose("problems"),
    ]
    return "\n".join(lines).rstrip() + "\n"


def presets() -> str:
    """Return the page of presets as Markdown."""
    lines = [_prose("presets")]
    for preset in all_presets():
        lines += [f"\n## {preset.name}\n", f"{preset.summary[:1].upper()}{preset.summary[1:]}.\n"]
        if preset.benchmark:
            lines.append(f"Rules: {preset.benchmark}.\n")
        if preset.encryption:
            lines.append(f"Without `encryption` it breaks {', '.join(preset.encryption)}.\n")
        lines += ["| mount | size | options | rules |", "|---|---|---|---|"]
        lines += [
            f"| `{row.mount}` | {row.size} | {', '.join(row.options)} | {'<br>'.join(row.rules)} |"
            for row in table(preset)
        ]
        lines += [f"\nLeft open: {', '.join(one.rules)}: {one.why}." for one in preset.unmet]
    return "\n".join(lines).rstrip() + "\n"


def parts_of(part: type[Part], path: str) -> Iterator[tuple[str, type[Part]]]:
    """Yield every part below a part with its path, `storage.volumes[]`, in the plan's order."""
    for name, field in part.model_fields.items():
        for inner in parts_in(field.annotation):
            below = (f"{path}.{name}" if path else name) + ("[]" * _is_list(field.annotation))
            below += _kind_of_several(field, inner)
            yield below, inner
            yield from parts_of(inner, below)


def _kind_of_several(field: FieldInfo, part: type[Part]) -> str:
    """Return ` (foreman)` for a part that is not the first kind of its field."""
    if part is part_in(field.annotation):
        return ""
    return f" ({get_args(part.model_fields['type'].annotation)[0]})"


def kind_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Name the kind of value that a field takes: "list of IP address"."""
    for mark in metadata:
        if isinstance(mark, Kind):
            return mark.words
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if get_origin(annotation) is Annotated:
        return kind_of(arguments[0], tuple(arguments[1:]))
    if get_origin(annotation) is Literal:
        return " \\| ".join(f"`{argument}`" for argument in arguments)
    if get_origin(annotation) is tuple:
        what = kind_of(arguments[0])
        if _has_mark(metadata, OneOrMany):
            return f"{what}, or a list"
        return "list of mappings" if what == "mapping" else f"list: {what}"
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return "mapping"
    if len(arguments) == 2 and part_in(annotation) is None:
        return f"mapping: {kind_of(arguments[0])} to {kind_of(arguments[1])}"
    if arguments:
        return kind_of(arguments[0])
    return {bool: "`true` \\| `false`", int: "whole number", str: "text"}[annotation]


def _has_mark(metadata: tuple[Any, ...], kind: type) -> bool:
    return any(isinstance(mark, kind) for mark in metadata)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple


def _section(path: str, part: type[Part], parts: dict[str, type[Part]]) -> Iterator[str]:
    level = "##" + "#" * path.count(".")
    yield f"\n{level} {path}\n"
    yield inspect.cleandoc(part.__doc__ or "") + "\n"
    yield from _table(part, path, parts)
    if part.example:
        yield f"\n```yaml\n{part.example}```"


def _table(part: type[Part], path: str, parts: dict[str, type[Part]]) -> Iterator[str]:
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in part.model_fields.items():
        below = (f"{path}.{name}" if path else name) + ("[]" * _is_list(field.annotation))
        words = kind_of(field.annotation, tuple(field.metadata))
        if below in parts:
            words = f"[{words}](#{_anchor(below)})"
        yield f"| `{name}` | {words} | {_default(field)} | {field.description} |"


def _anchor(heading: str) -> str:
    words = heading.lower().replace(" ", "-")
    return "".join(sign for sign in words if sign.isalnum() or sign in "_-")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Preset):
        return f"`{value.name}`"
    if value is None or value in ((), {}, "") or isinstance(value, Part):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        shown = ", ".join(_plain(item) for item in value)
        return f"`{shown}`" if part_in(field.annotation) else f"`[{shown}]`"
    return f"`{value}`"


def _plain(value: object) -> str:
    if not isinstance(value, Part):
        return str(value)
    content = value.model_dump(mode="json", exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {item}" for key, item in content.items()) + "}"


def _later(part: type[Part], path: str, parts: Parts) -> Iterator[str]:
    for below, inner in [(path, part), *parts]:
        for key in inner.later:
            yield f"{below}.{key}" if below else key


def _prose(name: str) -> str:
    folder = resources.files("agent.plan").joinpath("prose")
    return folder.joinpath(f"{name}.md").read_text("utf-8").rstrip()


def main(folder: str) -> None:
    """Write the documents into a folder."""
    (Path(folder) / "presets.md").write_text(presets(), "utf-8")
    (Path(folder) / "plan.md").write_text(manual(), "utf-8")
    (Path(folder) / "plan.schema.json").write_text(schema(), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "docs")
