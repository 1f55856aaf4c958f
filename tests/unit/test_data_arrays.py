"""Further disks for data: what a plan may ask, where it comes to lie, how it is opened."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.checks.disks import UniqueNames
from agent.errors import Problem
from agent.find import Found
from agent.inventory.model import Content, Disk, Marker
from agent.keyslots import INSTALL, RECOVERY, UNLOCK
from agent.layout.extents import GIB, MIB
from agent.layout.model import Layout, Luks
from agent.layout.picture import plain, tree
from agent.layout.place import Names
from agent.machine import Keyslot, PinAnswer
from agent.resolve import lay_out
from agent.secret import Secret
from agent.session import run
from agent.target import family
from agent.target.contents import Unpacked
from agent.target.crypttab import crypttab
from agent.target.fstab import fstab
from agent.target.kit.seal import kit
from agent.target.mdadm_conf import mdadm_conf
from agent.target.needs import Needs
from agent.target.os_release import OsRelease
from agent.target.selinux import label_now
from agent.target.tree import Tree
from tests.unit import fakes
from tests.unit.fakes import DISKS, SERVER, TANG, FakeHost, order, plan
from tests.unit.fakes_keys import FakeClevis, FakeKeys, advertisement
from tests.unit.fakes_target import FakeTarget
from tests.unit.plan import plans
from tests.unit.plan.plans import problems_of, small
from tests.unit.target.sample import debian

SYSTEM = {"count": 2, "where": {"serial": ["SN1", "SN2"]}}
BAYS = tuple(
    Disk(path=f"/dev/sd{letter}", serial=f"D{letter}", size=100 * GIB, transport="sas")
    for letter in "abcdef"
)
PGSQL = {"mount": "/var/lib/pgsql", "grow": True, "options": ["nodev", "nosuid"]}


def array(**changes: Any) -> dict[str, Any]:
    return {"name": "pgdata", "level": "raid10", "count": 4, "volumes": [PGSQL], **changes}


def storage(*arrays: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"preset": "stig-rhel9", "data": list(arrays), **more}


def laid(*arrays: dict[str, Any], disks: tuple[Disk, ...] = BAYS, **changes: Any) -> Any:
    machine = SERVER.model_copy(update={"disks": (*DISKS, *disks)})
    changes = {"disks": SYSTEM, "storage": storage(*arrays), **changes}
    return lay_out(plan(**changes), machine)


def layout(*arrays: dict[str, Any], **changes: Any) -> Layout:
    found = laid(*arrays, **{"disks": BAYS[: sum(one["count"] for one in arrays)], **changes})
    assert isinstance(found, Layout), found
    return found


def refusals(*arrays: dict[str, Any], **changes: Any) -> list[str]:
    found = laid(*arrays, **changes)
    assert not isinstance(found, Layout)
    return [str(problem) for problem in found]


# --- the plan


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"count": 3}, "count: raid10 needs 4 disks or more, count asks for 3: take raid1, or mor"),
        (
            {"level": "raid1", "count": 1},
            "count: raid1 needs 2 disks or more, count asks for 1: ta",
        ),
        ({"level": "single"}, "count: single is one disk, count asks for 4: take raid1 or raid10"),
        ({"level": "raid0"}, 'level: "raid0" is not supported yet by this version: use single or '),
        ({"level": "raid 10"}, 'level: "raid 10" is not one of single, raid1, raid10: did you me'),
        ({"name": "root"}, 'name: "root" is a name that the system uses itself: take another'),
        ({"name": "md127"}, 'name: "md127" is a name that the system uses itself: take another'),
        ({"name": "PG-data"}, 'name: "PG-data" is not a name: a letter, then up to 15 letters,'),
        ({"where": {"serial": ["A", "B"]}}, "where.serial: names 2 disk, count asks for 4"),
        ({"volumes": []}, "volumes: is empty: give at least one"),
        ({"keep": True}, "keep: is not supported yet by this version"),
        (
            {"volumes": [{"mount": "/var/log", "grow": True}]},
            "volumes[0].mount: /var/log is needed before disks of data are opened: leave it on the",
        ),
        (
            {"volumes": [{"mount": "/srv"}]},
            "volumes[0]: /srv has no size: give size or grow",
        ),
        (
            {"volumes": [{"mount": "/srv", "size": "60%"}, {"mount": "/opt", "size": "50%"}]},
            "volumes: the shares add up to 110%, there are 100%",
        ),
        (
            {"volumes": [{"mount": "/srv", "size": "20 MiB"}]},
            "volumes[0].size: 20 MiB is too small: xfs needs 300 MiB",
        ),
    ],
)
def test_a_wrong_array_is_refused_with_what_would_be_right(
    changes: dict[str, Any], problem: str
) -> None:
    (found,) = problems_of(small(storage={"data": [array(**changes)]}))
    assert found.startswith(f"storage.data[0].{problem}")


def test_a_mount_point_lies_in_one_place() -> None:
    twice = storage(
        array(),
        array(name="more"),
        volumes=[{"mount": "/srv", "size": "1 GiB"}],
        without=["/home"],
    )
    twice["data"][0]["volumes"] = [{"mount": "/home", "grow": True}, {"mount": "/srv", "grow": 1}]
    twice["data"][1]["volumes"] = [{"mount": "/srv", "grow": True}]
    assert problems_of(small(storage=twice)) == [
        "storage.data[0].volumes[0].mount: /home is in storage.without too: give one",
        "storage.data[0].volumes[1].mount: /srv is in storage.volumes too: give one",
        "storage.data[1].volumes[0].mount: /srv is in storage.data[0].volumes too: give one",
    ]


def test_a_volume_that_the_boot_needs_cannot_hang_on_data() -> None:
    inner = {"mount": "/var/lib/pgsql/conf", "size": "1 GiB"}
    (found,) = problems_of(small(storage={"data": [array()], "volumes": [inner]}))
    assert found == (
        "storage.volumes[0].mount: /var/lib/pgsql/conf would lie on /var/lib/pgsql, which is on "
        "disks of data: put it there too"
    )


def test_two_arrays_of_one_name_are_refused() -> None:
    other = array(volumes=[{"mount": "/srv", "grow": True}])
    (found,) = problems_of(small(storage={"data": [array(), other]}))
    assert found == "storage.data[1].name: pgdata is there twice"


# --- which disks


def test_the_disks_of_the_system_are_never_disks_of_data() -> None:
    (problem,) = refusals(array(), disks=BAYS[:3])
    assert problem.startswith("storage.data[0]: 3 match, the plan counts 4; this machine has\n")
    assert problem.count(": is a disk of the system") == 2
    assert problem.count(": matches") == 3


def test_a_disk_of_the_system_cannot_be_named_for_data() -> None:
    (problem,) = refusals(array(level="single", count=1, where={"serial": ["SN1"]}))
    assert "storage.data[0]: 0 match, the plan counts 1" in problem
    assert "serial SN1), 64.0 GiB: is a disk of the system" in problem


def test_a_second_path_to_a_disk_of_the_system_is_none_of_data() -> None:
    again = DISKS[1].model_copy(update={"path": "/dev/sdz"})
    (problem,) = refusals(array(level="single", count=1), disks=(again,))
    assert "/dev/sdz (no model, serial SN2), 64.0 GiB: is a disk of the system" in problem


def test_two_arrays_share_no_disk() -> None:
    mirror = array(name="wal", level="raid1", count=2, volumes=[{"mount": "/srv", "grow": True}])
    found = layout(array(where={"serial": ["Da", "Db", "Dc", "Dd"]}), mirror)
    serials = [[laid.disk.serial for laid in one.disks] for one in found.data]
    assert serials == [["Da", "Db", "Dc", "Dd"], ["De", "Df"]]


def test_foreign_data_on_them_is_refused_like_on_the_others() -> None:
    used = BAYS[2].model_copy(
        update={"content": (Content(device="/dev/sdc", kind="zfs_member", size=GIB),)}
    )
    (problem,) = refusals(array(), disks=(*BAYS[:2], used, BAYS[3]))
    assert problem.startswith("/dev/sdc (no model, serial Dc): holds foreign data (/dev/sdc: zfs")


def test_owned_disks_of_data_are_those_of_the_system_s_marker() -> None:
    before = UUID(int=77)
    marker = Marker(plan=before, hostname="db01", machine=SERVER.name, finished="2026-01-01")
    system = tuple(disk.model_copy(update={"marker": marker}) for disk in DISKS)

    def member(disk: Disk, machine: str) -> Disk:
        uuid = str(Names(before, machine).uuid("md/pgdata"))
        content = Content(
            device=f"{disk.path}1",
            kind="linux_raid_member",
            uuid=uuid,
            size=GIB,
            partition_name="bedplate-data",
        )
        return disk.model_copy(update={"content": (content,)})

    wanted = plan(disks={**SYSTEM, "erase": "owned"}, storage=storage(array()))
    for machine, count in ((SERVER.name, 0), ("another", 4)):
        bays = tuple(member(disk, machine) for disk in BAYS[:4])
        found = lay_out(wanted, SERVER.model_copy(update={"disks": (*system, *bays)}))
        refused: Any = [] if isinstance(found, Layout) else found
        assert len(refused) == count, machine
        assert all("erase: owned" in str(problem) for problem in refused)


# --- where it lies


@pytest.mark.parametrize(
    ("level", "count", "disks"),
    [("raid1", 2, 1), ("raid1", 3, 1), ("raid10", 4, 2), ("raid10", 5, 2.5)],
)
def test_an_array_holds_what_its_level_leaves(level: str, count: int, disks: float) -> None:
    (found,) = layout(array(level=level, count=count)).data
    assert found.array is not None
    assert found.array.size == found.array.component * disks
    assert found.array.metadata == "1.2"
    assert 99.5 * GIB < found.array.component < 100 * GIB
    (volume,) = found.group.volumes
    assert found.array.size - volume.size < 30 * MIB


def test_a_single_disk_of_data_has_no_array() -> None:
    (found,) = layout(array(level="single", count=1)).data
    assert found.array is None
    assert found.luks is not None
    assert found.luks.device == found.disks[0].partitions[0].path


def test_a_disk_too_small_for_data_is_named_with_both_sizes() -> None:
    small_one = BAYS[1].model_copy(update={"size": 512 * MIB})
    (problem,) = refusals(array(level="raid1", count=2), disks=(BAYS[0], small_one))
    assert problem == (
        "storage.data[0].where: /dev/sdb (no model, serial Db) has 512 MiB, data needs 1.0 GiB"
    )


def test_volumes_that_do_not_fit_say_so_with_the_array_s_place() -> None:
    large = {"mount": "/srv", "size": "150 GiB"}
    problems = refusals(array(level="raid1", count=2, volumes=[large]), disks=BAYS[:2])
    (problem,) = problems
    assert problem == (
        "storage.data[0].volumes: need 150.0 GiB together, the volume group has 99.9 GiB "
        "(the largest: /srv 150.0 GiB)"
    )


def test_problems_of_the_system_and_of_data_come_out_together() -> None:
    huge = {"volumes": [{"mount": "/srv", "size": "900 GiB"}]}
    problems = refusals(array(count=8), storage=storage(array(count=8), **huge))
    assert [problem.partition(":")[0] for problem in problems] == [
        "storage.volumes",
        "storage.data[0]",
    ]


def test_an_odd_raid10_is_laid_out_and_said() -> None:
    assert any(
        "RAID10 of 5, metadata 1.2, an odd number" in line for line in tree(layout(array(count=5)))
    )
    assert not any("odd number" in line for line in tree(layout(array())))


def test_a_preset_s_volume_keeps_its_options_and_rules_on_data() -> None:
    found = layout(array(volumes=[{"mount": "/home", "grow": True}]))
    (home,) = found.data[0].group.volumes
    assert home.filesystem.options == ("nodev", "nosuid", "noexec")
    assert "RHEL-09-231010" in home.rules
    assert found.deviations == ()
    assert "/home" not in {v.filesystem.mount for v in found.group.volumes}


def test_an_option_left_out_on_data_is_a_deviation() -> None:
    home = {"mount": "/home", "grow": True, "options": ["nodev", "nosuid"]}
    (told,) = layout(array(volumes=[home])).deviations
    assert told == "deviates from stig-rhel9: RHEL-09-231055 (/home: without noexec)"


# --- how the installed system finds it


def test_the_running_system_opens_data_by_the_network_and_may_miss_it() -> None:
    found = layout(array())
    root, data = crypttab(found, ("initramfs",)).splitlines()
    assert root.endswith("x-initrd.attach,initramfs")
    name, source, key, options = data.split()
    assert (name, key) == ("bedplate-pgdata", "none")
    assert source == f"UUID={found.data[0].luks.uuid}"  # type: ignore[union-attr]
    assert options.split(",") == [
        "luks", "discard", "_netdev", "nofail", "x-systemd.device-timeout=300s",
    ]  # fmt: skip


def test_a_spinning_disk_of_data_is_not_told_what_is_free() -> None:
    spinning = tuple(disk.model_copy(update={"rotational": True}) for disk in BAYS[:4])
    root, data = crypttab(layout(array(), disks=spinning)).splitlines()
    assert "discard" in root
    assert "discard" not in data


def test_a_boot_does_not_wait_for_data() -> None:
    lines = [line.split() for line in fstab(layout(array())).splitlines()]
    (line,) = (line for line in lines if line[1] == "/var/lib/pgsql")
    assert line[0] == "/dev/mapper/vg0_pgdata-var_lib_pgsql"
    assert {"nodev", "nosuid", "nofail", "_netdev"} <= set(line[3].split(","))
    (var,) = (line for line in lines if line[1] == "/var")
    assert "nofail" not in var[3]


def test_without_encryption_data_is_a_local_file_system() -> None:
    found = layout(array(), unlock=None)
    (line,) = (line for line in fstab(found).splitlines() if "/var/lib/pgsql" in line)
    assert "nofail" in line
    assert "_netdev" not in line
    assert crypttab(found) == ""


def test_every_array_is_in_mdadm_conf() -> None:
    found = layout(array())
    (line,) = (line for line in mdadm_conf(found).splitlines() if "/dev/md/pgdata" in line)
    assert line == f"ARRAY /dev/md/pgdata metadata=1.2 UUID={found.data[0].array.mdadm_uuid}"  # type: ignore[union-attr]


def test_the_initrd_of_a_single_disk_needs_no_md_but_the_image_does() -> None:
    one = {"count": 1, "where": {"serial": ["SN1"]}}
    machine = SERVER.model_copy(update={"disks": (*DISKS, *BAYS[:4])})
    wanted = array(where={"transport": "sas"})
    found = lay_out(plan(disks=one, storage=storage(wanted)), machine)
    assert isinstance(found, Layout)
    needs = Needs.of(found, None)
    assert (needs.mirror, needs.arrays, needs.encrypted_data) == (False, True, True)


@pytest.mark.parametrize("data", [True, False])
def test_initramfs_tools_needs_systemd_s_units_only_for_data(tmp_path: Path, data: bool) -> None:
    tree = debian(tmp_path / "root")
    tree.remove("/usr/bin/dracut")
    tree.remove("/usr/lib/systemd/system/clevis-luks-askpass.path")
    (tree.root / "usr/bin/update-initramfs").write_text("")
    needs = Needs(
        mirror=False, encryption=True, tang=True, tpm2=False, kind="xfs", encrypted_data=data
    )
    system = OsRelease(id="debian")
    found = [str(one) for one in family.problems("img", Unpacked(tree), system, needs, "x86_64")]
    assert any("clevis-askpass, which unlocks at boot" in one for one in found) is data


def test_the_first_boot_seals_data_too() -> None:
    wanted = plan(disks=SYSTEM, storage=storage(array()))
    found = layout(array())
    servers = [advertisement(TANG, plans.THUMBPRINT)]
    files = {file.path.name: file.content for file in kit(wanted, "CZ1234", found, servers).files}
    config = json.loads(files["seal.json"])
    luks = found.data[0].luks
    assert luks is not None
    assert config["further"] == [f"/dev/disk/by-uuid/{luks.uuid}"]
    alone = replace(found, data=())
    files = {file.path.name: file.content for file in kit(wanted, "CZ1234", alone, servers).files}
    assert "further" not in json.loads(files["seal.json"])


def test_the_layout_as_data_has_what_the_tree_shows() -> None:
    (told,) = plain(layout(array()))["data"]
    assert (told["name"], told["level"], len(told["disks"])) == ("pgdata", "raid10", 4)
    assert told["arrays"][0]["level"] == "raid10"
    assert told["volumes"][0]["mount"] == "/var/lib/pgsql"
    assert told["luks"]["mapping"] == "bedplate-pgdata"


# --- the whole run


@dataclass
class Headers:
    """One header for each encrypted device, as `FakeKeys` keeps one."""

    of: dict[Path, FakeKeys] = field(default_factory=lambda: defaultdict(lambda: FakeKeys({})))

    def add(self, device: Path, *, existing: Secret, new: Secret, slot: int) -> None:
        self.of[device].add(device, existing=existing, new=new, slot=slot)

    def opens(self, device: Path, key: Secret, slot: int | None = None) -> bool:
        return self.of[device].opens(device, key, slot)

    def kill(self, device: Path, slot: int, *, other: Secret) -> None:
        self.of[device].kill(device, slot, other=other)

    def keyslots(self, device: Path) -> tuple[Keyslot, ...]:
        return self.of[device].keyslots(device)

    def room(self, device: Path) -> int:
        return self.of[device].room(device)


@dataclass
class Bindings:
    headers: Headers

    def bind(self, device: Path, *, existing: Secret, slot: int, config: str) -> None:
        FakeClevis(self.headers.of[device]).bind(
            device, existing=existing, slot=slot, config=config
        )

    def unlock(self, device: Path, slot: int) -> Secret:
        return FakeClevis(self.headers.of[device]).unlock(device, slot)

    def answers(self, device: Path, slot: int) -> tuple[PinAnswer, ...]:
        return FakeClevis(self.headers.of[device]).answers(device, slot)


@dataclass
class ManyVolumes(fakes.HostStorage):
    headers: Headers = field(default_factory=Headers)

    def encrypt(self, luks: Luks, key: Secret) -> None:
        super().encrypt(luks, key)
        self.headers.of[luks.device].slots = {INSTALL: key}


@pytest.fixture
def ran(tmp_path: Path) -> tuple[FakeHost, Headers]:
    """A machine with four disks of data, installed."""
    machine = SERVER.model_copy(update={"disks": (*DISKS, *BAYS[:4])})
    host = FakeHost(tmp_path, machine)
    headers = Headers()
    host.keys, host.clevis = headers, Bindings(headers)  # type: ignore[assignment]
    host.storage = ManyVolumes(host.storage.disks, headers=headers)
    host.kernel, host.mounts.storage = host.storage.kernel, host.storage
    host.firmware.storage = host.storage
    content = order(disks=SYSTEM, storage=storage(array()))
    run(lambda _: Found("a test", content), host, host.reporter, lambda order: None)
    return host, headers


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files get their owners")


@needs_root
def test_every_volume_ends_with_its_recovery_key_and_its_binding(
    ran: tuple[FakeHost, Headers],
) -> None:
    _, headers = ran
    assert len(headers.of) == 2
    for header in headers.of.values():
        assert set(header.slots) == {RECOVERY, UNLOCK}
    recovery = [header.slots[RECOVERY].text for header in headers.of.values()]
    assert len(set(recovery)) == 2, "each volume has a key of its own"


@needs_root
def test_every_recovery_key_goes_into_an_envelope_of_its_own(
    ran: tuple[FakeHost, Headers],
) -> None:
    host, _ = ran
    assert len(set(host.receiver.envelopes)) == 2
    report: Any = host.receiver.events[-1].evidence["report"]
    proofs = report["proofs"]
    assert proofs["prove-unlock-pgdata"]["unlock"] == "proven"
    assert proofs["remove-install-key-pgdata"]["keyslots"] == {"1": "passphrase", "2": "clevis"}
    assert proofs["mirror-disks"]["arrays"][2]["level"] == "raid10"
    assert set(proofs["prove-target"]["mirrors"]) == {"boot", "root", "pgdata"}


@needs_root
def test_the_installed_system_is_told_to_open_data(ran: tuple[FakeHost, Headers]) -> None:
    host, _ = ran
    assert "bedplate-pgdata" in (host.root / "etc/crypttab").read_text()
    enabled = [argv for argv in host.target.ran if "clevis-luks-askpass.path" in argv]
    units = ("remote-fs.target", "remote-cryptsetup.target", "clevis-luks-askpass.path")
    assert enabled == [("systemctl", "enable", *units)]


def test_what_is_on_another_disk_may_not_share_names_with_data() -> None:
    found = layout(array())
    other = Disk(
        path="/dev/sdx",
        size=GIB,
        volume_groups=("vg0_pgdata",),
        content=(
            Content(device="/dev/sdx1", kind="linux_raid_member", label="old:pgdata", size=GIB),
        ),
    )
    problems: list[Problem] = list(UniqueNames(found, (other,)).problems(None))  # type: ignore[arg-type]
    assert len(problems) == 2
    assert any("volume group vg0_pgdata too" in problem.message for problem in problems)
    assert any("md array named pgdata" in problem.message for problem in problems)


# --- SELinux: the relabelling of the first boot comes before data is mounted


def with_policy(root: Path, mode: str) -> Tree:
    tree = debian(root)
    for path, text in {
        "etc/selinux/config": f"SELINUX={mode}\nSELINUXTYPE=mls\n",
        "etc/selinux/mls/contexts/files/file_contexts": "/.* system_u:object_r:default_t:s0\n",
        "usr/sbin/setfiles": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return tree


@pytest.mark.parametrize(("mode", "done"), [("enforcing", 1), ("permissive", 1), ("disabled", 0)])
def test_what_an_image_has_on_data_is_labelled_where_there_is_a_policy(
    tmp_path: Path, mode: str, done: int
) -> None:
    tree = with_policy(tmp_path / "root", mode)
    target = FakeTarget({"setfiles": lambda root, argv: None})
    labelled = label_now(tree, tree.root, target, ["/var/lib/pgsql"])
    assert labelled == ("/var/lib/pgsql",) * done
    contexts = "/etc/selinux/mls/contexts/files/file_contexts"
    assert target.ran == [("setfiles", "-F", contexts, "/var/lib/pgsql")] * done
    assert label_now(tree, tree.root, target, []) == ()


def test_without_setfiles_nothing_is_run(tmp_path: Path) -> None:
    tree = with_policy(tmp_path / "root", "enforcing")
    tree.remove("/usr/sbin/setfiles")
    target = FakeTarget()
    assert label_now(tree, tree.root, target, ["/srv"]) == ()
    assert target.ran == []
