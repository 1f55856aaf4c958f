"""Envelopes that the real openssl makes, opened as an operator would."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.adapters.command import run
from agent.adapters.escrow import OpensslCms
from agent.errors import CommandError
from agent.secret import Secret

CONTENT = Secret('{"key":"0123456789abcdef"}')
ESCROW = OpensslCms(run)
RSA = ("rsa:3072",)
P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
P521 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-521")
LEAF = ("-addext", "basicConstraints=critical,CA:FALSE")


class Operator:
    """Someone with a key and a self-signed certificate, made as docs/recovery.md says."""

    def __init__(self, directory: Path, name: str, kind: tuple[str, ...], *extra: str) -> None:
        self.key, self.file = directory / f"{name}.key", directory / f"{name}.crt"
        run(
            "openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-subj", f"/CN={name}",
            "-days", "30", "-keyout", self.key, "-out", self.file, *(extra or LEAF),
        )  # fmt: skip
        self.certificate = self.file.read_text()

    def open(self, envelope: bytes, file: Path) -> subprocess.CompletedProcess[bytes]:
        file.write_bytes(envelope)
        return subprocess.run(
            ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", file,
             "-inkey", self.key, "-recip", self.file],
            capture_output=True, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def rsa(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("rsa"), "rsa", RSA)


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Operator, Operator]:
    directory = tmp_path_factory.mktemp("ec")
    return Operator(directory, "p256", P256), Operator(directory, "p521", P521)


def problems(*certificates: str, at: datetime | None = None) -> list[str]:
    escrow = OpensslCms(run, lambda: at) if at else ESCROW
    return [str(problem) for problem in escrow.problems(certificates)]


def test_any_one_of_the_recipients_opens_the_envelope(
    rsa: Operator, curves: tuple[Operator, Operator], tmp_path: Path
) -> None:
    operators = (rsa, *curves)
    certificates = [operator.certificate for operator in operators]
    assert problems(*certificates) == []
    envelope = ESCROW.envelope(CONTENT, certificates)
    for operator in operators:
        opened = operator.open(envelope, tmp_path / "host.p7m")
        assert (opened.returncode, opened.stdout) == (0, CONTENT.value)


def test_the_envelope_says_aes_256_gcm_oaep_and_sha256_and_nothing_of_its_content(
    rsa: Operator, curves: tuple[Operator, Operator], tmp_path: Path
) -> None:
    envelope = ESCROW.envelope(CONTENT, [rsa.certificate, curves[0].certificate])
    file = tmp_path / "host.p7m"
    file.write_bytes(envelope)
    structure = run("openssl", "asn1parse", "-inform", "DER", "-in", file)
    for algorithm in ("id-smime-ct-authEnvelopedData", "aes-256-gcm", "rsaesOaep", "sha256kdf"):
        assert algorithm in structure, structure
    assert "sha1kdf" not in structure
    assert b"0123456789abcdef" not in envelope


def test_a_changed_envelope_is_noticed(rsa: Operator, tmp_path: Path) -> None:
    envelope = bytearray(ESCROW.envelope(CONTENT, [rsa.certificate]))
    place = envelope.index(bytes.fromhex("6086480165030401 2e")) + 40  # after the cipher's OID
    envelope[place] ^= 1
    assert rsa.open(bytes(envelope), tmp_path / "host.p7m").returncode != 0


def test_somebody_else_s_key_does_not_open_it(
    rsa: Operator, curves: tuple[Operator, Operator], tmp_path: Path
) -> None:
    envelope = ESCROW.envelope(CONTENT, [curves[0].certificate])
    for stranger in (rsa, curves[1]):
        opened = stranger.open(envelope, tmp_path / "host.p7m")
        assert opened.returncode != 0
        assert CONTENT.value not in opened.stdout


def test_every_unfit_certificate_is_named_by_its_place(rsa: Operator, tmp_path: Path) -> None:
    small = Operator(tmp_path, "small", ("rsa:2048",)).certificate
    authority = Operator(tmp_path, "ca", P256, "-addext", "basicConstraints=critical,CA:TRUE")
    signer = Operator(tmp_path, "sign", P256, *LEAF, "-addext", "keyUsage=digitalSignature")
    edwards = Operator(tmp_path, "ed", ("ed25519",)).certificate
    found = problems(
        rsa.certificate, small, authority.certificate, signer.certificate, edwards, "hello"
    )
    expected = (
        "[1]: has an RSA key of 2048 bits, 3072 are needed",
        "[2]: is the certificate of an authority",
        "[3]: may not be used for this: its key usage lacks keyAgreement",
        "[4]: has a key that nothing can be encrypted to",
        "[5]: is not one certificate in PEM",
    )
    assert len(found) == len(expected)
    for problem, text in zip(found, expected, strict=True):
        assert problem.startswith(f"encryption.recovery.escrow_to{text}")


def test_a_certificate_out_of_its_time_is_refused_with_both_dates(rsa: Operator) -> None:
    now = datetime.now(UTC)
    (late,) = problems(rsa.certificate, at=now + timedelta(days=60))
    assert f"[0]: CN=rsa expired on {now + timedelta(days=30):%F}, this machine's clock" in late
    (early,) = problems(rsa.certificate, at=now - timedelta(days=60))
    assert f"[0]: CN=rsa is valid from {now:%F}, this machine's clock says" in early


def test_an_escrow_to_nobody_is_refused() -> None:
    assert len(problems()) == 1


def test_openssl_that_cannot_encrypt_fails_by_name(tmp_path: Path) -> None:
    edwards = Operator(tmp_path, "ed", ("ed25519",)).certificate
    with pytest.raises(CommandError, match="openssl cms"):
        ESCROW.envelope(CONTENT, [edwards])
