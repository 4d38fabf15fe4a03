"""Colours of figures: the ramps that turn weights into colour, as the browser mixes them; the light theme only.

As in ``js/src/theme.ts``: a ramp starts at the ground, and the steps between its stops are taken in OKLab.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget.colours import PALETTES

Colour = NDArray[Any]
"""Red, green and blue, 0 … 255."""

_OCTAVES = 16  # the log scale reaches down to 2⁻¹⁶
_LIFT = 4  # the uniform scale reaches from 1/2⁴ to 2⁴ times uniform


def _hexes(text: str) -> list[Colour]:
    return [np.array([int(one[at : at + 2], 16) for at in (0, 2, 4)], float) for one in text.split()]


GROUND, PANEL, LINE, INK, SOFT, ACCENT = _hexes(PALETTES["light"][0])
RAMP, LESS, SEVERAL = (_hexes(text) for text in PALETTES["light"][1:])
_BELOW = _hexes("a67c3d dcc79f")  # under the uniform weight, furthest first

LEGENDS = {
    "linear": ("0", "1", "weight, linear scale"),
    "sqrt": ("0", "1", "weight, square-root scale"),
    "log": ("2⁻¹⁶", "1", "weight, log₂ scale"),
    "uniform": ("1/16", "16", "× the uniform weight, 1× in the middle"),
    "difference": ("−1", "+1", "difference of weights, none in the middle"),
}
"""What stands at the ends of each ramp, and its name."""

_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.793617785, -0.0040720468],
    [1.9779984951, -2.428592205, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.808675766],
])  # fmt: skip
_FROM_LAB = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
)
_FROM_LMS = np.array([
    [4.0767416621, -3.3077115913, 0.2309699292],
    [-1.2684380046, 2.6097574011, -0.3413193965],
    [-0.0041960863, -0.7034186147, 1.707614701],
])  # fmt: skip


def _linear(colour: Colour) -> Colour:
    c = colour / 255
    return np.asarray(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """From ``a`` (0) to ``b`` (1), in OKLab (Björn Ottosson, 2020)."""
    p, q = (_TO_LAB @ np.cbrt(_TO_LMS @ _linear(one)) for one in (a, b))
    c = np.clip(_FROM_LMS @ (_FROM_LAB @ (p + (q - p) * share)) ** 3, 0.0, 1.0)
    return 255 * np.asarray(np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055))


def along(stops: Sequence[Colour], share: float) -> Colour:
    """The colour at ``share``, 0 … 1, of evenly spaced stops."""
    at = min(1.0, max(0.0, share)) * (len(stops) - 1)
    below = min(len(stops) - 2, int(at))
    return mix(stops[below], stops[below + 1], at - below)


def _stops(shade: str) -> Sequence[Colour]:
    if shade not in ("uniform", "difference"):
        return RAMP
    below = [*(_BELOW if shade == "uniform" else LESS), RAMP[0]]
    arm = (0.0, 0.25, 0.5, 0.75, 1.0)
    return [*(along(below, share) for share in arm), *(along(RAMP, share) for share in arm[1:])]


@lru_cache(maxsize=8)
def ramp(shade: str) -> NDArray[np.uint8]:
    """The 256 colours, uint8 [256, 3], of a scale or of "difference".

    >>> ramp("sqrt")[0].tolist(), ramp("sqrt")[255].tolist()
    ([244, 243, 238], [21, 32, 74])
    """
    stops = _stops(shade)
    return np.array([np.floor(along(stops, i / 255) + 0.5) for i in range(256)]).astype(np.uint8)


def signed_colour_at(share: float) -> Colour:
    """What differences are painted with: 0 is the most below nothing, 1 the most above."""
    return along(_stops("difference"), share)


def level(p: NDArray[Any], scale: str, allowed: NDArray[Any] | float) -> NDArray[Any]:
    """Where weights lie on the ramp, 0 … 1; ``allowed`` keys share the row, which only "uniform" asks for."""
    with np.errstate(divide="ignore"):
        if scale == "linear":
            at = p
        elif scale == "sqrt":
            at = np.sqrt(p)
        elif scale == "log":
            at = 1 + np.log2(p) / _OCTAVES
        else:
            at = 0.5 + np.log2(p * allowed) / (2 * _LIFT)
    return np.asarray(np.clip(at, 0.0, 1.0))


def signed_level(delta: NDArray[Any], scale: str) -> NDArray[Any]:
    """Where differences lie on the diverging ramp: 0 is −1, ½ is none, 1 is +1."""
    size = np.abs(delta)
    return np.asarray(0.5 + np.sign(delta) * np.minimum(1.0, size if scale == "linear" else np.sqrt(size)) / 2)


def shades(share: NDArray[Any]) -> NDArray[Any]:
    """Which of 256 colours, of shares 0 … 1."""
    return np.asarray(np.floor(255 * share + 0.5), np.intp)


def _luminance(colour: Colour) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ _linear(colour))


def contrast(a: Colour, b: Colour) -> float:
    """Contrast of two colours, 1 … 21 (WCAG 2)."""
    p, q = _luminance(a), _luminance(b)
    return (max(p, q) + 0.05) / (min(p, q) + 0.05)


def over(colour: Colour, alpha: float, ground: Colour = GROUND) -> Colour:
    """A colour that lets its ground through."""
    return ground + (colour - ground) * alpha


def strongest_tint(accent: Colour) -> float:
    """How much of a colour may lie behind text, at most."""
    share = 0.48
    while share > 0.1 and contrast(INK, over(accent, share)) < 4.5:
        share -= 0.02
    return share


def tint(weight: float, accent: Colour = ACCENT) -> Colour:
    """The ground of a token by its weight."""
    return over(accent, 0.08 + (strongest_tint(accent) - 0.08) * min(1.0, weight) ** 0.6)


def signed_colour(weight: float) -> Colour:
    """More lies where the ramp goes, less on the other arm."""
    return LESS[1] if weight < 0 else RAMP[-2]


def effect_colour(share: float) -> Colour:
    """What an effect is drawn in; next to none is pale, not as the ground is."""
    if share == 0:
        return LINE
    return signed_colour_at(0.5 + (1 if share > 0 else -1) * (0.12 + 0.34 * abs(share) ** 0.5))
