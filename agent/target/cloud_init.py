"""Switch cloud-init off in the installed system, or give it the seed that came with the plan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import UUID

from agent.plan.cloud_init import CloudInit
from agent.target.contents import Unpacked
from agent.target.tree import TargetFile, Tree

OFF = "/etc/cloud/cloud-init.disabled"
"""ds-identify(8) and the generator look for this file before anything else."""
SETTINGS = "/etc/cloud/cloud.cfg.d/99-bedplate.cfg"
SEED = "/var/lib/cloud/seed/nocloud"
REMEMBERED = "/var/lib/cloud/instance"
"""A link to what an earlier start of the image left; its golden machine is not this host."""


def cloud_init(
    tree: Tree, seed: CloudInit | None, hostname: str, machine_id: UUID
) -> Iterator[TargetFile]:
    """Yield what the tree's cloud-init must find; nothing where the tree has none.

    With a seed what would keep it from running is removed first.
    """
    if not Unpacked(tree).has("cloud-init"):
        return
    if seed is None:
        yield TargetFile.text(OFF, "switched off at installation: the plan brings no seed\n")
        return
    tree.remove(OFF)
    tree.remove(REMEMBERED)
    yield TargetFile.text(SETTINGS, _settings(own_network=seed.network_config is not None))
    meta_data = seed.meta_data or _meta_data(hostname, machine_id)
    yield TargetFile.text(f"{SEED}/user-data", seed.user_data, 0o600)
    yield TargetFile.text(f"{SEED}/meta-data", meta_data, 0o600)
    if seed.network_config is not None:
        yield TargetFile.text(f"{SEED}/network-config", seed.network_config, 0o600)


def _settings(*, own_network: bool) -> str:
    # The report names the host keys; what cloud-init would make anew nobody could check.
    lines = ["datasource_list: [NoCloud]", "ssh_deletekeys: false"]
    if not own_network:
        lines.append("network: {config: disabled}")
    return "# Written by Bedplate at installation.\n" + "\n".join(lines) + "\n"


def _meta_data(hostname: str, machine_id: UUID) -> str:
    # JSON is YAML, and quotes what YAML would read as something else.
    return json.dumps({"instance-id": machine_id.hex, "local-hostname": hostname}) + "\n"
