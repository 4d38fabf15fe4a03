"""The text, the image and the table as figures: tokens tinted by weights, patches painted, the strongest edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget.tokens import Tokens

from . import inks
from .heatmap import painted
from .legends import Flow, legend, ramp
from .looked import Cells, Edges, Looking, carried, is_weight, summed
from .sheet import SMALL, TEXT, Sheet, fitted, width_of
from .words import counted, delta_text, fixed, labels_of, named, thousands, weight_text

_EVEN = 4.0  # the end of the scale of patches is at least this many times the uniform weight
_NUMBERED, _LEAST = 5, 0.015  # tokens whose numbers are named, and from which weight on
_STEPS = 40  # of a tint
_LINE = 21.0  # of a text
_TALLEST = 560.0  # of a picture
_LISTED = 40  # edges in a table


@dataclass(frozen=True)
class _Line:
    """Which tokens have weights, what these are in words, and how many keys the row may see."""

    side: str
    cells: Cells
    words: str
    allowed: NDArray[Any]


def _line(looking: Looking) -> _Line:
    """The row, or the column, of what is in focus; else what each token receives on average."""
    map, focus = looking.map, looking.focus
    labels = [
        named(axis.labels, focus[0]) if len(focus) == 1 else f"{len(focus)} pinned tokens"
        for axis in (map.queries,)
        if focus
    ]
    if focus and looking.same and looking.chosen.direction == "receives":
        columns = map.cells[:, focus].T.copy()
        columns[:, looking.asking :] = -8.0
        return _Line("query", summed(columns), f"What attends to {labels[0]}", map.allowed.astype(float))
    if focus:
        verb = "attends to" if len(focus) == 1 else "attend to, added up"
        allowed = np.full(map.shape[1], float(map.allowed[focus[0]]))
        return _Line("key", summed(map.rows(focus)), f"What {labels[0]} {verb}", allowed)
    total, queries, marks = np.zeros(map.shape[1]), 0, np.full(map.shape[1], -np.inf)
    for _, cells, _ in map.pieces():
        there = is_weight(cells)
        total += np.where(there, cells, 0.0).sum(0)
        queries += int(there.any(1).sum())
        marks = np.maximum(marks, np.where(there, 0.0, cells).max(0))
    cells = np.where(marks == 0, total / max(1, queries), marks).astype(np.float32)
    words = f"What each receives, mean over all {counted(queries, 'query token')}"
    return _Line("key", cells, words, np.full(map.shape[1], float(map.allowed[-1])))


def _written(weight: float, signed: bool, small: bool) -> str:
    if signed:
        return delta_text(weight)
    return f"{weight:.2g}" if small and 1e-4 <= weight < 0.01 else weight_text(weight)


def _strongest(cells: Cells, without: frozenset[int]) -> list[int]:
    size = np.where(is_weight(cells), np.abs(cells), 0.0)
    size[list(without)] = 0.0
    return [int(i) for i in np.argsort(-size, kind="stable")[:_NUMBERED] if size[i] >= _LEAST]


def _said(
    sheet: Sheet, looking: Looking, line: _Line, axis: Tokens, first: Sequence[str], without: frozenset[int]
) -> None:
    """What is shown, and the numbers of the few that count most."""
    at = "on" if line.side == "key" else "from"
    some = _strongest(line.cells, without)
    told = [
        *first,
        *(
            f"{_written(float(line.cells[i]), looking.map.signed, bool(without))} {at} {named(axis.labels, i)}"
            for i in some
        ),
    ]
    text = line.words + (f": {', '.join(told)}." if told else ".")
    sheet.height += sheet.wide_text(sheet.height, text, colour=inks.INK) + 8


# ── text ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def text(sheet: Sheet, looking: Looking) -> None:
    """Draws the text, tinted, from the sheet's height on; of two texts the one that has the weights is tinted."""
    line, map = _line(looking), looking.map
    _said(sheet, looking, line, map.keys if line.side == "key" else map.queries, [], frozenset())
    if looking.same:
        _prose(sheet, looking, map.keys, line)
    else:
        for side, axis, words in (
            ("query", map.queries, "queries: what looks"),
            ("key", map.keys, "keys: what is looked at"),
        ):
            sheet.text(0, sheet.height + 8, words, SMALL, inks.SOFT)
            sheet.height += 20
            _prose(sheet, looking, axis, line if side == line.side else None)
            sheet.height += 6
    _tinted(sheet, looking)


