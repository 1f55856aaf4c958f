"""A host that Foreman does not know: discovered, provisioned, installed, without a second boot."""

from __future__ import annotations

import gc
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from agent.errors import MachineError
from agent.find import Found
from agent.foreman import announcement
from agent.foreman.address import Server
from agent.foreman.announcement import Myself
from agent.foreman.discovery import Discovery, Pace
from agent.foreman.listener import BODY_LIMIT, Listener
from agent.foreman.order import REBOOT, Order, kexec_order
from agent.foreman.talk import Talk
from agent.inventory.model import Disk, Dmi, Firmware, Inventory, Nic
from tests.adapters.daemons import free_port
from tests.adapters.foreman.standin import Discovered, Host, Reply, StandIn, call, until

MAC = "52:54:00:12:34:56"
PLAN = "version: 1\n# the plan\n"
PATIENT = Pace(poll=60, soon=0.05, patience=120)
"""Nothing is found by chance: only who is told asks again."""
SLOW = Pace(poll=0.3, soon=0.05, hurry=5, resend=600, retry=0.2, patience=60)


def machine(*addresses: str) -> Inventory:
    return Inventory(
        firmware=Firmware(uefi=True),
        memory=4 << 30,
        cpus=2,
        dmi=Dmi(vendor="Bedplate", product="Rig", serial="BP0001"),
        disks=(Disk(path="/dev/vda", size=32 << 30),),
        nics=(
            Nic(name="eno1", mac="52:54:00:00:00:01", addresses=("192.0.2.7/24",)),
            Nic(name="eno2", mac=MAC, carrier=True, addresses=addresses),
        ),
    )


def nowhere(ip: str) -> None:
    """Foreman reaches no machine: for tests in which the plan may be found before it calls."""


def plan(host: Host) -> str:
    return PLAN


@dataclass
class Bench:
    """A machine that waits, and its port."""

    foreman: StandIn
    port: int
    shown: list[str] = field(default_factory=list)
    addresses: tuple[str, ...] = ("127.0.0.1/8",)
    result: list[Found | MachineError | None] = field(default_factory=list)

    def discovery(self, pace: Pace = SLOW) -> Discovery:
        def show(words: str) -> nullcontext[None]:
            self.shown.append(words)
            return nullcontext()

        server = Server(self.foreman.address, self.foreman.proxy)
        myself = Myself(MAC, lambda: machine(*self.addresses))
        return Discovery(server, myself, Talk(patience=10), pace, self.port, show)

    @contextmanager
    def waiting(self, pace: Pace = SLOW) -> Iterator[None]:
        """Wait for the plan in a thread; at the end there must be one."""

        def read() -> None:
            try:
                self.result.append(self.discovery(pace).read())
            except MachineError as error:
                self.result.append(error)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield
        thread.join(90)
        assert not thread.is_alive()

    def found(self) -> Found:
        (found,) = self.result
        assert isinstance(found, Found), found
        return found


@contextmanager
def bench(**options: Any) -> Iterator[Bench]:
    port = free_port()
    options.setdefault("reach", lambda ip: ("127.0.0.1", port))
    with StandIn(**options) as foreman:
        yield Bench(foreman, port)


def new_host(found: Discovered | None = None) -> Host:
    return Host(mac=MAC, plan=plan)


def uploads(foreman: StandIn) -> int:
    path = "/discovery/create" if foreman.proxy else "/api/v2/discovered_hosts/facts"
    return len(foreman.asked(f"POST {path}"))


def polls(foreman: StandIn) -> int:
    return sum(seen.answered for seen in foreman.asked("GET /unattended/provision"))


def kexec(host: Host) -> dict[str, Any]:
    url = host.url("provision")
    return {"kernel": "http://x/k", "initram": "http://x/i", "append": "quiet", "plan_url": url}


# --- the ways to a plan ---


def test_a_host_that_is_known_by_its_mac_gets_its_plan_and_uploads_nothing() -> None:
    with bench() as test:
        test.foreman.add(new_host())
        with test.waiting():
            pass
        assert test.found().content == PLAN.encode()
        assert uploads(test.foreman) == 0
        (asked,) = test.foreman.asked("GET /unattended/provision")
        assert asked.query == {"mac": MAC}
        assert asked.headers["x-rhn-provisioning-mac-0"] == f"eno2 {MAC}"
        assert "52:54:00:00:00:01" in asked.headers["x-rhn-provisioning-mac-1"]


