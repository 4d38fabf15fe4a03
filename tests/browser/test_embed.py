"""The picture in somebody's own page: in sandboxes and under strict policies, each in a real browser, asking nobody."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect

from attnwidget import AttentionWidget, embed, embed_script, to_html
from attnwidget.attention import Attention
from screen import READY

SITE = "http://127.0.0.1:9/"  # nobody listens there: the test itself answers


def attention(n: int = 9) -> Attention:
    q, k = torch.randn(2, 2, 3, n, 8, generator=torch.Generator().manual_seed(0)) * 2
    return Attention.from_qk(q, k, [f"word{i}" for i in range(n)], causal=True)


def served(page: Page, body: str, policy: str = "", **files: str) -> None:
    """Opens a site of one page and these files; what it asks for besides is refused, and in ``page.outside``."""
    headers = {"Content-Type": "text/html; charset=utf-8"} | ({"Content-Security-Policy": policy} if policy else {})

    def answer(route: Any) -> None:
        name = route.request.url.removeprefix(SITE)
        if name == "":
            route.fulfill(body=f"<!DOCTYPE html><title>Mine</title><h1>Mine</h1>{body}", headers=headers)
        elif name in files:
            route.fulfill(body=files[name], headers={"Content-Type": "text/javascript; charset=utf-8"})
        else:
            if name != "favicon.ico":
                page.outside.append(name)
            route.fulfill(status=404)

    page.route(f"{SITE}**", answer)
    page.goto(SITE)


def assert_alive(page: Page, where: Any, count: int = 1) -> None:
    """It is drawn, dressed, answers a click, and the number under the mouse is Python's."""
    widgets = where.locator(READY)
    expect(widgets).to_have_count(count, timeout=20_000)
    shown = attention()
    for at in range(count):
        widget = widgets.nth(at)
        widget.locator("[data-layer='1'][data-head='2']").click()
        expect(widget).to_have_attribute("data-selection", "attention/1/2")
        widget.locator("[data-query='7']").hover()
        row = shown[1, 2].row(7)
        best = int(row.argmax())
        expect(widget.locator(f"[data-weight-for='{best}']")).to_have_text(f"{float(row[best]):.2f}")
        styled = widget.evaluate("el => getComputedStyle(el.querySelector('button')).borderStyle + el.offsetWidth")
        assert not styled.startswith("outset"), "the style sheet is there"
    assert not page.outside


