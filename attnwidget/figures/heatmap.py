"""The heat map as a figure: cells, labels, margins and legend, where ``js/src/plan.ts`` puts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget.shown import is_difference
from attnwidget.tokens import Tokens

from . import inks
from .legends import brackets, effect_legend, lane_of, legend
from .looked import LEAK, MASKED, PADDED, Cells, Looked, Looking, Margins, is_weight, margins, pooled, whole_in
from .sheet import SMALL, TEXT, Sheet, Side, fitted, ground, hatch, width_of
from .words import boundaries, cell_text, labels_of, roof, signed_text, thousands, ticks, weight_text

_LARGEST = 44.0  # of a cell
_TALLEST, _SHORTEST = 620.0, 180.0  # of the map, and of a side, unless its cells are as large as cells get
_TITLES = 16.0
_RISE, _RUN, _LEAVES, _ABOVE, _BESIDE = 34.0, 52.0, 36.0, 5.0, 8.0  # of the bars, and between them and the map
_SLANT = 55.0  # degrees
_LABEL = 110.0  # of a slanted label
_PRINTED = 38.0  # of a cell that has room for its number
_FINE = 2  # dots of a pixel, where the map has more cells than that


@dataclass(frozen=True)
class Plan:
    """Where things are: the corner of the cells, their extent, and the room beside and above them."""

    left: float
    top: float
    width: float
    height: float
    beside: float  # brackets, between labels and cells
    above: float  # brackets and bars, between labels and cells
    rows: int
    cols: int

    @property
    def pitch(self) -> tuple[float, float]:
        """Down and across."""
        return self.height / self.rows, self.width / self.cols


def _planned(
    sheet: Sheet, queries: Sequence[str], keys: Sequence[str], lanes: tuple[float, float], leaks: bool, spread: bool
) -> Plan:
    """Cells are square; a side that would get too thin is stretched."""
    n_q, n_k = len(queries), len(keys)
    label = min(_LABEL, _widest(keys))
    beside, above = 6 + lanes[0], 6 + lanes[1] + _RISE + _ABOVE
    left = max(min(_widest(queries) + 12 + beside, sheet.width * (0.24 if sheet.width < 520 else 0.3)), 64.0)
    top = max(label * 0.82 + 10, _TITLES) + above
    bars = _BESIDE + 8 + (_RUN if spread else 0) + ((_BESIDE if spread else 0) + _LEAVES if leaks else 0)
    room = sheet.width - left - max(bars if spread or leaks else 8.0, label * 0.58)
    square = min(max(40.0, room) / n_k, _TALLEST / n_q, _LARGEST)

    def side(n: int, most: float) -> float:
        return n * max(square, min(_LARGEST, min(most, _SHORTEST) / n))

    return Plan(left, top, side(n_k, max(40.0, room)), side(n_q, _TALLEST), beside, above, n_q, n_k)


def _widest(labels: Sequence[str]) -> float:
    longest = sorted(labels, key=len, reverse=True)[:60]
    return min(150.0, max((width_of(one, TEXT - 1) for one in longest), default=0.0))


def heatmap(sheet: Sheet, looking: Looking) -> None:
    """Draws the map, from the sheet's height on."""
    map, chosen, effects = looking.map, looking.chosen, looking.effects
    queries, keys = labels_of(map.queries), labels_of(map.keys)
    leaks = bool((map.leak > LEAK).any())
    single = len(chosen.heads) == 1 or (not chosen.heads and chosen.layer is not None and chosen.head is not None)
    spread = not map.signed and (single or chosen.reduce == "mean")
    found = margins(map, looking.asking)
    aside = [] if chosen.sinks or effects is not None else found.sinks
    lanes = lane_of(map.queries), lane_of(map.keys)
    plan = _planned(sheet, queries, keys, lanes, leaks, spread)
    start = sheet.height
    plan = Plan(plan.left, start + plan.top, *(plan.width, plan.height, plan.beside, plan.above, plan.rows, plan.cols))

    rows, cols = (min(n, round(_FINE * size)) for n, size in zip(map.shape, (plan.height, plan.width), strict=True))
    cells, allowed = _painted(looking, rows, cols, aside)
    signed = map.signed or effects is not None
    most = float(cells[is_weight(cells)].max(initial=0.0)) or 1.0 if aside else 1.0
    shade = "difference" if signed else chosen.scale
    pixels = painted(cells, shade, chosen.scale, allowed, most)
    if (cells == PADDED).any():
        ground(sheet, plan.left, plan.top, plan.width, plan.height)
        hatch(sheet, plan.left, plan.top, plan.width, plan.height, inks.SOFT)
    else:
        pixels = pixels[..., :3]
    sheet.image(pixels, plan.left, plan.top, plan.width, plan.height)
    _marks(sheet, plan, cells)
    for key in aside:
        _set_aside(sheet, plan, key)
    if min(plan.pitch) >= _PRINTED:
        _numbers(sheet, plan, cells, pixels, aside, map.signed, None if effects is None else effects.largest)
    _frames(sheet, plan, looking)
    _bars(sheet, plan, map, found, spread, leaks, aside)
    _labels(sheet, plan, looking, queries, keys)
    _around(sheet, plan, map)

    sheet.height = plan.top + plan.height + 14
    signs = [("aside", "set aside")] if aside else []
    signs += [("masked", "masked")] if (cells == MASKED).any() else []
    signs += (
        [("padded", "only in one of them" if is_difference(looking.shown) else "padding")]
        if (cells == PADDED).any()
        else []
    )
    signs += [("nan", "not a number")] if np.isnan(cells).any() else []
    if effects is not None:
        effect_legend(sheet, effects, signs)
    else:
        legend(sheet, shade, signs, high=weight_text(most) if aside and chosen.scale != "uniform" else None)
    _notes(sheet, plan, map, rows, cols, aside, found)


