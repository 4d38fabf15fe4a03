"""What stands along arcs: tokens as chips, the weights beside them, and the signs of heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attnwidget.tokens import Tokens

from . import inks
from .legends import brackets, lane_of
from .looked import LEAK, Cells, Edges, Effects, Looking, is_weight
from .places import Array, Places
from .sheet import SMALL, TEXT, Sheet, Side, fitted, width_of
from .words import boundaries, delta_text, labels_of, signed_text, thousands, weight_text


@dataclass(frozen=True)
class Drawing:
    """What all that is drawn here goes by."""

    sheet: Sheet
    looking: Looking
    places: Places

    @property
    def several(self) -> bool:
        return len(self.looking.strands) > 1

    @property
    def signed(self) -> bool:
        return self.looking.map.signed

    @property
    def effects(self) -> Effects | None:
        return self.looking.effects

    def curves(self, edges: Edges) -> Array:
        count = len(self.looking.strands)
        shift = (edges.strand - (count - 1) / 2) * min(4.0, 15 / count)
        if self.several and not self.places.line:
            shift *= min(1.0, min(self.places.pitch) / 22)
        return self.places.curves(edges.query, edges.key, shift)


@dataclass(frozen=True)
class Row:
    """What the queries in focus give by way of one strand, added up; and the keys that carry the chosen share of it."""

    cells: Cells
    told: frozenset[int]


def numbers_of(looking: Looking) -> float:
    """The room of the numbers beside keys."""
    count = len(looking.strands)
    if not looking.focus:
        return 0.0
    return 104.0 if looking.effects else 46.0 * count if count <= 3 else 7.0 * count + 52


_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 25)), np.sin(np.linspace(0, 2 * np.pi, 25))], 1)
_PLUS = (
    np.array(
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    )
    / 3
)
_SHAPES = (
    0.55 * _CIRCLE, 0.5 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    0.62 * np.array([(0, -1), (1, 0.8), (-1, 0.8)]), 0.72 * np.array([(0, -1), (1, 0), (0, 1), (-1, 0)]),
    0.62 * np.array([(0, 1), (1, -0.8), (-1, -0.8)]), 0.66 * _PLUS,
)  # fmt: skip


def marker(sheet: Sheet, which: int, x: float, y: float, size: float, colour: inks.Colour) -> None:
    """One of six signs that are told apart by their shape: ● ■ ▲ ◆ ▼ ✚."""
    sheet.shapes([_SHAPES[which] * size * 0.8 + [x, y]], colour)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Chip:
    """How a token stands there."""

    label: str
    fill: inks.Colour | None
    on: bool
    bold: bool
    off: bool
    later: bool


def _chips(drawing: Drawing, axis: Tokens, asks: bool, rows: Sequence[Row] | None) -> list[_Chip]:
    looking = drawing.looking
    labels, found = labels_of(axis), []
    both = drawing.places.same
    on = {*looking.pinned, *looking.focus} if asks or both else set()
    told = frozenset().union(*(row.told for row in rows)) if rows and (not asks or both) else frozenset()
    dark = (
        {i for i in range(len(labels)) if looking.map.allowed[i] == 0}
        if asks
        else set(np.flatnonzero(looking.map.padding))
    )
    there = len(labels)
    if looking.moment is not None and (asks or looking.same):
        there = looking.moment + (0 if asks else 1)
    for i, label in enumerate(labels):
        fill = None
        if i in told and rows is not None and not drawing.several:
            weight = float(rows[0].cells[i])
            if drawing.effects is not None:
                weight = float(drawing.effects.shares[looking.focus, i].sum())
            accent = inks.signed_colour(weight) if drawing.signed or drawing.effects else inks.ACCENT
            fill = inks.tint(abs(weight), accent)
        elif i in on:
            fill = inks.over(inks.ACCENT, 0.1)
        later = i >= there and i != looking.moment
        found.append(_Chip(label, fill, i in on, i in on or i in told, i in dark, later))
    return found


def _chip(
    sheet: Sheet,
    axis: Tokens,
    i: int,
    chip: _Chip,
    x: float,
    y: float,
    room: float,
    high: float,
    at: Side,
    turn: float = 0.0,
) -> float:
    """Draws a token at (x, y); how wide it is."""
    label = fitted(chip.label, room, TEXT, chip.bold)
    wide = width_of(label, TEXT, chip.bold)
    left = x - wide if at == "right" else x - wide / 2 if at == "center" else x
    colour = inks.SOFT if chip.off or chip.later or (axis.special[i] and not chip.bold) else inks.INK
    if not turn:
        box = (left - 5, y - high / 2, wide + 10, high)
        special = inks.over(inks.SOFT, 0.45) if axis.special[i] else None
        edge = inks.ACCENT if chip.on else special
        if chip.fill is not None or edge is not None:
            sheet.rect(*box, chip.fill, edge, 1.0, corner=min(5.0, high / 3))
    elif chip.fill is not None or chip.on:
        tall = min(14.0, max(6.0, high))
        top = y - 3 if at == "right" else y - wide - 3
        sheet.rect(x - tall / 2, top, tall, wide + 6, chip.fill, inks.ACCENT if chip.on else None, 1.0, corner=3)
    sheet.text(x, y, label, TEXT, colour, at, bold=chip.bold, italic=chip.off, turn=turn)
    if axis.generated and axis.generated[i] and not turn:
        sheet.lines([[(left, y + 0.55 * TEXT), (left + wide, y + 0.55 * TEXT)]], colour, 0.8)
    return wide


def _matter(drawing: Drawing, chips: Sequence[_Chip], rows: Sequence[Row] | None) -> list[int]:
    """Tokens that stand out: those in focus, then keys by their weight."""
    size = np.zeros(len(chips))
    for row in rows or ():
        if len(row.cells) == len(size):
            size = np.maximum(size, np.where(is_weight(row.cells), np.abs(row.cells), 0.0))
    some = [i for i, chip in enumerate(chips) if chip.bold]
    return sorted(some, key=lambda i: (not chips[i].on, -size[i]))


def _labelled(n: int, step: int, pitch: float, wanted: Sequence[int]) -> list[int]:
    """Which tokens have their label: every k-th, and those that matter, which take the room of others beside them."""
    if step == 1:
        return list(range(n))
    kept: list[int] = []
    for i in wanted:
        if all(abs(i - one) * pitch >= 12.5 for one in kept):
            kept.append(i)
    free = [i for i in range(0, n, step) if all(abs(i - one) * pitch >= 12.5 for one in kept)]
    return sorted({*free, *kept})


def in_columns(drawing: Drawing, rows: Sequence[Row] | None) -> None:
    """Queries on the left, keys on the right, numbers outside."""
    sheet, looking, places = drawing.sheet, drawing.looking, drawing.places
    map, (left, right) = looking.map, places.ends
    head = sheet.height + 6
    sheet.text(left - 9, head, "query", SMALL, inks.SOFT, "right")
    sheet.text(right + 9, head, "key", SMALL, inks.SOFT)
    sheet.text((left + right) / 2, head, "attends to →", SMALL, inks.SOFT, "center")
    leaks = bool((map.leak > LEAK).any())
    outer, numbers = places.outer, numbers_of(looking)
    if leaks:
        sheet.text(outer[0], head, "← leaves", SMALL, inks.SOFT)
    for asks, axis, middles, pitch, step in (
        (True, map.queries, places.query, places.pitch[0], places.step[0]),
        (False, map.keys, places.key, places.pitch[1], places.step[1]),
    ):
        chips = _chips(drawing, axis, asks, rows)
        high, lane = min(19.0, max(11.0, pitch - 2)), lane_of(axis)
        at: Side = "right" if asks else "left"
        x = left - 9 if asks else right + 9
        inner = outer[0] + (40 if leaks else 0) if asks else outer[1] - numbers
        room = abs(x - inner) - lane - 2
        wanted = _matter(drawing, chips, rows)
        shown = _labelled(len(chips), step, pitch, wanted)
        for i in shown:
            y, number = float(middles[i]), thousands(i) if step > 1 else ""
            took = _chip(
                sheet, axis, i, chips[i], x, y, room - (width_of(number, SMALL) + 10 if number else 0), high, at
            )
            sheet.text(x - took - 10 if asks else x + took + 10, y, number, SMALL, inks.SOFT, at)
        if leaks and asks and step == 1:
            for i in range(looking.asking):
                if map.leak[i] > LEAK:
                    text = weight_text(float(map.leak[i]))
                    sheet.text(outer[0] + 34, float(middles[i]), text, SMALL, inks.SOFT, "right")
        if not asks and rows is not None:
            _numbers(drawing, rows, middles, shown)

        def edge(i: int, middles: Array = middles, pitch: float = pitch) -> float:
            return float(middles[0]) + (i - 0.5) * pitch

        brackets(sheet, axis, "right" if asks else "left", inner + 9 if asks else inner - 9, edge)
        for i in boundaries(axis) if asks else []:
            sheet.lines([[(outer[0], edge(i)), (outer[1], edge(i))]], inks.SOFT, 0.8, 0.6, (3, 3))


def _numbers(drawing: Drawing, rows: Sequence[Row], middles: Array, shown: Sequence[int]) -> None:
    """The weights beside the keys, of the focus; of several heads each with its sign, or the largest beside bars."""
    sheet, count, end = drawing.sheet, len(rows), drawing.places.outer[1]
    if len(drawing.looking.focus) > 1:
        sheet.text(end, sheet.height + 6, f"Σ over {len(drawing.looking.focus)}", SMALL, inks.SOFT, "right")
    for i in shown:
        texts = [_number(drawing, row, i) for row in rows]
        y = float(middles[i])
        if count == 1:
            strong = i in rows[0].told
            sheet.text(end, y, texts[0], SMALL, inks.INK if strong else inks.SOFT, "right")
            continue
        if count <= 3:
            for strand, text in enumerate(texts):
                x = end - 46 * (count - 1 - strand)
                sheet.text(x, y, text, SMALL, inks.INK if i in rows[strand].told else inks.SOFT, "right")
                if text:
                    marker(sheet, strand, x - width_of(text, SMALL) - 7, y, 6.0, inks.SEVERAL[strand])
            continue
        sizes = [abs(float(row.cells[i])) if is_weight(row.cells[i]) else 0.0 for row in rows]
        for strand, size in enumerate(sizes):
            high = 12 * min(1.0, size) ** 0.5
            sheet.rect(end - 52 - 7 * (count - strand), y + 6 - high, 5, high, inks.SEVERAL[strand])
        most = int(np.argmax(sizes))
        if texts[most]:
            marker(sheet, most, end - width_of(texts[most], SMALL) - 7, y, 6.0, inks.SEVERAL[most])
            sheet.text(end, y, texts[most], SMALL, inks.INK, "right")


def _number(drawing: Drawing, row: Row, i: int) -> str:
    """The weight of a key; what is small says so only where it is drawn."""
    weight = float(row.cells[i])
    if not (is_weight(weight) or np.isnan(weight)) or (i not in row.told and abs(weight) < 0.005):
        return ""
    text = delta_text(weight) if drawing.signed else weight_text(weight)
    if drawing.effects is None:
        return text
    share = float(drawing.effects.shares[drawing.looking.focus, i].sum())
    effect = "0" if share == 0 else "≈0" if abs(share) < 0.002 else signed_text(share * drawing.effects.largest)
    return f"{text} · {effect}"


def on_line(drawing: Drawing, rows: Sequence[Row] | None) -> None:
    """Tokens side by side, on end where they would not have room."""
    sheet, looking, places = drawing.sheet, drawing.looking, drawing.places
    map = looking.map
    sides = [(True, map.queries, places.query, places.pitch[0], places.step[0], places.ends[0], 1.0)]
    if not places.same:
        sides.append((False, map.keys, places.key, places.pitch[1], places.step[1], places.ends[1], -1.0))
    for asks, axis, middles, pitch, step, end, down in sides:
        chips = _chips(drawing, axis, asks, rows)
        wanted = _matter(drawing, chips, rows)
        tells = rows is not None and (places.same or not asks)
        shown = _labelled(len(chips), step, pitch, wanted) if places.tilted else list(range(len(chips)))
        for i in shown:
            x, y = float(middles[i]), end + down * (13 if not places.tilted else 6)
            gap = float(middles[i + 1] - middles[i]) if i + 1 < len(middles) else 999.0
            if places.tilted:
                number = thousands(i) if step > 1 else ""
                side: Side = "left" if down < 0 else "right"
                sheet.text(x, y, number, SMALL, inks.SOFT, side, turn=90)
                past = width_of(number, SMALL) + 6 if number else 0.0
                _chip(sheet, axis, i, chips[i], x, y + down * past, 120.0, pitch, side, 90.0)
            else:
                _chip(sheet, axis, i, chips[i], x, y, max(20.0, 2 * gap), 19.0, "center")
            if tells and rows is not None and not places.tilted:
                for strand, row in enumerate(rows):
                    text = _number(drawing, row, i)
                    at = end + down * (30 + 15 * strand)
                    sheet.text(x, at, text, SMALL, inks.INK if i in row.told else inks.SOFT, "center")
                    if text and drawing.several:
                        marker(sheet, strand, x - width_of(text, SMALL) / 2 - 6, at, 6.0, inks.SEVERAL[strand])
        if tells and rows is not None and places.tilted:
            _strongest(drawing, rows, middles, end, down)


def _strongest(drawing: Drawing, rows: Sequence[Row], middles: Array, end: float, down: float) -> None:
    """Where labels stand on end: the weights of the keys that count most, as far as they have room."""
    sheet = drawing.sheet
    taken: list[tuple[float, float, int]] = []
    low = drawing.places.below - 12 if drawing.places.same else sheet.height + drawing.places.height - 8
    at = low if down > 0 else sheet.height + 8
    for strand, row in enumerate(rows):
        for i in sorted(row.told, key=lambda key: -abs(float(row.cells[key]))):
            text = _number(drawing, row, i)
            x, wide = float(middles[i]), width_of(text, SMALL) + 4
            x = min(max(x, wide / 2), sheet.width - wide / 2)
            if any(other == strand and abs(x - there) < (wide + width) / 2 for there, width, other in taken):
                continue
            taken.append((x, wide, strand))
            colour = inks.SEVERAL[strand] if drawing.several else inks.INK
            sheet.text(x, at - 15 * (len(rows) - 1 - strand), text, SMALL, colour, "center")
