"""Fakes of the key ports that keep state: one LUKS2 header, and who would give a share today."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from agent.errors import CommandError, Problem, StepError
from agent.keyslots import INSTALL
from agent.machine import Advertisement, Keyslot, Machine, PinAnswer
from agent.secret import Secret

DEVICE = Path("/dev/md/root")


def advertisement(url: str, thumbprint: str = "T" * 43, keys: int = 540) -> Advertisement:
    """Return what a server of this address might advertise: `keys` bytes of them, unsigned."""
    payload = base64.urlsafe_b64encode(b"k" * keys).decode().rstrip("=")
    return Advertisement(url, thumbprint, json.dumps({"payload": payload, "signature": "s"}))


@dataclass
class FakeKeys:
    """Keyslots by number, each with its key; as cryptsetup, it demands a key for every change."""

    slots: dict[int, Secret]
    tokens: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Clevis configuration by keyslot."""
    free: int = 120_000

    def add(self, device: Path, *, existing: Secret, new: Secret, slot: int) -> None:
        if slot in self.slots or existing not in self.slots.values():
            raise CommandError(("cryptsetup", "luksAddKey"), "exited with status 1")
        self.slots[slot] = new

    def opens(self, device: Path, key: Secret, slot: int | None = None) -> bool:
        return key in self.slots.values() if slot is None else self.slots.get(slot) == key

    def kill(self, device: Path, slot: int, *, other: Secret) -> None:
        if not any(key == other for number, key in self.slots.items() if number != slot):
            raise CommandError(("cryptsetup", "luksKillSlot"), "exited with status 2")
        del self.slots[slot]

    def keyslots(self, device: Path) -> tuple[Keyslot, ...]:
        return tuple(
            Keyslot(number, "clevis" if number in self.tokens else None)
            for number in sorted(self.slots)
        )

    def room(self, device: Path) -> int:
        return self.free


@dataclass
class FakeClevis:
    """Binds keyslots of `keys`; `dead` are the pins that give no share: `tpm2` or a URL."""

    keys: FakeKeys
    dead: set[str] = field(default_factory=set)
    returns: Secret | None = None
    """What unlock() says instead of the passphrase."""

    def bind(self, device: Path, *, existing: Secret, slot: int, config: str) -> None:
        self.keys.add(device, existing=existing, new=Secret.random(), slot=slot)
        self.keys.tokens[slot] = json.loads(config)

    def unlock(self, device: Path, slot: int) -> Secret:
        if not self._opens(self.keys.tokens[slot]):
            raise CommandError(("clevis", "luks", "pass"), "exited with status 1")
        return self.returns or self.keys.slots[slot]

    def answers(self, device: Path, slot: int) -> tuple[PinAnswer, ...]:
        return tuple(
            PinAnswer(pin, 0.5, "Error communicating" if pin in self.dead else None)
            for pin in _pins(self.keys.tokens[slot])
        )

    def _opens(self, sss: dict[str, Any]) -> bool:
        shares = sum(pin not in self.dead for pin in _leaves(sss))
        shares += sum(map(self._opens, _nested(sss)))
        return shares >= int(sss["t"])


def _leaves(sss: dict[str, Any]) -> Iterator[str]:
    for server in sss["pins"].get("tang", []):
        yield server["url"]
    if "tpm2" in sss["pins"]:
        yield "tpm2"


def _nested(sss: dict[str, Any]) -> list[dict[str, Any]]:
    return [sss["pins"]["sss"]] if "sss" in sss["pins"] else []


def _pins(sss: dict[str, Any]) -> Iterator[str]:
    yield from _leaves(sss)
    for inner in _nested(sss):
        yield from _pins(inner)


@dataclass
class FakeTang:
    """Servers by URL; one that is not there, or has another thumbprint, is refused."""

    servers: Mapping[str, Advertisement] = field(default_factory=dict)

    def advertisement(self, url: str, thumbprint: str) -> Advertisement:
        found = self.servers.get(url)
        if found is None:
            raise StepError(f"{url}: no Tang server answers there: connection refused")
        if found.thumbprint != thumbprint:
            raise StepError(f"{url}: has no key {thumbprint}, it signs with {found.thumbprint}")
        return found

    def verify(self, url: str, advertisement: str, thumbprint: str | None) -> Advertisement:
        return Advertisement(url, thumbprint or "V" * 43, advertisement)


@dataclass(frozen=True)
class FakeTpm:
    reasons: tuple[str, ...] = ()

    def problems(self, pcrs: Sequence[int]) -> Iterator[Problem]:
        for reason in self.reasons:
            yield Problem("encryption.unlock", f"{reason} (PCR {', '.join(map(str, pcrs))})")

    def pcr(self, number: int) -> str:
        return "ab" * 32


@dataclass
class FakeEscrow:
    """Keeps what was put into envelopes apart from them, as encryption does."""

    reasons: tuple[str, ...] = ()
    fails: str = ""
    contents: dict[bytes, Secret] = field(default_factory=dict)

    def problems(self, certificates: Sequence[str]) -> Iterator[Problem]:
        for number, reason in enumerate(self.reasons):
            yield Problem(f"encryption.recovery.escrow_to[{number}]", reason)

    def envelope(self, content: Secret, certificates: Sequence[str]) -> bytes:
        if self.fails:
            raise StepError(self.fails)
        envelope = b"\x30" + hashlib.sha256(content.value).digest()
        self.contents[envelope] = content
        return envelope


@dataclass
class FakeSink:
    """`stores` changes what is stored before it is acknowledged; None takes nothing at all."""

    stores: bytes | None = b""
    received: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    def deliver(self, envelope: bytes, meta: Mapping[str, str]) -> str:
        if self.stores is None:
            raise StepError("escrow: nobody answers")
        self.received.append((envelope, dict(meta)))
        return hashlib.sha256(envelope + self.stores).hexdigest().upper()


class KeyRoom:
    """A machine of which only what has to do with keys is there."""

    def __init__(self) -> None:
        self.install_key, self.recovery_key = Secret.random(), Secret.random()
        self.keys = FakeKeys({INSTALL: self.install_key})
        self.clevis = FakeClevis(self.keys)
        self.tang = FakeTang()
        self.tpm = FakeTpm()
        self.escrow = FakeEscrow()
        self.sink = FakeSink()

    @property
    def machine(self) -> Machine:
        rest = dict.fromkeys(
            ("storage", "reports", "firmware", "images", "mounts", "target", "kernel")
        )
        return Machine(
            keys=self.keys,
            clevis=self.clevis,
            tang=self.tang,
            tpm=self.tpm,
            escrow=self.escrow,
            escrow_sink=self.sink,
            **cast("dict[str, Any]", rest),
        )
