"""The widget: what is selected and how it is drawn, as traits; and one handler for what the browser asks.

Every selection goes both ways. A click in the browser changes the trait, and whoever observes or links it hears of it:

    widget = AttentionWidget(attention, layer=5)
    widget.observe(lambda change: print(widget.map.row(3)), names=["layer", "head"])
"""

from __future__ import annotations

import asyncio
import json
import math
import operator
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from . import __version__, truth, wire
from .attention import Attention
from .compare import SIDES, CommonPart, Difference
from .layers import Part
from .maps import REDUCTIONS, Computed, OfTokens
from .measures import STATISTICS, Measures, own
from .trace import Trace
from .wire import Shown

_FRONT_END = Path(__file__).parent / "static" / "widget.js"

VIEWS = ("arcs", "heatmap", "graph", "text", "steps", "image", "table")
SWITCHES: Mapping[str, Any] = {"scale": True, "mask": True, "positions": True, "uniform": False, "temperature": 1.0}


class Index(t.Int):  # type: ignore[type-arg]  # traitlets 5.0 knows no arguments
    """An int of any make, numpy's included; True and False are none."""

    def validate(self, obj: Any, value: Any) -> int:
        """``value`` as an int."""
        try:
            return self.error(obj, value) if isinstance(value, bool) else operator.index(value)
        except TypeError:
            self.error(obj, value)


