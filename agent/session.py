"""One run of the agent: find → resolve → check → apply → prove → report.

The phases are the same for `bedplate install PLAN` and for a live image that starts by itself; only
where the plan comes from and what happens at the end differ, and that is the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from agent.engine import carry_out
from agent.errors import (
    AgentError,
    LeftOpenError,
    MachineError,
    PlanError,
    Problem,
    StepError,
    reading_only,
)
from agent.find import Found
from agent.inventory.model import Inventory
from agent.layout.picture import plain
from agent.machine import Machine
from agent.plan.model import Finish, Plan
from agent.plan.parse import parse
from agent.report.reporter import Reporter
from agent.resolve import Order, esps, resolve
from agent.trust import Trust, clock_doubts

log = logging.getLogger(__name__)


class Outcome(Enum):
    """How a run without an error ended."""

    INSTALLED = "installed"
    ALREADY = "already installed"


class World(Protocol):
    """What a run needs besides the steps' machine: `wiring` has the real one."""

    def inventory(self) -> Inventory: ...
    def machine(self) -> Machine: ...
    def judge(self, found: Found) -> Trust:
        """Return what vouches for the plan's bytes, or raise `MachineError`."""

    def follow(self, plan: Plan) -> None:
        """Start sending events where the plan says."""

    def environment(self) -> Mapping[str, Any]:
        """Return what the report should say about the live system."""


@dataclass(frozen=True)
class Ended:
    """How it ended and by which plan: what the caller needs to finish."""

    outcome: Outcome
    plan: Plan
    esps: Sequence[UUID]
    """PARTUUIDs of the ESPs that boot what is installed."""

    @property
    def finish(self) -> Finish:
        """What to do now; one who is installed already was only sent here by mistake."""
        return self.plan.finish if self.outcome is Outcome.INSTALLED else "reboot"


Approve = Callable[[Order], None]
"""Asked once everything is decided and before the first write; raises to refuse."""


def run(
    read_plan: Callable[[Inventory], Found], world: World, reporter: Reporter, approve: Approve
) -> Ended:
    """Carry out one install order, reporting every phase; raise what went wrong.

    The last event is emitted here, with the install report or with the reason of the failure.
    """
    try:
        return _phases(read_plan, world, reporter, approve)
    except BaseException as error:
        reporter.final({}, error=str(error) or type(error).__name__, advice=_advice(error))
        raise


def _phases(
    read_plan: Callable[[Inventory], Found], world: World, reporter: Reporter, approve: Approve
) -> Ended:
    with reporter.step("find", "Find the plan and know this machine") as finding, reading_only():
        inventory = world.inventory()
        reporter.identify(machine=inventory.name)
        found = read_plan(inventory)
        trust = world.judge(found)
        plan = parse(found.content)
        reporter.identify(plan=str(plan.id))
        world.follow(plan)
        finding.evidence = {
            "plan_from": found.where,
            "signed_by": trust.signed_by,
            "fresh": trust.fresh,
            "hostname": plan.hostname,
        }
        if doubts := clock_doubts(plan.expires, datetime.now(UTC), found.server_time):
            raise MachineError([Problem("expires", doubts)])
    marker = inventory.installed_by(plan.id)
    if marker is not None:
        log.warning("plan %s is installed already (%s)", plan.id, marker.finished)
        reporter.final({"state": Outcome.ALREADY.value, "installed": marker.finished})
        return Ended(Outcome.ALREADY, plan, esps(plan, inventory, marker))
    title = "Check everything before the first write"
    with reporter.step("check", title, unit="checks") as checking, reading_only():
        machine = world.machine()
        order = resolve(plan, inventory, machine, datetime.now(UTC), checking.progress)
        checking.evidence = {**order.summary(), "placed": plain(order.layout)}
    approve(order)
    reporter.announce([(step.name, step.describe()) for step in order.steps])
    proofs = carry_out(order.steps, machine, reporter)
    reporter.final(
        {
            "state": Outcome.INSTALLED.value,
            **order.report(),
            "proofs": proofs,
            "live": dict(world.environment()),
        }
    )
    return Ended(Outcome.INSTALLED, plan, order.esps)


def _advice(error: BaseException) -> Sequence[str]:
    match error:
        case PlanError():
            return ("nothing was touched", "correct the plan and start again")
        case MachineError():
            return ("nothing was touched", "mend what is named above and start again")
        case LeftOpenError():
            return (
                "the system is installed and the disks boot; only the last unmounting failed",
                "reboot: the file systems recover from their journals",
            )
        case StepError():
            return (
                "the disks were left unbootable on purpose; a new run starts clean",
                "have a look: this system stays up, the log is in `journalctl -u bedplate`",
            )
        case AgentError():
            return ()
        case _:
            return ("this is a bug in bedplate: please report it with the log",)
