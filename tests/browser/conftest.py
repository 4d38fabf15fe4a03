"""A real JupyterLab with real kernels, and a real Chromium to look at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1",
]  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def fresh_page(chromium: Browser) -> Iterator[Page]:
    """A page that refuses every request to another machine, and fails the test on an error of the widget's."""
    context = chromium.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.outside = []
    page.broken = []

    def local_only(route: Any) -> None:
        page.outside.append(route.request.url)
        route.abort()

    page.route(
        lambda url: not url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "file:", "blob:", "data:")), local_only
    )
    page.on("pageerror", lambda error: page.broken.append(str(error)))
    yield page
    context.close()
    assert not page.broken


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


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running JupyterLab: its address, and the folder whose notebooks it serves."""
    base = tmp_path_factory.mktemp("lab")
    served = base / "notebooks"
    served.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = base / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false"}')  # or a question about news stands in the pictures
    env = os.environ | {
        "JUPYTER_CONFIG_DIR": str(base / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(base / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(base / "runtime"),
        "IPYTHONDIR": str(base / "ipython"),
        "HF_HUB_OFFLINE": "1",
    }
    log = (base / "lab.log").open("w")
    server = subprocess.Popen(
        [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
            "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
            "--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={served}",
        ],
        env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address + "/api", server, base / "lab.log")
        yield address, served
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
        log.close()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(address, timeout=2).read()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-3000:]}")


class Notebook:
    """An open notebook: run it, and ask its kernel things."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def run_all(self) -> None:
        self.page.evaluate(
            """async () => {
                const app = window.jupyterapp, panel = app.shell.currentWidget;
                await panel.context.ready; await panel.sessionContext.ready;
                await app.commands.execute("notebook:run-all-cells");
            }"""
        )

    def run_next(self) -> None:
        """Runs the selected cell, at first the first one, and selects the next."""
        self.page.evaluate(
            """async () => {
                const app = window.jupyterapp, panel = app.shell.currentWidget;
                await panel.context.ready; await panel.sessionContext.ready;
                app.commands.execute("notebook:run-cell-and-select-next");
            }"""
        )

    def ask(self, code: str) -> Any:
        """Runs ``code`` in the notebook's own kernel; its last line prints JSON, which is returned."""
        said = self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                let text = "";
                const future = kernel.requestExecute({code, store_history: false});
                future.onIOPub = (message) => {
                    if (message.header.msg_type === "stream") text += message.content.text;
                    if (message.header.msg_type === "error") text += message.content.traceback.join("\\n");
                };
                await future.done;
                return text;
            }""",
            code,
        )
        try:
            return json.loads(said.strip().splitlines()[-1]) if said.strip() else None
        except json.JSONDecodeError:
            raise AssertionError(f"the kernel said:\n{said}") from None

    def theme(self, name: str) -> None:
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", f"JupyterLab {name}"
        )
        self.page.wait_for_selector(f".attnwidget[data-theme={name.lower()}]")
        self.page.wait_for_timeout(400)


def open_notebook(page: Page, lab: tuple[str, Path], source: Path | list[str]) -> Notebook:
    """A notebook file, or a notebook made of the given cells, in the real JupyterLab."""
    address, served = lab
    if isinstance(source, Path):
        name = source.name
        shutil.copy(source, served / name)
    else:
        import nbformat

        name = f"cells_{time.monotonic_ns()}.ipynb"
        cells = [nbformat.v4.new_code_cell(cell) for cell in source]
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), served / name)
    page.goto(f"{address}/lab/tree/{name}?reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.context", timeout=60_000)
    return Notebook(page)


@pytest.fixture
def notebook(page: Page, lab: tuple[str, Path]) -> Callable[[Path | list[str]], Notebook]:
    """Opens one."""
    return lambda source: open_notebook(page, lab, source)
