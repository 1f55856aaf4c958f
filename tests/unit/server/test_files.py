from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.server.files import open_below
from agent.server.refusal import RefusalError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    (images / "sub" / "a.zst").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    (images / "link").symlink_to("sub/a.zst")
    (images / "out").symlink_to("../secret")
    (images / "loop").symlink_to("loop")
    os.mkfifo(images / "fifo")
    (images / ".hidden").write_bytes(b"hidden")
    return images.resolve()


@pytest.mark.parametrize("name", ["sub/a.zst", "link"])
def test_files_in_the_directory_are_opened(root: Path, name: str) -> None:
    descriptor = open_below(root, name)
    assert os.read(descriptor, 100) == b"inside"
    os.close(descriptor)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "missing",
        "sub",
        "sub/",
        "sub/a.zst/",
        "sub/a.zst/b",
        "../secret",
        "sub/../../secret",
        "sub/../link",
        "/etc/passwd",
        "//etc/passwd",
        "./link",
        ".hidden",
        "out",
        "loop",
        "fifo",
        "a\0b",
        "x" * 5000,
        "\udcff",
    ],
)
def test_everything_else_does_not_exist(root: Path, name: str) -> None:
    with pytest.raises(RefusalError) as caught:
        open_below(root, name)
    assert caught.value.status == 404


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.sampled_from(["..", ".", "", "sub", "secret", "a.zst", "/", "\0", "é"])))
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    outer = tmp_path_factory.getbasetemp()
    root = outer / "no-path-leads-out"
    root.mkdir(exist_ok=True)
    (outer / "secret").write_bytes(b"outside")
    with pytest.raises(RefusalError):
        open_below(root.resolve(), "/".join(parts))
