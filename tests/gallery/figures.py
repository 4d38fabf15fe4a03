"""Figures of every view at one column and at two, for the gallery.

    python -m tests.gallery.figures            draws them all: tests/gallery/figures, and their part of the README
    python -m tests.gallery.figures arcs       those of some
    python -m tests.gallery.figures --check    draws nothing anew: compares, and tells what differs

Look at every picture before you commit it: the tests take them for the truth.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnwidget.figures import Shows, draw
from attnwidget.selection import Selection

from . import subjects

FOLDER = Path(__file__).parent / "figures"
PAGE = Path(__file__).parent / "README.md"
WIDTHS = (85, 170)
DPI = 150
START = '<a name="figures"></a>'


@dataclass(frozen=True)
class Figure:
    """One view of one subject."""

    name: str
    title: str
    subject: Callable[[], Any]
    traits: Mapping[str, Any] = field(default_factory=dict)
    of: Shows = "view"


INDUCTION = {"layer": 1, "head": 0}
LINE = {"arrangement": "line"}
THREE = {"heads": [(1, 0), (2, 0), (0, 1)]}
FIGURES = (
    Figure("matrix", "Matrix", lambda: subjects.decoder(40), INDUCTION, "matrix"),
    Figure("matrix-144", "Matrix of 12 heads a layer", lambda: subjects.encoder(40), {"layer": 2, "head": 5}, "matrix"),
    Figure("matrix-wall", "Matrix of 80 × 64 heads", lambda: subjects.wall(24), {"layer": 3, "head": 4}, "matrix"),
    Figure("both", "Matrix and arcs", lambda: subjects.decoder(40), {**INDUCTION, "query": 19}, "both"),
    Figure("arcs", "Arcs, one token in focus", lambda: subjects.decoder(40), {**INDUCTION, "query": 19}),
    Figure("arcs-4", "Arcs, 4 tokens", lambda: subjects.decoder(4), {**INDUCTION, "query": 2}),
    Figure("arcs-400", "Arcs, 400 tokens", lambda: subjects.decoder(400), {**INDUCTION, "query": 300}),
    Figure(
        "arcs-pinned", "Arcs, two pinned tokens added up", lambda: subjects.decoder(40),
        {**INDUCTION, "pinned": [19, 30]},
    ),
    Figure("overlay", "Arcs of three heads", lambda: subjects.decoder(40), {**THREE, "query": 19}),
    Figure("line", "Arcs above one line", lambda: subjects.decoder(40), {**INDUCTION, **LINE, "query": 19}),
    Figure("line-4", "Arcs above one line, 4 tokens", lambda: subjects.decoder(4), {**INDUCTION, **LINE, "query": 2}),
    Figure(
        "line-both", "Arcs back and ahead", lambda: subjects.encoder(40),
        {"layer": 2, "head": 5, **LINE, "query": 4},
    ),
    Figure("difference", "A − B", lambda: subjects.changed(40), {**INDUCTION, "query": 19}),
    Figure("heatmap", "Heat map", lambda: subjects.decoder(40), {**INDUCTION, "view": "heatmap"}),
    Figure("heatmap-4", "Heat map, 4 tokens", lambda: subjects.decoder(4), {**INDUCTION, "view": "heatmap"}),
    Figure("heatmap-400", "Heat map, 400 tokens", lambda: subjects.decoder(400), {**INDUCTION, "view": "heatmap"}),
    Figure(
        "heatmap-4000", "Heat map, 4000 tokens", lambda: subjects.book(4000),
        {**INDUCTION, "view": "heatmap", "scale": "log"},
    ),
    Figure("difference-map", "A − B as a heat map", lambda: subjects.changed(40), {**INDUCTION, "view": "heatmap"}),
    Figure(
        "cross", "Cross attention", lambda: subjects.pair(40),
        {"part": "cross", "layer": 1, "head": 2, "view": "heatmap", "query": 4},
    ),
    Figure(
        "graph", "Graph, the paths of one token", lambda: subjects.decoder(40),
        {**INDUCTION, "view": "graph", "query": 3},
    ),
    Figure("graph-all", "Graph, all tokens", lambda: subjects.decoder(40), {**INDUCTION, "view": "graph"}),
    Figure("graph-400", "Graph, 400 tokens", lambda: subjects.decoder(400), {**INDUCTION, "view": "graph"}),
    Figure("steps", "Steps", lambda: subjects.decoder(40), {**INDUCTION, "view": "steps"}),
    Figure(
        "steps-switched", "Steps, scale off, warmer", lambda: subjects.decoder(40),
        {**INDUCTION, "view": "steps", "switches": {"scale": False, "temperature": 2.0}},
    ),
    Figure("text", "Text", lambda: subjects.encoder(40), {"layer": 2, "head": 5, "view": "text", "query": 12}),
    Figure("image", "Image", lambda: subjects.image(40), {"layer": 1, "head": 2, "view": "image", "query": 20}),
    Figure("table", "Table", lambda: subjects.decoder(40), {**INDUCTION, "view": "table", "query": 19}),
)  # fmt: skip


def file_of(figure: Figure, width: int) -> Path:
    """Where a figure is kept."""
    return FOLDER / f"{figure.name}-{width}.webp"


def made(figure: Figure, width: int) -> bytes:
    """The figure as PNG, made smaller as WebP."""
    drawn = draw(Selection(figure.subject(), **figure.traits), "png", width=width, dpi=DPI, of=figure.of)
    file = io.BytesIO()
    Image.open(io.BytesIO(drawn)).save(file, "WEBP", quality=72, method=6)
    return file.getvalue()


def apart(drawn: bytes, kept: bytes) -> float:
    """How far apart two pictures are, 0 to 255: the mean over squares of 8 × 8 pixels, in the worst of them."""
    a, b = (np.asarray(Image.open(io.BytesIO(one)).convert("RGB")).astype(float) for one in (drawn, kept))
    if abs(a.shape[0] - b.shape[0]) > 2 or abs(a.shape[1] - b.shape[1]) > 2:
        return 255.0
    rows, cols = (min(one) // 8 * 8 for one in zip(a.shape[:2], b.shape[:2], strict=True))
    size = (a[:rows, :cols] - b[:rows, :cols]).reshape(rows // 8, 8, cols // 8, 8, 3)
    return float(abs(size.mean((1, 3))).max())


def contents() -> str:
    """The part of the gallery's page that shows them."""
    lines = [
        "", START, "", "## Figures for papers", "",
        "`to_svg`, `to_pdf` and `to_png` at 85 mm (one column) and 170 mm (two), here at 150 dots an inch:",
        "`python -m tests.gallery.figures` draws them, the tests draw them again and compare.", "",
        "| | 85 mm | 170 mm |", "|---|---|---|",
    ]  # fmt: skip
    for figure in FIGURES:
        cells = [f"![{figure.title}, {width} mm](figures/{file_of(figure, width).name})" for width in WIDTHS]
        lines.append(f"| {figure.title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Draws, or compares."""
    names = [one for one in sys.argv[1:] if not one.startswith("-")]
    check, failed = "--check" in sys.argv, 0
    FOLDER.mkdir(exist_ok=True)
    for figure in FIGURES:
        if names and figure.name not in names:
            continue
        for width in WIDTHS:
            start, file = time.monotonic(), file_of(figure, width)
            drawn = made(figure, width)
            told = f"{len(drawn) / 1000:.0f} kB"
            if check:
                far = apart(drawn, file.read_bytes()) if file.is_file() else 255.0
                told, failed = f"{far:.1f} of 255", failed + (far > 24)
            else:
                file.write_bytes(drawn)
            print(f"{file.name}: {told} ({time.monotonic() - start:.1f} s)", flush=True)
    if not check:
        before = PAGE.read_text("utf-8").partition(f"\n{START}")[0]
        PAGE.write_text(before + contents(), "utf-8")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
