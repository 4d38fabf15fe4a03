"""Each view in a real JupyterLab with a real kernel: its numbers against Python's own, and traits both ways."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, expect
from test_lab import carrying, shown

from screen import READY, fresh_page
from servers import Server, open_notebook

MODELS = """
import json, torch
from attnwidget import AttentionWidget, capture, show, tiny
from attnwidget.compare import compare
torch.manual_seed(0)
model, tokenizer = tiny.decoder()
text = "The dog did not cross the street because it was too tired. Anna gave the book to Tom."
w = show(text, model, tokenizer, layer=1, head=0)
w
"""
IMAGE = """
from transformers import ViTConfig, ViTModel
vit = ViTModel(ViTConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=4,
                         image_size=(48, 80), patch_size=16)).eval()
with torch.no_grad():
    for p in vit.parameters():
        if p.dim() >= 2:
            p.normal_(0, 0.35)
ramp = torch.linspace(0, 1, 80).expand(3, 48, 80).clone()
ramp[0, 10:30] = 0.9
v = AttentionWidget(capture(vit, {"pixel_values": ramp[None]}), layer=1, head=2, view="image")
v
"""
COMPARED = """
with torch.no_grad():
    model.model.layers[1].self_attn.q_proj.weight[:16] *= 0.2
two = capture(model, text, tokenizer)
c = AttentionWidget(compare(w.attention, two, names=("trained", "dulled")), layer=1, head=0)
c
"""


@pytest.fixture(scope="module")
def book(chromium: Browser, lab: Server) -> Iterator[Any]:
    """One notebook for all of them: three widgets, one kernel."""
    with fresh_page(chromium) as page:
        book = open_notebook(page, lab, [MODELS, IMAGE, COMPARED])
        book.run_all()
        page.wait_for_function("s => document.querySelectorAll(s).length === 3", arg=READY, timeout=120_000)
        yield book
        assert not page.outside


def widget(book: Any, at: int = 0, **traits: Any) -> Locator:
    """One of the three, with some traits set from Python."""
    name = "wvc"[at]
    resting = {
        "pinned": [],
        "query": None,
        "heads": [],
        "group": "token",
        "arrangement": "columns",
        "threshold": 0.9,
        "scale": "sqrt",
    }
    book.page.mouse.move(2, 2)
    book.ask(
        "\n".join(f"{name}.{trait} = {value!r}" for trait, value in {**(resting if at == 0 else {}), **traits}.items())
    )
    found = book.page.locator(READY).nth(at)
    found.scroll_into_view_if_needed()
    book.page.wait_for_timeout(300)
    return found


def row(book: Any, what: str) -> list[float]:
    """Numbers of the kernel."""
    return book.ask(f"print(json.dumps(torch.as_tensor({what}).tolist()))")


def numbers(where: Locator, name: str, value: str) -> dict[int, float]:
    """{data-name: data-value} of what is on screen, as the page holds it."""
    return {
        int(key): float(number)
        for key, number in where.evaluate_all(
            """(all, [name, value]) => all.filter((el) => el.dataset[value] !== undefined)
                .map((el) => [el.dataset[name], el.dataset[value]])""",
            [name, value],
        )
    }


def close(found: dict[int, float], expected: list[float], within: float = 2e-3) -> None:
    """Every number that is written is Python's."""
    assert found
    for at, number in found.items():
        assert number == pytest.approx(expected[at], abs=within), at


# ── arcs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arrangement", ["columns", "line"])
def test_arcs_in_both_arrangements(book: Any, shots: Path, arrangement: str) -> None:
    w = widget(book, view="arcs", arrangement=arrangement, layer=1, head=0)
    expected = row(book, "w.attention[1, 0].row(9)")
    w.locator(".attn-view [data-query='9']").hover()
    book.page.wait_for_timeout(300)
    book.page.screenshot(path=shots / f"views-arcs-{arrangement}.png")
    for key in carrying(expected, 0.9):
        expect(w.locator(f"[data-weight-for='{key}']")).to_have_text(shown(expected)[key])
    # And who looks at it.
    if arrangement == "columns":
        w.locator(".attn-view [data-key='2']").hover()
        received = row(book, "w.attention[1, 0].column(2)")
        best = max(range(len(received)), key=received.__getitem__)
        expect(w.locator(f"[data-weight-from='{best}']")).to_have_text(shown(received)[best])


