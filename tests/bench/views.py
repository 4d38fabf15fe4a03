"""The views under a reader's hands: hover, another head, the first picture, panning 80 × 64 heads, and their memory.

`python -m tests.bench.views KIND N FILE` writes one page, in a process of its own. Heads are random: none is easier to
draw than those of a trained model. BertViz and CircuitsVis get the same weights where they can be had.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from .browser import FIRST_PAINT, READY, Page, chromium, hover
from .capture import ROOT
from .pages import OPENED, folder
from .table import Row

STATIC = ROOT / "attnwidget" / "static"
SHAPES = {"heads": (4, 4, 64), "small": (12, 12, 64), "large": (32, 32, 32), "wall": (80, 64, 8)}  # layers, heads, d
PEER_SHAPE = (1, 16)  # what the others get: one layer, as they show one at a time
LIMIT = 60.0  # seconds that another tool gets for its picture
PEER_LENGTHS = (64, 128, 512)  # tokens that the others are tried with

# From here the page has its data; what the browser took to read the file is before it.
DATA_IS_HERE = "<script>window.benchData = performance.now()</script>\n<script>"


# ── pages ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def write(kind: str, n: int, path: Path, **traits: Any) -> None:
    """A page with random heads: of ours all of them stored, of others one layer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    tokens = [str(i) for i in torch.randint(50257, (n,), generator=generator).tolist()]
    if kind in SHAPES:
        from attnwidget import Attention, to_html

        layers, heads, d = SHAPES[kind]
        q, k = (torch.randn(layers, heads, n, d, generator=generator) * (2.5 / d**0.25) for _ in range(2))
        budget = 40_000_000 if kind == "heads" else 1_800_000
        to_html(Attention.from_qk(q, k, tokens, causal=True), path, budget=budget, **traits)
        page = path.read_text("utf-8")
        at = page.rindex("<script>")
        path.write_text(page[:at] + DATA_IS_HERE + page[at + len("<script>") :], "utf-8")
        return
    layers, heads = PEER_SHAPE
    scores = torch.randn(layers * (4 if kind == "bertviz" else 1), heads, n, n, generator=generator) * 2
    maps = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf")).softmax(-1)
    if kind == "bertviz":
        from bertviz import head_view

        path.write_text(head_view([layer[None] for layer in maps], tokens, html_action="return").data, "utf-8")
    else:
        from circuitsvis.attention import attention_heads

        shown = attention_heads(attention=maps[0], tokens=tokens)
        path.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{shown.local_src}', "utf-8")


@cache
def page_of(kind: str, n: int, traits: str = "{}") -> Path:
    """The file, written when it is first asked for."""
    path = folder() / f"views-{kind}-{n}-{zlib.crc32(traits.encode())}.html"
    print(f"… writing {kind}, n = {n}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", __name__, kind, str(n), str(path), traits], cwd=ROOT, check=True)
    return path


PICTURE = {"bertviz": READY["head_view"], "circuitsvis": "canvas"}


@contextmanager
def opened(kind: str, n: int, **traits: Any) -> Iterator[Page]:
    """A fresh browser that shows the page."""
    with chromium() as page:
        if kind == "bertviz":
            page.serve_cdn()
        selector = PICTURE.get(kind, READY["attnwidget"])
        page.send(
            "Page.addScriptToEvaluateOnNewDocument", source=OPENED.format(watch=FIRST_PAINT, selector=selector) + COUNT
        )
        path = page_of(kind, n, json.dumps(traits))
        page.rest(2)  # a browser that has just been started is busy with itself
        page.open(path.as_uri())
        page.wait("() => window.bench?.painted", LIMIT)
        page.rest(1)
        yield page


def survives(kind: str, n: int, measure: Callable[[], Any]) -> Any:
    """What is measured on another tool; None if it does not get there."""
    try:
        return measure()
    except (RuntimeError, TimeoutError, subprocess.CalledProcessError, ValueError) as error:
        print(f"… {kind}, n = {n}: {error}", file=sys.stderr)
        return None


# ── inside a page ───────────────────────────────────────────────────────────────────────────────────────────────────

