"""The widget: a selection that is displayed, and one handler for what the browser asks.

Every selection goes both ways. A click in the browser changes the trait, and whoever observes or links it hears of it:

    widget = AttentionWidget(attention, layer=5)
    widget.observe(lambda change: print(widget.map.row(3)), names=["layer", "head"])
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets as t

from . import blocks, outputs, wire
from .selection import NAMES, Selection, existing, first_of, read_state, stepped_of
from .shown import Shown, is_trace

if TYPE_CHECKING:
    from .trace import Trace

_FRONT_END = Path(__file__).parent / "static" / "widget.js"


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
        state = {**existing(fresh.attention, now, fresh._measures), "effects": now["effects"]}
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
            state = self.views[state] if state in self.views else read_state(state, self.views)
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
            objective=chosen.objective,
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
        if isinstance(request, Mapping) and request.get("want") == "figure":
            return wire.reply(request, lambda: self._figure(request.get("format"), request.get("width")))
        if not is_trace(about):
            return wire.answer(about, request)
        if not isinstance(request, Mapping) or request.get("want") not in ("effects", "verified"):
            return wire.answer(about.attention, request)
        from . import truth

        found: dict[str, Any] | None = None

        def make() -> bytes:
            nonlocal found
            made, found = truth.answer(about, request)
            return made

        reply = wire.reply(request, make)
        if found is not None:
            self.verified = found
        return reply

    def _figure(self, format: Any, width: Any) -> bytes:
        """A block of kind "figure": the file "file", which shows what is selected now."""
        from . import figures

        file = np.frombuffer(figures.draw(self, format, width=width), np.uint8)
        return blocks.pack("figure", {"format": format}, {"file": file})

    def _refuse(self, request: Any, words: str) -> None:
        self.send({"type": "error", "id": _id(request), "message": words})

    def open(self) -> None:
        """Open the line to the browser; without a live view to be seen a notebook would keep its state in vain."""
        if outputs.options.live:
            super().open()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = super()._repr_mimebundle_() if outputs.options.live and self.comm is not None else None
        live, about = seen or ({}, {})
        data, told = outputs.mimebundle(self, live)
        return data, {**about, **told}

    def size(self) -> dict[str, int]:
        """Bytes that a notebook keeps of this widget, as :data:`~attnwidget.options` say.

        Returns:
            {"state": what it stores of the live widget where it saves widgets, "page": of the page in the output,
            "picture": of the still picture and everything else in the output}.

        >>> import torch
        >>> from attnwidget import Attention
        >>> sorted(AttentionWidget(Attention.from_weights(torch.eye(3))).size())
        ['page', 'picture', 'state']
        """
        return outputs.size(self)

    def __repr__(self) -> str:
        by = "" if self.group == "token" else f" by {self.group}"
        return f"<AttentionWidget: {self._of_tokens!r}{by} as {self.view}, of {self._attention!r}>"
