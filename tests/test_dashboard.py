"""Charts of heads: their numbers are those of the measures, and what is selected in one place is selected in all.

The browser is a stand-in: what it would report is written to the traits it writes to. The real one is in
browser/test_dashboard_lab.py.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import bqplot as bq
import ipywidgets
import numpy as np
import pytest
import torch
from traitlets import TraitError

from attnwidget import tiny
from attnwidget.attention import Attention
from attnwidget.capture import capture
from attnwidget.charts import Lines, _round, deletion, removal
from attnwidget.colours import ABSENT, PALETTES, SHADES, STEPS, STYLE, shade
from attnwidget.compare import compare
from attnwidget.dashboard import Dashboard
from attnwidget.layers import Layer, Part
from attnwidget.measured import MEASURES
from attnwidget.measures import spectrum, statistics
from attnwidget.pruning import Pruning
from attnwidget.tokens import Tokens
from attnwidget.trace import trace
from attnwidget.widget import AttentionWidget

TEXT = "The dog saw the cat. The dog saw the bird."


@pytest.fixture(autouse=True)
def _front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")


@pytest.fixture(scope="module")
def attention() -> Attention:
    model, tokenizer = tiny.decoder()
    return capture(model, TEXT, tokenizer)


@pytest.fixture
def dashboard(attention: Attention) -> Dashboard:
    return Dashboard(attention, x="previous", y="first", measure="entropy")


def points(dashboard: Dashboard) -> dict[tuple[int, int], tuple[float, float]]:
    scatter = dashboard._scatter
    return dict(zip(dashboard._points, zip(scatter.x.tolist(), scatter.y.tolist(), strict=True), strict=True))


def click(dashboard: Dashboard, *heads: tuple[int, int]) -> None:
    """What the browser does where points are clicked: Ctrl adds one to those there are."""
    dashboard._scatter.selected = np.array([dashboard._points.index(head) for head in heads], np.uint32)


def brush(dashboard: Dashboard, heads: list[tuple[int, int]]) -> None:
    """What the browser does where a rectangle is drawn around points: it moves, then it stands."""
    xs, ys = zip(*(points(dashboard)[head] for head in heads), strict=True)
    brushing = dashboard._brushing
    brushing.brushing = True
    brushing.selected_x, brushing.selected_y = np.array([min(xs), max(xs)]), np.array([-9.0, -8.0])
    with brushing.hold_trait_notifications():
        brushing.selected_y, brushing.brushing = np.array([min(ys), max(ys)]), False


# ── what is drawn ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_chart_has_the_numbers_of_the_measures(dashboard: Dashboard, attention: Attention) -> None:
    """Oracle: statistics() and spectrum(), which have tests of their own; the shade of a cell by its definition."""
    found = statistics(attention, names=list(MEASURES))
    for name, values in dashboard.numbers.items():
        assert torch.allclose(values, found[name], atol=1e-6, equal_nan=True)
    assert set(found) - set(dashboard.numbers) == {name for name in found if found[name].isnan().all()}
    for (layer, head), (x, y) in points(dashboard).items():
        assert (x, y) == pytest.approx((float(found["previous"][layer, head]), float(found["first"][layer, head])))
    entropy = found["entropy"]
    assert dashboard._bars.y == pytest.approx(entropy.mean(1).numpy())
    share = (entropy - entropy.min()) / (entropy.max() - entropy.min())
    assert dashboard._grid.cells.color.tolist() == (share * STEPS).round().int().tolist()
    offset, values = spectrum(attention)
    (line,) = dashboard._lines.figure.marks
    assert line.x.tolist() == offset.tolist()
    assert line.y == pytest.approx(values.flatten(0, 1).mean(0).numpy(), abs=1e-6)
    weights = attention.map().weights()
    shades = (weights.sqrt() * STEPS).round().int()
    unseen = torch.ones_like(shades, dtype=torch.bool).triu(1)
    assert dashboard._mean.cells.color.tolist() == shades.masked_fill(unseen, ABSENT).tolist()


def test_another_measure_from_either_side(dashboard: Dashboard) -> None:
    dashboard.x = "distance"
    assert dashboard._controls["x"].value == "distance"
    dashboard._controls["y"].value = "confidence"  # as the browser does
    assert dashboard.y == "confidence"
    numbers = dashboard.numbers
    assert dashboard._scatter.x.tolist() == numbers["distance"].flatten().double().tolist()
    assert dashboard._scatter.y.tolist() == numbers["confidence"].flatten().double().tolist()
    assert dashboard._plane.across.label == "distance, tokens"
    with pytest.raises(TraitError, match="There is no measure 'speed' here; there are entropy, "):
        dashboard.measure = "speed"
    assert dashboard.measure == "entropy"


def test_a_long_map_is_made_small(attention: Attention) -> None:
    """50 tokens: every drawn row still adds up to one, keys in groups."""
    p = torch.rand(50, 50, generator=torch.Generator().manual_seed(0)).tril()
    dashboard = Dashboard(Attention.from_weights(p / p.sum(-1, keepdim=True)))
    shades = dashboard._mean.cells.color
    assert shades.shape == (32, 32)
    seen = np.where(shades == ABSENT, 0, shades)
    assert np.square(seen / STEPS).sum(1) == pytest.approx(np.ones(32), abs=0.1)  # a shade is a 64th from its number
    assert (shades[0, 1:] == ABSENT).all()
    assert "32 of 50 queries" in dashboard._mean._note.value


def test_measures_of_much_are_of_some_queries_and_say_so(monkeypatch: pytest.MonkeyPatch, attention: Attention) -> None:
    """13 × 13 tokens and 16 heads where 1500 weights are the most: every other query, from the second on."""
    monkeypatch.setattr("attnwidget.dashboard._WORK", 1500)
    dashboard = Dashboard(attention)
    queries = torch.arange(1, 13, 2)
    expected = statistics(attention, names=["entropy"], queries=queries)["entropy"]
    assert torch.allclose(dashboard.numbers["entropy"], expected)
    for note in (dashboard._plane._note, dashboard._grid._note, dashboard._lines._note):
        assert "over 6 of 13 queries" in note.value
    expected = spectrum(attention, queries=queries)[1].flatten(0, 1).nanmean(0)
    assert expected[12].isnan(), "the last token alone looks so far back"
    assert dashboard._lines.figure.marks[0].y == pytest.approx(expected[:12].numpy(), abs=1e-6)


# ── selecting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_click_selects_in_the_widget_and_everywhere(dashboard: Dashboard) -> None:
    click(dashboard, (2, 1))
    widget = dashboard.widget
    assert (widget.layer, widget.head, widget.heads) == (2, 1, [])
    assert dashboard._dots.selected.tolist() == [dashboard._in_layers.index((2, 1))]
    assert (dashboard._grid._marks.y.tolist(), dashboard._grid._marks.x.tolist()) == ([2], [1])
    assert [line.y.tolist() for line in dashboard._lines.figure.marks][1] == pytest.approx(
        spectrum(widget.attention)[1][2, 1].tolist(), abs=1e-6
    )
    assert "Layer 2 · head 1" in dashboard._foot.value
    click(dashboard, (2, 1), (0, 3))
    assert widget.heads == [(2, 1), (0, 3)]
    dashboard._scatter.selected = None  # a click beside all points
    assert (widget.layer, widget.head, widget.heads, dashboard.selected) == (None, None, [], [])


def test_five_that_are_brushed_are_shown_as_their_mean(dashboard: Dashboard, attention: Attention) -> None:
    dashboard.by = "brush"
    assert dashboard._plane.figure.interaction is dashboard._brushing
    five = sorted(points(dashboard), key=lambda head: points(dashboard)[head][0])[:5]
    heard: list[Any] = []
    dashboard.widget.observe(heard.append, "heads")
    dashboard._brushing.brushing = True
    xs = [points(dashboard)[head][0] for head in five]
    dashboard._brushing.selected_x, dashboard._brushing.selected_y = np.array([0.0, max(xs)]), np.array([-1.0, 0.0])
    assert not heard, "while it moves, nothing is selected"
    dashboard._brushing.selected_y = np.array([0.0, 1.0])
    dashboard._brushing.brushing = False
    assert len(heard) == 1
    assert sorted(dashboard.widget.heads) == sorted(five)
    assert not dashboard.widget.overlay
    mean = sum(attention[head].weights() for head in five) / 5
    assert torch.allclose(dashboard.widget.map.weights(), mean, atol=1e-6)
    assert dashboard._brushing.selected is not None, "the rectangle stays while it stands for what is selected"
    dashboard.widget.layer, dashboard.widget.heads = 1, []
    assert dashboard._brushing.selected_x is None
    assert dashboard._brushing.selected_y is None


def test_a_rectangle_selects_what_lies_in_it(dashboard: Dashboard) -> None:
    dashboard.by = "brush"
    some = [(0, 0), (3, 1)]
    brush(dashboard, some)
    (x0, x1), (y0, y1) = (sorted(values) for values in zip(*(points(dashboard)[head] for head in some), strict=True))
    inside = [head for head, (x, y) in points(dashboard).items() if x0 <= x <= x1 and y0 <= y <= y1]
    assert sorted(dashboard.selected) == sorted(inside)


def test_what_the_widget_selects_is_marked(dashboard: Dashboard) -> None:
    widget = dashboard.widget
    widget.heads = [(0, 0), (1, 2)]
    assert dashboard._scatter.selected.tolist() == [dashboard._points.index(head) for head in ((0, 0), (1, 2))]
    assert dashboard._labels.text.tolist() == ["0·0", "1·2"]
    widget.heads = []
    widget.layer = 3
    assert dashboard.selected == [(3, head) for head in range(4)]
    widget.layer, widget.head = None, 1
    assert dashboard.selected == [(layer, 1) for layer in range(4)]


def test_no_echo(dashboard: Dashboard) -> None:
    """One choice, one change of each trait: charts that are marked select nothing themselves."""
    heard: list[tuple[str, Any]] = []
    dashboard.widget.observe(lambda change: heard.append((change["name"], change["new"])), ["layer", "head", "heads"])
    click(dashboard, (1, 0))
    assert sorted(heard) == [("head", 0), ("layer", 1)]
    heard.clear()
    dashboard.widget.heads = [(0, 0), (2, 0)]
    assert heard == [("heads", [(0, 0), (2, 0)])]
    dashboard.x = "distance"
    dashboard.by = "brush"
    dashboard.by = "click"
    assert dashboard.widget.heads == [(0, 0), (2, 0)]
    assert len(heard) == 1


def test_nothing_piles_up(dashboard: Dashboard) -> None:
    """Selecting and measuring again makes no more widgets than there were."""
    counts = []
    for layer in (0, 1, 2, 3):
        dashboard.select([(layer, 0)])
        dashboard.x = ("first", "distance")[layer % 2]
        counts.append(len(ipywidgets.widgets.widget._instances))
    assert len(set(counts)) == 1


def test_a_layer_by_its_bar_and_a_head_by_its_cell(dashboard: Dashboard) -> None:
    dashboard._bars._handle_custom_msgs(None, {"event": "element_click", "data": {"x": 2, "y": 0.1}}, None)
    assert (dashboard.widget.layer, dashboard.widget.head) == (2, None)
    dashboard._grid.cells._handle_custom_msgs(None, {"event": "element_click", "data": {"row": 1, "column": 3}}, None)
    assert (dashboard.widget.layer, dashboard.widget.head) == (1, 3)


def test_a_widget_elsewhere_is_not_shown_again(attention: Attention) -> None:
    widget = AttentionWidget(attention, layer=1, head=2, theme="dark", measures={"mine": torch.arange(16).view(4, 4)})
    dashboard = Dashboard(widget, measures=["entropy", "first"], x="mine")
    assert dashboard.widget is widget
    assert widget not in dashboard.children
    assert list(dashboard.numbers) == ["entropy", "first", "mine"]
    assert dashboard._scatter.x.tolist() == list(range(16))
    assert "attn-dark" in dashboard._dom_classes
    widget.theme = "light"
    assert "attn-dark" not in dashboard._dom_classes
    assert dashboard.selected == [(1, 2)]
    assert dashboard._scatter.selected.tolist() == [6]
    other = Attention.from_weights(torch.eye(3).expand(2, 1, 3, 3), tokens=list("abc"))
    widget.attention = other
    assert dashboard._scatter.y.tolist() == [0.0, 0.0]
    assert list(dashboard.numbers) == ["entropy", "first"]
    assert dashboard.x == "first"


# ── other input ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_of_a_comparison(attention: Attention) -> None:
    model, tokenizer = tiny.decoder()
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight *= 0.2
    other = capture(model, TEXT, tokenizer)
    dashboard = Dashboard(compare(attention, other, names=("trained", "dulled")))
    a, b = (statistics(one, names=["entropy"])["entropy"] for one in (attention, other))
    assert torch.allclose(dashboard.numbers["entropy"], a - b)
    assert dashboard.measure == "change"
    assert dashboard.numbers["change"].max(1).values.argmax() == 1
    assert "trained − dulled" in dashboard._plane._note.value
    dashboard.measure = "entropy"
    assert dashboard._grid.cells.color.min() < 0, "less than before: to the other side of the ramp"
    dashboard.widget.side = "b"
    assert torch.equal(dashboard.numbers["entropy"], b)
    assert dashboard.measure == "entropy"
    assert dashboard._lines.figure.marks[0].y == pytest.approx(
        spectrum(other)[1].flatten(0, 1).mean(0).numpy(), abs=1e-6
    )


def test_heads_without_a_number_are_left_out_and_said(attention: Attention) -> None:
    """A layer that has no map, and a measure of one's own that some heads lack."""
    of = attention.part()
    layers = (of.layers[0], Layer.gap("b", "a convolution", *of.layers[0].shape[2:]))
    part = Part("decoder", layers, of.queries, of.keys)
    mine = torch.full((2, part.heads), torch.nan)
    mine[0, 0] = 1.5
    dashboard = Dashboard(Attention([part]), measures={"mine": mine}, x="mine", y="entropy")
    assert dashboard._points == [(0, 0)]
    assert f"left out: {part.heads - 1}" in dashboard._plane._note.value
    assert dashboard._grid.cells.color[1].tolist() == [ABSENT] * part.heads
    dashboard.select([(0, 0)])
    assert dashboard._scatter.selected.tolist() == [0]
    with pytest.raises(TraitError, match="no map"):
        dashboard.select([(1, 0)])


