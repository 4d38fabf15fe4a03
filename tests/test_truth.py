"""What edges do, on its way to the browser: against the trace's own numbers, and the model run without them."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comm
import pytest
import torch
from torch import Tensor
from traitlets import TraitError

from attnwidget import Attention, Trace, export, tiny, trace, truth, wire
from attnwidget.export import to_html
from attnwidget.intervene import effect
from attnwidget.selection import Selection
from attnwidget.widget import AttentionWidget

TEXT = "The cat sat on the mat. The cat sat on the"
HERE = {"part": "decoder", "heads": [[1, 0]], "query": 3, "key": 1}


class Comm:
    """Keeps what the widget sends, and passes on what a test says."""

    def __init__(self, **opened: Any) -> None:
        self.comm_id, self.opened, self.sent = "stand-in", opened, list[tuple[Any, Any]]()

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        self.sent.append((data, buffers))

    def on_msg(self, callback: Any) -> None:
        self.hear = callback

    def close(self, *_: Any, **__: Any) -> None:
        pass

    def ask(self, *requests: dict[str, Any]) -> None:
        content = {"type": "get", "requests": list(requests)}
        self.hear({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})

    def replies(self) -> Iterator[tuple[dict[str, Any], Any]]:
        return ((data["content"], buffers) for data, buffers in self.sent if data["method"] == "custom")


@pytest.fixture(autouse=True)
def _front_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(comm, "create_comm", Comm)
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")  # stands in for the built front end
    (tmp_path / "page.js").write_text("void 'stands in for the page';", "utf-8")
    monkeypatch.setattr(export, "_PACKED", tmp_path / "page.js")


@pytest.fixture(scope="module")
def run() -> Trace:
    model, tokenizer = tiny.decoder()
    return trace(model, TEXT, tokenizer)


def read(packed: bytes) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The meta of a block of effects, its numbers with NaN where there is no edge, and who reaches the objective."""
    block = wire.unpack(packed)
    assert block.kind == "effects"
    codes = torch.from_numpy(block.arrays["codes"].copy())
    numbers = (codes.double() * block.meta["step"]).masked_fill(codes == -32768, torch.nan)
    return block.meta, numbers, torch.from_numpy(block.arrays["reach"].copy()).bool()


def later(n: int) -> Tensor:
    """bool [query, key]: keys that a decoder may not see."""
    return torch.ones(n, n, dtype=torch.bool).triu(1)


@pytest.mark.parametrize("heads", [[(1, 0)], [(0, 1), (2, 3)], [(layer, h) for layer in range(4) for h in range(4)]])
def test_effects_are_those_of_the_trace_to_half_a_step(run: Trace, heads: list[tuple[int, int]]) -> None:
    """Against trace.effects, held against finite differences elsewhere. Agreement: half a step, largest / 64 000."""
    meta, numbers, _ = read(truth.effects(run, "decoder", heads))
    expected = sum(run.effects(*head).weights().double() for head in heads)
    assert isinstance(expected, Tensor)
    n = len(expected)
    assert torch.equal(numbers.isnan(), later(n))
    assert meta["largest"] == pytest.approx(float(expected.abs().max()), rel=1e-6)
    assert meta["step"] == pytest.approx(meta["largest"] / 32000, rel=1e-9)
    assert float((numbers - expected)[~later(n)].abs().max()) <= meta["step"] * 0.5001 + 1e-6 * meta["largest"]


def test_what_reaches_the_objective_is_what_changes_it(run: Trace) -> None:
    """In the last layer the token whose logits are explained; before it whatever the model feels when it is cut."""
    assert read(truth.effects(run, "decoder", [(3, 1)]))[2].nonzero().flatten().tolist() == [run.objective.position]
    reach = read(truth.effects(run, "decoder", [(1, 0)]))[2]
    for query in (0, 3, len(reach) - 1):
        cut = effect(run, edges=[(1, 0, query, None)])
        assert bool(reach[query]) == (cut.delta != 0)


