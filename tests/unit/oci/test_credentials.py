"""Accounts, from the files that podman and docker write."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agent.errors import PlanError
from agent.oci.credentials import LIVE, Credentials, Login
from agent.secret import Secret


def entry(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def written(directory: Path, document: Any, name: str = "auth.json") -> Path:
    path = directory / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def found(path: Path, registry: str = "r.example.com", repository: str = "team/app") -> Login:
    login = Credentials((path,)).login(registry, repository)
    assert login is not None
    return login


def test_the_most_special_entry_counts(tmp_path: Path) -> None:
    auths = {
        "r.example.com": entry("all:1"),
        "r.example.com/team": entry("team:2"),
        "r.example.com/team/app": entry("app:3"),
    }
    path = written(tmp_path, {"auths": auths})
    assert found(path).user == "app"
    assert found(path, repository="team/other").user == "team"
    assert found(path, repository="other").user == "all"


def test_a_password_may_have_colons_and_is_never_shown(tmp_path: Path) -> None:
    login = found(written(tmp_path, {"auths": {"r.example.com": entry("me:a:b:c")}}))
    assert login.password == Secret("a:b:c")
    assert login.basic.text == "Basic " + base64.b64encode(b"me:a:b:c").decode()
    assert "a:b:c" not in repr(login)


@pytest.mark.parametrize("key", ["https://r.example.com", "https://r.example.com/v1/"])
def test_keys_as_docker_writes_them_are_known(tmp_path: Path, key: str) -> None:
    assert found(written(tmp_path, {"auths": {key: entry("me:x")}})).user == "me"


def test_docker_hub_has_a_key_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, {"auths": {"https://index.docker.io/v1/": entry("me:x")}})
    assert found(path, "docker.io", "library/debian").user == "me"


def test_another_registrys_account_is_none(tmp_path: Path) -> None:
    path = written(tmp_path, {"auths": {"r.example.com": entry("me:x")}})
    assert Credentials((path,)).login("r.example.com.evil.example", "team/app") is None
    assert Credentials((path,)).login("r.example.com:5000", "team/app") is None


def test_the_first_file_with_an_account_counts_and_missing_ones_do_not(tmp_path: Path) -> None:
    empty = written(tmp_path, {"auths": {"r.example.com": {}}}, "empty.json")
    full = written(tmp_path, {"auths": {"r.example.com": entry("me:x")}})
    later = written(tmp_path, {"auths": {"r.example.com": entry("you:x")}}, "later.json")
    places = Credentials((tmp_path / "none.json", empty, full, later))
    login = places.login("r.example.com", "a")
    assert login is not None
    assert login.user == "me"


@pytest.mark.parametrize(
    "document",
    [
        "secret-and-no-json",
        [],
        {"auths": []},
        {"auths": {"r.example.com": {"auth": "!!"}}},
        {"auths": {"r.example.com": {"auth": 7}}},
        {"auths": {"r.example.com": entry("no-colon")}},
    ],
)
def test_a_broken_file_is_named_and_not_quoted(tmp_path: Path, document: Any) -> None:
    path = written(tmp_path, document)
    with pytest.raises(PlanError, match=str(path)) as caught:
        Credentials((path,)).login("r.example.com", "a")
    assert "secret-and" not in str(caught.value)


def test_a_credential_helper_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = written(tmp_path, {"credHelpers": {"r.example.com": "ecr-login"}})
    with pytest.raises(PlanError, match=r"credential helper.*--authfile"):
        Credentials((path,)).login("r.example.com", "a")
    assert Credentials((path,)).login("other.example.com", "a") is None


def test_files_are_looked_for_where_podman_and_docker_keep_them() -> None:
    places = Credentials.usual({"HOME": "/home/me", "XDG_RUNTIME_DIR": "/run/user/1"}).files
    assert list(map(str, places)) == [
        str(LIVE),
        "/run/user/1/containers/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
    ]


def test_a_given_account_is_for_its_registry_only() -> None:
    given = Credentials(given=Login("me", Secret("x")), only="r.example.com")
    assert given.login("r.example.com", "a") is not None
    assert given.login("other.example.com", "a") is None
