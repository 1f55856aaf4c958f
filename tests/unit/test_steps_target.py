"""The steps that turn a written tree into this host's system, on fakes that keep their state."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.errors import StepError
from agent.layout.model import Layout
from agent.machine import BootEntry, MirrorState
from agent.plan.configure import Configure
from agent.plan.size import Percent
from agent.steps.base import Measured, Step
from agent.steps.build_initrd import BuildInitrd
from agent.steps.configure_host import ConfigureHost
from agent.steps.install_boot_loader import InstallBootLoader
from agent.steps.install_first_boot_kit import InstallFirstBootKit
from agent.steps.make_bootable import MakeBootable
from agent.steps.prove_target import ProveTarget
from agent.target import marker
from agent.target.kit.esp_sync import kit
from agent.target.needs import Needs
from tests.unit.fakes_target import Bench, FakeFirmware, FakeMounts, whole_mirrors
from tests.unit.target.archive import GENERIC, newc
from tests.unit.target.distributions import RED_HAT, red_hat
from tests.unit.target.sample import KERNEL, MACHINE_ID, debian, layout, uuid
from tests.unit.target.unified import pe

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="files get their owners, which only root may do"
)

NEEDS = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
OPTIONS = ("root=/dev/mapper/vg0-root", "ro")
LOADERS = ("EFI/systemd/systemd-bootx64.efi", "EFI/BOOT/BOOTX64.EFI")
LAYOUT = layout()
KEY = (
    "ssh-ed25519 "
    + base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(32)).decode()
    + " me"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    place = tmp_path / "target"
    debian(place)
    return place


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(FakeMounts(tmp_path / "devices"))


def with_initrd(root: Path, names: tuple[str, ...] = GENERIC) -> None:
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(gzip.compress(newc(names)))


def files(place: Path) -> dict[str, bytes]:
    return {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file()
    }


# --- configure-host ---


def configure(root: Path, bench: Bench, chosen: Layout = LAYOUT, **given: Any) -> dict[str, Any]:
    bench.target.programs.setdefault("systemctl", lambda root, argv: None)
    step = ConfigureHost(
        root, chosen, "db01.example.com", MACHINE_ID, Configure.model_validate(given)
    )
    return dict(step.apply(bench.machine, bench.report))


def test_a_host_gets_its_mounts_its_name_and_what_the_plan_brings(root: Path, bench: Bench) -> None:
    configure(
        root,
        bench,
        files=[{"path": "/etc/motd", "mode": "0640", "content": "authorised use only\n"}],
        ssh_authorized_keys={"root": [KEY]},
    )
    assert (root / "etc/hostname").read_text() == "db01.example.com\n"
    assert "/var/log/audit xfs nodev,nosuid,noexec" in (root / "etc/fstab").read_text()
    assert "ARRAY /dev/md/root" in (root / "etc/mdadm/mdadm.conf").read_text()
    assert (root / "etc/crypttab").stat().st_mode & 0o777 == 0o600
    assert (root / "etc/motd").read_text() == "authorised use only\n"
    assert (root / "etc/motd").stat().st_mode & 0o777 == 0o640
    assert (root / "root/.ssh/authorized_keys").read_text() == f"{KEY}\n"
    assert (root / "etc/systemd/network/10-bedplate-0.network").exists()
    assert (root / "etc/resolv.conf").readlink() == Path("../run/systemd/resolve/stub-resolv.conf")
    assert bench.progress[-1][0] == bench.progress[-1][1]


def test_swap_in_memory_is_set_up_where_the_plan_asks_for_it(root: Path, bench: Bench) -> None:
    conf = root / "etc/systemd/zram-generator.conf"
    configure(root, bench)
    assert not conf.exists()
    configure(root, bench, replace(LAYOUT, zram=Percent(Decimal("12.5"))))
    assert conf.read_text().endswith("[zram0]\nzram-size = ram * 12.5 / 100\n")
    configure(root, bench, replace(LAYOUT, zram=4 << 30))
    assert conf.read_text().endswith("zram-size = 4096\n")


def test_mount_points_have_the_modes_their_use_demands(root: Path, bench: Bench) -> None:
    configure(root, bench)
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "var/log/audit").stat().st_mode & 0o7777 == 0o700


def test_network_units_are_enabled_once(root: Path, bench: Bench) -> None:
    configure(root, bench)
    assert bench.target.ran == [
        ("systemctl", "enable", "systemd-networkd.service"),
        ("systemctl", "enable", "systemd-resolved.service"),
    ]
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "systemd-networkd.service").symlink_to("/usr/lib/systemd/system/x.service")
    bench.target.ran.clear()
    configure(root, bench)
    assert bench.target.ran == [("systemctl", "enable", "systemd-resolved.service")]


def test_without_a_resolver_the_name_servers_are_written_down(root: Path, bench: Bench) -> None:
    (root / "usr/lib/systemd/systemd-resolved").unlink()
    (root / "etc/resolv.conf").symlink_to("../run/nowhere")
    network = [{"match": {"name": "eno1"}, "dhcp": True, "dns": ["192.0.2.53"]}]
    configure(root, bench, network=network)
    assert (root / "etc/resolv.conf").read_text() == "nameserver 192.0.2.53\n"
    assert not (root / "run/nowhere").exists()


def test_host_keys_of_the_image_are_replaced_and_the_new_ones_reported(
    root: Path, bench: Bench
) -> None:
    blob = b"the public half"

    def keygen(tree: Path, argv: tuple[str, ...]) -> None:
        assert argv == ("ssh-keygen", "-A")
        ssh = tree / "etc/ssh"
        assert not (ssh / "ssh_host_ed25519_key").exists(), "the image's key is still there"
        (ssh / "ssh_host_ed25519_key").write_text("private")
        text = f"ssh-ed25519 {base64.b64encode(blob).decode()} root@target\n"
        (ssh / "ssh_host_ed25519_key.pub").write_text(text)

    (root / "etc/ssh").mkdir()
    (root / "etc/ssh/ssh_host_ed25519_key").write_text("shared by every copy of the image")
    (root / "usr/sbin").mkdir()
    (root / "usr/sbin/sshd").write_text("")
    bench.target.programs["ssh-keygen"] = keygen
    evidence = configure(root, bench)
    fingerprint = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    assert evidence["ssh_host_keys"] == {"ssh_host_ed25519_key.pub": f"SHA256:{fingerprint}"}
    assert evidence["not_taken_over"] == ["/etc/ssh/ssh_host_ed25519_key"]
    assert "private" not in str(evidence)


def test_without_sshd_no_host_keys_are_made(root: Path, bench: Bench) -> None:
    assert configure(root, bench)["ssh_host_keys"] == {}


def test_an_account_the_image_lacks_is_a_named_failure(root: Path, bench: Bench) -> None:
    with pytest.raises(StepError, match="the image has no account ops"):
        configure(root, bench, ssh_authorized_keys={"ops": [KEY]})


def test_an_image_with_selinux_is_relabelled_at_its_first_boot(root: Path, bench: Bench) -> None:
    assert configure(root, bench)["selinux_relabel"] is False
    (root / "etc/selinux").mkdir()
    (root / "etc/selinux/config").write_text("SELINUX=enforcing\n")
    assert configure(root, bench)["selinux_relabel"] is True
    assert (root / ".autorelabel").exists()


def test_a_plain_disk_has_no_mirror_and_an_empty_crypttab(root: Path, bench: Bench) -> None:
    configure(root, bench, layout(disks=1, encrypted=False))
    assert not (root / "etc/mdadm/mdadm.conf").exists()
    assert (root / "etc/crypttab").read_text() == ""


# --- build-initrd ---


def dracut(names: tuple[str, ...]) -> Callable[[Path, tuple[str, ...]], None]:
    def build(tree: Path, argv: tuple[str, ...]) -> None:
        assert argv[1:5] == ("--force", "--no-hostonly", "--kver", KERNEL)
        (tree / argv[5].lstrip("/")).write_bytes(newc(names))

    return build


def test_a_generic_initrd_of_the_image_is_taken_without_running_dracut(
    root: Path, bench: Bench
) -> None:
    with_initrd(root)
    evidence = BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)
    assert evidence == {KERNEL: {"initrd": f"/boot/initrd.img-{KERNEL}", "built": False}}
    assert bench.target.ran == []
    assert 'hostonly="no"' in (root / "etc/dracut.conf.d/90-bedplate.conf").read_text()


@pytest.mark.parametrize(
    ("given", "because"),
    [
        (None, "has no initrd"),
        (tuple(n for n in GENERIC if "clevis" not in n), "lacks clevis-luks-askpass"),
        ((*GENERIC, "usr/lib/dracut/hostonly-files"), "lacks the drivers"),
    ],
)
def test_an_initrd_that_cannot_start_this_machine_is_built_anew(
    root: Path, bench: Bench, given: tuple[str, ...] | None, because: str
) -> None:
    if given is not None:
        with_initrd(root, given)
    bench.target.programs["dracut"] = dracut(GENERIC)
    evidence = BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)
    shown = evidence[KERNEL]
    assert isinstance(shown, dict)
    assert shown["built"] is True
    assert str(shown["because"]).startswith(because)
    assert (root / f"boot/initrd.img-{KERNEL}").read_bytes() == newc(GENERIC)


def test_an_initrd_without_the_bond_that_reaches_tang_is_built_anew_and_so_are_later_ones(
    root: Path, bench: Bench
) -> None:
    modules = tuple(f"usr/lib/modules/{KERNEL}/{name}.ko.xz" for name in ("bonding", "8021q"))
    bond = "etc/systemd/network/10-bedplate-bond0.netdev"
    needs = replace(NEEDS, links=("bond0",), link_files=(f"/{bond}",))
    with_initrd(root, (*GENERIC, *modules))
    bench.target.programs["dracut"] = dracut((*GENERIC, *modules, bond))
    evidence = BuildInitrd(root, needs).apply(bench.machine, bench.report)
    assert "lacks the network of the plan: bond0" in str(evidence[KERNEL])
    settings = (root / "etc/dracut.conf.d/90-bedplate.conf").read_text()
    assert f'install_items+=" /{bond} "\n' in settings
    assert 'add_drivers+=" bonding 8021q "\n' in settings
    again = BuildInitrd(root, needs).apply(bench.machine, bench.report)
    assert again[KERNEL] == {"initrd": f"/boot/initrd.img-{KERNEL}", "built": False}
    with_initrd(root, (*GENERIC, bond))
    third = BuildInitrd(root, needs).apply(bench.machine, bench.report)
    assert "lacks module bonding, module 8021q" in str(third[KERNEL])


def test_a_damaged_initrd_is_built_anew(root: Path, bench: Bench) -> None:
    (root / f"boot/initrd.img-{KERNEL}").write_bytes(gzip.compress(newc(GENERIC))[:-40])
    bench.target.programs["dracut"] = dracut(GENERIC)
    evidence = BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)
    assert "not an initrd that can be read" in str(evidence[KERNEL])


def test_what_dracut_built_is_looked_at_too(root: Path, bench: Bench) -> None:
    bench.target.programs["dracut"] = dracut(GENERIC[1:])
    with pytest.raises(StepError, match=r"dracut built it, and it lacks lvm$"):
        BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)


def test_an_unfit_initrd_without_dracut_is_a_named_failure(root: Path, bench: Bench) -> None:
    (root / "usr/bin/dracut").unlink()
    with_initrd(root, GENERIC[1:])
    with pytest.raises(StepError, match="lacks lvm, and the image has no dracut"):
        BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)


def test_the_initrd_of_a_unified_kernel_image_is_looked_at_and_taken(
    root: Path, bench: Bench
) -> None:
    (root / "usr/bin/dracut").unlink()
    place = root / "boot/EFI/Linux/debian.efi"
    place.parent.mkdir(parents=True)
    place.write_bytes(pe([(".uname", KERNEL.encode()), (".initrd", newc(GENERIC))]))
    evidence = BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)
    assert evidence[KERNEL] == {
        "initrd": f"/boot/initrd.img-{KERNEL}",
        "built": False,
        "from": "/boot/EFI/Linux/debian.efi",
    }
    assert (root / f"boot/initrd.img-{KERNEL}").read_bytes() == newc(GENERIC)
    (root / f"boot/initrd.img-{KERNEL}").unlink()
    place.write_bytes(pe([(".uname", KERNEL.encode()), (".initrd", newc(GENERIC[1:]))]))
    with pytest.raises(StepError, match="lacks lvm, and the image has no dracut"):
        BuildInitrd(root, NEEDS).apply(bench.machine, bench.report)


def test_a_tree_without_a_kernel_is_a_named_failure(tmp_path: Path, bench: Bench) -> None:
    debian(tmp_path / "target", kernels=())
    with pytest.raises(StepError, match="no kernel"):
        BuildInitrd(tmp_path / "target", NEEDS).apply(bench.machine, bench.report)


# --- install-boot-loader, prove-target, make-bootable ---


def loaded(root: Path, bench: Bench, chosen: Layout = LAYOUT) -> InstallBootLoader:
    with_initrd(root)
    step = InstallBootLoader(root, chosen, MACHINE_ID, OPTIONS)
    step.apply(bench.machine, bench.report)
    return step


def prove(root: Path, bench: Bench, chosen: Layout = LAYOUT) -> dict[str, Any]:
    step = ProveTarget(root, chosen, MACHINE_ID, OPTIONS)
    return dict(step.apply(bench.machine, bench.report))


def last(root: Path, chosen: Layout = LAYOUT) -> MakeBootable:
    return MakeBootable(root, chosen, uuid(7), "db01", "CZ1")


def test_both_esps_hold_kernel_initrd_and_entry_and_nothing_starts_yet(
    root: Path, bench: Bench
) -> None:
    loaded(root, bench)
    one, two = (files(bench.mounts.of(esp)) for esp in LAYOUT.esps)
    directory = f"{MACHINE_ID.hex}/{KERNEL}"
    assert one == two
    assert one.keys() == {
        f"{directory}/linux",
        f"{directory}/initrd.img-{KERNEL}",
        f"loader/entries/{MACHINE_ID.hex}-{KERNEL}.conf",
        "loader/loader.conf",
    }
    assert one[f"{directory}/linux"] == f"kernel {KERNEL}".encode()
    assert b"editor no" in one["loader/loader.conf"]
    assert b"options    root=/dev/mapper/vg0-root ro\n" in next(
        text for path, text in one.items() if path.startswith("loader/entries")
    )
    assert bench.mounts.mounted_now == []
    assert bench.progress[-1][0] == bench.progress[-1][1] > 0


def test_later_kernels_will_be_installed_alike(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    assert (root / "etc/kernel/cmdline").read_text() == "root=/dev/mapper/vg0-root ro\n"
    assert "BOOT_ROOT=/boot/efi\n" in (root / "etc/kernel/install.conf").read_text()


def test_every_kernel_of_the_image_gets_an_entry(tmp_path: Path, bench: Bench) -> None:
    root = tmp_path / "two"
    debian(root, kernels=("6.11", "6.12"))
    for version in ("6.11", "6.12"):
        (root / f"boot/initrd.img-{version}").write_bytes(newc(GENERIC))
    step = InstallBootLoader(root, LAYOUT, MACHINE_ID, OPTIONS)
    evidence = step.apply(bench.machine, bench.report)
    assert evidence["entries"] == [
        f"loader/entries/{MACHINE_ID.hex}-{version}.conf" for version in ("6.11", "6.12")
    ]


def test_a_kernel_without_an_initrd_is_not_made_an_entry(root: Path, bench: Bench) -> None:
    with pytest.raises(StepError, match="has no initrd"):
        InstallBootLoader(root, LAYOUT, MACHINE_ID, OPTIONS).apply(bench.machine, bench.report)


def test_a_whole_installation_is_proven_with_evidence(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    bench.kernel.states = whole_mirrors(LAYOUT)
    evidence = prove(root, bench)
    assert evidence["mirrors"] == {
        "boot": {"active": 2, "sync": "frozen"},
        "root": {"active": 2, "sync": "frozen"},
    }
    assert evidence["esp_files"] == 4
    assert len(evidence["esp_digest"]) == 64
    assert "no errors" in evidence["fstab"]


def test_a_single_disk_is_proven_without_mirrors(root: Path, bench: Bench) -> None:
    single = layout(disks=1)
    loaded(root, bench, single)
    assert prove(root, bench, single)["mirrors"] == {}


def test_esps_that_differ_are_named_by_file_and_disk(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    bench.kernel.states = whole_mirrors(LAYOUT)
    (bench.mounts.of(LAYOUT.esps[1]) / "loader/loader.conf").write_text("editor yes\n")
    with pytest.raises(StepError, match=r"loader/loader\.conf: is different on the ESP of disk 2"):
        prove(root, bench)


def test_a_file_missing_on_one_esp_or_on_all_is_named(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    bench.kernel.states = whole_mirrors(LAYOUT)
    (bench.mounts.of(LAYOUT.esps[1]) / "loader/loader.conf").unlink()
    with pytest.raises(StepError, match=r"is missing on the ESP of disk 2"):
        prove(root, bench)
    (bench.mounts.of(LAYOUT.esps[0]) / "loader/loader.conf").unlink()
    with pytest.raises(StepError, match=r"/boot/efi/loader/loader\.conf: is missing"):
        prove(root, bench)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ((), "/dev/md/boot: is not running"),
        (
            (MirrorState("boot", 2, 2, "idle"), MirrorState("root", 2, 1, "idle")),
            "/dev/md/root: 1 of 2 members are active",
        ),
    ],
)
def test_a_mirror_that_is_not_whole_is_named(
    root: Path, bench: Bench, states: tuple[MirrorState, ...], message: str
) -> None:
    loaded(root, bench)
    bench.kernel.states = states
    with pytest.raises(StepError, match=message):
        prove(root, bench)


def test_an_fstab_that_findmnt_refuses_is_a_failure(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    bench.kernel.states = whole_mirrors(LAYOUT)
    bench.mounts.fstab_verdict = "0 parse errors, 1 errors, 0 warnings"
    with pytest.raises(StepError, match="findmnt --verify"):
        prove(root, bench)


def test_at_the_end_both_disks_start_and_say_so(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    evidence = last(root).apply(bench.machine, bench.report)
    one, two = (files(bench.mounts.of(esp)) for esp in LAYOUT.esps)
    assert one == two
    assert all(one[path] == b"MZ loader" for path in LOADERS)
    done = marker.parse(one[marker.PATH])
    assert done is not None
    assert (done.plan, done.hostname, done.machine) == (uuid(7), "db01", "CZ1")
    assert done.finished == evidence["finished"]
    assert [entry.label for entry in bench.firmware.order] == [
        "Debian GNU/Linux 13 (disk 1, SN1)",
        "Debian GNU/Linux 13 (disk 2, SN2)",
    ]
    assert bench.firmware.created == [
        (
            f"Debian GNU/Linux 13 (disk {n}, SN{n})",
            Path(f"/dev/vd{'ab'[n - 1]}"),
            1,
            "\\EFI\\systemd\\systemd-bootx64.efi",
        )
        for n in (2, 1)
    ]
    assert bench.mounts.mounted_now == []


def test_entries_of_these_disks_from_before_are_gone_and_others_are_kept(
    root: Path, bench: Bench
) -> None:
    loaded(root, bench)
    before, pulled = str(uuid(3333)), str(uuid(4444))
    first, *others = LAYOUT.disks
    had = replace(first, disk=first.disk.model_copy(update={"partitions": (before,)}))
    step = last(root, replace(LAYOUT, disks=(had, *others)))
    ours = str(LAYOUT.disks[0].partitions[0].partuuid)
    bench.firmware.order = [
        BootEntry("0000", "UiApp", None),
        BootEntry("0001", "debian", before),
        BootEntry("0002", "Windows on a disk that was pulled", pulled),
        BootEntry("0003", "Debian GNU/Linux 12 (disk 2, SN2)", pulled),
        BootEntry("0004", "the same plan, broken off", ours),
        BootEntry("0005", "UEFI PXEv4", None),
        BootEntry("0006", "Debian GNU/Linux 12 (disk 2, SN22)", pulled),
    ]
    evidence = step.apply(bench.machine, bench.report)
    assert evidence["entries_removed"] == [
        "debian",
        "Debian GNU/Linux 12 (disk 2, SN2)",
        "the same plan, broken off",
    ]
    assert [entry.label for entry in bench.firmware.order][2:] == [
        "UiApp",
        "Windows on a disk that was pulled",
        "UEFI PXEv4",
        "Debian GNU/Linux 12 (disk 2, SN22)",
    ]


def test_firmware_without_room_leaves_disks_that_do_not_start(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    bench.firmware = FakeFirmware(full=True)
    with pytest.raises(StepError, match="No space left"):
        last(root).apply(bench.machine, bench.report)
    for esp in LAYOUT.esps:
        assert not [path for path in files(bench.mounts.of(esp)) if path.startswith("EFI")]


def test_a_second_esp_that_cannot_be_written_makes_no_disk_start(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    (bench.mounts.of(LAYOUT.esps[1]) / "EFI").write_text("in the way")
    with pytest.raises(StepError, match="EFI"):
        last(root).apply(bench.machine, bench.report)
    assert not [path for path in files(bench.mounts.of(LAYOUT.esps[0])) if path.startswith("EFI")]
    assert bench.mounts.mounted_now == []


def test_esps_that_are_not_equal_in_the_end_make_no_disk_start(root: Path, bench: Bench) -> None:
    loaded(root, bench)
    (bench.mounts.of(LAYOUT.esps[1]) / "stray").write_text("x")
    with pytest.raises(StepError, match="stray: is missing"):
        last(root).apply(bench.machine, bench.report)
    for esp in LAYOUT.esps:
        assert not [path for path in files(bench.mounts.of(esp)) if path.startswith("EFI")]


def test_a_disk_without_a_serial_is_named_by_its_wwn(root: Path, bench: Bench) -> None:
    single = layout(disks=1)
    anonymous = replace(
        single.disks[0],
        disk=single.disks[0].disk.model_copy(update={"serial": None, "wwn": "0x5000c5"}),
    )
    loaded(root, bench, single)
    last(root, replace(single, disks=(anonymous,))).apply(bench.machine, bench.report)
    assert bench.firmware.order[0].label == "Debian GNU/Linux 13 (disk 1, 0x5000c5)"


# --- install-first-boot-kit ---


def test_the_kit_is_written_with_its_units_enabled(root: Path, bench: Bench) -> None:
    step = InstallFirstBootKit(root, kit(LAYOUT))
    evidence = step.apply(bench.machine, bench.report)
    assert evidence["units"] == ["bedplate-esp-sync.service", "bedplate-esp-sync.path"]
    assert (root / "usr/local/sbin/bedplate-esp-sync").stat().st_mode & 0o111
    assert "bedplate-esp-sync.path" in step.describe()


def test_every_step_says_what_it_is_in_one_line(root: Path) -> None:
    steps: list[Step] = [
        ConfigureHost(root, LAYOUT, "db01", MACHINE_ID, Configure()),
        BuildInitrd(root, NEEDS),
        InstallBootLoader(root, LAYOUT, MACHINE_ID, OPTIONS),
        InstallFirstBootKit(root, kit(LAYOUT)),
        ProveTarget(root, LAYOUT, MACHINE_ID, OPTIONS),
        last(root),
    ]
    assert [step.name for step in steps] == [
        "configure-host",
        "build-initrd",
        "install-boot-loader",
        "install-first-boot-kit",
        "prove-target",
        "make-bootable",
    ]
    for step in steps:
        assert step.describe()
        assert "\n" not in step.describe()
        assert isinstance(step, Measured)


def test_loaders_that_lie_below_the_mount_point_of_an_esp_reach_every_esp(
    tmp_path: Path, bench: Bench
) -> None:
    """RHEL's packages unpack shim and GRUB into /boot/efi; an ESP that is mounted hides them."""
    root = tmp_path / "rhel"
    red_hat(root)

    def write_menu(tree: Path, argv: tuple[str, ...]) -> None:
        (tree / argv[2].lstrip("/")).write_text("blscfg\n")

    bench.target.programs["grub2-editenv"] = lambda tree, argv: None
    bench.target.programs["grub2-mkconfig"] = write_menu
    InstallBootLoader(root, LAYOUT, MACHINE_ID, OPTIONS).apply(bench.machine, bench.report)
    bench.kernel.states = whole_mirrors(LAYOUT)
    prove(root, bench)
    evidence = last(root).apply(bench.machine, bench.report)
    assert str(evidence["boot_entries"]).count("disk ") == 2
    assert {made[3] for made in bench.firmware.created} == {r"\EFI\redhat\shimx64.efi"}
    one, two = (files(bench.mounts.of(esp)) for esp in LAYOUT.esps)
    assert one == two
    assert one["EFI/redhat/shimx64.efi"] == one["EFI/BOOT/BOOTX64.EFI"] == b"shim"
    assert one["EFI/redhat/grubx64.efi"] == one["EFI/BOOT/grubx64.efi"] == b"GRUB"
    assert one["EFI/redhat/grub.cfg"] == one["EFI/BOOT/grub.cfg"]
    assert not [path for path in one if RED_HAT in path], "kernels lie in /boot"
