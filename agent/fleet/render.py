"""One base plan and a list of hosts → a plan for each host, every one of them valid.

A plan's id says which order it is, and the same id is never carried out twice on a machine. So ids
are made from the name of the roll-out and the host: rendered again for the same roll-out, changed
or not, they are the same, and no machine that boots from the network installs itself anew because
somebody corrected a line. A new roll-out is a new name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml

from agent.errors import PlanError, Problem
from agent.fleet.hosts import Host, Written
from agent.plan.catalog import Catalog
from agent.plan.loader import Node, load
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.render import as_text

HEADER = "# yaml-language-server: $schema={schema}\n"


@dataclass(frozen=True)
class Rendered:
    """The plan of one host, as text and as read back."""

    where: str
    plan: Plan
    text: str


def render(
    base: bytes,
    hosts: Sequence[Host],
    rollout: str,
    schema: str,
    catalog: Catalog = Catalog(),  # noqa: B008 - frozen
) -> tuple[Rendered, ...]:
    """Return the plans in the order of the hosts; raise `PlanError` with all problems of all hosts.

    A host's mappings are laid over the base's; its lists and values replace them. `schema` is what
    editors complete the plans by, `catalog` has the presets that they may name.
    """
    root, found = load(base)
    if found:
        raise PlanError([one.problem() for one in found])
    template = _as_written(root)
    assert isinstance(template, dict)  # load() refuses every other document
    rendered: list[Rendered] = []
    problems: list[Problem] = []
    for host in hosts:
        content = overlaid(template, host.values)
        content.setdefault("id", order_id(rollout, content))
        text = HEADER.format(schema=schema) + _dumped(content)
        try:
            rendered.append(Rendered(host.where, parse(text.encode(), catalog), text))
        except PlanError as error:
            problems += [Problem(host.where, str(one)) for one in error.problems]
    problems += clashes([(one.where, one.plan) for one in rendered])
    if problems:
        raise PlanError(problems)
    return tuple(rendered)


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid over it; neither is changed."""
    result = deepcopy(dict(base))
    for key, value in over.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            result[key] = overlaid(under, value)
        else:
            result[key] = deepcopy(value)
    return result


def order_id(rollout: str, content: Mapping[str, Any]) -> str:
    """Return the id of this host's order in this roll-out (a UUID of version 5, RFC 9562)."""
    machine = content.get("machine")
    names = machine if isinstance(machine, Mapping) else {}
    name = content.get("hostname") or sorted(map(str, names.values()))
    return str(uuid5(NAMESPACE_URL, f"bedplate:order:{rollout}:{name}"))


def clashes(plans: Sequence[tuple[str, Plan]]) -> Iterator[Problem]:
    """Yield what two plans of a fleet must not share: a machine, an order, a host name."""
    seen: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for where, plan in plans:
        machine = plan.machine
        for what, value in (
            ("id", plan.id),
            ("hostname", plan.hostname),
            ("machine.mac", machine.mac),
            ("machine.serial", machine.serial),
            ("machine.uuid", machine.uuid),
        ):
            if value is not None:
                seen[what, str(value)].append(where)
    for (what, value), places in seen.items():
        if len(places) > 1:
            yield Problem(places[-1], f"{what}: {value} is that of {', '.join(places[:-1])} too")


class _Dumper(yaml.SafeDumper):
    """Writes what was written as a bare word bare again."""


def _bare(dumper: yaml.SafeDumper, value: Written) -> yaml.Node:
    word = yaml.ScalarNode, str(value), (True, False)
    tag: str = dumper.resolve(*word)  # type: ignore[no-untyped-call]
    return dumper.represent_scalar(tag, str(value))


_Dumper.add_representer(Written, _bare)
_Dumper.add_representer(str, as_text)


def _as_written(node: Node) -> Any:
    """Return a document's value, numbers and truth values as they were written."""
    if isinstance(node.value, dict):
        return {key: _as_written(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_as_written(child) for child in node.value]
    bare = isinstance(node.value, (bool, int, float))
    return Written(node.text) if bare else node.value


def _dumped(content: Mapping[str, Any]) -> str:
    """Return the plan as YAML, id and machine first as people write it."""
    first = ("version", "id", "expires", "machine", "hostname")
    ordered = {key: content[key] for key in first if key in content}
    ordered |= {key: value for key, value in content.items() if key not in ordered}
    text: str = yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
