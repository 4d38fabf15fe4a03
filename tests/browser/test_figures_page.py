"""Figures beside the screen: a page and a figure of one selection show the same edges, numbers, colours and labels."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, expect

from attnwidget import compare
from attnwidget.attention import Attention
from attnwidget.export import to_html
from attnwidget.figures import draw
from attnwidget.selection import Selection
from screen import READY

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
TOKENS = ["[CLS]", "The", "cat", "$x_1$", "<b>", "שלום", "saw", "it", "unbelievably-long-word-" * 4, "."]
KEYS = ".attn-arcs .attn-token.attn-key .attn-chip"
BOLD = ".attn-arcs .attn-key.attn-carried .attn-chip"
# The colours of points of a canvas, in the page's coordinates.
COLOURS = """
([canvas, points]) => {
  const box = canvas.getBoundingClientRect();
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const [across, down] = [canvas.width / box.width, canvas.height / box.height];
  const at = (x, y) => [Math.floor((x - box.x) * across), Math.floor((y - box.y) * down)];
  return points.map(([x, y]) => [...pen.getImageData(...at(x, y), 1, 1).data]);
}"""


def made(seed: int = 0, **how: Any) -> Attention:
    generator = torch.Generator().manual_seed(seed)
    q, k = 1.5 * torch.randn(2, 2, 3, len(TOKENS), 8, generator=generator)
    return Attention.from_qk(q, k, TOKENS, causal=True, **how)


def opened(page: Page, shown: Any, folder: Path, **traits: Any) -> Any:
    page.goto(to_html(shown, folder / "page.html", **traits).as_uri())
    page.wait_for_selector(READY, timeout=30_000)
    return page.locator(READY)


def svg(shown: Any, **traits: Any) -> ElementTree.Element:
    of = traits.pop("of", "view")
    return ElementTree.fromstring(draw(Selection(shown, **traits), "svg", width=170, of=of))


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]


def picture(root: ElementTree.Element) -> NDArray[Any]:
    one = next(root.iter(f"{SVG}image"))
    data = base64.b64decode(one.get(LINK, "").split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def same(drawn: str, shown: str) -> bool:
    """Whether two texts are of one token, which one of them may have cut shorter."""
    return drawn == shown or (drawn.endswith("…") and shown.startswith(drawn[:-1]))


def colours(page: Page, canvas: Any, points: list[tuple[float, float]]) -> NDArray[Any]:
    """As soon as there is something at all of them."""
    handle = canvas.element_handle()
    page.wait_for_function(f"(told) => ({COLOURS})(told).every(([,,, alpha]) => alpha === 255)", arg=[handle, points])
    return np.array(page.evaluate(COLOURS, [handle, points]))[:, :3]


def cells(page: Page, widget: Any, n: int) -> NDArray[Any]:
    """The colours of the cells of a heat map on screen, [n, n, 3]."""
    grid = widget.locator(".attn-map")
    grid.scroll_into_view_if_needed()
    expect(grid).to_have_attribute("data-sharp", "true")
    box = grid.bounding_box()
    assert box is not None
    # A corner of each cell: there are numbers in the middle.
    points = [
        (box["x"] + (j + 0.12) * box["width"] / n, box["y"] + (i + 0.12) * box["height"] / n)
        for i in range(n)
        for j in range(n)
    ]
    return colours(page, grid.locator("canvas").first, points).reshape(n, n, 3)


def test_arcs_have_the_same_edges_numbers_and_labels(page: Page, tmp_path: Path) -> None:
    shown = made()
    widget = opened(page, shown, tmp_path, layer=1, head=2, threshold=0.8)
    said = " ".join(texts(svg(shown, layer=1, head=2, threshold=0.8)))
    count = re.search(r"(\d+) edges carry 80 %", said)
    assert count is not None
    expect(widget.locator(".attn-under")).to_contain_text(f"{count[1]} edges carry 80 %")
    for query in (0, 4, 9):
        widget.locator(f".attn-view [data-query='{query}']").first.hover()
        focused = widget.locator(f".attn-arcs .attn-token.attn-query.attn-on[data-query='{query}']")
        expect(focused).to_have_count(1)
        root = svg(shown, layer=1, head=2, threshold=0.8, query=query)
        numbers = [text for text in texts(root) if re.fullmatch(r"<?\d\.\d\d|0|1\.00", text)]
        told = page.locator(".attn-arcs [data-weight-for]:not(:empty)")
        expect(told).to_have_count(len(numbers))
        assert sorted(numbers) == sorted(told.all_text_contents())
        bold = page.evaluate(f"() => [...document.querySelectorAll('{BOLD}')].map((el) => el.textContent)")
        heavy = [one for one in root.iter(f"{SVG}text") if "font-weight: 700" in one.get("style", "")]
        strong = {"".join(one.itertext()) for one in heavy}
        for label in bold:
            assert any(same(one, label) for one in strong), (label, strong)
        keys = sum(float(one.get("x", 0)) > 240 for one in heavy)
        assert keys == len(bold), "those that carry the share, and no others"
    labels = page.evaluate(f"() => [...document.querySelectorAll('{KEYS}')].map((el) => el.textContent)")
    drawn = texts(svg(shown, layer=1, head=2))
    for label in labels:
        assert any(same(one, label) for one in drawn), label
    assert not page.outside


@pytest.mark.parametrize("scale", ["sqrt", "linear", "log", "uniform"])
def test_cells_of_the_heat_map_have_the_same_colours(page: Page, tmp_path: Path, scale: str) -> None:
    shown, n = made(), len(TOKENS)
    widget = opened(page, shown, tmp_path, layer=0, head=1, view="heatmap", scale=scale)
    seen = cells(page, widget, n)
    drawn = picture(svg(shown, layer=0, head=1, view="heatmap", scale=scale))
    size = drawn.shape[0] // n
    drawn = drawn[size // 2 :: size, size // 2 :: size]
    # The page holds weights to within 0.001, which is a shade or two of 256 where the ramp is steepest.
    assert abs(seen - drawn).max() <= (12 if scale in ("log", "uniform") else 6)
    assert abs(seen - drawn).mean() < 1
    assert (drawn.reshape(-1, 3).std(0) > 20).all(), "there is something to compare"
    assert not page.outside


def test_the_matrix_has_the_same_pictures(page: Page, tmp_path: Path) -> None:
    shown, n = made(), len(TOKENS)
    widget = opened(page, shown, tmp_path)
    drawn = picture(svg(shown, of="matrix"))
    white = (drawn == 255).all(-1)
    starts = [
        [i for i in range(len(gap)) if not gap[i] and (i == 0 or gap[i - 1])] for gap in (white.all(0), white.all(1))
    ]
    size = int(np.argmax(white.all(0)))
    assert [len(one) for one in starts] == [4, 3], "heads and their mean, layers and their mean"
    canvas = widget.locator(".attn-stuck canvas").first
    for layer in (0, 1):
        for head in range(3):
            box = widget.locator(f"[data-layer='{layer}'][data-head='{head}']").bounding_box()
            assert box is not None
            at = [(i + 0.5) / n for i in range(n)]
            points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for y in at for x in at]
            seen = colours(page, canvas, points).reshape(n, n, 3)
            tile = drawn[starts[1][layer] :, starts[0][head] :]
            mine = np.array([[tile[int(y * size), int(x * size)] for x in at] for y in at])
            assert abs(seen - mine).max() <= 2, (layer, head)
    assert not page.outside


def test_the_graph_has_the_same_path_and_shares(page: Page, tmp_path: Path) -> None:
    shown = made()
    widget = opened(page, shown, tmp_path, view="graph", head=1, query=8)
    path = widget.locator(".attn-path li[data-product]")
    expect(path).to_have_count(1)
    steps = page.evaluate(
        "() => [...document.querySelectorAll('.attn-path li[data-key]')].map((el) => Number(el.dataset.weight))"
    )
    said = " ".join(texts(svg(shown, view="graph", head=1, query=8)))
    assert f"product {float(path.get_attribute('data-product') or 0):.2f}" in said
    assert len(steps) == 2
    for weight in steps:
        assert f"{weight:.2f} “" in said
    assert not page.outside


def test_the_steps_have_the_same_numbers(page: Page, tmp_path: Path) -> None:
    shown = made()
    widget = opened(page, shown, tmp_path, view="steps", layer=0, head=1, query=6)
    lines = widget.locator(".attn-keys [data-at]")
    expect(lines).to_have_count(10)
    seen = page.evaluate(
        """() => [...document.querySelectorAll(".attn-keys [data-at] .attn-figure")].map((el) => el.textContent)"""
    )
    drawn = texts(svg(shown, view="steps", layer=0, head=1, query=6))
    for text in seen:
        if text not in ("", "−∞ masked"):
            assert text in drawn
    assert sum(text == "−∞ masked" for text in seen) == drawn.count("masked")
    assert not page.outside


def test_a_difference_has_the_same_signs(page: Page, tmp_path: Path) -> None:
    shown, n = compare(made(0), made(1), names=("new", "old")), len(TOKENS)
    widget = opened(page, shown, tmp_path, view="heatmap", layer=0, head=0)
    seen = cells(page, widget, n)
    drawn = picture(svg(shown, layer=0, head=0, view="heatmap"))
    size = drawn.shape[0] // n
    assert abs(seen - drawn[size // 2 :: size, size // 2 :: size]).max() <= 12
    assert not page.outside


@pytest.mark.parametrize(
    "traits",
    [
        {"layer": 0}, {"layer": 0, "query": 6}, {"layer": 0, "pinned": [4, 5]}, {"layer": 0, "threshold": 0.5},
        {"layer": 0, "threshold": 1.0}, {"layer": None},
    ],
    ids=str,
)  # fmt: skip
def test_the_table_says_the_same_and_lists_the_same_edges(page: Page, tmp_path: Path, traits: dict[str, Any]) -> None:
    """A figure lists 40 edges at most, of those that the screen lists, and says so."""
    chosen = {"view": "table", "head": None if traits["layer"] is None else 2, **traits}
    widget = opened(page, made(), tmp_path, **chosen)
    caption = widget.locator(".attn-table caption")
    expect(caption).to_have_text(re.compile(r"listed\.$"))
    shown = caption.inner_text()
    rows = widget.locator(".attn-table tbody tr")
    count = rows.count()
    assert f"; {count} edges listed." in shown
    drawn = texts(svg(made(), **chosen))
    wanted = shown if count <= 40 else shown.replace(f"; {count} edges", f"; the strongest 40 of {count} are")
    assert wanted in " ".join(drawn)
    told = [text.removeprefix("<") for text in drawn if re.fullmatch(r"<?\d\.\d{4}", text)]
    weights = page.evaluate("() => [...document.querySelectorAll('[data-weight]')].map((el) => +el.dataset.weight)")
    assert [float(one) for one in told] == pytest.approx(weights[:40], abs=1.1e-3), (
        "the page holds them to within 0.001"
    )
    assert not page.outside
