"""Writes the golden files: ``python tests/golden/make.py [folder]``.

A golden file is a block as :mod:`attnwidget.wire` packs it, beside a JSON file that says what a reader must find in it.
Both languages read them. What must be found is computed here, one entry at a time, in Python floats, from the
definition of attention; nothing of it comes from attnwidget.

    expect     {"rows": {"3": […]}, "columns": {"0": […]}}; "nan" is NaN, null a cell without weight (masked, padded)
    tolerance  largest difference of a weight
    map_keys   maps that a bundle holds
    thumbs     {"heads": {"layer/head/row": […]}, "mean": {"index/row": […]} …, "allowed": {"layer": […]}}
    refuse     words of the error: the block cannot be read
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnwidget import Attention, wire
from attnwidget.attention import Layer, Part
from attnwidget.masks import Mask
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
    _, block = wire.thumbs(attention, attention.part())
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
    for seed, kind in enumerate((qk_cases, weight_cases, bundle_cases, refused_cases)):
        yield from kind(np.random.default_rng(seed))


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, block, beside in cases():
        (folder / f"{name}.bin").write_bytes(block)
        (folder / f"{name}.json").write_text(json.dumps(beside, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
