"""“Save figure” in the menu: drawn by Python where there is a kernel, and the view as it stands on screen anywhere.

Oracles: `figures.draw` in the same kernel; the pixels of a screenshot of the same elements.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from playwright.sync_api import Download, Locator, Page, expect

from attnwidget.attention import Attention
from attnwidget.export import to_html

READY = ".attnwidget[data-attn-ready=true]"


def attention(n: int = 13, tokens: list[str] | None = None) -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, n, 8, generator=generator) * 2 for _ in range(2))
    return Attention.from_qk(q, k, tokens or [f"word{i}" for i in range(n)], causal=True)


def menu(widget: Locator) -> Locator:
    widget.get_by_role("button", name="Views, code and figures").click()
    return widget.get_by_role("group", name="Save figure")


def saved(page: Page, button: Locator) -> Download:
    with page.expect_download(timeout=30_000) as coming:
        button.click()
    return coming.value


@pytest.mark.parametrize(
    ("view", "scheme"),
    [("arcs", "light"), ("heatmap", "dark"), ("graph", "light"), ("text", "dark"), ("steps", "light")],
)
def test_a_page_saves_what_is_on_screen(page: Page, tmp_path: Path, shots: Path, view: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto(to_html(attention(), tmp_path / "page.html", layer=1, head=2, view=view, pinned=[5]).as_uri())
    widget = page.locator(READY)
    figure = menu(widget)
    expect(figure.get_by_role("button", name="SVG")).to_be_hidden()  # there is nobody to draw it
    download = saved(page, figure.get_by_role("button", name="PNG of the screen"))
    assert download.suggested_filename == f"attention-layer-1-head-2-{view}.png"
    expect(figure.get_by_role("status")).to_have_text("saved")
    file = shots / f"saved-{view}-{scheme}.png"
    download.save_as(file)
    page.keyboard.press("Escape")
    page.mouse.move(1, 1)
    expect(figure).to_be_hidden()
    body = widget.locator(".attn-body")
    body.screenshot(path=tmp_path / "screen.png")
    drawn, screen = (imread(one)[..., :3] for one in (file, tmp_path / "screen.png"))
    box = widget.evaluate("one => [one.offsetWidth, one.querySelector('.attn-body').offsetHeight]")
    assert drawn.shape == (2 * box[1], 2 * box[0], 3)
    # The same pixels at twice the size, but for edges that fall between two.
    near = drawn[2 : 2 * screen.shape[0] : 2, 2 : 2 * screen.shape[1] : 2][: screen.shape[0] - 2, : screen.shape[1] - 2]
    same = np.abs(near - screen[1 : 1 + near.shape[0], 1 : 1 + near.shape[1]]).max(2) < 0.15
    assert same.mean() > 0.93
    assert (np.abs(drawn - drawn[0, 4]).max(2) > 0.1).mean() > 0.02  # and no blank sheet
    assert not page.outside


def test_hostile_tokens_and_a_scrolled_list_are_drawn_all_the_same(page: Page, tmp_path: Path, shots: Path) -> None:
    tokens = ["<b>", "&amp;", "]]>", "\x00", "\x0b", "\ufffe", "שלום", "👩‍👩‍👧", *(f"word{i}" for i in range(92))]
    page.goto(to_html(attention(100, tokens), tmp_path / "page.html", layer=0, head=0).as_uri())
    widget = page.locator(READY)
    first = saved(page, menu(widget).get_by_role("button", name="PNG of the screen"))
    first.save_as(shots / "saved-hostile.png")
    widget.locator(".attn-list").evaluate("list => { list.scrollTop = 900; }")
    expect(widget.locator("[data-query='0']")).to_have_count(0)
    second = saved(page, widget.get_by_role("button", name="PNG of the screen"))
    second.save_as(shots / "saved-scrolled.png")
    one, two = (imread(shots / f"saved-{name}.png") for name in ("hostile", "scrolled"))
    assert one.shape == two.shape
    assert (np.abs(one - two).max(2) > 0.1).mean() > 0.01


def test_where_a_page_cannot_be_drawn_words_say_so(page: Page, tmp_path: Path) -> None:
    page.add_init_script(
        "HTMLCanvasElement.prototype.toBlob = () => { throw new DOMException('tainted', 'SecurityError'); }"
    )
    page.goto(to_html(attention(), tmp_path / "page.html", layer=1, head=2).as_uri())
    figure = menu(page.locator(READY))
    figure.get_by_role("button", name="PNG of the screen").click()
    expect(figure.get_by_role("status")).to_contain_text("Take a screenshot")


def test_python_draws_it_where_there_is_a_kernel(notebook: Callable[..., Any], shots: Path) -> None:
    book = notebook(["from attnwidget import show\nw = show('The cat saw the dog.', layer=1, head=0)\nw"])
    book.run_all()
    page = book.page
    page.wait_for_selector(READY, timeout=90_000)
    widget = page.locator(READY).first
    widget.get_by_role("radio", name="Heat map").click()
    figure = menu(widget)
    expect(figure.get_by_role("button", name="SVG")).to_be_visible()
    page.screenshot(path=shots / "lab-save-figure.png")
    figure.get_by_label("Width in millimetres").fill("120")
    for format in ("svg", "pdf", "png"):
        download = saved(page, figure.locator(f"[data-figure={format}]"))
        assert download.suggested_filename == f"decoder-layer-1-head-0-heatmap.{format}"
        ours = book.ask(
            "import json, base64; from attnwidget import figures\n"
            f"print(json.dumps(base64.b64encode(figures.draw(w, {format!r}, width=120)).decode()))"
        )
        assert Path(download.path()).read_bytes() == base64.b64decode(ours)
    figure.get_by_label("Width in millimetres").fill("none")
    figure.locator("[data-figure=svg]").click()
    expect(figure.get_by_role("status")).to_contain_text("must be a number above 0")
    assert not page.outside


def test_a_kernel_that_was_restarted_is_said_and_nothing_waits_for_it(
    notebook: Callable[..., Any], shots: Path
) -> None:
    book = notebook(["from attnwidget import show\nw = show('The cat saw the dog. ' * 8, budget=1_000)\nw"])
    book.run_all()
    page = book.page
    page.wait_for_selector(READY, timeout=90_000)
    widget = page.locator(READY).first
    widget.locator("[data-layer='1'][data-head='1']").click()
    expect(widget).to_have_attribute("data-selection", "decoder/1/1")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    notice = widget.locator(".attn-notice")
    expect(notice).to_contain_text("The kernel has stopped or was restarted")
    # What is there still works; what is not says so at once, and waits for nobody.
    widget.get_by_role("radio", name="Heat map").click()
    expect(widget.get_by_role("grid", name="Weights, queries by keys")).to_be_visible()
    widget.locator("[data-layer='0'][data-head='1']").click()
    expect(widget.locator(".attn-trouble")).to_contain_text("no kernel to ask")
    expect(notice).to_contain_text("run the cell again")
    page.screenshot(path=shots / "lab-restarted.png")
    figure = menu(widget)
    expect(figure.locator("[data-figure=svg]")).to_be_hidden()
    book.run_all()
    page.wait_for_function(
        "s => document.querySelector(s)?.querySelector('.attn-notice')?.hidden", arg=READY, timeout=60_000
    )
    expect(page.locator(".attnwidget")).to_have_count(1)
    page.locator(READY).locator("[data-layer='0'][data-head='1']").click()
    expect(page.locator(READY)).to_have_attribute("data-selection", "decoder/0/1", timeout=15_000)
