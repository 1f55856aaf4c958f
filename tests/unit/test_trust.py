"""Which plans are believed: signatures, ways, servers, freshness, clocks, and the policy itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import MachineError
from agent.find import Found
from agent.payload.sign import PublicKey, SigningKey
from agent.policy import Policy, read_policy
from agent.trust import Trust, answer, clock_doubts, judge

PLAN = b"version: 1\n"
HTTPS, HTTP = "https://deploy.example.com/v1/plan?mac=1", "http://10.0.0.1:8080/plan.yaml"
CHALLENGE = "ab" * 32
LOCAL = Found("a medium", PLAN)
SIGNED = Policy(require_signed_plan=True)
KEY = SigningKey(Ed25519PrivateKey.generate())


@pytest.fixture
def key() -> SigningKey:
    return KEY


@pytest.fixture
def keys() -> tuple[PublicKey, ...]:
    return (KEY.public,)


@pytest.fixture
def signed(key: SigningKey) -> Found:
    return Found(HTTP, PLAN, key.sign(PLAN), url=HTTP)


def refusal(found: Found, policy: Policy, keys: tuple[PublicKey, ...]) -> str:
    with pytest.raises(MachineError) as caught:
        judge(found, policy, keys)
    return "\n".join(map(str, caught.value.problems))


def test_a_plan_on_the_machine_itself_needs_no_signature_unless_the_policy_asks(
    keys: tuple[PublicKey, ...],
) -> None:
    assert judge(LOCAL, Policy(), keys) == Trust(None, fresh=False)
    assert "is not signed, which the policy" in refusal(LOCAL, SIGNED, keys)


def test_a_signed_plan_names_its_key(signed: Found, keys: tuple[PublicKey, ...]) -> None:
    assert judge(signed, SIGNED, keys).signed_by == keys[0].id


def test_an_unsigned_plan_is_taken_over_https_and_never_over_plain_http(
    keys: tuple[PublicKey, ...],
) -> None:
    assert judge(Found(HTTPS, PLAN, url=HTTPS), Policy(), keys).signed_by is None
    told = refusal(Found(HTTP, PLAN, url=HTTP), Policy(), keys)
    assert f"plan: {HTTP}: came over plain http and is not signed" in told
    assert "bedplate plan sign" in told


def test_a_redirect_to_plain_http_counts_as_plain_http(keys: tuple[PublicKey, ...]) -> None:
    assert "plain http" in refusal(Found(HTTPS, PLAN, url=HTTP), Policy(), keys)


def test_a_live_image_without_keys_takes_no_plan_over_plain_http(signed: Found) -> None:
    assert "has no key to check its signature by" in refusal(signed, Policy(), ())
    assert "has no key to check it by" in refusal(signed, SIGNED, ())


@given(st.integers(0, len(PLAN) - 1), st.integers(1, 255))
def test_a_byte_that_changed_makes_the_signature_wrong(place: int, change: int) -> None:
    spoiled = bytearray(PLAN)
    spoiled[place] ^= change
    found = Found(HTTPS, bytes(spoiled), KEY.sign(PLAN), url=HTTPS)
    assert "matches no trusted key" in refusal(found, Policy(), (KEY.public,))


def test_a_wrong_signature_is_refused_although_none_was_asked_for(
    signed: Found, keys: tuple[PublicKey, ...]
) -> None:
    found = replace(signed, url=HTTPS, signature=bytes(64))
    assert "matches no trusted key" in refusal(found, Policy(), keys)
    cut = replace(signed, url=HTTPS, signature=b"short")
    assert "has 5 bytes, Ed25519 has 64" in refusal(cut, Policy(), keys)


def test_only_servers_that_the_policy_allows_may_say_what_is_erased(
    signed: Found, keys: tuple[PublicKey, ...]
) -> None:
    policy = Policy(allowed_servers=("*.example.com", "10.0.0.1:8080"))
    assert judge(signed, policy, keys).signed_by is not None
    elsewhere = replace(signed, url="http://10.0.0.2:8080/plan.yaml")
    assert "allows only *.example.com, 10.0.0.1:8080" in refusal(elsewhere, policy, keys)


@pytest.mark.parametrize(
    ("entry", "url", "admitted"),
    [
        ("deploy.example.com", "https://deploy.example.com/x", True),
        ("deploy.example.com", "http://deploy.example.com:8080/x", True),
        ("https://deploy.example.com", "http://deploy.example.com/x", False),
        ("https://deploy.example.com", "https://deploy.example.com:8443/x", True),
        ("deploy.example.com:443", "https://deploy.example.com/x", True),
        ("deploy.example.com:443", "https://deploy.example.com:8443/x", False),
        ("*.example.com", "https://example.com/x", False),
        ("*.example.com", "https://a.example.com.evil.net/x", False),
        ("example.com", "https://example.com@evil.net/x", False),
        ("[2001:db8::1]:8080", "http://[2001:db8::1]:8080/x", True),
    ],
)
def test_servers_are_matched_by_host_and_by_what_else_is_said(
    entry: str, url: str, admitted: bool
) -> None:
    assert Policy(allowed_servers=(entry,)).admits(url) is admitted


def test_a_challenge_shows_that_a_plan_is_given_now(
    key: SigningKey, keys: tuple[PublicKey, ...]
) -> None:
    policy = Policy(require_fresh_plan=True)
    asked = Found(HTTPS, PLAN, url=HTTPS, challenge=CHALLENGE)
    assert "the server gave no answer to the challenge" in refusal(asked, policy, keys)
    right = replace(asked, answer=answer(key, CHALLENGE, PLAN))
    assert judge(right, policy, keys).fresh
    for wrong in (
        answer(key, "cd" * 32, PLAN),  # recorded earlier
        answer(key, CHALLENGE, b"version: 1\nid: x\n"),  # of another plan
        key.sign(PLAN),  # the plan's own signature
        b"",
    ):
        told = refusal(replace(asked, answer=wrong), policy, keys)
        assert "the server gave a wrong answer to the challenge" in told


def test_what_comes_from_the_machine_itself_is_not_challenged(
    keys: tuple[PublicKey, ...],
) -> None:
    assert not judge(LOCAL, Policy(require_fresh_plan=True), keys).fresh


def test_all_reasons_are_told_at_once(keys: tuple[PublicKey, ...]) -> None:
    policy = Policy(
        require_signed_plan=True, require_fresh_plan=True, allowed_servers=("a.example.com",)
    )
    assert len(refusal(Found(HTTP, PLAN, url=HTTP), policy, keys).splitlines()) == 3


NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_clocks_that_disagree_about_an_expiry_are_not_guessed_between() -> None:
    expires = NOW + timedelta(hours=1)
    told = clock_doubts(expires, NOW, NOW + timedelta(days=30))
    assert told is not None
    assert "2026-11-22T12:00:00Z" in told
    assert "2026-12-22T12:00:00Z" in told


@pytest.mark.parametrize(
    ("expires", "server"),
    [
        (None, NOW + timedelta(days=30)),
        (NOW + timedelta(hours=1), None),
        (NOW + timedelta(hours=1), NOW + timedelta(minutes=9)),
        (NOW + timedelta(days=60), NOW + timedelta(days=30)),
        (NOW - timedelta(days=60), NOW - timedelta(days=30)),
    ],
)
def test_clocks_that_do_not_matter_to_the_expiry_may_differ(
    expires: datetime | None, server: datetime | None
) -> None:
    assert clock_doubts(expires, NOW, server) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"- require_signed_plan\n", "policy.yaml: must be a mapping of keys"),
        (b"allowed_servers: a.example.com\n", "allowed_servers: must be a list of servers"),
        (b"allowed_servers: ['a:99999']\n", "allowed_servers.0: 'a:99999' is no server"),
        (b"allowed_servers: ['[::1']\n", "allowed_servers.0: '[::1' is no server"),
        (b"minimum_tls: 1.1\n", "minimum_tls: must be 1.2 or 1.3"),
        (
            b"require_signed_plan: true\nrequire_signed_plan: false\n",
            "require_signed_plan is there twice",
        ),
    ],
)
def test_a_policy_with_a_mistake_allows_nothing_and_names_it(text: bytes, message: str) -> None:
    with pytest.raises(MachineError) as caught:
        read_policy(text, "policy.yaml")
    assert message in str(caught.value)


def test_a_policy_says_everything_that_is_wrong_in_it() -> None:
    text = b"require_signed_plan: 'yes'\nallowed_servers: ['http://a/b']\nsigned: true\n"
    with pytest.raises(MachineError) as caught:
        read_policy(text, "policy.yaml")
    told = "\n".join(map(str, caught.value.problems))
    assert "policy.yaml: require_signed_plan: " in told
    assert "'http://a/b' is no server" in told
    assert "policy.yaml: signed: is not known; known are require_signed_plan" in told


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"{}\n"])
def test_an_empty_policy_is_the_default(text: bytes) -> None:
    assert read_policy(text, "policy.yaml") == Policy()


@pytest.mark.parametrize("text", [b"- a\n", b"7\n", b"{\n", b"minimum_tls: 1.1\n"])
def test_a_policy_that_cannot_be_read_allows_nothing(text: bytes) -> None:
    with pytest.raises(MachineError):
        read_policy(text, "policy.yaml")


def test_a_version_of_tls_may_be_written_as_a_number() -> None:
    assert read_policy(b"minimum_tls: 1.3\n", "policy.yaml").minimum_tls == "1.3"
