"""Two attentions beside each other: two models, two checkpoints, two texts, with and without an intervention.

Their tokens are brought into one order, and what one gives more than the other is computed when somebody looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor

from .attention import Attention
from .cells import PADDED, ground
from .chosen import described
from .layers import Layer, Part
from .maps import Map, OfTokens
from .masks import on_host, row_blocks
from .shown import SIDES, Check, Reduce, Side
from .tokens import Tokens
from .trace import Trace, attention_of
from .vocabulary import Span


def compare(a: Attention | Trace, b: Attention | Trace, *, names: tuple[str, str] = ("A", "B")) -> Difference:
    """Set two attentions side by side: what the heads of ``a`` do that those of ``b`` do not.

    Tokens that are equal stand together, as do those that replace one another one by one; every other token stands on
    its own side only. The result goes wherever an :class:`~attnwidget.Attention` goes: into ``show``,
    ``AttentionWidget`` and ``to_html``.

    Args:
        a, b: with the same parts, and in each the same number of layers and heads.
        names: what the two are called in the pictures.

    Returns:
        A :class:`Difference`, computed lazily: :meth:`Difference.map`, :meth:`Difference.change`,
        :meth:`Difference.ranking`.

    Raises:
        TypeError: one of them is no Attention.
        ValueError: other parts, layers or heads; names that are not two different texts.

    >>> a = Attention.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), tokens=["the", "cat"])
    >>> b = Attention.from_weights(torch.tensor([[1.0, 0.0], [0.2, 0.8]]), tokens=["the", "dog"])
    >>> difference = compare(a, b, names=("cat", "dog"))
    >>> difference.map(0, 0).weights()
    tensor([[ 0.0000,  0.0000],
            [ 0.3000, -0.3000]])
    >>> difference.part().keys.labels
    ('the', 'cat | dog')
    """
    return Difference(attention_of(a), attention_of(b), names)


@dataclass(frozen=True)
class Aligned:
    """The tokens of two sides in one order.

    Attributes:
        tokens: the common axis.
        a, b: of each place, the token of that side; −1 where it has none there.
    """

    tokens: Tokens
    a: tuple[int, ...]
    b: tuple[int, ...]

    @classmethod
    def of(cls, a: Tokens, b: Tokens) -> Aligned:
        """Equal labels stand together; a run of tokens in place of as many others stands with them one by one.

        >>> found = Aligned.of(Tokens.named("the cat ran".split()), Tokens.named("the dog ran off".split()))
        >>> found.tokens.labels, found.a, found.b
        (('the', 'cat | dog', 'ran', 'off'), (0, 1, 2, -1), (0, 1, 2, 3))
        """
        if a.labels == b.labels:
            same = tuple(range(len(a)))
            return cls(a, same, same)
        pairs = list(_pairs(a.labels, b.labels))
        return cls(_joined(a, b, pairs), tuple(i for i, _ in pairs), tuple(j for _, j in pairs))


def _pairs(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[int, int]]:
    # What is the same at both ends costs nothing here, and much where texts are long.
    most = min(len(a), len(b))
    start = next((i for i in range(most) if a[i] != b[i]), most)
    end = next((i for i in range(most - start) if a[-1 - i] != b[-1 - i]), most - start)
    yield from ((i, i) for i in range(start))
    inner = a[start : len(a) - end], b[start : len(b) - end]
    for how, i, i_stop, j, j_stop in SequenceMatcher(None, *inner, autojunk=False).get_opcodes():
        these, those = range(start + i, start + i_stop), range(start + j, start + j_stop)
        if how == "equal" or len(these) == len(those):
            yield from zip(these, those, strict=True)
        else:
            yield from ((one, -1) for one in these)
            yield from ((-1, other) for other in those)
    yield from ((len(a) - end + i, len(b) - end + i) for i in range(end))


def _joined(a: Tokens, b: Tokens, pairs: Sequence[tuple[int, int]]) -> Tokens:
    """One axis of pairs of tokens, of which one may be missing (−1)."""

    def of(values: Sequence[Any], others: Sequence[Any], how: Callable[[list[Any]], Any]) -> tuple[Any, ...]:
        there = ([*(values[i : i + 1] if i >= 0 else ()), *(others[j : j + 1] if j >= 0 else ())] for i, j in pairs)
        return tuple(how(some) for some in there)

    def both(some: list[str]) -> str:
        return " | ".join(dict.fromkeys(some))

    labels = of(a.labels, b.labels, both)
    text, spans = _text(a, b, pairs)
    segments = None if a.segments is None or b.segments is None else of(a.segments, b.segments, lambda some: some[0])
    return Tokens(
        labels=labels,
        raw=of(a.raw, b.raw, both),
        special=of(a.special, b.special, all),
        spans=spans,
        kind=a.kind,
        text=text,
        segments=segments,
        generated=of(a.generated, b.generated, any) if a.generated or b.generated else (),
        image=of(a.image, b.image, any) if a.image or b.image else (),
    )


def _text(a: Tokens, b: Tokens, pairs: Sequence[tuple[int, int]]) -> tuple[str, tuple[Span, ...]] | tuple[None, None]:
    """A text in which the pairs stand one after the other, and their places in it; so that words can be found."""
    if a.text is None or b.text is None or a.before is None or b.before is None:
        return None, None
    text, spans = "", list[Span]()
    last = (0, 0), (0, 0)
    for i, j in pairs:
        own = a.spans[i] if a.spans and i >= 0 else (0, 0), b.spans[j] if b.spans and j >= 0 else (0, 0)
        pieces = [axis.text[slice(*at)] for axis, at in zip((a, b), own, strict=True) if axis.text is not None]
        if own == last and spans and any(pieces):  # several tokens of one character
            spans.append(spans[-1])
            continue
        gap = a.before[i] if i >= 0 else b.before[j]
        whole = " | ".join(dict.fromkeys(piece for piece in pieces if piece))
        spans.append((len(text) + len(gap), len(text) + len(gap) + len(whole)))
        text += gap + whole
        last = own
    return text, tuple(spans)


@dataclass(frozen=True, eq=False)
class CommonPart:
    """A part of two attentions, on common axes.

    Attributes:
        a, b: the part of each side.
        of_queries, of_keys: how their tokens stand together.
    """

    a: Part
    b: Part
    of_queries: Aligned
    of_keys: Aligned

    @property
    def name(self) -> str:
        return self.a.name

    @property
    def title(self) -> str:
        return self.a.title

    @property
    def queries(self) -> Tokens:
        return self.of_queries.tokens

    @property
    def keys(self) -> Tokens:
        return self.of_keys.tokens

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those of A: B has as many, with as many heads."""
        return self.a.layers

    @property
    def heads(self) -> int:
        return self.a.heads

    @property
    def is_causal(self) -> bool:
        return self.a.is_causal and self.b.is_causal

    def spread(self, side: Literal["a", "b"], rows: Tensor) -> Spread:
        """Where the weights of some common rows are found on one side."""
        queries, keys = (torch.tensor(getattr(one, side), device="cpu") for one in (self.of_queries, self.of_keys))
        return Spread(queries[rows], keys)


