import os
from pathlib import Path

import pytest

from agent.errors import StepError
from agent.target.accounts import Account, account, authorize
from agent.target.identity import forget, hosts, identity
from agent.target.selinux import enabled
from agent.target.tree import Tree
from tests.unit.target.sample import MACHINE_ID

KEY = "ssh-ed25519 AAAAC3 me"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\n"
        "broken line\n"
        f"ops:x:{os.geteuid()}:{os.getegid()}::/home/ops:/bin/sh\n"
    )
    return Tree(tmp_path)


def test_the_machine_id_is_written_as_systemd_reads_it() -> None:
    files = {str(file.path): file for file in identity("db01.example.com", MACHINE_ID)}
    assert files["/etc/machine-id"].content == b"22222222222242228222222222222222\n"
    assert files["/etc/machine-id"].mode == 0o444
    assert files["/etc/hostname"].content == b"db01.example.com\n"


def test_the_host_knows_its_long_and_its_short_name() -> None:
    assert "127.0.1.1 db01.example.com db01\n" in hosts("db01.example.com")
    assert "127.0.1.1 db01\n" in hosts("db01")


def test_what_another_machine_must_not_share_is_removed_and_the_rest_is_kept(tree: Tree) -> None:
    keys = ("ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "ssh_host_rsa_key")
    for name in (*keys, "sshd_config", "ssh_host_key_note"):
        (tree.root / "etc/ssh" / name).write_text("x")
    seed = tree.root / "var/lib/systemd/random-seed"
    seed.parent.mkdir(parents=True)
    seed.write_text("x")
    gone = forget(tree)
    assert set(gone) == {*(f"/etc/ssh/{name}" for name in keys), "/var/lib/systemd/random-seed"}
    assert tree.names("/etc/ssh") == ("ssh_host_key_note", "sshd_config")
    assert not seed.exists()


def test_an_account_is_found_by_its_name_in_the_image(tree: Tree) -> None:
    assert str(account(tree, "ops").home) == "/home/ops"
    with pytest.raises(StepError, match=r"ssh_authorized_keys\.db: the image has no account db"):
        account(tree, "db")


def test_keys_are_private_to_their_account_and_replace_those_of_the_image(tree: Tree) -> None:
    there = tree.root / "home/ops/.ssh"
    there.mkdir(parents=True, mode=0o755)
    (there / "authorized_keys").write_text("ssh-ed25519 AAAA builder\n")
    path = authorize(tree, account(tree, "ops"), [KEY, KEY])
    assert path == "/home/ops/.ssh/authorized_keys"
    assert (there / "authorized_keys").read_text() == f"{KEY}\n{KEY}\n"
    assert (there.stat().st_mode & 0o777, (there / "authorized_keys").stat().st_mode & 0o777) == (
        0o700,
        0o600,
    )


def test_a_home_that_leads_out_of_the_tree_stays_in_it(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (tree.root / "home").mkdir()
    (tree.root / "home/ops").symlink_to(outside)
    authorize(tree, account(tree, "ops"), [KEY])
    assert list(outside.iterdir()) == []


def test_a_missing_home_is_made_for_its_account(tree: Tree) -> None:
    me = Account("x", os.geteuid(), os.getegid(), account(tree, "ops").home / "deeper")
    authorize(tree, me, [KEY])
    assert (tree.root / "home/ops/deeper").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (None, False),
        ("SELINUX=disabled\n", False),
        ("# SELINUX=enforcing\nSELINUX=disabled\n", False),
        ("SELINUX=enforcing\nSELINUXTYPE=targeted\n", True),
        ("SELINUX = permissive\n", True),
        ("", False),
    ],
)
def test_selinux_is_on_when_its_configuration_says_so(
    tree: Tree, config: str | None, wanted: bool
) -> None:
    if config is not None:
        (tree.root / "etc/selinux").mkdir()
        (tree.root / "etc/selinux/config").write_text(config)
    assert enabled(tree) is wanted
