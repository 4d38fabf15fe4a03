"""What can be captured, as it looks in a real JupyterLab: three parts, an image, a batch, a hybrid, a generation."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from screen import READY

# Real models of transformers with random weights, small enough for a cell.
MODELS = """
import json, torch, transformers as t
from attnwidget import AttentionWidget, capture, show, show_generation, tiny
torch.manual_seed(0)
size = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4)
model, tokenizer = tiny.decoder()
def spread(model):
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.normal_(0, 0.35)
    return model
"""


@pytest.fixture
def shown(notebook: Callable[..., Any]) -> Callable[[str], tuple[Any, Locator]]:
    """Runs a cell in a fresh notebook: the notebook, and the widget it shows."""

    def run(cell: str) -> tuple[Any, Locator]:
        book = notebook([MODELS, cell])
        book.run_all()
        book.page.wait_for_selector(READY, timeout=120_000)
        widget = book.page.locator(READY).first
        widget.scroll_into_view_if_needed()
        return book, widget

    return run


def picture(book: Any, widget: Locator, path: Path) -> None:
    book.page.mouse.move(5, 5)
    book.page.wait_for_timeout(500)
    widget.screenshot(path=path)


def test_an_encoder_decoder_has_three_parts_to_choose_from(shown: Callable[..., Any], shots: Path) -> None:
    book, widget = shown(
        "config = t.BartConfig(vocab_size=len(tokenizer), d_model=32, encoder_layers=3, decoder_layers=3,\n"
        "    encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32)\n"
        "bart = spread(t.BartForConditionalGeneration(config))\n"
        "w = show('The cat saw the dog.', bart, tokenizer, target='The dog ran to the old house')\nw"
    )
    parts = widget.get_by_role("radiogroup", name="Part").get_by_role("radio")
    assert parts.all_inner_texts() == ["encoder", "decoder", "cross"]
    parts.nth(2).click()
    widget.locator("[data-layer='2'][data-head='1']").click()
    expect(widget).to_have_attribute("data-selection", "cross/2/1")
    row = book.ask("print(json.dumps(w.attention['cross', 2, 1].row(3).tolist()))")
    assert len(row) == book.ask("print(len(w.attention.part('cross').keys))")
    widget.locator("[data-query='3']").hover()
    strongest = max(range(len(row)), key=row.__getitem__)
    expect(widget.locator(f"[data-weight-for='{strongest}']")).to_have_text(f"{row[strongest]:.2f}")
    book.page.wait_for_timeout(400)
    book.page.screenshot(path=shots / "lab-cross.png")
    assert book.ask("print(json.dumps(w.part))") == "cross"
    assert not book.page.outside


def test_an_image_model_is_read_by_rows_and_columns(shown: Callable[..., Any], shots: Path) -> None:
    book, widget = shown(
        "vit = spread(t.ViTModel(t.ViTConfig(**size, image_size=(24, 40), patch_size=8)))\n"
        "w = AttentionWidget(capture(vit, {'pixel_values': torch.randn(1, 3, 24, 40)}), layer=1, head=2)\nw"
    )
    expect(widget.locator("[data-query='0']")).to_contain_text("[CLS]")
    expect(widget.locator("[data-query='6']")).to_contain_text("1,0")
    assert book.ask("print(json.dumps(w.attention.tokens.grid))") == [3, 5]
    picture(book, widget, shots / "lab-vision.png")


def test_a_batch_is_leafed_through_and_python_follows(shown: Callable[..., Any], shots: Path) -> None:
    book, widget = shown(
        "tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token\n"
        "texts = ['The cat saw the dog.', 'Once there was a small house. The small house', 'The bird sang']\n"
        "w = AttentionWidget(capture(model, texts, tokenizer), layer=1, head=0)\nw"
    )
    expect(widget).to_contain_text("1 of 3")
    picture(book, widget, shots / "lab-batch.png")
    widget.get_by_role("button", name="next text").click()
    widget = book.page.locator(READY).first
    expect(widget).to_contain_text("2 of 3")
    expect(widget.locator("[data-query='1']")).to_contain_text("Once")
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(w.sample))") == 1
    book.ask("w.sample = 2")
    expect(book.page.locator(READY).first).to_contain_text("3 of 3")
    expect(book.page.locator(READY).first.locator("[data-query='2']")).to_contain_text("bird")
    row = book.ask("print(json.dumps(w.map.row(2).tolist()))")
    widget = book.page.locator(READY).first
    widget.locator("[data-query='2']").hover()
    strongest = max(range(len(row)), key=row.__getitem__)
    expect(widget.locator(f"[data-weight-for='{strongest}']")).to_have_text(f"{row[strongest]:.2f}")
    picture(book, widget, shots / "lab-batch-padded.png")


def test_layers_without_attention_are_drawn_as_such(shown: Callable[..., Any], shots: Path) -> None:
    book, widget = shown(
        "config = t.JambaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=8,\n"
        "    num_attention_heads=4, num_key_value_heads=2, num_experts=2, mamba_d_state=4, mamba_dt_rank=4,\n"
        "    attn_layer_period=4, attn_layer_offset=2)\n"
        "w = show('The cat saw the dog.', spread(t.JambaForCausalLM(config)), tokenizer)\nw"
    )
    absent = widget.locator(".attn-absent")
    assert absent.count() >= 2
    assert "JambaMambaMixer" in str(absent.first.get_attribute("title"))
    widget.locator("[data-layer='6'][data-head='3']").click()
    expect(widget).to_have_attribute("data-selection", "decoder/6/3")
    picture(book, widget, shots / "lab-hybrid.png")


def test_a_generation_is_walked_through_step_by_step(shown: Callable[..., Any], shots: Path) -> None:
    book, widget = shown(
        "w = show_generation('The cat saw the dog. The cat', layer=1, head=0, max_new_tokens=8, do_sample=False)\nw"
    )
    page = book.page
    expect(widget).to_contain_text("generated token", timeout=30_000)
    assert page.locator(READY).count() == 1, "shown once, though it is also the value of the cell"
    widget = page.locator(READY).first
    steps, first = book.ask("axis = w.attention.tokens; print(json.dumps([axis.steps, axis.generated.index(True)]))")
    assert steps == 8
    scrubber = widget.get_by_role("slider", name="Generated token")
    scrubber.evaluate("(el) => { el.value = 2; el.dispatchEvent(new Event('input', {bubbles: true})); }")
    expect(widget).to_contain_text("token 3 of 8")
    page.wait_for_timeout(500)
    assert book.ask("print(json.dumps(w.step))") == 3
    label, row = book.ask(
        f"print(json.dumps([w.attention.tokens[{first + 2}], w.attention[1, 0].row({first + 1}).tolist()]))"
    )
    expect(widget).to_contain_text(f"“{label}”")
    strongest = max(range(len(row)), key=row.__getitem__)
    expect(widget.locator(f"[data-weight-for='{strongest}']")).to_have_text(f"{row[strongest]:.2f}")
    page.mouse.move(5, 5)
    page.wait_for_timeout(400)
    widget.screenshot(path=shots / "lab-generation-step.png")
    book.ask("w.step = None")
    expect(widget).to_contain_text("all 8 generated tokens")
    widget.get_by_role("button", name="Play generation").click()
    expect(widget).to_contain_text(re.compile("token [1-7] of 8"), timeout=5_000)
    expect(widget).to_contain_text("all 8 generated tokens", timeout=15_000)
    book.theme("Dark")
    widget.screenshot(path=shots / "lab-generation-dark.png")
    book.theme("Light")


def test_tokens_come_while_the_cell_is_running(notebook: Callable[..., Any]) -> None:
    """A slow model: each forward sleeps, so that the picture must have grown before the cell is done."""
    book = notebook(
        [
            MODELS + "show('The cat saw')",
            "import time\nmodel.register_forward_pre_hook(lambda *_: time.sleep(0.7))\n"
            "lengths = []\n"
            "w = show_generation('The cat saw', model, tokenizer, max_new_tokens=24, do_sample=False)\n"
            "done = time.time()",
        ]
    )
    book.run_next()
    page = book.page
    page.wait_for_selector(READY, timeout=120_000)
    book.run_next()
    counts = []
    for _ in range(60):
        second = page.locator(".attnwidget").nth(1)
        counts.append(second.locator("[data-query]").count())
        if counts[-1] >= 27:
            break
        page.wait_for_timeout(500)
    assert len({n for n in counts if n}) >= 3, f"tokens should have come one after the other: {counts}"