@pytest.mark.parametrize("proxy", [False, True])
@pytest.mark.parametrize("template", [None, kexec])
def test_an_unknown_host_is_discovered_then_provisioned_and_called_back(
    proxy: bool, template: Any
) -> None:
    with bench(proxy=proxy, kexec=template) as test:
        with test.waiting(PATIENT):
            until(lambda: polls(test.foreman) == 2)  # before and after the upload
            assert "discovered, it waits to be provisioned there" in test.shown[0]
            test.foreman.provision(MAC, new_host())
        assert test.found().content == PLAN.encode()
        ((path, status, answer),) = test.foreman.called_back
        assert path == ("/power/kexec" if template else "/power/reboot")
        assert (status, answer["result"]) == (200, True)
        assert uploads(test.foreman) == 1
        by_token = ["token" in seen.query for seen in test.foreman.requests]
        assert any(by_token) == bool(template)


@pytest.mark.parametrize("template", [None, kexec])
def test_auto_provisioning_calls_back_inside_the_upload(template: Any) -> None:
    with bench(rule=new_host, kexec=template) as test:
        with test.waiting(PATIENT):
            pass
        assert test.found().content == PLAN.encode()
        ((_, status, answer),) = test.foreman.called_back
        assert (status, answer["result"]) == (200, True)
        assert uploads(test.foreman) == 1
        assert test.foreman.discovered == {}


def test_a_foreman_that_cannot_reach_the_machine_is_polled() -> None:
    with bench(rule=new_host, reach=nowhere) as test:
        with test.waiting():
            pass
        assert test.found().content == PLAN.encode()


def test_a_managed_host_is_never_discovered_again() -> None:
    with bench(reach=nowhere) as test:
        pace = Pace(poll=0.05, soon=0.05, resend=0.05, retry=0.05, patience=60)
        with test.waiting(pace):
            until(lambda: test.foreman.discovered.get(MAC))
            host = Host(mac=MAC, plan=plan, build=False)
            test.foreman.provision(MAC, host)
            until(lambda: any("not in build mode" in words for words in test.shown))
            seen = polls(test.foreman)
            until(lambda: polls(test.foreman) > seen + 10)  # an upload under way has arrived
            before = uploads(test.foreman)
            # Deleted there: a host that was managed is not announced by itself.
            with test.foreman.lock:
                test.foreman.hosts.remove(host)
            until(lambda: "does not know this machine" in test.shown[-1])
            asked = polls(test.foreman)
            until(lambda: polls(test.foreman) > asked + 5)
            assert uploads(test.foreman) == before
            test.foreman.add(new_host())
        assert test.found().content == PLAN.encode()


def test_what_somebody_must_do_is_shown_as_it_changes() -> None:
    with bench() as test:
        host = test.foreman.add(Host(mac=MAC, plan=None, token_expired=True, has_os=False))
        with test.waiting(Pace(poll=0.05, patience=60)):
            until(lambda: any("token has expired" in words for words in test.shown))
            host.token_expired = False
            until(lambda: any("without an operating system" in words for words in test.shown))
            host.has_os = True
            until(lambda: any("no provisioning template" in words for words in test.shown))
            host.plan = plan
        assert test.found().content == PLAN.encode()
        assert uploads(test.foreman) == 0


def test_before_foreman_has_answered_nothing_is_uploaded() -> None:
    with bench() as test:
        test.foreman.add(new_host())
        test.foreman.befall("GET /unattended/provision", "silent", Reply(503), Reply(502))
        with test.waiting():
            pass
        assert uploads(test.foreman) == 0
        assert test.found().content == PLAN.encode()


def test_a_card_without_an_address_is_waited_for_before_anything_is_uploaded() -> None:
    with bench(rule=new_host, reach=nowhere) as test:
        test.addresses = ()
        with test.waiting():
            until(lambda: any("has no address yet" in words for words in test.shown))
            assert uploads(test.foreman) == 0
            test.addresses = ("127.0.0.1/8",)
        assert test.found().content == PLAN.encode()


def test_without_bootif_the_card_is_chosen_once_one_has_an_address() -> None:
    with bench() as test:
        test.foreman.add(Host(mac="52:54:00:00:00:01", plan=plan))
        about = replace(test.discovery(), myself=Myself("", machine))
        found = about.read()
        assert found is not None
        assert "52:54:00:00:00:01" in found.where


