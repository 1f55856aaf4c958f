"""What the environment of a typed command says; the live image never asks it."""

from __future__ import annotations

import os

from agent.errors import PlanError, Problem
from agent.proxy import Proxies


def proxies() -> Proxies:
    """Return the proxies that the operator's environment names, by curl's rules.

    Raises `PlanError` naming the variable, without its value: that may hold a password.
    """
    try:
        return Proxies.of_environment(os.environ)
    except ValueError as error:
        raise PlanError([Problem("environment", str(error))]) from None
