"""The one place that picks real adapters; everything else takes what it is given."""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from agent.adapters import command
from agent.adapters.clevis import Clevis
from agent.adapters.efi import Efibootmgr
from agent.adapters.escrow import OpensslCms
from agent.adapters.finish import finish
from agent.adapters.images import HttpImages
from agent.adapters.inventory import InventoryReader
from agent.adapters.kernel import KernelKnobs
from agent.adapters.luks import Cryptsetup
from agent.adapters.medium import Medium, trusted_files
from agent.adapters.memory import spare_memory
from agent.adapters.mounts import SystemMounts
from agent.adapters.plan_sources import CredentialPlan, MediumPlan, UrlPlan
from agent.adapters.reports import ReportServers
from agent.adapters.tang import TangServers
from agent.adapters.target import ChrootTarget
from agent.adapters.tpm import TpmTools
from agent.errors import MachineError, Problem, reading_only
from agent.find import CommandLine, Found, PlanSource, booted_with, find_plan, plan_url
from agent.foreman.address import Server, configured, is_unattended, shown
from agent.foreman.discovery import Show
from agent.foreman.outcome import Outcome
from agent.foreman.setup import discovery, outcome_of, where
from agent.foreman.source import ForemanFound, ForemanPlan
from agent.foreman.talk import Talk
from agent.inventory.model import Inventory
from agent.machine import Machine
from agent.media import names
from agent.network.translate import translate
from agent.payload.sign import PublicKey, load_trusted
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.report import ForemanReport, HttpReport
from agent.policy import Policy, read_policy
from agent.proxy import Proxies
from agent.report.console import open_console
from agent.report.http import HttpSink
from agent.report.journal import JournalSink, PriorityFormatter, under_journal
from agent.report.jsonl import JsonLines
from agent.report.reporter import Reporter
from agent.report.sink import Sink
from agent.report.tail import LogTail
from agent.resolve import Order, resolve
from agent.secret import Secret
from agent.session import Approve, run
from agent.trust import Trust, judge

log = logging.getLogger(__name__)

COMMAND_LINE = Path("/proc/cmdline")
KEYS = Path("/etc/bedplate/keys")
PLAN_KEYS = Path("/etc/bedplate/plan-keys")
POLICY = Path("/etc/bedplate/policy.yaml")
AUTHORITIES = Path("/etc/bedplate/ca")
RUN = Path("/run/bedplate")
MEDIUM = RUN / "media"
"""Where the operator's medium is mounted while the agent runs."""
SLOW_MEDIUM = 30.0
"""Seconds to wait for one when there is a reason: a BMC's virtual disk takes ten to appear."""
FLUSH = 30.0
"""Seconds to wait at the end for reports that were not delivered yet."""


def read_inventory() -> Inventory:
    with reading_only():
        return InventoryReader().read()


def find_plan_here(inventory: Inventory, show: Show) -> Found:
    """Look for the plan in every place there is, in the order of design §2.1.

    `show` tells an operator what is waited for, where somebody has to decide in Foreman.
    """
    line = CommandLine.parse(COMMAND_LINE.read_text())
    rules, url, foreman = policy(), plan_url(line, inventory), configured(line)
    medium = Medium(command.run, MEDIUM)
    # Before anything is fetched: it may hold the authorities to fetch by.
    medium.attach(SLOW_MEDIUM if line.has(names.BOOTED) else 0)
    for address in (url, foreman.base if foreman else None):
        _must_be_admitted(address, rules)
    places: list[PlanSource] = [
        _plan_at(url, rules),
        CredentialPlan(),
        # Nobody who names a Foreman waits for a medium that may not come.
        MediumPlan(medium, SLOW_MEDIUM if foreman is None else 0),
    ]
    if foreman is not None:
        places.append(discovery(foreman, line, _cards_of(inventory), _talk(), show))
    try:
        return find_plan(places)
    except MachineError as error:
        raise MachineError([*error.problems, *_network_doubts(inventory)]) from error


def _network_doubts(inventory: Inventory) -> Iterator[Problem]:
    """Yield what is wrong with the network options: often why there is no plan."""
    cards = {nic.name: nic.mac for nic in inventory.nics}
    return translate(COMMAND_LINE.read_text()).doubts(cards)


def find_plan_in_foreman(server: Server) -> Callable[[Inventory, Show], Found]:
    """Return what asks this Foreman and no other place."""

    def read(inventory: Inventory, show: Show) -> Found:
        _must_be_admitted(server.base, policy())
        line = CommandLine.parse(COMMAND_LINE.read_text())
        return find_plan([discovery(server, line, _cards_of(inventory), _talk(), show)])

    return read


