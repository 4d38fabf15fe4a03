"""Two attentions on common axes: how their tokens are aligned, what is subtracted, and how much a head changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnwidget.masks
from attnwidget import compare, wire
from attnwidget.attention import Attention
from attnwidget.blocks import unpack
from attnwidget.compare import Aligned, Difference
from attnwidget.layers import Layer, Part
from attnwidget.masks import Mask
from attnwidget.tokens import Tokens

NAN = math.nan
A = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.2, 0.3, 0.5]])
B = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.1, 0.2, 0.7, 0.0], [0.4, 0.1, 0.1, 0.4]])


def pair() -> Difference:
    """Of "a b c" and "a x b c": x stands on one side only."""
    return compare(
        Attention.from_weights(A, ["a", "b", "c"]),
        Attention.from_weights(B, ["a", "x", "b", "c"]),
        names=("one", "two"),
    )


def close(found: Tensor, wanted: Any) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), equal_nan=True, atol=1e-6, rtol=0)


def random(layers: int = 2, heads: int = 3, n: int = 7, seed: int = 0, tokens: Any = None, **options: Any) -> Attention:
    q, k = torch.randn(2, layers, heads, n, 4, generator=torch.Generator().manual_seed(seed)) * 2
    return Attention.from_qk(q, k, tokens, **{"causal": True, **options})


# ── alignment ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("a", "b", "labels", "of_a", "of_b"),
    [
        ("a b c", "a b c", "a b c", [0, 1, 2], [0, 1, 2]),
        ("a b c", "a x c", "a b|x c", [0, 1, 2], [0, 1, 2]),
        ("a b c", "a c", "a b c", [0, 1, 2], [0, -1, 1]),
        ("a b c", "x a b c y", "x a b c y", [-1, 0, 1, 2, -1], [0, 1, 2, 3, 4]),
        ("a b", "c d e", "a b c d e", [0, 1, -1, -1, -1], [-1, -1, 0, 1, 2]),
        ("a a a", "a a", "a a a", [0, 1, 2], [0, 1, -1]),
        ("a b x c", "a c y b", "a b c y|x c b", None, None),
    ],
)
def test_tokens_stand_with_their_like(a: str, b: str, labels: str, of_a: Any, of_b: Any) -> None:
    found = Aligned.of(Tokens.named(a.split()), Tokens.named(b.split()))
    if of_a is not None:
        assert found.tokens.labels == tuple(labels.replace("|", " | ").split(" ")) or found.tokens.labels == tuple(
            label.replace("|", " | ") for label in labels.split()
        )
        assert (found.a, found.b) == (tuple(of_a), tuple(of_b))
    # Whatever they are: every token of each side has one place, in its order.
    assert [i for i in found.a if i >= 0] == list(range(len(a.split())))
    assert [i for i in found.b if i >= 0] == list(range(len(b.split())))
    assert all(i >= 0 or j >= 0 for i, j in zip(found.a, found.b, strict=True))


def test_long_texts_that_differ_in_a_word_are_aligned_at_once() -> None:
    many = ["the", "cat"] * 4000
    found = Aligned.of(Tokens.named([*many, "x", *many]), Tokens.named([*many, "y", "z", *many]))
    assert (found.a[8000:8003], found.b[8000:8003]) == ((8000, -1, -1), (-1, 8000, 8001))


def texts(text: str) -> Tokens:
    import re

    found = [(one.start(), one.end()) for one in re.finditer(r"\w+|[^\w\s]", text)]
    return Tokens(tuple(text[a:b] for a, b in found), spans=tuple(found), text=text)


def test_words_are_found_in_the_common_text() -> None:
    common = Aligned.of(texts("The cat sat.\nIt ran."), texts("The old dog sat.\nIt fled.")).tokens
    assert common.labels == ("The", "cat", "old", "dog", "sat", ".", "It", "ran | fled", ".")
    assert common.text == "The cat old dog sat.\nIt ran | fled."
    assert common.words() == (0, 1, 2, 3, 4, 5, 6, 7, 8)
    assert common.sentences() == (0, 0, 0, 0, 0, 0, 1, 1, 1)
    assert common.before == ("", " ", " ", " ", " ", "", "\n", " ", "")


def test_marks_of_both_sides_are_kept() -> None:
    a = Tokens(("[CLS]", "b", "c"), special=(True, False, False), generated=(False, False, True), segments=(-1, 0, 1))
    b = Tokens(("[CLS]", "x", "b"), special=(True, False, False), generated=(False, False, True), segments=(-1, 0, 1))
    found = Aligned.of(a, b).tokens
    assert found.labels == ("[CLS]", "x", "b", "c")
    assert found.special == (True, False, False, False)
    assert found.generated == (False, False, True, True)
    assert found.segments == (-1, 0, 0, 1)


# ── maps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_difference_by_hand() -> None:
    compared = pair()
    part = compared.part()
    assert part.queries.labels == ("a", "x", "b", "c")
    assert (part.of_keys.a, part.of_keys.b) == ((0, -1, 1, 2), (0, 1, 2, 3))
    wanted = [[0.0, NAN, 0, 0], [NAN, NAN, NAN, NAN], [0.15, NAN, 0.05, 0], [-0.2, NAN, 0.2, 0.1]]
    shown = compared.map(0, 0)
    close(shown.weights(), wanted)
    close(shown.row(-1), wanted[3])
    close(shown.column(2), [row[2] for row in wanted])
    close(shown.tile([3, 0], slice(0, 3)), [wanted[3][:3], wanted[0][:3]])
    close(compared.map(0, 0, side="b").weights(), B.tolist())
    ones = [[1.0, NAN, 0, 0], [NAN] * 4, [0.25, NAN, 0.75, 0], [0.2, NAN, 0.3, 0.5]]
    close(compared.map(0, 0, side="a").weights(), ones)
    assert repr(shown) == "<Map attention of one − two, layer 0, head 0: 4 × 4>"
    assert "of two, " in repr(compared.map(0, 0, side="b"))


def test_the_change_of_a_head_by_hand() -> None:
    """Queries a, b and c are on both sides; the weight on x counts as well."""
    apart = [0, 0.15 + 0.2 + 0.05, 0.2 + 0.1 + 0.2 + 0.1]
    close(pair().change(), [[sum(apart) / 3 / 2]])


def test_what_goes_to_a_sink_has_moved_too() -> None:
    q = torch.zeros(1, 2, 2)
    a = Attention.from_qk(q, q)
    b = Attention.from_qk(q, q, sink=torch.tensor([500.0]))
    close(compare(a, b).change(), [[1.0]])


def test_an_attention_differs_nowhere_from_itself() -> None:
    attention = random()
    compared = compare(attention, attention)
    assert float(compared.change().abs().max()) == 0
    assert float(compared.map().weights().abs().max()) == 0


@pytest.mark.parametrize("at_once", [30, 1 << 24])
def test_changes_are_streamed_and_ranked(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: whole maps, subtracted."""
    monkeypatch.setattr(attnwidget.masks, "BLOCK_ENTRIES", at_once)
    a, b = random(seed=1), random(seed=2)
    compared = compare(a, b)
    dense = torch.stack([torch.stack([a[i, h].weights() - b[i, h].weights() for h in range(3)]) for i in range(2)])
    oracle = dense.abs().sum(-1).mean(-1) / 2
    torch.testing.assert_close(compared.change(), oracle, atol=1e-6, rtol=0)
    ranked = compared.ranking(4)
    assert [value for *_, value in ranked] == sorted(oracle.flatten().tolist(), reverse=True)[:4] or np.allclose(
        [value for *_, value in ranked], sorted(oracle.flatten().tolist(), reverse=True)[:4], atol=1e-6
    )
    assert all(math.isclose(value, float(oracle[layer, head]), abs_tol=1e-6) for layer, head, value in ranked)
    assert len(compared.ranking(100)) == 6
    with pytest.raises(ValueError, match="k is 0"):
        compared.ranking(0)


