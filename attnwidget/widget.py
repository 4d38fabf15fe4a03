"""The widget: what is selected and how it is drawn, as traits; and one handler for what the browser asks.

Every selection goes both ways. A click in the browser changes the trait, and whoever observes or links it hears of it:

    widget = AttentionWidget(attention, layer=5)
    widget.observe(lambda change: print(widget.map.row(3)), names=["layer", "head"])
"""

from __future__ import annotations

import asyncio
import operator
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets as t

from . import wire
from .attention import REDUCTIONS, Attention, Map, Part

_FRONT_END = Path(__file__).parent / "static" / "widget.js"


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
    query = Index(None, allow_none=True, help="the token in focus").tag(sync=True)
    pinned = t.List(Index(), help="query tokens that stay; their rows add up").tag(sync=True)
    step = Index(None, allow_none=True, help="generated token number 1, 2 … in the making; None: all").tag(sync=True)
    view = t.Enum(("arcs", "heatmap"), "arcs", help="how the map is drawn").tag(sync=True)
    scale = t.Enum(("linear", "sqrt", "log", "uniform"), "sqrt", help="from weights to colours").tag(sync=True)
    threshold = t.Float(0.9, help="share of each row's weight that the drawn edges carry").tag(sync=True)
    theme = t.Enum(("auto", "light", "dark"), "auto", help="auto follows the notebook").tag(sync=True)

    def __init__(self, attention: Attention, **traits: Any) -> None:
        if not isinstance(attention, Attention):
            raise TypeError(
                f"An Attention can be shown, a {type(attention).__name__} cannot. Make one with "
                "capture(model, text, tokenizer), Attention.from_weights(…) or Attention.from_qk(…)."
            )
        unknown = traits.keys() - set(self.trait_names())
        if unknown:
            raise TypeError(f"There is no option {', '.join(sorted(unknown))}. There are budget, {', '.join(NAMES)}.")
        self._attention = attention
        # What was generated is what one wants to see.
        written = [name for name in attention.parts if attention.part(name).queries.steps]
        first = (written or attention.parts)[0]
        super().__init__(**{"part": first, "sample": attention.sample, **traits})

    @property
    def attention(self) -> Attention:
        """What is looked at."""
        return self._attention

    @property
    def map(self) -> Map:
        """The selected map: its numbers."""
        shown = self._attention.select(self.sample)
        return shown.map(self.layer, self.head, part=self.part, reduce=self.reduce)

    @property
    def state(self) -> dict[str, Any]:
        """All of the above by name."""
        return {name: getattr(self, name) for name in NAMES}

    @property
    def _written(self) -> str:
        parts = [name for name in self._attention.parts if self._attention.part(name).queries.steps]
        return f" Generated tokens are in {', '.join(map(repr, parts))}." if parts and self.part not in parts else ""

    @t.observe("sample", "part", "layer")
    def _let_go(self, _: object) -> None:
        for name, value in _existing(self._attention, self.state).items():
            setattr(self, name, value)

    @t.validate("sample", "part", "layer", "head", "query", "pinned", "step", "threshold")
    def _known(self, proposal: Mapping[str, Any]) -> Any:
        name, value = proposal["trait"].name, proposal["value"]
        if name == "threshold":
            if not 0 < value <= 1:
                raise t.TraitError(f"threshold is {value}; it must be above 0 and at most 1.")
        elif self.part not in self._attention.parts:
            known = ", ".join(map(repr, self._attention.parts))
            raise t.TraitError(f"There is no part {self.part!r}; this attention has {known}.")
        elif name == "pinned":
            return list(dict.fromkeys(self._within("pinned token", one) for one in value))
        elif name != "part" and value is not None:
            return self._within(name, value)
        return value

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


NAMES = tuple(Selection.class_own_traits())


def _heads(part: Part, layer: int | None) -> int:
    return part.heads if layer is None else part.layers[layer].heads


