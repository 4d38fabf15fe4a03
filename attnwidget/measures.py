"""One number per head, [layer, head]: where its weight goes, averaged over the queries.

Whole rows of all heads of a layer are computed together, a few at a time: nothing of size n × n is ever there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .attention import Attention
from .layers import Layer, Part
from .masks import on_host

STATISTICS: Mapping[str, str] = {
    "entropy": "nats; of each row divided by its sum: weight that goes to no key does not count",
    "effective": "exp(entropy) of each row: over how many keys it is spread",
    "distance": "mean |query − key| in tokens, of each row divided by its sum",
    "first": "weight on the first token that is no padding",
    "previous": "weight on the token before, over queries that have one",
    "diagonal": "weight of a token on itself",
    "leak": "weight that goes to no key: 1 − sum of the row",
}
"""What :func:`statistics` computes of every row and averages over the rows."""

# These compare positions: of a text with itself, and not of an image, whose tokens are no line.
_ALONG_A_LINE = {"distance", "previous"}
_OF_ONE_AXIS = {*_ALONG_A_LINE, "diagonal"}
_BLOCK = 1 << 20  # weights computed at once: 4 MB each for scores, exponentials and what is made of them


@on_host
def statistics(
    attention: Attention,
    part: str | None = None,
    names: Collection[str] | None = None,
    *,
    queries: Tensor | None = None,
) -> dict[str, Tensor]:
    """Numbers that say what kind of head each is, of the text in view.

    Each is computed from every row and averaged over the rows; a row without any key, which is padding, does not count.
    These are n × n numbers for each head: of a large model and a long text, some of the queries tell as much.

    Args:
        attention: all of it.
        part: which part; the first one unless given.
        names: some of :data:`STATISTICS`; all of them unless given.
        queries: the rows [row] to average over; all of them unless given.

    Returns:
        By name, float32 [layer, head]. NaN where there is no such head, no row that counts, or NaN among the weights.
        "distance", "previous" and "diagonal" are NaN where queries and keys are not the same tokens, the first two
        also for images.

    Raises:
        KeyError: no such part. ValueError: no such statistic.

    >>> import torch
    >>> attention = Attention.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    >>> {name: round(found.item(), 3) for name, found in statistics(attention, names=["first", "diagonal"]).items()}
    {'first': 0.75, 'diagonal': 0.75}
    """
    chosen = attention.part(part)
    wanted = list(STATISTICS) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in STATISTICS]
    if unknown or not wanted:
        which = f"There is no statistic {unknown[0]!r}" if unknown else "names is empty"
        raise ValueError(f"{which}; there are {', '.join(STATISTICS)}.")
    found = {name: torch.full((len(chosen.layers), chosen.heads), torch.nan) for name in wanted}
    meant = [name for name in wanted if _means_something(name, chosen)]
    for index, layer in enumerate(chosen.layers):
        if not layer.heads or not meant:
            continue
        sums = {name: torch.zeros(2, layer.heads, dtype=torch.float64) for name in meant}  # of values, of rows
        for rows in _blocks(layer, attention.sample_in(chosen), queries):
            for name in meant:
                values, counted = getattr(rows, name), rows.counted & (rows.follows if name == "previous" else True)
                sums[name][0] += values.masked_fill(~counted, 0.0).sum(1, dtype=torch.float64)
                sums[name][1] += counted.sum(1)
        for name, (total, count) in sums.items():
            mean = total / count  # 0 / 0 is NaN: no row counts
            # Rounding leaves sums of rows a little above one.
            found[name][index, : layer.heads] = mean.clamp_min(0.0) if name == "leak" else mean
    return found


Measures: TypeAlias = Mapping[str, Mapping[str, Tensor]]
"""Somebody's own numbers about heads: by part and by name, float32 [layer, head]."""


