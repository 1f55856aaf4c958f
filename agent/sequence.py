"""The list of steps of one installation, read from top to bottom.

Everything a step needs is chosen here: keys, machine id, UUIDs are in its fields before the first
step runs. An absent option is an absent step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

from agent.inventory.model import Inventory
from agent.layout.model import Layout, Luks, Role
from agent.machine import Advertisement
from agent.payload.contents import Tree
from agent.payload.described import Described
from agent.payload.fetch import Source
from agent.payload.layered import layered
from agent.pin import seals_on_first_boot
from agent.plan.model import Plan
from agent.secret import Secret
from agent.steps.add_recovery_key import AddRecoveryKey
from agent.steps.base import Step
from agent.steps.bind_unlock import BindUnlock
from agent.steps.build_initrd import BuildInitrd
from agent.steps.clear_disks import ClearDisks
from agent.steps.close_target import CloseTarget
from agent.steps.configure_host import ConfigureHost
from agent.steps.encrypt_root import EncryptRoot
from agent.steps.escrow_recovery_key import EscrowRecoveryKey
from agent.steps.install_boot_loader import InstallBootLoader
from agent.steps.install_first_boot_kit import InstallFirstBootKit
from agent.steps.make_bootable import MakeBootable
from agent.steps.make_filesystems import MakeFilesystems
from agent.steps.make_volumes import MakeVolumes
from agent.steps.mirror_disks import MirrorDisks
from agent.steps.mount_target import MountTarget
from agent.steps.partition_disks import PartitionDisks
from agent.steps.prove_target import ProveTarget
from agent.steps.prove_unlock import ProveUnlock
from agent.steps.remove_install_key import RemoveInstallKey
from agent.steps.write_image import WriteImage
from agent.target import fips
from agent.target.contents import Listed
from agent.target.dracut import Dracut
from agent.target.family import InitrdBuilder, initrd_builder
from agent.target.host_network import BY_NETWORKD, host_network
from agent.target.kernel_options import kernel_options
from agent.target.kit import Kit, esp_sync
from agent.target.kit.seal import kit as seal_kit
from agent.target.needs import Needs
from agent.target.networkd import links


@dataclass(frozen=True)
class Decided:
    """What the list is made from."""

    plan: Plan
    inventory: Inventory
    manifest: Described
    source: Source
    layout: Layout
    advertisements: tuple[Advertisement, ...]
    now: datetime
    root: Path
    """Where the new system is mounted while it is written."""
    authorities: bytes | None = None
    """PEM of the certificate authorities that the live image trusts, if not the system's."""
    overlays: tuple[tuple[Described, Source], ...] = ()
    """What is laid over the image, in this order."""

    @property
    def needs(self) -> Needs:
        encryption = self.plan.encryption
        needs = Needs.of(self.layout, encryption.unlock if encryption else None)
        configure = self.plan.configure
        needs = replace(needs, fips=configure.fips)
        if not needs.tang:
            return needs
        tree = self._tree
        chosen = host_network(Listed(tree)) if tree is not None else BY_NETWORKD
        files = chosen.in_initrd(configure.network)
        return replace(needs, links=links(configure.network), link_files=files)

    @property
    def _tree(self) -> Tree | None:
        """What will be in the installed system, None where nobody looked."""
        return layered(self.manifest, [overlay for overlay, _ in self.overlays]).tree

    def options(self, machine_id: UUID) -> tuple[str, ...]:
        """Return the kernel command line of the installed system."""
        configure = self.plan.configure
        names = {nic.mac: nic.name for nic in self.inventory.nics}
        builder = self._initrd_builder
        network = builder.network_options(configure.network, names) if self.needs.tang else ()
        root = builder.kernel_options(self.layout)
        extra = fips.options(self.layout) if configure.fips else ()
        return kernel_options(root, machine_id, network, (*extra, *configure.kernel_options))

    @property
    def _initrd_builder(self) -> InitrdBuilder:
        """What builds this image's initrds; what is built by none at all was built by dracut."""
        tree = self._tree
        return (initrd_builder(Listed(tree)) if tree is not None else None) or Dracut()