def test_effects_without_any_have_a_step(run: Trace) -> None:
    """A head that puts out nothing that counts: all codes are 0, and nothing is divided by nothing."""
    model, tokenizer = tiny.decoder()
    with torch.no_grad():
        model.model.layers[3].self_attn.o_proj.weight.zero_()
    meta, numbers, reach = read(truth.effects(trace(model, TEXT, tokenizer), "decoder", [(3, 0)]))
    assert (meta["largest"], meta["step"]) == (0, 1)
    assert not reach.any()
    assert float(numbers.nansum()) == 0


def test_too_many_effects_are_refused_in_words(run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth, "_MOST_CELLS", 10)
    with pytest.raises(wire.WireError, match=r"are too many to send, 10 at most\. Trace a shorter text"):
        truth.effects(run, "decoder", [(1, 0)])


@pytest.mark.parametrize(("query", "key"), [(3, 1), (3, None), (None, 1), (None, None)])
def test_what_is_verified_is_what_the_model_does_without_it(run: Trace, query: int | None, key: int | None) -> None:
    """Against intervene.effect, exactly; what is expected against the sum of trace.effects over the same edges."""
    found = truth.verified(run, "decoder", [(1, 0)], query, key)
    edges = [(1, 0, query, key)]
    exact = effect(run, edges=edges)
    assert (found["zero"], found["p"], found["rank"], found["words"]) == (
        exact.delta, exact.p, exact.rank, run.objective.words,
    )  # fmt: skip
    rows = slice(None) if query is None else slice(query, query + 1)
    cols = slice(None) if key is None else slice(key, key + 1)

    def summed(cut: Any) -> float:
        return float(run.effects(1, 0, cut=cut).weights()[rows, cols].double().sum())

    assert found["estimate"] == pytest.approx(summed("zero"), rel=1e-5, abs=1e-7)
    if key is None:
        assert found["knock_out"] is None, "there is no rest to take its place"
        assert found["knock_out_estimate"] is None
    else:
        assert found["knock_out"] == effect(run, edges=edges, renormalise=True).delta
        assert found["knock_out_estimate"] == pytest.approx(summed("knock-out"), rel=1e-5, abs=1e-7)


def test_a_widget_answers_and_keeps_what_was_verified(run: Trace) -> None:
    widget = AttentionWidget(run, layer=1, head=0)
    host: Any = widget.comm
    told = wire.unpack(host.opened["buffers"][0]).meta["objective"]
    assert told == {"words": run.objective.words, "value": run.value}
    host.ask({"id": 1, "want": "effects", "part": "decoder", "heads": [[1, 0]], "query": None, "key": None})
    host.ask({"id": 2, "want": "verified", **HERE}, {"id": 3, "want": "map", "part": "decoder", "layer": 1, "head": 0})
    replies = {content["id"]: (content, buffers) for content, buffers in host.replies()}
    assert [content["type"] for content, _ in replies.values()] == ["block"] * 3
    assert replies[1][1] == [truth.effects(run, "decoder", [(1, 0)])]
    exact = effect(run, edges=[(1, 0, 3, 1)])
    assert widget.verified["zero"] == exact.delta
    assert {name: widget.verified[name] for name in HERE} == HERE
    block = wire.unpack(replies[2][1][0])
    assert (block.kind, block.meta) == ("verified", json.loads(json.dumps(widget.verified)))


def test_null_stands_for_all_layers_or_heads(run: Trace) -> None:
    packed, found = truth.answer(run, {"want": "effects", "part": "decoder", "heads": [[1, None]]})
    assert found is None
    assert packed == truth.effects(run, "decoder", [(1, head) for head in range(4)])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"heads": []}, "choose at least one"),
        ({"heads": None}, "choose at least one"),
        ({"heads": [[1]]}, r"heads holds \[1\]; it holds \[layer, head\]"),
        ({"heads": [[1, "0"]]}, r"it holds \[layer, head\]"),
        ({"heads": [[9, 0]]}, "choose at least one"),
        ({"part": "encoder"}, "encoder"),
        ({"query": 99}, "query is 99; it must be a token from 0 to"),
        ({"key": True}, "key is True; it must be a token"),
    ],
)
def test_what_cannot_be_verified_is_said_in_words(run: Trace, asked: dict[str, Any], words: str) -> None:
    widget = AttentionWidget(run)
    host: Any = widget.comm
    host.ask({"id": 4, "want": "verified", **HERE, **asked})
    [(content, _)] = host.replies()
    assert content["type"] == "error"
    assert re.search(words, content["message"]), content["message"]
    assert widget.verified == {}


