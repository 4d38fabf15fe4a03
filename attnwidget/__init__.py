"""See what a Transformer's attention does: every head of your own PyTorch model, exact and alive, in the notebook.

    from attnwidget import show
    show("The cat saw the dog.", model, tokenizer)

The building, from the ground up; a file imports only from the floors below its own.

    0  nouns    picture.py     an image as numbers that can be looked at
                vocabulary.py  what a tokenizer's entries say: pieces of text, and where they stand in it
                tokens.py      one axis: labels, character spans, special tokens, image grids
                masks.py       which keys a query may see, and what is added to its scores, as rules
                rotary.py      queries and keys that are turned by their positions, and turned back
                output.py      the projection that brings the heads of a layer back together
                layers.py      what one attention call computed, and the parts that layers make up
                maps.py        exact rows, tiles and weights of heads, joined or grouped, computed when somebody looks
                attention.py   Attention: all of a run, or what the caller brought, to ask questions of
                inputs.py      what a model is given: texts as tensors, and what of them tells the axes
                parts.py       where the calls of a run belong, and what stands along their axes
                blocks.py      numbers as bytes that both languages read
    1  verbs    objective.py   one number that comes out of a model
                functions.py   sees attention that goes through torch's own functions, a softmax by hand included
                listen.py      hears every attention call of a running model, and changes none
                check.py       rows of what was kept, compared with what the model itself computed
                capture.py     a model's run → Attention: what is kept of it
                generation.py  a text the model writes itself, replayed exactly
                trace.py       a run, and what one number that came out owes to every edge
                measures.py    one number per head
                steps.py       what one head is computed from, for a browser that switches some of it off
                compare.py     two attentions on common axes, and what one gives more than the other
                thumbnails.py  every head in small
                wire.py        what the browser is told: bundle(attention), answer(attention, request)
    2  acting   widget.py      AttentionWidget: synced traits and one message handler
    3  made of  show.py        from a text to the picture, in one call
       widgets  export.py      a page that lives without kernel and network
                tiny/          small trained models that ship with the package
                __main__.py    python -m attnwidget "some text" -o page.html
       static/  the front end, built from js/
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import tiny
    from .attention import Attention
    from .capture import capture, record
    from .compare import compare
    from .export import to_html
    from .generation import capture_generation
    from .show import show, show_generation
    from .trace import Trace, trace
    from .widget import AttentionWidget

__version__ = "0.1.0"
__all__ = [
    "Attention", "AttentionWidget", "Trace", "__version__", "capture", "capture_generation", "compare", "record",
    "show", "show_generation", "tiny", "to_html", "trace",
]  # fmt: skip

# Where each public name lives. Nothing of it is loaded before it is asked for: torch alone takes a second.
_HOMES = {
    "Attention": "attention",
    "AttentionWidget": "widget",
    "Trace": "trace",
    "capture": "capture",
    "capture_generation": "generation",
    "compare": "compare",
    "record": "capture",
    "show": "show",
    "show_generation": "show",
    "to_html": "export",
    "trace": "trace",
}


class _Package(ModuleType):
    """This package, in which ``capture`` is a function although ``capture.py`` is a module of that name.

    The import system binds every submodule it loads as an attribute of its package, over whatever has that name.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "tiny":
        return importlib.import_module(".tiny", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
