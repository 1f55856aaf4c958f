"""Sources as people have them, made by the programs that make them, packed and unpacked again."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner

from agent.adapters.command import reading
from agent.cli import main
from agent.errors import PlanError
from agent.payload.manifest import Manifest
from agent.payload.pack import PackOptions, pack
from agent.payload.pack_disk import DiskSource, pack_disk
from agent.payload.sign import SigningKey
from agent.payload.sources.oci import Platform
from agent.payload.sources.opening import Kind, Wish, opened, streamed
from tests.adapters.disks import released
from tests.unit.payload.images import member, signing_key, tar_of

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and files of all owners: needs root")
CHUNK = 256 << 10
MIB = 1 << 20


@pytest.fixture
def key(tmp_path: Path) -> SigningKey:
    (tmp_path / "keys").mkdir()
    return signing_key(tmp_path / "keys")


def sh(*argv: str | Path, stdin: str | None = None) -> str:
    """Run a program that must do well."""
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, text=True)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout


def packed(
    path: Path, key: SigningKey, kind: Kind | None = None, platform: str | None = None
) -> tuple[Manifest, bytes]:
    """Pack a source; return its manifest and the payload as `zstd -d` gives it."""
    out = path.parent / f"out-{path.name}"
    out.mkdir(exist_ok=True)
    options = PackOptions(level=1, chunk_size=CHUNK)
    wish = Wish(kind, Platform.of(platform) if platform else None)
    with opened(path, wish, reading) as source:
        if isinstance(source, DiskSource):
            made = pack_disk(source, out, "image", key, options=options)
        else:
            made = pack(source, out, "image", key, options=options)
    stored = made.payload.read_bytes()
    raw = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read()
    assert sha256(raw).hexdigest() == made.manifest.sha256
    return made.manifest, raw


def refusal(path: Path, kind: Kind | None = None, platform: str | None = None) -> str:
    """Return why a source is not taken."""
    wish = Wish(kind, Platform.of(platform) if platform else None)
    with pytest.raises(PlanError) as caught:
        _drain(path, wish, reading)
    return str(caught.value)


def _drain(path: Path, wish: Wish, program: Any) -> None:
    with opened(path, wish, program) as source:
        if isinstance(source, DiskSource):
            list(source.pieces(CHUNK, lambda done, total: None))
        else:
            source.read()


def laid(raw: bytes, into: Path) -> Path:
    """Unpack with what the agent unpacks with."""
    into.mkdir()
    command = ["tar", "-x", "--xattrs", "--xattrs-include=*", "--acls", "-p", "--numeric-owner"]
    subprocess.run([*command, "-C", into], input=raw, check=True)
    return into


def names(raw: bytes) -> set[str]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        return {"/" + name.removeprefix("./").strip("/.") for name in archive.getnames()}


def content(raw: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        found = next(one for one in archive if one.name.removeprefix("./") == name)
        file = archive.extractfile(found)
        assert file is not None
        return file.read()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small root file system with what is easily lost."""
    root = tmp_path / "tree"
    for name in ("etc", "usr/bin", "boot/efi", "var", "home", "empty"):
        (root / name).mkdir(parents=True)
    (root / "etc/os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    (root / "etc/fstab").write_text("")
    (root / "usr/bin/ping").write_text("#!")
    (root / "usr/bin/ping").chmod(0o4755)
    (root / "usr/bin/other").hardlink_to(root / "usr/bin/ping")
    (root / "empty").chmod(0o1777)
    with (root / "var/holes").open("wb") as file:
        file.seek(3 * MIB)
        file.write(b"end")
    if os.geteuid() == 0:
        os.chown(root / "etc/os-release", 1234, 5678)
        os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    return root


# cap_net_raw+ep, as setcap writes it (vfs_cap_data of linux/capability.h, revision 2)
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def check_tree(root: Path) -> None:
    """Look whether all that `tree` has is there."""
    assert (root / "etc/os-release").read_text().startswith("ID=debian")
    assert (root / "etc/os-release").stat().st_uid == 1234
    assert (root / "etc/os-release").stat().st_gid == 5678
    ping = root / "usr/bin/ping"
    assert ping.stat().st_mode & 0o7777 == 0o4755
    assert ping.stat().st_ino == (root / "usr/bin/other").stat().st_ino
    assert os.getxattr(ping, "security.capability") == CAPABILITY
    assert (root / "empty").stat().st_mode & 0o7777 == 0o1777
    assert (root / "var/holes").read_bytes() == bytes(3 * MIB) + b"end"


# --- directories ---


@ROOT
def test_a_directory_arrives_whole_and_packs_to_the_same_bytes_again(
    tree: Path, tmp_path: Path, key: SigningKey
) -> None:
    sh("setfacl", "-m", "u:4242:r", tree / "etc/os-release")
    manifest, raw = packed(tree, key)
    assert (manifest.kind, manifest.os and manifest.os.id) == ("tree", "debian")
    root = laid(raw, tmp_path / "laid")
    check_tree(root)
    assert (root / "var/holes").stat().st_blocks < 100
    assert "user:4242:r--" in sh("getfacl", "-np", root / "etc/os-release")
    assert b"GNUSparseFile.0/holes" in raw
    for path in tree.rglob("*"):  # reading it changes the times of access
        os.utime(path, ns=(1, path.lstat().st_mtime_ns))
    assert packed(tree, key)[1] == raw


def test_a_file_that_cannot_be_read_spoils_a_directory(tree: Path, key: SigningKey) -> None:
    class Broken:
        """tar, told to read what is not there."""

        def __call__(self, *argv: Any, pipe_size: int = 0) -> Any:
            return reading(*argv, "nothing", pipe_size=pipe_size or 1 << 20)

    with pytest.raises(PlanError, match=r"tree: tar exited with status 2: .*nothing"):
        _drain(tree, Wish(), Broken())


# --- squashfs, erofs and other file systems ---


@ROOT
def test_a_squashfs_keeps_owners_links_and_capabilities(
    tree: Path, tmp_path: Path, key: SigningKey
) -> None:
    tree.chmod(0o751)
    sh("mksquashfs", tree, tmp_path / "image", "-quiet", "-no-progress")
    manifest, raw = packed(tmp_path / "image", key)
    assert manifest.kind == "tree"
    root = laid(raw, tmp_path / "laid")
    check_tree(root)
    assert root.stat().st_mode & 0o777 == 0o751


@ROOT
@pytest.mark.parametrize("make", ["mkfs.erofs", "mkfs.ext4"])
def test_a_file_system_in_a_file_makes_a_tree(
    tree: Path, tmp_path: Path, key: SigningKey, make: str
) -> None:
    image = tmp_path / "image"
    if make == "mkfs.ext4":
        image.touch()
        os.truncate(image, 16 * MIB)
        sh(make, "-q", "-d", tree, image)
    else:
        sh(make, "--quiet", image, tree)
    manifest, raw = packed(image, key)
    assert manifest.kind == "tree"
    check_tree(laid(raw, tmp_path / "laid"))
    assert "/lost+found" not in names(raw)
    assert packed(image, key, "tree")[1] == raw


def test_a_program_that_is_missing_is_named_with_its_package(tmp_path: Path, tree: Path) -> None:
    sh("mksquashfs", tree, tmp_path / "image", "-quiet", "-no-progress")

    def without(*argv: Any, pipe_size: int = 0) -> Any:
        return reading("/nowhere/" + str(argv[0]), *argv[1:])

    with pytest.raises(PlanError, match=r"needs /nowhere/sqfs2tar, which is not installed"):
        _drain(tmp_path / "image", Wish(), without)


# --- disks ---


def disk(path: Path, size: int = 64 * MIB, script: str = "size=8M, type=U\ntype=L\n") -> Path:
    """Make a raw disk with a GPT that has fixed identities."""
    path.touch()
    os.truncate(path, size)
    sh(
        "sfdisk",
        "-q",
        path,
        stdin=f"label: gpt\nlabel-id: {'1' * 8}-1111-1111-1111-{'1' * 12}\n{script}",
    )
    with path.open("r+b") as file:
        file.seek(20 * MIB + 12345)
        file.write(os.urandom(2 * MIB))
        file.seek(40 * MIB)
        file.write(bytes(CHUNK))  # stored zeros are zeros too
    return path


def test_a_raw_disk_is_packed_at_fixed_cuts_and_its_holes_are_marked(
    tmp_path: Path, key: SigningKey
) -> None:
    path = disk(tmp_path / "disk", size=64 * MIB + 5 * 512)
    manifest, raw = packed(path, key)
    assert raw == path.read_bytes()
    assert (manifest.kind, manifest.tree, manifest.size) == ("disk", None, len(raw))
    assert [chunk.offset for chunk in manifest.chunks] == list(range(0, len(raw), CHUNK))
    for chunk in manifest.chunks:
        part = raw[chunk.offset : chunk.offset + chunk.length]
        assert chunk.zero == (part.count(0) == len(part))
    assert sum(chunk.zero for chunk in manifest.chunks) > 240
    assert (path.parent / "out-disk/image.raw.zst").exists()
    assert packed(path, key)[0] == manifest


def test_holes_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 1 << 40)
    with path.open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"x" * 4096)
    with opened(path, Wish("disk"), reading) as source:
        assert isinstance(source, DiskSource)
        pieces = source.pieces(64 * MIB, lambda done, total: None)
        found = [at for at, piece in enumerate(pieces) if not piece.zero]
    assert found == [(1 << 39) // (64 * MIB)]


def test_a_disk_that_does_not_end_with_a_sector_gets_zeros(tmp_path: Path, key: SigningKey) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"x" * 1000)
    raw = packed(path, key, "disk")[1]
    assert raw == b"x" * 1000 + bytes(24)
    assert "nothing that is known here, which is not taken; --as disk" in refusal(path)
    sh("gzip", path)
    assert packed(tmp_path / "disk.gz", key, "disk")[1] == raw
    for empty in (tmp_path / "empty", tmp_path / "empty.gz"):
        empty.write_bytes(gzip.compress(b"") if empty.suffix else b"")
        assert refusal(empty, "disk") == f"{empty}: is empty"


