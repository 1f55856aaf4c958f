"""`bedplate redfish` against OpenStack's sushy-emulator, over real HTTP, with a real deploy server.

The emulated BMC has no machine behind it; tests/boot/test_redfish.py gives it one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.errors import AgentError, MachineError, StepError
from agent.redfish.bmc import Bmc, Login, session
from agent.redfish.following import Server
from agent.redfish.installing import Order, Patience, install
from agent.redfish.media import serving
from agent.report.event import Event, State
from agent.secret import Secret
from agent.server import running
from qemu.redfish import Setting, emulator
from tests.adapters.certificates import self_signed
from tests.unit.report.receivers import event

SETTING = Setting()
LOGIN = Login(SETTING.user, Secret(SETTING.password))
ISO = bytes(range(256)) * 5000
PLAN = "0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11"
PATIENCE = Patience(callback=60, whole=120, look=0.05, shutdown=60)
FLOPPY_ONLY = {"Floppy": {"Name": "Virtual Removable Media", "MediaTypes": ["Floppy", "USBStick"]}}


@pytest.fixture(scope="module")
def bmc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with emulator(tmp_path_factory.mktemp("bmc"), SETTING) as url:
        yield url


@pytest.fixture
def bmc(bmc_url: str) -> Iterator[Bmc]:
    with session(bmc_url, LOGIN) as found:
        yield found
        found.eject()


@pytest.fixture
def iso(tmp_path: Path) -> Path:
    image = tmp_path / "live image"
    image.write_bytes(ISO)
    return image


def quiet(_: str) -> None:
    """Say nothing."""


def test_an_image_is_inserted_booted_from_once_and_taken_out(bmc: Bmc, iso: Path) -> None:
    said: list[str] = []
    with serving(iso, "127.0.0.1") as served:
        assert install(
            bmc, Order(served.url, False), PATIENCE, said.append, list[Event]().append
        ) == ("started")
        (slot,) = bmc.slots()
        assert (slot.name, slot.image, slot.inserted) == ("Cd", served.url, True)
        assert bmc.next_boot().startswith("Cd (")
        assert served.sent == len(ISO)
        assert bmc.eject() == [served.url]
    bmc.boot_from_disk()
    assert not bmc.next_boot().startswith("Cd (")
    assert [each.inserted for each in bmc.slots()] == [False]
    assert "powered on" in said[-1] or "restarted" in said[-1]


def test_what_is_in_the_slot_gives_way(bmc: Bmc, iso: Path) -> None:
    with serving(iso, "127.0.0.1") as old, serving(iso, "127.0.0.1") as new:
        bmc.insert(old.url)
        assert bmc.insert(new.url).image == new.url


def test_a_wrong_password_is_named_with_the_account_and_not_shown(bmc_url: str) -> None:
    with (
        pytest.raises(MachineError, match="refuses admin: wrong name or password") as caught,
        session(bmc_url, Login("admin", Secret("canary-secret"))),
    ):
        pass
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("devices", "features", "have"),
    [(FLOPPY_ONLY, "vmedia", "only for Floppy, USBStick"), (None, "minimum", "none at all")],
)
def test_a_bmc_without_a_slot_for_a_cd_says_what_it_has(
    tmp_path: Path, devices: dict[str, object] | None, features: str, have: str
) -> None:
    setting = Setting(devices=devices, features=features)
    with emulator(tmp_path, setting) as url, session(url, LOGIN) as bmc:
        with pytest.raises(MachineError, match=rf"no slot for a CD or DVD, {have}"):
            bmc.insert("http://127.0.0.1:1/x.iso")
        assert not bmc.is_on()


def test_an_image_that_the_bmc_cannot_fetch_is_named_and_nothing_is_started(bmc: Bmc) -> None:
    url = "http://user:canary@127.0.0.1:1/x.iso"
    with pytest.raises(MachineError, match=r"did not take http://127.0.0.1:1/x.iso") as caught:
        install(bmc, Order(url, False), PATIENCE, quiet, list[Event]().append)
    assert "reachable from the BMC's network" in str(caught.value)
    assert "canary" not in str(caught.value).replace("canary@127.0.0.1", "")
    assert not bmc.next_boot().startswith("Cd (")


def test_a_certificate_that_nobody_vouches_for_is_named(tmp_path: Path) -> None:
    tls = self_signed(tmp_path / "tls", "127.0.0.1")
    with emulator(tmp_path / "bmc", Setting(tls=tls)) as url:
        with (
            pytest.raises(MachineError, match=r"certificate is not trusted: self.signed.*--ca"),
            session(url, LOGIN, delay=0.01),
        ):
            pass
        for verify in (str(tls[0]), False):
            with session(url, Login(SETTING.user, LOGIN.password, verify)) as bmc:
                assert bmc.system == "rig"


def test_a_bmc_that_is_not_there_is_named(bmc_url: str) -> None:
    del bmc_url
    with (
        pytest.raises(
            MachineError, match=r"http://127.0.0.1:1: does not answer: connection refused"
        ),
        session("http://127.0.0.1:1", LOGIN, delay=0.01),
    ):
        pass


def test_of_several_systems_one_must_be_named(tmp_path: Path) -> None:
    with emulator(tmp_path, Setting(systems=("left", "right"))) as url:
        with (
            pytest.raises(
                MachineError, match=r"has 2 systems, name one by --system: .*left.*right"
            ),
            session(url, LOGIN),
        ):
            pass
        with session(url, LOGIN, "right") as bmc:
            assert bmc.system == "right"
        with (
            pytest.raises(MachineError, match="has no system up; there are"),
            session(url, LOGIN, "up"),
        ):
            pass


# -- the deploy server -------------------------------------------------------------------------


def plan_text(finish: str) -> str:
    return f"""\
