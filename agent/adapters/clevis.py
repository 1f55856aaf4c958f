"""Clevis bindings of LUKS2 volumes.

Never `-y`: it skips the thumbprint check even where `thp` is given. Never `clevis luks regen`: it
hard-codes `-y` and forgets advertisement and thumbprint. Both measured, see decision 0003.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.adapters.command import Run
from agent.adapters.luks import dump
from agent.errors import CommandError, StepError
from agent.machine import PinAnswer
from agent.secret import Secret

TIMEOUT = 300
"""Seconds: a TPM, several servers, and an emulated processor; nothing here is quick."""


class Clevis:
    """The port `Binder`. `tcti` says how to reach the TPM (tpm2-tools' TPM2TOOLS_TCTI).

    Left out, Clevis looks for /dev/tpmrm0 itself.
    """

    def __init__(self, run: Run, tcti: str | None = None) -> None:
        self._run = run
        # A program's environment is not ours to give (adapters.command), but env(1)'s is.
        self._env = ("env", f"TPM2TOOLS_TCTI={tcti}") if tcti else ()

    def bind(self, device: Path, *, existing: Secret, slot: int, config: str) -> None:
        """Bind an empty keyslot; the token gets the keyslot's number."""
        # `-k -` reads one line: the key must be text, and gets its newline here.
        line = Secret(existing.value + b"\n")
        where = ("-d", device, "-s", str(slot), "-t", str(slot))
        try:
            self._clevis("luks", "bind", *where, "-k", "-", "sss", config, secret=line)
        except CommandError as error:
            self._rehearse(config)
            raise _brief(error, config) from error

    def unlock(self, device: Path, slot: int) -> Secret:
        """Return the passphrase of a bound slot by asking Tang and the TPM as at boot.

        Clevis has then tried it on the volume (clevis-luks-pass(1)).
        """
        return Secret(self._clevis("luks", "pass", "-d", device, "-s", str(slot)))

    def answers(self, device: Path, slot: int) -> tuple[PinAnswer, ...]:
        """Ask each pin of a binding for its share, alone."""
        tokens = dump(self._run, device)["tokens"].values()
        for token in tokens:
            if token["type"] == "clevis" and str(slot) in token["keyslots"]:
                return tuple(self._ask(*pin) for pin in _pins(token["jwe"]["protected"]))
        raise StepError(f"{device}: keyslot {slot} has no Clevis token")

    def _rehearse(self, config: str) -> None:
        """Encrypt anything: fails with the cause alone if Tang or the TPM is why bind failed.

        `clevis luks bind` quotes the whole configuration after the cause, and of a program's
        stderr only the end is kept.
        """
        try:
            self._clevis("encrypt", "sss", config, secret=Secret.random())
        except CommandError as error:
            raise _brief(error, config) from error

    def _ask(self, pin: str, jwe: str) -> PinAnswer:
        began = time.monotonic()
        try:
            self._clevis("decrypt", secret=Secret(jwe))  # the share goes no further than here
        except CommandError as error:
            return PinAnswer(pin, time.monotonic() - began, error.stderr or error.what)
        return PinAnswer(pin, time.monotonic() - began)

    def _clevis(self, *argv: str | Path, secret: Secret | None = None) -> str:
        return self._run(*self._env, "clevis", *argv, secret=secret, timeout=TIMEOUT)


def _brief(error: CommandError, config: str) -> CommandError:
    """Return the error without the kilobytes of keys in its arguments and its text."""
    argv = tuple("CONFIG" if argument == config else argument for argument in error.argv)
    return CommandError(argv, error.what, error.stderr.rpartition("}'")[2] or error.stderr)


def _pins(protected: str) -> Iterator[tuple[str, str]]:
    """Yield (name, compact JWE) of every pin that is no sss, from a JWE's protected header."""
    clevis = _header(protected)["clevis"]
    for jwe in clevis["sss"]["jwe"]:
        inner = _header(jwe.partition(".")[0])["clevis"]
        kind = inner["pin"]
        if kind == "sss":
            yield from _pins(jwe.partition(".")[0])
        else:
            yield str(inner[kind].get("url", kind)), jwe


def _header(text: str) -> dict[str, Any]:
    """Decode a JOSE header: base64url without padding (RFC 7515, section 2)."""
    header: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return header
