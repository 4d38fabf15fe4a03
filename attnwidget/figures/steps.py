"""The steps of a head as a figure: vectors as strips, and a table of keys with a column for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget import steps as taken
from attnwidget.blocks import unpack
from attnwidget.shown import is_difference

from . import inks
from .looked import Looking
from .sheet import SMALL, TEXT, Sheet, fitted, width_of
from .stages import ABSENT, ALLOWED, USUAL, Column, Head, Row, Vector, at, changes_of, columns_of, moved, worth_a_line
from .words import counted, figure, labels_of, named, thousands, weight_figure

_LINES = 16
_ROW, _STRIP, _OWN, _BAR = 17.0, 16.0, 6.0, 40.0  # of the table; of a strip, of the model's own below it, of bars
_SIGN = 17.0  # the room of the number of a step
_NAMES = 82 + _SIGN  # of what strips are
_DEEPEST = 0.75  # of the ramp: beyond, both of its ends become alike
_SCORES = ("scaled", "capped", "score")


@dataclass(frozen=True)
class _Subject:
    """A query of a head, with all that happens at it; ``query`` and ``key`` are tokens of this side."""

    head: Head
    query: int
    key: int
    own: Row
    now: Row
    columns: list[Column]
    keys: list[str]
    names: tuple[str, str]


def steps(sheet: Sheet, looking: Looking) -> None:
    """Draws the steps, from the sheet's height on.

    Raises:
        ValueError: more than one head is selected; the query looks at nothing.
    """
    subject = _subject(looking)
    head, own, now = subject.head, subject.own, subject.now
    changes = changes_of(looking.chosen.switches, head) if own is not now else []
    said = [f"The query {subject.names[0]} and the key {subject.names[1]}."]
    if changes:
        said.append(
            f"Changed: {', '.join(changes)}; {weight_figure(moved(own, now))} of the weight has moved. "
            "Outlined: the model’s own."
        )
    sheet.height += sheet.wide_text(sheet.height, " ".join(said), colour=inks.INK) + 6
    if head.d is None:
        sheet.height += sheet.wide_text(sheet.height, str(head.meta.get("stored") or ""), colour=inks.SOFT) + 6
    else:
        _vectors(sheet, subject, bool(looking.chosen.switches["positions"]))
    _table(sheet, subject)
    _sums(sheet, subject)


def _subject(looking: Looking) -> _Subject:
    chosen, shown = looking.chosen, looking.shown
    pair = chosen.heads[0] if len(chosen.heads) == 1 else (chosen.layer, chosen.head)
    if len(chosen.heads) > 1 or None in pair:
        raise ValueError(
            "The steps are those of one head: a mean over heads has no query, key and value of its own. Choose a layer "
            "and a head, as layer=0, head=0."
        )
    compared = is_difference(shown)
    one = shown if not compared else shown.b if chosen.side == "b" else shown.a
    layer, number = pair
    assert layer is not None and number is not None
    head = Head(unpack(taken.block(one, chosen.part, layer, number, exact=True)))
    part = looking.part
    inside = [np.arange(len(axis)) for axis in (part.queries, part.keys)]
    if compared:
        side = "b" if chosen.side == "b" else "a"
        inside = [np.asarray(getattr(axis, side)) for axis in (part.of_queries, part.of_keys)]
    outside = np.full(head.n_k, -1)
    outside[inside[1][inside[1] >= 0]] = np.flatnonzero(inside[1] >= 0)
    labels = labels_of(part.keys)
    keys = [labels[at_] if at_ >= 0 else f"key {j}" for j, at_ in enumerate(outside)]
    query = _query(looking, head, inside[0])
    there = head.n_k
    if looking.moment is not None and looking.same:
        there = max(1, int((inside[1][: looking.moment] >= 0).sum()))
    token = int(inside[0][query])
    name = named(part.queries.labels, query)
    if token < 0 or not (head.sees(token, True) == ALLOWED).any():
        lacks = "is no token of this side" if token < 0 else "looks at no key: it is padding, or all is masked"
        raise ValueError(f"{name} {lacks}. Choose another query=.")
    own = head.row(token, USUAL, there)
    now = head.row(token, chosen.switches, there) if changes_of(chosen.switches, head) else own
    key = int(np.argmax(np.nan_to_num(now.weight)))
    columns = columns_of(head, own, chosen.switches)
    said = named(part.keys.labels, int(outside[key])) if outside[key] >= 0 else keys[key]
    return _Subject(head, token, key, own, now, columns, keys, (name, said))


def _query(looking: Looking, head: Head, inside: NDArray[Any]) -> int:
    """Which token asks: the one in focus, that was pinned last, or the last that sees anything."""
    chosen = looking.chosen
    if looking.moment:
        return looking.moment - 1
    if chosen.query is not None:
        return int(chosen.query)
    if chosen.pinned:
        return int(chosen.pinned[-1])
    query = len(inside) - 1
    while query > 0 and not (inside[query] >= 0 and (head.sees(int(inside[query]), True) == ALLOWED).any()):
        query -= 1
    return query


# ── strips ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reach(values: Vector) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))


def _shades(values: Vector, most: float) -> NDArray[Any]:
    """Colours of numbers: blue above 0, orange below."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 0.5 + _DEEPEST * (inks.signed_level(np.nan_to_num(values / most) if most else values * 0, "sqrt") - 0.5)
    return np.asarray(inks.ramp("difference")[inks.shades(share)])