def test_arcs_of_several_heads(book: Any, shots: Path) -> None:
    """Brushed in the matrix: Python hears of it; each has its own numbers, and their mean is one click away."""
    w = widget(book, view="arcs", layer=1, head=0)
    w.locator("[data-layer='1'][data-head='0']").click()
    w.locator("[data-layer='2'][data-head='0']").click(modifiers=["Shift"])
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(w.heads))") == [[1, 0], [2, 0]]
    w.locator(".attn-view [data-query='9']").hover()
    book.page.wait_for_timeout(300)
    book.page.screenshot(path=shots / "views-arcs-overlay.png")
    for layer in (1, 2):
        expected = row(book, f"w.attention[{layer}, 0].row(9)")
        best = max(range(len(expected)), key=expected.__getitem__)
        expect(w.locator(f"[data-weight-for='{best}'] [data-of='{layer}/0']")).to_contain_text(shown(expected)[best])
    joined = row(book, "(w.attention[1, 0].row(9) + w.attention[2, 0].row(9)) / 2")
    assert row(book, "w.map.row(9)") == pytest.approx(joined, abs=1e-6)
    w.get_by_role("radio", name="their mean").click()
    w.locator(".attn-view [data-query='9']").hover()
    best = max(range(len(joined)), key=joined.__getitem__)
    expect(w.locator(f"[data-weight-for='{best}']")).to_have_text(shown(joined)[best])
    assert book.ask("print(json.dumps(w.overlay))") is False
    widget(book, overlay=True)


def test_words_stand_as_one(book: Any) -> None:
    w = widget(book, view="arcs", layer=1, head=0)
    w.get_by_role("radio", name="words").click()
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(w.group))") == "word"
    grouped = book.ask("g = w.attention[1, 0].grouped('word'); print(json.dumps([list(g.shape), g.row(7).tolist()]))")
    assert w.locator(".attn-view [data-query]").count() == grouped[0][0]
    w.locator(".attn-view [data-query='7']").hover()
    for key in carrying(grouped[1], 0.9):
        expect(w.locator(f"[data-weight-for='{key}']")).to_have_text(shown(grouped[1])[key])


# ── heat map ────────────────────────────────────────────────────────────────────────────────────────────────────────


def cell_of(w: Locator, query: int, key: int) -> tuple[float, float]:
    """Where the cell of the heat map is, as its window says."""
    grid = w.get_by_role("grid", name="Weights, queries by keys")
    window = grid.get_attribute("data-window")
    assert window is not None
    (r0, r1), (c0, c1) = ([int(one) for one in part.split(":")] for part in window.split(","))
    box = grid.bounding_box()
    assert box is not None
    return (
        box["x"] + (key + 0.5 - c0) / (c1 - c0) * box["width"],
        box["y"] + (query + 0.5 - r0) / (r1 - r0) * box["height"],
    )


def test_heat_map_whole_and_close(book: Any, shots: Path) -> None:
    w = widget(book, view="heatmap", layer=1, head=0)
    page = book.page
    grid = w.get_by_role("grid", name="Weights, queries by keys")
    grid.scroll_into_view_if_needed()
    expected = row(book, "w.attention[1, 0].weights()")
    for query, key in ((9, 2), (12, 6), (15, 0)):
        page.mouse.move(*cell_of(w, query, key))
        holds(w.locator(".attn-view .attn-card [data-weight]"), "data-weight", expected[query][key])
    # The margins: what the key receives on average, how spread out the query is.
    page.mouse.move(*cell_of(w, 9, 2))
    received, entropy = w.locator("[data-margin=received]"), w.locator("[data-margin=entropy]")
    expect(entropy).to_have_attribute("data-token", "9")
    spread = row(book, "torch.special.entr(w.attention[1, 0].row(9)).sum()")
    assert float(str(entropy.get_attribute("data-value"))) == pytest.approx(spread, abs=5e-3)
    assert float(str(received.get_attribute("data-value"))) == pytest.approx(_mean_received(expected, 2), abs=2e-3)
    # Closer, where the mouse is.
    x, y = cell_of(w, 9, 2)
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    page.wait_for_timeout(500)
    assert grid.get_attribute("data-window") != f"0:{len(expected)},0:{len(expected)}"
    page.mouse.move(*cell_of(w, 9, 2))
    holds(w.locator(".attn-view .attn-card [data-weight]"), "data-weight", expected[9][2])
    page.screenshot(path=shots / "views-heatmap-close.png")
    # Keys that take most of everything, left aside.
    w.get_by_role("button", name="Leave the keys that take most").click()
    page.wait_for_timeout(300)
    assert book.ask("print(json.dumps(w.sinks))") is False
    share = w.locator("[data-share]").first
    assert float(str(share.get_attribute("data-share"))) == pytest.approx(_mean_received(expected, 0), abs=2e-3)
    widget(book, sinks=True)


