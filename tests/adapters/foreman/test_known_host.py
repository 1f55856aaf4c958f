"""A host that Foreman knows: its plan by token, and how it is told what became of it."""

from __future__ import annotations

import logging
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.errors import MachineError
from agent.foreman.outcome import Login, Outcome, Where
from agent.foreman.source import ForemanFound, ForemanPlan
from agent.foreman.talk import SilenceError, Talk
from agent.report.event import Event, State
from agent.report.reporter import Reporter
from agent.report.tail import LogTail
from agent.secret import Secret
from tests.adapters.certificates import self_signed
from tests.adapters.foreman.standin import Host, Reply, StandIn

MAC = "52:54:00:12:34:56"
PLAN = "version: 1\n# the plan\n"


def host(foreman: StandIn, **changes: Any) -> Host:
    return foreman.add(Host(**{"mac": MAC, "plan": lambda host: PLAN, **changes}))


def plan_of(url: str, patience: float = 20.0, talk: Talk | None = None) -> ForemanFound:
    source = ForemanPlan(Secret(url), talk or Talk(patience=5), patience, pause=0.05)
    found = source.read()
    assert isinstance(found, ForemanFound)
    return found


def refusal(url: str, patience: float = 0.3) -> str:
    with pytest.raises(MachineError) as caught:
        plan_of(url, patience)
    return str(caught.value)


# --- the plan ---


def test_the_plan_comes_by_token_and_the_token_is_in_nothing_that_is_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with StandIn() as foreman:
        known = host(foreman)
        assert known.token is not None
        source = ForemanPlan(Secret(known.url("provision")), Talk())
        found = source.read()
        assert found is not None
        assert found.content == PLAN.encode()
        assert found.server_time is not None
        told = f"{found!r} {found.where} {found.url} {source!r} {source.describe()}"
        own = [line for line in caplog.records if line.name.startswith("agent")]
        assert known.token not in told + "".join(line.getMessage() for line in own)
        assert isinstance(found, ForemanFound)
        assert found.failed.text == known.url("failed")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"build": False}, "is not in build mode"),
        ({"has_os": False}, "without an operating system"),
        ({"plan": None}, "has no provisioning template"),
        ({"token_expired": True}, "knows no host with this token"),
    ],
)
def test_what_somebody_must_do_in_foreman_is_said(changes: dict[str, Any], words: str) -> None:
    with StandIn() as foreman:
        said = refusal(host(foreman, **changes).url("provision"))
    assert words in said
    assert "token=" not in said


def test_a_template_with_a_mistake_is_told_at_once_in_foremans_words() -> None:
    words = "There was an error rendering the Bedplate template: undefined method `x'"
    with StandIn() as foreman:
        known = host(foreman)
        foreman.befall("GET /unattended/provision", Reply(500, words))
        said = refusal(known.url("provision"), patience=20)
        assert "cannot render the plan: There was an error rendering" in said
        assert len(foreman.requests) == 1


def test_a_foreman_that_is_busy_or_restarting_is_asked_again() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        foreman.befall("GET /unattended/provision", "silent", Reply(503), Reply(409), "lose-answer")
        assert plan_of(known.url("provision")).content == PLAN.encode()
        assert len(foreman.requests) == 5


def test_plain_http_is_redirected_to_https_of_the_same_host_only(tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "127.0.0.1")
    with StandIn(certificate=pair) as foreman, StandIn() as plain:
        known = host(foreman)
        there = {"Location": known.url("provision")}
        plain.befall("GET /unattended/provision", Reply(301, "", there))
        url = f"{plain.address}/unattended/provision?token={known.token}"
        found = plan_of(url, talk=Talk(ca=pair[0]))
        assert found.url == f"{foreman.address}/unattended/provision"
        elsewhere = {"Location": "https://elsewhere.example.com/unattended/provision?token=x"}
        plain.befall("GET /unattended/provision", Reply(301, "", elsewhere))
        said = refusal(url)
        assert "redirects to https://elsewhere.example.com/unattended/provision, which is" in said
        down = {"Location": f"{plain.address}/unattended/provision"}
        foreman.befall("GET /unattended/provision", Reply(302, "", down))
        with pytest.raises(MachineError, match="is not followed"):
            plan_of(known.url("provision"), talk=Talk(ca=pair[0]))


def test_a_certificate_that_is_not_trusted_is_told_at_once(tmp_path: Path) -> None:
    with StandIn(certificate=self_signed(tmp_path, "127.0.0.1")) as foreman:
        said = refusal(host(foreman).url("provision"), patience=60)
    assert "TLS: " in said
    assert "self-signed" in said.replace("self signed", "self-signed")


def test_a_foreman_that_hangs_up_in_the_handshake_is_asked_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(SilenceError) as caught:
            Talk(patience=10).get(f"https://127.0.0.1:{server.getsockname()[1]}/")
    assert not caught.value.forever
    assert not caught.value.sent


# --- how it ended ---


def ended(
    foreman: StandIn, known: Host, error: str = "", report: Login | None = None, log: str = ""
) -> Outcome:
    """Make a run with two steps end, and wait until Foreman was told or it was given up."""
    where = Where(Secret(known.url("failed")), Secret(known.url("built")), report)
    sink = Outcome(where, Talk(patience=5), patience=20, pause=0.05)
    tail = LogTail(lines=10_000)
    logger = logging.getLogger("agent.test-foreman")
    logger.addHandler(tail)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for line in log.splitlines():
        logger.info(line)
    logger.removeHandler(tail)
    reporter = Reporter("plan-1", "CZ1234", [sink], tail=tail)
    with reporter.step("partition", "Partition"):
        pass
    try:
        with reporter.step("image", "Write the image"):
            if error:
                raise RuntimeError(error)
    except RuntimeError:
        reporter.final({}, error=error, advice=["nothing was touched"])
    else:
        reporter.final({"state": "installed"})
    reporter.close(0.1)
    return sink


