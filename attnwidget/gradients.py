"""What one number that came out of the model owes to its edges, by their gradients: all of a trace as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .attribution import Asked, Attribution, Cost, Run, asked, method
from .chosen import within
from .layers import Layer
from .masks import on_host, row_blocks
from .trace import Cut, Effects, gradient_of, slopes

_SHORTER = "Shorten the text, or look at rows: trace(…).effects().row(query) computes one."

# ── edges, to first order ────────────────────────────────────────────────────────────────────────────────────────────


def _of_edges(of: Asked, **_: Any) -> Cost:
    n, m = len(of.part.queries), len(of.part.keys)
    flops = sum(layer.heads * n * m * (4.0 * _width(layer) + 40) for _, layer in of.layers)
    return Cost.of(flops, 12.0 * n * m, f"all weights and slopes once, and one map of {n} × {m}", _SHORTER)


def _width(layer: Layer) -> int:
    return 0 if layer.v is None else layer.v.shape[3]


@on_host
def _summed(
    run: Run, name: str, cut: Cut | None, part: str | None, layer: int | None, head: int | None,
    heads: Collection[tuple[int, int]] | None, progress: bool,
) -> Attribution:  # fmt: skip
    of = asked(run, name, part)
    pairs = of.traced.effects(layer, head, part=of.part.name, heads=heads, cut=cut).heads
    total = torch.zeros(len(of.part.queries), len(of.part.keys))
    each = torch.full((len(of.part.layers), of.part.heads), torch.nan)
    for at, h in tqdm(pairs, desc=name, unit="head", delay=1.0, leave=False, disable=not progress):
        own = Effects(of.attention, of.part, [(at, h)], cut).weights()
        total += own
        each[at, h] = own.sum(dtype=torch.float64)
    return of.result(total, target=of.traced.objective.words, per_head=each)


@method(
    "gradient",
    words="what the edge adds to the target, to first order: its weight times the slope, in the target's units, signed",
    source="gradient × attention; attribution patching, Nanda 2023",
    cost=_of_edges,
    needs="gradients",
    signed=True,
)
def gradient_attention(
    run: Run, *, part: str | None = None, layer: int | None = None, head: int | None = None,
    heads: Collection[tuple[int, int]] | None = None, progress: bool = True,
) -> Attribution:  # fmt: skip
    """What each edge adds to the target to first order, p_ij ∂y/∂p_ij, added up over the heads chosen.

    Cutting the edge, with its weight set to zero, takes that away. Added up over the queries and keys of a head, in
    ``per_head``, it is what the gate of Michel et al. 2019 measures, with its sign.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`.
        layer, head: which head; None adds up over that axis. heads: pairs (layer, head) in place of the two.

    Raises:
        IndexError: no such layer or head; and as :func:`~attnwidget.attribution.attribute`.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    >>> gradient_attention(run).top(1)[0][:2]  # the last token reads what followed its earlier self
    (12, 6)
    """
    return _summed(run, "gradient", None, part, layer, head, heads, progress)


@method(
    "knock-out",
    words=(
        "by how much the target changes, to first order, if the edge is masked and the rest of its row takes over: in "
        "the target's units, signed"
    ),
    source="closed form of attention knock-out, Geva et al. 2023, to first order",
    cost=_of_edges,
    needs="gradients",
    signed=True,
)
def knock_out(
    run: Run, *, part: str | None = None, layer: int | None = None, head: int | None = None,
    heads: Collection[tuple[int, int]] | None = None, progress: bool = True,
) -> Attribution:  # fmt: skip
    """By how much masking each edge changes the target, to first order: (p_ij Σ_k e_ik − e_ij) / (1 − p_ij).

    Arguments and errors as :func:`gradient_attention`, whose entries are the e_ij. Added up over heads it is of the
    edge masked in all of them.
    """
    return _summed(run, "knock-out", "knock-out", part, layer, head, heads, progress)


# ── relevance, after Chefer ──────────────────────────────────────────────────────────────────────────────────────────

Axis: TypeAlias = tuple[str, int]  # one stream of tokens


def _streams(of: Asked) -> dict[str, tuple[Axis, Axis]]:
    """By part the streams that ask and that are asked, for all parts that the one in question exchanges something with.

    Streams are told apart by their length, a decoder's also by its name.
    """
    names = of.attention.parts

    def axes(name: str) -> tuple[Axis, Axis]:
        part, role = of.attention.part(name), name.split()[0]
        named = "decoder" if "cross" in names else ""
        sides = {"decoder": (named, named), "cross": (named, "")}.get(role, ("", ""))
        return (sides[0], len(part.queries)), (sides[1], len(part.keys))

    every = {name: axes(name) for name in names}
    met = {*every[of.part.name]}
    for _ in every:  # at most so many steps lead from one stream to another
        met |= {axis for pair in every.values() if met & {*pair} for axis in pair}
    if not any(a != b for a, b in every.values() if a in met):
        alike = [name for name, pair in every.items() if pair == every[of.part.name] and _may_be_one(of, name)]
        if len(alike) > 1:
            raise ValueError(
                f"chefer follows tokens through all layers, and {' and '.join(alike)} have {len(of.part.keys)} each: "
                "whether these are the same tokens, or those of streams that read each other, is told by their number "
                "only. Give the model a text that is longer by a token."
            )
        return {of.part.name: every[of.part.name]}
    return {name: pair for name, pair in every.items() if pair[0] in met}


def _may_be_one(of: Asked, name: str) -> bool:
    """Whether the tokens of a part may be those of the part in question: those of an image are no text's."""
    kinds = {of.part.queries.kind, of.attention.part(name).queries.kind}
    return len(kinds) == 1 or not kinds & {"patch", "window", "frame", "channel"}


def _of_relevance(of: Asked, query: int | None = None, **_: Any) -> Cost:
    streams = _streams(of)
    flops, most = 0.0, 0
    for name, (asking, read) in streams.items():
        n, m = asking[1], read[1]
        for layer in of.attention.part(name).layers:
            flops += layer.heads * n * m * (4.0 * _width(layer) + 10)
            flops += 0.0 if query is not None and len(streams) == 1 else 2.0 * n * m * (n if asking == read else n + m)
        most += n * m
    words = "all weights and slopes once, and " + ("one row through them" if query is not None else "their products")
    one = query is not None and len(streams) == 1
    return Cost.of(flops, 4.0 * (2e6 if one else 4 * most), words, "Ask for one row (query=), or shorten the text.")


@method(
    "chefer",
    words="relevance: 1 on the diagonal and no bound above; what raises the target on its way through all layers",
    source="Chefer et al. 2021 (ICCV), equations 5 to 11",
    cost=_of_relevance,
    needs="gradients",
)
@on_host
def chefer(run: Run, *, part: str | None = None, query: int | None = None, progress: bool = True) -> Attribution:
    """Relevance of every token for every other, of weights that raise the target, followed through the layers.

    Each layer's map is Ā = mean over heads of (∂y/∂p ⊙ p)⁺. A stream that attends to itself has R ← R + Ā R, from
    R = I; one that attends to another R_sq ← R_sq + R̄_ssᵀ Ā R̄_qq, with rows of R̄ − I normalised, and
    R_ss ← R_ss + Ā R_qs. Rows without any relevance stay zero where the authors' code divides 0 by 0. Two streams that
    read each other one after the other, as in LXMERT, both read what was there before.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`; "cross" for what a decoder owes to its encoder.
        query: that row only: of the token whose output is explained, or the class token's. All of them unless given.

    Raises:
        ValueError: attention within windows, which have no common tokens; several parts of the same length, of which it
            is not known whether their tokens are the same.
        IndexError: no such query; and as :func:`~attnwidget.attribution.attribute`.
    """
    of = asked(run, "chefer", part, query=query)
    if query is not None:
        query = within(query, len(of.part.queries), "query", of.part.name)
    streams = _streams(of)
    for name in streams:
        of.refuse_windows(of.attention.part(name))
        for layer in of.attention.part(name).layers:
            if layer.heads:
                gradient_of(layer)
    calls = [(*streams[name], of.attention.part(name).layers[at]) for name, at in of.traced.calls if name in streams]
    target = of.traced.objective.words
    with tqdm(total=len(calls), desc="chefer", unit="layer", delay=1.0, leave=False, disable=not progress) as bar:
        if query is not None and len(streams) == 1:
            row = torch.zeros(1, len(of.part.keys))
            row[0, query] = 1.0
            for _, _, layer in reversed(calls):
                row = row + sum(row[:, rows] @ block for rows, block in _relevant(layer))
                bar.update()
            return of.result(row, query=query, target=target)
        relevance: dict[tuple[Axis, Axis], Tensor] = {}
        waiting: list[tuple[Axis, Axis, Layer]] = []
        for call in calls:
            a, b, layer = call
            if waiting and not (waiting[-1][:2] == (b, a) and a != b):
                _exchange(relevance, waiting)
            if a != b:
                waiting.append(call)
            else:
                relevance.setdefault((a, a), torch.eye(a[1]))
                for pair in [pair for pair in relevance if pair[0] == a]:
                    old = relevance[pair]
                    relevance[pair] = torch.cat([old[rows] + block @ old for rows, block in _relevant(layer)])
            bar.update()
        _exchange(relevance, waiting)
    found = relevance[streams[of.part.name]]
    return of.result(found if query is None else found[[query]], query=query, target=target)


def _relevant(layer: Layer) -> Iterator[tuple[Tensor, Tensor]]:
    """Ā, some rows at a time: [row], [row, key]."""
    for rows in row_blocks(torch.arange(layer.shape[2]), layer.shape[3]):
        of_heads = (
            (layer.block(0, head, rows)[0] * slopes(layer, 0, head, rows)).clamp_min(0.0) for head in range(layer.heads)
        )
        yield rows, torch.stack([*of_heads]).mean(0)


def _exchange(relevance: dict[tuple[Axis, Axis], Tensor], calls: list[tuple[Axis, Axis, Layer]]) -> None:
    """What streams take over from each other, of what there was before any of these calls, which are then done with."""
    before = dict(relevance)
    for a, b, layer in calls:
        gained = torch.cat([block for _, block in _relevant(layer)])
        if (b, a) in before:
            relevance[a, a] = relevance.get((a, a), torch.eye(a[1])) + gained @ before[b, a]
        gained = gained if (b, b) not in before else gained @ _as_shares(before[b, b])
        gained = gained if (a, a) not in before else _as_shares(before[a, a]).T @ gained
        relevance[a, b] = relevance.get((a, b), 0.0) + gained
    calls.clear()


def _as_shares(own: Tensor) -> Tensor:
    """R̄: what was gained over the identity, each row divided by its sum."""
    gained = own - torch.eye(len(own))
    total = gained.sum(1, keepdim=True)
    return gained / total.masked_fill(total == 0, 1.0) + torch.eye(len(own))
