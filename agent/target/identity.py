"""What makes one machine different from the next: host name, machine id, and nothing shared."""

from __future__ import annotations

from uuid import UUID

from agent.target.tree import TargetFile, Tree

# Made for one machine, and wrong or dangerous on a second one; each is made anew where it is needed
# (systemd-random-seed(8), systemd-creds(1), ssh-keygen(1) -A by the step that configures the host).
OF_ANOTHER_MACHINE = (
    "/var/lib/systemd/random-seed",
    "/var/lib/systemd/credential.secret",
    "/var/lib/dbus/machine-id",
    # By these systemd takes a machine for a container (systemd-detect-virt(1)) and starts no udev.
    "/.dockerenv",
    "/run/.containerenv",
)
SSH_DIRECTORY = "/etc/ssh"


def identity(hostname: str, machine_id: UUID) -> tuple[TargetFile, ...]:
    """Return /etc/hostname, /etc/hosts and /etc/machine-id.

    The machine id is there from the start, because boot entries are named after it; so the first
    boot is no "first boot" to systemd, and no preset or ConditionFirstBoot= unit runs.
    """
    return (
        TargetFile.text("/etc/hostname", f"{hostname}\n"),
        TargetFile.text("/etc/hosts", hosts(hostname)),
        TargetFile.text("/etc/machine-id", f"{machine_id.hex}\n", 0o444),
    )


def hosts(hostname: str) -> str:
    """Return /etc/hosts: the own name answers also without a name server (127.0.1.1, as Debian)."""
    short = hostname.partition(".")[0]
    names = hostname if short == hostname else f"{hostname} {short}"
    return f"127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost ip6-loopback\n"


def forget(tree: Tree) -> tuple[str, ...]:
    """Remove what the image took from the machine it was made on; return what that was."""
    keys = [
        f"{SSH_DIRECTORY}/{name}"
        for name in tree.names(SSH_DIRECTORY)
        if name.startswith("ssh_host_") and name.endswith(("_key", "_key.pub"))
    ]
    return tuple(path for path in (*keys, *OF_ANOTHER_MACHINE) if tree.remove(path))
