"""The programs in which people read notebooks, all of them driven alike.

Each shows ``a`` and ``b``, two widgets of one attention whose layer and head are linked in Python. Of ``a`` no map
travels at once, so that a click on a head needs an answer of the kernel, with its buffers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screen import READY
from servers import Server, free_port, jupyter, open_notebook, printed, serving, write_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

CELLS = [
    "from attnwidget import AttentionWidget, show\n"
    "from traitlets import link\n"
    "a = show('The cat saw the dog. ' * 8, budget=1_000)\n"
    "a",
    "b = AttentionWidget(a.attention, view='heatmap')\n"
    "links = [link((a, name), (b, name)) for name in ('layer', 'head')]\n"
    "b",
]
WAIT = 60_000  # milliseconds for a kernel that has yet to import torch, on a machine with other things to do


# Shadow roots hide what is in them from querySelectorAll.
COUNT = """selector => (function count(under) {
    return [...under.querySelectorAll("*")].reduce(
        (sum, el) => sum + el.matches(selector) + (el.shadowRoot ? count(el.shadowRoot) : 0), 0);
})(document)"""
GONE = re.compile("The kernel has stopped or was restarted")


class Program:
    """One host, by the name of its row in the table."""

    name: str
    how = "real server, kernel and Chromium"
    gone = GONE  # what is read once the kernel is
    says = True  # whether it is the widget that says so
    asks: tuple[str, ...] = ("none",)  # addresses outside that the host's own page asks for
    offline = "yes"
    harmless: tuple[str, ...] = ()  # errors of the host's own
    server: Server

    def __init__(self, page: Page) -> None:
        self.page = page

    @classmethod
    @contextmanager
    def started(cls, base: Path) -> Iterator[Server]:
        """Its server, in an empty folder of its own."""
        raise NotImplementedError

    def open(self, server: Server) -> None:
        """Until both widgets are there."""
        raise NotImplementedError

    def selected(self) -> list[int | None]:
        """The layer and head of ``a`` that Python prints."""
        found: list[int | None] = self.ask("import json; print(json.dumps([a.layer, a.head]))")
        return found

    def select(self, layer: int, head: int) -> None:
        """Python sets them."""
        self.ask(f"a.layer, a.head = {layer}, {head}")

    def ask(self, code: str) -> Any:
        """Runs ``code`` in the kernel; its last line prints JSON, which is returned."""
        return printed(self.said(code))

    def said(self, code: str) -> str:
        raise NotImplementedError

    def theme(self, name: str) -> None:
        """Light or dark, as a user of this host chooses it."""
        raise NotImplementedError

    def rerun(self) -> None:
        """All cells again, until the new widgets are there."""
        raise NotImplementedError

    def restart(self) -> None:
        """The kernel starts again, and knows nothing of the widgets."""
        raise NotImplementedError

    # ── what is on the page ──

    @property
    def widgets(self) -> Locator:
        return self.page.locator(READY)

    def count(self, selector: str) -> int:
        return int(self.page.evaluate(COUNT, selector))

    def wait(self) -> None:
        """Until both widgets stand there, and none that was there when they were marked."""
        self.page.wait_for_function(
            f"() => ({COUNT})('{READY}:not([data-before])') === 2 && ({COUNT})('[data-before]') === 0", timeout=WAIT
        )

    def mark(self) -> None:
        self.page.evaluate(
            "() => document.querySelectorAll('div.attnwidget').forEach(el => { el.dataset.before = ''; })"
        )

    def detached(self) -> int:
        """Roots of widgets that are in no document, and still kept by something."""
        cdp = self.page.context.new_cdp_session(self.page)
        kind = cdp.send("Runtime.evaluate", {"expression": "HTMLElement.prototype"})["result"]["objectId"]
        for _ in range(2):  # the first one collects
            found = cdp.send("Runtime.queryObjects", {"prototypeObjectId": kind})["objects"]["objectId"]
            # Prototypes are among them, and refuse to be asked.
            kept = """function() { return this.filter((el) => {
                try { return el.matches("div.attnwidget") && !el.isConnected; } catch { return false; }
            }).length; }"""
            told = cdp.send(
                "Runtime.callFunctionOn", {"objectId": found, "functionDeclaration": kept, "returnByValue": True}
            )
            cdp.send("Runtime.releaseObject", {"objectId": found})
        cdp.detach()
        return int(told["result"]["value"])

    def listeners(self) -> int:
        """Listeners on what stays when a widget goes."""
        cdp = self.page.context.new_cdp_session(self.page)
        heard = 0
        for what in ("window", "document", "document.documentElement", "document.body"):
            of = cdp.send("Runtime.evaluate", {"expression": what})["result"]["objectId"]
            heard += len(cdp.send("DOMDebugger.getEventListeners", {"objectId": of})["listeners"])
        cdp.detach()
        return heard


class JupyterLab(Program):
    name = "JupyterLab 4"
    app = "lab"

    @classmethod
    @contextmanager
    def started(cls, base: Path) -> Iterator[Server]:
        with jupyter(cls.app, base) as server:
            yield server

    def open(self, server: Server) -> None:
        self.book = open_notebook(self.page, server, CELLS)
        self.rerun()

    def rerun(self) -> None:
        self.mark()
        self.book.run_all()
        self.wait()

    def ask(self, code: str) -> Any:
        return self.book.ask(code)

    def theme(self, name: str) -> None:
        self.book.theme(name.title())

    def restart(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")


class Notebook7(JupyterLab):
    name = "Notebook 7"
    app = "notebook"
    harmless = ("reading 'schema'",)


class VSCode(Program):
    name = "VS Code"
    how = "its widget manager in a page of ours, real kernel and Chromium"

    @classmethod
    @contextmanager
    def started(cls, base: Path) -> Iterator[Server]:
        share = Path(sys.prefix) / "share" / "jupyter"
        (static := base / "static").mkdir()
        shutil.copy(Path(__file__).with_name("vscode.html"), static)
        shutil.copy(share / "voila" / "templates" / "base" / "static" / "require.min.js", static)
        bundle = next(Path(sys.prefix).glob("npm/@vscode/jupyter-ipywidgets8/*/dist/ipywidgets.js")).read_text("utf-8")
        exposed = "globalThis.bundled = { require: __webpack_require__, modules: __webpack_modules__ };"
        (static / "ipywidgets.js").write_text(f"{bundle}\n{exposed}\n", "utf-8")
        shutil.copytree(share / "nbextensions" / "anywidget", static / "nbextensions" / "anywidget")
        with jupyter("server", base) as server:
            yield server

    def open(self, server: Server) -> None:
        self.page.goto(server.url("vscode.html"))
        self.page.wait_for_function("() => window.standin !== undefined", timeout=WAIT)
        self.rerun()

    def rerun(self) -> None:
        self.mark()
        for index, cell in enumerate(CELLS):
            self.page.evaluate("([name, code]) => window.standin.run(name, code)", [f"cell{index}", cell])
        self.wait()

    def said(self, code: str) -> str:
        return str(self.page.evaluate("code => window.standin.ask(code)", code))

    def theme(self, name: str) -> None:
        self.page.evaluate(
            "name => { document.body.className = document.body.dataset.vscodeThemeKind = `vscode-${name}`; }", name
        )

    def restart(self) -> None:
        self.page.evaluate("() => window.standin.restart()")


class Voila(Program):
    name = "Voilà"
    asks = ("https://cdn.jsdelivr.net/npm/@fortawesome/",)
    offline = "yes (Voilà’s own page asks for an icon font, and does without)"

    @classmethod
    @contextmanager
    def started(cls, base: Path) -> Iterator[Server]:
        write_notebook(CELLS, base / "app.ipynb")
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        command = [
            sys.executable, "-m", "voila", "--no-browser", "--Voila.ip=127.0.0.1", f"--Voila.port={port}",
            f"--Voila.root_dir={base}", f"--Voila.connection_dir_root={base}", "--token=",
        ]  # fmt: skip
        with serving(command, address, base):
            yield Server(address, base, "voila/render/{name}")

    def open(self, server: Server, theme: str = "light") -> None:
        self.server = server
        self.__dict__.pop("kernel", None)
        self.page.goto(f"{server.url('app.ipynb')}?theme={theme}", wait_until="commit")  # it comes as its cells run
        self.wait()

    @cached_property
    def kernel(self) -> Any:
        from jupyter_client.blocking import BlockingKernelClient

        found = max(self.server.folder.rglob("kernel-*.json"), key=lambda file: file.stat().st_mtime)
        client = BlockingKernelClient(connection_file=str(found))
        client.load_connection_file()
        client.start_channels()
        return client

    def said(self, code: str) -> str:
        said: list[str] = []

        def hear(message: Any) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])
            if message["msg_type"] == "error":
                said.extend(message["content"]["traceback"])

        self.kernel.execute_interactive(code, store_history=False, output_hook=hear, timeout=30)
        return "".join(said)

    def theme(self, name: str) -> None:
        self.open(self.server, name)

    def rerun(self) -> None:
        self.open(self.server)

    def restart(self) -> None:
        self.kernel.shutdown(restart=True)


MARIMO = """
import marimo