# Counts what is drawn on canvases, from before the first script of the page runs.
COUNT = """
window.benchDrawn = 0;
for (const pen of [CanvasRenderingContext2D.prototype, globalThis.OffscreenCanvasRenderingContext2D?.prototype])
  for (const name of ["clearRect", "fillRect", "fill", "stroke", "drawImage", "putImageData"]) {
    const own = pen?.[name];
    if (own) pen[name] = function (...given) { window.benchDrawn++; return own.apply(this, given); };
  }
"""

# From the event to the end of the first frame that shows what was asked for (`wanted`, a function without arguments, is
# true, and something was drawn), and of the last frame before nothing has been drawn for a while.
AFTER = """
(type, wanted, canvas) => new Promise((done, fail) => {
  const shows = new Function(`return (${wanted})()`);
  addEventListener(type, (event) => {
    const start = event.timeStamp, before = window.benchDrawn;
    let first = null, last = null, drawn = before, quiet = 0;
    const frame = () => requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        const took = performance.now() - start;
        const there = shows() && (!canvas || window.benchDrawn > before);
        first ??= there ? took : null;
        if (there && (window.benchDrawn > drawn || last === null)) last = took, quiet = 0;
        else quiet++;
        drawn = window.benchDrawn;
        if (took > 20000) fail(new Error("nothing is drawn"));
        else if (first !== null && quiet > 25) done([first, last]);
        else frame();
      };
      port2.postMessage(null);
    });
    frame();
  }, { capture: true, once: true });
})"""

# Frames, for as long as it is asked to: when each began, and whether it drew anything.
FRAMES = """
(milliseconds) => new Promise((done) => {
  const seen = [];
  const start = performance.now();
  let drawn = window.benchDrawn;
  const look = (now) => {
    seen.push([now, window.benchDrawn - drawn]);
    drawn = window.benchDrawn;
    if (now - start < milliseconds) requestAnimationFrame(look);
    else done(seen);
  };
  requestAnimationFrame(look);
})"""

CENTRE = """
(selector) => {
  const found = document.querySelector(selector);
  if (found === null) return null;
  found.scrollIntoView({ block: "center" });
  const { x, y, width, height } = found.getBoundingClientRect();
  return [x + width / 2, y + height / 2, width, height];
}"""


def place(page: Page, selector: str) -> list[float]:
    """The centre of an element, and its size."""
    found: list[float] | None = page.call(CENTRE, selector)
    if found is None:
        raise RuntimeError(f"there is no {selector}")
    return found


