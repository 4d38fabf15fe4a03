"""Arcs as a figure: an edge for every weight that counts, of one map or of a few heads, and the tokens in focus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attnwidget.tokens import Tokens

from . import inks
from .chips import Drawing, Row, in_columns, marker, numbers_of, on_line
from .legends import Flow, effect_legend, lane_of
from .looked import LEAK, LEGIBLE, Edges, Looking, Picked, carried, is_weight, picked, summed
from .places import Places, columns, line, tapers
from .sheet import SMALL, Sheet, width_of
from .words import counted, labels_of, thousands, weight_text

_DASHES: Sequence[tuple[float, ...]] = ((), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4), (1, 4))
_LESS = (6.0, 4.0)
_FAINT, _MARKED, _THIN = 0.002, 0.02, 0.01  # as in js/src/strands.ts
_WIDEST, _NARROW = 7.5, 0.38


def arcs(sheet: Sheet, looking: Looking) -> None:
    """Draws the arcs, from the sheet's height on."""
    found = picked(looking)
    drawing = Drawing(sheet, looking, _placed(sheet, looking))
    focus = _focused(looking)
    _hairs(drawing, found.edges, faint=bool(looking.focus))
    for query in looking.pinned:
        if query not in looking.focus:
            _glow(drawing, _of_rows(looking, [query])[0], 0.3)
    if focus is not None:
        _glow(drawing, focus[0], 1.0)
    rows = None if focus is None else focus[1]
    if drawing.places.line:
        on_line(drawing, rows)
    else:
        in_columns(drawing, rows)
    sheet.height += drawing.places.height + (8 if drawing.places.line else 26)
    _legend(drawing)
    _said(drawing, found)


# ── where things are ─────────────────────────────────────────────────────────────────────────────────────────────────


def _placed(sheet: Sheet, looking: Looking) -> Places:
    map, count = looking.map, len(looking.strands)
    if looking.chosen.arrangement == "line":
        return line(looking, sheet.width, sheet.height, 15.0 * count + 3 if looking.focus else 0.0)
    numbers = [40.0 if (map.leak > LEAK).any() else 0.0, numbers_of(looking)]
    most = max(48.0, min(sheet.width * 0.3, (sheet.width - sum(numbers) - min(150.0, sheet.width / 4)) / 2))
    sides = [min(most, _widest(axis) + 18 + lane_of(axis)) for axis in (map.queries, map.keys)]
    wide = max(60.0, min(460.0, sheet.width - sum(numbers) - sum(sides)))
    free = max(0.0, sheet.width - wide - sum(numbers) - sum(sides)) / 2
    left = free + numbers[0] + sides[0]
    outer = (free, left + wide + sides[1] + numbers[1])
    return columns(looking, left + 2, left + wide - 2, outer, sheet.height + 18)


def _widest(axis: Tokens) -> float:
    longest = sorted(labels_of(axis), key=len, reverse=True)[:60]
    return max(24.0, min(240.0, max((width_of(one) for one in longest), default=0.0))) + 10


# ── edges ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_rows(looking: Looking, queries: Sequence[int]) -> tuple[Edges, list[Row]]:
    """The edges of some queries, strongest first: of one, or of several to the keys that count in their sum."""
    found, told = [], []
    for strand, (_, map) in enumerate(looking.strands):
        rows = map.rows(queries)
        row = summed(rows)
        keys = carried(row[None], looking.chosen.threshold, strand=strand)
        told.append(Row(row, frozenset(keys.key.tolist())))
        if len(queries) == 1:
            found.append(Edges(np.full(len(keys), queries[0]), keys.key, keys.weight, keys.strand))
            continue
        for query, cells in zip(queries, rows, strict=True):
            weight = cells[keys.key].astype(float)
            some = Edges(np.full(len(keys), query), keys.key, weight, keys.strand)
            found.append(some.where(is_weight(weight) & (np.abs(weight) > _FAINT)))
    return Edges.joined(found), told


def _focused(looking: Looking) -> tuple[Edges, list[Row]] | None:
    return _of_rows(looking, looking.focus) if looking.focus else None


def _groups(drawing: Drawing, edges: Edges) -> list[tuple[Edges, inks.Colour, bool]]:
    """Edges that look alike, weakest first: with their colour, and whether they are dashed because they are less."""
    effects = drawing.effects
    if effects is not None:
        found = []
        for at in range(len(edges))[::-1]:
            one = edges.where(np.array([at]))
            share = float(effects.shares[one.query[0], one.key[0]])
            reaches = bool(effects.reach[one.query[0]])
            weight = one.weight if reaches else np.array([_THIN])
            one = Edges(one.query, one.key, weight, one.strand)
            found.append((one, inks.effect_colour(share) if reaches else inks.SOFT, share < 0))
        return found
    made = []
    for strand in range(len(drawing.looking.strands)):
        for sign in (-1, 1):
            some = edges.where((edges.strand == strand) & (np.sign(edges.weight) == sign))
            colour = (
                inks.SEVERAL[strand] if drawing.several else inks.signed_colour(sign) if drawing.signed else inks.ACCENT
            )
            made.append((some.where(np.arange(len(some))[::-1]), colour, sign < 0))
    return made


