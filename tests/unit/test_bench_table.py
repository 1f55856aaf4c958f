"""From costs to rows: the goals that were asked for, the bound, the wire, the changed package."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import plot, table
from tests.bench.document import BEGIN, END, number, rewrite
from tests.bench.document import table as markdown
from tests.bench.names import CURL, FILESYSTEMS, IMAGES, OURS, PIPE, STAGED, STAGES, TAR, ZSTD
from tests.bench.packages import file_names
from tests.bench.process import Cost
from tests.bench.rounds import Results
from tests.bench.rows import Figures, Row

MB = 1_000_000


def cost(wall: float = 1.0, cpu: float = 1.0, rss: int = 50 * MB, **said: float) -> Cost:
    return Cost(wall, cpu, cpu, rss, json.dumps(said))


def stage(cpu: float) -> Cost:
    """Return the cost of a stage, which tells by itself what it took without Python's start."""
    return Cost(1.0, cpu + 0.3, cpu + 0.3, 0, json.dumps({"cpu": cpu}))


def disk_results() -> Results:
    return Results(
        costs={
            OURS: [cost(2.0, 2.0)] * 5,
            "bmaptool 3.9.0-3": [cost(8.0)] * 5,
            PIPE: [cost(6.0, 4.0)] * 5,
            STAGED: [cost(9.0)] * 5,
            "desync 1.0.4-1": [cost(16.0)] * 5,
            "start": [cost(cpu=0.5), cost(cpu=0.4)],
            **{name: [stage(0.9), stage(0.65)] for name in STAGES if name != "start"},
        },
        missing={"ironic-python-agent": "pip: no such version"},
    )


def by_name(rows: list[Row], part: str) -> Row:
    (row,) = [row for row in rows if part in row.row]
    return row


def test_every_peer_of_the_disk_image_has_its_row_and_its_goal() -> None:
    rows = table.disk_rows(disk_results(), cores=2)
    assert [(row.goal, row.ratio, row.ok) for row in rows] == [
        (4.0, 4.0, True),
        (3.0, 3.0, True),
        (2.0, 2.0, True),
        (4.5, 4.5, True),
        (7.5, None, None),
        (8.0, 8.0, True),
        (0.75, 0.75, True),
    ]
    assert by_name(rows, "bmaptool").against == "bmaptool 3.9.0-3"
    assert by_name(rows, "CPU").unit == "CPU s"
    assert by_name(rows, "ironic").why == "pip: no such version"


def test_the_bound_takes_the_least_of_each_stage_so_that_noise_cannot_raise_it() -> None:
    # 0.4 to start and four stages of 0.65, on two cores
    assert table.bound(disk_results(), 2).middle == pytest.approx(1.5)
    assert table.bound(disk_results(), 1).middle == pytest.approx(3.0)


def test_without_one_stage_there_is_no_bound() -> None:
    results = disk_results()
    del results.costs["write"]
    results.missing["write"] = "exited with status 1"
    row = by_name(table.disk_rows(results, 2), "bound")
    assert (row.ok, row.why) == (None, "stage write: exited with status 1")


def test_the_wire_is_compared_in_bytes_that_crossed_it() -> None:
    results = Results(
        costs={
            OURS: [cost(wall=6.0, worked=5.0)],
            CURL: [cost(speed_download=120.0 * MB)],
        }
    )
    (row,) = table.wire_rows(results, 600 * MB)
    # 600 MB in 5 s; the second in which Python started is not the link's
    assert (row.ours, row.peer, row.ratio, row.ok) == (120.0, 120.0, 1.0, True)
    (slow,) = table.wire_rows(results, 560 * MB)
    assert slow.ok is False


