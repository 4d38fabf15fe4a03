"""Charts of bqplot in the colours of the widget: points, grids of shades, curves. What they show is given to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from typing import Any

import bqplot as bq
import ipywidgets as w
import numpy as np
import torch
from bqplot.marks import Array
from bqplot.traits import array_serialization
from torch import Tensor

from .colours import ACCENT, FIRST, GROUND, INK, SEVERAL, SHADES, SOFT, STEPS, shade
from .compare import ComparedMap
from .maps import Map
from .measured import MEASURES
from .pruning import Head, Pruning
from .study import CUTS, Faithfulness

_SIDE = 32  # cells along a side of a map
_TOOLTIP = {  # it hangs on the page, not on the dashboard
    "background": "var(--jp-layout-color1, #fafbfc)", "color": "var(--jp-ui-font-color1, #1d232b)", "opacity": "1",
    "padding": "4px 8px", "border": "1px solid var(--jp-border-color1, #dfe3e8)",
}  # fmt: skip


class Chart:
    """A figure with a title above and a note below.

    Attributes:
        box: all of it. figure: the chart alone. scales: "x" and "y".
    """

    def __init__(
        self, title: str, marks: Sequence[bq.Mark], scales: Mapping[str, bq.Scale], x: str = "", y: str = ""
    ) -> None:
        self.scales, self._legend = scales, ""
        self.across = bq.Axis(scale=scales["x"], label=x, label_offset="30px")
        self.upwards = bq.Axis(scale=scales["y"], label=y, side="left", label_offset="40px")
        self.figure = bq.Figure(
            marks=list(marks), axes=[self.across, self.upwards], display_toolbar=False, padding_y=0.0,
            fig_margin={"top": 12, "bottom": 44, "left": 54, "right": 16},
            layout={"height": "240px", "width": "auto", "min_width": "0"},
        )  # fmt: skip
        self._title, self._note = w.HTML(), w.HTML()
        self._title.add_class("attn-title")
        self.box = w.VBox([self._title, self.figure, self._note])
        self.box.add_class("attn-chart")
        self.call(title)

    def call(self, title: str) -> None:
        """Another title."""
        self._title.value = escape(title)

    def say(self, words: str, legend: str | None = None) -> None:
        """A note in plain text; another legend in HTML."""
        self._legend = self._legend if legend is None else legend
        self._note.value = f"{self._legend}<small>{escape(words)}</small>"

    def fit(self, x: Tensor | None = None, y: Tensor | None = None) -> None:
        """Axes that hold all values, from one round number to another."""
        for axis, values in ((self.across, x), (self.upwards, y)):
            if values is not None:
                _fit(axis, float(values.min()), float(values.max()))


class Cells(bq.GridHeatMap):  # type: ignore[misc]  # bqplot has no types
    """A grid of shades, of one row or one column as well, which bqplot squeezes away."""

    color = Array(None, allow_none=True).tag(
        sync=True, scaled=True, rtype="Color", atype="bqplot.ColorAxis", **array_serialization
    )


class Grid(Chart):
    """Numbers [row, column] as shades; the first row on top."""

    def __init__(self, title: str, x: str, y: str) -> None:
        scales = {"x": bq.OrdinalScale(), "y": bq.OrdinalScale()}
        shades = bq.OrdinalColorScale(domain=list(SHADES), colors=list(SHADES.values()))
        self.cells = Cells(
            color=np.zeros((1, 1), np.int32), row=[0], column=[0], stroke=GROUND,
            scales={"row": scales["y"], "column": scales["x"], "color": shades},
        )  # fmt: skip
        self._marks = bq.Scatter(
            x=[0], y=[0], scales=scales, colors=[ACCENT], default_size=40, stroke=GROUND, stroke_width=2, visible=False
        )
        super().__init__(title, [self.cells, self._marks], scales, x, y)
        self.across.grid_lines = self.upwards.grid_lines = "none"

    def mark(self, cells: Sequence[tuple[int, int]]) -> None:
        """Puts a point on these (row, column)."""
        with self._marks.hold_sync():
            self._marks.visible = bool(cells)
            if cells:
                self._marks.y, self._marks.x = map(np.array, zip(*cells, strict=True))

    def draw(self, values: Tensor, ends: tuple[float, float] | None = None, words: str = "") -> None:
        """Float [row, column], NaN for what is not there; the ends of the ramp, those of the values unless given."""
        low, high = ends or _ends(values)
        ramp = "diverging" if low < 0 else "sequential"
        self._legend = legend(ramp, number(low), number(high), words)
        color = np.array([[shade(value, low, high) for value in row] for row in values.tolist()], np.int32)
        along(self.upwards, range(color.shape[0])[::-1])  # upwards: the last row first
        along(self.across, range(color.shape[1]))
        self.cells.stroke = GROUND if color.size < 1000 and color.shape[1] < 20 else "transparent"
        with self.cells.hold_sync(), self.cells.hold_trait_notifications():
            self.cells.color = color
            self.cells.row, self.cells.column = map(np.arange, color.shape)


class Lines(Chart):
    """Curves over one axis, told apart by colour and by dashes."""

    def __init__(self, title: str, x: str, y: str = "") -> None:
        super().__init__(title, [], {"x": bq.LinearScale(), "y": bq.LinearScale()}, x, y)

    def draw(self, x: Tensor, curves: Mapping[str, Tensor], colours: Sequence[str], words: str) -> None:
        """Curves [x] by name; those at random are dashed, those named with a space only stand for a spread."""
        signs, marks = [], []
        for (name, values), colour in zip(curves.items(), colours, strict=False):
            chance = name.startswith(("at random", " "))
            marks.append(
                bq.Lines(
                    x=x.numpy(), y=values.double().numpy(), scales=self.scales, colors=[colour], stroke_width=2,
                    line_style="dashed" if chance else "solid", opacities=[0.5 if name.startswith(" ") else 1.0],
                )
            )  # fmt: skip
            kind = "dashed" if chance else "solid"
            if not name.startswith(" "):
                signs.append(f'<span><i style="border-top:2px {kind} {colour}"></i>{escape(name)}</span>')
        every = torch.cat([values[values.isfinite()] for values in curves.values()])
        self.fit(y=torch.cat([every, torch.zeros(1)]))
        _fit(self.across, float(x.min()), float(x.max()), exactly=True)
        before, self.figure.marks = self.figure.marks, marks
        for mark in before:
            mark.close()
        self.say(words, f'<span class="attn-lines">{" ".join(signs)}</span>')


def _round(low: float, high: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Four to seven round numbers, evenly spaced, around all values.

    >>> _round(0.03, 0.81).tolist()
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / 5 or 0.1
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(of for of in (1, 2, 5, 10) if of * unit >= rough * 0.8)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.round(np.arange(first, max(last, first + 1) + 1) * step, 12)


def small(of: Map | ComparedMap) -> tuple[Tensor, str]:
    """A map that fits a chart, float [row, column], NaN where nobody may look; and what was done to it, in words.

    Of many queries some are taken, evenly spread; of many keys groups, whose weights add up, so that rows still do.
    """
    n_q, n_k = of.shape
    rows = (torch.arange(min(n_q, _SIDE)) * n_q + n_q // 2) // min(n_q, _SIDE)
    p, words = of.tile(rows, slice(None)), f"{_SIDE} of {n_q} queries. " if n_q > _SIDE else ""
    seen = of.allowed(rows) if isinstance(of, Map) else ~p.isnan()
    if n_k > _SIDE:
        groups, none = torch.arange(n_k) * _SIDE // n_k, torch.zeros(len(rows), _SIDE)
        p, seen = none.index_add(1, groups, p.nan_to_num()), none.index_add(1, groups, seen.float()) > 0
        words += f"{n_k} keys in {_SIDE} groups, whose weights are added up."
    return p.masked_fill(~seen, torch.nan), words


def _ends(values: Tensor) -> tuple[float, float]:
    """Of a ramp: alike to both sides of 0 where there are values below."""
    found = values[values.isfinite()]
    low, high = float(found.min()), float(found.max())
    most = max(-low, high)
    return (-most, most) if low < 0 else (low, high)


def legend(ramp: str, low: str, high: str, words: str = "") -> str:
    """HTML of a ramp: "sequential", "diverging" or "layers"."""
    return f'<span class="attn-legend">{low}<i class="attn-{ramp}"></i>{high} {words}</span>'


def number(value: float) -> str:
    """Three digits, and a minus that is one."""
    return f"{value:.3g}".replace("-", "−")


def _fit(axis: bq.Axis, low: float, high: float, *, exactly: bool = False) -> None:
    """From the round number before to the one behind; or from end to end ``exactly``, with round numbers between."""
    ticks = _round(low, high)
    if not exactly:
        low, high = float(ticks[0]), float(ticks[-1])
    with axis.scale.hold_sync(), axis.hold_sync():
        axis.scale.min, axis.scale.max = low, high
        axis.tick_values = ticks[(ticks >= low) & (ticks <= high)]
        digits = math.ceil(-math.log10(ticks[1] - ticks[0]) - 1e-9)
        axis.tick_format = f".{max(0, digits)}f" if digits < 5 else ".1e"


def named(heads: Sequence[Head]) -> str:
    """What is selected, in words."""
    if len(heads) == 1:
        return "layer {} · head {}".format(*heads[0])
    return f"{len(heads)} heads" if heads else "all heads"


def with_unit(name: str) -> str:
    """A measure beside an axis."""
    unit = MEASURES[name].unit.split(";")[0] if name in MEASURES else ""
    return f"{name}, {unit}" if 0 < len(unit) < 12 else name


def along(axis: bq.Axis, places: range) -> None:
    """An axis of layers, heads or tokens, with as many of their numbers as have room."""
    axis.scale.domain = list(places)
    step = math.ceil(len(places) / 12)
    axis.num_ticks = None if step == 1 else len(places) // step + 1


def dots(scales: Mapping[str, bq.Scale], size: int, **traits: Any) -> bq.Scatter:
    """Points that can be clicked."""
    return bq.Scatter(
        x=[0.0], y=[0.0], scales=scales, default_size=size, stroke=GROUND, stroke_width=1.0, display_names=False,
        interactions={"click": "select", "hover": "tooltip"}, tooltip_style=_TOOLTIP,
        selected_style={"fill": ACCENT, "stroke": INK, "stroke-width": "1.5px", "opacity": "1"},
        **traits,
    )  # fmt: skip


def place(mark: bq.Scatter, heads: Sequence[Head], x: Tensor, y: Tensor, layers: int, names: tuple[str, str]) -> None:
    """Heads as points, the later their layer the further from the ground."""
    before = mark.tooltip
    with mark.hold_sync():
        mark.selected = None
        mark.x, mark.y = x.double().numpy(), y.double().numpy()
        mark.names = np.array([f"layer {layer} · head {head}" for layer, head in heads])
        mark.colors = [SHADES[FIRST + round((STEPS - FIRST) * layer / max(1, layers - 1))] for layer, _ in heads]
        mark.tooltip = bq.Tooltip(fields=["name", "x", "y"], labels=["", *names], formats=["", ".3f", ".3f"])
    if before is not None:
        before.layout.close()
        before.close()


def drawn_at_random(values: Tensor) -> dict[str, Tensor]:
    """The mean of curves [repeat, point], and one standard deviation to both sides."""
    mean, apart = values.mean(0), values.std(0, correction=0)
    return {f"at random, mean ± sd of {len(values)}": mean, " −": mean - apart, " +": mean + apart}


def removal(found: Pruning, pick: Callable[[str, Sequence[Head]], None]) -> Lines:
    """What a loss becomes as heads are removed; a click on a point of a curve picks those removed so far."""
    orders = [("by importance", found.order, found.curve, ACCENT)]
    if found.exact_order is not None and found.exact_curve is not None:
        orders.append(("by exact cost", found.exact_order, found.exact_curve, SHADES[24]))
    curves = {name: curve for name, _, curve, _ in orders} | drawn_at_random(found.random)
    chart = Lines("Heads removed one by one", "heads removed")
    removed = torch.arange(len(found.curve))
    words = f"{found.words[:1].upper()}{found.words[1:]}, mean of {found.texts} text{'s' * (found.texts != 1)}."
    chart.draw(removed, curves, [*(colour for *_, colour in orders), *[SOFT] * 3], words)
    for name, order, curve, colour in orders:
        mark = dots(chart.scales, 30)
        place(mark, order, removed[1:], curve[1:], len(found.importance), ("removed", name))
        mark.colors = [colour]
        mark.observe(partial(_removed, found.part, order, pick), "selected")
        chart.figure.marks = [*chart.figure.marks, mark]
    return chart


def _removed(
    part: str, order: Sequence[Head], pick: Callable[[str, Sequence[Head]], None], change: Mapping[str, Any]
) -> None:
    if change["new"] is not None and len(change["new"]):
        pick(part, order[: int(max(change["new"])) + 1])


def agreement(found: Faithfulness) -> Chart:
    """How well rankings agree with exact cuts: Spearman's correlation of each."""
    rows = [(name, of) for of in (found.edges, found.pairs) for name in of.scores]
    labels = [f"{name}{' (pairs)' if of is found.pairs else ''}" for name, of in rows]
    scales = {"x": bq.LinearScale(), "y": bq.OrdinalScale(domain=labels[::-1])}
    marks, every = [], [0.0, 1.0]
    for cut, marker, colour in zip(CUTS, ("circle", "diamond"), (SHADES[20], ACCENT), strict=True):
        ranks = np.array([of.rank(name, cut) for name, of in rows])
        there = np.isfinite(ranks)
        every += ranks[there].tolist()
        marks.append(
            bq.Scatter(
                x=ranks[there], y=np.array(labels)[there], scales=scales, marker=marker, colors=[colour],
                default_size=60, stroke=GROUND, tooltip_style=_TOOLTIP, interactions={"hover": "tooltip"},
                tooltip=bq.Tooltip(fields=["y", "x"], labels=["", f"rank, {cut}"], formats=["", ".3f"]),
            )
        )  # fmt: skip
    chart = Chart("Agreement with exact cuts", marks, scales, "Spearman's rank correlation")
    chart.fit(torch.tensor(every))
    chart.figure.fig_margin = {**chart.figure.fig_margin, "left": 120}
    chart.figure.layout.height = f"{max(240, 70 + 18 * len(rows))}px"
    chart.say(
        f"Sizes of scores and of what cutting does to {found.words}: {len(found.edges.cells)} of {found.edges.total} "
        f"edges, and {len(found.pairs.cells)} of {found.pairs.total} pairs of tokens cut in all heads at once. On this "
        "input only.",
        f'<span class="attn-lines"><span style="color:{SHADES[20]}">● zeroed</span> '
        f'<span style="color:{ACCENT}">◆ knocked out</span></span>',
    )
    return chart


def deletion(found: Faithfulness) -> Chart:
    """What becomes of the objective as tokens are hidden, by rankings of the tokens."""
    of = found.curves
    curves = {**of.deletion, **drawn_at_random(of.random_deletion)}
    colours = [SEVERAL[at % len(SEVERAL)] for at in range(len(of.deletion))] + [SOFT] * 3
    chart = Lines("Tokens hidden", f"tokens hidden, of {of.tokens}", "change")
    chart.draw(
        torch.tensor(of.counts), curves, colours,
        f"Change of {found.words} as the tokens that each ranking puts first are hidden from all others.",
    )  # fmt: skip
    return chart
