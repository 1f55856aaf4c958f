"""Images into a real registry and out of it again, by the way a machine takes."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.images import HttpImages
from agent.errors import ImageError, PlanError
from agent.oci.credentials import Credentials, Login
from agent.oci.push import Local, Pushed, push, read_local
from agent.oci.registries import Registries
from agent.payload.fetch import get_manifest
from agent.payload.manifest import MAX_CHUNKS, Chunk
from agent.payload.options import FetchOptions
from agent.payload.stream import Tally, stream
from agent.reference import Reference
from agent.secret import Secret
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import Crooked
from tests.adapters.registry import HTPASSWD, PASSWORD, USER, Registry, registry
from tests.unit.payload.images import SMALL, Image, files, image, mixed, packed

NOBODY = Credentials()
SOMEBODY = Credentials(given=Login(USER, Secret(PASSWORD)))
QUICK = FetchOptions(
    connections=3, connect=1.0, stall=2.0, request=5.0, patience=4.0, warn=lambda message: None
)


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
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


def pushing(credentials: Credentials = NOBODY, ca: str | None = None) -> FetchOptions:
    return replace(QUICK, ca=ca, registry=Registries(credentials, "pull,push"))


def pulling(credentials: Credentials = NOBODY, ca: str | None = None) -> FetchOptions:
    return replace(QUICK, ca=ca, registry=Registries(credentials))


def pushed(local: Local, where: str, options: FetchOptions | None = None) -> Pushed:
    return push(local, Reference.parse(where), options or pushing())


def pulled(sample: Image, *urls: str, options: FetchOptions | None = None) -> bytes:
    """Fetch an image as a machine does: manifest by trusted key, then every chunk."""
    options = options or pulling()
    manifest, source = get_manifest(urls, [sample.key.public], options)
    return b"".join(map(bytes, stream(manifest, source, options)))


def test_what_was_pushed_comes_back_byte_by_byte(
    plain: Registry, local: Local, sample: Image
) -> None:
    done = pushed(local, f"{plain}/images/sample:1")
    assert done.sent == done.size == sum(chunk.stored for chunk in set_of(local))
    assert pulled(sample, f"{plain}/images/sample:1") == sample.raw
    assert pulled(sample, f"{plain}/images/sample@{done.digest}") == sample.raw


def set_of(local: Local) -> list[Chunk]:
    return list({chunk.sha256: chunk for chunk in local.manifest.chunks}.values())


def fetched(local: Local) -> list[tuple[int, Chunk]]:
    """Return the chunks that a machine asks for; it makes zeros itself."""
    return [(n, chunk) for n, chunk in enumerate(local.manifest.chunks) if not chunk.zero]


def test_pushing_again_sends_nothing(plain: Registry, local: Local) -> None:
    first = pushed(local, f"{plain}/again:1")
    told: list[tuple[int, int]] = []
    again = push(
        local, Reference.parse(f"{plain}/again:2"), pushing(), lambda *now: told.append(now)
    )
    assert (again.sent, again.shared) == (0, first.size)
    assert again.digest == first.digest
    assert told[-1] == (first.size, first.size)


def test_the_next_version_sends_what_changed(
    plain: Registry, sample: Image, tmp_path: Path
) -> None:
    def version(number: int) -> Local:
        body = {"a": mixed(1, 8 * SMALL), "b": mixed(number, SMALL)}
        made = packed(files(body), tmp_path, f"v{number}", sample.key)
        return read_local(made.document)

    pushed(version(2), f"{plain}/versions:2")
    done = pushed(version(3), f"{plain}/versions:3")
    assert 0 < done.sent < done.size / 3


def test_the_registry_shows_an_oci_image_whose_layers_are_the_chunks(
    plain: Registry, local: Local
) -> None:
    done = pushed(local, f"{plain}/shown:1")
    document = json.loads(plain.blob(done.digest).read_bytes())
    assert document["artifactType"] == "application/vnd.bedplate.image.v1"
    assert plain.blob(document["config"]["digest"]).read_bytes() == local.document
    frames = {
        layer["digest"]: plain.blob(layer["digest"]).read_bytes() for layer in document["layers"]
    }
    payload = b"".join(frames[f"sha256:{chunk.sha256}"] for chunk in local.manifest.chunks)
    assert payload == local.payload.read_bytes()


def test_a_chunk_with_a_flipped_bit_is_never_delivered(
    plain: Registry, local: Local, sample: Image
) -> None:
    pushed(local, f"{plain}/flipped:1")
    number, chunk = fetched(local)[2]
    bad = pytest.raises(ImageError, match=f"chunk {number} .*must be {chunk.sha256}")
    with flipped(plain.blob(chunk.sha256)), bad:
        pulled(sample, f"{plain}/flipped:1")


def test_a_web_server_stands_in_for_a_registry_whose_chunks_are_bad_and_it_is_named(
    plain: Registry, local: Local, sample: Image
) -> None:
    pushed(local, f"{plain}/poor:1")
    options, tally = pulling(), Tally()
    with Crooked(dict(sample.files)) as mirror, contextlib.ExitStack() as stack:
        for chunk in set_of(local):
            stack.enter_context(flipped(plain.blob(chunk.sha256)))
        urls = (f"{plain}/poor:1", mirror.url("image.json"))
        manifest, source = get_manifest(urls, [sample.key.public], options)
        content = b"".join(map(bytes, stream(manifest, source, options, tally)))
    assert content == sample.raw
    assert list(tally.corrupt) == [f"http://{plain.host}/v2/poor/blobs/sha256:{{sha256}}"]


@contextlib.contextmanager
def flipped(file: Path) -> Iterator[None]:
    """Flip a bit in the middle of a file for the length of the context."""
    good = file.read_bytes()
    middle = len(good) // 2
    file.write_bytes(good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
    try:
        yield
    finally:
        file.write_bytes(good)


def test_a_blob_that_is_gone_is_named(plain: Registry, local: Local, sample: Image) -> None:
    pushed(local, f"{plain}/gone:1")
    _, chunk = fetched(local)[-1]
    file = plain.blob(chunk.sha256)
    good = file.read_bytes()
    file.unlink()
    try:
        with pytest.raises(ImageError, match=r"404 .*sha256:" + chunk.sha256):
            pulled(sample, f"{plain}/gone:1")
    finally:
        file.write_bytes(good)


def test_a_tag_that_is_not_there_is_refused_by_name(plain: Registry, sample: Image) -> None:
    with pytest.raises(ImageError, match=r"404 Not Found for manifest 9: .*UNKNOWN"):
        pulled(sample, f"{plain}/images/none:9")


def test_another_digest_than_the_tags_is_refused(
    plain: Registry, local: Local, sample: Image
) -> None:
    pushed(local, f"{plain}/images/tagged:1")
    wrong = f"sha256:{'0' * 64}"
    with pytest.raises(ImageError, match="404"):
        pulled(sample, f"{plain}/images/tagged:1@{wrong}")


def test_a_manifest_that_was_changed_on_the_registrys_disk_is_not_believed(
    plain: Registry, local: Local, sample: Image
) -> None:
    done = pushed(local, f"{plain}/edited:1")
    file = plain.blob(done.digest)
    good = file.read_bytes()
    file.write_bytes(good.replace(b'"size":', b'"size" :', 1))
    try:
        with pytest.raises(ImageError):
            pulled(sample, f"{plain}/edited@{done.digest}")
    finally:
        file.write_bytes(good)


def test_an_image_of_a_stranger_is_refused(plain: Registry, local: Local, tmp_path: Path) -> None:
    pushed(local, f"{plain}/stranger:1")
    stranger = image(tmp_path)
    with pytest.raises(ImageError, match="matches no trusted key"):
        pulled(stranger, f"{plain}/stranger:1")


def test_a_registry_restarted_in_the_middle_does_not_stop_the_stream(
    tmp_path: Path, local: Local, sample: Image
) -> None:
    with registry(tmp_path) as running, contextlib.ExitStack() as stack:
        pushed(local, f"{running}/restart:1")
        options = replace(pulling(), connections=1, patience=20.0)
        manifest, source = get_manifest([f"{running}/restart:1"], [sample.key.public], options)
        starting = threading.Timer(0.5, running.start)
        content = bytearray()
        for number, view in enumerate(stream(manifest, source, options)):
            content += view
            if number == 2:
                running.stop()
                starting.start()
                stack.callback(starting.join)
        assert content == sample.raw


def test_a_damaged_payload_is_not_pushed(plain: Registry, sample: Image, tmp_path: Path) -> None:
    made = packed(sample.raw, tmp_path, "broken", sample.key)
    content = bytearray(made.payload.read_bytes())
    content[made.manifest.chunks[1].at] ^= 1
    made.payload.write_bytes(content)
    chunks = len(list(plain.blobs.glob("*/*")))
    with pytest.raises(ImageError, match=r"broken\.tar\.zst: bytes .* are not those of broken"):
        pushed(read_local(made.document), f"{plain}/broken:1")
    with pytest.raises(ImageError, match="404"):
        pulled(sample, f"{plain}/broken:1")
    assert len(list(plain.blobs.glob("*/*"))) <= chunks + len(made.manifest.chunks)


def test_more_chunks_than_a_registry_lists_are_refused_before_anything_is_sent(
    plain: Registry, local: Local
) -> None:
    chunk = local.manifest.chunks[0]
    many = tuple(replace(chunk, sha256=f"{number:064x}") for number in range(30_000))
    assert len(many) < MAX_CHUNKS
    large = local.manifest.model_copy(update={"chunks": many})
    with pytest.raises(PlanError, match=r"30000 chunks.*larger --chunk-size"):
        pushed(replace(local, manifest=large), f"{plain}/large:1")
    assert not (plain.directory / "storage/docker/registry/v2/repositories/large").exists()


def test_a_digest_cannot_be_pushed_to(plain: Registry, local: Local) -> None:
    with pytest.raises(PlanError, match="must have a tag and no digest"):
        pushed(local, f"{plain}/by/digest@sha256:{'a' * 64}")


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with TLS that wants a user and a password."""
    directory = tmp_path_factory.mktemp("closed")
    chain, key = self_signed(directory / "tls", "127.0.0.1")
    users = directory / "htpasswd"
    users.write_text(HTPASSWD)
    tls = {"tls": {"certificate": str(chain), "key": str(key)}}
    auth = {"htpasswd": {"realm": "test", "path": str(users)}}
    with registry(directory, http=tls, auth=auth) as running:
        running.scheme = "oci"
        yield running


