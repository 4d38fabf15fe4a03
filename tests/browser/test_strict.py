"""Hosts that give less: a shadow root, `{model, el}` and JSON for state, as MyST and Jupyter Book 2 do; and marimo.

The script is imported as a module, from a file or a blob. Oracle: Python's own weights and answers.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, expect

from attnwidget import wire
from attnwidget.attention import Attention
from attnwidget.selection import Selection
from screen import READY, ROOT, fresh_page

# What hosts hand over. The strict ones throw whatever is called but `get`; one has nothing else.
HOSTS = """
const { default: widget } = await import(FROM);
const cannot = (name) => () => { window.refused.push(name); throw new Error(`${name} is not supported here`); };
window.refused = [];
window.heard = new Map();
window.models = {
    strict: (state) => ({
        get: (name) => state[name],
        ...Object.fromEntries(["set", "on", "off", "save_changes", "send"].map((name) => [name, cannot(name)])),
    }),
    bare: (state) => ({ get: (name) => state[name] }),
    marimo: (state) => ({
        get: (name) => state[name],
        set: (name, value) => { state[name] = value; },
        save_changes: () => { window.saved = structuredClone(state); },
        on: (name, callback) => { heard.set(name, (heard.get(name) ?? new Set()).add(callback)); },
        off: (name, callback) => { heard.get(name)?.delete(callback); },
        send: async (content) => {
            for (const [reply, pieces] of await window.kernel(content)) {
                const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                const buffers = pieces.map((text) => new DataView(bytes(text).buffer));
                for (const callback of heard.get("msg:custom") ?? []) callback(reply, buffers);
            }
        },
    }),
};
window.mount = (kind, state, id) => {
    const host = document.createElement("section");
    host.id = id;
    document.body.append(host);
    const el = document.createElement("div");
    host.attachShadow({ mode: "open" }).append(el);
    const end = widget.render({ model: models[kind](structuredClone(state)), el });
    return () => { end?.(); host.remove(); };
};
window.ready = true;
"""
PAGE = """<!DOCTYPE html><meta charset="utf-8"><title>strict</title>
<style>body { font: 16px serif; margin: 20px } p, button, div { color: rgb(200, 0, 0) }
html.dark body { background: #111 }</style>
<script type="module">{script}</script>"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A file server on this machine: its address, and its folder."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "widget.js").write_bytes((ROOT / "attnwidget" / "static" / "widget.js").read_bytes())

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", folder
        server.shutdown()
        thread.join()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with fresh_page(chromium) as page:
        yield page
        assert not page.outside


def attention() -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 3, 11, 8, generator=generator) * 2 for _ in range(2))
    return Attention.from_qk(q, k, [f"word{i}" for i in range(11)], causal=True)


def state_of(shown: Attention, budget: int = 700_000, **traits: Any) -> dict[str, Any]:
    """What such a host has of a widget: JSON."""
    chosen = Selection(shown, **traits)
    bundle = base64.b64encode(wire.bundle(shown, budget=budget)).decode("ascii")
    return json.loads(json.dumps({**chosen._chosen(), "_bundle": bundle}))


def opened(page: Page, served: tuple[str, Path], source: str = "file") -> None:
    address, folder = served
    text = '"./widget.js"'
    if source == "blob":
        text = "URL.createObjectURL(new Blob([await (await fetch('widget.js')).text()], { type: 'text/javascript' }))"
    (folder / f"{source}.html").write_text(PAGE.replace("{script}", HOSTS.replace("FROM", text)), "utf-8")
    page.goto(f"{address}/{source}.html")
    page.wait_for_function("window.ready")


def mounted(page: Page, kind: str, state: dict[str, Any], name: str) -> Locator:
    page.evaluate(
        "([kind, state, name]) => { (window.ends ??= {})[name] = mount(kind, state, name); }", [kind, state, name]
    )
    widget = page.locator(f"#{name} {READY}")
    expect(widget).to_be_visible()
    return widget


