"""Plans from bytes: a valid `Plan`, or every problem at once in the order of the document."""

from __future__ import annotations

from pydantic import ValidationError

from agent.errors import PlanError
from agent.plan.catalog import Bases, Catalog
from agent.plan.explain import explain
from agent.plan.loader import Found, load
from agent.plan.model import Plan


def parse(text: bytes, catalog: Catalog = Catalog()) -> Plan:  # noqa: B008 - frozen
    """Return the plan; raise `PlanError` with every problem, each with its path and line.

    Presets that it names are looked up in `catalog`.
    """
    context = {"bases": Bases(catalog)}
    root, found = load(text)
    plan = None
    try:
        plan = Plan.model_validate(root.plain(), context=context)
    except ValidationError as error:
        # A key without a value is reported as such; that it is missing too is no news.
        empty = {one.where for one in found}
        found += [one for one in explain(error, root, Plan, context) if one.where not in empty]
    if plan is None or found:
        raise PlanError([one.problem() for one in sorted(found, key=_place)])
    return plan


def _place(found: Found) -> tuple[int, int]:
    return found.line, found.column
