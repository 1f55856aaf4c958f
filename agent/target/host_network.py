"""Choose what brings up the network of the installed system, by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.plan.network import Interface
from agent.target.contents import Contents
from agent.target.network_manager import network_manager
from agent.target.networkd import DIRECTORY, links, networkd
from agent.target.tree import TargetFile


@dataclass(frozen=True)
class HostNetwork:
    """Its unit, and how the plan's network is written for it."""

    unit: str
    files: Callable[[Sequence[Interface]], tuple[TargetFile, ...]]

    def in_initrd(self, network: Sequence[Interface]) -> tuple[str, ...]:
        """Return the paths of what an initrd needs for bonds and VLANs, beside kernel options."""
        if self.files is not networkd or not links(network):
            return ()
        paths = (str(file.path) for file in networkd(network))
        return tuple(path for path in paths if path.startswith(f"{DIRECTORY}/"))


BY_NETWORKD = HostNetwork("systemd-networkd.service", networkd)


def host_network(contents: Contents) -> HostNetwork:
    """Return systemd-networkd where it is there, else NetworkManager."""
    if not contents.has("systemd-networkd") and contents.has("NetworkManager"):
        return HostNetwork("NetworkManager.service", network_manager)
    return BY_NETWORKD
