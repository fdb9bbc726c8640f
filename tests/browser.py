"""A headless browser for tests of what people see: Playwright drives the system's Chromium.

Playwright brings no browser of its own here: Debian's `chromium` is used, wherever `chromium`, `chromium-browser` or
`google-chrome` lies on the path. `open_browser` skips the test, with the reason, where there is none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """Path of the browser; skips the test where none is installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: install Debian's package chromium (looked for {', '.join(NAMES)})")
    return found


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium with a fresh profile."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, what its console complained about, and what it asked the network for (everything but the page itself).

    Attributes:
        errors: console errors and uncaught exceptions. requests: addresses, `data:` and `blob:` left out.
    """

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def open_page(
    browser: Browser, address: str | Path, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[Watched]:
    """A page of its own context, watched from its first moment.

    Args:
        address: a URL, or a file. width, height: of the window in pixels. dark: what the system prefers.
    """
    url = address.resolve().as_uri() if isinstance(address, Path) else address
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    watched = Watched(page)
    page.on("console", lambda message: watched.errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: watched.errors.append(str(error)))
    page.on("request", lambda request: watched.requests.append(request.url))
    page.goto(url)
    watched.requests[:] = [r for r in watched.requests if r != url and not r.startswith(("data:", "blob:"))]
    try:
        yield watched
    finally:
        context.close()
