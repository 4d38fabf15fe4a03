"""Numbers, names and labels as text: as the browser writes them (``js/src/a11y.ts``, ``label.ts``, ``stages.ts``)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from attnwidget.tokens import Tokens

_GLYPH = "▦"  # a placeholder of an image
_CROWD = 8  # placeholders of one image that are shown by name
_SHOWN = 60  # characters of a token
_LONE = {"Cc", "Cs", "Co", "Cn"}  # what has no sign, or none that every reader knows


def printable(text: str) -> str:
    r"""Text that can stand in any file: no control character, no half of a surrogate pair.

    >>> printable("a\x00b\nc")
    'a·b⏎c'
    """
    if text.isascii() and text.isprintable():
        return text
    one = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(
        "·" if unicodedata.category(char) in _LONE or char in "\u2028\u2029\ufffe\uffff" else char for char in one
    )


def cut(text: str, limit: int) -> str:
    """At most ``limit`` characters, with a sign where there were more."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def thousands(count: int) -> str:
    """12345 as "12 345", with thin spaces that do not break."""
    return f"{count:,}".replace(",", "\u202f")


def counted(count: int, noun: str) -> str:
    """How many of something there are."""
    return f"{thousands(count)} {noun}{'' if count == 1 else 's'}"


def fixed(value: float, digits: int) -> str:
    """A number of some decimals, halves up, as the browser rounds them.

    >>> fixed(0.125, 2), f"{0.125:.2f}"
    ('0.13', '0.12')
    """
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def weight_text(weight: float) -> str:
    """A weight with two decimals; what is there but smaller than that says so.

    >>> weight_text(0.3), weight_text(0.001), weight_text(0.0)
    ('0.30', '<0.01', '0')
    """
    if math.isnan(weight):
        return "NaN"
    return "0" if weight == 0 else "<0.01" if weight < 0.005 else fixed(weight, 2)


def delta_text(delta: float) -> str:
    """A difference of weights, with its sign."""
    return f"+{weight_text(delta)}" if delta > 0 else f"−{weight_text(-delta)}" if delta < 0 else weight_text(delta)


def value_text(value: float) -> str:
    """A number that is no weight, short."""
    size = abs(value)
    if size == 0:
        text = "0"
    elif size >= 0.01:
        text = fixed(size, 0 if size >= 100 else 1 if size >= 10 else 2)
    elif size < 0.001:
        mantissa, exponent = f"{size:.0e}".split("e")
        text = f"{mantissa}e−{-int(exponent)}"
    else:
        text = f"{size:.1g}"
    return f"−{text}" if value < 0 else text


def signed_text(value: float) -> str:
    """A number that is no weight, with its sign."""
    return f"{'+' if value > 0 else ''}{value_text(value)}"


def cell_text(weight: float, signed: bool) -> str:
    """.62 in a cell: a number in as few characters as it can be."""
    size = abs(weight)
    text = fixed(size, 1) if size >= 0.995 else ("0" if size == 0 else "·") if size < 0.005 else fixed(size, 2)[1:]
    return f"{'−' if weight < 0 else '+'}{text}" if signed and size >= 0.005 else text


