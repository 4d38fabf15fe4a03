"""How fast and how small attnwidget is, beside BertViz on the same random GPT-2 and tokens: one run, one table.

    python -m tests.bench                      from the repository's root; half an hour
    python -m tests.bench --quick              short lengths, once each; a few minutes
    python -m tests.bench --only hover         one of capture, methods, bytes, paint, hover, views
    python -m tests.bench --json numbers.json  the rows as a file, too
    python -m tests.bench --check              exit status 1 if something is not reached

`--only capture` and `--only methods` need no browser. The rest needs Chromium and JupyterLab, and for BertViz `pip
install bertviz` and npm: BertViz loads require.js, d3 and jQuery from a CDN, and is given them by this machine instead,
at once. Times are this machine's, and other work on it is in them: keep it idle, and compare ratios. Rows without a
limit are there to be looked at.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from attnwidget import __version__

from . import capture, methods, pages, views
from .lab import Shown, hover_in_notebook, jupyterlab, show_once
from .table import Row, show, show_heading

LIMIT = 120.0  # seconds that BertViz gets for one picture
LONGEST = 256  # tokens that BertViz is tried with
HOVERS = 80
FROM_END = "end of cell to first paint"
VIEWS = ("model_view", "head_view") if importlib.util.find_spec("bertviz") else ()
CIRCUITS = ("circuitsvis",) if importlib.util.find_spec("circuitsvis") else ()
NAMES = {"model_view": "BertViz model_view", "head_view": "BertViz head_view", "circuitsvis": "CircuitsVis"}


def lengths(quick: bool) -> tuple[int, ...]:
    return (32, 128) if quick else (32, 128, 256, 512, 1024)


def capture_rows(quick: bool) -> Iterator[Row]:
    yield from capture.measure("gpt2", (128,) if quick else (128, 256, 512, 1024), 8 if quick else 30)
    yield from capture.measure(
        "llama", (128,) if quick else (128, 256, 512, 1024, 2048, 4096, 8192), 8 if quick else 30
    )


def bytes_rows(quick: bool) -> Iterator[Row]:
    for name, most in (("widget.js", 100e3), ("page.packed.js", 104e3)):
        size = (capture.ROOT / "attnwidget" / "static" / name).stat().st_size
        yield Row(f"script, {name}", None, size, "bytes", at_most=most)
    for n in lengths(quick):
        widget = shown(n)
        yield Row("first message to the browser", n, first_message(widget), "bytes", at_most=1e6)
        kept = widget.size()
        yield Row("output in a notebook: page, picture, words", n, kept["page"] + kept["picture"], "bytes", at_most=4e5)
    for n in lengths(quick):
        yield from beside(
            "page", n, "bytes", lambda tool, n: pages.page_of(tool, n).stat().st_size, (*VIEWS, *CIRCUITS)
        )
    yield Row(
        "page opened to first paint", 512, pages.opened("attnwidget", 512, 1 if quick else 3, LIMIT), "s", at_most=2
    )
    for n in lengths(quick):  # with the state of the widget and with the output
        yield from beside("saved notebook", n, "bytes", lambda tool, n: notebooks(quick)[tool, n][-1].saved)


def paint_rows(quick: bool) -> Iterator[Row]:
    for n in lengths(quick):
        yield from beside(
            FROM_END, n, "s", lambda tool, n: middle(shown.from_end for shown in notebooks(quick)[tool, n])
        )
    for n in lengths(quick):
        yield from beside(
            "start of cell to first paint",
            n,
            "s",
            lambda tool, n: middle(shown.from_start for shown in notebooks(quick)[tool, n]),
        )
    times = 1 if quick else 3
    for n in lengths(quick):
        yield from beside("page opened to first paint", n, "s", lambda tool, n: pages.opened(tool, n, times, LIMIT))


def hover_rows(quick: bool) -> Iterator[Row]:
    for n in (128,) if quick else (32, 128, 512, 1024):
        ours = pages.hovered("attnwidget", n, HOVERS, layer=5, head=3)
        theirs = pages.hovered("head_view", n, HOVERS) if VIEWS and n <= 128 else None
        yield from pages.hover_rows("page, one head", n, ours, theirs)
    if not quick:
        yield from pages.hover_rows("page, mean of all", 512, pages.hovered("attnwidget", 512, HOVERS), None)
        with jupyterlab() as lab:
            yield from pages.hover_rows("JupyterLab", 512, hover_in_notebook(lab, 512, HOVERS), None)


SECTIONS = {
    "capture": (
        "Capture of GPT-2 small, and of a Llama of 8 layers × 8 heads (2 for keys) × 512, random weights",
        capture_rows,
    ),
    "methods": ("What methods cost, beside a forward pass or a limit", methods.rows),
    "bytes": ("Bytes", bytes_rows),
    "paint": ("First paint: JupyterLab with a fresh kernel and browser each time, and pages", paint_rows),
    "views": ("The views: random heads, one fresh browser for each row", views.rows),
    "hover": (f"Hovering query tokens, {HOVERS} times; BertViz draws all heads of one layer", hover_rows),
}


def beside(
    what: str, n: int, unit: str, measure: Callable[[str, int], float | None], others: Sequence[str] = VIEWS
) -> Iterator[Row]:
    """Ours beside each of the others; to be better than the one of BertViz that shows all heads, as ours does."""
    ours = measure("attnwidget", n)
    views = others if n <= LONGEST else ()
    if not views:
        yield Row(what, n, ours, unit)
    for view in views:
        limit = None
        if view == "model_view" and what == FROM_END:
            limit = 1.0
        elif view == "model_view" and unit == "bytes" and n == 128:
            limit = 1 / 20
        yield Row(what, n, ours, unit, NAMES[view], measure(view, n), ratio_at_most=limit)


@cache
def notebooks(quick: bool) -> dict[tuple[str, int], list[Shown]]:
    """Every run in JupyterLab; bytes and times are both of these."""
    runs: dict[tuple[str, int], list[Shown]] = {}
    with jupyterlab() as lab:
        for n in lengths(quick):
            times = 1 if quick or n > 128 else 3
            for tool in ("attnwidget", *(VIEWS if n <= LONGEST else ())):
                print(f"… JupyterLab, {tool}, n = {n}", file=sys.stderr)
                runs[tool, n] = [show_once(lab, tool, n, LIMIT) for _ in range(times)]
    return runs


def shown(n: int) -> Any:
    """A widget of n random tokens through a random GPT-2."""
    from attnwidget.widget import AttentionWidget

    return AttentionWidget(capture.WAYS["capture"](capture.random_gpt2(), capture.random_ids(n)))


def first_message(widget: Any) -> int:
    """Bytes of state and buffers with which a widget opens its line to the browser."""
    from ipywidgets.widgets.widget import _remove_buffers

    state, _, buffers = _remove_buffers(widget.get_state())
    return len(json.dumps(state)) + sum(map(len, buffers))


def middle(times: Iterable[float | None]) -> float | None:
    """The median; None if one did not finish."""
    given = list(times)
    finished = [one for one in given if one is not None]
    return median(finished) if len(finished) == len(given) else None


def machine() -> str:
    """What runs on what."""
    found = [f"attnwidget {__version__}"]
    for name in ("torch", "transformers", "jupyterlab", "ipywidgets", "anywidget", "bertviz"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return f"{', '.join(found)}; {os.cpu_count()} cores"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short lengths, once each")
    parser.add_argument("--only", choices=list(SECTIONS), help="one section")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--check", action="store_true", help="exit status 1 if something is not reached")
    asked = parser.parse_args()

    print(machine())
    if not VIEWS:
        print("BertViz is not installed (pip install bertviz): its numbers are left out.")
    rows: list[dict[str, Any]] = []
    try:
        for name in [asked.only] if asked.only else SECTIONS:
            title, measure = SECTIONS[name]
            show_heading(f"{title} (load of the machine: {os.getloadavg()[0]:.1f})")
            rows += [{"section": name, **asdict(row), "reached": row.reached} for row in show(measure(asked.quick))]
    finally:
        pages.remove()
    if asked.json:
        asked.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1))
    missed = sum(row["reached"] is False for row in rows)
    print(f"\n{sum(row['reached'] is True for row in rows)} reached, {missed} not reached")
    return int(asked.check and missed > 0)


if __name__ == "__main__":
    sys.exit(main())
