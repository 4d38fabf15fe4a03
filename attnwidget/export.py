"""Pages that live without kernel and network: the same pictures, in one file or in somebody's own page."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

from . import __version__, recipe, wire
from .provenance import KIND, of, text
from .selection import Selection, first_of, selected, stepped_of
from .shown import versions

_STATIC = Path(__file__).parent / "static"
_PACKED = _STATIC / "page.packed.js"  # unpacks itself into a script element
_PLAIN = _STATIC / "page.js"

_BUDGET = 1_800_000  # bytes of a page

# The page may run its own script and nothing else: it cannot reach the network even if it wanted to.
_PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="{theme}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="{schemes}">
<meta name="generator" content="attnwidget {version}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<title>{title}</title>
<style>
:root {{ --ground: #ffffff; --ink: #1d232b; --soft: #5b6673 }}
@media (prefers-color-scheme: dark) {{
  :root[data-theme="auto"] {{ --ground: #14171c; --ink: #e7ebf0; --soft: #9aa6b4 }}
}}
:root[data-theme="dark"] {{ --ground: #14171c; --ink: #e7ebf0; --soft: #9aa6b4 }}
body {{ margin: {margin}px; background: var(--ground); color: var(--ink); font: 13px/1.5 system-ui, sans-serif }}
img {{ max-width: 100%; background: #ffffff }}
.about {{ color: var(--soft) }}
h1 {{ margin: 0 0 12px; font-size: 15px; font-weight: 600 }}
</style>
</head>
<body>
<main>
{heading}{pieces}
<noscript>Pictures come alive by a script that this page holds; scripts are switched off here.</noscript>
{about}
</main>
<script>{code}</script>
</body>
</html>
"""


