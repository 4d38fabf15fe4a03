"""Chromium, and what is measured inside a page of it.

It is driven over its own protocol: Playwright's driver copies every message between a notebook and its kernel, which
slows large ones down, and dies of the one that BertViz sends at n = 256.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import websocket

FLAGS = (
    "--headless", "--remote-debugging-port=0", "--window-size=1400,1000", "--force-device-scale-factor=1",
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "about:blank",
)  # fmt: skip

# There is a picture once this matches: our root says so itself; BertViz makes all of its SVG in one go.
READY = {
    "attnwidget": ".attnwidget[data-attn-ready=true]",
    "model_view": "[id^=bertviz-] svg line",
    "head_view": "[id^=bertviz-] svg line",
}

# Polls in animation frames, the same for both tools, and ends two frames after the picture is there: the frame that
# has it is over by then, with style, layout and paint. What a raster thread does later is not in it.
FIRST_PAINT = """
(selector) => new Promise((done) => {
  const look = () => requestAnimationFrame(document.querySelector(selector) === null ? look
    : () => requestAnimationFrame(() => done(Date.now())));
  look();
})"""

# For every move of the pointer: from the event to the end of the frame that shows what it changed. A message posted in
# an animation frame arrives when that frame has been painted. Where pictures are canvases, a frame that draws on none
# does not count. `presented` is the browser's own measure, Event Timing: from the event to the next frame presented,
# in steps of 8 ms, and nothing below 16 ms is reported.
WATCH_HOVER = """
(draws) => {
  // draws: "canvas", "nodes" (what changes is elements of the page), or "" for a tool of which neither is known
  const seen = (window.benchHover = { painted: [], presented: [] });
  let drawn = 0;
  const pen = CanvasRenderingContext2D.prototype;
  const names = ["clearRect", "fillRect", "fill", "stroke", "drawImage", "putImageData"];
  for (const name of draws === "canvas" ? names : []) {
    const own = pen[name];
    pen[name] = function (...given) { drawn++; return own.apply(this, given); };
  }
  if (draws === "nodes")
    new MutationObserver(() => drawn++).observe(document.body, { attributes: true, childList: true, subtree: true });
  addEventListener("pointermove", (event) => {
    const before = drawn;
    const frame = () => requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        const took = performance.now() - event.timeStamp;
        if (draws === "" || drawn > before || took > 1000) seen.painted.push(took);
        else frame();
      };
      port2.postMessage(null);
    });
    frame();
  }, { capture: true, passive: true });
  new PerformanceObserver((list) => {
    for (const { name, duration } of list.getEntries()) if (name === "pointerover") seen.presented.push(duration);
  }).observe({ type: "event", durationThreshold: 16 });
}"""

# To the end of every list: causal rows are longest there, and lists may hold only the rows that are near.
SCROLL = """
(selector) => {
  for (let el = document.querySelector(selector); el !== null; el = el.parentElement) el.scrollTop = el.scrollHeight;
}"""

# Centres of what the mouse can reach now.
REACHED = """
(selector) => {
  const all = [...document.querySelectorAll(selector)];
  all.at(-1).scrollIntoView({ block: "end" });
  return all.flatMap((el) => {
    const box = el.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const hit = document.elementFromPoint(x, y);
    return el.contains(hit) || hit?.parentNode === el.parentNode ? [[x, y]] : [];
  });
}"""

TOKENS = {"attnwidget": ".attn-view [data-query]", "head_view": "[id^=bertviz-] #left text"}


class Page:
    """One page of a browser."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, suppress_origin=True)
        self._last = 0
        self._answers: dict[int, dict[str, Any]] = {}
        for domain in ("Inspector", "Page", "Runtime", "Performance"):
            self.send(f"{domain}.enable")
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)

    def send(self, method: str, limit: float = 60, **parameters: Any) -> dict[str, Any]:
        """What the browser answers."""
        number, end = self._write(method, parameters), time.monotonic() + limit
        while number not in self._answers:
            self._read(end)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def call(self, function: str, *arguments: Any, limit: float = 60) -> Any:
        """What a JavaScript function returns, or its promise gives."""
        given = ", ".join(map(json.dumps, arguments))
        done = self.send(
            "Runtime.evaluate", limit, expression=f"({function})({given})", awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description", "a script failed"))
        return done["result"].get("value")

    def wait(self, function: str, limit: float = 60) -> Any:
        """What a JavaScript function returns once that is something; asked five times a second."""
        end = time.monotonic() + limit
        while not (found := self.call(function, limit=end - time.monotonic())):
            self.rest(0.2)
            if time.monotonic() > end:
                raise TimeoutError(f"nothing in {limit:.0f} s")
        return found

    def rest(self, seconds: float) -> None:
        """Lets time pass, and answers what the page asks for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                self._read(end)
            except TimeoutError:
                return

    def open(self, address: str) -> None:
        """Goes to an address, and does not wait for it."""
        self._write("Page.navigate", {"url": address})
        self.rest(0.2)

    def point(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def durations(self) -> dict[str, float]:
        """Milliseconds that the page's thread has spent so far."""
        given = {metric["name"]: 1000 * metric["value"] for metric in self.send("Performance.getMetrics")["metrics"]}
        return {
            "script": given["ScriptDuration"],
            "layout": given["LayoutDuration"] + given["RecalcStyleDuration"],
            "task": given["TaskDuration"],
        }

    def serve_cdn(self) -> None:
        """Answers what BertViz asks of a CDN from files on this machine, so that no network is in its numbers."""
        cdn()
        self.send("Fetch.enable", patterns=[{"urlPattern": "https://cdnjs.cloudflare.com/*"}])

    def _write(self, method: str, parameters: dict[str, Any]) -> int:
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        return self._last

    def _read(self, end: float) -> None:
        self._socket.settimeout(max(0.001, end - time.monotonic()))
        try:
            message = json.loads(self._socket.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError("the page does not answer") from None
        if "id" in message:
            self._answers[message["id"]] = message
        elif message["method"] == "Inspector.targetCrashed":
            raise RuntimeError("the page crashed")
        elif message["method"] == "Fetch.requestPaused":
            request = message["params"]
            script = next(body for name, body in cdn().items() if name in request["request"]["url"])
            kind = [{"name": "Content-Type", "value": "text/javascript"}]
            answer = {"responseCode": 200, "responseHeaders": kind, "body": base64.b64encode(script).decode()}
            self._write("Fetch.fulfillRequest", {"requestId": request["requestId"], **answer})


@contextmanager
def chromium() -> Iterator[Page]:
    """A fresh browser with one page; ended by force, for the page may no longer answer."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise RuntimeError("Chromium is not installed")
    with TemporaryDirectory(prefix="bench-chromium-", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={profile}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            port = Path(profile, "DevToolsActivePort")
            for _ in range(300):
                if port.exists() and port.read_text().count("\n"):
                    break
                time.sleep(0.1)
            targets = json.load(urlopen(f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json"))
            yield Page(next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@cache
def cdn() -> dict[str, bytes]:
    """The three scripts that BertViz loads, from their npm packages, by a part of their address."""
    scripts = {}
    with TemporaryDirectory(prefix="bench-cdn-") as folder:
        for name, package, file in (
            ("require.js", "requirejs@2.3.6", "require.js"),
            ("d3", "d3@5.7.0", "dist/d3.min.js"),
            ("jquery", "jquery@2.1.0", "dist/jquery.min.js"),
        ):
            pack = ["npm", "pack", "--silent", package]
            packed = subprocess.run(pack, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
            shutil.unpack_archive(Path(folder, packed), Path(folder, name), "gztar")
            scripts[name] = Path(folder, name, "package", file).read_bytes()
    return scripts


def hover(page: Page, tool: str, times: int, draws: str | None = None) -> dict[str, Any]:
    """Moves the mouse over tokens, one every few frames. In milliseconds: `painted` and `presented` of each move;
    `script`, `layout` and `task` of the average one. `draws` is what a picture is made of: canvas, or nodes."""
    page.call(WATCH_HOVER, draws or ("canvas" if tool == "attnwidget" else ""))
    page.call(SCROLL, TOKENS[tool])
    page.rest(0.5)
    places = page.call(REACHED, TOKENS[tool])
    if len(places) < 2:
        raise RuntimeError(f"{tool} shows {len(places)} tokens to hover")
    page.point(*places[0])
    page.rest(0.5)
    page.call("() => { benchHover.painted = []; benchHover.presented = []; }")
    before = page.durations()
    for move in range(1, times + 1):
        page.point(*places[move % len(places)])
        page.rest(0.06)
    page.wait(f"() => benchHover.painted.length >= {times}")
    after = page.durations()
    seen: dict[str, Any] = page.call("() => benchHover")
    seen["presented"] += [16.0] * (times - len(seen["presented"]))
    return seen | {name: (after[name] - before[name]) / times for name in before}
