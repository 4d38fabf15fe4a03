"""Draws every view at every length, light and dark, wide and narrow, and writes the gallery.

    python -m tests.gallery                        all pictures: tests/golden/pictures, tests/gallery/README.md
    python -m tests.gallery arcs heatmap-400       those of some scenes, or of one length of a scene
    python -m tests.gallery --check                draws nothing anew: compares, and tells what differs
    python -m tests.gallery --look FOLDER          full-size PNGs there, too

Look at every picture before you commit it: the tests take them for the truth.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from . import camera, figures
from .camera import LOOKS, file_of
from .scenes import SCENES, Scene

PAGE = Path(__file__).parent / "README.md"
LOCAL = Path(__file__).parents[1] / "out" / "gallery.html"  # the same for a browser, large; not kept


def wanted(names: list[str]) -> list[tuple[Scene, int]]:
    """The scenes and lengths that were asked for."""
    every = [(scene, n) for scene in SCENES for n in scene.lengths]
    chosen = [(scene, n) for scene, n in every if not names or scene.name in names or f"{scene.name}-{n}" in names]
    if not chosen:
        raise SystemExit(f"There is no such scene. There are: {', '.join(scene.name for scene in SCENES)}.")
    return chosen


def contents() -> str:
    """The page that shows them all, as Markdown."""
    lines = [
        "# Gallery",
        "",
        "Every view, light and dark, 1100 and 480 pixels wide, as `python -m tests.gallery` draws it; the tests draw",
        "them again and compare. Pictures are made smaller, and cut where they are long.",
        "",
        " · ".join([*(f"[{scene.title}](#{scene.name})" for scene in SCENES), "[Figures for papers](#figures)"]),
    ]
    for scene in SCENES:
        lines += ["", f'<a name="{scene.name}"></a>', "", f"## {scene.title}", "", scene.caption]
        for n in scene.lengths:
            lines += ["", f"### {scene.title}, {n} {'patches' if scene.name == 'image' else 'tokens'}", ""]
            looks = [look for look in LOOKS if file_of(scene, n, look).is_file()]
            lines += [
                f"| {' | '.join(f'{look.theme}, {look.width} px' for look in looks)} |",
                f"|{'---|' * len(looks)}",
            ]
            cells = (
                f"![{scene.title}, {n}, {look.theme}](../golden/pictures/{file_of(scene, n, look).name})"
                for look in looks
            )
            lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines) + "\n" + figures.contents()


def local() -> str:
    """All pictures one below the other, at their own size."""
    pictures = "".join(
        f"<figure><figcaption>{scene.title}, {n}, {look.name}</figcaption>"
        f'<img loading="lazy" src="{file_of(scene, n, look).as_uri()}"></figure>\n'
        for scene in SCENES
        for n in scene.lengths
        for look in LOOKS
        if file_of(scene, n, look).is_file()
    )
    return f'<!DOCTYPE html><meta charset="utf-8"><title>Gallery</title><body style="background: #888">\n{pictures}'


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--look", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    camera.KEPT.mkdir(parents=True, exist_ok=True)
    failed = 0
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=found, args=camera.FLAGS)
        blank = browser.new_page()
        for scene, n in wanted(asked.scenes):
            start, told = time.monotonic(), []
            for look in LOOKS:
                file = file_of(scene, n, look)
                try:
                    also = asked.look / f"{file.stem}.png" if asked.look else None
                    picture = camera.taken(browser, scene, n, look, also)
                except Exception as error:
                    failed += 1
                    told.append(f"FAILED: {str(error).splitlines()[0]}")
                    continue
                if asked.check:
                    why = (
                        "no picture is kept"
                        if not file.is_file()
                        else camera.complaint(camera.shrunk(blank, picture), camera.shrunk(blank, file.read_bytes()))
                    )
                    failed += why is not None
                    told.append(why or "same")
                else:
                    file.write_bytes(picture)
                    told.append(f"{len(picture) / 1000:.0f} kB")
            print(f"{scene.name}-{n}: {', '.join(told)} ({time.monotonic() - start:.1f} s)", flush=True)
        browser.close()
    if not asked.check:
        PAGE.write_text(contents(), "utf-8")
        LOCAL.parent.mkdir(exist_ok=True)
        LOCAL.write_text(local(), "utf-8")
        size = sum(file.stat().st_size for file in camera.KEPT.glob("*.webp"))
        print(f"{len(list(camera.KEPT.glob('*.webp')))} pictures, {size / 1e6:.2f} MB; {PAGE}; {LOCAL}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
