"""Keys and certificates that a plan carries: what is unfit is refused before a disk is touched."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan.advertisement import parse_advertisement, thumbprint
from agent.plan.certificate import parse_certificate
from agent.plan.ssh import parse_authorized_key
from tests.unit.plan.plans import (
    EXCHANGE_KEY,
    SIGNING_KEY,
    SSH_KEY,
    advertisement,
    certificate,
    encoded,
)

PRIVATE = "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "pem",
    [
        certificate("P-256"),
        certificate("RSA-3072"),
        certificate("RSA-3072", usage="key_encipherment"),
        certificate("P-256", usage="key_agreement"),
    ],
)
def test_a_certificate_that_can_be_encrypted_to_is_kept_in_canonical_form(pem: str) -> None:
    assert parse_certificate(f"CN=someone\n{pem}\n\n") == pem


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (PRIVATE, "is a private key: give the certificate"),
        ("", "is not one certificate in PEM"),
        (certificate() * 2, "is not one certificate in PEM"),
        (certificate().replace("M", "N", 5), "is not a certificate in PEM"),
        (certificate("RSA-2048"), "has an RSA key of 2048 bits, 3072 are needed"),
        (certificate("P-192"), "has a key on secp192r1: use P-256, P-384 or P-521"),
        (certificate("Ed25519"), "has a key that nothing can be encrypted to"),
        (certificate(authority=True), "is the certificate of an authority"),
        (certificate(usage="digital_signature"), "its key usage lacks keyAgreement"),
        (certificate("RSA-3072", usage="key_agreement"), "its key usage lacks keyEncipherment"),
    ],
)
def test_an_unfit_certificate_is_refused_with_the_reason(pem: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^(is|has|may) ") as caught:
        parse_certificate(pem)
    assert message in str(caught.value)


@given(st.binary(max_size=200))
def test_any_der_in_a_certificate_ends_in_a_reason(der: bytes) -> None:
    body = base64.encodebytes(der).decode()
    with pytest.raises(ValueError, match="is not"):
        parse_certificate(f"-----BEGIN CERTIFICATE-----\n{body}-----END CERTIFICATE-----\n")


def test_an_advertisement_is_read_from_a_mapping_or_from_json() -> None:
    flat = advertisement()
    general = {
        "payload": flat["payload"],
        "signatures": [{"protected": flat["protected"], "signature": "AAAA"}],
    }
    assert parse_advertisement(flat) == parse_advertisement(json.dumps(flat, indent=3))
    assert parse_advertisement(flat).jws() == flat
    assert parse_advertisement(general).keys() == (SIGNING_KEY, EXCHANGE_KEY)


def test_a_thumbprint_is_the_one_of_the_standard() -> None:
    # The key and its thumbprint of RFC 7638 section 3.1.
    key = {
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tS"
        "oc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_F"
        "DW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vM"
        "QFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
        "kid": "2011-04-29",
    }
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_only_signing_keys_vouch_for_an_advertisement() -> None:
    parsed = parse_advertisement(advertisement())
    assert parsed.signed_by(thumbprint(SIGNING_KEY))
    assert not parsed.signed_by(thumbprint(EXCHANGE_KEY))


GOOD = advertisement()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", '"{" is not JSON'),
        ("[" * 60000, "is not JSON"),
        ("x" * 70000, "has 70000 characters, an advertisement may have 65536"),
        ([], "must be text"),
        ({}, "is not what a Tang server's /adv answers"),
        ({**GOOD, "more": 1}, "is not what a Tang server's /adv answers"),
        ({"payload": GOOD["payload"]}, "is not signed"),
        ({"payload": GOOD["payload"], "signatures": []}, "is not signed"),
        ({"payload": GOOD["payload"], "signatures": 7}, "is not signed"),
        ({**GOOD, "signature": "§"}, "is not signed"),
        ({**GOOD, "payload": "§"}, "has a payload that is not a set of keys"),
        ({**GOOD, "payload": 7}, "has a payload that is not a set of keys"),
        ({**GOOD, "payload": "A"}, "has a payload that is not a set of keys"),
        ({**GOOD, "payload": encoded([1])}, "has a payload that is not a set of keys"),
        ({**GOOD, "payload": encoded({"keys": [1]})}, "has a payload that is not a set of keys"),
        (advertisement(SIGNING_KEY), "has no signing key or no exchange key"),
        (advertisement({"kty": 3}), "has a payload that is not a set of keys"),
    ],
)
def test_what_is_no_advertisement_is_refused(value: Any, message: str) -> None:
    with pytest.raises(Exception, match=r'^(is|has|must|")') as caught:
        parse_advertisement(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [SSH_KEY, f"  {SSH_KEY}\n", f'command="echo hi",no-pty {SSH_KEY}', SSH_KEY.rsplit(" ", 1)[0]],
)
def test_a_line_of_authorized_keys_is_taken(line: str) -> None:
    assert parse_authorized_key(line) == line.strip()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "is not a public key"),
        ("ssh-ed25519", "is not a public key"),
        (SSH_KEY.replace("ssh-ed25519", "ssh-rsa"), "is not a public key"),
        (
            SSH_KEY.replace("AAAAC3", "AAAAC4", 1).replace("ssh-ed25519 ", "ssh-dss "),
            "is not a public key",
        ),
        (PRIVATE, "is a private key"),
        (f"{SSH_KEY}\n{SSH_KEY}", "is not one line"),
    ],
)
def test_what_is_no_public_key_is_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=r'^(is|")') as caught:
        parse_authorized_key(line)
    assert message in str(caught.value)