def _cards_of(inventory: Inventory) -> Callable[[], Inventory]:
    """Return what reads the network anew, and no disk: a machine that waits leaves them alone."""
    return lambda: inventory.model_copy(update={"nics": InventoryReader().nics()})


def _must_be_admitted(url: str | None, rules: Policy) -> None:
    if url is None or rules.admits(url):
        return
    allowed = ", ".join(rules.allowed_servers or ()) or "none"
    message = f"{shown(url)}: is not asked, the policy of this live image allows only {allowed}"
    raise MachineError([Problem("plan", message)])


def _plan_at(url: str | None, rules: Policy) -> PlanSource:
    if url is not None and is_unattended(url):
        return ForemanPlan(Secret(url), _talk())
    return UrlPlan(
        url,
        ca_bundle=_authorities(),
        signed=bool(_plan_keys()) or rules.require_signed_plan,
        minimum_tls=rules.minimum_tls,
        proxies=_proxies(),
    )


def _talk() -> Talk:
    return Talk(_authorities(), policy().minimum_tls, proxies=_proxies())


def _proxies() -> Proxies:
    return booted_with(CommandLine.parse(COMMAND_LINE.read_text()))


def policy() -> Policy:
    """Return what this live image allows; everything that is sane where it says nothing."""
    try:
        return read_policy(POLICY.read_bytes(), str(POLICY))
    except FileNotFoundError:
        return Policy()
    except OSError as error:
        raise MachineError([Problem(str(POLICY), f"cannot be read: {error.strerror}")]) from None


def decide(found: Found) -> Order:
    """Resolve and check a plan on this machine, without events."""
    judge(found, policy(), _plan_keys())
    wanted = parse(found.content)
    reporter = Reporter(str(wanted.id), "", ())
    world = Live(reporter)
    inventory = world.inventory()
    world.follow(wanted, send=False)
    with reading_only():
        machine = world.machine()
        return resolve(wanted, inventory, machine, datetime.now(UTC), lambda done, total: None)


def install(read_plan: Callable[[Inventory, Show], Found], approve: Approve) -> None:
    """Carry out one order with all its reporting, then finish as the plan says."""
    tail = LogTail()
    _keep_log(tail)
    with _sinks() as sinks:
        reporter = Reporter("", "", sinks, tail=tail)

        def show(waiting: str) -> AbstractContextManager[object]:
            return reporter.step("foreman", waiting)

        try:
            ended = run(lambda here: read_plan(here, show), Live(reporter), reporter, approve)
        finally:
            reporter.close(FLUSH)
    finish(ended.finish, command.run, Efibootmgr(command.run), ended.esps)


def images() -> HttpImages:
    """Return the images port, with the keys and authorities of this live image."""
    return HttpImages(
        _trusted(),
        _authorities_text(),
        _proxies(),
        minimum_tls=policy().minimum_tls,
        spare=spare_memory,
    )


def _keep_log(tail: LogTail) -> None:
    """Let everything of ours reach the tail, and of the libraries only what an operator needs.

    blivet prints every device at every turn, which under emulation costs minutes.
    """
    root = logging.getLogger()
    root.addHandler(tail)
    root.setLevel(logging.DEBUG)
    for library, level in (("blivet", logging.WARNING), ("program", logging.INFO)):
        logging.getLogger(library).setLevel(level)
    logging.getLogger("urllib3").setLevel(logging.INFO)


