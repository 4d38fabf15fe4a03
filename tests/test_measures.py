"""Numbers per head equal the formulas, written out densely in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from attnwidget import measures
from attnwidget.attention import Attention
from attnwidget.capture import capture
from attnwidget.layers import Layer, Part
from attnwidget.masks import Mask
from attnwidget.measures import STATISTICS, statistics
from attnwidget.tokens import Tokens
from models import VOCABULARY, make

SQUARE = {"distance", "previous", "diagonal"}


def by_formula(p: torch.Tensor, padding: set[int]) -> dict[str, float]:
    """The oracle: one number after the other, in float64, from a map [query, key] and the places of its padding."""
    found: dict[str, list[float]] = {name: [] for name in STATISTICS}
    first = min(set(range(p.shape[1])) - padding)
    for i, row in enumerate(p.double().tolist()):
        if i in padding:
            continue
        total = sum(row)
        entropy = -sum(x / total * math.log(x / total) for x in row if x > 0)
        found["entropy"].append(entropy)
        found["effective"].append(math.exp(entropy))
        found["distance"].append(sum(x / total * abs(i - j) for j, x in enumerate(row)))
        found["first"].append(row[first])
        found["leak"].append(1 - total)
        if i < p.shape[1]:
            found["diagonal"].append(row[i])
        if i and i - 1 not in padding:
            found["previous"].append(row[i - 1])
    return {name: sum(values) / len(values) for name, values in found.items()}


def largest_difference(attention: Attention, part: str, padding: set[int], names: set[str]) -> float:
    numbers = statistics(attention, part, names)
    worst = 0.0
    for layer, one in enumerate(attention.part(part).layers):
        for head in range(one.heads):
            oracle = by_formula(attention[part, layer, head].weights(), padding)
            worst = max(worst, *(abs(float(numbers[name][layer, head]) - oracle[name]) for name in names))
    return worst


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss", "bert", "t5", "bloom"])
def test_statistics_equal_the_formulas(family: str) -> None:
    model, inputs = make(family)
    attention = capture(model, inputs)
    for part in attention.parts:
        names = set(STATISTICS) - (SQUARE if part == "cross" else set())
        assert largest_difference(attention, part, set(), names) <= 1e-5
    if family == "gpt_oss":
        assert statistics(attention)["leak"].max() > 0.1, "sinks take weight: without it nothing is tested"


def test_rows_are_computed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks, the numbers are the same."""
    model, inputs = make("llama")
    attention = capture(model, inputs)
    whole = statistics(attention)
    monkeypatch.setattr(measures, "_BLOCK", 5 * 4 * 23)
    for name, found in statistics(attention).items():
        assert float((found - whole[name]).abs().max()) <= 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padding_does_not_count(family: str, side: str) -> None:
    """Two oracles: the formulas without padding, and the text by itself."""
    model, _ = make(family)
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    keep = torch.ones_like(ids)
    padding = set(range(4)) if side == "left" else set(range(5, 9))
    keep[1, list(padding)] = 0
    positions = (keep.cumsum(1) - 1).clamp_min(0)
    batch = capture(model, {"input_ids": ids, "attention_mask": keep, "position_ids": positions})
    alone = statistics(capture(model, {"input_ids": ids[1:, keep[1].bool()]}))
    numbers = statistics(batch.select(1))
    if side == "left":
        assert largest_difference(batch.select(1), "decoder", padding, set(STATISTICS)) <= 1e-5
        for name, found in numbers.items():
            assert float((found - alone[name]).abs().max()) <= 1e-5, name
    assert not torch.equal(numbers["first"], statistics(batch.select(0))["first"])


