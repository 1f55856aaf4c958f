"""The manifest refuses whatever does not add up, by name, and reads back what it wrote."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlanError
from agent.payload.contents import Kernel, Need, Tree
from agent.payload.document import encode, parse
from agent.payload.manifest import CHUNK_SIZES, Chunk, Manifest, Os, Payload

SMALL = CHUNK_SIZES.start
DIGEST = "ab" * 32


def chunks_of(sizes: list[tuple[int, int, bool]]) -> tuple[Chunk, ...]:
    chunks, offset, at = [], 0, 0
    for length, stored, zero in sizes:
        chunks.append(Chunk(offset, length, at, stored, DIGEST, zero))
        offset, at = offset + length, at + stored
    return tuple(chunks)


def manifest_of(sizes: list[tuple[int, int, bool]], **fields: Any) -> Manifest:
    chunks = chunks_of(sizes)
    last = chunks[-1]
    values: dict[str, Any] = {
        "version": 1,
        "name": "debian13",
        "created": datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC),
        "kind": "disk",
        "size": last.offset + last.length,
        "sha256": DIGEST,
        "chunk_size": SMALL,
        "digest": "sha256",
        "payload": Payload(urls=("debian13.zst",), size=last.at + last.stored),
        "chunks": chunks,
    }
    return Manifest(**(values | fields))


def document(**changes: Any) -> bytes:
    """Return a good manifest of three chunks with some of its members changed."""
    good = encode(manifest_of([(SMALL, 100, False), (SMALL, 20, True), (5, 14, False)]))
    return json.dumps(json.loads(good) | changes).encode()


def problems(content: bytes) -> list[str]:
    with pytest.raises(PlanError) as caught:
        parse(content)
    return str(caught.value).splitlines()


SIZES = st.lists(
    st.tuples(st.integers(1, SMALL), st.integers(1, 1000), st.booleans()), min_size=1, max_size=8
)
TREES = st.builds(
    Tree,
    members=st.integers(0, 1 << 40),
    directories=st.dictionaries(
        st.text(max_size=9).map("/".__add__),
        st.builds(Need, bytes=st.integers(0, 1 << 50), inodes=st.integers(0, 1 << 30)),
        max_size=3,
    ),
    kernels=st.lists(
        st.builds(
            Kernel,
            version=st.text(max_size=9),
            image=st.just("/boot/vmlinuz-6"),
            initrd=st.one_of(st.none(), st.just("/boot/initrd-6")),
        ),
        max_size=2,
    ).map(tuple),
    programs=st.dictionaries(st.text(max_size=9), st.just("/usr/bin/x"), max_size=3),
    architecture=st.one_of(st.none(), st.just("x86_64")),
    links=st.lists(st.just(("/a", "/b")), max_size=2).map(tuple),
    tail=st.one_of(st.none(), st.just(0)),
)


@settings(max_examples=40)
@given(SIZES, TREES, st.sampled_from([None, Os(id="debian", version="13", like=("x", "y"))]))
def test_what_is_written_is_read_back_equal(
    sizes: list[tuple[int, int, bool]], tree: Tree, os: Os | None
) -> None:
    manifest = manifest_of(sizes, kind="tree", tree=tree, os=os)
    assert parse(encode(manifest)) == manifest


def test_the_same_manifest_always_has_the_same_bytes_one_line_a_chunk() -> None:
    lines = encode(manifest_of([(SMALL, 100, False), (SMALL, 20, True)])).decode().splitlines()
    assert lines[-5:] == [
        '"chunks": [',
        f'{{"offset":0,"length":65536,"at":0,"stored":100,"sha256":"{DIGEST}"}},',
        f'{{"offset":65536,"length":65536,"at":100,"stored":20,"sha256":"{DIGEST}","zero":true}}',
        "]",
        "}",
    ]
    assert '"created": "2026-11-22T12:00:00Z",' in lines


def with_chunk(number: int, **changes: Any) -> bytes:
    chunks = json.loads(document())["chunks"]
    chunks[number] |= changes
    return document(chunks=[{k: v for k, v in c.items() if v is not ...} for c in chunks])


def document_of_tree(tail: int, continues: int = 1) -> bytes:
    """Return a tree whose chunk `continues` does, with the tail at chunk `tail`."""
    chunks = json.loads(with_chunk(continues, continues=True))["chunks"]
    contents = {"members": 1, "directories": {}, "tail": tail}
    return document(kind="tree", tree=contents, chunks=chunks)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "manifest: is not JSON: expecting value: line 1 column 1 (char 0)"),
        (b"[]", "manifest: is a list of 0, must be an object"),
        (b'{"a":' * 100_000, "manifest: is not JSON: it is nested too deeply"),
        (b'\xff{"a":1}', "manifest: is not JSON"),
        (document(surprise=1), "surprise: unknown key"),
        (document(version=2), "version: is 2, must be 1"),
        (document(version="1"), 'version: is "1", must be 1'),
        (document(name="../etc/passwd"), 'name: is "../etc/passwd", must be at most 128'),
        (document(name=".hidden"), 'name: is ".hidden", must be'),
        (document(created="yesterday"), 'created: is "yesterday", must be a time in UTC'),
        (document(created="2026-13-01T00:00:00Z"), "created: "),
        (document(kind="qcow2"), "kind: is \"qcow2\", must be 'tree' or 'disk'"),
        (document(kind="tree"), "tree: must be there for kind tree and no other"),
        (document(sha256="AB" * 32), 'sha256: is "ABAB'),
        (document(digest="md5"), "digest: is \"md5\", must be 'sha256'"),
        (document(size=17), "size: is 17, the last chunk ends at 131077"),
        (document(size=-1), "size: is -1, must be greater than 0"),
        (document(size=131077.0), "size: is 131077.0, must be a valid integer"),
        (document(size=True), "size: is true, must be a valid integer"),
        (document(chunk_size=65537), "chunk_size: is 65537, must be a multiple of 4096"),
        (document(chunk_size=1 << 40), "chunk_size: is 1099511627776, must be a multiple"),
        (document(chunks=[]), "chunks: is a list of 0, must have at least 1"),
        (document(payload={"urls": ["a.zst"], "size": 5}), "payload.size: is 5, the last frame"),
        (
            document(payload={"urls": [], "size": 134}),
            "payload.urls: is a list of 0, must have at least 1",
        ),
        (document(payload={"urls": ["../a"], "size": 134}), 'payload.urls[0]: is "../a", must be'),
        (document(payload={"urls": ["/etc/x"], "size": 134}), 'payload.urls[0]: is "/etc/x"'),
        (
            document(payload={"urls": ["file:///x"], "size": 134}),
            'payload.urls[0]: is "file:///x", must be a file name',
        ),
        (document(payload={"urls": ["http://u:p@h/x"], "size": 134}), "payload.urls[0]: is"),
        (document(payload={"urls": ["http://[::1/x"], "size": 134}), "payload.urls[0]: is"),
        (with_chunk(1, offset=1), "chunks[1].offset: is 1 and overlaps the chunk before it"),
        (with_chunk(1, offset=SMALL + 1), "chunks[1].offset: is 65537 and leaves a chunk out"),
        (with_chunk(0, offset=4), "chunks[0].offset: is 4 and leaves a chunk out, must be 0"),
        (with_chunk(2, at=0), "chunks[2].at: is 0 and overlaps the frame before it, must be 120"),
        (with_chunk(2, at=121), "chunks[2].at: is 121 and leaves a frame out, must be 120"),
        (with_chunk(1, length=SMALL + 1), "chunks[1].length: is 65537, a chunk has at most 65536"),
        (with_chunk(2, stored=2000), "chunks[2].stored: is 2000, a frame of 5 bytes takes at most"),
        (with_chunk(2, stored=0), "chunks[2].stored: is 0, must be greater than 0"),
        (with_chunk(2, length=0), "chunks[2].length: is 0, must be greater than 0"),
        (with_chunk(2, length=1 << 62), "chunks[2].length: is 4611686018427387904, must be less"),
        (with_chunk(2, sha256=DIGEST[1:]), 'chunks[2].sha256: is "bab'),
        (with_chunk(2, sha256=None), "chunks[2].sha256: is null, must be a valid string"),
        (with_chunk(2, at="120"), 'chunks[2].at: is "120", must be a valid integer'),
        (with_chunk(2, zero=1), "chunks[2].zero: is 1, must be a valid boolean"),
        (with_chunk(0, length=5), "chunks[0].length: is 5, must be a multiple of 4096 on a disk"),
        (with_chunk(1, continues=True), "chunks[1].continues: must be absent, a disk has no"),
        (document_of_tree(3), "tree.tail: is 3, the last chunk is 2"),
        (document_of_tree(1), "tree.tail: is 1, a chunk that begins inside a member"),
        (document_of_tree(-1), "tree.tail: is -1, must be greater than or equal to 0"),
        (document_of_tree(2, continues=0), "chunks[0].continues: must be absent, there is no"),
        (with_chunk(2, colour="red"), "chunks[2].colour: unknown key"),
        (with_chunk(2, at=...), "chunks[2].at: is missing"),
    ],
)
def test_each_fault_is_named_with_its_path_and_value(content: bytes, expected: str) -> None:
    assert any(problem.startswith(expected) for problem in problems(content)), problems(content)


def test_a_tree_may_have_chunks_of_any_length_that_continue_and_a_tail() -> None:
    manifest = parse(document_of_tree(2))
    assert [chunk.continues for chunk in manifest.chunks] == [False, True, False]
    assert manifest.tree is not None
    assert manifest.tree.tail == 2
    assert parse(encode(manifest)) == manifest
    assert (
        manifest_of(
            [(5, 9, False), (7, 9, False)],
            kind="tree",
            tree=manifest.tree.model_copy(update={"tail": None}),
        )
        .chunks[1]
        .offset
        == 5
    )


def test_all_faults_of_one_manifest_are_told_together() -> None:
    found = problems(document(name="", size="big", sha256=4, version=3))
    assert [problem.split(":")[0] for problem in found] == ["version", "name", "size", "sha256"]
    found = problems(with_chunk(1, offset=7, at=7))
    assert [problem.split(":")[0] for problem in found] == [
        "chunks[1].offset",
        "chunks[1].at",
        "chunks[2].offset",
        "chunks[2].at",
    ]


def test_a_million_faults_make_a_message_that_can_be_read() -> None:
    chunks = [{"offset": 0, "length": 1, "at": 0, "stored": 1, "sha256": DIGEST}] * 1000
    assert len(problems(document(chunks=chunks))) == 21
    assert len(problems(document(chunks=[{}] * 1000))) == 21


def test_a_key_given_twice_is_refused_because_readers_disagree_about_it() -> None:
    content = document().replace(b'"kind"', b'"size": 1, "kind"', 1)
    assert problems(content) == ['manifest: has the key "size" twice in one object']


def tree(**directories: int) -> Tree:
    needs = {
        "/" + path.replace("__", "/"): Need(bytes=size, inodes=size // 10)
        for path, size in directories.items()
    }
    return Tree(members=1, directories={"/": Need(bytes=1000, inodes=100)} | needs)


def test_each_volume_needs_what_is_not_on_the_volumes_below_it() -> None:
    image = tree(var=600, var__log=300, var__log__audit=100, home=50)
    needs = image.needs(["/", "/var", "/var/log", "/var/log/audit", "/srv"])
    assert {mount: need.bytes for mount, need in needs.items()} == {
        "/": 400,
        "/var": 300,
        "/var/log": 200,
        "/var/log/audit": 100,
        "/srv": 0,
    }
    assert needs["/var"].inodes == 30


def test_a_volume_deeper_than_was_counted_gets_too_much_rather_than_too_little() -> None:
    image = tree(var=600, var__lib=500, var__lib__containers=400)
    needs = image.needs(["/", "/var/lib/containers/storage"])
    assert needs["/var/lib/containers/storage"].bytes == 400
    assert needs["/"].bytes == 1000


def test_hard_links_that_mount_points_would_part_are_found() -> None:
    image = tree().model_copy(update={"links": (("/usr/bin", "/usr/lib/git-core"), ("/a", "/var"))})
    assert image.parted(["/"]) == ()
    assert image.parted(["/", "/usr"]) == ()
    assert image.parted(["/", "/var"]) == (("/a", "/var"),)
    assert image.parted(["/", "/usr", "/usr/lib"]) == (("/usr/bin", "/usr/lib/git-core"),)
