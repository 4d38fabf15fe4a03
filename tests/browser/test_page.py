"""The exported page: one file, no kernel, no network, alive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

from attnwidget.attention import Attention
from attnwidget.export import to_html

READY = ".attnwidget[data-attn-ready=true]"
STRANGE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "שלום",
    "مرحبا",
    "👩‍👩‍👧",
    "\u202e",
    "\x00",
    "x" * 300,
]


def attention(
    layers: int = 2, heads: int = 3, n: int = 9, tokens: list[str] | None = None, **options: Any
) -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(layers, heads, n, 8, generator=generator) * 2 for _ in range(2))
    return Attention.from_qk(q, k, tokens or [f"word{i}" for i in range(n)], **options)


def opened(page: Page, path: Path) -> Any:
    page.goto(path.as_uri())
    page.wait_for_selector(READY, timeout=20_000)
    return page.locator(READY)


def test_the_page_is_alive_without_kernel_and_asks_nobody_for_anything(page: Page, tmp_path: Path, shots: Path) -> None:
    shown = attention(causal=True)
    widget = opened(page, to_html(shown, tmp_path / "page.html", layer=1, head=2))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for layer, head in ((0, 0), (1, 1)):
        widget.locator(f"[data-layer='{layer}'][data-head='{head}']").click()
        expect(widget).to_have_attribute("data-selection", f"attention/{layer}/{head}")
        widget.locator("[data-query='7']").hover()
        row = shown[layer, head].row(7)
        best = int(row.argmax())
        expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
    widget.locator("[data-layer='0'][data-head='*']").click()
    expect(widget).to_have_attribute("data-selection", "attention/0/*")
    widget.get_by_role("radio", name="Heat map").click()
    expect(widget.locator("canvas:visible").last).to_be_visible()
    page.wait_for_timeout(300)
    page.screenshot(path=shots / "page-heatmap.png")
    assert not requests
    assert not page.outside


def test_who_attends_to_a_key_is_shown_with_python_s_numbers(page: Page, tmp_path: Path) -> None:
    shown = attention(causal=True)
    widget = opened(page, to_html(shown, tmp_path / "page.html", layer=0, head=1))
    widget.locator("[data-key='2']").hover()
    column = shown[0, 1].column(2)
    best = int(column.argmax())
    expect(widget.locator(f"[data-weight-from='{best}']")).to_have_text(f"{float(column[best]):.2f}")


def test_tokens_are_shown_and_never_executed(page: Page, tmp_path: Path, shots: Path) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    shown = attention(n=len(STRANGE), tokens=STRANGE)
    widget = opened(
        page, to_html(shown, tmp_path / "page.html", title="</title><script>alert(2)</script>", layer=0, head=0)
    )
    expect(widget.locator("[data-query='0']")).to_contain_text("<script>")
    widget.locator("[data-query='1']").hover()
    page.wait_for_timeout(300)
    page.screenshot(path=shots / "page-strange-tokens.png")
    assert not alerts
    assert widget.locator("script, img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 640, 1400])
def test_nothing_is_cut_off_or_scrolls_sideways(
    page: Page, tmp_path: Path, shots: Path, width: int, scheme: Any
) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    widget = opened(page, to_html(attention(12, 12, 13, causal=True), tmp_path / "page.html", layer=5, head=7))
    expect(widget).to_have_attribute("data-theme", scheme)
    widget.locator("[data-query='8']").hover()
    page.wait_for_timeout(300)
    page.screenshot(path=shots / f"page-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    inside = widget.evaluate(
        """root => { const frame = root.getBoundingClientRect();
            return [...root.querySelectorAll("button, [data-query], [data-key], canvas")].every(one => {
                const box = one.getBoundingClientRect();
                return box.width === 0 || (box.left >= frame.left - 1 && box.right <= frame.right + 1); }); }"""
    )
    assert inside


def test_a_thousand_heads_fit_and_can_be_chosen_with_the_keyboard(page: Page, tmp_path: Path, shots: Path) -> None:
    page.set_viewport_size({"width": 900, "height": 900})
    shown = attention(32, 32, 16, causal=True)
    widget = opened(page, to_html(shown, tmp_path / "page.html", layer=3, head=4))
    page.screenshot(path=shots / "page-32x32.png", full_page=True)
    grid = widget.get_by_role("grid")
    grid.locator("[tabindex='0']").first.focus() if grid.locator("[tabindex='0']").count() else grid.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(widget).to_have_attribute("data-selection", "attention/4/5")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_weights_that_are_not_a_number_and_rows_that_leak_are_drawn_as_such(
    page: Page, tmp_path: Path, shots: Path
) -> None:
    leaking = attention(causal=True, sink=torch.full((3,), 2.0))
    widget = opened(page, to_html(leaking, tmp_path / "leak.html", layer=0, head=0))
    widget.locator("[data-query='4']").hover()
    left = 1 - float(leaking[0, 0].row(4).sum())
    expect(widget).to_contain_text(f"{left:.2f}")
    page.screenshot(path=shots / "page-leak.png")
    weights = torch.full((1, 1, 4, 4), 0.25)
    weights[0, 0, 2, 1] = torch.nan
    broken = Attention.from_weights(weights, ["a", "b", "c", "d"])
    widget = opened(page, to_html(broken, tmp_path / "nan.html", layer=0, head=0, view="heatmap"))
    expect(widget).to_contain_text("NaN")
    page.screenshot(path=shots / "page-nan.png")


def test_the_texts_of_a_batch_and_the_steps_of_a_generation_live_in_a_page(
    page: Page, tmp_path: Path, shots: Path
) -> None:
    """Oracle: the exact rows of Python's own attention of the other text."""
    from attnwidget import capture_generation, tiny

    model, tokenizer = tiny.decoder()
    tokenizer.pad_token = tokenizer.eos_token
    prompts = ["The cat saw the dog. The cat", "Once there was"]
    shown = capture_generation(model, prompts, tokenizer, max_new_tokens=6, do_sample=False)
    widget = opened(page, to_html(shown, tmp_path / "batch.html", layer=1, head=0))
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    widget.get_by_role("button", name="next text").focus()
    page.keyboard.press("Enter")
    widget = page.locator(READY)
    expect(widget).to_contain_text("2 of 2")
    assert page.evaluate("document.activeElement.ariaLabel") in ("next text", "previous text"), (
        "the keyboard stays there"
    )
    other = shown.select(1)
    at = other.tokens.labels.index("there")
    expect(widget.locator(f"[data-query='{at}']")).to_contain_text("there")
    row = other[1, 0].row(at)
    widget.locator(f"[data-query='{at}']").hover()
    best = int(row.argmax())
    expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
    page.mouse.move(5, 5)
    slider = widget.get_by_role("slider", name="Generated token")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(widget).to_contain_text(f"token {other.tokens.steps} of {other.tokens.steps}")
    page.keyboard.press("ArrowLeft")
    expect(widget).to_contain_text(f"token {other.tokens.steps - 1} of {other.tokens.steps}")
    page.wait_for_timeout(300)
    page.screenshot(path=shots / "page-generation.png")
    assert not requests


