"""Whatever bytes come in, a plan or its problems come out, in bounded time and depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlanError
from agent.plan import loader
from agent.plan.loader import DEEPEST, LARGEST_DOCUMENT, load
from agent.plan.model import Plan
from agent.plan.parse import parse
from tests.unit.plan.plans import problems_of, small, text_of

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "examples").glob("*.yaml"))
SMALL = text_of(small())


def outcome(text: bytes) -> Plan | PlanError:
    try:
        return parse(text)
    except PlanError as error:
        return error


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "the plan is empty"),
        (b"# nothing\n", "the plan is empty"),
        (b"---\n...\n", "the plan is empty"),
        (b"- 1\n", "the plan is not a mapping of keys such as version, id and machine"),
        (b"plan", "the plan is not a mapping of keys such as version, id and machine"),
        (b"\xff\xfe\x00", "the plan is not UTF-8: invalid start byte at byte 0"),
        ("ä: ü".encode("utf-16"), "the plan is not UTF-8: invalid start byte at byte 0"),
        (b"a: \x00", "the plan is not YAML: unacceptable character #x0000"),
        (
            b"a: 1\n\tb: 2\n",
            "line 2: is not YAML: while scanning",
        ),
        (b"a: [1\n", "line 2: is not YAML: while parsing a flow sequence"),
        (SMALL + b"---\nversion: 1\n", "line 10: a second document begins: a plan is one document"),
        (b"a: *b\n", "line 1: an alias (*) has no anchor (&) before it"),
        (b"a: &b [*b]\n", "line 1: an alias (*) stands inside its own anchor (&)"),
        (b"? [a]\n: b\n", "line 1: a key is not plain text"),
        (b"? {a: 1}\n: b\n", "line 1: a key is not plain text"),
        (b"a: &x [1]\n*x : 2\n", "line 2: a key is not plain text"),
        (b"a: " + b"[" * 500 + b"\n", f"line 1: the plan is nested more than {DEEPEST} levels"),
        (b"x" * (LARGEST_DOCUMENT + 1), "the plan has 1048577 bytes, at most 1048576 are read"),
    ],
)
def test_what_cannot_be_read_is_one_problem(text: bytes, problem: str) -> None:
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_half_of_a_surrogate_pair_is_refused_by_either_parser() -> None:
    (found,) = problems_of(b'a: "\\ud800"\n')
    assert found.startswith("line 1: is not")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (b"hostname: other\n", "hostname: is there twice, first on line 5"),
        (b"disks: {count: 1, count: 2}\n", "disks: is there twice, first on line 7"),
        (b"x: &a {b: 1}\n<<: *a\n", "<<: is a merge key: write the keys out"),
        (
            b"finish: !!str reboot\n",
            "finish: has a tag (!): write the value without, text in quotes",
        ),
        (b"finish: !!python/name:os.system\n", "finish: has a tag (!)"),
        (b"encryption:\n", "encryption: is empty: give a value or leave the key out"),
        (b"expires: ~\n", "expires: is empty: give a value or leave the key out"),
        (b"report: [null]\n", "report[0]: must be a mapping of keys, is empty"),
    ],
)
def test_what_can_be_read_past_is_reported_with_the_rest(more: bytes, problem: str) -> None:
    found = problems_of(SMALL + b"xyzzy: 1\n" + more)
    assert "xyzzy: unknown key" in found
    assert any(one.startswith(problem) for one in found)


def test_keys_are_text_whatever_yaml_takes_them_for() -> None:
    assert "on: unknown key" in problems_of(SMALL + b"on: 1\n1000: 1\n")
    assert "1000: unknown key" in problems_of(SMALL + b"on: 1\n1000: 1\n")


def test_a_billion_laughs_are_refused_before_they_are_told() -> None:
    lines = ["a0: &a0 [" + ", ".join(["ha"] * 10) + "]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 10)]
    (found,) = problems_of("\n".join(lines))
    assert found == "line 5: the plan expands to more than 100000 values"


def test_depth_that_aliases_add_up_is_bounded_too() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 100)]
    (found,) = problems_of("\n".join(lines))
    assert found == f"line 23: the plan is nested more than {DEEPEST} levels deep"


def test_aliases_may_stand_for_what_was_said_before() -> None:
    text = SMALL.replace(b"hostname: db01", b"hostname: &name db01") + b"report: []\n"
    plan = parse(text + b"storage: {volume_group: *name}\n")
    assert plan.storage.volume_group == plan.hostname == "db01.example.com"


def test_a_byte_order_mark_and_windows_lines_are_read() -> None:
    assert parse(b"\xef\xbb\xbf" + SMALL.replace(b"\n", b"\r\n")) == parse(SMALL)


def test_numbers_of_thousands_of_digits_are_text() -> None:
    for number in (b"9" * 5000, b"0x" + b"f" * 5000, b"-0b" + b"1" * 9000, b"0x_"):
        assert problems_of(SMALL.replace(b"db01.example.com", number))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_both_parsers_of_yaml_give_the_same_tree(example: Path) -> None:
    def tree(parser: object) -> object:
        reader = loader.Reader()
        for event in yaml.parse(example.read_text("utf-8"), Loader=parser):  # type: ignore[arg-type]
            reader.take(event)
        assert reader.root is not None
        return reader.root.plain()

    assert tree(yaml.SafeLoader) == tree(loader.PARSER) == load(example.read_bytes())[0].plain()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_plan_or_its_problems(text: bytes) -> None:
    assert isinstance(outcome(text), PlanError)


@settings(deadline=None)
@given(st.text(st.sampled_from("a:-[]{}&*!|>'\"#%@\n\t ,?0~<_é\u2028"), max_size=80))
def test_any_text_of_yamls_signs_ends_in_problems(text: str) -> None:
    assert isinstance(outcome(text.encode()), PlanError)


KEYS = sorted(
    {*Plan.model_fields, "mac", "where", "size", "volumes", "mount", "tang", "url", "files"}
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["tpm2 and tang", "20 GiB", "/srv", "http", "stig-rhel9", "7"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=6))
def test_any_values_under_known_keys_end_in_a_plan_or_its_problems(changes: dict[str, Any]) -> None:
    content = {**small(), **changes}
    outcome(json.dumps(content).encode())
    outcome(yaml.safe_dump(content, allow_unicode=True).encode())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_a_damaged_plan_ends_in_a_plan_or_its_problems(example: Path, data: st.DataObject) -> None:
    text = example.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    gone = data.draw(st.integers(0, 40))
    outcome(text[:start] + data.draw(st.binary(max_size=6)) + text[start + gone :])
