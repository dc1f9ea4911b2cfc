"""A headless Chromium for tests of pages, which may speak to this machine alone.

`page` is a fixture: a Playwright page whose test fails if the page asks for anything beyond
loopback or leaves a script's error unhandled. `open_page` is the same with options, such as the
size of the window. Without Playwright (extra `[browser]`) or Chromium such a test is skipped and
says what is missing; with REQUIRE_BROWSER=1, as in continuous integration, it fails instead.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # What slips past the watch below finds no address either.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def _missing(reason: str) -> None:
    if os.environ.get("REQUIRE_BROWSER") == "1":
        pytest.fail(f"REQUIRE_BROWSER is 1, and {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium with a new, empty profile, closed after the module's last test."""
    # Not for the session: while Playwright runs, nothing else in this thread can use asyncio.
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("Playwright is not installed: pip install 'bahdanau-hf[browser]'")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        _missing("no Chromium is installed (Debian and Ubuntu: apt-get install chromium)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


def is_local(url: str) -> bool:
    """Whether a request for `url` stays on this machine."""
    parts = urlsplit(url)
    if parts.scheme in ("data", "blob", "about"):
        return True
    return parts.scheme in ("http", "https", "ws", "wss") and parts.hostname in (
        "127.0.0.1",
        "localhost",
    )


@contextmanager
def open_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A page in a context of its own; options are those of Playwright's `new_context`.

    Raises:
        AssertionError: at the end, if it asked for anything beyond loopback, whether it came
            through or not, or if a script of the page broke.
    """
    outside: list[str] = []
    broken: list[str] = []

    def watch(route: Any) -> None:
        if is_local(route.request.url):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def watch_socket(url: str) -> None:
        if not is_local(url):
            outside.append(url)

    context = browser.new_context(service_workers="block", **options)
    try:
        context.route("**/*", watch)
        page = context.new_page()
        page.on("websocket", lambda socket: watch_socket(socket.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        yield page
        context.unroute_all(behavior="wait")
    finally:
        context.close()
    assert outside == [], f"the page asked for something beyond this machine: {outside}"
    assert broken == [], f"a script of the page broke: {broken}"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A watched page of desktop size."""
    with open_page(browser) as watched:
        yield watched
