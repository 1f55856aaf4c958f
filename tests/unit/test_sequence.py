"""The list of steps: its order, and that every step is complete before the first one runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent.layout.model import Role
from agent.resolve import Order, resolve
from agent.secret import Secret
from agent.steps.add_recovery_key import AddRecoveryKey
from agent.steps.bind_unlock import BindUnlock
from agent.steps.encrypt_root import EncryptRoot
from agent.steps.install_boot_loader import InstallBootLoader
from agent.steps.install_first_boot_kit import InstallFirstBootKit
from agent.steps.mount_target import MountTarget
from agent.steps.prove_unlock import ProveUnlock
from tests.unit.fakes import SERVER, TANG, TOKEN, FakeHost, plan
from tests.unit.plan import plans

EVERYTHING = [
    "clear-disks",
    "partition-disks",
    "mirror-disks",
    "encrypt-root",
    "make-volumes",
    "make-filesystems",
    "mount-target",
    "write-image",
    "configure-host",
    "build-initrd",
    "install-boot-loader",
    "install-first-boot-kit",
    "prove-target",
    "add-recovery-key",
    "bind-unlock",
    "prove-unlock",
    "escrow-recovery-key",
    "remove-install-key",
    "make-bootable",
    "close-target",
]
OF_ENCRYPTION = {
    "encrypt-root",
    "add-recovery-key",
    "bind-unlock",
    "prove-unlock",
    "escrow-recovery-key",
    "remove-install-key",
}


def decided(place: Path, **changes: Any) -> Order:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    machine = FakeHost(place).machine()
    return resolve(plan(**changes), SERVER, machine, now, lambda done, total: None)


def names(order: Order) -> list[str]:
    return [step.name for step in order.steps]


def step(order: Order, kind: type[Any]) -> Any:
    (found,) = (each for each in order.steps if isinstance(each, kind))
    return found


def test_the_steps_of_an_encrypted_mirror(tmp_path: Path) -> None:
    assert names(decided(tmp_path)) == EVERYTHING


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("clear-disks", "partition-disks"),
        ("mirror-disks", "encrypt-root"),
        ("mount-target", "write-image"),
        ("prove-target", "make-bootable"),
        ("prove-unlock", "remove-install-key"),
        ("escrow-recovery-key", "remove-install-key"),
        ("remove-install-key", "make-bootable"),
    ],
)
def test_what_a_step_relies_on_comes_before_it(tmp_path: Path, earlier: str, later: str) -> None:
    order = names(decided(tmp_path))
    assert order.index(earlier) < order.index(later)


def test_nothing_but_closing_comes_after_what_makes_the_disks_boot(tmp_path: Path) -> None:
    for changes in ({}, {"unlock": None}, {"disks": {"count": 1, "where": {"serial": ["SN1"]}}}):
        assert names(decided(tmp_path, **changes))[-2:] == ["make-bootable", "close-target"]


def test_without_encryption_there_is_no_step_of_keys(tmp_path: Path) -> None:
    order = names(decided(tmp_path, unlock=None))
    assert order == [name for name in EVERYTHING if name not in OF_ENCRYPTION]


def test_a_single_disk_is_not_mirrored(tmp_path: Path) -> None:
    one = {"count": 1, "where": {"serial": ["SN2"]}}
    order = decided(tmp_path, disks=one)
    assert names(order) == [name for name in EVERYTHING if name != "mirror-disks"]
    encrypt = step(order, EncryptRoot)
    assert encrypt.luks.device == order.layout.disks[0].partition(Role.ROOT).path


def test_every_step_says_in_one_line_what_it_will_do(tmp_path: Path) -> None:
    for each in decided(tmp_path).steps:
        line = each.describe()
        assert line.isprintable()
        assert line[0].isupper()
        assert not line.endswith(".")
    assert len(set(names(decided(tmp_path)))) == len(EVERYTHING)


def fields(step: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value in a step, however deep, with where it stands."""
    if dataclasses.is_dataclass(step):
        assert vars(type(step))["__dataclass_params__"].frozen, type(step)
        for each in dataclasses.fields(step):
            yield from fields(getattr(step, each.name), f"{path}.{each.name}")
    elif isinstance(step, tuple):
        for number, value in enumerate(step):
            yield from fields(value, f"{path}[{number}]")
    else:
        yield path, step


