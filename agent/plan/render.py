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


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