def test_the_steps_of_every_head_that_has_room_live_in_a_page(page: Page, tmp_path: Path) -> None:
    """Oracle: the exact row of Python's own attention."""
    from attnwidget import capture, tiny

    model, tokenizer = tiny.decoder()
    shown = capture(model, "The cat saw the dog.", tokenizer, keep_values=True)
    widget = opened(page, to_html(shown, tmp_path / "steps.html", layer=1, head=0, query=6, view="steps"))
    for layer, head in ((1, 0), (0, 1), (3, 2)):
        widget.locator(f"[data-layer='{layer}'][data-head='{head}']").click()
        expect(widget).to_have_attribute("data-selection", f"decoder/{layer}/{head}")
        most = float(shown[layer, head].row(6).max())
        expect(widget.locator(".attn-view")).to_contain_text(f"{most:.2f}")
        expect(widget.locator(".attn-view")).not_to_contain_text("not stored")
    assert not page.outside


# ── what follows from changes while the pointer rests ───────────────────────────────────────────────────────────────


def translator() -> Attention:
    """Three parts: the encoder has more heads than the others."""
    from transformers import BartConfig, BartModel

    from attnwidget import capture

    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=50, max_position_embeddings=32, d_model=32, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_layers=4, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=2,
    )  # fmt: skip
    model = BartModel(config).eval()
    return capture(model, {"input_ids": torch.arange(4, 12)[None], "decoder_input_ids": torch.arange(5, 11)[None]})


def test_the_heads_of_another_part_come_where_the_pointer_rests(page: Page, tmp_path: Path) -> None:
    """The pointer may rest on a head that the other part does not have."""
    shown = translator()
    widget = opened(page, to_html(shown, tmp_path / "page.html", part=shown.parts[0], layer=0, head=0))
    grid = widget.get_by_role("grid", name="Layers by heads")
    grid.locator("[data-layer='3'][data-head='3']").hover()
    framed = widget.locator(".attn-hovered")
    expect(framed).to_be_visible()
    size = widget.locator(".attn-sight").get_attribute("data-cell")
    widget.locator("[data-zoom='+']").evaluate("button => button.click()")
    now = widget.locator(".attn-sight").get_attribute("data-cell")
    assert now != size
    box = framed.bounding_box()
    assert box is not None
    assert abs(box["width"] - float(str(now))) <= 4
    widget.get_by_label("Part").get_by_role("radio").nth(1).evaluate("button => button.click()")
    page.wait_for_timeout(300)
    expect(widget.locator(".attn-caption")).not_to_contain_text("Layer 3")
    assert widget.locator(".attn-board canvas").first.evaluate(INK)


INK = """canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((byte) => byte > 0);
}"""


