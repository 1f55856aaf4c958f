"""A site as an operator has it: keys, an image, a deploy server, Tang, and plans for machines.

Used by the demo, the machine tests and the benchmarks, so that all of them install the same way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from qemu import ssh
from qemu.errors import RigError
from qemu.hardware import Hardware
from qemu.lab import Lab
from qemu.program import repository, run
from qemu.server import PLAN_KEY

IMAGE = "debian13"
_EVENTS = """SELECT line FROM event JOIN log ON log.id = event.log
             WHERE log.plan = ? ORDER BY position"""
KEY = repository() / "build/keys/image.key"
"""Made by `make keys`; its public half is baked into the live image."""


FAMILIES = {
    "dracut": ("sample", IMAGE),
    "packages": ("sample-packages", "debian13-packages"),
    "grub": ("sample-grub", "debian13-grub"),
    "packages-bookworm": ("sample-packages-bookworm", "debian12-packages"),
    "grub-bookworm": ("sample-grub-bookworm", "debian12-grub"),
    "packages-testing": ("sample-packages-testing", "testing-packages"),
    "grub-testing": ("sample-grub-testing", "testing-grub"),
}
"""The sample images: where each is built below build/, and what it is called."""


@dataclass(frozen=True)
class Packed:
    """A sample image as `bedplate pack` wrote it."""

    directory: Path
    name: str = IMAGE

    @property
    def payload(self) -> Path:
        return self.directory / f"{self.name}.tar.zst"

    @property
    def manifest(self) -> Path:
        return self.directory / f"{self.name}.json"

    @property
    def signature(self) -> Path:
        return self.directory / f"{self.name}.json.sig"


def packed_sample(family: str = "dracut") -> Packed:
    """Return a sample image, packed and signed; anew when tar, key or packer changed."""
    built, name = FAMILIES[family]
    tar = repository() / "build" / built / "debian.tar.zst"
    if not tar.exists() or not KEY.exists():
        raise RigError(f"{tar} or {KEY} is missing: run make keys, image/build sample")
    made = hashlib.sha256(KEY.read_bytes())
    with tar.open("rb") as stream:
        made.update(hashlib.file_digest(stream, "sha256").digest())
    for source in sorted((repository() / "agent/payload").glob("*.py")):
        made.update(source.read_bytes())
    packed = Packed(repository() / "build/packed" / name / made.hexdigest()[:16], name)
    if not packed.manifest.exists():
        shutil.rmtree(packed.directory.parent, ignore_errors=True)
        packed.directory.mkdir(parents=True)
        run(
            sys.executable, "-m", "agent", "pack", tar, "--name", name, "--key", KEY,
            "--directory", packed.directory, timeout=600,
        )  # fmt: skip
    return packed


@dataclass
class Site:
    """One lab with everything an installation needs."""

    lab: Lab
    packed: Packed = field(default_factory=packed_sample)

    def __post_init__(self) -> None:
        self.tang, self.server = self.lab.tang(), self.lab.serve()
        self.offer(self.packed)
        self.escrow = Keeper.of(self.lab.directory / "escrow")

    def offer(self, packed: Packed) -> str:
        """Put an image on the deploy server; return where its manifest is for a machine."""
        for source in (packed.payload, packed.manifest, packed.signature):
            place = self.server.directory / "images" / source.name
            if not place.exists():
                place.hardlink_to(source)
        return f"{self.server.url}/images/{packed.name}.json"

    def plan(self, hardware: Hardware, **changes: Any) -> dict[str, Any]:
        """Return a plan for a machine: mirrored, encrypted, STIG; `changes` replace whole parts."""
        return {
            "version": 1,
            "id": str(uuid.uuid4()),
            "machine": {"serial": hardware.chassis.identity.serial},
            "hostname": "db01.example.com",
            "disks": {
                "count": 2,
                "where": {"serial": [disk.serial for disk in hardware.chassis.disks[:2]]},
            },
            "storage": {"preset": "stig-rhel9"},
            "encryption": {
                "unlock": "tpm2 and tang",
                "tang": [{"url": self.tang.url, "thumbprint": self.tang.thumbprint()}],
                "recovery": {"escrow_to": [self.escrow.certificate]},
            },
            "image": {"manifest": f"{self.server.url}/images/{IMAGE}.json"},
            "configure": {
                "ssh_authorized_keys": {"root": [ssh.public_half(self.lab.key)]},
                # no_timer_check: on a busy host an emulated timer may look broken to the kernel.
                "kernel_options": ["console=tty0", "console=ttyS0,115200", "no_timer_check"],
                "files": [{"path": "/etc/motd", "content": "installed by bedplate\n"}],
            },
            "report": [{"type": "http", "url": f"{self.server.url}/v1/events"}],
            "finish": "poweroff",
            **changes,
        }

    def publish(self, plan: Mapping[str, Any]) -> Path:
        """Put a plan on the deploy server, the only one there; return its file."""
        plans = self.server.directory / "plans"
        for old in plans.iterdir():
            old.unlink()
        place = plans / f"{plan['hostname']}.yaml"
        place.write_text(yaml.safe_dump(dict(plan), sort_keys=False))
        run(sys.executable, "-m", "agent", "plan", "sign", place, "--key", PLAN_KEY, timeout=120)
        return place

    @property
    def cmdline(self) -> str:
        """What makes the live image ask this site's server."""
        return f"bedplate.server={self.server.url}"

    def events(self, plan: Mapping[str, Any], run: str = "") -> list[dict[str, Any]]:
        """Return what the server was told of a plan, in order; of one run of it if `run` is given.

        A plan has a run for each time it was booted: a second one says "already installed".
        """
        file = (self.server.directory / "bedplate.sqlite").resolve()
        if not file.exists():
            return []
        # Read from the file, so that it works while the server is stopped too.
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
            lines = database.execute(_EVENTS, (plan["id"],)).fetchall()
        events = [json.loads(line) for (line,) in lines]
        return [event for event in events if not run or event["run"] == run]

    def last_run(self, plan: Mapping[str, Any]) -> str:
        """Return the id of the run that the server heard of last."""
        run: str = self.events(plan)[-1]["run"]
        return run

    def report(self, plan: Mapping[str, Any], run: str = "") -> dict[str, Any]:
        """Return the install report: the evidence of the last event of the run."""
        last = [event for event in self.events(plan, run) if event["step"] == "install"][-1]
        evidence: dict[str, Any] = last["evidence"]
        return evidence

    def envelopes(self, plan: Mapping[str, Any]) -> list[Path]:
        """Return the recovery keys' envelopes, one for each volume, as the server kept them."""
        return sorted((self.server.directory / "escrow").glob(f"{plan['id']}-*.p7m"))

    def envelope(self, plan: Mapping[str, Any], label: str = "bedplate-root") -> Path:
        """Return the envelope of the volume that is called so."""
        (found,) = (
            path for path in self.envelopes(plan) if self.escrow.open(path)["label"] == label
        )
        return found


@dataclass(frozen=True)
class Keeper:
    """Who keeps recovery keys: a certificate and its private key."""

    directory: Path

    @classmethod
    def of(cls, directory: Path) -> Keeper:
        made = cls(directory)
        if not (directory / "key.pem").exists():
            directory.mkdir(parents=True, exist_ok=True)
            run(
                "openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "30",
                "-subj", "/CN=Recovery key escrow", "-keyout", directory / "key.pem",
                "-out", directory / "cert.pem", "-addext", "basicConstraints=critical,CA:FALSE",
                "-addext", "keyUsage=critical,keyEncipherment",
            )  # fmt: skip
        return made

    @property
    def certificate(self) -> str:
        return (self.directory / "cert.pem").read_text()

    def open(self, envelope: Path) -> dict[str, Any]:
        """Open an envelope with plain openssl, as docs/recovery.md tells an operator."""
        done = subprocess.run(
            ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", envelope,
             "-inkey", self.directory / "key.pem", "-recip", self.directory / "cert.pem"],
            capture_output=True, check=True, timeout=60,
        )  # fmt: skip
        content: dict[str, Any] = json.loads(done.stdout)
        return content