def holds(where: Locator, name: str, number: float) -> None:
    """An attribute becomes that number."""
    end = time.monotonic() + 5
    found = math.nan
    while abs(found - number) > 2e-3 or math.isnan(found):
        assert time.monotonic() < end, f"{name} is {found} and not {number}"
        where.page.wait_for_timeout(50)
        found = float((where.get_attribute(name) if where.count() else None) or "nan")


def _mean_received(weights: list[list[float]], key: int) -> float:
    """Over the queries that can see it."""
    seen = [line[key] for query, line in enumerate(weights) if query >= key]
    return sum(seen) / len(seen)


# ── graph, text, table ──────────────────────────────────────────────────────────────────────────────────────────────


def test_graph_adds_up_all_paths(book: Any, shots: Path) -> None:
    """With every edge followed, what comes to the inputs is the product of the layers' matrices."""
    w = widget(book, view="graph", threshold=1.0, layer=1, head=0)
    least = w.get_by_role("slider", name="Smallest weight of an edge")
    least.fill("0")
    w.locator(".attn-view [data-query='9']").click()
    book.page.wait_for_timeout(500)
    book.page.screenshot(path=shots / "views-graph.png")
    product = row(book, "torch.linalg.multi_dot([w.attention[layer, 0].weights() for layer in (3, 2, 1, 0)])[9]")
    reached = numbers(w.locator(".attn-view [role=listitem][data-key]"), "key", "weight")
    close(reached, product, 4e-3)
    assert max(reached, key=reached.__getitem__) == max(range(len(product)), key=product.__getitem__)
    # The strongest path: its weights are the maps', its product is theirs.
    path = w.locator(".attn-path li[data-layer]").evaluate_all(
        "all => all.map(({dataset: d}) => [+d.layer, +d.query, +d.key, +d.weight])"
    )
    total = 1.0
    for layer, query, key, weight in path:
        exact = row(book, f"w.attention[{layer}, 0].row({query})[{key}]")
        assert weight == pytest.approx(exact, abs=2e-3)
        total *= exact
    assert [one[0] for one in path] == [3, 2, 1, 0]
    assert float(str(w.locator("[data-product]").get_attribute("data-product"))) == pytest.approx(total, abs=4e-3)


def test_text_is_tinted_by_what_python_says(book: Any, shots: Path) -> None:
    w = widget(book, view="text", layer=1, head=0)
    token = w.locator(".attn-view [data-query='9']").first
    token.hover()
    book.page.wait_for_timeout(300)
    book.page.screenshot(path=shots / "views-text.png")
    close(numbers(w.locator(".attn-prose [data-key]"), "key", "weight"), row(book, "w.attention[1, 0].row(9)"))
    w.locator(".attn-view").get_by_role("radio", name="receives").click()
    book.page.wait_for_timeout(200)
    assert book.ask("print(json.dumps(w.direction))") == "receives"
    w.locator(".attn-view [data-query='2']").first.hover()
    book.page.wait_for_timeout(300)
    close(numbers(w.locator(".attn-prose [data-key]"), "key", "weight"), row(book, "w.attention[1, 0].column(2)"))
    widget(book, direction="attends")
    # A click pins, and Python knows; and the other way.
    w.locator(".attn-view [data-query='5']").first.click()
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(w.pinned))") == [5]
    book.ask("w.pinned = [3]")
    expect(w.locator(".attn-view [data-query='3']").first).to_have_class(re.compile("attn-on"))
    book.page.mouse.move(2, 2)
    expect(w).to_contain_text("“did” routes")


