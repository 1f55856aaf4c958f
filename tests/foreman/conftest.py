"""A site with a stand-in Foreman, which has a certificate of an authority of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemu.lab import Lab
from qemu.program import repository
from qemu.site import Site
from qemu.tang import HOST_SEEN_BY_GUEST


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """Not the lab of tests/machine: both may run at the same time, and each starts afresh."""
    with Lab.fresh(repository() / "build/lab/foreman") as lab:
        yield Site(lab)


@dataclass(frozen=True)
class Authority:
    """An authority, and what it signed for the host as guests see it."""

    certificate: bytes
    pair: tuple[Path, Path]


@pytest.fixture(scope="session")
def authority(site: Site) -> Authority:
    """Make both with openssl, complete enough for a strict client (RFC 5280)."""
    place = site.lab.directory / "foreman-tls"
    place.mkdir()

    def openssl(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=place)

    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    openssl(
        *new, "-days", "30", "-subj", "/CN=Stand-in authority", "-keyout", "ca.key", "-out",
        "ca.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
    )  # fmt: skip
    openssl(
        *new, "-days", "30", "-subj", "/CN=foreman", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-keyout", "server.key", "-out", "server.pem",
        "-addext", "basicConstraints=critical,CA:FALSE",
        "-addext", f"subjectAltName=IP:{HOST_SEEN_BY_GUEST}",
        "-addext", "extendedKeyUsage=serverAuth",
    )  # fmt: skip
    pair = (place / "server.pem", place / "server.key")
    return Authority((place / "ca.pem").read_bytes(), pair)
