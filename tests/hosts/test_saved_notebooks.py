"""A notebook that was run, saved and closed: what its reader finds in it, with no kernel that knows of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lesson
import pytest
from playwright.sync_api import expect

from attnwidget import Attention, options
from screen import READY, fresh_page
from servers import Notebook, Server, jupyter, open_notebook

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTS = {"lab": "JupyterLab 4", "notebook7": "Notebook 7"}
WIDGETS = "@jupyter-widgets/jupyterlab-manager"
# anywidget says the first where a widget loads for more than 2 s, on a machine with much to do; Notebook 7 the other.
HARMLESS = ("Failed to initialize model", "reading 'schema'")
BUSY = 30_000  # milliseconds: others share these cores
NOBODY = re.compile("No kernel|kernel has stopped")
HOW = "Run the cell"  # what is read under a still picture

# What VS Code's notebook does with an output whose widget is gone: the next type it knows, text/html, goes into an
# element of the cell, and its scripts are made anew so that they run.
VSCODE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Reopened</title><link rel="icon" href="data:,">
<style>body { background: #1f1f1f; color: #cccccc; font: 13px sans-serif; padding: 0 20px }</style>
<body class="vscode-dark" data-vscode-theme-kind="vscode-dark">
<script>
  window.show = (outputs) => {
    for (const html of outputs) {
      const place = document.createElement("div");
      document.body.append(place);
      place.innerHTML = html;
      for (const dead of place.querySelectorAll("script")) {
        const script = document.createElement("script");
        for (const { name, value } of dead.attributes) script.setAttribute(name, value);
        script.text = dead.text;
        dead.replaceWith(script);
      }
    }
  };
</script>
</body></html>
"""


@pytest.fixture(scope="module")
def numbers() -> Attention:
    return lesson.numbers()


