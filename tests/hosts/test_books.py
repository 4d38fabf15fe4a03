"""Lessons as pages, built from one notebook as notebooks/embedding.md says: nbconvert, slides, Sphinx with myst-nb."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lesson
import nbformat
import pytest
from playwright.sync_api import expect

from attnwidget import Attention, AttentionWidget, options, to_html
from screen import CHROMIUM, FLAGS, READY, ROOT, fresh_page
from servers import surroundings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

GUIDE = ROOT / "notebooks" / "embedding.md"
VIEW, STATE = (f"application/vnd.jupyter.widget-{one}+json" for one in ("view", "state"))
# What the deck of nbconvert does without network: a library it cannot be told to leave out, and one that was left out.
MERMAID = "https://cdnjs.cloudflare.com/ajax/libs/mermaid"
DECK = ("MathJax is not defined",)


def said(heading: str, language: str) -> str:
    """The first block in ``language`` below a heading of the guide."""
    below = GUIDE.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = re.search(rf"^```{language}\n(.*?)^```", below, re.DOTALL | re.MULTILINE)
    assert found, (heading, language)
    return found[1]


def run(commands: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", commands], cwd=folder, env=surroundings(folder) | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def numbers() -> Attention:
    return lesson.numbers()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that nbconvert makes of the lesson."""
    folder = tmp_path_factory.mktemp("nbconvert")
    lesson.write(folder / "lesson.ipynb")
    engine = next(Path(sys.prefix).glob("npm/reveal.js/*/dist/reveal.js")).parents[1]
    shutil.copytree(engine, folder / "reveal")
    share = Path(sys.prefix) / "share" / "jupyter" / "voila" / "templates" / "base" / "static"
    shutil.copy(share / "require.min.js", folder / "require.js")
    (folder / "offline.py").write_text(said("nbconvert", "python"), "utf-8")
    run(said("nbconvert", "bash"), folder)
    return folder


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a book of one chapter, run while it is built."""
    folder = tmp_path_factory.mktemp("book")
    lesson.write(folder / "lesson.ipynb")
    return bound(folder, said("Sphinx with myst-nb", "python"))


def bound(folder: Path, settings: str) -> Path:
    (folder / "conf.py").write_text(f'project = "lesson"\n{settings}', "utf-8")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\nlesson\n```\n", "utf-8")
    run(said("Sphinx with myst-nb", "bash"), folder)
    return folder


@pytest.fixture
def reader(chromium: Browser) -> Iterator[Page]:
    with fresh_page(chromium, harmless=DECK) as page:
        yield page


def alive(page: Page, numbers: Attention, at: tuple[int, ...] = (0, 1)) -> None:
    """Both pictures of the small model, clicked; no still picture stands beside them."""
    assert page.locator("iframe").count() == lesson.PICTURES
    for place in at:
        page.locator("iframe").nth(place).scroll_into_view_if_needed()  # before that, browsers let a frame draw nothing
        lesson.poke(page.frame_locator("iframe").nth(place).locator(READY), numbers)
    assert page.locator(".attnwidget-still:visible").count() == 0


def top(page: Page, path: Path) -> None:
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(5, 5)
    page.screenshot(path=path)


def recorded(cell: Callable[..., None], host: str, how: str, offline: str = "yes") -> None:
    for column, words in (
        ("appears", "yes"), ("reopened without kernel", "alive"), ("offline", offline), ("tested how", how)
    ):  # fmt: skip
        cell(host, column, words)


def test_nbconvert_html(built: Path, reader: Page, numbers: Attention, cell: Callable[..., None], shots: Path) -> None:
    reader.goto((built / "lesson.html").as_uri())
    alive(reader, numbers)
    reader.locator("iframe").nth(2).scroll_into_view_if_needed()
    large = reader.frame_locator("iframe").nth(2).locator(READY)
    large.locator("[data-layer='7'][data-head='11']").click()
    expect(large).to_contain_text("not stored")
    top(reader, shots / "book-nbconvert.png")
    assert not reader.outside
    recorded(cell, "nbconvert HTML", "executed, converted with the settings of embedding.md, opened as a file")


def test_nbconvert_slides(
    built: Path, reader: Page, numbers: Attention, cell: Callable[..., None], shots: Path
) -> None:
    # 1300 × 1000 and the deck's margin: at another size it is scaled, and Playwright's mouse misses in scaled frames.
    reader.set_viewport_size({"width": 1355, "height": 1042})
    reader.goto((built / "lesson.slides.html").as_uri())
    expect(reader.locator(".reveal.ready")).to_be_visible()
    for slide in (0, 1):
        reader.keyboard.press("ArrowRight")
        expect(reader.locator("section.present iframe")).to_be_visible()
        reader.wait_for_function("() => document.getAnimations().every(one => one.playState !== 'running')")
        alive(reader, numbers, (slide,))
        top(reader, shots / f"book-slides-{slide}.png")
        reader.locator("section.present .jp-InputPrompt").first.click()  # arrow keys are the deck's again
    assert [url for url in reader.outside if not url.startswith(MERMAID)] == []
    recorded(
        cell,
        "nbconvert slides",
        "executed, converted with the settings of embedding.md, opened as a file",
        "yes, with reveal.js beside it",
    )


def test_sphinx_with_myst_nb(
    book: Path, reader: Page, numbers: Attention, cell: Callable[..., None], shots: Path
) -> None:
    reader.goto((book / "_build" / "lesson.html").as_uri())
    alive(reader, numbers)
    top(reader, shots / "book-sphinx.png")
    assert not reader.outside
    recorded(cell, "Sphinx with myst-nb", "built with the settings of embedding.md, opened as a file")


def test_a_notebook_saved_with_live_widgets_gives_the_same_pages(
    built: Path, tmp_path: Path, reader: Page, numbers: Attention
) -> None:
    """Its outputs name live views, whose states are in its metadata: neither is used, and nobody asks for a manager."""
    saved = nbformat.read(built / "lesson.ipynb", as_version=4)
    outputs = [one for part in saved.cells for one in part.get("outputs", []) if "text/html" in one.get("data", {})]
    states: dict[str, Any] = saved.metadata.setdefault("widgets", {}).setdefault(STATE, {"state": {}})["state"]
    assert len(outputs) == lesson.PICTURES
    for output in outputs:
        name = output["data"][VIEW]["model_id"]
        states.setdefault(name, {"model_name": "AnyModel", "model_module": "anywidget", "state": {}})
    nbformat.write(saved, tmp_path / "lesson.ipynb")
    shutil.copy(built / "offline.py", tmp_path)
    run("jupyter nbconvert --config offline.py --to html lesson.ipynb", tmp_path)
    bound(tmp_path, said("Sphinx with myst-nb", "python").replace('"force"', '"off"'))
    for page in ("lesson.html", "_build/lesson.html"):
        reader.goto((tmp_path / page).as_uri())
        alive(reader, numbers, (1,))
    assert not reader.outside


def test_one_file(tmp_path: Path, reader: Page, numbers: Attention, cell: Callable[..., None]) -> None:
    reader.goto(to_html(numbers, tmp_path / "page.html", layer=1, head=0).as_uri())
    lesson.poke(reader.locator(READY), numbers)
    assert not reader.outside
    recorded(cell, "exported page", "`to_html`, opened as a file")


def test_the_python_of_the_guide_runs(tmp_path: Path, numbers: Attention, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"widget": AttentionWidget(numbers, layer=1), "other": AttentionWidget(numbers, view="heatmap")}
    before = {name: getattr(options, name) for name in ("budget", "saved", "live")}
    try:
        for heading in ("One file", "A page of your own", "A saved notebook"):
            exec(said(heading, "python"), names)
        assert (options.budget, options.saved, options.live) == (250_000, "picture", False)
    finally:
        for name, value in before.items():
            setattr(options, name, value)
    assert (tmp_path / "both.html").stat().st_size <= 900_000
    assert [names[one].count("<script>") for one in ("first", "second")] == [1, 0], "the script is there once"


def test_markdown_has_a_still_picture(tmp_path: Path) -> None:
    lesson.write(tmp_path / "lesson.ipynb")
    run(said("A still picture", "bash").replace("--to markdown", "--inplace"), tmp_path)
    data = [
        output["data"]
        for part in nbformat.read(tmp_path / "lesson.ipynb", as_version=4).cells
        for output in part.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(data) == lesson.PICTURES
    assert all(one["text/plain"].startswith("Attention") and "<iframe" not in json.dumps(one) for one in data)
    run("jupyter nbconvert --to markdown lesson.ipynb", tmp_path)
    assert (tmp_path / "lesson.md").read_text("utf-8").count("![") == lesson.PICTURES
    assert len(list((tmp_path / "lesson_files").glob("*.png"))) == lesson.PICTURES


def test_a_frame_is_as_light_as_the_page_around_it(built: Path, chromium: Browser, shots: Path) -> None:
    """The reader's system is dark, really: an emulated one would be dark in every frame. The page is light."""
    dark = chromium.browser_type.launch(executable_path=CHROMIUM, args=[*FLAGS, "--force-dark-mode"])
    page = dark.new_page(color_scheme="no-override")
    page.goto((built / "lesson.html").as_uri())
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    expect(page.frame_locator("iframe").first.locator(READY)).to_have_attribute("data-theme", "light")
    page.screenshot(path=shots / "book-dark-system.png")
    dark.close()
