"""Fused maps, rollout and flow against closed forms, dense products and another solver; and what all methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from attnwidget import Attention, AttentionWidget, capture, tiny, trace
from attnwidget.attribution import METHODS, Attribution, Cost, attribute, cost
from attnwidget.compare import Difference
from attnwidget.flows import discard, flow, head_max, rollout, weighted
from tests.models import make

OF_WEIGHTS = ["mean", "max", "min", "discard", "rollout", "flow"]


def weights(layers: int = 3, heads: int = 2, n: int = 6, *, causal: bool = False, seed: int = 0) -> Tensor:
    s = 2 * torch.randn(layers, heads, n, n, generator=torch.Generator().manual_seed(seed))
    return (s.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf) if causal else s).softmax(-1)


def shown(p: Tensor, **options: Any) -> Attention:
    return Attention.from_weights(p, **options)


# ── fused ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fused_maps_are_those_of_the_dense_weights() -> None:
    """Oracle: numpy on the dense array; and one head, of which mean, max and min are the head itself."""
    p = weights()
    for name, fused in (("mean", np.mean), ("max", np.max), ("min", np.min)):
        dense = fused(p.double().numpy(), axis=(0, 1))
        dense = dense / dense.sum(-1, keepdims=True)
        assert np.abs(attribute(shown(p), name).values.numpy() - dense).max() < 1e-7
        one = fused(p[1].double().numpy(), axis=0)
        found = attribute(shown(p), name, layer=1).values.numpy()
        assert np.abs(found - one / one.sum(-1, keepdims=True)).max() < 1e-7
        assert torch.allclose(attribute(shown(p[:1, :1]), name).values, p[0, 0], atol=2e-7, rtol=0)


def test_the_mean_leaks_what_the_heads_leak() -> None:
    p = weights() * 0.7
    assert torch.allclose(attribute(shown(p), "mean").values.sum(-1), torch.full((6,), 0.7), atol=1e-6, rtol=0)
    assert torch.allclose(head_max(shown(p)).values.sum(-1), torch.ones(6), atol=1e-6, rtol=0)


def test_a_weighted_mean() -> None:
    """Oracle: equal weights give the mean; all the weight on one head gives that head; a dense einsum."""
    p = weights()
    equal = weighted(shown(p), weights=torch.full((3, 2), 7.0)).values
    assert torch.allclose(equal, attribute(shown(p), "mean").values, atol=1e-7, rtol=0)
    one = torch.zeros(3, 2)
    one[1, 1] = 3
    assert torch.equal(weighted(shown(p), weights=one).values, p[1, 1])
    w = torch.rand(3, 2, generator=torch.Generator().manual_seed(1))
    dense = torch.einsum("lh,lhij->ij", w.double() / w.double().sum(), p.double())
    assert (weighted(shown(p), weights=w).values - dense).abs().max() < 1e-6


@pytest.mark.parametrize("bad", [torch.ones(2, 2), torch.zeros(3, 2), torch.full((3, 2), -1.0)])
def test_weights_that_are_none_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="weights"):
        weighted(shown(weights()), weights=bad)


# ── rollout ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rollout_has_closed_forms() -> None:
    """Oracle: identity gives I; uniform weights 2⁻ᴸ I + (1 − 2⁻ᴸ) / n; a pure sink a mass of 1 − 2⁻ᴸ on the sink."""
    layers, n = 5, 7
    eye, half = torch.eye(n), 2.0**-layers
    assert torch.equal(rollout(shown(eye.expand(layers, 3, n, n))).values, eye)
    uniform = torch.full((layers, 3, n, n), 1 / n)
    assert (rollout(shown(uniform)).values - (half * eye + (1 - half) / n)).abs().max() < 1e-7
    sink = torch.zeros(layers, 3, n, n)
    sink[..., 0] = 1
    expected = half * eye
    expected[:, 0] += 1 - half
    assert (rollout(shown(sink)).values - expected).abs().max() < 1e-7


@pytest.mark.parametrize("causal", [False, True])
def test_rollout_is_the_product_of_the_mixed_maps(causal: bool) -> None:
    """Oracle: numpy's matrix product in double precision, for all tokens, for one, and up to a layer."""
    p = weights(causal=causal)
    mixed = (p.double().mean(1).numpy() + np.eye(6)) / 2
    whole = mixed[2] @ mixed[1] @ mixed[0]
    found = rollout(shown(p)).values.numpy()
    assert np.abs(found - whole).max() < 1e-7
    assert np.abs(found.sum(-1) - 1).max() < 1e-6
    assert not causal or not np.triu(found, 1).any()
    assert np.abs(rollout(shown(p), query=-2).values.numpy() - whole[[4]]).max() < 1e-7
    assert np.abs(rollout(shown(p), layer=1).values.numpy() - mixed[1] @ mixed[0]).max() < 1e-7
    for fuse, how in (("max", np.max), ("min", np.min)):
        maps = how(p.double().numpy(), axis=1) + np.eye(6)
        maps = maps / maps.sum(-1, keepdims=True)
        assert np.abs(rollout(shown(p), fuse=fuse).values.numpy() - maps[2] @ maps[1] @ maps[0]).max() < 1e-7  # type: ignore[arg-type]


