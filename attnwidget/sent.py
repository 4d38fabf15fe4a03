"""Maps as blocks of bytes, and what there is to be measured of heads, computed with torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .attention import Attention
from .blocks import pack
from .cells import PADDED, cells, coded, ground, largest, pieces_of, pool, quantised, specials
from .compare import Difference
from .maps import Map
from .masks import on_host
from .measured import STATISTICS
from .measures import statistics
from .thumbnails import difference_thumbs, thumbs

__all__ = ["column", "difference_thumbs", "measured", "qk", "row", "thumbs", "weights"]

_TOLERANCE = 1e-3  # on a weight, where nobody asked for exact numbers


@on_host
def qk(view: Map, exact: bool) -> bytes:
    """One head as Q and K: 16 bits a number with one step per row, or float32 where that is not enough."""
    assert view.single is not None and view.head is not None
    one = view.single.of_head(view.sample, view.head)
    assert one.q is not None and one.k is not None
    q, k, (n_q, n_k) = one.q[0, 0], one.k[0, 0], view.shape
    arrays, sent, error = {"q": q, "k": k}, one, 0.0
    if not exact:
        (q_codes, q_step), (k_codes, k_step) = quantised(q), quantised(k)
        near = replace(one, q=(q_codes * q_step[:, None])[None, None], k=(k_codes * k_step[:, None])[None, None])
        rows = torch.arange(n_q) if n_q <= 64 else torch.linspace(0, n_q - 1, 64).long()
        error = float((near.block(0, 0, rows)[0] - one.block(0, 0, rows)[0]).abs().max())
        error *= 1 if len(rows) == n_q else 2  # rows that were not looked at may be somewhat worse
        exact = not error <= _TOLERANCE  # also where it is NaN
        if exact:
            error = 0.0
        else:
            sent, arrays = near, {"q": q_codes.short(), "q_step": q_step, "k": k_codes.short(), "k_step": k_step}
    some = list(pieces_of(torch.arange(n_q), n_k))
    lse = torch.cat([sent.block(0, 0, rows)[1] for rows in some])
    seen = torch.cat([one.mask.allowed(0, rows, 0).any(1) for rows in some])
    arrays |= {"lse": lse.masked_fill(~seen, -torch.inf), **one.mask.arrays()}
    if one.bias is not None and one.bias.offsets is not None:
        arrays["bias"] = one.bias.offsets[0, 0]
    if one.sink is not None:
        arrays["sink"] = one.sink[0, 0]
    meta = {
        "part": view.part.name, "layer": view.layer, "head": view.head, "scale": one.scale, "softcap": one.softcap,
        "exact": exact, "max_error": error, "n_q": n_q, "n_k": n_k, "d": q.shape[1],
    }  # fmt: skip
    return pack("qk", meta, {name: values.numpy() for name, values in arrays.items()})


@on_host
def weights(view: Map, exact: bool, most: float, most_work: float) -> bytes:
    """A whole map as weights, pooled where there are more than ``most`` of them.

    And of sampled rows only, where there are more than ``most_work`` behind them.
    """
    (n_q, n_k), heads, maps = view.shape, view.part.heads if view.head is None else 1, view.maps
    step = max(1, math.ceil(math.sqrt(n_q * n_k / most)))
    sampled = maps > 1 and n_q * n_k * maps > most_work
    high = max(step, math.ceil(n_q * n_k * maps / most_work)) if sampled else step
    width = 1 if sampled else high
    pieces, leaks = [], []
    for starts in pieces_of(torch.arange(0, n_q, high), n_k * heads * width):
        rows = starts + high // 2 if sampled else (starts[:, None] + torch.arange(high)).reshape(-1)
        found = _cells(view, rows.clamp_max(n_q - 1))  # where the last step is short, the last row fills it up
        leaks.append(_leak(found).reshape(-1, width).amax(1))
        found = torch.nn.functional.pad(found, (0, -n_k % step), value=PADDED)
        pieces.append(pool(found.reshape(len(found), -1, step).amax(-1), width))
    where = {"rows": [0, n_q], "cols": [0, n_k], "step": [high, step], "sampled": sampled}
    return _pack_weights(view, torch.cat(pieces), torch.cat(leaks), exact, where)


@on_host
def row(view: Map, at: int, exact: bool) -> bytes:
    """One row of a map, as "weights"."""
    found = _cells(view, torch.tensor([at]))
    where = {"rows": [at, at + 1], "cols": [0, view.shape[1]], "step": [1, 1]}
    return _pack_weights(view, found, _leak(found), exact, where)


@on_host
def column(view: Map, at: int, exact: bool) -> bytes:
    """One column of a map, as "weights"."""
    n_q, n_k = view.shape
    pieces = pieces_of(torch.arange(n_q), n_k * (1 if view.head is not None else view.part.heads))
    found = torch.cat([_cells(view, rows, torch.tensor([at])) for rows in pieces])
    return _pack_weights(view, found, None, exact, {"rows": [0, n_q], "cols": [at, at + 1], "step": [1, 1]})


def _pack_weights(view: Map, found: Tensor, leak: Tensor | None, exact: bool, where: Mapping[str, Any]) -> bytes:
    vmax, marks, arrays = largest(found), specials(found), {}
    if exact:
        arrays = {"exact": found.masked_fill(marks > 0, torch.nan), "code": marks.byte()}
    else:
        codes = coded(found, vmax, 65000, special=0xFF00)  # special cells are 65533 … 65535
        arrays = {"hi": (codes >> 8).byte(), "lo": (codes & 255).byte()}
    # Below 0.004 a sum differs from one because weights in bfloat16 are rounded. Of reduced maps only means sum to one.
    if leak is not None and (view.single is not None or view.reduce == "mean") and bool((leak > 4e-3).any()):
        arrays["leak"] = leak
    which = {"part": view.part.name, "layer": view.layer, "head": view.head, "reduce": view.reduce}
    meta = {**which, **where, "n_q": view.shape[0], "n_k": view.shape[1], "vmax": vmax}
    return pack("weights", meta, {name: values.numpy() for name, values in arrays.items()})


def _cells(view: Map, rows: Tensor, cols: Any = slice(None)) -> Tensor:
    """float32 [row, col], with codes."""
    return cells(ground(view.allowed(rows), view.padding)[:, cols], view.tile(rows, cols))


def _leak(found: Tensor) -> Tensor:
    """What each row of cells gives to no key, [row]."""
    missing = (1 - found.clamp_min(0.0).sum(1)).nan_to_num(0.0).clamp_min(0.0)
    return missing.masked_fill(~(found >= 0).any(1), 0.0)


@on_host
def measured(
    attention: Attention | Difference, part: str, queries_of: Callable[[Any], tuple[range | None, str]]
) -> dict[str, tuple[str, Tensor]]:
    """By name, what it is and its values [layer, head].

    Args:
        queries_of: the rows of a part to average over, None for all of them; and which these are, in words.
    """
    queries, over = queries_of(attention.part(part))
    rows = None if queries is None else torch.tensor(queries)
    if not isinstance(attention, Difference):
        found = statistics(attention, part, queries=rows)
        return {name: (STATISTICS[name] + over, values) for name, values in found.items()}
    a, b = attention.names
    change = f"mean distance between what it attends to in {a} and in {b}, from 0 to 1 (total variation){over}"
    of_a, of_b = (measured(one, part, queries_of) for one in (attention.a, attention.b))
    less = {name: (f"{title}: {a} − {b}", values - of_b[name][1]) for name, (title, values) in of_a.items()}
    return {"change": (change, attention.change(part, queries=rows)), **less}