def test_one_head_of_one_token() -> None:
    dashboard = Dashboard(Attention.from_weights(torch.ones(1, 1)))
    assert dashboard._grid.cells.color.shape == (1, 1)
    dashboard.select([(0, 0)])
    assert dashboard.widget.layer == 0


def test_cross_attention_and_images_have_no_offsets() -> None:
    layers = Attention.from_weights(torch.full((2, 2, 2, 3), 1 / 3)).part().layers
    cross = Part("cross", layers, Tokens(("a", "b")), Tokens(("x", "y", "z")))
    dashboard = Dashboard(Attention([cross]))
    assert dashboard._lines.box.layout.display == "none"
    assert "distance" not in dashboard.numbers


def test_other_texts_and_parts_have_their_own_numbers() -> None:
    """Oracle: statistics() of each; of a part where none of the wanted means anything, the entropy is left."""
    rows = torch.rand(2, 3, 2, 5, 5, generator=torch.Generator().manual_seed(2)).softmax(-1)  # [batch, layer, …]
    texts = Attention.from_weights(list(rows.transpose(0, 1)), tokens=list("abcde"))
    layers = Attention.from_weights(torch.full((2, 2, 5, 3), 1 / 3)).part().layers
    cross = Part("cross", layers, texts.part().queries, Tokens(("x", "y", "z")))
    both = Attention([texts.part(), cross])
    dashboard = Dashboard(both, measures=["distance", "offset"])
    for sample in (1, 0):
        dashboard.widget.sample = sample
        found = statistics(both.select(sample), names=["distance"])["distance"]
        assert torch.allclose(dashboard.numbers["distance"], found)
    dashboard.widget.part = "cross"
    assert dashboard.numbers.keys() == {"entropy"}
    assert dashboard.x == dashboard.y == "entropy"
    assert dashboard._grid.cells.color.shape == (2, 2)
    dashboard.widget.part = both.parts[0]
    assert list(dashboard.numbers) == ["distance", "offset"]


