"""A plan's stored events: reading all of them, and removing them."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import delete, select

from agent.server.database import Database, events, logs, senders

PAGE = 500
"""Events read from the database at a time."""


def pages(database: Database, plan: str) -> Iterator[bytes] | None:
    """Return a plan's events as pages of JSON lines, in the order of arrival; None: no plan."""
    with database.reading() as connection:
        wanted = select(logs.c.id, logs.c.events).where(logs.c.plan == plan)
        found = connection.execute(wanted).first()
    return None if found is None else _pages(database, found.id, found.events)


def _pages(database: Database, log_id: int, count: int) -> Iterator[bytes]:
    for start in range(0, count, PAGE):
        wanted = (
            select(events.c.line)
            .where(events.c.log == log_id)
            .where(events.c.position > start, events.c.position <= start + PAGE)
            .order_by(events.c.position)
        )
        with database.reading() as connection:
            lines = connection.execute(wanted).scalars().all()
        yield "".join(lines).encode("utf-8")


def remove(database: Database, plan: str) -> bool:
    """Remove a plan's events; return whether there was anything of it."""
    with database.writing(durable=True) as connection:
        wanted = select(logs.c.id).where(logs.c.plan == plan).with_for_update()
        log_id = connection.execute(wanted).scalar_one_or_none()
        if log_id is None:
            return False
        connection.execute(delete(events).where(events.c.log == log_id))
        connection.execute(delete(senders).where(senders.c.log == log_id))
        connection.execute(delete(logs).where(logs.c.id == log_id))
    return True
