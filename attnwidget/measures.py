"""One number per head, [layer, head]: where its weight goes, averaged over the queries.

Whole rows of all heads of a layer are computed together, a few at a time: nothing of size n × n is ever there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .attention import Attention
from .masks import on_host
from .rows import BLOCK, NEAR, Axes, block_of, entropy_of, rows_of
from .trace import Trace, attention_of


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


@on_host
def statistics(
    attention: Attention | Trace,
    part: str | None = None,
    names: Collection[str] | None = None,
    *,
    queries: Tensor | None = None,
) -> dict[str, Tensor]:
    """Numbers that say what kind of head each is, of the text in view.

    Each is computed from every row and averaged over the rows; a row without any key, which is padding, does not count.
    These are n × n numbers for each head: of a large model and a long text, some of the queries tell as much.

    Args:
        attention: all of it, or a trace.
        part: which part; the first one unless given.
        names: some of :data:`MEASURES`; those of :data:`STATISTICS` unless given. All at once are one pass.
        queries: the rows [row] to average over; all of them unless given.

    Returns:
        By name, float32 [layer, head]. NaN where there is no such head, no row that counts, or NaN among the weights.
        NaN, too, where a measure means nothing: those that compare positions, where queries and keys are not the same
        tokens, and of images; "patches" of all but images; "aligned" where queries and keys are the same; "special",
        "punctuation" and "block" where there are none, or one block only.

    Raises:
        KeyError: no such part. ValueError: no such statistic.

    >>> import torch
    >>> attention = Attention.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    >>> {name: round(found.item(), 3) for name, found in statistics(attention, names=["first", "diagonal"]).items()}
    {'first': 0.75, 'diagonal': 0.75}
    """
    attention = attention_of(attention)
    chosen = attention.part(part)
    wanted = list(STATISTICS) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in MEASURES]
    if unknown or not wanted:
        which = f"There is no statistic {unknown[0]!r}" if unknown else "names is empty"
        raise ValueError(f"{which}; there are {', '.join(MEASURES)}.")
    found = {name: torch.full((len(chosen.layers), chosen.heads), torch.nan) for name in wanted}
    axes = Axes(chosen)
    meant = tuple(name for name in found if axes.means(name))
    for index, layer in enumerate(chosen.layers):
        if not layer.heads or not meant:
            continue
        sums = {name: torch.zeros(2, layer.heads, dtype=torch.float64) for name in meant}  # of values, of rows
        for rows in rows_of(layer, attention.sample_in(chosen), axes, queries, meant):
            for name in meant:
                values, counted = rows.value(name), rows.counts(name)
                sums[name][0] += values.masked_fill(~counted, 0.0).sum(1, dtype=torch.float64)
                sums[name][1] += counted.sum(1)
        for name, (total, count) in sums.items():
            mean = total / count  # 0 / 0 is NaN: no row counts
            # Rounding leaves sums of rows a little above one.
            found[name][index, : layer.heads] = mean.clamp_min(0.0) if name == "leak" else mean
    return found


@on_host
def spectrum(
    attention: Attention | Trace, part: str | None = None, *, reach: int | None = None, queries: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """How much weight goes how far back: the mean of p_{i, i − k} for every offset k.

    The mean is over the queries that may attend at that offset. At 1 it is the measure "previous", at 0 "diagonal" and
    at −1 "next"; stripes of a map ("slash" in Jiang et al. 2024, MInference) are its peaks.

    Args:
        part: which part; the first one unless given.
        reach: the largest offset to either side; all of them unless given.
        queries: the rows [row] to average over; all of them unless given.

    Returns:
        offset: int64 [offset], in tokens; above 0 is back, and causal parts have nothing below.
        values: float32 [layer, head, offset], from 0 to 1; NaN where nobody may attend, or there is no head.

    Raises:
        KeyError: no such part. ValueError: queries and keys are not the same tokens, or those of an image;
        ``reach`` is below 0.

    >>> attention = Attention.from_weights(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    >>> spectrum(attention)
    (tensor([0, 1]), tensor([[[0.7500, 0.5000]]]))
    """
    attention = attention_of(attention)
    chosen = attention.part(part)
    if not Axes(chosen).means("offset"):
        raise ValueError(f"{chosen.name} has no offsets: its queries and keys are not one line of tokens.")
    n = len(chosen.keys)
    reach = n - 1 if reach is None else min(int(reach), n - 1)
    if reach < 0:
        raise ValueError(f"reach is {reach}; the largest offset is at least 0.")
    offset = torch.arange(0 if chosen.is_causal else -reach, reach + 1)
    found = torch.full((len(chosen.layers), chosen.heads, len(offset)), torch.nan)
    for index, layer in enumerate(chosen.layers):
        if not layer.heads:
            continue
        sums = torch.zeros(2, layer.heads, 2 * n - 1, dtype=torch.float64)
        for rows in rows_of(layer, attention.sample_in(chosen), Axes(chosen), queries):
            at = (rows.at[:, None] - torch.arange(rows.p.shape[-1]) + n - 1).flatten().expand(layer.heads, -1)
            allowed = (rows.allowed & rows.counted[..., None]).float()
            for total, values in zip(sums, (rows.p * allowed, allowed), strict=True):
                total += torch.zeros(layer.heads, 2 * n - 1).scatter_add_(1, at, values.flatten(1))
        found[index, : layer.heads] = (sums[0] / sums[1])[:, offset + n - 1].float()
    return offset, found


@on_host
def similarity(
    attention: Attention | Trace, part: str | None = None, *, queries: Tensor | None = None, progress: bool = True
) -> Tensor:
    """How unlike any two heads are: the Jensen–Shannon divergence of their rows, averaged over the rows.

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2 (Lin 1991), in nats: 0 for rows that are equal, ln 2 for rows that
    share no key. What a row gives to no key counts as one key more. Clark et al. 2019 (section 6) map heads by it.
    Every pair of heads is n × n numbers: 144 heads of 1024 tokens take half a minute; some queries tell as much.

    Args:
        part: which part; the first one unless given.
        queries: the rows [row] to average over; all of them unless given.
        progress: a bar for what takes longer than a second.

    Returns:
        float32 [head, head], head h of layer l being number l · H + h, where H is the largest number of heads of a
        layer. NaN where there is no such head, or NaN among its weights.

    Raises:
        KeyError: no such part.

    >>> attention = Attention.from_weights(torch.stack([torch.eye(2), torch.eye(2), torch.eye(2).flip(0)]))
    >>> similarity(attention)[0]
    tensor([0.0000, 0.0000, 0.6931])
    """
    attention = attention_of(attention)
    chosen, sample = attention.part(part), attention.sample_in(attention.part(part))
    there = [(index, layer) for index, layer in enumerate(chosen.layers) if layer.heads]
    place = torch.cat([index * chosen.heads + torch.arange(layer.heads) for index, layer in there])
    every, axes = torch.arange(len(chosen.queries)) if queries is None else queries, Axes(chosen)
    sums = torch.zeros(2, len(place), len(place), dtype=torch.float64)  # of divergences, of rows
    pieces = every.split(max(1, BLOCK // (len(place) * len(chosen.keys))))
    for at in tqdm(pieces, "Heads beside each other", delay=1.0, leave=False, disable=not progress):
        blocks = [block_of(layer, sample, axes, at, (), cut=False) for _, layer in there]
        p, counted = torch.cat([one.p for one in blocks]), torch.cat([one.counted for one in blocks])
        p = torch.cat([p, (1 - p.sum(-1, keepdim=True)).clamp_min(0.0)], -1)
        own = entropy_of(p)
        for a in range(len(p)):
            both = counted[a] & counted[a:]
            apart = entropy_of((p[a] + p[a:]) / 2) - (own[a] + own[a:]) / 2
            sums[0, a, a:] += apart.masked_fill(~both, 0.0).sum(1)
            sums[1, a, a:] += both.sum(1)
    half = (sums[0] / sums[1]).clamp_min(0.0).triu()  # rounding leaves a little below 0
    found = torch.full((len(chosen.layers) * chosen.heads,) * 2, torch.nan)
    found[place[:, None], place] = (half + half.triu(1).mT).float()
    return found


@on_host
def embedding(apart: Tensor) -> tuple[Tensor, float]:
    """Heads as points of a plane, like ones close together: classical multidimensional scaling (Torgerson 1952).

    The square root of the Jensen–Shannon divergence is a distance between points of a Euclidean space (Fuglede &
    Topsøe 2004), so that the squares of the distances are the divergences themselves. The plane is where these points
    are spread most; its directions mean nothing but that.

    Args:
        apart: what :func:`similarity` gave, [head, head].

    Returns:
        float32 [head, 2], NaN for heads that are not there; and the share of the spread that the plane shows, 0 to 1.

    Raises:
        ValueError: not square.

    >>> points, share = embedding(torch.tensor([[0.0, 4.0], [4.0, 0.0]]))
    >>> points, round(share, 3)
    (tensor([[ 1.,  0.],
            [-1.,  0.]]), 1.0)
    """
    if apart.dim() != 2 or apart.shape[0] != apart.shape[1]:
        raise ValueError(
            f"apart has shape {tuple(apart.shape)}; give what similarity(attention) returns, [head, head]."
        )
    found, there = torch.full((len(apart), 2), torch.nan), ~apart.diagonal().isnan()
    squares = apart[there][:, there].double()
    rows = squares.mean(1)
    spread, axes = torch.linalg.eigh((rows[:, None] + rows - squares - squares.mean()) / 2)  # ascending
    spread = spread.clamp_min(0.0)
    points = torch.zeros(len(squares), 2, dtype=torch.float64)
    count = min(2, len(squares))
    points[:, :count] = (axes * spread.sqrt()).flip(1)[:, :count]
    # A direction and its opposite are one axis: the point farthest out is put on the positive side.
    farthest = points.gather(0, points.abs().argmax(0, keepdim=True))
    points = torch.where(farthest < 0, -points, points) + 0.0
    found[there] = points.float()
    return found, float(spread[-2:].sum() / spread.sum()) if float(spread.sum()) > 0 else 1.0


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
