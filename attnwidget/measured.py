"""What there is to be measured of a head, in words; and numbers that somebody brings along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

NEAR = 4  # tokens that "local" reaches


@dataclass(frozen=True)
class Measure:
    """What one measure says of a row of weights.

    Attributes:
        words: what it is, in one line.
        unit, range: of its numbers, n being the number of keys.
        high: what a high value tells.
        source: where it was used first, or best described.
    """

    words: str
    unit: str
    range: str
    high: str
    source: str

    def __str__(self) -> str:
        return self.words


_SHARE = "share of a row's weight", "0 to 1"
_CLARK = "Clark et al. 2019, section 3"

MEASURES: Mapping[str, Measure] = {
    "entropy": Measure(
        "nats; of each row divided by its sum: weight that goes to no key does not count",
        "nats", "0 to ln n", "looks at many keys alike", f"{_CLARK}.3",
    ),
    "effective": Measure(
        "exp(entropy) of each row: over how many keys it is spread",
        "keys", "1 to n", "looks at many keys alike", "Hill 1973, the number of order 1",
    ),
    "distance": Measure(
        "mean |query − key| in tokens, of each row divided by its sum",
        "tokens", "0 to n − 1", "looks far away, to whichever side", "Vig & Belinkov 2019",
    ),
    "first": Measure(
        "weight on the first token that is no padding",
        *_SHARE, "a sink: weight parked where it says little", "Xiao et al. 2023",
    ),
    "previous": Measure(
        "weight on the token before, over queries that have one",
        *_SHARE, "a previous-token head", f"{_CLARK}.1",
    ),
    "diagonal": Measure("weight of a token on itself", *_SHARE, "looks at its own token", f"{_CLARK}.1"),
    "leak": Measure(
        "weight that goes to no key: 1 − sum of the row",
        *_SHARE, "a learned sink takes the weight", "Miller 2023, softmax with one more exp(0) below",
    ),
    "next": Measure(
        "weight on the token after, over queries that have one",
        *_SHARE, "a next-token head; causal heads have 0", f"{_CLARK}.1",
    ),
    "offset": Measure(
        "mean query − key in tokens, of each row divided by its sum",
        "tokens", "1 − n to n − 1", "looks back; below 0 it looks ahead", "Vig & Belinkov 2019, with a sign",
    ),
    "patches": Measure(
        "mean distance between a patch and the patches it looks at, in patches; other tokens do not count",
        "patches; times the side of a patch: pixels", "0 to the diagonal of the grid", "looks across the image",
        "Dosovitskiy et al. 2021, appendix D.7",
    ),
    "local": Measure(
        f"weight on keys at most {NEAR} tokens away, itself included",
        *_SHARE, "looks at what is near", "Raghu et al. 2021, section 4",
    ),
    "far": Measure(
        "weight on keys more than a quarter of the text away",
        *_SHARE, "looks at what is far", "Raghu et al. 2021, section 4",
    ),
    "special": Measure(
        "weight on special tokens; on class tokens and registers of an image",
        *_SHARE, "parks its weight where no text is", f"{_CLARK}.2",
    ),
    "punctuation": Measure("weight on punctuation marks", *_SHARE, "looks at where clauses end", f"{_CLARK}.2"),
    "duplicate": Measure(
        "weight on earlier occurrences of the query's token, over queries that have one",
        *_SHARE, "finds the same token again", "Wang et al. 2022, section 3.1",
    ),
    "induction": Measure(
        "weight on keys that follow an earlier occurrence of the query's token, over queries that have one",
        *_SHARE, "looks at what came next the last time", "Olsson et al. 2022, prefix matching",
    ),
    "block": Measure(
        "weight on the query's own sentence; of a pair of texts on its own text",
        *_SHARE, "stays within a sentence or text", "Kovaleva et al. 2019, block pattern",
    ),
    "aligned": Measure(
        "weight on keys at most one token from the same relative place in the other text",
        *_SHARE, "reads both texts side by side", "Tachibana et al. 2018, guided attention",
    ),
    "confidence": Measure(
        "the largest weight of each row",
        "weight", "1 / n to 1", "decides for one key", "Voita et al. 2019, there without the end of a text",
    ),
    "sparsity": Measure(
        "how many keys carry 90 % of the weight that goes to keys",
        "keys", "1 to n", "weight is spread over many keys", "the nucleus of Holtzman et al. 2020, of a row",
    ),
}  # fmt: skip
"""What :func:`statistics` can compute of every row and average over the rows."""

STATISTICS: Mapping[str, str] = {
    name: MEASURES[name].words for name in ("entropy", "effective", "distance", "first", "previous", "diagonal", "leak")
}
"""Those it computes unless others are named, in words: what a widget can sort by."""

Measures: TypeAlias = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""Somebody's own numbers about heads: by part and by name, float32 [layer, head]."""


def own(attention: Any, measures: Mapping[str, Any] | None) -> Measures:
    """Somebody's own numbers about heads, checked: by part and by name, float32 [layer, head].

    Args:
        attention: whose heads they are about.
        measures: by name [layer, head], of the first part; or by name and part. Tensors, arrays or lists.
            NaN, or infinity, where there is no number.

    Raises:
        TypeError: no mapping; a name that is no text; no numbers. KeyError: no such part.
        ValueError: an empty name; another shape.
    """
    if measures is None:
        return {}
    if not isinstance(measures, Mapping):
        raise TypeError(f"measures is a {type(measures).__name__}; it must be a dict: {{name: numbers [layer, head]}}.")
    found: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, given in measures.items():
        if not isinstance(name, str) or not name.strip():
            problem = TypeError if not isinstance(name, str) else ValueError
            raise problem(f"A measure is named {name!r}; its name must be a text that says what it is.")
        for part, values in (given if isinstance(given, Mapping) else {attention.parts[0]: given}).items():
            of = attention.part(part)
            try:
                on_host = values.detach().float().cpu() if hasattr(values, "detach") else values
                numbers = np.asarray(on_host, np.float32)
            except (TypeError, ValueError, RuntimeError):
                raise TypeError(f"The measure {name!r} of {part} holds no numbers: {values!r}.") from None
            expected = (len(of.layers), of.heads)
            if numbers.shape != expected:
                raise ValueError(
                    f"The measure {name!r} has shape {numbers.shape}, but {part} has {expected[0]} layers of "
                    f"{expected[1]} heads: give one number each, [layer, head], NaN where there is none."
                )
            found.setdefault(part, {})[name] = numbers
    return found
