"""Keys and signatures: made once, kept private, good for exactly one run of bytes."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import ImageError, PlanError
from agent.payload.sign import (
    PublicKey,
    SigningKey,
    keygen,
    load_public_keys,
    load_signing_key,
    load_trusted,
    verify,
)

KEY = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))


def test_a_key_pair_is_written_for_its_owner_alone_and_reads_back(tmp_path: Path) -> None:
    made = keygen(tmp_path / "key.pem", tmp_path / "key.pub")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key.pub").stat().st_mode & 0o777 == 0o644
    assert load_signing_key(tmp_path / "key.pem").public == made
    assert load_trusted([tmp_path / "key.pub"]) == (made,)


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    for there in ("key.pem", "key.pub"):
        (tmp_path / there).write_text("precious")
        with pytest.raises(PlanError, match=f"{there}: is there already"):
            keygen(tmp_path / "key.pem", tmp_path / "key.pub")
        assert [path.name for path in tmp_path.iterdir()] == [there]
        (tmp_path / there).unlink()


def test_keys_in_a_directory_that_is_not_there_are_a_named_problem(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"missing/key.pem: cannot be written: No such file"):
        keygen(tmp_path / "missing/key.pem", tmp_path / "key.pub")
    with pytest.raises(PlanError, match=r"none.pem: cannot be read: No such file"):
        load_signing_key(tmp_path / "none.pem")
    with pytest.raises(PlanError, match=r"none.pub: cannot be read: No such file"):
        load_trusted([tmp_path / "none.pub"])


def test_the_key_id_is_what_openssl_and_sha256sum_show() -> None:
    der = KEY.public.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert KEY.public.id == sha256(der).hexdigest()[:16]


def test_a_public_key_is_written_as_openssl_does() -> None:
    pem = KEY.public.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert KEY.public.pem == pem


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\n", b"\r\n"),
        (b"MCow", b"MC\now"),
        (b"KEY-----\nM", b"KEY-----  \nM"),
    ],
)
def test_a_key_is_the_same_however_its_lines_are_broken(old: bytes, new: bytes) -> None:
    pem = KEY.public.pem.replace(old, new)
    assert pem != KEY.public.pem
    assert load_public_keys(pem, "keys") == (KEY.public,)


def test_what_a_trusted_key_is_read_with_knows_no_other_formats() -> None:
    """Those of OpenSSH alone bring more code than all of this package."""
    program = """if True:
        import sys
        from agent.payload.sign import load_public_keys
        (key,) = load_public_keys(sys.stdin.buffer.read(), "keys")
        print(key.id, *sorted(sys.modules))
        """
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, input=KEY.public.pem, stdout=subprocess.PIPE, check=True)
    found, *modules = done.stdout.decode().split()
    assert found == KEY.public.id
    assert not [name for name in modules if name.endswith(".serialization.ssh")]


def test_a_signing_key_shows_only_its_public_id() -> None:
    assert repr(KEY) == f"SigningKey({KEY.public.id})"


@settings(max_examples=40)
@given(st.binary(max_size=200), st.integers(min_value=0))
def test_a_signature_is_good_for_its_exact_bytes_only(document: bytes, place: int) -> None:
    signature = KEY.sign(document)
    assert verify(document, signature, [OTHER.public, KEY.public]) == KEY.public
    spoiled = bytearray(document + b"\0")
    spoiled[place % len(spoiled)] ^= 1 << place % 8
    with pytest.raises(ImageError, match="matches no trusted key"):
        verify(bytes(spoiled), signature, [OTHER.public, KEY.public])


@pytest.mark.parametrize("bit", range(0, 512, 7))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    signature = bytearray(KEY.sign(b"x"))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ImageError, match="matches no trusted key"):
        verify(b"x", bytes(signature), [KEY.public])


def test_who_is_not_trusted_is_refused_and_the_trusted_are_named() -> None:
    with pytest.raises(ImageError, match=f"trusted: {OTHER.public.id}"):
        verify(b"x", KEY.sign(b"x"), [OTHER.public])
    with pytest.raises(ImageError, match="trusted: none"):
        verify(b"x", KEY.sign(b"x"), [])


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65, b"<html>"])
def test_what_is_no_signature_is_said_to_be_none(signature: bytes) -> None:
    with pytest.raises(ImageError, match=rf"has {len(signature)} bytes, Ed25519 has 64"):
        verify(b"x", signature, [KEY.public])


def test_a_file_may_hold_several_keys_and_each_counts_once(tmp_path: Path) -> None:
    both = b"# ours\n" + KEY.public.pem + b"\n" + OTHER.public.pem + KEY.public.pem
    assert load_public_keys(both, "keys") == (KEY.public, OTHER.public)
    (tmp_path / "a").write_bytes(both)
    (tmp_path / "b").write_bytes(OTHER.public.pem)
    assert load_trusted([tmp_path / "b", tmp_path / "a"]) == (OTHER.public, KEY.public)


def rsa_pem() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "trust.pem: holds no public key in PEM"),
        (b"hello", "holds no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (rsa_pem(), "that is not Ed25519"),
    ],
)
def test_what_is_no_trusted_key_is_refused_by_name(pem: bytes, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        load_public_keys(pem, "trust.pem")


def test_a_private_key_of_another_kind_or_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    locked = ed25519.Ed25519PrivateKey.generate()
    for pem in (
        other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        locked.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
        b"no key at all",
    ):
        path.write_bytes(pem)
        with pytest.raises(PlanError, match="holds no Ed25519 private key"):
            load_signing_key(path)


def test_public_keys_compare_by_what_they_are() -> None:
    again = PublicKey.of(KEY.public.key)
    assert again == KEY.public
    assert len({again, KEY.public, OTHER.public}) == 2
    assert KEY.public != "KEY"
