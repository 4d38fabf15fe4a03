"""What a notebook keeps of a widget, beside the live view: a page that needs no kernel, a picture, and words."""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Mapping
from html import escape
from typing import Any

import traitlets as t

from . import export
from .provenance import of
from .selection import Index, Selection

_LIVE = "application/vnd.jupyter.widget-view+json"
# Beside the frame, where the host lets scripts run: the frame gets the height that the page in it asks for and, where
# the host does not say its theme, the one that the colour of its text tells. (Alone, a page follows the system.)
_FITTING = (
    "<script>{const f=document.currentScript?.parentNode.querySelector('iframe.attnwidget');if(f){"
    "const s=getComputedStyle(f),[r,g,b]=s.color.match(/[\\d.]+/g).map(Number);"
    "if(s.colorScheme==='normal')f.style.colorScheme=r+g+b>382?'dark':'light';"
    "addEventListener('message',({source,data})=>{if(source===f.contentWindow&&data?.attnwidget>0)"
    "f.style.height=Math.min(1200,data.attnwidget)+'px'})}}</script>"
)
_END = "</body>\n</html>\n"
_ASKING = (
    "<script>if(self.ResizeObserver)new ResizeObserver(()=>parent.postMessage({attnwidget:"
    "Math.ceil(document.body.getBoundingClientRect().height)},'*')).observe(document.body)</script>"
)
_ENTRY = 16  # bytes of an output's MIME type, in the notebook


class Options(t.HasTraits):
    """What a notebook keeps of the widgets that it shows: set it before you show one.

    ``ATTNWIDGET_LIVE``, ``ATTNWIDGET_SAVED`` and ``ATTNWIDGET_BUDGET`` in the environment are where it begins.

    >>> from attnwidget import options
    >>> options.saved
    'page'
    >>> options.budget = 200_000
    >>> options.budget = -1
    Traceback (most recent call last):
    traitlets.traitlets.TraitError: options.budget is -1; it must be a number of bytes, 0 or more.
    >>> options.budget = 400_000
    """

    live = t.Bool(True, help="whether there is a live widget; False for books, whose readers have no kernel")
    saved = t.Enum(("page", "picture", "nothing"), "page", help="what is shown where no kernel is")
    budget = Index(400_000, help="bytes that one output may add to the notebook, beside the live view")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not self.has_trait(name):
            raise AttributeError(f"There is no option {name!r}; there are live, saved and budget.")
        super().__setattr__(name, value)

    @t.validate("budget")
    def _known(self, proposal: Any) -> Any:
        if proposal["value"] < 0:
            raise t.TraitError(f"options.budget is {proposal['value']}; it must be a number of bytes, 0 or more.")
        return proposal["value"]


def _from_environment() -> Options:
    """What cannot be read is said, and left as it is usually."""
    made = Options()
    for name, read in (("live", _truth), ("saved", str), ("budget", _count)):
        told = os.environ.get(f"ATTNWIDGET_{name.upper()}")
        try:
            if told:
                setattr(made, name, read(told))
        except (ValueError, t.TraitError) as problem:
            warnings.warn(f"ATTNWIDGET_{name.upper()} is {told!r} in the environment: {problem}", stacklevel=2)
    return made


def _truth(told: str) -> bool:
    known = {"1": True, "true": True, "0": False, "false": False}
    if told.lower() not in known:
        raise ValueError("it must be 0 or 1.")
    return known[told.lower()]


def _count(told: str) -> int:
    if not told.strip().isdecimal():
        raise ValueError("it must be a number of bytes, 0 or more.")
    return int(told)


options = _from_environment()