class Selection(t.HasTraits):
    """Which map of an attention is looked at, and how it is drawn. What does not exist is refused in words.

    Where another part or layer is chosen that lacks the selected head or token, that head or token is let go.
    """

    sample = Index(0, help="which text or image of the batch").tag(sync=True)
    part = t.Unicode(help="name of the part: attention.parts lists them").tag(sync=True)
    layer = Index(None, allow_none=True, help="None: reduced over layers").tag(sync=True)
    head = Index(None, allow_none=True, help="None: reduced over heads").tag(sync=True)
    reduce = t.Enum(REDUCTIONS, "mean", help="how layers or heads are reduced").tag(sync=True)
    heads = t.List(
        t.Tuple(Index(), Index()),
        help="(layer, head) of several heads, joined by reduce; empty: layer and head say which",
    ).tag(sync=True)
    overlay = t.Bool(True, help="whether up to six heads have colours of their own where a view can do that").tag(
        sync=True
    )
    query = Index(None, allow_none=True, help="the token in focus").tag(sync=True)
    pinned = t.List(Index(), help="query tokens that stay; their rows add up").tag(sync=True)
    step = Index(None, allow_none=True, help="generated token number 1, 2 … in the making; None: all").tag(sync=True)
    view = t.Enum(VIEWS, "arcs", help="how the map is drawn").tag(sync=True)
    arrangement = t.Enum(("columns", "line"), "columns", help="arcs between two columns, or above one line").tag(
        sync=True
    )
    group = t.Enum(("token", "word", "sentence"), "token", help="what stands as one token").tag(sync=True)
    direction = t.Enum(("attends", "receives"), "attends", help="what a text is tinted by").tag(sync=True)
    sinks = t.Bool(True, help="False: the keys that take most are left out of the colour range").tag(sync=True)
    side = t.Enum(SIDES, "difference", help="of a comparison: A − B, A or B").tag(sync=True)
    sort = t.Unicode("", help="the measure that the heads are sorted by; empty: as in the model").tag(sync=True)
    least = t.Float(None, allow_none=True, help="heads below this in sort are dimmed").tag(sync=True)
    switches = t.Dict(default_value=dict(SWITCHES), help="what the steps change about a head, to see what it does").tag(
        sync=True
    )
    views = t.Dict(help="views that were given a name: the traits of each").tag(sync=True)
    scale = t.Enum(("linear", "sqrt", "log", "uniform"), "sqrt", help="from weights to colours").tag(sync=True)
    threshold = t.Float(0.9, help="share of each row's weight that the drawn edges carry").tag(sync=True)
    effects = t.Bool(False, help="of a trace: whether edges show what they do to the objective").tag(sync=True)
    theme = t.Enum(("auto", "light", "dark"), "auto", help="auto follows the notebook").tag(sync=True)

    def __init__(self, attention: Shown | Trace, *, measures: Mapping[str, Any] | None = None, **traits: Any) -> None:
        self._trace = attention if isinstance(attention, Trace) else None
        attention = attention.attention if isinstance(attention, Trace) else attention
        if not isinstance(attention, (Attention, Difference)):
            raise TypeError(
                f"An Attention can be shown, a {type(attention).__name__} cannot. Make one with "
                "capture(model, text, tokenizer), Attention.from_weights(…) or Attention.from_qk(…)."
            )
        unknown = traits.keys() - set(self.trait_names())
        if unknown:
            raise TypeError(
                f"There is no option {', '.join(sorted(unknown))}. There are budget, measures, {', '.join(NAMES)}."
            )
        self._attention = attention
        self._measures = own(attention, measures)
        super().__init__(**{**_opening(attention), **traits})

    @property
    def attention(self) -> Shown:
        """What is looked at."""
        return self._attention

    @property
    def trace(self) -> Trace | None:
        """What the effects of edges are computed from, where a trace is shown."""
        return self._trace

    @property
    def map(self) -> Computed:
        """The selected map: its numbers, as they are shown.

        Of several ``heads`` it is their reduction; where ``group`` is word or sentence its rows and columns are these,
        and while a generated token is in the making they are tokens; of a comparison ``side`` says which.

        Raises:
            ValueError: words or sentences are asked for, and neither axis has a text.
        """
        found = self._of_tokens
        return found if self.group == "token" or self.step is not None else found.grouped(self.group)

    @property
    def _of_tokens(self) -> OfTokens:
        shown = self._attention.select(self.sample)
        which: dict[str, Any] = {"part": self.part, "reduce": self.reduce}
        if self.heads:
            which["heads"] = self.heads
        else:
            which |= {"layer": self.layer, "head": self.head}
        return shown.map(**which) if isinstance(shown, Attention) else shown.map(**which, side=self.side)

    @property
    def measures(self) -> dict[str, dict[str, Any]]:
        """The numbers of your own for every head: {name: {part: float32 [layer, head]}}."""
        names = dict.fromkeys(name for of in self._measures.values() for name in of)
        return {name: {part: of[name] for part, of in self._measures.items() if name in of} for name in names}

    def state(self) -> dict[str, Any]:
        """What is selected and how it is drawn, as a dict that goes through JSON; all but ``views``.

        >>> import torch
        >>> from attnwidget import Attention
        >>> Selection(Attention.from_weights(torch.eye(3)), view="heatmap", pinned=[1]).state()["pinned"]
        [1]
        """
        return {name: value for name, value in self._chosen().items() if name != "views"} | {"attnwidget": __version__}

    def code(self) -> str:
        """The line of Python that makes this view again, of an attention called ``attention``, or a trace ``trace``.

        >>> import torch
        >>> from attnwidget import Attention
        >>> Selection(Attention.from_weights(torch.eye(3)), layer=0, head=0, view="heatmap").code()
        "AttentionWidget(attention, layer=0, head=0, view='heatmap')"
        """
        usual = {name: self.traits()[name].default() for name in NAMES} | _opening(self._attention)
        chosen = {name: getattr(self, name) for name in NAMES if name != "views"}
        words = [f"{name}={value!r}" for name, value in chosen.items() if value != usual[name]]
        shown = ["trace" if self._trace else "attention", *(["measures=measures"] if self._measures else [])]
        return f"AttentionWidget({', '.join([*shown, *words])})"

    def _chosen(self) -> dict[str, Any]:
        """All of the above by name, as JSON has it."""
        values = {name: getattr(self, name) for name in NAMES}
        return {**values, "heads": [list(pair) for pair in self.heads]}

    def _fitting(self, state: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """What of a saved state can be chosen here, and what cannot, in words.

        Raises:
            TraitError: a value of a wrong kind.
        """
        lost = [f"There is no option {name!r}." for name in state if name not in (*NAMES, "attnwidget")]
        given = {name: state[name] for name in NAMES if name in state and name != "views"}
        with self.cross_validation_lock:  # kinds only
            given = {name: self.traits()[name]._validate(self, value) for name, value in given.items()}
        given |= {name: self._within_bounds(name, given[name]) for name in _BOUNDED if name in given}
        merged = {**{name: getattr(self, name) for name in NAMES}, **given}
        kept = _existing(self._attention, merged, self._measures)
        for name, value in kept.items():
            if name in given and value != given[name]:
                lost.append(f"{name} was {given[name]!r}, which is not all there in this attention; it is {value!r}.")
        now = {name: value for name, value in kept.items() if name in given or value != getattr(self, name)}
        return {**given, **now}, lost

    @property
    def _written(self) -> str:
        parts = [name for name in self._attention.parts if self._attention.part(name).queries.steps]
        return f" Generated tokens are in {', '.join(map(repr, parts))}." if parts and self.part not in parts else ""

    @t.observe("sample", "part", "layer")
    def _let_go(self, _: object) -> None:
        state = {name: getattr(self, name) for name in _OF_ATTENTION}
        for name, value in _existing(self._attention, state, self._measures).items():
            setattr(self, name, value)

    @t.validate(
        "sample", "part", "layer", "head", "heads", "query", "pinned", "step", "sort", "threshold", "least", "switches",
        "views", "effects",
    )  # fmt: skip
    def _known(self, proposal: Mapping[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name in _BOUNDED:
            return self._within_bounds(name, value)
        if self.part not in self._attention.parts:
            known = ", ".join(map(repr, self._attention.parts))
            raise t.TraitError(f"There is no part {self.part!r}; this attention has {known}.")
        if name == "pinned":
            return list(dict.fromkeys(self._within("pinned token", one) for one in value))
        if name == "heads":
            return list(dict.fromkeys(self._within_heads(pair) for pair in value))
        if name == "sort":
            there = sorted(_sortable(self._attention, self.part, self._measures))
            if value and value not in there:
                raise t.TraitError(
                    f"There is no measure {value!r} to sort by; there are {', '.join(there)}, and '' for the "
                    "order in the model."
                )
        elif name != "part" and value is not None:
            return self._within(name, value)
        return value

    def _within_bounds(self, name: str, value: Any) -> Any:
        if name == "threshold" and not 0 < value <= 1:
            raise t.TraitError(f"threshold is {value}; it must be above 0 and at most 1.")
        if name == "least" and value is not None and not math.isfinite(value):
            raise t.TraitError(f"least is {value}; it must be a number, or None to dim no head.")
        if name == "effects" and value and self._trace is None:
            raise t.TraitError("There is no objective to have effects on: show trace(model, text, tokenizer).")
        if name == "switches":
            return _switched(value)
        if name == "views":
            for title, view in value.items():
                if not isinstance(title, str) or not isinstance(view, Mapping):
                    raise t.TraitError(f"views holds {title!r}: {view!r}; it must be a dict of states by name.")
        return value

    def _within_heads(self, pair: tuple[int, int]) -> tuple[int, int]:
        layers = self._attention.part(self.part).layers
        try:
            layer = self._within("layer", pair[0])
            heads = layers[layer].heads
            if not -heads <= pair[1] < heads:
                raise t.TraitError(
                    f"head is {pair[1]}; in layer {layer} of {self.part} it must be from 0 to {heads - 1}."
                )
        except t.TraitError as problem:
            words = str(problem).replace(", or None for all layers", "")
            raise t.TraitError(f"heads holds {pair}: {words}") from None
        return layer, pair[1] % heads

    def _within(self, what: str, value: int) -> int:
        part = self._attention.part(self.part)
        size, where = len(part.queries), self.part
        if what == "step":
            steps = self._attention.select(self._within("sample", self.sample)).part(self.part).queries.steps
            if not 1 <= value <= steps:
                has = f"has {steps} generated tokens" if steps else "has no generated tokens"
                raise t.TraitError(f"There is no step {value}: {where} {has}. None shows all there is.{self._written}")
            return value
        if what == "sample":
            size, where = self._attention.samples, "this attention"
        elif what == "layer":
            size = len(part.layers)
            if -size <= value < size and part.layers[value].absent:
                raise t.TraitError(f"layer is {value}, which has no map ({part.layers[value].absent}).")
        elif what == "head":
            layer = None if self.layer is None else self._within("layer", self.layer)
            size, where = _heads(part, layer), where if layer is None else f"layer {layer} of {where}"
        if not -size <= value < size:
            otherwise = {"layer": ", or None for all layers", "head": ", or None for all heads"}.get(what, "")
            raise t.TraitError(f"{what} is {value}; in {where} it must be from 0 to {size - 1}{otherwise}.")
        return value % size


NAMES = tuple(name for name, one in vars(Selection).items() if isinstance(one, t.TraitType))
# What another attention may lack, in the order in which one depends on another; and what has bounds of its own.
_OF_ATTENTION = ("sample", "part", "layer", "head", "heads", "query", "pinned", "step", "sort", "least")
_BOUNDED = ("threshold", "least", "switches", "views", "effects")


def _opening(attention: Shown) -> dict[str, Any]:
    """The sample in view and the first part. What a model has written is what one wants to see."""
    written = [name for name in attention.parts if attention.part(name).queries.steps]
    return {"sample": attention.sample, "part": (written or attention.parts)[0]}


def _switched(value: Mapping[str, Any]) -> dict[str, Any]:
    """All switches, from some of them."""
    for name, one in value.items():
        if name not in SWITCHES:
            raise t.TraitError(f"There is no switch {name!r}; there are {', '.join(SWITCHES)}.")
        number = isinstance(one, (int, float)) and not isinstance(one, bool)
        if name == "temperature":
            if not (number and math.isfinite(one) and one > 0):
                raise t.TraitError(f"The temperature is {one!r}; it must be a number above 0.")
        elif not isinstance(one, bool):
            raise t.TraitError(f"The switch {name!r} is {one!r}; it must be True or False.")
    return {**SWITCHES, **value, "temperature": float(value.get("temperature", SWITCHES["temperature"]))}


def _heads(part: Part | CommonPart, layer: int | None) -> int:
    return part.heads if layer is None else part.layers[layer].heads


def _sortable(attention: Shown, part: str, measures: Measures) -> set[str]:
    """The names of the measures of a part: statistics, and one's own."""
    change = ["change"] if isinstance(attention, Difference) else []
    return {*STATISTICS, *change, *measures.get(part, {})}


def _existing(attention: Shown, state: Mapping[str, Any], measures: Measures) -> dict[str, Any]:
    """What is left of a selection in an attention that may lack parts of it."""
    name = state["part"] if state["part"] in attention.parts else attention.parts[0]
    samples = attention.samples
    sample = state["sample"] if -samples <= state["sample"] < samples else attention.sample
    part, layer = attention.select(sample).part(name), state["layer"]

    def there(layer: int | None) -> bool:
        layers = len(part.layers)
        return layer is not None and -layers <= layer < layers and not part.layers[layer].absent

    def within(value: int | None, size: int) -> bool:
        return value is not None and -size <= value < size

    layer = layer if there(layer) else None
    size, steps = len(part.queries), part.queries.steps
    sorts = not state["sort"] or state["sort"] in _sortable(attention, name, measures)
    return {
        "sample": sample,
        "part": name,
        "layer": layer,
        "head": state["head"] if within(state["head"], _heads(part, layer)) else None,
        "heads": [(of, head) for of, head in state["heads"] if there(of) and within(head, part.layers[of].heads)],
        "query": state["query"] if within(state["query"], size) else None,
        "pinned": [one for one in state["pinned"] if within(one, size)],
        "step": state["step"] if state["step"] is not None and 1 <= state["step"] <= steps else None,
        "sort": state["sort"] if sorts else "",
        "least": state["least"] if sorts else None,
    }


def first_of(chosen: Selection) -> list[wire.Selection]:
    """The maps that a browser needs to show a selection."""
    if chosen.heads:
        return [(chosen.part, layer, head, "mean") for layer, head in chosen.heads]
    return [(chosen.part, chosen.layer, chosen.head, chosen.reduce)]


def stepped_of(chosen: Selection) -> list[tuple[str, int, int]]:
    """The head that a selection shows step by step."""
    if chosen.view != "steps" or chosen.layer is None or chosen.head is None:
        return []
    return [(chosen.part, chosen.layer, chosen.head)]


def _read(text: str, views: Mapping[str, Any]) -> Any:
    """A state from its JSON text."""
    if not text.lstrip().startswith("{"):
        there = f"there are {', '.join(map(repr, views))}" if views else "none has been saved"
        raise KeyError(f"There is no view {text!r}; {there}.")
    try:
        return json.loads(text)
    except ValueError as problem:
        raise TypeError(f"This text is no state in JSON: {problem}.") from None


def _id(request: Any) -> Any:
    return request.get("id") if isinstance(request, Mapping) else None


class AttentionWidget(Selection, anywidget.AnyWidget):
    """An attention in the notebook: the matrix of all heads, and one map of it token by token.

    >>> import torch
    >>> from attnwidget import Attention
    >>> attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3), tokens=["a", "b", "c"])
    >>> widget = AttentionWidget(attention, layer=1, head=3, view="heatmap")
    >>> widget.map.row(2)
    tensor([0., 0., 1.])

    Args:
        attention: what :func:`~attnwidget.capture` returned, or made of numbers of your own; or two of them, compared
            by :func:`~attnwidget.compare`; or what :func:`~attnwidget.trace` returned: then edges can show what they do
            to the objective, and the browser can have the model run without them.
        budget: bytes that travel at once and that a saved notebook keeps: thumbnails of all heads, and as many whole
            maps as fit. The rest is asked for when somebody looks.
        measures: numbers of your own for every head, {name: [layer, head]}, of the first part, or
            {name: {part: [layer, head]}}; NaN where there is none. The matrix shows them and sorts by them.
        **traits: any of :class:`Selection`'s. The mean over all layers and heads is shown unless you say otherwise.

    Raises:
        TypeError: no such option; measures that are no numbers.
        ValueError: measures of another shape. KeyError: measures of a part that is not there.
        TraitError: no such part, layer, head, token, measure or view.
        FileNotFoundError: the front end has not been built.
    """

    _esm: Any = _FRONT_END if _FRONT_END.is_file() else ""
    _bundle = t.Bytes().tag(sync=True)
    verified = t.Dict(help="what was verified last: see attnwidget.truth.verified").tag(sync=False)

    def __init__(
        self,
        attention: Shown | Trace,
        *,
        budget: int = 700_000,
        measures: Mapping[str, Any] | None = None,
        **traits: Any,
    ) -> None:
        if self._esm == "":
            raise FileNotFoundError(
                f"The front end is not built: {_FRONT_END} is missing. Run `pip install -e .` in the repository, or "
                "`npm run build` in its folder js."
            )
        # Everything that can be refused is refused before the work begins.
        unknown = {name: value for name, value in traits.items() if not self.has_trait(name)}
        known = {name: traits[name] for name in NAMES if name in traits}
        chosen = Selection(attention, measures=measures, **unknown, **known)
        self._trace = chosen.trace
        self._budget = budget
        self._measures = chosen._measures
        self._waiting: deque[tuple[Shown | Trace, Any]] = deque()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that has been asked for a turn
        super().__init__(attention, measures=measures, **traits, _bundle=self._pack(chosen))
        self.on_msg(self._receive)

    @property
    def attention(self) -> Shown:
        """What is shown. Put another one in its place, and what it does not have is no longer selected.

        Measures of your own go, too: they were about the heads of the one before.
        """
        return self._attention

    @attention.setter
    def attention(self, attention: Shown | Trace) -> None:
        self._replace(attention, None)

    def _replace(self, attention: Shown | Trace, measures: Mapping[str, Any] | None) -> None:
        now = {name: getattr(self, name) for name in NAMES}
        fresh = Selection(attention, measures=measures)  # refuses what is none
        now["effects"] = now["effects"] and fresh.trace is not None
        state = {**_existing(fresh.attention, now, fresh._measures), "effects": now["effects"]}
        chosen = Selection(attention, measures=measures, **{**now, **state})
        packed = self._pack(chosen)
        with self._lock:
            late = [request for _, request in self._waiting]
            self._waiting.clear()
        for request in late:
            self._refuse(request, "Another attention is shown by now.")
        with self.hold_sync(), self.hold_trait_notifications():
            self._attention, self._measures, self._trace = chosen.attention, chosen._measures, chosen.trace
            for name, value in {**state, "_bundle": packed}.items():
                setattr(self, name, value)

    def restore(self, state: Mapping[str, Any] | str) -> None:
        """Choose again what a saved state had chosen: all of it at once, and only what is in it.

        Args:
            state: what :meth:`state` returned, its JSON text, or the name of one of :attr:`views`.

        Raises:
            KeyError: no view has that name. TypeError: it is no state.
            TraitError: a value of a wrong kind; nothing has changed then.

        Warns:
            UserWarning: what this attention does not have is let go.

        >>> import torch
        >>> from attnwidget import Attention
        >>> widget = AttentionWidget(Attention.from_weights(torch.eye(3)), view="heatmap", layer=0)
        >>> widget.save("one layer")
        >>> widget.layer, widget.view = None, "arcs"
        >>> widget.restore("one layer")
        >>> widget.layer, widget.view
        (0, 'heatmap')
        """
        if isinstance(state, str):
            state = self.views[state] if state in self.views else _read(state, self.views)
        if not isinstance(state, Mapping):
            raise TypeError(f"A state is a dict, as widget.state() returns it, or its JSON text: not {state!r}.")
        chosen, lost = self._fitting(state)
        with self.hold_sync(), self.hold_trait_notifications():
            for name, value in chosen.items():
                setattr(self, name, value)
        if lost:
            warnings.warn(" ".join(lost), stacklevel=2)

    def save(self, name: str) -> None:
        """Keep what is selected now under a name, in :attr:`views`, in the browser's list as well.

        Raises:
            ValueError: the name is empty.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"The name of a view is {name!r}; it must be a text.")
        self.views = {**self.views, name: self.state()}

    def _pack(self, chosen: Selection) -> bytes:
        return wire.bundle(
            chosen.attention.select(chosen.sample),
            budget=self._budget,
            first=first_of(chosen),
            measures=chosen._measures,
            stepped=stepped_of(chosen),
            objective=truth.about(chosen.trace),
        )

    @t.observe("sample")
    def _show_sample(self, _: object) -> None:
        """Send what the browser cannot have of another text: it looks for it in the bundle first."""
        if self._bundle and self.sample not in wire.samples_of(self._bundle):
            self._bundle = self._pack(self)

    # ── what the browser asks ──
    #
    # Messages may arrive in another thread than the one that made the widget: JupyterLab opens a subshell for them,
    # with an event loop of its own that ends with the page. The queue therefore has a lock, and its turn is taken by
    # whatever loop is running when a message comes.

    def _receive(self, _widget: object, content: Any, _buffers: object) -> None:
        """Messages: {"type": "get", "requests": […]} and {"type": "cancel", "ids": […]}."""
        told = content if isinstance(content, Mapping) else {}
        with self._lock:
            if told.get("type") == "get" and isinstance(told.get("requests"), list):
                self._waiting.extend((self._trace or self._attention, one) for one in told["requests"])
            elif told.get("type") == "cancel" and isinstance(told.get("ids"), list):
                # Nobody waits for these any more: they get no reply.
                for one in [one for one in self._waiting if _id(one[1]) in told["ids"]]:
                    self._waiting.remove(one)
        self._work()

    def _work(self) -> None:
        """Answer what waits: one request in each turn of the event loop, so that "cancel" can come in between."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            while self._answer_next():
                pass
            return
        with self._lock:
            if self.comm is None:
                self._waiting.clear()
            if not self._waiting or self._loop is loop:
                return
            self._loop = loop
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is loop:
                self._loop = None
        try:
            self._answer_next()
        finally:
            self._work()

    def _answer_next(self) -> bool:
        """Answers one request, with the attention that was shown when it came. False if none waits."""
        with self._lock:
            if not self._waiting or self.comm is None:
                return False
            about, request = self._waiting.popleft()
        try:
            for content, buffers in wire.messages(*self._answer(about, request)):
                self.send(content, buffers)
        except Exception as problem:
            self._refuse(request, f"The answer could not be sent: {problem!r}")
        return True

    def _answer(self, about: Shown | Trace, request: Any) -> tuple[dict[str, Any], list[bytes]]:
        if not isinstance(about, Trace):
            return wire.answer(about, request)
        if not isinstance(request, Mapping) or request.get("want") not in ("effects", "verified"):
            return wire.answer(about.attention, request)
        found: dict[str, Any] | None = None

        def make() -> bytes:
            nonlocal found
            made, found = truth.answer(about, request)
            return made

        reply = wire.reply(request, make)
        if found is not None:
            self.verified = found
        return reply

    def _refuse(self, request: Any, words: str) -> None:
        self.send({"type": "error", "id": _id(request), "message": words})

    def __repr__(self) -> str:
        by = "" if self.group == "token" else f" by {self.group}"
        return f"<AttentionWidget: {self._of_tokens!r}{by} as {self.view}, of {self._attention!r}>"
