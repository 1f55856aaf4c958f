"""What a server was started with, beyond its directory and address."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.secret import Secret
from agent.server.limits import Limits


@dataclass(frozen=True)
class Options:
    """Everything is off, and as it was before it existed, unless it is given."""

    database: Secret | None = None
    """A URL for PostgreSQL; None is SQLite in the directory."""
    operators: Path | None = None
    everybody: bool = False
    """Show the fleet to everybody who reaches the port, where there are no operators."""
    mint_tokens: bool = False
    require_token: bool = False
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."""
    metrics: bool = False
    otlp: str = ""
    """URL of an OTLP/HTTP collector, with `/v1/traces` at its end."""
    webhook: str = ""
    webhook_secret: Secret | None = None
    patience: float = 5.0
    """Seconds that a batch of events may wait for its turn; an agent gives up after 15."""
    limits: Limits = field(default_factory=Limits)
