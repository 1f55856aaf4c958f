"""What is refused before the first write: Tang, the TPM, escrow."""

from __future__ import annotations

from typing import Any

from agent.checks.escrow import EscrowReady
from agent.checks.tang import BindingFits, TangReady
from agent.checks.tpm import TpmReady
from agent.plan.advertisement import Advertisement
from agent.plan.encryption import Encryption, Recovery, Tang, Tpm2
from agent.plan.unlock import parse_policy
from tests.unit.fakes_keys import FakeEscrow, FakeTang, FakeTpm, KeyRoom, advertisement

URL = "http://10.0.0.7:7500"
ADV = advertisement(URL)


def server(thumbprint: str | None, advertised: str | None = None, url: str = URL) -> Tang:
    jws = None if advertised is None else Advertisement(advertised)
    return Tang.model_construct(url=url, thumbprint=thumbprint, advertisement=jws)


def encryption(words: str, *servers: Tang, **tpm2: Any) -> Encryption:
    return Encryption.model_construct(
        unlock=parse_policy(words),
        tang=servers,
        tpm2=Tpm2.model_construct(**tpm2),
        recovery=Recovery.model_construct(escrow_to=("CERT",)),
    )


def found(check: Any, room: KeyRoom) -> list[str]:
    return [str(problem) for problem in check.problems(room.machine)]


def test_a_tang_server_that_answers_right_is_no_problem() -> None:
    room = KeyRoom()
    room.tang = FakeTang({URL: ADV})
    check = TangReady(server(ADV.thumbprint))
    assert found(check, room) == []
    assert check.describe() == f"Tang {URL} answers with the key {ADV.thumbprint}"


def test_a_tang_server_that_is_away_or_wrong_is_one_named_problem() -> None:
    room = KeyRoom()
    check = TangReady(server("X" * 43))
    assert found(check, room) == [
        f"encryption.tang: {URL}: no Tang server answers there: connection refused"
    ]
    room.tang = FakeTang({URL: ADV})
    assert found(check, room) == [
        f"encryption.tang: {URL}: has no key {'X' * 43}, it signs with {ADV.thumbprint}"
    ]


def test_an_advertisement_of_the_plan_asks_no_server() -> None:
    check = TangReady(server(None, ADV.jws))
    assert found(check, KeyRoom()) == []
    assert check.describe().startswith("the plan's advertisement of Tang")


def test_a_tpm_that_cannot_seal_is_refused_for_the_registers_that_are_wanted() -> None:
    room = KeyRoom()
    assert found(TpmReady((7,)), room) == []
    room.tpm = FakeTpm(("the TPM is locked",))
    assert found(TpmReady((7, 14)), room) == ["encryption.unlock: the TPM is locked (PCR 7, 14)"]


def test_every_unfit_keeper_is_named_and_nothing_is_encrypted_to_them() -> None:
    room = KeyRoom()
    room.escrow = FakeEscrow(("expired", "is a private key"))
    assert found(EscrowReady(("a", "b")), room) == [
        "encryption.recovery.escrow_to[0]: expired",
        "encryption.recovery.escrow_to[1]: is a private key",
    ]
    assert room.escrow.contents == {}


def test_an_envelope_is_made_once_to_see_that_it_can_be() -> None:
    room = KeyRoom()
    assert found(EscrowReady(("a",)), room) == []
    assert [content.text for content in room.escrow.contents.values()] == ["rehearsal"]
    room.escrow = FakeEscrow(fails="openssl cms: is not installed")
    assert "no envelope can be made" in found(EscrowReady(("a",)), room)[0]


def test_keys_too_many_for_the_header_are_refused_before_the_first_boot_finds_out() -> None:
    room = KeyRoom()
    servers = [advertisement(f"http://{number}", keys=9000) for number in range(5)]
    room.tang = FakeTang({each.url: each for each in servers})
    plan = [server(each.thumbprint, url=each.url) for each in servers]

    first_boot = encryption("tpm2 and 1 of tang", *plan, pcrs=(7,), seal="first-boot")
    (problem,) = found(BindingFits(first_boot), room)
    assert problem.startswith("encryption.tang: the bindings to 5 servers need ")
    now = encryption("tpm2 and 1 of tang", *plan, pcrs=(7,), seal="now")
    assert found(BindingFits(now), room) == []


def test_a_configuration_longer_than_an_argument_is_refused() -> None:
    room = KeyRoom()
    servers = [advertisement(f"http://{number}", keys=40_000) for number in range(3)]
    room.tang = FakeTang({each.url: each for each in servers})
    plan = [server(each.thumbprint, url=each.url) for each in servers]
    problems = found(BindingFits(encryption("3 of tang", *plan, pcrs=(7,))), room)
    assert "a program takes 131071: name fewer servers" in problems[0]


def test_what_fits_is_not_judged_while_a_server_is_away() -> None:
    plan = encryption("tang", server(ADV.thumbprint), pcrs=(7,))
    assert found(BindingFits(plan), KeyRoom()) == []
