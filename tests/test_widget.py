"""The widget: its traits refuse what does not exist, and each request of the browser's has one outcome.

The host is a stand-in: a comm that keeps what is sent, as ipywidgets tests its own widgets. No kernel, no browser.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import comm
import numpy as np
import pytest
import torch
import traitlets
from traitlets import TraitError

from attnwidget import wire
from attnwidget.attention import Attention
from attnwidget.compare import compare
from attnwidget.layers import Layer, Part
from attnwidget.masks import Mask
from attnwidget.selection import NAMES, Selection
from attnwidget.tokens import Tokens
from attnwidget.widget import AttentionWidget


class StandInComm:
    """A comm without anything at its other end: keeps what the widget sends, and passes on what a test says."""

    def __init__(self, **opened: Any) -> None:
        self.comm_id, self.opened, self.sent = "stand-in", opened, list[tuple[Any, Any]]()
        self.broken = False

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        if self.broken and buffers:
            raise OSError("the pipe is broken")
        self.sent.append((data, buffers))

    def on_msg(self, callback: Any) -> None:
        self.hear = callback

    def close(self, *_: Any, **__: Any) -> None:
        pass

    def deliver(self, **data: Any) -> None:
        self.hear({"content": {"data": data}, "buffers": []})

    def ask(self, *requests: Any) -> None:
        self.deliver(method="custom", content={"type": "get", "requests": list(requests)})

    def cancel(self, *ids: int) -> None:
        self.deliver(method="custom", content={"type": "cancel", "ids": list(ids)})

    @property
    def replies(self) -> list[tuple[Any, Any]]:
        return [(data["content"], buffers) for data, buffers in self.sent if data["method"] == "custom"]

    @property
    def updates(self) -> list[Any]:
        return [data["state"] for data, _ in self.sent if data["method"] == "update"]

    def outcomes(self) -> dict[Any, list[str]]:
        found: dict[Any, list[str]] = {}
        for content, _ in self.replies:
            if content["type"] == "error" or content["chunk"] == content["chunks"] - 1:
                found.setdefault(content["id"], []).append(content["type"])
        return found


@pytest.fixture(autouse=True)
def _host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "create_comm", StandInComm)
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")  # stands in for the built front end


def comm_of(widget: AttentionWidget) -> Any:
    return widget.comm


def request(name: Any, head: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"id": name, "want": "map", "part": "attention", "layer": 0, "head": head, "reduce": "mean", **fields}


def plain(layers: int = 3, heads: int = 4, n: int = 5) -> Attention:
    weights = torch.rand(layers, heads, n, n, generator=torch.Generator().manual_seed(0))
    return Attention.from_weights(weights / weights.sum(-1, keepdim=True), model="Toy")


def two_parts() -> Attention:
    """Part "deep": layers of 2 and of 8 heads over 9 tokens; part "flat": one layer of one head over 4."""
    nine, four = Tokens.positions(9), Tokens.positions(4)
    deep = tuple(Layer(f"d.{h}", Mask.full(9, 9), weights=torch.rand(1, h, 9, 9)) for h in (2, 8))
    flat = (Layer("f", Mask.full(4, 4), weights=torch.rand(1, 1, 4, 4)),)
    return Attention([Part("deep", deep, nine, nine), Part("flat", flat, four, four)])


def batch(samples: int = 3, n: int = 5) -> Attention:
    """Several texts of n tokens, of which the last two of text 1 and the last three of text 2 were generated."""
    weights = torch.rand(samples, 2, n, n, generator=torch.Generator().manual_seed(1))
    layers = tuple(Layer(f"d.{i}", Mask.full(n, n), weights=weights / weights.sum(-1, keepdim=True)) for i in (0, 2))
    gap = Layer.gap("d.1", "MambaMixer: no attention seen", n, n)
    axes = tuple(
        (axis, axis)
        for s in range(samples)
        for axis in [
            Tokens(labels=tuple(f"{s}{i}" for i in range(n)), generated=(False,) * (n - s - 1) + (True,) * (s + 1))
        ]
    )
    part = Part("decoder", (layers[0], gap, layers[1]), *axes[0], axes=axes)
    return Attention([part, Part("flat", (layers[0],), *axes[0])], noun="text")


# ── traits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_opens_with_the_mean_of_all_heads_and_everything_the_browser_needs() -> None:
    widget = AttentionWidget(plain())
    opened = comm_of(widget).opened
    state = opened["data"]["state"]
    assert {name: state[name] for name in NAMES} == {
        "sample": 0, "part": "attention", "layer": None, "head": None, "reduce": "mean", "heads": [], "overlay": True,
        "query": None, "pinned": [], "step": None, "view": "arcs", "arrangement": "columns", "group": "token",
        "direction": "attends", "sinks": True, "side": "difference", "sort": "", "least": None,
        "switches": {"scale": True, "mask": True, "positions": True, "uniform": False, "temperature": 1.0},
        "views": {}, "effects": False, "scale": "sqrt", "threshold": 0.9, "theme": "auto",
    }  # fmt: skip
    assert opened["data"]["buffer_paths"] == [["_bundle"]]
    assert wire.unpack(opened["buffers"][0]).kind == "bundle"
    assert comm_of(widget).sent == []


def test_another_sample_of_the_batch_is_a_trait_away() -> None:
    attention = batch()
    widget = AttentionWidget(attention, layer=0, head=1)
    assert torch.equal(widget.map.row(2), attention.part().layers[0].weights[0, 1, 2])
    widget.sample = 2
    assert torch.equal(widget.map.row(2), attention.part().layers[0].weights[2, 1, 2])
    assert widget.map.queries.labels[0] == "20"
    assert AttentionWidget(attention.select(1)).sample == 1
    with pytest.raises(TraitError, match=r"sample is 3; in this attention it must be from 0 to 2\."):
        widget.sample = 3


def test_the_bundle_is_packed_anew_only_for_a_sample_that_it_does_not_hold() -> None:
    widget = AttentionWidget(batch())
    sent = widget._bundle
    assert wire.samples_of(sent) == {0, 1, 2}
    widget.sample = 1
    assert widget._bundle is sent
    narrow = AttentionWidget(batch(), budget=30_000)
    assert wire.samples_of(narrow._bundle) == {0}
    narrow.sample = 1
    assert wire.samples_of(narrow._bundle) == {1}
    assert wire.unpack(narrow._bundle).meta["axes"][0]["labels"][0] == "10"


def test_a_request_is_answered_for_the_sample_it_names() -> None:
    attention = batch()
    view = AttentionWidget(attention)
    comm_of(view).ask(request(1, layer=2, sample=2, want="row", index=3, exact=True, part="decoder"))
    [(content, buffers)] = comm_of(view).replies
    assert content["type"] == "block"
    found = wire.unpack(bytes(buffers[0])).arrays["exact"][0]
    np.testing.assert_array_equal(found, attention.part().layers[2].weights[2, 0, 3])


def test_a_step_is_that_of_a_generated_token_of_the_sample() -> None:
    widget = AttentionWidget(batch(), sample=1, step=2)
    with pytest.raises(TraitError, match="There is no step 3: decoder has 2 generated tokens"):
        widget.step = 3
    with pytest.raises(TraitError, match="There is no step 0"):
        widget.step = 0
    widget.sample = 0
    assert widget.step is None, "text 0 has one generated token only"
    widget.step = 1
    with pytest.raises(TraitError, match="has no generated tokens"):
        AttentionWidget(plain(), step=1)


def test_a_layer_without_attention_cannot_be_selected() -> None:
    widget = AttentionWidget(batch(), layer=0)
    with pytest.raises(TraitError, match=r"layer is 1, which has no map \(MambaMixer: no attention seen\)"):
        widget.layer = 1
    assert widget.layer == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": 3}, r"layer is 3; in attention it must be from 0 to 2, or None for all layers\."),
        ({"layer": -4}, "layer is -4"),
        ({"layer": True}, "expected an int"),
        ({"layer": "1"}, "expected an int"),
        ({"head": 4, "layer": None}, r"head is 4; in attention it must be from 0 to 3, or None for all heads\."),
        ({"head": 4, "layer": 1}, "in layer 1 of attention"),
        ({"head": 9, "layer": 9}, "layer is 9"),
        ({"layer": 9, "part": "cross"}, "no part 'cross'; this attention has 'attention'"),
        ({"query": 5}, "query is 5; in attention it must be from 0 to 4"),
        ({"pinned": [0, 7]}, "pinned token is 7; in attention it must be from 0 to 4"),
        ({"pinned": 3}, "pinned"),
        ({"pinned": [None]}, "pinned"),
        ({"view": "pie"}, "expected any of .'arcs', 'heatmap', 'graph', 'text', 'steps', 'image', 'table'."),
        ({"heads": [(0, 0), (3, 0)]}, r"heads holds \(3, 0\): layer is 3; in attention it must be from 0 to 2\.$"),
        ({"heads": [(0, 4)]}, r"heads holds \(0, 4\): head is 4; in layer 0 of attention it must be from 0 to 3\.$"),
        ({"heads": [(0,)]}, "heads"),
        ({"heads": [0, 1]}, "heads"),
        ({"heads": [(0, True)]}, "expected an int"),
        ({"group": "letter"}, "expected any of .'token', 'word', 'sentence'."),
        ({"side": "c"}, "expected any of .'difference', 'a', 'b'."),
        ({"arrangement": "circle"}, "expected any of .'columns', 'line'."),
        ({"direction": "away"}, "expected any of .'attends', 'receives'."),
        ({"sinks": "no"}, "expected a boolean"),
        ({"sort": "beauty"}, "no measure 'beauty' to sort by; there are diagonal, distance, "),
        ({"sort": "change"}, "no measure 'change'"),
        ({"least": "most"}, "expected a float"),
        ({"least": float("nan")}, "least is nan; it must be a number"),
        ({"switches": {"softmax": False}}, "no switch 'softmax'; there are scale, mask, positions, uniform, temp"),
        ({"switches": {"mask": 0}}, "The switch 'mask' is 0; it must be True or False"),
        ({"switches": {"temperature": 0}}, "The temperature is 0; it must be a number above 0"),
        ({"switches": {"temperature": True}}, "The temperature is True"),
        ({"switches": True}, "switches"),
        ({"views": {"one": 3}}, "views holds 'one': 3; it must be a dict of states by name"),
        ({"scale": "cubic"}, "expected any of .'linear', 'sqrt', 'log', 'uniform'."),
        ({"reduce": "sum"}, "expected any of .'mean', 'max', 'min'."),
        ({"theme": "pink"}, "expected any of .'auto', 'light', 'dark'."),
        ({"threshold": 0}, r"threshold is 0\.0; it must be above 0 and at most 1\."),
        ({"threshold": 1.01}, r"threshold is 1\.01"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": "most"}, "expected a float"),
    ],
)
def test_what_does_not_exist_is_refused_in_words_at_once_and_later(options: dict[str, Any], words: str) -> None:
    attention = plain()
    with pytest.raises(TraitError, match=words):
        AttentionWidget(attention, **options)
    widget = AttentionWidget(attention, layer=1, head=2)
    before = widget.state()
    with pytest.raises(TraitError, match=words):
        set_at_once(widget, options)
    assert widget.state() == before


def set_at_once(widget: AttentionWidget, options: dict[str, Any]) -> None:
    with widget.hold_trait_notifications():
        for name, value in options.items():
            setattr(widget, name, value)


def test_an_unknown_option_is_named_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "bundle", None)  # before any work
    with pytest.raises(
        TypeError, match=r"There is no option heda, lair\. There are budget, measures, sample, part, layer, "
    ):
        AttentionWidget(plain(), lair=3, heda=2)


def test_what_is_no_attention_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"a Tensor cannot\. Make one with capture"):
        AttentionWidget(torch.eye(3))  # type: ignore[arg-type]


def test_a_front_end_that_was_not_built_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionWidget, "_esm", "")
    with pytest.raises(FileNotFoundError, match="pip install -e"):
        AttentionWidget(plain())


def test_numbers_may_be_numpys_and_count_from_the_end() -> None:
    widget = AttentionWidget(plain(), layer=np.int64(1), head=-1, pinned=[-1, 0, np.int8(0)])
    assert (widget.layer, widget.head, widget.pinned) == (1, 3, [4, 0])
    widget.query = np.argmax([0, 1])
    assert type(widget.query) is int


def test_what_another_part_or_layer_lacks_is_let_go() -> None:
    widget = AttentionWidget(two_parts(), layer=1, head=7, query=8, pinned=[1, 8])
    widget.layer = 0
    assert (widget.layer, widget.head) == (0, None)
    widget.layer = 1
    widget.part = "flat"
    left = {"part": "flat", "layer": None, "head": None, "query": None, "pinned": [1]}
    assert widget.state() | left == widget.state()


def test_the_numbers_of_the_selection_come_back() -> None:
    """Oracle: Attention.map."""
    attention = plain()
    widget = AttentionWidget(attention, layer=2, head=1)
    assert torch.equal(widget.map.weights(), attention[2, 1].weights())
    widget.head, widget.reduce = None, "max"
    assert torch.equal(widget.map.weights(), attention.map(2, None, reduce="max").weights())


def test_two_widgets_can_be_linked() -> None:
    one, other = AttentionWidget(plain()), AttentionWidget(plain())
    traitlets.link((one, "layer"), (other, "layer"))
    one.layer = 2
    assert other.layer == 2


def test_it_says_what_it_shows() -> None:
    words = "<AttentionWidget: <Map attention, layer 2, head *, mean: 5 × 5> as heatmap, of <Attention of Toy"
    assert repr(AttentionWidget(plain(), layer=2, view="heatmap")).startswith(words)
    mimes = AttentionWidget(plain())._repr_mimebundle_()[0]
    assert "application/vnd.jupyter.widget-view+json" in mimes


def test_the_budget_and_the_selection_decide_what_travels_first() -> None:
    """Oracle: wire.bundle."""
    attention = plain(n=40)
    widget = AttentionWidget(attention, budget=50_000, layer=2, head=3)
    assert widget._bundle == wire.bundle(attention, budget=50_000, first=[("attention", 2, 3, "mean")])
    with pytest.raises(ValueError, match="budget is 0"):
        AttentionWidget(attention, budget=0)


# ── several heads, groups, sides, measures ────────────────────────────────────────────────────────────────────────────


def test_several_heads_are_pairs_that_exist_each_once() -> None:
    """Oracle: Attention.map."""
    attention = plain()
    widget = AttentionWidget(attention, heads=[[0, 1], (-1, -1), (0, 1)], reduce="max", layer=1)
    assert widget.heads == [(0, 1), (2, 3)]
    assert torch.equal(widget.map.weights(), attention.map(heads=[(0, 1), (2, 3)], reduce="max").weights())
    comm_of(widget).deliver(method="update", state={"heads": [[1, 0], [1, 2]]}, buffer_paths=[])
    assert widget.heads == [(1, 0), (1, 2)]
    widget.heads = []
    assert torch.equal(widget.map.weights(), attention.map(1, reduce="max").weights())


def test_several_heads_are_let_go_where_another_part_lacks_them() -> None:
    widget = AttentionWidget(two_parts(), heads=[(0, 0), (1, 7)])
    widget.part = "flat"
    assert widget.heads == [(0, 0)]
    widget.attention = plain(heads=1)
    assert widget.heads == [(0, 0)]
    hybrid = AttentionWidget(plain(), heads=[(1, 0), (2, 1)])
    hybrid.attention = batch()
    assert hybrid.heads == [(2, 1)], "layer 1 has no attention there"


def test_the_maps_of_several_heads_travel_first() -> None:
    widget = AttentionWidget(plain(n=40), budget=40_000, heads=[(2, 3), (1, 2)])
    assert {"map/attention/2/3", "map/attention/1/2"} <= wire.unpack(widget._bundle).arrays.keys()


def words() -> Attention:
    text = Tokens(
        ("un", "able", "cat", "."), spans=((0, 2), (2, 6), (7, 10), (10, 11)), text="unable cat.",
        generated=(False, False, False, True),
    )  # fmt: skip
    weights = torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(2))
    return Attention.from_weights(weights / weights.sum(-1, keepdim=True), text)


def test_words_are_what_the_map_is_of() -> None:
    """Oracle: Map.grouped."""
    attention = words()
    widget = AttentionWidget(attention, layer=0, head=1, group="word")
    assert widget.map.queries.labels == ("unable", "cat", ".")
    assert torch.equal(widget.map.weights(), attention[0, 1].grouped("word").weights())
    widget.group = "sentence"
    assert widget.map.shape == (1, 1)
    widget.step = 1
    assert widget.map.shape == (4, 4), "tokens come one by one"
    with pytest.raises(ValueError, match="no text to find a word in"):
        _ = AttentionWidget(plain(), group="word").map
    assert "mean: " in repr(AttentionWidget(plain(), group="word")), "it can be printed all the same"


def test_measures_of_ones_own_travel_and_can_be_sorted_by() -> None:
    values = np.arange(12.0).reshape(3, 4)
    values[1, 2] = np.nan
    widget = AttentionWidget(plain(), measures={"induction": values}, sort="induction", least=2.5)
    found = wire.unpack(widget._bundle).meta["parts"][0]["measures"]
    assert found[-1] == {"name": "induction", "title": "induction", "values": [
        [0.0, 1.0, 2.0, 3.0], [4.0, 5.0, None, 7.0], [8.0, 9.0, 10.0, 11.0],
    ]}  # fmt: skip
    assert found[0]["name"] == "entropy"
    assert widget.measures["induction"]["attention"].tolist()[0] == [0, 1, 2, 3]
    widget.attention = plain()
    assert (widget.sort, widget.measures) == ("", {}), "they were about other heads"
    own = AttentionWidget(two_parts(), measures={"x": {"flat": [[0.5]]}}, part="flat", sort="x")
    own.least = 0.25
    own.part = "deep"
    assert (own.sort, own.least) == ("", None), "what it is about is not measured there"


@pytest.mark.parametrize(
    ("measures", "kind", "problem"),
    [
        ([1], TypeError, "measures is a list; it must be a dict"),
        ({3: [[1]]}, TypeError, "named 3; its name must be a text"),
        ({" ": [[1]]}, ValueError, "named ' '"),
        ({"x": [[1.0]]}, ValueError, r"shape \(1, 1\), but attention has 3 layers of 4 heads"),
        ({"x": "high"}, TypeError, "holds no numbers: 'high'"),
        ({"x": {"cross": [[1]]}}, KeyError, "no part 'cross'"),
    ],
)
def test_measures_that_are_none_are_refused(measures: Any, kind: type[Exception], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        AttentionWidget(plain(), measures=measures)


def test_a_comparison_is_shown_as_its_difference_or_a_side() -> None:
    """Oracle: Difference.map."""
    one, other = words(), plain(1, 2, 4)
    compared = compare(one, other)
    widget = AttentionWidget(compared, layer=0, head=1, sort="change")
    assert torch.equal(widget.map.weights().nan_to_num(9), compared.map(0, 1).weights().nan_to_num(9))
    widget.side = "b"
    assert torch.equal(widget.map.weights().nan_to_num(9), compared.map(0, 1, side="b").weights().nan_to_num(9))
    comm_of(widget).ask(request(1, head=1, want="row", index=3, exact=True, side="b"))
    [(_, buffers)] = comm_of(widget).replies
    np.testing.assert_array_equal(wire.unpack(bytes(buffers[0])).arrays["exact"][0], other[0, 1].row(3))
    widget.attention = one
    assert widget.sort == ""
    assert widget.map.shape == (4, 4)


# ── views that are kept ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_state_goes_through_json_and_comes_back() -> None:
    widget = AttentionWidget(
        plain(), layer=2, heads=[(0, 1), (2, 3)], pinned=[1], view="heatmap", switches={"mask": False}, theme="dark"
    )
    state = widget.state()
    assert json.loads(json.dumps(state)) == state
    assert state.keys() == {*NAMES, "attnwidget"} - {"views"}
    other = AttentionWidget(plain())
    other.restore(json.dumps(state))
    assert other.state() == state
    assert other.heads == [(0, 1), (2, 3)]
    assert len(comm_of(other).updates) == 1, "one message"


def test_a_view_is_kept_under_its_name() -> None:
    widget = AttentionWidget(plain(), layer=2, view="heatmap")
    widget.save("second")
    widget.layer, widget.view = 0, "arcs"
    widget.restore("second")
    assert (widget.layer, widget.view) == (2, "heatmap")
    assert "views" not in widget.views["second"]
    widget.views = {**widget.views, "of the browser": {"layer": 1, "head": 3}}
    widget.restore("of the browser")
    assert (widget.layer, widget.head, widget.view) == (1, 3, "heatmap")
    with pytest.raises(KeyError, match="no view 'third'; there are 'second', 'of the browser'"):
        widget.restore("third")
    with pytest.raises(ValueError, match="name of a view is ''"):
        widget.save("")


def test_what_a_state_has_and_this_attention_has_not_is_let_go_in_words() -> None:
    widget = AttentionWidget(plain(), view="arcs")
    state = {"layer": 7, "head": 3, "view": "heatmap", "part": "cross", "heads": [[0, 1], [9, 9]], "pinned": [0, 99]}
    with pytest.warns(UserWarning, match="layer was 7, which is not all there") as told:
        widget.restore({**state, "sort": "beauty", "colour": "pink", "attnwidget": "9.9"})
    assert (widget.layer, widget.head, widget.view, widget.part) == (None, 3, "heatmap", "attention")
    assert (widget.heads, widget.pinned, widget.sort) == ([(0, 1)], [0], "")
    [warning] = told
    for name in ("part", "heads", "pinned", "sort", "option 'colour'"):
        assert name in str(warning.message)
    assert "attnwidget" not in str(warning.message)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ({"layer": 1, "view": "pie"}, TraitError),
        ({"layer": "1"}, TraitError),
        ({"layer": 1, "threshold": 7}, TraitError),
        ({"layer": 1, "heads": 3}, TraitError),
        ({"layer": 1, "part": None}, TraitError),
        ({"layer": 1, "switches": {"temperature": -1}}, TraitError),
        ("{broken", TypeError),
        (3, TypeError),
        ([], TypeError),
    ],
)
def test_a_state_of_a_wrong_kind_changes_nothing(state: Any, kind: type[Exception]) -> None:
    widget = AttentionWidget(plain(), layer=0)
    before = widget.state()
    with pytest.raises(kind):
        widget.restore(state)
    assert widget.state() == before


def test_the_code_of_a_view_makes_it_again() -> None:
    attention = batch()
    chosen: dict[str, Any] = {
        "sample": 1, "layer": 2, "view": "heatmap", "pinned": [1, 3], "heads": [(0, 1), (2, 0)], "least": -0.5,
        "step": 1, "switches": {"temperature": 2.0}, "sinks": False, "sort": "entropy",
    }  # fmt: skip
    widget = AttentionWidget(attention, **chosen)
    code = widget.code()
    again = eval(code, {"AttentionWidget": AttentionWidget, "attention": attention})
    assert again.state() == widget.state()
    assert AttentionWidget(attention).code() == "AttentionWidget(attention)"
    measured = AttentionWidget(plain(), measures={"x": np.ones((3, 4))}, sort="x").code()
    assert measured == "AttentionWidget(attention, measures=measures, sort='x')"


def test_switches_are_completed() -> None:
    widget = AttentionWidget(plain(), switches={"uniform": True})
    assert widget.switches == {"scale": True, "mask": True, "positions": True, "uniform": True, "temperature": 1.0}
    widget.switches = {"temperature": 2}
    assert (widget.switches["uniform"], widget.switches["temperature"]) == (False, 2.0)


# ── state that comes and goes ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_click_in_the_browser_reaches_observers_once() -> None:
    widget, seen = AttentionWidget(two_parts()), []
    widget.observe(lambda change: seen.append((change["name"], change["new"])), ["layer", "head"])
    comm_of(widget).deliver(method="update", state={"head": 7, "layer": 1}, buffer_paths=[])
    assert sorted(seen) == [("head", 7), ("layer", 1)]


def test_a_selection_that_does_not_exist_changes_nothing_even_from_the_browser() -> None:
    widget = AttentionWidget(two_parts(), layer=1, head=6)
    with pytest.raises(TraitError, match="head is 7; in layer 0 of deep"):
        widget.set_state({"layer": 0, "head": 7, "view": "heatmap"})
    assert (widget.layer, widget.head, widget.view) == (1, 6, "arcs")


def test_setting_a_trait_sends_that_trait_and_not_the_bundle() -> None:
    widget = AttentionWidget(plain())
    widget.layer = 2
    assert comm_of(widget).updates == [{"layer": 2}]


def test_another_attention_comes_as_one_update() -> None:
    widget = AttentionWidget(two_parts(), layer=1, head=7, query=8, pinned=[1, 8])
    other = plain()
    widget.attention = other
    assert comm_of(widget).updates == [
        {"part": "attention", "head": None, "query": None, "pinned": [1]}  # the layer exists in both
    ]
    (data, buffers), *_ = comm_of(widget).sent
    assert data["buffer_paths"] == [["_bundle"]]
    assert wire.unpack(buffers[0]).meta["title"] == "Toy"
    assert widget.attention is other
    assert widget.map.shape == (5, 5)


def test_what_is_no_attention_does_not_take_the_place_of_one() -> None:
    widget, before = AttentionWidget(plain(), layer=1), plain()
    with pytest.raises(TypeError, match="cannot"):
        widget.attention = before[0, 0].weights()  # type: ignore[assignment]
    assert widget.layer == 1
    assert comm_of(widget).sent == []


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_answered_with_its_block() -> None:
    """Oracle: wire.map_block."""
    widget = AttentionWidget(plain())
    comm_of(widget).ask(request(7, head=2))
    ((content, buffers),) = comm_of(widget).replies
    assert content == {"type": "block", "id": 7, "chunk": 0, "chunks": 1}
    assert bytes(buffers[0]) == wire.map_block(widget.attention[0, 2])


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_every_request_has_one_outcome(in_a_loop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_CHUNK", 100)
    widget = AttentionWidget(plain())
    requests = [request(1), request(2, head=9), request(3, want="row"), request(4, want="row", index=1), request(5)]

    async def ask() -> None:
        comm_of(widget).ask(*requests)
        comm_of(widget).ask(request(6))
        await settled(widget)

    asyncio.run(ask()) if in_a_loop else comm_of(widget).ask(*requests, request(6))
    expected = {1: "block", 2: "error", 3: "error", 4: "block", 5: "block", 6: "block"}
    assert comm_of(widget).outcomes() == {name: [kind] for name, kind in expected.items()}


async def settled(widget: AttentionWidget) -> None:
    while widget._loop is not None or widget._waiting:
        await asyncio.sleep(0)


def test_what_is_cancelled_is_neither_computed_nor_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    widget, answered, original = AttentionWidget(plain()), [], wire.answer

    def counted(attention: Attention, asked: Any) -> Any:
        answered.append(asked["id"])
        return original(attention, asked)

    monkeypatch.setattr(wire, "answer", counted)

    async def ask() -> None:
        comm_of(widget).ask(*(request(name) for name in range(6)))
        comm_of(widget).cancel(0, 3)
        while len(answered) < 2:  # the loop turns between two answers, so that others are heard
            await asyncio.sleep(0)
        comm_of(widget).cancel(4, 1)
        await settled(widget)

    asyncio.run(ask())
    assert answered == [1, 2, 5]
    assert comm_of(widget).outcomes() == {1: ["block"], 2: ["block"], 5: ["block"]}


def test_one_answer_a_turn_so_that_others_get_theirs() -> None:
    widget, seen = AttentionWidget(plain()), []

    async def ask() -> None:
        comm_of(widget).ask(request(0), request(1))
        comm_of(widget).ask(request(2), request(3))
        for _ in range(5):
            seen.append(len(comm_of(widget).replies))
            await asyncio.sleep(0)

    asyncio.run(ask())
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("in_a_loop", [False, True])
def test_an_answer_that_cannot_be_sent_becomes_an_error(in_a_loop: bool) -> None:
    widget = AttentionWidget(plain())
    comm_of(widget).broken = True

    async def ask() -> None:
        comm_of(widget).ask(request(1), request(2, head=9))
        await settled(widget)

    asyncio.run(ask()) if in_a_loop else comm_of(widget).ask(request(1), request(2, head=9))
    assert comm_of(widget).outcomes() == {1: ["error"], 2: ["error"]}
    assert "the pipe is broken" in comm_of(widget).replies[0][0]["message"]


def test_an_exception_anywhere_becomes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    widget = AttentionWidget(plain())
    monkeypatch.setattr(wire, "messages", lambda *_: 1 / 0)
    comm_of(widget).ask(request(1))
    assert comm_of(widget).outcomes() == {1: ["error"]}


@pytest.mark.parametrize(
    "content",
    [None, 3, "get", [], {}, {"type": "get"}, {"type": "get", "requests": 3}, {"type": "cancel"}, {"type": "hello"}],
)
def test_a_message_of_somebody_elses_is_let_pass(content: Any) -> None:
    widget = AttentionWidget(plain())
    comm_of(widget).deliver(method="custom", content=content)
    assert comm_of(widget).sent == []


def test_a_request_that_is_none_is_refused_in_words() -> None:
    widget = AttentionWidget(plain())
    comm_of(widget).ask(3, {"id": {}})
    assert [content["type"] for content, _ in comm_of(widget).replies] == ["error", "error"]


def test_requests_about_an_attention_that_was_replaced_are_refused() -> None:
    widget = AttentionWidget(plain())

    async def ask() -> None:
        comm_of(widget).ask(request(1), request(2))
        widget.attention = plain(layers=1)
        await settled(widget)

    asyncio.run(ask())
    assert comm_of(widget).outcomes() == {1: ["error"], 2: ["error"]}


def test_a_closed_widget_stops_working(monkeypatch: pytest.MonkeyPatch) -> None:
    widget, answered = AttentionWidget(plain()), []
    monkeypatch.setattr(wire, "answer", lambda *asked: answered.append(asked))
    channel = comm_of(widget)

    async def ask() -> None:
        channel.ask(request(1), request(2))
        widget.close()
        await settled(widget)

    asyncio.run(ask())
    assert (answered, channel.replies) == ([], [])


def test_a_selection_knows_nothing_of_hosts() -> None:
    assert not hasattr(Selection(plain()), "comm")


def test_requests_whose_event_loop_ended_are_answered_in_the_next_one() -> None:
    """JupyterLab's subshells have loops of their own, which end with the page."""
    widget = AttentionWidget(plain())

    async def ask(name: int) -> None:
        comm_of(widget).ask(request(name))
        await settled(widget)

    loop = asyncio.new_event_loop()
    turns: list[Any] = []
    loop.call_soon = lambda *call, **_: turns.append(call)  # type: ignore[assignment, method-assign]  # never comes
    asyncio._set_running_loop(loop)
    comm_of(widget).ask(request(1))
    asyncio._set_running_loop(None)
    loop.close()
    assert turns
    asyncio.run(ask(2))
    assert comm_of(widget).outcomes() == {1: ["block"], 2: ["block"]}
