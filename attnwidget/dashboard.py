"""Charts of heads, linked to an attention widget: what is clicked or brushed in a chart is selected there, and back.

A head has one number for each measure. Heads that lie close together attend alike; what they are for, no chart says.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from html import escape
from typing import Any

import bqplot as bq
import ipywidgets as w
import numpy as np
import torch
import traitlets as t
from torch import Tensor

from . import charts, outputs
from .attention import Attention
from .charts import Chart, Grid, Lines, along, dots, legend, named, number, place, small, with_unit
from .colours import ACCENT, INK, SHADES, SOFT, STYLE
from .compare import CommonPart, Difference
from .layers import Part
from .measured import MEASURES, own
from .measures import spectrum, statistics
from .pruning import Head, Pruning, gates
from .shown import Shown, is_difference
from .study import Faithfulness
from .trace import Trace
from .widget import AttentionWidget

_WORK = 1 << 25  # weights behind the measures of a part before queries are sampled: some seconds
_REACH = 64  # offsets of a spectrum
_NAMED = 3  # points with their names beside them
_FIRST = {"x": ("distance", "patches", "first"), "y": ("entropy",), "measure": ("change", "previous", "entropy")}


class Dashboard(w.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Measures of all heads as charts: two against each other, by layer, over layer × head; and what is selected.

    A click on a point, a cell or a layer's bar selects it in the widget, Ctrl adds a point; with ``by="brush"`` a
    rectangle selects all heads in it, and the widget shows their mean. What is selected in the widget is marked in the
    charts.

    >>> from attnwidget import capture, tiny
    >>> model, tokenizer = tiny.decoder()
    >>> dashboard = Dashboard(capture(model, "The cat saw the dog.", tokenizer), x="previous", y="first")
    >>> dashboard.widget.layer, dashboard.widget.head = 2, 0
    >>> dashboard.selected
    [(2, 0)]
    >>> dashboard.select([(0, 1), (3, 2)])
    >>> dashboard.widget.heads
    [(0, 1), (3, 2)]

    Args:
        shown: an attention, a comparison or a trace, of which an :class:`~attnwidget.AttentionWidget` is made and shown
            above the charts; or a widget that is somewhere else in the notebook. Of a trace, "effect" is what each head
            adds to its objective, to first order.
        measures: names of :data:`~attnwidget.measures.MEASURES`, all of them unless given; or numbers of your own
            beside these, {name: [layer, head]}, as for the widget, whose own are shown in any case.
        pruning: what :func:`~attnwidget.pruning.pruning` returned: its curves, and "importance" among the measures. A
            click on a curve selects the heads removed so far.
        faithfulness: what :func:`~attnwidget.study.faithfulness` returned: how well maps agree with exact ablation.
        **traits: ``x``, ``y``, ``measure``, ``by``.

    Raises:
        TypeError: nothing that can be shown. ValueError: no such measure, or none has a number here.
        TraitError: an axis that is no measure of this attention.
    """

    x = t.Unicode(help="the measure to the right")
    y = t.Unicode(help="the measure upwards")
    measure = t.Unicode(help="the measure of the bars and of the grid of heads")
    by = t.Enum(("click", "brush"), "click", help="how heads are selected among the points")

    def __init__(
        self,
        shown: AttentionWidget | Shown | Trace,
        *,
        measures: Collection[str] | Mapping[str, Any] | None = None,
        pruning: Pruning | None = None,
        faithfulness: Faithfulness | None = None,
        **traits: Any,
    ) -> None:
        unknown = traits.keys() - set(_FIRST) - {"by"}
        if unknown:
            raise TypeError(f"There is no option {', '.join(sorted(unknown))}. There are x, y, measure, by.")
        self.widget = shown if isinstance(shown, AttentionWidget) else AttentionWidget(shown)
        numbers = measures if isinstance(measures, Mapping) else {}
        self._names = list(MEASURES) if measures is None or measures is numbers else list(measures)
        self._adopt(numbers, pruning)
        self._leading, self._brushed = True, set[Head]()
        self._numbers = self._measured(self._names)
        if not self._numbers:
            raise ValueError(f"No measure has a number for any head of {self.widget.part}: there is nothing to chart.")
        self._build(pruning, faithfulness)
        style = w.HTML(f"<style>{STYLE}</style>", layout={"display": "none"})
        made = [] if self.widget is shown else [self.widget]
        super().__init__([style, *made, *self._bands], **{name: self._opening(name) for name in _FIRST} | traits)
        self.add_class("attn-dashboard")
        self._dress()
        self._redraw()
        t.link((self, "by"), (self._by, "value"))
        self.widget.observe(self._follow, ["part", "sample", "side", "_bundle", "layer", "head", "heads"])
        self.widget.observe(self._dress, "theme")
        self.observe(self._redraw, [*_FIRST])

    # ── numbers ──

    @property
    def numbers(self) -> dict[str, Tensor]:
        """The measures of the part in view by name, float32 [layer, head], NaN where there is none."""
        return dict(self._numbers)

    def _adopt(self, measures: Mapping[str, Any], pruning: Pruning | None) -> None:
        """What is in the widget now, and measures of it that are not computed here, with their words."""
        self._attention, self._known = self.widget.attention, dict[Any, dict[str, Tensor]]()
        given, self._notes, trace = dict(measures), dict[str, str](), self.widget.trace
        if trace is not None:
            given["effect"] = {part: gates(trace, part) for part in trace.attention.parts}
            self._notes["effect"] = f"what the head adds to {trace.objective.words}, to first order"
        if pruning is not None:
            given["importance"] = {pruning.part: pruning.importance}
            self._notes["importance"] = f"how much {pruning.words} depends on the head, to first order"
        self._own = own(self._attention, given)

    def _measured(self, names: Collection[str]) -> dict[str, Tensor]:
        widget = self.widget
        key = (widget.sample, widget.part, widget.side, *names)
        if key not in self._known:
            shown = widget.attention.select(widget.sample)
            brought = dict(self._own.get(widget.part, {}))
            brought |= {name: of[widget.part] for name, of in widget.measures.items() if widget.part in of}
            found = _statistics(shown, widget.part, widget.side, names)
            found |= {name: torch.as_tensor(values) for name, values in brought.items()}
            self._known[key] = {name: values for name, values in found.items() if bool(values.isfinite().any())}
        return self._known[key]

    def _opening(self, name: str) -> str:
        there = [one for one in _FIRST[name] if one in self._numbers]
        return there[0] if there else next(iter(self._numbers))

    @t.validate("x", "y", "measure")
    def _is_measure(self, proposal: Mapping[str, Any]) -> str:
        name: str = proposal["value"]
        if name not in self._numbers:
            raise t.TraitError(f"There is no measure {name!r} here; there are {', '.join(self._numbers)}.")
        return name

    # ── the selection ──

    @property
    def selected(self) -> list[Head]:
        """Pairs (layer, head) that the widget shows: several, one, those of a layer or of a place in all; none: all."""
        widget = self.widget
        if widget.heads:
            return list(widget.heads)
        if widget.layer is None and widget.head is None:
            return []
        layers = enumerate(widget.attention.part(widget.part).layers)
        return [
            (at, head)
            for at, layer in layers
            for head in range(layer.heads)
            if widget.layer in (None, at) and widget.head in (None, head)
        ]

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a notebook keeps of it: the heads, as of their widget, and a word on the charts."""
        live = super()._repr_mimebundle_() if outputs.options.live else None
        data, about = outputs.mimebundle(self.widget, live or {})
        if "text/html" in data:
            data["text/html"] += "<p>The charts of this dashboard are drawn where a kernel runs.</p>"
        return data, about

    def _mime_(self) -> tuple[str, str]:
        """What marimo shows of it."""
        return "text/html", (
            "<p>marimo shows no ipywidgets, and the charts of a dashboard are made of them. Its parts can be shown by "
            "themselves: <code>dashboard.widget</code>, the heads; <code>dashboard.numbers</code>, their measures.</p>"
        )

    def select(self, heads: Collection[Head]) -> None:
        """Selects heads in the widget: one; several, of which it shows the mean; or, of none, the mean of all.

        Raises:
            TraitError: no such head.
        """
        one = next(iter(heads)) if len(heads) == 1 else (None, None)
        self._show(list(heads) if len(heads) > 1 else [], *one)

    def _show(self, heads: list[Head], layer: int | None, head: int | None) -> None:
        widget = self.widget
        with widget.hold_sync(), widget.hold_trait_notifications():
            widget.heads, widget.layer, widget.head = heads, layer, head
            widget.overlay = widget.overlay and not heads  # not one by one, in colours: their mean

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """While the charts are set from here, what they report is no choice of anybody's."""
        before, self._leading = self._leading, False
        try:
            yield
        finally:
            self._leading = before

    def _follow(self, change: Mapping[str, Any]) -> None:
        """The widget shows something else."""
        if self.widget.attention is not self._attention:  # numbers of one's own were about the heads of the one before
            self._adopt({}, None)
        elif change["name"] in ("layer", "head", "heads"):
            self._mark()
            return
        self._numbers = self._measured(self._names) or self._measured(["entropy"])
        with self._quietly(), self.hold_trait_notifications():
            for name in _FIRST:
                if getattr(self, name) not in self._numbers:
                    setattr(self, name, self._opening(name))
        self._redraw()

    def _picked(self, change: Mapping[str, Any]) -> None:
        if self._leading and self.by == "click":
            chosen = change["new"]
            self.select([] if chosen is None else [self._points[at] for at in chosen.tolist()])

    def _brush(self, _: object) -> None:
        """The heads in the rectangle, once it stands."""
        brush = self._brushing
        if not self._leading or brush.brushing:
            return
        inside: list[Head] = []
        if brush.selected_x is not None and brush.selected_y is not None:
            (left, right), (low, high) = sorted(brush.selected_x), sorted(brush.selected_y)
            x, y = self._scatter.x, self._scatter.y
            there = (left <= x) & (x <= right) & (low <= y) & (y <= high)
            inside = [self._points[at] for at in np.flatnonzero(there)]
        self._brushed = set(inside)
        self.select(inside)

    def _unbrush(self) -> None:
        """Takes the rectangle away, which no longer stands for what is selected."""
        self._brushed = set()
        with self._brushing.hold_sync():
            self._brushing.selected_x = self._brushing.selected_y = None

    def _mark(self) -> None:
        """Shows in the charts what is selected in the widget."""
        chosen = self.selected
        with self._quietly():
            for mark, points in ((self._scatter, self._points), (self._dots, self._in_layers)):
                at = [points.index(head) for head in chosen if head in points]
                mark.selected = np.array(at, np.uint32) if at else None
            self._grid.mark(chosen)
            if self._brushed != set(chosen):
                self._unbrush()
            named = [at for at, head in enumerate(self._points) if head in chosen] if len(chosen) <= _NAMED else []
            with self._labels.hold_sync():
                self._labels.x, self._labels.y = self._scatter.x[named], self._scatter.y[named]
                self._labels.text = np.array([f"{layer}·{head}" for layer, head in (self._points[at] for at in named)])
        self._draw_spectrum(chosen)
        self._draw_map(chosen)
        self._say(chosen)

    # ── the charts ──

    def _build(self, pruning: Pruning | None, faithfulness: Faithfulness | None) -> None:
        """All marks and figures, empty still."""
        plane, bars = ({"x": scale(), "y": bq.LinearScale()} for scale in (bq.LinearScale, bq.OrdinalScale))
        self._scatter, self._dots = dots(plane, 70), dots(bars, 24)
        for mark in (self._scatter, self._dots):
            mark.observe(self._picked, "selected")
        self._labels = bq.Label(x=[], y=[], scales=plane, colors=[INK], default_size=11, x_offset=7, y_offset=-9)
        self._brushing = bq.interacts.BrushSelector(x_scale=plane["x"], y_scale=plane["y"], color=ACCENT)
        self._brushing.observe(self._brush, ["brushing", "selected_x", "selected_y"])
        self._plane = Chart("Heads by two measures", [self._scatter, self._labels], plane)

        self._bars = bq.Bars(x=[0], y=[0.0], scales=bars, colors=[SHADES[12]], stroke_width=0)
        self._bars.on_element_click(lambda _, told: self._show([], int(told["data"]["x"]), None))
        self._by_layer = Chart("By layer", [self._bars, self._dots], bars, "layer")

        self._grid, self._mean = Grid("Layer × head", "head", "layer"), Grid("Mean map", "key", "query")
        self._grid.cells.on_element_click(
            lambda _, told: self.select([(int(told["data"]["row"]), int(told["data"]["column"]))])
        )
        self._lines = Lines("How far back", "tokens back")
        every: list[Chart] = [self._plane, self._by_layer, self._grid, self._lines, self._mean]
        every += [] if pruning is None else [charts.removal(pruning, self._remove)]
        every += [] if faithfulness is None else [charts.agreement(faithfulness), charts.deletion(faithfulness)]

        self._controls = {
            name: w.Dropdown(description=words)
            for name, words in (("x", "to the right"), ("y", "upwards"), ("measure", "bars and grid"))
        }
        for name, control in self._controls.items():
            control.observe(partial(self._chosen, name), "value")
        self._by = w.ToggleButtons(options=self.traits()["by"].values, description="select by")
        bar, box = w.Box([*self._controls.values(), self._by]), w.Box([chart.box for chart in every])
        self._foot = w.HTML()
        for band, name in ((bar, "bar"), (box, "charts"), (self._foot, "foot")):
            band.add_class(f"attn-dashboard-{name}")
        self._bands = [bar, box, self._foot]

    def _chosen(self, name: str, change: Mapping[str, Any]) -> None:
        if self._leading and change["new"] is not None:
            setattr(self, name, change["new"])

    @t.observe("by")
    def _arm(self, _: object) -> None:
        with self._quietly():
            self._unbrush()
        self._plane.figure.interaction = self._brushing if self.by == "brush" else None

    def _dress(self, _: object = None) -> None:
        for theme in ("light", "dark"):
            (self.add_class if self.widget.theme == theme else self.remove_class)(f"attn-{theme}")

    def _redraw(self, _: object = None) -> None:
        """Other measures, or their numbers of something else."""
        with self._quietly():
            for name, control in self._controls.items():
                control.options = list(self._numbers)
                control.value = getattr(self, name)
            self._draw_plane()
            self._draw_bars()
            self._grid.draw(self._numbers[self.measure])
            self._grid.say(f"{self.measure}: {self._words(self.measure)}.")
        self._mark()

    def _draw_plane(self) -> None:
        x, y = self._numbers[self.x], self._numbers[self.y]
        there = x.isfinite() & y.isfinite()
        self._points = _pairs(there)
        self._unbrush()
        place(self._scatter, self._points, x[there], y[there], len(x), (self.x, self.y))
        self._plane.fit(x[there], y[there])
        self._plane.across.label, self._plane.upwards.label = with_unit(self.x), with_unit(self.y)
        gone = sum(layer.heads for layer in self.widget.attention.part(self.widget.part).layers) - len(self._points)
        words = " ".join(f"{name}: {self._words(name)}." for name in dict.fromkeys((self.x, self.y)))
        left_out = f" Heads without a number, which are left out: {gone}." if gone else ""
        self._plane.say(words + left_out, legend("layers", "layer 0", f"layer {len(x) - 1}"))

    def _draw_bars(self) -> None:
        values = self._numbers[self.measure]
        there = values.isfinite()
        self._in_layers = _pairs(there)
        layers = there.any(1).nonzero()[:, 0]
        along(self._by_layer.across, range(len(values)))
        with self._bars.hold_sync():
            self._bars.x, self._bars.y = layers.numpy(), values[layers].double().nanmean(1).numpy()
        of = torch.tensor([layer for layer, _ in self._in_layers])
        place(self._dots, self._in_layers, of, values[there], len(values), ("layer", self.measure))
        self._by_layer.fit(y=torch.cat([values[there], torch.zeros(1)]))
        self._by_layer.upwards.label = with_unit(self.measure)
        self._by_layer.say("Points are heads, bars the means of layers.")

    def _draw_spectrum(self, chosen: Sequence[Head]) -> None:
        widget = self.widget
        key = (widget.sample, widget.part, widget.side, "spectrum")
        if key not in self._known:
            self._known[key] = _spectrum(widget.attention.select(widget.sample), widget.part, widget.side)
        if not self._known[key]:
            self._lines.box.layout.display = "none"  # queries and keys are not one line of tokens
            return
        offset, values = self._known[key]["offset"], self._known[key]["values"].double()
        curves = {"all heads": values.flatten(0, 1).nanmean(0)}
        if chosen:
            layers, heads = zip(*chosen, strict=True)
            curves[named(chosen)] = values[list(layers), list(heads)].nanmean(0)
        self._lines.box.layout.display = None
        words = "Mean weight on the key so many tokens back, where there is one"
        there = curves["all heads"].isfinite()  # not where no query was asked
        curves = {name: curve[there] for name, curve in curves.items()}
        self._lines.draw(offset[there], curves, [SOFT, ACCENT], f"{words}{self._over}.")

    def _draw_map(self, chosen: Sequence[Head]) -> None:
        widget, shown = self.widget, self.widget.attention.select(self.widget.sample)
        which: dict[str, Any] = {"part": widget.part} | ({"heads": chosen} if chosen else {})
        of = shown.map(**which) if isinstance(shown, Attention) else shown.map(**which, side=widget.side)
        p, words = small(of)
        low = -1.0 if isinstance(shown, Difference) and widget.side == "difference" else 0.0
        self._mean.draw(p.sign() * p.abs().sqrt(), (low, 1.0), "weight, square-root scale")
        self._mean.call(f"{'Map' if len(chosen) == 1 else 'Mean map'}: {named(chosen)}")
        self._mean.say(words)

    def _say(self, chosen: Sequence[Head]) -> None:
        """The sentence at the bottom."""
        at = tuple(torch.tensor(chosen).T) if chosen else (slice(None), slice(None))
        means = {name: self._numbers[name][at].double().nanmean() for name in (self.x, self.y, self.measure)}
        numbers = " · ".join(f"{escape(name)} <b>{number(float(mean))}</b>" for name, mean in means.items())
        of = "" if len(chosen) == 1 else "mean "
        self._foot.value = (
            f"<b>{named(chosen).capitalize()}</b>: {of}{numbers}. "
            "A measure says where weight goes, not what the output owes to it."
        )

    def _words(self, name: str) -> str:
        """What a measure is."""
        shown, side = self.widget.attention, self.widget.side
        if name in self._notes:
            return self._notes[name]
        if name not in MEASURES:
            return "your own numbers"
        sides = f": {' − '.join(shown.names)}" if isinstance(shown, Difference) and side == "difference" else ""
        return f"{MEASURES[name]}{sides}{self._over}"

    @property
    def _over(self) -> str:
        part = self.widget.attention.select(self.widget.sample).part(self.widget.part)
        some = _some(part)
        return "" if some is None else f", over {len(some)} of {len(part.queries)} queries"

    def _remove(self, part: str, heads: Sequence[Head]) -> None:
        self.widget.part = part
        self.select(heads)


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _statistics(shown: Shown, part: str, side: str, names: Collection[str]) -> dict[str, Tensor]:
    """Of a comparison those of a side, or what A has more than B."""
    if isinstance(shown, Attention):
        return statistics(shown, part, names, queries=_some(shown.part(part)))
    assert is_difference(shown)
    if side != "difference":
        return _statistics(shown.a if side == "a" else shown.b, part, side, names)
    of_a, of_b = (_statistics(one, part, side, names) for one in (shown.a, shown.b))
    change = shown.change(part, queries=_some(shown.part(part)))
    return {"change": change, **{name: of_a[name] - of_b[name] for name in of_a}}


