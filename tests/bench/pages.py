"""Pages without a kernel, ours and BertViz's: what they weigh, and how long they take to open and to follow the mouse.

`python -m tests.bench.pages TOOL N FILE` writes one, in a process of its own: BertViz needs gigabytes for it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import Any

import torch

from .browser import FIRST_PAINT, READY, Page, chromium, hover
from .capture import ROOT, WAYS, random_gpt2, random_ids
from .table import Row

OPENED = (
    "window.bench = {{}}; ({watch})('{selector}').then((at) => {{ bench.painted = at - performance.timeOrigin; }});"
)


def write(tool: str, n: int, path: Path, **traits: Any) -> None:
    """One page of one tool, about the same random model and tokens."""
    ids = random_ids(n)
    if tool == "attnwidget":
        from attnwidget.export import to_html

        to_html(WAYS["capture"](random_gpt2(), ids), path, **traits)
        return
    maps, tokens = WAYS["eager"](random_gpt2("eager"), ids).attentions, [str(i) for i in ids[0].tolist()]
    if tool == "circuitsvis":
        from circuitsvis.attention import attention_heads

        every = attention_heads(attention=torch.cat([layer[0] for layer in maps]), tokens=tokens)
        path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{every.local_src}', "utf-8")
        return
    import bertviz

    path.write_text(getattr(bertviz, tool)(maps, tokens, html_action="return").data)


@cache
def folder() -> Path:
    """Where this run's pages are."""
    return Path(mkdtemp(prefix="bench-pages-"))


def remove() -> None:
    """Removes the pages of this run."""
    shutil.rmtree(folder())


@cache
def page_of(tool: str, n: int, traits: str = "{}") -> Path:
    """The file, written when it is first asked for."""
    path = folder() / f"{tool}-{n}-{zlib.crc32(traits.encode())}.html"
    subprocess.run([sys.executable, "-m", __name__, tool, str(n), str(path), traits], cwd=ROOT, check=True)
    return path


def open_page(page: Page, tool: str, path: Path, limit: float) -> float:
    """Seconds from the start of navigation to the first paint."""
    if tool != "attnwidget":
        page.serve_cdn()
    source = OPENED.format(watch=FIRST_PAINT, selector=READY[tool])
    page.send("Page.addScriptToEvaluateOnNewDocument", source=source)
    page.open(path.as_uri())
    taken: float = page.wait("() => window.bench?.painted", limit)
    return taken / 1000


def opened(tool: str, n: int, times: int, limit: float) -> float | None:
    """The median of several openings, each in a fresh browser; None if one does not end."""
    taken = []
    for _ in range(times):
        with chromium() as page:
            try:
                taken.append(open_page(page, tool, page_of(tool, n), limit))
            except (RuntimeError, TimeoutError) as error:
                if tool == "attnwidget":
                    raise
                print(f"… page, {tool}, n = {n}: {error}", file=sys.stderr)
                return None
    return median(taken)


def hovered(tool: str, n: int, times: int, **traits: Any) -> dict[str, Any]:
    """What `browser.hover` measures on a page."""
    with chromium() as page:
        open_page(page, tool, page_of(tool, n, json.dumps(traits)), 120)
        return hover(page, tool, times)


def hover_rows(where: str, n: int, ours: dict[str, Any], theirs: dict[str, Any] | None) -> Iterator[Row]:
    """Hover to paint, and where its time goes."""
    other = "BertViz head_view" if theirs is not None else ""

    def row(what: str, take: Any, at_most: float | None = None) -> Row:
        beside = None if theirs is None else take(theirs) / 1000
        return Row(f"{where}: {what}", n, take(ours) / 1000, "s", other, beside, at_most=at_most)

    limit = 0.033 if n == 512 else None
    yield row("hover to paint, median", lambda seen: median(seen["painted"]), limit)
    yield row("hover to paint, 95 of 100", lambda seen: sorted(seen["painted"])[int(0.95 * len(seen["painted"]))])
    yield row("to the presented frame, median", lambda seen: median(seen["presented"]))
    yield row("script in each", lambda seen: seen["script"])
    yield row("style and layout in each", lambda seen: seen["layout"])
    yield row("page's thread in each", lambda seen: seen["task"])


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))
