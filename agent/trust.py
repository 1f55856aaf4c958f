"""Whether a plan that was found may be believed: its signature, its way here, its freshness.

Judged over the plan's exact bytes, before one of them is parsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256

from agent.errors import ImageError, MachineError, Problem
from agent.find import Found
from agent.payload.sign import PublicKey, SigningKey, verify
from agent.policy import Policy

CHALLENGE = "Bedplate-Challenge"
"""Header of the request: 32 to 128 hexadecimal digits that nobody used before."""
FRESHNESS = "Bedplate-Freshness"
"""Header of the answer: base64 of the signature over `freshness(challenge, plan)`."""
TOLERANCE = timedelta(minutes=10)
"""Two clocks that differ by less agree."""


@dataclass(frozen=True)
class Trust:
    """What vouches for a plan; evidence for the report. `signed_by` is a key's id."""

    signed_by: str | None
    fresh: bool


def judge(found: Found, policy: Policy, keys: Sequence[PublicKey]) -> Trust:
    """Return what vouches for the plan, or raise `MachineError` with every reason against it.

    A signature that is there must be right, asked for or not. A plan that came over plain http must
    be signed: anybody on the way could have written it, and it erases disks.
    """
    problems = []
    signed_by = None
    if found.url is not None and not policy.admits(found.url):
        allowed = ", ".join(policy.allowed_servers or ()) or "none"
        problems.append(f"{found.where}: the policy of this live image allows only {allowed}")
    if found.signature is not None and keys:
        try:
            signed_by = verify(found.content, found.signature, keys).id
        except ImageError as error:
            problems.append(f"{found.where}: {error}")
    elif found.signature is not None and policy.require_signed_plan:
        problems.append(f"{found.where}: is signed, and this live image has no key to check it by")
    elif policy.require_signed_plan:
        problems.append(f"{found.where}: is not signed, which the policy of this live image asks")
    plain = found.url is not None and found.url.startswith("http://")
    if plain and signed_by is None and not problems:
        problems.append(
            f"{found.where}: came over plain http and "
            f"{_unproven(found, keys)}: sign it (bedplate plan sign) or serve it over https"
        )
    fresh = found.answer is not None and _fresh(found, keys)
    if policy.require_fresh_plan and found.url is not None and not fresh:
        said = "a wrong answer" if found.answer is not None else "no answer"
        problems.append(f"{found.where}: the server gave {said} to the challenge for freshness")
    if problems:
        raise MachineError([Problem("plan", problem) for problem in problems])
    return Trust(signed_by, fresh)


def freshness(challenge: str, plan: bytes) -> bytes:
    """Return what a server signs to show that it gives this plan now, not a recording of it."""
    return f"bedplate plan freshness\n{challenge}\n{sha256(plan).hexdigest()}\n".encode()


def answer(key: SigningKey, challenge: str, plan: bytes) -> bytes:
    """Return a server's answer to a challenge."""
    return key.sign(freshness(challenge, plan))


def clock_doubts(expires: datetime | None, clock: datetime, server: datetime | None) -> str | None:
    """Return why an expiry cannot be judged: two clocks that disagree about it; None if it can.

    `server` is the time at which the plan's server answered, by its own clock.
    """
    if expires is None or server is None or abs(server - clock) <= TOLERANCE:
        return None
    if (clock > expires) == (server > expires):
        return None
    return (
        f"the plan expires at {_shown(expires)}; this machine's clock says {_shown(clock)}, its "
        f"server's {_shown(server)}: set the one that is wrong"
    )


def _fresh(found: Found, keys: Sequence[PublicKey]) -> bool:
    assert found.answer is not None
    try:
        verify(freshness(found.challenge, found.content), found.answer, keys)
    except ImageError:
        return False
    return found.challenge != ""


def _unproven(found: Found, keys: Sequence[PublicKey]) -> str:
    if found.signature is None:
        return "is not signed"
    return "this live image has no key to check its signature by" if not keys else "is unproven"


def _shown(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
