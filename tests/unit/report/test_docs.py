"""docs/events.md is a contract: its examples must be what the agent sends and accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.report import event as limits
from agent.report.event import Event, State, envelope_of

TEXT = (Path(__file__).parents[3] / "docs" / "events.md").read_text()
EXAMPLES = re.findall(r'^\{"version".*\}$', TEXT, re.MULTILINE)


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_event_in_the_documentation_is_one(line: str) -> None:
    Event.from_json(line)


def test_the_envelope_in_the_documentation_is_one() -> None:
    envelopes = [envelope_of(Event.from_json(line)) for line in EXAMPLES]
    assert len([each for each in envelopes if each]) == 1


def test_every_field_and_state_is_documented_with_its_limit() -> None:
    for name in Event.__dataclass_fields__:
        assert f"`{name}`" in TEXT
    for state in State:
        assert f"`{state}`" in TEXT
    assert f"at most {limits.MESSAGE_LIMIT} characters" in TEXT
    assert f"at most {limits.NAME_LIMIT} characters" in TEXT
    assert f"at most {limits.UNIT_LIMIT} characters" in TEXT
    assert f"at most {limits.LINE_LIMIT // 1024} KiB" in TEXT
