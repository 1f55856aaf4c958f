"""The configuration Clevis is given, for every policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.keyslots import METADATA_DEFAULT
from agent.pin import (
    MAX_ARGUMENT,
    binding_size,
    header_need,
    header_room,
    sss_config,
    token_size,
    tpm2_config,
)
from agent.plan.unlock import Policy, parse_policy
from tests.unit.fakes_keys import advertisement

A, B, C = (advertisement(f"http://10.0.0.{number}:7500") for number in (1, 2, 3))
TPM2 = {"hash": "sha256", "key": "ecc", "pcr_bank": "sha256"}
SEALED = {**TPM2, "pcr_ids": "7"}


def tang(*servers: Any) -> list[dict[str, Any]]:
    return [{"url": s.url, "thp": s.thumbprint, "adv": json.loads(s.jws)} for s in servers]


@pytest.mark.parametrize(
    ("words", "servers", "pcrs", "expected"),
    [
        ("tpm2", (), (7,), {"t": 1, "pins": {"tpm2": [SEALED]}}),
        ("tpm2", (), (), {"t": 1, "pins": {"tpm2": [TPM2]}}),
        ("tang", (A,), (), {"t": 1, "pins": {"tang": tang(A)}}),
        ("2 of tang", (A, B, C), (), {"t": 2, "pins": {"tang": tang(A, B, C)}}),
        ("tpm2 and tang", (A,), (), {"t": 2, "pins": {"tang": tang(A), "tpm2": [TPM2]}}),
        ("tpm2 and tang", (A,), (7,), {"t": 2, "pins": {"tang": tang(A), "tpm2": [SEALED]}}),
        ("tpm2 or tang", (A,), (7,), {"t": 1, "pins": {"tang": tang(A), "tpm2": [SEALED]}}),
        (
            "tpm2 and 1 of tang",
            (A, B),
            (7,),
            {"t": 2, "pins": {"sss": {"t": 1, "pins": {"tang": tang(A, B)}}, "tpm2": [SEALED]}},
        ),
        (
            "tpm2 and 2 of tang",
            (A, B),
            (),
            {"t": 3, "pins": {"tang": tang(A, B), "tpm2": [TPM2]}},
        ),
        ("tpm2 or 1 of tang", (A, B), (), {"t": 1, "pins": {"tang": tang(A, B), "tpm2": [TPM2]}}),
        (
            "tpm2 or 2 of tang",
            (A, B),
            (),
            {"t": 1, "pins": {"sss": {"t": 2, "pins": {"tang": tang(A, B)}}, "tpm2": [TPM2]}},
        ),
    ],
)
def test_each_policy_has_one_configuration(
    words: str, servers: tuple[Any, ...], pcrs: tuple[int, ...], expected: dict[str, Any]
) -> None:
    assert json.loads(sss_config(parse_policy(words), servers, pcrs)) == expected


def test_registers_are_named_in_order_and_the_bank_always() -> None:
    assert tpm2_config((14, 7)) == {**TPM2, "pcr_ids": "7,14"}
    assert tpm2_config(()) == TPM2


@st.composite
def policies(draw: Callable[..., Any]) -> tuple[Policy, int]:
    """A policy the plan lets through, and its number of servers."""
    servers = draw(st.integers(0, 16))
    asked = draw(st.integers(1, servers)) if servers else 0
    tpm2 = draw(st.booleans()) or not servers
    together = draw(st.booleans()) or not (tpm2 and asked)
    return Policy(tpm2=tpm2, tang=asked, together=together, counted=True), servers


def opens(sss: dict[str, Any], alive: set[str]) -> bool:
    pins = sss["pins"]
    shares = sum(server["url"] in alive for server in pins.get("tang", []))
    shares += "tpm2" in pins and "tpm2" in alive
    shares += "sss" in pins and opens(pins["sss"], alive)
    return shares >= int(sss["t"])


@settings(deadline=None)  # the machine may be busy
@given(policies(), st.data())
def test_a_configuration_opens_exactly_when_the_policy_says_so(
    wanted: tuple[Policy, int], data: st.DataObject
) -> None:
    policy, number = wanted
    servers = [advertisement(f"http://{each}") for each in range(number)]
    config = json.loads(sss_config(policy, servers, (7,)))

    tpm2 = data.draw(st.booleans())
    answering = data.draw(st.integers(0, number))
    alive = {server.url for server in servers[:answering]} | ({"tpm2"} if tpm2 else set())
    halves = [tpm2] * policy.tpm2 + [answering >= policy.tang] * bool(policy.tang)
    assert opens(config, alive) == (all(halves) if policy.together else any(halves))


@settings(deadline=None)
@given(policies())
def test_sixteen_ordinary_servers_fit_the_argument_and_the_header(
    wanted: tuple[Policy, int],
) -> None:
    policy, number = wanted
    servers = [advertisement(f"http://10.0.0.{each}:7500") for each in range(number)]
    assert len(sss_config(policy, servers, (7,))) < MAX_ARGUMENT
    assert header_need(policy, servers, bindings=2) < header_room()
    assert binding_size(policy, servers) > token_size(policy, servers)


def test_two_phases_with_two_servers_do_not_fit_cryptsetup_s_own_header() -> None:
    policy = parse_policy("tpm2 and 1 of tang")
    room = header_room(METADATA_DEFAULT)
    assert header_need(policy, (A, B), bindings=1) < room < header_need(policy, (A, B), bindings=2)
