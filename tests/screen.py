"""A real Chromium, and pages in it that refuse every request to another machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[1]
READY = ".attnwidget[data-attn-ready=true]"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1",
]  # fmt: skip
HERE = ("http://127.0.0.1", "ws://127.0.0.1", "file:", "blob:", "data:")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def fresh_page(chromium: Browser, harmless: tuple[str, ...] = ()) -> Iterator[Page]:
    """A page that refuses every request to another machine, and fails the test on an error of the widget's.

    ``page.outside`` lists the addresses refused, ``page.broken`` the errors; ``harmless`` is what errors of the host's
    own contain.
    """
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.outside = []
    page.broken = []

    def local_only(route: Any) -> None:
        page.outside.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith(HERE), local_only)
    page.on("websocket", lambda socket: None if socket.url.startswith(HERE) else page.outside.append(socket.url))
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    yield page
    context.close()
    own = [error for error in page.broken if not any(words in error for words in harmless)]
    assert not own, own


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with fresh_page(chromium) as page:
        yield page


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds what people with a screen reader or weak eyes would stumble over."""
    return (ROOT / "js" / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="session")
def shots() -> Path:
    """Where screenshots go: somebody is to look at them."""
    folder = Path(os.environ.get("ATTNWIDGET_SHOTS", ROOT / "tests" / "out"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
