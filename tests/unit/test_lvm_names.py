"""Mount points become names of logical volumes; what LVM would refuse is refused before it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import Problem
from agent.layout.lvm import LONGEST, mapper_path, name_problems, volume_name
from agent.layout.model import Layout
from agent.layout.whole import Whole
from agent.resolve import lay_out
from tests.unit.fakes import SERVER, plan

SMALL = "1 GiB"


def placed(*mounts: str, disks: int = 2, group: str = "vg0") -> Layout | list[Problem]:
    volumes = [{"mount": mount, "size": SMALL} for mount in mounts]
    storage = {"preset": "plain", "volumes": volumes, "volume_group": group}
    where = {"serial": ["SN1", "SN2"][:disks]}
    wanted = plan(None, storage=storage, disks={"count": disks, "where": where})
    found = lay_out(wanted, SERVER)
    assert not isinstance(found, Whole)
    return found


def refusals(*mounts: str, disks: int = 2, group: str = "vg0") -> list[str]:
    found = placed(*mounts, disks=disks, group=group)
    return [str(problem) for problem in found] if isinstance(found, list) else []


@pytest.mark.parametrize(
    ("mounts", "message"),
    [
        (("/root",), "/ and /root would both be the logical volume root"),
        (
            ("/var/log", "/var_log"),
            "/var/log and /var_log would both be the logical volume var_log",
        ),
        (("/snapshots",), "/snapshots would be the logical volume snapshots, a name that LVM"),
        (("/srv/x_tdata",), "/srv/x_tdata would be the logical volume srv_x_tdata, a name that"),
        (("/srv/a@b",), "srv_a@b, whose name may hold letters, digits, _ + . and -"),
        (("/-data",), "begins with no -"),
        (("/srv/" + "x" * 60,), f"whose name has 64 characters and may have {LONGEST}"),
        (("/boot/efi2",), "/boot/efi2 is where the ESP of disk 2 is"),
    ],
)
def test_a_volume_that_could_not_be_made_is_refused(mounts: tuple[str, ...], message: str) -> None:
    (found,) = refusals(*mounts)
    assert found.startswith("storage.volumes: ")
    assert message in found


def test_the_second_esps_place_is_free_on_a_single_disk() -> None:
    assert refusals("/boot/efi2", disks=1) == []


def test_a_volume_group_of_a_name_too_long_is_refused() -> None:
    (found,) = refusals(group="v" * 60)
    assert found == f"storage.volume_group: {'v' * 60} has 60 characters, the name may have 55"
    assert refusals(group="v" * LONGEST) == []


def test_every_bad_name_is_reported_and_the_sizes_with_them() -> None:
    volumes = [{"mount": "/root", "size": "1 TiB"}, {"mount": "/snapshot", "size": SMALL}]
    found = lay_out(plan(storage={"volumes": volumes}), SERVER)
    assert isinstance(found, list)
    assert [problem.message.split()[0] for problem in found] == ["/", "/snapshot", "need"]


parts = st.from_regex(r"[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,20}", fullmatch=True)


@given(st.lists(st.lists(parts, min_size=1, max_size=4).map("/".join), max_size=4, unique=True))
def test_what_is_not_refused_is_a_name_of_its_own_that_lvm_takes(mounts: list[str]) -> None:
    paths = ["/", *(f"/{mount}" for mount in mounts)]
    names = [volume_name(path) for path in paths]
    if list(name_problems("vg0", paths)):
        return
    assert len(set(names)) == len(names)
    # lvm(8): these characters, not first a dash; device-mapper names end at 127 characters.
    assert all(re.fullmatch(r"[A-Za-z0-9+_.][A-Za-z0-9+_.-]*", name) for name in names)
    assert all(len(mapper_path("vg0", name).name) <= 127 for name in names)