def _badge(sheet: Sheet, step: int, x: float, y: float) -> None:
    """The number of a step, as on the screen."""
    sheet.rect(x, y - 6.5, 13, 13, inks.SOFT, corner=6.5)
    sheet.text(x + 6.5, y, str(step), SMALL - 2, inks.GROUND, "center", bold=True)


def _strip(
    sheet: Sheet,
    name: str,
    values: Vector,
    said: str,
    *,
    own: Vector | None = None,
    most: float | None = None,
    bars: bool = False,
    step: int | None = None,
) -> None:
    """One vector: a cell for each of its numbers, on several lines where there are many."""
    left, right = _NAMES, sheet.width - 84
    if step is not None:
        _badge(sheet, step, 0, sheet.height + _STRIP / 2)
    sheet.text(_SIGN, sheet.height + _STRIP / 2, fitted(name, left - _SIGN - 8, SMALL), SMALL, inks.INK)
    sheet.text(sheet.width, sheet.height + _STRIP / 2, said, SMALL, inks.SOFT, "right")
    n, room = len(values), right - left
    lines = max(1, math.ceil(n * (1.25 if n > 512 else 2.4) / room))
    each = math.ceil(n / lines)
    cell = min(22.0, room / each)
    tall = _BAR if bars else _STRIP if lines == 1 else 10.0 if lines <= 3 else 6.0
    most = max(_reach(values), _reach(values if own is None else own)) if most is None else most
    for line in range(lines):
        some, y = values[line * each : (line + 1) * each], sheet.height
        also = None if own is None else own[line * each : (line + 1) * each]
        if bars:
            _heights(sheet, left, y, cell, some, also, most)
        else:
            sheet.image(_shades(some, most)[None], left, y, cell * len(some), tall)
            if also is not None:
                sheet.image(_shades(also, most)[None], left, y + tall + 1.5, cell * len(also), _OWN)
        sheet.height += tall + (0 if own is None or bars else _OWN + 1.5) + 2
    sheet.height += 2


def _heights(sheet: Sheet, left: float, y: float, cell: float, values: Vector, own: Vector | None, most: float) -> None:
    """Numbers as heights from a middle line."""
    middle, air = y + _BAR / 2, 1.0 if cell >= 6 else 0.2 * cell
    sheet.lines([[(left, middle), (left + cell * len(values), middle)]], inks.LINE)
    for sign, colour in ((1, inks.RAMP[3]), (-1, inks.LESS[1])):
        boxes = [
            np.array([(x, middle), (x + cell - air, middle), (x + cell - air, top), (x, top)])
            for n, value in enumerate(values)
            if value * sign > 0
            for x, top in [(left + n * cell, middle - value / (most or 1) * _BAR / 2)]
        ]
        sheet.shapes(boxes, colour)
    for n, value in enumerate([] if own is None else own):
        high = value / (most or 1) * _BAR / 2
        sheet.rect(left + n * cell, middle - max(0.0, high), max(0.5, cell - air), abs(high), line=inks.SOFT, thick=0.7)


def _norm(values: Vector) -> str:
    return f"norm {figure(float(np.linalg.norm(values)))}"


def _vectors(sheet: Sheet, subject: _Subject, positions: bool) -> None:
    head, query, key = subject.head, subject.query, subject.key
    q, k = head.query(query, positions), head.key(key, positions)
    own = None if positions or head.meta.get("positions") != "rotary" else (head.query(query), head.key(key))
    _strip(sheet, f"q {subject.names[0]}", q, _norm(q), own=own and own[0], step=1)
    _strip(sheet, f"k {subject.names[1]}", k, _norm(k), own=own and own[1])
    _strip(sheet, "q × k", q * k, f"Σ {figure(float(subject.now.dot[key]))}", own=own and own[0] * own[1], bars=True)
    sheet.text(_NAMES, sheet.height + 6, f"{len(q)} dimensions; orange is below 0", SMALL, inks.SOFT)
    sheet.height += 22


