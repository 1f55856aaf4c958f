from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from agent.errors import PlanError
from agent.fleet.hosts import Host
from agent.fleet.render import render as render_fleet
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.render import render
from agent.plan.schema import schema
from tests.unit.plan.plans import encrypted, plans, small, text_of

SCHEMA = Draft202012Validator(json.loads(schema()))


@settings(max_examples=40, deadline=None)
@given(plans)
def test_a_plan_comes_back_from_its_text(content: dict[str, Any]) -> None:
    plan = Plan.model_validate(content)
    text = render(plan, secrets=True)
    assert parse(text.encode()) == plan
    assert render(parse(text.encode()), secrets=True) == text
    assert parse(text_of(content)) == plan


@pytest.mark.parametrize("content", ["\x85", "a\u2028b", "one\n\u2029two\n", "naïve – “text”\n"])
def test_no_character_of_a_file_is_lost_on_the_way(content: str) -> None:
    file = {"path": "/etc/x", "content": content}
    plan = Plan.model_validate(small(configure={"files": [file]}))
    assert parse(render(plan).encode()).configure.files[0].content == content
    hosts = Host("a list", {"hostname": "db01", "configure": {"files": [file]}})
    base = text_of(small(id=None, hostname=None))
    (one,) = render_fleet(base, [hosts], "autumn", "plan.schema.json")
    assert one.plan.configure.files[0].content == content
    assert parse(one.text.encode()) == one.plan


def test_a_plan_may_be_json_too() -> None:
    assert parse(json.dumps(encrypted(), indent=2).encode()) == parse(text_of(encrypted()))


@settings(max_examples=20, deadline=None)
@given(plans)
def test_what_parse_takes_the_schema_takes_too(content: dict[str, Any]) -> None:
    assert [error.message for error in SCHEMA.iter_errors(content)] == []


@pytest.mark.parametrize(
    "content",
    [
        small(version=2),
        small(hostname=None),
        small(xyzzy=1),
        small(hostname="a b"),
        small(storage={"volumes": [{"mount": "/srv", "size": "ten"}]}),
        small(storage={"volumes": [{"mount": "/srv", "size": None}]}),
        small(disks={"count": 4}),
        small(disks={"count": 1, "where": {"size": "400 GB"}}),
        small(configure={"files": [{"path": "/a", "content": "", "mode": 420}]}),
        encrypted("tpm2 and tpm2"),
    ],
)
def test_the_schema_marks_what_is_wrong_by_itself(content: dict[str, Any]) -> None:
    assert not SCHEMA.is_valid(content)


def test_a_token_is_never_shown_and_a_plan_without_it_is_refused() -> None:
    plan = Plan.model_validate(
        small(report=[{"type": "http", "url": "https://a/", "token": "sesame"}])
    )
    for shown in (
        render(plan),
        repr(plan),
        str(plan),
        plan.model_dump_json(),
        str(plan.model_dump()),
    ):
        assert "sesame" not in shown
    with pytest.raises(PlanError, match=r"report\[0\].token: is not a bearer token"):
        parse(render(plan).encode())
    assert "token: sesame" in render(plan, secrets=True)


def test_what_foreman_is_told_at_is_never_shown() -> None:
    url = "https://foreman.example.com/unattended/{}?token=sesame"
    report = {"type": "foreman", "built": url.format("built"), "failed": url.format("failed")}
    plan = parse(text_of(small(report=[report])))
    for shown in (render(plan), repr(plan), plan.model_dump_json(), str(plan.model_dump())):
        assert "sesame" not in shown
    with pytest.raises(PlanError, match=r"report\[0\].built: is not a URL"):
        parse(render(plan).encode())
    assert parse(render(plan, secrets=True).encode()) == plan


def test_foreman_alone_keeps_no_envelope() -> None:
    foreman = {"type": "foreman", "built": "https://a/", "failed": "https://b/"}
    with pytest.raises(PlanError, match="report: has none of type http: the recovery key's"):
        parse(text_of(encrypted() | {"report": [foreman]}))


def test_a_rendered_plan_says_no_more_than_it_must() -> None:
    plan = parse(text_of(small(finish="reboot", report=[], configure={"files": []})))
    assert render(plan) == (
        "version: 1\n"
        "id: 0b6c7c1e-6d6e-4f43-9a4e-6a2f7e0c2b11\n"
        "machine:\n"
        "  mac: '52:54:00:12:34:56'\n"
        "hostname: db01.example.com\n"
        "disks:\n"
        "  count: 1\n"
        "image:\n"
        "  manifest:\n"
        "  - https://images.example.com/debian13.json\n"
    )


def test_plans_are_frozen() -> None:
    plan = parse(text_of(small()))
    with pytest.raises(ValueError, match="frozen"):
        plan.hostname = "other"  # type: ignore[misc]
