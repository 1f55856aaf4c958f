"""Keyslots of LUKS2 volumes, through cryptsetup(8). Works on a block device and on a plain file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.adapters.command import Attempt, Run
from agent.errors import CommandError, StepError
from agent.machine import Keyslot
from agent.secret import Secret

# Exit statuses of cryptsetup(8): 1 wrong parameters (also: this keyslot is empty), 2 no permission
# (bad passphrase). Everything else is no answer about the key.
_OPENED, _EMPTY_SLOT, _WRONG_KEY = 0, 1, 2

ITERATIONS = 1000
"""PBKDF2 iterations, the least cryptsetup takes: the keys are random and need no slow KDF."""


class Cryptsetup:
    """The port `KeyStore`."""

    def __init__(self, run: Run, attempt: Attempt) -> None:
        self._run = run
        self._attempt = attempt

    def add(self, device: Path, *, existing: Secret, new: Secret, slot: int) -> None:
        """Put `new` into an empty keyslot. Both must be one line of text."""
        if b"\n" in existing.value + new.value:
            raise StepError(f"{device}: a key for keyslot {slot} has more than one line")
        both = Secret(existing.value + b"\n" + new.value)
        self._run(
            "cryptsetup", "luksAddKey", "--batch-mode", "--force-password",
            "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", str(ITERATIONS),
            "--key-slot", str(slot), device,
            secret=both,
        )  # fmt: skip

    def opens(self, device: Path, key: Secret, slot: int | None = None) -> bool:
        """Return whether the key opens the volume, or this keyslot of it if one is given."""
        where = () if slot is None else ("--key-slot", str(slot))
        done = self._attempt(
            "cryptsetup", "open", "--test-passphrase", "--key-file", "-", *where, device,
            secret=key,
        )  # fmt: skip
        if done.status == _OPENED:
            return True
        empty = done.status == _EMPTY_SLOT and self._is_empty(device, slot)
        if done.status == _WRONG_KEY or empty:
            return False
        raise CommandError(done.argv, f"exited with status {done.status}", done.stderr)

    def kill(self, device: Path, slot: int, *, other: Secret) -> None:
        """Destroy a keyslot after `other` was seen to open another one.

        Not with --batch-mode: cryptsetup then asks for no key at all. It does ask for one without,
        but destroys a last keyslot with its own key, so that case is refused here.
        """
        numbers = {keyslot.number for keyslot in self.keyslots(device)}
        if slot not in numbers:
            raise StepError(f"{device}: keyslot {slot} is empty already")
        if numbers == {slot}:
            raise StepError(f"{device}: keyslot {slot} is the last one, nothing would open it")
        self._run("cryptsetup", "luksKillSlot", "--key-file", "-", device, str(slot), secret=other)

    def keyslots(self, device: Path) -> tuple[Keyslot, ...]:
        """Return the keyslots in use, in order, each with the type of the token that names it."""
        metadata = dump(self._run, device)
        tokens = {
            int(number): str(token["type"])
            for token in metadata["tokens"].values()
            for number in token["keyslots"]
        }
        numbers = sorted(int(number) for number in metadata["keyslots"])
        return tuple(Keyslot(number, tokens.get(number)) for number in numbers)

    def room(self, device: Path) -> int:
        """Return the bytes that are free in the header's JSON area for keyslots and tokens."""
        metadata = dump(self._run, device)
        used = len(json.dumps(metadata, separators=(",", ":")))  # as libcryptsetup writes it
        return int(metadata["config"]["json_size"]) - used

    def _is_empty(self, device: Path, slot: int | None) -> bool:
        return slot is not None and slot not in {each.number for each in self.keyslots(device)}


def dump(run: Run, device: Path) -> dict[str, Any]:
    """Return the JSON area of a LUKS2 header (LUKS2 On-Disk Format Specification, section 3)."""
    text = run("cryptsetup", "luksDump", "--dump-json-metadata", device)
    metadata: dict[str, Any] = json.loads(text)
    return metadata
