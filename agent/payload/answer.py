"""What an answer that is not the wanted one means: to be tried again, and when, or not."""

from __future__ import annotations

import http.client
import time
from email.utils import parsedate_to_datetime

from agent.payload.trouble import Passing, Trouble, Wrong
from agent.proxy import Proxy

LONGEST_REST = 120.0
"""Seconds of Retry-After that are believed."""
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


def refused_by(proxy: Proxy, response: http.client.HTTPResponse) -> Trouble:
    """Say what it means that a proxy does not connect us."""
    said = f"answered {response.status} {response.reason}".rstrip()
    text = f"is behind the proxy {proxy}, which {said}"
    if 400 <= response.status < 500 and response.status not in BUSY:
        return Wrong(text)
    return Passing(text, retry_after(response.headers.get("Retry-After")))


def refusal(response: http.client.HTTPResponse) -> Trouble:
    """Say what an answer that is not the wanted one means."""
    text = f"answered {response.status} {response.reason}".rstrip()
    if response.status == 407:
        text += ": the proxy wants other credentials"
    if response.status in BUSY:
        return Passing(text, retry_after(response.headers.get("Retry-After")))
    return Wrong(text)


def retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    if value.strip().isdigit():
        return min(LONGEST_REST, float(value))
    try:
        seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(LONGEST_REST, max(0.0, seconds))
