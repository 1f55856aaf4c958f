"""Which rules of its preset a plan breaks: the wishes, held against what the presets ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.plan.preset import Options, Preset, PresetVolume
from agent.plan.size import render
from agent.plan.wanted import StorageWish, VolumeWish, above


@dataclass(frozen=True)
class Deviation:
    """A rule that the plan breaks, where, and by what."""

    rule: str
    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.rule} ({self.where}: {self.why})"


def deviations(preset: Preset, wishes: StorageWish, *, encrypted: bool) -> Iterator[str]:
    """Yield every rule that is broken, of the preset and of those which it extends.

    A rule that the extended and the extending preset both have is named once, with the former.
    """
    told: set[Deviation] = set()
    for one in preset.lineage():
        for broken in _broken(one, wishes, encrypted=encrypted):
            if broken not in told:
                told.add(broken)
                yield f"deviates from {one.name}: {broken}"


def _broken(preset: Preset, wishes: StorageWish, *, encrypted: bool) -> Iterator[Deviation]:
    if not encrypted:
        for rule in preset.encryption:
            yield Deviation(rule, "encryption", "the disks are not encrypted")
    volumes = {volume.mount: volume for volume in wishes.every_volume}
    for asked in preset.volumes:
        if asked.mount in volumes:
            yield from _missing(asked.mount, asked.options, volumes[asked.mount].options)
            yield from _too_small(asked, volumes[asked.mount])
        elif not asked.optional:
            yield from _merged(asked, volumes[above(asked.mount, volumes)])
    for mount, volume in volumes.items():
        if preset.volume(mount) is None:
            yield from _missing(mount, preset.others, volume.options)
    memory = {tmpfs.mount: tmpfs.options for tmpfs in wishes.tmpfs}
    for tmpfs in preset.tmpfs:
        yield from _missing(tmpfs.mount, tmpfs.options, memory.get(tmpfs.mount, ()))
    yield from _missing("/boot", preset.boot.options, wishes.boot.options)
    yield from _missing("/boot/efi", preset.esp.options, wishes.esp.options)


def _missing(mount: str, asked: Options, options: Collection[str]) -> Iterator[Deviation]:
    for option, rules in asked.items():
        if option not in options:
            for rule in rules:
                yield Deviation(rule, mount, f"without {option}")


def _too_small(asked: PresetVolume, volume: VolumeWish) -> Iterator[Deviation]:
    if asked.least is not None and volume.minimum < asked.least.size:
        for rule in asked.least.rules:
            why = f"{render(volume.minimum)}, less than {render(asked.least.size)}"
            yield Deviation(rule, volume.mount, why)


def _merged(asked: PresetVolume, heir: VolumeWish) -> Iterator[Deviation]:
    for rule in asked.rules:
        yield Deviation(rule, asked.mount, f"no file system of its own, lies on {heir.mount}")
    yield from _missing(asked.mount, asked.options, heir.options)
    if isinstance(heir.size, int):  # a share or the rest is known when the disks are
        yield from _too_small(asked, heir)
