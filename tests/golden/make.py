"""Writes the golden files: ``python tests/golden/make.py [folder]``.

A golden file is a block as :mod:`attnwidget.wire` packs it, beside a JSON file that says what a reader must find in it.
Both languages read them. What must be found is computed here, one entry at a time, in Python floats, from the
definition of attention; nothing of it comes from attnwidget.

    expect     {"rows": {"3": […]}, "columns": {"0": […]}}; "nan" is NaN, null a cell without weight (masked, padded)
    tolerance  largest difference of a weight
    map_keys   maps that a bundle holds
    combined   [{"heads": [[layer, head] …], "reduce", "group": whether words are put together, "side", "rows"}]: maps
               that are made of others: of several heads, of words, of both sides of a comparison; null is a cell
               without a number
    thumbs     {"heads": {"layer/head/row": […]}, "mean": {"index/row": […]} …, "allowed": {"layer": […]}}
    refuse     words of the error: the block cannot be read
    steps      {"tolerance", "cases": [{"query", "switches", "dot", "score", "weight", "leak", "entropy", "z",
               "contribution"}]}: one query of one head, with some of what it is computed from switched off; "dot" is
               q·k, "score" what the softmax gets, null where no weight is, and what has no values or no output
               projection has no "z" or "contribution"
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from attnwidget import Attention, compare, steps, thumbnails, wire
from attnwidget.layers import Layer, Part
from attnwidget.masks import Bias, Mask
from attnwidget.output import Output
from attnwidget.rotary import turned
from attnwidget.tokens import Tokens

Cells = list[list[float | None]]
N, D, HEADS = 40, 4, 4  # so long and so narrow that Q and K are shorter than the weights


# ── the definition ────────────────────────────────────────────────────────────────────────────────────────────────────


def attend(
    q: Any,
    k: Any,
    allowed: Callable[[int, int], bool],
    *,
    bias: Callable[[int, int], float] = lambda i, j: 0.0,
    softcap: float | None = None,
    sink: float | None = None,
) -> Cells:
    """Weights [query, key], None where attending is not allowed."""
    rows: Cells = []
    for i in range(len(q)):
        terms: dict[int, float] = {}
        for j in range(len(k)):
            if allowed(i, j):
                score = sum(float(a) * float(b) for a, b in zip(q[i], k[j], strict=True)) / math.sqrt(len(q[i]))
                if softcap is not None:
                    score = softcap * math.tanh(score / softcap)
                terms[j] = math.exp(score + bias(i, j))
        total = sum(terms.values()) + (math.exp(sink) if sink is not None else 0.0)
        rows.append([terms[j] / total if j in terms else None for j in range(len(k))])
    return rows


def over(maps: Sequence[Cells], how: Callable[[Sequence[float]], float]) -> Cells:
    """Reduced over maps that have the same cells without weight."""

    def joined(cells: Sequence[float | None]) -> float | None:
        return None if None in cells else how([cell for cell in cells if cell is not None])

    return [[joined(cells) for cells in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)]


def pooled(cells: Cells, rows: Sequence[range], cols: Sequence[range]) -> Cells:
    """The largest weight of each bin; None where a bin has none."""
    return [
        [max((c for i in some for j in others if (c := cells[i][j]) is not None), default=None) for others in cols]
        for some in rows
    ]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def everywhere(i: int, j: int) -> bool:
    return True


def causal(i: int, j: int) -> bool:
    return j <= i


# ── the cases ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def ask(attention: Attention, want: str = "map", head: int | None = 0, **fields: Any) -> bytes:
    request = {"id": 1, "want": want, "part": "attention", "layer": 0, "head": head, "reduce": "mean", **fields}
    reply, pieces = wire.answer(attention, request)
    assert reply["type"] == "block", reply
    return b"".join(pieces)


def sidecar(cells: Cells, tolerance: float, rows: Sequence[int] = (), cols: Sequence[int] = ()) -> Any:
    n_q, n_k = len(cells), len(cells[0])
    if not rows and not cols:
        rows, cols = sorted({0, 1, n_q // 2, n_q - 1}), sorted({0, n_k // 2, n_k - 1})
    return {
        "expect": {
            "rows": {str(i): [said(cell) for cell in cells[i]] for i in rows},
            "columns": {str(j): [said(row[j]) for row in cells] for j in cols},
        },
        "tolerance": tolerance,
    }


def said(cell: float | None) -> float | str | None:
    return "nan" if cell is not None and math.isnan(cell) else cell if cell is None else round(cell, 9)


def qk_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    def normal(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 1.5).astype(np.float32)

    def written(allowed: Callable[[int, int], bool]) -> Any:
        return np.array([[allowed(i, j) for j in range(N)] for i in range(N)])

    q, k, short = normal(HEADS, N, D), normal(HEADS, N, D), normal(2, N, D)
    other, scattered = normal(HEADS, N + 4, D), rng.random((HEADS, N, N)) < 0.4
    offsets, sinks = normal(HEADS, 2 * N - 1), [1.0, 2.0, 0.5, -1.0]
    toeplitz = np.array([[offsets[:, j - i + N - 1] for j in range(N)] for i in range(N)]).transpose(2, 0, 1)

    def window(i: int, j: int) -> bool:
        return i - 7 < j <= i

    def padded(i: int, j: int) -> bool:  # on the left: the first five rows see nothing
        return 5 <= j <= i

    h = 2
    cases: list[tuple[str, Attention, Cells]] = [
        ("full", Attention.from_qk(q, other), attend(q[h], other[h], everywhere)),
        ("causal", Attention.from_qk(q, k, causal=True), attend(q[h], k[h], causal)),
        ("window", Attention.from_qk(q, k, mask=written(window)), attend(q[h], k[h], window)),
        ("padding", Attention.from_qk(q, k, mask=written(padded)), attend(q[h], k[h], padded)),
        ("bits", Attention.from_qk(q, k, mask=scattered), attend(q[h], k[h], lambda i, j: bool(scattered[h, i, j]))),
        (
            "bias",
            Attention.from_qk(q, k, causal=True, bias=toeplitz),
            attend(q[h], k[h], causal, bias=lambda i, j: float(offsets[h, j - i + N - 1])),
        ),
        ("softcap", Attention.from_qk(q, k, causal=True, softcap=1.5), attend(q[h], k[h], causal, softcap=1.5)),
        ("sink", Attention.from_qk(q, k, causal=True, sink=sinks), attend(q[h], k[h], causal, sink=sinks[h])),
        ("gqa", Attention.from_qk(q, short, causal=True), attend(q[h], short[1], causal)),  # two heads share a key head
    ]
    for name, attention, cells in cases:
        yield f"qk-{name}", ask(attention, head=h), sidecar(cells, 1e-3)
        yield f"qk-{name}-exact", ask(attention, head=h, exact=True), sidecar(cells, 1e-5)


def weight_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    raw = rng.random((3, 20, 24)) ** 4
    weights = (raw / raw.sum(-1, keepdims=True)).astype(np.float32)
    plain = [[[float(p) for p in row] for row in head] for head in weights]
    attention = Attention.from_weights(weights)
    yield "weights", ask(attention), sidecar(plain[0], 1e-3)
    yield "weights-exact", ask(attention, exact=True), sidecar(plain[0], 1e-5)
    yield "weights-mean", ask(attention, head=None), sidecar(over(plain, mean), 1e-3)
    yield "weights-max", ask(attention, head=None, reduce="max", exact=True), sidecar(over(plain, max), 1e-5)
    yield "weights-min", ask(attention, head=None, reduce="min"), sidecar(over(plain, min), 1e-3)
    yield "row", ask(attention, "row", index=7), sidecar(plain[0], 1e-3, [7])
    yield "row-exact", ask(attention, "row", index=7, exact=True), sidecar(plain[0], 1e-5, [7])
    yield "column", ask(attention, "column", index=23), sidecar(plain[0], 1e-3, cols=[23])

    leaking = weights * np.linspace(0.2, 1, 20, dtype=np.float32)[:, None]
    cells: Cells = [[float(p) for p in row] for row in leaking[0]]
    yield "weights-leak", ask(Attention.from_weights(leaking)), sidecar(cells, 1e-3)
    broken = weights.copy()
    broken[0, 3:5, 2:] = np.nan
    cells = [[float(p) for p in row] for row in broken[0]]
    with_nan, lines = Attention.from_weights(broken), ([0, 3, 4, 19], [0, 2])
    yield "weights-nan", ask(with_nan), sidecar(cells, 1e-3, *lines)
    yield "weights-nan-exact", ask(with_nan, exact=True), sidecar(cells, 1e-5, *lines)

    q, k = (rng.standard_normal((12, 16)).astype(np.float32) for _ in range(2))

    def padded(i: int, j: int) -> bool:
        return 3 <= j <= i

    allowed = np.array([[padded(i, j) for j in range(12)] for i in range(12)])
    short = Attention.from_qk(q, k, mask=allowed)
    yield "weights-padding", ask(short), sidecar(attend(q, k, padded), 1e-3, [0, 2, 3, 11], [0, 3])
    row = sidecar(attend(q, k, padded), 1e-5, [1])
    yield "row-padding", ask(short, "row", index=1, exact=True), row

    view = attention.map(0, 1)
    steps = [range(i, min(i + 3, 20)) for i in range(0, 20, 3)], [range(j, min(j + 3, 24)) for j in range(0, 24, 3)]
    coarse = pooled(plain[1], *steps)
    spread: Cells = [[coarse[i // 3][j // 3] for j in range(24)] for i in range(20)]
    yield "weights-pooled", wire._weights(view, most=60), sidecar(spread, 1e-3)


def bundle_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    n = 58  # not a multiple of the 48 bins
    q, k = (rng.standard_normal((2, 3, n, D)).astype(np.float32) for _ in range(2))
    strange = ["<s>", " the", "</script><script>alert(1)</script>", "שלום", "\U0001f642", "\ud83d"]
    tokens = [*strange, *map(str, range(n - len(strange)))]
    attention = Attention.from_qk(q, k, tokens, causal=True, model="Golden")
    heads = {(layer, head): attend(q[layer, head], k[layer, head], causal) for layer in range(2) for head in range(3)}
    edges = [b * n // 48 for b in range(49)]
    bins = [range(a, b) for a, b in itertools.pairwise(edges)]

    def thumb(name: str, cells: Cells) -> Any:
        found = pooled(cells, bins, bins)
        return {f"{name}/{row}": [said(cell) for cell in found[row]] for row in (0, 1, 24, 47)}

    every = list(heads.values())
    _, block = thumbnails.thumbs(attention, attention.part())
    expected = {
        "heads": thumb("1/2", heads[1, 2]),
        "mean": thumb("0", over(every[:3], mean)) | thumb("3", over([heads[0, 1], heads[1, 1]], mean)),
        "max": thumb("5", over(every, max)),
        "min": thumb("1", over(every[3:], min)),
        "allowed": {"0": [mean([i + 1 for i in some]) for some in bins]},
    }
    yield "thumbs", block, {"thumbs": expected, "tolerance": 5e-3}  # half of the widest step of 250: 1 − (249.5 / 250)²
    packed = wire.bundle(attention, budget=24_000, first=[("attention", None, None, "mean")])
    keys = ["attention/*/*/mean", "attention/0/0"]
    yield "bundle", packed, {"map_keys": keys, "labels": [*attention.tokens.labels], "raw": tokens}

    batch = hybrid_batch(rng)
    packed = wire.bundle(batch, budget=80_000, first=[("decoder", 2, 0, "mean")])
    labels = [*batch.tokens.labels]
    yield "bundle-batch", packed, {"map_keys": ["decoder/2/0", "decoder/*/*/mean"], "labels": labels, "raw": labels}


def combined_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    """Several heads joined, tokens as words, and one attention less another on common axes."""
    text = Tokens(
        ("<s>", "un", "able", "cats", "ran", "."), special=(True, *(False,) * 5), text="unable cats\nran.",
        spans=((0, 0), (0, 2), (2, 6), (7, 11), (12, 15), (15, 16)),
    )  # fmt: skip
    words = [[0], [1, 2], [3], [4], [5]]
    other = Tokens(
        ("<s>", "un", "able", "dogs", "often", "ran", "."), special=(True, *(False,) * 6),
        text="unable dogs often\nran.", spans=((0, 0), (0, 2), (2, 6), (7, 11), (12, 17), (18, 21), (21, 22)),
    )  # fmt: skip
    (q, k), (q_b, k_b) = ((rng.standard_normal((2, 2, 3, n, D)).astype(np.float32)) for n in (6, 7))
    a, b = Attention.from_qk(q, k, text, causal=True), Attention.from_qk(q_b, k_b, other, causal=True)
    of_a, of_b = (
        {(layer, head): attend(q[layer, head], k[layer, head], causal) for layer in range(2) for head in range(3)}
        for q, k in ((q, k), (q_b, k_b))
    )
    heads = [(0, 1), (1, 0), (1, 2)]

    def lines(cells: Cells) -> list[list[float | str | None]]:
        return [[said(cell) for cell in row] for row in cells]

    combined = [
        {"heads": heads, "reduce": how.__name__, "group": group, "side": "difference",
         "rows": lines(in_groups(cells, words) if group else cells)}
        for how in (mean, max, min)
        for group in (False, True)
        for cells in [over([of_a[at] for at in heads], how)]
    ]  # fmt: skip
    combined.append(
        {"heads": heads[:1], "reduce": "mean", "group": True, "side": "difference",
         "rows": lines(in_groups(of_a[0, 1], words))}
    )  # fmt: skip
    first: list[wire.Selection] = [("attention", layer, head, "mean") for layer, head in heads]
    axis = {"labels": [*text.labels], "raw": [*text.labels]}
    keys = [f"attention/{layer}/{head}" for layer, head in heads]
    yield "bundle-combined", wire.bundle(a, budget=7_000, first=first), {
        "map_keys": keys, "combined": combined, "tolerance": 1e-3, **axis,
    }  # fmt: skip

    # <s> un able cats|dogs – ran .  beside  <s> un able dogs often ran .: "cats" against two words, which replace it.
    places = [(0, 0), (1, 1), (2, 2), (3, -1), (-1, 3), (-1, 4), (4, 5), (5, 6)]
    labels = ["<s>", "un", "able", "cats", "dogs", "often", "ran", "."]

    def side(cells: Cells, which: int) -> Cells:
        tokens = [place[which] for place in places]
        return [[None if i < 0 or j < 0 else cells[i][j] for j in tokens] for i in tokens]

    def less(p: Cells, q: Cells) -> Cells:
        found: Cells = []
        for i, (row_a, row_b) in enumerate(zip(p, q, strict=True)):
            found.append([])
            for j, (x, y) in enumerate(zip(row_a, row_b, strict=True)):
                there = -1 not in (*places[i], *places[j])
                found[-1].append((x or 0.0) - (y or 0.0) if there and (x is not None or y is not None) else None)
        return found

    common = [[0], [1, 2], [3], [4], [5], [6], [7]]
    sides = {"a": side(of_a[1, 0], 0), "b": side(of_b[1, 0], 1)}
    sides["difference"] = less(sides["a"], sides["b"])
    combined = [
        {"heads": [(1, 0)], "reduce": "mean", "group": group, "side": name,
         "rows": lines(in_groups(cells, common) if group else cells)}
        for name, cells in sides.items()
        for group in (False, True)
    ]  # fmt: skip
    packed = wire.bundle(compare(a, b, names=("cats", "dogs")), budget=15_000, first=first)
    yield "bundle-compared", packed, {
        "map_keys": keys, "combined": combined, "tolerance": 2e-3, "labels": labels, "raw": labels,
    }  # fmt: skip


def in_groups(cells: Cells, groups: Sequence[Sequence[int]]) -> Cells:
    """Sums over the keys of a group, means over those of its queries that have any number."""

    def total(row: Sequence[float | None], keys: Sequence[int]) -> float | None:
        there = [cell for j in keys if (cell := row[j]) is not None]
        return math.fsum(there) if there else None

    found: Cells = []
    for queries in groups:
        rows = [cells[i] for i in queries if any(cell is not None for cell in cells[i])]
        sums = [[total(row, keys) for row in rows] for keys in groups]
        found.append(
            [
                math.fsum(one or 0.0 for one in each) / len(rows) if any(one is not None for one in each) else None
                for each in sums
            ]
        )
    return found


def hybrid_batch(rng: np.random.Generator) -> Attention:
    """Two texts, the second of them padded; a layer without attention between two others; three generated tokens."""
    texts = [
        Tokens.named(["[CLS]", "a", "pair", "of", "them", ".", "three", "new", "ones"]),
        Tokens.named(["[CLS]", "short", "one", "here", "too", "!", "and", "two", "<pad>"]),
    ]
    marks = [(6, 9), (6, 8)]
    axes = [
        replace(
            text,
            special=tuple(label in ("[CLS]", "<pad>") for label in text.labels),
            segments=(-1, 0, 0, 1, 1, 1, 1, 1, 1) if at == 0 else None,
            generated=tuple(first <= i < last for i in range(9)),
        )
        for at, (text, (first, last)) in enumerate(zip(texts, marks, strict=True))
    ]
    keep = torch.tensor([[True] * 9, [True] * 8 + [False]])
    mask = replace(Mask.causal(9, 9), keep=keep)

    def layer(name: str) -> Layer:
        q, k = (torch.tensor(rng.standard_normal((2, 2, 9, D)).astype(np.float32)) for _ in range(2))
        return Layer(name, mask, q=q, k=k, scale=D**-0.5)

    layers = (layer("layers.0"), Layer.gap("layers.1", "MambaMixer: no attention seen", 9, 9), layer("layers.2"))
    pairs = tuple((axis, axis) for axis in axes)
    return Attention([Part("decoder", layers, *pairs[0], axes=pairs)], model="Golden", noun="text")


# ── one head step by step ─────────────────────────────────────────────────────────────────────────────────────────────

MODEL: Any = {"scale": True, "mask": True, "positions": True, "temperature": 1, "uniform": False}
SWITCHED: list[Any] = [
    MODEL, MODEL | {"scale": False}, MODEL | {"mask": False}, MODEL | {"positions": False},
    MODEL | {"temperature": 0.5}, MODEL | {"uniform": True}, MODEL | {"uniform": True, "mask": False},
    {"scale": False, "mask": False, "positions": False, "temperature": 3, "uniform": False},
]  # fmt: skip


@dataclass
class Head:
    """A head as its numbers are; what is added, ``bias``, stands for positions where ``positional``."""

    q: Any = None
    k: Any = None
    v: Any = None
    plain: tuple[Any, Any] | None = None
    o: Any = None
    weights: Any = None
    scale: float = 1.0
    softcap: float | None = None
    bias: Any = None
    positional: bool = False
    sink: float | None = None

    def step_by_step(self, i: int, allowed: Any, keep: Any, on: Any) -> Any:
        """What becomes of query ``i``, in float64."""
        turned = on["positions"] or self.plain is None
        if self.weights is not None:
            with np.errstate(divide="ignore"):
                dot = np.log(self.weights[i].astype(float))
            score = dot / on["temperature"]
        else:
            q, k = (self.q, self.k) if turned else self.plain
            dot = k.astype(float) @ q[i].astype(float)
            score = dot * self.scale if on["scale"] else dot
            if self.softcap is not None:
                score = self.softcap * np.tanh(score / self.softcap)
            if self.bias is not None and (on["positions"] or not self.positional):
                score = score + self.bias[i]
            score = score / on["temperature"]
        seen = allowed[i] if on["mask"] or self.weights is not None or not allowed[i].any() else keep
        terms = np.where(seen, np.exp(score), 0.0)
        total = terms.sum() + (0.0 if self.sink is None else math.exp(self.sink / on["temperature"]))
        p = terms / total if seen.any() else terms
        if on["uniform"] and seen.any():
            p = seen / seen.sum()
        share = p[p > 0] / p.sum() if p.sum() > 0 else p[:0]
        found = {
            "query": i,
            "switches": on,
            "dot": line(dot),
            "score": line(np.where(seen, score, -np.inf)),
            "weight": line(np.where(seen, p, -np.inf)),
            "leak": digits(1 - p.sum()) if seen.any() else 0.0,
            "entropy": digits(-(share * np.log(share)).sum()),
        }
        if self.v is not None:
            z = p @ self.v.astype(float)
            found["z"] = line(z)
            if self.o is not None:
                found["contribution"] = line(self.o.astype(float) @ z)
        return found


def digits(number: Any) -> float:
    return round(float(number), 7) + 0.0  # no −0.0


def line(numbers: Any) -> list[float | None]:
    return [digits(one) if np.isfinite(one) else None for one in numbers]


def steps_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    n, d, heads, width = 8, 8, 2, 12
    h = 1

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    def case(
        name: str, layer: Layer, head: Head, allowed: Any, keep: Any = None, queries: Sequence[int] = (5,), **said: Any
    ) -> tuple[str, bytes, Any]:
        keep = np.ones(allowed.shape[1], dtype=bool) if keep is None else keep
        axes = [Tokens.positions(size) for size in allowed.shape]
        block = steps.block(Attention([Part("decoder", (layer,), *axes)]), "decoder", 0, h)
        switched = SWITCHED if head.weights is None else [SWITCHED[0], SWITCHED[4], SWITCHED[5]]
        found = [head.step_by_step(i, allowed, keep, on) for i in queries for on in switched]
        return f"steps-{name}", block, {"steps": {"tolerance": said.get("tolerance", 1e-5), "cases": found}}

    def of(array: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array))[None]

    q, k, v, o = normal(heads, n, d), normal(heads, n, d), normal(heads, n, d), normal(width, heads * d)
    given = normal(heads * d)
    output = Output("o_proj", torch.from_numpy(o), False, 0, d, *map(torch.from_numpy, (given, o @ given)), 1e-4, 0)
    lower, everywhere_ = np.tril(np.ones((n, n), dtype=bool)), np.ones((n, n), dtype=bool)
    whole: Any = {"q": of(q), "k": of(k), "v": of(v), "scale": d**-0.5, "output": output}
    head = Head(q[h], k[h], v[h], o=o[:, h * d : h * d + d], scale=d**-0.5)
    causal_, full = Mask.causal(n, n), Mask.full(n, n)

    yield case("plain", Layer("attn", causal_, **whole), head, lower, queries=(0, 5))
    yield case("bare", Layer("attn", causal_, of(q), of(k), scale=d**-0.5), replace(head, v=None, o=None), lower)

    for name, pairs, wide in (("rotary", "halves", d), ("rotary-partial", "neighbours", d // 2)):
        angles = np.arange(n)[:, None] * 10.0 ** -np.arange(wide // 2)
        cos, sin = np.cos(angles), np.sin(angles)
        noted, plain = [], (q, k)
        for one in plain:
            first, second = (np.s_[: wide // 2], np.s_[wide // 2 : wide]) if pairs == "halves" else (
                np.s_[:wide:2], np.s_[1:wide:2]
            )  # fmt: skip
            a, b = one[..., first].astype(float), one[..., second].astype(float)
            new = one.astype(float)
            new[..., first], new[..., second] = a * cos - b * sin, b * cos + a * sin
            some = torch.from_numpy(one[..., :wide])
            twice = [np.concatenate([x, x], -1) if pairs == "halves" else x.repeat(2, -1) for x in (cos, sin)]
            noted += [turned(some, torch.from_numpy(x.astype(np.float32))) for x in twice]
            plain = (*plain, new.astype(np.float32))
        before, after = plain[:2], plain[2:]
        layer = Layer("attn", causal_, **whole | {"q": of(after[0]), "k": of(after[1])}, turned=tuple(noted))
        its = replace(head, q=after[0][h], k=after[1][h], plain=(before[0][h], before[1][h]))
        small = name == "rotary-partial"
        with patch.multiple(steps, **dict.fromkeys(("_MOST_EXACT", "_MOST_OUTPUT"), 0 if small else 1 << 20)):
            yield case(name, layer, its, lower, tolerance=1e-3 if small else 1e-5)

    offsets = normal(heads, 2 * n - 1)
    toeplitz = np.array([[offsets[h, j - i + n - 1] for j in range(n)] for i in range(n)])
    added = Layer("attn", full, **whole, bias=Bias(offsets=of(offsets)))
    yield case("bias", added, replace(head, bias=toeplitz, positional=True), everywhere_)
    dense, scattered = normal(heads, n, n), rng.random((heads, n, n)) < 0.5
    scattered[h, 5, 2] = True
    ragged = Layer("attn", Mask.of(of(scattered)), **whole, bias=Bias(dense=of(dense)))
    yield case("dense", ragged, replace(head, bias=dense[h]), scattered[h], scattered.any((0, 1)))
    capped = Layer("attn", causal_, **whole, softcap=1.5)
    yield case("softcap", capped, replace(head, softcap=1.5), lower)
    sunk = Layer("attn", causal_, **whole, sink=torch.tensor([[[0.0], [1.25]]]))
    yield case("sink", sunk, replace(head, sink=1.25), lower)
    keep = np.arange(n) >= 2  # on the left: the first two rows see nothing
    padded = Mask.of(torch.from_numpy(lower & keep)[None, None])
    yield case("padding", Layer("attn", padded, **whole), head, lower & keep, keep, queries=(1, 5))
    fewer, wide_ = Mask.full(5, n), np.ones((5, n), dtype=bool)
    crossed = Layer("attn", fewer, **whole | {"q": of(q[:, :5])})
    yield case("cross", crossed, replace(head, q=q[h, :5]), wide_, queries=(4,))
    raw = np.where(lower, rng.random((heads, n, n)) ** 3, 0.0)
    p = (raw / raw.sum(-1, keepdims=True)).astype(np.float32)
    stored = Layer("attn", causal_, v=of(v), weights=of(p), output=output)
    yield case("stored", stored, replace(head, weights=p[h]), lower & (p[h] > 0))


def refused_cases(rng: np.random.Generator) -> Iterator[tuple[str, bytes, Any]]:
    whole = ask(Attention.from_weights(np.eye(8, dtype=np.float32)))
    plain = wire.pack("weights", {}, {"x": np.arange(8, dtype=np.int32)}, compress=False)
    yield "refused-foreign", b"PK\x03\x04" + bytes(60), {"refuse": "not attnwidget data"}
    yield "refused-version", whole[:4] + b"\x02" + whole[5:], {"refuse": "made by another version"}
    yield "refused-truncated", whole[:-9], {"refuse": "truncated"}
    yield "refused-truncated-raw", plain[:-8], {"refuse": "truncated"}
    yield "refused-damaged", plain.replace(b'"i32"', b'"i64"'), {"refuse": "unknown number type"}
    yield "refused-reach", plain.replace(b'"shape":[8]', b'"shape":[9]'), {"refuse": "needs bytes"}


def cases() -> Iterator[tuple[str, bytes, Any]]:
    """Name, block and sidecar of every golden file. Each kind draws random numbers of its own."""
    for seed, kind in enumerate((qk_cases, weight_cases, bundle_cases, refused_cases, steps_cases, combined_cases)):
        yield from kind(np.random.default_rng(seed))


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, block, beside in cases():
        (folder / f"{name}.bin").write_bytes(block)
        (folder / f"{name}.json").write_text(json.dumps(beside, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
