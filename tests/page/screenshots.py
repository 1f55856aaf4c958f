"""Take the pictures of docs/fleet-page.md anew: `python -m tests.page.screenshots`.

With pngquant (of the package of that name) they become a third as large.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.page.fleet import Memory, roll_out
from tests.page.serving import app_of, board_of, served

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    memory = Memory(time.time())
    roll_out(memory)
    with served(app_of(board_of(memory))) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        _rows(_opened(browser, url, 1280, 720, "light"))
        _machine(_opened(browser, url, 1280, 860, "dark"))
        _phone(_opened(browser, url, 390, 780, "dark"))
        browser.close()
    if quantizer := shutil.which("pngquant"):
        pictures = sorted(DOCS.glob("fleet-page*.png"))
        subprocess.run([quantizer, "--force", "--ext", ".png", "64", *pictures], check=True)


def _opened(browser: Browser, url: str, width: int, height: int, scheme: str) -> Page:
    page = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    ).new_page()
    page.goto(url)
    page.wait_for_selector("#timeline path")
    return page


def _rows(page: Page) -> None:
    page.screenshot(path=DOCS / "fleet-page.png")


def _machine(page: Page) -> None:
    page.locator("#filter").fill("r6.")
    page.locator("#rows tr:not([hidden])").nth(2).click()
    page.wait_for_selector("#detail svg.layout")
    page.locator("#detail summary", has_text="Bind /dev/md/root").click()
    page.locator("#detail").evaluate("(each) => each.scrollTo(0, 330)")
    page.screenshot(path=DOCS / "fleet-page-machine.png")


def _phone(page: Page) -> None:
    page.screenshot(path=DOCS / "fleet-page-phone.png")


if __name__ == "__main__":
    main()
