"""SELinux: files written by a live system without a policy carry no labels."""

from __future__ import annotations

import re

from agent.target.tree import TargetFile, Tree

CONFIG = "/etc/selinux/config"
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
    return True
