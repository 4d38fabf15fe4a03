"""A laptop that has neither torch nor transformers: an environment with what a saved attention needs, and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from attnwidget import capture, tiny
from screen import READY

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
NEEDED = ("numpy", "anywidget", "ipywidgets", "matplotlib")
LACKING = {"torch", "transformers", "scipy", "tqdm", "bqplot", "safetensors"}


def run(*command: str | Path, folder: Path) -> str:
    """What a program prints; if it fails, what it said, as the test's failure."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, cwd=folder, env=own, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of such an environment, with the package in it (``test_packaging.py`` installs the wheel)."""
    folder = tmp_path_factory.mktemp("thin")
    run(sys.executable, "-m", "venv", "venv", folder=folder)
    interpreter = folder / "venv" / "bin" / "python"
    run(interpreter, "-m", "pip", "install", "--quiet", *NEEDED, "-c", ROOT / "constraints.txt", folder=folder)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    shutil.copytree(ROOT / "attnwidget", site / "attnwidget", ignore=shutil.ignore_patterns("__pycache__"))
    return interpreter


def test_a_saved_attention_is_shown_and_exported_and_the_page_is_alive(
    python: Path, page: Page, cell: Callable[..., None], shots: Path, tmp_path: Path
) -> None:
    """Oracle of the numbers on the page: the attention that was saved."""
    model, tokenizer = tiny.decoder()
    attention = capture(model, "The cat saw the dog.", tokenizer, keep_values=True)
    attention.save(tmp_path / "saved.safetensors")
    listed = run(python, "-m", "pip", "list", "--format=freeze", folder=tmp_path)
    assert not LACKING & {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert run(python, ROOT / "tests" / "thinly.py", folder=tmp_path).split() == ["done"]

    page.goto((tmp_path / "page.html").as_uri())
    widget = page.locator(READY)
    for layer, head in ((1, 2), (3, 0)):
        widget.locator(f"[data-layer='{layer}'][data-head='{head}']").click()
        expect(widget).to_have_attribute("data-selection", f"decoder/{layer}/{head}")
        widget.locator("[data-query='5']").hover()
        row = attention[layer, head].row(5)
        best = int(row.argmax())
        expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
    page.screenshot(path=shots / "thin-page.png")
    page.goto((tmp_path / "steps.html").as_uri())
    expect(page.locator(READY)).to_be_visible()
    page.screenshot(path=shots / "thin-steps.png", full_page=True)
    assert page.outside == []
    cell("without torch", "appears")
    cell("without torch", "reopened without kernel", "a page")
    cell("without torch", "offline")
    cell("without torch", "tested how", "an environment of its own with numpy, anywidget, ipywidgets and matplotlib")