def _painted(looking: Looking, rows: int, cols: int, aside: Sequence[int]) -> tuple[Cells, NDArray[Any]]:
    """The cells that are drawn: the map's, or the effects of its edges, without keys that are set aside."""
    map = looking.map
    if looking.effects is not None:
        shares = looking.effects.shares.astype(np.float32)
        return pooled(pooled(shares, 1, cols, True), 0, rows, True), map.allowed[: len(shares)]
    if not aside:
        return whole_in(map, rows, cols)

    def pieces() -> Any:
        for at, cells, sees in map.pieces():
            cells = cells.copy()
            cells[:, list(aside)] = MASKED
            yield at, cells, sees

    return whole_in(Looked(map.queries, map.keys, pieces, signed=map.signed), rows, cols)


def painted(
    cells: Cells, shade: str, scale: str, allowed: NDArray[Any] | float, most: float = 1.0
) -> NDArray[np.uint8]:
    """RGBA [row, column, 4] of cells: masked ones are the ground, padded ones are clear, NaN is the accent."""
    there = is_weight(cells)
    values = np.where(there, cells, 0.0).astype(np.float64)
    if shade == "difference":
        share = inks.signed_level(values, scale)
    else:
        keys = np.asarray(allowed, float).reshape(-1, *(1,) * (cells.ndim - 1)) if np.ndim(allowed) else allowed
        share = inks.level(values if scale == "uniform" else values / most, scale, keys)
    pixels = np.full((*cells.shape, 4), 255, np.uint8)
    pixels[..., :3] = inks.ramp(shade)[inks.shades(share)]
    for mark, colour in ((cells == MASKED, inks.GROUND), (np.isnan(cells), inks.GROUND)):
        pixels[mark, :3] = colour
    pixels[cells == PADDED] = 0
    return pixels


# ── over the cells ───────────────────────────────────────────────────────────────────────────────────────────────────


def _marks(sheet: Sheet, plan: Plan, cells: Cells) -> None:
    """A cross for every cell that is not a number, and a thin frame around what masks leave white."""
    tall, wide = plan.height / cells.shape[0], plan.width / cells.shape[1]
    arm = 0.28 * min(tall, wide)
    crosses = []
    for row, col in np.argwhere(np.isnan(cells))[:4096]:
        x, y = plan.left + (col + 0.5) * wide, plan.top + (row + 0.5) * tall
        crosses += [[(x - arm, y - arm), (x + arm, y + arm)], [(x - arm, y + arm), (x + arm, y - arm)]]
    sheet.lines(crosses, inks.ACCENT, min(2.0, max(0.4, min(tall, wide) / 6)))
    sheet.rect(plan.left, plan.top, plan.width, plan.height, line=inks.LINE, thick=0.8)


def _set_aside(sheet: Sheet, plan: Plan, key: int) -> None:
    x, wide = plan.left + key * plan.pitch[1], max(2.0, plan.pitch[1])
    ground(sheet, x, plan.top, wide, plan.height)
    hatch(sheet, x, plan.top, wide, plan.height, inks.SOFT, -1)
    if wide >= 4:
        sheet.rect(x, plan.top, wide, plan.height, line=inks.SOFT, thick=0.8)


def _numbers(
    sheet: Sheet,
    plan: Plan,
    cells: Cells,
    pixels: NDArray[np.uint8],
    aside: Sequence[int],
    signed: bool,
    largest: float | None,
) -> None:
    tall, wide = plan.pitch
    for row, col in np.argwhere(is_weight(cells)):
        if col in aside:
            continue
        value = float(cells[row, col])
        text = (
            cell_text(value, signed) if largest is None else "·" if abs(value) < 0.002 else signed_text(value * largest)
        )
        dark = inks.contrast(np.zeros(3), pixels[row, col, :3].astype(float)) > 4.58
        x, y = plan.left + (col + 0.5) * wide, plan.top + (row + 0.5) * tall
        sheet.text(x, y, text, SMALL, np.zeros(3) if dark else np.full(3, 255.0), "center")


