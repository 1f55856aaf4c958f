"""The live image: Debian, blivet, the agent and the keys it trusts, as UKI and kernel + initrd."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from image.builder import mkosi, outputs, stage
from image.builder.report import say

VARIANTS = ("full", "rig")
MODULES = "usr/lib/python3/dist-packages"
FILES = {
    "bedplate.efi": ".efi",
    "vmlinuz": ".vmlinuz",
    "initrd.img": ".initrd",
}


def build(root: Path, workshop: Path, variant: str, *, force: bool, verbose: bool) -> None:
    """Build the variant into build/live/`variant`, unless it is there and nothing changed."""
    target = root / "build/live" / variant
    tree = workshop / f"stage-{variant}"
    agent, keys = gather(root, workshop, tree)
    image = root / "image"
    configuration = [root / "mkosi.conf.d", image / "builder", *sorted(image.glob("*.chroot"))]
    stamp = stage.digest([*configuration, tree], variant)
    if not force and outputs.is_current(target, [*FILES, "manifest.json"], stamp):
        say(f"live/{variant}: up to date, nothing to do ({target})")
        return
    say(f"live/{variant}: agent {agent}, {keys} image key(s)")
    name = f"live-{variant}"
    results = mkosi.build(
        workshop,
        root,
        name,
        [f"--profile={variant}", f"--extra-tree={tree}"],
        force=force,
        verbose=verbose,
    )
    packages = outputs.packages(results / f"{name}.manifest")
    outputs.publish(
        target,
        {to: results / f"{name}{suffix}" for to, suffix in FILES.items()},
        stamp,
        {
            "name": "bedplate-live",
            "variant": variant,
            "agent": agent,
            "blivet": stage.BLIVET,
            "packages": packages,
        },
    )


def gather(root: Path, workshop: Path, tree: Path) -> tuple[str, int]:
    """Make `tree` what is laid over the packages; returns the agent's version and its key count."""
    shutil.rmtree(tree, ignore_errors=True)
    stage.copy_tree(root / "image/tree", tree)
    stage.copy_tree(stage.fetch_blivet(workshop) / "blivet", tree / MODULES / "blivet")
    stage.copy_tree(root / "agent", tree / MODULES / "agent")
    keys = root / "build/keys"
    count = stage.copy_keys(keys.glob("*.pub"), tree / "etc/bedplate/keys")
    stage.copy_keys(keys.glob("plan/*.pub"), tree / "etc/bedplate/plan-keys")
    stage.copy_keys(keys.glob("ca/*.pem"), tree / "etc/bedplate/ca")
    stage.copy_keys((root / "build/presets").glob("*.yaml"), tree / "etc/bedplate/presets")
    policy = root / "build/policy.yaml"
    if policy.exists():
        stage.copy_file(policy, tree / "etc/bedplate/policy.yaml")
    accounts = root / "build/auth.json"
    if accounts.exists():  # of registries: agent.oci.credentials
        stage.copy_file(accounts, tree / "etc/bedplate/auth.json")
        (tree / "etc/bedplate/auth.json").chmod(0o600)
    version = re.search(r'__version__ = "([^"]+)"', (root / "agent/__init__.py").read_text())
    return version[1] if version else "unknown", count
