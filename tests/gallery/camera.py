"""Pictures of the widget as a browser shows it: taken, kept small, and compared."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page

from attnwidget import to_html

from .scenes import Scene

KEPT = Path(__file__).parents[1] / "golden" / "pictures"
READY = ".attnwidget[data-attn-ready=true]"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--force-device-scale-factor=1"]
# The same letters on every machine that has this font; `tests/run` installs it.
LETTERS = '<style>.attnwidget, .attnwidget * { font-family: "DejaVu Sans", sans-serif !important }</style></head>'


@dataclass(frozen=True)
class Look:
    """One way of looking at a page."""

    theme: str
    width: int

    @property
    def name(self) -> str:
        return f"{self.theme}-{self.width}"

    @property
    def shrunk(self) -> float:
        """Pixels of the picture for each of the page's."""
        return 0.66 if self.width > 640 else 0.75

    @property
    def tallest(self) -> int:
        """Pixels of the page that a picture shows at most."""
        return 900 if self.width > 640 else 1200


LOOKS = tuple(Look(theme, width) for width in (1100, 480) for theme in ("light", "dark"))


def file_of(scene: Scene, n: int, look: Look) -> Path:
    """Where the picture is kept."""
    return KEPT / f"{scene.name}-{n}-{look.name}.webp"


@cache
def _folder() -> Path:
    return Path(mkdtemp(prefix="gallery-"))


@cache
def page_of(name: str, n: int) -> Path:
    """The exported page of a scene."""
    from .scenes import SCENES

    scene = next(one for one in SCENES if one.name == name)
    path = to_html(scene.subject(n), _folder() / f"{name}-{n}.html", budget=scene.budget, **scene.traits)
    path.write_text(path.read_text("utf-8").replace("</head>", LETTERS, 1), "utf-8")
    return path


@contextmanager
def staged(browser: Browser, scene: Scene, n: int, look: Look) -> Iterator[Page]:
    """A page that shows the scene and stands still."""
    context = browser.new_context(
        viewport={"width": look.width, "height": 900}, color_scheme=look.theme, reduced_motion="reduce"
    )
    try:
        page = context.new_page()
        page.set_default_timeout(8_000)
        page.goto(page_of(scene.name, n).as_uri())
        page.wait_for_selector(READY, timeout=30_000)
        still(page)  # what comes later would move what the mouse is to be on
        if scene.act is not None:
            scene.act(page, n)
        still(page)
        yield page
    finally:
        context.close()


def still(page: Page) -> None:
    """Waits until nothing changes any more: what is computed in idle time comes later, and belongs to the picture."""
    page.wait_for_timeout(300)
    before = page.screenshot()
    for _ in range(20):
        page.wait_for_timeout(200)
        now = page.screenshot()
        if now == before:
            return
        before = now


def taken(browser: Browser, scene: Scene, n: int, look: Look, also: Path | None = None) -> bytes:
    """A WebP picture of the scene; ``also`` at full size, as PNG, for who wants to look closely."""
    with staged(browser, scene, n, look) as page:
        box = page.evaluate(
            "s => { const b = document.querySelector(s).getBoundingClientRect();"
            " return [b.x + scrollX, b.y + scrollY, b.width, b.height]; }",
            READY,
        )
        clip = {"x": box[0], "y": box[1], "width": box[2], "height": min(box[3], look.tallest)}
        if also is not None:
            also.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=also, clip=clip, full_page=True)
        session = page.context.new_cdp_session(page)
        shot = session.send(
            "Page.captureScreenshot",
            {
                "format": "webp", "quality": 50, "captureBeyondViewport": True,
                "clip": clip | {"scale": look.shrunk},
            },
        )  # fmt: skip
        return base64.b64decode(shot["data"])


# ── comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────

ACROSS = 160  # pixels of the pictures that are compared
BLOCK = 8  # of those, a side of the squares that are compared one by one
MEAN = 3 / 255  # how far apart two pictures of the same may be
WORST = 26 / 255  # and in any one square

SHRINK = """
async ([picture, across]) => {
  const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
  const image = await createImageBitmap(new Blob([bytes], { type: "image/webp" }));
  const canvas = new OffscreenCanvas(image.width, image.height);
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const { data, width, height } = pen.getImageData(0, 0, image.width, image.height);
  const down = Math.round((height * across) / width);
  const sums = new Float64Array(down * across * 4);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const at = 4 * (Math.floor((y * down) / height) * across + Math.floor((x * across) / width));
    for (let c = 0; c < 3; c++) sums[at + c] += data[4 * (y * width + x) + c];
    sums[at + 3]++;
  }
  const small = [];
  for (let at = 0; at < sums.length; at += 4)
    for (let c = 0; c < 3; c++) small.push(Math.round(sums[at + c] / sums[at + 3]));
  return [down, small];
}"""


def shrunk(page: Page, picture: bytes) -> np.ndarray:
    """[row, 160, colour] in 0…1: means over squares, so that the smoothing of letters does not count."""
    down, values = page.evaluate(SHRINK, [base64.b64encode(picture).decode(), ACROSS])
    small: np.ndarray = np.array(values, dtype=np.float32).reshape(down, ACROSS, 3) / 255
    return small


def differences(drawn: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """How two small pictures differ: on average, in the worst square, in height; and how much there is to see."""
    rows = min(len(drawn), len(kept))
    apart = abs(drawn[:rows] - kept[:rows]).mean(-1)
    blocks = apart[: rows - rows % BLOCK].reshape(-1, BLOCK, ACROSS // BLOCK, BLOCK).mean((1, 3))
    return {
        "mean": float(apart.mean()),
        "worst": float(blocks.max()) if blocks.size else 0.0,
        "taller": len(drawn) / len(kept),
        "ink": float(drawn.std()),
    }


def complaint(drawn: np.ndarray, kept: np.ndarray) -> str | None:
    """Why two small pictures do not show the same; None if they do."""
    found = differences(drawn, kept)
    if found["ink"] < 0.01:
        return "nothing is drawn"
    if not 0.97 < found["taller"] < 1.03:
        return f"it is {found['taller']:.2f} times as tall"
    if found["mean"] > MEAN or found["worst"] > WORST:
        return f"it differs by {255 * found['mean']:.1f} of 255 on average, {255 * found['worst']:.0f} in one square"
    return None
