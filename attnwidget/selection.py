"""What is looked at and how it is drawn, as traits; what does not exist is refused in words.

A widget is a selection that is displayed; a page or a figure is made of one, too.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import traitlets as t

from . import __version__, wire
from .measured import STATISTICS, Measures, own
from .shown import REDUCTIONS, SIDES, Shown, is_difference, is_trace

if TYPE_CHECKING:
    from .trace import Trace

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
        self._trace = attention if is_trace(attention) else None
        attention = attention.attention if is_trace(attention) else attention
        if not isinstance(attention, Shown):
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
    def objective(self) -> dict[str, Any] | None:
        """What that trace explains, as the browser is told of it."""
        return None if self._trace is None else {"words": self._trace.objective.words, "value": self._trace.value}

    @property
    def map(self) -> Any:
        """The selected map: its numbers, as they are shown.

        Of several ``heads`` it is their reduction; where ``group`` is word or sentence its rows and columns are these,
        and while a generated token is in the making they are tokens; of a comparison ``side`` says which.

        Raises:
            ValueError: words or sentences are asked for, and neither axis has a text.
        """
        found = self._of_tokens
        return found if self.group == "token" or self.step is not None else found.grouped(self.group)

    @property
    def _of_tokens(self) -> Any:
        shown = self._attention.select(self.sample)
        which: dict[str, Any] = {"part": self.part, "reduce": self.reduce}
        if self.heads:
            which["heads"] = self.heads
        else:
            which |= {"layer": self.layer, "head": self.head}
        return shown.map(**which, side=self.side) if is_difference(shown) else shown.map(**which)

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
        kept = existing(self._attention, merged, self._measures)
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
        for name, value in existing(self._attention, state, self._measures).items():
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


def _heads(part: Any, layer: int | None) -> int:
    of: int = part.heads if layer is None else part.layers[layer].heads
    return of


def _sortable(attention: Shown, part: str, measures: Measures) -> set[str]:
    """The names of the measures of a part: statistics, and one's own."""
    change = ["change"] if is_difference(attention) else []
    return {*STATISTICS, *change, *measures.get(part, {})}


def selected(shown: Any, measures: Mapping[str, Any] | None, traits: Mapping[str, Any]) -> Selection:
    """What is exported: of a widget what is selected, with ``traits`` on top."""
    if not isinstance(shown, Selection):
        return Selection(shown, measures=measures, **traits)
    state = {name: getattr(shown, name) for name in NAMES}
    own = shown.measures if measures is None else measures
    return Selection(shown.trace or shown.attention, measures=own, **{**state, **traits})


def existing(attention: Shown, state: Mapping[str, Any], measures: Measures) -> dict[str, Any]:
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


def read_state(text: str, views: Mapping[str, Any]) -> Any:
    """A state from its JSON text."""
    if not text.lstrip().startswith("{"):
        there = f"there are {', '.join(map(repr, views))}" if views else "none has been saved"
        raise KeyError(f"There is no view {text!r}; {there}.")
    try:
        return json.loads(text)
    except ValueError as problem:
        raise TypeError(f"This text is no state in JSON: {problem}.") from None
