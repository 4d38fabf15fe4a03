"""The widget alive in every program that runs a kernel: real servers, kernels and Chromium, nothing from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from programs import JupyterLab, Marimo, Notebook7, Program, Voila, VSCode

from screen import READY, fresh_page

PROGRAMS = [JupyterLab, Notebook7, VSCode, Voila, Marimo]
RELOADED = (Voila, Marimo)  # nothing is run again in these but by loading the page again
SLOW = 20_000  # milliseconds: several kernels may share two cores


def grouped(kind: type[Program]) -> Any:
    """A program to test; several workers share the programs, and none starts one twice."""
    return pytest.param(kind, id=kind.__name__, marks=pytest.mark.xdist_group(kind.__name__))


@pytest.fixture(scope="module", params=map(grouped, PROGRAMS))
def program(
    request: pytest.FixtureRequest, chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Program]:
    kind: type[Program] = request.param
    expect.set_options(timeout=SLOW)
    base = tmp_path_factory.mktemp(kind.__name__)
    with kind.started(base) as server, fresh_page(chromium, kind.harmless) as page:
        opened = kind(page)
        opened.open(server)
        yield opened


def click(program: Program, layer: int, head: int) -> None:
    program.widgets.nth(0).locator(f"[data-layer='{layer}'][data-head='{head}']").click()


def until(found: Callable[[], Any], expected: Any, page: Any) -> None:
    """Asks until the answer is as expected: a trait arrives when it arrives."""
    for _ in range(SLOW // 200):
        if found() == expected:
            return
        page.wait_for_timeout(200)
    assert found() == expected


def test_it_appears(program: Program, shots: Path, cell: Callable[..., None]) -> None:
    for widget in (program.widgets.nth(0), program.widgets.nth(1)):
        expect(widget.get_by_role("grid").first).to_be_visible()
        expect(widget).to_contain_text("Mean of all 16 heads")
    program.page.mouse.move(5, 5)
    program.page.screenshot(path=shots / f"host-{type(program).__name__.lower()}-light.png")
    cell(program.name, "appears")
    cell(program.name, "tested how", program.how)


def test_a_click_reaches_python_and_its_map_comes_back(program: Program, cell: Callable[..., None]) -> None:
    """The oracle is what Python prints. No map of `a` came along, so that the new one is an answer with buffers."""
    click(program, 1, 0)
    expect(program.widgets.nth(0)).to_have_attribute("data-selection", "decoder/1/0")
    until(program.selected, [1, 0], program.page)
    cell(program.name, "click → Python")


def test_what_python_selects_is_in_the_picture(program: Program, cell: Callable[..., None]) -> None:
    widget = program.widgets.nth(0)
    before = widget.screenshot()
    program.select(2, 3)
    expect(widget).to_have_attribute("data-selection", "decoder/2/3")
    expect(widget).to_contain_text("Layer 2 · head 3")
    assert widget.screenshot() != before
    cell(program.name, "Python → picture")


def test_widgets_of_one_attention_stay_linked(program: Program, cell: Callable[..., None]) -> None:
    click(program, 1, 1)
    for place in (0, 1):
        expect(program.widgets.nth(place)).to_have_attribute("data-selection", "decoder/1/1")
    program.widgets.nth(1).locator("[data-layer='0'][data-head='2']").click()
    expect(program.widgets.nth(0)).to_have_attribute("data-selection", "decoder/0/2")
    cell(program.name, "linked")


def test_the_theme_of_the_host_is_followed(program: Program, shots: Path) -> None:
    for theme in ("dark",) if isinstance(program, RELOADED) else ("dark", "light", "dark"):
        program.theme(theme)
        for place in (0, 1):
            expect(program.widgets.nth(place)).to_have_attribute("data-theme", theme)
    program.page.mouse.move(5, 5)
    program.page.screenshot(path=shots / f"host-{type(program).__name__.lower()}-dark.png")


def test_running_again_leaves_no_second_copy(program: Program) -> None:
    """Elements that nobody sees, and listeners on what stays, counted by the browser after five times more."""
    times = 0 if isinstance(program, RELOADED) else 5
    program.rerun()
    until(program.detached, 0, program.page)  # what was there before goes when the host lets it go
    before = program.listeners()
    for _ in range(times):
        program.rerun()
    until(lambda: program.count("div.attnwidget"), 2, program.page)
    until(program.detached, 0, program.page)
    until(program.listeners, before, program.page)


@pytest.mark.parametrize("program", [grouped(Marimo)], indirect=True)
def test_marimo_shows_words_for_a_dashboard_and_an_exported_page_alive(program: Program, shots: Path) -> None:
    """It has no ipywidgets, of which bqplot's charts are."""
    words = program.page.get_by_text("marimo shows no ipywidgets")
    expect(words).to_be_visible()
    words.scroll_into_view_if_needed()
    exported = program.page.frame_locator("iframe").locator(READY)
    exported.locator("[data-layer='1'][data-head='0']").click()
    expect(exported).to_have_attribute("data-selection", "decoder/1/0")
    program.page.screenshot(path=shots / "host-marimo-parts.png")


def test_a_restarted_kernel_is_said_in_words(program: Program, shots: Path) -> None:
    """By the widget or by the host; and what was on screen stays there, and answers."""
    program.restart()
    expect(program.page.get_by_text(program.gone).first).to_be_visible()
    widget = program.widgets.nth(0)
    widget.locator("[data-query='2']").hover()
    expect(widget).to_contain_text("routes")
    if program.says:
        expect(widget).to_contain_text("run the cell again")
        # What is not here says so, and nothing waits for ever.
        click(program, 3, 3)
        expect(widget).to_contain_text(program.gone)
        expect(widget).not_to_contain_text("waiting for the kernel")
    program.page.wait_for_timeout(500)  # the frame travels to the head that was clicked
    program.page.screenshot(path=shots / f"host-{type(program).__name__.lower()}-gone.png")


def test_nothing_left_this_machine(program: Program, cell: Callable[..., None]) -> None:
    """All that was done above, and every address that any part of the page asked for."""
    assert [url for url in program.page.outside if not url.startswith(program.asks)] == []
    cell(program.name, "offline", program.offline)
