"""Ask for an image's manifest, so that a preview can say how much there is to fetch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.cli.environment import proxies
from agent.errors import AgentError, ImageError, PlanError
from agent.oci.registries import Registries
from agent.payload.look import find
from agent.payload.manifest import Manifest
from agent.payload.options import FetchOptions
from agent.payload.sign import PublicKey, load_trusted
from agent.plan.model import Plan
from agent.proxy import Proxies
from agent.secret import Secret

BAKED_IN = Path("/etc/bedplate/keys")
PATIENCE = 8.0
"""Seconds for all tries at one address: a preview is looked at by somebody who waits."""


def manifest_of(plan: Plan) -> Manifest | str:
    """Return the manifest from the first address that has it, or why none was read.

    Without a trusted key on this machine the signature is not looked at: nothing is installed by
    what is found here.
    """
    if plan.image.oci is not None:
        return "a container says so only when it is read from end to end, as check does"
    return _asked(plan, plan.image.manifest, plan.image.token)


def overlays_of(plan: Plan) -> tuple[Manifest | str, ...]:
    """Return the same for each of the plan's overlays."""
    return tuple(_asked(plan, overlay.manifest, overlay.token) for overlay in plan.overlays)


def _asked(plan: Plan, urls: Sequence[str], token: Secret | None) -> Manifest | str:
    image = plan.image
    reasons = []
    for url in urls:
        options = FetchOptions(
            connect=PATIENCE / 2, patience=PATIENCE, token=token, registry=Registries()
        )
        try:
            via = Proxies.through(image.proxy, image.no_proxy) if image.proxy else proxies()
            return find(url, _keys(), replace(options, proxies=via)).manifest
        except (ImageError, PlanError) as error:
            reasons.append(_first_line(error))
    return "; ".join(reasons)


def _keys() -> Sequence[PublicKey]:
    paths = sorted(BAKED_IN.glob("*.pub"))
    return load_trusted(paths) if paths else ()


def _first_line(error: AgentError) -> str:
    return str(error).partition("\n")[0]
