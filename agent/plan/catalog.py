"""Where presets come from: those of this program, and a site's own in a folder.

Catalog   names -> presets; the site's folder is part of the live image
Bases     what one document may refer to, and through which presets it was reached
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from agent.errors import PlanError, Problem
from agent.plan.explain import explain
from agent.plan.extend import contents, extended
from agent.plan.loader import load
from agent.plan.part import nearest, shown

if TYPE_CHECKING:
    from agent.plan.preset import Preset

SITE = Path("/etc/bedplate/presets")
"""Where a live image keeps the presets of its site, NAME.yaml each."""
BUILT_IN = (
    "plain",
    "cis-l1-server",
    "cis-l2-server",
    "stig-rhel8",
    "stig-rhel9",
    "stig-rhel10",
    "anssi-high",
    "cis-l2+stig-rhel9",
)
DEEPEST = 8
"""Presets that extend each other; a site has one or two levels."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")


def preset_name(text: str) -> str:
    """Return a name that is fit for a file: lower case, digits and ._+- inside."""
    if not _NAME.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a preset's name such as stig-rhel9")
    return text


@dataclass(frozen=True)
class Catalog:
    """The presets that a plan may name; `site` need not exist."""

    site: Path | None = SITE

    def names(self) -> tuple[str, ...]:
        """Return the program's own names, then the site's in order."""
        own = () if self.site is None else self.site.glob("*.yaml")
        return (*BUILT_IN, *sorted({path.stem for path in own} - set(BUILT_IN)))

    def load(self, name: str, kind: type[Preset], through: tuple[str, ...] = ()) -> Preset:
        """Return a preset; raise ValueError for a name that is not there.

        Raises `PlanError` naming everything that is wrong in the site's file.
        """
        if name in BUILT_IN:
            return built_in(name, kind)
        names = self.names()
        if name not in names or self.site is None:
            hint = nearest(name, names)
            raise ValueError(f"{shown(name)} is not one of {', '.join(names)}{hint}")
        return self._read(self.site / f"{name}.yaml", kind, through)

    def _read(self, path: Path, kind: type[Preset], through: tuple[str, ...]) -> Preset:
        try:
            root, found = load(path.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise PlanError([Problem(str(path), f"cannot be read: {reason}")]) from error
        except PlanError as error:
            raise PlanError([_in(path, problem) for problem in error.problems]) from error
        context = {"bases": Bases(self, (*through, path.stem))}
        preset = None
        try:
            preset = kind.model_validate(root.plain(), context=context)
        except ValidationError as error:
            found += explain(error, root, kind, context)
        if found or preset is None:
            raise PlanError([_in(path, one.problem()) for one in sorted(found)])
        if preset.name != path.stem:
            message = f"{preset.name} must be {path.stem}, as the file is called"
            raise PlanError([Problem(f"{path}: name", message)])
        return preset


def _in(path: Path, problem: Problem) -> Problem:
    return Problem(f"{path}: {problem.where}".rstrip(": "), problem.message)


@functools.cache
def built_in(name: str, kind: type[Preset]) -> Preset:
    """Return a preset that comes with this program."""
    text = resources.files("agent.plan").joinpath("presets", f"{name}.yaml").read_text("utf-8")
    context = {"bases": Bases(Catalog(None), (name,))}
    return kind.model_validate(yaml.safe_load(text), context=context)


@dataclass(frozen=True)
class Bases:
    """The presets that a document may name, and those through which it was reached."""

    catalog: Catalog = Catalog()
    through: tuple[str, ...] = ()

    @classmethod
    def of(cls, context: Mapping[str, Any] | None) -> Bases:
        """Return what a validation was told, or the presets of this machine."""
        found = (context or {}).get("bases")
        return found if isinstance(found, Bases) else cls()

    def load(self, name: str, kind: type[Preset]) -> Preset:
        """Return a preset; raise ValueError where it is not there or leads in a circle."""
        if name in self.through:
            raise ValueError(f"{' extends '.join((*self.through, name))}: a circle")
        if len(self.through) > DEEPEST:
            raise ValueError(f"extends presets more than {DEEPEST} deep")
        return self.catalog.load(name, kind, self.through)

    def below(
        self, written: Mapping[str, Any], kind: type[Preset]
    ) -> tuple[tuple[Preset, ...], Mapping[str, Any]]:
        """Return the presets that a mapping extends, and the mapping laid over them."""
        if not self.through and written.get("name") in self.catalog.names():
            raise ValueError(f"{written['name']} is there already: give it another name")
        named = written.get("extends", ())
        names = named if isinstance(named, (list, tuple)) else [named]
        if not all(isinstance(name, str) for name in names):
            return (), written
        bases = tuple(self.load(name, kind) for name in names)
        if not bases:
            return (), written
        return bases, extended([contents(base) for base in bases], written)