def test_of_a_trace(attention: Attention) -> None:
    """What a head adds to first order is the sum of the effects of its edges: Σ p · ∂y/∂p."""
    model, tokenizer = tiny.decoder()
    run = trace(model, TEXT, tokenizer)
    dashboard = Dashboard(run, measure="effect")
    for layer, head in ((0, 0), (2, 1)):
        assert float(dashboard.numbers["effect"][layer, head]) == pytest.approx(
            float(run.effects(layer, head).weights().sum()), rel=1e-4, abs=1e-4
        )
    assert escape(run.objective.words) in dashboard._grid._note.value


def pruned() -> Pruning:
    order = tuple((layer, head) for layer in range(4) for head in range(4))
    curve = torch.linspace(1, 3, 17, dtype=torch.float64)
    return Pruning(
        words="cross-entropy",
        part="decoder",
        texts=2,
        order=order,
        curve=curve,
        random=torch.stack([curve, curve + 1]),
        importance=torch.arange(16.0).view(4, 4),
        exact_order=order[::-1],
        exact_curve=curve**2,
    )


def test_the_pruning_curve_selects_what_has_been_removed(attention: Attention) -> None:
    found = pruned()
    dashboard = Dashboard(attention, pruning=found, y="importance")
    assert dashboard._scatter.y.tolist() == list(range(16))
    picked: list[Any] = []
    chart = removal(found, lambda part, heads: picked.append((part, list(heads))))
    lines = [mark for mark in chart.figure.marks if isinstance(mark, bq.Lines)]
    assert [line.y.tolist() for line in lines[:3]] == [
        found.curve.tolist(), (found.curve**2).tolist(), (found.curve + 0.5).tolist()
    ]  # fmt: skip
    assert lines[3].y.tolist() == found.curve.tolist(), "one standard deviation of two below their mean is the lower"
    by_importance, by_cost = (mark for mark in chart.figure.marks if isinstance(mark, bq.Scatter))
    by_importance.selected = np.array([2], np.uint32)
    by_cost.selected = np.array([0], np.uint32)
    assert picked == [("decoder", [(0, 0), (0, 1), (0, 2)]), ("decoder", [(3, 3)])]
    dashboard._remove("decoder", found.order[:3])
    assert dashboard.widget.heads == [(0, 0), (0, 1), (0, 2)]


