"""Do the Tang servers answer with the right keys, and does the binding fit where it must."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import Problem, StepError
from agent.machine import Advertisement, Machine
from agent.pin import (
    MAX_ARGUMENT,
    header_need,
    header_room,
    seals_on_first_boot,
    sss_config,
    verified,
)
from agent.plan.encryption import Encryption, Tang

WHERE = "encryption.tang"


@dataclass(frozen=True)
class TangReady:
    """One server: its advertisement is signed by the key the plan names."""

    server: Tang

    def describe(self) -> str:
        if self.server.advertisement is not None:
            return f"the plan's advertisement of Tang {self.server.url} is signed as it must be"
        return f"Tang {self.server.url} answers with the key {self.server.thumbprint}"

    def problems(self, machine: Machine) -> Iterator[Problem]:
        try:
            verified(self.server, machine.tang)
        except StepError as error:
            yield Problem(WHERE, str(error))


@dataclass(frozen=True)
class BindingFits:
    """All servers together: an argument and the LUKS2 header have an end.

    In two phases both bindings are in the header for a moment, so both must fit.
    """

    encryption: Encryption

    def describe(self) -> str:
        return f'the binding "{self.encryption.unlock}" fits the LUKS2 header'

    def problems(self, machine: Machine) -> Iterator[Problem]:
        policy = self.encryption.unlock
        try:
            servers = self._servers(machine)
        except StepError:
            return  # TangReady says so
        size = len(sss_config(policy, servers, self.encryption.tpm2.pcrs))
        if size > MAX_ARGUMENT:
            yield Problem(
                WHERE,
                f"the configuration for Clevis has {size} bytes, a program takes {MAX_ARGUMENT}: "
                "name fewer servers",
            )
        bindings = 2 if seals_on_first_boot(self.encryption) else 1
        need, room = header_need(policy, servers, bindings), header_room()
        if need > room:
            yield Problem(
                WHERE,
                f"the bindings to {len(servers)} servers need {need} bytes of the LUKS2 header, "
                f"it has {room}: name fewer servers",
            )

    def _servers(self, machine: Machine) -> list[Advertisement]:
        return [verified(server, machine.tang) for server in self.encryption.tang]
