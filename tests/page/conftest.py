"""A headless Chromium of the distribution, and pages of it on a fleet in memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.page.fleet import Memory
from tests.page.serving import app_of, board_of, served

PATIENCE = 60_000
"""Milliseconds for whatever a busy machine may take."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "needs chromium: qemu/install-deps chromium"
    with sync_playwright() as playwright:
        # --no-sandbox: as root, which tests run as, Chromium has none.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def site(memory: Memory) -> Iterator[str]:
    with served(app_of(board_of(memory))) as url:
        yield url


Look = Callable[..., Page]


@pytest.fixture
def look(browser: Browser, site: str) -> Iterator[Look]:
    """Return a function that opens the page; whatever it complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def opened(path: str = "/", *, rows: bool = True, **options: object) -> Page:
        settings = {"viewport": {"width": 1280, "height": 800}, **options}
        context = browser.new_context(**settings)  # type: ignore[arg-type]  # options of Playwright's own
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: complaints.append(line.text) if "Content Security" in line.text else None,
        )
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(site) else complaints.append(request.url)
            ),
        )
        page.goto(f"{site}{path}")
        if rows:
            page.wait_for_selector("#rows tr[data-id]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
