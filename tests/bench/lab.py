"""A real JupyterLab with a real kernel: how soon a cell shows its picture, and what the saved notebook weighs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .browser import FIRST_PAINT, READY, Page, chromium, hover

ROOT = Path(__file__).parents[2]

MODEL = """\
import torch
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
ids = torch.randint(50257, (1, {n}))
"""
OURS = """\
from attnwidget import AttentionWidget, capture
model = GPT2LMHeadModel(GPT2Config()).eval()
attention = capture(model, {"input_ids": ids})
del model"""
THEIRS = """\
from IPython.display import HTML
from bertviz import head_view, model_view
tokens = [str(i) for i in ids[0].tolist()]
model = GPT2LMHeadModel(GPT2Config(attn_implementation="eager")).eval()
with torch.no_grad():
    maps = model(ids, output_attentions=True).attentions
del model
# BertViz asks for this script and uses it at once, whether or not it has come; here it has.
HTML('<script src="https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js"></script>')"""
# What a reader makes and what the reader sees: two cells for each tool.
CELLS = {
    "attnwidget": (MODEL + OURS, "AttentionWidget(attention)"),
    "model_view": (MODEL + THEIRS, "model_view(maps, tokens)"),
    "head_view": (MODEL + THEIRS, "head_view(maps, tokens)"),
}

OPEN = """
() => document.querySelector(".jp-Notebook .jp-Cell") !== null
  && Boolean(window.jupyterapp?.shell.currentWidget?.context)
"""
# The kernel stamps its messages with the clock that the page reads too: it may be too busy to receive them in time.
RUN = """
async (index, watched) => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  await panel.context.ready; await panel.sessionContext.ready;
  const times = (window.bench = {});
  panel.sessionContext.session.kernel.iopubMessage.connect((_, { header, parent_header, content }) => {
    if (header.msg_type !== "status" || parent_header.msg_type !== "execute_request") return;
    times[content.execution_state] ??= Date.parse(header.date);
  });
  void watched?.then((painted) => { times.painted = painted; });
  panel.content.activeCellIndex = index;
  times.asked = Date.now();
  void app.commands.execute("notebook:run-cell").then(() => {
    const { outputs } = panel.content.widgets[index].model.toJSON();
    times.error = outputs.find(({ output_type }) => output_type === "error")?.evalue ?? "";
  });
}"""
SAVE = """
async () => {
  const { context } = window.jupyterapp.shell.currentWidget;
  await context.save();
  return context.path;
}"""


@dataclass(frozen=True)
class Shown:
    """What one run gave: seconds and bytes. None where it did not finish."""

    from_end: float | None = None
    from_start: float | None = None
    saved: int | None = None


@contextmanager
def jupyterlab() -> Iterator[tuple[str, Path]]:
    """A running JupyterLab with settings of its own: its address, and the folder it serves."""
    with TemporaryDirectory(prefix="bench-lab-") as temporary, socket.socket() as probe:
        base = Path(temporary)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        for name, settings in {
            "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
            "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        }.items():
            file = base / "settings" / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(settings))
        (served := base / "notebooks").mkdir()
        folders = {f"JUPYTERLAB_{name}_DIR": str(base / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
        folders |= {f"JUPYTER_{name}_DIR": str(base / name.lower()) for name in ("CONFIG", "RUNTIME")}
        found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # the others may be there
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
                "--ServerApp.disable_check_xsrf=True", "--LabApp.expose_app_in_browser=True",
                f"--ServerApp.root_dir={served}",
            ],
            env=os.environ | folders | {"IPYTHONDIR": str(base / "ipython"), "PYTHONPATH": found},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(300):
                if server.poll() is not None:
                    raise RuntimeError("JupyterLab ended at once")
                try:
                    urllib.request.urlopen(f"{address}/api", timeout=2).read()
                    break
                except OSError:
                    time.sleep(0.3)
            yield address, served
        finally:
            server.terminate()
            server.wait(60)


def write_notebook(path: Path, tool: str, n: int) -> None:
    """A notebook of two cells: the attention, and the picture of it."""
    empty: dict[str, Any] = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    sources = (source.replace("{n}", str(n)) for source in CELLS[tool])
    cells = [{**empty, "id": f"cell-{i}", "source": source} for i, source in enumerate(sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@contextmanager
def opened(lab: tuple[str, Path], tool: str, n: int) -> Iterator[Page]:
    """A fresh browser with a notebook whose first cell has run."""
    address, served = lab
    name = f"{tool}_{n}_{time.monotonic_ns()}.ipynb"
    write_notebook(served / name, tool, n)
    try:
        with chromium() as page:
            if tool != "attnwidget":
                page.serve_cdn()
            page.open(f"{address}/lab/tree/{name}?reset")
            page.wait(OPEN)
            run_cell(page, 0, None, 180)
            if tool != "attnwidget":
                page.wait("() => window.require !== undefined")
            yield page
    finally:
        _shut_down(address, name)


def run_cell(page: Page, index: int, selector: str | None, limit: float) -> dict[str, float]:
    """Runs a cell and waits for its end or, with a selector, its picture: when it was `asked`, `idle`, `painted`."""
    watch = "null" if selector is None else f"({FIRST_PAINT})({json.dumps(selector)})"
    page.call(f"() => ({RUN})({index}, {watch})")
    wanted = "error" if selector is None else "painted"
    times: dict[str, Any] = page.wait(
        f"() => bench.error || ('{wanted}' in bench && 'idle' in bench) ? bench : 0", limit
    )
    if times.get("error"):
        raise RuntimeError(f"the cell failed: {times['error']}")
    return times


def show_once(lab: tuple[str, Path], tool: str, n: int, limit: float) -> Shown:
    """One run in a fresh browser with a fresh kernel."""
    with opened(lab, tool, n) as page:
        try:
            times = run_cell(page, 1, READY[tool], limit)
        except (RuntimeError, TimeoutError) as error:
            if tool == "attnwidget":
                raise
            print(f"… JupyterLab, {tool}, n = {n}: {error}", file=sys.stderr)
            return Shown()
        return Shown(
            (times["painted"] - times["idle"]) / 1000,
            (times["painted"] - times["asked"]) / 1000,
            _save(page, lab[1]),
        )


def hover_in_notebook(lab: tuple[str, Path], n: int, times: int) -> dict[str, Any]:
    """What `browser.hover` measures, on our widget."""
    with opened(lab, "attnwidget", n) as page:
        run_cell(page, 1, READY["attnwidget"], 120)
        page.rest(1)
        return hover(page, "attnwidget", times)


def _save(page: Page, served: Path) -> int:
    page.rest(1)
    path: str = page.call(SAVE)
    return (served / path).stat().st_size


def _shut_down(address: str, name: str) -> None:
    """Ends the notebook's kernel: each holds a model's worth of memory."""
    for session in json.load(urllib.request.urlopen(f"{address}/api/sessions")):
        if session["path"] == name:
            urllib.request.urlopen(urllib.request.Request(f"{address}/api/sessions/{session['id']}", method="DELETE"))
