import contextlib
import os
import stat
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import StepError
from agent.target.tree import TargetFile, Tree

ME = (os.geteuid(), os.getegid())


def mine(path: str, content: bytes = b"new\n", mode: int = 0o644) -> TargetFile:
    return TargetFile(PurePosixPath(path), content, mode, *ME)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the live system that no image may reach."""
    place = tmp_path / "live"
    place.mkdir()
    (place / "secret").write_text("live\n")
    return place


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "target"
    (root / "etc").mkdir(parents=True)
    return Tree(root)


def test_a_plain_path_lies_below_the_root(tree: Tree) -> None:
    assert tree.locate("/etc/fstab") == tree.root / "etc/fstab"
    assert tree.locate("etc/fstab") == tree.root / "etc/fstab"
    assert tree.locate("/") == tree.root


def test_an_absolute_link_is_followed_from_the_root_of_the_tree(tree: Tree) -> None:
    (tree.root / "etc/resolv.conf").symlink_to("/run/systemd/resolve/stub-resolv.conf")
    assert tree.locate("/etc/resolv.conf") == tree.root / "run/systemd/resolve/stub-resolv.conf"


def test_a_double_slash_in_a_link_means_the_root_of_the_tree_too(tree: Tree) -> None:
    (tree.root / "etc/x").symlink_to("//run/y")
    assert tree.locate("/etc/x") == tree.root / "run/y"


def test_a_relative_link_is_followed_from_where_it_lies(tree: Tree) -> None:
    (tree.root / "usr/lib").mkdir(parents=True)
    (tree.root / "usr/lib/os-release").write_text("ID=debian\n")
    (tree.root / "etc/os-release").symlink_to("../usr/lib/os-release")
    assert tree.read("/etc/os-release") == "ID=debian\n"


def test_links_of_directories_on_the_way_are_followed(tree: Tree) -> None:
    (tree.root / "usr/sbin").mkdir(parents=True)
    (tree.root / "sbin").symlink_to("usr/sbin")
    assert tree.locate("/sbin/mdadm") == tree.root / "usr/sbin/mdadm"


@pytest.mark.parametrize("up", ["..", "../..", "../../../../../..", "/..", "/../..//.."])
def test_no_number_of_dots_leads_out_of_the_tree(tree: Tree, outside: Path, up: str) -> None:
    (tree.root / "etc/out").symlink_to(f"{up}/live/secret")
    assert tree.locate("/etc/out").is_relative_to(tree.root)
    assert not tree.exists("/etc/out")
    assert tree.locate(f"{up}/live/secret").is_relative_to(tree.root)


def test_a_link_through_a_link_and_back_up_stays_inside(tree: Tree, outside: Path) -> None:
    (tree.root / "a/b").mkdir(parents=True)
    (tree.root / "short").symlink_to("a/b")
    (tree.root / "etc/x").symlink_to("../short/../../../live/secret")
    assert tree.locate("/etc/x") == tree.root / "live/secret"


def test_links_in_a_circle_are_refused_by_name(tree: Tree) -> None:
    (tree.root / "etc/a").symlink_to("b")
    (tree.root / "etc/b").symlink_to("/etc/a")
    with pytest.raises(StepError, match=r"/etc/a: more than 40 symbolic links"):
        tree.locate("/etc/a")
    with pytest.raises(StepError, match=r"/etc/a"):
        tree.write(mine("/etc/a"))


def test_a_link_to_itself_is_refused(tree: Tree) -> None:
    (tree.root / "etc/self").symlink_to("self/x")
    with pytest.raises(StepError, match="symbolic links"):
        tree.read("/etc/self")


def test_writing_through_a_link_out_of_the_tree_leaves_the_live_system_alone(
    tree: Tree, outside: Path
) -> None:
    (tree.root / "etc/motd").symlink_to(outside / "secret")
    tree.write(mine("/etc/motd"))
    assert (outside / "secret").read_text() == "live\n"
    assert tree.read("/etc/motd") == "new\n"
    assert (tree.root / (outside / "secret").relative_to("/")).read_text() == "new\n"


def test_writing_below_a_linked_directory_leaves_the_live_system_alone(
    tree: Tree, outside: Path
) -> None:
    (tree.root / "etc/systemd").symlink_to(outside)
    tree.write(mine("/etc/systemd/system/x.service"))
    assert [entry.name for entry in outside.iterdir()] == ["secret"]


def test_a_written_file_has_its_mode_and_owner_whatever_was_there(tree: Tree) -> None:
    old = tree.root / "etc/key"
    old.write_text("old")
    old.chmod(0o777)
    tree.write(mine("/etc/key", b"secret", 0o600))
    found = old.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, *ME)
    assert old.read_bytes() == b"secret"


def test_the_umask_does_not_narrow_a_mode(tree: Tree) -> None:
    before = os.umask(0o077)
    try:
        tree.write(mine("/etc/motd", mode=0o664))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tree.root / "etc/motd").stat().st_mode) == 0o664


def test_a_hard_linked_file_is_replaced_and_its_other_name_kept(tree: Tree) -> None:
    (tree.root / "etc/other").write_text("kept\n")
    (tree.root / "etc/motd").hardlink_to(tree.root / "etc/other")
    tree.write(mine("/etc/motd"))
    assert tree.read("/etc/other") == "kept\n"


def test_a_fifo_of_the_image_is_replaced_and_never_opened(tree: Tree) -> None:
    os.mkfifo(tree.root / "etc/motd")
    tree.write(mine("/etc/motd"))
    assert tree.read("/etc/motd") == "new\n"


def test_a_directory_in_the_way_is_named_and_nothing_is_left_behind(tree: Tree) -> None:
    (tree.root / "etc/motd").mkdir()
    with pytest.raises(StepError, match=r"^/etc/motd: "):
        tree.write(mine("/etc/motd"))
    assert tree.names("/etc") == ("motd",)


def test_a_file_in_the_place_of_a_parent_directory_is_named(tree: Tree) -> None:
    (tree.root / "etc/ssh").write_text("")
    with pytest.raises(StepError, match=r"^/etc/ssh/sshd_config: "):
        tree.write(mine("/etc/ssh/sshd_config"))


def test_reading_what_is_not_there_is_a_step_error_with_the_path(tree: Tree) -> None:
    with pytest.raises(StepError, match=r"^/etc/none: no such file or directory$"):
        tree.read("/etc/none")


def test_a_link_replaces_a_file_or_a_link_but_not_what_it_points_to(tree: Tree) -> None:
    (tree.root / "etc/target").write_text("kept\n")
    (tree.root / "etc/unit").symlink_to("target")
    tree.link("/etc/unit", "/usr/lib/unit")
    assert (tree.root / "etc/unit").readlink() == Path("/usr/lib/unit")
    assert tree.read("/etc/target") == "kept\n"
    tree.link("/etc/a/b/unit", "../x")
    assert tree.is_link("/etc/a/b/unit")
    assert not tree.exists("/etc/a/b/unit")


def test_a_link_needs_a_name(tree: Tree) -> None:
    for path in ("/", "/etc/.."):
        with pytest.raises(StepError, match="does not name a file"):
            tree.link(path, "x")


def test_removing_takes_the_name_and_not_what_it_points_to(tree: Tree, outside: Path) -> None:
    (tree.root / "etc/x").symlink_to(outside / "secret")
    assert tree.remove("/etc/x")
    assert not tree.remove("/etc/x")
    assert (outside / "secret").exists()


def test_a_directory_gets_its_mode_also_when_it_was_there(tree: Tree) -> None:
    (tree.root / "root").mkdir(mode=0o755)
    tree.directory("/root/.ssh", 0o700, *ME)
    tree.directory("/root", 0o700, *ME)
    assert stat.S_IMODE((tree.root / "root").stat().st_mode) == 0o700
    assert stat.S_IMODE((tree.root / "root/.ssh").stat().st_mode) == 0o700


def test_names_are_sorted_and_none_for_what_is_no_directory(tree: Tree) -> None:
    for name in ("b", "a"):
        (tree.root / "etc" / name).write_text("")
    assert tree.names("/etc") == ("a", "b")
    assert tree.names("/etc/a") == tree.names("/nowhere") == ()


def test_a_file_is_copied_out_as_the_installed_system_sees_it(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "boot").mkdir()
    (tree.root / "boot/vmlinuz-1").write_bytes(b"kernel" * 1000)
    (tree.root / "vmlinuz").symlink_to("/boot/vmlinuz-1")
    tree.copy("/vmlinuz", tmp_path / "linux")
    assert (tmp_path / "linux").read_bytes() == b"kernel" * 1000


parts = st.sampled_from(["a", "b", "..", ".", "/", "//", "c/d", "../..", "/a", "/b"])


@settings(max_examples=60)
@given(
    links=st.dictionaries(
        st.sampled_from(["a", "b", "c/d", "c/a"]), st.lists(parts, min_size=1, max_size=4)
    ),
    path=st.lists(parts, min_size=1, max_size=6),
)
def test_whatever_links_an_image_holds_every_path_stays_in_the_tree(
    tmp_path_factory: pytest.TempPathFactory, links: dict[str, list[str]], path: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "c").mkdir()
    for name, target in links.items():
        (root / name).symlink_to("/".join(target))
    with contextlib.suppress(StepError):  # links in a circle
        place = Tree(root).locate("/".join(path))
        assert place.is_relative_to(root)
        assert ".." not in place.parts
        assert not any(step.is_symlink() for step in (place, *place.parents) if step != root)