def _sums(sheet: Sheet, subject: _Subject) -> None:
    now, own, key = subject.now, subject.own, subject.key
    if now.z is None:
        why = str(subject.head.meta.get("missing") or "The values v of this head were not kept.")
        sheet.height += sheet.wide_text(sheet.height + 4, why, colour=inks.SOFT) + 6
        return
    values = subject.head.vectors("v")
    assert values is not None
    v, p = values[key], float(now.weight[key])
    most = _reach(v)
    sheet.height += 8
    _strip(sheet, f"v {subject.names[1]}", v, _norm(v), most=most)
    _strip(sheet, f"× {weight_figure(p)}", v * p, _norm(v * p), most=most)
    _strip(sheet, "z = Σ", now.z, _norm(now.z), own=None if own is now else own.z)
    if now.written is not None:
        step = subject.columns[-1].step + 1
        _strip(sheet, "W_O z", now.written, _norm(now.written), own=None if own is now else own.written, step=step)
        stream = f"{thousands(len(now.written))} dimensions of the residual stream"
        sheet.text(_NAMES, sheet.height + 6, stream, SMALL, inks.SOFT)
        sheet.height += 16


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ends(subject: _Subject, keys: Sequence[int], id: str) -> tuple[float, float]:
    """How far the bars of a column reach. Scores have one scale in common: what a step does to them shows."""
    ids = _SCORES if id in _SCORES else (id,)
    there = [column.id for column in subject.columns if column.id in ids]
    found = [0.0, *(at(row, one, j) or 0.0 for one in there for row in (subject.own, subject.now) for j in keys)]
    if id == "weight":
        found += [subject.own.leak, subject.now.leak]
    finite = [one for one in found if math.isfinite(one)]
    return min(finite), max(finite)


def _table(sheet: Sheet, subject: _Subject) -> None:
    own, now, columns = subject.own, subject.now, subject.columns
    keys = worth_a_line(own, now, _LINES, subject.key)
    longest = max(width_of(subject.keys[j], TEXT, j == subject.key) for j in keys)
    longest = min(longest, sheet.width * 0.24 - 14, 136.0)
    first = longest + 14
    wide = (sheet.width - first) / len(columns)
    y = sheet.height + 9
    sheet.text(5, y, "key", SMALL, inks.SOFT)
    for n, column in enumerate(columns):
        x = first + n * wide
        _badge(sheet, column.step, x, y)
        name = fitted(column.head + (", off" if column.off else ""), wide - _SIGN - 3, SMALL)
        sheet.text(x + _SIGN, y, name, SMALL, inks.SOFT)
    y += 14
    sheet.lines([[(0, y - 5), (sheet.width, y - 5)]], inks.LINE)
    ends = {column.id: _ends(subject, keys, column.id) for column in columns if column.id != "value"}
    for j in keys:
        y += _ROW
        middle = y - _ROW / 2
        if j == subject.key:
            sheet.rect(0, y - _ROW, sheet.width, _ROW, inks.over(inks.ACCENT, 0.1))
        seen = now.sees[j] == ALLOWED
        label = fitted(subject.keys[j], longest, TEXT, j == subject.key)
        sheet.text(5, middle, label, TEXT, inks.INK if seen else inks.SOFT, bold=j == subject.key)
        for n, column in enumerate(columns):
            x = first + n * wide
            if column.id == "value":
                _share(sheet, subject, j, x, middle, wide, seen)
                continue
            value = at(now, column.id, j)
            unseen = {"score": "padding" if now.sees[j] == ABSENT else "masked", "weight": "0"}.get(column.id, "–")
            text = unseen if value is None else (weight_figure if column.id == "weight" else figure)(value)
            was = None if own is now else at(own, column.id, j)
            _cell(sheet, text, value, was, ends[column.id], x, middle, wide)
    y = _sink(sheet, subject, ends, first, wide, y)
    sheet.height = y + 6
    _feet(sheet, subject, keys, first, wide)


