"""What `bedplate watch` does, once or for ever, with a table, a card or lines of JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.errors import MachineError, Problem
from agent.watch.feed import CONNECTING, Feed, Seen, Site
from agent.watch.machine import card
from agent.watch.rows import screen
from agent.watch.wish import Wish

TICK = 1.0
"""Seconds between two drawings where nothing changes but the ages."""
CARD_SECONDS = 2.0


def show(document: Any) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def table(site: Site, wish: Wish, *, once: bool) -> None:
    console = Console()
    if once:
        document = site.get("v1/fleet")
        seen = Seen({each["id"]: each for each in document["machines"]})
        console.print(screen(seen, wish, document["now"], console.width, None))
        return
    with Feed(site) as feed, _live(console) as live:
        seen = feed.wait(None, TICK)
        while True:
            live.update(screen(seen, wish, time.time(), console.width, console.height))
            live.refresh()
            seen = feed.wait(seen, TICK)


def lines(site: Site, wish: Wish, *, once: bool) -> None:
    if once:
        document = site.get("v1/fleet")
        show({**document, "machines": wish.chosen(document["machines"])})
        return
    with Feed(site) as feed:
        seen = Seen()
        while True:
            new = feed.wait(seen, TICK)
            if new is seen:
                continue
            if new.lost not in ("", CONNECTING, seen.lost):
                sys.stderr.write(f"{site.url}: {new.lost}; trying again\n")
            seen = new
            for each in wish.chosen(seen.machines[i] for i in seen.changed if i in seen.machines):
                sys.stdout.write(json.dumps(each, ensure_ascii=False) + "\n")
            sys.stdout.flush()


def one(site: Site, wanted: str, *, once: bool, as_json: bool) -> None:
    plan = _plan_of(site, wanted)
    if as_json:
        show(site.get(f"v1/fleet/{plan}"))
        return
    console = Console()
    if once:
        found = site.get(f"v1/fleet/{plan}")
        console.print(card(found))
        return
    with _live(console) as live:
        while True:
            live.update(_card(site, plan))
            live.refresh()
            time.sleep(CARD_SECONDS)


def _card(site: Site, plan: str) -> RenderableType:
    try:
        return card(site.get(f"v1/fleet/{plan}"))
    except MachineError as error:
        return Text(f"connection lost: {error}; trying again", style="red")


def _plan_of(site: Site, wanted: str) -> str:
    """Return the id of the plan that is called so, or whose machine is."""
    machines = site.get("v1/fleet")["machines"]
    found = [each for each in machines if wanted in (each["id"], each["name"], each["machine"])]
    found = found or [each for each in machines if each["name"].startswith(f"{wanted}.")]
    if len(found) != 1:
        why = f"is {len(found)} machines; give the plan's id" if found else "is no machine here"
        raise MachineError([Problem(wanted, why)])
    plan: str = found[0]["id"]
    return plan


def _live(console: Console) -> Live:
    return Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