def figure(value: float) -> str:
    """A number as it stands in tables: two decimals, fewer where it is large, a true minus."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e5:
        mantissa, exponent = f"{size:.1e}".split("e")
        text = f"{mantissa}e+{int(exponent)}"
    else:
        text = fixed(size, 0 if size >= 1000 else 1 if size >= 100 else 2)
    return f"−{text}" if value < 0 and float(text) != 0 else text


def weight_figure(weight: float) -> str:
    """A weight in a table: two decimals, three where it is small."""
    if not weight < 0.0095 or weight == 0:
        return "0" if weight == 0 else fixed(weight, 2)
    return "<0.001" if weight < 0.0005 else fixed(weight, 3)


_REDUCED = {"mean": "mean of", "max": "largest of", "min": "smallest of"}


def selection_text(
    part: Any, layer: int | None, head: int | None, reduce: str, heads: Sequence[tuple[int, int]]
) -> str:
    """Which map it is: "Layer 7 · head 10", "Layer 7 · mean of 12 heads", "Mean of all 144 heads"."""
    over = _REDUCED[reduce]
    if len(heads) == 1:
        [(layer, head)] = heads
    elif heads:
        return f"{over.capitalize()} {counted(len(heads), 'chosen head')}"
    if layer is not None and head is not None:
        return f"Layer {layer} · head {head}"
    if layer is not None:
        return f"Layer {layer} · {over} {counted(part.layers[layer].heads, 'head')}"
    if head is not None:
        return f"Head {head} · {over} {counted(sum(one.heads > head for one in part.layers), 'layer')}"
    count = sum(one.heads for one in part.layers)
    return f"{over.capitalize()} {'all ' if count > 1 else ''}{counted(count, 'head')}"


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Run:
    """Tokens that stand together: a text of a pair, an image, what was generated."""

    kind: str
    name: str
    start: int
    stop: int


def runs(values: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of the same number from 0 up: start, stop, number."""
    start, before = 0, -1
    for at, value in enumerate([*values, -1]):
        if value == before:
            continue
        if before >= 0:
            yield start, at, before
        start, before = at, value


def groups_of(axis: Tokens) -> list[Run]:
    """The groups of an axis, in order."""
    found = [Run("segment", chr(65 + at % 26), start, stop) for start, stop, at in runs(axis.segments or ())]
    for start, stop, _ in runs(int(flag) - 1 for flag in axis.image):
        count = stop - start
        size = (
            f"{axis.grid[0]} × {axis.grid[1]}"
            if axis.grid and axis.grid[0] * axis.grid[1] == count
            else thousands(count)
        )
        if count > 1:
            found.append(Run("image", f"{_GLYPH} image {size}", start, stop))
    found += [
        Run("generated", "generated", start, stop) for start, stop, _ in runs(int(one) - 1 for one in axis.generated)
    ]
    return sorted(found, key=lambda run: run.start)


def labels_of(axis: Tokens) -> list[str]:
    """[n] what stands for each token."""
    crowded = [run for run in groups_of(axis) if run.kind == "image" and run.stop - run.start > _CROWD]
    hidden = {i for run in crowded for i in range(run.start, run.stop)}
    found = []
    for i, label in enumerate(axis.labels):
        text = cut(label, _SHOWN)
        if i in hidden:
            text = _GLYPH
        elif axis.image and axis.image[i]:
            text = cut(f"{_GLYPH} {label}", _SHOWN)
        found.append(printable(text))
    return found


def named(labels: Sequence[str], i: int) -> str:
    """How a sentence names a token."""
    return f"“{printable(cut(labels[i], 24))}”"


def boundaries(axis: Tokens) -> list[int]:
    """Where what was generated begins or ends, but for the ends of the axis."""
    ends = {at for run in groups_of(axis) if run.kind == "generated" for at in (run.start, run.stop)}
    return sorted(at for at in ends if 0 < at < len(axis))


# ── steps of labels ──────────────────────────────────────────────────────────────────────────────────────────────────


def round_step(least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is at least ``least``."""
    ten = 10 ** math.floor(math.log10(max(1.0, least)))
    return next((int(times * ten) for times in (1, 2, 5, 10) if times * ten >= least), int(10 * ten))


def roof(value: float) -> float:
    """The smallest round number that is at least ``value``, above 0: the end of a scale."""
    ten: float = 10.0 ** math.floor(math.log10(value))
    return next((times for times in (1, 2, 5) if times * ten >= value * (1 - 1e-9)), 10) * ten


def ticks(n: int, pitch: float, beside: float, apart: float) -> tuple[int, range]:
    """Every k-th of n places: k is 1 where they are ``beside`` apart, else round, so that labels are ``apart``."""
    step = 1 if pitch >= beside else round_step(apart / pitch)
    return step, range(0, n, step)


def every(n: int, pitch: float, room: float) -> range:
    """0, step, 2 step … below n, with at least ``room`` for each."""
    return range(0, n, next((step for step in (1, 2, 4, 8, 16, 32) if step * pitch >= room), 64))
