"""Choose what brings up the network of the installed system, by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.plan.network import Interface
from agent.target.contents import Contents
from agent.target.network_manager import network_manager
from agent.target.networkd import networkd
from agent.target.tree import TargetFile


@dataclass(frozen=True)
class HostNetwork:
    """Its unit, and how the plan's network is written for it."""

    unit: str
    files: Callable[[Sequence[Interface]], tuple[TargetFile, ...]]


def host_network(contents: Contents) -> HostNetwork:
    """Return systemd-networkd where it is there, else NetworkManager."""
    if not contents.has("systemd-networkd") and contents.has("NetworkManager"):
        return HostNetwork("NetworkManager.service", network_manager)
    return HostNetwork("systemd-networkd.service", networkd)