def press(page: Page, x: float, y: float) -> None:
    """Clicks."""
    for kind in ("mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def after(page: Page, event: str, wanted: str, act: Callable[[], None], canvas: bool = True) -> list[float]:
    """Milliseconds from an event to the picture it asks for: the first frame of it, and all of it."""
    asked = ", ".join(map(json.dumps, (event, wanted, canvas)))
    tell = ".then((took) => { window.benchAfter = took; }, (error) => { window.benchAfter = String(error); })"
    page.call(f"() => {{ window.benchAfter = null; ({AFTER})({asked}){tell}; }}")
    act()
    took = page.wait("() => window.benchAfter", 30)
    if isinstance(took, str):
        raise RuntimeError(took)
    times: list[float] = took
    return times


# ── hover ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def hover_rows(quick: bool) -> Iterator[Row]:
    """Hover to paint, over tokens, in every view that has them."""
    times = 20 if quick else 60
    for n, limit in ((512, 0.016), (4096, 0.033)):
        for name, traits in HOVERED.items():
            with opened("heads", n, layer=1, head=1, **traits) as page:
                seen = hover(page, "attnwidget", times, "nodes" if name == "text" else "canvas")
            yield from hovered(f"hover to paint, {name}", n, limit, seen, None, "")
        with opened("heads", n, layer=1, head=1, view="heatmap") as page:
            seen = across(page, "[role=grid][aria-label^=Weights]", times)
        yield from hovered("hover to paint, heat map's cells", n, limit, seen, None, "")
    for n in PEER_LENGTHS[:1] if quick else PEER_LENGTHS:
        for kind in peers():
            theirs = survives(kind, n, lambda kind=kind, n=n: peer_hover(kind, n, times))
            with opened("heads", n, layer=1, head=1, view="arcs" if kind == "bertviz" else "heatmap") as page:
                ours = (
                    hover(page, "attnwidget", times)
                    if kind == "bertviz"
                    else across(page, "[role=grid][aria-label^=Weights]", times)
                )
            yield from hovered(
                f"hover to paint, {'arcs' if kind == 'bertviz' else 'heat map'}", n, None, ours, theirs, NAMES[kind]
            )


HOVERED: dict[str, dict[str, Any]] = {
    "arcs": {"view": "arcs"},
    "arcs in a line": {"view": "arcs", "arrangement": "line"},
    "arcs, three heads": {"view": "arcs", "heads": [[1, 1], [0, 2], [2, 3]]},
    "text": {"view": "text"},
}
NAMES = {"bertviz": "BertViz head_view", "circuitsvis": "CircuitsVis attention_heads"}


def hovered(
    what: str, n: int, limit: float | None, ours: dict[str, Any], theirs: dict[str, Any] | None, other: str
) -> Iterator[Row]:
    """The median, and what of it is script."""
    beside = None if theirs is None else median(theirs["painted"]) / 1000
    yield Row(what, n, median(ours["painted"]) / 1000, "s", other, beside, at_most=limit)
    beside = None if theirs is None else theirs["task"] / 1000
    yield Row("  the page's thread in each", n, ours["task"] / 1000, "s", other, beside)


def across(page: Page, selector: str, times: int) -> dict[str, Any]:
    """Moves the mouse along the diagonal of an element, as `hover` does over tokens."""
    from .browser import WATCH_HOVER

    page.call(WATCH_HOVER, "canvas")
    x, y, width, height = place(page, selector)
    page.point(x, y)
    page.rest(0.5)
    page.call("() => { benchHover.painted = []; benchHover.presented = []; }")
    before = page.durations()
    for move in range(1, times + 1):
        share = (move * 0.618) % 0.9 + 0.03
        page.point(x + width * (share / 2 - 0.5) * 0.9, y + height * (share - 0.5) * 0.95)
        page.rest(0.06)
    page.wait(f"() => benchHover.painted.length >= {times}")
    after = page.durations()
    seen: dict[str, Any] = page.call("() => benchHover")
    return seen | {name: (after[name] - before[name]) / times for name in before}


def peer_hover(kind: str, n: int, times: int) -> dict[str, Any]:
    with opened(kind, n) as page:
        if kind == "bertviz":
            return hover(page, "head_view", times)
        page.call("() => { [...document.querySelectorAll('canvas')].at(-1).id = 'bench-zoomed'; }")
        return across(page, "#bench-zoomed", times)


def peers() -> list[str]:
    """Which of the others are installed."""
    import importlib.util

    return [kind for kind in NAMES if importlib.util.find_spec(kind)]


# ── another head ────────────────────────────────────────────────────────────────────────────────────────────────────


def switch(page: Page, layer: int, head: int) -> list[float]:
    """Clicks a square of the matrix."""
    cell = f"[data-layer='{layer}'][data-head='{head}']"
    x, y, *_ = place(page, cell)
    page.point(x, y)
    page.rest(0.15)
    wanted = (
        f"() => document.querySelector('.attnwidget').dataset.selection === 'attention/{layer}/{head}'"
        " && document.querySelector('.attn-map[data-sharp=false]') === null"
    )
    return after(page, "click", wanted, lambda: press(page, x, y))


def select_rows(quick: bool) -> Iterator[Row]:
    """Another head: first in places where it has not been looked at yet, then again."""
    n = 1024
    heads = [(layer, head) for head in (0, 2) for layer in range(3)]
    for name, traits in SWITCHED.items():
        with opened("heads", n, layer=3, head=3, **traits) as page:
            fresh = [switch(page, layer, head) for layer, head in heads]
            again = [switch(page, layer, head) for layer, head in heads]
        for when, times in (("seen first", fresh), ("again", again)):
            yield Row(f"another head, {name}, {when}", n, median(first for first, _ in times) / 1000, "s", at_most=0.05)
            if median(last - first for first, last in times) > 4:
                yield Row("  and what stands around it", n, median(last for _, last in times) / 1000, "s")
    for n in PEER_LENGTHS[:1] if quick else PEER_LENGTHS:
        for kind in peers():
            theirs = survives(kind, n, lambda kind=kind, n=n: peer_switch(kind, n))
            view = "arcs" if kind == "bertviz" else "heatmap"
            with opened("heads", n, layer=3, head=3, view=view) as page:
                ours = median(first for first, _ in (switch(page, layer, head) for layer, head in heads)) / 1000
            yield Row(f"another head, {'arcs' if view == 'arcs' else 'heat map'}", n, ours, "s", NAMES[kind], theirs)


SWITCHED: dict[str, dict[str, Any]] = {
    name: {"view": view} for name, view in (("arcs", "arcs"), ("heat map", "heatmap"))
}


def peer_switch(kind: str, n: int) -> float:
    """Seconds: BertViz shows another layer, CircuitsVis the head under the mouse."""
    with opened(kind, n) as page:
        if kind == "bertviz":
            choose = """(at) => {
              const select = document.querySelector("[id^=bertviz-] #layer");
              select.selectedIndex = at;
              select.dispatchEvent(new Event("change", { bubbles: true }));
            }"""
            took = [
                after(page, "change", "() => true", lambda at=at: page.call(choose, at), canvas=False)[0]
                for at in (1, 2, 3, 1, 2)
            ]
        else:
            spots = page.call(
                """() => [...document.querySelectorAll("canvas")].slice(1, 7).map((canvas) => {
                  const box = canvas.getBoundingClientRect();
                  return [box.x + box.width / 2, box.y + box.height / 2];
                })"""
            )
            took = []
            for x, y in spots:
                page.rest(0.3)
                took.append(after(page, "pointermove", "() => true", lambda x=x, y=y: page.point(x, y))[0])
        return median(took) / 1000


# ── the first picture, many heads, memory ───────────────────────────────────────────────────────────────────────────


def paint_rows(quick: bool) -> Iterator[Row]:
    """From the data being there, in a page that has just been read, to the first picture."""
    for kind, n, limit in (("small", 128, 0.3), ("large", 256 if quick else 2048, 1.0)):
        taken = []
        for _ in range(1 if quick else 5):
            with opened(kind, n) as page:
                taken.append(page.call("() => bench.painted - benchData"))
        layers, heads, _ = SHAPES[kind]
        yield Row(f"first paint after data, {layers} × {heads}", n, median(taken) / 1000, "s", at_most=limit)
    n = 128
    for kind in peers():
        theirs = survives(kind, n, lambda kind=kind: peer_paint(kind, n))
        with opened("small", n) as page:
            ours = page.call("() => bench.painted") / 1000
        yield Row(
            "page to first paint, ours 144 heads",
            n,
            ours,
            "s",
            f"{NAMES[kind]}, {16 * (4 if kind == 'bertviz' else 1)}",
            theirs,
        )


def peer_paint(kind: str, n: int) -> float:
    with opened(kind, n) as page:
        return page.call("() => bench.painted") / 1000


def wall_rows(quick: bool) -> Iterator[Row]:
    """80 × 64 heads, dragged to and fro for a while."""
    with opened("wall", 32, layer=3, head=4) as page:
        yield Row("80 × 64 heads, page to first paint", 32, page.call("() => bench.painted") / 1000, "s")
        zoom(page)
        frames = drag(page, 2.0 if quick else 5.0)
    yield Row("80 × 64 heads, dragged: frames drawn a second", 32, rate(frames), "", at_least=50)
    gaps = sorted(b - a for (a, _), (b, _) in itertools.pairwise(frames))
    yield Row("  the slowest of 100 frames", 32, gaps[int(0.99 * len(gaps))] / 1000, "s")


MATRIX = "[role=grid][aria-label^=Layers]"


def zoom(page: Page) -> None:
    """Three steps closer, with the control key and the wheel."""
    x, y, *_ = place(page, MATRIX)
    for _ in range(3):
        page.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=min(y, 500), deltaX=0, deltaY=-240, modifiers=2)
        page.rest(0.2)


