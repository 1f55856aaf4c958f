"""Can the network that the plan configures come about: on this machine, and by this image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.errors import Problem
from agent.inventory.model import Inventory
from agent.machine import Machine
from agent.payload.described import Described
from agent.plan.network import Interface, Match
from agent.target.contents import Listed
from agent.target.family import initrd_builder
from agent.target.host_network import host_network
from agent.target.initramfs_tools import InitramfsTools
from agent.target.networkd import links

WHERE = "configure.network"


@dataclass(frozen=True)
class CardsThere:
    """Every card that the plan names by its MAC address is in this machine."""

    network: Sequence[Interface]
    inventory: Inventory

    def describe(self) -> str:
        return "the network cards that the plan configures are there"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        yield from absent(self.network, self.inventory)


def absent(network: Sequence[Interface], inventory: Inventory) -> Iterator[Problem]:
    """Yield the MAC addresses that are no card's: the installed system would have no network."""
    there = {nic.mac: nic.name for nic in inventory.nics}
    for place, match in _matches(network):
        if match.mac is not None and match.mac not in there:
            has = ", ".join(f"{mac} ({name})" for mac, name in there.items()) or "none"
            yield Problem(f"{place}.mac", f"no card has {match.mac}; this machine has {has}")


def _matches(network: Sequence[Interface]) -> Iterator[tuple[str, Match]]:
    seen = set()
    for number, interface in enumerate(network):
        found = [(f"{WHERE}[{number}].match", interface.match)]
        if interface.bond is not None:
            place = f"{WHERE}[{number}].bond"
            found += [
                (f"{place}.ports[{at}]", port) for at, port in enumerate(interface.bond.ports)
            ]
        for place, match in found:
            if match not in seen:
                seen.add(match)
                yield place, match


@dataclass(frozen=True)
class ReachesTang:
    """The image's initrd brings up one of the plan's interfaces before it asks Tang."""

    manifest: Described
    network: Sequence[Interface]

    def describe(self) -> str:
        return f"the initrd of {self.manifest.name} reaches Tang"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        del machine
        section = self.manifest.tree
        if section is None:  # a whole-disk image is refused by ImageFits
            return
        contents, image = Listed(section), self.manifest.name
        builder, made = initrd_builder(contents), ", ".join(links(self.network))
        if isinstance(builder, InitramfsTools) and all(one.link for one in self.network):
            yield Problem(
                WHERE,
                f"{image} starts by initramfs-tools, which makes no {made} before Tang is asked: "
                "take an image with dracut, or give Tang an interface of its own",
            )
        if builder is None and host_network(contents).in_initrd(self.network):
            yield Problem(
                WHERE,
                f"{image} has no dracut to build an initrd with {made} in it, which Tang is asked "
                "through: build it with the package dracut",
            )