def test_table_lists_the_strongest_edges(book: Any, shots: Path) -> None:
    w = widget(book, view="table", layer=1, head=0)
    expected = row(book, "w.attention[1, 0].weights()")
    lines = w.locator("tr[data-query]").evaluate_all("all => all.map(({dataset: d}) => [+d.query, +d.key, +d.weight])")
    book.page.screenshot(path=shots / "views-table.png")
    assert len(lines) > 40
    for query, key, weight in lines:
        assert weight == pytest.approx(expected[query][key], abs=2e-3)
    assert [line[2] for line in lines] == sorted((line[2] for line in lines), reverse=True)
    w.get_by_role("button", name="query", exact=True).click()
    again = w.locator("tr[data-query]").evaluate_all("all => all.map(({dataset: d}) => +d.query)")
    assert again == sorted(again)
    # Its own words for a spreadsheet.
    w.get_by_role("button", name="Copy as CSV").click()
    csv = w.get_by_role("textbox", name="comma-separated").or_(w.locator("textarea.attn-csv")).first
    if csv.is_visible():
        first = csv.input_value().splitlines()[1].split(",")
        assert float(first[-1] if first[-1].replace(".", "").isdigit() else first[4]) >= 0


# ── steps ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TORCH = """
def steps(query, scale=True, mask=True, temperature=1.0, uniform=False):
    layer = w.attention.part().layers[1]
    q, k = layer.q[0, 0, query].double(), layer.k[0, 0 // (layer.heads // layer.kv_heads)].double()
    dot = k @ q
    score = dot * (layer.scale if scale else 1.0) / temperature
    seen = torch.arange(len(k)) <= (query if mask else len(k))
    p = torch.where(seen, score, -torch.inf).softmax(-1)
    if uniform:
        p = seen.double() / seen.sum()
    return dot.tolist(), score.tolist(), p.tolist()
"""


def test_steps_compute_what_torch_computes(book: Any, shots: Path) -> None:
    """Every key's score and weight, as the model has it and with each step switched off."""
    w = widget(
        book,
        view="steps",
        layer=1,
        head=0,
        query=9,
        switches={"scale": True, "mask": True, "positions": True, "uniform": False, "temperature": 1.0},
    )
    book.ask(TORCH)
    lines = w.locator(".attn-key-line[data-key]")
    expect(lines.first).to_be_visible(timeout=20_000)
    for clicks, options in (
        ([], ""),
        (["scale"], "scale=False"),
        (["scale", "mask"], "mask=False"),
        (["mask", "uniform"], "uniform=True"),
        (["uniform"], ""),
    ):
        for name in clicks:
            w.locator(f"[data-switch='{name}']").click()
        book.page.wait_for_timeout(300)
        dot, score, p = book.ask(f"print(json.dumps(steps(9, {options})))")
        close(numbers(lines, "key", "dot"), dot, 2e-3 * max(1.0, max(map(abs, dot))))
        close(numbers(lines, "key", "weight"), p)
        there = numbers(lines, "key", "score")
        close({key: value for key, value in there.items() if p[key] > 0}, score, 2e-3 * max(1.0, max(map(abs, score))))
    book.page.screenshot(path=shots / "views-steps.png", full_page=True)
    # Python sets a switch, and the picture follows.
    book.ask("w.switches = {**w.switches, 'temperature': 3.0}")
    book.page.wait_for_timeout(300)
    close(numbers(lines, "key", "weight"), book.ask("print(json.dumps(steps(9, temperature=3.0)))")[2])
    w.locator("[data-reset]").click()
    book.page.wait_for_timeout(300)
    assert book.ask("print(json.dumps(w.switches))") == {
        "scale": True,
        "mask": True,
        "positions": True,
        "uniform": False,
        "temperature": 1.0,
    }


# ── image ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_image_shows_patches_over_the_picture(book: Any, shots: Path) -> None:
    v = widget(book, 1, layer=1, head=2, view="image")
    canvas = v.locator(".attn-canvas canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    # Patch (1, 3) of 3 × 5; the class token stands in front.
    token = 1 + 1 * 5 + 3
    book.page.mouse.move(box["x"] + 3.5 / 5 * box["width"], box["y"] + 1.5 / 3 * box["height"])
    book.page.wait_for_timeout(500)
    book.page.screenshot(path=shots / "views-image.png")
    expected = row(book, f"v.attention[1, 2].row({token})")
    marked = numbers(v.locator(".attn-canvas [data-key][data-weight]"), "key", "weight")
    close(marked, expected)
    patches = sorted(range(1, 16), key=lambda at: -expected[at])
    assert patches[0] in marked
    assert book.ask("print(json.dumps(v.query))") == token


# ── comparison, matrix, named views ─────────────────────────────────────────────────────────────────────────────────


def test_a_difference_is_shown_with_its_sign(book: Any, shots: Path) -> None:
    c = widget(book, 2, view="arcs", layer=1, head=0)
    expected = row(book, "w.attention[1, 0].row(9) - two[1, 0].row(9)")
    c.locator(".attn-view [data-query='9']").hover()
    book.page.wait_for_timeout(400)
    book.page.screenshot(path=shots / "views-difference.png")
    best = max(range(len(expected)), key=lambda key: abs(expected[key]))
    sign = "+" if expected[best] > 0 else "−"
    expect(c.locator(f"[data-weight-for='{best}']")).to_have_text(f"{sign}{abs(expected[best]):.2f}")
    assert row(book, "c.map.row(9)") == pytest.approx(expected, abs=1e-6)
    # One side alone, from the browser; the other, from Python.
    c.get_by_role("radiogroup", name="Side").get_by_role("radio").nth(1).click()
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(c.side))") == "b"
    theirs = row(book, "two[1, 0].row(9)")
    c.locator(".attn-view [data-query='9']").hover()
    best = max(range(len(theirs)), key=theirs.__getitem__)
    expect(c.locator(f"[data-weight-for='{best}']")).to_have_text(shown(theirs)[best])
    widget(book, 2, side="difference")
    expect(c).to_contain_text("A − B")


def test_heads_are_sorted_and_dimmed_by_a_measure(book: Any) -> None:
    w = widget(book, view="arcs", layer=None, head=None)
    measures = book.ask(
        "from attnwidget.measures import statistics\n"
        "print(json.dumps({name: values.tolist() for name, values in statistics(w.attention).items()}))"
    )
    select = w.get_by_role("combobox", name="Sort heads by")
    names = [one for one in select.locator("option").evaluate_all("all => all.map((one) => one.value)") if one]
    assert names
    select.select_option(names[0])
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps(w.sort))") == names[0]
    shown_values = w.locator("[data-layer][data-head][data-value]").evaluate_all(
        """all => all.filter(({dataset: d}) => d.layer !== "*" && d.head !== "*")
            .map(({dataset: d}) => [+d.layer, +d.head, +d.value])"""
    )
    assert len(shown_values) == 16
    for layer, head, value in shown_values:
        assert value == pytest.approx(measures[names[0]][layer][head], rel=1e-3, abs=1e-3)
    book.ask("w.sort = ''")
    book.page.wait_for_timeout(300)
    expect(select).to_have_value("")


