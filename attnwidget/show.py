"""From a text to the picture, in one call."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

from traitlets import TraitError

from .selection import NAMES
from .shown import Shown, is_attribution, is_trace, needing
from .widget import AttentionWidget


def show(text_or_attention: Any, model: Any = None, tokenizer: Any = None, **options: Any) -> AttentionWidget:
    """Run a model on a text and show what it attends to.

    Args:
        text_or_attention: a text, or whatever else the model takes; or an Attention that is there already, or what
            :func:`~attnwidget.compare` made of two, or :func:`~attnwidget.trace` or
            :func:`~attnwidget.attribute` returned.
        model: any ``torch.nn.Module``; without one, the small language model that comes with attnwidget.
        tokenizer: the model's.
        **options: of :func:`~attnwidget.capture` (``target``, ``layers`` …), of the model's ``forward``, and of
            :class:`~attnwidget.AttentionWidget` (``layer``, ``head``, ``view``, ``budget``, ``measures`` …). The values
            V are kept, for the view that goes step by step, unless ``keep_values=False``.

    Raises:
        TypeError: an option of neither; inputs without their model.

    Example:
        >>> from attnwidget import show
        >>> show("The cat saw the dog.", layer=1)  # doctest: +ELLIPSIS
        <AttentionWidget: <Map decoder, layer 1, head *, mean: 7 × 7> as arcs, of <Attention ...>>
    """
    of_widget = _of_widget(options)
    if is_attribution(text_or_attention):
        text_or_attention = text_or_attention.attention()
    if isinstance(text_or_attention, Shown) or is_trace(text_or_attention):
        extra = [*options, *(["model"] if model is not None else []), *(["tokenizer"] if tokenizer is not None else [])]
        if extra:
            raise TypeError(f"This attention has been captured already; {', '.join(extra)} would have no effect.")
        return AttentionWidget(text_or_attention, **of_widget)
    with needing("show of a model"):
        from .capture import capture
    model, tokenizer = _with_model(text_or_attention, model, tokenizer, "show")
    _refuse_unknown(options, model)
    kept = {"keep_values": True, **options}
    return AttentionWidget(capture(model, text_or_attention, tokenizer, **kept), **of_widget)


def show_generation(prompt: Any, model: Any = None, tokenizer: Any = None, **options: Any) -> AttentionWidget:
    """Let a model write, and show what it attends to while it does.

    In a notebook the picture stands there from the first token on and grows; the stop button ends the writing.
    Afterwards ``widget.step`` goes through the tokens: at step 1 the first one is about to be written.

    Args:
        prompt: a text, a list of texts, or a mapping of what the model takes.
        model: of transformers, one that can ``generate``; without one, the small language model that comes along.
        tokenizer: the model's.
        **options: of :func:`~attnwidget.capture_generation` and of the model's ``generate`` (``max_new_tokens``,
            ``do_sample`` …), and of :class:`~attnwidget.AttentionWidget`.

    Raises:
        TypeError: a model that cannot generate; a prompt without its model.
        ValueError: an option that ``generate`` does not know.

    Example:
        >>> from attnwidget import show_generation
        >>> widget = show_generation("The cat saw the", layer=2, max_new_tokens=3)
        >>> widget.map
        <Map decoder, layer 2, head *, mean: 8 × 8>
    """
    with needing("show_generation"):
        from .generation import capture_generation
    of_widget = _of_widget(options)
    model, tokenizer = _with_model(prompt, model, tokenizer, "show_generation")
    shell, told = _notebook(), options.pop("on_step", None)
    # Tokens that are yet to be written cannot be chosen before they are there.
    later = {name: of_widget.pop(name) for name in ("query", "pinned", "step") if name in of_widget}
    widget: AttentionWidget | None = None

    def on_step(attention: Shown) -> None:
        nonlocal widget
        if widget is None:
            kind = AttentionWidget if shell is None else _Live
            widget = kind(attention, **of_widget)  # refuses what there is not before much has been written
            if isinstance(widget, _Live):
                widget._place = _display(widget)
                widget._shown_in = shell.execution_count
        else:
            widget._replace(attention, of_widget.get("measures"))
        if told is not None:
            told(attention)

    kept = {"keep_values": True, **options}
    capture_generation(model, prompt, tokenizer, on_step=on_step, **kept)
    assert widget is not None  # the end, if nothing else, has been a step
    for name, value in later.items():
        try:
            setattr(widget, name, value)
        except TraitError as problem:  # what has been written is not to be lost for that
            warnings.warn(str(problem), stacklevel=2)
    if isinstance(widget, _Live):
        widget._keep()
    return widget


class _Live(AttentionWidget):
    """A widget that is displayed before its cell returns it: as that cell's result it is not displayed once more."""

    _shown_in: int | None = None  # the cell, by its number
    _place: Any = None  # its display there, until all is written

    def _keep(self) -> None:
        """Have the notebook keep a picture of all that was written, where it has none yet."""
        place, self._place = self._place, None
        cell, self._shown_in = self._shown_in, None  # or it would be taken for the result of its cell
        if place is not None:
            place.update(self)
        self._shown_in = cell

    def _ipython_display_(self) -> None:
        cell, self._shown_in = self._shown_in, None
        shell = _notebook()
        if shell is None or cell != shell.execution_count:
            raise NotImplementedError  # IPython goes on to display it as it does any other widget


def _notebook() -> Any:
    """IPython's shell where it runs in a kernel, and so has a page to display widgets on; otherwise None."""
    get = getattr(sys.modules.get("IPython"), "get_ipython", None)
    shell = None if get is None else get()
    return shell if getattr(shell, "kernel", None) is not None else None


def _display(widget: AttentionWidget) -> Any:
    from IPython.display import display

    return display(widget, display_id=True)  # type: ignore[no-untyped-call]  # IPython's


def _of_widget(options: dict[str, Any]) -> dict[str, Any]:
    """Takes out of ``options`` those that are the widget's."""
    return {name: options.pop(name) for name in ("budget", "measures", *NAMES) if name in options}


def _with_model(inputs: Any, model: Any, tokenizer: Any, verb: str) -> tuple[Any, Any]:
    """The model to run; where none was given, the one that comes along, which reads a text."""
    if model is not None:
        return model, tokenizer
    texts = inputs if isinstance(inputs, list) and inputs else [inputs]
    if not all(isinstance(one, str) for one in texts):
        raise TypeError(
            f"A {type(inputs).__name__} needs its model: {verb}(inputs, model). Weights that are there already are "
            "shown with show(Attention.from_weights(weights, tokens))."
        )
    from . import tiny

    return tiny.decoder()


def _refuse_unknown(options: dict[str, Any], model: Any) -> None:
    """A misspelt option would otherwise go to the model, which may swallow it."""
    from .capture import capture
    from .inputs import unwrapped

    of_capture = [name for name, one in inspect.signature(capture).parameters.items() if one.kind is one.KEYWORD_ONLY]
    forward = inspect.signature(unwrapped(model).forward).parameters if hasattr(model, "forward") else {}
    unknown = sorted(options.keys() - {*of_capture, *forward})
    if unknown:
        known = ", ".join([*of_capture, "budget", "measures", *NAMES])
        raise TypeError(f"There is no option {', '.join(unknown)}. There are {known}, and the model's own.")
