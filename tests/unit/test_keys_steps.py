"""From the install key to the recovery key: what happens to the header, in which order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.errors import CommandError, StepError
from agent.keyslots import INSTALL, RECOVERY, UNLOCK
from agent.layout.model import Luks
from agent.plan.unlock import parse_policy
from agent.secret import Secret
from agent.steps.add_recovery_key import AddRecoveryKey
from agent.steps.base import Evidence, Step
from agent.steps.bind_unlock import BindUnlock
from agent.steps.escrow_recovery_key import EscrowRecoveryKey
from agent.steps.prove_unlock import ProveUnlock
from agent.steps.remove_install_key import RemoveInstallKey
from tests.unit.fakes_keys import DEVICE, FakeSink, KeyRoom, advertisement

LUKS = Luks(DEVICE, UUID(int=7), "cr_root", "bedplate-root")
A, B = advertisement("http://10.0.0.1"), advertisement("http://10.0.0.2")


def apply(step: Step, room: KeyRoom) -> Evidence:
    return step.apply(room.machine, lambda done, total: None)


def add(room: KeyRoom) -> AddRecoveryKey:
    return AddRecoveryKey(DEVICE, room.install_key, room.recovery_key)


def bind(room: KeyRoom, words: str, *, provisional: bool = False) -> BindUnlock:
    policy = parse_policy(words)
    servers = {0: (), 1: (A,)}.get(policy.tang if not policy.counted else 2, (A, B))
    return BindUnlock(DEVICE, room.install_key, policy, servers, (7,), provisional)


def prove(room: KeyRoom, words: str, *unasked: str) -> ProveUnlock:
    return ProveUnlock(DEVICE, room.recovery_key, parse_policy(words), unasked)


def escrow(room: KeyRoom) -> EscrowRecoveryKey:
    return EscrowRecoveryKey(
        LUKS, room.recovery_key, ("CERT",), "db01", "CZ1234", "plan-1", "2026-11-22T00:00:00Z"
    )


def remove(room: KeyRoom) -> RemoveInstallKey:
    return RemoveInstallKey(DEVICE, room.install_key, room.recovery_key)


@pytest.fixture
def bound() -> KeyRoom:
    room = KeyRoom()
    apply(add(room), room)
    apply(bind(room, "tpm2 or tang"), room)
    return room


def test_a_key_to_be_typed_has_256_bits_in_groups_and_one_line() -> None:
    one, other = Secret.typeable(), Secret.typeable()
    assert one != other
    assert re.fullmatch(r"(?:[0-9a-f]{8}-){7}[0-9a-f]{8}", one.text)


def test_the_whole_way_leaves_the_recovery_key_and_the_binding_only() -> None:
    room = KeyRoom()
    steps: list[Step] = [
        add(room),
        bind(room, "tpm2 and tang", provisional=True),
        escrow(room),
        prove(room, "tpm2 and tang"),
        remove(room),
    ]
    evidence = [apply(step, room) for step in steps]

    assert set(room.keys.slots) == {RECOVERY, UNLOCK}
    assert room.keys.slots[RECOVERY] == room.recovery_key
    assert room.install_key not in room.keys.slots.values()
    assert evidence[-1]["keyslots"] == {"1": "passphrase", "2": "clevis"}
    shown = json.dumps([dict(each) for each in evidence]) + "".join(s.describe() for s in steps)
    for key in (room.install_key, *room.keys.slots.values()):
        assert key.text not in shown
        assert all(key.text not in repr(step) for step in steps)


@pytest.mark.parametrize(
    ("words", "provisional", "pcrs"),
    [("tpm2 and tang", True, []), ("tpm2 and tang", False, [7]), ("tang", False, [])],
)
def test_registers_are_bound_only_where_they_are_the_installed_system_s(
    words: str, provisional: bool, pcrs: list[int]
) -> None:
    room = KeyRoom()
    evidence = apply(bind(room, words, provisional=provisional), room)
    assert evidence["pcrs"] == pcrs
    assert evidence["state"] == ("provisional" if provisional else "final")
    pins = room.keys.tokens[UNLOCK]["pins"]
    assert [pin.get("pcr_ids") for pin in pins.get("tpm2", [])] == (
        ["7"] if pcrs else [None] * ("tpm2" in words)
    )


def test_a_header_too_small_for_the_first_boot_fails_while_somebody_watches() -> None:
    room = KeyRoom()
    room.keys.free = 3000
    with pytest.raises(StepError, match=r"first boot needs [0-9]+ bytes .* 3000 are left"):
        apply(bind(room, "tpm2 and tang", provisional=True), room)
    room = KeyRoom()
    room.keys.free = 3000
    apply(bind(room, "tpm2 and tang"), room)


def test_a_proof_names_every_pin_keyslot_and_the_seconds(bound: KeyRoom) -> None:
    evidence = apply(prove(bound, "tpm2 or tang"), bound)
    assert evidence["pins"] == {A.url: "answers", "tpm2": "answers"}
    assert evidence["keyslots"] == {"0": "passphrase", "1": "passphrase", "2": "clevis"}
    assert (evidence["unlock"], evidence["recovery"]) == ("proven", "proven")
    assert isinstance(evidence["unlock_seconds"], float)


@pytest.mark.parametrize("pin", ["tpm2", A.url])
def test_one_dead_half_of_an_or_fails_the_proof_although_the_volume_opens(
    bound: KeyRoom, pin: str
) -> None:
    bound.clevis.dead = {pin}
    assert bound.clevis.unlock(DEVICE, UNLOCK) == bound.keys.slots[UNLOCK]
    with pytest.raises(StepError, match=f"no share came from {pin}: Error communicating"):
        apply(prove(bound, "tpm2 or tang"), bound)


def test_a_server_that_need_not_answer_is_reported_as_not_proven() -> None:
    room = KeyRoom()
    apply(add(room), room)
    apply(bind(room, "tpm2 and tang"), room)
    room.clevis.dead = {A.url}
    evidence = apply(prove(room, "tpm2 and tang", A.url), room)
    assert (evidence["unlock"], evidence["unlock_seconds"]) == ("not proven", None)
    assert evidence["pins"] == {A.url: "Error communicating", "tpm2": "answers"}

    room.clevis.dead = {"tpm2"}
    with pytest.raises(StepError, match="no share came from tpm2"):
        apply(prove(room, "tpm2 and tang", A.url), room)


def test_a_binding_that_returns_another_key_is_no_proof(bound: KeyRoom) -> None:
    bound.clevis.returns = Secret.random()
    with pytest.raises(StepError, match="does not open keyslot 2"):
        apply(prove(bound, "tpm2 or tang"), bound)


def test_a_volume_that_clevis_does_not_open_fails_even_if_every_pin_answers(bound: KeyRoom) -> None:
    bound.keys.tokens[UNLOCK]["t"] = 3
    with pytest.raises(CommandError, match="luks pass"):
        apply(prove(bound, "tpm2 or tang"), bound)


def test_a_recovery_key_that_does_not_open_is_no_proof(bound: KeyRoom) -> None:
    bound.keys.slots[RECOVERY] = Secret.random()
    with pytest.raises(StepError, match="recovery key does not open keyslot 1"):
        apply(prove(bound, "tpm2 or tang"), bound)


def test_the_envelope_holds_what_a_keeper_needs_and_the_label_holds_no_key() -> None:
    room = KeyRoom()
    evidence = apply(escrow(room), room)
    ((envelope, about),) = room.sink.received
    content: dict[str, Any] = json.loads(room.escrow.contents[envelope].text)
    assert content == {
        "hostname": "db01",
        "machine": "CZ1234",
        "luks_uuid": str(LUKS.uuid),
        "label": "bedplate-root",
        "plan": "plan-1",
        "created": "2026-11-22T00:00:00Z",
        "keyslot": RECOVERY,
        "key": room.recovery_key.text,
    }
    assert about == {name: content[name] for name in content if name not in ("key", "keyslot")}
    assert room.recovery_key.text not in json.dumps(dict(evidence))


def test_an_escrow_nobody_took_fails() -> None:
    room = KeyRoom()
    room.sink = FakeSink(stores=None)
    with pytest.raises(StepError, match="nobody answers"):
        apply(escrow(room), room)


def test_an_acknowledgement_of_something_else_fails_with_both_digests() -> None:
    room = KeyRoom()
    room.sink = FakeSink(stores=b"cut")
    with pytest.raises(StepError, match=r"stored [0-9a-f]{64}, the envelope sent is [0-9a-f]{64}"):
        apply(escrow(room), room)


@pytest.mark.parametrize("missing", [RECOVERY, UNLOCK])
def test_the_install_key_survives_while_another_way_in_is_missing(
    bound: KeyRoom, missing: int
) -> None:
    bound.keys.slots.pop(missing)
    with pytest.raises(StepError, match="must be there first"):
        apply(remove(bound), bound)
    assert bound.keys.opens(Path(DEVICE), bound.install_key, INSTALL)


def test_an_install_key_that_still_opens_afterwards_is_noticed(bound: KeyRoom) -> None:
    bound.keys.slots[9] = bound.install_key
    with pytest.raises(StepError, match="install key still opens it"):
        apply(remove(bound), bound)