def test_closed_forms() -> None:
    n = 8
    uniform, own, before = torch.full((n, n), 1 / n), torch.eye(n), torch.eye(n).roll(1, 0)
    before[0] = own[0]
    causal = torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]
    numbers = statistics(Attention.from_weights(torch.stack([uniform, own, before, causal, uniform / 4])))
    expected: dict[str, Any] = {
        "entropy": [math.log(n), 0, 0, sum(math.log(i) for i in range(1, n + 1)) / n, math.log(n)],
        "effective": [n, 1, 1, (n + 1) / 2, n],
        "distance": [(n * n - 1) / (3 * n), 0, (n - 1) / n, (n - 1) / 4, (n * n - 1) / (3 * n)],
        "first": [1 / n, 1 / n, 2 / n, sum(1 / i for i in range(1, n + 1)) / n, 1 / (4 * n)],
        "previous": [1 / n, 0, 1, sum(1 / i for i in range(2, n + 1)) / (n - 1), 1 / (4 * n)],
        "diagonal": [1 / n, 1, 1 / n, sum(1 / i for i in range(1, n + 1)) / n, 1 / (4 * n)],
        "leak": [0, 0, 0, 0, 0.75],
    }
    for name, values in expected.items():
        assert numbers[name][0].tolist() == pytest.approx(values, rel=1e-6, abs=1e-6), name
        assert numbers[name].dtype == torch.float32


def test_a_row_that_gives_everything_to_a_sink_still_counts() -> None:
    q = torch.zeros(1, 3, 4)
    attention = Attention.from_qk(q, q, sink=torch.tensor([500.0]))
    numbers = statistics(attention)
    assert numbers["leak"].item() == 1
    assert numbers["first"].item() == 0
    assert numbers["entropy"].item() == 0


def test_there_is_no_number_where_there_is_no_head_or_no_meaning() -> None:
    def layer(heads: int) -> Layer:
        return Layer("some", Mask.full(4, 4), weights=torch.full((1, heads, 4, 4), 0.25))

    text = Tokens.named("abcd")
    layers = (layer(3), Layer.gap("mixer", "Mixer: no attention seen", 4, 4), layer(1))
    numbers = statistics(Attention([Part("decoder", layers, text, text)]))
    there = [[True] * 3, [False] * 3, [True, False, False]]
    for name, found in numbers.items():
        assert (~found.isnan()).tolist() == there, name

    other = statistics(Attention([Part("decoder", (layer(1),), text, Tokens.named("abce"))]))
    assert {name for name, found in other.items() if found.isnan().all()} == SQUARE
    cross = statistics(Attention([Part("cross", (layer(1),), text, text)]))
    assert {name for name, found in cross.items() if found.isnan().all()} == SQUARE
    image = Tokens.patches(2, 2)
    image_numbers = statistics(Attention([Part("vision", (layer(1),), image, image)]))
    assert {name for name, found in image_numbers.items() if found.isnan().all()} == {"distance", "previous"}


def test_not_a_number_stays_one() -> None:
    weights = torch.eye(3).expand(2, 3, 3).clone()
    weights[1, 2, 0] = torch.nan
    for name, found in statistics(Attention.from_weights(weights)).items():
        assert found.isnan().tolist() == [[False, name not in ("previous", "diagonal")]], name


def test_only_what_is_asked_for_and_nothing_unknown() -> None:
    attention = Attention.from_weights(torch.eye(3))
    assert set(statistics(attention, names=["leak", "first"])) == {"leak", "first"}
    assert set(statistics(attention, names="leak")) == {"leak"}
    with pytest.raises(ValueError, match=r"no statistic 'perplexity'; there are entropy, effective"):
        statistics(attention, names=["leak", "perplexity"])
    with pytest.raises(ValueError, match="names is empty"):
        statistics(attention, names=[])
    with pytest.raises(KeyError, match="no part 'encoder'"):
        statistics(attention, "encoder")


def test_some_queries_may_stand_for_all() -> None:
    """Oracle: the mean over one row at a time."""
    model, inputs = make("llama")
    attention, some = capture(model, inputs), torch.tensor([3, 7, 8])
    each = [statistics(attention, queries=some[at : at + 1]) for at in range(3)]
    for name, found in statistics(attention, queries=some).items():
        assert float((found - sum(one[name] for one in each) / 3).abs().max()) <= 1e-6, name
