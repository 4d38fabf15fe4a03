"""What figures are drawn on: lines, shapes, pictures and text, on paper of a width in millimetres.

Lengths are the browser's pixels, x to the right and y down; two of them are a point, so that text of 13 pixels is
6.5 pt and a column of 85 mm has room for what a window of 482 pixels shows. matplotlib draws, with its own settings.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .inks import ACCENT, GROUND, INK, LESS, LINE, SEVERAL, SOFT, Colour, over, ramp
from .words import printable

Side: TypeAlias = Literal["left", "center", "right"]
PX = 0.5
"""Points of a pixel."""
NARROWEST = 320.0
"""Pixels that a figure has room for at least; on narrower paper all of it is smaller."""
TEXT, SMALL = 13.0, 11.0
"""Pixels of letters: of tokens and titles, of all else."""

_COARSE = 144  # dots an inch below which a PNG is for the screen, and holds the colours of a palette

FONT = "DejaVu Sans"
# What has signs that this font lacks, where it is there.
_OTHERS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "PingFang SC", "Hiragino Sans", "Microsoft YaHei",
    "Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji", "Segoe UI Symbol",
    "Apple Symbols", "Noto Sans Symbols 2", "Noto Sans Symbols2", "Unifont",
)  # fmt: skip
_OF_THE_HOST = ("backend", "interactive", "toolbar", "timezone", "webagg", "figure.max_open", "savefig.directory")
_OWN: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "attnwidget", "pdf.fonttype": 42, "pdf.compression": 6,
    "font.family": [FONT], "text.hinting": "none", "path.simplify": False, "image.composite_image": False,
}  # fmt: skip
_ALONE = threading.Lock()  # settings are those of the process, and a browser may ask on a thread of its own


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib as it comes, whatever the caller has set, for one figure at a time; the caller's settings come back.

    Boxes stand for signs that no font here has, and nobody is warned of them: in an SVG they are text, and the reader's
    fonts may have them.
    """
    import matplotlib

    every: Any = matplotlib.rcParamsDefault
    usual = {name: every[name] for name in every if not name.startswith(_OF_THE_HOST)}
    with _ALONE, matplotlib.rc_context(usual | _OWN), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


@lru_cache(maxsize=1)
def _letters() -> frozenset[int]:
    """The signs that the font of figures has."""
    from matplotlib import font_manager

    return frozenset(font_manager.get_font(font_manager.findfont(FONT)).get_charmap())


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    from matplotlib import font_manager

    there = set(font_manager.fontManager.get_font_names())
    return tuple(name for name in _OTHERS if name in there)


@lru_cache(maxsize=4096)
def _families(text: str) -> tuple[str, ...]:
    return (FONT,) if text.isascii() or all(ord(char) in _letters() for char in text) else (FONT, *_installed())


