"""SELinux: files written by a live system without a policy carry no labels."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from agent.machine import Target
from agent.target.contents import Unpacked
from agent.target.tree import TargetFile, Tree

log = logging.getLogger(__name__)

CONFIG = "/etc/selinux/config"
RELABELS = (
    "/usr/lib/systemd/system-generators/selinux-autorelabel-generator.sh",
    "/usr/lib/systemd/system/selinux-autorelabel.service",
    "/lib/systemd/system/selinux-autorelabel.service",
)
"""What looks for /.autorelabel (policycoreutils); one is enough."""
LABEL_TIMEOUT = 1800.0
AUTORELABEL = TargetFile.text("/.autorelabel", "-F\n")


def enabled(tree: Tree) -> bool:
    """Tell whether the installed system starts with a policy, enforcing or permissive."""
    if not tree.exists(CONFIG):
        return False
    modes = re.findall(r"^\s*SELINUX\s*=\s*(\w+)", tree.read(CONFIG), re.MULTILINE)
    return bool(modes) and modes[-1].lower() != "disabled"


def relabel_at_first_boot(tree: Tree) -> bool:
    """Ask for all labels to be set at the first boot, where there is a policy (fixfiles(8))."""
    if not enabled(tree):
        return False
    tree.write(AUTORELABEL)
    if not any(tree.exists(path) for path in RELABELS):
        log.warning("the image has a policy and nothing that acts on %s", AUTORELABEL.path)
    return True


def label_now(tree: Tree, root: Path, target: Target, mounts: Sequence[str]) -> tuple[str, ...]:
    """Set the labels of these file systems while they are mounted; return which.

    The relabelling of the first boot comes before the network is there, and so before disks of data
    are: what the image has on them would stay without labels (setfiles(8) needs no running policy).
    """
    contexts = f"/etc/selinux/{_type(tree)}/contexts/files/file_contexts"
    if not mounts or not enabled(tree) or not tree.exists(contexts):
        return ()
    if not Unpacked(tree).has("setfiles"):
        log.warning("the image has no setfiles: %s stay without labels", ", ".join(mounts))
        return ()
    target.run(root, "setfiles", "-F", contexts, *mounts, timeout=LABEL_TIMEOUT)
    return tuple(mounts)


def _type(tree: Tree) -> str:
    if not tree.exists(CONFIG):
        return ""
    found = re.findall(r"^\s*SELINUXTYPE\s*=\s*([\w-]+)", tree.read(CONFIG), re.MULTILINE)
    return found[-1] if found else "targeted"