@dataclass(frozen=True, eq=False)
class Spread:
    """Rows of one side on common axes. queries [row], keys [common key]: the side's own tokens, −1 for none."""

    queries: Tensor
    keys: Tensor

    def __call__(self, block: Tensor, missing: float = 0.0) -> Tensor:
        """[…, row, common key] from whole rows [row, key] of these queries (of the first one for those missing)."""
        found: Tensor = block[..., self.keys.clamp_min(0)]
        return found.masked_fill(self.lacking, missing)

    @property
    def rows(self) -> Tensor:
        """The rows to ask the side for."""
        return self.queries.clamp_min(0)

    @property
    def lacking(self) -> Tensor:
        """Bool [row, common key], True where the side lacks one of the two tokens."""
        return (self.queries < 0)[:, None] | (self.keys < 0)


class Difference:
    """Two attentions on common axes: see :func:`compare`.

    Attributes:
        a, b: the two :class:`~attnwidget.Attention`.
        names: what they are called.
    """

    noun: str

    def __init__(self, a: Attention, b: Attention, names: tuple[str, str] = ("A", "B")) -> None:
        for one in (a, b):
            if not isinstance(one, Attention):
                raise TypeError(f"Two Attentions can be compared; this is a {type(one).__name__}.")
        if not (
            isinstance(names, (tuple, list))
            and len(names) == 2
            and all(isinstance(name, str) and name.strip() for name in names)
            and names[0] != names[1]
        ):
            raise ValueError(f"names is {names!r}; it must be two different texts, for A and for B.")
        _refuse_unlike(a, b, names)
        self.a, self.b, self.names = a, b, (names[0], names[1])
        self.noun = a.noun
        self._aligned: list[tuple[Tokens, Tokens, Aligned]] = []
        self._changes: dict[str, Tensor] = {}

    # ── what an Attention has, too ──

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, the one shown first in front."""
        return self.a.parts

    @property
    def model(self) -> str | None:
        """Both models, where they have names."""
        return " − ".join(dict.fromkeys(one.model for one in (self.a, self.b) if one.model)) or None

    @property
    def check(self) -> Check | None:
        """The check of the side that is further from what its model computed."""
        checks = [one.check for one in (self.a, self.b) if one.check is not None]
        return max(checks, key=lambda check: (not check.ok, check.max_error)) if checks else None

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of both sides."""
        both = zip(self.names, (self.a, self.b), strict=True)
        return tuple(f"{name}: {note}" for name, one in both for note in one.notes)

    @property
    def sample(self) -> int:
        return self.a.sample if self.samples > 1 else 0

    @property
    def samples(self) -> int:
        """Number of samples to go through: all, where both have as many and the same one in view; else these two."""
        same = (self.a.samples, self.a.sample) == (self.b.samples, self.b.sample)
        return self.a.samples if same else 1

    def select(self, sample: int) -> Difference:
        """The same sample of both in view."""
        if not -self.samples <= sample < self.samples:
            raise IndexError(f"Sample {sample} of a comparison of {self.samples}.")
        at = sample % self.samples
        if at == self.sample:
            return self
        return Difference(self.a.select(at), self.b.select(at), self.names)

    def part(self, name: str | None = None) -> CommonPart:
        """The part of that name on common axes; the first one where the name is left out."""
        a, b = self.a.part(name), self.b.part(name if name is not None else self.a.parts[0])
        return CommonPart(a, b, self._align(a.queries, b.queries), self._align(a.keys, b.keys))

    def _align(self, a: Tokens, b: Tokens) -> Aligned:
        for of_a, of_b, known in self._aligned:
            if of_a == a and of_b == b:
                return known
        self._aligned.append((a, b, Aligned.of(a, b)))
        return self._aligned[-1][2]

    # ── asking ──

    def map(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        part: str | None = None,
        reduce: Reduce = "mean",
        heads: Sequence[tuple[int, int]] | None = None,
        side: Side = "difference",
    ) -> ComparedMap:
        """One map on the common axes: A − B, or one of the sides.

        Several heads are reduced on each side first and then subtracted: of "max", what the strongest head of A gives
        less what the strongest of B gives. Of the mean it is the same either way.

        Args:
            layer, head, part, reduce, heads: as for :meth:`Attention.map <attnwidget.Attention.map>`.
            side: "difference", "a" or "b".

        Returns:
            A map with ``row``, ``column``, ``tile``, ``weights`` and ``grouped``, whose numbers are float32: from −1 to
            1 for the difference, NaN where a side has no such token. What a side may not see counts as 0.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: no such reduction or side.
        """
        if side not in SIDES:
            raise ValueError(f"side is {side!r}; it must be one of {', '.join(SIDES)}.")
        common = self.part(part)
        of_a, of_b = (one.map(layer, head, part=common.name, reduce=reduce, heads=heads) for one in (self.a, self.b))
        return ComparedMap(common, of_a, of_b, side, self.names)

    @on_host
    def change(self, part: str | None = None, *, queries: Tensor | None = None) -> Tensor:
        """How differently each head attends: float32 [layer, head], from 0 (alike) to 1 (to altogether other keys).

        It is the mean, over the queries that both sides have, of the total variation distance ½ Σ |p_A − p_B| over all
        keys. A key that one side only has counts with its weight there, and so does what goes to no key. NaN where
        there is no head, or no such query, or NaN among the weights.

        Args:
            part: which part; the first one unless given.
            queries: the places [row] on the common axis to average over; all of them unless given.
        """
        common = self.part(part)
        if queries is not None:
            return self._changed(common, queries)
        if common.name not in self._changes:
            self._changes[common.name] = self._changed(common, torch.arange(len(common.queries)))
        return self._changes[common.name].clone()

    def _changed(self, part: CommonPart, queries: Tensor) -> Tensor:
        found = torch.full((len(part.layers), part.heads), torch.nan)
        both = queries[~(part.spread("a", queries).queries.lt(0) | part.spread("b", queries).queries.lt(0))]
        for index, layer in enumerate(part.layers):
            if not layer.heads:
                continue
            total, count = torch.zeros(layer.heads, dtype=torch.float64), 0
            for rows in row_blocks(both, layer.heads * len(part.keys)):
                (floor, a), (other, b) = (self.grounded(part, side, index, rows) for side in ("a", "b"))
                seeing = _seen(part.a.layers[index], floor, a) | _seen(part.b.layers[index], other, b)
                apart = (a - b).abs().sum(-1, dtype=torch.float64) + (_leak(a) - _leak(b)).abs()
                total += apart[:, seeing].sum(-1) / 2
                count += int(seeing.sum())
            if count:
                found[index, : layer.heads] = (total / count).clamp_max(1.0).float()
        return found

    @on_host
    def grounded(self, part: CommonPart, side: Literal["a", "b"], layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """One side of some common rows of all heads of a layer: what the cells are, and their weights.

        Returns:
            0 for a weight, else MASKED or PADDED (also where the side has no such token), [1 or head, row, key]; and
            the weights, 0 where there is none, [head, row, key].
        """
        attention, own = (self.a, part.a) if side == "a" else (self.b, part.b)
        one, sample, spread = own.layers[layer], attention.sample_in(own), part.spread(side, rows)
        allowed = one.mask.allowed(sample, spread.rows)
        allowed = allowed if allowed.dim() == 3 else allowed[None]
        block, _ = one.block(sample % one.shape[0], None, spread.rows)
        floor = ground(allowed, ~one.mask.keep[sample % len(one.mask.keep)])
        return spread(floor, PADDED), spread(block.masked_fill(~allowed, 0.0))

    def save(self, path: object, **_: object) -> NoReturn:
        """Refused: a file holds one attention. Save both, and compare them again when they are loaded."""
        raise TypeError(
            "A file holds one attention: save both, difference.a.save(path) and difference.b.save(other), and "
            "compare(load(path), load(other)) again."
        )

    def ranking(self, k: int = 10, part: str | None = None) -> list[tuple[int, int, float]]:
        """The k heads that changed most: (layer, head, change), the strongest first.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one head.")
        change = self.change(part)
        there = [(layer, head) for layer, head in (~change.isnan()).nonzero().tolist()]
        order = sorted(there, key=lambda at: -float(change[at]))
        return [(layer, head, float(change[layer, head])) for layer, head in order[:k]]

    def __repr__(self) -> str:
        return f"<Difference: {self.names[0]} {self.a!r} − {self.names[1]} {self.b!r}>"


def _seen(layer: Layer, floor: Tensor, block: Tensor) -> Tensor:
    """Bool [row]: which rows may attend to anything."""
    seen = (floor == 0).any(-1).any(0)
    # Stored weights have no padding but rows of zeros.
    return seen if layer.weights is None else seen & (block != 0).any(-1).any(0)


def _leak(block: Tensor) -> Tensor:
    """What each row gives to no key. Rows that sum to a little more than one give nothing."""
    return (1 - block.sum(-1, dtype=torch.float64)).clamp_min(0.0)


def _refuse_unlike(a: Attention, b: Attention, names: Sequence[str]) -> None:
    if set(a.parts) != set(b.parts):
        raise ValueError(
            f"These cannot be compared: {names[0]} has the parts {', '.join(map(repr, a.parts))}, and {names[1]} has "
            f"{', '.join(map(repr, b.parts))}."
        )
    for name in a.parts:
        of_a, of_b = ([layer.heads for layer in one.part(name).layers] for one in (a, b))
        if len(of_a) != len(of_b):
            raise ValueError(
                f"These cannot be compared head by head: in {name}, {names[0]} has {len(of_a)} layers and {names[1]} "
                f"has {len(of_b)}."
            )
        for layer, (m, n) in enumerate(zip(of_a, of_b, strict=True)):
            if m != n:
                raise ValueError(
                    f"These cannot be compared head by head: in layer {layer} of {name}, {names[0]} has {m} heads and "
                    f"{names[1]} has {n}."
                )


class ComparedMap(OfTokens):
    """A map of a comparison on its common axes, [query, key]: see :meth:`Difference.map`.

    Attributes:
        part: the :class:`CommonPart`. a, b: the maps of the two sides, on axes of their own.
        side: "difference", "a" or "b".
        queries, keys: the common axes. shape: (number of queries, number of keys).
    """

    def __init__(self, part: CommonPart, a: Map, b: Map, side: Side, names: tuple[str, str]) -> None:
        self.part, self.a, self.b, self.side, self.names = part, a, b, side, names
        self.queries, self.keys, self._where = part.queries, part.keys, part.name
        both: dict[Side, tuple[Literal["a", "b"], ...]] = {"difference": ("a", "b"), "a": ("a",), "b": ("b",)}
        self._sides = both[side]

    def _of(self, side: Literal["a", "b"]) -> Map:
        return self.a if side == "a" else self.b

    @on_host
    def _rows(self, rows: Tensor) -> Tensor:
        found = []
        for side in self._sides:
            spread = self.part.spread(side, rows)
            found.append(spread(self._of(side)._rows(spread.rows), torch.nan))
        return found[0] if len(found) == 1 else found[0] - found[1]

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        return row_blocks(rows, self.shape[1] * max(1, self.a.maps))

    @property
    def _lacking(self) -> tuple[Tensor, Tensor]:
        def of(aligned: Aligned) -> Tensor:
            return torch.stack([torch.tensor(getattr(aligned, side), device="cpu") < 0 for side in self._sides]).any(0)

        return of(self.part.of_queries), of(self.part.of_keys)

    def _seeing(self, rows: Tensor, block: Tensor) -> Tensor:
        seeing = torch.zeros(len(rows), dtype=torch.bool)
        for side in self._sides:
            seeing |= self._of(side).allowed(self.part.spread(side, rows).rows).any(-1)
        return seeing & ~self._lacking[0][rows]

    def __repr__(self) -> str:
        of = {"difference": " − ".join(self.names), "a": self.names[0], "b": self.names[1]}[self.side]
        return f"<Map {self.part.name} of {of}, {described(self.a)}: {self.shape[0]} × {self.shape[1]}>"
