"""The noun: exact rows, columns, tiles and reductions, against closed forms and a naive softmax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attnwidget.attention
import attnwidget.masks
import attnwidget.tokens
from attnwidget import load, wire
from attnwidget.attention import Attention
from attnwidget.masks import Bias, Mask
from attnwidget.tokens import Tokens


def naive(
    q: Tensor, k: Tensor, scale: float, allowed: Tensor, softcap: float | None = None, bias: Any = 0.0, sink: Any = None
) -> Tensor:
    """The oracle: the formula in float64, one head, written out. [query, key]"""
    s = q.double() @ k.double().T * scale
    if softcap:
        s = softcap * torch.tanh(s / softcap)
    s = (s + bias).masked_fill(~allowed, -torch.inf)
    e = torch.exp(s)
    total = e.sum(1, keepdim=True) + (torch.exp(sink.double()) if sink is not None else 0.0)
    return (e / total.clamp_min(1e-300)).float()


def example(
    heads: int = 4, kv_heads: int = 2, queries: int = 9, keys: int = 9, layers: int = 2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(layers, heads, queries, 8, generator=generator) * 2
    return q, torch.randn(layers, kv_heads, keys, 8, generator=generator) * 2


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"causal": True},
    "softcap": {"softcap": 2.0},
    "sink": {"sink": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    "dense bias": {"bias": torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(1))},
    "relative bias": {"bias": torch.arange(-8.0, 9)[torch.arange(9)[None] - torch.arange(9)[:, None] + 8] * 0.3},
    "scattered mask": {"mask": torch.rand(9, 9, generator=torch.Generator().manual_seed(2)) > 0.4},
    "mask per head": {"mask": torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(3)) > 0.4},
    "all of it": {"causal": True, "softcap": 2.0, "sink": torch.ones(4), "bias": torch.eye(9), "scale": 0.3},
}


@pytest.mark.parametrize("name", CASES)
def test_every_way_of_asking_gives_the_naive_softmax(name: str) -> None:
    options = CASES[name]
    q, k = example()
    attention = Attention.from_qk(q, k, **options)
    bias = torch.broadcast_to(torch.as_tensor(options.get("bias", 0.0)), (4, 9, 9))
    mask = torch.broadcast_to(torch.as_tensor(options.get("mask", True)), (4, 9, 9))
    causal = torch.ones(9, 9, dtype=torch.bool).tril() if options.get("causal") else torch.tensor(True)
    sinks = options.get("sink")
    for layer in range(2):
        for head in range(4):
            expected = naive(
                q[layer, head], k[layer, head // 2], options.get("scale", 8**-0.5), mask[head] & causal,
                options.get("softcap"), bias[head], None if sinks is None else sinks[head],
            )  # fmt: skip
            one = attention[layer, head]
            assert torch.allclose(one.tile([7, 1], [0, 3, 8]), expected[[7, 1]][:, [0, 3, 8]], atol=1e-6)
            assert torch.allclose(one.weights(), expected, atol=1e-6)
            assert torch.allclose(one.row(5), expected[5], atol=1e-6)
            assert torch.allclose(one.column(2), expected[:, 2], atol=1e-6)
            assert torch.allclose(one.tile(slice(2, 6), slice(None)), expected[2:6], atol=1e-6)


def test_rows_sum_to_one_and_leak_exactly_what_the_sink_takes() -> None:
    q, k = example()
    whole = Attention.from_qk(q, k)[0, 0].weights()
    assert torch.allclose(whole.sum(1), torch.ones(9), atol=1e-6)
    # One key and a sink with the same logit share the weight: one half each.
    even = Attention.from_qk(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), sink=torch.zeros(1))
    assert even[0, 0].weights().item() == pytest.approx(0.5)


@pytest.mark.parametrize("reduce", ["mean", "max", "min"])
def test_reductions_are_those_of_the_stacked_maps(reduce: Any) -> None:
    q, k = example()
    attention = Attention.from_qk(q, k, causal=True)
    stacked = torch.stack([torch.stack([attention[i, h].weights() for h in range(4)]) for i in range(2)])
    over = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}[reduce]
    assert torch.allclose(attention.map(1, None, reduce=reduce).weights(), over(stacked[1], dim=0), atol=1e-6)
    assert torch.allclose(attention.map(None, 2, reduce=reduce).weights(), over(stacked[:, 2], dim=0), atol=1e-6)
    assert torch.allclose(attention.map(reduce=reduce).weights(), over(stacked.flatten(0, 1), dim=0), atol=1e-6)
    assert torch.allclose(
        attention.map(reduce=reduce).tile([3], [0, 2]), over(stacked.flatten(0, 1), dim=0)[[3]][:, [0, 2]]
    )


def test_layers_may_have_different_numbers_of_heads() -> None:
    weights = [torch.eye(3).expand(2, 3, 3), torch.full((4, 3, 3), 1 / 3)]
    attention = Attention.from_weights(weights)
    assert torch.allclose(attention[None, 3].weights(), weights[1][3])
    assert torch.allclose(attention[None, None].weights(), torch.cat(weights).mean(0), atol=1e-6)
    with pytest.raises(IndexError, match=r"no head 3 in attention, layer 0: it has 2, 0 to 1"):
        attention[0, 3]


def test_large_maps_are_made_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k = example(queries=50, keys=50)
    whole = Attention.from_qk(q, k, causal=True)
    expected = whole[0, 1].weights(), whole[0, None].weights(), whole[None, 2].tile(slice(None), [0, 7])
    monkeypatch.setattr(attnwidget.masks, "BLOCK_ENTRIES", 130)
    again = Attention.from_qk(q, k, causal=True)
    assert len(list(again[0, 1].blocks())) == 25
    found = again[0, 1].weights(), again[0, None].weights(), again[None, 2].tile(slice(None), [0, 7])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))


# ── rules ──


def banded(n: int, below: int, above: int = 0) -> Tensor:
    ones = torch.ones(n, n, dtype=torch.bool)
    return ones.tril(above) & ones.triu(-below)


@pytest.mark.parametrize(
    "cells",
    [
        torch.ones(6, 6, dtype=torch.bool),
        banded(6, 6),
        banded(6, 2),
        banded(6, 1, 1),
        banded(6, 6) & torch.tensor([0, 0, 1, 1, 1, 1], dtype=torch.bool),
        torch.block_diag(torch.ones(2, 2), torch.ones(4, 4)).bool(),
    ],
    ids=["full", "causal", "window", "both sides", "left padding", "packed documents"],
)
def test_masks_that_have_a_rule_are_kept_as_rules(cells: Tensor) -> None:
    mask = Mask.of(cells[None, None])
    assert mask.dense is None
    assert torch.equal(mask.allowed(0, torch.arange(6), 0), cells)


def test_one_rule_may_go_with_the_padding_of_each_text() -> None:
    rule = Mask.full(3, 3)
    mask = Mask(rule.start, rule.stop, torch.tensor([[1, 1, 1], [0, 1, 1]]).bool())
    assert mask.allowed(0, torch.arange(3), 0).all()
    assert not mask.allowed(1, torch.arange(3), 0)[:, 0].any()


def test_a_mask_without_a_rule_is_kept_entry_by_entry() -> None:
    cells = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    mask = Mask.of(cells)
    for sample in range(2):
        assert torch.equal(mask.allowed(sample, torch.arange(6)), cells[sample])


def test_masks_know_what_they_are() -> None:
    assert Mask.full(4, 4).is_full
    assert not Mask.full(4, 4).is_causal
    assert Mask.causal(4, 4).is_causal
    assert Mask.causal(4, 4).window is None
    assert Mask.causal(9, 9, window=3).window == 3
    assert Mask.of(banded(9, 2)[None, None]).window == 3
    joined = Mask.causal(5, 5) & Mask(
        *(t for t in (torch.zeros(1, 5).int(), torch.full((1, 5), 5).int())), torch.tensor([[0, 1, 1, 1, 1]]).bool()
    )
    assert torch.equal(joined.allowed(0, torch.arange(5), 0), banded(5, 5) & torch.tensor([0, 1, 1, 1, 1]).bool())


def test_a_bias_takes_its_shortest_exact_form() -> None:
    relative = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0))[
        :, :, torch.arange(5)[None] - torch.arange(4)[:, None] + 3
    ]
    kept = Bias.of(relative)
    assert kept is not None
    assert kept.dense is None
    assert torch.equal(kept.block(0, torch.arange(4), 5), relative[0])
    assert torch.equal(kept.block(0, torch.tensor([2]), 5, 1), relative[0, 1, [2]])
    assert Bias.of(torch.zeros(1, 1, 3, 3)) is None
    assert Bias.of(torch.rand(1, 1, 3, 3)).dense is not None  # type: ignore[union-attr]


def test_a_row_without_keys_holds_no_weight() -> None:
    q, k = example(queries=4, keys=4)
    attention = Attention.from_qk(q, k, mask=torch.tensor([[0, 0, 0, 0]] + [[0, 1, 1, 1]] * 3).bool())
    assert not attention[0, 0].row(0).any()
    assert not attention[0, 0].tile([0], [1]).any()
    assert attention[0, 0].padding.tolist() == [True, False, False, False]


# ── what people bring ──


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (5, 2, 3, 3), (5, 1, 2, 3, 3)])
def test_weights_of_any_rank_are_taken(shape: tuple[int, ...]) -> None:
    attention = Attention.from_weights(torch.full(shape, 1 / 3), tokens=["a", "b", "c"])
    assert len(attention.part().layers) == (5 if len(shape) > 3 else 1)
    assert attention.tokens.labels == ("a", "b", "c")
    assert torch.allclose(attention[-1, -1].weights(), torch.full((3, 3), 1 / 3))


def test_the_tuple_transformers_returns_is_taken_and_so_are_numpy_and_lists() -> None:
    layers = tuple(torch.full((1, 2, 3, 3), 1 / 3) for _ in range(4))
    assert len(Attention.from_weights(layers).part().layers) == 4
    assert Attention.from_weights(layers[0].numpy())[0, 1].weights().shape == (3, 3)
    assert Attention.from_weights([[0.5, 0.5], [0.0, 1.0]])[0, 0].row(1).tolist() == [0.0, 1.0]


def test_the_two_axes_may_differ() -> None:
    attention = Attention.from_weights(torch.rand(2, 3, 2), tokens=(["a", "b", "c"], ["x", "y"]))
    assert attention[0, 0].queries.labels == ("a", "b", "c")
    assert attention[0, 0].keys.labels == ("x", "y")


def test_an_upper_triangle_of_zeros_is_recognised_as_causal() -> None:
    assert Attention.from_weights(torch.ones(2, 4, 4).tril()).part().is_causal
    assert not Attention.from_weights(torch.ones(2, 4, 4)).part().is_causal


def test_slices_backwards_and_choices_of_booleans_mean_what_they_say() -> None:
    one = Attention.from_weights(torch.rand(5, 5))[0, 0]
    whole = one.weights()
    assert torch.equal(one.tile(slice(3, 0, -1), slice(None)), whole[[3, 2, 1]])
    assert torch.equal(one.tile(torch.tensor([False, False, True, False, True]), [0]), whole[[2, 4]][:, :1])


def test_what_the_caller_passed_is_not_changed() -> None:
    weights = torch.rand(2, 3, 3)
    copy = weights.clone()
    attention = Attention.from_weights(weights)
    attention[0, None].weights().zero_()
    attention[0, 0].weights().zero_()
    assert torch.equal(weights, copy)


@pytest.mark.parametrize(
    ("weights", "tokens", "words"),
    [
        (torch.rand(3), None, r"have shape \(3,\); expected \[query, key\]"),
        (torch.rand(2, 3, 3), ["a"], r"1 tokens for 3 queries"),
        (torch.rand(2, 3, 2), ["a", "b", "c"], r"3 tokens for 2 keys.*query_labels, key_labels"),
        (-torch.rand(3, 3), None, "negative or infinite"),
        (torch.full((3, 3), torch.inf), None, "negative or infinite"),
        (torch.empty(2, 0, 0), None, "nothing to show"),
        ({"a": 1}, None, "must be a tensor"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words(weights: Any, tokens: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Attention.from_weights(weights, tokens)


def test_weights_that_are_not_a_number_are_kept_and_noted() -> None:
    weights = torch.eye(3).expand(2, 3, 3).clone()
    weights[1, 2, 0] = torch.nan
    attention = Attention.from_weights(weights)
    assert "NaN" in attention.notes[0]
    assert attention[0, 1].row(2)[0].isnan()


def test_queries_and_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="number of key heads must divide"):
        Attention.from_qk(torch.rand(4, 5, 8), torch.rand(3, 5, 8))
    with pytest.raises(ValueError, match=r"mask is .* does not broadcast"):
        Attention.from_qk(torch.rand(4, 5, 8), torch.rand(4, 5, 8), mask=torch.ones(3, 5, 5).bool())
    with pytest.raises(ValueError, match="must be boolean"):
        Attention.from_qk(torch.rand(5, 8), torch.rand(5, 8), mask=torch.zeros(5, 5))


def test_wrong_indices_name_what_there_is() -> None:
    attention = Attention.from_weights(torch.full((2, 3, 4, 4), 0.25))
    with pytest.raises(IndexError, match=r"no layer 2 in attention: it has 2, 0 to 1"):
        attention[2, 0]
    with pytest.raises(KeyError, match="no part 'cross'; this attention has 'attention'"):
        attention["cross", 0, 0]
    with pytest.raises(IndexError, match="no query 4"):
        attention[0, 0].row(4)
    with pytest.raises(TypeError, match="Name the layer and the head"):
        attention["attention", 0]
    with pytest.raises(TypeError):
        attention[0.9, 1.7]
    with pytest.raises(TypeError, match="None averages"):
        attention[0]  # type: ignore[index]
    with pytest.raises(ValueError, match="must be one of mean, max, min"):
        attention.map(reduce="median")  # type: ignore[arg-type]


def test_an_axis_needs_one_of_each() -> None:
    with pytest.raises(ValueError, match="2 labels but 1 raw"):
        Tokens(labels=("a", "b"), raw=("a",))


def test_a_default_device_of_the_user_s_changes_nothing(tmp_path: Path) -> None:
    """torch.set_default_device("cuda") is common in notebooks; "meta" stands in for it where there is no GPU."""
    q = torch.randn(2, 2, 7, 4)
    plain = Attention.from_qk(q, q, causal=True)
    expected, sent = plain[1, 1].weights(), wire.bundle(Attention.from_qk(q, q, causal=True))
    torch.set_default_device("meta")
    try:
        made = Attention.from_qk(q, q, causal=True)
        loaded = load(made.save(tmp_path / "saved.safetensors"))
        for attention in (plain, made, loaded):
            assert wire.bundle(attention) == sent
        for attention in (plain, made):
            view = attention[1, 1]
            assert torch.allclose(view.row(3), expected[3], atol=1e-6)
            assert torch.allclose(view.column(3), expected[:, 3], atol=1e-6)
            assert torch.allclose(view.tile([1, 2], slice(0, 3)), expected[1:3, :3], atol=1e-6)
            assert torch.equal(torch.cat([block for _, block in view.blocks()], 0), expected)
    finally:
        torch.set_default_device(None)


# ── several heads ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reduce", ["mean", "max", "min"])
def test_some_heads_are_reduced_cell_by_cell(reduce: Any) -> None:
    """Oracle: their maps one by one, stacked."""
    q, k = torch.randn(2, 3, 4, 9, 8, generator=torch.Generator().manual_seed(3))
    attention, heads = Attention.from_qk(q, k, causal=True), [(0, 1), (2, 3), (2, 0)]
    whole = torch.stack([attention[at].weights() for at in heads])
    oracle = {"mean": whole.mean(0), "max": whole.amax(0), "min": whole.amin(0)}[reduce]
    some = attention.map(heads=[*heads, (0, 1), (-1, -1)], reduce=reduce)
    assert some.heads == tuple(heads)
    assert (some.layer, some.head, some.single, some.maps) == (None, None, None, 3)
    torch.testing.assert_close(some.weights(), oracle, atol=1e-6, rtol=0)
    torch.testing.assert_close(some.column(2), oracle[:, 2], atol=1e-6, rtol=0)
    torch.testing.assert_close(some.tile([8, 0], [1, 2]), oracle[[8, 0]][:, [1, 2]], atol=1e-6, rtol=0)
    assert repr(some) == f"<Map attention, heads 0.1, 2.3, 2.0, {reduce}: 9 × 9>"


def test_a_single_head_among_several_is_its_own_map() -> None:
    attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3))
    one = attention.map(heads=[(1, 2)], reduce="max")
    assert (one.layer, one.head, one.heads, one.maps) == (1, 2, (), 1)
    assert repr(one) == "<Map attention, layer 1, head 2: 3 × 3>"
    assert "5.7 and 2 more" not in repr(attention.map(heads=[(i, h) for i in range(2) for h in range(4)]))
    assert " and 2 more, mean" in repr(attention.map(heads=[(i, h) for i in range(2) for h in range(4)]))


def test_what_one_of_several_heads_may_not_see_counts_as_nothing_there() -> None:
    q = torch.zeros(2, 4, 2)
    mask = torch.stack([torch.ones(4, 4).tril().bool(), torch.eye(4).bool()])
    attention = Attention.from_qk(q, q, mask=mask)
    some = attention.map(heads=[(0, 0), (0, 1)])
    torch.testing.assert_close(some.row(3), torch.tensor([0.125, 0.125, 0.125, 0.625]))
    assert some.allowed(torch.tensor([3])).tolist() == [[True] * 4]
    assert attention.map(heads=[(0, 1)]).allowed(torch.tensor([3])).tolist() == [[False, False, False, True]]


def test_nan_in_one_head_does_not_reach_beyond_what_it_may_see() -> None:
    q, k = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(4))
    q[1, 1] = torch.nan
    some = Attention.from_qk(q, k, causal=True).map(heads=[(0, 0), (0, 1)], reduce="max")
    assert some.weights().isnan().tolist() == [[False] * 3, [True, True, False], [False] * 3]


@pytest.mark.parametrize(
    ("heads", "kind", "words"),
    [
        ([], ValueError, "heads is empty"),
        ([(0,)], TypeError, r"it must be a list of pairs"),
        ([0, 1], TypeError, "it must be a list of pairs"),
        ("ab", TypeError, "it must be a list of pairs"),
        ([(0, None)], TypeError, "it must be a list of pairs"),
        ([(2, 0)], IndexError, "There is no layer 2 in attention: it has 2, 0 to 1"),
        ([(0, 4)], IndexError, "There is no head 4 in attention, layer 0: it has 4"),
    ],
)
def test_heads_that_do_not_exist_are_refused_in_words(heads: Any, kind: type[Exception], words: str) -> None:
    attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3))
    with pytest.raises(kind, match=words):
        attention.map(heads=heads)
    with pytest.raises(ValueError, match="not both"):
        attention.map(1, heads=[(0, 0)])
