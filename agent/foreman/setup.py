"""Put together what `wiring` needs of this package, from the plan and the kernel command line."""

from __future__ import annotations

from collections.abc import Callable

from agent.find import CommandLine
from agent.foreman.address import Server, named_facts, network_booted
from agent.foreman.announcement import Myself
from agent.foreman.discovery import Discovery, Show
from agent.foreman.outcome import Login, Outcome, Where
from agent.foreman.source import ForemanFound
from agent.foreman.talk import Talk
from agent.inventory.model import Inventory
from agent.plan.report import ForemanReport


def discovery(
    server: Server,
    line: CommandLine,
    machine: Callable[[], Inventory],
    talk: Talk,
    show: Show,
) -> Discovery:
    """Return Foreman as a place for plans."""
    myself = Myself(network_booted(line) or "", machine, named_facts(line))
    return Discovery(server, myself, talk, show=show)


def outcome_of(found: ForemanFound, talk: Talk) -> Outcome:
    """Return a sink for the case that the plan never gets as far as saying where to report."""
    return Outcome(Where(found.failed), talk)


def where(report: ForemanReport, hostname: str) -> Where:
    """Return where a plan wants the outcome told."""
    login = None
    if report.config_reports is not None:
        wanted = report.config_reports
        login = Login(wanted.url, wanted.user, wanted.token, wanted.host or hostname)
    return Where(report.failed, report.built, login)