def test_discarding_nothing_changes_nothing_and_a_share_leaves_so_many() -> None:
    """Oracle: ratio 0 is rollout; n² − ⌊r n²⌋ entries stay (of one layer, before the token itself is added)."""
    p = weights()
    assert torch.allclose(discard(shown(p), ratio=0.0).values, rollout(shown(p)).values, atol=1e-7, rtol=0)
    for ratio in (0.1, 0.5, 0.9):
        found = discard(shown(p), ratio=ratio, layer=0).values.double()
        # Its diagonal is (a + 1) / (Σ a + 1): as many entries stay as differ from the identity's, row by row.
        fused = p[0].double().mean(0).flatten()
        thinned = fused.clone()
        thinned[fused.argsort()[: int(ratio * 36)]] = 0
        assert int((thinned > 0).sum()) == 36 - int(ratio * 36)
        expected = thinned.reshape(6, 6) + torch.eye(6)
        assert (found - expected / expected.sum(-1, keepdim=True)).abs().max() < 1e-7


def test_discard_can_spare_the_first_token_and_counts_only_what_the_mask_allows() -> None:
    p = weights(1, causal=True)
    kept = discard(shown(p), ratio=0.9, keep_first=True).values
    assert bool((kept[:, 0] > 0).all())
    # 21 entries are allowed, of which ⌊18.9⌋ go: 3 stay, and the identity.
    found = discard(shown(p), ratio=0.9).values
    strongest = p[0].mean(0).flatten().topk(3).indices
    away = [at for at in strongest.tolist() if at // 6 != at % 6]
    assert int((found - torch.diag(found.diag()) > 0).sum()) == len(away)


def test_padding_stays_what_it_is() -> None:
    """Oracle: the same text without its padding, over which rollout must give the same."""
    p = weights(n=4)
    padded = torch.zeros(3, 2, 6, 6)
    padded[..., :4, :4] = p
    found = rollout(shown(padded)).values
    assert torch.allclose(found[:4, :4], rollout(shown(p)).values, atol=1e-7, rtol=0)
    assert torch.equal(found[4:], torch.eye(6)[4:])


def test_a_layer_without_attention_is_skipped() -> None:
    from dataclasses import replace

    from attnwidget.layers import Layer

    part = shown(weights()).part()
    gap = Layer.gap("between", "it has no attention", 6, 6)
    wide = Attention([replace(part, layers=(part.layers[0], gap, *part.layers[1:]))])
    assert torch.equal(rollout(wide).values, rollout(shown(weights())).values)
    assert torch.equal(rollout(wide, layer=1).values, rollout(shown(weights()), layer=0).values)


def test_heads_that_share_keys_roll_out_like_any() -> None:
    """Oracle: the eager attention of transformers, in a grouped-query Llama; agreement to float32 rounding."""
    model, tokenizer = tiny.decoder(attn_implementation="eager")
    text = "The cat sat on the mat."
    maps = model(**tokenizer(text, return_tensors="pt"), output_attentions=True).attentions
    product = torch.eye(maps[0].shape[-1], dtype=torch.float64)
    for one in maps:
        product = (one[0].double().mean(0) + torch.eye(len(product))) / 2 @ product
    assert (rollout(capture(model, text, tokenizer)).values - product).abs().max() < 1e-6


# ── flow ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def graph_of(p: Tensor) -> networkx.DiGraph:
    mixed = (p.double().mean(1) + torch.eye(p.shape[-1])) / 2
    graph = networkx.DiGraph()
    for depth, one in enumerate(reversed(mixed)):
        for i, j in one.nonzero().tolist():
            graph.add_edge((depth, i), (depth + 1, j), capacity=float(one[i, j]))
    return graph


@pytest.mark.parametrize("causal", [False, True])
def test_flow_is_that_of_another_solver(causal: bool) -> None:
    """Oracle: networkx's preflow-push in floating point; agreement to the capacities' rounding, and so to float32."""
    p = weights(causal=causal)
    found = flow(shown(p), normalise=False).values
    graph = graph_of(p)
    for i in range(6):
        for j in range(6):
            there = (3, j) in graph and networkx.has_path(graph, (0, i), (3, j))
            assert abs(float(found[i, j]) - (networkx.maximum_flow_value(graph, (0, i), (3, j)) if there else 0)) < 2e-7
    assert torch.allclose(flow(shown(p), query=2, normalise=False).values[0], found[2], atol=0, rtol=0)
    assert torch.allclose(flow(shown(p)).values, found / found.sum(-1, keepdim=True), atol=1e-7, rtol=0)


def test_flow_is_the_optimum_of_the_linear_programme() -> None:
    """Oracle: scipy's HiGHS on the programme that defines it: conservation, capacities, the most into the target."""
    p = weights(2, n=4)
    edges = [(*edge, data["capacity"]) for *edge, data in graph_of(p).edges(data=True)]
    found = flow(shown(p), normalise=False).values
    for i, j in ((0, 0), (2, 1), (3, 3)):
        inner = [(1, k) for k in range(4)]
        balance = np.array([[(b == at) - float(a == at) for a, b, _ in edges] for at in inner])
        bounds = [(0, c if a[0] or a == (0, i) else 0) for a, _, c in edges]
        gain = [-float(b == (2, j)) for _, b, _ in edges]
        best = linprog(gain, A_eq=balance, b_eq=np.zeros(4), bounds=bounds)
        assert abs(-best.fun - float(found[i, j])) < 2e-7


def test_flow_has_bounds() -> None:
    """Oracle: of one layer, the mixed map; at least rollout, at most 1 and what the first layer reads of a token."""
    p = weights()
    one = flow(shown(p[:1]), normalise=False).values
    mixed = (p.double().mean(1) + torch.eye(6)) / 2
    assert (one - mixed[0]).abs().max() < 1e-7
    found = flow(shown(p), normalise=False).values.double()
    assert bool((found >= rollout(shown(p)).values - 1e-6).all())
    assert bool((found <= mixed[0].sum(0).clamp_max(1.0) + 1e-6).all())


def test_flow_of_all_pairs_ends_at_64_tokens_and_of_one_does_not() -> None:
    long = shown(weights(1, 1, n=65))
    with pytest.raises(ValueError, match=r"about .* s and .*(4225 flows).*query=-1"):
        flow(long)
    assert flow(long, query=0).values.shape == (1, 65)


# ── what all of them share ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_each_method_returns_the_same_type_and_shows_in_the_same_widget(name: str) -> None:
    attention = capture(*_decoder_run())
    found = attribute(attention, name)
    known = METHODS[name]
    assert isinstance(found, Attribution) and found.values.dtype == torch.float32
    assert found.values.shape == (len(found.queries), len(found.keys)) and found.part == "decoder"
    assert (found.method, found.words, found.source) == (name, known.words, known.source)
    seen = found.attention()
    assert isinstance(seen, Attention)
    assert torch.equal(seen[0, 0].weights(), found.values) and name in seen.notes[0]
    assert seen.part().is_causal and AttentionWidget(seen).attention is seen
    price = cost(attention, name)
    assert isinstance(price, Cost) and price.seconds > 0 and price.bytes > 0 and str(price).startswith("about")


def _decoder_run() -> tuple[Any, str, Any]:
    model, tokenizer = tiny.decoder()
    return model, "The cat sat on the mat.", tokenizer


def test_every_method_of_the_table_is_there() -> None:
    for name in METHODS:
        known = METHODS[name]
        assert callable(known.function) and known.words and known.source and known.name == name
        assert known.function.__doc__


def test_the_largest_entries_come_first() -> None:
    found = attribute(shown(torch.tensor([[1.0, 0.0], [0.25, 0.75]])), "mean")
    assert found.top(2) == [(0, 0, 1.0), (1, 1, 0.75)]
    assert torch.equal(found.row(-1), torch.tensor([0.25, 0.75]))
    with pytest.raises(ValueError, match="k is 0"):
        found.top(0)
    with pytest.raises(IndexError, match="no query 2"):
        found.row(2)


def test_a_signed_map_is_shown_as_what_raises_less_what_lowers() -> None:
    model, text, tokenizer = _decoder_run()
    run = trace(model, text, tokenizer)
    found = attribute(run, "logit")
    seen = found.attention()
    assert isinstance(seen, Difference) and seen.names[0] == f"raises {run.objective.words}"
    scale = max(1.0, float(found.values.abs().max()))
    assert torch.allclose(seen.map(0, 0).weights() * scale, found.values, atol=1e-5, rtol=0)
    assert (found.top(1)[0][2] < 0) == (found.values.flatten()[found.values.abs().argmax()] < 0)
    # What a knock-out says of an edge is what cutting it does.
    cut = attribute(run, "knock-out").attention()
    assert isinstance(cut, Difference) and cut.names[1] == f"cutting it lowers {run.objective.words}"


def test_cross_attention_is_not_rolled_out() -> None:
    model, inputs = make("t5")
    attention = capture(model, inputs)
    for name in ("rollout", "flow", "discard"):
        with pytest.raises(ValueError, match=r"cross the queries and the keys are different tokens \(11 × 23\)"):
            attribute(attention, name, part="cross")
    for part in ("encoder", "decoder"):
        n = len(attention.part(part).queries)
        assert torch.allclose(rollout(attention, part=part).values.sum(-1), torch.ones(n), atol=1e-6, rtol=0)
    assert attribute(attention, "mean", part="cross").values.shape == (11, 23)


def test_windows_are_not_rolled_out() -> None:
    """The second layer's are cut elsewhere. Oracles: the stage of one window, dense; texts, which are none."""
    attention = capture(*make("swin"))
    for name in ("rollout", "flow", "discard"):
        with pytest.raises(ValueError, match=r"blocks\.0\.attention attends within windows"):
            attribute(attention, name)
    own = attention["vision 2", 0, None].weights()
    assert torch.allclose(rollout(attention, part="vision 2").values, (own + torch.eye(16)) / 2, atol=1e-7, rtol=0)
    model, text, tokenizer = _decoder_run()
    both = capture(model, [text, "A dog ran to the mat."], tokenizer).select(1)
    alone = rollout(capture(model, "A dog ran to the mat.", tokenizer)).values
    n = len(alone)
    assert torch.allclose(rollout(both).values[:n, :n], alone, atol=1e-5, rtol=0)


BAD: list[tuple[Callable[[Attention], Any], type[Exception], str]] = [
    (lambda a: attribute(a, "rolout"), ValueError, "no method 'rolout'; there are mean"),
    (lambda a: attribute(a, "rollout", part="cross"), KeyError, "no part 'cross'"),
    (lambda a: attribute(a, "rollout", query=6), IndexError, "no query 6"),
    (lambda a: attribute(a, "rollout", layer=3), IndexError, "no layer 3"),
    (lambda a: attribute(a, "rollout", fuse="median"), ValueError, "fuse is 'median'"),
    (lambda a: attribute(a, "discard", ratio=1.0), ValueError, "ratio is 1.0"),
    (lambda a: attribute(a, "rollout", residual=1), TypeError, "residual"),
    (lambda a: attribute("text", "rollout"), TypeError, "not a str"),  # type: ignore[arg-type]
    (lambda a: attribute(a, "norm"), ValueError, "needs the values, and this attention came as weights"),
    (lambda a: attribute(a, "logit"), ValueError, r"needs the model.*trace\(model, text, tokenizer\)"),
    (lambda a: attribute(a, "value-zeroing"), ValueError, "Weights alone, without their model, have neither"),
]


@pytest.mark.parametrize(("act", "error", "words"), BAD)
def test_bad_input_is_refused_in_words(act: Callable[[Attention], Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        act(shown(weights()))


def test_what_is_too_large_is_refused_with_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 200 000 tokens the full matrix is 1.6 TB; one row of it costs no n × n numbers."""
    from types import SimpleNamespace

    n = 200_000
    long = Attention.from_qk(torch.zeros(n, 1), torch.zeros(n, 1), causal=True)
    with pytest.raises(ValueError, match=r"rollout would take about .* h and .* GB .*query=-1 holds no n × n"):
        rollout(long)
    assert cost(long, "rollout", query=-1).bytes < 1e8
    monkeypatch.setattr("attnwidget.attribution.psutil.virtual_memory", lambda: SimpleNamespace(available=1e6))
    with pytest.raises(ValueError, match=r"1\.0 MB of memory are free"):
        rollout(shown(weights()))


def test_options_that_a_method_lacks_are_named_with_those_it_has() -> None:
    attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3))
    with pytest.raises(TypeError, match=r"'mean' has no option query=; it has part=, layer=, progress="):
        attribute(attention, "mean", query=-1)
    with pytest.raises(TypeError, match="'rollout' has no option querry="):
        cost(attention, "rollout", querry=1)


def test_without_weights_all_heads_weigh_the_same() -> None:
    weights = torch.rand(2, 3, 5, 5).softmax(-1)
    attention = Attention.from_weights(weights)
    torch.testing.assert_close(attribute(attention, "weighted").values, weights.mean((0, 1)))