@pytest.mark.parametrize(
    "options", [("qcow2", "-c"), ("vmdk",), ("vmdk", "-o", "subformat=streamOptimized")]
)
def test_qcow2_and_vmdk_make_the_image_that_the_raw_disk_makes(
    tmp_path: Path, key: SigningKey, options: tuple[str, ...]
) -> None:
    raw = disk(tmp_path / "raw")
    sh("qemu-img", "convert", "-f", "raw", "-O", *options, raw, tmp_path / "image")
    os.utime(raw, (1_700_000_000, 1_700_000_000))
    os.utime(tmp_path / "image", (1_700_000_000, 1_700_000_000))
    manifest, content = packed(tmp_path / "image", key)
    assert content == raw.read_bytes()
    assert manifest == packed(raw, key)[0]
    assert not list(Path(tempfile.gettempdir()).glob(f"bedplate-source-{os.getpid()}-*"))


@pytest.mark.parametrize("compress", ["gzip", "xz", "zstd"])
def test_a_compressed_disk_is_a_disk_from_a_file_and_from_a_pipe(
    tmp_path: Path, key: SigningKey, compress: str
) -> None:
    path = tmp_path / "raw"
    path.touch()
    os.truncate(path, 16 * MIB)
    sh("sfdisk", "-q", path, stdin="label: gpt\ntype=L\n")
    before = path.read_bytes()
    sh(compress, "-k", path)
    (packing,) = tmp_path.glob("raw.*")
    assert packed(packing, key)[1] == before
    with packing.open("rb") as file, streamed(file, Wish()) as source:
        assert isinstance(source, DiskSource)
        pieces = source.pieces(CHUNK, lambda done, total: None)
        assert b"".join(bytes(piece.content) for piece in pieces) == before


