"""Maps over the tokens: one head's own, or several reduced to one, or those of groups of tokens.

Rows, columns, tiles and whole maps are recomputed from the layers, in float32, in blocks; nothing of size n × n is
stored unless the caller brought it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .chosen import Chosen, grouping, within
from .layers import Layer
from .masks import on_host, row_blocks
from .tokens import Tokens, numbered

# How blocks [head, row, key] are joined over heads, and blocks [row, key] over layers; a mean is a sum until the end.
_OVER_HEADS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda block: block.sum(0),
    "max": lambda block: block.amax(0),
    "min": lambda block: block.amin(0),
}
_JOIN: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda a, b: a + b,
    "max": torch.maximum,
    "min": torch.minimum,
}


class Computed:
    """What all maps can do, given :meth:`_rows`: some of their rows, [row, key].

    Attributes:
        queries, keys: the axes. shape: (number of queries, number of keys).
    """

    queries: Tokens
    keys: Tokens
    _noun = ""  # what stands along the axes, where these are no tokens
    _where = ""  # the part, for errors

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.queries), len(self.keys)

    @on_host
    def row(self, query: int) -> Tensor:
        """What query ``query`` attends to: float32 [key]."""
        return self._rows(torch.tensor([within(query, self.shape[0], f"query{self._noun}", self._where)]))[0]

    @on_host
    def column(self, key: int) -> Tensor:
        """How much each query attends to key ``key``: float32 [query]."""
        at = within(key, self.shape[1], f"key{self._noun}", self._where)
        return self.tile(slice(None), [at])[:, 0]

    @on_host
    def tile(self, rows: Any, cols: Any) -> Tensor:
        """float32 [row, col] for slices, index lists or tensors of positions."""
        return self._tile(_positions(rows, self.shape[0], "rows"), _positions(cols, self.shape[1], "cols"))

    @on_host
    def weights(self) -> Tensor:
        """The whole map: float32 [query, key]. Makes n × n numbers, and keeps none of them."""
        return torch.cat([block for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole map in pieces that fit: pairs of row indices [row] and weights [row, key]."""
        for rows in self._pieces(torch.arange(self.shape[0], device="cpu")):
            yield rows, self._rows(rows)

    def _tile(self, rows: Tensor, cols: Tensor) -> Tensor:
        blocks = [self._rows(some)[:, cols] for some in self._pieces(rows)]
        return torch.cat(blocks) if blocks else torch.empty(0, len(cols))

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        return row_blocks(rows, self.shape[1])

    def _rows(self, rows: Tensor) -> Tensor:
        raise NotImplementedError


class OfTokens(Computed):
    """A map between tokens, which can be put together in groups."""

    def grouped(self, by: str | tuple[Sequence[int], Sequence[int]]) -> GroupedMap:
        """The map between groups of tokens: weights summed over the keys of a group, averaged over its queries.

        Args:
            by: "word", "sentence" or "segment"; or the group of each query and of each key, −1 for one by itself.

        Raises:
            ValueError: no such grouping; neither axis has a text; not one group a token.
        """
        return GroupedMap(self, *grouping(by, self.queries, self.keys))

    @property
    def _lacking(self) -> tuple[Tensor, Tensor] | None:
        """Bool [query] and [key], True for tokens of which there is no weight to add up."""
        return None

    def _seeing(self, rows: Tensor, block: Tensor) -> Tensor:
        """Bool [row]: which rows, of weights ``block``, may attend to anything."""
        raise NotImplementedError


class Map(Chosen[Layer], OfTokens):  # type: ignore[override]  # its axes are read-only, as it is meant
    """One map over the tokens, [query, key]: a head's own or a reduction over several.

    Attributes:
        part: the :class:`Part` it belongs to. layer, head: indices, None where reduced. reduce: how.
        heads: the pairs (layer, head) it is reduced over, where they were named; otherwise empty.
        queries, keys: its axes. shape: (number of queries, number of keys).
    """

    @on_host
    def allowed(self, rows: Tensor) -> Tensor:
        """Bool [row, key]: where attending is allowed in at least one of the maps behind this one."""
        found: Tensor | None = None
        for layer, named in self._behind():
            cells = layer.mask.allowed(self.sample, rows, self.head)
            # A mask that all heads share has one [row, key] for all of them.
            cells = (cells[named] if named and len(cells) > 1 else cells).any(0) if self.head is None else cells
            found = cells if found is None else found | cells
        assert found is not None
        return found

    @property
    def padding(self) -> Tensor:
        """Bool [key], True where a key is padding in every layer."""
        kept = [layer.mask.keep[self.sample % len(layer.mask.keep)] for layer in self._layers]
        return ~torch.stack(kept).any(0)

    def _seeing(self, rows: Tensor, block: Tensor) -> Tensor:
        seeing = self.allowed(rows).any(-1)
        if self.reduce != "min" and all(layer.weights is not None for layer in self._layers):
            # Stored weights have no padding but rows of zeros; the least of several heads may be that elsewhere.
            seeing &= (block != 0).any(-1)
        return seeing

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        return row_blocks(rows, self.shape[1] * (1 if self.head is not None or self.heads else self.part.heads))

    def _tile(self, rows: Tensor, cols: Tensor) -> Tensor:
        if self.single is None or self.head is None:
            return super()._tile(rows, cols)
        return self.single.tile(self.sample % self.single.shape[0], self.head, rows, cols)

    @on_host
    def _rows(self, rows: Tensor) -> Tensor:
        result: Tensor | None = None
        count = 0
        for layer, named in self._behind():
            sample = self.sample % layer.shape[0]
            heads: Sequence[int | None] = named or (self.head,)
            for head in heads:
                block, _ = layer.block(sample, head, rows)
                if head is None:
                    block = _OVER_HEADS[self.reduce](block)
                elif named and bool(block.isnan().any()):
                    # A row of NaN is NaN throughout; what the head may not see there must not blot out other heads.
                    block = block.masked_fill(~layer.mask.allowed(self.sample, rows, head), 0.0)
                # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
                count += layer.heads if head is None else 1
                result = block if result is None else _JOIN[self.reduce](result, block)
        assert result is not None
        return result / count if self.reduce == "mean" and count > 1 else result