def _spectrum(shown: Shown, part: str, side: str) -> dict[str, Tensor]:
    """offset [offset] and values [layer, head, offset]; nothing where there are no offsets."""
    if isinstance(shown, Attention):
        try:
            offset, values = spectrum(shown, part, reach=_REACH, queries=_some(shown.part(part)))
        except ValueError:
            return {}
        return {"offset": offset, "values": values}
    assert is_difference(shown)
    if side != "difference":
        return _spectrum(shown.a if side == "a" else shown.b, part, side)
    of_a, of_b = (_spectrum(one, part, side) for one in (shown.a, shown.b))
    if not of_a or not of_b:
        return {}
    offset = of_a["offset"][torch.isin(of_a["offset"], of_b["offset"])]
    a, b = (of["values"][..., torch.isin(of["offset"], offset)] for of in (of_a, of_b))
    return {"offset": offset, "values": a - b}


def _some(part: Part | CommonPart) -> Tensor | None:
    """The queries that measures are averaged over, evenly spread; None: all of them."""
    every = len(part.queries)
    step = math.ceil(every * len(part.keys) * sum(layer.heads for layer in part.layers) / _WORK)
    return None if step <= 1 else torch.arange(min(step // 2, every - 1), every, step)


def _pairs(there: Tensor) -> list[Head]:
    return [(layer, head) for layer, head in there.nonzero().tolist()]
