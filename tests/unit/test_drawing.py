"""The picture of a layout: to scale, complete, and safe to show."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest

from agent.inventory.model import Disk
from agent.layout.drawing import MARGIN, WIDTH, drawing
from agent.layout.extents import GIB
from agent.layout.model import Layout
from agent.resolve import lay_out
from tests.unit.fakes import DISKS, SERVER, plan

SVG = "{http://www.w3.org/2000/svg}"


def laid_out(*disks: Disk) -> Layout:
    layout = lay_out(plan(), SERVER.model_copy(update={"disks": disks or DISKS}))
    assert isinstance(layout, Layout)
    return layout


def bars(text: str) -> dict[str, list[tuple[float, float]]]:
    """Return left edge and width of the bars by what their tooltips begin with."""
    found: dict[str, list[tuple[float, float]]] = {}
    for group in ElementTree.fromstring(text).iter(f"{SVG}g"):
        title, rect = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert rect is not None
        name = (title.text or "").partition(":")[0]
        found.setdefault(name, []).append((float(rect.attrib["x"]), float(rect.attrib["width"])))
    return found


def test_everything_of_the_layout_is_in_the_picture() -> None:
    layout = laid_out()
    found = bars(drawing(layout, "db01"))
    for volume in layout.group.volumes:
        assert len(found[volume.filesystem.mount]) == 1
    assert len(found["esp"]) == len(found["boot"]) == len(found["root"]) == 2
    assert {"boot mirror", "root mirror", "LUKS2"} <= found.keys()


def test_bars_are_to_scale_and_the_largest_disk_fills_the_width() -> None:
    small, large = DISKS[0], DISKS[1].model_copy(update={"size": 128 * GIB})
    layout = laid_out(small, large)
    found = bars(drawing(layout, "db01"))
    widths = sorted(width for disk in (small, large) for _, width in found[disk.path])
    assert widths == pytest.approx([(WIDTH - 2 * MARGIN) / 2, WIDTH - 2 * MARGIN])
    scale = widths[1] / large.size
    for volume in layout.group.volumes:
        ((_, width),) = found[volume.filesystem.mount]
        assert width == pytest.approx(volume.size * scale, abs=0.01)


def test_a_sliver_is_still_seen() -> None:
    giant = tuple(disk.model_copy(update={"size": 32 << 40}) for disk in DISKS)
    found = bars(drawing(laid_out(*giant), "db01"))
    assert all(width >= 1 for places in found.values() for _, width in places)


def test_volumes_lie_side_by_side_over_the_root_partition() -> None:
    layout = laid_out()
    found = bars(drawing(layout, "db01"))
    places = sorted(found[v.filesystem.mount][0] for v in layout.group.volumes)
    for (left, width), (following, _) in itertools.pairwise(places):
        assert left + width == pytest.approx(following, abs=0.02)
    assert places[0][0] == pytest.approx(found["root"][0][0], abs=0.01)


def test_a_hostile_model_name_stays_text() -> None:
    evil = DISKS[0].model_copy(update={"model": '<script>alert("1")</script>'})
    text = drawing(laid_out(evil, DISKS[1]), '"><script>')
    assert "<script" not in text
    assert not re.search(r"\bon\w+=", text)
    ElementTree.fromstring(text)