def _tints(looking: Looking) -> list[tuple[inks.Colour, list[float]]]:
    """For what is more, and for what is less: a colour and how much of it, in steps."""
    signed = looking.map.signed
    colours = [inks.RAMP[3] if signed else inks.ACCENT, inks.LESS[1]]
    return [
        (one, [0.0, *(0.03 + (inks.strongest_tint(one) - 0.03) * n / _STEPS for n in range(1, _STEPS + 1))])
        for one in colours
    ]


def _ground(looking: Looking, share: float, tints: list[tuple[inks.Colour, list[float]]]) -> inks.Colour | None:
    """The ground of a token at a share of the ramp; None where it has none."""
    signed, scale = looking.map.signed, looking.chosen.scale
    middle = 0.5 if signed or scale == "uniform" else 0.0
    away = (share - middle) / (1 - middle)
    if away < 0 and not signed:
        return None  # what is below uniform has no tint
    colour, alphas = tints[int(away < 0)]
    step = int(abs(away) * _STEPS + 0.5)
    return inks.over(colour, alphas[step]) if step else None


def _shares(looking: Looking, weights: NDArray[Any], allowed: NDArray[Any]) -> NDArray[Any]:
    if looking.map.signed:
        return inks.signed_level(weights, looking.chosen.scale)
    return inks.level(np.maximum(0.0, weights), looking.chosen.scale, allowed)


def _prose(sheet: Sheet, looking: Looking, axis: Tokens, line: _Line | None) -> None:
    """Tokens in reading order, with the line breaks the text has."""
    labels, before, tints = labels_of(axis), axis.before, _tints(looking)
    shares = (
        None
        if line is None
        else _shares(looking, np.where(is_weight(line.cells), line.cells, 0.0).astype(float), line.allowed)
    )
    focus = {*looking.focus, *looking.pinned}
    x, y = 0.0, sheet.height + _LINE / 2
    for i, label in enumerate(labels):
        gap = (" " if i else "") if before is None else before[i]
        if "\n" in gap and x > 0:
            x, y = 0.0, y + _LINE * min(2, gap.count("\n"))
        elif (gap or axis.special[i] or (i and axis.special[i - 1])) and x > 0:
            x += width_of(" ", TEXT)
        label = fitted(label, sheet.width - 10, TEXT)
        wide = width_of(label, TEXT, i in focus) + (8 if axis.special[i] else 0)
        if x > 0 and x + wide > sheet.width:
            x, y = 0.0, y + _LINE
        fill = None
        if line is not None and shares is not None and is_weight(line.cells[i]):
            fill = _ground(looking, float(shares[i]), tints)
        edge = inks.ACCENT if i in focus else inks.over(inks.SOFT, 0.45) if axis.special[i] else None
        if fill is not None or edge is not None:
            sheet.rect(x, y - 9, wide, 18, fill, edge, 1.0, corner=3)
        later = looking.moment is not None and i > looking.moment
        sheet.text(x + (4 if axis.special[i] else 0), y, label, TEXT, inks.SOFT if later else inks.INK, bold=i in focus)
        x += wide
        if "⏎" in label:
            x, y = 0.0, y + _LINE
    sheet.height = y + _LINE / 2 + 4