def _existing(attention: Attention, state: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a selection in an attention that may lack parts of it."""
    name = state["part"] if state["part"] in attention.parts else attention.parts[0]
    sample = state["sample"] if state["sample"] < attention.samples else attention.sample
    part, layer = attention.select(sample).part(name), state["layer"]
    layer = layer if layer is not None and layer < len(part.layers) and not part.layers[layer].absent else None
    head = state["head"] if state["head"] is not None and state["head"] < _heads(part, layer) else None
    query = state["query"] if state["query"] is not None and state["query"] < len(part.queries) else None
    pinned = [one for one in state["pinned"] if one < len(part.queries)]
    step = state["step"] if state["step"] is not None and state["step"] <= part.queries.steps else None
    return {
        "sample": sample, "part": name, "layer": layer, "head": head, "query": query, "pinned": pinned, "step": step,
    }  # fmt: skip


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
        attention: what :func:`~attnwidget.capture` returned, or made of numbers of your own.
        budget: bytes that travel at once and that a saved notebook keeps: thumbnails of all heads, and as many whole
            maps as fit. The rest is asked for when somebody looks.
        **traits: any of :class:`Selection`'s. The mean over all layers and heads is shown unless you say otherwise.

    Raises:
        TypeError: no such option.
        TraitError: no such part, layer, head, token or view.
        FileNotFoundError: the front end has not been built.
    """

    _esm: Any = _FRONT_END if _FRONT_END.is_file() else ""
    _bundle = t.Bytes().tag(sync=True)

    def __init__(self, attention: Attention, *, budget: int = 700_000, **traits: Any) -> None:
        if self._esm == "":
            raise FileNotFoundError(
                f"The front end is not built: {_FRONT_END} is missing. Run `pip install -e .` in the repository, or "
                "`npm run build` in its folder js."
            )
        # Everything that can be refused is refused before the work begins.
        unknown = {name: value for name, value in traits.items() if not self.has_trait(name)}
        chosen = Selection(attention, **unknown, **{name: traits[name] for name in NAMES if name in traits})
        self._budget = budget
        self._waiting: deque[tuple[Attention, Any]] = deque()
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that has been asked for a turn
        super().__init__(attention, **traits, _bundle=self._pack(attention, chosen.state))
        self.on_msg(self._receive)

    @property
    def attention(self) -> Attention:
        """What is shown. Put another one in its place, and what it does not have is no longer selected."""
        return self._attention

    @attention.setter
    def attention(self, attention: Attention) -> None:
        state = _existing(Selection(attention).attention, self.state)
        packed = self._pack(attention, {**self.state, **state})
        with self._lock:
            late = [request for _, request in self._waiting]
            self._waiting.clear()
        for request in late:
            self._refuse(request, "Another attention is shown by now.")
        with self.hold_sync(), self.hold_trait_notifications():
            self._attention = attention
            for name, value in {**state, "_bundle": packed}.items():
                setattr(self, name, value)

    def _pack(self, attention: Attention, state: Mapping[str, Any]) -> bytes:
        first = (state["part"], state["layer"], state["head"], state["reduce"])
        return wire.bundle(attention.select(state["sample"]), budget=self._budget, first=[first])

    @t.observe("sample")
    def _show_sample(self, _: object) -> None:
        """Send what the browser cannot have of another text: it looks for it in the bundle first."""
        if self._bundle and self.sample not in wire.samples_of(self._bundle):
            self._bundle = self._pack(self._attention, self.state)

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
                self._waiting.extend((self._attention, one) for one in told["requests"])
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
            attention, request = self._waiting.popleft()
        try:
            for content, buffers in wire.messages(*wire.answer(attention, request)):
                self.send(content, buffers)
        except Exception as problem:
            self._refuse(request, f"The answer could not be sent: {problem!r}")
        return True

    def _refuse(self, request: Any, words: str) -> None:
        self.send({"type": "error", "id": _id(request), "message": words})

    def __repr__(self) -> str:
        return f"<AttentionWidget: {self.map!r} as {self.view}, of {self._attention!r}>"
