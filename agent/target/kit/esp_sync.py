"""Keep all ESPs equal on the installed system: hooks of kernel updates, a watch on the rest."""

from __future__ import annotations

from agent.layout.model import Layout
from agent.target.kit import SBIN, UNITS, Kit, part

# zzz: after the hook that runs kernel-install; 95: after its plugin that writes the entry (90).
HOOKS = (
    "/etc/kernel/postinst.d/zzz-bedplate-esp",
    "/etc/kernel/postrm.d/zzz-bedplate-esp",
    "/etc/kernel/install.d/95-bedplate-esp.install",
)


def kit(layout: Layout) -> Kit:
    """Return the kit of a mirrored machine, an empty one where there is one ESP."""
    if len(layout.esps) < 2:
        return Kit()
    name = "bedplate-esp-sync"
    return Kit(
        files=(
            part(f"{name}.sh", f"{SBIN}/{name}", 0o755),
            part(f"{name}.service", f"{UNITS}/{name}.service"),
            part(f"{name}.path", f"{UNITS}/{name}.path"),
            *(part("bedplate-esp-hook.sh", hook, 0o755) for hook in HOOKS),
        ),
        enabled=(
            ("multi-user.target", f"{name}.service"),
            ("multi-user.target", f"{name}.path"),
        ),
    )
