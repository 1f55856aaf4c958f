"""Accounts of the installed system: where their home is, and which keys may log in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from agent.errors import StepError
from agent.target.tree import TargetFile, Tree


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    home: PurePosixPath


def account(tree: Tree, name: str) -> Account:
    """Find an account in the image's /etc/passwd (passwd(5)); raise `StepError` without it."""
    for line in tree.read("/etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) == 7 and fields[0] == name and fields[5].startswith("/"):
            return Account(name, int(fields[2]), int(fields[3]), PurePosixPath(fields[5]))
    raise StepError(f"configure.ssh_authorized_keys.{name}: the image has no account {name}")


def authorize(tree: Tree, account: Account, keys: Sequence[str]) -> str:
    """Let exactly these keys log in; return the file. sshd refuses it if others may write there."""
    directory = account.home / ".ssh"
    owner = (account.uid, account.gid)
    if not tree.exists(account.home):
        tree.directory(account.home, 0o700, *owner)
    tree.directory(directory, 0o700, *owner)
    text = "".join(f"{key}\n" for key in keys)
    tree.write(TargetFile(directory / "authorized_keys", text.encode(), 0o600, *owner))
    return str(directory / "authorized_keys")
