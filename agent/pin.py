"""Turn an unlock policy and verified advertisements into the configuration Clevis binds with.

Always the pin `sss` (Shamir's secret sharing), also for one server, so that every binding reads the
same way. The advertisement that was verified goes in whole: what was checked is what is bound, and
Clevis asks nobody again (clevis-encrypt-tang(1): `adv`). `thp` beside it makes Clevis itself check
the two against each other. The configuration holds public material only; it is an argument.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent.keyslots import METADATA_SIZE
from agent.machine import Advertisement, Tang
from agent.plan.encryption import Encryption
from agent.plan.encryption import Tang as TangServer
from agent.plan.unlock import Policy

MAX_ARGUMENT = 128 * 1024 - 1
"""Bytes of one argument (MAX_ARG_STRLEN, 32 pages, execve(2)), less its closing NUL."""

# What Clevis 19 and 20 wrap around the parts: measured on real tokens, rounded up a little.
_WRAPPED = 130  # iv, tag, a 256-bit key's ciphertext and the dots of a compact JWE
_TANG = 350  # a tang pin's header without keys and URL: epk, kid, alg, enc
_TPM2 = 910  # a whole tpm2 pin with its sealed key
_SSS = 140  # an sss pin's header: prime, threshold
_TOKEN = 120  # the token around the JWE
_KEYSLOT = 450  # one keyslot's description
_VOLUME = 800  # segments, digests and the rest of the JSON area
_BINARY_HEADER = 4096  # LUKS2 On-Disk Format Specification, section 2.1


def sss_config(policy: Policy, servers: Sequence[Advertisement], pcrs: Sequence[int] = ()) -> str:
    """Return the JSON for `clevis luks bind … sss`.

    Without `pcrs` the TPM asks for no register: any system on this board may unseal.
    """
    tang = [_tang(server) for server in servers]
    tpm2 = [tpm2_config(pcrs)]
    if not policy.tang:
        config = _sss(1, {"tpm2": tpm2})
    elif not policy.tpm2:
        config = _sss(policy.tang, {"tang": tang})
    elif _nests(policy, len(servers)):
        config = _sss(policy.threshold, {"sss": _sss(policy.tang, {"tang": tang}), "tpm2": tpm2})
    else:
        everybody = len(servers) + 1
        config = _sss(everybody if policy.together else 1, {"tang": tang, "tpm2": tpm2})
    return json.dumps(config, separators=(",", ":"))


def seals_on_first_boot(encryption: Encryption) -> bool:
    """Tell whether the binding made while installing is provisional (decision 0003)."""
    return encryption.unlock.tpm2 and encryption.tpm2.seal == "first-boot"


def verified(server: TangServer, tang: Tang) -> Advertisement:
    """Return a server's advertisement, the plan's own or the one it answers; `StepError` if bad."""
    if server.advertisement is not None:
        return tang.verify(server.url, server.advertisement.text, server.thumbprint)
    # The plan demands one of the two.
    assert server.thumbprint is not None
    return tang.advertisement(server.url, server.thumbprint)


def tpm2_config(pcrs: Sequence[int]) -> dict[str, str]:
    """Return the configuration of the tpm2 pin alone.

    The bank is always named: Clevis 19 takes sha1 otherwise, which newer TPMs do not have.
    """
    config = {"hash": "sha256", "key": "ecc", "pcr_bank": "sha256"}
    return {**config, "pcr_ids": ",".join(map(str, sorted(pcrs)))} if pcrs else config


def header_need(policy: Policy, servers: Sequence[Advertisement], bindings: int) -> int:
    """Return the bytes of the LUKS2 JSON area that so many bindings need, a little too many.

    Counted with the recovery key and the install key beside them.
    """
    return _VOLUME + 2 * _KEYSLOT + bindings * binding_size(policy, servers)


def binding_size(policy: Policy, servers: Sequence[Advertisement]) -> int:
    """Return the bytes of one more binding in the header: keyslot and token, a little too many."""
    return _KEYSLOT + token_size(policy, servers)


def header_room(metadata_size: int = METADATA_SIZE) -> int:
    """Return the bytes of the JSON area in a LUKS2 header of this metadata size."""
    return metadata_size - _BINARY_HEADER


def token_size(policy: Policy, servers: Sequence[Advertisement]) -> int:
    """Return the bytes of one binding's token in the LUKS2 header, a little too many."""
    tang = [_tang_size(server) for server in servers] if policy.tang else []
    if policy.tpm2 and policy.tang and _nests(policy, len(servers)):
        tang = [_sss_size(tang)]
    return _sss_size(tang + [_TPM2] * policy.tpm2) + _TOKEN


def _nests(policy: Policy, servers: int) -> bool:
    """Tell whether the servers need a level of their own.

    "All" within "and", and "one" within "or", ask for the same on one level: the token is then a
    quarter smaller.
    """
    return policy.tang != (servers if policy.together else 1)


def _sss(threshold: int, pins: dict[str, object]) -> dict[str, object]:
    return {"t": threshold, "pins": pins}


def _tang(server: Advertisement) -> dict[str, object]:
    return {"url": server.url, "thp": server.thumbprint, "adv": json.loads(server.jws)}


def _tang_size(server: Advertisement) -> int:
    # Clevis stores the advertised keys without their signatures.
    keys = len(json.loads(server.jws)["payload"]) * 3 // 4
    return _base64(keys + len(server.url) + _TANG) + _WRAPPED


def _sss_size(pins: Sequence[int]) -> int:
    return _base64(sum(pins) + 3 * len(pins) + _SSS) + _WRAPPED


def _base64(size: int) -> int:
    return (size + 2) // 3 * 4
