"""`bedplate image push` as it is typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from tests.adapters.registry import HTPASSWD, PASSWORD, USER, Registry, registry
from tests.unit.payload.images import image, packed, root_file_system


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("image")
    image(made)
    return made


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback, the one place where a password may go without TLS."""
    place = tmp_path_factory.mktemp("registry")
    users = place / "htpasswd"
    users.write_text(HTPASSWD)
    with registry(place, auth={"htpasswd": {"realm": "r", "path": str(users)}}) as running:
        yield running


def push(*arguments: object, password: str | None = PASSWORD, home: Path | None = None) -> Result:
    account = () if password is None else ("--username", USER)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": "", "XDG_CONFIG_HOME": ""}
    return CliRunner().invoke(
        main, ["image", "push", *map(str, arguments), *account], input=password, env=environment
    )


def test_the_first_push_sends_and_the_second_says_what_was_there(
    closed: Registry, directory: Path
) -> None:
    first = push(f"{closed}/app:1", directory / "image.json", "--json")
    told = json.loads(first.stdout)
    assert first.exit_code == 0
    assert told["sent"] == told["size"] > 0
    second = push(f"{closed}/app:2", "-d", directory, password=f"{PASSWORD}\n")
    assert second.exit_code == 0
    assert second.stdout.startswith(f"{closed}/app:2@{told['digest']}\n0.0 MB sent")
    assert "(100%)" in second.stdout


def test_what_was_pushed_can_be_verified_where_it_lies(directory: Path, tmp_path: Path) -> None:
    with registry(tmp_path / "open") as running:
        assert push(f"{running}/app:1", "-d", directory, password=None).exit_code == 0
        looked = ["image", "verify", f"{running}/app:1", "--trust", str(directory / "key.pub")]
        done = CliRunner().invoke(main, looked)
        assert done.exit_code == 0, done.output
        for blob in running.blobs.glob("*/*/data"):
            if blob.read_bytes() in (directory / "image.tar.zst").read_bytes():
                blob.write_bytes(b"\0" * blob.stat().st_size)
        assert CliRunner().invoke(main, looked).exit_code == 5


def test_a_wrong_password_fails_and_is_shown_nowhere(closed: Registry, directory: Path) -> None:
    done = push(f"{closed}/app:3", "-d", directory, password="not-that-one")
    assert done.exit_code == 5
    assert "401" in done.stderr
    assert "not-that-one" not in done.output


def test_the_account_that_podman_left_is_used(
    closed: Registry, directory: Path, tmp_path: Path
) -> None:
    none = push(f"{closed}/app:4", "-d", directory, password=None, home=tmp_path)
    assert none.exit_code == 5
    assert f"no account for {closed.host}" in none.stderr
    (tmp_path / ".config/containers").mkdir(parents=True)
    pair = "dXNlcjpzZWNyZXQ="  # user:secret
    (tmp_path / ".config/containers/auth.json").write_text(
        json.dumps({"auths": {closed.host: {"auth": pair}}})
    )
    done = push(f"{closed}/app:4", "-d", directory, password=None, home=tmp_path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("https://r/app:1", "no address such as oci://"),
        ("oci://r/app", "neither a tag nor a digest"),
        (f"oci://r/app@sha256:{'0' * 64}", "must have a tag and no digest"),
    ],
)
def test_a_wrong_address_is_refused_before_anything_is_asked(
    directory: Path, reference: str, why: str
) -> None:
    done = push(reference, "-d", directory)
    assert done.exit_code == 3
    assert why in done.stderr


def test_a_directory_with_two_images_or_none_needs_a_name(tmp_path: Path) -> None:
    assert "holds 0 images (none)" in push("oci://r/a:1", "-d", tmp_path).stderr
    first = image(tmp_path)
    packed(root_file_system(), tmp_path, "other", first.key)
    done = push("oci://r/a:1", "-d", tmp_path)
    assert done.exit_code == 3
    assert "holds 2 images (image.json, other.json)" in done.stderr


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    image(tmp_path)
    (tmp_path / "image.tar.zst").write_bytes(b"short")
    done = push("oci://r/a:1", tmp_path / "image.json")
    assert done.exit_code == 3
    assert "image.tar.zst: has 5 bytes, the manifest says" in done.stderr
    (tmp_path / "image.tar.zst").unlink()
    done = push("oci://r/a:1", tmp_path / "image.json")
    assert "holds no payload of image.json: image.tar.zst" in done.stderr
