"""Maps over the tokens: one head's own, or several reduced to one, or those of groups of tokens.

Rows, columns, tiles and whole maps are recomputed from the layers, in float32, in blocks; nothing of size n × n is
stored unless the caller brought it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from .layers import Layer, Part
from .masks import on_host, row_blocks
from .tokens import Tokens, numbered

if TYPE_CHECKING:
    from .attention import Attention

Reduce: TypeAlias = Literal["mean", "max", "min"]
REDUCTIONS: tuple[Reduce, ...] = ("mean", "max", "min")
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
        if isinstance(by, str):
            if by not in ("word", "sentence", "segment"):
                raise ValueError(f"by is {by!r}; it must be word, sentence, segment or a pair of group numbers.")
            found = [axis.groups(by) for axis in (self.queries, self.keys)]
            if found[0] is None and found[1] is None:
                raise ValueError(
                    f"There is no text to find a {by} in. Capture with the tokenizer, or pass the groups: "
                    "grouped((of_each_query, of_each_key))."
                )
            alone = ((-1,) * size for size in self.shape)
            by_query, by_key = (one if groups is None else groups for groups, one in zip(found, alone, strict=True))
            return GroupedMap(self, by_query, by_key)
        return GroupedMap(self, *by)

    @property
    def _lacking(self) -> tuple[Tensor, Tensor] | None:
        """Bool [query] and [key], True for tokens of which there is no weight to add up."""
        return None

    def _seeing(self, rows: Tensor, block: Tensor) -> Tensor:
        """Bool [row]: which rows, of weights ``block``, may attend to anything."""
        raise NotImplementedError


class Map(OfTokens):
    """One map over the tokens, [query, key]: a head's own or a reduction over several.

    Attributes:
        part: the :class:`Part` it belongs to. layer, head: indices, None where reduced. reduce: how.
        heads: the pairs (layer, head) it is reduced over, where they were named; otherwise empty.
        queries, keys: its axes. shape: (number of queries, number of keys).
    """

    def __init__(
        self,
        attention: Attention,
        part: Part,
        layer: int | None,
        head: int | None,
        reduce: Reduce,
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce is {reduce!r}; it must be one of {', '.join(REDUCTIONS)}.")
        self.part, self.reduce, self._where = part, reduce, part.name
        named = () if heads is None else _pairs(part, heads)
        if len(named) == 1:
            [(layer, head)] = named  # the map of that head
        self.heads = named if len(named) > 1 else ()
        self.layer = _layer(part, layer)
        bound = part.heads if self.layer is None else part.layers[self.layer].heads
        where = part.name if self.layer is None else f"{part.name}, layer {self.layer}"
        self.head = None if head is None else within(head, bound, "head", where)
        self.sample = attention.sample_in(part)
        numbers = [*range(len(part.layers))] if self.layer is None else [self.layer]
        numbers = sorted({of for of, _ in self.heads}) if self.heads else numbers
        # Layers may differ in their number of heads: head 9 reduced over layers is taken over those that have it.
        self._layers = tuple(part.layers[of] for of in numbers if part.layers[of].heads > (self.head or 0))
        # Of each of these layers the heads that were named; None for the one, or for all of them.
        self._named = [[h for of, h in self.heads if of == number] for number in numbers] if self.heads else None

    @property
    def queries(self) -> Tokens:  # type: ignore[override]  # read-only, as it is meant
        return self.part.queries

    @property
    def keys(self) -> Tokens:  # type: ignore[override]  # likewise
        return self.part.keys

    @property
    def single(self) -> Layer | None:
        """The layer behind the map of one head, None for reduced maps."""
        return self._layers[0] if self.layer is not None and self.head is not None else None

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

    @property
    def maps(self) -> int:
        """How many maps of single heads are behind this one."""
        return sum(1 if self.head is not None else len(named or range(layer.heads)) for layer, named in self._behind())

    def _behind(self) -> Iterator[tuple[Layer, list[int] | None]]:
        """The layers behind this map, each with its heads where they were named."""
        return ((layer, self._named[at] if self._named else None) for at, layer in enumerate(self._layers))

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

    def __repr__(self) -> str:
        return f"<Map {self.part.name}, {described(self)}: {self.shape[0]} × {self.shape[1]}>"


def described(map: Map) -> str:
    """Which map it is, as "layer 2, head *, mean"."""
    if map.heads:
        some = ", ".join(f"{layer}.{head}" for layer, head in map.heads[:6])
        more = f" and {len(map.heads) - 6} more" if len(map.heads) > 6 else ""
        return f"heads {some}{more}, {map.reduce}"
    where = f"layer {'*' if map.layer is None else map.layer}, head {'*' if map.head is None else map.head}"
    return where if map.single is not None else f"{where}, {map.reduce}"


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


def within(value: int, size: int, what: str, where: str) -> int:
    """A position, negative from the end, as one from the start.

    Raises:
        IndexError: there is none.
    """
    position = operator.index(value)
    if not -size <= position < size:
        raise IndexError(f"There is no {what} {value} in {where}: it has {size}, 0 to {size - 1}.")
    return position % size


def _layer(part: Part, layer: int | None) -> int | None:
    """The index of a layer that has a map; None for all of them."""
    if layer is None:
        return None
    at = within(layer, len(part.layers), "layer", part.name)
    if part.layers[at].absent:
        there = ", ".join(str(i) for i, one in enumerate(part.layers) if one.heads)
        raise IndexError(f"Layer {at} of {part.name} has no map ({part.layers[at].absent}). These have: {there}.")
    return at


def _pairs(part: Part, heads: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Pairs (layer, head) that exist, each once, counted from 0."""
    try:
        pairs = [(operator.index(layer), operator.index(head)) for layer, head in heads]
    except (TypeError, ValueError):
        raise TypeError(f"heads is {heads!r}; it must be a list of pairs, [(layer, head), …].") from None
    if not pairs:
        raise ValueError("heads is empty; name at least one pair (layer, head), or leave it out.")
    found: dict[tuple[int, int], None] = {}
    for layer, head in pairs:
        at = _layer(part, layer)
        assert at is not None
        of = within(head, part.layers[at].heads, "head", f"{part.name}, layer {at}")
        assert of is not None
        found[at, of] = None
    return tuple(found)


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