def test_the_agreement_of_maps_with_exact_cuts(attention: Attention) -> None:
    from attnwidget.study import faithfulness

    model, tokenizer = tiny.decoder()
    found = faithfulness(model, TEXT, tokenizer, edges=40, pairs=10, repeats=3, progress=False)
    dashboard = Dashboard(attention, faithfulness=found)
    titles = [box.children[0].value for box in dashboard._bands[1].children]
    assert titles[-2:] == ["Agreement with exact cuts", "Tokens hidden"]
    zeroed, _ = dashboard._bands[1].children[-2].children[1].marks
    ranks = dict(zip(zeroed.y.tolist(), zeroed.x.tolist(), strict=True))
    assert ranks["weight"] == found.edges.rank("weight")
    assert ranks["rollout (pairs)"] == found.pairs.rank("rollout")
    first = deletion(found).figure.marks[0]
    assert first.y.tolist() == next(iter(found.curves.deletion.values())).tolist()


@pytest.mark.parametrize(
    ("make", "problem", "words"),
    [
        (lambda a: Dashboard("text"), TypeError, "An Attention can be shown, a str cannot"),
        (lambda a: Dashboard(a, z="entropy"), TypeError, r"There is no option z\. There are x, y, measure, by"),
        (lambda a: Dashboard(a, measures=["speed"]), ValueError, "There is no statistic 'speed'"),
        (lambda a: Dashboard(a, x="speed"), TraitError, "There is no measure 'speed' here"),
        (lambda a: Dashboard(a, measures=["patches"]), ValueError, "No measure has a number for any head of decoder"),
        (lambda a: Dashboard(a, measures={"mine": [1.0]}), ValueError, "'mine' has shape"),
        (lambda a: Dashboard(a).select([(0, 9)]), TraitError, "from 0 to 3"),
    ],
)
def test_what_is_refused(attention: Attention, make: Any, problem: type[Exception], words: str) -> None:
    with pytest.raises(problem, match=words):
        make(attention)


