"""What is written for people is what the types say."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from agent.plan.loader import load
from agent.plan.manual import main, manual, parts_of, presets
from agent.plan.model import Plan
from agent.plan.parse import parse
from agent.plan.part import Part
from agent.plan.schema import schema
from tests.unit.plan.plans import encrypted

DOCS = Path(__file__).parents[3] / "docs"
PARTS = list(parts_of(Plan, ""))
DOCUMENTS = [("plan.md", manual()), ("presets.md", presets()), ("plan.schema.json", schema())]
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))


@pytest.mark.parametrize(("name", "text"), DOCUMENTS)
def test_the_document_is_current(name: str, text: str) -> None:
    written = (DOCS / name).read_text("utf-8")
    assert written == text, f"docs/{name} is not current: run python -m agent.plan.manual docs"


def test_the_documents_are_written(tmp_path: Path) -> None:
    main(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {name for name, _ in DOCUMENTS}
    assert (tmp_path / "plan.md").read_text("utf-8") == manual()


@pytest.mark.parametrize(("path", "part"), PARTS, ids=[path for path, _ in PARTS])
def test_every_part_is_described_with_an_example_that_is_right(path: str, part: type[Part]) -> None:
    page = manual()
    assert f"# {path}\n" in page
    assert all(field.description for field in part.model_fields.values())
    assert part.example in page
    part.model_validate(load(part.example.encode())[0].plain())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_plan_that_editors_can_complete(example: Path) -> None:
    text = example.read_bytes()
    parse(text)
    first = text.decode().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../plan.schema.json"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_the_plan_on_the_first_page_is_whole() -> None:
    block = manual().split("```yaml\n")[1].split("```")[0]
    assert parse(block.encode()).hostname == "web01.example.com"


@pytest.mark.parametrize("page", [manual(), presets()], ids=["plan", "presets"])
def test_the_sections_shown_on_the_pages_are_right(page: str) -> None:
    shown = [block.split("```")[0] for block in page.split("```yaml\nstorage:\n")[1:]]
    assert shown
    for block in shown:
        section = load(f"storage:\n{block}".encode())[0].plain()
        Plan.model_validate({**encrypted(), **cast("dict[str, object]", section)})


def test_the_messages_in_the_manual_are_the_ones_that_are_given() -> None:
    block = manual().split("## Problems")[1]
    for message in (
        "is not supported yet by this version: use 1 or 2 or 3",
        "bare, YAML reads it as",
    ):
        assert message in block
