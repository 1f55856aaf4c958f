"""The server's database: its tables, and how a transaction is opened on SQLite and PostgreSQL.

SQLite is the file `bedplate.sqlite` of the served directory and needs no set-up. PostgreSQL is for
several servers behind a load balancer. Nothing but this module knows which of the two it is.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from agent.errors import MachineError, Problem

FILE = "bedplate.sqlite"
SCHEMA = "1"
BUSY_SECONDS = 30
"""For another process that writes into the same SQLite file."""
_SCHEMA_LOCK = 0x6265_6470
"""An arbitrary number, so that two servers that start at once do not both make the tables."""

_metadata = MetaData()
settings = Table(
    "setting",
    _metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
logs = Table(
    "log",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("plan", String(128), nullable=False, unique=True),
    Column("known", Boolean, nullable=False),
    Column("events", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("heard", Double, nullable=False),
    sqlite_autoincrement=True,  # an id is never used again, also after a removal
)
senders = Table(
    "sender",
    _metadata,
    Column("id", Integer, primary_key=True),
    Column("log", ForeignKey("log.id", ondelete="CASCADE"), nullable=False),
    Column("machine", String(128), nullable=False),
    Column("run", String(128), nullable=False),
    Column("highest", BigInteger, nullable=False),
    UniqueConstraint("log", "machine", "run"),
)
# `position` counts from 1 in each log, in the order of arrival. The row of the log is locked while
# positions are given, so that a reader who has seen 7 never finds a 6 later.
events = Table(
    "event",
    _metadata,
    Column("log", ForeignKey("log.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("sender", ForeignKey("sender.id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("progress", Boolean, nullable=False),
    Column("line", Text, nullable=False),
    UniqueConstraint("sender", "seq"),
    sqlite_with_rowid=False,
)
# A restarted server reads a few dozen of these a machine, and not its thousands of progress events.
Index(
    "event_kept",
    events.c.log,
    events.c.position,
    sqlite_where=events.c.progress.is_(False),
    postgresql_where=events.c.progress.is_(False),
)
envelopes = Table(
    "envelope",
    _metadata,
    Column("plan", String(128), primary_key=True),
    Column("sha256", String(64), primary_key=True),
    Column("received", Double, nullable=False),
    Column("der", LargeBinary, nullable=False),
)


class Database:
    """One engine. Safe in threads; every server process has its own."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.name = name
        """What to call it in messages: never with a password."""
        self.shared = engine.dialect.name == "postgresql"
        """Whether other servers may write into it too."""
        try:
            self._create()
        except SQLAlchemyError as error:
            engine.dispose()
            raise MachineError([Problem(name, reason(error))]) from error
        except MachineError:
            engine.dispose()
            raise

    @classmethod
    def sqlite(cls, path: Path) -> Database:
        """Open the file, making it (mode 0600: it holds keys) when it is not there."""
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise MachineError([Problem(str(path), error.strerror or str(error))]) from error
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})

        # The driver's own idea of when a transaction begins is not SQLite's; ours is the only one.
        @event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            connection.isolation_level = None
            for setting in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = FULL"):
                connection.execute(f"PRAGMA {setting}")

        @event.listens_for(engine, "begin")
        def begun(connection: Connection) -> None:
            writing = connection.get_execution_options().get("bedplate_writing")
            # IMMEDIATE: a reader that becomes a writer fails at once where another writes.
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

        return cls(engine, str(path))

    @classmethod
    def at(cls, url: str) -> Database:
        """Open a database by a URL such as `postgresql+psycopg://bedplate@db/bedplate`.

        A password comes from the URL (then keep that in a file), `~/.pgpass` or PGPASSFILE.
        Raises `MachineError` for any other kind, and where it cannot be reached.
        """
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise MachineError([Problem("database", "is not a URL")]) from None
        if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
            message = f"must be postgresql+psycopg://…, not {parsed.drivername}://"
            raise MachineError([Problem("database", message)])
        try:
            engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10, "application_name": "bedplate"},
            )
        except ModuleNotFoundError as error:
            message = f'needs {error.name}: install it with pip install "bedplate[postgresql]"'
            raise MachineError([Problem("database", message)]) from error
        return cls(engine, parsed.render_as_string(hide_password=True))

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection for `SELECT`s that belong together."""
        with self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, durable: bool) -> Iterator[Connection]:
        """Yield a transaction, committed at the end of the context.

        With `durable` it is on the disk then; otherwise a power cut may lose it, but never tears
        it (WAL with synchronous=NORMAL, https://sqlite.org/pragma.html#pragma_synchronous;
        PostgreSQL's synchronous_commit=off).
        """
        with self._engine.connect().execution_options(bedplate_writing=True) as connection:
            if self.shared:
                with connection.begin():
                    if not durable:
                        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                    yield connection
                return
            raw: Any = connection.connection.driver_connection
            raw.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with connection.begin():
                yield connection

    def key(self, name: str) -> bytes:
        """Return the 256 random bits of this name, which are made once for all servers."""
        value = self._setting(name, secrets.token_hex(32))
        return bytes.fromhex(value)

    def close(self) -> None:
        self._engine.dispose()

    def _create(self) -> None:
        with self.writing(durable=True) as connection:
            if self.shared:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
            _metadata.create_all(connection)
        found = self._setting("schema", SCHEMA)
        if found != SCHEMA:
            message = f"has tables of version {found}, this server knows version {SCHEMA}"
            raise MachineError([Problem(self.name, message)])

    def _setting(self, name: str, new: str) -> str:
        """Return the value of this name; the first who asks decides it."""
        wanted = select(settings.c.value).where(settings.c.name == name)
        with self.writing(durable=True) as connection:
            insert_once(connection, settings, {"name": name, "value": new})
            found: str = connection.execute(wanted).scalar_one()
        return found


def insert_once(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless one with its key is there; return whether it was inserted."""
    dialects = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    made = dialects.get(connection.dialect.name, insert)(table)
    assert isinstance(made, sqlite.Insert | postgresql.Insert)
    return connection.execute(made.values(row).on_conflict_do_nothing()).rowcount == 1


def reason(error: SQLAlchemyError) -> str:
    """Return what the database said, without the statement and its parameters."""
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:300] or type(cause).__name__
