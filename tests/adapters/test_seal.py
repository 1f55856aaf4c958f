"""The first boot's sealing script, run for real: LUKS2 in a file, tangd, a software TPM.

Programs are called through wrappers that write down their arguments and can cut everything off
(SIGKILL to the whole process group, as a power cut does) right after a chosen one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.adapters.clevis import Clevis
from agent.adapters.command import attempt, run
from agent.adapters.luks import Cryptsetup
from agent.adapters.tang import TangServers
from agent.errors import CommandError
from agent.keyslots import INSTALL, RECOVERY, SEALED, UNLOCK
from agent.layout.model import FileSystem, Layout, Luks, VolumeGroup
from agent.machine import Advertisement, Keyslot
from agent.pin import sss_config
from agent.plan.encryption import Encryption, Tpm2
from agent.plan.model import Plan
from agent.plan.report import HttpReport
from agent.plan.unlock import parse_policy
from agent.report.event import Event, State
from agent.secret import Secret
from agent.target.kit import Kit, seal
from agent.target.tree import Tree
from tests.adapters.daemons import (
    SoftTpm,
    TangServer,
    luks_volume,
    soft_tpm,
    sparse_copy,
    tang_server,
)

INSTALL_KEY, RECOVERY_KEY, TOKEN = Secret.random(), Secret.random(), Secret("token-0123456789")
LUKS = Cryptsetup(run, attempt)
PROVISIONAL = (Keyslot(RECOVERY, None), Keyslot(UNLOCK, "clevis"))
BOTH = (*PROVISIONAL, Keyslot(SEALED, "clevis"))
FINAL = (Keyslot(RECOVERY, None), Keyslot(SEALED, "clevis"))

# Everything the script calls by itself or through Clevis that could take a key as an argument.
# `printf` is not installed as a program here: to call it is to be found out.
WRAPPED = ("clevis", "cryptsetup", "curl", "jose", "mv", "printf", "sed", "grep", "tr", "cat")
WRAPPER = """#!/bin/sh
echo "$0 $*" >>"$CALLS"
case "$0 $*" in
*/printf\\ *) exit 99 ;;
*$CUT_AFTER*) {program} "$@"; kill -KILL 0 ;;
esac
exec {program} "$@"
"""
NEVER = "no program is called like this"


@dataclass
class Receiver:
    """A report server; answers with the statuses given, the last one for ever."""

    url: str = ""
    statuses: list[int] = field(default_factory=lambda: [200])
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    state = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = state.statuses.pop(0) if len(state.statuses) > 1 else state.statuses[0]
            if status == 200:
                state.bodies.append(body)
                state.headers.append(dict(self.headers))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/v1/events?of=first%20boot"
        try:
            yield state
        finally:
            httpd.shutdown()
            thread.join()


@dataclass
class Lab:
    """What outlives a test: servers, a TPM, and volumes as the installer leaves them."""

    tang: TangServer
    tpm: SoftTpm
    wrappers: Path
    volumes: dict[str, Path]
    advertisement: Advertisement


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    root = tmp_path_factory.mktemp("seal")
    wrappers = root / "bin"
    wrappers.mkdir()
    for name in WRAPPED:
        wrapper = wrappers / name
        wrapper.write_text(WRAPPER.format(program=shutil.which(name)))
        wrapper.chmod(0o755)
    with tang_server(root / "tang") as tang, soft_tpm(root / "tpm") as tpm:
        advertisement = TangServers(run).advertisement(tang.url, tang.thumbprint)
        volumes = {}
        for number, words in enumerate(("tpm2 and tang", "tpm2 or tang")):
            volume = luks_volume(root / f"volume{number}", INSTALL_KEY)
            LUKS.add(volume, existing=INSTALL_KEY, new=RECOVERY_KEY, slot=RECOVERY)
            Clevis(run, tpm.tcti).bind(
                volume,
                existing=INSTALL_KEY,
                slot=UNLOCK,
                config=sss_config(parse_policy(words), [advertisement]),
            )
            LUKS.kill(volume, INSTALL, other=RECOVERY_KEY)
            volumes[words] = volume
        yield Lab(tang, tpm, wrappers, volumes, advertisement)


class Installed:
    """An installed system as far as sealing goes: the kit's files below a root, and a volume."""

    def __init__(self, lab: Lab, directory: Path, words: str, *reports: str) -> None:
        self.lab, self.root = lab, directory / "root"
        self.volume = sparse_copy(lab.volumes[words], directory / "volume")
        self.calls = directory / "calls"
        self.calls.touch()
        kit(words, lab.advertisement, *reports).write(Tree(self.root))
        conf = self.root / "etc/bedplate/seal.json"
        conf.write_text(json.dumps({**json.loads(conf.read_text()), "device": str(self.volume)}))
        (directory / "tmp").mkdir()
        lab.tpm.tidy()

    def boot(self, cut_after: str = NEVER) -> int:
        """Run the script to its end or to the cut; return its status, -9 for the cut."""
        done = subprocess.run(
            ["sh", self.root / "usr/local/sbin/bedplate-seal", self.root],
            env={
                "PATH": f"{self.lab.wrappers}:/usr/sbin:/usr/bin:/sbin:/bin",
                "TPM2TOOLS_TCTI": self.lab.tpm.tcti,
                "TMPDIR": str(self.root.parent / "tmp"),
                "CALLS": str(self.calls),
                "CUT_AFTER": cut_after,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            start_new_session=True,
            check=False,
            timeout=120,
        )
        self.said = done.stdout + done.stderr
        self.lab.tpm.tidy()
        return done.returncode

    @property
    def state(self) -> Path:
        return self.root / "var/lib/bedplate"

    def keyslots(self) -> tuple[Keyslot, ...]:
        return LUKS.keyslots(self.volume)

    def opens_itself(self) -> bool:
        """Ask as the initrd does: any Clevis keyslot will do."""
        clevis = Clevis(run, self.lab.tpm.tcti)
        for keyslot in self.keyslots():
            if keyslot.token == "clevis":
                with contextlib.suppress(CommandError):
                    return LUKS.opens(self.volume, clevis.unlock(self.volume, keyslot.number))
        return False


def kit(words: str, advertisement: Advertisement, *reports: str) -> Kit:
    encryption: Any = {
        "unlock": parse_policy(words),
        "tpm2": Tpm2(pcrs=(7,), seal="first-boot"),
    }
    plan: Any = {
        "id": UUID(int=5),
        "encryption": Encryption.model_construct(**encryption),
        "report": tuple(HttpReport(type="http", url=url, token=TOKEN) for url in reports),
    }
    nowhere = FileSystem(Path("/dev/x"), "UUID=x", "/boot", "ext4", "x", "boot", ())
    luks = Luks(Path("/dev/md/root"), UUID(int=6), "cr_root", "root")
    layout = Layout((), (), luks, VolumeGroup("vg", Path("/dev/x"), 0, ()), nowhere, ())
    return seal.kit(Plan.model_construct(**plan), 'CZ "1234"', layout, [advertisement])


def test_a_power_cut_anywhere_leaves_a_machine_that_opens_and_goes_on(
    lab: Lab, tmp_path: Path
) -> None:
    with receiver() as reports:
        system = Installed(lab, tmp_path, "tpm2 and tang", reports.url)
        # Each boot is cut off after one more of the calls that change anything. The second one
        # finds a keyslot without a token and begins that binding anew.
        for cut_after, keyslots in (
            ("luksAddKey", (*PROVISIONAL, Keyslot(SEALED, None))),
            ("token import", BOTH),
            ("luksKillSlot", FINAL),
            ("token remove", FINAL),
            ("/mv", FINAL),
            ("curl --disable", FINAL),
        ):
            assert system.boot(cut_after) == -signal.SIGKILL, (cut_after, system.said)
            assert system.keyslots() == keyslots, cut_after
            assert LUKS.opens(system.volume, RECOVERY_KEY, RECOVERY), cut_after
            assert not (system.state / "sealed.json").exists()
        assert system.opens_itself()

        assert system.boot() == 0, system.said

    assert system.keyslots() == FINAL
    assert (system.state / "sealed.json").exists()
    tokens = json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", system.volume))
    assert list(tokens["tokens"]) == [str(SEALED)]
    # It was heard twice, once before the cut: the very same event.
    assert len(reports.bodies) == 2
    assert reports.bodies[0] == reports.bodies[1]


def test_disks_of_data_are_sealed_after_the_system_and_nothing_is_told_before_all_are(
    lab: Lab, tmp_path: Path
) -> None:
    with receiver() as reports:
        system = Installed(lab, tmp_path, "tpm2 and tang", reports.url)
        conf, data = system.root / "etc/bedplate/seal.json", tmp_path / "data"
        conf.write_text(json.dumps({**json.loads(conf.read_text()), "further": [str(data)]}))
        assert system.boot() != 0, "a disk of data is missing"
        assert system.keyslots() == FINAL
        assert not (system.state / "sealed.json").exists()
        assert reports.bodies == []

        sparse_copy(lab.volumes["tpm2 and tang"], data)
        assert system.boot() == 0, system.said
    assert LUKS.keyslots(data) == FINAL
    assert LUKS.opens(data, Clevis(run, lab.tpm.tcti).unlock(data, SEALED), SEALED)
    assert len(reports.bodies) == 1
    assert (system.state / "sealed.json").exists()


def test_a_sealed_machine_opens_only_as_it_was_started_and_says_so_once(
    tmp_path: Path, lab: Lab
) -> None:
    with soft_tpm(tmp_path / "tpm") as tpm, receiver() as reports:
        own = Lab(lab.tang, tpm, lab.wrappers, {}, lab.advertisement)
        base = luks_volume(tmp_path / "base", INSTALL_KEY)
        LUKS.add(base, existing=INSTALL_KEY, new=RECOVERY_KEY, slot=RECOVERY)
        config = sss_config(parse_policy("tpm2 and tang"), [lab.advertisement])
        Clevis(run, tpm.tcti).bind(base, existing=INSTALL_KEY, slot=UNLOCK, config=config)
        LUKS.kill(base, INSTALL, other=RECOVERY_KEY)
        own.volumes["tpm2 and tang"] = base
        system = Installed(own, tmp_path, "tpm2 and tang", reports.url)

        assert system.boot() == 0, system.said
        passphrase = Clevis(run, tpm.tcti).unlock(system.volume, SEALED)
        calls = system.calls.read_text()
        tpm.extend(7)
        assert not system.opens_itself()
        assert system.boot() == 0
        assert system.calls.read_text() == calls, "a sealed system did something again"

    assert LUKS.opens(system.volume, RECOVERY_KEY, RECOVERY)
    (body,) = reports.bodies
    event = Event.from_json(body)
    assert (event.step, event.state, event.run) == ("seal", State.FINISHED, "first-boot")
    assert (event.plan, event.machine) == (str(UUID(int=5)), 'CZ "1234"')
    assert event.evidence["pcrs"] == [7]
    assert (event.evidence["bank"], event.evidence["slot"]) == ("sha256", SEALED)
    assert reports.headers[0]["Authorization"] == f"Bearer {TOKEN.text}"
    assert (system.state / "sealed.json").read_bytes() == body
    assert not list((system.root / "etc/bedplate/seal.d").iterdir())
    # No key and no token was an argument of any program.
    assert "printf" not in calls
    for secret in (passphrase, RECOVERY_KEY, TOKEN):
        assert secret.text not in calls
    assert "luks bind" in calls


def test_tang_out_of_reach_changes_nothing_and_fails_so_that_it_is_tried_again(
    lab: Lab, tmp_path: Path
) -> None:
    with tang_server(tmp_path / "tang") as tang:
        advertisement = TangServers(run).advertisement(tang.url, tang.thumbprint)
        config = sss_config(parse_policy("tpm2 and tang"), [advertisement])
        base = luks_volume(tmp_path / "base", INSTALL_KEY)
        Clevis(run, lab.tpm.tcti).bind(base, existing=INSTALL_KEY, slot=UNLOCK, config=config)
    away = Lab(tang, lab.tpm, lab.wrappers, {"tpm2 and tang": base}, advertisement)
    system = Installed(away, tmp_path, "tpm2 and tang")
    before = system.volume.read_bytes()
    assert system.boot() == 1
    assert "keyslot 2 does not open yet: is Tang within reach?" in system.said
    assert system.volume.read_bytes() == before


def test_a_dead_tpm_half_of_an_or_is_sealed_again_although_tang_opens(
    lab: Lab, tmp_path: Path
) -> None:
    system = Installed(lab, tmp_path, "tpm2 or tang")
    assert system.boot("token import") == -signal.SIGKILL
    assert system.keyslots() == BOTH
    lab.tpm.extend(7, "cd" * 32)  # the next boot was measured differently
    assert LUKS.opens(system.volume, Clevis(run, lab.tpm.tcti).unlock(system.volume, SEALED))

    assert system.boot() == 0, system.said
    assert system.keyslots() == FINAL
    answers = Clevis(run, lab.tpm.tcti).answers(system.volume, SEALED)
    assert {answer.pin: answer.error for answer in answers} == {lab.tang.url: None, "tpm2": None}


def test_a_report_nobody_takes_is_kept_until_somebody_does(lab: Lab, tmp_path: Path) -> None:
    with receiver() as busy, receiver() as moved, receiver() as quick:
        busy.statuses, moved.statuses = [503, 200], [302, 200]
        system = Installed(lab, tmp_path, "tpm2 or tang", busy.url, moved.url, quick.url)
        assert system.boot() == 1
        assert "the report to 0.curl was answered with status 503" in system.said
        assert "the report to 1.curl was answered with status 302" in system.said
        assert system.keyslots() == FINAL
        sinks = system.root / "etc/bedplate/seal.d"
        assert sorted(sink.name for sink in sinks.iterdir()) == ["0.curl", "1.curl"]
        assert not (system.state / "sealed.json").exists()

        assert system.boot() == 0, system.said
    assert busy.bodies == moved.bodies == quick.bodies
    assert len(quick.bodies) == 1


def test_a_report_that_is_refused_for_good_is_not_sent_for_ever(lab: Lab, tmp_path: Path) -> None:
    with receiver() as gone, receiver() as crowded:
        gone.statuses, crowded.statuses = [403], [429, 200]
        system = Installed(lab, tmp_path, "tpm2 or tang", gone.url, crowded.url)
        assert system.boot() == 1
        assert "0.curl refused the report with status 403" in system.said
        assert "1.curl is busy: status 429" in system.said
        assert [sink.name for sink in (system.root / "etc/bedplate/seal.d").iterdir()] == ["1.curl"]

        assert system.boot() == 0, system.said
        assert (system.state / "sealed.json").exists()
    assert gone.bodies == []
    assert len(crowded.bodies) == 1


def test_without_a_keyslot_of_either_kind_it_says_who_can_help(lab: Lab, tmp_path: Path) -> None:
    system = Installed(lab, tmp_path, "tpm2 and tang")
    LUKS.kill(system.volume, UNLOCK, other=RECOVERY_KEY)
    assert system.boot() == 1
    assert "keyslot 3 does not open and keyslot 2 is gone: use the recovery key" in system.said
    assert LUKS.opens(system.volume, RECOVERY_KEY, RECOVERY)


def test_secrets_and_configuration_are_root_s_alone(lab: Lab, tmp_path: Path) -> None:
    system = Installed(lab, tmp_path, "tpm2 and tang", "http://127.0.0.1:1/")
    for name in ("seal.json", "seal.d/0.curl"):
        assert (system.root / "etc/bedplate" / name).stat().st_mode & 0o777 == 0o600
    assert os.access(system.root / "usr/local/sbin/bedplate-seal", os.X_OK)
