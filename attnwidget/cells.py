"""Weights as cells of a map, and what stands where there is none; and cells as codes, for blocks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from −32767 to 32767, [row, d], and the step of each row. NaN and infinity stay what they are."""
    step = values.abs().amax(1) / 32767
    return (values / step.masked_fill(step == 0, 1.0)[:, None]).round(), step


# A cell is a weight ≥ 0, NaN (the model made one), or one of two codes. They are ordered so that the largest of a group
# of cells is also its pooled cell: weight > masked > padded.
MASKED, PADDED = -1.0, -2.0


def ground(allowed: Tensor, padding: Tensor) -> Tensor:
    """0 where a weight belongs, else MASKED or PADDED: [..., row, key] from bool [..., row, key] and bool [key].

    Padded are keys that are padding, and rows that see no key at all.
    """
    code = torch.where(padding | ~allowed.any(-1, keepdim=True), PADDED, MASKED)
    return torch.where(allowed, 0.0, code)


def cells(ground: Tensor, weights: Tensor) -> Tensor:
    """Weights on their ground. A weight where there should be none is still a weight; NaN there is nothing."""
    return torch.where((ground == 0) | (weights > 0), weights, ground)


def specials(cells: Tensor) -> Tensor:
    """int: 0 for weights, 253 NaN, 254 padded, 255 masked."""
    return 253 * cells.isnan() + 254 * (cells == PADDED) + 255 * (cells == MASKED)


def coded(cells: Tensor, vmax: float, top: int, special: int = 0) -> Tensor:
    """int: v where a weight is vmax · (v / top)², which keeps the digits of small ones; else special + 253 … 255."""
    codes = (cells.nan_to_num(0.0).clamp_min(0.0) / vmax).sqrt().mul(top).round().int()
    marks = specials(cells)
    return torch.where(marks > 0, special + marks, codes)


def largest(cells: Tensor) -> float:
    """The largest weight; 1 where there is none."""
    most = float(cells.nan_to_num(0.0).amax()) if cells.numel() else 0.0
    return most if most > 0 else 1.0


def bins(n: int, count: int) -> Tensor:
    """Which of n things each bin holds, from floor(b·n / count) on: [bin, most in one]. Short bins repeat the last."""
    edges = torch.arange(count + 1) * n // count
    width = int(edges.diff().max())
    return torch.minimum(edges[:-1, None] + torch.arange(width), edges[1:, None] - 1)


def pool(values: Tensor, rows: int, cols: Tensor | None = None) -> Tensor:
    """[..., row, key] → [..., row / rows, bin]: the largest of ``rows`` rows each, and of the keys of each bin."""
    folded = values.reshape(*values.shape[:-2], -1, rows, values.shape[-1]).amax(-2) if rows > 1 else values
    return folded if cols is None else folded[..., cols].amax(-1)


_AT_ONCE = 1 << 19  # weights computed at once: 2 MB, which stays in a core's cache


def pieces_of(rows: Tensor, work: int) -> Iterator[Tensor]:
    """``rows``, as many at once as there is to be computed at once if each takes ``work`` weights."""
    step = max(1, _AT_ONCE // work)
    return (rows[at : at + step] for at in range(0, len(rows), step))
