"""What edges do to an output, in a real JupyterLab: on screen as in Python, and what is verified is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from test_access import CONTRAST, FAINT, LOOKS, violations
from test_views_lab import cell_of

from attnwidget import tiny, to_html, trace
from screen import READY, fresh_page
from servers import Server, open_notebook

TEXT = "The dog did not cross the street because it was too tired."
CELL = f"""
import json, torch
from attnwidget import AttentionWidget, tiny, trace
from attnwidget.intervene import effect
model, tokenizer = tiny.decoder()
t = trace(model, {TEXT!r}, tokenizer)
w = AttentionWidget(t, layer=1, head=0)
w
"""
LAST = 3  # the last layer


@pytest.fixture(scope="module")
def book(chromium: Browser, lab: Server) -> Iterator[Any]:
    with fresh_page(chromium) as page:
        book = open_notebook(page, lab, [CELL])
        book.run_all()
        page.wait_for_selector(READY, timeout=120_000)
        yield book
        assert not page.outside


def widget(book: Any, **traits: Any) -> Locator:
    """The widget, with some traits set from Python."""
    book.page.mouse.move(2, 2)
    book.page.evaluate("document.activeElement.blur()")  # no token is in focus
    every = {"pinned": [], "query": None, "effects": True, "layer": 1, "head": 0, "view": "arcs", **traits}
    book.ask("\n".join(f"w.{name} = {value!r}" for name, value in every.items()))
    found: Locator = book.page.locator(READY)
    found.scroll_into_view_if_needed()
    book.page.wait_for_timeout(600)
    return found


def effects(book: Any, layer: int, head: int) -> tuple[list[list[float]], float]:
    """[query, key] of the kernel, and how exactly they travel: half a step."""
    found = book.ask(f"e = t.effects({layer}, {head}).weights(); print(json.dumps([e.tolist(), float(e.abs().max())]))")
    return found[0], found[1] / 64000 * 1.001


def number(where: Locator, name: str) -> float:
    return float(str(where.get_attribute(name)))


def test_the_effect_of_an_edge_is_python_s(book: Any, shots: Path) -> None:
    w = widget(book, effects=False)
    words = book.ask("print(json.dumps(t.objective.words))")
    toggle = w.get_by_role("button", name="effect on")
    expect(toggle).to_have_attribute("aria-pressed", "false")
    assert w.locator("[data-effect]").count() == 0
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    w.get_by_text("raises").wait_for()
    assert book.ask("print(json.dumps(w.effects))") is True
    expected, half = effects(book, 1, 0)
    w.locator(".attn-view [data-query='9']").hover()
    book.page.wait_for_timeout(300)
    book.page.screenshot(path=shots / "truth-arcs.png")
    for key in range(10):
        shown = w.locator(f"[data-weight-for='{key}']")
        assert number(shown, "data-effect") == pytest.approx(expected[9][key], abs=half)
    assert w.locator("[data-weight-for='10'][data-effect]").count() == 0, "masked"
    # In words: what the strongest edge does.
    best = max(range(10), key=book.ask("print(json.dumps(w.map.row(9).tolist()))").__getitem__)
    does = f"which {'adds' if expected[9][best] > 0 else 'takes'} "
    expect(w.locator(".attn-sentence")).to_contain_text(does)
    expect(w.locator(".attn-sentence")).to_contain_text(f"{words} (first order)")
    # As who is looked at.
    w.locator(".attn-view [data-key='0']").hover()
    book.page.wait_for_timeout(300)
    assert number(w.locator("[data-weight-from='7']"), "data-effect") == pytest.approx(expected[7][0], abs=half)


def test_an_edge_that_reaches_nothing_is_grey_and_said(book: Any) -> None:
    w = widget(book, layer=LAST, head=1)
    w.locator(".attn-view [data-query='5']").hover()
    book.page.wait_for_timeout(300)
    expect(w.locator(".attn-sentence")).to_contain_text("cannot reach the logit of ")
    assert number(w.locator("[data-weight-for='1']"), "data-effect") == 0
    assert book.ask(f"print(json.dumps(bool(t.reaches()[{LAST}][1][5])))") is False
    # How far from grey its pixels are, over that of the query that is explained.
    colours = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let most = 0;
        for (let at = 0; at < data.length; at += 4) {
            const [r, g, b] = data.slice(at, at + 3);
            if (data[at + 3] > 60) most = Math.max(most, Math.max(r, g, b) - Math.min(r, g, b));
        }
        return most;
    }"""
    glow = w.locator(".attn-space > canvas").nth(1)
    assert glow.evaluate(colours) < 32
    last = book.ask("print(json.dumps(t.objective.position))")
    w.locator(f".attn-view [data-query='{last}']").hover()
    book.page.wait_for_timeout(300)
    assert glow.evaluate(colours) > 60
    expect(w.locator(".attn-sentence")).not_to_contain_text("cannot reach")


