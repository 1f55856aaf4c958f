"""Signed plans from the real server to the agent's judgement."""

from __future__ import annotations

import re
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.adapters.plan_sources import CredentialPlan, UrlPlan, signature_of
from agent.cli import main
from agent.errors import ImageError, MachineError
from agent.find import Found
from agent.payload.fetch import get_manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import PublicKey, SigningKey, keygen, load_signing_key
from agent.policy import Policy
from agent.report.http import HttpSink
from agent.server import running
from agent.trust import judge
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import Crooked, honest
from tests.unit.fakes import order

STRICT = Policy(require_signed_plan=True, require_fresh_plan=True)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    keygen(directory / "plan.key", directory / "plan.pub")
    return directory / "plan.key"


@pytest.fixture(scope="module")
def key(private: Path) -> SigningKey:
    return load_signing_key(private)


@pytest.fixture
def keys(key: SigningKey) -> tuple[PublicKey, ...]:
    return (key.public,)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/db01.yaml").write_bytes(order())
    return tmp_path


def read(url: str) -> Found:
    found = UrlPlan(url, signed=True, patience=5).read()
    assert found is not None
    return found


def asked(server: str) -> str:
    return f"{server}/v1/plan?mac=52:54:00:12:34:56"


def test_the_signature_that_lies_beside_a_plan_is_found_by_the_machine(
    site: Path, private: Path, keys: tuple[PublicKey, ...]
) -> None:
    done = CliRunner().invoke(
        main, ["plan", "sign", str(site / "plans/db01.yaml"), "-k", str(private)]
    )
    assert done.exit_code == 0, done.output
    assert f"signed by key {keys[0].id}" in done.output
    with running(site) as server:
        found = read(asked(server))
    assert judge(found, Policy(require_signed_plan=True), keys).signed_by == keys[0].id
    assert found.answer is None


def test_a_plan_that_was_edited_after_it_was_signed_is_refused(
    site: Path, private: Path, keys: tuple[PublicKey, ...]
) -> None:
    plan = site / "plans/db01.yaml"
    CliRunner().invoke(main, ["plan", "sign", str(plan), "-k", str(private)])
    plan.write_bytes(plan.read_bytes() + b"# mended\n")
    with running(site) as server, pytest.raises(MachineError, match="matches no trusted key"):
        judge(read(asked(server)), Policy(), keys)


def test_a_server_with_a_key_signs_and_answers_the_challenge(
    site: Path, key: SigningKey, keys: tuple[PublicKey, ...]
) -> None:
    with running(site, signer=key) as server:
        first, second = read(asked(server)), read(asked(server))
    trust = judge(first, STRICT, keys)
    assert (trust.signed_by, trust.fresh) == (keys[0].id, True)
    assert first.challenge != second.challenge
    assert first.answer != second.answer


def test_a_server_without_a_key_leaves_a_plan_unsigned(
    site: Path, keys: tuple[PublicKey, ...]
) -> None:
    with running(site) as server:
        found = read(asked(server))
    assert found.signature is None
    with pytest.raises(MachineError, match="came over plain http and is not signed"):
        judge(found, Policy(), keys)


def test_on_any_web_server_the_signature_lies_beside_the_plan(
    key: SigningKey, keys: tuple[PublicKey, ...]
) -> None:
    plan = order()
    with Crooked({"plan.yaml": plan, "plan.yaml.sig": key.sign(plan)}, honest) as server:
        found = read(server.url("plan.yaml"))
    assert judge(found, Policy(), keys).signed_by == keys[0].id


def test_a_wrong_plan_is_not_signed(site: Path, private: Path) -> None:
    bad = site / "plans/bad.yaml"
    bad.write_text("version: 1\n")
    done = CliRunner().invoke(
        main, ["plan", "sign", str(site / "plans/db01.yaml"), str(bad), "-k", str(private)]
    )
    assert done.exit_code == 3
    assert not list(site.glob("plans/*.sig"))


def test_a_credential_may_bring_its_signature(
    tmp_path: Path, key: SigningKey, keys: tuple[PublicKey, ...]
) -> None:
    (tmp_path / "bedplate.plan").write_bytes(order())
    (tmp_path / "bedplate.plan.sig").write_bytes(key.sign(order()))
    found = CredentialPlan((tmp_path,)).read()
    assert found is not None
    assert judge(found, Policy(require_signed_plan=True), keys).signed_by == keys[0].id
    assert signature_of(tmp_path / "nothing") is None


def test_a_server_with_old_tls_is_not_spoken_to(tmp_path: Path) -> None:
    certificate, private = self_signed(tmp_path, "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, private)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with Crooked({"plan.yaml": order()}, honest, tls=tls) as server:
        url = server.url("plan.yaml")
        assert UrlPlan(url, certificate).read() is not None
        with pytest.raises(MachineError, match=r"(?i)alert|version"):
            UrlPlan(url, certificate, minimum_tls="1.3").read()
        options = FetchOptions(ca=certificate.read_text(), patience=2, stall=0.5)
        for version, problem in (("1.2", "no trusted one"), ("1.3", r"(?i)alert|version")):
            with pytest.raises(ImageError, match=problem):
                get_manifest([url], (), replace(options, minimum_tls=version))
        reports = f"https://127.0.0.1:{server.port}/v1/events"
        sink = HttpSink(reports, ca=certificate, minimum_tls="1.3")
        assert re.search(r"(?i)alert|version", sink.reachable("", escrow=False) or "")
        sink.close(0)


def test_an_empty_answer_to_the_challenge_is_a_wrong_answer(keys: tuple[PublicKey, ...]) -> None:
    found = Found("x", b"", url="https://x", challenge="ab" * 32, answer=b"")
    with pytest.raises(MachineError, match="wrong answer"):
        judge(found, Policy(require_fresh_plan=True), keys)
