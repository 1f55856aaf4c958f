"""`bedplate image inspect|verify|diff|gc` on real images, in files and on a server."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli import main
from agent.payload.manifest import CHUNK_SIZES
from agent.payload.pack import PackOptions, pack
from agent.payload.sign import keygen, load_signing_key
from tests.adapters.certificates import self_signed
from tests.adapters.crooked import Crooked, honest
from tests.unit.fakes import order
from tests.unit.payload.images import DEBIAN, member, mixed, tar_of

SMALL = CHUNK_SIZES.start
NOISE = {f"usr/lib/noise{number}": mixed(number, 3 * SMALL) for number in range(8)}
BASE = {"etc/os-release": DEBIAN, "etc/motd": b"hello\n", **NOISE}


def bedplate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    keygen(directory / "image.key", directory / "image.pub")
    return directory / "image.key"


def packed(directory: Path, key: Path, name: str, contents: Mapping[str, bytes]) -> Path:
    """Pack files in small chunks; return the manifest."""
    archive = directory / f"{name}.tar"
    modes = {"etc/secret": 0o600}
    archive.write_bytes(
        tar_of((member(p, c, mode=modes.get(p, 0o644)), c) for p, c in contents.items())
    )
    options = PackOptions(chunk_size=SMALL, level=1)
    with archive.open("rb") as source:
        made = pack(source, directory, name, load_signing_key(key), options=options)
    archive.unlink()
    return made.document


def test_inspect_shows_what_is_in_an_image_and_who_signed_it(tmp_path: Path, key: Path) -> None:
    manifest = packed(tmp_path, key, "web", BASE)
    seen = bedplate("image", "inspect", manifest, "--trust", key.with_suffix(".pub"))
    assert seen.exit_code == 0, seen.stderr
    for word in ("web", "debian 13", "signed by key", "web.tar.zst", "/usr/lib"):
        assert word in seen.stdout
    unsure = bedplate("image", "inspect", manifest)
    assert "signature not checked" in unsure.stdout
    told = json.loads(bedplate("image", "inspect", manifest, "--json").stdout)
    assert told["name"] == "web"
    assert told["signed_by"] is None
    assert told["chunks"] > 8


def test_inspect_refuses_a_signature_of_somebody_else(tmp_path: Path, key: Path) -> None:
    manifest = packed(tmp_path, key, "web", BASE)
    keygen(tmp_path / "other.key", tmp_path / "other.pub")
    seen = bedplate("image", "inspect", manifest, "--trust", tmp_path / "other.pub")
    assert seen.exit_code == 5
    assert "matches no trusted key" in seen.stderr


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    seen = bedplate("image", "inspect", tmp_path / "none.json")
    assert seen.exit_code == 5
    assert "none.json: cannot be read: No such file or directory" in seen.stderr


def test_verify_reads_everything_from_a_server(tmp_path: Path, key: Path) -> None:
    packed(tmp_path, key, "web", BASE)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Crooked(files, honest) as server:
        url = f"http://127.0.0.1:{server.port}/web.json"
        done = bedplate("image", "verify", url, "--trust", key.with_suffix(".pub"))
        assert done.exit_code == 0, done.stderr
        assert "good" in done.stdout
        assert bedplate("image", "inspect", url).exit_code == 0


def test_verify_finds_one_bit_that_changed(tmp_path: Path, key: Path) -> None:
    manifest = packed(tmp_path, key, "web", BASE)
    payload = tmp_path / "web.tar.zst"
    content = bytearray(payload.read_bytes())
    content[len(content) // 2] ^= 1
    payload.write_bytes(content)
    done = bedplate("image", "verify", manifest)
    assert done.exit_code == 5
    assert "sha256" in done.stderr
    assert "chunk" in done.stderr


def test_diff_names_every_file_that_changed_and_no_other(tmp_path: Path, key: Path) -> None:
    old = packed(tmp_path, key, "one", {**BASE, "etc/old": b"x", "etc/secret": b"s"})
    changed = {**BASE, "etc/motd": b"good day\n", "usr/lib/noise3": mixed(99, 3 * SMALL)}
    new = packed(tmp_path, key, "two", {**changed, "etc/.hidden": b"new", "etc/secret2": b"s"})
    told = json.loads(bedplate("image", "diff", old, new, "--json").stdout)
    assert {(one["path"], one["change"]) for one in told["changes"]} == {
        ("/etc/motd", "content"),
        ("/usr/lib/noise3", "content"),
        ("/etc/old", "removed"),
        ("/etc/secret", "removed"),
        ("/etc/secret2", "added"),
        ("/etc/.hidden", "added"),
    }
    text = bedplate("image", "diff", old, new).stdout
    assert "~ /etc/motd  6 -> 9 bytes" in text
    assert "2 added, 2 removed, 2 changed" in text


def test_diff_tells_a_mode_from_a_content(tmp_path: Path, key: Path) -> None:
    old = packed(tmp_path, key, "one", {"etc/secret": b"s"})
    archive = tmp_path / "two.tar"
    archive.write_bytes(tar_of([(member("etc/secret", b"s", mode=0o644), b"s")]))
    with archive.open("rb") as source:
        options = PackOptions(chunk_size=SMALL)
        new = pack(source, tmp_path, "two", load_signing_key(key), options=options).document
    assert "m /etc/secret  mode" in bedplate("image", "diff", old, new).stdout


def test_diff_reads_only_chunks_that_differ(tmp_path: Path, key: Path) -> None:
    packed(tmp_path, key, "one", BASE)
    packed(tmp_path, key, "two", {**BASE, "etc/motd": b"good day\n"})
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with Crooked(files, honest) as server:
        url = f"http://127.0.0.1:{server.port}"
        done = bedplate("image", "diff", f"{url}/one.json", f"{url}/two.json", "--json")
        told = json.loads(done.stdout)
        asked = [request for request in server.requests if request.path.endswith(".zst")]
    assert [one["path"] for one in told["changes"]] == ["/etc/motd"]
    assert 0 < len(asked) <= 2 * (told["chunks"] - told["chunks_shared"]) + 4


def test_the_same_image_twice_has_no_difference(tmp_path: Path, key: Path) -> None:
    manifest = packed(tmp_path, key, "one", BASE)
    told = json.loads(bedplate("image", "diff", manifest, manifest, "--json").stdout)
    assert told["changes"] == []
    assert told["stored_shared"] == told["stored"]


@pytest.fixture
def shelf(tmp_path: Path, key: Path) -> Path:
    """A directory of three images written two days ago, and a plan for one of them."""
    images, plans = tmp_path / "images", tmp_path / "plans"
    images.mkdir()
    plans.mkdir()
    for name in ("web", "group-db", "old"):
        packed(images, key, name, {"etc/name": name.encode()})
    (images / "notes.json").write_text("{}")
    before = time.time() - 2 * 86400
    for path in images.iterdir():
        os.utime(path, (before, before))
    plan = order(image={"manifest": ["https://images.example.com/debian/web.json"]})
    (plans / "db01.yaml").write_bytes(plan)
    return tmp_path


def gc(shelf: Path, *more: str) -> Result:
    return bedplate("image", "gc", shelf / "images", "--keep-referenced", shelf / "plans", *more)


def there(shelf: Path) -> set[str]:
    return {path.name for path in (shelf / "images").iterdir()}


def test_gc_lists_and_removes_nothing_unless_told(shelf: Path) -> None:
    before = there(shelf)
    done = gc(shelf, "--keep", "group-*")
    assert done.exit_code == 0, done.stderr
    assert "named by db01.yaml" in done.stdout
    assert "matches group-*" in done.stdout
    assert "can go" in done.stdout
    assert "--remove" in done.stderr
    assert there(shelf) == before


def test_gc_removes_what_no_plan_names_and_nothing_else(shelf: Path) -> None:
    before = there(shelf)
    assert gc(shelf, "--keep", "group-*", "--remove").exit_code == 0
    assert before - there(shelf) == {"old.json", "old.json.sig", "old.tar.zst"}


def test_gc_keeps_what_was_written_a_moment_ago(shelf: Path) -> None:
    os.utime(shelf / "images/old.tar.zst")
    told = json.loads(gc(shelf, "--remove", "--json").stdout)
    assert "old.json" in there(shelf)
    assert [Path(one["image"]).name for one in told["goes"]] == ["group-db.json"]


def test_gc_keeps_what_a_plan_lays_over_its_image(shelf: Path) -> None:
    plan = order(
        image={"manifest": "https://images.example.com/debian/web.json"},
        overlays=[{"manifest": "https://images.example.com/debian/group-db.json"}],
    )
    (shelf / "plans/db01.yaml").write_bytes(plan)
    assert gc(shelf, "--remove").exit_code == 0
    assert {"web.json", "group-db.json"} <= there(shelf)
    assert "old.json" not in there(shelf)


def test_gc_removes_nothing_while_a_plan_cannot_be_read(shelf: Path) -> None:
    before = there(shelf)
    (shelf / "plans/broken.yaml").write_text("version: 1\nimage: 7\n")
    done = gc(shelf, "--remove")
    assert done.exit_code == 3
    assert "broken.yaml" in done.stderr
    assert there(shelf) == before


def test_gc_takes_an_empty_directory_of_plans_for_a_mistake(shelf: Path) -> None:
    before = there(shelf)
    (shelf / "plans/db01.yaml").unlink()
    done = gc(shelf, "--remove")
    assert done.exit_code == 3
    assert "holds no plan" in done.stderr
    assert there(shelf) == before


def test_a_payload_that_a_staying_image_shares_stays(shelf: Path) -> None:
    images = shelf / "images"
    web = json.loads((images / "web.json").read_text())
    (images / "web2.json").write_text(json.dumps({**web, "name": "web2"}))
    os.utime(images / "web2.json", (1, 1))
    assert gc(shelf, "--remove").exit_code == 0
    assert {"web.json", "web.tar.zst"} <= there(shelf)
    assert "web2.json" not in there(shelf)


def test_without_a_key_too_only_the_authorities_given_are_believed(
    tmp_path: Path, key: Path
) -> None:
    packed(tmp_path, key, "web", BASE)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    certificate, private = self_signed(tmp_path, "127.0.0.1")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, private)
    with Crooked(files, honest, tls=tls) as server:
        url = server.url("web.json")
        assert bedplate("image", "inspect", url).exit_code == 5
        seen = bedplate("image", "inspect", url, "--ca", certificate)
        assert seen.exit_code == 0, seen.stderr
