"""The plan's JSON Schema, for editors: `docs/plan.schema.json`."""

from __future__ import annotations

import json
from typing import Any

from agent.plan.model import Plan


def schema() -> str:
    """Return the JSON Schema of plans as text."""
    content = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Bedplate plan",
        **_tidy(Plan.model_json_schema(mode="validation")),
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _tidy(node: Any) -> Any:
    """Drop what pydantic adds and no editor needs, and null, which no key of a plan may be."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _tidy(value)
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and (value is None or isinstance(value, (dict, list))))
    }
    choices = [choice for choice in kept.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {"anyOf": choices, **kept} if choices else kept