@pytest.mark.parametrize("source", ["file", "blob"])
@pytest.mark.parametrize("kind", ["strict", "bare"])
def test_a_host_that_has_get_and_nothing_else(
    page: Page, served: tuple[str, Path], shots: Path, kind: str, source: str
) -> None:
    shown = attention()
    opened(page, served, source)
    one = mounted(page, kind, state_of(shown, layer=0, head=0), "one")
    two = mounted(page, kind, state_of(shown, layer=1, head=2, view="heatmap"), "two")
    one.locator("[data-layer='1'][data-head='1']").click()
    expect(one).to_have_attribute("data-selection", "attention/1/1")
    expect(two).to_have_attribute("data-selection", "attention/1/2")
    one.locator("[data-query='9']").hover()
    row = shown[1, 1].row(9)
    best = int(row.argmax())
    expect(one.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
    one.locator("[data-query='9']").click()
    for view in ("Heat map", "Graph", "Text", "Steps", "Table", "Arcs"):
        one.get_by_role("radio", name=view).click()
        expect(one.locator(".attn-view")).not_to_be_empty()
    one.get_by_role("radio", name="Steps").click()
    expect(one).to_contain_text("Run the cell again" if kind == "strict" else "not stored in this page")
    page.screenshot(path=shots / f"strict-{kind}.png", full_page=True)
    # Its styles are its own, and so is its theme.
    looks = one.evaluate(
        "one => { const s = getComputedStyle(one); return [s.borderTopWidth, s.position, s.fontSize]; }"
    )
    assert looks == ["1px", "relative", "13px"]
    assert page.locator("head style").count() == 1
    assert one.locator("button").first.evaluate("one => getComputedStyle(one).color") != "rgb(200, 0, 0)"
    assert page.evaluate("refused.includes('off')") is False  # nobody left yet
    page.evaluate("() => { ends.one(); ends.two(); }")
    expect(page.locator(".attnwidget")).to_have_count(0)


def test_its_theme_is_that_of_the_page_around_it(page: Page, served: tuple[str, Path], shots: Path) -> None:
    opened(page, served)
    widget = mounted(page, "strict", state_of(attention()), "one")
    expect(widget).to_have_attribute("data-theme", "light")
    page.evaluate("() => document.documentElement.classList.add('dark')")
    expect(widget).to_have_attribute("data-theme", "dark")
    page.screenshot(path=shots / "strict-dark.png")
    page.evaluate("() => document.documentElement.classList.remove('dark')")
    expect(widget).to_have_attribute("data-theme", "light")


def test_state_that_is_damaged_is_said_in_its_place(page: Page, served: tuple[str, Path]) -> None:
    opened(page, served)
    state = state_of(attention())
    for name, bundle in {"cut": state["_bundle"][:400], "none": None, "text": "no base64 !", "list": [65, 84]}.items():
        page.evaluate("([state, name]) => { mount('strict', state, name); }", [{**state, "_bundle": bundle}, name])
        expect(page.locator(f"#{name} [role=alert]")).to_contain_text("attnwidget: ")
    wrong = {name: {"wrong": [1, None]} for name in state if name != "_bundle"}
    expect(mounted(page, "strict", {**wrong, "_bundle": state["_bundle"]}, "wrong")).to_contain_text("Layers × heads")


def test_a_shadow_root_with_a_kernel_behind_it_and_nothing_is_left_of_it(page: Page, served: tuple[str, Path]) -> None:
    """As in marimo. What is asked is answered by Python's own answers."""
    shown = attention()
    asked: list[Any] = []

    def kernel(content: Any) -> list[Any]:
        asked.append(content)
        requests = content.get("requests", [])
        replies = [part for one in requests for part in wire.messages(*wire.answer(shown, one))]
        return [[reply, [base64.b64encode(piece).decode() for piece in pieces]] for reply, pieces in replies]

    page.expose_function("kernel", kernel)
    opened(page, served)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def held() -> tuple[float, float]:
        session.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
        return metrics["JSEventListeners"], metrics["Nodes"]

    state = state_of(shown, budget=1, layer=0, head=0)
    widget = mounted(page, "marimo", state, "one")
    widget.locator("[data-layer='1'][data-head='2']").click()
    expect(widget).to_have_attribute("data-selection", "attention/1/2")
    row = shown[1, 2].row(10)
    widget.locator("[data-query='10']").hover()
    expect(widget.locator(f"[data-weight-for='{int(row.argmax())}']")).to_have_text(f"{float(row.max()):.2f}")
    assert page.evaluate("[saved.layer, saved.head]") == [1, 2]
    assert any(one["type"] == "get" for one in asked)
    page.evaluate("() => ends.one()")
    assert page.evaluate("[...heard.values()].every((callbacks) => callbacks.size === 0)")
    once = held()
    for _ in range(6):
        mounted(page, "marimo", state, "again")
        page.evaluate("() => ends.again()")
        expect(page.locator(".attnwidget")).to_have_count(0)
    end = time.monotonic() + 10  # timers of the last one may still run
    while held()[0] > once[0] and time.monotonic() < end:
        page.wait_for_timeout(100)
    listeners, nodes = held()
    assert listeners <= once[0]
    assert nodes < once[1] + 100  # one widget has more
