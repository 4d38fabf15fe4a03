"""Maps as blocks of bytes, thumbnails and measures, computed with numpy: what ``sent.py`` does where there is torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alone import Head, Numbers
from .blocks import pack
from .measured import STATISTICS
from .shown import REDUCTIONS, PartOf
from .steps import quantised
from .thin import Bias, Bools, Layer, Map, Mask, Places, Stored

_TOLERANCE = 1e-3  # on a weight, where nobody asked for exact numbers
_MOST_WORK = 1 << 27  # weights behind the thumbnails of a part before rows are sampled: 2 s of one core
_AT_ONCE = 1 << 19  # weights computed at once: 2 MB, which stays in a core's cache

MASKED, PADDED = np.float32(-1), np.float32(-2)  # as in cells.py: weight > masked > padded


def qk(view: Map, exact: bool) -> bytes:
    """One head as Q and K: 16 bits a number with one step per row, or float32 where that is not enough."""
    layer, head = view.single, view.head
    assert layer is not None and head is not None
    one = layer.alone(view.sample, head)
    assert one.q is not None and one.k is not None
    n_q, n_k = view.shape
    arrays: dict[str, NDArray[Any]] = {"q": one.q, "k": one.k}
    sent, error = (one.q, one.k), 0.0
    if not exact:
        (q_codes, q_step), (k_codes, k_step) = quantised(one.q), quantised(one.k)
        near = q_codes * q_step[:, None], k_codes * k_step[:, None]
        rows = np.arange(n_q) if n_q <= 64 else np.linspace(0, n_q - 1, 64).astype(np.int64)
        error = float(np.abs(_scored(one, *near, rows)[0] - _scored(one, one.q, one.k, rows)[0]).max())
        error *= 1 if len(rows) == n_q else 2  # rows that were not looked at may be somewhat worse
        exact = not error <= _TOLERANCE  # also where it is NaN
        if exact:
            error = 0.0
        else:
            sent = near
            q_whole, k_whole = q_codes.astype(np.int16), k_codes.astype(np.int16)
            arrays = {"q": q_whole, "q_step": q_step, "k": k_whole, "k_step": k_step}
    lse = np.concatenate([_scored(one, *sent, rows)[1] for rows in _pieces_of(np.arange(n_q), n_k)])
    arrays |= {"lse": np.where(one.allowed.any(1), lse, np.float32(-np.inf)), **one.mask}
    arrays |= {} if one.offsets is None else {"bias": one.offsets}
    arrays |= {} if one.sink is None else {"sink": one.sink}
    meta = {
        "part": view.part.name, "layer": view.layer, "head": head, "scale": one.scale, "softcap": one.softcap,
        "exact": exact, "max_error": error, "n_q": n_q, "n_k": n_k, "d": one.q.shape[1],
    }  # fmt: skip
    return pack("qk", meta, arrays)


def _scored(one: Head, q: Numbers, k: Numbers, rows: Places) -> tuple[Numbers, Numbers]:
    """Weights of some rows of one head, and their log-sum-exp, with these vectors."""
    sink = None if one.sink is None else one.sink[None, None]
    bias = None if one.offsets is None else Bias(one.offsets[None, None])  # a dense one is sent as weights
    allowed = one.allowed
    every = np.zeros((1, len(allowed)), np.int32)
    mask = Mask(every, every, allowed[:1], allowed[None, None])
    layer = Layer(
        one.name, mask, q[None, None], k[None, None], scale=one.scale, softcap=one.softcap, bias=bias, sink=sink
    )
    return layer.block(0, 0, rows)


def weights(view: Map, exact: bool, most: float, most_work: float) -> bytes:
    """A whole map as weights, pooled where there are more than ``most`` of them.

    And of sampled rows only, where there are more than ``most_work`` behind them.
    """
    (n_q, n_k), maps = view.shape, view.maps
    step = max(1, int(np.ceil(np.sqrt(n_q * n_k / min(most, n_q * n_k)))))
    sampled = maps > 1 and n_q * n_k * maps > most_work
    high = max(step, int(np.ceil(n_q * n_k * maps / most_work))) if sampled else step
    width = 1 if sampled else high
    pieces, leaks = [], []
    for starts in _pieces_of(np.arange(0, n_q, high), n_k * maps * width):
        rows = starts + high // 2 if sampled else (starts[:, None] + np.arange(high)).reshape(-1)
        found = _cells(view, rows.clip(0, n_q - 1))  # where the last step is short, the last row fills it up
        leaks.append(_leak(found).reshape(-1, width).max(1))
        found = np.pad(found, ((0, 0), (0, -n_k % step)), constant_values=PADDED)
        pieces.append(found.reshape(-1, width, found.shape[1] // step, step).max((1, 3)))
    where = {"rows": [0, n_q], "cols": [0, n_k], "step": [high, step], "sampled": sampled}
    return _pack_weights(view, np.concatenate(pieces), np.concatenate(leaks), exact, where)


def row(view: Map, at: int, exact: bool) -> bytes:
    """One row of a map, as "weights"."""
    found = _cells(view, np.array([at]))
    where = {"rows": [at, at + 1], "cols": [0, view.shape[1]], "step": [1, 1]}
    return _pack_weights(view, found, _leak(found), exact, where)


def column(view: Map, at: int, exact: bool) -> bytes:
    """One column of a map, as "weights"."""
    n_q, n_k = view.shape
    pieces = _pieces_of(np.arange(n_q), n_k * view.maps)
    found = np.concatenate([_cells(view, rows)[:, at : at + 1] for rows in pieces])
    return _pack_weights(view, found, None, exact, {"rows": [0, n_q], "cols": [at, at + 1], "step": [1, 1]})


def _pack_weights(view: Map, found: Numbers, leak: Numbers | None, exact: bool, where: Mapping[str, Any]) -> bytes:
    vmax, marks = _largest(found), _specials(found)
    arrays: dict[str, NDArray[Any]]
    if exact:
        arrays = {"exact": np.where(marks > 0, np.float32(np.nan), found), "code": marks.astype(np.uint8)}
    else:
        codes = _coded(found, vmax, 65000, special=0xFF00)  # special cells are 65533 … 65535
        arrays = {"hi": (codes >> 8).astype(np.uint8), "lo": (codes & 255).astype(np.uint8)}
    # Below 0.004 a sum differs from one because weights in bfloat16 are rounded. Of reduced maps only means sum to one.
    if leak is not None and (view.single is not None or view.reduce == "mean") and bool((leak > 4e-3).any()):
        arrays["leak"] = leak
    which = {"part": view.part.name, "layer": view.layer, "head": view.head, "reduce": view.reduce}
    meta = {**which, **where, "n_q": view.shape[0], "n_k": view.shape[1], "vmax": vmax}
    return pack("weights", meta, arrays)


# ── cells: see cells.py ──────────────────────────────────────────────────────────────────────────────────────────────


def _cells(view: Map, rows: Places) -> Numbers:
    """float32 [row, key], with codes."""
    return _on(_ground(view.allowed(rows), view.padding), view._rows(rows))


def _ground(allowed: Bools, padding: Bools) -> Numbers:
    code = np.where(padding | ~allowed.any(-1, keepdims=True), PADDED, MASKED)
    found: Numbers = np.where(allowed, np.float32(0), code)
    return found


def _on(ground: Numbers, weights: Numbers) -> Numbers:
    return np.where((ground == 0) | (weights > 0), weights, ground)


def _specials(cells: Numbers) -> NDArray[np.int64]:
    found: NDArray[np.int64] = 253 * np.isnan(cells) + 254 * (cells == PADDED) + 255 * (cells == MASKED)
    return found


def _coded(cells: Numbers, vmax: float, top: int, special: int = 0) -> NDArray[np.int64]:
    codes = (np.sqrt(np.nan_to_num(cells).clip(0) / np.float32(vmax)) * np.float32(top)).round().astype(np.int64)
    marks = _specials(cells)
    return np.where(marks > 0, special + marks, codes)


def _largest(cells: Numbers) -> float:
    most = float(np.nan_to_num(cells).max()) if cells.size else 0.0
    return most if most > 0 else 1.0


def _leak(found: Numbers) -> Numbers:
    """What each row of cells gives to no key, [row]."""
    missing: Numbers = np.nan_to_num(1 - found.clip(0).sum(1)).clip(0)
    missing[~(found >= 0).any(1)] = 0
    return missing


def _pieces_of(rows: Places, work: int) -> Iterator[Places]:
    step = max(1, _AT_ONCE // work)
    return (rows[at : at + step] for at in range(0, len(rows), step))


# ── every head in small: see thumbnails.py ───────────────────────────────────────────────────────────────────────────


def _bins(n: int, count: int) -> NDArray[np.int64]:
    """Which of n things each bin holds: [bin, most in one]. Short bins repeat the last."""
    edges = np.arange(count + 1) * n // count
    width = int(np.diff(edges).max())
    found: NDArray[np.int64] = np.minimum(edges[:-1, None] + np.arange(width), edges[1:, None] - 1)
    return found


def _pool(values: Numbers, rows: int, cols: NDArray[np.int64]) -> Numbers:
    """[..., row, key] → [..., row / rows, bin]: the largest of ``rows`` rows each, and of the keys of each bin."""
    found: Numbers = values.reshape(*values.shape[:-2], -1, rows, values.shape[-1]).max(-2)[..., cols].max(-1)
    return found


def thumbs(attention: Stored, part: PartOf[Layer], side: int) -> tuple[dict[str, Any], bytes]:
    """Every head of a part, and its reductions over layers and heads: see :func:`attnwidget.thumbnails.thumbs`."""
    n_q, n_k, layers, heads = len(part.queries), len(part.keys), len(part.layers), part.heads
    rows, cols = min(n_q, side), min(n_k, side)
    row_bins, col_bins = _bins(n_q, rows), _bins(n_k, cols)
    sampled = rows < n_q and layers * heads * n_q * n_k > _MOST_WORK
    if sampled:
        row_bins = row_bins[:, row_bins.shape[1] // 2, None]
    width = row_bins.shape[1]
    single = np.full((layers, heads, rows, cols), MASKED)
    # [mean max min; over heads for each layer, over layers for each head, over both; row; col]
    reduced = np.full((len(REDUCTIONS), layers + heads + 1, rows, cols), MASKED)
    counts = np.zeros((layers, rows), np.float32)
    sharing = np.array([sum(h < layer.heads for layer in part.layers) for h in range(heads)], np.float32)

    for at in _pieces_of(np.arange(rows), heads * width * n_k):
        chosen = row_bins[at].reshape(-1)
        total, most = np.zeros((2, heads, len(chosen), n_k), np.float32)
        least = np.full_like(total, np.inf)
        anywhere = np.full((heads, len(at), cols), PADDED)
        for index, layer in enumerate(part.layers):
            if not layer.heads:
                continue
            sample, h = attention.sample_in(part) % layer.shape[0], layer.heads
            allowed = layer.mask.allowed(sample, chosen)
            floor = _pool(_ground(allowed, ~layer.mask.keep[sample % len(layer.mask.keep)]), width, col_bins)
            p, _ = layer.block(sample, None, chosen)
            pooled = _pool(p, width, col_bins)
            if np.isnan(pooled).any():  # a masked cell in a row of NaN must not blot out other rows
                p = np.where(allowed, p, np.float32(0))
                pooled = _pool(p, width, col_bins)
            single[index, :h, at] = _on(floor, pooled).swapaxes(0, 1)
            over_heads = np.stack([p.mean(0), p.max(0), p.min(0)])
            reduced[:, index, at] = _on(floor.max(0), _pool(over_heads, width, col_bins))
            counts[index, at] = _mean_of_bins(allowed.sum(-1).astype(np.float32).mean(0), row_bins[at])
            total[:h] += p
            most[:h], least[:h] = np.maximum(most[:h], p), np.minimum(least[:h], p)
            anywhere[:h] = np.maximum(anywhere[:h], floor)
        over_layers = np.stack([total / sharing[:, None, None], most, least])
        # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
        over_both = np.stack([total.sum(0) / sharing.sum(), most.max(0), least.min(0)])
        reduced[:, layers:-1, at] = _on(anywhere, _pool(over_layers, width, col_bins))
        reduced[:, -1, at] = _on(anywhere.max(0), _pool(over_both, width, col_bins))

    vmax = max(1.0, _largest(single))
    maps = {"heads": single, **dict(zip(REDUCTIONS, reduced, strict=True))}
    arrays = {name: _coded(found, vmax, 250).astype(np.uint8) for name, found in maps.items()}
    block = pack("thumbs", {"vmax": vmax}, {**arrays, "allowed": counts})
    return {"rows": rows, "cols": cols, "sampled": sampled}, block


def _mean_of_bins(values: Numbers, which: NDArray[np.int64]) -> Numbers:
    """Means of [bin · width] values over the bins [bin, width]; an entry that a bin repeats counts once."""
    once = np.ones(which.shape, np.float32)
    once[:, 1:] = np.diff(which, axis=1) > 0
    found: Numbers = (values.reshape(which.shape) * once).sum(1) / once.sum(1)
    return found


# ── what there is to be measured: see measures.py and rows.py ────────────────────────────────────────────────────────


def measured(
    attention: Stored, part: str, queries_of: Callable[[Any], tuple[range | None, str]]
) -> dict[str, tuple[str, Numbers]]:
    """By name, what it is and its values [layer, head]: the measures of ``STATISTICS``."""
    of = attention.part(part)
    queries, over = queries_of(of)
    every = np.arange(len(of.queries)) if queries is None else np.array(queries)
    found = {name: np.full((len(of.layers), of.heads), np.nan, np.float32) for name in STATISTICS}
    line = of.queries == of.keys and not of.name.startswith("cross")
    apart = {"distance", "previous"} if not line or of.queries.kind in ("patch", "window") else set()
    apart |= set() if line else {"diagonal"}
    for index, layer in enumerate(of.layers):
        if not layer.heads:
            continue
        sample = attention.sample_in(of)
        kept = layer.mask.keep[sample % len(layer.mask.keep)]
        sums = {name: np.zeros((2, layer.heads)) for name in STATISTICS if name not in apart}
        for at in _pieces_of(every, layer.heads * len(kept)):
            p, _ = layer.block(sample % layer.shape[0], None, at)
            counted = np.broadcast_to(layer.mask.allowed(sample, at).any(-1), p.shape[:-1])
            if layer.weights is not None:  # stored weights have no padding but rows of zeros
                counted = counted & (p != 0).any(-1)
            for name, (values, counts) in _of_rows(p, at, kept, counted, sums).items():
                sums[name][0] += np.where(counts, values, 0).sum(1, dtype=np.float64)
                sums[name][1] += counts.sum(1)
        for name, (total, count) in sums.items():
            with np.errstate(invalid="ignore"):
                mean = total / count  # 0 / 0 is NaN: no row counts
            # Rounding leaves sums of rows a little above one.
            found[name][index, : layer.heads] = mean.clip(0) if name == "leak" else mean
    return {name: (STATISTICS[name] + over, values) for name, values in found.items()}


def _of_rows(
    p: Numbers, at: Places, kept: Bools, counted: Bools, wanted: Mapping[str, Any]
) -> dict[str, tuple[Numbers, Bools]]:
    """By name, that measure of each row of weights [head, row, key], and which rows count: [head, row] both."""
    total, keys = p.sum(-1), np.arange(len(kept))
    shared = np.where(total == 0, np.float32(1), total)
    entropy = -(np.log(np.maximum(p, np.finfo(np.float32).tiny)) * p).sum(-1) / shared + np.log(shared)
    before = (at - 1).clip(0)
    found: dict[str, Callable[[], Numbers]] = {
        "entropy": lambda: entropy,
        "effective": lambda: np.exp(entropy),
        "distance": lambda: (p * np.abs(at[:, None] - keys).astype(np.float32)).sum(-1) / shared,
        "first": lambda: p[:, :, int(kept.argmax())],
        "previous": lambda: p[:, np.arange(len(at)), before],
        "diagonal": lambda: p[:, np.arange(len(at)), at],
        "leak": lambda: 1 - total,
    }
    has_before = (at > 0) & kept[before]
    return {name: (found[name](), counted & has_before if name == "previous" else counted) for name in wanted}