def test_a_machine_without_any_card_is_told_so() -> None:
    with bench() as test:
        none = machine().model_copy(update={"nics": ()})
        pace = Pace(soon=0.02, card=0.1)
        about = replace(test.discovery(pace), myself=Myself("", lambda: none))
        with pytest.raises(MachineError, match="has no network card"):
            about.read()


def test_facts_that_were_not_taken_are_sent_again_and_the_reason_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "agent.foreman")
    refused = Reply(422, json.dumps({"message": "Unable to find primary NIC"}))
    with bench(rule=new_host, reach=nowhere) as test:
        path = "POST /api/v2/discovered_hosts/facts"
        test.foreman.befall(path, refused, "silent")
        with test.waiting():
            pass
        assert uploads(test.foreman) == 3
    assert "the facts were not taken: 422: Unable to find primary NIC" in caplog.text


def test_a_foreman_that_is_somebody_else_is_no_reason_to_wait(tmp_path: Any) -> None:
    from tests.adapters.certificates import self_signed

    with bench(certificate=self_signed(tmp_path, "127.0.0.1")) as test:
        with test.waiting():
            pass
        assert isinstance(test.result[0], MachineError)
        assert "TLS" in str(test.result[0])


def test_patience_can_end() -> None:
    with bench() as test:
        with test.waiting(Pace(poll=0.05, patience=0.1)):
            pass
        assert "does not know this machine" in str(test.result[0])


# --- orders that are not Foreman's ---


@pytest.mark.parametrize(
    "body",
    [
        {"plan_url": "https://evil.example.com/unattended/provision?token=1"},
        {"append": "bedplate.plan=http://evil.example.com/unattended/provision?token=1"},
        {"status": "Unable to render or parse template: undefined method"},
        {"kernel": "http://evil.example.com/vmlinuz", "append": "quiet"},
        [],
        {"plan_url": 7},
    ],
)
def test_an_order_that_names_another_server_is_answered_no_and_fetches_nothing(
    body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with bench() as test:
        with test.waiting():
            until(lambda: test.foreman.discovered.get(MAC))
            test.foreman.put("127.0.0.1", "/power/kexec", body)
            ((_, status, answer),) = test.foreman.called_back
            assert (status, answer["result"]) == (200, False)
            assert answer["message"]
            test.foreman.add(new_host())
        assert test.found().content == PLAN.encode()
    assert answer["message"] in caplog.text


def test_the_port_is_closed_once_there_is_a_plan() -> None:
    with bench(rule=new_host) as test:
        with test.waiting(PATIENT):
            pass
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", test.port), timeout=10)


# --- the listener by itself ---


@contextmanager
def listening() -> Iterator[tuple[int, list[Order]]]:
    heard: list[Order] = []
    server = Server("https://foreman.example.com")
    with Listener(
        lambda: {"a": 1}, lambda body: kexec_order(body, server), heard.append, 0
    ) as listener:
        yield listener.port, heard


def test_facts_are_shown_to_who_asks() -> None:
    with listening() as (port, heard):
        assert call(("127.0.0.1", port), "GET", "/inventory/facter") == (200, {"a": 1})
        assert call(("127.0.0.1", port), "GET", "/etc/passwd")[0] == 404
        assert call(("127.0.0.1", port), "PUT", "/power/off")[0] == 404
        assert heard == []


def test_who_says_nothing_keeps_nobody_waiting_and_who_says_too_much_is_cut() -> None:
    with listening() as (port, heard):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        try:
            assert call(("127.0.0.1", port), "PUT", "/power/reboot")[0] == 200
            said = call(("127.0.0.1", port), "PUT", "/power/kexec", length=BODY_LIMIT + 1)
            assert said[0] == 413
        finally:
            for each in silent:
                each.close()
        until(lambda: heard)
        assert heard == [REBOOT]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_more_than_enough_at_once_are_turned_away_and_later_ones_served() -> None:
    with listening() as (port, heard):
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for each in crowd:
            each.close()

        def served() -> bool:
            try:
                return call(("127.0.0.1", port), "PUT", "/power/reboot")[0] == 200
            except OSError:
                gc.collect()  # ssl leaves a socket behind that was closed before the handshake
                return False

        until(served)
        until(lambda: heard)


def test_an_upload_is_waited_for_longer_than_auto_provisioning_takes() -> None:
    assert announcement.ANSWER_SECONDS >= 180