def _frames(sheet: Sheet, plan: Plan, looking: Looking) -> None:
    """Around rows in focus; a veil over what is not there yet."""
    tall = plan.pitch[0]
    if looking.moment is not None:
        y = plan.top + looking.moment * tall
        sheet.rect(plan.left, y, plan.width, plan.top + plan.height - y, inks.GROUND, alpha=0.86)
    for query in dict.fromkeys([*looking.focus, *looking.pinned]):
        sheet.rect(plan.left, plan.top + query * tall, plan.width, max(1.0, tall), line=inks.ACCENT, thick=1.5)


# ── along the margins ────────────────────────────────────────────────────────────────────────────────────────────────


def _joined(values: NDArray[Any], bins: int, mean: bool) -> NDArray[Any]:
    """One value for each of some bins: the mean, or the furthest from 0; NaN where there is none."""
    n = len(values)
    if bins >= n:
        return values
    of, there = np.arange(n) * bins // n, ~np.isnan(values)
    found = np.full(bins, np.nan)
    for at in range(bins):
        some = values[(of == at) & there]
        if len(some):
            found[at] = some.mean() if mean else some[np.argmax(np.abs(some))]
    return found


def _bars(
    sheet: Sheet, plan: Plan, map: Looked, found: Margins, spread: bool, leaks: bool, aside: Sequence[int]
) -> None:
    """What keys receive, above; how widely queries spread, and what they give to no key, on the right."""
    bottom = plan.top - _ABOVE
    cols, rows = (min(n, round(_FINE * size)) for n, size in ((plan.cols, plan.width), (plan.rows, plan.height)))
    counted = np.delete(found.received, list(aside)) if aside else found.received
    most = roof(max(1e-4, float(np.nanmax(np.abs(counted), initial=0.0))))
    middle = bottom - _RISE / 2 if map.signed else bottom
    values = np.clip(_joined(found.received, cols, mean=False), -most, most)
    long = values / most * (_RISE / 2 if map.signed else _RISE)
    wide = plan.width / cols
    gap = 1.0 if wide >= 4 else 0.0
    shapes = [
        _box(plan.left + at * wide, middle - max(0.0, one), wide - gap, max(0.5, abs(one)))
        for at, one in enumerate(long)
        if abs(one) > 0
    ]
    sheet.shapes(shapes, inks.SOFT, 0.7)
    sheet.lines([[(plan.left, middle), (plan.left + plan.width, middle)]], inks.LINE)
    text = f"{'±' if map.signed else ''}{f'{most:g}' if most >= 0.01 else f'{most:.0e}'.replace('e-0', 'e−')}"
    sheet.text(plan.left - 5, bottom - _RISE + 4, text, SMALL, inks.SOFT, "right")
    sheet.text(plan.left - 5, bottom - 6, "receives", SMALL, inks.SOFT, "right")

    x, tall = plan.left + plan.width + _BESIDE, plan.height / rows
    gap = 1.0 if tall >= 4 else 0.0
    if spread:
        keys = max(1, int(map.allowed.max(initial=1)))
        scale = (_RUN - 1) / (math.log(keys) or 1.0)
        values = _joined(found.entropy, rows, mean=True) * scale
        sheet.shapes(
            [_box(x, plan.top + at * tall, one, tall - gap) for at, one in enumerate(values) if one > 0], inks.SOFT, 0.7
        )
        bound = np.log(np.maximum(1, map.allowed)) * scale
        line = [(x + bound[at], plan.top + (at + 0.5) * plan.pitch[0]) for at in range(plan.rows)]
        sheet.lines([line] if len(line) > 1 else [], inks.SOFT, 0.8)
        sheet.lines([[(x, plan.top), (x, plan.top + plan.height)]], inks.LINE)
        sheet.text(x, plan.top - 22, "entropy", SMALL, inks.SOFT)
        sheet.text(x, plan.top - 8, "0", SMALL, inks.SOFT)
        sheet.text(x + _RUN, plan.top - 8, f"{math.log(keys):.1f}", SMALL, inks.SOFT, "right")
        x += _RUN + _BESIDE
    if leaks:
        values = _joined(map.leak, rows, mean=False) * _LEAVES
        sheet.shapes(
            [_box(x, plan.top + at * tall, one, tall - gap) for at, one in enumerate(values) if one > 0], inks.SOFT, 0.7
        )
        sheet.lines([[(x, plan.top), (x, plan.top + plan.height)]], inks.LINE)
        sheet.text(x, plan.top - 22, "leaves", SMALL, inks.SOFT)
        sheet.text(x, plan.top - 8, "0", SMALL, inks.SOFT)
        sheet.text(x + _LEAVES, plan.top - 8, "1", SMALL, inks.SOFT, "right")


