"""What the weights of several heads and layers come to, by the weights alone: fused, rolled out, as a flow.

None of these knows what the values are, or what the model makes of them: they say where something can have come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .attribution import Asked, Attribution, Cost, Run, asked, method
from .chosen import within
from .layers import Layer
from .maps import Map
from .masks import on_host, row_blocks
from .shown import REDUCTIONS, Reduce

# ── fused over heads ─────────────────────────────────────────────────────────────────────────────────────────────────


def _scores(of: Asked) -> float:
    """Operations that every weight of the part takes, once."""
    queries, keys = len(of.part.queries), len(of.part.keys)
    width = max((layer.q.shape[3] for _, layer in of.layers if layer.q is not None), default=1)
    return sum(layer.heads for _, layer in of.layers) * queries * keys * (2.0 * width + 20)


def _fusing(of: Asked, **_: Any) -> Cost:
    n, m = len(of.part.queries), len(of.part.keys)
    return Cost.of(_scores(of), 12.0 * n * m, f"all weights once, and one map of {n} × {m}", _FEWER)


_FEWER = "Shorten the text, or look at rows: attention.map(layer, head).row(query) computes one."


def _fused(of: Asked, how: Reduce, layer: int | None) -> Tensor:
    values = Map(of.attention, of.part, layer, None, how).weights()
    return values if how == "mean" else normalised(values)


def normalised(values: Tensor) -> Tensor:
    """Rows divided by their sum; a row of zeros stays that."""
    total = values.sum(-1, keepdim=True)
    return values / total.masked_fill(total == 0, 1.0)


@method(
    "mean",
    words="the mean weight over heads: of 0 to 1, rows sum to 1 or leak what the heads leak",
    source="Abnar & Zuidema 2020, section 3",
    cost=_fusing,
)
def head_mean(run: Run, *, part: str | None = None, layer: int | None = None, progress: bool = True) -> Attribution:
    """The mean map of the heads of a layer, or of all layers.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`. layer: one layer; all of them unless given.

    Raises:
        IndexError: no such layer; and as :func:`~attnwidget.attribution.attribute`.
    """
    of = asked(run, "mean", part)
    return of.result(_fused(of, "mean", layer))


@method(
    "max",
    words="the largest weight over heads, each row divided by its sum: of 0 to 1, and no head's own distribution",
    source="Gildenblat 2020, vit-explain; rows normalised here",
    cost=_fusing,
)
def head_max(run: Run, *, part: str | None = None, layer: int | None = None, progress: bool = True) -> Attribution:
    """The largest weight of any head, rows divided by their sum; arguments as :func:`head_mean`."""
    of = asked(run, "max", part)
    return of.result(_fused(of, "max", layer))


@method(
    "min",
    words="the smallest weight over heads, each row divided by its sum: of 0 to 1, and no head's own distribution",
    source="Gildenblat 2020, vit-explain; rows normalised here",
    cost=_fusing,
)
def head_min(run: Run, *, part: str | None = None, layer: int | None = None, progress: bool = True) -> Attribution:
    """The smallest weight of any head, rows divided by their sum; arguments as :func:`head_mean`."""
    of = asked(run, "min", part)
    return of.result(_fused(of, "min", layer))


@method(
    "weighted",
    words="the mean weight over heads, each counted by a number of its own: of 0 to 1",
    source="a mean of Abnar & Zuidema 2020, weighted by head importance (Michel et al. 2019)",
    cost=_fusing,
)
@on_host
def weighted(run: Run, *, weights: Any = None, part: str | None = None, progress: bool = True) -> Attribution:
    """The weighted mean of all heads: Σ w A / Σ w.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`.
        weights: [layer, head], none below zero: importance, say. NaN where there is no head. All alike unless given.

    Raises:
        ValueError: another shape, numbers below zero or infinite, or nothing but zeros; and as
            :func:`~attnwidget.attribution.attribute`.
    """
    of = asked(run, "weighted", part)
    shape = (len(of.part.layers), of.part.heads)
    given = torch.ones(shape) if weights is None else torch.as_tensor(weights).detach()
    given = given.double().cpu()
    if tuple(given.shape) != shape:
        raise ValueError(f"weights are {tuple(given.shape)}; this part has {shape} as [layer, head].")
    given = given.nan_to_num(nan=0.0, posinf=torch.inf)
    for at, layer in enumerate(of.part.layers):
        given[at, layer.heads :] = 0.0
    if bool((given < 0).any() | given.isinf().any()) or not bool(given.any()):
        raise ValueError("weights must be finite and not below zero, and at least one of a head above it.")
    share = given / given.sum()
    total = torch.zeros(len(of.part.queries), len(of.part.keys))
    for at, layer in of.layers:
        own = share[at, : layer.heads].float()
        for rows, block in _blocks(of, layer):
            total[rows] += torch.einsum("h,hrk->rk", own, block)
    return of.result(total)


def _blocks(of: Asked, layer: Layer) -> Iterator[tuple[Tensor, Tensor]]:
    """Weights of all heads of a layer, some rows at a time: [row], [head, row, key]."""
    for rows in row_blocks(torch.arange(layer.shape[2]), layer.heads * layer.shape[3]):
        yield rows, layer.block(of.sample % layer.shape[0], None, rows)[0]


# ── rolled out over layers ───────────────────────────────────────────────────────────────────────────────────────────


def one_axis(of: Asked) -> int:
    """The number of tokens of a part whose queries are its keys.

    Raises:
        ValueError: they are not, so that no layer attends to what the one before it made; they are windows.
    """
    part = of.part
    of.refuse_windows(part)
    if part.queries != part.keys:
        raise ValueError(
            f"{of.method.name} follows tokens from layer to layer, but in {part.name} the queries and the keys are "
            f"different tokens ({len(part.queries)} × {len(part.keys)}): no layer attends to what the one before it "
            "made of them. Choose a part that attends to itself, or one layer's fused map (attribute(run, 'mean'))."
        )
    return len(part.queries)


@on_host
def mixing(
    of: Asked, layer: Layer, rows: Tensor | None = None, *, fuse: Reduce = "mean", discard: float = 0.0,
    keep_first: bool = False,
) -> Tensor:  # fmt: skip
    """float64 [row, key]: half what a layer's heads attend to, fused, and half the token itself.

    The mean leaks what the heads leak. Fused or thinned otherwise, weights are no distribution: then each row of them
    and the token itself is divided by its sum, and what is thinned out goes to both in proportion.
    """
    n, sample = layer.shape[2], of.sample % layer.shape[0]
    fused = torch.empty(n if rows is None or discard else len(rows), n, dtype=torch.float64)
    wanted = torch.arange(n) if rows is None or discard else rows
    for places in row_blocks(torch.arange(len(wanted)), layer.heads * n):
        block = layer.block(sample, None, wanted[places])[0]
        fused[places] = block.mean(0, dtype=torch.float64) if fuse == "mean" else _OVER[fuse](block).double()
    if discard:
        _thin(fused, layer, sample, discard, keep_first)
        fused = fused if rows is None else fused[rows]
    own = torch.eye(n, dtype=torch.float64) if rows is None else nn.functional.one_hot(rows, n).double()
    if fuse != "mean" or discard:
        return normalised(fused + own)
    seeing = (fused != 0).any(-1, keepdim=True)  # padding attends to nothing: it stays what it is
    return torch.where(seeing, (fused + own) / 2, own)


_OVER: dict[str, Callable[[Tensor], Tensor]] = {"max": lambda block: block.amax(0), "min": lambda block: block.amin(0)}


def _thin(fused: Tensor, layer: Layer, sample: int, ratio: float, keep_first: bool) -> None:
    """Set the smallest of the entries that can be anything to zero, in place."""
    allowed = layer.mask.allowed(sample, torch.arange(len(fused)))
    cells = allowed.any(0) if allowed.dim() == 3 else allowed
    drop = int(ratio * int(cells.sum()) + 1e-9)  # ⌊r · count⌋, whatever rounding takes from a whole number
    if keep_first:
        cells = cells.clone()
        cells[:, int(cells.any(0).int().argmax())] = False
    at = cells.flatten().nonzero()[:, 0]
    fused.view(-1)[at[fused.flatten()[at].argsort(stable=True)[:drop]]] = 0.0


def _rolling(of: Asked, *, query: int | None = None, discard: float = 0.0, **_: Any) -> Cost:
    n, layers = len(of.part.queries), len(of.layers)
    whole = query is None or bool(discard)
    flops = _scores(of) + 2.0 * layers * n * n * (n if query is None else 1)
    instead = "Shorten the text" + (", or ask for one token: query=-1 holds no n × n numbers." if whole else ".")
    return Cost.of(flops, 5e7 + (8.0 * 5 * n * n if whole else 0.0), f"{layers} layers of {n} × {n}", instead)


@method(
    "rollout",
    words="the share of a token, as the last layer has it, that came from a token of the input if what is passed on "
    "were half the weights and half the token itself: of 0 to 1, rows sum to 1 or leak what the heads leak",
    source="Abnar & Zuidema 2020, section 3",
    cost=_rolling,
)
def rollout(
    run: Run,
    *,
    part: str | None = None,
    query: int | None = None,
    layer: int | None = None,
    fuse: Reduce = "mean",
    progress: bool = True,
) -> Attribution:
    """Attention rollout: the product over layers of ½ A + ½ I, with the heads of each layer fused to A.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`.
        query: one token, negative from the end, at any length; all of them unless given.
        layer: up to which layer, that one included; the last unless given.
        fuse: how the heads are put together: "mean", "max" or "min". Rows of the latter two are divided by their sum.

    Raises:
        ValueError: a part whose queries are not its keys, or are windows; no such fusion; too large; and as
            :func:`~attnwidget.attribution.attribute`. IndexError: no such token or layer.

    >>> from attnwidget import Attention
    >>> rollout(Attention.from_weights(torch.full((2, 1, 2, 2), 0.5))).values          # 2⁻² I + (1 − 2⁻²) / 2
    tensor([[0.6250, 0.3750],
            [0.3750, 0.6250]])
    """
    of = asked(run, "rollout", part, query=query)
    return _rollout(of, query, layer, progress, fuse=fuse)


@method(
    "discard",
    words="rollout after the weakest weights of each layer are left out, rows divided by their sum: of 0 to 1",
    source="Gildenblat 2020, vit-explain; without its errors (columns divided by the sums of rows)",
    cost=_rolling,
)
def discard(
    run: Run,
    *,
    ratio: float = 0.9,
    keep_first: bool = False,
    part: str | None = None,
    query: int | None = None,
    layer: int | None = None,
    fuse: Reduce = "mean",
    progress: bool = True,
) -> Attribution:
    """Rollout without the weakest weights, of which ⌊ratio · count⌋ are set to zero in each layer's fused map.

    Args:
        ratio: how many, from 0 to below 1, of the entries that the mask allows.
        keep_first: none of those on the first token, where image models have their class token.
        run, part, query, layer, fuse, progress: as for :func:`rollout`.

    Raises:
        ValueError: no such ratio; and as :func:`rollout`.
    """
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio is {ratio}; it is the share of weights to leave out, from 0 to below 1.")
    of = asked(run, "discard", part, query=query, discard=ratio)
    return _rollout(of, query, layer, progress, fuse=fuse, discard=ratio, keep_first=keep_first)


def upto(of: Asked, layer: int | None) -> list[tuple[int, Layer]]:
    """The layers that have attention, up to one and with it."""
    last = len(of.part.layers) - 1 if layer is None else within(layer, len(of.part.layers), "layer", of.part.name)
    found = [(at, one) for at, one in of.layers if at <= last]
    if not found:
        raise ValueError(f"No layer of {of.part.name} up to {last} has attention: {of.part.layers[last].absent}.")
    return found


@on_host
def _rollout(of: Asked, query: int | None, layer: int | None, progress: bool, **how: Any) -> Attribution:
    n = one_axis(of)
    if how["fuse"] not in REDUCTIONS:
        raise ValueError(f"fuse is {how['fuse']!r}; it must be one of {', '.join(REDUCTIONS)}.")
    at = None if query is None else within(query, n, "query", of.part.name)
    found: Tensor | None = None if at is None else torch.eye(n, dtype=torch.float64)[at : at + 1].clone()
    layers = reversed(upto(of, layer))
    for _, one in of.bar([*layers], "layer", progress):
        if at is None or how.get("discard"):
            mixed = mixing(of, one, **how)
            found = mixed if found is None else found @ mixed
            continue
        assert found is not None
        below = torch.zeros_like(found)
        for rows in row_blocks(found[0].nonzero()[:, 0], n):
            below += found[:, rows] @ mixing(of, one, rows, **how)
        found = below
    assert found is not None
    return of.result(found, query=at)


# ── as a flow ────────────────────────────────────────────────────────────────────────────────────────────────────────

_WHOLE = 1 << 30  # the capacity 1, as the solver's int32: a source gives no more than that


def _flowing(of: Asked, *, query: int | None = None, **_: Any) -> Cost:
    n, layers = len(of.part.queries), len(of.layers)
    edges = layers * n * n * (0.5 if of.part.is_causal else 1.0)
    pairs = n * n * (0.5 if of.part.is_causal else 1.0) if query is None else n
    flops = _scores(of) + 100.0 * edges * pairs * n**0.5
    instead = "Ask for one token: query=-1, or roll out." if query is None else "Shorten the text, or roll out."
    return Cost.of(flops, 100.0 * edges, f"{pairs:.0f} flows through {edges:.0f} edges", instead)


@method(
    "flow",
    words="the most that can flow from a token of the input to a token of the last layer if every edge carries no more "
    "than its weight, half of it the token's own: of 0 to 1, each row divided by its sum unless normalise=False",
    source="Abnar & Zuidema 2020, section 3",
    cost=_flowing,
)
@on_host
def flow(
    run: Run,
    *,
    part: str | None = None,
    query: int | None = None,
    layer: int | None = None,
    normalise: bool = True,
    progress: bool = True,
) -> Attribution:
    """Attention flow: the maximum flow through the layers, whose capacities are ½ A + ½ I with the mean over heads.

    One maximum flow for each pair of tokens, by scipy, with capacities rounded to 2⁻³⁰. All pairs up to 64 tokens; one
    token at lengths for which :func:`~attnwidget.attribution.cost` is what you want to wait for.

    Args:
        run, part, query, layer: as for :func:`rollout`.
        normalise: divide each row by its sum, as the paper does; otherwise the flows as they are.
        progress: show a progress bar when it takes more than a second.

    Raises:
        ValueError: more than 64 tokens, and no ``query``; and as :func:`rollout`.

    >>> from attnwidget import Attention
    >>> flow(Attention.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))).values
    tensor([[1.0000, 0.0000],
            [0.2500, 0.7500]])
    """
    of = asked(run, "flow", part, query=query)
    n = one_axis(of)
    at = None if query is None else within(query, n, "query", of.part.name)
    if at is None and n > _MOST:
        raise ValueError(
            f"The flow between all pairs of {n} tokens would take {_flowing(of)}; up to {_MOST} tokens it is offered. "
            "Ask for one token: query=-1, or roll out."
        )
    maps = [mixing(of, one) for _, one in upto(of, layer)]
    rows = range(n) if at is None else [at]
    found = torch.zeros(len(rows), n)
    with of.bar(len(rows) * n, "pair", progress) as bar:
        for to, row in enumerate(rows):
            for key, amount in _flows(maps, row):
                found[to, key] = amount
                bar.update()
    return of.result(normalised(found) if normalise else found, query=at)


_MOST = 64


def _flows(maps: Sequence[Tensor], row: int) -> Iterator[tuple[int, float]]:
    """The maximum flow from node ``row`` above the last map to each node below the first: pairs (key, flow)."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_flow

    n, levels = len(maps[0]), len(maps)
    # Only what the row can reach takes part: under a causal mask, half of the edges and less.
    reached = torch.zeros(n, dtype=torch.bool)
    reached[row] = True
    starts, ends, sizes = list[Tensor](), list[Tensor](), list[Tensor]()
    for depth, one in enumerate(reversed(maps)):
        edges = (one * _WHOLE).round().int() * reached[:, None]
        start, end = edges.nonzero(as_tuple=True)
        starts, ends, sizes = [*starts, start + depth * n], [*ends, end + (depth + 1) * n], [*sizes, edges[start, end]]
        reached = edges.any(0)
    count = (levels + 1) * n
    rows, cols, data = (torch.cat(one).numpy() for one in (starts, ends, sizes))
    graph = csr_array((data.astype(np.int32), (rows, cols)), shape=(count, count))
    for key in reached.nonzero()[:, 0].tolist():
        yield key, maximum_flow(graph, row, levels * n + key).flow_value / _WHOLE