class GroupedMap(Computed):
    """A map between groups of tokens, [query group, key group], computed from another map when somebody looks.

    What a group of queries attends to is the mean over its tokens, and what a group of keys receives is the sum
    (Clark et al. 2019, section 4.1), so that rows sum to what they summed to: one, or less where they leak. Queries
    that may attend to nothing, which is padding, do not count unless a group has no others.

    >>> import torch
    >>> from attnwidget import Attention
    >>> map = Attention.from_weights(torch.eye(3), tokens=["un", "able", "."])[0, 0]
    >>> map.grouped(([0, 0, 1], [0, 0, 1])).weights()
    tensor([[1., 0.],
            [0., 1.]])

    Attributes:
        map: the map of the single tokens.
        queries, keys: its axes, whose tokens are the groups. shape: (number of query groups, number of key groups).
    """

    _noun = " group"

    def __init__(self, map: OfTokens, of_query: Sequence[int], of_key: Sequence[int]) -> None:
        self.map, self._where = map, map._where
        self.queries, self.keys = map.queries.grouped(of_query), map.keys.grouped(of_key)
        self._of_query = torch.tensor(numbered(of_query, map.shape[0]), device="cpu")
        self._of_key = torch.tensor(numbered(of_key, map.shape[1]), device="cpu")

    @on_host
    def _rows(self, groups: Tensor) -> Tensor:
        wanted, back = groups.unique(return_inverse=True)
        at = torch.full((self.shape[0],), -1)
        at[wanted] = torch.arange(len(wanted))
        total = torch.zeros(len(wanted), self.shape[1], dtype=torch.float64)
        counted = torch.zeros(len(wanted), 1, dtype=torch.float64)
        lacking = self.map._lacking
        for rows in self.map._pieces((at[self._of_query] >= 0).nonzero()[:, 0]):
            block = self.map._rows(rows)
            seeing = self.map._seeing(rows, block)
            if lacking is not None:
                block = block.masked_fill(lacking[0][rows, None] | lacking[1], 0.0)
            merged = torch.zeros(len(rows), self.shape[1], dtype=torch.float64)
            merged.scatter_add_(1, self._of_key.expand(len(rows), -1), block.double())
            into = at[self._of_query[rows]][seeing]
            total.index_add_(0, into, merged[seeing])
            counted.index_add_(0, into, torch.ones(len(into), 1, dtype=torch.float64))
        found = (total / counted.clamp(min=1))[back].float()
        if lacking is None:
            return found
        nowhere = [_all_of(*one) for one in zip(lacking, (self._of_query, self._of_key), self.shape, strict=True)]
        return found.masked_fill(nowhere[0][groups, None] | nowhere[1], torch.nan)

    def __repr__(self) -> str:
        return f"<{self.map!r} in {self.shape[0]} × {self.shape[1]} groups>"


def _all_of(flags: Tensor, groups: Tensor, count: int) -> Tensor:
    """Bool [group]: whether all members are flagged."""
    return torch.bincount(groups[flags], minlength=count) == torch.bincount(groups, minlength=count)


def _positions(chosen: Any, size: int, what: str) -> Tensor:
    if isinstance(chosen, slice):
        return torch.tensor(range(size)[chosen], dtype=torch.long)
    given = torch.as_tensor(chosen).reshape(-1)
    if given.dtype == torch.bool:
        if len(given) != size:
            raise IndexError(f"{what} is a choice of {len(given)} positions, but there are {size}.")
        given = given.nonzero()[:, 0]
    at = given.to(torch.long)
    if at.numel() and (int(at.min()) < -size or int(at.max()) >= size):
        raise IndexError(f"{what} reach from {int(at.min())} to {int(at.max())}, but there are {size}.")
    return at % size if size else at
