"""The build program of the images: whose packages it takes, whose keys, when it builds again."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from image.builder import outputs, stage
from image.builder.apt import Archive, Source, read_sources, sources_for
from image.builder.report import BuildError
from image.builder.sample import kernels

MAIN = Source("http://mirror.example/debian", "")
UPDATES = Source("http://mirror.example/debian", "-updates")
SECURITY = Source("http://mirror.example/debian-security", "-security")

DEB822 = """\
Types: deb
# a comment inside a stanza
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs:
 http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# the usual three
deb [arch=amd64 signed-by=/keys/debian-archive.gpg] http://mirror.example/debian bookworm main
deb http://mirror.example/debian/ bookworm-updates main contrib # and a comment
deb http://mirror.example/debian-security bookworm-security main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
"""


def apt_directory(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        place = "sources.list" if name == "sources_list" else f"sources.list.d/{name}"
        (tmp_path / place.replace("__", ".")).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "files", [{"debian__sources": DEB822}, {"sources_list": ONE_LINE}, {"debian__list": ONE_LINE}]
)
def test_both_formats_of_sources_give_the_same_archives(
    tmp_path: Path, files: dict[str, str]
) -> None:
    found = read_sources(apt_directory(tmp_path, **files), "bookworm")
    assert sorted(found, key=str) == sorted([MAIN, UPDATES, SECURITY], key=str)


def test_a_release_named_by_its_age_is_the_one_the_machine_runs(tmp_path: Path) -> None:
    text = "deb http://mirror.example/debian oldstable main\n"
    assert read_sources(apt_directory(tmp_path, sources_list=text), "bookworm") == [MAIN]


@pytest.mark.parametrize(
    "line",
    [
        "deb [signed-by=/etc/apt/keyrings/other.gpg] https://other.example/debian bookworm main",
        "deb https://other.example/linux/debian bookworm stable",
        "deb https://other.example/apt bookworm-pgdg main",
        "deb http://mirror.example/debian bookworm-backports main",
    ],
)
def test_archives_of_others_and_other_pockets_are_left_out(tmp_path: Path, line: str) -> None:
    assert read_sources(apt_directory(tmp_path, sources_list=line), "bookworm") == []


def test_a_disabled_stanza_is_left_out(tmp_path: Path) -> None:
    text = DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n", 1)
    assert read_sources(apt_directory(tmp_path, debian__sources=text), "bookworm") == [SECURITY]


def test_a_list_of_mirrors_is_read_for_its_archives(tmp_path: Path) -> None:
    mirrors = tmp_path / "mirrors.list"
    mirrors.write_text("# nearest first\nhttp://mirror.example/debian\tpriority:1\n")
    text = f"deb mirror+file://{mirrors} bookworm main\n"
    assert read_sources(apt_directory(tmp_path, sources_list=text), "bookworm") == [MAIN]


def test_the_images_archives_are_verified_with_the_keyring_of_debian() -> None:
    stanzas = sources_for("trixie", [MAIN, SECURITY]).split("\n\n")
    assert [stanza.splitlines()[2] for stanza in stanzas] == [
        "Suites: trixie",
        "Suites: trixie-security",
    ]
    assert all("Signed-By: /usr/share/keyrings/debian-archive" in stanza for stanza in stanzas)


def test_a_private_key_is_refused_by_name(tmp_path: Path) -> None:
    key = tmp_path / "image.pub"
    key.write_text("-----BEGIN PRIVATE KEY-----\n")
    with pytest.raises(BuildError, match=r"image\.pub: holds a private key"):
        stage.copy_keys([key], tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_a_staged_tree_does_not_depend_on_the_umask_of_the_checkout(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir(mode=0o700)
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o700)
    (source / "text").write_text("text")
    (source / "text").chmod(0o600)
    (source / "link").symlink_to("text")
    (source / "__pycache__").mkdir()
    stage.copy_tree(source, tmp_path / "staged")
    modes = {path.name: path.lstat().st_mode & 0o777 for path in (tmp_path / "staged").iterdir()}
    assert modes == {"program": 0o755, "text": 0o644, "link": 0o777}


@pytest.mark.parametrize("change", ["content", "mode", "name", "link"])
def test_any_change_of_a_source_changes_the_digest(tmp_path: Path, change: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    (tree / "link").symlink_to("file")
    before = stage.digest([tree], "full")
    assert stage.digest([tree], "full") == before
    if change == "content":
        (tree / "file").write_text("CONTENT")
    elif change == "mode":
        (tree / "file").chmod(0o755)
    elif change == "name":
        (tree / "file").rename(tree / "other")
    else:
        (tree / "link").unlink()
        (tree / "link").symlink_to("other")
    assert stage.digest([tree], "full") != before


def test_outputs_are_current_until_one_is_missing_or_the_stamp_differs(tmp_path: Path) -> None:
    built, target = tmp_path / "built", tmp_path / "target"
    built.write_bytes(b"kernel")
    outputs.publish(target, {"vmlinuz": built}, "stamp", {"variant": "rig"})
    names = ["vmlinuz", "manifest.json"]
    assert outputs.is_current(target, names, "stamp")
    assert not outputs.is_current(target, names, "other stamp")
    (target / "vmlinuz").unlink()
    assert not outputs.is_current(target, names, "stamp")


@dataclass(frozen=True)
class Offering(Archive):
    """An archive that offers these packages."""

    offered: tuple[str, ...]

    def update(self) -> None:
        pass

    def names(self, pattern: str) -> list[str]:
        return [name for name in self.offered if re.search(pattern, name)]

    def depends(self, package: str) -> list[str]:
        assert package == "linux-image-cloud-amd64"
        return ["linux-base", *self.offered[:1]]


def offering(*names: str) -> Offering:
    return Offering(Path("/nowhere"), Path("/nowhere"), names)


@pytest.mark.parametrize(
    ("versions", "installed", "update"),
    [
        (["6.1.0-9", "6.1.0-41", "6.12.115+deb12", "6.1.0-40"], "6.1.0-40", "6.1.0-41"),
        (
            ["6.12.115+deb13.1", "6.12.116+deb13", "6.12.115+deb13", "6.12.9+deb13"],
            "6.12.115+deb13.1",
            "6.12.116+deb13",
        ),
        (["7.0.1+deb14"], "7.0.1+deb14", None),
    ],
)
def test_a_sample_comes_with_the_last_kernel_but_one(
    versions: list[str], installed: str, update: str | None
) -> None:
    archive = offering(
        *(f"linux-image-{version}-cloud-amd64" for version in versions),
        "linux-image-cloud-amd64",
        "linux-image-99.0-cloud-amd64-unsigned",
    )
    wanted = (f"linux-image-{v}-cloud-amd64" if v else None for v in (installed, update))
    assert kernels(archive) == tuple(wanted)


def test_an_archive_without_a_kernel_is_a_named_failure() -> None:
    with pytest.raises(BuildError, match="linux-image-cloud-amd64 depends on no kernel"):
        kernels(offering("linux-image-cloud-amd64"))
