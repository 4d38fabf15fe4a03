"""One head of one sample by itself, as arrays: what it was computed from, whoever holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Numbers: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Head:
    """What one head computed for one sample.

    Attributes:
        name: of its module. kv_head: the number of its keys, where heads share them.
        mask: start, stop [query] and keep [key], and bits where these do not say it all: see
            :meth:`~attnwidget.masks.Mask.arrays`.
        q, k, v: [token, d], or weights [query, key] in place of q and k.
        scale, softcap: as of :class:`~attnwidget.layers.Layer`.
        offsets: [query + key − 1] of a bias, or dense [query, key]. positional: the model says that it is of positions.
        sink: [1] or [query], logits that take weight without being a key.
        plain: q and k before positions turned them; pairs, width: how they did (see ``rotary.py``).
        output: [D, d_v], what brings it into the model's width; output_name: of that projection's module.
        why: what could not be had ("output", "positions"), and why, in words.
    """

    name: str
    kv_head: int
    mask: Mapping[str, NDArray[Any]]
    scale: float = 1.0
    softcap: float | None = None
    q: Numbers | None = None
    k: Numbers | None = None
    v: Numbers | None = None
    weights: Numbers | None = None
    offsets: Numbers | None = None
    dense: Numbers | None = None
    positional: bool = False
    sink: Numbers | None = None
    plain: tuple[Numbers, Numbers] | None = None
    pairs: str = ""
    width: int = 0
    output: Numbers | None = None
    output_name: str | None = None
    why: Mapping[str, str] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(query, key)."""
        return len(self.mask["start"]), len(self.mask["keep"])

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Bool [query, key]: where attending is allowed."""
        return allowed_by(self.mask)

    def bias_of_positions(self, grid: tuple[int, int] | None) -> bool:
        """Whether there is a bias that depends on nothing but how far apart query and key are: :func:`of_positions`."""
        if self.offsets is not None:
            return True
        return self.dense is not None and (self.positional or of_positions(self.dense, self.allowed, grid))


def allowed_by(mask: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Bool [query, key], from the arrays of a mask."""
    keys = len(mask["keep"])
    if "bits" in mask:
        return np.unpackbits(mask["bits"], axis=1, count=keys, bitorder="little").astype(bool)
    at = np.arange(keys)
    inside: NDArray[np.bool_] = (at >= mask["start"][:, None]) & (at < mask["stop"][:, None]) & (mask["keep"] != 0)
    return inside


def of_positions(numbers: Numbers, allowed: NDArray[np.bool_], grid: tuple[int, int] | None = None) -> bool:
    """Whether what is added to scores, [query, key], depends on nothing but how far apart query and key are.

    What is added to all scores of a query alike changes no weight, and does not count.

    Args:
        allowed: bool [query, key]; what is added elsewhere does not count either.
        grid: rows and columns of the patches of an image that stand last: they are as far apart as they are in it.
    """
    across, both = np.diff(numbers, axis=1), allowed[:, 1:] & allowed[:, :-1]
    both = both[:-1, :-1] & both[1:, 1:]
    off = np.abs(across[:-1, :-1] - across[1:, 1:])[both]
    # Some models make them in bfloat16. Numbers so large are masks.
    most = float(np.abs(numbers).max())
    if len(off) and float(off.max()) <= (most / 128 if most < 1e3 else 1e-6):
        return True
    if grid is None or min(numbers.shape) < (patches := grid[0] * grid[1]):
        return False
    high, wide = grid
    between = numbers[-patches:, -patches:].reshape(high, wide, high, wide)
    down = np.array_equal(between[:-1, :, :-1], between[1:, :, 1:])
    return down and np.array_equal(between[:, :-1, :, :-1], between[:, 1:, :, 1:])


def window_of(start: Any, stop: Any, keys: int) -> int | None:
    """Width of a causal sliding window, from where rows [batch, query] begin and end; None where there is none."""
    widths = stop - start
    widest = int(widths.max())
    whole = (widths[:, widest:] == widest) | (widths[:, widest:] == 0)  # rows of padding have no width
    return widest if widest < keys and bool(whole.all()) else None
