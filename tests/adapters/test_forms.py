"""What the build leaves beside the live image: checksums, their signature, nothing stale."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from pathlib import Path

import pytest

from agent.media import ownkeys
from agent.payload.sign import keygen, load_public_keys, verify
from image import forms


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A live image as mkosi's build leaves it: its files, older than their checksums."""
    target = tmp_path / "build/live/rig"
    target.mkdir(parents=True)
    names = ("bedplate.efi", "initrd.img", "manifest.json", "vmlinuz")
    for name in names:
        (target / name).write_text(name)
        os.utime(target / name, (time.time() - 60, time.time() - 60))
    sums = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    (target / "SHA256SUMS").write_text("".join(f"{sums[name]}  {name}\n" for name in names))
    return target


def signed(root: Path, target: Path) -> str:
    """Return the list of checksums, whose signature is right."""
    listed = (target / "SHA256SUMS").read_bytes()
    public = (root / "build/keys/image.pub").read_bytes()
    verify(listed, (target / "SHA256SUMS.sig").read_bytes(), load_public_keys(public, "image.pub"))
    return listed.decode()


def make_image_key(root: Path) -> None:
    (root / "build/keys").mkdir(parents=True, exist_ok=True)
    keygen(root / "build/keys/image.key", root / "build/keys/image.pub")


def test_the_checksums_are_signed_by_the_image_key(tmp_path: Path, target: Path) -> None:
    make_image_key(tmp_path)
    forms.finish(tmp_path, target)
    assert hashlib.sha256(b"vmlinuz").hexdigest() + "  vmlinuz\n" in signed(tmp_path, target)


def test_a_new_key_signs_anew(tmp_path: Path, target: Path) -> None:
    make_image_key(tmp_path)
    forms.finish(tmp_path, target)
    for name in ("image.key", "image.pub"):
        (tmp_path / "build/keys" / name).unlink()
    make_image_key(tmp_path)
    os.utime(tmp_path / "build/keys/image.key", (time.time() + 5, time.time() + 5))
    forms.finish(tmp_path, target)
    signed(tmp_path, target)


def test_a_live_image_that_was_built_anew_is_signed_anew(tmp_path: Path, target: Path) -> None:
    """Its build has written the new list itself, beside the signature of the old one."""
    make_image_key(tmp_path)
    forms.finish(tmp_path, target)
    listed = target / "SHA256SUMS"
    (target / "vmlinuz").write_text("another kernel")
    sums = listed.read_text().replace(
        hashlib.sha256(b"vmlinuz").hexdigest(), hashlib.sha256(b"another kernel").hexdigest()
    )
    listed.write_text(sums)
    forms.finish(tmp_path, target)
    assert signed(tmp_path, target) == sums


def test_a_signature_that_is_right_stays_as_it_is(tmp_path: Path, target: Path) -> None:
    make_image_key(tmp_path)
    forms.finish(tmp_path, target)
    made = (target / "SHA256SUMS.sig").stat().st_mtime_ns
    forms.finish(tmp_path, target)
    (tmp_path / "build/keys/image.key").unlink()
    forms.finish(tmp_path, target)
    assert (target / "SHA256SUMS.sig").stat().st_mtime_ns == made


def test_without_a_key_nothing_is_signed_and_an_old_signature_does_not_stay(
    tmp_path: Path, target: Path
) -> None:
    (target / "SHA256SUMS.sig").write_bytes(b"old")
    (target / "bedplate.iso").write_text("new")
    forms.finish(tmp_path, target)
    assert not (target / "SHA256SUMS.sig").exists()
    assert "bedplate.iso" in (target / "SHA256SUMS").read_text()


def test_media_of_an_older_build_are_removed(tmp_path: Path, target: Path) -> None:
    for name in (forms.ISO, forms.RAW):
        (target / name).write_text("older")
    (target / forms.STAMP).write_text("digest-of-an-older-build code\n")
    forms.finish(tmp_path, target)
    assert not (target / forms.ISO).exists()
    assert not (target / forms.RAW).exists()
    assert forms.ISO not in (target / "SHA256SUMS").read_text()


def test_grub_gets_the_kernel_command_line_of_the_image() -> None:
    root = Path(__file__).parents[2]
    script = forms.grub_configuration(root)
    assert " noresume bedplate.medium $extra\n" in script
    if (check := Path("/usr/bin/grub-script-check")).exists():
        subprocess.run([check], input=script.encode(), check=True)


def test_the_operators_key_signs_the_uki_once(tmp_path: Path, target: Path) -> None:
    stub = _efi_program()
    (target / "bedplate.efi").write_bytes(stub)
    keys = tmp_path / "build/keys/secureboot"
    keys.mkdir(parents=True)
    ownkeys.make(keys, "Tests", ())
    forms.finish(tmp_path, target)
    once = (target / "bedplate.efi").read_bytes()
    check: list[str | Path] = ["sbverify", "--cert", keys / "db.crt", target / "bedplate.efi"]
    subprocess.run(check, check=True, capture_output=True)
    assert hashlib.sha256(once).hexdigest() in (target / "SHA256SUMS").read_text()
    forms.finish(tmp_path, target)
    assert (target / "bedplate.efi").read_bytes() == once


def _efi_program() -> bytes:
    """Return a minimal PE32+ file for x86-64: headers and one section (PE/COFF, section 3)."""
    header = bytearray(0x400)
    header[0:2], header[0x3C:0x40] = b"MZ", (0x80).to_bytes(4, "little")
    header[0x80:0x84] = b"PE\0\0"
    header[0x84:0x98] = b"".join(
        (value).to_bytes(size, "little")
        for value, size in ((0x8664, 2), (1, 2), (0, 4), (0, 4), (0, 4), (240, 2), (0x22E, 2))
    )
    optional = bytearray(240)
    for at, value, size in (
        (0, 0x20B, 2), (4, 0x200, 4), (16, 0x1000, 4), (20, 0x1000, 4), (32, 0x1000, 4),
        (36, 0x200, 4), (56, 0x2000, 4), (60, 0x400, 4), (68, 10, 2), (108, 16, 4),
    ):  # fmt: skip
        optional[at : at + size] = value.to_bytes(size, "little")
    header[0x98 : 0x98 + 240] = optional
    section = bytearray(40)
    section[0:5] = b".text"
    for at, value in ((8, 0x200), (12, 0x1000), (16, 0x200), (20, 0x400), (36, 0x60000020)):
        section[at : at + 4] = value.to_bytes(4, "little")
    header[0x188 : 0x188 + 40] = section
    return bytes(header) + b"\xc3" * 0x200
