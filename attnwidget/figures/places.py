"""Where tokens stand and edges run: between two columns, or along one line, as in ``js/src/layout.ts``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .legends import lane_of
from .looked import Looking
from .sheet import SMALL, width_of
from .words import labels_of, ticks

HIGH, TALLEST = 560.0, 1240.0  # of a column of tokens: to aim at, and at most (218 mm)
_ROW = 15.0  # of tokens that are legible
_REACH = (64.0, 210.0)  # of the highest arc above a line
_FLAT, _NEAR = 10.0, 40.0  # the lowest arc; from where on heights grow with the logarithm of the distance
_TILTED = 120.0  # of a label that stands on end

Array = NDArray[Any]


@dataclass(frozen=True)
class Places:
    """Middles of tokens along their line or column, labels, and the extent of what is drawn.

    Attributes:
        line: tokens stand side by side; else in columns. same: one line of tokens, each of them query and key.
        query, key: [token] middles along the direction in which tokens follow each other.
        pitch: between neighbours, of queries and of keys; 0 where they have widths of their own.
        ends: where edges begin and end across that direction: of queries, of keys.
        step: every k-th token has its label, of queries and of keys. tilted: labels stand on end.
    """

    line: bool
    same: bool
    query: Array
    key: Array
    pitch: tuple[float, float]
    ends: tuple[float, float]
    step: tuple[int, int]
    width: float
    height: float
    tilted: bool = False
    below: float = 0.0  # where arcs begin that look ahead, under one line
    reach: float = 0.0
    outer: tuple[float, float] = (0.0, 0.0)  # of columns: where numbers beside queries begin, and those beside keys end

    def curves(self, query: NDArray[Any], key: NDArray[Any], shift: Array) -> Array:
        """Bézier curves [edge, 8] from queries to keys; ``shift`` sets the edges of several heads apart."""
        a, b = self.query[query] + shift, self.key[key] + shift
        start, stop = (np.full(len(a), end) for end in self.ends)
        if not self.line:
            middle = (start + stop) / 2
            return np.stack([start, a, middle, a, middle, b, stop, b], 1)
        ahead = self.same & (key > query)
        y = np.where(ahead, self.below, start)
        end = y if self.same else stop
        share = np.log1p(np.abs(b - a) / _NEAR) / math.log1p(self.width / _NEAR)
        rise = (_FLAT + (self.reach - _FLAT - 4) * share) * np.where(ahead, -4, 4) / 3
        pull = y - rise if self.same else (y + end) / 2
        lean = (b - a) * 0.1 if self.same else np.zeros(len(a))
        found = np.stack([a, y, a + lean, pull, b - lean, pull, b, end], 1)
        loop = self.same & (key == query)
        wide = min(6.0, max(1.0, self.pitch[0] / 3)) if self.pitch[0] else 6.0
        top = y - 26 - shift
        loops = np.stack([a + wide, y, a + 2.3 * wide, top, a - 2.3 * wide, top, a - wide, y], 1)
        return np.where(loop[:, None], loops, found)


def columns(looking: Looking, left: float, right: float, outer: tuple[float, float], top: float) -> Places:
    """Two columns, edges from ``left`` to ``right``, within ``outer``; the shorter one is spread a little."""
    n_q, n_k = looking.map.shape
    n = max(n_q, n_k)
    row = min(22.0, HIGH / n) if HIGH / n >= _ROW + 1 else min(_ROW, TALLEST / n)
    height = row * n

    def middles(count: int) -> tuple[Array, float]:
        pitch = min(height / count, max(row * 1.5, height / count if height > HIGH else 0.0))
        return top + (height - count * pitch) / 2 + (np.arange(count) + 0.5) * pitch, pitch

    (query, of_query), (key, of_key) = middles(n_q), middles(n_k)
    step = tuple(ticks(count, pitch, 12.5, 26)[0] for count, pitch in ((n_q, of_query), (n_k, of_key)))
    return Places(
        False, False, query, key, (of_query, of_key), (left, right), (step[0], step[1]), right - left, height,
        outer=outer,
    )  # fmt: skip


def line(looking: Looking, width: float, top: float, numbers: float) -> Places:
    """One line of tokens, arcs back above and ahead below; or keys above and queries below."""
    map, same = looking.map, looking.same
    ahead = same and not _causal(looking)
    texts = [labels_of(axis) for axis in (map.queries, map.keys)]
    needs = [[width_of(one) + 16 for one in labels] for labels in texts]
    tilted = max(sum(one) for one in needs) > width
    reach = min(_REACH[1], max(_REACH[0], width * 0.36))
    if tilted:
        pitches = [(width - 14) / len(labels) for labels in texts]
        middles = [7 + (np.arange(len(labels)) + 0.5) * pitch for labels, pitch in zip(texts, pitches, strict=True)]
        steps = [ticks(len(labels), pitch, 12.5, 18)[0] for labels, pitch in zip(texts, pitches, strict=True)]
    else:
        pitches, steps, middles = [0.0, 0.0], [1, 1], [_spread(one, width) for one in needs]
    label = (
        [min(_TILTED, max(map_ or [0.0])) for map_ in ([w - 16 for w in one] for one in needs)]
        if tilted
        else [22.0, 22.0]
    )
    label = [
        one + 14 + (width_of("9 999", SMALL) if tilted and step > 1 else 0)
        for one, step in zip(label, steps, strict=True)
    ]
    lanes = [lane_of(map.keys), 0.0 if same else lane_of(map.queries)]
    if same:
        y = top + lanes[0] + reach + 4
        below = y + label[0] + numbers
        height = below + (reach if ahead else 0) - top
        return Places(
            True, True, middles[0], middles[0], (pitches[0], pitches[0]), (y, y), (steps[0], steps[0]), width, height,
            tilted, below + 4, reach,
        )  # fmt: skip
    keys = top + lanes[0] + label[1] + numbers
    queries = keys + reach
    height = queries + label[0] + numbers + lanes[1] - top
    return Places(
        True, False, middles[0], middles[1], (pitches[0], pitches[1]), (queries, keys), (steps[0], steps[1]), width,
        height, tilted, 0.0, reach,
    )  # fmt: skip


def _spread(widths: Sequence[float], width: float) -> Array:
    """Middles of tokens side by side, no further apart than 2.5 times their widths, and centred."""
    room = min(width, sum(widths) * 1.6)
    each = np.array(widths) + (room - sum(widths)) / len(widths)
    return (width - room) / 2 + np.cumsum(each) - each / 2


def _causal(looking: Looking) -> bool:
    """Whether no query sees a key after it: nothing runs below the line."""
    return not any((np.triu(cells > -8, at + 1)).any() for at, cells, _ in looking.map.pieces())


def tapers(curves: Array, widths: Array, narrow: float, dash: tuple[float, float] | None = None) -> list[Any]:
    """Outlines of curves: as wide as ``widths`` at the query, ``narrow`` times that at the key; in pieces if dashed."""
    shapes: list[Any] = []
    for curve, width in zip(curves.reshape(-1, 4, 2), widths, strict=True):
        long = (np.linalg.norm(np.diff(curve, axis=0), axis=1).sum() + np.linalg.norm(curve[3] - curve[0])) / 2
        pieces = [(0.0, 1.0)]
        if dash is not None:
            count = max(2, round(long / sum(dash)))
            pieces = [(n / count, (n + dash[0] / sum(dash)) / count) for n in range(count)]
        for start, stop in pieces:
            t = np.linspace(start, stop, max(3, math.ceil(min(48, 10 + long / 24) * (stop - start))))[:, None]
            s = 1 - t
            at = s**3 * curve[0] + 3 * s * s * t * curve[1] + 3 * s * t * t * curve[2] + t**3 * curve[3]
            along = s * s * (curve[1] - curve[0]) + 2 * s * t * (curve[2] - curve[1]) + t * t * (curve[3] - curve[2])
            along /= np.maximum(1e-9, np.linalg.norm(along, axis=1, keepdims=True))
            off = along[:, ::-1] * [-1, 1] * (width / 2 * (1 - (1 - narrow) * t))
            shapes.append(np.concatenate([at + off, (at - off)[::-1]]))
    return shapes
