"""A browser without something: slower or less, never blank.

Each is taken away before the page loads. Oracle: Python's own weights, where the numbers are to be there all the same.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from attnwidget.attention import Attention
from attnwidget.export import to_html
from screen import READY, fresh_page

# What lacks, and how to have it lack.
LACKING = {
    "DecompressionStream": "delete window.DecompressionStream",
    "Worker": "delete window.Worker",
    "WebAssembly": "delete window.WebAssembly",
    "clipboard": "Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })",
    "localStorage": "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no'); } })",
    "ResizeObserver": "delete window.ResizeObserver",
    "IntersectionObserver": "delete window.IntersectionObserver",
    "OffscreenCanvas": "delete window.OffscreenCanvas",
    "AbortSignal.any": "delete AbortSignal.any; delete AbortSignal.timeout",
    "structuredClone": "delete window.structuredClone",
    "requestIdleCallback": "delete window.requestIdleCallback",
    "CSSStyleSheet": "delete window.CSSStyleSheet; delete Document.prototype.adoptedStyleSheets",
    "fromBase64": "delete Uint8Array.fromBase64",
    "createImageBitmap": "delete window.createImageBitmap",
    "Path2D": "delete window.Path2D",
}


@pytest.fixture(scope="module")
def shown() -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 9, 8, generator=generator) * 2 for _ in range(2))
    return Attention.from_qk(q, k, [f"word{i}" for i in range(9)], causal=True)


@pytest.fixture(scope="module")
def exported(shown: Attention, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_html(shown, tmp_path_factory.mktemp("lacking") / "page.html", layer=1, head=2)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with fresh_page(chromium) as page:
        yield page
        assert not page.outside


@pytest.mark.parametrize("what", LACKING)
def test_a_page_is_alive_without_it(page: Page, shown: Attention, exported: Path, what: str) -> None:
    page.add_init_script(LACKING[what])
    page.goto(exported.as_uri())
    widget = page.locator(READY)
    widget.locator("[data-layer='0'][data-head='1']").click()
    expect(widget).to_have_attribute("data-selection", "attention/0/1")
    widget.locator("[data-query='7']").hover()
    row = shown[0, 1].row(7)
    best = int(row.argmax())
    expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
    for view in ("Heat map", "Graph", "Text", "Table"):
        widget.get_by_role("radio", name=view).click()
        expect(widget.locator(".attn-view")).not_to_be_empty()
        page.wait_for_function("() => document.querySelector('.attn-view').offsetHeight > 60")
    page.set_viewport_size({"width": 700, "height": 900})
    expect(widget).to_have_class("attnwidget attn-stacked")


def test_without_a_clipboard_code_is_selected_to_be_copied_by_hand(page: Page, exported: Path) -> None:
    page.add_init_script(LACKING["clipboard"])
    page.goto(exported.as_uri())
    widget = page.locator(READY)
    widget.get_by_role("button", name="Views, code and figures").click()
    widget.get_by_role("button", name="Copy code").click()
    expect(widget.get_by_text("copy it with the keyboard")).to_be_visible()
    assert page.evaluate("getSelection().toString()").startswith("AttentionWidget(attention, layer=1")


def test_without_color_mix_all_is_drawn_and_legible(page: Page, exported: Path, shots: Path) -> None:
    """Its declarations are dropped, as browsers do with what they do not know."""
    # The style sheet is packed: it is changed as it goes into the page.
    page.add_init_script(
        """const mixed = /[\\w-]+:[^;{}]*color-mix\\((?:[^()]|\\([^()]*\\))*\\)[^;}]*;?/g;
        new MutationObserver((changes) => {
            for (const { addedNodes } of changes) for (const node of addedNodes) {
                for (const style of node.querySelectorAll?.(".attnwidget > style") ?? []) {
                    const without = style.textContent.replaceAll(mixed, "");
                    if (without !== style.textContent) { style.textContent = without; window.without = true; }
                }
            }
        }).observe(document, { childList: true, subtree: true });"""
    )
    page.goto(exported.as_uri())
    widget = page.locator(READY)
    expect(widget.locator("[data-query='3']")).to_be_visible()
    assert page.evaluate("window.without")
    assert "color-mix" not in widget.locator("style").inner_text()
    widget.locator("[data-query='7']").click()
    page.screenshot(path=shots / "lacking-color-mix.png")


def test_where_nothing_unpacks_the_still_picture_stays_and_words_are_put_over_it(
    page: Page, shown: Attention, tmp_path: Path
) -> None:
    """Here it is the data that are cut short."""
    path = to_html(shown, tmp_path / "page.html", layer=1, head=2)
    text = path.read_text("utf-8")
    start = text.index('"bundle": "') + 11
    end = text.index('"', start)
    cut = text[: start + (end - start) // 8 * 4] + text[end:]
    path.write_text(cut, "utf-8")
    page.goto(path.as_uri())
    expect(page.get_by_role("alert")).to_contain_text("truncated")
    expect(page.locator("img[src^='data:image/png']")).to_be_visible()


def test_a_page_whose_rules_forbid_the_inner_script_says_so(page: Page, exported: Path, tmp_path: Path) -> None:
    """Here scripts are allowed by their hash: that which the page carries is, that which it unpacks is not."""
    import hashlib
    import re

    text = exported.read_text("utf-8")
    code = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1]
    allowed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    strict = text.replace("script-src 'unsafe-inline'", f"script-src 'sha256-{allowed}'")
    assert strict != text
    (tmp_path / "strict.html").write_text(strict, "utf-8")
    page.goto((tmp_path / "strict.html").as_uri())
    expect(page.get_by_text("content security policy")).to_be_visible()
    expect(page.locator(".attnwidget")).to_have_count(0)
