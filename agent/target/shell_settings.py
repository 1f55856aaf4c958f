"""Change assignments in files that are read by a shell: /etc/default/grub and the like."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.errors import StepError
from agent.target.tree import Tree


def assigned(text: str, values: Mapping[str, str]) -> str:
    """Return the text with these variables set, each once and at the end, where it counts.

    What else stands there is kept. A value with a character that means something between a shell's
    double quotes raises `StepError`.
    """
    names = "|".join(re.escape(name) for name in values)
    kept = [
        line for line in text.splitlines() if not re.match(rf"\s*(?:export\s+)?(?:{names})=", line)
    ]
    return "\n".join([*kept, *(assignment(name, value) for name, value in values.items())]) + "\n"


def assignment(name: str, value: str) -> str:
    """Return NAME="value", or raise `StepError`."""
    if set(value) & set('"$`\\\n'):
        raise StepError(f"{name}: {value!r} has a character that cannot stand in it")
    return f'{name}="{value}"'


def read(tree: Tree, path: str) -> str:
    """Return the file's text, none where it is not there."""
    return tree.read(path) if tree.exists(path) else ""
