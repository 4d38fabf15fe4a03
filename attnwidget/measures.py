"""One number per head, [layer, head]: where its weight goes, averaged over the queries.

Whole rows of all heads of a layer are computed together, a few at a time: nothing of size n × n is ever there.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .attention import Attention
from .masks import on_host
from .measured import MEASURES, STATISTICS
from .rows import BLOCK, Axes, block_of, entropy_of, rows_of
from .trace import Trace, attention_of


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