@pytest.mark.parametrize(("view", "width"), [("arcs", 900), ("graph", 480)])
def test_a_list_can_always_be_reached_with_the_tab_key(page: Page, tmp_path: Path, view: str, width: int) -> None:
    """Its tab stop stays where the token that was one is out of sight, or has no room."""
    page.set_viewport_size({"width": width, "height": 800})
    n = 300 if view == "arcs" else 38
    widget = opened(page, to_html(attention(1, 1, n, causal=True), tmp_path / "page.html", layer=0, head=0, view=view))
    stops = widget.locator(".attn-view [role=button][tabindex='0']")
    expect(stops).to_have_count(1)
    if view == "arcs":
        widget.locator(".attn-list").evaluate("list => { list.scrollTop = list.scrollHeight / 2; }")
        expect(widget.locator("[data-query='0']")).to_have_count(0)
    else:
        widget.locator("[data-query='0']").focus()
        for _ in range(7):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(200)
        assert page.evaluate("document.activeElement.dataset.query") == "7"
    expect(stops).to_have_count(1)


def test_pins_show_in_the_table(page: Page, tmp_path: Path) -> None:
    widget = opened(
        page, to_html(attention(causal=True), tmp_path / "page.html", layer=0, head=0, view="table", query=5)
    )
    rows = widget.locator("tbody tr")
    rows.nth(2).focus()
    page.keyboard.press("Enter")
    expect(rows.nth(2)).to_have_class("attn-pinned")
    assert rows.nth(2).evaluate("row => row === document.activeElement")


def test_the_graph_speaks_to_the_keyboard_and_not_of_what_the_pointer_passes(page: Page, tmp_path: Path) -> None:
    widget = opened(page, to_html(attention(causal=True), tmp_path / "page.html", layer=0, head=0, view="graph"))
    said = widget.locator(".attn-view [role=status]")
    widget.locator(".attn-top[data-query='7']").hover()
    expect(said).to_contain_text("Along all paths")
    expect(said).to_have_attribute("aria-live", "off")
    passed = said.inner_text()
    widget.locator(".attn-top[data-query='7']").focus()
    page.keyboard.press("ArrowLeft")
    expect(said).to_have_attribute("aria-live", "polite")
    expect(said).not_to_have_text(passed)  # the paths of another token are read before they are said
    changes = said.evaluate(
        """async (line) => {
            let changes = 0;
            new MutationObserver(() => changes++).observe(line, {childList: true, characterData: true, subtree: true});
            dispatchEvent(new Event("resize"));
            for (const each of document.querySelectorAll("input[type=range]")) each.dispatchEvent(new Event("input"));
            await new Promise((done) => setTimeout(done, 300));
            return changes;
        }"""
    )
    assert changes == 0


def test_the_graph_tries_again_what_could_not_be_read(page: Page, tmp_path: Path) -> None:
    """Here reading fails because the browser's own unpacking fails for a while."""
    widget = opened(page, to_html(attention(causal=True), tmp_path / "page.html", layer=0, head=0))
    page.evaluate(
        "() => { window.kept = DecompressionStream; DecompressionStream = class { constructor() { throw 0; } }; }"
    )
    widget.get_by_role("radio", name="Graph").click()
    expect(widget.locator(".attn-view [role=status]")).to_contain_text("truncated or damaged")
    page.evaluate("() => { window.DecompressionStream = window.kept; }")
    widget.locator(".attn-top[data-query='7']").hover()
    expect(widget.locator(".attn-view [role=status]")).to_contain_text("Along all paths")
    expect(widget.locator(".attn-view [role=status]")).not_to_contain_text("truncated or damaged")


def test_margins_have_no_numbers_of_what_is_out_of_sight(page: Page, tmp_path: Path) -> None:
    shown = attention(1, 1, 60, causal=True)
    widget = opened(page, to_html(shown, tmp_path / "page.html", layer=0, head=0, view="heatmap", pinned=[55]))
    number = widget.locator("[data-margin=entropy]")
    expect(number).to_have_class("attn-bar-value attn-shown")
    widget.locator(".attn-map").focus()
    page.keyboard.press("Escape")
    widget.locator(".attn-labels [data-query='55'], [data-query='55']").first.click()
    page.mouse.move(5, 5)
    for _ in range(3):
        widget.get_by_role("button", name="Zoom in").click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    window = widget.locator(".attn-map").get_attribute("data-window") or ""
    first, last = (int(end) for end in window.split(",")[0].split(":"))
    assert not first <= 55 < last, window
    expect(number).to_have_class("attn-bar-value")


def test_several_heads_that_are_joined_by_their_largest_claim_no_share(page: Page, tmp_path: Path) -> None:
    shown = attention(causal=True)
    path = to_html(shown, tmp_path / "page.html", layer=0, head=0, heads=[(0, 0), (1, 1)], reduce="max")
    widget = opened(page, path)
    widget.locator("[data-query='7']").hover()
    expect(widget.locator(".attn-sentence")).to_contain_text("at most")


def test_buttons_keep_the_keyboard_where_there_are_fewer_of_them(page: Page, tmp_path: Path) -> None:
    widget = opened(page, to_html(attention(causal=True), tmp_path / "page.html", layer=0, head=0, threshold=0.7))
    buttons = widget.get_by_role("radiogroup").filter(has=page.get_by_role("radio", name="70 %"))
    buttons.get_by_role("radio", name="70 %").focus()
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "radio"
    assert page.evaluate("document.activeElement.getAttribute('aria-checked')") == "true"