POLICIES = {
    "inline": ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:", {}),
    "nonce": (
        "default-src 'none'; script-src 'nonce-r4nd0m'; style-src 'unsafe-inline'; img-src data:",
        {"nonce": "r4nd0m"},
    ),
    "file": ("default-src 'none'; script-src 'self'; style-src 'unsafe-inline'", {"script": "attnwidget.js"}),
    "file, no styles": ("default-src 'none'; script-src 'self'; style-src 'self'", {"script": "attnwidget.js"}),
    "file and nonce": (
        "default-src 'none'; script-src 'nonce-r4nd0m'; style-src 'none'",
        {"script": "attnwidget.js", "nonce": "r4nd0m"},
    ),
    "nonce, no styles": ("default-src 'none'; script-src 'nonce-r4nd0m'; style-src 'none'", {"nonce": "r4nd0m"}),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_fragment_is_alive_under_a_strict_policy(kind: str, page: Page, tmp_path: Path, shots: Path) -> None:
    policy, options = POLICIES[kind]
    code = embed_script(tmp_path / "attnwidget.js").read_text("utf-8")
    served(page, embed(attention(), **options), policy, **{"attnwidget.js": code})
    assert_alive(page, page)
    page.screenshot(path=shots / f"embed-{kind.replace(', ', '-').replace(' ', '-')}.png")


def test_several_fragments_need_the_script_once(page: Page) -> None:
    first, others = embed(attention()), [embed(attention(), script=False) for _ in range(2)]
    served(page, f"{first}<p>between</p>{''.join(others)}")
    assert_alive(page, page, count=3)
    assert len("".join(others)) < len(first)


@pytest.mark.parametrize("sandbox", ["allow-scripts", "allow-scripts allow-downloads"])
def test_a_page_is_alive_in_a_sandbox(sandbox: str, page: Page, tmp_path: Path) -> None:
    text = to_html(attention(), tmp_path / "page.html").read_text("utf-8")
    frame = f'<iframe sandbox="{sandbox}" width="1200" height="900" srcdoc="{escape(text)}"></iframe>'
    served(page, frame)
    assert_alive(page, page.frame_locator("iframe"))


def test_several_attentions_of_one_page_are_alive_and_not_linked(page: Page, tmp_path: Path) -> None:
    page.goto(to_html([attention(), attention()], tmp_path / "page.html").as_uri())
    first, second = (page.locator(READY).nth(at) for at in range(2))
    first.locator("[data-layer='0'][data-head='1']").click()
    expect(first).to_have_attribute("data-selection", "attention/0/1")
    expect(second).to_have_attribute("data-selection", "attention/*/*")
    assert_alive(page, page, count=2)


def test_an_output_is_alive_in_a_page_of_a_book(page: Page, shots: Path) -> None:
    """The text/html of a notebook's output, as nbconvert, myst-nb and VS Code put it into their pages."""
    data, _ = AttentionWidget(attention(), layer=0, head=0)._repr_mimebundle_()
    served(page, f"{data['text/html']}<p>between</p>{data['text/html']}")
    expect(page.locator(".attnwidget-still")).to_have_count(2)
    expect(page.locator(".attnwidget-still").first).to_be_hidden()
    frames = page.locator("iframe")
    for at in range(2):
        frames.nth(at).scroll_into_view_if_needed()
        assert_alive(page, frames.nth(at).content_frame)
    page.screenshot(path=shots / "output-in-book.png")


def test_without_frames_and_styles_the_picture_and_words_are_seen(page: Page) -> None:
    """What sanitisers leave of an output."""
    data, _ = AttentionWidget(attention(), layer=0, head=0)._repr_mimebundle_()
    served(page, data["text/html"])
    page.evaluate("for (const one of document.querySelectorAll('iframe, style, script')) one.remove()")
    picture = page.locator(".attnwidget-still img")
    expect(picture).to_be_visible()
    assert picture.evaluate("el => el.naturalWidth") == 736
    expect(page.locator(".attnwidget-still p")).to_contain_text("to see it alive")
    assert not page.outside


def test_without_scripts_a_page_is_a_picture_with_words(chromium: Any, tmp_path: Path, shots: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(to_html(attention(), tmp_path / "page.html", layer=0, head=0).as_uri())
    expect(page.get_by_role("img", name="layer 0, head 0: 9 × 9 tokens")).to_be_visible()
    expect(page.locator("noscript")).to_be_visible()
    assert "scripts are switched off here" in (page.locator("noscript").text_content() or "")
    page.screenshot(path=shots / "page-without-scripts.png")
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_output_has_the_height_of_its_page_and_the_theme_of_its_host(theme: str, page: Page) -> None:
    """Where scripts run beside it; the system's theme is the other one."""
    data, _ = AttentionWidget(attention(14), layer=0, head=0, view="heatmap")._repr_mimebundle_()
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    ink = "#eeeeee" if theme == "dark" else "#222222"
    served(page, f'<div style="color:{ink};width:900px">{data["text/html"]}</div>')
    frame = page.locator("iframe")
    expect(frame.content_frame.locator(READY)).to_be_visible(timeout=20_000)
    inside = page.frames[1]
    inside.wait_for_function("() => Math.abs(innerHeight - document.body.getBoundingClientRect().height) <= 1")
    assert frame.evaluate("el => el.style.colorScheme") == theme
    page.set_viewport_size({"width": 620, "height": 900})
    page.evaluate("document.querySelector('div').style.width = '500px'")
    inside.wait_for_function(
        "() => innerWidth <= 500 && "
        "Math.abs(innerHeight - Math.min(1200, document.body.getBoundingClientRect().height)) <= 1"
    )
    assert not page.outside