def test_images_that_name_other_files_are_refused_before_qemu_sees_them(tmp_path: Path) -> None:
    base, over = tmp_path / "base", tmp_path / "over"
    sh("qemu-img", "create", "-q", "-f", "qcow2", base, "1M")
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over)
    assert "has a backing file, which could be any file" in refusal(over)
    out = tmp_path / "outside"
    data = f"data_file={tmp_path / 'data'},data_file_raw=on"
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", data, out, "1M")
    assert "has its content in another file" in refusal(out)
    sh(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        tmp_path / "flat",
        "1M",
    )
    assert "vmdk description, whose content lies in other files" in refusal(tmp_path / "flat")
    sh("qemu-img", "create", "-q", "-f", "vmdk", tmp_path / "parent", "1M")
    sh(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "vmdk",
        "-b",
        tmp_path / "parent",
        "-F",
        "vmdk",
        tmp_path / "child",
    )
    assert "has a parent, which could be any file" in refusal(tmp_path / "child")
    # Without a capacity qemu takes the description for all there is, with any file as an extent.
    crooked = bytearray((tmp_path / "parent").read_bytes())
    crooked[12:20] = bytes(8)
    (tmp_path / "crooked").write_bytes(crooked)
    assert "only monolithicSparse and streamOptimized" in refusal(tmp_path / "crooked")


