"""The numbers of what is looked at: cells of the selected map, with marks where there is no weight; without torch.

A cell is a weight (of a comparison, a difference), NaN, MASKED or PADDED, which are below any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget.selection import Selection
from attnwidget.shown import is_difference
from attnwidget.tokens import Tokens, numbered

Cells = NDArray[Any]
MASKED, PADDED = np.float32(-8.0), np.float32(-9.0)
LEGIBLE = 200
"""Edges at once that can still be told apart; of more, the strongest are drawn."""
LEAK = 1e-3
"""What a row has to lack for that to be said."""
_MOST_KEPT = 1 << 24  # cells that are kept, 64 MB; of more, rows are computed whenever they are asked for
_OVERLAID = 6  # heads that can be told apart by their colour

Piece = tuple[int, Cells, NDArray[Any]]
"""Number of the first row, cells [row, key], and how many keys each row may see."""


def is_weight(cells: Any) -> Any:
    """Which cells are numbers: no mark, and not NaN."""
    return cells > MASKED


class Looked:
    """One map as it is shown: between tokens, or words, or sentences.

    Attributes:
        queries, keys: what stands along the axes. signed: cells are differences.
    """

    def __init__(
        self, queries: Tokens, keys: Tokens, pieces: Callable[[], Iterator[Piece]], *, signed: bool = False
    ) -> None:
        self.queries, self.keys, self.signed = queries, keys, signed
        self.shape = (len(queries), len(keys))
        self._pieces = pieces

    @cached_property
    def _kept(self) -> list[Piece] | None:
        return list(self._pieces()) if self.shape[0] * self.shape[1] <= _MOST_KEPT else None

    def pieces(self) -> Iterator[Piece]:
        """All rows, some at a time."""
        return self._pieces() if self._kept is None else iter(self._kept)

    @cached_property
    def cells(self) -> Cells:
        """All of the map, [query, key]."""
        return np.concatenate([cells for _, cells, _ in self.pieces()])

    def rows(self, queries: Sequence[int]) -> Cells:
        """Some rows, [query, key]."""
        if self._kept is not None:
            return self.cells[list(queries)]
        found = {i: cells[i - at] for at, cells, _ in self.pieces() for i in queries if at <= i < at + len(cells)}
        return np.stack([found[i] for i in queries])

    @cached_property
    def _seen(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        allowed, leak, padding = [], [], np.ones(self.shape[1], bool)
        for _, cells, sees in self.pieces():
            there = is_weight(cells)
            mass = np.where(there, cells, 0.0).sum(1, dtype=np.float64)
            lacks = np.clip(1 - np.where(np.isnan(cells).any(1), 1.0, mass), 0.0, None)
            leak.append(np.where(there.any(1) & (sees > 0), lacks, 0.0))
            allowed.append(sees)
            rows = there.any(1) & (sees > 0)
            padding &= (cells[rows] == PADDED).all(0) if rows.any() else True
        whole = np.concatenate(leak)
        return np.concatenate(allowed), np.zeros_like(whole) if self.signed else whole, padding

    @property
    def allowed(self) -> NDArray[Any]:
        """[query] how many keys a row may see."""
        return self._seen[0]

    @property
    def leak(self) -> NDArray[Any]:
        """[query] what a row gives to no key; of differences none."""
        return self._seen[1]

    @property
    def padding(self) -> NDArray[Any]:
        """[key] which keys are padding to any query."""
        return self._seen[2]


# ── which map ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of(view: Any) -> Callable[[], Iterator[Piece]]:
    """The cells of one map of an attention, as :func:`attnwidget.wire.bundle` writes them."""

    def pieces() -> Iterator[Piece]:
        padding, at = np.asarray(view.padding), 0
        for rows, weights in view.blocks():
            p, allowed = np.asarray(weights, np.float32), np.asarray(view.allowed(rows))
            ground = np.where(padding | ~allowed.any(-1, keepdims=True), PADDED, MASKED)
            yield at, np.where(allowed | (p > 0), p, ground), allowed.sum(-1)
            at += len(p)

    return pieces


def _compared(view: Any) -> Callable[[], Iterator[Piece]]:
    """One map of a comparison on its common axes: A − B, or one of the sides."""

    def of(side: str) -> tuple[Cells, NDArray[Any]]:
        own = getattr(view, side)
        whole = Looked(own.queries, own.keys, _of(own))
        queries, keys = (np.asarray(getattr(one, side)) for one in (view.part.of_queries, view.part.of_keys))
        cells = whole.cells[np.ix_(np.maximum(queries, 0), np.maximum(keys, 0))]
        cells = np.where((queries < 0)[:, None] | (keys < 0), PADDED, cells)
        return cells, np.where(queries < 0, 0, whole.allowed[np.maximum(queries, 0)])

    def pieces() -> Iterator[Piece]:
        if view.side != "difference":
            yield 0, *of(view.side)
            return
        (a, seen_a), (b, seen_b) = of("a"), of("b")
        # What one side may not see is nothing there; where neither may, it is masked.
        less = np.where(a == MASKED, 0.0, a) - np.where(b == MASKED, 0.0, b)
        less = np.where((a == MASKED) & (b == MASKED), MASKED, less)
        yield 0, np.where((a == PADDED) | (b == PADDED), PADDED, less).astype(np.float32), np.maximum(seen_a, seen_b)

    return pieces


def _grouped(one: Looked, of_query: Sequence[int], of_key: Sequence[int]) -> Looked:
    """The map between groups: weights added over the keys of a group, averaged over its queries that see anything."""
    n_q, n_k = one.shape
    by_query, by_key = np.array(numbered(of_query, n_q)), np.array(numbered(of_key, n_k))
    rows, cols = by_query.max() + 1, by_key.max() + 1
    there, sees = is_weight(one.cells), is_weight(one.cells).any(1)
    values = np.where(there | np.isnan(one.cells), one.cells, 0.0)
    total, marks = np.zeros((rows, cols)), np.full((rows, cols), PADDED)
    np.add.at(total, (by_query[:, None], by_key[None, :]), values)
    np.maximum.at(marks, (by_query[:, None], by_key[None, :]), np.where(there, 0.0, one.cells))
    counted = np.maximum(1, np.bincount(by_query[sees], minlength=rows))
    cells = np.where(marks == 0, total / counted[:, None], marks).astype(np.float32)

    def pieces() -> Iterator[Piece]:
        yield 0, cells, (~(cells <= MASKED)).sum(1)

    return Looked(one.queries.grouped(of_query), one.keys.grouped(of_key), pieces, signed=one.signed)


def looked(shown: Any, part: str, side: str, group: str, **which: Any) -> Looked:
    """One map of what is shown (of the sample in view), by ``layer`` and ``head`` or ``heads``, and ``reduce``.

    Raises:
        ValueError: words or sentences of a map that has none, or is too large to add them up.
    """
    compared = is_difference(shown)
    view = shown.map(part=part, **which, **({"side": side} if compared else {}))
    pieces = _compared(view) if compared else _of(view)
    found = Looked(view.queries, view.keys, pieces, signed=compared and side == "difference")
    if group == "token":
        return found
    numbers = [axis.groups(group) for axis in (view.queries, view.keys)]
    if numbers == [None, None]:
        raise ValueError(f"There is no text to find a {group} in. Choose group='token', or capture with the tokenizer.")
    if found.shape[0] * found.shape[1] > _MOST_KEPT:
        raise ValueError(f"This map is too large for its {group}s to be added up. Choose group='token'.")
    of_query, of_key = ((-1,) * n if one is None else one for one, n in zip(numbers, found.shape, strict=True))
    return _grouped(found, of_query, of_key)


@dataclass(frozen=True)
class Effects:
    """What edges do to the objective: shares [query, key] of the largest, −1 … 1; which queries reach it."""

    shares: NDArray[Any]
    largest: float
    words: str
    reach: NDArray[Any]


class Looking:
    """A selection with its numbers: the map, heads one by one where they are drawn apart, and what is in focus."""

    def __init__(self, chosen: Selection) -> None:
        self.chosen = chosen
        self.shown: Any = chosen.attention.select(chosen.sample)
        self.part: Any = self.shown.part(chosen.part)
        self.group = "token" if chosen.step is not None else chosen.group

    def of(self, **which: Any) -> Looked:
        """Any map of this part, grouped as the selection is."""
        return looked(self.shown, self.chosen.part, self.chosen.side, self.group, **which)

    @cached_property
    def map(self) -> Looked:
        """The selected map."""
        one = self.chosen
        which = {"heads": one.heads} if one.heads else {"layer": one.layer, "head": one.head}
        return self.of(reduce=one.reduce, **which)

    @cached_property
    def strands(self) -> list[tuple[tuple[int, int] | None, Looked]]:
        """What arcs are drawn of: the heads one by one where they are few and wanted so, else the map, of no head."""
        heads = self.chosen.heads
        if self.chosen.overlay and self.effects is None and 1 < len(heads) <= _OVERLAID:
            return [(pair, self.of(reduce="mean", layer=pair[0], head=pair[1])) for pair in heads]
        return [(None, self.map)]

    @cached_property
    def places(self) -> NDArray[Any]:
        """[query token] its place along the axis: itself, or its group."""
        groups = None if self.group == "token" else self.part.queries.groups(self.group)
        return np.array(numbered((-1,) * len(self.part.queries) if groups is None else groups, len(self.part.queries)))

    @cached_property
    def moment(self) -> int | None:
        """The token that is being produced, if one is: no query yet, and the last one that is there."""
        made = [i for i, flag in enumerate(self.part.queries.generated) if flag]
        return None if self.chosen.step is None else made[self.chosen.step - 1]

    @property
    def asking(self) -> int:
        """How many queries there are by now."""
        return self.map.shape[0] if self.moment is None else self.moment

    @property
    def same(self) -> bool:
        """Whether queries and keys are the same tokens."""
        return self.part.queries is self.part.keys or bool(self.part.queries == self.part.keys)

    @cached_property
    def pinned(self) -> list[int]:
        """The places of the pinned queries that are there."""
        found = dict.fromkeys(int(self.places[one]) for one in self.chosen.pinned)
        return [one for one in found if one < self.asking]

    @cached_property
    def focus(self) -> list[int]:
        """Queries whose rows are added up: the one in focus, unless it is pinned; else those that are pinned."""
        query = None if self.chosen.query is None else int(self.places[self.chosen.query])
        if self.moment is not None:
            query = self.moment - 1 if self.moment else None
        return [query] if query is not None and query not in self.pinned else self.pinned

    @cached_property
    def effects(self) -> Effects | None:
        """What edges do to the objective, where that is what is shown."""
        trace, one = self.chosen.trace, self.chosen
        if trace is None or not one.effects:
            return None
        from attnwidget import truth
        from attnwidget.blocks import unpack

        (block,) = truth.stored(trace, one.part, one.heads or [(one.layer, one.head)]).values()
        read = unpack(block)
        codes = read.arrays["codes"].astype(np.float64)
        there, shape = codes != -32768, self.map.shape
        keys = self.places if self.same or self.group == "token" else None
        if keys is None or len(keys) != codes.shape[1]:
            groups = None if self.group == "token" else self.part.keys.groups(self.group)
            keys = np.array(numbered((-1,) * codes.shape[1] if groups is None else groups, codes.shape[1]))
        total, seen, reach = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape[0], bool)
        at = (self.places[:, None], keys[None, :])
        np.add.at(total, at, np.where(there, codes, 0.0))
        np.logical_or.at(seen, at, there)
        np.logical_or.at(reach, self.places, read.arrays["reach"] > 0)
        largest = float(np.abs(total).max()) or 1.0
        shares = np.where(seen, total / largest, MASKED)
        return Effects(shares, largest * float(read.meta["step"]), trace.objective.words, reach)


# ── edges ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Edges:
    """Edges, strongest first. Arrays [edge], of which a strand is the number of its head among those that are drawn."""

    query: NDArray[Any]
    key: NDArray[Any]
    weight: NDArray[Any]
    strand: NDArray[Any]

    def __len__(self) -> int:
        return len(self.query)

    def where(self, which: NDArray[Any]) -> Edges:
        """Some of them."""
        return Edges(self.query[which], self.key[which], self.weight[which], self.strand[which])

    @classmethod
    def joined(cls, some: Sequence[Edges]) -> Edges:
        """Those of several, the strongest first; of differences by their size."""
        columns = ([getattr(one, name) for one in some] for name in ("query", "key", "weight", "strand"))
        empty = [np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros(0, int)]
        whole = cls(*(np.concatenate([none, *column]) for none, column in zip(empty, columns, strict=True)))
        return whole.where(np.argsort(-np.abs(whole.weight), kind="stable"))


def carried(cells: Cells, share: float, first: int = 0, strand: int = 0) -> Edges:
    """The fewest keys that carry ``share`` of each row [row, key]: equal weights in the order of the keys."""
    size = np.where(is_weight(cells), np.abs(cells), np.float32(0.0))
    total = size.sum(1, dtype=np.float64, keepdims=True)
    # What is smaller than an even part of the rest cannot be needed: all of it together is less than the rest.
    row, key = np.nonzero(size > (1 - share) * total / cells.shape[1])
    weight = size[row, key].astype(np.float64)
    order = np.lexsort((key, -weight, row))
    row, key, weight = row[order], key[order], weight[order]
    before = np.cumsum(weight) - weight
    starts = np.searchsorted(row, np.arange(len(cells)))
    before -= np.append(before, 0.0)[starts][row]
    wanted = before < share * total[row, 0] * (1 - 1e-6)  # as many as in exact arithmetic, in spite of rounding
    row, key = row[wanted], key[wanted]
    return Edges(row + first, key, cells[row, key].astype(np.float64), np.full(len(row), strand))


@dataclass(frozen=True)
class Picked:
    """The edges that are drawn; how many there are in all, and what the others carry of a row on average."""

    edges: Edges
    count: int
    left: float


def picked(looking: Looking, limit: int = LEGIBLE) -> Picked:
    """The strongest of what all queries give that are there by now, by way of each strand."""
    best: list[Edges] = []
    count, rows, mass = 0, 0, 0.0
    for strand, (_, map) in enumerate(looking.strands):
        for at, cells, _ in map.pieces():
            some = carried(cells[: max(0, looking.asking - at)], looking.chosen.threshold, at, strand)
            count, rows = count + len(some), rows + len(np.unique(some.query))
            mass += float(np.abs(some.weight).sum())
            best = [_strongest([*best, some], limit)]
    edges = Edges.joined(best)
    return Picked(edges, count, max(0.0, mass - float(np.abs(edges.weight).sum())) / max(1, rows))


def _strongest(some: Sequence[Edges], limit: int) -> Edges:
    """The strongest; of equally strong ones the first query, then the first head, as the browser has them."""
    columns = Edges.joined(some)
    order = np.lexsort((columns.strand, columns.query, -np.abs(columns.weight)))
    return columns.where(order[:limit])


def summed(rows: Cells) -> Cells:
    """Rows added up, [key]. A cell that holds a weight in any row counts; NaN anywhere stays NaN."""
    there = is_weight(rows) | np.isnan(rows)
    return np.asarray(np.where(there.any(0), np.where(there, rows, 0.0).sum(0), rows.max(0)), np.float32)


# ── pooled cells, margins ────────────────────────────────────────────────────────────────────────────────────────────


def starts(n: int, bins: int) -> NDArray[Any]:
    """First index of each of some bins of n things, as even as whole numbers allow."""
    return np.arange(bins) * n // bins


def pooled(cells: Cells, axis: int, bins: int, signed: bool) -> Cells:
    """Cells in bins: NaN where any is, else the largest weight (of differences the furthest), masked, padded."""
    n = cells.shape[axis]
    if bins >= n:
        return cells
    at = starts(n, bins)
    high = np.maximum.reduceat(cells, at, axis)
    if not signed:
        return high
    low = -np.maximum.reduceat(np.where(cells <= MASKED, cells, -cells), at, axis)
    return np.where((low < 0) & (-low > high) & (high > MASKED), low, high)


def whole_in(map: Looked, rows: int, cols: int) -> tuple[Cells, NDArray[Any]]:
    """All of a map in at most rows × cols cells, and how many keys the first query of each row may see."""
    n_q, n_k = map.shape
    rows, cols = min(n_q, rows), min(n_k, cols)
    if rows == n_q and cols == n_k:
        return map.cells, map.allowed
    first = starts(n_q, rows)
    found = np.full((rows, cols), PADDED)
    for at, cells, _ in map.pieces():
        narrow = pooled(cells, 1, cols, map.signed)
        of = np.searchsorted(first, np.arange(at, at + len(cells)), side="right") - 1
        edges = np.flatnonzero(np.diff(of, prepend=-1))
        for start, stop in zip(edges, [*edges[1:], len(of)], strict=True):
            two = np.concatenate([found[of[start]][None], narrow[start:stop]])
            found[of[start]] = pooled(two, 0, 1, map.signed)[0]
    return found, map.allowed[first]


@dataclass(frozen=True)
class Margins:
    """What each key receives on average, [key]; the entropy of each query in nats, [query]; NaN for none. Sinks."""

    received: NDArray[Any]
    entropy: NDArray[Any]
    sinks: list[int]


_CHOICE, _LARGE, _TIMES = 8, 0.3, 5  # as in js/src/margins.ts


def margins(map: Looked, asking: int) -> Margins:
    """The margins of a map; queries from ``asking`` on count for sinks only."""
    n_q, n_k = map.shape
    total, count, choosing, fair, choosers = np.zeros((5, n_k))
    entropy = np.full(n_q, np.nan)
    for at, cells, sees in map.pieces():
        there = is_weight(cells)
        p = np.where(there, cells, 0.0).astype(np.float64)
        now = np.arange(at, at + len(cells)) < asking
        total += p[now].sum(0)
        count += there[now].sum(0)
        free = sees >= _CHOICE
        choosing += p[free].sum(0)
        fair += (there[free] / np.maximum(1, sees[free, None])).sum(0)
        choosers += there[free].sum(0)
        mass = p.sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            plogp = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)
            spread = np.maximum(0.0, np.log(mass) - plogp / mass)
        if not map.signed:
            entropy[at : at + len(cells)] = np.where(now & (mass > 0), spread, np.nan)
    received = np.where(count > 0, total / np.maximum(1, count), np.nan)
    large = (choosers >= _CHOICE) & (choosing > _LARGE * choosers) & (choosing >= _TIMES * fair)
    return Margins(received, entropy, [] if map.signed else np.flatnonzero(large).tolist())
