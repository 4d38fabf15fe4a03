"""A page that lives without kernel and network: the same pictures, in one file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from . import truth, wire
from .selection import NAMES, Selection, first_of, stepped_of
from .trace import Trace
from .wire import Shown

_CODE = Path(__file__).parent / "static" / "page.js"

# The page may run its own script and nothing else: it cannot reach the network even if it wanted to.
_PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="{theme}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="{schemes}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>
:root {{ --ground: #ffffff; --ink: #1d232b; --soft: #5b6673 }}
@media (prefers-color-scheme: dark) {{
  :root[data-theme="auto"] {{ --ground: #14171c; --ink: #e7ebf0; --soft: #9aa6b4 }}
}}
:root[data-theme="dark"] {{ --ground: #14171c; --ink: #e7ebf0; --soft: #9aa6b4 }}
body {{ margin: 16px; background: var(--ground); color: var(--ink); font: 13px/1.5 system-ui, sans-serif }}
.about {{ color: var(--soft) }}
h1 {{ margin: 0 0 12px; font-size: 15px; font-weight: 600 }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
<noscript>This picture is drawn by the script that this page contains, and scripts are switched off here.</noscript>
<div id="attention"></div>
<script type="application/vnd.attnwidget+json">{data}</script>
<p class="about">{about}</p>
</main>
<script>{code}</script>
</body>
</html>
"""


def to_html(
    attention_or_widget: Shown | Trace | Selection,
    path: str | Path,
    *,
    budget: int = 1_800_000,
    title: str | None = None,
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Path:
    """Write one HTML file that shows an attention anywhere, without kernel and without network.

    It holds thumbnails of every head, and the exact numbers of as many heads as ``budget`` allows; it says how many.

    Args:
        attention_or_widget: an Attention, what :func:`~attnwidget.compare` made of two, or a
            :class:`~attnwidget.Trace`, of which the page has the effects where it opens with ``effects=True``; of a
            widget, what is selected is what the page opens with, and its measures and saved views go with it.
        path: where to write. The folder has to exist; a file of that name is replaced.
        budget: bytes for the numbers; base64 makes a third more of them in the file.
        title: of the page.
        measures: numbers of your own for every head, as of :class:`~attnwidget.AttentionWidget`.
        **traits: what the page opens with: ``layer``, ``head``, ``view`` and so on, as of a widget. With
            ``view="steps"`` the vectors behind that head are stored, too: Q, K and, where they were kept, V.

    Returns:
        The path.

    Raises:
        FileNotFoundError: there is no such folder; the front end has not been built.
        TypeError, TraitError: no such option; no such part, layer, head, token or view.
        ValueError: a budget that is none; measures of another shape.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder. Name a file in it: {target / 'attention.html'}.")
    if isinstance(attention_or_widget, Selection):
        widget = attention_or_widget
        state = {name: getattr(widget, name) for name in NAMES}
        selection = Selection(
            widget.trace or widget.attention,
            measures=widget.measures if measures is None else measures,
            **{**state, **traits},
        )
    else:
        selection = Selection(attention_or_widget, measures=measures, **traits)
    target.write_bytes(page(selection, budget, title).encode("utf-8", "replace"))
    return target


def page(selection: Selection, budget: int, title: str | None = None) -> str:
    """The text of the page that opens with ``selection``."""
    attention = selection.attention.select(selection.sample)
    bundle = wire.bundle(
        attention,
        budget=budget,
        first=first_of(selection),
        standalone=True,
        measures=selection._measures,
        stepped=stepped_of(selection),
        objective=truth.about(selection.trace),
        beside=_effects(selection),
    )
    meta = wire.unpack(bundle).meta
    made_with = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    data = json.dumps({"state": selection._chosen(), "bundle": base64.b64encode(bundle).decode("ascii")})
    return _PAGE.format(
        theme=selection.theme,
        schemes="light dark" if selection.theme == "auto" else selection.theme,
        title=escape(title or (f"Attention of {attention.model}" if attention.model else "Attention")),
        data=data.replace("<", "\\u003c"),  # so that no data can end the script element they stand in
        about=escape(f"{attention.model or 'Attention'}. Made with {made_with}."),
        code=_code(),
    )


def _effects(selection: Selection) -> dict[str, bytes]:
    """Those that a page opens with: there will be nobody to ask for them."""
    if selection.trace is None or not selection.effects:
        return {}
    heads = selection.heads or [(selection.layer, selection.head)]
    return truth.stored(selection.trace, selection.part, heads)


def _code() -> str:
    if not _CODE.is_file():
        raise FileNotFoundError(
            f"The front end is not built: {_CODE} is missing. Run `pip install -e .` in the repository, or "
            "`npm run build` in its folder js."
        )
    code = _CODE.read_text("utf-8")
    # Either would end the script, or change where it ends.
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError(f"{_CODE} cannot stand in a page: it contains </script or <!--.")
    return code
