"""Images through a forward proxy: what it is told, what the origin is told, and what fails how."""

from __future__ import annotations

import ssl
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.adapters.images import HttpImages
from agent.cli import main
from agent.errors import ImageError
from agent.payload.fetch import get_manifest
from agent.payload.options import Access, FetchOptions
from agent.payload.stream import stream
from agent.proxy import Proxies, Proxy
from agent.secret import Secret
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import Crooked, Redirect, for_path
from tests.adapters.forwarder import Forwarder
from tests.unit.payload.images import Image, image

LOGIN = "fleet:s3cret"
QUICK = FetchOptions(
    connections=2, connect=1.0, stall=0.4, request=1.0, patience=1.5, warn=lambda message: None
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    chain, key = self_signed(tmp_path_factory.mktemp("tls"), "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context, chain.read_text()


def through(forwarder: Forwarder, login: str = "", *direct: str) -> Proxies:
    url = forwarder.url.replace("//", f"//{login}@") if login else forwarder.url
    return Proxies.through(Proxy.parse(url), direct)


def fetched(sample: Image, server: Crooked, options: FetchOptions) -> None:
    """Fetch manifest and payload; all of it must be right."""
    manifest, source = get_manifest([server.url("image.json")], [sample.key.public], options)
    assert b"".join(map(bytes, stream(manifest, source, options))) == sample.raw


def failure(sample: Image, server: Crooked, options: FetchOptions) -> str:
    told: list[str] = []
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        fetched(sample, server, replace(options, warn=told.append))
    assert time.monotonic() - began < options.patience + 2
    assert "s3cret" not in str(caught.value) + "".join(told)
    return str(caught.value)


def test_plain_http_goes_through_the_proxy_which_alone_sees_its_password(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server, Forwarder(LOGIN) as forwarder:
        fetched(sample, server, replace(QUICK, proxies=through(forwarder, LOGIN)))
    assert f"GET {server.url('image.json')} HTTP/1.1" in forwarder.asked
    assert len(forwarder.asked) >= len(server.requests)
    assert {request.headers["Host"] for request in server.requests} == {f"127.0.0.1:{server.port}"}
    assert not any("Proxy-Authorization" in request.headers for request in server.requests)


def test_tls_is_tunnelled_so_that_the_proxy_sees_no_path_and_no_token(
    sample: Image, tls: tuple[ssl.SSLContext, str]
) -> None:
    context, ca = tls
    with Crooked(dict(sample.files), tls=context) as server, Forwarder(LOGIN) as forwarder:
        proxies = through(forwarder, LOGIN)
        fetched(sample, server, replace(QUICK, ca=ca, token=Secret("t0ken"), proxies=proxies))
    assert set(forwarder.asked) == {f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"}
    assert "t0ken" not in "".join(forwarder.heads)
    assert all(request.headers["Authorization"] == "Bearer t0ken" for request in server.requests)
    assert not any("Proxy-Authorization" in request.headers for request in server.requests)


def test_a_tunnel_is_no_reason_to_trust_another_certificate(
    sample: Image, tls: tuple[ssl.SSLContext, str]
) -> None:
    with Crooked(dict(sample.files), tls=tls[0]) as server, Forwarder() as forwarder:
        message = failure(sample, server, replace(QUICK, proxies=through(forwarder)))
    assert "TLS certificate that is not trusted" in message


def test_hosts_that_are_excepted_are_asked_directly(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server, Forwarder() as forwarder:
        fetched(sample, server, replace(QUICK, proxies=through(forwarder, "", "127.0.0.0/8")))
    assert forwarder.asked == []


def test_a_redirect_to_an_excepted_host_leaves_the_proxy_and_the_token_behind(
    sample: Image,
) -> None:
    with Crooked(dict(sample.files)) as store, Forwarder(LOGIN) as forwarder:
        place = store.url("image.tar.zst")
        with Crooked(dict(sample.files), for_path(".zst", Redirect(place))) as front:
            proxies = through(forwarder, LOGIN, f"127.0.0.1:{store.port}")
            fetched(sample, front, replace(QUICK, token=Secret("t0ken"), proxies=proxies))
    assert store.requests
    assert not any(str(store.port) in line for line in forwarder.asked)
    for request in store.requests:
        assert not {"Authorization", "Proxy-Authorization"} & set(request.headers)


@pytest.mark.parametrize("secure", [False, True])
def test_a_proxy_that_wants_other_credentials_is_named_without_them(
    sample: Image, tls: tuple[ssl.SSLContext, str], secure: bool
) -> None:
    context, ca = tls if secure else (None, None)
    with Crooked(dict(sample.files), tls=context) as server, Forwarder("fleet:other") as forwarder:
        options = replace(QUICK, ca=ca, proxies=through(forwarder, LOGIN))
        message = failure(sample, server, options)
    assert "answered 407" in message
    assert (f"is behind the proxy {forwarder.url}" in message) == secure
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n", "which answered 503 Later"),
        (b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n", "which answered 403 No"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "broke the connection"),
        (b"HTTP/1.1 200 Go on\r\n\r\nSSH-2.0", "broke the connection"),
        (b"", "broke the connection"),
    ],
)
def test_a_proxy_that_does_not_connect_us_is_a_named_failure(
    sample: Image, tls: tuple[ssl.SSLContext, str], answer: bytes, said: str
) -> None:
    with Crooked({}, tls=tls[0]) as server, Forwarder(answer=answer) as forwarder:
        options = replace(QUICK, ca=tls[1], proxies=through(forwarder))
        assert said in failure(sample, server, options)


def test_a_proxy_that_is_not_there_is_named(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server, Forwarder() as forwarder:
        proxies = through(forwarder, LOGIN)
        forwarder.__exit__()
        message = failure(sample, server, replace(QUICK, proxies=proxies))
    assert f"is behind the proxy {forwarder.url}, which cannot be reached: " in message


def test_a_plan_s_proxy_counts_more_than_the_live_image_s(sample: Image, tmp_path: Path) -> None:
    with Crooked(dict(sample.files)) as server, Forwarder() as ours, Forwarder(LOGIN) as theirs:
        images = HttpImages([sample.key.public], proxies=through(ours))
        manifest, source = images.find([server.url("image.json")])
        assert ours.asked
        seen = len(ours.asked)
        access = Access(Secret("t0ken"), through(theirs, LOGIN))
        manifest, source = images.find([server.url("image.json")], access)
        assert list(images.problems(manifest, source)) == []
    assert len(ours.asked) == seen
    assert sum("image.tar.zst" in line for line in theirs.asked) == 1
    assert server.requests[-1].headers["Authorization"] == "Bearer t0ken"


def test_a_command_takes_the_proxy_of_its_environment(sample: Image, tmp_path: Path) -> None:
    key = tmp_path / "key.pub"
    key.write_bytes(sample.key.public.pem)
    with Crooked(dict(sample.files)) as server, Forwarder(LOGIN) as forwarder:
        url = server.url("image.json")
        arguments = ["image", "verify", url, "--trust", str(key), "--json"]
        through_it = {"http_proxy": forwarder.url.replace("//", f"//{LOGIN}@"), "no_proxy": ""}
        done = CliRunner().invoke(main, arguments, env=through_it)
        assert done.exit_code == 0, done.output
        assert f"GET {url} HTTP/1.1" in forwarder.asked
        wrong = CliRunner().invoke(main, arguments, env={"http_proxy": "socks5://s3cret@x"})
    assert wrong.exit_code == 3
    assert "http_proxy: is not the URL of an http proxy" in wrong.output
    assert "s3cret" not in wrong.output