def sequence(decided: Decided) -> tuple[Step, ...]:
    """Return every step in its order."""
    plan, layout, root = decided.plan, decided.layout, decided.root
    machine_id = uuid4()
    keys = tuple(Keyring(luks) for luks in layout.every_luks)
    return (
        *_storage(layout, root, keys),
        WriteImage(decided.manifest, decided.source, root),
        *_overlays(decided),
        *_system(decided, machine_id),
        *(step for each in keys for step in _keys(decided, each)),
        MakeBootable(root, layout, plan.id, plan.hostname, decided.inventory.name),
        CloseTarget(root),
    )


@dataclass(frozen=True)
class Keyring:
    """The keys of one encrypted volume; each has its own."""

    luks: Luks
    install: Secret = field(default_factory=Secret.random)
    recovery: Secret = field(default_factory=Secret.typeable)

    @property
    def suffix(self) -> str:
        """What is added to the names of its steps: nothing for the system's."""
        name = self.luks.mapping.removeprefix("bedplate-")
        return "" if name == Role.ROOT.value else f"-{name}"


def _storage(layout: Layout, root: Path, keys: Sequence[Keyring]) -> Iterator[Step]:
    yield ClearDisks(tuple(laid.disk for laid in layout.every_disk))
    yield PartitionDisks(layout.every_disk)
    if layout.every_array:
        yield MirrorDisks(layout.every_array)
    for each in keys:
        yield EncryptRoot(each.luks, each.install, f"encrypt{each.suffix or '-root'}")
    yield MakeVolumes(layout.group)
    for one in layout.data:
        yield MakeVolumes(one.group, f"make-volumes-{one.name}")
    yield MakeFilesystems(layout.formatted)
    # The ESPs stay unmounted: vfat takes neither owners nor extended attributes of an archive.
    esps = set(layout.esps)
    yield MountTarget(tuple(fs for fs in layout.filesystems if fs not in esps), root)


def _overlays(decided: Decided) -> Iterator[Step]:
    for number, (overlay, source) in enumerate(decided.overlays, start=1):
        over = decided.manifest.name
        yield WriteImage(overlay, source, decided.root, f"write-overlay-{number}", over)


def _system(decided: Decided, machine_id: UUID) -> Iterator[Step]:
    """Yield what makes the image this host's, down to the boot entries; nothing boots yet."""
    plan, layout, root = decided.plan, decided.layout, decided.root
    options = decided.options(machine_id)
    yield ConfigureHost(root, layout, plan.hostname, machine_id, plan.configure)
    yield BuildInitrd(root, decided.needs)
    yield InstallBootLoader(root, layout, machine_id, options)
    yield InstallFirstBootKit(root, _kit(decided))
    yield ProveTarget(root, layout, machine_id, options)


def _kit(decided: Decided) -> Kit:
    return esp_sync.kit(decided.layout) + seal_kit(
        decided.plan,
        decided.inventory.name,
        decided.layout,
        decided.advertisements,
        decided.authorities,
    )


def _keys(decided: Decided, keys: Keyring) -> Iterator[Step]:
    """Yield how a volume gets its keys; the install key goes when all others are proven."""
    encryption, luks, suffix = decided.plan.encryption, keys.luks, keys.suffix
    if encryption is None:
        return
    install, recovery = keys.install, keys.recovery
    provisional = seals_on_first_boot(encryption)
    policy = encryption.unlock
    unasked = tuple(server.url for server in encryption.tang if server.advertisement is not None)
    yield AddRecoveryKey(luks.device, install, recovery, f"add-recovery-key{suffix}")
    yield BindUnlock(
        luks.device,
        install,
        policy,
        decided.advertisements,
        encryption.tpm2.pcrs,
        provisional,
        f"bind-unlock{suffix}",
    )
    yield ProveUnlock(luks.device, recovery, policy, unasked, provisional, f"prove-unlock{suffix}")
    yield EscrowRecoveryKey(
        luks=luks,
        recovery_key=recovery,
        certificates=encryption.recovery.escrow_to,
        hostname=decided.plan.hostname,
        machine_name=decided.inventory.name,
        plan=str(decided.plan.id),
        created=decided.now.isoformat(timespec="seconds"),
        name=f"escrow-recovery-key{suffix}",
    )
    yield RemoveInstallKey(luks.device, install, recovery, f"remove-install-key{suffix}")
