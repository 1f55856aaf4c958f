from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.server.limits import Buckets, Limits, client_key
from agent.server.refusal import RefusalError


class Hands:
    """A clock wound by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    clock = Hands()
    buckets = Buckets(rate=2, burst=3, clock=clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.5
    assert [buckets.wait("a"), buckets.take("a"), buckets.take("a")] == [0, 0, 0.5]
    clock.now += 1000
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


@given(st.lists(st.tuples(st.floats(0, 10), st.sampled_from("abc")), max_size=60))
def test_nobody_ever_gets_more_than_burst_and_rate(asked: list[tuple[float, str]]) -> None:
    clock = Hands()
    buckets = Buckets(rate=1, burst=5, clock=clock)
    got = dict.fromkeys("abc", 0)
    for passed, key in asked:
        clock.now += passed
        got[key] += buckets.take(key) == 0
    assert max(got.values()) <= 5 + (clock.now - 100) + 0.001


def test_buckets_are_bounded_and_the_one_asked_longest_ago_goes() -> None:
    buckets = Buckets(rate=0.001, burst=1, limit=10, clock=Hands())
    for number in range(1000):
        buckets.take(f"{number}")
        buckets.take("often")
    assert len(buckets) <= 10
    assert buckets.take("often") > 0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("127.0.0.1", ""),
        ("127.8.9.10", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8:0:1::5", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff::9", "2001:db8:0:1::/64"),
        ("", ""),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_an_address_or_a_network(address: str, key: str) -> None:
    assert client_key(address) == key


def test_a_refusal_says_how_long_to_wait() -> None:
    clock = Hands()
    limits = Limits(plans=Buckets(1, 1, clock=clock), clients=Buckets(0.1, 1, clock=clock))
    limits.admit_plan("a")
    limits.charge("10.0.0.1")
    limits.charge("")
    limits.admit_client("")
    for admit, who in ((limits.admit_plan, "a"), (limits.admit_client, "10.0.0.1")):
        with pytest.raises(RefusalError) as caught:
            admit(who)
        assert caught.value.status == 429
        assert caught.value.retry_after > 0