def _box(x: float, y: float, width: float, height: float) -> NDArray[Any]:
    return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])


def _labels(sheet: Sheet, plan: Plan, looking: Looking, queries: Sequence[str], keys: Sequence[str]) -> None:
    """As many labels as have room; where not all do, those that are there say where they stand."""
    right, size = plan.left - plan.beside, TEXT - 1
    pinned = {*looking.pinned, *looking.focus}
    tall, wide = plan.pitch
    step, places = ticks(plan.rows, tall, 13, 30)
    shown = [i for i in places if i in pinned or all(abs(i - one) * tall >= 13 for one in pinned)]
    room = right - 4
    for i in sorted({*shown, *pinned}):
        y = plan.top + (i + 0.5) * tall
        number = thousands(i) if step > 1 else ""
        label = fitted(queries[i], room - (width_of(number, SMALL) + 6 if number else 0), size)
        _token(sheet, right, y, label, size, looking.map.queries, i, "right", on=i in pinned)
        sheet.text(right - width_of(label, size, i in pinned) - 6, y, number, SMALL, inks.SOFT, "right")
    step, places = ticks(plan.cols, wide, 15, 30)
    base = plan.top - plan.above
    for j in places:
        x, number = plan.left + (j + 0.5) * wide + 3, thousands(j) if step > 1 else ""
        past = width_of(number, SMALL) + 5 if number else 0.0
        angle, label = math.radians(_SLANT), fitted(keys[j], _LABEL - past, size)
        sheet.text(x, base, number, SMALL, inks.SOFT, turn=_SLANT)
        x, y = x + past * math.cos(angle), base - past * math.sin(angle)
        _token(sheet, x, y, label, size, looking.map.keys, j, "left", turn=_SLANT)
    sheet.text(right, base - 18, "key →", SMALL, inks.SOFT, "right")
    sheet.text(right, base - 4, "query ↓", SMALL, inks.SOFT, "right")


def _token(
    sheet: Sheet,
    x: float,
    y: float,
    label: str,
    size: float,
    axis: Tokens,
    i: int,
    at: Side,
    *,
    on: bool = False,
    turn: float = 0.0,
) -> None:
    """A label as its token is: special ones are soft, generated ones underlined, those in focus stand out."""
    colour = inks.ACCENT if on else inks.SOFT if axis.special[i] else inks.INK
    sheet.text(x, y, label, size, colour, at, bold=on, turn=turn)
    if axis.generated and axis.generated[i] and not turn:
        wide = width_of(label, size, on)
        left = x - wide if at == "right" else x
        sheet.lines([[(left, y + 0.55 * size), (left + wide, y + 0.55 * size)]], colour, 0.8)


def _around(sheet: Sheet, plan: Plan, map: Looked) -> None:
    """Brackets of tokens that belong together, and lines where what was generated begins and ends."""
    tall, wide = plan.pitch
    brackets(sheet, map.queries, "right", plan.left - 6, lambda i: plan.top + i * tall)
    brackets(sheet, map.keys, "down", plan.top - plan.above + 18, lambda j: plan.left + j * wide)
    for i in boundaries(map.queries):
        y = plan.top + i * tall
        sheet.lines([[(plan.left, y), (plan.left + plan.width, y)]], inks.SOFT, 0.8, dash=(3, 3))
    for j in boundaries(map.keys):
        x = plan.left + j * wide
        sheet.lines([[(x, plan.top), (x, plan.top + plan.height)]], inks.SOFT, 0.8, dash=(3, 3))


def _notes(sheet: Sheet, plan: Plan, map: Looked, rows: int, cols: int, aside: Sequence[int], found: Margins) -> None:
    said = []
    tall, wide = -(-plan.rows // rows), -(-plan.cols // cols)
    if tall * wide > 1:
        said.append(f"A dot is the strongest of {tall} × {wide} weights.")
    stretch = plan.pitch[0] / plan.pitch[1]
    if not 0.67 <= stretch <= 1.5:
        said.append(f"Cells are drawn {'taller than wide' if stretch > 1 else 'wider than tall'}.")
    if aside:
        keys = labels_of(map.keys)
        said.append(
            ", ".join(f"“{keys[j]}” takes {weight_text(float(found.received[j]))}" for j in aside) + " of the weight."
        )
    if said:
        sheet.height += sheet.wide_text(sheet.height + 2, " ".join(said), colour=inks.SOFT) + 2
