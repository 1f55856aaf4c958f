"""Write what the image does not know about this host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar
from uuid import UUID

from agent.layout.model import Layout
from agent.machine import Machine, Progress
from agent.plan.configure import Configure
from agent.steps.base import Evidence, Json
from agent.target import fips, mdadm_conf, zram
from agent.target.accounts import account, authorize
from agent.target.cloud_init import cloud_init
from agent.target.contents import Unpacked
from agent.target.crypttab import crypttab
from agent.target.family import initrd_builder
from agent.target.fstab import fstab
from agent.target.host_network import host_network
from agent.target.identity import SSH_DIRECTORY, forget, identity
from agent.target.selinux import label_now, relabel_at_first_boot
from agent.target.tree import TargetFile, Tree

# The root of a fresh file system is 0755; where the image has no such directory it stays so.
PERMISSIONS = {"/tmp": 0o1777, "/var/tmp": 0o1777, "/var/log/audit": 0o700}  # noqa: S108
STUB_RESOLVER = "../run/systemd/resolve/stub-resolv.conf"


@dataclass(frozen=True)
class ConfigureHost:
    """Make this copy of the image this host's; its volumes are mounted at `root`."""

    root: Path
    layout: Layout
    hostname: str
    machine_id: UUID
    configure: Configure

    name: ClassVar[str] = "configure-host"
    unit: ClassVar[str] = "files"

    def describe(self) -> str:
        return f"Configure the host {self.hostname}: mounts, network, keys"

    def apply(self, machine: Machine, progress: Progress) -> Evidence:
        tree = Tree(self.root)
        forgotten = forget(tree)
        files = tuple(self._files(tree))
        for done, file in enumerate(files, start=1):
            tree.write(file)
            progress(done, len(files))
        self._set_permissions(tree)
        self._enable_network(tree, machine)
        self._enable_data(machine)
        data = [filesystem.mount for filesystem in self.layout.on_data]
        policy = self.configure.fips and fips.set_policy(tree, self.root, machine.target)
        authorized: dict[str, Json] = {
            name: authorize(tree, account(tree, name), keys)
            for name, keys in self.configure.ssh_authorized_keys.items()
        }
        return {
            "files": [str(file.path) for file in files],
            "authorized_keys": authorized,
            "not_taken_over": list(forgotten),
            "ssh_host_keys": self._make_host_keys(tree, machine),
            "selinux_relabel": relabel_at_first_boot(tree),
            "selinux_labelled": list(label_now(tree, self.root, machine.target, data)),
            "fips_policy": policy,
        }

    def _files(self, tree: Tree) -> Iterator[TargetFile]:
        yield from identity(self.hostname, self.machine_id)
        yield TargetFile.text("/etc/fstab", fstab(self.layout))
        builder = initrd_builder(Unpacked(tree))
        more = builder.crypttab_options if builder is not None else ()
        yield TargetFile.text("/etc/crypttab", crypttab(self.layout, more), 0o600)
        if self.layout.every_array:
            place = str(mdadm_conf.place(tree))
            yield TargetFile.text(place, mdadm_conf.mdadm_conf(self.layout))
        if self.layout.zram is not None:
            yield TargetFile.text(zram.PATH, zram.zram(self.layout.zram))
        seed = self.configure.cloud_init
        if seed is None or seed.network_config is None:
            yield from host_network(Unpacked(tree)).files(self.configure.network)
        yield from cloud_init(tree, seed, self.hostname, self.machine_id)
        for file in self.configure.files:
            yield TargetFile(PurePosixPath(file.path), file.content.encode(), file.permissions)

    def _set_permissions(self, tree: Tree) -> None:
        for filesystem in self.layout.filesystems:
            if filesystem.mount in PERMISSIONS:
                tree.directory(filesystem.mount, PERMISSIONS[filesystem.mount])

    def _enable_network(self, tree: Tree, machine: Machine) -> None:
        unit = host_network(Unpacked(tree)).unit
        self._enable(tree, machine, unit, "multi-user.target")
        servers = [str(server) for each in self.configure.network for server in each.dns]
        if Unpacked(tree).has("systemd-resolved"):
            self._enable(tree, machine, "systemd-resolved.service", "sysinit.target")
            tree.link("/etc/resolv.conf", STUB_RESOLVER)
        elif servers:
            tree.remove("/etc/resolv.conf")
            text = "".join(f"nameserver {server}\n" for server in servers)
            tree.write(TargetFile.text("/etc/resolv.conf", text))

    def _enable_data(self, machine: Machine) -> None:
        """Make sure that the running system opens and mounts data; most images have all enabled."""
        if any(one.luks is not None for one in self.layout.data):
            # What is marked _netdev hangs on the two targets.
            units = ("remote-fs.target", "remote-cryptsetup.target", "clevis-luks-askpass.path")
            machine.target.run(self.root, "systemctl", "enable", *units, timeout=120)

    def _enable(self, tree: Tree, machine: Machine, unit: str, target: str) -> None:
        if not tree.is_link(f"/etc/systemd/system/{target}.wants/{unit}"):
            machine.target.run(self.root, "systemctl", "enable", unit, timeout=120)

    def _make_host_keys(self, tree: Tree, machine: Machine) -> dict[str, Json]:
        """Make host keys here, so that the report can name them before anybody connects.

        Debian's sshd-keygen.service has ConditionFirstBoot=, which never holds where the machine id
        is there already.
        """
        if not Unpacked(tree).has("sshd"):
            return {}
        machine.target.run(self.root, "ssh-keygen", "-A", timeout=300)
        return {
            name: _fingerprint(tree.read(f"{SSH_DIRECTORY}/{name}"))
            for name in tree.names(SSH_DIRECTORY)
            if name.startswith("ssh_host_") and name.endswith(".pub")
        }


def _fingerprint(public_key: str) -> str:
    """Return the fingerprint as ssh(1) shows it when it connects for the first time."""
    digest = hashlib.sha256(base64.b64decode(public_key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
