"""Which keys a query may attend to, and what is added to its scores: as rules of O(n) numbers, not n × n entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from .alone import of_positions, window_of

F = TypeVar("F", bound=Callable[..., object])

# Largest block of weights that a computation holds at once: 2 Mi float32 entries, 8 MB.
BLOCK_ENTRIES = 1 << 21


def on_host(function: F) -> F:
    """``function`` with new tensors in host memory, where all is kept, whatever the default device is."""

    @wraps(function)
    def wrapped(*args: object, **kwargs: object) -> object:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return cast(F, wrapped)


def row_blocks(rows: Tensor, entries_per_row: int) -> Iterator[Tensor]:
    """``rows`` in pieces of a bounded number of entries."""
    step = max(1, BLOCK_ENTRIES // max(1, entries_per_row))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


@dataclass(frozen=True, eq=False)
class Mask:
    """Which keys each query may attend to.

    Causal masks, sliding windows, packed documents and padding all have one form: query i sees the keys
    ``start_i ≤ j < stop_i`` that are not padding. Only a mask that has not is kept entry by entry.

    Attributes:
        start, stop: int32 [batch, query].
        keep: bool [batch, key], False for padding.
        dense: bool [batch, head or 1, query, key], or None.
    """

    start: Tensor
    stop: Tensor
    keep: Tensor
    dense: Tensor | None = None

    @classmethod
    @lru_cache(maxsize=32)  # layers share their mask, and what is known of it
    def full(cls, queries: int, keys: int) -> Mask:
        """Every query sees every key."""
        return cls(
            torch.zeros(1, queries, dtype=torch.int32, device="cpu"),
            torch.full((1, queries), keys, dtype=torch.int32, device="cpu"),
            torch.ones(1, keys, dtype=torch.bool, device="cpu"),
        )

    @classmethod
    @lru_cache(maxsize=32)  # layers share their mask, and what is known of it
    def causal(cls, queries: int, keys: int, window: int | None = None, offset: int = 0) -> Mask:
        """Query i sees key j ≤ i + offset, and with a window only the last ``window`` of them."""
        last = torch.arange(queries, dtype=torch.int32, device="cpu") + offset + 1
        start = torch.zeros_like(last) if window is None else (last - window).clamp_min(0)
        stop = last.clamp(0, keys)
        return cls(start[None], stop[None], torch.ones(1, keys, dtype=torch.bool, device="cpu"))

    @classmethod
    def of(cls, allowed: Tensor) -> Mask:
        """The rule behind a boolean mask [batch, head or 1, query or 1, key], found and verified entry by entry."""
        batch, heads, queries, keys = allowed.shape
        allowed = allowed.cpu()
        start = torch.empty(batch, queries, dtype=torch.int32)
        stop = torch.empty(batch, queries, dtype=torch.int32)
        keep = allowed.any(1).any(1)
        at = torch.arange(keys, dtype=torch.int32)
        ruled = heads == 1
        for b in range(batch):
            for r in range(0, queries, rows := max(1, BLOCK_ENTRIES // max(1, keys))):
                block = allowed[b, 0, r : r + rows]
                some = block.any(1)
                first = torch.where(some, block.int().argmax(1).int(), 0)
                last = torch.where(some, keys - block.flip(1).int().argmax(1).int(), 0)
                start[b, r : r + rows], stop[b, r : r + rows] = first, last
                if ruled:
                    ruled = torch.equal((at >= first[:, None]) & (at < last[:, None]) & keep[b], block)
        if ruled:
            return cls(start, stop, keep)
        # Per-head masks may reach further than head 0 does: the dense mask alone decides.
        span = torch.zeros_like(start), torch.full_like(stop, keys)
        return cls(*span, keep, allowed.clone())

    def __and__(self, other: Mask) -> Mask:
        if self.dense is not None or other.dense is not None:
            raise NotImplementedError("only masks that are rules can be joined")
        return Mask(
            torch.maximum(self.start, other.start), torch.minimum(self.stop, other.stop), self.keep & other.keep
        )

    def spread(self, queries: int) -> Mask:
        """The same rule for every query, from a mask of one row (padding masks [batch, 1, 1, key] have it)."""
        if self.start.shape[1] == queries:
            return self
        dense = None if self.dense is None else self.dense.expand(-1, -1, queries, -1)
        return Mask(self.start.expand(-1, queries), self.stop.expand(-1, queries), self.keep, dense)

    def without(self, keep: Tensor) -> Mask:
        """The same mask with no keys for the queries that are padding, bool [batch, query]: their rows mean nothing."""
        batch = max(len(keep), len(self.start), len(self.keep))
        start, stop = (one.expand(batch, -1) for one in (self.start, self.stop))
        dense = None if self.dense is None else self.dense & keep[:, None, :, None]
        # An empty interval, wherever the model's own began.
        return Mask(start, torch.where(keep, stop, start), self.keep, dense)

    def allowed(self, sample: int, rows: Tensor, head: int | None = None) -> Tensor:
        """bool [row, key], or [head or 1, row, key] where ``head`` is None."""
        # Rules and padding may be those of one text or of each: a flash mask has one rule and the padding of each.
        b = sample % len(self.start)
        if self.dense is not None:
            cells = self.dense[sample % self.dense.shape[0]]
            return cells[:, rows] if head is None else cells[head % cells.shape[0]][rows]
        at = torch.arange(self.keep.shape[1], dtype=torch.int32)
        cells = (at >= self.start[b, rows, None]) & (at < self.stop[b, rows, None]) & self.keep[sample % len(self.keep)]
        return cells[None] if head is None else cells

    def arrays(self) -> dict[str, Tensor]:
        """What a block holds of the first sample and head: start [query], stop [query], keep [key].

        And bits [query, key / 8], where these three do not say it all.
        """
        if self.dense is None:
            stop = self.stop[0].clamp(0, self.keep.shape[1])
            return {"start": self.start[0].clamp_min(0).minimum(stop), "stop": stop, "keep": self.keep[0].byte()}
        allowed = self.dense[0, 0]
        bits = torch.from_numpy(np.packbits(allowed.numpy(), axis=1, bitorder="little"))
        start = torch.zeros(len(allowed), dtype=torch.int32)
        keep = (self.keep[0] | allowed.any(0)).byte()
        return {"start": start, "stop": start + allowed.shape[1], "keep": keep, "bits": bits}

    def columns(self, cols: Tensor) -> Mask:
        """The same mask over some of the keys, written out: a selection of columns is no interval any more."""
        queries = self.start.shape[1]
        if self.is_full:
            return Mask.full(queries, len(cols))
        if self.dense is not None:
            cells = self.dense[..., cols]
        else:
            at = cols.to(torch.int32)
            cells = ((at >= self.start[..., None]) & (at < self.stop[..., None]) & self.keep[:, None, cols])[:, None]
        empty = torch.zeros(len(cells), queries, dtype=torch.int32)
        return Mask(empty, empty + len(cols), torch.ones(len(cells), len(cols), dtype=torch.bool), cells)

    @cached_property
    def is_full(self) -> bool:
        """True when nothing is masked."""
        return (
            self.dense is None
            and not bool(self.start.any())
            and bool((self.stop == self.keep.shape[1]).all())
            and bool(self.keep.all())
        )

    @cached_property
    def is_causal(self) -> bool:
        """True when no query sees a later key."""
        queries, keys = self.start.shape[1], self.keep.shape[1]
        if queries < 2 or queries != keys:
            return False
        if self.dense is not None:
            return not bool(self.dense.triu(1).any())
        return bool((self.stop <= torch.arange(1, queries + 1, device="cpu")).all())

    @cached_property
    def window(self) -> int | None:
        """Width of a causal sliding window, or None."""
        causal = self.dense is None and self.is_causal
        return window_of(self.start, self.stop, self.keep.shape[1]) if causal else None


@dataclass(frozen=True, eq=False)
class Bias:
    """Numbers added to the scores: relative positions, ALiBi, a learned map.

    Attributes:
        offsets: float32 [batch, head, query + key − 1], bias_ij = offsets[j − i + query − 1] (a Toeplitz matrix), or
        dense: float32 [batch, head, query, key].
        positional: the model says that they stand for positions.
    """

    offsets: Tensor | None = None
    dense: Tensor | None = None
    positional: bool = False

    @classmethod
    def of(cls, values: Tensor) -> Bias | None:
        """The shortest exact form of [batch, head, query, key] numbers; None where all are zero."""
        values = values.detach().float().cpu()
        if not bool(values.any()):
            return None
        batch, heads, queries, keys = values.shape
        # Row i of a Toeplitz matrix, shifted by one, is row i + 1: compare the matrix with itself one step down.
        if queries > 1 and torch.equal(values[:, :, :-1, :-1], values[:, :, 1:, 1:]):
            column = values[:, :, :, 0].flip(2)
            return cls(offsets=torch.cat([column, values[:, :, 0, 1:]], dim=2))
        return cls(dense=values.clone())

    def block(self, sample: int, rows: Tensor, keys: int, head: int | None = None) -> Tensor:
        """float32 [row, key], or [head, row, key] where ``head`` is None."""
        source = self.offsets if self.offsets is not None else self.dense
        assert source is not None
        of_sample = source[sample % source.shape[0]]
        chosen = of_sample if head is None else of_sample[head % of_sample.shape[0]][None]
        if self.offsets is not None:
            queries = source.shape[2] - keys + 1
            at = torch.arange(keys)[None, :] - rows[:, None] + queries - 1
            chosen = chosen[:, at]
        else:
            chosen = chosen[:, rows]
        return chosen if head is None else chosen[0]

    def columns(self, cols: Tensor, queries: int) -> Bias:
        """The same numbers over some of the keys, written out."""
        if self.dense is not None:
            return Bias(dense=self.dense[..., cols])
        assert self.offsets is not None
        return Bias(dense=self.offsets[..., cols[None, :] - torch.arange(queries)[:, None] + queries - 1])

    def of_positions(self, allowed: Tensor, grid: tuple[int, int] | None = None) -> bool:
        """Whether the numbers of the first sample and head depend on nothing but how far apart query and key are.

        What is added to all scores of a query alike changes no weight, and does not count.

        Args:
            allowed: bool [query, key]; what is added elsewhere does not count either.
            grid: rows and columns of the patches of an image that stand last: they are as far apart as they are in it.
        """
        if self.positional or self.offsets is not None:
            return True
        assert self.dense is not None
        return of_positions(self.dense[0, 0].numpy(), allowed.numpy(), grid)

    def plus(self, other: Bias | None, queries: int, keys: int) -> Bias:
        """The sum of two biases, in the shortest form both have."""
        if other is None:
            return self
        if self.offsets is not None and other.offsets is not None:
            return Bias(offsets=self.offsets + other.offsets)
        a, b = (one.columns(torch.arange(keys), queries).dense for one in (self, other))
        assert a is not None and b is not None
        return Bias(dense=a + b)


def read(mask: Tensor, queries: int, keys: int, *, additive: bool) -> tuple[Mask | None, Bias | None]:
    """What the tensor a model passes as its attention mask says: where attending is allowed, and what is added there.

    bool masks keep where True, except in functions that add whatever they are given (``additive``). Float masks are
    added; −inf, or the most negative number of their type, stands for "not allowed".

    Args:
        mask: [batch, key] with 1 for tokens and 0 for padding (flash kernels), or [batch, head or 1, query or 1, key or
            more].
        queries, keys: size of the map.
        additive: True for eager functions.
    """
    mask = mask.detach().cpu()
    if mask.dim() == 2:
        rule = Mask.full(queries, keys)
        keep = mask[:, -keys:].bool()
        # Flash kernels take padding out of the queries, too, and write zeros there: such a row has no key.
        stop = torch.where(keep, keys, 0).int() if queries == keys else rule.stop
        return Mask(torch.zeros_like(stop), stop, keep), None
    mask = mask[(None,) * (4 - mask.dim())][..., :keys]
    if not mask.is_floating_point():
        mask = mask.bool()
    if mask.dtype == torch.bool and not additive:
        return Mask.of(mask).spread(queries), None
    values = mask.float()
    if mask.dtype == torch.bool:
        return None, Bias.of(values.expand(-1, -1, queries, -1))
    allowed = values > torch.finfo(mask.dtype).min / 2
    if bool(allowed.all()):
        return None, Bias.of(values.expand(-1, -1, queries, -1))
    numbers = values.masked_fill(~allowed, 0.0)
    return Mask.of(allowed).spread(queries), Bias.of(numbers.expand(-1, -1, queries, -1))