version: 1
id: {PLAN}
hostname: db01
machine: {{serial: CZ1234}}
disks: {{count: 1}}
storage: {{preset: stig-rhel9}}
image: {{manifest: "https://images.example.com/a.json"}}
finish: {finish}
"""


class Machine:
    """Says to a deploy server what a machine would."""

    def __init__(self, url: str) -> None:
        self.url, self.seq = url, 0

    def tell(self, run: str, step: str, state: State, **fields: object) -> None:
        self.seq += 1
        told = event(self.seq, state, plan=PLAN, run=run, step=step, **fields)
        request = urllib.request.Request(f"{self.url}/v1/events", data=told.line, method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


@pytest.fixture
def deploy(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "site/plans").mkdir(parents=True)
    (tmp_path / "site/plans/db01.yaml").write_text(plan_text("reboot"))
    with running(tmp_path / "site") as url:
        yield Machine(url)


def once_started(then: Callable[[], None]) -> Callable[[str], None]:
    """Return what does `then` when it is said that the machine was started."""

    def say(text: str) -> None:
        if text.endswith("boots from Cd once"):
            then()

    return say


def test_a_machine_is_followed_until_it_says_that_it_is_installed(
    bmc: Bmc, iso: Path, deploy: Machine
) -> None:
    deploy.tell("last week", "install", State.FAILED, message="an old story")
    seen: list[Event] = []

    def machine() -> None:
        deploy.tell("today", "find", State.STARTED)
        deploy.tell("today", "install", State.FINISHED, evidence={"state": "installed"})

    with serving(iso, "127.0.0.1") as served:
        order = Order(served.url, True, Server(deploy.url, PLAN), served)
        say = once_started(machine)
        assert install(bmc, order, PATIENCE, say, seen.append) == "installed"
    assert [(each.run, each.step) for each in seen] == [("today", "find"), ("today", "install")]
    assert [slot.inserted for slot in bmc.slots()] == [False]


def test_a_machine_that_fails_is_quoted_and_the_image_taken_out(
    bmc: Bmc, iso: Path, deploy: Machine
) -> None:
    def machine() -> None:
        deploy.tell("today", "install", State.FAILED, message="disk d0: is too small")

    with serving(iso, "127.0.0.1") as served:
        order = Order(served.url, True, Server(deploy.url, PLAN), served)
        with pytest.raises(StepError, match="not installed: disk d0: is too small"):
            install(bmc, order, PATIENCE, once_started(machine), list[Event]().append)
    assert [slot.inserted for slot in bmc.slots()] == [False]


def test_a_machine_that_never_calls_back_is_given_up_with_what_is_known(
    bmc: Bmc, iso: Path, deploy: Machine
) -> None:
    with serving(iso, "127.0.0.1") as served:
        order = Order(served.url, True, Server(deploy.url, PLAN), served)
        patience = Patience(callback=0.3, look=0.05)
        with pytest.raises(StepError, match=r"nothing was heard of it .* 1.3 MB of the image"):
            install(bmc, order, patience, quiet, list[Event]().append)
    assert [slot.inserted for slot in bmc.slots()] == [False]


def test_a_plan_that_the_server_lacks_stops_before_the_machine_is_touched(
    bmc: Bmc, iso: Path, deploy: Machine
) -> None:
    other = "11111111-6d6e-4f43-9a4e-6a2f7e0c2b11"
    with serving(iso, "127.0.0.1") as served:
        order = Order(served.url, True, Server(deploy.url, other), served)
        with pytest.raises(MachineError, match=rf"has no plan {other}"):
            install(bmc, order, PATIENCE, quiet, list[Event]().append)
        assert served.requests == 0


# -- the image, served -------------------------------------------------------------------------


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = HTTPConnection(str(parts.hostname), parts.port or 80, timeout=30)
    try:
        connection.request(method, parts.path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-0", 206, ISO[:1]),
        ("bytes=2048-4095", 206, ISO[2048:4096]),
        (f"bytes={len(ISO) - 10}-", 206, ISO[-10:]),
        ("bytes=-300", 206, ISO[-300:]),
        (f"bytes=100-{len(ISO) + 5}", 206, ISO[100:]),
        ("bytes=0-1,5-6", 200, ISO),
        (f"bytes={len(ISO)}-", 416, b""),
        ("bytes=-0", 416, b""),
        ("lines=1-2", 200, ISO),
    ],
)
def test_a_range_is_what_it_says(iso: Path, wanted: str, status: int, content: bytes) -> None:
    with serving(iso, "127.0.0.1") as served:
        answer = ask(served.url, Range=wanted)
    assert (answer[0], answer[2]) == (status, content)


def test_a_head_tells_the_size_and_that_ranges_work(iso: Path) -> None:
    with serving(iso, "127.0.0.1") as served:
        status, headers, body = ask(served.url, "HEAD")
        assert served.url.endswith("/live%20image.iso")
    assert (status, headers["Content-Length"], body) == (200, str(len(ISO)), b"")
    assert headers["Accept-Ranges"] == "bytes"


def test_only_who_knows_the_path_gets_the_image(iso: Path) -> None:
    with serving(iso, "127.0.0.1") as served:
        parts = urlsplit(served.url)
        for path in ("/", "/live%20image.iso", "/x" + parts.path, parts.path + "/.."):
            assert ask(parts._replace(path=path).geturl())[0] == 404
    with serving(iso, "127.0.0.1") as again:
        assert urlsplit(again.url).path != parts.path


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::", "bmc.example.com", "127.0.0.1:x", "192.0.2.1"]
)
def test_an_address_that_a_bmc_could_not_use_is_refused(iso: Path, address: str) -> None:
    with pytest.raises(AgentError, match="--serve"), serving(iso, address):
        pass


# -- the command -------------------------------------------------------------------------------


def bedplate(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "agent", "redfish", *arguments],
        input=stdin, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_commands_start_show_and_clean_up(bmc_url: str, iso: Path, tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(f"{SETTING.password}\n")
    access = ("--bmc", bmc_url, "--user", SETTING.user, "--password-file", str(secret))
    with serving(iso, "127.0.0.1") as served:
        started = bedplate("install", *access, "--iso", served.url)
        assert (started.returncode, started.stdout) == (0, "started\n"), started.stderr
        shown = bedplate("status", *access)
        assert served.url in shown.stdout
        assert "Cd (continuous" in shown.stdout  # this emulator knows no other
    taken = bedplate("eject", *access)
    assert (taken.returncode, taken.stdout) == (0, f"{served.url} was taken out\n")
    assert '"image": ""' in bedplate("status", *access, "--json").stdout
    assert SETTING.password not in started.stderr + started.stdout + shown.stdout + taken.stdout


def test_the_password_comes_by_stdin_and_a_wrong_one_is_status_4(bmc_url: str) -> None:
    access = ("--bmc", bmc_url, "--user", SETTING.user, "--password-file", "-")
    assert bedplate("status", *access, stdin=SETTING.password).returncode == 0
    done = bedplate("status", *access, stdin="canary")
    assert (done.returncode, done.stderr.count("\n")) == (4, 1)
    assert "refuses admin: wrong name or password" in done.stderr
    assert "canary" not in done.stderr


def test_a_bmc_without_a_slot_is_status_4_and_one_line(tmp_path: Path, iso: Path) -> None:
    with emulator(tmp_path / "bmc", Setting(devices=FLOPPY_ONLY)) as url:
        done = bedplate(
            "install", "--bmc", url, "--user", SETTING.user, "--password-file", "-", "--wait",
            "--iso", str(iso), "--serve", "127.0.0.1", stdin=SETTING.password,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (4, "", 1), done.stderr
    assert "has no slot for a CD or DVD, only for Floppy, USBStick" in done.stderr


def test_a_machine_that_never_calls_back_is_status_5_and_its_slot_is_emptied(
    bmc_url: str, iso: Path, deploy: Machine
) -> None:
    access = ("--bmc", bmc_url, "--user", SETTING.user, "--password-file", "-")
    done = bedplate(
        "install", *access, "--wait", "--iso", str(iso), "--serve", "127.0.0.1",
        "--server", deploy.url, "--plan", PLAN, "--callback-timeout", "0.5", "--interval", "0.1",
        stdin=SETTING.password,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert "machine: nothing was heard of it for" in done.stderr
    assert "is taken out" in done.stderr
    shown = bedplate("status", *access, "--json", stdin=SETTING.password).stdout
    assert '"image": ""' in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--iso", "live.iso"), "give --serve"),
        (("--iso", "live.iso", "--serve", "127.0.0.1"), "--serve needs --wait"),
        (("--iso", "http://x/a.iso", "--serve", "127.0.0.1"), "is for an --iso that is a file"),
        (("--iso", "http://x/a.iso", "--wait", "--server", "http://x"), "belong together"),
    ],
)
def test_options_that_contradict_are_refused_before_anybody_is_asked(
    options: tuple[str, ...], message: str
) -> None:
    done = bedplate("install", "--bmc", "http://127.0.0.1:1", "--user", "admin", *options)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