def told(foreman: StandIn, what: str) -> int:
    return len(foreman.asked(f"POST /unattended/{what}"))


def test_built_is_told_once_as_plain_text() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        ended(foreman, known)
        assert (known.build, known.builds, known.build_errors) == (False, 1, None)
        assert (told(foreman, "built"), told(foreman, "failed")) == (1, 0)


def test_orchestration_that_fails_twice_is_tried_again() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        foreman.befall("POST /unattended/built", Reply(409), Reply(500), Reply(503))
        ended(foreman, known)
        assert (known.builds, told(foreman, "built")) == (1, 4)


@pytest.mark.parametrize("tokens", [True, False])
def test_an_answer_that_was_lost_is_not_an_outcome_that_was_not_told(
    tokens: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "agent.foreman")
    with StandIn() as foreman:
        known = host(foreman)
        url = known.url("built") if tokens else f"{foreman.address}/unattended/built?mac={MAC}"
        foreman.befall("POST /unattended/built", "lose-answer")
        sink = Outcome(
            Where(Secret(known.url("failed")), Secret(url)),
            Talk(patience=5), patience=20, pause=0.05,
        )  # fmt: skip
        reporter = Reporter("plan-1", "CZ1234", [sink])
        reporter.final({})
        reporter.close(0.1)
        assert (known.builds, told(foreman, "built")) == (1, 2)
    assert "was told by a request whose answer was lost" in caplog.text
    assert "was not told" not in caplog.text


def test_a_host_that_left_build_mode_meanwhile_is_said_and_not_tried_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with StandIn() as foreman:
        known = host(foreman)
        known.build = False
        ended(foreman, known)
        assert told(foreman, "built") == 1
    assert "was not told: answers 405" in caplog.text


def test_a_smart_proxy_says_200_and_that_is_as_good() -> None:
    with StandIn(proxy=True) as foreman:
        known = host(foreman)
        ended(foreman, known)
        assert (known.builds, told(foreman, "built")) == (1, 1)


def test_a_failure_is_told_with_reason_steps_and_the_end_of_the_log() -> None:
    log = "\n".join(f"line {number} " + "x" * 90 for number in range(2000))
    with StandIn() as foreman:
        known = host(foreman)
        ended(foreman, known, error="disk died\nof old age", log=log)
        assert known.build_errors is not None
        text = known.build_errors.decode()
    assert text.splitlines()[0] == "bedplate: disk died (and 1 more)"
    assert len(text.encode()) < 61 * 1024
    assert "partition: done" in text
    assert "image: FAILED" in text
    assert "nothing was touched" in text
    assert "line 1999" in text
    assert "line 0 " not in text
    assert told(foreman, "built") == 0


def test_a_config_report_has_an_entry_for_each_step() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        url = f"{foreman.address}/api/v2/config_reports"
        login = Login(url, "bedplate", Secret("pat-sesame"), known.name)
        ended(foreman, known, report=login)
        (report,) = foreman.reports
    assert report["host"] == "db01.example.com"
    assert report["status"]["applied"] == 2
    assert report["status"]["failed"] == 0
    sources = [line["log"]["sources"]["source"] for line in report["logs"]]
    assert sources == ["partition", "image"]
    assert {line["log"]["level"] for line in report["logs"]} == {"notice"}
    assert "total" in report["metrics"]["time"]


def test_a_config_report_of_a_failure_counts_it_and_says_why() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        url = f"{foreman.address}/api/v2/config_reports"
        ended(foreman, known, "disk died", Login(url, "bedplate", Secret("pat-sesame"), known.name))
        (report,) = foreman.reports
        assert known.build_errors is not None
    assert report["status"]["failed"] == 1
    levels = {line["log"]["sources"]["source"]: line["log"]["level"] for line in report["logs"]}
    assert levels == {"partition": "notice", "image": "err", "install": "err"}


def test_a_login_that_is_refused_costs_the_report_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with StandIn() as foreman:
        known = host(foreman)
        url = f"{foreman.address}/api/v2/config_reports"
        ended(foreman, known, report=Login(url, "bedplate", Secret("wrong"), known.name))
        assert (known.builds, foreman.reports) == (1, [])
    assert "config_reports: was not told: answers 403" in caplog.text
    assert "wrong" not in caplog.text


def test_whether_foreman_can_be_told_is_asked_without_telling_it(tmp_path: Path) -> None:
    with StandIn() as foreman:
        known = host(foreman)
        where = Where(Secret(known.url("failed")), Secret(known.url("built")))
        assert Outcome(where, Talk(patience=5)).reachable() is None
        assert known.builds == 0
        assert all("unattended" not in seen.path for seen in foreman.requests)
    said = Outcome(where, Talk(patience=5)).reachable()
    assert said is not None
    assert "refused" in said.lower()
    with StandIn(certificate=self_signed(tmp_path, "127.0.0.1")) as strange:
        where = Where(Secret(host(strange).url("failed")))
        assert "TLS" in (Outcome(where, Talk(patience=5)).reachable() or "")


def test_a_sink_that_was_told_to_keep_silent_is_silent() -> None:
    with StandIn() as foreman:
        known = host(foreman)
        sink = Outcome(Where(Secret(known.url("failed"))), Talk(patience=5))
        sink.move(None)
        failed = State.FAILED
        sink(Event(plan="p", machine="m", seq=1, time=1, step="install", state=failed, message="x"))
        sink.close(0)
        assert foreman.requests == []