def drag(page: Page, seconds: float) -> list[list[float]]:
    """Frames of a drag that follows a circle, sixty moves a second."""
    import math
    import time

    x, y, *_ = place(page, MATRIX)
    y = min(y, 500)
    page.point(x, y)
    page.send("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", buttons=1, clickCount=1)
    keep = ".then((seen) => { window.benchFrames = seen; })"
    page.call(f"() => {{ window.benchFrames = null; ({FRAMES})({seconds * 1000}){keep}; }}")
    start = time.monotonic()
    while (at := time.monotonic() - start) < seconds:
        turn = at * 3
        page.send(
            "Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1,
            x=x + 160 * math.sin(turn), y=y + 120 * math.sin(1.3 * turn),
        )  # fmt: skip
        page.rest(max(0.0, 1 / 75 - (time.monotonic() - start - at)))
    page.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
    frames: list[list[float]] = page.wait("() => window.benchFrames")
    return frames


def rate(frames: list[list[float]]) -> float:
    """Frames a second that drew something."""
    return 1000 * sum(drawn > 0 for _, drawn in frames[1:]) / (frames[-1][0] - frames[0][0])


def memory_rows(quick: bool) -> Iterator[Row]:
    """What 200 head switches leave behind, once every head has been seen."""
    heads = [(layer, head) for layer in range(4) for head in range(4)]
    times = 40 if quick else 200
    for name, traits in SWITCHED.items():
        with opened("heads", 512, layer=0, head=0, **traits) as page:
            for at in range(2 * len(heads)):
                jump(page, *heads[at % len(heads)])
            before = used(page)
            for at in range(times):
                jump(page, *heads[(at * 5) % len(heads)])
            left = {what: used(page)[what] - value for what, value in before.items()}
        yield Row(f"memory that {times} head switches keep, {name}", 512, left["bytes"], "bytes", at_most=1e6)
        yield Row("  nodes of the page that they keep", 512, left["nodes"], "", at_most=20)
        yield Row("  listeners that they keep", 512, left["listeners"], "", at_most=20)


