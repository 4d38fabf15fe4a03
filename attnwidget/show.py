"""From a text to the picture, in one call."""

from __future__ import annotations

import inspect
from typing import Any

from .attention import Attention
from .capture import capture
from .generation import capture_generation
from .widget import NAMES, AttentionWidget


def show(text_or_attention: Any, model: Any = None, tokenizer: Any = None, **options: Any) -> AttentionWidget:
    """Run a model on a text and show what it attends to.

    Args:
        text_or_attention: a text, or whatever else the model takes; or an Attention that is there already.
        model: any ``torch.nn.Module``; without one, the small language model that comes with attnwidget.
        tokenizer: the model's.
        **options: of :func:`~attnwidget.capture` (``target``, ``truncate`` …), of the model's ``forward``, and of
            :class:`~attnwidget.AttentionWidget` (``layer``, ``head``, ``view``, ``budget`` …).

    Raises:
        TypeError: an option of neither; inputs without their model.

    Example:
        >>> from attnwidget import show
        >>> show("The cat saw the dog.", layer=1)  # doctest: +ELLIPSIS
        <AttentionWidget: <Map decoder, layer 1, head *, mean: 7 × 7> as arcs, of <Attention ...>>
    """
    of_widget = {name: options.pop(name) for name in ("budget", *NAMES) if name in options}
    if isinstance(text_or_attention, Attention):
        extra = [*options, *(["model"] if model is not None else []), *(["tokenizer"] if tokenizer is not None else [])]
        if extra:
            raise TypeError(f"This attention has been captured already; {', '.join(extra)} would have no effect.")
        return AttentionWidget(text_or_attention, **of_widget)
    if model is None:
        if not isinstance(text_or_attention, str):
            raise TypeError(
                f"A {type(text_or_attention).__name__} needs its model: show(inputs, model). Weights that are there "
                "already are shown with show(Attention.from_weights(weights, tokens))."
            )
        from . import tiny

        model, tokenizer = tiny.decoder()
    _refuse_unknown(options, model)
    return AttentionWidget(capture(model, text_or_attention, tokenizer, **options), **of_widget)


def _refuse_unknown(options: dict[str, Any], model: Any) -> None:
    """A misspelt option would otherwise go to the model, which may swallow it."""
    of_capture = [name for name, one in inspect.signature(capture).parameters.items() if one.kind is one.KEYWORD_ONLY]
    forward = inspect.signature(model.forward).parameters if hasattr(model, "forward") else {}
    unknown = sorted(options.keys() - {*of_capture, *forward})
    if unknown:
        known = ", ".join([*of_capture, "budget", *NAMES])
        raise TypeError(f"There is no option {', '.join(unknown)}. There are {known}, and the model's own.")


def show_generation(prompt: Any, model: Any = None, tokenizer: Any = None, **options: Any) -> AttentionWidget:
    """Let a model write and show what it attends to."""
    of_widget = {name: options.pop(name) for name in ("budget", *NAMES) if name in options}
    if model is None:
        from . import tiny

        model, tokenizer = tiny.decoder()
    return AttentionWidget(capture_generation(model, prompt, tokenizer, **options), **of_widget)
