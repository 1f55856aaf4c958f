"""Presets: sets of file systems and mount options, each option with the rules that ask for it.

A preset is data (`agent/plan/presets/NAME.yaml`), written to be read by an auditor.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import Field, StrictBool, StrictStr

from agent.plan.part import Fault, Part
from agent.plan.size import Bytes
from agent.plan.storage import PRESETS, FileSystem, MountPoint, Option, PresetName

Rule = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
Rules = tuple[Rule, ...]
Options = Mapping[Option, Rules]


class Least(Part):
    """The size that rules ask for."""

    size: Bytes
    rules: Rules


class PresetVolume(Part):
    """A volume; where it grows, `size` is what it has at least."""

    mount: MountPoint
    size: Bytes
    grow: StrictBool = False
    filesystem: FileSystem | None = None
    least: Least | None = None
    rules: Rules = ()
    options: Options = Field(default_factory=dict)


class PresetMount(Part):
    """A tmpfs."""

    mount: MountPoint
    options: Options = Field(default_factory=dict)


class PresetPartition(Part):
    """/boot or the ESP."""

    mount: MountPoint
    size: Bytes
    filesystem: Literal["ext4", "xfs", "vfat"]
    options: Options = Field(default_factory=dict)


class Preset(Part):
    """A set of file systems and mount options that meets named rules."""

    name: PresetName
    summary: StrictStr
    encryption: Rules = ()  # the rules that an installation without encryption breaks
    volumes: tuple[PresetVolume, ...]
    others: Options = Field(default_factory=dict)  # the options of volumes that a plan adds
    tmpfs: tuple[PresetMount, ...] = ()
    boot: PresetPartition
    esp: PresetPartition

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._one_grows(),)

    def _one_grows(self) -> Iterator[Fault]:
        if sum(volume.grow for volume in self.volumes) > 1:
            yield Fault(("volumes",), "more than one volume grows")

    def volume(self, mount: str) -> PresetVolume | None:
        """Return the volume mounted at `mount`, if the preset has one there."""
        return next((volume for volume in self.volumes if volume.mount == mount), None)


@functools.cache
def load_preset(name: PresetName) -> Preset:
    """Return a preset that comes with this program."""
    text = resources.files("agent.plan").joinpath("presets", f"{name}.yaml").read_text("utf-8")
    return Preset.model_validate(yaml.safe_load(text))


def all_presets() -> tuple[Preset, ...]:
    """Return every preset that comes with this program."""
    return tuple(load_preset(name) for name in PRESETS)
