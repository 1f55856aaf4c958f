"""The TPM 2.0, through tpm2-tools and Clevis: whether it can seal, and what its PCRs hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from agent.adapters.command import Run
from agent.errors import CommandError, Problem
from agent.pin import tpm2_config
from agent.secret import Secret

WHERE = "encryption.unlock"
DEVICE_TCTI = "device:/dev/tpmrm0"
SEAL_TIMEOUT = 180
"""Seconds for one seal or unseal: TPMs are slow, and more so under emulation."""

_PCR = re.compile(r"^\s*(\d+)\s*:\s*0x([0-9A-Fa-f]{64})\s*$", re.MULTILINE)

_NEEDED = (
    "inLockout",
    "ownerAuthSet",
    "TPM2_PT_LOCKOUT_COUNTER",
    "TPM2_PT_LOCKOUT_INTERVAL",
    "TPM2_PT_MAX_AUTH_FAIL",
)

Properties = Mapping[str, int]


class TpmTools:
    """The port `Tpm`. `tcti` is how tpm2-tools reach it (tpm2-tools' TPM2TOOLS_TCTI)."""

    def __init__(self, run: Run, tcti: str = DEVICE_TCTI) -> None:
        self._run = run
        self._tcti = tcti

    def problems(self, pcrs: Sequence[int]) -> Iterator[Problem]:
        """Yield what would make sealing to these registers fail, now or soon."""
        absent = self._absent()
        if absent:
            yield Problem(WHERE, absent)
            return
        try:
            found = [Problem(WHERE, reason) for reason in self._reasons(pcrs)]
        except (CommandError, yaml.YAMLError) as error:
            found = [Problem(WHERE, f"the TPM does not answer: {error}")]
        yield from found

    def pcr(self, number: int) -> str:
        """Return the sha256 bank's value as 64 hexadecimal digits in lower case."""
        return self._pcrs([number])[number]

    def _absent(self) -> str | None:
        kind, _, device = self._tcti.partition(":")
        if kind != "device" or Path(device).exists():
            return None
        if Path(device.replace("tpmrm", "tpm")).exists():
            return f"this machine has a TPM 1.2 and no TPM 2.0: there is no {device}"
        return f"this machine has no TPM 2.0: there is no {device} (is it off in the firmware?)"

    def _reasons(self, pcrs: Sequence[int]) -> Iterator[str]:
        properties = self._properties()
        stuck = [*_lockout(properties), *_owner(properties)]
        bank = list(self._bank(pcrs))
        yield from (*stuck, *bank)
        if not stuck and not bank:
            yield from self._seal_and_unseal(pcrs)

    def _properties(self) -> Properties:
        """Return TPM2_PT_PERMANENT's flags and the variable properties by name."""
        text = self._tool("tpm2_getcap", "properties-variable")
        properties: dict[str, int] = {}
        for name, value in yaml.safe_load(text).items():
            properties.update(value if isinstance(value, dict) else {name: value})
        missing = ", ".join(name for name in _NEEDED if name not in properties)
        if missing:
            raise CommandError(("tpm2_getcap", "properties-variable"), f"does not say {missing}")
        return properties

    def _bank(self, pcrs: Sequence[int]) -> Iterator[str]:
        banks = yaml.safe_load(self._tool("tpm2_getcap", "pcrs"))["selected-pcrs"]
        allocated = next((bank["sha256"] for bank in banks if "sha256" in bank), None) or []
        missing = [pcr for pcr in pcrs if pcr not in allocated]
        if not allocated:
            yield "the TPM has no sha256 bank of PCRs: turn it on in the firmware's settings"
        elif missing:
            yield f"the TPM's sha256 bank has no PCR {_listed(missing)}"
        else:
            blank = [pcr for pcr, value in self._pcrs(pcrs).items() if value in _NOT_MEASURED]
            if blank:
                yield (
                    f"PCR {_listed(blank)} of the sha256 bank was never extended: the firmware "
                    "does not measure into it, so sealing to it would protect nothing"
                )

    def _pcrs(self, pcrs: Sequence[int]) -> dict[int, str]:
        if not pcrs:
            return {}
        text = self._tool("tpm2_pcrread", f"sha256:{','.join(map(str, pcrs))}")
        values = {int(number): value.lower() for number, value in _PCR.findall(text)}
        if set(values) != set(pcrs):
            raise CommandError(("tpm2_pcrread",), f"did not print PCR {_listed(pcrs)}", text)
        return values

    def _seal_and_unseal(self, pcrs: Sequence[int]) -> Iterator[str]:
        """Do once what Clevis will do at install and at boot; it keeps nothing in the TPM."""
        secret, config = Secret.random(), json.dumps(tpm2_config(pcrs))
        try:
            jwe = self._tool("clevis", "encrypt", "tpm2", config, secret=secret)
            opened = self._tool("clevis", "decrypt", secret=Secret(jwe))
        except CommandError as error:
            yield f"the TPM does not seal and unseal: {error.stderr or error.what}"
            return
        if Secret(opened) != secret:
            yield "the TPM unseals something else than what was sealed"

    def _tool(self, *argv: str, secret: Secret | None = None) -> str:
        env = ("env", f"TPM2TOOLS_TCTI={self._tcti}")
        return self._run(*env, *argv, secret=secret, timeout=SEAL_TIMEOUT)


_NOT_MEASURED = ("0" * 64, "f" * 64)


def _lockout(properties: Properties) -> Iterator[str]:
    """Dictionary-attack protection: what Clevis seals is under it (TPM 2.0 part 1, 19.8).

    Every power cut after an unseal counts one, so a TPM one step from its limit is a machine that
    will ask for the recovery key after the next power cut.
    """
    counter, limit = properties["TPM2_PT_LOCKOUT_COUNTER"], properties["TPM2_PT_MAX_AUTH_FAIL"]
    interval = properties["TPM2_PT_LOCKOUT_INTERVAL"]
    clear = f"clear it with tpm2_dictionarylockout --clear-lockout, or wait {interval} s for each"
    if properties["inLockout"]:
        yield f"the TPM is locked: {counter} failures of {limit} allowed; {clear}"
    elif counter >= limit - 1:
        yield f"the TPM is one failure from locking itself: {counter} of {limit}; {clear}"


def _owner(properties: Properties) -> Iterator[str]:
    if properties["ownerAuthSet"]:
        yield (
            "the TPM's owner hierarchy has a password, which Clevis cannot give: clear the TPM in "
            "the firmware's settings, or empty the password with tpm2_changeauth -c owner"
        )


def _listed(pcrs: Sequence[int]) -> str:
    return ", ".join(map(str, pcrs))
