"""The dashboard in a real JupyterLab: what is clicked or brushed there is selected in the widget, and the other way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect
from test_lab import carrying, shown

from screen import READY, fresh_page
from servers import Server, open_notebook

CELL = """
import json, torch
from attnwidget import capture, tiny
from attnwidget.dashboard import Dashboard
model, tokenizer = tiny.decoder()
text = "The dog did not cross the street because it was too tired. Anna gave the book to Tom."
d = Dashboard(capture(model, text, tokenizer), x="distance", y="entropy")
w = d.widget
d
"""
DASHBOARD = ".attn-dashboard"
BUSY = 20_000  # milliseconds: several of these tests may share two cores


@pytest.fixture(scope="module")
def book(chromium: Browser, lab: Server) -> Iterator[Any]:
    with fresh_page(chromium) as page:
        page.set_viewport_size({"width": 1400, "height": 2300})
        book = open_notebook(page, lab, [CELL])
        book.run_all()
        page.wait_for_selector(READY, timeout=120_000)
        page.wait_for_function(
            f"() => document.querySelectorAll('{DASHBOARD} .attn-chart:first-child .element').length === 16",
            timeout=60_000,
        )
        page.wait_for_timeout(1000)
        yield book
        assert not page.outside


def chart(book: Any, title: str) -> Locator:
    return book.page.locator(f"{DASHBOARD} .attn-chart").filter(has=book.page.get_by_text(re.compile(f"^{title}")))


def centres(where: Locator) -> list[tuple[float, float]]:
    """Of all marks, in the order of the data."""
    return [
        (x, y)
        for x, y in where.evaluate_all(
            """all => all.map((el) => el.getBoundingClientRect())
                .map((box) => [box.x + box.width / 2, box.y + box.height / 2])"""
        )
    ]


def points(book: Any) -> dict[tuple[int, int], tuple[float, float]]:
    """Where each head stands on the screen."""
    found = centres(chart(book, "Heads by two").locator(".element"))
    return {(at // 4, at % 4): place for at, place in enumerate(found)}


def alone(book: Any) -> tuple[int, int]:
    """A head that no other one hides."""
    found = points(book)
    return max(
        found,
        key=lambda a: min(abs(found[a][0] - x) + abs(found[a][1] - y) for b, (x, y) in found.items() if b != a),
    )


def selected(book: Any) -> Any:
    return book.ask("print(json.dumps([w.layer, w.head, w.heads]))")


def test_a_click_on_a_point_selects_that_head_in_the_matrix(book: Any, shots: Path) -> None:
    layer, head = alone(book)
    book.page.mouse.click(*points(book)[layer, head])
    expect(book.page.locator(READY)).to_have_attribute("data-selection", f"decoder/{layer}/{head}", timeout=BUSY)
    assert selected(book) == [layer, head, []]
    expect(chart(book, f"Map: layer {layer} · head {head}")).to_be_visible(timeout=BUSY)
    expect(book.page.locator(".attn-dashboard-foot")).to_contain_text(f"Layer {layer} · head {head}")
    book.page.mouse.move(2, 2)
    book.page.wait_for_timeout(800)
    book.page.locator(DASHBOARD).screenshot(path=shots / "dashboard-light.png")


def test_a_head_chosen_in_the_matrix_is_marked_in_the_charts(book: Any) -> None:
    book.page.locator(f"{READY} [data-layer='1'][data-head='0']").click()
    label = chart(book, "Heads by two").locator("text.label").first
    expect(label).to_have_text("1·0", timeout=BUSY)
    # The number at the point is the kernel's.
    number = book.ask("print(float(d.numbers['distance'][1, 0]))")
    book.page.mouse.move(*points(book)[1, 0])
    tip = book.page.locator(".bqplot_mark_tooltip, .mark_tooltip").filter(has_text="layer 1 · head 0").first
    expect(tip).to_contain_text(f"{number:.3f}", timeout=BUSY)
    book.page.mouse.move(2, 2)


def test_five_that_are_brushed_are_shown_as_their_mean(book: Any, shots: Path) -> None:
    page = book.page
    chosen = chart(book, "Heads by two")
    page.locator(f"{DASHBOARD} .widget-toggle-button", has_text="brush").click()
    overlay = chosen.locator(".brushintsel .overlay")
    expect(overlay).to_be_attached(timeout=BUSY)
    box = overlay.bounding_box()
    assert box is not None
    places = points(book)
    order = sorted(places, key=lambda one: places[one][0])
    five, edge = order[:5], (places[order[4]][0] + places[order[5]][0]) / 2
    assert places[order[5]][0] - places[order[4]][0] > 2
    page.mouse.move(box["x"] + 1, box["y"] + 1)
    page.mouse.down()
    page.mouse.move(edge - 20, box["y"] + 60, steps=5)
    page.mouse.move(edge, box["y"] + box["height"] - 1, steps=5)
    page.mouse.up()
    root = page.locator(READY)
    expect(root).to_contain_text("5 chosen heads", timeout=BUSY)
    assert sorted(map(tuple, selected(book)[2])) == sorted(five)
    # The detail has the numbers of their mean, as Python has it.
    mean = book.ask(f"print(json.dumps((sum(w.attention[h].row(9) for h in {five}) / 5).tolist()))")
    root.locator(".attn-view [data-query='9']").hover()
    for key in carrying(mean, 0.9):
        expect(root.locator(f"[data-weight-for='{key}']")).to_have_text(shown(mean)[key], timeout=BUSY)
    page.mouse.move(2, 2)
    expect(chart(book, "Mean map: 5 heads")).to_be_visible()
    page.wait_for_timeout(500)
    page.locator(DASHBOARD).screenshot(path=shots / "dashboard-brushed.png")
    # A click beside the rectangle lets them go.
    page.mouse.click(box["x"] + box["width"] - 3, box["y"] + 3)
    expect(root).to_have_attribute("data-selection", "decoder/*/*", timeout=BUSY)
    assert selected(book) == [None, None, []]
    page.locator(f"{DASHBOARD} .widget-toggle-button", has_text="click").click()
    expect(overlay).not_to_be_attached(timeout=BUSY)


def test_cells_and_bars_can_be_clicked(book: Any) -> None:
    root = book.page.locator(READY)
    book.page.mouse.click(*centres(chart(book, "Layer × head").locator(".heatmapcell"))[4 * 2 + 1])
    expect(root).to_have_attribute("data-selection", "decoder/2/1", timeout=BUSY)
    x, y = centres(chart(book, "By layer").locator(".bar"))[3]
    box = chart(book, "By layer").locator(".bar").nth(3).bounding_box()
    assert box is not None
    book.page.mouse.click(box["x"] + 3, y)  # beside the points, which stand in the middle
    expect(root).to_have_attribute("data-selection", "decoder/3/*", timeout=BUSY)
    assert selected(book) == [3, None, []]


LEGIBLE = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const read = (colour) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (colour) => read(colour).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const root = document.querySelector(".attn-dashboard"), ground = light(getComputedStyle(root).backgroundColor);
    const against = (colour) => (Math.max(light(colour), ground) + 0.05) / (Math.min(light(colour), ground) + 0.05);
    const least = (selector, property) => Math.min(...[...root.querySelectorAll(selector)]
        .map((el) => against(getComputedStyle(el)[property])));
    return {
        text: least(".attn-chart svg text:not(:empty)", "fill"),
        notes: least("small, .attn-title, .attn-legend, .attn-lines", "color"),
        points: least(".attn-chart:first-child .element", "fill"),
        ground: read(getComputedStyle(root).backgroundColor),
    };
}"""


