"""Real servers with real kernels: JupyterLab and Notebook 7, and any other program that serves on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

# What the server of each of these is told, and where below its address a notebook opens.
JUPYTERS = {
    "lab": ("jupyterlab", ["--LabApp.expose_app_in_browser=True"], "lab/tree/{name}?reset"),
    "notebook": ("notebook", ["--JupyterNotebookApp.expose_app_in_browser=True"], "notebooks/{name}"),
    "server": (
        "jupyter_server",
        ["--ServerApp.disable_check_xsrf=True", "--ServerApp.extra_static_paths=['{base}/static']"],
        "static/{name}",
    ),
}


class Server(NamedTuple):
    """One that runs: its address, the folder that it serves, and where below the address a notebook of it opens."""

    address: str
    folder: Path
    where: str = "{name}"

    def url(self, name: str) -> str:
        return f"{self.address}/{self.where.format(name=name)}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def surroundings(base: Path) -> dict[str, str]:
    """An environment in which Jupyter finds no settings of the user's, and writes below ``base`` only."""
    return os.environ | {
        "JUPYTER_CONFIG_DIR": str(base / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(base / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(base / "workspaces"),
        "JUPYTER_RUNTIME_DIR": str(base / "runtime"),
        "IPYTHONDIR": str(base / "ipython"),
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def serving(command: list[str], address: str, base: Path, log: str = "server.log") -> Iterator[subprocess.Popen[bytes]]:
    """``command`` runs in ``base``, and ``address`` answers."""
    with (base / log).open("w") as said:
        server = subprocess.Popen(
            command, env=surroundings(base), cwd=base, stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for(address, server, base / log)
            yield server
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)  # and all that it started


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=2).read()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"{server.args!r} did not come up:\n{log.read_text()[-3000:]}")


@contextmanager
def jupyter(app: str, base: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Server]:
    """One of :data:`JUPYTERS`, with nothing of the user's in it.

    Args:
        app: "lab", "notebook", or "server" for one that has only the pages of ``static`` below ``base``.
        base: an empty folder of its own; notebooks are in ``notebooks`` below it.
        settings: what the user of the page has set, {"@jupyter-widgets/jupyterlab-manager:plugin": {…}}.
    """
    module, more, where = JUPYTERS[app]
    served = base / "notebooks"
    served.mkdir(parents=True, exist_ok=True)
    # A question about news would stand in the pictures.
    told = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}, **(settings or {})}
    for name, values in told.items():
        plugin, _, key = name.partition(":")
        file = base / "settings" / plugin / f"{key}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values), "utf-8")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", module, "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        f"--ServerApp.root_dir={served}", *(option.format(base=base) for option in more),
    ]  # fmt: skip
    with serving(command, address + "/api", base):
        yield Server(address, served, where)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running JupyterLab."""
    with jupyter("lab", tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="session")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running Notebook 7."""
    with jupyter("notebook", tmp_path_factory.mktemp("notebook7")) as server:
        yield server


def printed(said: str) -> Any:
    """The JSON of the last line that a kernel printed; None of no line."""
    try:
        return json.loads(said.strip().splitlines()[-1]) if said.strip() else None
    except json.JSONDecodeError:
        raise AssertionError(f"the kernel said:\n{said}") from None


class Notebook:
    """An open notebook, in JupyterLab or Notebook 7: run it, and ask its kernel things."""

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
        return printed(said)

    def theme(self, name: str) -> None:
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", f"JupyterLab {name}"
        )
        self.page.locator(f".attnwidget[data-theme={name.lower()}]").first.wait_for()
        self.page.wait_for_timeout(400)


def write_notebook(cells: list[str], path: Path) -> Path:
    """A notebook file made of cells of code."""
    import nbformat

    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells], metadata=metadata)
    nbformat.write(made, path)
    return path


def open_notebook(page: Page, server: Server, source: Path | list[str]) -> Notebook:
    """A notebook file, or a notebook made of the given cells, in a real JupyterLab or Notebook 7."""
    if isinstance(source, Path):
        name = source.name
        if source.parent != server.folder:
            shutil.copy(source, server.folder / name)
    else:
        name = write_notebook(source, server.folder / f"cells_{time.monotonic_ns()}.ipynb").name
    page.goto(server.url(name), wait_until="domcontentloaded")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.context", timeout=60_000)
    return Notebook(page)


@pytest.fixture
def notebook(page: Page, lab: Server) -> Callable[[Path | list[str]], Notebook]:
    """Opens one in JupyterLab."""
    return lambda source: open_notebook(page, lab, source)