def test_effects_need_an_objective(run: Trace) -> None:
    with pytest.raises(TraitError, match=r"no objective to have effects on: show trace\(model, text, tokenizer\)"):
        AttentionWidget(run.attention, effects=True)
    plain = AttentionWidget(run.attention)
    with pytest.raises(TraitError, match="no objective"):
        plain.effects = True
    host: Any = plain.comm
    host.ask({"id": 5, "want": "effects", "part": "decoder", "heads": [[1, 0]]})
    assert [content["type"] for content, _ in host.replies()] == ["error"]
    assert wire.unpack(host.opened["buffers"][0]).meta["objective"] is None


def test_effects_are_part_of_a_state_and_of_its_code(run: Trace) -> None:
    widget = AttentionWidget(run, effects=True, layer=1)
    state = json.loads(json.dumps(widget.state()))
    assert state["effects"] is True
    widget.effects = False
    widget.restore(state)
    assert widget.effects
    assert widget.code() == "AttentionWidget(trace, layer=1, effects=True)"
    again = eval(widget.code(), {"AttentionWidget": AttentionWidget, "trace": run})
    assert again.state() == widget.state()


def test_another_attention_takes_the_trace_away(run: Trace) -> None:
    """And a request from before is answered of what was shown then, or refused; never of another attention."""
    widget = AttentionWidget(run, effects=True)
    assert (widget.trace, widget.effects) == (run, True)

    async def ask() -> None:
        widget.comm.ask({"id": 6, "want": "verified", **HERE})
        widget.attention = Attention.from_weights(torch.eye(3))
        await asyncio.sleep(0.05)

    asyncio.run(ask())
    assert [(content["type"], content["id"]) for content, _ in widget.comm.replies()] == [("error", 6)]
    assert (widget.trace, widget.effects, widget.verified) == (None, False, {})
    widget.attention = run
    assert (widget.trace, widget.effects) == (run, False)
    assert wire.unpack(widget._bundle).meta["objective"]["words"] == run.objective.words


def bundle_in(path: Path) -> Any:
    found = re.search(r'<script type="application/vnd.attnwidget\+json">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert found is not None
    page = json.loads(found[1])
    return page["state"], wire.unpack(base64.b64decode(page["bundle"]))


@pytest.mark.parametrize(
    ("chosen", "key", "heads"),
    [
        ({"layer": 1, "head": 0}, "effects/decoder/1.0", [(1, 0)]),
        ({"layer": 1}, "effects/decoder/1.*", [(1, head) for head in range(4)]),
        ({"heads": [(1, 0), (2, 3)]}, "effects/decoder/1.0,2.3", [(1, 0), (2, 3)]),
        ({}, "effects/decoder/*.*", [(layer, head) for layer in range(4) for head in range(4)]),
    ],
)
def test_a_page_holds_the_effects_it_opens_with(
    run: Trace, tmp_path: Path, chosen: dict[str, Any], key: str, heads: list[tuple[int, int]]
) -> None:
    state, bundle = bundle_in(to_html(run, tmp_path / "a.html", effects=True, **chosen))
    assert state["effects"] is True
    assert bundle.meta["objective"]["words"] == run.objective.words
    assert bundle.arrays[key].tobytes() == truth.effects(run, "decoder", heads)


def test_a_page_without_effects_holds_none_and_one_of_a_widget_what_it_shows(run: Trace, tmp_path: Path) -> None:
    _, bundle = bundle_in(to_html(run, tmp_path / "a.html", layer=1, head=0))
    assert not [name for name in bundle.arrays if name.startswith("effects/")]
    widget = AttentionWidget(run, layer=2, head=3, effects=True)
    _, bundle = bundle_in(to_html(widget, tmp_path / "b.html"))
    assert bundle.arrays["effects/decoder/2.3"].tobytes() == truth.effects(run, "decoder", [(2, 3)])


def test_a_selection_of_a_trace_is_one_of_its_attention(run: Trace) -> None:
    chosen = Selection(run, layer=1, head=0)
    assert chosen.attention is run.attention
    assert torch.equal(chosen.map.row(3), run.attention[1, 0].row(3))
