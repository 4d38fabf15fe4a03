"""Figures for papers: what a widget shows, as SVG, PDF or PNG, at a width in millimetres; no browser, no torch.

    sheet.py     paper, and what is drawn on it, by matplotlib
    inks.py      ramps and colours; words.py: numbers and names as text; legends.py: what explains a figure
    looked.py    the numbers of what is selected: cells, edges, margins
    arcs.py (places.py, chips.py), heatmap.py, matrix.py, graph.py, steps.py (stages.py), pages.py     the views

Numbers, colours and rules are those of the browser: the fewest edges that carry the chosen share of a row, the
strongest 200 where there are more, pooled cells where there are more cells than dots. Files hold fonts as text, no
dates, and in their metadata the Python that makes them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from attnwidget.provenance import of as provenance_of
from attnwidget.provenance import text as provenance_text
from attnwidget.selection import Selection, selected
from attnwidget.shown import is_difference

from . import inks
from .arcs import arcs
from .graph import graph
from .heatmap import heatmap
from .looked import Looking
from .matrix import matrix
from .pages import image, table, text
from .sheet import SMALL, TEXT, Sheet, fitted, settings, width_of
from .steps import steps
from .words import printable, selection_text

Format: TypeAlias = Literal["svg", "pdf", "png"]
Shows: TypeAlias = Literal["view", "matrix", "both"]

_MOST = 30_000  # dots along a side of a PNG
_NARROWEST, _WIDEST = 20, 2000  # millimetres
_BESIDE = 560.0  # pixels of a sheet from which on the matrix stands beside the view
_VIEWS: Mapping[str, Callable[[Sheet, Looking], None]] = {
    "arcs": arcs,
    "heatmap": heatmap,
    "graph": graph,
    "steps": steps,
    "text": text,
    "image": image,
    "table": table,
}


def to_svg(
    attention_or_widget: Any,
    path: str | Path,
    *,
    width: float = 85.0,
    of: Shows = "view",
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Path:
    """Write a figure as SVG, with its letters as text.

    Args:
        attention_or_widget: an Attention, a comparison, a Trace, or what :func:`~attnwidget.load` opened; of a widget,
            what is selected is what the figure shows.
        path: where to write, ending in ``.svg``. The folder has to exist; a file of that name is replaced.
        width: of the figure, in millimetres, 20 to 2000: 85 is one column of most journals, 170 are two. Letters are
            5.5 to 6.5 pt.
        of: "view" for the selected view, "matrix" for all heads in small, "both".
        measures: numbers of your own for every head, to sort the matrix by, as of a widget.
        **traits: what is shown, and how: ``layer``, ``head``, ``view``, ``scale`` and so on, as of a widget. Tokens
            that are ``pinned``, or the ``query``, are in focus, with their numbers.

    Returns:
        The path.

    Raises:
        FileNotFoundError: there is no such folder.
        TypeError, TraitError: no such option; no such part, layer, head, token or view.
        IsADirectoryError: the path is that of a folder.
        ValueError: a width out of range; a path that does not end in ``.svg``; a view that has no picture of what is
            selected, and what has.

    >>> import tempfile, torch
    >>> from attnwidget import Attention
    >>> attention = Attention.from_weights(torch.eye(3), tokens=["a", "b", "c"])
    >>> to_svg(attention, Path(tempfile.mkdtemp()) / "eye.svg", view="heatmap").read_text()[:14]
    '<?xml version='
    """
    return _write(attention_or_widget, path, "svg", measures, traits, width=width, of=of)


def to_pdf(
    attention_or_widget: Any,
    path: str | Path,
    *,
    width: float = 85.0,
    of: Shows = "view",
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Path:
    """Write a figure as PDF, ending in ``.pdf``, its letters embedded as TrueType; all as for :func:`to_svg`."""
    return _write(attention_or_widget, path, "pdf", measures, traits, width=width, of=of)


def to_png(
    attention_or_widget: Any,
    path: str | Path,
    *,
    width: float = 85.0,
    dpi: float = 300.0,
    of: Shows = "view",
    measures: Mapping[str, Any] | None = None,
    **traits: Any,
) -> Path:
    """Write a figure as PNG, ending in ``.png``, with ``dpi`` dots an inch; all else as for :func:`to_svg`.

    Below 144 dots an inch it is meant for the screen and kept small: its colours are those of a palette.
    """
    return _write(attention_or_widget, path, "png", measures, traits, width=width, of=of, dpi=dpi)


def _write(
    shown: Any,
    path: str | Path,
    format: Format,
    measures: Mapping[str, Any] | None,
    traits: Mapping[str, Any],
    **how: Any,
) -> Path:
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder. Name a file in it: {target / f'attention.{format}'}.")
    suffix, right = target.suffix.lower().removeprefix("."), f"{target.stem}.{format}"
    if suffix != format:
        instead = f"Call to_{suffix}, or name" if suffix in get_args(Format) else "Name"
        raise ValueError(
            f"to_{format} writes {format.upper()}, but {target.name} does not end in .{format}. "
            f"{instead} the file {right}."
        )
    target.write_bytes(draw(selected(shown, measures, traits), format, **how, name=target.name))
    return target


def draw(
    selection: Selection,
    format: Format,
    *,
    width: float = 85.0,
    dpi: float = 300.0,
    of: Shows = "view",
    name: str | None = None,
) -> bytes:
    """The figure of a selection as bytes; the same ones whenever it is drawn again. See :func:`to_svg`.

    Args:
        name: of the file, for the Python in its metadata.
    """
    for what, value in (("width", width), ("dpi", dpi)):
        if not (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and value > 0):
            unit = "millimetres: 85 is one column, 170 are two" if what == "width" else "dots an inch: 300 is usual"
            raise ValueError(f"{what} is {value!r}; it must be a number above 0, in {unit}.")
    if not _NARROWEST <= width <= _WIDEST:
        raise ValueError(
            f"width is {width!r}; it must be {_NARROWEST} to {_WIDEST}, in millimetres: 85 is one column, 170 are two."
        )
    if format == "png" and width / 25.4 * dpi > _MOST:
        raise ValueError(f"{width:g} mm at {dpi:g} dots an inch are more than {_MOST} dots. Lower one of the two.")
    if of not in ("view", "matrix", "both"):
        raise ValueError(f"of is {of!r}; it must be 'view', 'matrix' or 'both'.")
    if format not in get_args(Format):
        raise ValueError(f"There is no format {format!r}; there are svg, pdf and png.")
    looking = Looking(selection)
    with settings():
        sheet = Sheet(float(width), format)
        if of == "both" and sheet.width >= _BESIDE:
            left = max(200.0, 0.34 * sheet.width)
            with sheet.beside(0, left):
                _matrix(sheet, looking)
            with sheet.beside(left + 24, sheet.width - left - 24):
                _view(sheet, looking)
            sheet.below()
        else:
            if of != "view":
                _matrix(sheet, looking)
            if of != "matrix":
                _view(sheet, looking)
        told = provenance_of(selection, _call(format, width, dpi, of, name))
        return sheet.written(float(dpi), provenance_text(told), printable(_title(looking)))


def _call(format: Format, width: float, dpi: float, of: Shows, name: str | None) -> str:
    """The call that makes a figure again."""
    more = [f"width={width:g}"] if width != 85 else []
    more += [f"dpi={dpi:g}"] if format == "png" and dpi != 300 else []
    more += [f"of={of!r}"] if of != "view" else []
    return f"to_{format}({', '.join(['attention', repr(name or f'figure.{format}'), *more])})"


def _title(looking: Looking) -> str:
    one, model = looking.chosen, looking.shown.model
    which = selection_text(looking.part, one.layer, one.head, one.reduce, one.heads)
    return f"{which} of {model}" if model else which


def _matrix(sheet: Sheet, looking: Looking) -> None:
    parts = [looking.part.name] if len(looking.shown.parts) > 1 else []
    _heading(
        sheet, "Layers × heads", [*([looking.shown.model] if looking.shown.model else []), *parts, *_side(looking)]
    )
    matrix(sheet, looking)


def _view(sheet: Sheet, looking: Looking) -> None:
    one = looking.chosen
    if one.view not in _VIEWS:
        raise ValueError(f"There is no figure of view={one.view!r}; there are {', '.join(map(repr, _VIEWS))}.")
    if sheet.height:
        sheet.height += 10
    parts = [looking.part.name] if len(looking.shown.parts) > 1 else []
    heading = selection_text(looking.part, one.layer, one.head, one.reduce, one.heads)
    _heading(sheet, heading, [*([looking.shown.model] if looking.shown.model else []), *parts, *_side(looking)])
    _VIEWS[one.view](sheet, looking)


def _side(looking: Looking) -> list[str]:
    """Which side of a comparison is shown."""
    if not is_difference(looking.shown):
        return []
    a, b = looking.shown.names
    return [{"difference": f"{a} − {b}", "a": a, "b": b}[looking.chosen.side]]


def _heading(sheet: Sheet, text: str, more: list[str]) -> None:
    y = sheet.height + 9
    wide = width_of(text, TEXT, bold=True)
    sheet.text(0, y, fitted(text, sheet.width, TEXT, bold=True), TEXT, inks.INK, bold=True)
    rest = printable(" · ".join(more))
    if width_of(rest, SMALL) <= sheet.width - wide - 12 or sheet.width - wide > 150:
        sheet.text(wide + 12, y, fitted(rest, sheet.width - wide - 12, SMALL), SMALL, inks.SOFT)
    sheet.height += 24