def mimebundle(selection: Selection, live: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What an output holds, by MIME type, and what is said about it. Never raises.

    Args:
        selection: what is shown. live: what there is for a live widget; empty where there is to be none.
    """
    data: dict[str, Any] = {_LIVE: live[_LIVE]} if _LIVE in live else {}
    try:
        kept, about = _kept(selection)
    except Exception as problem:
        data["text/plain"] = export.sound(repr(selection))
        warnings.warn(f"The notebook keeps no picture of this widget: {problem}", stacklevel=2)
        return data, {}
    return {**data, **kept}, about


def _kept(selection: Selection) -> tuple[dict[str, Any], dict[str, Any]]:
    """A page, a picture and words: as much of it as is wanted and fits."""
    data: dict[str, Any] = {"text/plain": export.described(selection)}
    if options.saved == "nothing":
        return data, {}
    # What goes to a notebook is packed as UTF-8, which has no halves of characters.
    told = json.dumps(of(selection, "AttentionWidget(attention)"), ensure_ascii=False)
    about = {"attnwidget": json.loads(export.sound(told))}
    if bytes_of(about) > options.budget // 2:  # of a long text: rather a picture of it
        about = {}
    alternative = {"image/png": {"alt": data["text/plain"]}}  # where nbconvert looks for it
    left = options.budget - bytes_of(data) - bytes_of(about) - bytes_of(alternative)
    if left < 0:
        return data, {}
    # A picture may be there twice, each time a third longer: with that much a third of the budget is the most.
    found, problem = _pictured(selection, export.Still.of(selection, most=min(options.budget // 8, left // 3)), left)
    if problem is not None:
        needs = (problem.least + options.budget - left) * 3 // 2
        words = f"For a page that is alive here, set attnwidget.options.budget to {needs:_}; it is {options.budget:_}."
        found, _ = _pictured(selection, export.Still.of(selection, most=left // 3), left, words)
    return data | found, about | (alternative if "image/png" in found else {})


def _pictured(
    selection: Selection, still: export.Still, left: int, instead: str = ""
) -> tuple[dict[str, Any], export.BudgetError | None]:
    """The picture, and the page or words ``instead`` of it, within ``left`` bytes; and why there is no page."""
    data: dict[str, Any] = {}
    if still.png:
        data["image/png"] = base64.b64encode(still.png).decode("ascii")
        left -= bytes_of(data)
    if options.saved == "picture":
        return data, None
    if instead:
        told = {"text/html": _still(still, instead)}
        return data | (told if bytes_of(told) <= left else {}), None
    try:
        return {**data, "text/html": _page(selection, still, left)}, None
    except export.BudgetError as problem:
        return data, problem


def _page(selection: Selection, still: export.Still, left: int) -> str:
    """The page in a frame, and under it what is seen where frames are taken out; within ``left`` bytes.

    Raises:
        BudgetError: it does not fit.
    """
    how = "Run the cell, or open the notebook where its pages and scripts are shown, to see it alive."
    # Where the frame is, the rest is not shown.
    below = f"{_still(still, how)}<style>iframe.attnwidget~.attnwidget-still{{display:none}}</style>{_FITTING}"
    frame = (
        f'<iframe class="attnwidget" title="{escape(still.words)}" sandbox="allow-scripts allow-downloads" '
        f'style="width:100%;height:{_tall(selection)}px;border:0" srcdoc="'
    )

    def output(page: str) -> str:
        """As the notebook will hold it."""
        asking = f"{page.removesuffix(_END)}{_ASKING}{_END}"
        quoted = asking.replace("&", "&amp;").replace('"', "&quot;")
        return json.dumps(f'<div>{frame}{quoted}"></iframe>{below}</div>', ensure_ascii=False)

    without, call = export.Still(b"", still.words), "AttentionWidget(attention)"
    made: str = json.loads(export.page([selection], left - _ENTRY, call=call, still=without, within=output))
    return made


def _still(still: export.Still, words: str) -> str:
    return f'<div class="attnwidget-still">{still.element}<p>{escape(words)}</p></div>'


def _tall(selection: Selection) -> int:
    """Pixels that a page is given in an output; what does not fit scrolls."""
    if selection.view != "arcs" or selection.arrangement != "columns":
        return 720
    part = selection.attention.select(selection.sample).part(selection.part)
    return min(900, max(560, 400 + 26 * max(len(part.queries), len(part.keys))))


def size(widget: Any) -> dict[str, int]:
    """Bytes in a notebook: see :meth:`AttentionWidget.size`."""
    state = {} if widget.comm is None else widget.get_state()
    buffers = {name: one for name, one in state.items() if isinstance(one, (bytes, memoryview))}
    plain = {name: one for name, one in state.items() if name not in buffers}
    whole, _ = mimebundle(widget, {})
    page = whole.pop("text/html", "")
    return {
        "state": (bytes_of(plain) if plain else 0) + sum(4 * -(-len(one) // 3) for one in buffers.values()),
        "page": bytes_of(page) if page else 0,
        "picture": bytes_of(whole),
    }


def bytes_of(data: Any) -> int:
    """What it takes in a notebook."""
    return len(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
