"""Which pictures there are: every view, of 4 to 4000 tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Page

from attnwidget import Attention

from . import subjects

BOOK = "At 4000 tokens the heads are made by hand."
RANDOM = "Random weights, sharpened until patterns show."


@dataclass(frozen=True)
class Scene:
    """One view of one subject, at several lengths."""

    name: str
    title: str
    caption: str
    subject: Callable[[int], Attention]
    lengths: tuple[int, ...]
    traits: Mapping[str, Any] = field(default_factory=dict)
    act: Callable[[Page, int], None] | None = None  # what a reader does before the picture is taken
    budget: int = 1_800_000  # bytes of the page


def text(n: int) -> Attention:
    """The trained decoder as far as it reads, then numbers made by hand."""
    return subjects.decoder(n) if n <= 400 else subjects.book(n)


# Centres of the tokens that the mouse reaches without scrolling, in reading order.
REACHED = """
() => [...document.querySelectorAll(".attn-view [data-query]")].flatMap((el) => {
  const { x, y, width, height } = el.getBoundingClientRect();
  const centre = [x + width / 2, y + height / 2];
  return el.contains(document.elementFromPoint(...centre)) ? [[Number(el.dataset.query), ...centre]] : [];
}).sort(([a], [b]) => a - b)
"""


def hovering(share: float) -> Callable[[Page, int], None]:
    """The mouse rests on the token that far down those in sight."""

    def act(page: Page, n: int) -> None:
        page.locator(".attn-view").evaluate("el => scrollTo(0, el.getBoundingClientRect().top + scrollY - 60)")
        page.wait_for_timeout(150)
        places = page.evaluate(REACHED)
        page.mouse.move(*places[round(share * (len(places) - 1))][1:])

    return act


def on_the_house(page: Page, n: int) -> None:
    """The mouse rests on the middle of a patch: between two it would be a matter of rounding which."""
    rows, columns = subjects.GRIDS[n]
    canvas = page.locator(".attn-canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    row, column = int(0.6 * rows), int(0.33 * columns)
    page.mouse.move(box["x"] + (column + 0.5) / columns * box["width"], box["y"] + (row + 0.5) / rows * box["height"])


def closer(page: Page, n: int) -> None:
    """The control key and the wheel, three tenths down the diagonal."""
    grid = page.get_by_role("grid", name="Weights, queries by keys")
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.34 * box["height"])
    page.keyboard.down("Control")
    for _ in range(8 if n > 1000 else 3):
        page.mouse.wheel(0, -240)
        page.wait_for_timeout(60)
    page.keyboard.up("Control")


LENGTHS = (4, 40, 400, 4000)
INDUCTION = {"layer": 1, "head": 0}
SCENES = (
    Scene(
        "arcs", "Arcs", f"The induction head of the trained decoder, one token under the mouse. {BOOK}",
        text, LENGTHS, INDUCTION, hovering(0.8),
    ),
    Scene(
        "line", "Arcs above one line", f"The same head. {BOOK}",
        text, LENGTHS, {**INDUCTION, "arrangement": "line"}, hovering(0.8),
    ),
    Scene(
        "overlay", "Arcs of three heads", f"Three heads in colours of their own. {BOOK}",
        text, LENGTHS, {"heads": [(1, 0), (2, 0), (0, 1)]}, hovering(0.8),
    ),
    Scene("heatmap", "Heat map", f"The same head. {BOOK}", text, LENGTHS, {**INDUCTION, "view": "heatmap"}),
    Scene(
        "closer", "Heat map, closer", f"Zoomed in, the mouse on a cell. {BOOK}",
        text, (40, 400, 4000), {**INDUCTION, "view": "heatmap"}, closer,
    ),
    Scene(
        "cross", "Cross attention", f"A BART. {RANDOM}",
        subjects.pair, (4, 40, 400), {"part": "cross", "layer": 1, "head": 2, "view": "heatmap"},
    ),
    Scene(
        "graph", "Graph", f"Head 0 of every layer: what reaches a token. {BOOK}",
        text, LENGTHS, {**INDUCTION, "view": "graph", "query": 3}, None, 16_000_000,
    ),
    Scene(
        "text", "Text", "A real pretrained BERT.",
        subjects.encoder, (4, 40, 400), {"layer": 2, "head": 5, "view": "text"}, hovering(0.5),
    ),
    Scene(
        "image", "Image", "Patches of a drawn landscape that look at patches of like colour and place, made by hand.",
        subjects.image, LENGTHS, {"layer": 1, "head": 2, "view": "image"}, on_the_house,
    ),
    Scene(
        "steps", "Steps", "softmax(QKᵀ/√d)·V of the induction head, number by number.",
        subjects.decoder, (4, 40, 400), {**INDUCTION, "view": "steps"},
    ),
    Scene(
        "table", "Table", f"The strongest edges as numbers. {BOOK}",
        text, LENGTHS, {**INDUCTION, "view": "table"},
    ),
    Scene(
        "difference", "A − B", "The trained decoder less the same with one layer disturbed.",
        subjects.changed, (4, 40, 400), INDUCTION, hovering(0.8),
    ),
    Scene(
        "difference-map", "A − B as a heat map", "The same.",
        subjects.changed, (40, 400), {**INDUCTION, "view": "heatmap"},
    ),
    Scene("matrix", "80 × 64 heads", "Made by hand, 24 tokens.", subjects.wall, (24,), {"layer": 3, "head": 4}),
)  # fmt: skip
