"""WWW-Authenticate as registries write it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.oci.challenge import Challenge, challenges


def test_the_parameters_of_a_bearer_challenge_are_read() -> None:
    header = 'Bearer realm="https://auth.example.com/token",service="r",scope="repository:a:pull"'
    assert challenges(header) == (
        Challenge(
            "bearer",
            {
                "realm": "https://auth.example.com/token",
                "service": "r",
                "scope": "repository:a:pull",
            },
        ),
    )


def test_a_comma_in_a_quoted_value_ends_nothing() -> None:
    (found,) = challenges('Bearer realm="https://a/t", scope="repository:a:pull,push" , error=x')
    assert found.parameters == {
        "realm": "https://a/t",
        "scope": "repository:a:pull,push",
        "error": "x",
    }


def test_several_challenges_keep_their_order() -> None:
    header = 'Negotiate, Basic realm="a \\"b\\"", Bearer realm="https://a/t"'
    assert challenges(header) == (
        Challenge("negotiate"),
        Challenge("basic", {"realm": 'a "b"'}),
        Challenge("bearer", {"realm": "https://a/t"}),
    )


@given(st.text(max_size=200))
def test_anything_is_read_or_passed_over(header: str) -> None:
    for found in challenges(header):
        assert found.scheme == found.scheme.lower()
