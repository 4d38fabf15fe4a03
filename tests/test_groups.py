"""Maps between words, sentences and segments: sums over keys, means over queries, and rows that still sum to one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attnwidget.masks
from attnwidget import Attention, capture, tiny
from attnwidget.maps import Map
from attnwidget.tokens import Tokens, numbered


def dense(weights: Tensor, of_query: Any, of_key: Any, seeing: Tensor) -> Tensor:
    """Oracle: two matrices in float64, the means over queries and the sums over keys, left and right of the map."""
    rows, cols = (
        torch.nn.functional.one_hot(torch.tensor(numbered(of, len(of)))).double() for of in (of_query, of_key)
    )
    counted = rows * seeing.double()[:, None]
    means = counted / counted.sum(0).clamp(min=1)
    return means.T @ weights.double() @ cols


def causal(n: int, seed: int = 0, heads: int = 2) -> Attention:
    q, k = torch.randn(2, 2, heads, n, 4, generator=torch.Generator().manual_seed(seed))
    return Attention.from_qk(q, k, causal=True)


def groups(n: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(-1, 4), min_size=n, max_size=n)


CASES = st.integers(1, 9).flatmap(lambda n: st.tuples(groups(n), groups(n), st.integers(0, 99)))


@given(CASES, st.sampled_from([(0, 0), (1, None), (None, 1), (None, None)]), st.sampled_from(["mean", "max", "min"]))
@settings(max_examples=150, deadline=None)
def test_a_grouped_map_is_a_product_of_matrices(case: Any, which: Any, reduce: Any) -> None:
    """Oracle: mean matrix · map · sum matrix, in float64; row, column, tile and weights say the same."""
    of_query, of_key, seed = case
    map = causal(len(of_query), seed).map(*which, reduce=reduce)
    shown = map.grouped((of_query, of_key))
    whole = shown.weights()
    oracle = dense(map.weights(), of_query, of_key, torch.ones(len(of_query)))
    torch.testing.assert_close(whole.double(), oracle, atol=1e-6, rtol=0)
    assert whole.dtype == torch.float32
    assert shown.shape == whole.shape == (len(shown.queries), len(shown.keys))
    last = shown.shape[0] - 1
    torch.testing.assert_close(shown.row(-1), whole[last], atol=1e-6, rtol=0)
    torch.testing.assert_close(shown.column(-1), whole[:, -1], atol=1e-6, rtol=0)
    torch.testing.assert_close(shown.tile([last, 0, last], slice(None)), whole[[last, 0, last]], atol=1e-6, rtol=0)
    if reduce == "mean":
        torch.testing.assert_close(whole.sum(-1), torch.ones(len(whole)), atol=1e-6, rtol=0)


@given(CASES)
@settings(max_examples=50, deadline=None)
def test_groups_of_one_change_nothing_and_one_group_of_keys_takes_all(case: Any) -> None:
    of_query, _, seed = case
    n = len(of_query)
    map = causal(n, seed)[0, 1]
    torch.testing.assert_close(map.grouped(([-1] * n, range(n))).weights(), map.weights(), atol=0, rtol=0)
    torch.testing.assert_close(
        map.grouped((of_query, [0] * n)).weights(), torch.ones(max(numbered(of_query, n)) + 1, 1), atol=1e-6, rtol=0
    )


@given(CASES, st.lists(st.integers(0, 2), min_size=9, max_size=9))
@settings(max_examples=100, deadline=None)
def test_grouping_groups_is_grouping_once_where_means_are_weighted_by_size(case: Any, coarse: list[int]) -> None:
    """Oracle: the coarse map from the fine one. Sums add up as they are; means count as many tokens as they are of."""
    of_query, of_key, seed = case
    map = causal(len(of_query), seed)[0, 0]
    fine = map.grouped((of_query, of_key))
    fine_query, fine_key = numbered(of_query, len(of_query)), numbered(of_key, len(of_key))
    once = map.grouped(([coarse[g] for g in fine_query], [coarse[g] for g in fine_key]))
    sizes = torch.tensor(fine_query).bincount().double()
    rows, cols = (
        torch.nn.functional.one_hot(torch.tensor(numbered(coarse[:size], size))).double() for size in fine.shape
    )
    means = (rows * sizes[:, None]) / (rows * sizes[:, None]).sum(0)
    torch.testing.assert_close(once.weights().double(), means.T @ fine.weights().double() @ cols, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("head", [0, None])
def test_padded_queries_do_not_count_unless_a_group_has_no_others(stored: bool, head: int | None) -> None:
    """Oracle: the product of matrices with rows of padding left out."""
    keep = torch.tensor([False, False, True, True, True])
    q, k = torch.randn(2, 2, 5, 4, generator=torch.Generator().manual_seed(1))
    attention = Attention.from_qk(q, k, mask=keep[:, None] & keep)
    map = attention[0, head]
    if stored:
        attention = Attention.from_weights(torch.stack([attention[0, 0].weights(), attention[0, 1].weights()]))
        map = attention[0, head]
    of = [0, 1, 1, 2, 2]
    shown = map.grouped((of, of)).weights()
    torch.testing.assert_close(shown.double(), dense(map.weights(), of, of, keep), atol=1e-6, rtol=0)
    torch.testing.assert_close(shown.sum(-1), torch.tensor([0.0, 1.0, 1.0]), atol=1e-6, rtol=0)


def test_the_least_of_several_heads_may_be_nothing_and_still_counts() -> None:
    heads = torch.stack([torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])])
    map = Attention.from_weights(heads).map(0, None, reduce="min")
    assert map.grouped(([0, 0], [-1, -1])).weights().tolist() == [[0.5, 0.0]]


def test_sinks_leak_as_much_as_before() -> None:
    """Oracle: what each row of the tokens sums to, averaged."""
    q, k = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(2))
    # The second head's sink takes all there is: its rows are zero, and are no padding.
    map = Attention.from_qk(q, k, causal=True, sink=torch.tensor([0.5, 300.0]))
    of = [0, 0, 0, 1, 1, -1]
    for head in (0, 1):
        sums = map[0, head].weights().sum(-1)
        assert (sums < 0.95).all()
        expected = torch.stack([sums[:3].mean(), sums[3:5].mean(), sums[5]])
        torch.testing.assert_close(map[0, head].grouped((of, of)).weights().sum(-1), expected, atol=1e-6, rtol=0)
    mixed = torch.stack([map[0, head].weights() for head in (0, 1)]).mean(0)
    torch.testing.assert_close(
        map[0, None].grouped((of, of)).weights().double(), dense(mixed, of, of, torch.ones(6)), atol=1e-6, rtol=0
    )


def test_nan_stays_where_it_is() -> None:
    weights = torch.eye(3)
    weights[0, 0] = torch.nan
    shown = Attention.from_weights(weights)[0, 0].grouped(([0, 0, 1], [0, 0, 1])).weights()
    assert torch.isnan(shown).tolist() == [[True, False], [False, False]]


def test_words_of_a_model_with_special_tokens_by_themselves() -> None:
    model, tokenizer = tiny.decoder()
    attention = capture(model, "Zebras' cats sat. The dog ran!", tokenizer)
    map = attention[1, 0]
    words = map.grouped("word")
    assert words.keys.labels == ("<s>", "Zebras", "'", "cats", "sat", ".", "The", "dog", "ran", "!")
    assert words.keys.special == (True, *[False] * 9)
    of = map.queries.words()
    torch.testing.assert_close(
        words.weights().double(), dense(map.weights(), of, of, torch.ones(len(map.queries))), atol=1e-6, rtol=0
    )
    assert map.grouped("sentence").queries.labels == ("<s>", "Zebras' cats sat.", "The dog ran!")
    assert map.grouped("segment").queries.labels == ("<s>", "Zebras' cats sat. The dog ran!")


def test_an_axis_without_text_stays_as_it_is_beside_one_with_text() -> None:
    text = Tokens(labels=("a", "b", "c"), spans=((0, 1), (1, 2), (3, 4)), text="ab c")
    frames = Tokens.frames(4, 0.02)
    map = Attention.from_weights(torch.full((3, 4), 0.25), tokens=(text, frames))[0, 0]
    words = map.grouped("word")
    assert (words.queries.labels, words.keys) == (("ab", "c"), frames)
    assert repr(words) == "<<Map attention, layer 0, head 0: 3 × 4> in 2 × 4 groups>"


def test_what_cannot_be_grouped_says_why() -> None:
    map = causal(3)[0, 0]
    with pytest.raises(ValueError, match="There is no text to find a word in"):
        map.grouped("word")
    with pytest.raises(ValueError, match="by is 'phrase'; it must be word, sentence, segment or a pair"):
        map.grouped("phrase")
    with pytest.raises(ValueError, match="2 group numbers for 3 tokens"):
        map.grouped(([0, 1], [0, 1, 2]))
    with pytest.raises(IndexError, match="There is no query group 2 in attention: it has 2, 0 to 1"):
        map.grouped(([0, 0, 1], [0, 0, 1])).row(2)


def test_the_map_of_the_tokens_is_never_there_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the size of every block of rows that is asked for, and the result of doing it in one piece."""
    n = 64
    of = [i // 4 for i in range(n)]
    whole = causal(n)[0, 0].grouped((of, of)).weights()
    asked: list[int] = []
    rows = Map._rows

    def counting(self: Map, some: Tensor) -> Tensor:
        asked.append(len(some) * n)
        return rows(self, some)

    monkeypatch.setattr(Map, "_rows", counting)
    monkeypatch.setattr(attnwidget.masks, "BLOCK_ENTRIES", 8 * n)
    torch.testing.assert_close(causal(n)[0, 0].grouped((of, of)).weights(), whole, atol=1e-7, rtol=0)
    assert max(asked) <= 8 * n
    assert sum(asked) == n * n
    asked.clear()
    causal(n)[0, 0].grouped((of, of)).row(3)
    assert asked == [4 * n]
