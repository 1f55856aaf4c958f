"""What the resolved plan needs of the installed system: the questions every family is asked."""

from __future__ import annotations

from dataclasses import dataclass

from agent.layout.model import Layout
from agent.plan.unlock import Policy


@dataclass(frozen=True)
class Needs:
    """`kind` is the file system of /, which the initrd mounts."""

    mirror: bool
    encryption: bool
    tang: bool
    tpm2: bool
    kind: str
    zram: bool = False
    btrfs: bool = False
    """Any volume, / or another."""
    arrays: bool = False
    """Any array, of the system's disks or of data: the running system looks after it."""
    encrypted_data: bool = False
    """Something that the running system opens, and not the initrd."""
    fips: bool = False
    """FIPS mode: the initrd checks the kernel."""
    links: tuple[str, ...] = ()
    """Names of the bonds and VLANs that the initrd brings up to reach Tang."""
    link_files: tuple[str, ...] = ()
    """Paths of what systemd-networkd makes them of, where it does."""

    @property
    def link_modules(self) -> tuple[str, ...]:
        """The kernel modules of bonds and VLANs."""
        return ("bonding", "8021q") if self.links else ()

    @classmethod
    def of(cls, layout: Layout, policy: Policy | None) -> Needs:
        """Return the needs of a layout that is opened by `policy`, None without encryption."""
        return cls(
            mirror=layout.mirrored,
            encryption=layout.luks is not None,
            tang=policy is not None and policy.tang > 0,
            tpm2=policy is not None and policy.tpm2,
            kind=layout.root.kind,
            zram=layout.zram is not None,
            btrfs=any(filesystem.kind == "btrfs" for filesystem in layout.filesystems),
            arrays=bool(layout.every_array),
            encrypted_data=any(one.luks is not None for one in layout.data),
        )
