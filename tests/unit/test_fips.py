"""FIPS mode: what the plan says, which images can, and what the installed system starts with."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.checks.configure import ConfigureFits
from agent.errors import MachineError
from agent.plan.configure import Configure
from agent.resolve import resolve
from agent.steps.install_boot_loader import InstallBootLoader
from agent.target import fips
from agent.target.contents import Unpacked
from agent.target.dracut import SETTINGS, Dracut
from agent.target.initrd import missing
from agent.target.needs import Needs
from tests.unit.fakes import SERVER, FakeHost, plan, sample_manifest
from tests.unit.fakes_target import Bench, FakeMounts
from tests.unit.plan.plans import encrypted, problems_of, small
from tests.unit.target.archive import GENERIC
from tests.unit.target.sample import KERNEL, debian, layout
from tests.unit.test_sequence import step
from tests.unit.test_steps_target import configure

ON = Configure.model_validate({"fips": True})
NEEDS = Needs(mirror=False, encryption=False, tang=False, tpm2=False, kind="xfs")


def able(root: Path) -> None:
    """Add to a Debian tree what a distribution with a validated kernel has."""
    module = root / "usr/lib/dracut/modules.d/01fips"
    module.mkdir(parents=True)
    (module / "module-setup.sh").write_text("")
    (root / f"boot/.vmlinuz-{KERNEL}.hmac").write_text("0 /boot/vmlinuz")


# --- the plan


def test_the_kernel_option_alone_is_refused_with_what_to_write() -> None:
    (found,) = problems_of(small(configure={"kernel_options": ["fips=1"]}))
    assert found == (
        'configure.kernel_options[0]: "fips=1" is not enough by itself: write configure.fips: '
        "true, which asks the image whether it can start so"
    )


def test_where_the_kernel_lies_is_the_installation_s_to_say() -> None:
    (found,) = problems_of(small(configure={"kernel_options": ["boot=/dev/sda1"]}))
    assert "is the installation's to decide" in found


def test_disks_that_shall_not_be_fips_contradict_a_system_that_is() -> None:
    content = {**encrypted(fips=False), "configure": {"fips": True}}
    (found,) = problems_of(content)
    assert found == "encryption.fips: is false, and configure.fips is true: leave this out"
    assert problems_of({**encrypted(), "configure": {"fips": True}}) == []
    assert problems_of({**encrypted(fips=True), "configure": {"fips": True}}) == []


# --- which images can


def test_an_image_that_cannot_is_refused_by_all_that_it_lacks() -> None:
    found = [str(one) for one in ConfigureFits(sample_manifest(), ON).problems(None)]  # type: ignore[arg-type]
    assert len(found) == 2
    assert found[0].startswith("configure.fips: debian13 has no dracut/fips, which checks the kern")
    assert found[1].startswith("configure.fips: debian13 has no .vmlinuz-….hmac beside its kernel")


def test_an_image_of_initramfs_tools_is_refused(tmp_path: Path) -> None:
    tree = debian(tmp_path / "root")
    tree.remove("/usr/bin/dracut")
    first, *_ = fips.problems("ubuntu", Unpacked(tree))
    assert "ubuntu has no dracut: only its fips module checks the kernel" in first.message


@pytest.mark.parametrize("place", ["boot/.vmlinuz-{}.hmac", "usr/lib/modules/{}/.vmlinuz.hmac"])
def test_an_image_with_the_module_and_the_hmac_can(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    tree = debian(root)
    able(root)
    (root / f"boot/.vmlinuz-{KERNEL}.hmac").rename(root / place.format(KERNEL))
    assert not list(fips.problems("rhel9", Unpacked(tree)))


def test_a_plan_for_an_image_that_cannot_ends_before_the_first_write(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    now = datetime(2026, 11, 22, tzinfo=UTC)
    with pytest.raises(MachineError, match=r"configure\.fips: debian13 has no dracut/fips"):
        resolve(plan(configure={"fips": True}), SERVER, host.machine(), now, lambda *_: None)
    assert host.storage.calls == []


# --- what it starts with


def test_the_command_line_says_where_the_kernel_s_digest_lies() -> None:
    assert fips.options(layout()) == ("fips=1", f"boot={layout().boot.source}")


def decided(tmp_path: Path, **configure: Any) -> Any:
    """Return the order of a plan whose image can, by a manifest that says so."""
    host = FakeHost(tmp_path)
    manifest = sample_manifest()
    assert manifest.tree is not None
    more = {"dracut/fips": "/usr/lib/dracut/modules.d/01fips", "kernel-hmac": "/boot/.v.hmac"}
    tree = manifest.tree.model_copy(update={"programs": {**manifest.tree.programs, **more}})
    host.images.manifest = manifest.model_copy(update={"tree": tree})
    now = datetime(2026, 11, 22, tzinfo=UTC)
    found = resolve(plan(configure=configure), SERVER, host.machine(), now, lambda *_: None)
    return step(found, InstallBootLoader).options


def test_a_system_in_fips_mode_starts_with_it_and_any_other_without(tmp_path: Path) -> None:
    options = decided(tmp_path / "on", fips=True)
    assert "fips=1" in options
    (boot,) = (option for option in options if option.startswith("boot="))
    assert boot.startswith("boot=UUID=")
    off = decided(tmp_path / "off")
    assert not [option for option in off if option.startswith(("fips", "boot="))]


def test_dracut_puts_its_module_into_every_initrd() -> None:
    needs = Needs(**{**NEEDS.__dict__, "fips": True})
    (settings,) = Dracut().settings(needs)
    assert str(settings.path) == SETTINGS
    assert " fips " in settings.content.decode()
    (without,) = Dracut().settings(NEEDS)
    assert "fips" not in without.content.decode()


def test_an_initrd_without_the_module_is_not_taken() -> None:
    needs = Needs(**{**NEEDS.__dict__, "fips": True})
    generic = frozenset(GENERIC)
    assert "fips.sh" in missing(generic, frozenset(), needs)
    assert "fips.sh" not in missing(generic | {"usr/bin/fips.sh"}, frozenset(), needs)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of the tree get their owners")
def test_the_libraries_follow_where_the_image_has_policies(tmp_path: Path) -> None:
    root = tmp_path / "root"
    debian(root)
    bench = Bench(FakeMounts(tmp_path / "devices"))
    bench.target.programs["update-crypto-policies"] = lambda root, argv: None
    assert configure(root, bench, fips=True)["fips_policy"] is False
    (root / "usr/bin/update-crypto-policies").write_text("")
    assert configure(root, bench)["fips_policy"] is False
    assert configure(root, bench, fips=True)["fips_policy"] is True
    ran = [argv for argv in bench.target.ran if argv[0] == "update-crypto-policies"]
    assert ran == [("update-crypto-policies", "--no-reload", "--set", "FIPS")]
