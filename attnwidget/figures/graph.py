"""The graph as a figure: tokens over the layers, inputs at the bottom, and where the weight of a token is routed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from . import inks
from .looked import Cells, Looked, Looking, carried
from .sheet import SMALL, Sheet, fitted, width_of
from .words import labels_of, named, weight_text

_WHOLE = 40  # tokens that are all shown; of more, only those on paths
_MOST = 8  # tokens of a layer that are followed further
_DRAWN = 2000  # edges without focus
_LEAST = 0.05  # of an edge that is drawn
_LEFT, _SLANT, _APART = 62.0, 84.0, 13.0  # names of layers; slanted tokens, and between them


@dataclass(frozen=True)
class Step:
    """An edge of a layer, from a token above it down to one below."""

    layer: int
    query: int
    key: int
    weight: float


@dataclass(frozen=True)
class Descent:
    """What a token leads down to: all edges that were followed, the share that comes to each input, the best path."""

    steps: list[Step]
    reached: list[tuple[int, float]]
    best: list[Step]
    product: float


def keys_of(row: Cells, share: float, kept: int = 0) -> list[tuple[int, float]]:
    """The fewest keys that carry a share of a row, but for those that are too weak; the first ``kept`` in any case."""
    some = carried(row[None], share)
    pairs = zip(some.key.tolist(), some.weight.tolist(), strict=True)
    return [(key, weight) for n, (key, weight) in enumerate(pairs) if weight >= _LEAST or n < kept]


def descend(start: int, layers: Sequence[Looked | None], share: float) -> Descent:
    """Follows the strongest edges from a token above the highest layer down to the inputs; None moves nothing."""
    steps: list[Step] = []
    above: dict[Step, Step | None] = {}
    here: dict[int, tuple[float, float, Step | None]] = {start: (1.0, 1.0, None)}
    for layer in reversed(range(len(layers))):
        map, followed = layers[layer], []
        below: dict[int, tuple[float, float, Step | None]] = {}
        rows = {} if map is None else dict(zip(here, map.rows(list(here)), strict=True))
        for query, (part, product, path) in here.items():
            for key, weight in [(query, 1.0)] if map is None else keys_of(rows[query], share, 1):
                step = Step(layer, query, key, weight)
                followed.append(step)
                above[step] = path
                known = below.get(key, (0.0, -1.0, None))
                best = (product * weight, step) if product * weight > known[1] else known[1:]
                below[key] = (known[0] + part * weight, *best)
        here = dict(sorted(below.items(), key=lambda one: -one[1][0])[:_MOST])
        steps += [step for step in followed if step.key in here]
    last = max(here.values(), key=lambda one: one[1], default=(0.0, 0.0, None))
    best_path: list[Step] = []
    at = last[2]
    while at is not None:
        best_path.insert(0, at)
        at = above[at]
    return Descent(steps, [(token, one[0]) for token, one in here.items()], best_path, last[1])


def _layers(looking: Looking) -> list[Looked | None]:
    """The map of each layer: of the heads that are chosen in it, of the one that is chosen, or the mean of all."""
    chosen = looking.chosen
    found: list[Looked | None] = []
    for number, layer in enumerate(looking.part.layers):
        if not layer.heads:
            found.append(None)
            continue
        own = [pair for pair in chosen.heads if pair[0] == number]
        none = bool(chosen.heads) or chosen.head is None or chosen.head >= layer.heads
        which = {"heads": own} if own else {"layer": number, "head": None if none else chosen.head}
        found.append(looking.of(reduce=chosen.reduce, **which))
    return found


def graph(sheet: Sheet, looking: Looking) -> None:
    """Draws the layers, from the sheet's height on.

    Raises:
        ValueError: what is selected has no paths, and why.
    """
    if looking.map.signed:
        raise ValueError("A difference of weights has no paths to follow. Choose side='a' or side='b'.")
    if not looking.same:
        raise ValueError(
            "Queries and keys are different tokens here, so one layer does not lead into the next. view='arcs' and "
            "view='heatmap' show each of them."
        )
    layers, share = _layers(looking), looking.chosen.threshold
    n, asking = looking.map.shape[0], looking.asking
    whole = n <= _WHOLE
    start = looking.focus[-1] if looking.focus else None if whole else asking - 1
    found = None if start is None else descend(start, layers, share)
    overview = _overview(layers, share, asking) if whole else []
    _drawn(sheet, looking, layers, overview, found, start)
    _said(sheet, looking, found, start)


def _overview(layers: Sequence[Looked | None], share: float, asking: int) -> list[Step]:
    """The edges of all tokens, where there are few."""
    steps = [
        Step(layer, query, key, weight)
        for layer, map in enumerate(layers)
        if map is not None
        for query in range(asking)
        for key, weight in keys_of(map.cells[query], share)
    ]
    return sorted(steps, key=lambda step: -step.weight)[:_DRAWN]


def columns_of(tokens: Iterable[int], n: int) -> tuple[Mapping[int, int], list[int], int]:
    """Places of some of n tokens side by side, those of gaps between them, and how many there are."""
    at: dict[int, int] = {}
    gaps: list[int] = []
    count = expected = 0
    for token in sorted(set(tokens)):
        if token > expected:
            gaps.append(count)
            count += 1
        at[token] = count
        count, expected = count + 1, token + 1
    if expected < n:
        gaps.append(count)
        count += 1
    return at, gaps, count


def _drawn(
    sheet: Sheet,
    looking: Looking,
    layers: Sequence[Looked | None],
    overview: list[Step],
    found: Descent | None,
    start: int | None,
) -> None:
    n, count = looking.map.shape[0], len(layers)
    steps = found.steps if found else []
    some = range(n) if n <= _WHOLE else [*([] if start is None else [start]), *(step.key for step in steps)]
    at, gaps, places = columns_of(some, n)
    labels = labels_of(looking.map.queries)
    longest = max(width_of(labels[i], SMALL + 1) for i in at)
    left = _LEFT if sheet.width > 400 else 50.0
    pitch = min(76.0, (sheet.width - left - 12) / max(1, places))
    slanted = longest + 10 > pitch
    head = (min(_SLANT, longest * math.sin(math.radians(74)) + 8) if slanted else 22.0) + 8
    band = min(64.0, max(24.0, 400 / count))
    top = sheet.height
    bottom = top + head + band * count

    def x(token: int) -> float:
        return left + (at[token] + 0.5) * pitch

    def curve(step: Step) -> list[float]:
        y0, y1 = bottom - (step.layer + 1) * band, bottom - step.layer * band
        x0, x1, bend = x(step.query), x(step.key), 0.45 * band
        return [x0, y0, x0, y0 + bend, x1, y1 - bend, x1, y1]

    end = left + places * pitch
    for level in range(count + 1):
        y = bottom - level * band
        sheet.lines([[(left, y), (end, y)]], inks.LINE)
    still = [Step(layer, token, token, 1.0) for layer, map in enumerate(layers) if map is None for token in at]
    sheet.curves(np.array([curve(step) for step in still]), inks.SOFT, 1.0, 0.5, (2, 3))
    pale = min(1.0, (200 / max(1, len(overview))) ** 0.5) * (1.0 if found is None else 0.25)
    _strokes(
        sheet,
        [curve(step) for step in overview[::-1]],
        overview[::-1],
        inks.SOFT,
        (pale * 0.12, pale * 0.6),
        (0.8, 1.6),
    )
    best = set(found.best) if found else set()
    others = [step for step in steps if step not in best]
    _strokes(sheet, [curve(step) for step in others], others, inks.INK, (0.16, 0.6), (0.8, 3.0))
    _dots(sheet, [curve(step) for step in others], inks.INK, 2.2)
    path = found.best if found else []
    sheet.curves(np.array([curve(step) for step in path]), inks.ACCENT, [1.6 + 3.4 * step.weight for step in path])
    _dots(sheet, [curve(step) for step in path], inks.ACCENT, 3.5)
    for gap in gaps:
        for level in range(count):
            sheet.text(left + (gap + 0.5) * pitch, bottom - level * band, "…", SMALL, inks.SOFT, "center")
    for number, layer in enumerate(looking.part.layers):
        words = layer.absent or f"layer {number}"
        if band >= 24 or number % 2 == 0:
            sheet.text(0, bottom - (number + 0.5) * band, fitted(words, left - 6, SMALL), SMALL, inks.SOFT)

    shares = dict(found.reached) if found else {}
    last = path[-1].key if path else None
    ends = [start, last]
    rank = {token: (token in ends) + shares.get(token, 0.0) for token in at}
    tops = at if n <= _WHOLE else [token for token in ends[:1] if token is not None]
    on = {*looking.pinned, *([] if start is None else [start])}
    for token in _roomy(tops, x, rank) if slanted else tops:
        _node(sheet, labels[token], x(token), top + head - 8, pitch, slanted, up=True, on=token in on)
    for token in _roomy(at, x, rank) if slanted else at:
        tint = inks.tint(shares[token]) if token in shares else None
        _node(sheet, labels[token], x(token), bottom + 8, pitch, slanted, up=False, on=token == last, tint=tint)
    sheet.height = bottom + head + 4


def _strokes(
    sheet: Sheet,
    curves: list[list[float]],
    steps: Sequence[Step],
    colour: inks.Colour,
    alpha: tuple[float, float],
    wide: tuple[float, float],
) -> None:
    """Edges, as strong as their weight."""
    if steps:
        weights = np.array([step.weight for step in steps])
        sheet.curves(
            np.array(curves), colour, (wide[0] + wide[1] * weights).tolist(), alpha[0] + alpha[1] * np.sqrt(weights)
        )


def _dots(sheet: Sheet, curves: list[list[float]], colour: inks.Colour, size: float) -> None:
    turn = np.linspace(0, 2 * np.pi, 17)
    circle = size * np.stack([np.cos(turn), np.sin(turn)], 1)
    sheet.shapes([circle + end for curve in curves for end in ((curve[0], curve[1]), (curve[6], curve[7]))], colour)


def _roomy(tokens: Iterable[int], x: Callable[[int], float], rank: Mapping[int, float]) -> list[int]:
    """The tokens that have room for their slanted label: the first in rank before others."""
    taken: list[int] = []
    for token in sorted(tokens, key=lambda one: -rank[one]):
        if all(abs(x(other) - x(token)) >= _APART for other in taken):
            taken.append(token)
    return sorted(taken)


def _node(
    sheet: Sheet,
    label: str,
    x: float,
    y: float,
    pitch: float,
    slanted: bool,
    *,
    up: bool,
    on: bool,
    tint: inks.Colour | None = None,
) -> None:
    """A token above the highest layer, or below the lowest."""
    size = SMALL + 1
    label = fitted(label, _SLANT - 6 if slanted else pitch - 6, size, on)
    wide, colour = width_of(label, size, on), inks.INK if on or tint is not None else inks.SOFT
    if not slanted:
        y += -8 if up else 8
        if on or tint is not None:
            fill = inks.over(inks.ACCENT, 0.1) if tint is None else tint
            sheet.rect(x - wide / 2 - 4, y - 8, wide + 8, 16, fill, inks.ACCENT if on else None, 1.0, corner=3)
        sheet.text(x, y, label, size, colour, "center", bold=on)
        return
    turn = 74.0 if up else -74.0
    if on or tint is not None:
        angle = math.radians(turn)
        along, across = np.array([math.cos(angle), -math.sin(angle)]), np.array([math.sin(angle), math.cos(angle)])
        corners = [(-3, -7), (wide + 3, -7), (wide + 3, 7), (-3, 7)]
        box = np.array([np.array([x, y]) + a * along + b * across for a, b in corners])
        sheet.shapes([box], inks.over(inks.ACCENT, 0.1) if tint is None else tint)
        if on:
            sheet.lines([[*box, box[0]]], inks.ACCENT, 1.0)
    sheet.text(x, y, label, size, colour, bold=on, turn=turn)


def _said(sheet: Sheet, looking: Looking, found: Descent | None, start: int | None) -> None:
    labels, said = labels_of(looking.map.queries), []
    if found is not None and start is not None:
        if not found.reached:
            said.append("No weight comes from here down to the inputs.")
        else:
            path = " → ".join(
                [
                    named(labels, start),
                    *(f"{weight_text(step.weight)} {named(labels, step.key)}" for step in found.best),
                ]
            )
            product = f"{found.product:.2g}" if found.product < 0.01 else weight_text(found.product)
            said.append(f"Strongest path, product {product}: {path}.")
            first = found.reached[:3]
            told = ", ".join(
                f"{weight_text(share)} {'comes ' if n == 0 else ''}to {named(labels, token)}"
                for n, (token, share) in enumerate(first)
            )
            rest = 1 - sum(share for _, share in first)
            more = f", {weight_text(rest)} to others or along edges too weak to follow" if rest >= 0.005 else ""
            said.append(f"Along all paths {told}{more}.")
    said.append(
        f"Edges from {_LEAST}. Weights only: the residual stream, which carries every token straight up, is left out."
    )
    for text in said:
        sheet.height += sheet.wide_text(sheet.height + 2, text, colour=inks.SOFT) + 2