def to_html(
    shown: Any,
    path: str | Path,
    *,
    budget: int = _BUDGET,
    title: str | None = None,
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Path:
    """Write one HTML file that shows an attention anywhere, without kernel and without network.

    It holds thumbnails of every head, and the exact numbers of as many heads as ``budget`` allows; it says how many.
    The file is never larger than ``budget``.

    Args:
        shown: an Attention, what :func:`~attnwidget.compare` made of two, or a :class:`~attnwidget.Trace`, of which the
            page has the effects where it opens with ``effects=True``; of a widget, what is selected is what the page
            opens with, and its measures and saved views go with it. Or a list of these: they stand one below the
            other, share the script, and are not linked.
        path: where to write. The folder has to exist; a file of that name is replaced.
        budget: bytes of the whole file. About 105 000 of them are the script; a still picture, for readers whose
            browser runs none, takes up to 80 000 where that is less than a quarter of the rest.
        title: of the page.
        measures: numbers of your own for every head, as of :class:`~attnwidget.AttentionWidget`.
        **traits: what the page opens with: ``layer``, ``head``, ``view`` and so on, as of a widget. The vectors behind
            heads (Q, K and, where they were kept, V) follow their numbers, as far as there is room; those of the head
            that is shown with ``view="steps"`` come first.

    Returns:
        The path.

    Raises:
        FileNotFoundError: there is no such folder; the front end has not been built.
        TypeError, TraitError: no such option; no such part, layer, head, token or view.
        ValueError: a budget that is none, or too small, with the least that would do; measures of another shape.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder. Name a file in it: {target / 'attention.html'}.")
    each = list(shown) if isinstance(shown, (list, tuple)) else [shown]
    if not each:
        raise ValueError("The list is empty: give at least one attention or widget to show.")
    selections = [selected(one, measures, traits) for one in each]
    more: dict[str, Any] = {} if budget == _BUDGET else {"budget": budget}
    more |= {} if title is None else {"title": title}
    call = recipe.call("to_html", {"attention": recipe.Name("attention"), "path": target.name}, **more)
    target.write_text(page(selections, budget, title, call=call), "utf-8", newline="")
    return target


def embed(
    shown: Any,
    *,
    budget: int = 400_000,
    script: str | bool = True,
    nonce: str | None = None,
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> str:
    """HTML to put into a page of your own: the picture stands where the text is put, as wide as there is room.

    Args:
        shown: one attention, comparison, trace or widget, as of :func:`to_html`.
        budget: bytes of what is returned.
        script: True for the script itself; False for the second and every later picture of a page; or the address of
            the file that :func:`embed_script` wrote, for pages that allow no inline scripts.
        nonce: of the page's content security policy, where it has one.
        measures, **traits: as of :func:`to_html`.

    Raises:
        FileNotFoundError: the front end has not been built.
        TypeError, TraitError, ValueError: as :func:`to_html`.

    >>> import torch
    >>> from attnwidget import Attention
    >>> embed(Attention.from_weights(torch.eye(3)), script="attnwidget.js", budget=60_000).splitlines()[-1]
    '<script src="attnwidget.js"></script>'
    """
    selection = selected(shown, measures, traits)
    of_nonce = "" if nonce is None else f' nonce="{escape(nonce)}"'
    code = ""
    if isinstance(script, str):
        code = f'\n<script src="{escape(script)}"{of_nonce}></script>'
    elif script:
        code = f"\n<script{of_nonce}>{_code()}</script>"
    return _fitted(lambda inside: inside + code, [selection], budget, "embed(attention)")


def embed_script(path: str | Path) -> Path:
    """Write the script that ``embed(…, script="its address")`` refers to.

    Raises:
        FileNotFoundError: there is no such folder; the front end has not been built.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    target.write_text(_read(_PLAIN), "utf-8", newline="")
    return target


def page(
    selections: Sequence[Selection],
    budget: int,
    title: str | None = None,
    *,
    call: str,
    still: Still | None = None,
    within: Callable[[str], str] | None = None,
) -> str:
    """The text of the page that opens with these.

    Args:
        budget: bytes, at most.
        call: what makes the page, of an attention called ``attention``.
        still: the picture that stands there until the script runs; drawn, where there is room, unless given.
        within: what the page, without a heading, is put into, which is what is measured, and returned.

    Raises:
        ValueError: it cannot be made as small.
    """
    first = selections[0]
    attention = first.attention
    named = sound(title or (f"Attention of {attention.model}" if attention.model else "Attention"))
    code = _code()
    models = ", ".join(dict.fromkeys(one.attention.model for one in selections if one.attention.model)) or "Attention"
    made_with = sound(f"{models}. Made with {', '.join(f'{name} {one}' for name, one in versions().items())}.")

    def whole(pieces: str) -> str:
        made = _PAGE.format(
            theme=first.theme,
            schemes="light dark" if first.theme == "auto" else first.theme,
            version=__version__,
            title=escape(named),
            margin=16 if within is None else 0,
            heading=f"<h1>{escape(named)}</h1>\n" if within is None else "",
            pieces=pieces,
            about=f'<p class="about">{escape(made_with)}</p>' if within is None else "",
            code=code,
        )
        return made if within is None else within(made)

    return _fitted(whole, selections, budget, call, still, vectors=within is None)


class BudgetError(ValueError):
    """A budget that cannot be kept. least: bytes that would do."""

    def __init__(self, budget: float, least: int) -> None:
        super().__init__(
            f"budget is {budget}: with the smallest thumbnails of all heads this takes {least} bytes. Give as many, or "
            "keep fewer layers (capture(…, layers=[…]))."
        )
        self.least = least


# ── within a budget ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Still:
    """A picture that does not move. png: its bytes, empty where there is none. words: what is in it."""

    png: bytes
    words: str

    @classmethod
    def of(cls, selection: Selection, most: int = 60_000) -> Still:
        """Drawn as on paper; no picture where it would be more than ``most`` bytes.

        What is no figure is drawn as a heat map; where the numbers of a map would be long in coming, every head in
        small is drawn. Where drawing fails there is no picture, either: that is no reason to have no page.
        """
        of: Literal["view", "matrix"] = "view" if _work(selection) <= _MOST_WORK else "matrix"
        for view in dict.fromkeys((selection.view, "heatmap")):
            drawn = selection if view == selection.view else selected(selection, None, {"view": view})
            for dpi in (110, 72):
                with contextlib.suppress(Exception):
                    if len(png := _drawn(drawn, dpi, of)) <= most:
                        return cls(png, described(drawn, of))
        return cls(b"", described(selection))

    @property
    def element(self) -> str:
        """As HTML."""
        if not self.png:
            return f"<p>{escape(self.words)}</p>"
        return f'<img alt="{escape(self.words)}" src="data:image/png;base64,{_base64(self.png)}">'


def _work(selection: Selection) -> int:
    """Weights behind the picture of a selection."""
    part, layered = selection.attention.part(selection.part), selection.view == "graph"
    layers = len(part.layers) if layered or selection.layer is None else 1
    maps = layers * (part.heads if selection.head is None else 1)
    return (len(selection.heads) if selection.heads and not layered else maps) * len(part.queries) * len(part.keys)


def _drawn(selection: Selection, dpi: int, of: Literal["view", "matrix"]) -> bytes:
    from PIL import Image

    from . import figures

    drawn, made = io.BytesIO(figures.draw(selection, "png", width=170, dpi=dpi, of=of)), io.BytesIO()
    Image.open(drawn).save(made, "PNG", optimize=True)  # without the words that a figure carries: the page has them
    return made.getvalue()


def described(selection: Selection, of: Literal["view", "matrix"] = "view") -> str:
    """What a picture shows, in a sentence, for those who do not see it."""
    shown, drawn = selection.attention.select(selection.sample), _VIEWS[selection.view]
    heads = ", ".join(f"{layer}.{head}" for layer, head in selection.heads[:6])
    more = f" and {len(selection.heads) - 6} more" if len(selection.heads) > 6 else ""
    layer = "all layers" if selection.layer is None else f"layer {selection.layer}"
    head = f"{selection.reduce} over all heads" if selection.head is None else f"head {selection.head}"
    which = f"heads {heads}{more}, {selection.reduce}" if heads else f"{layer}, {head}"
    part = shown.part(selection.part)
    size = f"{len(part.queries)} × {len(part.keys)} tokens"
    model = f" of {shown.model}" if shown.model else ""
    if of == "matrix":
        return sound(f"Attention{model}, {part.name}, every head in small: {size}.")
    return sound(f"Attention{model}, {part.name}, {which}: {size}, as {drawn}.")


_VIEWS = {
    "arcs": "arcs", "heatmap": "a heat map", "graph": "a graph", "text": "a text", "steps": "steps",
    "image": "an image", "table": "a table",
}  # fmt: skip

_MOST_WORK = 1 << 27  # weights behind a picture that is drawn unasked: 1 s of one core
_ROUNDS = 6  # in which a bundle that came out too large is made smaller
_LEAST = 256  # bytes of numbers, below which nothing gets smaller


def _fitted(
    whole: Callable[[str], str],
    selections: Sequence[Selection],
    budget: int,
    call: str,
    still: Still | None = None,
    *,
    vectors: bool = True,
) -> str:
    """What ``whole`` makes of the pieces, as large as ``budget`` bytes allow; ``vectors`` as of :func:`wire.bundle`."""
    if not (isinstance(budget, (int, float)) and not isinstance(budget, bool) and budget > 0):
        raise ValueError(f"budget is {budget!r}; it must be a number of bytes above 0.")
    stills = [still or Still.of(one) for one in selections]
    records = [text(of(one, call)) for one in selections]
    frames = [
        _piece(at, one, record, "", b"") for at, (one, record) in enumerate(zip(selections, records, strict=True))
    ]
    room = budget - _size(whole("\n".join(frames)))
    pictures = [one.element if _size(one.element) <= room / (4 * len(stills)) else "" for one in stills]
    room -= sum(map(_size, pictures))
    for rest in reversed(range(_ROUNDS)):
        left, pieces = room, []
        for at, (one, record, picture) in enumerate(zip(selections, records, pictures, strict=True)):
            numbers = _bundle(one, max(_LEAST, left // (len(selections) - at) * 3 // 4), vectors)
            left -= _size(_base64(numbers))
            pieces.append(_piece(at, one, record, picture, numbers))
        made = whole("\n".join(pieces))
        over = _size(made) - budget
        if over <= 0:
            return made
        if any(pictures):
            room += sum(map(_size, pictures))
            pictures = [""] * len(pictures)
        elif room <= _LEAST:
            break
        else:
            room = max(_LEAST, room - over - 64) if rest > 1 else _LEAST
    raise BudgetError(budget, _size(made) + 16)  # a call in it names the budget, which will have more digits


def _piece(at: int, selection: Selection, record: str, picture: str, numbers: bytes) -> str:
    """One picture, the how many-eth of a page: where it will stand, and what it is made of."""
    data = json.dumps({"state": selection._chosen(), "bundle": _base64(numbers)}).replace("<", "\\u003c")
    name = hashlib.sha256(f"{at}{data}{record}".encode()).hexdigest()[:12]
    return (
        f'<div id="attention-{name}">{picture}</div>\n'
        f'<script type="application/vnd.attnwidget+json">{data}</script>\n'
        f'<script type="{KIND}">{record}</script>'
    )


def _bundle(selection: Selection, budget: int, vectors: bool) -> bytes:
    about, beside = _of_trace(selection)
    return wire.bundle(
        selection.attention.select(selection.sample),
        budget=budget,
        first=first_of(selection),
        standalone=True,
        measures=selection._measures,
        stepped=stepped_of(selection),
        vectors=vectors,
        objective=about,
        beside=beside,
    )


def _of_trace(selection: Selection) -> tuple[Any, dict[str, bytes]]:
    """What is explained, and the effects that a page opens with: there will be nobody to ask for them."""
    if selection.trace is None:
        return None, {}
    from . import truth

    heads = selection.heads or [(selection.layer, selection.head)]
    stored = truth.stored(selection.trace, selection.part, heads) if selection.effects else {}
    return selection.objective, stored


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _size(words: str) -> int:
    return len(words.encode("utf-8"))


def sound(words: str) -> str:
    """Without halves of characters, which no file can hold."""
    return words.encode("utf-8", "replace").decode("utf-8")


# ── the script ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _code() -> str:
    return _read(_PACKED if _PACKED.is_file() else _PLAIN)


def _read(file: Path) -> str:
    if not file.is_file():
        raise FileNotFoundError(
            f"The front end is not built: {file} is missing. Run `pip install -e .` in the repository, or "
            "`npm run build` in its folder js."
        )
    code = file.read_text("utf-8")
    # Either would end the script, or change where it ends.
    if "</script" in code.lower() or "<!--" in code:
        raise ValueError(f"{file} cannot stand in a page: it contains </script or <!--.")
    return code
