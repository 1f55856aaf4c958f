from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan.unlock import Policy, parse_policy
from tests.unit.plan.plans import THUMBPRINT, advertisement, encrypted, problems_of

TANG = {"url": "http://10.0.0.7:7500", "thumbprint": THUMBPRINT}
OTHER = {"url": "http://10.0.0.8:7500", "thumbprint": THUMBPRINT}


@pytest.mark.parametrize(
    ("words", "policy", "threshold"),
    [
        ("tpm2 and tang", Policy(tpm2=True, tang=1), 2),
        ("tang and tpm2", Policy(tpm2=True, tang=1), 2),
        ("TPM2  and  Tang", Policy(tpm2=True, tang=1), 2),
        ("tpm2 or tang", Policy(tpm2=True, tang=1, together=False), 1),
        ("tpm2", Policy(tpm2=True), 1),
        ("tang", Policy(tpm2=False, tang=1), 1),
        ("tpm2 and 1 of tang", Policy(tpm2=True, tang=1, counted=True), 2),
        ("2 of tang or tpm2", Policy(tpm2=True, tang=2, together=False, counted=True), 1),
        ("2 of tang", Policy(tpm2=False, tang=2, counted=True), 1),
    ],
)
def test_the_words_become_a_policy(words: str, policy: Policy, threshold: int) -> None:
    assert parse_policy(words) == policy
    assert policy.threshold == threshold


@given(
    st.builds(
        Policy,
        tpm2=st.just(True),
        tang=st.integers(1, 9),
        together=st.booleans(),
        counted=st.just(True),
    )
    | st.builds(Policy, tpm2=st.booleans(), tang=st.just(1))
    | st.just(Policy(tpm2=True))
)
def test_a_policy_shows_as_words_that_mean_it(policy: Policy) -> None:
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    "words", ["", "tang and", "tpm", "tpm2 and tpm2", "tpm2 xor tang", "1 of tpm2", "tang or tang"]
)
def test_other_words_are_refused_with_the_words_there_are(words: str) -> None:
    with pytest.raises(ValueError, match="is not an unlock policy: write tpm2 and tang"):
        parse_policy(words)


def test_a_policy_that_nothing_answers_cannot_be() -> None:
    with pytest.raises(ValueError, match="asks for no Tang server"):
        parse_policy("0 of tang")
    with pytest.raises(ValueError, match="nothing opens the disks"):
        Policy(tpm2=False)


@pytest.mark.parametrize(
    ("unlock", "section", "problems"),
    [
        ("tpm2 and tang", {"tang": [TANG]}, []),
        ("tpm2 and 1 of tang", {"tang": [TANG, OTHER]}, []),
        (
            "tpm2 and tang",
            {},
            ['encryption.tang: is missing: unlock is "tpm2 and tang", so name at least one server'],
        ),
        (
            "tpm2 and tang",
            {"tang": [TANG, OTHER]},
            [
                (
                    'encryption.unlock: "tpm2 and tang" does not say how many of the 2 Tang '
                    "servers "
                    "must answer: write 1 of tang or 2 of tang"
                )
            ],
        ),
        (
            "3 of tang",
            {"tang": [TANG, OTHER]},
            ["encryption.unlock: 3 Tang servers must answer, the plan names 2"],
        ),
        ("tpm2", {"tang": [TANG]}, ['encryption.tang: is never used: unlock is "tpm2"']),
        (
            "tang",
            {"tang": [TANG], "tpm2": {}},
            ['encryption.tpm2: is never used: unlock is "tang"'],
        ),
        (
            "1 of tang",
            {"tang": [TANG, TANG]},
            ["encryption.tang[1].url: http://10.0.0.7:7500 is there twice"],
        ),
    ],
)
def test_servers_and_policy_must_agree(
    unlock: str, section: dict[str, object], problems: list[str]
) -> None:
    assert problems_of(encrypted(unlock, **section)) == problems


def test_a_server_that_nothing_vouches_for_is_refused_with_the_reason() -> None:
    (problem,) = problems_of(encrypted("tang", tang=[{"url": "http://10.0.0.7"}]))
    assert problem == (
        "encryption.tang[0]: needs a thumbprint (tang-show-keys prints it) or an advertisement: "
        "otherwise whichever server answers at that address would be trusted, and the agent never "
        "takes one unseen"
    )


def test_an_advertisement_is_enough_and_must_have_the_thumbprint_that_is_given_too() -> None:
    server = {"url": "http://10.0.0.7", "advertisement": advertisement()}
    assert problems_of(encrypted("tang", tang=[server])) == []
    (problem,) = problems_of(encrypted("tang", tang=[{**server, "thumbprint": THUMBPRINT}]))
    assert problem == (
        "encryption.tang[0].thumbprint: no signing key of the advertisement has the thumbprint "
        f"{THUMBPRINT}"
    )


@pytest.mark.parametrize(
    ("thumbprint", "message"),
    [
        ("bqKWNGqVmEpwYbNmcXTiZ7PWgyE", "is a SHA-1 thumbprint: give the SHA-256 one (-a S256)"),
        (THUMBPRINT + "=", "is not a thumbprint: 43 characters of base64url"),
        ("", "is not a thumbprint"),
    ],
)
def test_a_thumbprint_is_that_of_sha256(thumbprint: str, message: str) -> None:
    tang = [{"url": "http://10.0.0.7", "thumbprint": thumbprint}]
    (problem,) = problems_of(encrypted("tang", tang=tang))
    assert problem.startswith("encryption.tang[0].thumbprint: ")
    assert message in problem


@pytest.mark.parametrize(
    ("tpm2", "problems"),
    [
        ({"pcrs": [7], "seal": "now"}, []),
        ({"pcrs": [0, 2, 7]}, []),
        (
            {"pcrs": []},
            ["encryption.tpm2.pcrs: is empty: 7 is the register of Secure Boot's state"],
        ),
        (
            {"pcrs": [7, 24, -1]},
            [
                "encryption.tpm2.pcrs[1]: 24 is not a register: there are 0 to 23",
                "encryption.tpm2.pcrs[2]: -1 is not a register: there are 0 to 23",
            ],
        ),
        ({"pcrs": [23]}, ["encryption.tpm2.pcrs[0]: 23 can be reset by any program: take 7"]),
        ({"pcrs": [7, 7]}, ["encryption.tpm2.pcrs[1]: 7 is there twice"]),
        (
            {"pcrs": [7, 11], "seal": "now"},
            [
                (
                    "encryption.tpm2.pcrs[1]: 11 holds the live image's own start, which the "
                    "installed "
                    "system never repeats: use seal: first-boot"
                )
            ],
        ),
        (
            {"seal": "predict"},
            [
                (
                    'encryption.tpm2.seal: "predict" is not supported yet by this version: use '
                    "first-boot or now"
                )
            ],
        ),
    ],
)
def test_registers_that_would_lock_the_machine_out_are_refused(
    tpm2: dict[str, object], problems: list[str]
) -> None:
    assert problems_of(encrypted("tpm2", tpm2=tpm2)) == problems
