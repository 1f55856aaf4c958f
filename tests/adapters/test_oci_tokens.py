"""Tokens: got from the server that the registry names, shown to nobody else, renewed in time."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import ImageError
from agent.oci.credentials import Credentials
from agent.oci.push import Local, read_local
from agent.oci.registries import Registries
from agent.payload.fetch import get_manifest
from agent.payload.stream import stream
from agent.reference import Reference
from tests.adapters.registry import Registry, registry
from tests.adapters.test_oci_push import QUICK, pulled, pushed
from tests.adapters.tokenserver import Guarded, guarded
from tests.unit.payload.images import Image, image

ACCOUNT = "robot$site:correct-horse"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image")


@pytest.fixture(scope="module")
def sample(directory: Path) -> Image:
    return image(directory)


@pytest.fixture(scope="module")
def local(sample: Image, directory: Path) -> Local:
    return read_local(directory / "image.json")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory, local: Local) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        pushed(local, f"{running}/team/sample:1")
        yield running


def account(directory: Path, host: str, entry: dict[str, str] | None = None) -> Credentials:
    """Return credentials from a file as `podman login` writes it."""
    entry = entry or {"auth": base64.b64encode(ACCOUNT.encode()).decode()}
    file = directory / "auth.json"
    file.write_text(json.dumps({"auths": {host: entry}}))
    return Credentials((directory / "missing.json", file))


def test_a_public_image_is_pulled_with_a_token_that_nobody_had_to_ask_for(
    upstream: Registry, sample: Image
) -> None:
    with guarded(Guarded(upstream.port)) as guard:
        options = replace(QUICK, registry=Registries(Credentials()))
        url = f"oci+http://{guard.host}/team/sample:1"
        assert pulled(sample, url, options=options) == sample.raw
        assert len(guard.given("/token")) == 1
        assert guard.given("/token")[0].authorization is None


def test_a_push_gets_a_token_for_pushing_with_the_account_of_the_file(
    upstream: Registry, local: Local, tmp_path: Path
) -> None:
    with guarded(Guarded(upstream.port, ACCOUNT)) as guard:
        registries = Registries(account(tmp_path, guard.host), "pull,push")
        options = replace(QUICK, registry=registries)
        done = pushed(local, f"oci+http://{guard.host}/team/new:1", options)
        assert done.sent > 0
        basic = "Basic " + base64.b64encode(ACCOUNT.encode()).decode()
        assert {seen.authorization for seen in guard.given("/token")} == {basic}
        shown = {seen.authorization for seen in guard.given("/v2/")}
        assert basic not in shown


def test_a_refresh_token_goes_in_the_body_of_a_post(
    upstream: Registry, sample: Image, tmp_path: Path
) -> None:
    with guarded(Guarded(upstream.port, refresh="long-lived", anonymous=False)) as guard:
        login = account(tmp_path, guard.host, {"auth": "", "identitytoken": "long-lived"})
        options = replace(QUICK, registry=Registries(login))
        assert pulled(sample, f"oci+http://{guard.host}/team/sample:1", options=options)
        (asked,) = guard.given("/token")
        assert (asked.method, asked.authorization) == ("POST", None)


def test_a_token_that_expires_in_the_middle_is_renewed(upstream: Registry, sample: Image) -> None:
    with guarded(Guarded(upstream.port, uses=4)) as guard:
        options = replace(QUICK, registry=Registries(Credentials()))
        url = f"oci+http://{guard.host}/team/sample:1"
        assert pulled(sample, url, options=options) == sample.raw
        assert len(guard.given("/token")) >= 2


def test_the_token_stays_with_the_registry_when_blobs_are_redirected(
    upstream: Registry, sample: Image
) -> None:
    with (
        guarded(Guarded(upstream.port)) as store,
        guarded(Guarded(upstream.port, blobs_at=f"http://127.0.0.1:{upstream.port}")) as guard,
        guarded(Guarded(upstream.port, blobs_at=f"http://{store.host}")) as leaky,
    ):
        options = replace(QUICK, registry=Registries(Credentials()))
        url = f"oci+http://{guard.host}/team/sample:1"
        assert pulled(sample, url, options=options) == sample.raw
        with pytest.raises(ImageError, match="401"):
            pulled(sample, f"oci+http://{leaky.host}/team/sample:1", options=options)
        assert store.seen
        assert {seen.authorization for seen in store.seen} == {None}


def test_a_refused_account_is_named_and_its_password_is_nowhere(
    upstream: Registry, sample: Image, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with guarded(Guarded(upstream.port, "robot$site:another", anonymous=False)) as guard:
        options = replace(QUICK, registry=Registries(account(tmp_path, guard.host)))
        with pytest.raises(ImageError, match=r"refuses the account of robot\$site") as caught:
            pulled(sample, f"oci+http://{guard.host}/team/sample:1", options=options)
    assert "correct-horse" not in str(caught.value) + caplog.text
    assert "correct-horse" not in repr(options)


def test_another_registrys_account_is_not_shown(
    upstream: Registry, sample: Image, tmp_path: Path
) -> None:
    with guarded(Guarded(upstream.port, ACCOUNT, anonymous=False)) as guard:
        login = account(tmp_path, "registry.example.com")
        options = replace(QUICK, registry=Registries(login))
        with pytest.raises(ImageError, match="wants an account"):
            pulled(sample, f"oci+http://{guard.host}/team/sample:1", options=options)
        assert {seen.authorization for seen in guard.given("/token")} == {None}


@pytest.mark.parametrize(
    "realm", ["http://user:pw@127.0.0.1/token", "ftp://127.0.0.1/token", "/token", "https://"]
)
def test_a_token_server_at_no_address_is_refused(
    upstream: Registry, sample: Image, realm: str
) -> None:
    with guarded(Guarded(upstream.port, realm=realm)) as guard:
        options = replace(QUICK, registry=Registries(Credentials()))
        with pytest.raises(ImageError, match="token server, must be an https address"):
            pulled(sample, f"oci+http://{guard.host}/team/sample:1", options=options)


def test_a_password_goes_to_no_token_server_over_plain_http_but_on_this_machine(
    upstream: Registry, sample: Image, tmp_path: Path
) -> None:
    with guarded(Guarded(upstream.port, realm="http://192.0.2.1/token")) as guard:
        options = replace(QUICK, registry=Registries(account(tmp_path, guard.host)))
        with pytest.raises(ImageError, match=r"account over plain HTTP \(192\.0\.2\.1\)"):
            pulled(sample, f"oci+http://{guard.host}/team/sample:1", options=options)


def test_many_connections_ask_for_one_token(upstream: Registry, sample: Image) -> None:
    with guarded(Guarded(upstream.port)) as guard:
        options = replace(QUICK, connections=8, registry=Registries(Credentials()))
        url = f"oci+http://{guard.host}/team/sample:1"
        manifest, source = get_manifest([url], [sample.key.public], options)
        fresh = replace(options, registry=Registries(Credentials()))
        assert b"".join(map(bytes, stream(manifest, source, fresh))) == sample.raw
        assert len(guard.given("/token")) == 2
        assert Reference.parse(url).base in source.payload_urls[0]
