"""Presets: sets of file systems and mount options, each option with the rules that ask for it.

A preset is data, written to be read by an auditor: `agent/plan/presets/NAME.yaml`, a site's own in
a folder of the live image, or a mapping in the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictBool,
    StrictStr,
    ValidationInfo,
    model_validator,
)

from agent.plan.catalog import BUILT_IN, Bases, Catalog, preset_name
from agent.plan.disks import OneOrMore
from agent.plan.filesystem import FileSystem, MountPoint, Option, misplaced
from agent.plan.part import Fault, Kind, Part
from agent.plan.size import Bytes

Rule = Annotated[StrictStr, Kind("rule id"), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]
Rules = tuple[Rule, ...]
Options = Annotated[Mapping[Option, Rules], Kind("mapping: mount option to list of rule ids")]
Name = Annotated[StrictStr, Kind("name"), AfterValidator(preset_name)]


def _needs(*required: str) -> ConfigDict:
    """Say in the JSON Schema what is required where the preset extends no other."""
    return ConfigDict(json_schema_extra=lambda schema: schema.update(required=list(required)))


class Least(Part):
    """The size that rules ask for."""

    example: ClassVar[str] = "{size: 10 GiB, rules: [RHEL-09-653030]}\n"

    size: Bytes = Field(description="what the volume must have")
    rules: Rules = Field(description="the rules that ask for it")


class PresetVolume(Part):
    """A volume of the preset.

    In a preset that extends another, only what is given changes; rules and options are added to
    those that are there.
    """

    model_config = _needs("mount")
    example: ClassVar[str] = """\
mount: /srv
size: 5 GiB
rules: [SITE-12]
options: {nodev: [SITE-13], nosuid: []}
"""

    mount: MountPoint = Field(description="where it is mounted")
    size: Bytes = Field(description="its size; where it grows, what it has at least")
    grow: StrictBool = Field(False, description="takes what the others leave; one volume may")
    optional: StrictBool = Field(False, description="made only where the plan names it")
    filesystem: FileSystem | None = Field(None, description="instead of `storage.filesystem`")
    least: Least | None = Field(None, description="the size that rules ask for")
    rules: Rules = Field((), description="the rules that ask for a file system of its own")
    options: Options = Field(
        default_factory=dict, description="mount options, each with the rules that ask for it"
    )
    without: tuple[Option, ...] = Field(
        (), description="options of the preset that is extended which this one leaves out"
    )

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return (self._place(),)

    def _place(self) -> Iterator[Fault]:
        yield from misplaced(self.mount)


class PresetMount(Part):
    """A tmpfs that fstab must name, because scanners look there."""

    example: ClassVar[str] = "mount: /dev/shm\noptions: {nodev: [RHEL-09-231110]}\n"

    mount: MountPoint = Field(description="where it is mounted")
    rules: Rules = Field((), description="the rules that ask for it")
    options: Options = Field(
        default_factory=dict, description="mount options, each with the rules that ask for it"
    )
    without: tuple[Option, ...] = Field((), description="options of the preset that is extended")


class PresetPartition(Part):
    """/boot or the ESP."""

    model_config = _needs()
    example: ClassVar[str] = "{mount: /boot, size: 1 GiB, filesystem: ext4}\n"

    mount: MountPoint = Field(description="`/boot`, or `/boot/efi`")
    size: Bytes = Field(description="its size on each disk")
    filesystem: Literal["ext4", "xfs", "vfat"] = Field(description="`vfat` for the ESP alone")
    options: Options = Field(
        default_factory=dict, description="mount options, each with the rules that ask for it"
    )
    without: tuple[Option, ...] = Field((), description="options of the preset that is extended")


class Unmet(Part):
    """Rules of the benchmark that the preset knowingly leaves open."""

    example: ClassVar[str] = "rules: [SITE-14]\nwhy: backups are another team's\n"

    rules: Rules = Field(description="the rules")
    why: StrictStr = Field(description="why, in a sentence an auditor can use")


class Preset(Part):
    """A set of file systems and mount options that meets named rules.

    A plan names one, or carries one of its own as a mapping. What extends others has everything
    that they have, changed mount point by mount point, and needs nothing but a name; where it is
    weaker, preview and report say which rules of the extended one are broken.
    """

    model_config = _needs("name")
    example: ClassVar[str] = """\
