"""FIPS mode of the installed system: the kernel starts in it and checks itself before anything.

`fips=1` alone is not enough. The kernel's HMAC must be compared in the initrd, which dracut's fips
module does, and for that it must find /boot where this is a file system of its own (`boot=`,
dracut.cmdline(7); Red Hat, "Switching RHEL to FIPS mode").
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent.errors import Problem
from agent.layout.model import Layout
from agent.machine import Target
from agent.target.contents import Contents, Unpacked
from agent.target.tree import Tree

WHERE = "configure.fips"
POLICIES = "update-crypto-policies"


def options(layout: Layout) -> tuple[str, ...]:
    """Return what the kernel command line needs: the mode, and where the kernel's HMAC lies."""
    return ("fips=1", f"boot={layout.boot.source}")


def problems(image: str, contents: Contents) -> Iterator[Problem]:
    """Yield why an image cannot start in FIPS mode; `image` is its name."""
    if not contents.has("dracut"):
        yield Problem(
            WHERE,
            f"{image} has no dracut: only its fips module checks the kernel before it is trusted",
        )
    elif not contents.has("dracut/fips"):
        yield Problem(
            WHERE,
            f"{image} has no dracut/fips, which checks the kernel: build it with the package "
            "dracut-fips (or dracut-core), or pack it again if it has that module",
        )
    if not contents.has("kernel-hmac"):
        yield Problem(
            WHERE,
            f"{image} has no .vmlinuz-….hmac beside its kernel, without which it stops in the "
            "initrd: distributions with a validated kernel ship one, Debian does not",
        )


def set_policy(tree: Tree, root: Path, target: Target) -> bool:
    """Have the libraries follow, where the image has system-wide policies (crypto-policies(7))."""
    if not Unpacked(tree).has(POLICIES):
        return False
    target.run(root, POLICIES, "--no-reload", "--set", "FIPS", timeout=120)
    return True