@lru_cache(maxsize=8192)
def width_of(text: str, size: float = TEXT, bold: bool = False) -> float:
    """How wide a text is, in pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    text = printable(text)
    font = FontProperties(family=list(_families(text)), weight="bold" if bold else "normal", size=size * PX)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / PX if text else 0.0


def fitted(text: str, room: float, size: float = TEXT, bold: bool = False) -> str:
    """A text, cut so that it has room."""
    if width_of(text, size, bold) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width_of(text[:middle] + "…", size, bold) <= room else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""


def wrapped(text: str, room: float, size: float = SMALL) -> list[str]:
    """A text in lines that have room."""
    lines: list[str] = []
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(fitted(word, room, size))
    return lines


def _rgba(colour: Colour, alpha: float | NDArray[Any] = 1.0) -> Any:
    """RGBA from 0 to 1, one for each alpha."""
    alphas = np.atleast_1d(np.asarray(alpha, float))
    return np.concatenate([np.broadcast_to(np.asarray(colour) / 255, (len(alphas), 3)), alphas[:, None]], 1)


class Sheet:
    """Paper that is ``width`` millimetres wide, and as long as what is drawn on it; see ``height``."""

    def __init__(self, width: float, format: str) -> None:
        from matplotlib.figure import Figure

        points = width / 25.4 * 72
        self._format = format
        self.pictured = False  # a photograph is on it
        self.px = PX if points / PX >= NARROWEST else points / NARROWEST
        self.width, self.height = points / self.px, 0.0
        self._figure = Figure(facecolor="white")
        self._axes = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_axis_off()
        self._to: Any = self._axes.transData
        self._bottom = 0.0
        self._count = 0

    @contextmanager
    def beside(self, x: float, width: float) -> Iterator[None]:
        """What is drawn meanwhile stands in a column of its own, which begins at the height there is now."""
        from matplotlib.transforms import Affine2D

        whole, start = self.width, self.height
        self._to, self.width = Affine2D().translate(x, 0) + self._axes.transData, width
        try:
            yield
        finally:
            self._to, self.width = self._axes.transData, whole
            self._bottom = max(self._bottom, self.height)
            self.height = start

    def below(self) -> None:
        """Goes on below the longest of the columns."""
        self.height, self._bottom = max(self.height, self._bottom), 0.0

    def _add(self, artist: Any) -> None:
        self._count += 1
        artist.set_zorder(self._count)
        artist.set_clip_on(False)
        self._axes.add_artist(artist)

    # ── what is drawn ──

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = TEXT,
        colour: Colour = INK,
        at: Side = "left",
        *,
        bold: bool = False,
        italic: bool = False,
        turn: float = 0.0,
    ) -> None:
        """One line, whose letters stand in the middle of height ``y``; never read as mathematics.

        Args:
            at: which end is at x: "left", "center", "right". turn: degrees, to the left.
        """
        from matplotlib.text import Text

        if not text:
            return
        text = printable(text)
        # Its base line is as far below y as half a capital letter is tall.
        below, angle = 0.36 * size, np.deg2rad(turn)
        self._add(
            Text(
                x + below * np.sin(angle), y + below * np.cos(angle), text, color=tuple(_rgba(colour)[0]),
                horizontalalignment=at, verticalalignment="baseline", fontsize=size * self.px, rotation=turn,
                rotation_mode="anchor", family=list(_families(text)), weight="bold" if bold else "normal",
                style="italic" if italic else "normal", parse_math=False, transform=self._to,
            )
        )  # fmt: skip

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: Colour | None = None,
        line: Colour | None = None,
        thick: float = 1.0,
        corner: float = 0.0,
        alpha: float = 1.0,
    ) -> None:
        """A rectangle, filled, framed or both."""
        from matplotlib.patches import FancyBboxPatch, Rectangle

        look: dict[str, Any] = {
            "facecolor": "none" if fill is None else _rgba(fill, alpha)[0],
            "edgecolor": "none" if line is None else _rgba(line)[0], "linewidth": thick * self.px,
        }  # fmt: skip
        if corner:
            box = f"round,pad=0,rounding_size={min(corner, width / 2, height / 2)}"
            self._add(FancyBboxPatch((x, y), width, height, boxstyle=box, transform=self._to, **look))
        else:
            self._add(Rectangle((x, y), width, height, transform=self._to, **look))

    def lines(
        self,
        lines: Sequence[Any],
        colour: Colour,
        thick: float | Sequence[float] = 1.0,
        alpha: float | NDArray[Any] = 1.0,
        dash: Sequence[float] | None = None,
    ) -> None:
        """Open lines [point, (x, y)], each of them straight between its points."""
        from matplotlib.path import Path

        self._paths([Path(np.asarray(line, float)) for line in lines], colour, thick, alpha, dash)

    def curves(
        self,
        curves: NDArray[Any],
        colour: Colour,
        thick: float | Sequence[float] = 1.0,
        alpha: float | NDArray[Any] = 1.0,
        dash: Sequence[float] | None = None,
    ) -> None:
        """Cubic Bézier curves [curve, (x0, y0, x1, y1, x2, y2, x3, y3)] as lines."""
        from matplotlib.path import Path

        codes = [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
        self._paths([Path(curve.reshape(4, 2), codes) for curve in curves], colour, thick, alpha, dash)

    def _paths(
        self, paths: Sequence[Any], colour: Colour, thick: Any, alpha: Any, dash: Sequence[float] | None
    ) -> None:
        from matplotlib.collections import PathCollection

        if not paths:
            return
        widths = np.atleast_1d(thick) * self.px
        # matplotlib counts dashes in widths of the line.
        style: Any = "solid" if not dash else (0, [one * self.px / max(1e-6, float(widths[0])) for one in dash])
        self._add(
            PathCollection(
                paths, facecolors="none", edgecolors=_rgba(colour, alpha), linewidths=widths, linestyles=[style],
                capstyle="butt", transform=self._to,
            )
        )  # fmt: skip

    def shapes(self, shapes: Sequence[NDArray[Any]], colour: Colour, alpha: float | NDArray[Any] = 1.0) -> None:
        """Filled polygons [point, (x, y)]."""
        from matplotlib.collections import PolyCollection

        if shapes:
            self._add(PolyCollection(shapes, facecolors=_rgba(colour, alpha), edgecolors="none", transform=self._to))

    def image(self, pixels: NDArray[np.uint8], x: float, y: float, width: float, height: float) -> None:
        """Pixels [row, column, 3 or 4], each a sharp rectangle."""
        from matplotlib.image import AxesImage

        # Readers of PDF smooth pictures however small they are: that shows less where a cell is many pixels.
        times = 1 if self._format == "png" else max(1, min(16, 640 // max(pixels.shape[:2])))
        image = AxesImage(
            self._axes, extent=(x, x + width, y + height, y), origin="upper", interpolation="none", resample=False
        )
        image.set_transform(self._to)
        image.set_data(np.repeat(np.repeat(pixels, times, 0), times, 1))
        self._add(image)

    # ── what stands often ──

    def wide_text(self, y: float, text: str, size: float = SMALL, **look: Any) -> float:
        """A paragraph over all of the width, from height ``y`` on; how tall it is."""
        lines = wrapped(text, self.width - 4, size)
        for at, line in enumerate(lines):
            self.text(0, y + (at + 0.5) * 1.35 * size, line, size, **look)
        return 1.35 * size * len(lines)

    # ── the file ──

    def written(self, dpi: float, keywords: str, title: str) -> bytes:
        """The finished figure; ``keywords`` is what its metadata holds."""
        points = (self.width * self.px, max(1.0, self.height) * self.px)
        self._figure.set_size_inches(points[0] / 72, points[1] / 72)
        self._axes.set_xlim(0, self.width)
        self._axes.set_ylim(max(1.0, self.height), 0)
        return {"svg": self._svg, "pdf": self._pdf, "png": self._png}[self._format](dpi, keywords, title)

    def _svg(self, dpi: float, keywords: str, title: str) -> bytes:
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        file = io.BytesIO()
        FigureCanvasSVG(self._figure).print_figure(
            file, format="svg", dpi=72, metadata={"Date": None}, bbox_inches=None
        )
        text = file.getvalue().decode("utf-8")
        text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
        told = f'<title>{escape(title)}</title>\n <metadata id="attnwidget">{escape(keywords)}</metadata>\n'
        text = re.sub(r"(<svg [^>]*>)\s*", lambda found: f"{found[1]}\n {told}", text, count=1)
        text = re.sub(
            r'(width|height)="([\d.]+)pt"', lambda f: f'{f[1]}="{float(f[2]) / 72 * 25.4:.4g}mm"', text, count=2
        )
        # Verdana has the widths of DejaVu Sans, whose daughter it is.
        return text.replace(f"'{FONT}'", f"'{FONT}', Verdana, sans-serif").encode("utf-8")

    def _pdf(self, dpi: float, keywords: str, title: str) -> bytes:
        from matplotlib.backends.backend_pdf import FigureCanvasPdf

        file = io.BytesIO()
        told = {"Title": title, "Keywords": keywords, "CreationDate": None}
        FigureCanvasPdf(self._figure).print_figure(file, format="pdf", dpi=72, metadata=told, bbox_inches=None)
        return file.getvalue()

    def _png(self, dpi: float, keywords: str, title: str) -> bytes:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        self._figure.set_dpi(dpi)
        canvas: Any = FigureCanvasAgg(self._figure)
        canvas.draw()
        told = PngInfo()
        told.add_text("Title", title)
        told.add_text("attnwidget", keywords)
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        if dpi < _COARSE:
            picture = _few_colours(picture, self.pictured)
        file = io.BytesIO()
        picture.save(file, "PNG", pnginfo=told, dpi=(dpi, dpi))
        return file.getvalue()


def _few_colours(picture: Any, pictured: bool) -> Any:
    """A picture in the colours of figures, and what they come to on paper; of a photograph, in its own."""
    from PIL import Image

    if pictured:
        return picture.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    shades = [over(one, share) for one in (INK, SOFT) for share in np.linspace(0, 1, 7)]
    shades += [over(one, share) for one in (ACCENT, *SEVERAL, *LESS) for share in (0.12, 0.3, 0.6, 1.0)]
    shades += [LINE, *ramp("sqrt")[::6], *ramp("difference")[:127:6]]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.array(shades).round().astype(np.uint8).tobytes())
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def hatch(sheet: Sheet, x: float, y: float, width: float, height: float, colour: Colour, lean: int = 1) -> None:
    """Diagonal lines in a box: for what is padding (leaning right), and for what is set aside (−1, leaning left)."""
    apart, lines = 6.0, []
    for start in np.arange(-height, width, apart):
        # From (start, bottom) up and to the right, as far as the box reaches.
        a, b = max(0.0, start), min(width, start + height)
        if b > a:
            line = np.array([[a, height - (a - start)], [b, height - (b - start)]])
            lines.append(line * [1, 1] if lean > 0 else np.array([width, 0]) + line * [-1, 1])
    sheet.lines([line + np.array([x, y]) for line in lines], colour, 1.0, 0.45)


def ground(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    """Clean paper under what is drawn next."""
    sheet.rect(x, y, width, height, GROUND)