def _cell(
    sheet: Sheet,
    text: str,
    value: float | None,
    was: float | None,
    ends: tuple[float, float],
    x: float,
    y: float,
    wide: float,
) -> None:
    """A number with its bar, and the model's own as an outline where that is another."""
    sheet.text(x + 42, y, text, SMALL, inks.INK if value is not None else inks.SOFT, "right")
    left, room, (low, high) = x + 47, wide - 58, ends
    if room < 4 or not high > low:
        return

    def bar(number: float) -> tuple[float, float]:
        start, stop = (
            min(max((one - low) / (high - low), 0.0), 1.0) * room for one in (min(0.0, number), max(0.0, number))
        )
        return left + start, stop - start

    if value is not None and math.isfinite(value) and value != 0:
        start, long = bar(value)
        sheet.rect(start, y - 3.5, max(0.5, long), 7, inks.RAMP[3] if value > 0 else inks.LESS[1])
    if was is not None and math.isfinite(was) and (value is None or abs(value - was) > 1e-9):
        start, long = bar(was)
        sheet.rect(start, y - 5, max(0.5, long), 10, line=inks.SOFT, thick=0.8)


def _share(sheet: Sheet, subject: _Subject, j: int, x: float, y: float, wide: float, seen: bool) -> None:
    """How much of z a key brings, and its weight times v."""
    now, values = subject.now, subject.head.vectors("v")
    if not seen or values is None or now.z is None:
        return
    whole, p = float(now.z @ now.z), float(now.weight[j])
    share = p * float(values[j] @ now.z) / whole if whole and p else 0.0
    sheet.text(x + 42, y, f"{math.floor(share * 100 + 0.5)} %".replace("-", "−"), SMALL, inks.INK, "right")
    strongest = np.argsort(-now.weight, kind="stable")[:12]
    most = max(float(now.weight[one]) * _reach(values[one]) for one in strongest)
    if wide > 64:
        sheet.image(_shades(p * values[j], most)[None], x + 47, y - 5, wide - 50, 10)


def _sink(
    sheet: Sheet, subject: _Subject, ends: dict[str, tuple[float, float]], first: float, wide: float, y: float
) -> float:
    """A score that takes weight and is no key, where there is one."""
    own, now, columns = subject.own, subject.now, subject.columns
    if own.sink == -math.inf:
        return y
    y += _ROW
    sheet.text(5, y - _ROW / 2, "sink", TEXT, inks.SOFT, italic=True)
    last = [column.id for column in columns if column.id in _SCORES][-1:]
    for n, column in enumerate(columns):
        was = None if own is now else own
        if column.id == "weight":
            _cell(
                sheet,
                weight_figure(now.leak),
                now.leak,
                None if was is None else was.leak,
                ends["weight"],
                first + n * wide,
                y - _ROW / 2,
                wide,
            )
        elif [column.id] == last:
            _cell(
                sheet,
                figure(now.sink),
                now.sink,
                None if was is None else was.sink,
                ends[column.id],
                first + n * wide,
                y - _ROW / 2,
                wide,
            )
    return y


def _feet(sheet: Sheet, subject: _Subject, keys: Sequence[int], first: float, wide: float) -> None:
    """What the keys without a line carry, how far scores spread, and over how many keys the weight does."""
    now = subject.now
    left = np.setdiff1d(np.arange(len(now.weight)), keys)
    others = int((now.sees[left] == ALLOWED).sum())
    sheet.lines([[(0, sheet.height), (sheet.width, sheet.height)]], inks.LINE)
    y = sheet.height + 10
    for n, column in enumerate(subject.columns):
        x = first + n * wide + 42
        if column.id in ("dot", "scaled", "score"):
            sheet.text(x, y, f"σ {figure(now.spread(column.id))}", SMALL, inks.SOFT, "right")
        elif column.id == "weight":
            sheet.text(x, y, f"H {figure(now.entropy)}", SMALL, inks.SOFT, "right")
    sheet.height = y + 8
    said = (
        [f"{thousands(now.allowed)} of {counted(len(now.sees), 'key')} are seen"] if now.allowed < len(now.sees) else []
    )
    if others:
        carry = "carries" if others == 1 else "carry"
        said.append(f"{counted(others, 'other')} {carry} {weight_figure(float(now.weight[left].sum()))}")
    if len(left) > others:
        said.append(f"{thousands(len(left) - others)} masked or padding")
    spread = f"entropy H = {figure(now.entropy)} nats: as if even over {figure(math.exp(now.entropy))} keys"
    sheet.height += sheet.wide_text(sheet.height, "; ".join([*said, spread]) + ".", colour=inks.SOFT) + 6
