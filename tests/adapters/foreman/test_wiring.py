"""The wiring on this very machine: what becomes of a plan that is refused before it is followed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from agent.cli import main
from agent.errors import AgentError
from agent.find import Found
from agent.foreman.source import ForemanPlan
from agent.foreman.talk import Talk
from agent.inventory.model import Inventory
from agent.report.reporter import Reporter
from agent.resolve import Order
from agent.secret import Secret
from agent.session import run
from agent.wiring import Live
from tests.adapters.certificates import self_signed
from tests.adapters.foreman.standin import Host, StandIn
from tests.unit.plan.plans import small

MAC = "52:54:00:12:34:56"


def refuse(order: Order) -> None:
    raise AssertionError("nothing may come this far")


def outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, *, tls: bool = True
) -> tuple[Host, str]:
    """Run with a plan that must be refused; return the host and what the run said."""
    pair = self_signed(tmp_path / "tls", "127.0.0.1")
    (tmp_path / "bedplate.ca").write_bytes(pair[0].read_bytes())
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with StandIn(certificate=pair if tls else None) as foreman:
        host = foreman.add(Host(mac=MAC, plan=lambda host: plan.replace("HERE", host.url("x"))))

        def read(inventory: Inventory) -> Found:
            found = ForemanPlan(Secret(host.url("provision")), Talk(pair[0])).read()
            assert found is not None
            return found

        reporter = Reporter("", "")
        with pytest.raises(AgentError) as caught:
            run(read, Live(reporter), reporter, refuse)
        reporter.close(0.1)
        return host, str(caught.value)


def test_a_plan_that_cannot_be_read_is_shown_in_foreman_with_every_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = yaml.safe_dump(small(hostnme="db01", finish="rebot"))
    host, said = outcome(tmp_path, monkeypatch, plan)
    assert "hostnme: unknown key" in said
    told = (host.build_errors or b"").decode()
    assert told.startswith("bedplate: ")
    assert "hostnme: unknown key: did you mean hostname?" in told
    assert '"rebot" is not one of' in told
    assert (host.builds, host.build) == (1, False)


def test_a_plan_that_came_over_plain_http_is_refused_and_foreman_shows_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, said = outcome(tmp_path, monkeypatch, yaml.safe_dump(small()), tls=False)
    assert "came over plain http and is not signed" in said
    assert b"came over plain http" in (host.build_errors or b"")
    assert "token=" not in said


def test_a_plan_that_can_be_read_and_names_no_foreman_tells_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, said = outcome(tmp_path, monkeypatch, yaml.safe_dump(small()))
    assert said
    assert (host.builds, host.build) == (0, True)


def bedplate(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_command_shows_the_facts_of_this_machine_and_sends_nothing() -> None:
    done = bedplate("discover", "--facts")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    cards = told["networking"]["interfaces"].values()
    assert told["discovery_bootif"] in [card["mac"] for card in cards]


@pytest.mark.parametrize("arguments", [[], ["--proxy"]])
def test_the_command_without_a_server_is_wrong_usage(arguments: list[str]) -> None:
    done = bedplate("discover", *arguments)
    assert done.exit_code == 2
    assert "--foreman URL" in done.stderr


def test_the_command_names_a_server_that_is_none() -> None:
    done = bedplate("discover", "--foreman", "foreman.example.com")
    assert done.exit_code == 4
    assert "is not a URL such as https://foreman.example.com" in done.stderr
