"""What is tried again, for how long, and what is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from agent.errors import ImageError
from agent.oci.patience import patiently
from agent.payload.options import FetchOptions
from agent.payload.trouble import Passing, Trouble, Wrong


def answers(*said: Trouble | str) -> Callable[[], str]:
    """Return a request that raises or returns one of these at each call."""
    left = list(said)

    def request() -> str:
        answer = left.pop(0)
        if isinstance(answer, Trouble):
            raise answer
        return answer

    return request


def test_a_busy_registry_is_asked_again_not_before_it_said() -> None:
    told: list[str] = []
    options = FetchOptions(patience=10.0, warn=told.append)
    began = time.monotonic()
    request = answers(Passing("answered 429", rest=0.3), Passing("answered 503", rest=0.2), "there")
    assert patiently(request, "r/app", options) == "there"
    assert time.monotonic() - began >= 0.5
    assert [line.partition(",")[0] for line in told] == [
        "r/app: answered 429",
        "r/app: answered 503",
    ]


def test_a_trouble_that_goes_on_is_told_once_with_how_long_it_will_be_tried() -> None:
    told: list[str] = []
    options = FetchOptions(patience=10.0, warn=told.append)
    refused, busy = Passing("refused"), Passing("answered 503")
    assert patiently(answers(refused, refused, busy, busy, "there"), "r/app", options) == "there"
    assert told == [
        "r/app: refused, trying again for up to 10 s",
        "r/app: answered 503, trying again for up to 10 s",
    ]


def test_it_is_given_up_when_patience_is_over_even_if_the_registry_wants_longer() -> None:
    options = FetchOptions(patience=0.3, warn=lambda message: None)
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"^r/app: answered 429$"):
        patiently(answers(*[Passing("answered 429", rest=100.0)] * 9), "r/app", options)
    assert time.monotonic() - began < 20


def test_a_wrong_answer_is_not_asked_for_again() -> None:
    with pytest.raises(ImageError, match=r"^r/app: answered 404$"):
        patiently(answers(Wrong("answered 404"), "never"), "r/app", FetchOptions())


def test_nobody_waits_any_longer_when_it_is_stopped() -> None:
    stopped = threading.Event()
    threading.Timer(0.2, stopped.set).start()
    began = time.monotonic()
    with pytest.raises(ImageError):
        patiently(answers(*[Passing("busy", rest=60.0)] * 9), "r", FetchOptions(), stopped)
    assert time.monotonic() - began < 5