@dataclass
class Live:
    """This machine, for one run."""

    reporter: Reporter
    plan: Plan | None = None
    reports: dict[int, HttpSink | Outcome] = field(default_factory=dict)
    """The plan's report sinks, by their number in it."""
    outcome: Outcome | None = None
    """Tells Foreman, from where the plan came, of a failure before the plan could say so."""
    began: float = field(default_factory=time.monotonic)

    def inventory(self) -> Inventory:
        return read_inventory()

    def judge(self, found: Found) -> Trust:
        if isinstance(found, ForemanFound):
            self.outcome = outcome_of(found, _talk())
            self.reporter.attach(self.outcome)
        return judge(found, policy(), _plan_keys())

    def follow(self, plan: Plan, *, send: bool = True) -> None:
        """Open the plan's report sinks; with `send` events go there from now on."""
        self.plan = plan
        if self.outcome is not None:
            self.outcome.move(None)  # the plan can be read: it says whom to tell
        for number, report in enumerate(plan.report):
            sink = self._sink(report, plan.hostname)
            self.reports[number] = sink
            if send:
                self.reporter.attach(sink)

    def _sink(self, report: HttpReport | ForemanReport, hostname: str) -> HttpSink | Outcome:
        if isinstance(report, ForemanReport):
            return Outcome(where(report, hostname), _talk())
        minimum = policy().minimum_tls
        return HttpSink(
            report.url,
            token=report.token,
            ca=_authorities(),
            minimum_tls=minimum,
            proxies=_proxies(),
        )

    def machine(self) -> Machine:
        # Late: blivet loads libblockdev as it is imported, which a laptop does not have.
        try:
            from agent.adapters.storage.adapter import BlivetStorage
        except ImportError as error:
            message = f"{error}; check and install need the live image, preview does not"
            raise MachineError([Problem("storage", message)]) from error

        run = command.run
        return Machine(
            storage=BlivetStorage(),
            keys=Cryptsetup(run, command.attempt),
            clevis=Clevis(run),
            tang=TangServers(run),
            tpm=TpmTools(run),
            escrow=OpensslCms(run),
            escrow_sink=self.reporter,
            reports=ReportServers(
                self.reports,
                plan=str(self.plan.id) if self.plan else "",
                escrow=self.plan is not None and self.plan.encryption is not None,
            ),
            firmware=Efibootmgr(run),
            images=images(),
            mounts=SystemMounts(),
            target=ChrootTarget(run),
            kernel=KernelKnobs(),
            authorities=text.encode() if (text := _authorities_text()) else None,
        )

    def environment(self) -> Mapping[str, str | float]:
        return {
            "kernel": platform.release(),
            "uptime": round(float(Path("/proc/uptime").read_text().split()[0]), 1),
            "seconds": round(time.monotonic() - self.began, 1),
        }


@contextmanager
def _sinks() -> Iterator[list[Sink]]:
    """Open what events are shown on: under systemd every console and the journal, else stderr."""
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if under_journal(os.environ):
            for handler in logging.getLogger().handlers:
                if not isinstance(handler, LogTail):
                    handler.setFormatter(PriorityFormatter())
                    handler.setLevel(logging.INFO)
            sinks.append(JournalSink(sys.stderr))
            for console, term in _consoles():
                sinks.append(open_console(stack.enter_context(console), term))
        else:
            sinks.append(open_console(sys.stderr, os.environ.get("TERM", "dumb")))
        if os.geteuid() == 0:
            RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
            sinks.append(JsonLines(RUN / "events.jsonl"))
        yield sinks


def _consoles() -> Iterator[tuple[TextIO, str]]:
    """Open every active console; tty0 is whichever terminal is in front, and we own the first."""
    active = Path("/sys/class/tty/console/active").read_text().split()
    for name in dict.fromkeys("tty1" if name == "tty0" else name for name in active):
        try:
            console = Path("/dev", name).open("w", encoding="utf-8", errors="replace")  # noqa: SIM115  # the caller closes it
        except OSError as error:
            log.warning("console %s: %s", name, error.strerror)
        else:
            yield console, "linux"


def _trusted() -> Sequence[PublicKey]:
    keys = _baked_and_brought(KEYS, names.IMAGE_KEYS, "*.pub")
    if not keys:
        raise MachineError(
            [Problem(str(KEYS), "holds no public key (*.pub): no image could be trusted")]
        )
    return load_trusted(keys)


def _plan_keys() -> Sequence[PublicKey]:
    """Return the keys that may sign plans; none is legal, then no signature is looked at."""
    return load_trusted(_baked_and_brought(PLAN_KEYS, names.PLAN_KEYS, "*.pub"))


def _baked_and_brought(baked: Path, brought: str, pattern: str) -> list[Path]:
    return trusted_files(baked, MEDIUM / brought, pattern, policy())


def _authorities() -> Path | None:
    """Return one file with every certificate authority to trust, None for the system's own.

    Those of the live image, the medium, and the credential `bedplate.ca`: whoever can give this
    machine a credential can give it a plan. requests takes one bundle; several files are put
    together in RAM.
    """
    found = _baked_and_brought(AUTHORITIES, names.AUTHORITIES, "*.pem")
    given = Path(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), "bedplate.ca")
    if given.is_file() and not policy().require_signed_plan:
        found.append(given)
    if len(found) < 2:
        return found[0] if found else None
    bundle = RUN / "ca.pem"
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    bundle.write_text("\n".join(path.read_text() for path in found))
    return bundle


def _authorities_text() -> str | None:
    bundle = _authorities()
    return bundle.read_text() if bundle is not None else None
