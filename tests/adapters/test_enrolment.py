"""Enrolment files for firmware: whoever reads them by the specification finds what was meant."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.adapters.secure_boot import SecureBoot
from agent.errors import MachineError, PlanError, StepError
from agent.media import ownkeys
from agent.media.enrolment import GLOBAL, SECURITY, VARIABLES, Variable, vendor

SIGNED_BY = {"PK": "PK", "KEK": "PK", "db": "KEK"}
HEADER = 16 + 24  # EFI_TIME, WIN_CERTIFICATE_UEFI_GUID


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    ownkeys.make(directory, "Tests", ())
    return directory


def taken_apart(auth: bytes) -> tuple[bytes, bytes, bytes]:
    """Return time, signature and content of an update (UEFI 2.10, section 8.2.2)."""
    length, revision, kind = struct.unpack_from("<IHH", auth, 16)
    assert (revision, kind) == (0x0200, 0x0EF1)
    assert auth[24:40] == UUID("4aafd29d-68df-49ee-8aa9-347d375665a7").bytes_le
    return auth[:16], auth[HEADER : 16 + length], auth[16 + length :]


def certificates(content: bytes) -> list[x509.Certificate]:
    """Return what a variable lists (EFI_SIGNATURE_LIST, section 32.4.1)."""
    found = []
    while content:
        assert content[:16] == UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
        size, header, each = struct.unpack_from("<III", content, 16)
        assert (header, size) == (0, 28 + each)
        found.append(x509.load_der_x509_certificate(content[44:size]))
        content = content[size:]
    return found


@pytest.mark.parametrize("variable", VARIABLES)
def test_openssl_finds_the_signature_of_the_right_key_over_the_right_bytes(
    keys: Path, tmp_path: Path, variable: Variable
) -> None:
    time, signature, content = taken_apart((keys / f"{variable}.auth").read_bytes())
    attributes = struct.pack("<I", 0x27)
    name = variable.encode("utf-16-le")
    signed = name + vendor(variable).bytes_le + attributes + time + content
    (tmp_path / "signed").write_bytes(signed)
    # openssl wants the ContentInfo around it that firmware does not.
    oid = bytes.fromhex("06092a864886f70d010702")
    inner = b"\xa0\x82" + len(signature).to_bytes(2, "big") + signature
    body = oid + inner
    (tmp_path / "p7").write_bytes(b"\x30\x82" + len(body).to_bytes(2, "big") + body)
    signer = keys / f"{SIGNED_BY[variable]}.crt"
    done = subprocess.run(
        ["openssl", "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "p7",
         "-content", tmp_path / "signed", "-CAfile", signer, "-purpose", "any",
         "-out", "/dev/null"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_variable_lists_its_own_certificate(keys: Path, variable: Variable) -> None:
    _, _, content = taken_apart((keys / f"{variable}.auth").read_bytes())
    own = x509.load_pem_x509_certificate((keys / f"{variable}.crt").read_bytes())
    assert certificates(content) == [own]


def test_other_certificates_are_listed_in_db_only(keys: Path, tmp_path: Path) -> None:
    ownkeys.make(tmp_path, "Mine", [keys / "db.crt", keys / "KEK.cer"])
    others = [
        x509.load_pem_x509_certificate((keys / f"{name}.crt").read_bytes())
        for name in ("db", "KEK")
    ]
    assert certificates(taken_apart((tmp_path / "db.auth").read_bytes())[2])[1:] == others
    assert len(certificates(taken_apart((tmp_path / "KEK.auth").read_bytes())[2])) == 1


def test_private_keys_are_for_their_owner_and_nothing_is_overwritten(keys: Path) -> None:
    assert all((keys / f"{name}.key").stat().st_mode & 0o777 == 0o600 for name in VARIABLES)
    before = (keys / "db.key").read_bytes()
    with pytest.raises(PlanError, match="is there already"):
        ownkeys.make(keys, "Tests", ())
    assert (keys / "db.key").read_bytes() == before


def test_what_is_no_certificate_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(PlanError, match="holds no certificate"):
        ownkeys.make(tmp_path, "Tests", [tmp_path / "x"])
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


def test_the_certificate_is_der_for_firmware_menus(keys: Path) -> None:
    own = x509.load_pem_x509_certificate((keys / "db.crt").read_bytes())
    assert (keys / "db.cer").read_bytes() == own.public_bytes(Encoding.DER)


# --- this machine's firmware ---


def firmware(tmp_path: Path, *, setup: int, enforced: int) -> SecureBoot:
    for name, value in (("SetupMode", setup), ("SecureBoot", enforced)):
        (tmp_path / f"{name}-{GLOBAL}").write_bytes(b"\6\0\0\0" + bytes([value]))
    return SecureBoot(tmp_path)


@pytest.mark.parametrize(
    ("setup", "enforced", "state"), [(1, 0, "setup"), (0, 1, "on"), (0, 0, "off")]
)
def test_the_state_is_told(tmp_path: Path, setup: int, enforced: int, state: str) -> None:
    assert firmware(tmp_path, setup=setup, enforced=enforced).state() == state


def test_without_uefi_the_state_is_unknown(tmp_path: Path) -> None:
    assert SecureBoot(tmp_path / "none").state() == "unknown"


def updates() -> dict[Variable, bytes]:
    return {name: f"{name} update".encode() for name in VARIABLES}


def test_in_setup_mode_all_three_are_written_with_their_attributes(tmp_path: Path) -> None:
    firmware(tmp_path, setup=1, enforced=0).enroll(updates())
    assert (tmp_path / f"db-{SECURITY}").read_bytes() == b"\x27\0\0\0db update"
    assert (tmp_path / f"PK-{GLOBAL}").read_bytes() == b"\x27\0\0\0PK update"
    assert (tmp_path / f"KEK-{GLOBAL}").read_bytes() == b"\x27\0\0\0KEK update"


@pytest.mark.parametrize("enforced", [0, 1])
def test_a_machine_with_an_owner_is_left_alone(tmp_path: Path, enforced: int) -> None:
    machine = firmware(tmp_path, setup=0, enforced=enforced)
    with pytest.raises(MachineError, match="has an owner already"):
        machine.enroll(updates())
    assert not (tmp_path / f"PK-{GLOBAL}").exists()


def test_a_refusal_of_the_firmware_is_told_and_pk_comes_last(tmp_path: Path) -> None:
    machine = firmware(tmp_path, setup=1, enforced=0)
    (tmp_path / f"KEK-{GLOBAL}").mkdir()
    with pytest.raises(StepError, match="KEK: the firmware did not take it: is a directory"):
        machine.enroll(updates())
    assert not (tmp_path / f"PK-{GLOBAL}").exists()