def test_it_is_legible_in_light_and_dark_and_in_a_narrow_cell(book: Any, shots: Path) -> None:
    page = book.page
    grounds = []
    for theme in ("Dark", "Light"):
        book.theme(theme)
        found = page.evaluate(LEGIBLE)
        assert found["text"] >= 4.5, theme
        assert found["notes"] >= 4.5, theme
        assert found["points"] >= 3, theme
        grounds.append(found["ground"])
        page.locator(DASHBOARD).screenshot(path=shots / f"dashboard-{theme.lower()}.png")
    assert sum(grounds[0]) < 200 < 600 < sum(grounds[1])
    page.set_viewport_size({"width": 780, "height": 3800})
    page.wait_for_timeout(1500)
    page.locator(DASHBOARD).screenshot(path=shots / "dashboard-narrow.png")
    for where in (DASHBOARD, f"{DASHBOARD}-charts", f"{DASHBOARD}-bar"):
        assert page.locator(where).evaluate("el => el.scrollWidth - el.clientWidth") <= 0
    # Charts follow the width of their cell.
    for beside in page.locator(f"{DASHBOARD} .attn-chart").evaluate_all(
        """all => all.map((el) => el.getBoundingClientRect().width
            - el.querySelector(".bqplot > svg").getBoundingClientRect().width)"""
    ):
        assert -1 <= beside <= 40
    page.set_viewport_size({"width": 1400, "height": 2300})