# ── colours ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_colours_are_those_of_the_widget() -> None:
    """Oracle: the palettes in js/src/theme.ts."""
    source = (Path(__file__).parents[1] / "js/src/theme.ts").read_text("utf-8")
    for theme, (roles, ramp, less, several) in PALETTES.items():
        found = re.search(rf'palette\(\s*"{theme}", "([^"]+)",\s*"([^"]+)", "[^"]+", "([^"]+)",\s*"([^"]+)"', source)
        assert found is not None
        assert found.groups() == (roles, ramp, less, several)
    for name in SHADES.values():
        assert STYLE.count(f"{name[4:-1]}:") >= 1, name


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [(0.0, 0.0, 1.0, 0), (1.0, 0.0, 1.0, STEPS), (0.5, 0.25, 0.75, STEPS // 2), (-2.0, -4.0, 1.0, -STEPS // 2),
     (1.0, -4.0, 4.0, STEPS // 4), (3.0, 3.0, 3.0, 0), (float("inf"), 0.0, 1.0, ABSENT), (9.0, 0.0, 1.0, STEPS)],
)  # fmt: skip
def test_shades(value: float, low: float, high: float, expected: int) -> None:
    assert shade(value, low, high) == expected


@pytest.mark.parametrize(("low", "high"), [(0.03, 0.81), (-3.2, 7.9), (0, 0), (1e-9, 2e-9), (5.0, 5.0), (-0.1, -0.01)])
def test_axes_end_at_round_numbers_around_all_values(low: float, high: float) -> None:
    ticks = _round(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 9
    assert np.ptp(np.diff(ticks)) < 1e-9


def test_words_of_a_name_are_text() -> None:
    """Measures and curves may be called anything."""
    lines = Lines("<b>", "x")
    lines.draw(torch.arange(2), {"<script>": torch.zeros(2)}, ["red"], "<i>")
    assert "<script>" not in lines._note.value
    assert "<i>" not in lines._note.value.replace('<i style="', "")
    assert lines._title.value == "&lt;b&gt;"
