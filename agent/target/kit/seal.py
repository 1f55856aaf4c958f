"""Seal the disks to the TPM when the installed system first runs (decision 0003)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent.keyslots import SEALED, UNLOCK
from agent.layout.model import Layout
from agent.machine import Advertisement
from agent.pin import seals_on_first_boot, sss_config
from agent.plan.encryption import Encryption
from agent.plan.model import Plan
from agent.plan.report import HttpReport
from agent.target.kit import SBIN, UNITS, Kit, part
from agent.target.tree import TargetFile

CONFIG = "/etc/bedplate/seal.json"
REPORTS = "/etc/bedplate/seal.d"
AUTHORITIES = "/etc/bedplate/report-ca.pem"
RUN = "first-boot"
"""The event's `run`: receivers tell it from the installation's, and count its `seq` from 1."""


def kit(
    plan: Plan,
    machine: str,
    layout: Layout,
    servers: Sequence[Advertisement],
    authorities: bytes | None = None,
) -> Kit:
    """Return the kit of a machine that is sealed on its first boot, an empty one for any other.

    `machine` is its name in events; `servers` are the advertisements the disks are bound to now;
    `authorities` (PEM) are those the live image trusts for the report servers, if not the system's.
    """
    encryption, luks = plan.encryption, layout.luks
    if encryption is None or luks is None or not seals_on_first_boot(encryption):
        return Kit()
    config = {
        "version": 1,
        "device": f"/dev/disk/by-uuid/{luks.uuid}",
        **_further(layout),
        "from": UNLOCK,
        "to": SEALED,
        "config": json.loads(sss_config(encryption.unlock, servers, encryption.tpm2.pcrs)),
        "event": _event(plan, machine, encryption),
    }
    trust = [TargetFile.text(AUTHORITIES, authorities.decode())] if authorities else []
    return Kit(
        files=(
            part("bedplate-seal.sh", f"{SBIN}/bedplate-seal", 0o755),
            part("bedplate-seal.service", f"{UNITS}/bedplate-seal.service"),
            TargetFile.text(CONFIG, json.dumps(config, indent=1) + "\n", 0o600),
            *trust,
            *(
                TargetFile.text(f"{REPORTS}/{number}.curl", _curl(report, bool(trust)), 0o600)
                for number, report in enumerate(plan.report)
                if isinstance(report, HttpReport)
            ),
        ),
        enabled=(("multi-user.target", "bedplate-seal.service"),),
    )


def _further(layout: Layout) -> dict[str, object]:
    """Return the volumes of data, under a key that a machine without any does not have."""
    volumes = [one.luks for one in layout.data if one.luks is not None]
    return {"further": [f"/dev/disk/by-uuid/{luks.uuid}" for luks in volumes]} if volumes else {}


def _event(plan: Plan, machine: str, encryption: Encryption) -> dict[str, object]:
    """Return the event `sealed` (docs/events.md), complete but for its time."""
    return {
        "version": 1,
        "plan": str(plan.id),
        "machine": machine,
        "run": RUN,
        "seq": 1,
        "step": "seal",
        "state": "finished",
        "message": "sealed",
        "evidence": {
            "bank": "sha256",
            "pcrs": list(encryption.tpm2.pcrs),
            "policy": str(encryption.unlock),
            "slot": SEALED,
            "state": "final",
        },
    }


def _curl(report: HttpReport, own_trust: bool) -> str:
    """Return a curl configuration (curl(1), --config): neither URL nor token become arguments."""
    lines = [f"url = {_quoted(report.url)}"]
    if report.token is not None:
        lines.append(f"header = {_quoted(f'Authorization: Bearer {report.token.text}')}")
    if own_trust:
        lines.append(f"cacert = {_quoted(AUTHORITIES)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
