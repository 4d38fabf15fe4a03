"""Rows of the one table that is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEADINGS = ("", "n", "attnwidget", "compared with", "", "ratio", "to reach", "")
WIDTHS = (48, 4, 10, 28, 14, 6, 9, 3)


@dataclass(frozen=True)
class Row:
    """One measurement. A number that is None stands for what did not finish."""

    what: str
    n: int | None
    ours: float | None
    unit: str  # "s", "bytes", or "" for what is counted
    other: str = ""
    theirs: float | None = None
    ratio: float | None = None
    at_most: float | None = None  # of ours
    ratio_at_most: float | None = None
    at_least: float | None = None  # of ours

    @property
    def compared(self) -> float | None:
        """Ours over theirs."""
        if self.ratio is not None:
            return self.ratio
        return self.ours / self.theirs if self.ours is not None and self.theirs else None

    @property
    def reached(self) -> bool | None:
        """Whether what was to be reached is; None where nothing was. Whoever finishes beats who does not."""
        if self.at_most is None and self.ratio_at_most is None and self.at_least is None:
            return None
        if self.ours is None:
            return False
        if self.at_least is not None:
            return self.ours >= self.at_least
        if self.ratio_at_most is None:
            return self.at_most is not None and self.ours <= self.at_most
        return self.compared is None or self.compared <= self.ratio_at_most


def show_heading(title: str) -> None:
    """A section's title, and the names of the columns."""
    print(f"\n{title}\n{'─' * (sum(WIDTHS) + 2 * len(WIDTHS))}")
    _line(HEADINGS)


def show(rows: Iterable[Row]) -> list[Row]:
    """Prints rows as they come, and returns them."""
    shown = []
    for row in rows:
        limit = f"≤ {_amount(row.at_most, row.unit)}" if row.at_most is not None else ""
        if row.at_least is not None:
            limit = f"≥ {_amount(row.at_least, row.unit)}"
        if row.ratio_at_most is not None:
            limit = f"≤ {row.ratio_at_most:.2f} ×"
        reached = {True: "yes", False: "NO", None: ""}[row.reached]
        ratio = "" if row.compared is None else f"{row.compared:.3f}"
        theirs = _amount(row.theirs, row.unit) if row.other else ""
        _line((row.what, row.n or "", _amount(row.ours, row.unit), row.other, theirs, ratio, limit, reached))
        shown.append(row)
    return shown


def _line(cells: Iterable[object]) -> None:
    left = (0, 3)
    print(
        "  ".join(
            f"{cell!s:{'<' if column in left else '>'}{width}}"
            for column, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
        ).rstrip(),
        flush=True,
    )


def _amount(value: float | None, unit: str) -> str:
    if value is None:
        return "did not finish"
    if unit == "":
        return f"{value:.3g}"
    steps = {"s": ((1, "s"), (1e-3, "ms")), "bytes": ((1e6, "MB"), (1e3, "kB"), (1, "B"))}[unit]
    size, name = next((step for step in steps if abs(value) >= step[0]), steps[-1])
    return f"{value / size:.3g} {name}" if abs(value / size) < 100 else f"{value / size:,.0f} {name}"
