"""One small lesson for every place where lessons are read, and what a reader does with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import expect

from attnwidget import capture, tiny

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from attnwidget import Attention

TEXT = "The cat saw the dog. The cat saw the"
CODE = [
    f"""\
from attnwidget import AttentionWidget, capture, tiny

model, tokenizer = tiny.decoder()
attention = capture(model, {TEXT!r}, tokenizer)
AttentionWidget(attention, layer=1, head=0)""",
    'AttentionWidget(attention, layer=0, head=2, view="heatmap")',
    """\
import torch
from attnwidget import Attention

Q, K = torch.randn(2, 8, 12, 128, 64)  # more than a notebook keeps
AttentionWidget(Attention.from_qk(Q, K, causal=True), layer=1, head=1)""",
]
PICTURES = len(CODE)


def write(path: Path) -> Path:
    """The lesson as a notebook, not run; each of its pictures is a slide."""
    import nbformat

    cells = [nbformat.v4.new_markdown_cell("# A lesson\n\nEach row of the softmax of $QK^T/\\sqrt d$ sums to one.")]
    cells += [nbformat.v4.new_code_cell(code) for code in CODE]
    for cell in cells:
        cell.metadata["slideshow"] = {"slide_type": "slide"}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def numbers() -> Attention:
    """What the first two pictures show, computed here."""
    model, tokenizer = tiny.decoder()
    return capture(model, TEXT, tokenizer)


def poke(widget: Locator, attention: Attention, query: int = 6) -> None:
    """Goes through two views and two heads, and reads off what each says of one token: the numbers that Python has."""
    widget.get_by_role("radio", name="Heat map").click()
    expect(widget.get_by_role("grid", name="Weights, queries by keys")).to_be_visible()
    widget.get_by_role("radio", name="Arcs").click()
    for layer, head in ((0, 1), (2, 3)):
        widget.locator(f"[data-layer='{layer}'][data-head='{head}']").click()
        expect(widget).to_have_attribute("data-selection", f"decoder/{layer}/{head}")
        row = attention[layer, head].row(query)
        best = int(row.argmax())
        token = widget.locator(f"[data-query='{query}']")
        token.scroll_into_view_if_needed()
        # A frame that was out of sight draws now, and what it draws moves from under the pointer.
        widget.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        token.hover()
        expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