def test_the_heat_map_and_the_table_say_the_same(book: Any, shots: Path) -> None:
    expected, half = effects(book, 1, 0)
    w = widget(book, view="heatmap")
    book.page.mouse.move(*cell_of(w, 9, 2))
    card = w.locator(".attn-view .attn-card [data-effect]")
    card.wait_for()
    assert number(card, "data-effect") == pytest.approx(expected[9][2], abs=half)
    weight = book.ask("print(json.dumps(w.map.row(9)[2].item()))")
    assert number(w.locator(".attn-view .attn-card [data-weight]"), "data-weight") == pytest.approx(weight, abs=2e-3)
    book.page.screenshot(path=shots / "truth-heatmap.png")
    w = widget(book, view="table", pinned=[9])
    w.get_by_role("button", name="effect", exact=True).click()
    rows = w.locator("tbody tr")
    found = rows.evaluate_all("all => all.map(({ dataset }) => [dataset.key, dataset.effect].map(Number))")
    assert len(found) > 5
    assert [one for _, one in found] == sorted((one for _, one in found), reverse=True)
    for key, one in found:
        assert one == pytest.approx(expected[9][int(key)], abs=half)


def test_verify_by_keyboard_and_read_it_in_python(book: Any, shots: Path) -> None:
    """In the heat map an edge, by V; the same number in the kernel, which is that of a run without the edge."""
    page = book.page
    w = widget(book, view="heatmap")
    w.get_by_role("grid", name="Weights, queries by keys").focus()
    for key in ["ArrowDown", "ArrowUp", *["ArrowDown"] * 9, *["ArrowRight"] * 2]:
        page.keyboard.press(key)
    expect(w.get_by_role("button", name="verify “it” → “dog”")).to_be_visible()
    page.keyboard.press("v")
    verdict = w.locator(".attn-verdict")
    expect(verdict).to_have_attribute("role", "status")
    expect(verdict).to_contain_text("without it ")
    kept = book.ask("print(json.dumps(w.verified))")
    assert (kept["heads"], kept["query"], kept["key"]) == ([[1, 0]], 9, 2)
    assert number(verdict, "data-zero") == kept["zero"]
    exact = book.ask(
        "e = [effect(t, edges=[(1, 0, 9, 2)], renormalise=r) for r in (False, True)]\n"
        "print(json.dumps([e[0].delta, e[1].delta, e[0].p, e[0].rank]))"
    )
    assert [kept["zero"], kept["knock_out"], kept["p"], kept["rank"]] == exact
    expect(verdict).to_contain_text("(expected ")
    expect(verdict).to_contain_text("masked and renormalised: ")
    expect(verdict).to_contain_text(f"rank {kept['rank'][0]} → {kept['rank'][1]}")
    verdict.scroll_into_view_if_needed()
    page.screenshot(path=shots / "truth-verified.png")
    # The key is the widget's: to the notebook it would have meant to paste a cell.
    assert page.locator(".jp-Notebook .jp-Cell").count() == 1


