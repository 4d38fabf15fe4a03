"""The colours of charts: those of the widget, as a style sheet, so that light and dark need no kernel.

A chart names colours as CSS variables, and the page says what they are. The host's own come first where it has any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# As in js/src/theme.ts: ground panel line ink soft accent; the ramp of weights; that of less than nothing; several.
PALETTES = {
    "light": (
        "ffffff fafbfc dfe3e8 1d232b 5b6673 c4621a", "f4f3ee bcd8d3 56a1aa 205f8a 15204a",
        "5a2703 a9571a d99a5b f0d5b5", "3488e3 e75508 196560 c16e95 5e3800 1a1e1e",
    ),
    "dark": (
        "14171c 191d23 2b323b e7ebf0 9aa6b4 f0a35e", "1b2027 1d3b52 2a7287 74bfa8 f2f0c4",
        "ffe0b8 e39a52 94591f 4b3018", "559dec e76000 00e1b9 aa6f8a eeb805 ffffff",
    ),
}  # fmt: skip
ROLES = ("ground", "panel", "line", "ink", "soft", "accent")
STEPS = 32
"""Shades of a ramp above its first; as many below nothing."""
FIRST = 18
"""The first shade that stands out from the ground, 3 : 1, in light and dark."""
ABSENT = -STEPS - 1
"""The shade of what is not there."""
SHADES = {ABSENT: "var(--attn-absent)"} | {
    at: f"var(--attn-{'less' if at < 0 else 'ramp'}-{abs(at)})" for at in range(-STEPS, STEPS + 1)
}
"""The CSS colour of every shade, from ``−STEPS`` to ``STEPS`` and ``ABSENT``."""


GROUND, INK, SOFT, ACCENT = (f"var(--attn-{role})" for role in ("ground", "ink", "soft", "accent"))
SEVERAL = tuple(f"var(--attn-several-{at})" for at in range(6))


def shade(value: float, low: float, high: float) -> int:
    """The shade of a value: from ``low`` to ``high``, or away from 0 to both sides where ``low`` is below 0.

    >>> shade(0.5, 0.0, 1.0), shade(-1.0, -1.0, 2.0), shade(float("nan"), 0.0, 1.0) == ABSENT
    (16, -16, True)
    """
    if not math.isfinite(value):
        return ABSENT
    most = max(-low, high)
    at = value / most if low < 0 else (value - low) / (high - low) if high > low else 0.0
    return round(max(-1.0, min(1.0, at)) * STEPS)


def _mixed(name: str, stops: Sequence[str]) -> str:
    """Variables from −0 to −STEPS along some stops, evenly, in OKLab."""
    lines = []
    for at in range(STEPS + 1):
        below, share = divmod(at * (len(stops) - 1), STEPS)
        upper = stops[min(below + 1, len(stops) - 1)]
        lines.append(f"--attn-{name}-{at}:color-mix(in oklab,{upper} {100 * share / STEPS:g}%,{stops[below]});")
    return "".join(lines)


def _gradient(name: str, names: Sequence[str]) -> str:
    return f".attn-dashboard .attn-legend i.attn-{name}{{background:linear-gradient(to right,{','.join(names)})}}"


def _palette(theme: str, *, host: bool) -> str:
    roles, ramp, less, several = (["#" + one for one in text.split()] for text in PALETTES[theme])
    of_host = {"ground": "layout-color0", "panel": "layout-color1", "line": "border-color2", "ink": "ui-font-color0",
               "soft": "ui-font-color2"}  # fmt: skip
    named = [
        f"--attn-{role}:var(--jp-{of_host[role]},{own});" if host and role in of_host else f"--attn-{role}:{own};"
        for role, own in zip(ROLES, roles, strict=True)
    ]
    named += [f"--attn-several-{at}:{one};" for at, one in enumerate(several)]
    return f"color-scheme:{theme};{''.join(named)}{_mixed('ramp', ramp)}{_mixed('less', [*less, ramp[0]][::-1])}"


_DARK_HOSTS = '[data-jp-theme-light="false"] .attn-dashboard, .vscode-dark .attn-dashboard, .theme-dark .attn-dashboard'
STYLE = f"""
.attn-dashboard {{ {_palette("light", host=True)} }}
{_DARK_HOSTS} {{ {_palette("dark", host=True)} }}
.attn-dashboard.attn-light.attn-light {{ {_palette("light", host=False)} }}
.attn-dashboard.attn-dark.attn-dark {{ {_palette("dark", host=False)} }}
{_gradient("sequential", [SHADES[at] for at in range(0, STEPS + 1, 4)])}
{_gradient("diverging", [SHADES[at] for at in range(-STEPS, STEPS + 1, 4)])}
{_gradient("layers", [SHADES[at] for at in range(FIRST, STEPS + 1, 2)])}
.attn-dashboard {{
  --attn-absent: transparent;
  border: 1px solid var(--attn-line); border-radius: 6px; background: var(--attn-ground); color: var(--attn-ink);
  font: 13px/1.45 var(--jp-ui-font-family, system-ui, sans-serif); font-variant-numeric: tabular-nums;
  margin: 0; overflow: hidden; container-type: inline-size;
}}
.attn-dashboard > *, .attn-dashboard .widget-html, .attn-dashboard .widget-html-content {{ margin: 0; }}
.attn-dashboard .widget-html, .attn-dashboard .widget-html-content {{
  height: auto; line-height: inherit; font: inherit; color: inherit; min-width: 0; width: 100%;
  white-space: normal; overflow-wrap: anywhere; overflow: visible;
}}
.attn-dashboard .attnwidget {{ border: 0; border-bottom: 1px solid var(--attn-line); border-radius: 0; }}
.attn-dashboard-bar {{
  flex-flow: row wrap; gap: 6px 16px; padding: 8px 16px; align-items: center; overflow: visible;
  background: var(--attn-panel); border-bottom: 1px solid var(--attn-line);
}}
.attn-dashboard .widget-label {{ color: var(--attn-soft); font: inherit; width: auto; margin-inline-end: 8px; }}
.attn-dashboard .widget-dropdown {{ width: auto; margin: 0; }}
.attn-dashboard .widget-dropdown > select {{
  border: 1px solid var(--attn-line); border-radius: 6px; background: var(--attn-ground); color: var(--attn-ink);
  font: inherit; font-size: 12px; height: 28px; min-width: 90px;
}}
.attn-dashboard .widget-toggle-buttons {{
  margin: 0; width: auto; overflow: visible; display: flex; flex-flow: row nowrap; align-items: center;
}}
.attn-dashboard .widget-toggle-button {{
  background: none; color: var(--attn-soft); border: 1px solid var(--attn-line); box-shadow: none; margin: 0;
  width: auto; height: 28px; line-height: 26px; padding: 0 12px; font: inherit;
}}
.attn-dashboard .widget-toggle-button:first-child {{ border-radius: 6px 0 0 6px; }}
.attn-dashboard .widget-toggle-button:last-child {{ border-radius: 0 6px 6px 0; border-inline-start: 0; }}
.attn-dashboard .widget-toggle-button.mod-active {{
  color: var(--attn-ink); font-weight: 600; box-shadow: inset 0 -2px var(--attn-accent); background: var(--attn-ground);
}}
.attn-dashboard :focus-visible {{ outline: 2px solid var(--attn-accent); outline-offset: 1px; }}
.attn-dashboard-charts {{
  display: flex; flex-flow: row wrap; gap: 1px; overflow: hidden;
}}
.attn-dashboard .attn-chart {{
  flex: 1 1 300px; padding: 12px 12px 8px; min-width: 0; margin: 0; overflow: hidden;
  box-shadow: 0 0 0 1px var(--attn-line);
}}
.attn-dashboard .attn-title {{ font-weight: 600; padding-inline: 4px; }}
.attn-dashboard .attn-chart small, .attn-dashboard .attn-dashboard-foot {{ color: var(--attn-soft); font-size: 12px; }}
.attn-dashboard .attn-chart small {{ display: block; padding-inline: 4px; }}
.attn-dashboard .attn-dashboard-foot {{
  padding: 10px 16px; background: var(--attn-panel); border-top: 1px solid var(--attn-line);
}}
.attn-dashboard-foot b {{ color: var(--attn-ink); }}
.attn-dashboard .attn-legend, .attn-dashboard .attn-lines {{
  color: var(--attn-soft); font-size: 12px; display: flex; flex-wrap: wrap; gap: 2px 12px; align-items: center;
  padding-inline: 4px;
}}
.attn-dashboard .attn-legend {{ gap: 6px; }}
.attn-dashboard .attn-legend i {{ width: 96px; height: 8px; border-radius: 2px; }}
.attn-dashboard .attn-lines i {{ display: inline-block; width: 18px; margin-inline-end: 6px; vertical-align: 4px; }}
.attn-dashboard .bqplot, .attn-dashboard .classic {{
  --bq-background: transparent; --bq-plotarea-background-fill: transparent;
  --bq-content-font-color: var(--attn-soft); --bq-content-scatter-font-color: var(--attn-ink);
  --bq-font: 11px var(--jp-ui-font-family, system-ui, sans-serif); --bq-axislabel-font: var(--bq-font);
  --bq-axis-tick-text-fill: var(--attn-soft); --bq-axislabel-fill: var(--attn-soft);
  --bq-grid-color: var(--attn-line); --bq-axis-border-color: var(--attn-line); --bq-default-stroke: none;
  --bq-axis-path-stroke: var(--attn-line); --bq-axis-rect-stroke: none; --bq-axis-tick-stroke: var(--attn-line);
  --bq-axis-tick-short-stroke: var(--attn-line); --bq-stick-stroke: var(--attn-line);
}}
.attn-dashboard .bqplot svg {{ font-variant-numeric: tabular-nums; }}
.attn-dashboard .bqplot > svg .brushintsel .selection {{
  fill: var(--attn-accent); fill-opacity: 0.16; stroke: var(--attn-accent); stroke-opacity: 1;
}}
.attn-dashboard .bqplot .heatmapcell {{ shape-rendering: crispEdges; }}
.attn-dashboard .bqplot :is(.element, .bar, .heatmapcell) {{ cursor: pointer; }}
"""
