"""Plans as canonical YAML: what `parse` reads back to an equal plan."""

from __future__ import annotations

import yaml

from agent.plan.model import Plan


def render(plan: Plan, *, secrets: bool = False) -> str:
    """Return the plan as YAML, without the keys that say what is the default anyway.

    Tokens show as `(hidden)` unless `secrets` asks for them; a plan without them is refused by
    `parse`, so it cannot be carried out by mistake.
    """
    content = plan.model_dump(mode="json", exclude_defaults=True, context={"secrets": secrets})
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines, such as certificates, as literal blocks."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def as_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Write a text so that it is read back as it is.

    YAML 1.1 takes three more characters for ends of lines and folds them: these are escaped.
    """
    style = "|" if "\n" in text else None
    if set(text) & _FOLDED:
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_FOLDED = frozenset("\x85\u2028\u2029")
_Dumper.add_representer(str, as_text)
