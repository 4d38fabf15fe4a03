"""Every view looks as it did when somebody last looked at it: `python -m tests.gallery` draws the pictures anew.

All of them with ATTNWIDGET_PICTURES=all; otherwise the middle length, light and wide, and dark and narrow.
"""

from __future__ import annotations

import os

import pytest
from playwright.sync_api import Browser, Page

from gallery import camera
from gallery.scenes import SCENES, Scene

ALL = os.environ.get("ATTNWIDGET_PICTURES") == "all"
CASES = [
    pytest.param(scene, n, look, id=f"{scene.name}-{n}-{look.name}")
    for scene in SCENES
    for n in (scene.lengths if ALL else [40 if 40 in scene.lengths else scene.lengths[0]])
    for look in camera.LOOKS
    if ALL or look.name in ("light-1100", "dark-480")
]


@pytest.fixture(scope="module")
def blank(chromium: Browser) -> Page:
    """A page that decodes pictures."""
    return chromium.new_page()


@pytest.mark.parametrize(("scene", "n", "look"), CASES)
def test_it_looks_as_it_did(chromium: Browser, blank: Page, scene: Scene, n: int, look: camera.Look) -> None:
    kept = camera.file_of(scene, n, look)
    assert kept.is_file(), f"no picture is kept: python -m tests.gallery {scene.name}-{n}, and look at it"
    drawn = camera.taken(chromium, scene, n, look)
    why = camera.complaint(camera.shrunk(blank, drawn), camera.shrunk(blank, kept.read_bytes()))
    assert why is None, f"{kept.name}: {why}. If it is meant: python -m tests.gallery {scene.name}-{n}, and look at it"


def test_another_picture_is_told_apart(blank: Page) -> None:
    """The measure must see what a person sees: another view, another theme, another length, nothing at all."""
    look = camera.LOOKS[0]
    small = {
        scene.name: camera.shrunk(blank, camera.file_of(scene, 40, look).read_bytes())
        for scene in SCENES
        if 40 in scene.lengths
    }
    for name, one in small.items():
        assert camera.complaint(one, one) is None
        for other, two in small.items():
            assert (name == other) == (camera.complaint(one, two) is None), (name, other)
        assert camera.complaint(one * 0 + 1, one) == "nothing is drawn"
    for name in ("arcs", "heatmap"):
        scene = next(scene for scene in SCENES if scene.name == name)
        dark = camera.shrunk(blank, camera.file_of(scene, 40, camera.LOOKS[1]).read_bytes())
        assert camera.complaint(dark, small[name]) is not None
        # Of a list of 400 the arcs show as many tokens as of 40, and look the same from afar: this measure cannot tell.
        for n in (4,) if name == "arcs" else (4, 400):
            other_length = camera.shrunk(blank, camera.file_of(scene, n, look).read_bytes())
            assert camera.complaint(other_length, small[name]) is not None


def test_every_picture_that_is_kept_is_of_something(blank: Page) -> None:
    expected = {camera.file_of(scene, n, look) for scene in SCENES for n in scene.lengths for look in camera.LOOKS}
    kept = set(camera.KEPT.glob("*"))
    assert kept == expected, "python -m tests.gallery"
    assert sum(file.stat().st_size for file in kept) < 4_000_000
