"""Pages with something wrong in them: refused in words or drawn, nothing executed, no hang, never blank."""

from __future__ import annotations

import base64
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from attnwidget import embed, embed_script
from attnwidget.attention import Attention
from attnwidget.blocks import pack, unpack
from screen import READY

SITE = "http://127.0.0.1:9/"
PAGES = 200
HOSTILE = [
    "</script><script>window.executed = 1</script>", "<!--<script>", "<img src=x onerror='window.executed = 2'>",
    "javascript:window.executed = 3", "\u2028\u2029", "\ud83d", "\u202e\u2066", "__proto__", "constructor", "\x00",
    "x" * 100_000, "${window.executed = 4}", "expression(window.executed = 5)", "url(javascript:window.executed=6)",
]  # fmt: skip
WRONG = [None, True, -1, 0, 1e308, 2**53, 3.5, "", [], {}, [[[[]]]], {"__proto__": {"x": 1}}, *HOSTILE]
DATA = re.compile(r'(<script type="application/vnd.attnwidget\+json">)(.*?)(</script>)', re.DOTALL)
# Something to look at: a picture that is drawn, or words; and nothing that ran.
SEEN = f"""() => {{
  const place = document.querySelector("main > div");
  if (place === null) return "";
  if (place.querySelector("{READY}") !== null) return "drawn";
  return place.querySelector("[role=alert]")?.textContent ?? "";
}}"""


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything in a JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at] * bool(at) + [path for key, one in inside for path in places(one, (*at, key))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = new


def mutated(data: dict[str, Any], chance: random.Random) -> str:
    """The text of a data element with something wrong in it."""
    told = json.loads(json.dumps(data))
    bundle = bytearray(base64.b64decode(told["bundle"]))
    kind = chance.choice(["cut", "flip", "head", "meta", "meta", "state", "state", "json", "foreign", "array", "text"])
    if kind == "cut":
        del bundle[chance.randrange(len(bundle)) :]
    elif kind == "flip":
        for _ in range(chance.randint(1, 30)):
            bundle[chance.randrange(len(bundle))] ^= 1 << chance.randrange(8)
    elif kind == "head":  # magic, version, lengths and the JSON of the header
        for _ in range(chance.randint(1, 4)):
            bundle[chance.randrange(200)] = chance.randrange(256)
    elif kind in ("meta", "array"):
        block = unpack(bytes(bundle))
        meta, arrays = json.loads(json.dumps(block.meta)), dict(block.arrays)
        if kind == "meta":
            for _ in range(chance.randint(1, 3)):
                some = places(meta)
                put(meta, chance.choice(some), chance.choice(WRONG))
        else:
            name = chance.choice(sorted(arrays))
            arrays[name] = chance.choice([arrays[name][:-9], np.zeros(3, np.uint8), np.zeros((2, 2), np.float32)])
        bundle = bytearray(pack("bundle", meta, arrays, compress=False))
    elif kind == "state":
        for _ in range(chance.randint(1, 4)):
            put(told["state"], (chance.choice(sorted(told["state"])),), chance.choice(WRONG))
        if chance.random() < 0.3:
            told["state"] = chance.choice(WRONG)
    elif kind == "foreign":
        told = chance.choice([{}, {"state": {}}, {"bundle": told["bundle"]}, [], None, 3, "x"])
    if isinstance(told, dict) and kind not in ("state", "foreign"):
        told["bundle"] = base64.b64encode(bytes(bundle)).decode()
        if kind == "text":
            told["bundle"] = chance.choice([None, 3, [], {}, "%%%", told["bundle"][:-3], *HOSTILE])
    text = json.dumps(told).replace("<", "\\u003c")
    return text[: chance.randrange(len(text))] if kind == "json" else text


@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_wrong_with_a_page_it_says_so_or_draws(seed: int, page: Page, tmp_path: Path) -> None:
    """Oracle: soon there is a picture or a sentence, and nothing that came as data has run."""
    q, k = torch.randn(2, 2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    attention = Attention.from_qk(q, k, [*HOSTILE[:6], "a", "b", "c"], model=HOSTILE[0])
    fragment = embed(attention, layer=0, head=1, script="attnwidget.js", views={HOSTILE[2]: {"view": "table"}})
    found = DATA.search(fragment)
    assert found is not None
    data = json.loads(found[2])
    code = embed_script(tmp_path / "attnwidget.js").read_text("utf-8")
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    body = {"now": ""}

    def answer(route: Any) -> None:
        if route.request.url.endswith(".js"):
            route.fulfill(body=code, headers={"Content-Type": "text/javascript; charset=utf-8"})
        else:
            route.fulfill(body=body["now"], headers={"Content-Type": "text/html; charset=utf-8"})

    page.route(f"{SITE}**", answer)
    chance, seen, silent = random.Random(seed), [], []
    for at in range(PAGES // 2):
        wrong = mutated(data, chance)
        piece = DATA.sub(lambda found, wrong=wrong: f"{found[1]}{wrong}{found[3]}", fragment)
        body["now"] = f"<!DOCTYPE html><title>x</title><main>{piece}</main>"
        page.goto(f"{SITE}{at}", wait_until="domcontentloaded")
        try:
            seen.append(page.wait_for_function(SEEN, timeout=10_000).json_value())
        except Exception:
            silent.append((at, wrong[:200]))
        assert page.evaluate("() => [window.executed, document.querySelectorAll('img[onerror]').length]") == [None, 0]
    assert not silent
    assert not dialogs
    assert not page.outside
    assert min(seen.count("drawn"), len(seen) - seen.count("drawn")) > PAGES // 20, "both happen"
    assert all(one == "drawn" or re.match(r"attnwidget: .{12,}", one) for one in seen)