def ca(closed: Registry) -> str:
    return (closed.directory / "tls/server.pem").read_text()


def test_a_user_and_a_password_open_a_closed_registry(
    closed: Registry, local: Local, sample: Image
) -> None:
    pushed(local, f"{closed}/images/sample:1", pushing(SOMEBODY, ca(closed)))
    opened = pulled(sample, f"{closed}/images/sample:1", options=pulling(SOMEBODY, ca(closed)))
    assert opened == sample.raw


def test_without_an_account_a_closed_registry_is_named_with_what_it_wants(
    closed: Registry, local: Local, sample: Image
) -> None:
    with pytest.raises(ImageError, match=f"no account for {closed.host}"):
        pulled(sample, f"{closed}/images/sample:1", options=pulling(NOBODY, ca(closed)))
    with pytest.raises(ImageError, match=f"no account for {closed.host}"):
        pushed(local, f"{closed}/images/sample:1", pushing(NOBODY, ca(closed)))


def test_a_wrong_password_is_refused_and_never_shown(closed: Registry, sample: Image) -> None:
    wrong = Credentials(given=Login(USER, Secret("not-the-password")))
    with pytest.raises(ImageError, match="401") as caught:
        pulled(sample, f"{closed}/images/sample:1", options=pulling(wrong, ca(closed)))
    assert "not-the-password" not in str(caught.value)


def test_a_registry_whose_certificate_nobody_vouches_for_is_refused(
    closed: Registry, sample: Image
) -> None:
    with pytest.raises(ImageError, match="certificate that is not trusted"):
        pulled(sample, f"{closed}/images/sample:1", options=pulling(SOMEBODY))


def test_the_images_port_takes_registries_and_web_servers_side_by_side(
    plain: Registry, local: Local, sample: Image
) -> None:
    pushed(local, f"{plain}/mixed:1")
    with Crooked(dict(sample.files)) as mirror:
        images = HttpImages([sample.key.public])
        manifest, source = images.find([f"{plain}/mixed:1", mirror.url("image.json")])
        assert source.payload_urls == (
            f"http://{plain.host}/v2/mixed/blobs/sha256:{{sha256}}",
            mirror.url("image.tar.zst"),
        )
        assert list(images.problems(manifest, source)) == []
