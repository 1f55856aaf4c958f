"""Presets, and what the plan makes of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings

from agent.plan.filesystem import SMALLEST
from agent.plan.model import Plan
from agent.plan.size import GiB, Percent
from agent.plan.wish import Grow, StorageWish, VolumeWish, wish
from tests.unit.plan.plans import encrypted, plans, small

# The options that the STIG asks for, as its own table has them (RHEL 9, V2R9).
STIG = {
    "/": set(),
    "/home": {"nodev", "nosuid", "noexec"},
    "/tmp": {"nodev", "nosuid", "noexec"},
    "/var": {"nodev"},
    "/var/log": {"nodev", "nosuid", "noexec"},
    "/var/log/audit": {"nodev", "nosuid", "noexec"},
    "/var/tmp": {"nodev", "nosuid", "noexec"},
}
STIG_RULES = {
    *(f"RHEL-09-2310{n}" for n in (10, 15, 20, 25, 30, 35, 45, 50, 55, 95)),
    *(f"RHEL-09-2311{n:02}" for n in range(0, 90, 5) if n != 90),
    "RHEL-09-231105",
    "RHEL-09-231200",
    "RHEL-09-653030",
}


def wished(*volumes: dict[str, Any], preset: str = "stig-rhel9", **storage: Any) -> StorageWish:
    """Return the wishes of an encrypted plan with these volumes."""
    section = {"preset": preset, "volumes": list(volumes), **storage}
    return wish(Plan.model_validate({**encrypted(), "storage": section}))


def volume_of(wishes: StorageWish, mount: str) -> VolumeWish:
    return next(volume for volume in wishes.volumes if volume.mount == mount)


def deviations_of(wishes: StorageWish) -> list[str]:
    return list(wishes.deviations)


def test_plain_is_one_volume_that_takes_all() -> None:
    wishes = wish(Plan.model_validate(small()))
    assert wishes.volumes == (VolumeWish("/", Grow(), 2 * GiB, "xfs"),)
    assert (wishes.tmpfs, wishes.boot.options, wishes.deviations) == ((), (), ())


def test_the_stig_preset_has_every_mount_with_every_option() -> None:
    wishes = wished()
    assert {volume.mount: set(volume.options) for volume in wishes.volumes} == STIG
    (shm,) = wishes.tmpfs
    assert (shm.mount, set(shm.options)) == ("/dev/shm", {"nodev", "nosuid", "noexec"})
    assert {"nodev", "nosuid"} <= set(wishes.boot.options) & set(wishes.esp.options)
    assert wishes.deviations == ()


def test_the_stig_preset_names_the_rules_that_it_meets() -> None:
    wishes = wished()
    rules = [volume.rules for volume in wishes.volumes] + [mount.rules for mount in wishes.tmpfs]
    met = {rule for each in [*rules, wishes.boot.rules, wishes.esp.rules] for rule in each}
    assert met == STIG_RULES


def test_the_plan_changes_what_it_names_and_nothing_else() -> None:
    before, after = wished(), wished({"mount": "/home", "size": "5 GiB", "filesystem": "ext4"})
    home = volume_of(after, "/home")
    assert (home.size, home.minimum, home.filesystem) == (5 * GiB, 5 * GiB, "ext4")
    assert home.options == volume_of(before, "/home").options
    assert [v for v in after.volumes if v.mount != "/home"] == [
        v for v in before.volumes if v.mount != "/home"
    ]


def test_the_volume_that_grows_in_the_plan_takes_the_place_of_the_presets() -> None:
    assert volume_of(wished(), "/var").size == Grow()
    wishes = wished({"mount": "/srv", "grow": True})
    assert volume_of(wishes, "/var").size == 4 * GiB
    assert volume_of(wishes, "/srv") == VolumeWish(
        "/srv", Grow(), SMALLEST["xfs"], "xfs", ("nodev",), ("RHEL-09-231200",)
    )


def test_a_size_for_the_growing_volume_leaves_the_rest_free() -> None:
    wishes = wished({"mount": "/var", "size": "20 GiB"})
    assert all(not isinstance(volume.size, Grow) for volume in wishes.volumes)


def test_a_growing_volume_has_at_least_what_the_preset_gives_it() -> None:
    audit = volume_of(wished({"mount": "/var/log/audit", "grow": True}), "/var/log/audit")
    assert (audit.size, audit.minimum) == (Grow(), 10 * GiB)
    assert "RHEL-09-653030" in audit.rules


def test_volumes_grow_by_weight_within_their_bounds() -> None:
    wishes = wished(
        {"mount": "/srv", "grow": 3, "min": "5 GiB", "max": "40%"},
        {"mount": "/home", "grow": True, "max": "2 GiB"},
        {"mount": "/var", "size": "10%", "min": "6 GiB"},
    )
    srv, home = volume_of(wishes, "/srv"), volume_of(wishes, "/home")
    assert (srv.size, srv.minimum, srv.maximum) == (Grow(3), 5 * GiB, Percent(Decimal(40)))
    assert (home.size, home.minimum, home.maximum) == (Grow(1), GiB, 2 * GiB)
    assert volume_of(wishes, "/var").minimum == 6 * GiB


def test_bounds_that_allow_less_than_a_rule_asks_for_break_it() -> None:
    for bound in ({"min": "5 GiB"}, {"max": "5 GiB"}):
        wishes = wished({"mount": "/var/log/audit", "grow": True, **bound})
        assert deviations_of(wishes) == [
            "deviates from stig-rhel9: RHEL-09-653030 (/var/log/audit: 5 GiB, less than 10 GiB)"
        ]


def test_a_share_must_come_to_what_a_rule_asks_for() -> None:
    audit = volume_of(wished({"mount": "/var/log/audit", "size": "20%"}), "/var/log/audit")
    assert (audit.size, audit.minimum) == (Percent(Decimal(20)), 10 * GiB)


def test_parents_come_before_what_is_mounted_in_them() -> None:
    wishes = wished(
        {"mount": "/var/lib/pgsql", "size": "5 GiB"}, {"mount": "/srv", "size": "5 GiB"}
    )
    mounts = [volume.mount for volume in wishes.volumes]
    assert mounts[0] == "/"
    assert mounts.index("/var") < mounts.index("/var/lib/pgsql")
    assert mounts.index("/var/log") < mounts.index("/var/log/audit")


@pytest.mark.parametrize(
    ("volume", "deviations"),
    [
        ({"mount": "/home", "options": ["noexec", "nosuid", "nodev", "noatime"]}, []),
        (
            {"mount": "/home", "options": ["nodev", "nosuid"]},
            ["deviates from stig-rhel9: RHEL-09-231055 (/home: without noexec)"],
        ),
        (
            {"mount": "/var", "options": []},
            [
                "deviates from stig-rhel9: RHEL-09-231140 (/var: without nodev)",
                "deviates from stig-rhel9: RHEL-09-231200 (/var: without nodev)",
            ],
        ),
        (
            {"mount": "/srv", "size": "5 GiB", "options": ["nosuid"]},
            ["deviates from stig-rhel9: RHEL-09-231200 (/srv: without nodev)"],
        ),
        ({"mount": "/srv", "size": "5 GiB"}, []),
        ({"mount": "/", "options": []}, []),
        (
            {"mount": "/var/log/audit", "size": "2 GiB"},
            ["deviates from stig-rhel9: RHEL-09-653030 (/var/log/audit: 2 GiB, less than 10 GiB)"],
        ),
        ({"mount": "/var/log/audit", "size": "11 GB"}, []),
    ],
)
def test_a_plan_that_weakens_the_preset_says_which_rules_it_breaks(
    volume: dict[str, Any], deviations: list[str]
) -> None:
    wishes = wished(volume)
    assert deviations_of(wishes) == deviations
    broken = {deviation.split()[3] for deviation in wishes.deviations}
    assert not broken & set(volume_of(wishes, volume["mount"]).rules)


@pytest.mark.parametrize(("size", "small"), [("4 GiB", True), ("12 GiB", False), ("9%", False)])
def test_what_is_merged_into_a_volume_asks_for_its_room_there(size: str, small: bool) -> None:
    storage = {
        "preset": "stig-rhel9",
        "without": ["/var/log/audit"],
        "volumes": [{"mount": "/var/log", "size": size}],
    }
    wishes = wish(Plan.model_validate({**encrypted(), "storage": storage}))
    assert "RHEL-09-231030 (/var/log/audit: no file system of its own" in str(wishes.deviations)
    told = "deviates from stig-rhel9: RHEL-09-653030 (/var/log: 4 GiB, less than 10 GiB)"
    assert (told in wishes.deviations) is small


def test_a_stig_plan_without_encryption_says_so() -> None:
    wishes = wish(Plan.model_validate(small(storage={"preset": "stig-rhel9"})))
    assert deviations_of(wishes) == [
        "deviates from stig-rhel9: RHEL-09-231190 (encryption: the disks are not encrypted)"
    ]


@settings(max_examples=30, deadline=None)
@given(plans)
def test_every_mount_of_the_preset_and_of_the_plan_is_wished_for_once(
    content: dict[str, Any],
) -> None:
    plan = Plan.model_validate(content)
    wishes = wish(plan)
    mounts = [volume.mount for volume in wishes.volumes]
    preset = plan.storage.preset
    asked = {v.mount for v in preset.volumes if not v.optional}
    asked |= {v.mount for v in plan.storage.volumes}
    assert len(mounts) == len(set(mounts))
    assert set(mounts) == asked
    growing = [volume for volume in plan.storage.volumes if volume.grow]
    grown = [volume for volume in wishes.volumes if isinstance(volume.size, Grow)]
    assert len(grown) == len(growing) or (not growing and len(grown) == 1)
    for volume in wishes.volumes:
        assert volume.minimum >= SMALLEST[volume.filesystem]
        assert not isinstance(volume.size, int) or volume.size >= volume.minimum
        assert not isinstance(volume.maximum, int) or volume.maximum >= volume.minimum