def test_every_step_is_complete_in_its_fields_and_nothing_can_change_them(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    order = resolve(plan(), SERVER, host.machine(), now, lambda done, total: None)
    before = [list(fields(each, each.name)) for each in order.steps]
    for path, value in (pair for each in before for pair in each):
        assert not isinstance(value, list | dict | set), f"{path} can be changed"
        # Files, programs and names of an image that has none of that are not to be filled in, nor
        # is swap that nobody asked for.
        absent = any(name in path for name in (".manifest", ".source", ".layout.zram"))
        assert value is not None or absent, f"{path} is open"
    for each in order.steps[:8]:
        each.apply(host.machine(), lambda done, total: None)
    assert [list(fields(each, each.name)) for each in order.steps] == before


def test_swap_is_made_with_the_file_systems_and_mounted_with_none(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    wanted = plan(storage={"swap": "1 GiB", "leave": "10%", "filesystem": "ext4"})
    order = resolve(
        wanted, SERVER, host.machine(), datetime(2026, 11, 22, tzinfo=UTC), lambda done, total: None
    )
    for each in order.steps:
        each.apply(host.machine(), lambda done, total: None)
        if each.name == "mount-target":
            break
    swap = Path("/dev/mapper/vg0-swap")
    assert host.storage.formats[swap][0] == "swap"
    assert host.storage.devices[swap] == 1 << 30
    assert swap not in [mounted.device for mounted in host.mounts.mounted_at.values()]


def test_all_steps_share_one_machine_id_one_layout_and_their_keys(tmp_path: Path) -> None:
    order = decided(tmp_path)
    assert len({each.machine_id for each in order.steps if hasattr(each, "machine_id")}) == 1
    assert {id(each.layout) for each in order.steps if hasattr(each, "layout")} == {
        id(order.layout)
    }
    assert len({each.install_key for each in order.steps if hasattr(each, "install_key")}) == 1
    assert step(order, EncryptRoot).key == step(order, AddRecoveryKey).install_key
    assert len({each.recovery_key for each in order.steps if hasattr(each, "recovery_key")}) == 1


def test_keys_and_machine_id_are_chosen_anew_for_every_run_and_uuids_are_not(
    tmp_path: Path,
) -> None:
    first, second = decided(tmp_path), decided(tmp_path)
    assert first.layout == second.layout
    assert _random(first).isdisjoint(_random(second))


def _random(order: Order) -> set[Secret | UUID]:
    keys = step(order, AddRecoveryKey)
    return {keys.install_key, keys.recovery_key, step(order, InstallBootLoader).machine_id}


def test_no_key_and_no_token_shows_in_a_step(tmp_path: Path) -> None:
    order = decided(tmp_path)
    keys = step(order, AddRecoveryKey)
    shown = repr(order) + "".join(each.describe() for each in order.steps)
    for secret in (keys.install_key.text, keys.recovery_key.text, TOKEN):
        assert secret not in shown


def test_the_esps_are_not_mounted_while_the_image_is_written(tmp_path: Path) -> None:
    order = decided(tmp_path)
    mounts = [filesystem.mount for filesystem in step(order, MountTarget).filesystems]
    assert mounts[0] == "/"
    assert "/boot" in mounts
    assert not [mount for mount in mounts if mount.startswith("/boot/efi")]


@pytest.mark.parametrize(
    ("unlock", "tpm2", "provisional"),
    [
        ("tpm2 and tang", {}, True),
        ("tpm2 and tang", {"tpm2": {"seal": "now"}}, False),
        ("tang", {}, False),
    ],
)
def test_only_a_tpm_that_is_sealed_later_makes_the_binding_provisional(
    tmp_path: Path, unlock: str, tpm2: dict[str, Any], provisional: bool
) -> None:
    section = plans.encrypted(unlock, **tpm2)["encryption"]
    section["tang"] = [{"url": TANG, "thumbprint": plans.THUMBPRINT}]
    order = decided(tmp_path, unlock=unlock, encryption=section)
    assert step(order, BindUnlock).provisional is provisional
    assert step(order, ProveUnlock).provisional is provisional
    units = [unit for _, unit in step(order, InstallFirstBootKit).kit.enabled]
    assert ("bedplate-seal.service" in units) is provisional


def test_only_a_server_whose_advertisement_came_with_the_plan_may_be_away(tmp_path: Path) -> None:
    away = "http://192.0.2.8:7500"
    section = plans.encrypted("tpm2 and 1 of tang")["encryption"]
    section["tang"] = [
        {"url": TANG, "thumbprint": plans.THUMBPRINT},
        {"url": away, "advertisement": plans.advertisement()},
    ]
    order = decided(tmp_path, encryption=section)
    assert step(order, ProveUnlock).unasked == (away,)
    assert [server.url for server in step(order, BindUnlock).servers] == [TANG, away]


def test_the_network_is_on_the_command_line_only_where_tang_is_asked(tmp_path: Path) -> None:
    def options(**changes: Any) -> str:
        return " ".join(step(decided(tmp_path, **changes), InstallBootLoader).options)

    assert "rd.neednet=1" in options()
    assert "rd.neednet=1" not in options(unlock="tpm2")
    assert "mitigations=auto" in options(configure={"kernel_options": ["mitigations=auto"]})
