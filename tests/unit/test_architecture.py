"""The dependency rule, checked: data flows from plan and inventory to steps, never back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[2] / "agent"
BOTTOM = {"errors", "proxy", "secret", "tls"}
DATA = BOTTOM | {"inventory", "plan", "layout", "payload"}
PORTS = DATA | {"machine"}

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "proxy": {"secret"},
    "secret": set(),
    "reference": set(),
    "network": {"errors"},
    "inventory": BOTTOM | {"plan", "layout"},
    "plan": BOTTOM | {"reference"},
    "layout": BOTTOM | {"inventory", "plan"},
    "payload": BOTTOM,
    "oci": BOTTOM | {"payload", "reference"},
    "report": BOTTOM,
    "media": BOTTOM | {"payload"},
    "find": BOTTOM | {"inventory", "network"},
    "policy": BOTTOM,
    "tls": set(),
    "trust": BOTTOM | {"find", "payload", "policy"},
    "machine": BOTTOM | {"layout", "inventory", "payload"},
    "keyslots": set(),
    "pin": PORTS | {"keyslots"},
    "target": PORTS | {"pin", "keyslots"},
    "checks": PORTS | {"target", "keyslots", "pin"},
    "steps": PORTS | {"target", "keyslots", "pin", "checks"},
    "adapters": PORTS
    | {
        "trust",
        "oci",
        "reference",
        "find",
        "report",
        "keyslots",
        "pin",
        "target",
        "media",
        "policy",
    },
    "sequence": PORTS | {"steps", "target", "pin"},
    "flashing": PORTS | {"steps"},
    "engine": PORTS | {"steps", "checks", "report"},
    "resolve": PORTS | {"steps", "checks", "engine", "pin", "flashing", "sequence"},
    "preview": PORTS | {"sequence", "steps"},
    "fleet": DATA | {"checks", "resolve"},
    "session": PORTS | {"engine", "find", "report", "resolve", "trust"},
    "redfish": BOTTOM | {"report", "plan"},
    "foreman": BOTTOM | {"inventory", "find", "plan", "report"},
    "watch": BOTTOM | {"report"},
    "server": BOTTOM | {"report", "plan", "payload", "trust"},
}
"""What each layer may import besides itself; `cli` and `wiring` may import everything."""

ONLY_IN = {
    "subprocess": {"adapters/command.py"},
    "blivet": {"adapters/storage"},
    "pyudev": {"adapters"},
    "click": {"cli"},
    "opentelemetry": {"server"},
    "prometheus_client": {"server"},
    "sqlalchemy": {"server"},
    "starlette": {"server"},
    "sushy": {"redfish/bmc.py"},
    "uvicorn": {"server"},
}
"""Modules with one door."""


def sources(layer: str) -> list[Path]:
    package = AGENT / layer
    return sorted(package.rglob("*.py")) if package.is_dir() else [AGENT / f"{layer}.py"]


def modules(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            yield str(node.module)
            if node.module == "agent":
                yield from (f"agent.{name.name}" for name in node.names)


def layers(source: Path) -> set[str]:
    return {name.split(".")[1] for name in modules(source) if name.startswith("agent.")}


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_lies_below_it(layer: str) -> None:
    for source in sources(layer):
        beyond = layers(source) - MAY_IMPORT[layer] - {layer, "__version__"}
        assert not beyond, f"{source.relative_to(AGENT)} imports {beyond}"


def test_nothing_imports_the_command_line() -> None:
    for source in AGENT.rglob("*.py"):
        if source.is_relative_to(AGENT / "cli") or source.name == "__main__.py":
            continue
        assert "cli" not in layers(source), source


@pytest.mark.parametrize("module", ONLY_IN)
def test_each_kind_of_effect_has_one_door(module: str) -> None:
    for source in AGENT.rglob("*.py"):
        if module in {name.split(".")[0] for name in modules(source)}:
            place = str(source.relative_to(AGENT))
            assert any(place.startswith(door) for door in ONLY_IN[module]), f"{place}: {module}"


def test_no_module_outgrows_what_one_noun_needs() -> None:
    for source in AGENT.rglob("*.py"):
        lines = len(source.read_text().splitlines())
        assert lines <= 400, f"{source.relative_to(AGENT)} has {lines} lines: find the missing noun"


def test_every_layer_is_in_the_table() -> None:
    layers_there = {path.stem for path in AGENT.iterdir() if path.suffix == ".py"}
    layers_there |= {path.parent.name for path in AGENT.glob("*/__init__.py")}
    assert layers_there - set(MAY_IMPORT) <= {"__init__", "__main__", "cli", "wiring"}
