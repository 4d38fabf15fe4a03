"""See what a Transformer's attention does: every head of your own PyTorch model, exact and alive, in the notebook.

    from attnwidget import show
    show("The cat saw the dog.", model, tokenizer)

The building, from the ground up; a file imports only from the floors below its own.

    0  nouns    picture.py     an image as numbers that can be looked at
                colours.py     the colours of the widget, in light and dark
                recipe.py      the Python that makes something again
                vocabulary.py  what a tokenizer's entries say: pieces of text, and where they stand in it
                tokens.py      one axis: labels, character spans, special tokens, image grids
                shown.py       what is looked at, without any arithmetic: all of a run, its parts
                chosen.py      which heads of a part a map is of, and which tokens stand as one
                held.py        what was costly to compute of an attention, as long as the attention is there
                alone.py       one head of one sample by itself, as arrays
                measured.py    what there is to be measured of a head, in words
                masks.py       which keys a query may see, and what is added to its scores, as rules
                rotary.py      queries and keys that are turned by their positions, and turned back
                output.py      the projection that brings the heads of a layer back together
                layers.py      what one attention call computed, and the parts that layers make up
                maps.py        exact rows, tiles and weights of heads, joined or grouped, computed when somebody looks
                attention.py   Attention: all of a run, or what the caller brought, to ask questions of
                thin.py        the same out of a file, computed with numpy, where torch is not installed
                archive.py     arrays by name in a safetensors file, read without trust
                stored.py      the file of an attention, and load, which opens it
                saving.py      Attention.save, which writes it
                inputs.py      what a model is given: texts as tensors, and what of them tells the axes
                parts.py       where the calls of a run belong, and what stands along their axes
                blocks.py      numbers as bytes that both languages read
                cells.py       weights as cells of a map, and cells as codes
    1  verbs    objective.py   one number that comes out of a model
                functions.py   sees attention that goes through torch's own functions, a softmax by hand included
                interface.py   sees attention that goes through transformers' interface, and what is done to a call
                listen.py      hears every attention call of a running model, and changes none
                check.py       rows of what was kept, compared with what the model itself computed
                capture.py     a model's run → Attention: what is kept of it
                generation.py  a text the model writes itself, replayed exactly
                trace.py       a run, and what one number that came out owes to every edge
                rows.py        rows of all heads of a layer, and what there is to be measured of each
                measures.py    one number per head
                labels.py      what a head does, in a word, where it does it more than chance
                steps.py       what one head is computed from, for a browser that switches some of it off
                compare.py     two attentions on common axes, and what one gives more than the other
                attribution.py  one map over the tokens, however it was found: all methods, and what they return
                flows.py       what the weights of several heads and layers come to: fused, rolled out, as a flow
                stream.py      what a running model adds up: outputs of heads, norms they pass, logits they end in
                contributions.py  what a token's values add to others: norms, logits
                gradients.py   what an output owes to edges, by their gradients
                integrated.py  what an output owes to what entered the model, by its gradients
                interactions.py   how much of each token is in another, layer by layer: ALTI, value zeroing
                thumbnails.py  every head in small
                sent.py        maps as blocks, computed with torch
                thin_sent.py   maps as blocks, computed with numpy
                told.py        what the browser is told in words: axes, parts, measures, versions
                wire.py        what the browser is told: bundle(attention), answer(attention, request)
                acting.py      which heads of which layers are meant, while a model runs
                reweigh.py     weights computed again where the model runs, and others in their place
    2  acting   positions.py   a model without its positions, or with others
                intervene.py   heads silenced, edges cut, tokens hidden, while a model runs; and what that changes
                copies.py      one input many times in a run, each copy with cuts of its own, exactly
                pruning.py     which heads a model can do without, and a model without them
                study.py       how far maps agree with what cutting changes, on this very input
                truth.py       what edges do to an output, for the browser: estimated for all, exact for one
                selection.py   which map is looked at, and how it is drawn
                provenance.py  where a picture came from, in every file that shows it
                figures/       figures for papers: SVG, PDF, PNG
                export.py      pages that live without kernel and network
                outputs.py     what a notebook keeps of a widget
                widget.py      AttentionWidget: a selection that is displayed, and one message handler
    3  made of  show.py        from a text to the picture, in one call
       widgets  charts.py      points, grids and curves of bqplot, in these colours
                dashboard.py   charts of heads, linked to the widget: select here, see there
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
    from .attribution import METHODS, Attribution, attribute
    from .capture import capture, record
    from .compare import compare
    from .dashboard import Dashboard
    from .export import embed, embed_script, to_html
    from .figures import to_pdf, to_png, to_svg
    from .generation import capture_generation
    from .intervene import ablate, effect
    from .labels import label
    from .measured import MEASURES
    from .measures import statistics
    from .outputs import options
    from .positions import positions
    from .provenance import provenance
    from .pruning import importance, pruning
    from .show import show, show_generation
    from .stored import load
    from .study import faithfulness
    from .trace import Trace, trace
    from .widget import AttentionWidget

__version__ = "0.1.0"
__all__ = [
    "MEASURES", "METHODS", "Attention", "AttentionWidget", "Attribution", "Dashboard", "Trace", "__version__", "ablate",
    "attribute", "capture", "capture_generation", "compare", "effect", "embed", "embed_script", "faithfulness",
    "importance", "label", "load", "options", "positions", "provenance", "pruning", "record", "show",
    "show_generation", "statistics", "tiny", "to_html", "to_pdf", "to_png", "to_svg", "trace",
]  # fmt: skip

# Where each public name lives. Nothing of it is loaded before it is asked for: torch alone takes a second.
_HOMES = {
    "MEASURES": "measured",
    "METHODS": "attribution",
    "Attention": "attention",
    "AttentionWidget": "widget",
    "Attribution": "attribution",
    "Dashboard": "dashboard",
    "Trace": "trace",
    "ablate": "intervene",
    "attribute": "attribution",
    "capture": "capture",
    "capture_generation": "generation",
    "compare": "compare",
    "effect": "intervene",
    "embed": "export",
    "embed_script": "export",
    "faithfulness": "study",
    "importance": "pruning",
    "label": "labels",
    "load": "stored",
    "options": "outputs",
    "positions": "positions",
    "provenance": "provenance",
    "pruning": "pruning",
    "record": "capture",
    "show": "show",
    "show_generation": "show",
    "statistics": "measures",
    "to_html": "export",
    "to_pdf": "figures",
    "to_png": "figures",
    "to_svg": "figures",
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
    if name != "tiny" and name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .shown import needing

    with needing(name):
        module = importlib.import_module(f".{_HOMES.get(name, name)}", __name__)
    if name == "tiny":
        return module
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
