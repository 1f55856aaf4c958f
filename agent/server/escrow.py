"""Envelopes with recovery keys: written and acknowledged, never given out to who asks by HTTP.

One server keeps them as files, which an operator opens with openssl. Several servers keep them in
the database they share; `bedplate escrow export` writes the same files from there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sqlalchemy import func, select

from agent.server.database import Database, envelopes, insert_once
from agent.server.refusal import RefusalError

log = logging.getLogger(__name__)

ENVELOPES_LIMIT = 100
"""Escrow envelopes kept for one plan."""


class Escrow(Protocol):
    """Where envelopes are kept."""

    def keep(self, plan: str, envelope: bytes) -> str:
        """Keep the DER bytes durably and return their sha256 in hex; again changes nothing.

        Raises `RefusalError` 507 for too many of one plan; `OSError` or `SQLAlchemyError` when
        they could not be kept.
        """

    def count(self) -> int:
        """Return how many are kept."""


class EscrowFiles:
    """`escrow/<plan>-<sha256>.p7m`, mode 0600."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def keep(self, plan: str, envelope: bytes) -> str:
        digest = hashlib.sha256(envelope).hexdigest()
        path = self._directory / f"{plan}-{digest}.p7m"
        with self._lock:
            if path.exists():
                return digest
            if sum(1 for _ in self._directory.glob(f"{plan}-{'?' * 64}.p7m")) >= ENVELOPES_LIMIT:
                raise _too_many(plan)
            write_durably(path, envelope)
        log.info("escrow: kept %s", path.name)
        return digest

    def count(self) -> int:
        return sum(1 for _ in self._directory.glob("*.p7m"))


class EscrowTable:
    """The table `envelope`, for servers that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, plan: str, envelope: bytes) -> str:
        digest = hashlib.sha256(envelope).hexdigest()
        of_plan = select(func.count()).where(envelopes.c.plan == plan)
        same = of_plan.where(envelopes.c.sha256 == digest)
        with self._database.writing(durable=True) as connection:
            if connection.execute(same).scalar_one():
                return digest
            if connection.execute(of_plan).scalar_one() >= ENVELOPES_LIMIT:
                raise _too_many(plan)
            row = {"plan": plan, "sha256": digest, "received": time.time(), "der": envelope}
            insert_once(connection, envelopes, row)
        log.info("escrow: kept %s-%s", plan, digest)
        return digest

    def count(self) -> int:
        with self._database.reading() as connection:
            found: int = connection.execute(select(func.count(envelopes.c.plan))).scalar_one()
        return found

    def export(self, directory: Path) -> Iterator[Path]:
        """Write every envelope that is not there yet as `<plan>-<sha256>.p7m`; yield its path."""
        wanted = select(envelopes.c.plan, envelopes.c.sha256).order_by("plan", "sha256")
        with self._database.reading() as connection:
            for plan, digest in connection.execute(wanted).all():
                path = directory / f"{plan}-{digest}.p7m"
                if path.exists():
                    continue
                one = select(envelopes.c.der).where(
                    envelopes.c.plan == plan, envelopes.c.sha256 == digest
                )
                write_durably(path, connection.execute(one).scalar_one())
                yield path


def write_durably(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 whole or not at all; it is on the disk on return."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _too_many(plan: str) -> RefusalError:
    return RefusalError(507, f"plan {plan}: has {ENVELOPES_LIMIT} envelopes")
