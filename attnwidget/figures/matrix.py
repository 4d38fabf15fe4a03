"""The matrix as a figure: every head in small, layers down and heads across, averages along the margins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget import wire
from attnwidget.blocks import Block, unpack
from attnwidget.shown import is_difference

from . import inks
from .heatmap import painted
from .legends import Flow, ramp
from .looked import MASKED, PADDED, Looking
from .sheet import SMALL, Sheet, fitted
from .words import every, runs, thousands, value_text

_AXIS, _HEADER, _MARGIN = 24.0, 18.0, 6.0  # the numbers of layers, of heads; between heads and their averages
_LARGEST, _SMALLEST, _TALL = 88.0, 2.0, 490.0
_BADGE, _SHARED, _MEAN = 16.0, 15.0, 46.0  # how far a layer looks; shared keys; the mean of a sorted layer
_BAND = 15.0  # of layers that have no map
_GLYPH, _COARSE = 16.0, 8  # cells that are smaller carry a few marks
_MOST = 600_000  # cells of all thumbnails


@dataclass(frozen=True)
class Thumbs:
    """The small pictures of all heads: cells by code, and what the codes mean."""

    single: NDArray[Any]
    reduced: NDArray[Any]
    allowed: NDArray[Any]
    signed: bool
    most: float

    @classmethod
    def of(cls, block: Block, reduce: str) -> Thumbs:
        """Out of a block of kind "thumbs"."""
        signed = block.meta.get("signed") is True
        single, reduced, allowed = (block.arrays[name] for name in ("heads", reduce, "allowed"))
        return cls(single, reduced, allowed, signed, float(block.meta["vmax"]))

    def codes(self, layer: int | None, head: int | None) -> Any:
        """[row, column] of a head, or of an average."""
        layers, heads = self.single.shape[:2]
        if layer is not None and head is not None:
            return self.single[layer, head]
        return self.reduced[layer if layer is not None else layers + (heads if head is None else head)]

    def cells(self, codes: NDArray[np.uint8]) -> NDArray[Any]:
        """Weights and marks behind codes."""
        v = codes.astype(np.float64)
        root = (v - 125) / 125 if self.signed else v / 250
        values = self.most * np.sign(root) * root**2
        marks = np.select([codes == 255, codes == 254, codes == 253], [MASKED, PADDED, np.nan], 0.0)
        return np.where(codes > 250, marks, values).astype(np.float32)

    def pooled(self, codes: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
        """At most that many cells along each side; the strongest stands for what does not fit."""
        for axis in (0, 1):
            n = codes.shape[axis]
            if n <= most:
                continue
            # NaN before weights, by their size, before masked, before padded.
            far = np.abs(codes.astype(int) - 125) if self.signed else codes.astype(int)
            rank = np.where(codes == 253, 1000, np.where(codes == 255, -1, np.where(codes == 254, -2, far)))
            at = np.arange(most + 1) * n // most
            picks = [int(at[b]) + np.argmax(np.take(rank, range(at[b], at[b + 1]), axis), axis) for b in range(most)]
            codes = np.take_along_axis(codes, np.stack(picks, axis), axis)
        return codes


def thumbs_of(looking: Looking) -> Block:
    """The thumbnails of the part in view: those that a widget holds, where it does."""
    chosen, shown = looking.chosen, looking.shown
    difference = is_difference(shown) and chosen.side == "difference"
    if is_difference(shown) and not difference:
        shown = shown.a if chosen.side == "a" else shown.b
    part = shown.part(chosen.part)
    side = wire.side_for(part, _MOST)
    return unpack(wire.difference_thumbs(shown, part, side) if difference else wire.thumbs(shown, part, side)[1])


# ── where the heads are ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Grid:
    """Pixels of a cell and between cells; where rows begin, and where the margins are."""

    cell: float
    gap: float
    tops: list[float]
    left: float
    heads: int
    order: list[list[int]]
    sorted: bool

    def x(self, col: int) -> float:
        return self.left + col * (self.cell + self.gap) + (_MARGIN if col >= self.heads else 0)


def _scores(looking: Looking) -> NDArray[Any] | None:
    """The measure that heads are sorted by, [layer, head]; None where they stand as in the model."""
    name, chosen = looking.chosen.sort, looking.chosen
    if not name:
        return None
    own = chosen.measures.get(name, {})
    if chosen.part in own:
        return np.asarray(own[chosen.part], float)
    told, pieces = wire.answer(looking.shown, {"id": 0, "want": "measures", "part": chosen.part})
    if told["type"] == "error":
        raise ValueError(told["message"])
    found = next(one for one in unpack(b"".join(pieces)).meta["measures"] if one["name"] == name)
    scores = np.full((len(looking.part.layers), looking.part.heads), np.nan)
    for layer, values in enumerate(found["values"]):
        for head, value in enumerate(values or []):
            scores[layer, head] = np.nan if value is None else value
    return scores


def _sharing(part: Any) -> int:
    """How many heads share keys and values, where all layers agree; 0 where none do."""
    there = {(one.heads, one.kv_heads) for one in part.layers if one.heads}
    if len(there) != 1:
        return 0
    [(heads, shared)] = there
    return heads // shared if 0 < shared < heads and heads % shared == 0 else 0


def _reach(layer: Any) -> int | None:
    """How far a layer looks back; None for all the way."""
    mask = getattr(layer, "mask", None)
    return getattr(mask, "window", None) if mask is not None else getattr(layer, "window", None)


def _grid(sheet: Sheet, looking: Looking, scores: NDArray[Any] | None, badges: bool) -> _Grid:
    part = looking.part
    layers, heads = len(part.layers), part.heads
    order = [list(range(one.heads)) for one in part.layers]
    if scores is not None:
        ranked = np.where(np.isfinite(scores), scores, -np.inf)
        order = [np.argsort(-ranked[at, : len(some)], kind="stable").tolist() for at, some in enumerate(order)]
    absent = list(runs(-1 if one.heads else 0 for one in part.layers))
    bands = sum(max(_BAND, 2.0 * (stop - start)) + 3 for start, stop, _ in absent)
    rows = layers - sum(stop - start for start, stop, _ in absent)
    top = _SHARED if scores is None and _sharing(part) else 0.0
    left = _AXIS + (_BADGE if badges else 0) + 3
    right = _MEAN if scores is not None else 0.0
    across = (sheet.width - left - _MARGIN - 3 - right) / (heads + 1)
    pitch = min(across, max((_TALL - _HEADER - top - _MARGIN - bands) / (rows + 1), 13.0), _LARGEST + 3)
    gap = 3.0 if pitch >= 17 else 2.0 if pitch >= 11 else min(1.0, pitch / 6)
    cell = max(min(_SMALLEST, across), pitch - gap)
    at, tops = sheet.height + _HEADER + top + 3, []
    for layer in range(layers):
        run = next((one for one in absent if one[0] <= layer < one[1]), None)
        tops.append(at)
        if run is None:
            at += cell + gap
        else:
            at += max(_BAND, 2.0 * (run[1] - run[0])) / (run[1] - run[0]) + (gap if layer == run[1] - 1 else 0)
    return _Grid(cell, gap, [*tops, at + _MARGIN], left, heads, order, scores is not None)


def matrix(sheet: Sheet, looking: Looking) -> None:
    """Draws the matrix, from the sheet's height on."""
    part, reduce = looking.part, looking.chosen.reduce
    scores = _scores(looking)
    windows = [_reach(one) for one in part.layers if one.heads]
    badges = len(set(windows)) > 1
    thumbs = Thumbs.of(thumbs_of(looking), reduce)
    grid = _grid(sheet, looking, scores, badges)
    start = sheet.height
    _mosaic(sheet, looking, grid, thumbs, scores)
    _headers(sheet, looking, grid, scores, start)
    if badges:
        _badges(sheet, part, grid)
    for begin, stop, _ in runs(-1 if one.heads else 0 for one in part.layers):
        words = f"{part.layers[begin].absent}{f' ({begin} to {stop - 1})' if stop - begin > 1 else ''}"
        y = (grid.tops[begin] + grid.tops[stop] - (_MARGIN if stop == len(part.layers) else 0) - grid.gap) / 2
        sheet.text(grid.left, y, fitted(words, sheet.width - grid.left, SMALL), SMALL, inks.SOFT)
    _selected(sheet, looking, grid)
    sheet.height = grid.tops[-1] + grid.cell + 12
    _legend(sheet, looking, thumbs, scores, windows)


