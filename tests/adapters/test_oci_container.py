"""Bootable containers from a real registry: surveyed, then laid into a tree."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.images import HttpImages
from agent.adapters.memory import spare_memory
from agent.errors import ImageError, PlanError
from agent.oci import container
from agent.oci.blob import BLOCK
from agent.oci.container import Container
from agent.oci.credentials import Credentials
from agent.oci.push import push, read_local
from agent.oci.registries import Registries
from agent.oci.spare import Spare
from agent.payload.options import FetchOptions
from agent.reference import Reference
from tests.adapters.containers import TAR, packed, put
from tests.adapters.registry import Registry, registry
from tests.adapters.tokenserver import Guarded, guarded
from tests.unit.payload.images import DEBIAN, image, member, tar_of

VERSION = "6.12.0-1"
OPTIONS = FetchOptions(
    connect=1.0,
    stall=2.0,
    request=5.0,
    patience=4.0,
    registry=Registries(Credentials()),
    warn=lambda message: None,
)
ELF = b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + bytes(100)
NOISE = random.Random(7).randbytes(BLOCK + 100_000)


def directory(name: str, mode: int = 0o755) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, mode=mode), b""


def file(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, content, **fields), content


def base() -> bytes:
    return tar_of(
        [
            directory("usr/"),
            directory("usr/lib/"),
            (member("lib", type=tarfile.SYMTYPE, linkname="usr/lib"), b""),
            file("usr/lib/os-release", DEBIAN),
            file("usr/lib/systemd/systemd", ELF, mode=0o755),
            file(f"usr/lib/modules/{VERSION}/vmlinuz", b"kernel" * 1000),
            file("usr/bin/clevis", b"old"),
            file("etc/gone", b"to be hidden"),
            file("var/cache/big", NOISE),
            file("opt/product/one", b"1"),
            file("opt/product/two", b"2"),
            file(".dockerenv"),
        ]
    )


def changes() -> bytes:
    return tar_of(
        [
            file("etc/.wh.gone"),
            file("usr/bin/clevis", b"new", mode=0o755),
            (member("usr/bin/also", type=tarfile.LNKTYPE, linkname="usr/bin/clevis"), b""),
            file(f"lib/modules/{VERSION}/initramfs.img", b"initrd" * 1000),
            file("opt/product/.wh..wh..opq"),
            file("opt/product/three", b"3"),
        ]
    )


LEFT = {
    "usr", "usr/lib", "lib", "usr/lib/os-release", "usr/lib/systemd/systemd",
    f"usr/lib/modules/{VERSION}/vmlinuz", f"usr/lib/modules/{VERSION}/initramfs.img",
    "usr/bin/clevis", "usr/bin/also", "var/cache/big", "opt/product/three", ".dockerenv",
}  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as started:
        yield started


@pytest.fixture(scope="module")
def sample(running: Registry) -> Reference:
    return put(f"{running}/os/sample:1", [packed(base(), "gzip"), packed(changes(), "zstd")])


@contextlib.contextmanager
def changed(file: Path, content: bytes) -> Iterator[None]:
    good = file.read_bytes()
    file.write_bytes(content)
    try:
        yield
    finally:
        file.write_bytes(good)


def members(surveyed: Container) -> dict[str, tuple[str, bytes]]:
    """Return type and content of what the container streams, each path once."""
    raw = b"".join(surveyed.stream())
    assert len(raw) == surveyed.size
    found: dict[str, tuple[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for entry in archive:
            assert entry.name not in found
            body = archive.extractfile(entry) if entry.isreg() else None
            found[entry.name] = (entry.linkname, body.read() if body else b"")
    return found


def test_the_layers_make_one_tree_with_whiteouts_applied(sample: Reference) -> None:
    found = members(container.survey(sample, OPTIONS))
    assert set(found) == LEFT
    assert found["usr/bin/clevis"] == ("", b"new")
    assert found["usr/bin/also"] == ("usr/bin/clevis", b"")
    assert found["var/cache/big"][1] == NOISE


def test_the_survey_knows_what_the_checks_ask_before_anything_is_written(sample: Reference) -> None:
    surveyed = container.survey(sample, OPTIONS)
    (kernel,) = surveyed.tree.kernels
    assert kernel.image == f"/usr/lib/modules/{VERSION}/vmlinuz"
    assert kernel.initrd == f"/usr/lib/modules/{VERSION}/initramfs.img"
    assert surveyed.tree.programs["clevis"] == "/usr/bin/clevis"
    assert surveyed.tree.architecture == "x86_64"
    assert surveyed.os is not None
    assert (surveyed.os.id, surveyed.os.version) == ("debian", "13")
    assert surveyed.tree.members == len(LEFT)
    var = surveyed.tree.directories["/var/cache"].bytes
    assert len(NOISE) <= var <= len(NOISE) + 2 * 4096
    assert surveyed.sha256 == str(sample.digest).removeprefix("sha256:")


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_a_layer_may_be_packed_in_any_of_three_ways(running: Registry, packing: str) -> None:
    reference = put(f"{running}/packing/{packing}:1", [packed(base(), packing)])
    assert members(container.survey(reference, OPTIONS))["var/cache/big"][1] == NOISE


def test_an_index_gives_the_image_for_this_machine(running: Registry) -> None:
    here = container._ARCHITECTURES[os.uname().machine]
    layers = [packed(base(), "gzip")]
    outer = put(f"{running}/index:1", layers, architecture=here)
    surveyed = container.survey(outer, OPTIONS)
    assert surveyed.reference.digest != outer.digest
    assert "usr/lib/os-release" in members(surveyed)
    other = put(f"{running}/index:2", layers, architecture="mips")
    with pytest.raises(ImageError, match=f"is there for linux/mips, this machine is linux/{here}"):
        container.survey(other, OPTIONS)


def test_a_layer_with_a_flipped_bit_is_refused_while_nothing_is_written(running: Registry) -> None:
    reference = put(f"{running}/flip:1", [(TAR, base())])
    digest = container.survey(reference, OPTIONS).layers[0].digest
    stored = bytearray(running.blob(digest).read_bytes())
    stored[stored.index(NOISE) + 5] ^= 1  # the tar is as sound as before
    named = pytest.raises(ImageError, match=f"layer {digest}: came with the digest sha256:")
    with changed(running.blob(digest), bytes(stored)), named:
        container.survey(reference, OPTIONS)


def test_a_layer_that_was_cut_short_is_refused(running: Registry, sample: Reference) -> None:
    layer = container.survey(sample, OPTIONS).layers[0]
    blob = running.blob(layer.digest)
    named = pytest.raises(ImageError, match=f"layer {layer.digest}: has a blob of")
    with changed(blob, blob.read_bytes()[:-100]), named:
        container.survey(sample, OPTIONS)


def test_a_block_that_changed_since_the_survey_is_not_passed_on(running: Registry) -> None:
    reference = put(f"{running}/second:1", [(TAR, base())])
    surveyed = container.survey(reference, OPTIONS)
    blob = running.blob(surveyed.layers[0].digest)
    stored = bytearray(blob.read_bytes())
    stored[BLOCK + 10_000] ^= 1
    passed: list[bytes] = []
    named = pytest.raises(ImageError, match=f"bytes {BLOCK} to .* are not those that were there")
    with changed(blob, bytes(stored)), named:
        passed.extend(surveyed.stream())
    assert len(b"".join(passed)) <= BLOCK
    assert len(b"".join(surveyed.stream())) == surveyed.size  # the registry was mended


def test_a_registry_restarted_in_the_middle_does_no_harm(tmp_path: Path) -> None:
    with registry(tmp_path) as own:
        noise = random.Random(9).randbytes(6 * BLOCK)
        tar = tar_of([file("etc/os-release", DEBIAN), file("noise", noise)])
        reference = put(f"{own}/restart:1", [(TAR, tar)])
        surveyed = container.survey(reference, replace(OPTIONS, patience=20.0))
        pieces = surveyed.stream()
        content = bytearray(next(pieces))
        own.stop()
        starting = threading.Timer(0.5, own.start)
        starting.start()
        try:
            content += b"".join(pieces)
        finally:
            starting.join()
    assert bytes(content).strip(b"\0") == tar.strip(b"\0")


def test_what_fits_into_spare_memory_is_not_fetched_again(tmp_path: Path) -> None:
    with registry(tmp_path) as own:
        reference = put(f"{own}/spare:1", [(TAR, base()), packed(changes(), "gzip")])
        enough, less = Spare(1 << 30), Spare(BLOCK)
        held = container.survey(reference, OPTIONS, spare=enough)
        in_part = container.survey(reference, OPTIONS, spare=less)
        assert enough.left == (1 << 30) - sum(held.sizes)
        expected = members(container.survey(reference, OPTIONS))
        assert members(in_part) == expected, "the rest is asked for from where it begins"
        assert less.left == BLOCK
        again = container.survey(reference, OPTIONS, spare=Spare(BLOCK))
        own.stop()
        assert members(held) == expected, "no registry is needed"
        assert enough.left == 1 << 30, "what was used is given back"
        passed: list[bytes] = []
        with pytest.raises(ImageError, match=r"layer sha256:.*refused"):
            passed.extend(again.stream())
        assert 0 < len(b"".join(passed)) <= BLOCK


def test_a_layer_that_is_kept_is_held_to_its_digest_before(running: Registry) -> None:
    reference = put(f"{running}/kept:1", [(TAR, base())])
    blob = running.blob(container.survey(reference, OPTIONS).layers[0].digest)
    stored = bytearray(blob.read_bytes())
    stored[stored.index(NOISE) + 5] ^= 1
    spare = Spare(1 << 30)
    with changed(blob, bytes(stored)), pytest.raises(ImageError, match="came with the digest"):
        container.survey(reference, OPTIONS, spare=spare)


def test_spare_memory_leaves_a_gibibyte_and_half_of_the_rest(tmp_path: Path) -> None:
    def of(kibibytes: int) -> int:
        (tmp_path / "meminfo").write_text(
            f"MemTotal:  99999999 kB\nMemAvailable:   {kibibytes} kB\n"
        )
        return spare_memory(tmp_path)

    assert of(500_000) == 0
    assert of(2 << 20) == 1 << 29
    assert of(64 << 20) == 63 << 29


def test_a_missing_layer_is_named(running: Registry) -> None:
    reference = put(f"{running}/missing:1", [(TAR, tar_of([file("a", b"only here")]))])
    digest = container.survey(reference, OPTIONS).layers[0].digest
    blob = running.blob(digest)
    good = blob.read_bytes()
    blob.unlink()
    try:
        with pytest.raises(ImageError, match=f"layer {digest}: answered 404"):
            container.survey(reference, OPTIONS)
    finally:
        blob.write_bytes(good)


def test_layers_of_other_kinds_are_refused_by_type(running: Registry) -> None:
    secret = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
    reference = put(f"{running}/encrypted:1", [(secret, b"???")])
    with pytest.raises(ImageError, match=r"is of type application/.*encrypted, must be one of"):
        container.survey(reference, OPTIONS)


def test_something_that_is_no_tar_is_refused(running: Registry) -> None:
    reference = put(f"{running}/garbage:1", [packed(random.Random(1).randbytes(5000), "gzip")])
    with pytest.raises(PlanError, match="is no tar archive"):
        container.survey(reference, OPTIONS)
    other = put(f"{running}/garbage:2", [(f"{TAR}+zstd", random.Random(2).randbytes(5000))])
    with pytest.raises(ImageError, match="is no sound zstd"):
        container.survey(other, OPTIONS)


def test_an_image_of_ours_is_named_for_what_it_is(running: Registry, tmp_path: Path) -> None:
    image(tmp_path)
    options = replace(OPTIONS, registry=Registries(Credentials(), "pull,push"))
    local = read_local(tmp_path / "image.json")
    done = push(local, Reference.parse(f"{running}/ours:1"), options)
    with pytest.raises(ImageError, match=r"packed by bedplate .* name it in image\.manifest"):
        container.survey(Reference.parse(f"{running}/ours@{done.digest}"), OPTIONS)


def test_layers_come_with_tokens_too(running: Registry, sample: Reference) -> None:
    with guarded(Guarded(running.port, uses=3)) as guard:
        there = Reference.parse(f"oci+http://{guard.host}/os/sample@{sample.digest}")
        surveyed = container.survey(there, replace(OPTIONS, registry=Registries(Credentials())))
        assert set(members(surveyed)) == LEFT
        assert len(guard.given("/token")) >= 2


@pytest.mark.skipif(os.geteuid() != 0, reason="tar runs in a mount namespace of its own")
def test_the_images_port_lays_a_container_into_the_target(
    sample: Reference, tmp_path: Path
) -> None:
    images = HttpImages([], spare=lambda: 1 << 20)
    surveyed, source = images.survey(str(sample))
    assert list(images.problems(surveyed, source)) == []
    assert source.manifest_url == str(sample)
    told: list[tuple[int, int]] = []
    tally = images.lay(surveyed, source, tmp_path, lambda done, total: told.append((done, total)))
    assert sum(tally.received.values()) == surveyed.payload.size
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / f"usr/lib/modules/{VERSION}/initramfs.img").exists()
    assert (tmp_path / "usr/bin/also").stat().st_ino == (tmp_path / "usr/bin/clevis").stat().st_ino
    assert not (tmp_path / "etc/gone").exists()
    assert sorted(path.name for path in (tmp_path / "opt/product").iterdir()) == ["three"]
    assert told[-1] == (surveyed.size, surveyed.size)


@pytest.mark.skipif(os.geteuid() != 0, reason="tar runs in a mount namespace of its own")
def test_laying_a_layer_that_changed_fails_and_none_of_the_bad_block_is_in_the_target(
    running: Registry, tmp_path: Path
) -> None:
    images = HttpImages([])
    surveyed, source = images.survey(str(put(f"{running}/lay:1", [(TAR, base())])))
    (layer,) = source.layers
    stored = bytearray(running.blob(layer).read_bytes())
    stored[BLOCK + 10_000] ^= 1
    named = pytest.raises(ImageError, match=f"layer {layer}: bytes {BLOCK} to")
    with changed(running.blob(layer), bytes(stored)), named:
        images.lay(surveyed, source, tmp_path, lambda done, total: None)
    big = tmp_path / "var/cache/big"
    assert not big.exists() or NOISE.startswith(big.read_bytes().rstrip(b"\0"))
    assert not (tmp_path / "opt/product/one").exists()