def _tinted(sheet: Sheet, looking: Looking) -> None:
    """The legend of tints."""
    shade = "difference" if looking.map.signed else looking.chosen.scale
    low, high, name = inks.LEGENDS[shade]
    flow, tints = Flow(sheet), _tints(looking)
    grounds = [_ground(looking, n / 63, tints) for n in range(64)]
    pixels = np.array([inks.GROUND if one is None else one for one in grounds]).round().astype(np.uint8)
    ramp(flow, shade, low, high, name, pixels)
    flow.done()


# ── image ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def patches_of(axis: Tokens) -> list[int] | None:
    """The token of each patch, in reading order; None where there are none."""
    if axis.grid is None:
        return None
    count = axis.grid[0] * axis.grid[1]
    if axis.image:
        found = [i for i, flag in enumerate(axis.image) if flag]
        return found if len(found) == count else None
    start = axis.first_patch if axis.first_patch is not None else 0 if len(axis) == count else None
    return None if start is None or start + count > len(axis) else list(range(start, start + count))


def image(sheet: Sheet, looking: Looking) -> None:
    """Draws the patches over their image, from the sheet's height on.

    Raises:
        ValueError: what has the weights is no image.
    """
    line, map = _line(looking), looking.map
    axis = map.keys if line.side == "key" else map.queries
    patches = patches_of(axis)
    if patches is None or axis.grid is None:
        raise ValueError("There are no patches of an image here. view='text' and view='heatmap' show these tokens.")
    cells = line.cells[patches].reshape(axis.grid)
    there = np.where(is_weight(cells), cells, 0.0).astype(float)
    signed, scale = map.signed, looking.chosen.scale
    ranged = float(np.abs(there).max()) > 0 and (signed or scale in ("linear", "sqrt"))
    most = min(1.0, max(float(np.abs(there).max()), 0.0 if signed else _EVEN / map.shape[1])) if ranged else 1.0
    small = frozenset(patches)
    first = f"{_written(float(there.sum()), signed, True)} {'on' if line.side == 'key' else 'from'} the picture"
    _said(sheet, looking, line, axis, [first], small)

    rows, cols = axis.grid
    picture = axis.picture
    ratio = rows / cols if picture is None else picture.shape[0] / picture.shape[1]
    wide = min(sheet.width, _TALLEST / ratio)
    box = ((sheet.width - wide) / 2, sheet.height, wide, wide * ratio)
    shade = "difference" if signed else scale
    scaled = np.where(is_weight(cells), cells / (most if signed or scale != "uniform" else 1.0), cells).astype(
        np.float32
    )
    pixels = painted(scaled, shade, scale, line.allowed[patches].reshape(rows, cols)[0, 0])
    if picture is not None:
        sheet.pictured = True
        sheet.image(np.asarray(picture, np.uint8), *box)
        share = _shares(looking, scaled.astype(float), np.asarray(line.allowed[patches[0]]))
        far = np.abs(2 * share - 1) if signed or scale == "uniform" else share
        pixels[..., 3] = np.where(is_weight(cells), np.round(255 * 0.92 * far**1.4), 0).astype(np.uint8)
    sheet.image(pixels, *box)
    sheet.rect(*box, line=inks.LINE, thick=0.8)
    for query in looking.focus:
        if query in small:
            row, col = divmod(patches.index(query), cols)
            sheet.rect(
                box[0] + col * wide / cols,
                box[1] + row * box[3] / rows,
                wide / cols,
                box[3] / rows,
                line=inks.ACCENT,
                thick=2.0,
            )
    sheet.height += box[3] + 12
    legend(
        sheet,
        shade,
        high=None if most == 1 else f"{'+' if signed else ''}{most:.2g}",
        low=f"−{most:.2g}" if signed and most < 1 else None,
    )


