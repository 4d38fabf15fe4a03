"""Which heads of a part a map is of: one, or several that are reduced to one; and which tokens stand as one."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from .shown import REDUCTIONS, PartOf, Reduce, Run
from .tokens import Tokens

L = TypeVar("L", bound=Any)


class Chosen(Generic[L]):
    """Which heads of a part a map is of: one, or several that are reduced to one.

    Attributes:
        part: the part it belongs to. layer, head: indices, None where reduced. reduce: how.
        heads: the pairs (layer, head) it is reduced over, where they were named; otherwise empty.
        sample: the sample in view, as the part counts.
        queries, keys: its axes.
    """

    _where: str  # the part, for errors

    def __init__(
        self,
        run: Run[Any, Any],
        part: PartOf[L],
        layer: int | None,
        head: int | None,
        reduce: Reduce,
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        if heads is not None and (layer is not None or head is not None):
            raise ValueError("Choose a layer and a head, or several heads=[(layer, head), …]: not both.")
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
        self.sample = run.sample_in(part)
        numbers = [*range(len(part.layers))] if self.layer is None else [self.layer]
        numbers = sorted({of for of, _ in self.heads}) if self.heads else numbers
        # Layers may differ in their number of heads: head 9 reduced over layers is taken over those that have it.
        self._layers = tuple(part.layers[of] for of in numbers if part.layers[of].heads > (self.head or 0))
        # Of each of these layers the heads that were named; None for the one, or for all of them.
        self._named = [[h for of, h in self.heads if of == number] for number in numbers] if self.heads else None

    @property
    def queries(self) -> Tokens:
        return self.part.queries

    @property
    def keys(self) -> Tokens:
        return self.part.keys

    @property
    def single(self) -> L | None:
        """The layer behind the map of one head, None for reduced maps."""
        return self._layers[0] if self.layer is not None and self.head is not None else None

    @property
    def maps(self) -> int:
        """How many maps of single heads are behind this one."""
        return sum(1 if self.head is not None else len(named or range(layer.heads)) for layer, named in self._behind())

    def _behind(self) -> Iterator[tuple[L, list[int] | None]]:
        """The layers behind this map, each with its heads where they were named."""
        return ((layer, self._named[at] if self._named else None) for at, layer in enumerate(self._layers))

    def __repr__(self) -> str:
        return f"<Map {self.part.name}, {described(self)}: {len(self.queries)} × {len(self.keys)}>"


def described(map: Chosen[Any]) -> str:
    """Which map it is, as "layer 2, head *, mean"."""
    if map.heads:
        some = ", ".join(f"{layer}.{head}" for layer, head in map.heads[:6])
        more = f" and {len(map.heads) - 6} more" if len(map.heads) > 6 else ""
        return f"heads {some}{more}, {map.reduce}"
    where = f"layer {'*' if map.layer is None else map.layer}, head {'*' if map.head is None else map.head}"
    return where if map.single is not None else f"{where}, {map.reduce}"


def grouping(
    by: str | tuple[Sequence[int], Sequence[int]], queries: Tokens, keys: Tokens
) -> tuple[Sequence[int], Sequence[int]]:
    """The group of each query and of each key, −1 for one by itself.

    Raises:
        ValueError: no such grouping; neither axis has a text.
    """
    if not isinstance(by, str):
        return by
    if by not in ("word", "sentence", "segment"):
        raise ValueError(f"by is {by!r}; it must be word, sentence, segment or a pair of group numbers.")
    found = [axis.groups(by) for axis in (queries, keys)]
    if found[0] is None and found[1] is None:
        raise ValueError(
            f"There is no text to find a {by} in. Capture with the tokenizer, or pass the groups: "
            "grouped((of_each_query, of_each_key))."
        )
    of_query, of_key = (
        (-1,) * len(axis) if groups is None else groups for groups, axis in zip(found, (queries, keys), strict=True)
    )
    return of_query, of_key


def within(value: int, size: int, what: str, where: str) -> int:
    """A position, negative from the end, as one from the start.

    Raises:
        IndexError: there is none.
    """
    position = operator.index(value)
    if not -size <= position < size:
        raise IndexError(f"There is no {what} {value} in {where}: it has {size}, 0 to {size - 1}.")
    return position % size


def _layer(part: PartOf[Any], layer: int | None) -> int | None:
    """The index of a layer that has a map; None for all of them."""
    if layer is None:
        return None
    at = within(layer, len(part.layers), "layer", part.name)
    if part.layers[at].absent:
        there = ", ".join(str(i) for i, one in enumerate(part.layers) if one.heads)
        raise IndexError(f"Layer {at} of {part.name} has no map ({part.layers[at].absent}). These have: {there}.")
    return at


def _pairs(part: PartOf[Any], heads: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
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
        found[at, within(head, part.layers[at].heads, "head", f"{part.name}, layer {at}")] = None
    return tuple(found)
