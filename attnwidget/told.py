"""What the browser is told in words: axes, parts, measures, versions; as JSON, for the header of a bundle."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .shown import Shown, is_difference, versions
from .tokens import Tokens


def axes_of(parts: Sequence[Any]) -> list[Tokens]:
    """The axes of these parts, each once."""
    axes: list[Tokens] = []
    for axis in (axis for part in parts for axis in (part.queries, part.keys)):
        if axis not in axes:
            axes.append(axis)
    return axes


def meta_of(attention: Shown, parts: Sequence[Any]) -> dict[str, Any]:
    """What the header of a bundle says, all but the measures and the sizes of thumbnails."""
    axes, check = axes_of(parts), attention.check
    return {
        "title": attention.model or "Attention",
        "model": attention.model,
        "versions": versions(),
        "samples": {"count": attention.samples, "at": attention.sample, "noun": attention.noun},
        "sides": list(attention.names) if is_difference(attention) else None,
        "axes": [_axis_meta(axis) for axis in axes],
        "parts": [_part_meta(part, axes) for part in parts],
        "check": None if check is None else {
            "ok": check.ok, "rows": check.rows, "text": check.text,
            "max_error": check.max_error if math.isfinite(check.max_error) else None,
        },
        "notes": list(attention.notes),
    }  # fmt: skip


def _part_meta(part: Any, axes: Sequence[Tokens]) -> dict[str, Any]:
    aligned = None
    if hasattr(part, "of_queries"):  # of a comparison
        queries, keys = part.of_queries, part.of_keys
        aligned = {"queries_a": queries.a, "queries_b": queries.b, "keys_a": keys.a, "keys_b": keys.b}
    return {
        "name": part.name,
        "title": part.title or part.name,
        "queries": axes.index(part.queries),
        "keys": axes.index(part.keys),
        "causal": part.is_causal,
        "layers": [
            {
                "name": one.name, "heads": one.heads, "kv_heads": one.kv_heads, "window": one.mask.window,
                "absent": one.absent,
            }
            for one in part.layers
        ],
        "measures": [],
        "aligned": aligned,
    }  # fmt: skip


def _axis_meta(axis: Tokens, longest: int = 10_000) -> dict[str, Any]:
    def marked(flags: Sequence[bool]) -> list[int]:
        return [i for i, flag in enumerate(flags) if flag]

    before = axis.before
    return {
        "kind": axis.kind,
        "labels": [label[:longest] for label in axis.labels],
        "raw": [entry[:longest] for entry in axis.raw],
        "special": marked(axis.special),
        "punctuation": marked(axis.punctuation),
        "generated": marked(axis.generated),
        "image": marked(axis.image),
        "segments": axis.segments,
        "words": axis.words(),
        "sentences": axis.sentences(),
        "grid": axis.grid,
        "first_patch": None if axis.image else axis.first_patch,
        "picture": None,
        "before": None if before is None else [gap[:longest] for gap in before],
    }


def described(measures: Mapping[str, tuple[str, Any]]) -> list[dict[str, Any]]:
    """Measures by name, each what it is and its values [layer, head], as the header has them."""

    def number(value: float) -> float | None:
        return float(f"{value:.5g}") if math.isfinite(value) else None

    return [
        {"name": name, "title": title, "values": [[number(value) for value in row] for row in values.tolist()]}
        for name, (title, values) in measures.items()
        if any(math.isfinite(value) for row in values.tolist() for value in row)
    ]
