"""What explains a figure: ramps with their ends, signs, brackets of tokens that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from attnwidget.tokens import Tokens

from . import inks
from .looked import Effects
from .sheet import SMALL, Sheet, fitted, ground, hatch, width_of
from .words import groups_of, signed_text

_BAR = 92.0  # of a ramp
_LINE = 17.0  # from one line of a legend to the next
LANE = 18.0
"""Pixels that brackets need beside the tokens."""


class Flow:
    """Pieces side by side on lines, from the sheet's height on."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet, self.x, self.y = sheet, 0.0, sheet.height + _LINE / 2

    def room(self, width: float) -> tuple[float, float]:
        """Where a piece of that width begins, and the middle of its line."""
        if self.x > 0 and self.x + width > self.sheet.width:
            self.x, self.y = 0.0, self.y + _LINE
        at = self.x
        self.x += width + 14
        return at, self.y

    def words(self, text: str) -> None:
        """A piece of text, on as many lines as it needs."""
        if width_of(text, SMALL) > self.sheet.width:
            text = fitted(text, self.sheet.width, SMALL)
        x, y = self.room(width_of(text, SMALL))
        self.sheet.text(x, y, text, SMALL, inks.SOFT)

    def sign(self, name: str, text: str) -> None:
        """A small square, and what it stands for."""
        x, y = self.room(16 + width_of(text, SMALL))
        box = (x, y - 5.5, 11.0, 11.0)
        ground(self.sheet, *box)
        if name in ("padded", "aside"):
            hatch(self.sheet, *box, inks.SOFT, 1 if name == "padded" else -1)
        if name == "nan":
            arms = [[(x + 3, y - 3), (x + 8, y + 2)], [(x + 3, y + 2), (x + 8, y - 3)]]
            self.sheet.lines(arms, inks.ACCENT, 1.6)
        self.sheet.rect(*box, line=inks.LINE, thick=0.8)
        self.sheet.text(x + 16, y, text, SMALL, inks.SOFT)

    def done(self) -> None:
        """The sheet goes on below."""
        self.sheet.height = self.y + _LINE / 2


def ramp(flow: Flow, shade: str, low: str, high: str, name: str, colours: NDArray[np.uint8] | None = None) -> None:
    """A ramp between its ends, and its name; ``colours`` [step, 3] in place of those of the scale."""
    sheet, ends = flow.sheet, (width_of(low, SMALL), width_of(high, SMALL))
    x, y = flow.room(ends[0] + _BAR + ends[1] + 12)
    sheet.text(x, y, low, SMALL, inks.SOFT)
    sheet.image((inks.ramp(shade) if colours is None else colours)[None], x + ends[0] + 6, y - 4, _BAR, 8)
    sheet.text(x + ends[0] + _BAR + 12, y, high, SMALL, inks.SOFT)
    flow.words(name)


def legend(
    sheet: Sheet, shade: str, signs: Sequence[tuple[str, str]] = (), *, high: str | None = None, low: str | None = None
) -> None:
    """The ramp of a scale, by name, and signs of cells that are no weights: (name, words)."""
    least, most, name = inks.LEGENDS[shade]
    flow = Flow(sheet)
    ramp(flow, shade, low or least, high or most, name)
    for sign in signs:
        flow.sign(*sign)
    flow.done()


def effect_legend(
    sheet: Sheet, effects: Effects, signs: Sequence[tuple[str, str]] = (), more: Sequence[str] = ()
) -> None:
    """What colours effects have."""
    flow, size = Flow(sheet), effects.largest
    low, high = f"lowers {signed_text(-size)}", f"{signed_text(size)} raises"
    ramp(flow, "difference", low, high, f"{effects.words}, to first order")
    for sign in signs:
        flow.sign(*sign)
    for words in more:
        flow.words(words)
    flow.done()


# ── brackets ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def lane_of(axis: Tokens) -> float:
    """The room that the brackets of an axis need."""
    return LANE if groups_of(axis) else 0.0


def brackets(sheet: Sheet, axis: Tokens, open: str, across: float, edge: Callable[[int], float]) -> None:
    """A named bracket for each group: open to the "right", the "left" or "down".

    Args:
        across: where its spine stands, across the direction of the tokens. edge: where a token begins along it.
    """
    for run in groups_of(axis):
        start, stop = edge(run.start) + 1, max(edge(run.start) + 3, edge(run.stop) - 1)
        out = 4.0 if open == "right" else -4.0 if open == "left" else 4.0
        line = np.array([(across + out, start), (across, start), (across, stop), (across + out, stop)])
        dash = (3.0, 2.0) if run.kind == "segment" and ord(run.name[0]) % 2 == 0 else None
        sheet.lines([line if open != "down" else line[:, ::-1]], inks.SOFT, 1.0, dash=dash)
        if stop - start < width_of(run.name, SMALL) + 6:
            continue
        middle = (start + stop) / 2
        if open == "down":
            sheet.text(middle, across - 8, run.name, SMALL, inks.SOFT, "center")
        else:
            sheet.text(across + (-8 if open == "right" else 8), middle, run.name, SMALL, inks.SOFT, "center", turn=90)
