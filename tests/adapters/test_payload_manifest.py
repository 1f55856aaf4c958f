"""Finding the manifest: signature first, whatever the mirrors say; and the same with openssl."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agent.errors import ImageError, PlanError
from agent.payload.document import MAX_BYTES, encode, parse
from agent.payload.fetch import get_manifest
from agent.payload.manifest import MAX_CHUNKS
from agent.payload.options import FetchOptions
from agent.payload.sign import load_trusted
from agent.payload.stream import stream
from agent.secret import Secret
from tests.adapters.crooked import (
    Crooked,
    Cut,
    Endless,
    Fault,
    Garbage,
    Gzip,
    Html,
    Redirect,
    Request,
    Stall,
    Status,
    Trickle,
    WrongLength,
    for_path,
    mirrors,
)
from tests.unit.payload.images import Image, image, packed, root_file_system, signing_key

QUICK = FetchOptions(
    connections=2, connect=1.0, stall=0.3, request=1.0, patience=2.5, warn=lambda message: None
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return image(tmp_path_factory.mktemp("image"))


def failure(sample: Image, *urls: str, options: FetchOptions = QUICK) -> str:
    began = time.monotonic()
    with pytest.raises(ImageError) as caught:
        get_manifest(urls, [sample.key.public], options)
    assert time.monotonic() - began < options.patience + options.request + 2
    return str(caught.value)


def test_the_manifest_is_found_with_where_it_came_from(sample: Image) -> None:
    with Crooked(dict(sample.files)) as server:
        urls = [server.url("missing/image.json"), server.url("image.json")]
        manifest, source = get_manifest(urls, [sample.key.public], QUICK)
    assert manifest == sample.manifest
    assert source.manifest_url == server.url("image.json")
    assert source.key == sample.key.public.id
    assert source.payload_urls == (
        server.url("image.tar.zst"),
        server.url("missing/image.tar.zst"),
    )
    # Nothing is parsed that was not verified: the signature is asked for first.
    assert [r.path for r in server.requests[-2:]] == ["image.json.sig", "image.json"]


def test_a_medium_in_the_machine_serves_as_well(sample: Image, tmp_path: Path) -> None:
    for path, content in sample.files.items():
        (tmp_path / path).write_bytes(content)
    url = (tmp_path / "image.json").as_uri()
    manifest, source = get_manifest([url], [sample.key.public], QUICK)
    assert b"".join(map(bytes, stream(manifest, source, QUICK))) == sample.raw
    (tmp_path / "image.json.sig").unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        get_manifest([url], [sample.key.public], QUICK)


def test_payloads_elsewhere_are_asked_without_the_token(sample: Image, tmp_path: Path) -> None:
    store = Crooked(dict(sample.files))
    with mirrors(store):
        manifest = sample.manifest.model_copy(
            update={
                "payload": sample.manifest.payload.model_copy(
                    update={"urls": (store.url("image.tar.zst"),)}
                )
            }
        )
        document = encode(manifest)
        files = {"m.json": document, "m.json.sig": sample.key.sign(document)}
        with Crooked(files) as front:
            options = replace(QUICK, token=Secret("s3cret"))
            found, source = get_manifest([front.url("m.json")], [sample.key.public], options)
            assert source.payload_urls == (store.url("image.tar.zst"),)
            assert b"".join(map(bytes, stream(found, source, options))) == sample.raw
    assert all(r.headers["Authorization"] == "Bearer s3cret" for r in front.requests)
    assert not any("Authorization" in r.headers for r in store.requests)


def test_a_query_stays_with_the_manifest_and_its_signature(sample: Image) -> None:
    files = {
        "image.json?k=1": sample.files["image.json"],
        "image.json.sig?k=1": sample.files["image.json.sig"],
    }
    with Crooked(files) as server:
        _, source = get_manifest([server.url("image.json?k=1")], [sample.key.public], QUICK)
    assert source.payload_urls == (server.url("image.tar.zst"),)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Status(404), "answered 404"),
        (Status(503), "answered 503"),
        (Html(), "signature: has 39 bytes"),
        (Gzip(), "encodes the payload on its way (gzip)"),
        (Cut(0), "broke the connection"),
        (Stall(100), "sent no byte for 0.3 s"),
        (Trickle(), "was not done in"),
        (WrongLength(+9), "cut the connection 9 bytes too early"),
        (Garbage(), "broke the connection"),
        (Redirect(), "redirects in a loop"),
        (Endless(), "is longer than the 64 bytes that image.json.sig may have"),
    ],
    ids=str,
)
def test_a_mirror_that_fails_is_named_and_left_for_the_next(
    sample: Image, fault: Fault, said: str
) -> None:
    bad = Crooked(dict(sample.files), for_path(".sig", fault))
    good = Crooked(dict(sample.files))
    told: list[str] = []
    with mirrors(bad, good):
        options = replace(QUICK, warn=told.append)
        urls = [bad.url("image.json"), good.url("image.json")]
        _, source = get_manifest(urls, [sample.key.public], options)
        assert source.manifest_url == good.url("image.json")
        assert len(told) == 1
        assert told[0].startswith(f"{bad.url('image.json')}: ")
        assert said in told[0]
        assert said in failure(sample, bad.url("image.json"))


def test_a_mirror_that_recovers_is_asked_again(sample: Image) -> None:
    def script(request: Request) -> Fault | None:
        return Status(503) if request.number < 2 else None

    with Crooked(dict(sample.files), script) as server:
        get_manifest([server.url("image.json")], [sample.key.public], QUICK)


def test_what_is_missing_everywhere_fails_at_once(sample: Image) -> None:
    with Crooked({}) as server:
        began = time.monotonic()
        message = failure(sample, server.url("a.json"), server.url("b.json"))
        assert time.monotonic() - began < QUICK.patience
    assert message == (
        f"manifest: no trusted one to be had; {server.url('a.json')}: answered 404 Whatever; "
        f"{server.url('b.json')}: answered 404 Whatever"
    )


def test_a_manifest_published_between_two_requests_is_asked_for_again(sample: Image) -> None:
    old = dict(sample.files) | {"image.json.sig": sample.key.sign(b"the older manifest")}
    with Crooked(old) as server:

        def script(request: Request) -> Fault | None:
            server.files = dict(sample.files)  # from the second request on
            return None

        server.script = script
        manifest, _ = get_manifest([server.url("image.json")], [sample.key.public], QUICK)
    assert manifest == sample.manifest


def spoiled(document: bytes) -> bytes:
    return document.replace(b'"size": ', b'"size": 1', 1)


def test_a_manifest_that_was_changed_is_refused_before_it_is_parsed(sample: Image) -> None:
    files = dict(sample.files) | {"image.json": spoiled(sample.files["image.json"])}
    with Crooked(files) as server:
        message = failure(sample, server.url("image.json"))
    assert f"signature: matches no trusted key (trusted: {sample.key.public.id})" in message


def test_a_key_that_is_not_trusted_signs_for_nothing(sample: Image, tmp_path: Path) -> None:
    other = signing_key(tmp_path)
    signature = other.sign(sample.files["image.json"])
    with Crooked(dict(sample.files) | {"image.json.sig": signature}) as server:
        assert "matches no trusted key" in failure(sample, server.url("image.json"))
        get_manifest([server.url("image.json")], [sample.key.public, other.public], QUICK)


def test_a_signed_manifest_that_is_wrong_is_its_authors_problem(sample: Image) -> None:
    document = spoiled(sample.files["image.json"])
    files = {"x.json": document, "x.json.sig": sample.key.sign(document)}
    with Crooked(files) as server, pytest.raises(PlanError, match="the last chunk ends at"):
        get_manifest([server.url("x.json")], [sample.key.public], QUICK)


def test_a_manifest_without_end_is_given_up_at_its_limit(sample: Image) -> None:
    with Crooked(dict(sample.files), for_path(".json", Endless())) as server:
        options = replace(QUICK, request=20, patience=20)
        message = failure(sample, server.url("image.json"), options=options)
    limit = f"is longer than the {MAX_BYTES} bytes that image.json may have"
    assert limit in message or "was not done in" in message


def _parsed_alone(path: Path) -> tuple[float, int]:
    """Parse a manifest of MAX_CHUNKS in a process; return its CPU seconds and most bytes of RAM."""
    program = (
        "import sys, resource; from agent.payload.document import parse; "
        "print(len(parse(open(sys.argv[1], 'rb').read()).chunks)); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, seconds, most = done.stdout.split()
    assert int(count) == MAX_CHUNKS
    return float(seconds), int(most)


def test_a_million_chunks_are_read_in_bounded_time_and_memory_and_one_more_is_refused(
    sample: Image, tmp_path: Path
) -> None:
    shell = json.loads(sample.files["image.json"]) | {"chunks": [], "size": MAX_CHUNKS}
    shell["payload"]["size"] = 20 * MAX_CHUNKS
    line = '{{"offset":{0},"length":1,"at":{1},"stored":20,"sha256":"{2}"}}'
    chunks = ",\n".join(line.format(n, 20 * n, "ab" * 32) for n in range(MAX_CHUNKS))
    document = json.dumps(shell).replace('"chunks": []', '"chunks": [' + chunks + "]").encode()
    assert len(document) < MAX_BYTES
    path = tmp_path / "million.json"
    path.write_bytes(document)
    seconds, most = _parsed_alone(path)
    # Measured: 5 s and 820 MiB. An image of 8 GiB has 2000 chunks.
    assert seconds < 60
    assert most < 1 << 30
    with pytest.raises(PlanError, match="chunks: is a list of 1000001, must have at most 1000000"):
        parse(document[:-2] + b",\n" + line.format(0, 0, "ab" * 32).encode() + b"]}")


DOCUMENT = Path(__file__).parents[2] / "docs/image-format.md"


def by_hand() -> str:
    """Return the session of docs/image-format.md that checks an image with plain tools."""
    return DOCUMENT.read_text().partition("```sh\n")[2].partition("```")[0]


def shell(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-eu", "-o", "pipefail", "-c", script.replace("| head -3", "")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    key = signing_key(tmp_path)
    packed(root_file_system(), tmp_path, "debian13", key)
    (tmp_path / "key.pub").rename(tmp_path / "image.pub")
    return tmp_path


def test_plain_tools_check_an_image_as_the_document_says(published: Path) -> None:
    done = shell(by_hand(), published)
    assert done.returncode == 0, done.stderr
    assert "Signature Verified Successfully" in done.stdout
    assert "etc/os-release" in done.stdout
    (trusted,) = load_trusted([published / "image.pub"])
    identify = "openssl pkey -pubin -in image.pub -outform DER | sha256sum | head -c 16"
    assert identify in DOCUMENT.read_text()
    assert shell(identify, published).stdout == trusted.id


@pytest.mark.parametrize("path", ["debian13.json", "debian13.json.sig", "debian13.tar.zst"])
def test_plain_tools_notice_a_bit_that_changed_in_any_of_the_files(
    published: Path, path: str
) -> None:
    content = bytearray((published / path).read_bytes())
    content[len(content) // 2] ^= 1
    (published / path).write_bytes(content)
    assert shell(by_hand(), published).returncode != 0


Certificate = tuple[ssl.SSLContext, str]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Certificate]:
    """Return a maker of self-signed certificates for a host: server context and PEM."""

    def make(host: str) -> Certificate:
        directory = tmp_path_factory.mktemp("tls")
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = datetime.now(UTC)
        names = [x509.IPAddress(ip_address(host))] if host[0].isdigit() else [x509.DNSName(host)]
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = built.public_bytes(Encoding.PEM)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (directory / "server.pem").write_bytes(secret + pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "server.pem")
        return context, pem.decode()

    return make


def test_tls_is_spoken_to_who_shows_the_pinned_certificate(
    sample: Image, certificate: Callable[[str], Certificate]
) -> None:
    context, pem = certificate("127.0.0.1")
    with Crooked(dict(sample.files), tls=context) as server:
        options = replace(QUICK, ca=pem)
        manifest, source = get_manifest([server.url("image.json")], [sample.key.public], options)
        assert b"".join(map(bytes, stream(manifest, source, options))) == sample.raw


@pytest.mark.parametrize(("host", "trusted"), [("127.0.0.1", False), ("example.com", True)])
def test_tls_with_an_unknown_or_misnamed_certificate_is_refused_at_once(
    sample: Image, certificate: Callable[[str], Certificate], host: str, trusted: bool
) -> None:
    context, pem = certificate(host)
    with Crooked(dict(sample.files), tls=context) as server:
        options = replace(QUICK, ca=pem if trusted else None)
        message = failure(sample, server.url("image.json"), options=options)
    assert "has a TLS certificate that is not trusted: " in message
    assert server.requests == []


def test_https_is_never_left_for_http(
    sample: Image, certificate: Callable[[str], Certificate]
) -> None:
    context, pem = certificate("127.0.0.1")
    plain = Crooked(dict(sample.files))
    with mirrors(plain):
        script = for_path("", Redirect(plain.url("image.json")))
        with Crooked(dict(sample.files), script, tls=context) as server:
            options = replace(QUICK, ca=pem)
            message = failure(sample, server.url("image.json"), options=options)
    assert f"redirects from https to plain {plain.url('image.json')}" in message
    assert plain.requests == []