@pytest.mark.parametrize("options", [("qcow2",), ("qcow2", "-c"), ("vmdk",)])
def test_an_image_that_was_cut_off_is_not_taken_for_one_with_zeros(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path = tmp_path / "image"
    sh("qemu-img", "convert", "-f", "raw", "-O", *options, disk(tmp_path / "raw"), path)
    for size in (path.stat().st_size - 200_000, 70_000, 300):
        os.truncate(path, size)
        assert str(path) in refusal(path)


def test_people_are_told_how_much_of_a_disk_is_zero(tmp_path: Path, key: SigningKey) -> None:
    words = ["pack", str(disk(tmp_path / "disk")), "-n", "x", "-d", str(tmp_path)]
    words += ["-k", str(tmp_path / "keys/key.pem"), "--level", "1"]
    done = CliRunner().invoke(main, [*words, "--os-id", "debian"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path}/x.json: a disk (debian), 81% of it zero" in done.stdout
    assert "67.1 MB in 16 chunks packed to 2.1 MB (3%)" in done.stdout
    shown = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (shown["kind"], shown["zero"], shown["size"]) == ("disk", 13 * 4 * MIB, 64 * MIB)
    archive = tmp_path / "archive"
    archive.write_bytes(tar_of([(member("a"), b"")]))
    done = CliRunner().invoke(main, ["pack", str(archive), *words[2:], "--os-id", "debian"])
    assert (done.exit_code, "--os-id is for a disk" in done.stderr) == (2, True)
    for wrong, said in (("--os-id", "os-id: is 'X Y', must be"), ("--platform", "platform: is")):
        done = CliRunner().invoke(main, [*words, wrong, "X Y"])
        assert done.exit_code == 3
        assert said in done.stderr


# --- whole disks as trees ---


def system(path: Path, tree: Path, fstab: str, table: str = "gpt") -> Path:
    """Make a disk with an ESP, a /boot of ext4, a root of ext4 and a /home of xfs."""
    script = (
        f"label: {table}\nsize=34M, type=uefi\nsize=16M, type=linux\n"
        "size=32M, type=linux\nsize=310M, type=linux\n"
    )
    parts = {1: (1 * MIB, 34 * MIB), 2: (35 * MIB, 16 * MIB), 3: (51 * MIB, 32 * MIB)}
    parts[4] = (83 * MIB, 310 * MIB)
    path.touch()
    os.truncate(path, 395 * MIB)
    sh("sfdisk", "-q", path, stdin=script)
    (tree / "etc/fstab").write_text(fstab)
    work = path.parent / "parts"
    work.mkdir()
    for number, (_, size) in parts.items():
        (work / str(number)).touch()
        os.truncate(work / str(number), size)
    sh("mkfs.vfat", "-F", "32", "-i", "cafe0001", work / "1")
    (work / "loader").write_text("an EFI program")
    sh("mmd", "-i", work / "1", "::EFI", "::EFI/BOOT")
    sh("mcopy", "-i", work / "1", work / "loader", "::EFI/BOOT/BOOTX64.EFI")
    (work / "boot").mkdir()
    (work / "boot/efi").mkdir()
    (work / "boot/vmlinuz-6.1").write_text("a kernel")
    sh("mkfs.ext4", "-q", "-L", "bootfs", "-d", work / "boot", work / "2")
    sh("mkfs.ext4", "-q", "-U", "11111111-2222-3333-4444-555555555555", "-d", tree, work / "3")
    proto = f"{work}/proto"
    Path(proto).write_text(f"/\n0 0\nd--755 0 0\nfile ---644 7 7 {work}/loader\n$\n")
    sh("mkfs.xfs", "-q", "-p", proto, work / "4")
    for number, (start, _) in parts.items():
        where = ("bs=1M", f"seek={start // MIB}", "conv=notrunc,sparse", "status=none")
        sh("dd", f"if={work / str(number)}", f"of={path}", *where)
    shutil.rmtree(work)
    return path


FSTAB = """
# <file system> <mount point> <type> <options>
UUID=11111111-2222-3333-4444-555555555555 / ext4 defaults 0 1
LABEL=bootfs /boot ext4 defaults 0 2
UUID=CAFE-0001 /boot/efi vfat umask=0077 0 1
/dev/vda4 /home xfs defaults 0 2
UUID=99999999-2222-3333-4444-555555555555 none swap sw 0 0
LABEL=elsewhere /media/usb ext4 nofail 0 0
tmpfs /tmp tmpfs defaults 0 0
"""


@ROOT
@pytest.mark.parametrize("table", ["gpt", "dos"])
def test_a_whole_disk_makes_the_tree_that_its_fstab_mounts(
    tree: Path, tmp_path: Path, key: SigningKey, table: str
) -> None:
    path = system(tmp_path / "disk", tree, FSTAB, table)
    manifest, raw = packed(path, key, "tree")
    root = laid(raw, tmp_path / "laid")
    check_tree(root)
    assert (root / "boot/vmlinuz-6.1").read_text() == "a kernel"
    assert (root / "boot/efi/EFI/BOOT/BOOTX64.EFI").read_text() == "an EFI program"
    assert (root / "home/file").stat().st_uid == 7
    assert not any("lost+found" in name for name in names(raw))
    assert manifest.tree
    assert [kernel.version for kernel in manifest.tree.kernels] == ["6.1"]
    assert released(path)
    if Path("/dev/fuse").exists():
        sh("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, tmp_path / "qcow2")
        assert packed(tmp_path / "qcow2", key, "tree")[1] == raw


@ROOT
def test_what_a_disk_has_not_is_said(tree: Path, tmp_path: Path) -> None:
    missing = "UUID=99999999-2222-3333-4444-555555555555 /srv ext4 defaults 0 2\n"
    path = system(tmp_path / "disk", tree, FSTAB + missing)
    assert "/srv: is on UUID=99999999-2222-3333-4444-555555555555, which is no" in refusal(
        path, "tree"
    )
    with path.open("r+b") as file:  # as a machine leaves it that was not shut down
        file.seek(51 * MIB + 1024 + 0x60)
        flags = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([flags | 4]))
    assert "partition 3 (ext4) was not unmounted: its journal must be replayed" in refusal(
        path, "tree"
    )
    lvm = disk(tmp_path / "lvm")
    with lvm.open("r+b") as file:
        file.seek(9 * MIB + 512)
        file.write(b"LABELONE")
    assert "no root file system" in refusal(lvm, "tree")
    assert "partition 2 (LVM)" in refusal(lvm, "tree")


@ROOT
def test_a_program_that_is_missing_among_the_mounts_is_named_too(
    tree: Path, tmp_path: Path
) -> None:
    path = system(tmp_path / "disk", tree, FSTAB)
    (tmp_path / "bin").mkdir()
    for name in ("env", "unshare", "sh", "mkdir", "mount", "tar", "head", "find", "grep"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))

    def without(*argv: Any, pipe_size: int = 0) -> Any:
        return reading("env", f"PATH={tmp_path}/bin", *argv)

    with pytest.raises(PlanError, match=r"needs mcopy, which is not installed .*: mtools\)"):
        _drain(path, Wish("tree"), without)


@ROOT
def test_a_root_in_a_subvolume_of_btrfs_is_found(tmp_path: Path, key: SigningKey) -> None:
    whole, part = tmp_path / "disk", tmp_path / "part"
    for path, size in ((whole, 130 * MIB), (part, 120 * MIB)):
        path.touch()
        os.truncate(path, size)
    sh("sfdisk", "-q", whole, stdin="label: gpt\nsize=120M, type=L\n")
    uuid = "11111111-2222-3333-4444-666666666666"
    sh("mkfs.btrfs", "-q", "-U", uuid, part)
    (tmp_path / "mounted").mkdir()
    script = f"""
        mount -o loop {part} {tmp_path}/mounted
        cd {tmp_path}/mounted
        btrfs subvolume create root
        btrfs subvolume create home
        mkdir -p root/etc root/usr root/home
        echo 'UUID={uuid} / btrfs subvol=root 0 0' >root/etc/fstab
        echo 'UUID={uuid} /home btrfs subvol=home,compress=zstd:1 0 0' >>root/etc/fstab
        echo hello >home/user
        cd / && umount {tmp_path}/mounted
    """
    sh("unshare", "--mount", "sh", "-euc", script)
    sh("dd", f"if={part}", f"of={whole}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    _, raw = packed(whole, key, "tree")
    assert content(raw, "home/user") == b"hello\n"
    assert {"/etc/fstab", "/usr", "/home/user"} <= names(raw)


# --- container images ---


Kept = dict[str, Any]


class Layout:
    """An OCI layout in a directory, made by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, stored: bytes, kind: str, **more: Any) -> Kept:
        """Store a blob; return its descriptor."""
        digest = sha256(stored).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(stored)
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(stored), **more}

    def image(self, layers: list[Kept], **more: Any) -> Kept:
        """Store a manifest; return its descriptor."""
        document = {"schemaVersion": 2, "layers": layers}
        return self.blob(
            json.dumps(document).encode(), "application/vnd.oci.image.manifest.v1+json", **more
        )

    def index(self, *manifests: Kept) -> None:
        document = {"schemaVersion": 2, "manifests": manifests}
        (self.path / "index.json").write_text(json.dumps(document))


TAR = "application/vnd.oci.image.layer.v1.tar"
LOWER = tar_of(
    [(member(name, text), text) for name, text in (("etc/old", b"1"), ("etc/both", b"1"))]
)
UPPER = tar_of(
    [
        (member("etc/.wh.old"), b""),
        (member("etc/both", b"22"), b"22"),
        (member("etc/link", type=tarfile.LNKTYPE, linkname="etc/both"), b""),
    ]
)


def two_layers(layout: Layout, **more: Any) -> Kept:
    zstd = zstandard.ZstdCompressor().compress(UPPER)
    return layout.image(
        [
            layout.blob(gzip.compress(LOWER, mtime=0), f"{TAR}+gzip"),
            layout.blob(zstd, f"{TAR}+zstd"),
        ],
        **more,
    )


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_an_oci_layout_is_one_tree_as_a_directory_and_as_an_archive(
    layout: Layout, tmp_path: Path, key: SigningKey
) -> None:
    layout.index(two_layers(layout))
    _, raw = packed(layout.path, key)
    assert names(raw) == {"/etc/both", "/etc/link"}
    assert content(raw, "etc/both") == content(raw, "etc/link") == b"22"
    archive = tmp_path / "archive"
    sh("tar", "-C", layout.path, "-cf", archive, "oci-layout", "index.json", "blobs")
    assert packed(archive, key)[1] == raw
    sh("gzip", "-k", archive)
    assert "must be a plain file: unpack it first" in refusal(tmp_path / "archive.gz")


def test_an_index_gives_the_image_for_the_platform_that_was_asked_for(
    layout: Layout, key: SigningKey
) -> None:
    def one(text: bytes, architecture: str) -> Kept:
        layer = layout.blob(tar_of([(member("which", text), text)]), TAR)
        return layout.image([layer], platform={"os": "linux", "architecture": architecture})

    note = one(b"no image", "unknown")
    inner = {"manifests": [one(b"amd64", "amd64"), one(b"arm64", "arm64"), note]}
    kind = "application/vnd.oci.image.index.v1+json"
    layout.index(layout.blob(json.dumps(inner).encode(), kind))
    for architecture in ("amd64", "arm64"):
        _, raw = packed(layout.path, key, platform=f"linux/{architecture}")
        assert content(raw, "which").decode() == architecture
    said = refusal(layout.path, platform="linux/s390x")
    assert "no image for linux/s390x, must be one; there are: linux/amd64, linux/arm64" in said
    bare = one(b"of no platform", "none")
    del bare["platform"]
    layout.index(bare, {**bare, "annotations": {"org.opencontainers.image.ref.name": "latest"}})
    assert content(packed(layout.path, key)[1], "which") == b"of no platform"
    layout.index(one(b"a", "amd64"), one(b"b", "amd64"))
    assert "2 images for linux/amd64" in refusal(layout.path, platform="linux/amd64")


def test_a_blob_with_another_digest_spoils_the_image(
    layout: Layout, tmp_path: Path, key: SigningKey
) -> None:
    image = two_layers(layout)
    layout.index(image)
    blobs = layout.path / "blobs/sha256"
    for place in blobs.iterdir():
        good = place.read_bytes()
        # One byte more behind the end of gzip's stream and of zstd's, and one bit within.
        for bad in (good + b"\0", good[:-1] + bytes([good[-1] ^ 1]), good[:-1]):
            place.write_bytes(bad)
            with pytest.raises(PlanError):
                packed(layout.path, key)
        place.write_bytes(good)
    assert not (tmp_path / "out-layout/image.json").exists()
    assert packed(layout.path, key)
    digest = image["digest"].removeprefix("sha256:")
    (blobs / digest).write_bytes((blobs / digest).read_bytes().replace(b"2,", b"3,"))
    assert "has the digest sha256:" in refusal(layout.path)


def test_layers_that_are_no_tar_and_digests_that_are_paths_are_refused(layout: Layout) -> None:
    layout.index(layout.image([layout.blob(b"{}", "application/vnd.example+json")]))
    assert "has a layer of type application/vnd.example+json" in refusal(layout.path)
    layout.index({**two_layers(layout), "digest": "sha256:../../../../etc/passwd"})
    assert "names a blob in a way that cannot be read" in refusal(layout.path)


def test_what_docker_save_writes_is_taken_and_held_to_its_digests(
    tmp_path: Path, key: SigningKey
) -> None:
    saved = tmp_path / "saved"
    layers = {}
    for layer in (LOWER, UPPER):
        name = sha256(layer).hexdigest()
        (saved / name).mkdir(parents=True)
        (saved / name / "layer.tar").write_bytes(layer)
        layers[f"{name}/layer.tar"] = f"sha256:{name}"
    config = json.dumps({"rootfs": {"diff_ids": list(layers.values())}}).encode()
    name = sha256(config).hexdigest() + ".json"
    (saved / name).write_bytes(config)
    listing = [{"Config": name, "RepoTags": ["x:1"], "Layers": list(layers)}]
    (saved / "manifest.json").write_text(json.dumps(listing))
    archive = tmp_path / "archive"
    sh("tar", "-C", saved, "-cf", archive, *(path.name for path in saved.iterdir()))
    _, raw = packed(archive, key)
    assert names(raw) == {"/etc/both", "/etc/link"}
    bad = archive.read_bytes().replace(b"etc/old", b"etc/odd")
    archive.write_bytes(bad)
    said = refusal(archive)
    assert "layer.tar: " in said


# --- pipes, and what is nothing ---


def test_a_tar_in_a_pipe_is_a_tree_however_its_first_bytes_come(tree: Path) -> None:
    archive = subprocess.run(["tar", "-C", tree, "-cz", "."], capture_output=True, check=True)
    read, write = os.pipe()
    feeder = subprocess.Popen(
        ["sh", "-c", "head -c 100; sleep 0.2; cat"], stdin=subprocess.PIPE, stdout=write
    )
    os.close(write)
    assert feeder.stdin
    feeder.stdin.write(archive.stdout)
    feeder.stdin.close()
    with os.fdopen(read, "rb") as pipe, streamed(pipe, Wish()) as source:
        assert not isinstance(source, DiskSource)
        assert "/usr/bin/ping" in names(source.read())
    assert feeder.wait() == 0


def test_a_pipe_with_a_name_is_read_once(tree: Path, tmp_path: Path, key: SigningKey) -> None:
    os.mkfifo(tmp_path / "pipe")
    feeder = subprocess.Popen(["sh", "-c", f"tar -C {tree} -cz . >{tmp_path}/pipe"])
    assert "/usr/bin/ping" in names(packed(tmp_path / "pipe", key)[1])
    assert feeder.wait() == 0


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"vhdxfile", "is a vhdx image, which is not taken"),
        (b"070701", "is a cpio archive"),
        (b"LUKS\xba\xbe", "is LUKS and no system's root"),
        (b"", "nothing that is known here"),
        (b"\x1f\x8b damaged", "cannot be read"),
    ],
)
def test_what_is_nothing_is_named(tmp_path: Path, start: bytes, said: str) -> None:
    (tmp_path / "source").write_bytes(start.ljust(4096, b"\0"))
    assert said in refusal(tmp_path / "source")


def test_a_kind_that_a_source_cannot_make_is_refused(tree: Path, tmp_path: Path) -> None:
    assert "is a directory, which makes a tree, not a disk" in refusal(tree, "disk")
    sh("tar", "-C", tree, "-cf", tmp_path / "archive", ".")
    assert "is a tar archive, which makes a tree, not a disk" in refusal(
        tmp_path / "archive", "disk"
    )