def test_a_tree_needs_both_file_systems_and_little_memory_in_each() -> None:
    found = {
        kind: Results(
            costs={
                OURS: [cost(2.0, rss=(90 if kind == "xfs" else 110) * MB)],
                TAR: [cost(4.0)],
                "unsquashfs": [cost(3.0, rss=508 * MB)],
            }
        )
        for kind in FILESYSTEMS
    }
    rows = table.tree_rows(found)
    assert [row.ok for row in rows] == [True, True, False]
    assert rows[0].beside["unsquashfs of a local image, MB RSS"] == 508.0
    assert rows[2].ours == 110.0


def test_memory_is_judged_by_kind_and_by_size() -> None:
    peaks = dict(zip(IMAGES, (60, 66, 80, 100), strict=True))
    results = Results(costs={name: [cost(rss=peak * MB)] for name, peak in peaks.items()})
    rows = table.memory_rows(results)
    # 64 MiB are 67.1 MB; 60 and 66 are equal within 10 %, 80 and 100 are not
    assert [row.ok for row in rows] == [True, True, True, True, True, False]


def test_packing_must_not_be_slower() -> None:
    (row,) = table.pack_rows(Results(costs={OURS: [cost(10.1)], ZSTD: [cost(10.0)]}))
    assert (row.goal, row.ok) == (1.0, False)


@pytest.mark.parametrize(("new", "ok"), [(15.0, True), (15.1, False)])
def test_fifteen_percent_of_new_bytes_are_allowed(new: float, ok: bool) -> None:
    (row,) = table.repack_rows(Figures((new,)), Figures((100.0,)))
    assert row.ok is ok


def test_the_table_replaces_what_was_between_the_markers_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    rewrite(file, table.disk_rows(disk_results(), 2), "Measured today.")
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\nMeasured today.\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "not compared: pip: no such version" in text
    # One cell too many and the table is none: a name with a pipe in it is escaped.
    cells = [line.replace("\\|", "").count("|") for line in text.splitlines() if "|" in line]
    assert set(cells) == {7}


def test_a_document_without_markers_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text("nothing\n")
    with pytest.raises(ValueError, match="has no lines"):
        rewrite(file, [], "")
    assert file.read_text() == "nothing\n"


def test_what_is_missed_can_be_seen_in_table_and_plot() -> None:
    good, bad = table.repack_rows(Figures((1.0,)), Figures((100.0,))) + table.repack_rows(
        Figures((50.0,)), Figures((100.0,))
    )
    lines = markdown([good, bad]).splitlines()[2:]
    assert [line.endswith("| ok |") for line in lines] == [True, False]
    assert lines[1].endswith("| missed |")
    drawn = ElementTree.fromstring(plot.svg([good, bad], "Bedplate & peers"))
    bars = [each for each in drawn.iter() if each.get("x") == "400" and each.get("fill")]
    lengths = [float(bar.get("width", "")) for bar in bars]
    # twice as slow as asked is a short red bar; a hundred times is cut at the end of the axis
    assert lengths[0] == 330.0
    assert lengths[1] == pytest.approx(330.0 / 3 * 2 * 0.15, abs=0.1)
    assert bars[0].get("fill") != bars[1].get("fill")


def test_numbers_have_three_digits_that_matter() -> None:
    assert [number(x) for x in (2.6249, 12.345, 579.6, None)] == ["2.62", "12.3", "580", "–"]


def test_apt_names_files_by_package_version_and_architecture() -> None:
    said = (
        "NOTE: This is only a simulation!\n"
        "Inst base-files (13.8+deb13u1 Debian:13.7/stable [amd64])\n"
        "Inst libc6:amd64 [2.40-1] (1:2.41-12 Debian:13.7/stable [amd64]) []\n"
        "Inst git (1:2.47.3-0 Debian:13.7/stable, Debian-Security:13/stable [amd64])\n"
        "Conf git (1:2.47.3-0 Debian:13.7/stable [amd64])\n"
    )
    assert file_names(said) == [
        "base-files_13.8+deb13u1_amd64.deb",
        "libc6_1%3a2.41-12_amd64.deb",
        "git_1%3a2.47.3-0_amd64.deb",
    ]