def own(attention: Any, measures: Mapping[str, Any] | None) -> Measures:
    """Somebody's own numbers about heads, checked: by part and by name, float32 [layer, head].

    Args:
        attention: whose heads they are about.
        measures: by name [layer, head], of the first part; or by name and part. Whatever torch makes a tensor of.
            NaN, or infinity, where there is no number.

    Raises:
        TypeError: no mapping; a name that is no text; no numbers. KeyError: no such part.
        ValueError: an empty name; another shape.
    """
    if measures is None:
        return {}
    if not isinstance(measures, Mapping):
        raise TypeError(f"measures is a {type(measures).__name__}; it must be a dict: {{name: numbers [layer, head]}}.")
    found: dict[str, dict[str, Tensor]] = {}
    for name, given in measures.items():
        if not isinstance(name, str) or not name.strip():
            problem = TypeError if not isinstance(name, str) else ValueError
            raise problem(f"A measure is named {name!r}; its name must be a text that says what it is.")
        for part, values in (given if isinstance(given, Mapping) else {attention.parts[0]: given}).items():
            of = attention.part(part)
            try:
                numbers = torch.as_tensor(values).detach().to("cpu", torch.float32)
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"The measure {name!r} of {part} holds no numbers: {values!r}.") from None
            expected = (len(of.layers), of.heads)
            if numbers.shape != expected:
                raise ValueError(
                    f"The measure {name!r} has shape {tuple(numbers.shape)}, but {part} has {expected[0]} layers of "
                    f"{expected[1]} heads: give one number each, [layer, head], NaN where there is none."
                )
            found.setdefault(part, {})[name] = numbers
    return found


def _means_something(name: str, part: Part) -> bool:
    same = part.queries == part.keys and not part.name.startswith("cross")
    line = part.queries.kind not in ("patch", "window")
    return (same or name not in _OF_ONE_AXIS) and (line or name not in _ALONG_A_LINE)


def _blocks(layer: Layer, sample: int, queries: Tensor | None) -> Iterator[_Rows]:
    _, heads, every, keys = layer.shape
    kept = layer.mask.keep[sample % len(layer.mask.keep)]
    chosen = torch.arange(every) if queries is None else queries
    for at in chosen.split(max(1, _BLOCK // (heads * keys))):
        p, _ = layer.block(sample % layer.shape[0], None, at)
        counted = layer.mask.allowed(sample, at).any(-1)
        if layer.weights is not None:  # stored weights have no padding but rows of zeros
            counted = counted & (p != 0).any(-1)
        yield _Rows(p, at, kept, counted.expand(heads, -1))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of all heads of a layer, and what is to be known of each: [head, row].

    Attributes:
        p: the weights [head, row, key].
        at: which queries these are, [row].
        kept: False for keys that are padding, [key].
        counted: bool [head, row], False for rows without any key.
    """

    p: Tensor
    at: Tensor
    kept: Tensor
    counted: Tensor

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
        terms: Tensor = torch.special.entr(self.p)
        return terms.sum(-1) / self._shared + self._shared.log()

    @property
    def effective(self) -> Tensor:
        return torch.exp(self.entropy)

    @property
    def distance(self) -> Tensor:
        apart = (self.at[:, None] - torch.arange(self.p.shape[-1])).abs().to(self.p.dtype)
        return (self.p * apart).sum(-1) / self._shared

    @property
    def first(self) -> Tensor:
        return self.p[:, :, int(self.kept.int().argmax())]

    @property
    def previous(self) -> Tensor:
        return self._weight_on((self.at - 1).clamp_min(0))

    @property
    def follows(self) -> Tensor:
        """bool [row]: whether there is a token before."""
        return (self.at > 0) & self.kept[(self.at - 1).clamp_min(0)]

    @property
    def diagonal(self) -> Tensor:
        return self._weight_on(self.at)

    @property
    def leak(self) -> Tensor:
        return 1.0 - self._sum

    def _weight_on(self, keys: Tensor) -> Tensor:
        """The weight of each row on one key of its own."""
        return self.p[:, torch.arange(len(keys)), keys]