# ── table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rank(row: Cells, key: int) -> tuple[int, int]:
    """Which place a key has among those of a row that have a weight, from 1; and how many have one."""
    size = np.where(is_weight(row), np.abs(row), -1.0)
    before = (size > size[key]) | ((size == size[key]) & (np.arange(len(row)) < key))
    return 1 + int(before.sum()), int(is_weight(row).sum())


def _decimals(weight: float, signed: bool) -> str:
    """A weight with four decimals; of a difference, with its sign."""
    size = abs(weight)
    told = "<0.0001" if 0 < size < 0.00005 else fixed(size, 4)
    return f"−{told}" if weight < 0 else f"+{told}" if signed and weight > 0 else told


def table(sheet: Sheet, looking: Looking) -> None:
    """Draws the strongest edges as a table: of what is in focus, else of all queries."""
    map, share = looking.map, looking.chosen.threshold
    best, count, listed = Edges.joined([]), 0, 0
    rows: Sequence[tuple[int, Cells]] = [(query, map.rows([query])) for query in looking.focus]
    for at, cells in rows or [(at, cells) for at, cells, _ in map.pieces()]:
        cells = cells if rows else cells[: max(0, looking.asking - at)]
        count += len(carried(cells, share))
        edges = carried(cells, 1.0, at) if rows else _all(cells, at)
        listed += len(edges)
        some = Edges.joined([best, edges])
        best = some.where(np.lexsort((some.key, some.query, -np.abs(some.weight)))[:_LISTED])
    focus = looking.focus
    who = named(map.queries.labels, focus[0]) if len(focus) == 1 else counted(len(focus), "pinned token")
    whose = f"the weight of {who}" if focus else "each row"
    carry = f"{'carries' if count == 1 else 'carry'} {fixed(share * 100, 0)} % of"
    told = f"{counted(count, 'edge')} {'with any weight in' if share == 1 else carry} {whose}; "
    rest = f"the strongest {len(best)} of {thousands(listed)} are" if listed > len(best) else counted(listed, "edge")
    told += f"{rest} listed."
    sheet.height += sheet.wide_text(sheet.height, told, colour=inks.SOFT) + 8
    queries, keys = labels_of(map.queries), labels_of(map.keys)
    ends = [0.0, sheet.width * 0.35, sheet.width * 0.8, sheet.width]
    y = sheet.height + 8
    for x, name in zip(ends, ("query", "key", "weight", "rank in row"), strict=True):
        sheet.text(x, y, name, SMALL, inks.SOFT, "left" if name in ("query", "key") else "right")
    sheet.lines([[(0, y + 10), (sheet.width, y + 10)]], inks.SOFT, 0.8)
    y += 12
    for query, key, weight in zip(best.query.tolist(), best.key.tolist(), best.weight.tolist(), strict=True):
        y += 17
        _place(sheet, 0.0, y - 8, queries[query], query, ends[1] - 8)
        _place(sheet, ends[1], y - 8, keys[key], key, ends[2] - ends[1] - 54)
        sheet.text(ends[2], y - 8, _decimals(weight, map.signed), SMALL, inks.INK, "right")
        rank, of = _rank(map.rows([query])[0], key)
        sheet.text(ends[3], y - 8, f"{rank} of {of}", SMALL, inks.SOFT, "right")
        sheet.lines([[(0, y), (sheet.width, y)]], inks.LINE, 0.6)
    sheet.height = y + 8


def _all(cells: Cells, at: int) -> Edges:
    """Every edge of some rows that has any weight."""
    row, key = np.nonzero(is_weight(cells) & (cells != 0))
    return Edges(row + at, key, cells[row, key].astype(float), np.zeros(len(row), int))


def _place(sheet: Sheet, x: float, y: float, label: str, i: int, room: float) -> None:
    """A token with its position."""
    number = str(i)
    label = fitted(label, room - width_of(number, SMALL) - 8, TEXT)
    sheet.text(x, y, label, TEXT)
    sheet.text(x + width_of(label, TEXT) + 6, y, number, SMALL, inks.SOFT)
