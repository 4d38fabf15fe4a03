"""An attention out of a file, computed with numpy: what opens where torch is not installed (see ``stored.py``).

It answers the questions that an :class:`~attnwidget.Attention` answers, with arrays in place of tensors. The numbers
are those of ``layers.py`` and ``maps.py``; what differs is the rounding of sums and exponentials in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .alone import Head, Numbers, allowed_by, window_of
from .chosen import Chosen, grouping, within
from .shown import PartOf, Reduce, Run
from .tokens import Tokens, numbered

Bools: TypeAlias = NDArray[np.bool_]
Places: TypeAlias = NDArray[np.int64]
"""[row], positions on an axis."""

_AT_ONCE = 1 << 21  # weights that a computation holds at once: 8 MB


@dataclass(frozen=True, eq=False)
class Mask:
    """Which keys each query may attend to: see :class:`attnwidget.masks.Mask`."""

    start: NDArray[np.int32]
    stop: NDArray[np.int32]
    keep: Bools
    dense: Bools | None = None

    def allowed(self, sample: int, rows: Places, head: int | None = None) -> Bools:
        """Bool [row, key], or [head or 1, row, key] where ``head`` is None."""
        if self.dense is not None:
            dense = self.dense[sample % len(self.dense)]
            found: Bools = dense[:, rows] if head is None else dense[head % len(dense), rows]
            return found
        rule, kept = sample % len(self.start), self.keep[sample % len(self.keep)]
        arrays = {"start": self.start[rule, rows], "stop": self.stop[rule, rows], "keep": kept}
        cells = allowed_by(arrays)
        return cells[None] if head is None else cells

    def arrays(self, sample: int, head: int) -> dict[str, NDArray[Any]]:
        """What a block holds of it: see :meth:`attnwidget.masks.Mask.arrays`."""
        keep, keys = self.keep[sample % len(self.keep)], self.keep.shape[1]
        if self.dense is None:
            stop = self.stop[sample % len(self.stop)].clip(0, keys)
            start = np.minimum(self.start[sample % len(self.start)].clip(0), stop)
            return {"start": start, "stop": stop, "keep": keep.astype(np.uint8)}
        cells = self.dense[sample % len(self.dense)]
        cells = cells[head % len(cells)]
        start = np.zeros(len(cells), np.int32)
        bits = np.packbits(cells, axis=1, bitorder="little")
        return {
            "start": start,
            "stop": start + np.int32(keys),
            "keep": (keep | cells.any(0)).astype(np.uint8),
            "bits": bits,
        }

    @cached_property
    def is_causal(self) -> bool:
        """True when no query sees a later key."""
        queries, keys = self.start.shape[1], self.keep.shape[1]
        if queries < 2 or queries != keys:
            return False
        if self.dense is not None:
            return not np.triu(self.dense, 1).any()
        return bool((self.stop <= np.arange(1, queries + 1)).all())

    @cached_property
    def window(self) -> int | None:
        """Width of a causal sliding window, or None."""
        causal = self.dense is None and self.is_causal
        return window_of(self.start, self.stop, self.keep.shape[1]) if causal else None


@dataclass(frozen=True, eq=False)
class Bias:
    """Numbers added to the scores: see :class:`attnwidget.masks.Bias`."""

    offsets: Numbers | None = None
    dense: Numbers | None = None
    positional: bool = False

    def block(self, sample: int, rows: Places, keys: int, head: int | None) -> Numbers:
        """Float32 [row, key], or [head or 1, row, key] where ``head`` is None."""
        source = self.dense if self.offsets is None else self.offsets
        assert source is not None
        of_sample = source[sample % len(source)]
        chosen: Numbers = of_sample if head is None else of_sample[head % len(of_sample)][None]
        if self.offsets is not None:
            queries = source.shape[2] - keys + 1
            chosen = chosen[:, np.arange(keys) - rows[:, None] + queries - 1]
        else:
            chosen = chosen[:, rows]
        found: Numbers = chosen if head is None else chosen[0]
        return found


@dataclass(frozen=True, eq=False)
class Rotary:
    """How the vectors of one axis were turned: see :class:`attnwidget.rotary.Rotary`."""

    cos: Numbers
    sin: Numbers
    pairs: str
    first: int = 0
    before: int = 0

    @property
    def width(self) -> int:
        """How many entries are turned."""
        return 2 * int(self.cos.shape[-1])

    def undone(self, vectors: Numbers, sample: int) -> Numbers:
        """Float32 [token, d]: ``vectors`` of one head as if all stood at position 0."""
        cos, sin = self.cos[sample % len(self.cos)], self.sin[sample % len(self.sin)]
        size = np.hypot(cos, sin)
        cos, sin = cos / size, sin / size
        inside, half = slice(self.first, self.first + self.width), self.width // 2
        halves = self.pairs == "halves"
        first, second = (slice(None, half), slice(half, None)) if halves else (slice(None, None, 2), slice(1, None, 2))
        found = vectors.astype(np.float32)
        a, b = vectors[:, inside][:, first], vectors[:, inside][:, second]
        found[:, inside][:, first], found[:, inside][:, second] = a * cos + b * sin, b * cos - a * sin
        return found


@dataclass(frozen=True, eq=False)
class Layer:
    """What one attention module computed in one call: see :class:`attnwidget.layers.Layer`."""

    name: str
    mask: Mask
    q: NDArray[Any] | None = None
    k: NDArray[Any] | None = None
    v: NDArray[Any] | None = None
    scale: float = 1.0
    softcap: float | None = None
    bias: Bias | None = None
    sink: Numbers | None = None
    weights: NDArray[Any] | None = None
    absent: str | None = None
    rotary: tuple[Rotary, Rotary] | None = None
    output: NDArray[Any] | None = None
    output_name: str | None = None
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        if self.weights is not None:
            batch, heads, queries, keys = self.weights.shape
            return batch, heads, queries, keys
        assert self.q is not None and self.k is not None
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def heads(self) -> int:
        return self.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.heads if self.k is None else self.k.shape[1]

    @property
    def nbytes(self) -> int:
        bias = None if self.bias is None else self.bias.dense
        held = (self.q, self.k, self.v, self.weights, self.mask.dense, bias)
        return sum(one.nbytes for one in held if one is not None)

    def alone(self, sample: int, head: int) -> Head:
        """What there is of that head and sample, as arrays."""
        sample %= self.shape[0]

        def of(values: NDArray[Any] | None) -> Numbers | None:
            if values is None:
                return None
            chosen = values[sample % len(values)]
            found: Numbers = chosen[head * len(chosen) // self.heads].astype(np.float32)
            return found

        q, k, bias = of(self.q), of(self.k), self.bias or Bias()
        plain = None
        if self.rotary is not None and q is not None and k is not None:
            plain = self.rotary[0].undone(q, sample), self.rotary[1].undone(k, sample)
        width = 0 if self.output is None else self.output.shape[1] // self.heads
        output = None if self.output is None else self.output[:, head * width : (head + 1) * width].astype(np.float32)
        turned = self.rotary and self.rotary[0]
        return Head(
            name=self.name, kv_head=head * self.kv_heads // self.heads, scale=self.scale, softcap=self.softcap,
            mask=self.mask.arrays(sample, head), q=q, k=k, v=of(self.v), weights=of(self.weights), sink=of(self.sink),
            offsets=of(bias.offsets), dense=of(bias.dense), positional=bias.positional,
            plain=plain, pairs="" if turned is None else turned.pairs, width=0 if turned is None else turned.width,
            output=output, output_name=self.output_name, why=self.why,
        )  # fmt: skip

    def logits(self, sample: int, head: int | None, rows: Places) -> Numbers:
        """Scores s, −inf where masked: float32 [row, key], or [head, row, key] where ``head`` is None."""
        assert self.q is not None and self.k is not None
        groups = self.heads // self.kv_heads
        if head is None:
            # Query heads that share keys stand below each other, so that no key is copied: [kv_head, group · row, d].
            q = self.q[sample][:, rows].astype(np.float32).reshape(self.kv_heads, groups * len(rows), -1)
            s = (q @ self.k[sample].astype(np.float32).swapaxes(1, 2)).reshape(self.heads, len(rows), -1)
        else:
            s = self.q[sample, head][rows].astype(np.float32) @ self.k[sample, head // groups].astype(np.float32).T
        s *= self.scale
        if self.softcap is not None:
            s = np.tanh(s / self.softcap) * self.softcap
        if self.bias is not None:
            s = s + self.bias.block(sample, rows, self.shape[3], head)
        found: Numbers = np.where(self.mask.allowed(sample, rows, head), s, np.float32(-np.inf))
        return found

    def block(self, sample: int, head: int | None, rows: Places) -> tuple[Numbers, Numbers]:
        """Weights of whole rows and their log-sum-exp: [row, key], [row]; one axis more where ``head`` is None."""
        if self.weights is not None:
            p = self.weights[sample][:, rows] if head is None else self.weights[sample, head][rows]
            return p.astype(np.float32), np.zeros(p.shape[:-1], np.float32)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            s = self.logits(sample, head, rows)
            top, sink = s.max(-1), self._sink(sample, head, rows)
            if sink is not None:
                top = np.maximum(top, sink)
            # A row without any key has −inf everywhere; any finite top makes its weights exp(−inf) = 0 instead of NaN.
            top = np.where(top == -np.inf, np.float32(0), top)
            e = np.exp(s - top[..., None])
            total = e.sum(-1)
            if sink is not None:
                total = total + np.exp(sink - top)
            return e / np.where(total == 0, np.float32(1), total)[..., None], top + np.log(total)

    def _sink(self, sample: int, head: int | None, rows: Places) -> Numbers | None:
        if self.sink is None:
            return None
        of_sample = self.sink[sample % len(self.sink)].astype(np.float32)
        of_rows = of_sample[:, rows] if of_sample.shape[1] > 1 else of_sample.repeat(len(rows), 1)
        found: Numbers = of_rows if head is None else of_rows[head]
        return found


# ── maps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Computed:
    """What all maps can do, given :meth:`_rows`: some of their rows, [row, key]."""

    queries: Tokens
    keys: Tokens
    _noun = ""  # what stands along the axes, where these are no tokens
    _where = ""  # the part, for errors

    @property
    def shape(self) -> tuple[int, int]:
        """(number of queries, number of keys)."""
        return len(self.queries), len(self.keys)

    def row(self, query: int) -> Numbers:
        """What query ``query`` attends to: float32 [key]."""
        found: Numbers = self._rows(np.array([within(query, self.shape[0], f"query{self._noun}", self._where)]))[0]
        return found

    def column(self, key: int) -> Numbers:
        """How much each query attends to key ``key``: float32 [query]."""
        at = within(key, self.shape[1], f"key{self._noun}", self._where)
        return self.tile(slice(None), [at])[:, 0]

    def tile(self, rows: Any, cols: Any) -> Numbers:
        """Float32 [row, col] for slices, index lists or arrays of positions."""
        n_q, n_k = self.shape
        at, keys = np.arange(n_q)[rows].reshape(-1), np.arange(n_k)[cols].reshape(-1)
        pieces = [self._rows(some)[:, keys] for some in self._pieces(at)]
        return np.concatenate([np.empty((0, len(keys)), np.float32), *pieces])

    def weights(self) -> Numbers:
        """The whole map: float32 [query, key]. Makes n × n numbers, and keeps none of them."""
        return np.concatenate([block for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[Places, Numbers]]:
        """The whole map in pieces that fit: pairs of row indices [row] and weights [row, key]."""
        for rows in self._pieces(np.arange(self.shape[0])):
            yield rows, self._rows(rows)

    def _pieces(self, rows: Places) -> Iterator[Places]:
        step = max(1, _AT_ONCE // max(1, self._work))
        return (rows[at : at + step] for at in range(0, len(rows), step))

    @property
    def _work(self) -> int:
        """Weights behind one row."""
        return self.shape[1]

    def _rows(self, rows: Places) -> Numbers:
        raise NotImplementedError


class Map(Chosen[Layer], Computed):  # type: ignore[override]  # its axes are read-only, as it is meant
    """One map over the tokens: see :class:`attnwidget.maps.Map`."""

    def grouped(self, by: str | tuple[Sequence[int], Sequence[int]]) -> GroupedMap:
        """The map between groups of tokens: see :meth:`attnwidget.maps.OfTokens.grouped`."""
        return GroupedMap(self, *grouping(by, self.queries, self.keys))

    def allowed(self, rows: Places) -> Bools:
        """Bool [row, key]: where attending is allowed in at least one of the maps behind this one."""
        found = np.zeros((len(rows), self.shape[1]), bool)
        for layer, named in self._behind():
            cells = layer.mask.allowed(self.sample, rows, self.head)
            found |= (cells[named] if named and len(cells) > 1 else cells).any(0) if self.head is None else cells
        return found

    @property
    def padding(self) -> Bools:
        """Bool [key], True where a key is padding in every layer."""
        kept: Bools = np.any([layer.mask.keep[self.sample % len(layer.mask.keep)] for layer in self._layers], 0)
        return ~kept

    def seeing(self, rows: Places, block: Numbers) -> Bools:
        """Bool [row]: which rows, of weights ``block``, may attend to anything."""
        found: Bools = np.asarray(self.allowed(rows).any(-1))
        if self.reduce != "min" and all(layer.weights is not None for layer in self._layers):
            found &= (block != 0).any(-1)  # stored weights have no padding but rows of zeros
        return found

    @property
    def _work(self) -> int:
        return self.shape[1] * (1 if self.head is not None or self.heads else self.part.heads)

    def _rows(self, rows: Places) -> Numbers:
        over, join = _OVER[self.reduce]
        result: Numbers | None = None
        count = 0
        for layer, named in self._behind():
            for head in named or (self.head,):
                block, _ = layer.block(self.sample % layer.shape[0], head, rows)
                if head is None:
                    block = over.reduce(block, 0)
                elif named and np.isnan(block).any():
                    # A row of NaN is NaN throughout; what the head may not see there must not blot out other heads.
                    block = np.where(layer.mask.allowed(self.sample, rows, head), block, np.float32(0))
                # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
                count += layer.heads if head is None else 1
                result = block if result is None else join(result, block)
        assert result is not None
        return result / np.float32(count) if self.reduce == "mean" and count > 1 else result


_OVER: Mapping[Reduce, tuple[np.ufunc, np.ufunc]] = {
    "mean": (np.add, np.add),  # a sum until the end
    "max": (np.maximum, np.maximum),
    "min": (np.minimum, np.minimum),
}


class GroupedMap(Computed):
    """A map between groups of tokens: see :class:`attnwidget.maps.GroupedMap`."""

    _noun = " group"

    def __init__(self, map: Map, of_query: Sequence[int], of_key: Sequence[int]) -> None:
        self.map, self._where = map, map._where
        self.queries, self.keys = map.queries.grouped(of_query), map.keys.grouped(of_key)
        self._of_query = np.array(numbered(of_query, map.shape[0]))
        self._of_key = np.array(numbered(of_key, map.shape[1]))

    def _rows(self, groups: Places) -> Numbers:
        total, counted = np.zeros((self.shape[0], self.shape[1])), np.zeros((self.shape[0], 1))
        for rows in self.map._pieces(np.flatnonzero(np.isin(self._of_query, groups))):
            block = self.map._rows(rows)
            seeing = self.map.seeing(rows, block)
            merged = np.zeros((self.shape[1], len(rows)))
            np.add.at(merged, self._of_key, block.T.astype(np.float64))
            np.add.at(total, self._of_query[rows][seeing], merged.T[seeing])
            np.add.at(counted, self._of_query[rows][seeing], 1.0)
        found: Numbers = (total / counted.clip(1))[groups].astype(np.float32)
        return found

    def __repr__(self) -> str:
        return f"<{self.map!r} in {self.shape[0]} × {self.shape[1]} groups>"


class Stored(Run[PartOf[Layer], Map]):
    """The attention of one run of a model, out of a file, where torch is not installed: what ``load`` returns there.

    ``.part(name)``, ``.map(layer, head)``, ``.select(sample)`` and indexing are those of an
    :class:`~attnwidget.Attention`; rows, columns, tiles and weights are arrays of numpy.
    """

    _map = Map