def _cells(grid: _Grid, part: Any) -> list[tuple[int | None, int | None, float, float]]:
    """Every head and every average: layer, head, and where its cell begins."""
    found: list[tuple[int | None, int | None, float, float]] = []
    for layer, heads in enumerate(grid.order):
        found += [(layer, head, grid.x(col), grid.tops[layer]) for col, head in enumerate(heads)]
        if heads:
            found.append((layer, None, grid.x(grid.heads), grid.tops[layer]))
    found += [(None, head, grid.x(head), grid.tops[-1]) for head in range(grid.heads)]
    return [*found, (None, None, grid.x(grid.heads), grid.tops[-1])]


def _mosaic(sheet: Sheet, looking: Looking, grid: _Grid, thumbs: Thumbs, scores: NDArray[Any] | None) -> None:
    """All pictures as one image, each of its dots a cell of one of them."""
    scale = looking.chosen.scale
    marks = max(2, min(_COARSE, math.floor(grid.cell / 2 + 0.5))) if grid.cell < _GLYPH else 10_000
    down, across = (min(n, marks) for n in thumbs.single.shape[2:])
    # As many dots of the image as the cells of one picture, times a whole number where a gap would be less than one.
    times = [max(1, math.ceil(grid.cell / grid.gap / n), math.ceil(1.5 * grid.cell / n)) for n in (down, across)]
    tall, wide = (n * k / grid.cell for n, k in zip((down, across), times, strict=True))  # dots of a pixel
    x0, y0 = grid.left, grid.tops[0]
    shape = (round((grid.tops[-1] + grid.cell - y0) * tall), round((grid.x(grid.heads) + grid.cell - x0) * wide), 3)
    image = np.full(shape, 255, np.uint8)
    there = [one.heads > 0 for one in looking.part.layers]
    over_all = thumbs.allowed[there].mean(0)
    first = thumbs.single.shape[2]
    flat = grid.cell < _GLYPH and scores is not None
    low, high = (0.0, 0.0) if scores is None else (float(np.nanmin(scores)), float(np.nanmax(scores)))
    bars = []
    for layer, head, x, y in _cells(grid, looking.part):
        codes = thumbs.pooled(thumbs.codes(layer, head), marks)
        allowed = over_all if layer is None else thumbs.allowed[layer]
        rows = ((np.arange(down) + 0.5) * first // down).astype(int)
        shade = "difference" if thumbs.signed else scale
        pixels = painted(thumbs.cells(codes), shade, scale, allowed[rows].astype(float))
        pixels[codes == 254] = (*inks.LINE.astype(int), 255)
        pixels[codes == 253] = (*inks.ACCENT.astype(int), 255)
        picture = pixels[..., :3]
        score = None if scores is None or layer is None or head is None else float(scores[layer, head])
        share = (
            None if score is None or not math.isfinite(score) else (score - low) / (high - low) if high > low else 1.0
        )
        if flat and layer is not None and head is not None:
            colour = inks.LINE if share is None else inks.ramp("linear")[int(255 * share + 0.5)]
            picture = np.broadcast_to(np.asarray(colour, np.uint8), picture.shape)
        least = looking.chosen.least
        if least is not None and score is not None and not score >= least:
            picture = (picture + (255.0 - picture) * 0.82).round().astype(np.uint8)
        at = round((y - y0) * tall), round((x - x0) * wide)
        big = np.repeat(np.repeat(picture, times[0], 0), times[1], 1)
        image[at[0] : at[0] + big.shape[0], at[1] : at[1] + big.shape[1]] = big[: shape[0] - at[0], : shape[1] - at[1]]
        if share is not None and not flat:
            bars.append((x, y + grid.cell, share))
    sheet.image(image, x0, y0, shape[1] / wide, shape[0] / tall)
    for x, y, share in bars:
        thick = max(0.8, grid.gap - 1)
        sheet.rect(x, y + 0.3, grid.cell, thick, inks.LINE)
        sheet.rect(x, y + 0.3, max(1.0, grid.cell * share), thick, inks.SOFT)


def _headers(sheet: Sheet, looking: Looking, grid: _Grid, scores: NDArray[Any] | None, start: float) -> None:
    part, reduce = looking.part, looking.chosen.reduce
    layers, pitch, cell = len(part.layers), grid.cell + grid.gap, grid.cell
    shared = _sharing(part) if scores is None else 0
    y = start + (_SHARED if shared else 0) + 8
    end = grid.x(grid.heads)
    for col in every(grid.heads, pitch, 30 if grid.sorted else 18):
        if grid.x(col) + 18 < end - max(0.0, 26 - cell):
            sheet.text(
                grid.x(col) + cell / 2, y, _ordinal(col + 1) if grid.sorted else str(col), SMALL, inks.SOFT, "center"
            )
    if cell < 30:
        sheet.text(end + cell, y, reduce, SMALL, inks.SOFT, "right")
    else:
        sheet.text(end + cell / 2, y, reduce, SMALL, inks.SOFT, "center")
    rows = [row for row in every(layers, pitch, 13) if part.layers[row].heads]
    for row in rows:
        sheet.text(grid.left - 8, grid.tops[row] + cell / 2, str(row), SMALL, inks.SOFT, "right")
    sheet.text(grid.left - 8, grid.tops[-1] + cell / 2, "x̄" if reduce == "mean" else reduce, SMALL, inks.SOFT, "right")
    if scores is not None:
        title = fitted(looking.chosen.sort.replace("_", " "), _MEAN, SMALL)
        sheet.text(end + cell + 6, y, title, SMALL, inks.SOFT)
        for row in rows:
            mean = np.nanmean(scores[row]) if np.isfinite(scores[row]).any() else math.nan
            if math.isfinite(mean):
                sheet.text(end + cell + 6, grid.tops[row] + cell / 2, value_text(float(mean)), SMALL, inks.SOFT)
    if not shared:
        return
    sheet.text(0, start + 6, "K/V", SMALL, inks.SOFT)
    for n, first in enumerate(range(0, grid.heads, shared)):
        x0, x1 = grid.x(first), grid.x(first + shared - 1) + cell
        sheet.lines([[(x0, start + 15), (x0, start + 12.5), (x1, start + 12.5), (x1, start + 15)]], inks.SOFT, 0.8)
        if x1 - x0 >= 16:
            sheet.text((x0 + x1) / 2, start + 6, f"K/V {n}" if x1 - x0 >= 50 else str(n), SMALL, inks.SOFT, "center")


def _ordinal(n: int) -> str:
    return f"{n}{'th' if 10 < n % 100 < 14 else ('th', 'st', 'nd', 'rd', *('th',) * 6)[n % 10]}"


def _badges(sheet: Sheet, part: Any, grid: _Grid) -> None:
    """How far each layer looks back: L or G, or a mark where there is no room for letters."""
    letters = grid.cell + grid.gap >= 13
    wide, tall = (13.0, 12.0) if letters else (8.0, grid.cell - 1)
    for row, layer in enumerate(part.layers):
        if not layer.heads:
            continue
        far, y = _reach(layer), grid.tops[row] + grid.cell / 2
        sheet.rect(1, y - tall / 2, wide, tall, None if far is None else inks.SOFT, inks.SOFT, 0.8)
        if letters:
            sheet.text(
                1 + wide / 2, y, "G" if far is None else "L", SMALL, inks.SOFT if far is None else inks.GROUND, "center"
            )


def _selected(sheet: Sheet, looking: Looking, grid: _Grid) -> None:
    """Frames around the heads that are looked at; of several in colours of their own, numbered."""
    chosen = looking.chosen
    wanted: Sequence[tuple[int | None, int | None]] = chosen.heads or [(chosen.layer, chosen.head)]
    apart = len(looking.strands) > 1 and chosen.view == "arcs"
    for n, at in enumerate(wanted):
        for layer, head, x, y in _cells(grid, looking.part):
            if (layer, head) != tuple(at):
                continue
            colour = inks.SEVERAL[n] if apart else inks.ACCENT
            sheet.rect(x - 1.5, y - 1.5, grid.cell + 3, grid.cell + 3, line=colour, thick=2.0)
            if apart and grid.cell >= 12:
                sheet.rect(x - 8, y - 8, 14, 14, colour, corner=7)
                sheet.text(x - 1, y - 1, str(n + 1), SMALL - 1, inks.GROUND, "center", bold=True)


def _legend(
    sheet: Sheet, looking: Looking, thumbs: Thumbs, scores: NDArray[Any] | None, windows: Sequence[int | None]
) -> None:
    flow = Flow(sheet)
    shade = "difference" if thumbs.signed else looking.chosen.scale
    ramp(flow, shade, *inks.LEGENDS[shade])
    if scores is not None:
        low, high = value_text(float(np.nanmin(scores))), value_text(float(np.nanmax(scores)))
        flow.words(f"sorted by {looking.chosen.sort.replace('_', ' ')}, {low} to {high}")
    local = sorted({one for one in windows if one is not None})
    if local:
        words = " · ".join(map(thousands, local))
        every_ = len(set(windows)) == 1
        flow.words(f"every layer looks back {words} tokens" if every_ else f"L local, {words} tokens · G global")
    flow.done()
