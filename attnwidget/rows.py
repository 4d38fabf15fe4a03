"""Rows of weights of all heads of a layer, a few at a time, and what there is to be measured of each.

What a measure adds up is told by the tokens (:class:`Axes`) and the same for all heads: one product of matrices serves
all measures and heads at once. Nothing of size n × n is ever there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .layers import Layer, Part
from .masks import Mask
from .measured import NEAR

BLOCK = 1 << 20  # weights computed at once: 4 MB each for scores, exponentials and what is made of them

_ONE_KEY = {"first", "previous", "next", "diagonal"}  # read off, not added up
_LITTLE = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Axes:
    """What of the tokens of a part tells which keys a measure adds up."""

    part: Part

    def means(self, name: str) -> bool:
        """Whether that measure means something of this part."""
        one = self.part.queries == self.part.keys and not self.part.name.startswith("cross")
        if name in ("distance", "offset", "previous", "next", "local", "far", "duplicate", "induction"):
            return one and self.part.queries.kind not in ("patch", "window")
        there = {
            "diagonal": lambda: one,
            "patches": lambda: one and self.part.keys.grid is not None,
            "aligned": lambda: not one,
            "special": lambda: any(self.part.keys.special),
            "punctuation": lambda: any(self.part.keys.punctuation),
            "block": lambda: one and len({*self._block.tolist()} - {-1}) > 1,
        }
        return name not in there or there[name]()

    def on(self, name: str, at: Tensor, kept: Tensor) -> Tensor | None:
        """The keys whose weight that measure adds up, of the queries ``at``: bool [row or 1, key].

        None for a measure that is no weight on some keys. ``kept`` is False for keys that are padding.
        """
        i, j = at[:, None], torch.arange(len(kept))
        found: Mapping[str, Callable[[], Tensor]] = {
            "first": lambda: (j == int(kept.int().argmax()))[None],
            "previous": lambda: j == i - 1,
            "diagonal": lambda: j == i,
            "next": lambda: j == i + 1,
            "local": lambda: (i - j).abs() <= NEAR,
            "far": lambda: (i - j).abs() > int(kept.sum()) / 4,
            "special": lambda: torch.tensor(self.part.keys.special)[None],
            "punctuation": lambda: torch.tensor(self.part.keys.punctuation)[None],
            "duplicate": lambda: (self._entry[at, None] == self._entry.masked_fill(~kept, -1)) & (j < i),
            "induction": lambda: (
                (self._entry[at, None] == self._entry.masked_fill(~kept, -1).roll(1)) & (j < i) & (j > 0)
            ),
            "block": lambda: (self._block[at, None] == self._block) & (self._block >= 0),
            "aligned": lambda: (j - i * ((len(kept) - 1) / max(1, len(self.part.queries) - 1))).abs() <= 1,
        }
        return found[name]() if name in found else None

    def between_patches(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Distances of the queries ``at`` to all keys, in patches; and 1 for a patch, 0 for any other key.

        Both float32 [row, key]; all zeros for queries that are no patches.
        """
        patch = self._cell[:, 0] >= 0
        both = (patch[at, None] & patch).float()
        return torch.cdist(self._cell[at], self._cell) * both, both

    @cached_property
    def _entry(self) -> Tensor:
        """[key] numbers that are equal where the vocabulary entries are; of placeholders of an image all differ."""
        keys, number = self.part.keys, dict[Any, int]()
        return torch.tensor(
            [number.setdefault(i if keys.image and keys.image[i] else raw, i) for i, raw in enumerate(keys.raw)]
        )

    @cached_property
    def _block(self) -> Tensor:
        """[key] number of the text, of a pair, or else of the sentence; −1 where there is none."""
        keys = self.part.keys
        return torch.tensor(keys.segments or keys.sentences() or [-1] * len(keys))

    @cached_property
    def _cell(self) -> Tensor:
        """float32 [key, 2] row and column of each patch; −1 for what is none."""
        keys = self.part.keys
        return torch.tensor([keys.cell(i) or (-1, -1) for i in range(len(keys))]).float()


