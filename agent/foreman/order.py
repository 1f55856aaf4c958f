"""The order that Foreman gives a discovered host: which plan to fetch, or why there is none.

The interface it comes by asks nobody for a password, so an order is only believed as far as it
names the server that this machine was booted to talk to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from agent.find import CommandLine
from agent.foreman.address import Server, is_unattended, shown
from agent.report.text import plain
from agent.secret import Secret


@dataclass(frozen=True)
class Order:
    """What was ordered. Without `plan` it is to be looked for by MAC; `problem` says why."""

    plan: Secret | None = None
    problem: str = ""


REBOOT = Order()
"""`PUT /power/reboot`: the host is managed now. Nothing is rebooted: the plan is fetched."""


def kexec_order(body: bytes, server: Server) -> Order:
    """Read the body of `PUT /power/kexec`: our `plan_url`, or `bedplate.plan=` in `append`."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Order(problem="the order is not JSON")
    if not isinstance(document, dict):
        return Order(problem="the order is not a JSON object")
    url = document.get("plan_url")
    if url is None and isinstance(append := document.get("append"), str):
        url = CommandLine.parse(append).value("bedplate.plan")
    if url is None and isinstance(status := document.get("status"), str):
        # Foreman sends what went wrong in place of what it could not render.
        return Order(problem=f"Foreman has no order: {plain(status, limit=300)}")
    if not isinstance(url, str):
        return Order(problem="the order names no plan: is its kexec template Bedplate's?")
    if not server.owns(url) or not is_unattended(url):
        where = plain(_origin(url), limit=200)
        return Order(problem=f"the order names a plan at {where}, only {server.base} is asked")
    return Order(plan=Secret(url))


def _origin(url: str) -> str:
    try:
        return shown(url)
    except ValueError:
        return "no URL"
