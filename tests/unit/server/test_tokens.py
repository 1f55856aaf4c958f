from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from agent.secret import Secret
from agent.server.plans import PlanFile, PlanStore
from agent.server.refusal import RefusalError
from agent.server.tokens import Tokens, with_token

KEY = Secret(b"k" * 32)
TOKEN = Secret("to-ken_1")
HERE = "http://deploy:8080/v1/events"


def plan(tmp_path: Path, text: str, *, signed: bool = False) -> PlanFile:
    (tmp_path / "a.yaml").write_text(text)
    if signed:
        (tmp_path / "a.yaml.sig").write_bytes(b"s")
    (found,) = PlanStore(tmp_path).all()
    return found


@pytest.mark.parametrize(
    "report",
    [
        f"report:\n  - type: http\n    url: {HERE}\n",
        f"report:\n- url: {HERE}\n  type: http # é\nfinish: stay\n",
        f"report: [{{type: http, url: '{HERE}'}}]\n",
        f'report: [{{"type":"http","url":"{HERE}"}}]',
        f"report:\n  - {{type: http, url: '{HERE}'}}\n  - type: foreman\n    built: x\n",
    ],
)
def test_a_token_goes_into_the_entry_and_nothing_else_changes(report: str) -> None:
    before = f"version: 1 # 🙂\nid: a\n{report}"
    after = with_token(before.encode(), "deploy:8080", TOKEN).decode()
    old, new = yaml.safe_load(before), yaml.safe_load(after)
    assert new["report"][0].pop("token") == TOKEN.text
    assert new == old
    assert after.startswith("version: 1 # 🙂\nid: a\nreport:")


@pytest.mark.parametrize(
    "report",
    [
        "",
        "report: []\n",
        "report: text\n",
        "report: [5, [], text]\n",
        f"report: [{{type: http, url: '{HERE}', token: own}}]\n",
        "report: [{type: http, url: 'http://elsewhere:8080/v1/events'}]\n",
        "report: [{type: http, url: 'http://deploy/v1/events'}]\n",
        f"report: [{{type: foreman, url: '{HERE}'}}]\n",
        "report: [{type: http, url: 'http://[::1/x'}]\n",
    ],
)
def test_a_plan_that_needs_no_token_is_served_byte_by_byte(report: str) -> None:
    before = f"version: 1\nid: a\n{report}".encode()
    assert with_token(before, "deploy:8080", TOKEN) == before


def test_a_text_that_would_become_another_document_is_refused() -> None:
    # A mapping that is preceded by an anchor begins there, and what is put before it is no key.
    odd = f"version: 1\nid: a\nreport:\n  - &x\n    type: http\n    url: {HERE}\n  - *x\n"
    with pytest.raises(RefusalError) as caught:
        with_token(odd.encode(), "deploy:8080", TOKEN)
    assert caught.value.status == 409


@pytest.mark.parametrize(
    ("url", "host", "same"),
    [
        ("http://deploy/v1/events", "deploy", True),
        ("http://deploy:80/v1/events", "DEPLOY", True),
        ("https://deploy/v1/events", "deploy:443", True),
        ("https://deploy/v1/events", "deploy:80", False),
        ("http://[2001:db8::1]:8080/x", "[2001:db8::1]:8080", True),
    ],
)
def test_an_entry_is_ours_by_host_and_port(url: str, host: str, same: bool) -> None:
    before = f"id: a\nreport: [{{type: http, url: '{url}'}}]".encode()
    assert (with_token(before, host, TOKEN) != before) == same


def test_tokens_differ_by_purpose_plan_and_key() -> None:
    one, other = Tokens(KEY), Tokens(Secret(b"x" * 32))
    made = [tokens.boot(name).text for tokens in (one, other) for name in ("a", "b")]
    made += [tokens.report(name).text for tokens in (one, other) for name in ("a", "b")]
    assert len(set(made)) == 8
    assert all(len(token) == 43 for token in made)


def test_who_may_write_events(tmp_path: Path) -> None:
    here = f"id: a\nreport: [{{type: http, url: '{HERE}'}}]\n"
    found = plan(tmp_path, here)
    minted = Tokens(KEY, mint=True)
    assert Tokens(KEY).may_write(found, "")
    assert [minted.may_write(found, token) for token in ("", "x", minted.boot("a").text)] == [
        *[False] * 3
    ]
    assert minted.may_write(found, minted.report("a").text)
    assert not minted.may_write(found, minted.report("b").text)
    own = plan(tmp_path, here.replace("http,", "http, token: own,"))
    assert minted.may_write(own, "own")
    assert not Tokens(KEY).may_write(own, minted.report("a").text)
    signed = plan(tmp_path, here, signed=True)
    assert minted.may_write(signed, "")
    assert minted.served(signed, "deploy:8080") == signed.content
    assert not Tokens(KEY, mint=True, required=True).may_write(signed, "")


def test_who_may_read_a_plan(tmp_path: Path) -> None:
    found = plan(tmp_path, "id: a\n")
    assert Tokens(KEY).may_read(found, "")
    closed = Tokens(KEY, required=True)
    tokens = (closed.boot("a"), closed.report("a"), closed.boot("b"), Secret(""), Secret("é"))
    assert [closed.may_read(found, token.text) for token in tokens] == [True, True, *[False] * 3]
