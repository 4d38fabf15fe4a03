"""For everybody: no mouse, a screen reader, weak eyes, forced colours, no motion, a page that scrolls."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from attnwidget import Attention, capture, tiny, to_html
from gallery import subjects
from screen import READY

TEXT = "The cat saw the dog. The dog saw the cat and ran away."
VIEWS = ("arcs", "heatmap", "graph", "text", "image", "steps", "table")
LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced": {"color_scheme": "light", "forced_colors": "active"},
}


@cache
def decoder() -> Attention:
    return capture(*_swapped(TEXT))


def _swapped(text: str) -> tuple[Any, str, Any]:
    model, tokenizer = tiny.decoder()
    return model, text, tokenizer


def shown(view: str) -> Attention:
    return subjects.image(40) if view == "image" else decoder()


@pytest.fixture
def opened(page: Page, tmp_path: Path) -> Callable[..., Locator]:
    """Opens an exported page; something to leave the widget for stands behind it."""

    def open_it(attention: Attention, **traits: Any) -> Locator:
        path = to_html(attention, tmp_path / "page.html", **traits)
        html = path.read_text("utf-8")
        path.write_text(html.replace('<p class="about">', '<p class="about"><a href="#next">Next</a> ', 1), "utf-8")
        page.goto(path.as_uri())
        page.wait_for_selector(READY, timeout=20_000)
        page.wait_for_timeout(300)
        return page.locator(READY)

    return open_it


# ── axe-core ────────────────────────────────────────────────────────────────────────────────────────────────────────


def violations(page: Page, axe: str, within: str | None = None) -> list[str]:
    """What axe-core finds with all of its default rules and that for the size of targets, in a page or a part of it."""
    page.evaluate(f"() => {{ if (window.axe === undefined) {{ {axe} }} }}")
    found = page.evaluate(
        "within => axe.run(within ?? document, {rules: {'target-size': {enabled: true}}, resultTypes: ['violations']})",
        within,
    )
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:160]} {node['failureSummary'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"][:3]
    ]


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing(page: Page, opened: Callable[..., Locator], axe: str, view: str) -> None:
    widget = opened(shown(view), view=view, layer=1, head=0)
    found = []
    for name, look in LOOKS.items():
        page.emulate_media(**{"forced_colors": "none", **look})
        page.wait_for_timeout(200)
        found += [f"{name}: {one}" for one in violations(page, axe)]
        token = widget.locator("[data-query]:visible")
        if token.count() > 3:  # with a token in focus, and two that are pinned
            token.nth(2).click()
            token.nth(3).hover()
            page.wait_for_timeout(200)
            found += [f"{name}, focused: {one}" for one in violations(page, axe)]
            token.nth(2).click()
            page.mouse.move(1, 1)
    widget.get_by_role("button", name="Views, code and figures").click()
    found += [f"menu: {one}" for one in violations(page, axe)]
    assert not found, "\n".join(sorted(set(found)))


# ── the keyboard alone ──────────────────────────────────────────────────────────────────────────────────────────────


def tab_to(page: Page, where: str, back: bool = False, most: int = 40) -> int:
    """Presses Tab until what has the focus matches; how often it took."""
    for times in range(1, most + 1):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("where => document.activeElement?.matches(where) ?? false", where):
            return times
    raise AssertionError(f"Tab does not lead to {where} in {most} times")


def has_ring(page: Page) -> bool:
    """Whether one sees where the keyboard is."""
    return page.evaluate(
        """() => {
            for (let el = document.activeElement, up = 0; el !== null && up < 3; el = el.parentElement, up++) {
                const style = getComputedStyle(el);
                if (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0) return true;
                if (style.boxShadow !== "none") return true;
            }
            return document.activeElement.getAttribute("aria-activedescendant") !== null
                || document.querySelector(".attn-hovered:not([hidden])") !== null;
        }"""
    )


def test_everything_can_be_done_without_a_mouse(page: Page, opened: Callable[..., Locator], shots: Path) -> None:
    """Choose a head, choose a token, read its three strongest targets, switch the view, open the table, leave."""
    attention = decoder()
    widget = opened(attention)

    tab_to(page, "[role=grid][aria-label^=Layers] [role=gridcell], [role=grid][aria-label^=Layers]")
    assert has_ring(page)
    for _ in range(6):
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowLeft")
    for key in ("ArrowDown", "Enter"):
        page.keyboard.press(key)
    expect(widget).to_have_attribute("data-selection", "decoder/1/0")

    tab_to(page, "[data-query]")
    page.keyboard.press("Home")
    for _ in range(9):
        page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.dataset.query") == "9"
    assert has_ring(page)
    row = attention[1, 0].row(9)
    strongest = row.argsort(descending=True)[:3].tolist()
    spoken = widget.locator("[role=status][aria-live=polite].attn-unseen")
    for key in strongest:
        weight = f"{float(row[key]):.2f}"
        expect(spoken).to_contain_text(
            re.compile(rf"{re.escape(weight)}( of its weight)? to “{re.escape(attention.tokens.labels[key])}”")
        )
    page.screenshot(path=shots / "access-keyboard.png")

    # Enter pins, Escape lets go.
    page.keyboard.press("Enter")
    expect(widget.locator("[data-query='9']")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(widget.locator("[data-query='9']")).to_have_attribute("aria-pressed", "false")

    tab_to(page, "[role=radiogroup][aria-label=View] [role=radio]", back=True)
    assert has_ring(page)
    page.keyboard.press("ArrowRight")
    expect(widget.get_by_role("radio", name="Heat map")).to_be_checked()
    expect(widget.get_by_role("grid", name="Weights, queries by keys")).to_be_visible()

    page.keyboard.press("End")
    expect(widget.get_by_role("radio", name="Table")).to_be_checked()
    expect(widget.get_by_role("table")).to_be_visible()
    tab_to(page, "tr[data-query]")
    assert has_ring(page)
    first = page.evaluate(
        "(({query, key, weight}) => [Number(query), Number(key), Number(weight)])(document.activeElement.dataset)"
    )
    assert first[2] == pytest.approx(float(attention[1, 0].row(first[0])[first[1]]), abs=2e-3)

    taken = tab_to(page, "a[href='#next']")
    assert taken < 12


@pytest.mark.parametrize("view", VIEWS)
def test_tab_goes_through_a_view_and_out_of_it(page: Page, opened: Callable[..., Locator], view: str) -> None:
    """One tab stop for each thing that is one thing: nobody has to walk over a hundred tokens to get away."""
    opened(shown(view), view=view, layer=1, head=0)
    stops = tab_to(page, "a[href='#next']", most=60)
    assert stops <= 34
    assert tab_to(page, ".attnwidget *", back=True) == 1


# ── motion, wheel, touch ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_moves_for_who_asked_for_no_motion(page: Page, opened: Callable[..., Locator], view: str) -> None:
    page.emulate_media(reduced_motion="reduce")
    widget = opened(shown(view), view=view, layer=1, head=0)
    moving = widget.evaluate(
        """root => [root, ...root.querySelectorAll("*")].filter((el) => {
            const { transitionDuration, animationName, animationDuration } = getComputedStyle(el);
            const long = (times) => times.split(",").some((time) => parseFloat(time) > 0.01);
            return long(transitionDuration) || (animationName !== "none" && long(animationDuration));
        }).map((el) => el.className)"""
    )
    assert not moving


@pytest.mark.parametrize("view", VIEWS)
def test_the_wheel_scrolls_the_page(page: Page, opened: Callable[..., Locator], view: str) -> None:
    """A widget that takes the wheel away holds fast who wants to read on: lists scroll once they have the focus."""
    page.set_viewport_size({"width": 1000, "height": 420})
    widget = opened(shown(view), view=view, layer=1, head=0)
    for box in (
        widget.locator("[role=grid][aria-label^=Layers]").bounding_box(),
        widget.locator(".attn-view").bounding_box(),
    ):
        assert box is not None
        page.evaluate("scrollTo(0, 0)")
        page.mouse.move(box["x"] + min(60, box["width"] / 2), min(400, box["y"] + min(60, box["height"] / 2)))
        for _ in range(2):
            page.mouse.wheel(0, 200)
            page.wait_for_timeout(100)
            if page.evaluate("scrollY") > 50:
                break
        else:
            raise AssertionError("the page stands still")


# ── what is seen ────────────────────────────────────────────────────────────────────────────────────────────────────

# Contrast of every text with what is behind it; of what stands over a canvas, with the ground.
FAINT = "[aria-disabled=true], [disabled], [inert] *, option"  # cannot be used
CONTRAST = """
(root, faint) => {
  const parse = (colour) => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    if (colour.startsWith("color(srgb")) return [...numbers.slice(0, 3).map((one) => one * 255), numbers[3] ?? 1];
    return [...numbers.slice(0, 3), numbers[3] ?? 1];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((one, i) => one * a + under[i] * (1 - a));
  const ground = (el) => {
    const chain = [];
    for (let up = el; up !== null; up = up.parentElement) chain.unshift(parse(getComputedStyle(up).backgroundColor));
    return chain.reduce((under, colour) => over(colour, under), [255, 255, 255]);
  };
  const light = (rgb) => {
    const linear = (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((one) => linear(one / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const el of root.querySelectorAll("*")) {
    const own = [...el.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== "");
    const box = el.getBoundingClientRect(), style = getComputedStyle(el);
    if (!own || box.width < 2 || box.height < 2 || style.visibility === "hidden") continue;
    if (el.closest("style, .attn-unseen") !== null || el.closest(faint) !== null || !el.checkVisibility()) continue;
    const under = ground(el);
    let alpha = 1;
    for (let up = el; up !== root; up = up.parentElement) alpha *= Number(getComputedStyle(up).opacity);
    if (alpha === 0) continue;
    const [r, g, b, a] = parse(style.color);
    const [bright, dark] = [light(over([r, g, b, a * alpha], under)), light(under)].sort((x, y) => y - x);
    const ratio = (bright + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    if (ratio >= 4.45 && size >= 10.9) continue;
    found.push(`${ratio.toFixed(2)} : 1, ${size} px: ${el.className} “${el.textContent.slice(0, 30)}”`);
  }
  return [...new Set(found)];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_text_is_large_and_clear_enough(
    page: Page, opened: Callable[..., Locator], view: str, scheme: Any
) -> None:
    page.emulate_media(color_scheme=scheme)
    widget = opened(shown(view), view=view, layer=1, head=0)
    poor = widget.evaluate(CONTRAST, FAINT)
    token = widget.locator("[data-query]:visible")
    if token.count() > 5:
        token.nth(5).click()
        page.wait_for_timeout(300)
        poor += [f"pinned: {one}" for one in widget.evaluate(CONTRAST, FAINT)]
    assert not poor, "\n".join(poor)


@pytest.mark.parametrize("view", VIEWS)
def test_targets_are_large_enough_for_a_finger(page: Page, opened: Callable[..., Locator], view: str) -> None:
    """24 px either way; the words of a text and the cells of a picture are as large as they are."""
    widget = opened(shown(view), view=view, layer=1, head=0)
    small = widget.evaluate(
        """root => [...root.querySelectorAll("button, select, input, a, [role=radio], [role=switch], [role=slider]")]
            .filter((el) => el.checkVisibility())
            .map((el) => [el, (el.closest("label") ?? el).getBoundingClientRect()])
            .filter(([, box]) => box.width > 0 && (box.width < 23.5 || box.height < 23.5))
            .map(([el, box]) => `${box.width.toFixed(0)} × ${box.height.toFixed(0)}: ${el.outerHTML.slice(0, 120)}`)"""
    )
    assert not small, "\n".join(small)