@pytest.mark.parametrize("reduce", ["mean", "max", "min"])
def test_heads_are_reduced_first_and_then_subtracted(reduce: Any) -> None:
    """Oracle: the maps of either side."""
    a, b = random(seed=1), random(seed=2)
    compared, heads = compare(a, b), [(0, 1), (1, 2)]
    for which in ({"layer": 1}, {"head": 2}, {}, {"heads": heads}):
        options: dict[str, Any] = {**which, "reduce": reduce}
        wanted = a.map(**options).weights() - b.map(**options).weights()
        torch.testing.assert_close(compared.map(**options).weights(), wanted, atol=1e-6, rtol=0)


def test_groups_of_a_difference_leave_out_what_a_side_lacks() -> None:
    groups = [0, 0, 1, 1], [0, 1, 0, 1]
    # Of queries a and x only a counts; of keys x and c only c.
    wanted = [[0.0, 0.0], [(0.15 + 0.05 - 0.2 + 0.2) / 2, 0.1 / 2]]
    close(pair().map(0, 0).grouped(groups).weights(), wanted)
    close(pair().map(0, 0).grouped(([0, 1, 2, 2], [0, 1, 2, 2])).row(1), [NAN, NAN, NAN])


def test_layers_without_attention_and_nan_have_no_change() -> None:
    def hybrid(seed: int) -> Attention:
        weights = torch.rand(1, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
        layers = Layer("0", Mask.full(3, 3), weights=weights), Layer.gap("1", "a mixer", 3, 3)
        axis = Tokens.named("abc")
        return Attention([Part("decoder", layers, axis, axis)])

    compared = compare(hybrid(1), hybrid(2))
    assert compared.change().isnan().tolist() == [[False, False], [True, True]]
    assert [layer for layer, _, _ in compared.ranking()] == [0, 0]


def test_two_texts_of_one_batch_can_be_compared() -> None:
    weights = torch.rand(1, 2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    both = Attention.from_weights(weights)
    compared = compare(both.select(0), both.select(1))
    assert (compared.samples, compared.sample) == (1, 0)
    close(compared.map(0, 0).weights(), (weights[0, 0, 0] - weights[0, 1, 0]).tolist())
    inner = unpack(bytes(unpack(wire.bundle(compared)).arrays["other"]))
    assert inner.meta["samples"] == {"count": 1, "at": 0, "noun": "sample"}
    row = {"id": 1, "want": "row", "part": "attention", "layer": 0, "head": 0, "index": 2, "sample": 0, "exact": True}
    _, pieces = wire.answer(compared, {**row, "side": "b"})
    np.testing.assert_array_equal(unpack(b"".join(pieces)).arrays["exact"][0], weights[0, 1, 0, 2])
    whole = compare(both, both)
    assert whole.samples == 2
    assert whole.select(1).a.sample == 1
    with pytest.raises(IndexError, match="Sample 2 of a comparison of 2"):
        whole.select(2)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (random(layers=3), "in attention, A has 2 layers and B has 3"),
        (random(heads=4), "in layer 0 of attention, A has 3 heads and B has 4"),
        (random(part="decoder"), "A has the parts 'attention', and B has 'decoder'"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(other: Attention, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare(random(), other)


def test_bad_arguments_are_refused_in_words() -> None:
    with pytest.raises(TypeError, match="Two Attentions can be compared; this is a Tensor"):
        compare(random(), torch.eye(3))  # type: ignore[arg-type]
    for names in (("A",), "AB", ("A", "A"), ("A", ""), (1, 2)):
        with pytest.raises(ValueError, match="two different texts"):
            compare(random(), random(), names=names)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="side is 'c'; it must be one of difference, a, b"):
        compare(random(), random()).map(0, 0, side="c")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="There is no head 3"):
        compare(random(), random()).map(0, 3)
    with pytest.raises(KeyError, match="no part 'cross'"):
        compare(random(), random()).map(part="cross")


# ── on the wire ───────────────────────────────────────────────────────────────────────────────────────────────────────


def decoded(codes: Any, vmax: float) -> Tensor:
    """Oracle: the browser's rule."""
    step = (codes.astype(float) - 125) / 125
    values = np.sign(step) * step**2 * vmax
    return torch.from_numpy(np.where(codes == 255, -9, np.where(codes > 250, NAN, values))).float()


@pytest.mark.parametrize("n", [7, 60])
def test_the_bundle_of_a_comparison(n: int) -> None:
    tokens = [f"t{i}" for i in range(n)]
    a, b = random(n=n, seed=1, tokens=tokens), random(n=n + 1, seed=2, tokens=["new", *tokens])
    compared = compare(a, b, names=("old", "new"))
    packed = unpack(wire.bundle(compared, budget=400_000, first=[("attention", 1, 2, "mean")]))
    meta, (part,) = packed.meta, packed.meta["parts"]
    assert meta["sides"] == ["old", "new"]
    assert meta["axes"][part["keys"]]["labels"] == ["new", *tokens]
    assert part["aligned"]["keys_a"] == [-1, *range(n)] == part["aligned"]["queries_a"]
    assert part["aligned"]["keys_b"] == [*range(n + 1)]
    assert [one["name"] for one in part["measures"]][:2] == ["change", "entropy"]
    np.testing.assert_allclose(part["measures"][0]["values"], compared.change(), rtol=1e-4)
    assert unpack(bytes(packed.arrays["map/attention/1/2"])).meta["n_q"] == n
    inner = unpack(bytes(packed.arrays["other"]))
    assert unpack(bytes(inner.arrays["map/attention/1/2"])).meta["n_q"] == n + 1
    assert "thumbs/attention" in inner.arrays and "thumbs/attention" in packed.arrays

    block = unpack(bytes(packed.arrays["thumbs/attention/difference"]))
    assert block.meta["signed"] is True
    for reduce, place, which in (("heads", (1, 2), (1, 2)), ("max", (0,), (0, None)), ("min", (3,), (None, 1))):
        found = decoded(block.arrays[reduce][place], block.meta["vmax"])
        whole = compared.map(*which, reduce="mean" if reduce == "heads" else reduce).weights()
        if n == 7:
            above = torch.ones(n + 1, n + 1).triu(1).bool()
            above[0] = above[:, 0] = False
            wanted = whole.masked_fill(above, -9)
            torch.testing.assert_close(found, wanted, equal_nan=True, atol=0.01, rtol=0)
        else:
            assert found.shape == (48, 48)
            size = whole[1:, 1:].abs().max()
            assert abs(float(found[found > -9].abs().nan_to_num(0).max()) - float(size)) < 0.02


def test_a_comparison_keeps_within_its_budget() -> None:
    compared = compare(random(n=100, seed=1), random(n=100, seed=2))
    assert 60_000 < len(wire.bundle(compared, budget=120_000)) <= 120_000


def test_either_side_answers() -> None:
    a, b = random(seed=1), random(seed=2)
    compared = compare(a, b)
    asked = {"id": 1, "want": "map", "part": "attention", "layer": 1, "head": 2, "sample": 0}
    assert wire.answer(compared, asked) == wire.answer(a, asked)
    assert wire.answer(compared, {**asked, "side": "a"}) == wire.answer(a, asked)
    assert wire.answer(compared, {**asked, "side": "b"}) == wire.answer(b, asked)
    assert wire.answer(a, {**asked, "side": "b"})[0]["message"].startswith("There is no side b")
    assert "side is 'c'" in wire.answer(compared, {**asked, "side": "c"})[0]["message"]
    _, pieces = wire.answer(compared, {**asked, "want": "measures"})
    assert unpack(b"".join(pieces)).meta["measures"][0]["name"] == "change"
    measures = {**asked, "want": "measures", "side": "b"}
    _, pieces = wire.answer(compared, measures)
    assert unpack(b"".join(pieces)).meta["measures"][0]["name"] == "entropy"