@pytest.fixture(scope="module")
def saved(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The lesson, run in a real JupyterLab and saved by it, "without" the state of its widgets, and "with"."""
    base = tmp_path_factory.mktemp("saved")
    found = {}
    with jupyter("lab", base) as server, fresh_page(chromium, HARMLESS) as page:
        book = open_notebook(page, server, lesson.write(base / "lesson.ipynb"))
        book.run_all()
        expect(page.locator(READY)).to_have_count(lesson.PICTURES, timeout=120_000)
        for name in ("without", "with"):
            if name == "with":
                page.evaluate("name => window.jupyterapp.commands.execute(name)", f"{WIDGETS}:saveWidgetState")
            save(book)
            found[name] = Path(shutil.copy(server.folder / "lesson.ipynb", base / f"{name}.ipynb"))
        shut_down(book)
        assert not page.outside
    return found


def save(book: Notebook) -> None:
    book.page.evaluate(
        """async () => {
            const {context} = window.jupyterapp.shell.currentWidget;
            context.model.sharedModel.setMetadata("touched", Date.now());
            await context.save();
        }"""
    )


def shut_down(book: Notebook) -> None:
    book.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


@pytest.fixture(params=HOSTS)
def reopened(request: pytest.FixtureRequest, chromium: Browser) -> Iterator[tuple[str, Callable[[Path], Notebook]]]:
    """Opens a notebook file in a server that has not seen it; its kernel has run nothing."""
    server: Server = request.getfixturevalue(request.param)
    with fresh_page(chromium, harmless=HARMLESS) as page:
        yield HOSTS[request.param], lambda file: open_notebook(page, server, file)
        assert not page.outside


def bundles(file: Path) -> list[dict[str, Any]]:
    """The outputs of the lesson's pictures, by MIME type."""
    cells = json.loads(file.read_text("utf-8"))["cells"]
    found = [output["data"] for one in cells for output in one.get("outputs", []) if "data" in output]
    return [{name: "".join(data) for name, data in one.items()} for one in found if "text/html" in one]


def shot(page: Page, path: Path) -> None:
    page.mouse.move(5, 5)
    page.screenshot(path=path)


def test_saved_with_its_widgets_it_is_alive_without_the_kernel_that_made_it(
    reopened: Any, saved: dict[str, Path], numbers: Attention, cell: Callable[..., None], shots: Path
) -> None:
    host, open_file = reopened
    name = host.split()[0].lower()
    book = open_file(saved["with"])
    page = book.page
    expect(page.locator(READY)).to_have_count(lesson.PICTURES, timeout=BUSY)
    # A fresh kernel that has run nothing; then none at all.
    for kernel in ("fresh", "none"):
        if kernel == "none":
            shut_down(book)
        for at in (0, 1):
            lesson.poke(page.locator(READY).nth(at), numbers)
        page.locator(READY).first.scroll_into_view_if_needed()
        shot(page, shots / f"reopened-{name}-{kernel}.png")
    # A head that was not stored: its thumbnail stands there, and words.
    large = page.locator(READY).nth(2)
    large.locator("[data-layer='7'][data-head='11']").click()
    expect(large).to_contain_text(NOBODY, timeout=BUSY)
    large.scroll_into_view_if_needed()
    shot(page, shots / f"reopened-{name}-words.png")
    cell(host, "reopened without kernel", "alive, where the state of widgets was saved")


def test_saved_without_its_widgets_the_host_says_so(saved: dict[str, Path], page: Page, lab: Server) -> None:
    """JupyterLab's own words, in place of the picture: it prefers the live widget, and knows nothing of it."""
    assert "widgets" not in json.loads(saved["without"].read_text("utf-8"))["metadata"]
    open_notebook(page, lab, saved["without"])
    expect(page.get_by_text("Error displaying widget: model not found")).to_have_count(lesson.PICTURES, timeout=BUSY)
    assert page.locator(".attnwidget").count() == 0
    assert not page.outside


def test_run_without_live_widgets_the_page_in_the_output_is_shown(
    reopened: Any, saved: dict[str, Path], numbers: Attention, tmp_path: Path, shots: Path
) -> None:
    """As with ATTNWIDGET_LIVE=0; and trusted, as a notebook is that was run here."""
    import nbformat
    from nbformat.sign import NotebookNotary

    notebook = nbformat.read(saved["without"], as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    NotebookNotary().sign(notebook)
    nbformat.write(notebook, tmp_path / "pages.ipynb")
    host, open_file = reopened
    page = open_file(tmp_path / "pages.ipynb").page
    frames = page.locator("iframe.attnwidget")
    expect(frames).to_have_count(lesson.PICTURES, timeout=BUSY)
    for at in (0, 1):
        frames.nth(at).scroll_into_view_if_needed()
        lesson.poke(frames.nth(at).content_frame.locator(READY), numbers)
    shot(page, shots / f"reopened-{host.split()[0].lower()}-page.png")


def test_not_trusted_it_runs_nothing_and_shows_pictures_and_words(
    reopened: Any, saved: dict[str, Path], tmp_path: Path, cell: Callable[..., None], shots: Path
) -> None:
    """A notebook from somebody else: its outputs were signed by no one here."""
    host, open_file = reopened
    foreign = tmp_path / "foreign.ipynb"
    foreign.write_text(saved["with"].read_text("utf-8").replace("A lesson", "A foreign lesson"), "utf-8")
    book = open_file(foreign)
    page = book.page
    pictures = page.locator(".jp-OutputArea-output img[alt^='Attention']")
    expect(pictures).to_have_count(lesson.PICTURES, timeout=BUSY)
    for at in range(lesson.PICTURES):
        expect(pictures.nth(at)).to_be_visible()
        assert pictures.nth(at).evaluate("img => img.naturalWidth > 300")
    expect(page.locator(".jp-OutputArea-output", has_text=HOW)).to_have_count(lesson.PICTURES)
    assert page.locator(".jp-OutputArea-output iframe, .jp-OutputArea-output script, .attnwidget").count() == 0
    pictures.first.scroll_into_view_if_needed()
    shot(page, shots / f"reopened-{host.split()[0].lower()}-untrusted.png")


def test_vs_code_shows_the_page_in_the_output(
    saved: dict[str, Path], numbers: Attention, chromium: Browser, cell: Callable[..., None], shots: Path
) -> None:
    with fresh_page(chromium) as page:
        page.emulate_media(color_scheme="null")  # the system's own: an emulated one reaches into every frame
        page.set_content(VSCODE)
        page.evaluate("outputs => window.show(outputs)", [one["text/html"] for one in bundles(saved["without"])])
        for at in (0, 1):
            page.locator("iframe").nth(at).scroll_into_view_if_needed()
            widget = page.frame_locator("iframe").nth(at).locator(READY)
            expect(widget).to_have_attribute("data-theme", "dark")
            lesson.poke(widget, numbers)
        page.locator("iframe").nth(2).scroll_into_view_if_needed()
        large = page.frame_locator("iframe").nth(2).locator(READY)
        large.locator("[data-layer='7'][data-head='11']").click()
        expect(large).to_contain_text("not stored")
        page.evaluate("scrollTo(0, 0)")
        shot(page, shots / "reopened-vscode.png")
        assert not page.locator(".attnwidget-still:visible").count()
        assert not page.outside
    cell("VS Code", "reopened without kernel", "alive, as a page in the output")


def test_however_large_the_attention_an_output_keeps_to_the_budget(saved: dict[str, Path]) -> None:
    kept = [{name: data for name, data in one.items() if "widget" not in name} for one in bundles(saved["without"])]
    sizes = [len(json.dumps(one, ensure_ascii=False).encode()) for one in kept]
    assert len(sizes) == lesson.PICTURES
    assert max(sizes) <= options.budget == 400_000
    assert sizes[2] > 300_000, "the large one uses it"