def test_a_view_with_a_name_comes_back(book: Any) -> None:
    w = widget(book, view="arcs", layer=1, head=0)
    w.get_by_role("button", name="Views, code and figures").click()
    w.get_by_role("textbox", name="Name for this view").click()
    book.page.keyboard.type("induction")  # JupyterLab has shortcuts of its own for letters
    book.page.keyboard.press("Enter")
    book.page.wait_for_timeout(400)
    saved = book.ask("print(json.dumps(w.views))")
    assert saved["induction"]["layer"] == 1
    assert saved["induction"]["head"] == 0
    code = w.get_by_role("textbox", name="Code of this view").input_value()
    w.get_by_role("button", name="Views, code and figures").click()
    widget(book, view="heatmap", layer=2, head=3)
    w.get_by_role("button", name="Views, code and figures").click()
    w.locator("[data-view='induction']").click()
    expect(w).to_have_attribute("data-selection", "decoder/1/0")
    book.page.wait_for_timeout(400)
    assert book.ask("print(json.dumps([w.layer, w.head, w.view]))") == [1, 0, "arcs"]
    w.locator("[data-forget='induction']").click()
    book.page.wait_for_timeout(300)
    assert book.ask("print(json.dumps(w.views))") == {}
    book.page.keyboard.press("Escape")
    # The code makes the same widget again.
    assert book.ask(
        f"attention = w.attention\nagain = {code.strip()}\nprint(json.dumps([again.layer, again.head, again.view]))"
    ) == [1, 0, "arcs"]


def test_axe_finds_nothing_in_lab(book: Any, axe: str) -> None:
    """Of the widgets: what JupyterLab does around them is its own."""
    from test_access import violations

    for theme in ("Light", "Dark"):
        book.theme(theme)
        for at in range(3):
            widget(book, at)
        found = violations(book.page, axe, READY)
        assert not found, (theme, found)
    book.theme("Light")
