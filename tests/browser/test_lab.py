"""The main job, in a real JupyterLab with a real kernel: run the first notebook, click, hover, read back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from screen import READY

FIRST_LOOK = Path(__file__).parents[2] / "notebooks" / "01_first_look.ipynb"


@pytest.fixture
def first_look(notebook: Callable[..., Any]) -> Any:
    book = notebook(FIRST_LOOK)
    book.run_all()
    book.page.wait_for_selector(READY, timeout=90_000)
    return book


def root(book: Any) -> Locator:
    return book.page.locator(READY).first


def shown(row: list[float]) -> list[str]:
    """How the widget writes weights: two decimals, and what would read 0.00 as <0.01."""
    return [f"{p:.2f}" if p >= 0.005 else "<0.01" for p in row]


def test_the_first_notebook_runs_and_is_alive_in_both_directions(first_look: Any, shots: Path) -> None:
    page, widget = first_look.page, root(first_look)
    widget.scroll_into_view_if_needed()
    page.mouse.move(5, 5)
    widget.screenshot(path=shots / "lab-light.png")
    page.screenshot(path=shots / "lab-page-light.png")

    # A click on a head reaches Python.
    widget.locator("[data-layer='1'][data-head='0']").click()
    expect(widget).to_have_attribute("data-selection", "decoder/1/0")
    page.wait_for_timeout(300)
    assert first_look.ask("import json; print(json.dumps([widget.layer, widget.head]))") == [1, 0]

    # A trait set in Python reaches the picture.
    before = widget.screenshot()
    first_look.ask("widget.layer, widget.head = 0, None")
    expect(widget).to_have_attribute("data-selection", "decoder/0/*")
    page.wait_for_timeout(500)
    assert widget.screenshot() != before
    expect(widget).to_contain_text("mean of")

    # Views and scales, from either side.
    first_look.ask("widget.view = 'heatmap'; widget.scale = 'log'")
    expect(widget.get_by_role("grid", name="Weights, queries by keys")).to_be_visible()
    page.wait_for_timeout(500)
    widget.screenshot(path=shots / "lab-heatmap.png")
    widget.get_by_role("radio", name="Arcs").click()
    page.wait_for_timeout(300)
    assert first_look.ask("print(json.dumps(widget.view))") == "arcs"
    assert not page.outside


def test_hovering_a_token_shows_the_arcs_and_numbers_python_has(first_look: Any, shots: Path) -> None:
    page, widget = first_look.page, root(first_look)
    layer, head, query = first_look.ask(
        "import json, torch\n"
        "widget.pinned = []; widget.view = 'arcs'; widget.threshold = 0.9; widget.scale = 'sqrt'\n"
        "widget.layer, widget.head = 1, 0\n"
        "print(json.dumps([1, 0, len(widget.attention.tokens) - 2]))"
    )
    expect(widget).to_have_attribute("data-selection", f"decoder/{layer}/{head}")
    row = first_look.ask(f"print(json.dumps(widget.attention[{layer}, {head}].row({query}).tolist()))")
    page.wait_for_timeout(400)
    token = widget.locator(f"[data-query='{query}']")
    token.scroll_into_view_if_needed()
    canvas = widget.locator("canvas.attn-lines + canvas")
    still = ink(canvas)
    token.hover()
    page.wait_for_timeout(400)
    page.screenshot(
        path=shots / "lab-hover-light.png"
    )  # of the page: one of the widget would scroll, and so hover elsewhere

    expected = carrying(row, 0.9)
    for key in range(len(row)):
        text = widget.locator(f"[data-weight-for='{key}']")
        written = text.inner_text().strip() if text.count() and text.is_visible() else ""
        if key in expected:
            assert written == shown(row)[key], (key, row[key])
    # The arcs end where the weights say: accent ink beside the keys that carry the mass, none beside the others.
    inked = ink(canvas)
    assert inked != still
    ends = arcs_ending(widget, len(row))
    for key in range(query + 1):
        if row[key] > 0.02 and key in expected:
            assert key in ends, (key, row[key], ends)
    for key in ends:
        assert key in expected, (key, ends, expected)

    # Resting on it has told Python; clicking pins it, and Python knows.
    assert first_look.ask("print(json.dumps(widget.query))") == query
    token.click()
    widget.locator("[data-query='1']").click()
    page.wait_for_timeout(400)
    assert first_look.ask("print(json.dumps(sorted(widget.pinned)))") == [1, query]
    total = first_look.ask(
        f"m = widget.attention[{layer}, {head}]; print(json.dumps((m.row(1) + m.row({query})).tolist()))"
    )
    page.mouse.move(5, 5)
    page.wait_for_timeout(500)
    first = max(range(len(total)), key=total.__getitem__)
    expect(widget.locator(f"[data-weight-for='{first}']")).to_have_text(shown(total)[first])
    first_look.theme("Dark")
    widget.screenshot(path=shots / "lab-pinned-dark.png")
    page.screenshot(path=shots / "lab-page-dark.png")
    first_look.theme("Light")


def carrying(row: list[float], share: float) -> set[int]:
    """The fewest keys that carry ``share`` of the row."""
    chosen: set[int] = set()
    mass = 0.0
    for key in sorted(range(len(row)), key=lambda j: -row[j]):
        if mass >= share * sum(row) - 1e-9 or row[key] <= 0:
            break
        chosen.add(key)
        mass += row[key]
    return chosen


def ink(canvas: Locator) -> str:
    return canvas.evaluate("c => c.toDataURL()")


def arcs_ending(widget: Locator, keys: int) -> list[int]:
    """Keys with accent-coloured pixels on the canvas just left of their label: the ends of the arcs in focus."""
    return widget.evaluate(
        """(root, keys) => {
            const found = [];
            const canvas = [...root.querySelectorAll("canvas.attn-lines + canvas")];
            for (let key = 0; key < keys; key++) {
                const label = root.querySelector(`[data-key="${key}"]`);
                if (!label) continue;
                const box = label.getBoundingClientRect();
                for (const c of canvas) {
                    const area = c.getBoundingClientRect(), s = c.width / area.width;
                    const y = (box.top + box.height / 2 - area.top) * s;
                    // The arcs end at the canvas edge or at the label, whichever comes first.
                    const x = Math.min(c.width, (box.left - area.left) * s) - 10 * s;
                    const from = [Math.max(0, x), Math.max(0, y - 4 * s)];
                    const data = c.getContext("2d").getImageData(...from, 9 * s, 8 * s).data;
                    let accent = 0;
                    for (let p = 0; p < data.length; p += 4) {
                        // Accent orange: much more red than blue, and opaque enough to be an arc.
                        if (data[p + 3] > 40 && data[p] - data[p + 2] > 60) accent++;
                    }
                    if (accent >= 3) { found.push(key); break; }
                }
            }
            return found;
        }""",
        keys,
    )


def test_two_widgets_linked_in_python_move_together(notebook: Callable[..., Any]) -> None:
    book = notebook(
        [
            "from attnwidget import show\nfrom traitlets import link\n"
            "a = show('The cat saw the dog. The cat saw the dog.')\nb = show(a.attention)\n"
            "link((a, 'layer'), (b, 'layer')), link((a, 'head'), (b, 'head'))\na",
            "b",
        ]
    )
    book.run_all()
    book.page.wait_for_function("s => document.querySelectorAll(s).length === 2", arg=READY, timeout=90_000)
    one, two = (book.page.locator(READY).nth(i) for i in (0, 1))
    one.locator("[data-layer='1'][data-head='1']").click()
    expect(two).to_have_attribute("data-selection", "decoder/1/1")


def test_heads_outside_the_bundle_come_from_the_kernel_and_a_busy_kernel_freezes_nothing(
    notebook: Callable[..., Any], shots: Path
) -> None:
    book = notebook(
        [
            "from attnwidget import show\nw = show('The cat saw the dog. ' * 8, budget=1_000)\nw",
        ]
    )
    book.run_all()
    book.page.wait_for_selector(READY, timeout=90_000)
    widget = book.page.locator(READY).first
    widget.locator("[data-layer='1'][data-head='1']").click()
    expect(widget).to_contain_text("Layer 1 · head 1")
    # While the kernel stands still, what is there still answers, and what is asked for says that it waits.
    page, kernel = book.page, book.ask("import os; print(os.getpid())")
    os.kill(kernel, signal.SIGSTOP)
    try:
        widget.locator("[data-layer='0'][data-head='1']").click()
        expect(widget).to_contain_text("waiting for the kernel", timeout=4_000)
        widget.locator("[data-query='2']").hover()
        expect(widget).to_contain_text("routes", timeout=2_000)
        expect(widget).to_have_attribute("data-selection", "decoder/1/1")
        page.screenshot(path=shots / "lab-waiting.png")
    finally:
        os.kill(kernel, signal.SIGCONT)
    # Then the answer comes, and nothing says that it waits any more.
    expect(widget).to_have_attribute("data-selection", "decoder/0/1", timeout=15_000)
    expect(widget).to_contain_text("Layer 0 · head 1")
    expect(widget).not_to_contain_text("waiting for the kernel")
