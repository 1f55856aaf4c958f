"""docs/faults.md: every fault has an outcome, and the tests it names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/faults.md").read_text("utf-8")
_NAME = re.compile(r"`([a-z_/]+\.py)::(test_[a-z0-9_]+)`")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for part in PAGE.split("## ")[1:]
    for line in part.splitlines()
    if line.startswith("|") and not line.startswith(("|---", "| fault"))
]
LIST = (
    "header, chunk's edge, middle, stall, trickle, Content-Length, ignores Range, another range, "
    "5xx, redirect loop, HTML page, gzip, swapped, flipped bit, truncated, overlapping, missing, "
    "oversized, zstd bomb, 10⁶, device full, write error, smaller than the image"
)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_fault_is_tested_by_a_test_that_exists(row: list[str]) -> None:
    _, outcome, proof = row
    assert outcome
    named = _NAME.findall(proof)
    assert named
    assert _NAME.sub("", proof).strip(" ,") == ""
    for path, name in named:
        tree = ast.parse((TESTS / path).read_text("utf-8"))
        assert any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body)


@pytest.mark.parametrize("fault", LIST.split(", "))
def test_every_fault_that_was_asked_for_has_a_row(fault: str) -> None:
    assert any(fault in row[0] for row in ROWS), fault
