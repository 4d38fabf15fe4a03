"""Every head in small: the pictures of the matrix, which must be there before anything else is.

A cell is the largest weight of the rows and keys it stands for; of a difference the largest in size, with its sign.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import Attention
from .blocks import pack
from .cells import MASKED, PADDED, bins, cells, coded, ground, largest, pieces_of, pool, specials
from .compare import CommonPart, Difference
from .layers import Part
from .masks import on_host
from .shown import REDUCTIONS

_SIDE = 48  # the largest there are
_MOST_WORK = 1 << 28  # weights behind the thumbnails of a part before rows are sampled: 2.5 s of one core


@on_host
def thumbs(attention: Attention, part: Part, side: int = _SIDE) -> tuple[dict[str, Any], bytes]:
    """Every head of a part, and its reductions over layers and heads, at most ``side`` × ``side`` cells each.

    Returns:
        {"rows", "cols", "sampled"} and a block of kind "thumbs".
    """
    n_q, n_k, layers, heads = len(part.queries), len(part.keys), len(part.layers), part.heads
    rows, cols = min(n_q, side), min(n_k, side)
    row_bins, col_bins = bins(n_q, rows), bins(n_k, cols) if cols < n_k else None
    sampled = rows < n_q and layers * heads * n_q * n_k > _MOST_WORK
    if sampled:
        row_bins = row_bins[:, row_bins.shape[1] // 2, None]
    width = row_bins.shape[1]
    single = torch.full((layers, heads, rows, cols), MASKED)
    # [mean max min; over heads for each layer, over layers for each head, over both; row; col]
    reduced = torch.full((len(REDUCTIONS), layers + heads + 1, rows, cols), MASKED)
    counts = torch.zeros(layers, rows)
    sharing = torch.tensor([sum(h < layer.heads for layer in part.layers) for h in range(heads)])

    for at in pieces_of(torch.arange(rows), heads * width * n_k):
        chosen = row_bins[at].reshape(-1)
        total, most = torch.zeros(2, heads, len(chosen), n_k)
        least = torch.full_like(total, torch.inf)
        anywhere = torch.full((heads, len(at), cols), PADDED)
        for index, layer in enumerate(part.layers):
            if not layer.heads:
                continue
            sample, h = attention.sample_in(part) % layer.shape[0], layer.heads
            allowed = layer.mask.allowed(sample, chosen)
            floor = pool(ground(allowed, ~layer.mask.keep[sample % len(layer.mask.keep)]), width, col_bins)
            p, _ = layer.block(sample, None, chosen)
            pooled = pool(p, width, col_bins)
            if bool(pooled.isnan().any()):  # a masked cell in a row of NaN must not blot out other rows
                p = p.masked_fill(~allowed, 0.0)
                pooled = pool(p, width, col_bins)
            single[index, :h, at] = cells(floor, pooled)
            over_heads = torch.stack([p.mean(0), p.amax(0), p.amin(0)])
            reduced[:, index, at] = cells(floor.amax(0), pool(over_heads, width, col_bins))
            counts[index, at] = _mean_of_bins(allowed.sum(-1).float().mean(0), row_bins[at])
            total[:h] += p
            most[:h] = torch.maximum(most[:h], p)
            least[:h] = torch.minimum(least[:h], p)
            anywhere[:h] = torch.maximum(anywhere[:h], floor)
        over_layers = torch.stack([total / sharing[:, None, None], most, least])
        # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
        over_both = torch.stack([total.sum(0) / sharing.sum(), most.amax(0), least.amin(0)])
        reduced[:, layers:-1, at] = cells(anywhere, pool(over_layers, width, col_bins))
        reduced[:, -1, at] = cells(anywhere.amax(0), pool(over_both, width, col_bins))

    vmax = max(1.0, largest(single))
    maps = {"heads": single, **dict(zip(REDUCTIONS, reduced, strict=True))}
    arrays = {name: coded(found, vmax, 250).byte().numpy() for name, found in maps.items()}
    block = pack("thumbs", {"vmax": vmax}, {**arrays, "allowed": counts.numpy()})
    return {"rows": rows, "cols": cols, "sampled": sampled}, block


@on_host
def difference_thumbs(difference: Difference, part: CommonPart, side: int = _SIDE) -> bytes:
    """What every head of A gives more than that of B, on the common axes; of reductions, that of A less that of B.

    Returns:
        A block of kind "thumbs" with meta {"vmax", "signed": true, "rows", "cols", "sampled"} and the arrays of
        :func:`thumbs`. Code v up to 250 is sign(v − 125) · ((v − 125) / 125)² · vmax.
    """
    n_q, n_k, layers, heads = len(part.queries), len(part.keys), len(part.layers), part.heads
    rows, cols = min(n_q, side), min(n_k, side)
    row_bins, col_bins = bins(n_q, rows), bins(n_k, cols) if cols < n_k else None
    sampled = rows < n_q and 2 * layers * heads * n_q * n_k > _MOST_WORK
    if sampled:
        row_bins = row_bins[:, row_bins.shape[1] // 2, None]
    width = row_bins.shape[1]
    single = torch.full((layers, heads, rows, cols), MASKED * _FAR)
    reduced = torch.full((len(REDUCTIONS), layers + heads + 1, rows, cols), MASKED * _FAR)
    counts = torch.zeros(layers, rows)
    sharing = torch.tensor([sum(h < layer.heads for layer in part.layers) for h in range(heads)])

    def apart(floors: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Pooled cells [..., bin, bin] of A − B, from whole ones and the grounds of both [2, ..., row, key]."""
        floor = _under(floors)
        less = (a - b).masked_fill(floor == PADDED, 0.0)
        high, low = pool(less, width, col_bins), -pool(-less, width, col_bins)
        floor = pool(floor, width, col_bins)
        # A comparison with NaN is false, and both are NaN then.
        return torch.where(floor == 0, torch.where(high >= -low, high, low), floor * _FAR)

    for at in pieces_of(torch.arange(rows), 4 * heads * width * n_k):
        chosen = row_bins[at].reshape(-1)
        total, most = torch.zeros(2, 2, heads, len(chosen), n_k)
        least = torch.full_like(total, torch.inf)
        anywhere = torch.full_like(total, PADDED)
        for index, layer in enumerate(part.layers):
            if not (h := layer.heads):
                continue
            found = [difference.grounded(part, side, index, chosen) for side in ("a", "b")]
            floors = torch.stack([floor.expand(h, -1, -1) for floor, _ in found])
            p = torch.stack([weights for _, weights in found])
            single[index, :h, at] = apart(floors, p[0], p[1])
            for how, (a, b) in enumerate((p.mean(1), p.amax(1), p.amin(1))):
                reduced[how, index, at] = apart(floors.amax(1), a, b)
            counts[index, at] = _mean_of_bins((_under(floors) == 0).sum(-1).float().mean(0), row_bins[at])
            total[:, :h] += p
            most[:, :h] = torch.maximum(most[:, :h], p)
            least[:, :h] = torch.minimum(least[:, :h], p)
            anywhere[:, :h] = torch.maximum(anywhere[:, :h], floors)
        over_layers = total / sharing[:, None, None], most, least
        over_both = total.sum(1) / sharing.sum(), most.amax(1), least.amin(1)
        for how, (each, both) in enumerate(zip(over_layers, over_both, strict=True)):
            reduced[how, layers:-1, at] = apart(anywhere, each[0], each[1])
            reduced[how, -1, at] = apart(anywhere.amax(1), both[0], both[1])

    vmax = largest(single.masked_fill(single <= PADDED * _FAR / 4, 0.0).abs())
    maps = {"heads": single, **dict(zip(REDUCTIONS, reduced, strict=True))}
    arrays = {name: _signed(found, vmax).byte().numpy() for name, found in maps.items()}
    meta = {"vmax": vmax, "signed": True, "rows": rows, "cols": cols, "sampled": sampled}
    return pack("thumbs", meta, {**arrays, "allowed": counts.numpy()})


_FAR = float(1 << 20)  # puts the codes of cells without weight far below any difference


def _under(grounds: Tensor) -> Tensor:
    """The ground of a difference, from those of its two sides: padded where one of them is, masked where both are."""
    return torch.where((grounds == PADDED).any(0), PADDED, grounds.amax(0))


def _signed(cells: Tensor, vmax: float) -> Tensor:
    """int: 0 … 250 for differences from −vmax to vmax, 125 for none, and 253 … 255 as in :func:`specials`."""
    marks = specials(torch.where(cells <= MASKED * _FAR, cells / _FAR, cells.clamp_min(-0.5)))
    size = (cells.nan_to_num(0.0).abs() / vmax).clamp_max(1.0).sqrt()
    codes = (125 + 125 * cells.nan_to_num(0.0).sign() * size).round().int()
    return torch.where(marks > 0, marks, codes)


def _mean_of_bins(values: Tensor, which: Tensor) -> Tensor:
    """Means of [bin · width] values over the bins [bin, width]; an entry that a bin repeats counts once."""
    once = torch.ones(which.shape)
    once[:, 1:] = (which.diff(dim=1) > 0).float()
    return (values.reshape(which.shape) * once).sum(1) / once.sum(1)
