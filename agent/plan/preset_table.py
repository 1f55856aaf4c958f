"""A preset as rows: every mount point, its size, its options, and the rules behind each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.plan.preset import Options, Preset, PresetVolume
from agent.plan.size import render


@dataclass(frozen=True)
class Row:
    """One mount point; `rules` are `what: ids`, one for everything that a rule asks for."""

    mount: str
    size: str
    options: tuple[str, ...]
    rules: tuple[str, ...]


def table(preset: Preset) -> Iterator[Row]:
    """Yield the rows of a preset: volumes in the order of mounting, memory, partitions, others."""
    for volume in sorted(preset.volumes, key=lambda volume: volume.mount.strip("/").split("/")):
        yield Row(volume.mount, _size(volume), tuple(volume.options), tuple(_of_volume(volume)))
    for tmpfs in preset.tmpfs:
        own = tuple(_named("own file system", tmpfs.rules))
        yield Row(tmpfs.mount, "tmpfs", tuple(tmpfs.options), (*own, *_rules(tmpfs.options)))
    for partition in (preset.boot, preset.esp):
        size = f"{render(partition.size)}, {partition.filesystem} partition"
        rules = tuple(_rules(partition.options))
        yield Row(partition.mount, size, tuple(partition.options), rules)
    if preset.others:
        rules = tuple(_rules(preset.others))
        yield Row("any other", "as the plan says", tuple(preset.others), rules)


def _size(volume: PresetVolume) -> str:
    kind = f" {volume.filesystem}" if volume.filesystem else ""
    grows = ", or the rest" if volume.grow else ""
    asked = ", if the plan names it" if volume.optional else ""
    return f"{render(volume.size)}{kind}{grows}{asked}"


def _of_volume(volume: PresetVolume) -> Iterator[str]:
    yield from _named("own file system", volume.rules)
    if volume.least is not None:
        yield from _named(f"at least {render(volume.least.size)}", volume.least.rules)
    yield from _rules(volume.options)


def _rules(options: Options) -> Iterator[str]:
    for option, ids in options.items():
        yield from _named(option, ids)


def _named(what: str, ids: tuple[str, ...]) -> Iterator[str]:
    if ids:
        yield f"{what}: {', '.join(ids)}"
