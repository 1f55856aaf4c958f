"""The steps of the keys on a real volume, and docs/recovery.md done word for word afterwards."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from agent.adapters.clevis import Clevis
from agent.adapters.command import attempt, run
from agent.adapters.escrow import OpensslCms
from agent.adapters.luks import Cryptsetup
from agent.adapters.tang import TangServers
from agent.adapters.tpm import TpmTools
from agent.checks.escrow import EscrowReady
from agent.checks.tpm import TpmReady
from agent.keyslots import RECOVERY, SEALED, UNLOCK
from agent.layout.model import Luks
from agent.machine import Advertisement, Keyslot, Machine
from agent.pin import sss_config
from agent.plan.unlock import parse_policy
from agent.secret import Secret
from agent.steps.add_recovery_key import AddRecoveryKey
from agent.steps.bind_unlock import BindUnlock
from agent.steps.escrow_recovery_key import EscrowRecoveryKey
from agent.steps.prove_unlock import ProveUnlock
from agent.steps.remove_install_key import RemoveInstallKey
from agent.target.kit import part
from tests.adapters.daemons import SoftTpm, luks_volume, soft_tpm, tang_server

DOCUMENT = (Path(__file__).parents[2] / "docs/recovery.md").read_text()
BLOCKS = dict(re.findall(r"^```sh (\w+)\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE))
POLICY = parse_policy("tpm2 and tang")
INSTALL_KEY, RECOVERY_KEY = Secret.random(), Secret.typeable()


@dataclass(frozen=True)
class Shelf:
    """Keeps envelopes as files, as a report server does."""

    directory: Path

    def deliver(self, envelope: bytes, meta: Mapping[str, str]) -> str:
        (self.directory / "envelope.p7m").write_bytes(envelope)
        (self.directory / "envelope.json").write_text(json.dumps(dict(meta)))
        return hashlib.sha256(envelope).hexdigest()


@dataclass(frozen=True)
class Desk:
    """A keeper's working directory, with an installed volume."""

    directory: Path
    volume: Path
    server: Advertisement
    shown: str
    """Everything the steps told the world."""

    def follow(self, block: str, **environment: str) -> None:
        """Do what a block of the document says."""
        subprocess.run(
            ["sh", "-eu"],
            input=BLOCKS[block],
            text=True,
            cwd=self.directory,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "DEVICE": str(self.volume),
                "ROOT": str(self.directory),
                **environment,
            },
            check=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("desk")
    volume = luks_volume(directory / "volume", INSTALL_KEY)
    with tang_server(directory / "tang") as tang, soft_tpm(directory / "tpm") as tpm:
        server = TangServers(run).advertisement(tang.url, tang.thumbprint)
        desk = Desk(directory, volume, server, "")
        desk.follow("keeper")
        shown = install(desk, (directory / "keeper.crt").read_text(), machine(directory, tpm))
        yield Desk(directory, volume, server, shown)


def machine(directory: Path, tpm: SoftTpm) -> Machine:
    rest = dict.fromkeys(("storage", "reports", "firmware", "images", "mounts", "target", "kernel"))
    return Machine(
        keys=Cryptsetup(run, attempt),
        clevis=Clevis(run, tpm.tcti),
        tang=TangServers(run),
        tpm=TpmTools(run, tpm.tcti),
        escrow=OpensslCms(run),
        escrow_sink=Shelf(directory),
        **cast("dict[str, Any]", rest),
    )


def install(desk: Desk, certificate: str, machine: Machine) -> str:
    """Take the keys the whole way; return what the steps say of it."""
    for check in (TpmReady((7,)), EscrowReady((certificate,))):
        assert list(check.problems(machine)) == []
    luks = Luks(desk.volume, UUID(int=9), "cr_root", "bedplate-root")
    steps = (
        AddRecoveryKey(desk.volume, INSTALL_KEY, RECOVERY_KEY),
        BindUnlock(desk.volume, INSTALL_KEY, POLICY, (desk.server,), (7,), provisional=True),
        ProveUnlock(desk.volume, RECOVERY_KEY, POLICY, provisional=True),
        EscrowRecoveryKey(
            luks, RECOVERY_KEY, (certificate,), "db01", "CZ1234", "plan-1", "2026-11-22T00:00:00Z"
        ),
        RemoveInstallKey(desk.volume, INSTALL_KEY, RECOVERY_KEY),
    )
    evidence = [dict(step.apply(machine, lambda done, total: None)) for step in steps]
    assert evidence[2]["unlock"] == "proven"
    return json.dumps(evidence) + repr(steps)


def test_after_the_installation_two_ways_in_are_left_and_no_key_was_shown(desk: Desk) -> None:
    keys = Cryptsetup(run, attempt)
    assert keys.keyslots(desk.volume) == (Keyslot(RECOVERY, None), Keyslot(UNLOCK, "clevis"))
    assert not keys.opens(desk.volume, INSTALL_KEY)
    assert RECOVERY_KEY.text not in desk.shown + (desk.directory / "envelope.json").read_text()
    assert RECOVERY_KEY.value not in (desk.directory / "envelope.p7m").read_bytes()


def test_a_keeper_opens_the_volume_with_openssl_and_cryptsetup(desk: Desk) -> None:
    desk.follow("open")
    content = json.loads((desk.directory / "key.json").read_text())
    assert content["key"] == RECOVERY_KEY.text
    assert (content["hostname"], content["luks_uuid"]) == ("db01", str(UUID(int=9)))
    desk.follow("try")


def test_a_machine_with_another_tpm_is_bound_anew_and_its_key_replaced(
    desk: Desk, tmp_path: Path
) -> None:
    (desk.directory / "key").write_text(RECOVERY_KEY.text)
    config = {
        "device": str(desk.volume),
        "from": UNLOCK,
        "to": SEALED,
        "config": json.loads(sss_config(POLICY, (desk.server,), (7,))),
        "event": {},
    }
    conf = desk.directory / "etc/bedplate/seal.json"
    conf.parent.mkdir(parents=True)
    conf.write_text(json.dumps(config))
    script = tmp_path / "bedplate-seal"
    script.write_bytes(part("bedplate-seal.sh", str(script)).content)
    with soft_tpm(tmp_path / "tpm") as tpm:
        desk.follow("again", TPM2TOOLS_TCTI=tpm.tcti)
        run("env", f"TPM2TOOLS_TCTI={tpm.tcti}", "sh", script, desk.directory, timeout=120)
        keys = Cryptsetup(run, attempt)
        opened = Clevis(run, tpm.tcti).unlock(desk.volume, SEALED)
        assert keys.opens(desk.volume, opened, SEALED)
    assert keys.keyslots(desk.volume) == (Keyslot(RECOVERY, None), Keyslot(SEALED, "clevis"))

    new = Secret.random()
    (desk.directory / "new-key").write_text(new.text)
    desk.follow("replace")
    assert not keys.opens(desk.volume, RECOVERY_KEY)
    assert keys.opens(desk.volume, new)
    desk.follow("escrow")
    envelope = desk.directory / "new-key.p7m"
    envelope.rename(desk.directory / "envelope.p7m")
    desk.follow("open")
    assert (desk.directory / "key.json").read_text() == new.text


def test_every_block_of_the_document_is_followed_here() -> None:
    assert set(BLOCKS) == {"keeper", "open", "try", "again", "replace", "escrow"}