def test_verify_a_row_a_column_and_the_whole_map(book: Any) -> None:
    for asked, name, question in (
        ({"pinned": [9]}, "verify what “it” gives", (9, None)),
        ({}, "verify the whole map", (None, None)),
        ({"heads": [(1, 0), (2, 1)]}, "verify the whole map", (None, None)),
    ):
        w = widget(book, **{"heads": [], **asked})
        w.get_by_role("button", name=name).click()
        expect(w.locator(".attn-verdict")).to_contain_text("without it")
        kept = book.ask("print(json.dumps(w.verified))")
        assert (kept["query"], kept["key"]) == question
        heads = [list(one) for one in asked.get("heads", [(1, 0)])]
        assert kept["heads"] == heads
        edges = [(*one, *question) for one in heads]
        assert kept["zero"] == book.ask(f"print(json.dumps(effect(t, edges={edges}).delta))")
    w = widget(book, heads=[])
    w.locator(".attn-view [data-key='2']").hover()
    w.get_by_role("button", name="verify what “dog” receives").click()
    expect(w.locator(".attn-verdict")).to_contain_text("“dog” receives: without it")
    kept = book.ask("print(json.dumps(w.verified))")
    assert (kept["query"], kept["key"]) == (None, 2)
    # Words are several tokens.
    w = widget(book, group="sentence", pinned=[9])
    w.get_by_role("button", name="verify what").click()
    expect(w.locator(".attn-verdict")).to_have_text("Edges between tokens are verified one by one: show tokens.")
    widget(book, group="token")


# ── a page without a kernel ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def opened(page: Page, tmp_path: Path) -> Callable[..., Locator]:
    model, tokenizer = tiny.decoder()
    run = trace(model, TEXT, tokenizer)

    def open_it(**traits: Any) -> Locator:
        path = to_html(run, tmp_path / "page.html", effects=True, **{"layer": 1, "head": 0, **traits})
        page.goto(path.as_uri())
        page.wait_for_selector(READY, timeout=20_000)
        page.wait_for_timeout(400)
        return page.locator(READY)

    return open_it


def test_a_page_has_what_it_opens_with_and_says_the_rest(page: Page, opened: Callable[..., Locator]) -> None:
    w = opened()
    expect(w.get_by_text("raises")).to_be_visible()
    w.get_by_role("button", name="verify").click()
    expect(w.locator(".attn-verdict")).to_have_text("Verifying runs the model: open the notebook.")
    w.locator("[data-layer='2'][data-head='0']").click()
    expect(w.locator(".attn-trouble")).to_contain_text("Effects of this head are not stored in this page")
    expect(w.locator(".attn-view [data-query='5']")).to_be_visible()  # its weights are
    assert w.locator("[data-effect]").count() == 0


@pytest.mark.parametrize("view", ["arcs", "heatmap", "table"])
def test_everybody_can_read_effects(
    page: Page, opened: Callable[..., Locator], axe: str, shots: Path, view: str
) -> None:
    """axe-core with all its rules, contrast and size of every text; wide and narrow, in all looks."""
    found = []
    for width in (1100, 480):
        page.set_viewport_size({"width": width, "height": 900})
        w = opened(view=view, pinned=[9])
        for name, look in LOOKS.items():
            page.emulate_media(**{"forced_colors": "none", **look})
            page.wait_for_timeout(300)
            found += [f"{name} {width}: {one}" for one in violations(page, axe)]
            if name != "forced":
                found += [f"{name} {width}: {one}" for one in w.evaluate(CONTRAST, FAINT)]
                page.screenshot(path=shots / f"truth-{view}-{width}-{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.emulate_media(forced_colors="none", color_scheme="light")
    assert not found, "\n".join(sorted(set(found)))