name: database
extends: stig-rhel9
volumes:
  - {mount: /var/lib/pgsql, size: 20 GiB, grow: true, options: {nodev: [RHEL-09-231200]}}
without: [/home]
"""

    name: Name = Field(description="what it is called in preview and report")
    extends: OneOrMore[Name] = Field((), description="presets that it starts from")
    summary: StrictStr = Field("", description="what it is for, in a line")
    benchmark: StrictStr = Field("", description="whose rules these are, and of which version")
    encryption: Rules = Field(
        (), description="the rules that an installation without encryption breaks"
    )
    volumes: tuple[PresetVolume, ...] = Field(description="the volumes")
    without: tuple[MountPoint, ...] = Field((), description="volumes of the extended ones left out")
    others: Options = Field(default_factory=dict, description="options of volumes that a plan adds")
    tmpfs: tuple[PresetMount, ...] = Field((), description="memory file systems that fstab names")
    boot: PresetPartition = Field(description="the partition of /boot")
    esp: PresetPartition = Field(description="the EFI system partition")
    unmet: tuple[Unmet, ...] = Field((), description="rules that are knowingly left open")

    _bases: tuple[Preset, ...] = PrivateAttr(())
    _written: Mapping[str, Any] | None = PrivateAttr(None)  # where it stands in a plan

    @model_validator(mode="wrap")
    @classmethod
    def _resolve(
        cls, value: Any, handler: ModelWrapValidatorHandler[Preset], info: ValidationInfo
    ) -> Preset:
        """Take a preset by its name, or lay a mapping over what it extends."""
        bases = Bases.of(info.context)
        if isinstance(value, str):
            return bases.load(value, cls)
        if isinstance(value, Preset):
            return value
        if not isinstance(value, Mapping):
            return handler(value)
        below, content = bases.below(value, cls)
        preset = handler(content)
        preset._bases = below
        preset._written = None if bases.through else value
        return preset

    @property
    def bases(self) -> tuple[Preset, ...]:
        """The presets that this one extends."""
        return self._bases

    @property
    def written(self) -> Mapping[str, Any] | None:
        """The mapping as the plan has it; None for a preset that the plan only names."""
        return self._written

    def lineage(self) -> tuple[Preset, ...]:
        """Return the presets whose rules are at stake: those it extends, then itself."""
        return (*(one for base in self._bases for one in base.lineage()), self)

    def checks(self) -> tuple[Iterator[Fault], ...]:
        return self._one_grows(), self._mounts_differ(), self._has_root(), self._partitions()

    def _one_grows(self) -> Iterator[Fault]:
        growing = [number for number, volume in enumerate(self.volumes) if volume.grow]
        for number in growing[1:]:
            message = f"{self.volumes[growing[0]].mount} grows already, and one volume may"
            yield Fault(("volumes", number, "grow"), message)

    def _mounts_differ(self) -> Iterator[Fault]:
        for key in ("volumes", "tmpfs"):
            mounts = [entry.mount for entry in getattr(self, key)]
            for number, mount in enumerate(mounts):
                if mount in mounts[:number]:
                    yield Fault((key, number, "mount"), f"{mount} is there twice")

    def _has_root(self) -> Iterator[Fault]:
        root = self.volume("/")
        if root is None or root.optional:
            yield Fault(("volumes",), "/ is missing: every installation has that volume")

    def _partitions(self) -> Iterator[Fault]:
        for key, mount in (("boot", "/boot"), ("esp", "/boot/efi")):
            partition: PresetPartition = getattr(self, key)
            if partition.mount != mount:
                yield Fault((key, "mount"), f"{partition.mount} must be {mount}")
            if (partition.filesystem == "vfat") != (key == "esp"):
                right = "vfat" if key == "esp" else "ext4 or xfs"
                yield Fault((key, "filesystem"), f"{partition.filesystem} must be {right}")

    def volume(self, mount: str) -> PresetVolume | None:
        """Return the volume mounted at `mount`, if the preset has one there."""
        return next((volume for volume in self.volumes if volume.mount == mount), None)


def load_preset(name: str, catalog: Catalog | None = None) -> Preset:
    """Return a preset by its name; raise ValueError where there is none of that name."""
    return (catalog or Catalog()).load(name, Preset)


def all_presets() -> tuple[Preset, ...]:
    """Return every preset that comes with this program."""
    return tuple(load_preset(name, Catalog(None)) for name in BUILT_IN)