def rows_of(
    layer: Layer, sample: int, axes: Axes, queries: Tensor | None = None, names: Collection[str] = ()
) -> Iterator[Rows]:
    """Rows of all heads of a layer, a few at a time, of which the measures ``names`` will be asked.

    Of a causal layer the keys end where the last of the rows does.
    """
    _, heads, every, keys = layer.shape
    chosen = torch.arange(every) if queries is None else queries
    for at in chosen.split(max(1, BLOCK // (heads * keys))):
        yield block_of(layer, sample, axes, at, names)


def block_of(layer: Layer, sample: int, axes: Axes, at: Tensor, names: Collection[str], cut: bool = True) -> Rows:
    """The rows ``at`` of all heads of a layer; where not ``cut``, with all of the keys."""
    kept = layer.mask.keep[sample % len(layer.mask.keep)]
    seen = _cut(layer, int(layer.mask.stop[sample % len(layer.mask.stop), at].max().clamp_min(1))) if cut else layer
    p, _ = seen.block(sample % layer.shape[0], None, at)
    allowed = seen.mask.allowed(sample, at)
    counted = allowed.any(-1)
    if layer.weights is not None:  # stored weights have no padding but rows of zeros
        counted = counted & (p != 0).any(-1)
    return Rows(p, at, kept, allowed, counted.expand(layer.heads, -1), axes, tuple(names))


def _cut(layer: Layer, stop: int) -> Layer:
    """The layer without the keys from ``stop`` on, as views."""
    mask, bias, keys = layer.mask, layer.bias, layer.shape[3]
    if layer.k is None or mask.dense is not None or stop >= keys:
        return layer
    if bias is not None:
        offsets = None if bias.offsets is None else bias.offsets[..., : layer.shape[2] + stop - 1]
        bias = replace(bias, offsets=offsets, dense=None if bias.dense is None else bias.dense[..., :stop])
    shorter = Mask(mask.start, mask.stop.clamp_max(stop), mask.keep[:, :stop])
    return replace(layer, k=layer.k[:, :, :stop], mask=shorter, bias=bias)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of all heads of a layer, and what is to be known of each: [head, row].

    Attributes:
        p: the weights [head, row, key]; keys that none of the rows may see are left out at the end.
        at: which queries these are, [row].
        kept: False for keys that are padding, of all keys.
        allowed: bool [1 or head, row, key].
        counted: bool [head, row], False for rows without any key.
        axes: the tokens. names: the measures that will be asked for.
    """

    p: Tensor
    at: Tensor
    kept: Tensor
    allowed: Tensor
    counted: Tensor
    axes: Axes
    names: tuple[str, ...]
    _found: dict[str, Tensor | None] = field(default_factory=dict, repr=False)

    def value(self, name: str) -> Tensor:
        """That measure of each row."""
        return self._added[name] if name in self._added else getattr(self, name)

    def counts(self, name: str) -> Tensor:
        """Whether the row counts in the mean of that measure."""
        if name == "patches":
            return self.counted & (self._added["of patches"] > 0)
        if name == "block":
            return self.counted & (self.axes._block[self.at] >= 0)
        if name not in ("previous", "next", "duplicate", "induction"):
            return self.counted
        on = self.on(name)
        return self.counted if on is None else self.counted & (on & self.kept).any(-1)

    def on(self, name: str) -> Tensor | None:
        """See :meth:`Axes.on`; of these rows."""
        if name not in self._found:
            self._found[name] = self.axes.on(name, self.at, self.kept)
        return self._found[name]

    @cached_property
    def _added(self) -> Mapping[str, Tensor]:
        """Weights times numbers that all heads share, summed over the keys: all of them one product of matrices."""
        numbers: dict[str, Tensor] = {}
        offset = self.at[:, None] - torch.arange(len(self.kept))
        for name in self.names:
            if name in ("distance", "offset"):
                numbers[name] = offset.abs() if name == "distance" else offset
            elif name == "patches":
                numbers[name], numbers["of patches"] = self.axes.between_patches(self.at)
            elif name not in _ONE_KEY and (on := self.on(name)) is not None:
                numbers[name] = on
        if not numbers:
            return {}
        every = torch.empty(len(self.at), len(numbers), self.p.shape[-1])
        for index, one in enumerate(numbers.values()):
            every[:, index] = one[:, : every.shape[2]]
        # [row, head, key] × [row, key, measure]: what a key counts depends on the row.
        sums = dict(zip(numbers, (self.p.transpose(0, 1) @ every.mT).permute(2, 1, 0), strict=True))
        shares = {"distance": self._shared, "offset": self._shared, "patches": sums.get("of patches")}
        return {name: one if (by := shares.get(name)) is None else one / by for name, one in sums.items()}

    @cached_property
    def _sum(self) -> Tensor:
        return self.p.sum(-1)

    @cached_property
    def _shared(self) -> Tensor:
        """What to divide by where only the weight that goes to keys counts."""
        return torch.where(self._sum == 0, 1.0, self._sum)

    @cached_property
    def entropy(self) -> Tensor:
        """−Σ r ln r of r = p / Σp is (−Σ p ln p) / Σp + ln Σp."""
        return entropy_of(self.p) / self._shared + self._shared.log()

    @property
    def effective(self) -> Tensor:
        return torch.exp(self.entropy)

    @property
    def first(self) -> Tensor:
        return self._weight_on(self.kept.int().argmax().expand(len(self.at)))

    @property
    def previous(self) -> Tensor:
        return self._weight_on((self.at - 1).clamp_min(0))

    @property
    def next(self) -> Tensor:
        return self._weight_on(self.at + 1)

    @property
    def diagonal(self) -> Tensor:
        return self._weight_on(self.at)

    @property
    def leak(self) -> Tensor:
        return 1.0 - self._sum

    @property
    def confidence(self) -> Tensor:
        return self.p.amax(-1)

    @property
    def sparsity(self) -> Tensor:
        """All keys but the lightest, as many as carry 10 %; to a millionth, or rounding would decide on ties."""
        # numpy sorts with vector instructions: 1.5 ns a weight where torch takes 50.
        rising = torch.from_numpy(np.sort(self.p.numpy(), -1)).cumsum_(-1)
        heavy = (rising > (0.1 + 1e-6) * self._sum[..., None]).sum(-1)
        return torch.where(self._sum.isnan(), torch.nan, heavy)

    def _weight_on(self, keys: Tensor) -> Tensor:
        """The weight of each row on one key of its own; 0 where that is left out."""
        last = self.p.shape[-1] - 1
        return self.p[:, torch.arange(len(keys)), keys.clamp_max(last)].masked_fill(keys > last, 0.0)


def entropy_of(p: Tensor) -> Tensor:
    """−Σ p ln p, in nats: [..., key] → [...]. Weights below 1e−38 count as that much."""
    return -p.clamp_min(_LITTLE).log_().mul_(p).sum(-1)