app = marimo.App()


@app.cell
def _():
    import marimo as mo
    from attnwidget import AttentionWidget, Dashboard, embed, show
    from traitlets import link
    return AttentionWidget, Dashboard, embed, link, mo, show


@app.cell
def _(mo, show):
    a = show("The cat saw the dog. " * 8, budget=1_000)
    alive = mo.ui.anywidget(a)
    alive
    return a, alive


@app.cell
def _(AttentionWidget, a, link):
    b = AttentionWidget(a.attention, view="heatmap")
    links = [link((a, name), (b, name)) for name in ("layer", "head")]
    b
    return


@app.cell
def _(alive):
    f"selected {[alive.value['layer'], alive.value['head']]}"
    return


@app.cell
def _(a, mo):
    def choose(_):
        a.layer, a.head = 2, 3

    mo.ui.button(label="select", on_click=choose)
    return


@app.cell
def _(Dashboard, a):
    Dashboard(a, measures=["entropy"], x="entropy")
    return


@app.cell
def _(a, embed, mo):
    mo.iframe(embed(a), height="700px")
    return


if __name__ == "__main__":
    app.run()
"""


class Marimo(Program):
    name = "marimo"
    gone = re.compile("kernel not found")  # marimo's own words, above a page turned red
    says = False
    harmless = ("Failed to fetch",)  # once its server is gone
    process: subprocess.Popen[bytes]

    @classmethod
    @contextmanager
    def started(cls, base: Path) -> Iterator[Server]:
        for theme in ("light", "dark"):
            told = f'# /// script\n# [tool.marimo.display]\n# theme = "{theme}"\n# ///\n'
            (base / f"{theme}.py").write_text(told + MARIMO, "utf-8")
        port = free_port()
        address = f"http://127.0.0.1:{port}"
        command = [
            sys.executable,
            "-m",
            "marimo",
            "-y",
            "run",
            "--headless",
            "--no-token",
            "--no-sandbox",
            f"--port={port}",
            ".",
        ]
        with serving(command, address, base) as cls.process:
            yield Server(address, base, "?file={name}.py")

    def open(self, server: Server, theme: str = "light") -> None:
        self.server = server
        self.page.goto(server.url(theme))
        self.wait()

    def selected(self) -> list[int | None]:
        said = self.page.get_by_text("selected [").last.inner_text().strip("'").partition("selected ")[2]
        found: list[int | None] = json.loads(said.replace("None", "null"))
        return found

    def select(self, layer: int, head: int) -> None:
        assert (layer, head) == (2, 3)
        self.page.get_by_role("button", name="select").click()

    def theme(self, name: str) -> None:
        self.open(self.server, name)

    def rerun(self) -> None:
        self.open(self.server)

    def restart(self) -> None:
        """An app has no button for it: its server, which is the kernel, ends."""
        self.process.kill()
