"""The hooks of a kernel's package, run by dpkg in an installed tree: no machine, and so in minutes.

The tree is the sample with its package manager, set up by the agent's own code; the two ESPs are
file systems of their own (tmpfs), in a mount namespace that ends with the test. Where the release
has one kernel only (Debian testing), the ESPs are without it and its package is configured again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.target import cpio
from agent.target.boot import Host
from agent.target.boot_loader import boot_loader
from agent.target.contents import Unpacked
from agent.target.dracut import Dracut
from agent.target.esp import Esp
from agent.target.initrd import builtin_modules
from agent.target.kernel_options import kernel_options
from agent.target.kit.esp_sync import kit
from agent.target.needs import Needs
from agent.target.os_release import os_release
from agent.target.tree import TargetFile, Tree
from qemu.program import repository
from qemu.site import FAMILIES
from tests.families.families import Family
from tests.unit.target.sample import MACHINE_ID, layout

NEEDS = Needs(mirror=True, encryption=True, tang=True, tpm2=True, kind="xfs")
LAYOUT = layout()
OPTIONS = kernel_options(Dracut().kernel_options(LAYOUT), MACHINE_ID, (), ("console=ttyS0",))
ESPS = ("efi", "efi2")
PATHS = "/usr/sbin:/usr/bin:/sbin:/bin"
# bootctl looks for a FAT partition otherwise, and without that check takes any /efi, which Debian
# testing has as an empty directory (systemd, docs/ENVIRONMENT).
INSIDE = f"env -i PATH={PATHS} SYSTEMD_RELAX_ESP_CHECKS=1 SYSTEMD_ESP_PATH=/boot/efi"
UPDATE = f"""
set -e
cd "$TREE"
for esp in efi efi2; do
    mount -t tmpfs esp boot/$esp
    cp -r ../$esp/. boot/$esp
done
for place in proc sys dev; do mount --rbind /$place $place; done
chroot . {INSIDE} sh -euc "$PACKAGE"
for esp in efi efi2; do
    rm -r ../$esp
    cp -r boot/$esp ../$esp
done
"""


@dataclass(frozen=True)
class Updated:
    """Both ESPs after the update; `kernel` is the version whose package was installed."""

    tree: Tree
    esps: tuple[Path, Path]
    kernel: str
    before: str


@pytest.fixture(scope="module", params=("bookworm", "trixie", "testing"))
def updated(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Updated]:
    family = Family(request.param, "systemd-boot")
    built = repository() / "build" / FAMILIES[family.image][0]
    place = tmp_path_factory.mktemp(str(family))
    tree = Tree(place / "tree")
    tree.root.mkdir()
    run(f"zstd -dc {built}/debian.tar.zst | tar --extract --numeric-owner -C {tree.root}")
    esps = (place / "efi", place / "efi2")
    [came_with] = Unpacked(tree).kernels()
    install(tree, esps)
    if family.kernel.exists():
        named = run(f"dpkg-deb --field {family.kernel} Package").strip()
        shutil.copyfile(family.kernel, tree.root / "var/tmp/kernel.deb")
        package = "dpkg --install /var/tmp/kernel.deb"
    else:
        named = f"linux-image-{came_with.version}"
        for esp in esps:
            shutil.rmtree(esp / "loader/entries")
            shutil.rmtree(esp / MACHINE_ID.hex)
        tree.remove(f"/boot/initrd.img-{came_with.version}")
        package = f"DPKG_MAINTSCRIPT_PACKAGE={named} /var/lib/dpkg/info/{named}.postinst configure"
    environment = {"TREE": str(tree.root), "PACKAGE": package}
    run(f"unshare --mount --propagation private sh -c '{UPDATE}'", **environment)
    yield Updated(tree, esps, named.removeprefix("linux-image-"), came_with.version)
    shutil.rmtree(place)  # half a gigabyte


def install(tree: Tree, esps: tuple[Path, ...]) -> None:
    """Do what the steps of an installation do to the tree and to its ESPs."""
    host = Host(os_release(tree), MACHINE_ID, OPTIONS, LAYOUT.boot.uuid)
    loader = boot_loader(Unpacked(tree), host.os)
    tree.write(TargetFile.text("/etc/machine-id", f"{MACHINE_ID.hex}\n", 0o444))
    for file in (*Dracut().settings(NEEDS), *loader.settings(tree, host, "/boot/efi")):
        tree.write(file)
    kit(LAYOUT).write(tree)
    boot = loader.boot(tree, host, Unpacked(tree).kernels())
    for esp in esps:
        tree.directory(f"/boot/{esp.name}", 0o755)
        for copy in (*boot.copies, *loader.loaders(tree)):
            Esp(esp).copy(tree, copy)
        for path, text in boot.texts:
            Esp(esp).write(path, text)


def run(command: str, **environment: str) -> str:
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def entry(updated: Updated, version: str) -> dict[str, str]:
    path = updated.esps[0] / f"loader/entries/{MACHINE_ID.hex}-{version}.conf"
    lines = [line.split(None, 1) for line in path.read_text().splitlines() if line[:1] != "#"]
    found = {key: value.strip() for key, value in lines}
    assert len(found) == len(lines)  # initrd may stand there twice (Boot Loader Specification)
    return found


def test_both_esps_are_equal_and_have_both_kernels(updated: Updated) -> None:
    first, second = (Esp(place).digests() for place in updated.esps)
    assert first == second
    for version in (updated.before, updated.kernel):
        assert f"{MACHINE_ID.hex}/{version}/linux" in first


def test_the_new_entry_starts_this_host_with_files_that_are_there(updated: Updated) -> None:
    old, new = entry(updated, updated.before), entry(updated, updated.kernel)
    assert new["options"] == old["options"] == " ".join(OPTIONS)
    for kind in ("linux", "initrd"):
        assert (updated.esps[1] / new[kind].lstrip("/")).stat().st_size > 1 << 20
        assert new[kind].replace(updated.kernel, updated.before) == old[kind]


def test_the_loader_prefers_the_new_kernel(updated: Updated) -> None:
    """It sorts by sort-key and machine-id, and then by version, newest first (systemd-boot(7))."""
    old, new = entry(updated, updated.before), entry(updated, updated.kernel)
    assert (new["sort-key"], new["machine-id"]) == (old["sort-key"], old["machine-id"])
    order = run(f"printf '%s\\n' {new['version']} {old['version']} | sort -V").split()
    assert order == [updated.before, updated.kernel]


def test_the_new_initrd_can_start_this_machine(updated: Updated) -> None:
    """Built by the package's own hook from the settings that were left for it."""
    new = entry(updated, updated.kernel)
    names = cpio.names(updated.esps[0] / new["initrd"].lstrip("/"))
    builtin = builtin_modules(updated.tree, updated.kernel)
    assert Dracut().lacks(names, builtin, NEEDS) == ()
