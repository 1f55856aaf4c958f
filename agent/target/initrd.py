"""What an initrd must hold to find, assemble, unlock and mount this machine's /."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from agent.target.needs import Needs
from agent.target.tree import Tree

# Any of these brings up the network before Tang is asked: networkd, NetworkManager, dracut's own.
_NETWORKS = ("systemd-networkd", "NetworkManager", "nm-run.sh", "ifup")
# Written by dracut where it left out the drivers of other machines (dracut.conf(5), hostonly).
_HOST_ONLY = ("usr/lib/dracut/hostonly-files", "lib/dracut/hostonly-files")


def missing(names: frozenset[str], builtin: frozenset[str], needs: Needs) -> tuple[str, ...]:
    """Return what dracut's initrd lacks to start the machine, in words for a message.

    `names` are its files, `builtin` the modules that the kernel itself has (`builtin_modules`).
    """
    lacking = [
        *lacking_programs(names, _programs(needs)),
        *lacking_modules(names, builtin, needs),
    ]
    if any(name in names for name in _HOST_ONLY):
        lacking.append("the drivers of other machines than the one it was made on")
    return tuple(lacking)


def lacking_programs(names: frozenset[str], wanted: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield which programs an initrd lacks; of each group one is enough."""
    programs = {PurePosixPath(name).name for name in names}
    return (" or ".join(any_of) for any_of in wanted if not programs & set(any_of))


def lacking_modules(names: frozenset[str], builtin: frozenset[str], needs: Needs) -> Iterator[str]:
    """Yield which kernel modules an initrd lacks."""
    modules = {module for name in names if (module := _module(name))} | builtin
    return (f"module {name}" for name in _modules(needs) if name not in modules)


def builtin_modules(tree: Tree, version: str) -> frozenset[str]:
    """Return the modules built into a kernel (depmod(8), modules.builtin)."""
    path = f"/usr/lib/modules/{version}/modules.builtin"
    if not tree.exists(path):
        return frozenset()
    return frozenset(module for line in tree.read(path).split() if (module := _module(line)))


def _programs(needs: Needs) -> Iterator[tuple[str, ...]]:
    yield ("lvm",)
    if needs.fips:
        yield ("fips.sh",)
    if needs.mirror:
        yield ("mdadm",)
    if needs.encryption:
        yield ("systemd-cryptsetup",)
    if needs.tang or needs.tpm2:
        yield ("clevis-luks-askpass",)
        yield ("clevis-decrypt-sss",)
    if needs.tang:
        yield ("clevis-decrypt-tang",)
        yield _NETWORKS
    if needs.tpm2:
        yield ("clevis-decrypt-tpm2",)
        yield ("tpm2_unseal",)


def _modules(needs: Needs) -> Iterator[str]:
    yield "dm_mod"
    yield needs.kind
    if needs.mirror:
        yield "raid1"
    if needs.encryption:
        yield "dm_crypt"
    yield from needs.link_modules


def _module(path: str) -> str | None:
    match = re.fullmatch(r"(?:.*/)?([^/]+)\.ko(?:\.(?:xz|zst|gz))?", path)
    return match[1].replace("-", "_") if match else None