def _hairs(drawing: Drawing, edges: Edges, *, faint: bool) -> None:
    """All edges, thin, and thinner at the key."""
    pale = min(1.0, (120 / max(1, len(edges))) ** 0.4) * (0.7 if faint else 1.0)
    plain = not (drawing.several or drawing.signed or drawing.effects)
    for some, colour, less in _groups(drawing, edges):
        if not len(some):
            continue
        alpha = pale * (0.16 + 0.6 * np.sqrt(np.minimum(1.0, np.abs(some.weight))))
        curves, ink = drawing.curves(some), inks.SOFT if plain else colour
        dash = _DASHES[some.strand[0]] if drawing.several else _LESS if less else ()
        if dash:
            drawing.sheet.curves(curves, ink, 0.9, alpha, dash)
        else:
            drawing.sheet.shapes(tapers(curves, np.full(len(curves), 1.1), 0.4), ink, alpha)


def _glow(drawing: Drawing, edges: Edges, alpha: float) -> None:
    """Edges as tapers, wide at the query and narrow at the key."""
    edges = edges.where(np.arange(min(len(edges), LEGIBLE)))
    widest = 5.0 if drawing.several else _WIDEST
    for some, colour, less in _groups(drawing, edges):
        root = np.sqrt(np.minimum(1.0, np.abs(some.weight)))
        curves, pale = drawing.curves(some), alpha * (0.3 + 0.65 * root)
        thin = root < 0.12
        drawing.sheet.curves(curves[thin], colour, 1.0, pale[thin], (4, 3) if less else None)
        wide = 2 * (0.6 + widest * root[~thin] / 2)
        for curve, width, one in zip(curves[~thin], wide, pale[~thin], strict=True):
            shapes = tapers(curve[None], np.array([width]), _NARROW, (9, 5) if less else None)
            drawing.sheet.shapes(shapes, colour, np.full(len(shapes), one))
        if drawing.several:
            for curve, weight in zip(curves, some.weight, strict=True):
                if abs(weight) >= _MARKED:
                    marker(drawing.sheet, int(some.strand[0]), curve[6], curve[7], 7.0, colour)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _legend(drawing: Drawing) -> None:
    sheet, looking = drawing.sheet, drawing.looking
    if drawing.effects is not None:
        effect_legend(sheet, drawing.effects, more=["dashed: lowers"])
        return
    if not (drawing.several or drawing.signed):
        return
    flow = Flow(sheet)
    samples: list[tuple[str, int, float]] = []
    if drawing.several:
        samples += [
            (f"layer {head[0]} · head {head[1]}", n, 0.4) for n, (head, _) in enumerate(looking.strands) if head
        ]
    if drawing.signed:
        a, b = looking.shown.names
        samples += [(f"more in {a} than in {b}", 0, 0.4), ("less", 0, -0.4)]
    for words, strand, weight in samples:
        x, y = flow.room(44 + width_of(words, SMALL))
        curve = np.array([[x, y, x + 10, y, x + 20, y, x + 30, y]])
        colour = inks.SEVERAL[strand] if drawing.several else inks.signed_colour(weight)
        sheet.shapes(
            tapers(curve, np.array([1.2 + 6 * abs(weight) ** 0.5]), _NARROW, (9, 5) if weight < 0 else None), colour
        )
        if drawing.several:
            marker(sheet, strand, x + 31, y, 7.0, colour)
        sheet.text(x + 40, y, words, SMALL, inks.SOFT)
    flow.done()


def edges_text(found: Picked, share: float, signed: bool) -> str:
    """How many edges carry the chosen share of each row; of too many, what the others carry."""
    count, drawn = found.count, len(found.edges)
    carry = "carries" if count == 1 else "carry"
    whose = "what differs" if signed else "each row’s weight"
    what = f" that {carry} {round(share * 100)} % of {whose}" if share < 1 else ""
    if drawn == count:
        much = f"{round(share * 100)} %" if share < 1 else "all"
        return f"{counted(count, 'edge')} {carry} {much} of {whose}."
    rest = count - drawn
    return (
        f"The strongest {thousands(drawn)} of the {counted(count, 'edge')}{what}; the other {thousands(rest)} "
        f"{'carries' if rest == 1 else 'carry'} {weight_text(found.left)} of a row on average."
    )


def _said(drawing: Drawing, found: Picked) -> None:
    sheet, looking, places = drawing.sheet, drawing.looking, drawing.places
    said = []
    if places.same:
        ahead = bool((found.edges.key > found.edges.query).any())
        said.append(f"Above: back to earlier tokens{', below: ahead to later ones' if ahead else ''}.")
    said.append(edges_text(found, looking.chosen.threshold, drawing.signed))
    left = 0 if not looking.focus else len(_of_rows(looking, looking.focus)[0]) - LEGIBLE
    if left > 0:
        said.append(f"In focus the strongest {LEGIBLE} of {counted(left + LEGIBLE, 'edge')} are drawn.")
    sheet.height += sheet.wide_text(sheet.height + 2, " ".join(said), colour=inks.SOFT) + 2
