"""An image as numbers that can be looked at: uint8 [height, width, 3]."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Picture: TypeAlias = NDArray[np.uint8]
"""[height, width, 3], red, green and blue from 0 to 255."""

_SIDE = 256  # pixels: what a page shows is hardly larger


def picture_of(image: Any, side: int = _SIDE) -> Picture:
    """An image as it is shown, with at most ``side`` pixels along its longer side.

    Args:
        image: [height, width], [height, width, 1, 3 or 4] or [1 or 3, height, width], or anything that numpy makes an
            array of (an image of PIL). Numbers from 0 to 1, from 0 to 255, or normalised ones, of which nobody can say
            what they were: those are stretched so that the smallest is 0 and the largest 255.

    Raises:
        ValueError: no such shape; no numbers.

    >>> picture_of([[0.0, 0.5], [0.25, 1.0]])[:, :, 0]
    array([[  0, 128],
           [ 64, 255]], dtype=uint8)
    """
    values = np.asarray(image)
    shape = values.shape
    if values.dtype == bool:
        values = values.astype(np.float32)
    elif not np.issubdtype(values.dtype, np.number):
        values = np.empty(0)
    if values.ndim == 2:
        values = values[:, :, None]
    elif values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or 0 in values.shape:
        raise ValueError(f"picture has shape {shape}; expected numbers [height, width, 3] or [height, width].")
    values = values[:, :, :3] if values.shape[2] > 1 else values.repeat(3, 2)
    return smaller(_in_range(values), side)


def smaller(picture: Picture, side: int) -> Picture:
    """The picture with at most ``side`` pixels along its longer side: means over the pixels that become one."""
    height, width = picture.shape[:2]
    by = max(1.0, max(height, width) / side)
    found = picture.astype(np.float32)
    for axis, size in enumerate((height, width)):
        edges = np.arange(new := max(1, round(size / by))) * size // new
        pixels = np.diff(edges, append=size).reshape(-1, *(1,) * (2 - axis))
        found = np.add.reduceat(found, edges, axis) / pixels
    result: Picture = found.round().astype(np.uint8)
    return result


def _in_range(values: NDArray[Any]) -> Picture:
    numbers = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(numbers.min()), float(numbers.max())
    whole = np.issubdtype(values.dtype, np.integer)
    if low >= 0 and (whole or high > 2) and high <= 255:
        scaled = numbers
    elif low >= 0 and high <= 1:
        scaled = numbers * 255
    else:
        scaled = (numbers - low) * (255 / (high - low or 1.0))
    result: Picture = scaled.round().astype(np.uint8)
    return result