def jump(page: Page, layer: int, head: int) -> None:
    """Selects a head and waits for its picture."""
    page.call(
        """(cell, wanted) => new Promise((done) => {
          document.querySelector(cell).click();
          const root = document.querySelector(".attnwidget");
          const look = () => requestAnimationFrame(() => {
            if (root.dataset.selection === wanted) requestAnimationFrame(done);
            else look();
          });
          look();
        })""",
        f"[data-layer='{layer}'][data-head='{head}']",
        f"attention/{layer}/{head}",
    )


def used(page: Page) -> dict[str, float]:
    """What the page holds after the rubbish has been taken out."""
    page.rest(1)
    for _ in range(3):
        page.send("HeapProfiler.collectGarbage")
    heap, found = page.send("Runtime.getHeapUsage"), page.send("Memory.getDOMCounters")
    return {
        "bytes": heap["usedSize"] + heap.get("backingStorageSize", 0),
        "nodes": found["nodes"], "listeners": found["jsEventListeners"],
    }  # fmt: skip


def size_rows() -> Iterator[Row]:
    """The script: what travels once per widget, and what it unpacks to."""
    yield Row("script with every view, packed", None, (STATIC / "widget.js").stat().st_size, "bytes", at_most=100e3)
    yield Row("  unpacked, as pages carry it", None, (STATIC / "page.js").stat().st_size, "bytes")


def rows(quick: bool) -> Iterator[Row]:
    """All of them."""
    yield from size_rows()
    yield from hover_rows(quick)
    yield from select_rows(quick)
    yield from paint_rows(quick)
    yield from wall_rows(quick)
    yield from memory_rows(quick)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), **json.loads(sys.argv[4]))
