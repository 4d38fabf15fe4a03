"""What the browser is told: :func:`bundle`, which must be there without a kernel, and :func:`answer` to what it asks.

Of one head either Q and K are sent or its weights, whichever is shorter. Every weight can be had again from both, to
within 0.001 or, where ``exact`` is asked for, as it is in float32. The bytes themselves are described in ``blocks.py``.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import steps
from .attention import Attention
from .blocks import (
    PADDED,
    Block,
    WireError,
    cells,
    coded,
    ground,
    largest,
    pack,
    pieces_of,
    pool,
    quantised,
    specials,
    unpack,
)
from .compare import CommonPart, Difference
from .layers import Part
from .maps import Map, Reduce
from .masks import on_host
from .measures import STATISTICS, Measures, statistics
from .picture import smaller
from .thumbnails import SIDES, difference_thumbs, how_many, side_for, thumbs
from .tokens import Tokens

__all__ = ["Block", "Selection", "WireError", "answer", "bundle", "map_key", "messages", "pack", "thumbs", "unpack"]

Shown: TypeAlias = Attention | Difference
Selection: TypeAlias = tuple[str, int | None, int | None, Reduce]
"""(part, layer, head, reduce); None reduces over that axis."""

_MOST_CELLS = 1 << 22  # a map of weights with more is pooled: 8 MB
_MOST_WORK = 1 << 29  # weights behind a reduced map before rows are sampled: 3 s of one core, at 6 ns each
_TOLERANCE = 1e-3  # on a weight, where nobody asked for exact numbers


def map_key(part: str, layer: int | None, head: int | None, reduce: str) -> str:
    """``"decoder/5/3"`` for one head; ``"decoder/5/*/mean"`` for a reduced map."""
    key = f"{part}/{'*' if layer is None else layer}/{'*' if head is None else head}"
    return key if layer is not None and head is not None else f"{key}/{reduce}"


# ── whole maps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def map_block(view: Map, exact: bool = False) -> bytes:
    """A whole map: one head as "qk" or "weights", whichever is shorter; a reduced map as "weights"."""
    layer, (n_q, n_k) = view.single, view.shape
    if layer is None or layer.q is None or (layer.bias is not None and layer.bias.dense is not None):
        return _weights(view, exact)
    # Q and K hardly get shorter than they are, weights get down to a quarter: look at both only where that decides.
    ratio = (n_q * n_k) / ((n_q + n_k) * layer.q.shape[3])
    if ratio > 4 or n_q * n_k > _MOST_CELLS:  # and weights so many would be pooled
        return _qk(view, exact)
    if ratio <= 0.9:
        return _weights(view, exact)
    return min(_qk(view, exact), _weights(view, exact), key=len)


def _qk(view: Map, exact: bool) -> bytes:
    """One head as Q and K: 16 bits a number with one step per row, or float32 where that is not enough."""
    assert view.single is not None and view.head is not None
    one = view.single.of_head(view.sample, view.head)
    assert one.q is not None and one.k is not None
    q, k, (n_q, n_k) = one.q[0, 0], one.k[0, 0], view.shape
    arrays, sent, error = {"q": q, "k": k}, one, 0.0
    if not exact:
        (q_codes, q_step), (k_codes, k_step) = quantised(q), quantised(k)
        near = replace(one, q=(q_codes * q_step[:, None])[None, None], k=(k_codes * k_step[:, None])[None, None])
        rows = torch.arange(n_q) if n_q <= 64 else torch.linspace(0, n_q - 1, 64).long()
        error = float((near.block(0, 0, rows)[0] - one.block(0, 0, rows)[0]).abs().max())
        error *= 1 if len(rows) == n_q else 2  # rows that were not looked at may be somewhat worse
        exact = not error <= _TOLERANCE  # also where it is NaN
        if exact:
            error = 0.0
        else:
            sent, arrays = near, {"q": q_codes.short(), "q_step": q_step, "k": k_codes.short(), "k_step": k_step}
    some = list(pieces_of(torch.arange(n_q), n_k))
    lse = torch.cat([sent.block(0, 0, rows)[1] for rows in some])
    seen = torch.cat([one.mask.allowed(0, rows, 0).any(1) for rows in some])
    arrays |= {"lse": lse.masked_fill(~seen, -torch.inf), **one.mask.arrays()}
    if one.bias is not None and one.bias.offsets is not None:
        arrays["bias"] = one.bias.offsets[0, 0]
    if one.sink is not None:
        arrays["sink"] = one.sink[0, 0]
    meta = {
        "part": view.part.name, "layer": view.layer, "head": view.head, "scale": one.scale, "softcap": one.softcap,
        "exact": exact, "max_error": error, "n_q": n_q, "n_k": n_k, "d": q.shape[1],
    }  # fmt: skip
    return pack("qk", meta, {name: values.numpy() for name, values in arrays.items()})


def _weights(view: Map, exact: bool = False, most: float = math.inf) -> bytes:
    """A whole map as weights; pooled, and of sampled rows only, where there would be too many of them."""
    (n_q, n_k), heads, maps = view.shape, view.part.heads if view.head is None else 1, view.maps
    step = max(1, math.ceil(math.sqrt(n_q * n_k / min(most, _MOST_CELLS))))
    sampled = maps > 1 and n_q * n_k * maps > _MOST_WORK
    high = max(step, math.ceil(n_q * n_k * maps / _MOST_WORK)) if sampled else step
    width = 1 if sampled else high
    pieces, leaks = [], []
    for starts in pieces_of(torch.arange(0, n_q, high), n_k * heads * width):
        rows = starts + high // 2 if sampled else (starts[:, None] + torch.arange(high)).reshape(-1)
        found = _cells(view, rows.clamp_max(n_q - 1))  # where the last step is short, the last row fills it up
        leaks.append(_leak(found).reshape(-1, width).amax(1))
        found = torch.nn.functional.pad(found, (0, -n_k % step), value=PADDED)
        pieces.append(pool(found.reshape(len(found), -1, step).amax(-1), width))
    where = {"rows": [0, n_q], "cols": [0, n_k], "step": [high, step], "sampled": sampled}
    return _pack_weights(view, torch.cat(pieces), torch.cat(leaks), exact, where)


def _pack_weights(view: Map, found: Tensor, leak: Tensor | None, exact: bool, where: Mapping[str, Any]) -> bytes:
    vmax, marks, arrays = largest(found), specials(found), {}
    if exact:
        arrays = {"exact": found.masked_fill(marks > 0, torch.nan), "code": marks.byte()}
    else:
        codes = coded(found, vmax, 65000, special=0xFF00)  # special cells are 65533 … 65535
        arrays = {"hi": (codes >> 8).byte(), "lo": (codes & 255).byte()}
    # Below 0.004 a sum differs from one because weights in bfloat16 are rounded. Of reduced maps only means sum to one.
    if leak is not None and (view.single is not None or view.reduce == "mean") and bool((leak > 4e-3).any()):
        arrays["leak"] = leak
    which = {"part": view.part.name, "layer": view.layer, "head": view.head, "reduce": view.reduce}
    meta = {**which, **where, "n_q": view.shape[0], "n_k": view.shape[1], "vmax": vmax}
    return pack("weights", meta, {name: values.numpy() for name, values in arrays.items()})


def _cells(view: Map, rows: Tensor, cols: Any = slice(None)) -> Tensor:
    """float32 [row, col], with codes."""
    return cells(ground(view.allowed(rows), view.padding)[:, cols], view.tile(rows, cols))


def _leak(found: Tensor) -> Tensor:
    """What each row of cells gives to no key, [row]."""
    missing = (1 - found.clamp_min(0.0).sum(1)).nan_to_num(0.0).clamp_min(0.0)
    return missing.masked_fill(~(found >= 0).any(1), 0.0)


# ── the bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────


_MOST_THUMB_CELLS = 600_000


@on_host
def bundle(
    attention: Shown,
    *,
    budget: int = 700_000,
    first: Sequence[Selection] = (),
    standalone: bool = False,
    measures: Measures | None = None,
    stepped: Sequence[tuple[str, int, int]] = (),
    objective: Mapping[str, Any] | None = None,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> bytes:
    """What must survive without a kernel: thumbnails of every head, and as many whole maps as fit.

    Of a comparison it is all of that for A, the thumbnails of the difference, and the bundle of B inside it.

    Args:
        attention: all of it. The sample in view comes first, the others as whole bundles inside this one.
        budget: bytes. Thumbnails get smaller to keep within it, down to 8 × 8 cells, and are there in any case.
        first: the maps that go in before all others.
        standalone: there will be no kernel to ask for the rest. Then the maps in ``first`` are pooled where they would
            not fit, and a note says how many heads are there.
        measures: somebody's own numbers, by part and name, [layer, head]; statistics are there where they are cheap.
        stepped: (part, layer, head) of heads whose vectors go in, too, where there are any.
        objective: {"words", "value"} of a number that came out, where effects on it can be asked for.
        beside: further blocks by key, which go in in any case.
    """
    if not (isinstance(budget, Real) and budget > 0):
        raise ValueError(f"budget is {budget!r}; it must be a number of bytes above 0.")
    wanted = _Wanted(first, standalone, measures or {}, stepped)
    others = _others(attention, budget, standalone)
    share = budget if not others else budget // (len(others) + 1) if standalone else budget // 2
    meta, arrays = _one_bundle(attention, share - sum(map(len, beside.values())), wanted)
    meta["objective"] = objective
    arrays |= {name: np.frombuffer(block, np.uint8) for name, block in beside.items()}
    for other in others:
        left = (budget - share) // len(others)
        packed = pack("bundle", *_one_bundle(attention.select(other), left, wanted), compress=False)
        arrays[f"sample/{other}"] = np.frombuffer(packed, np.uint8)
    if standalone and len(others) < attention.samples - 1:
        meta["notes"].append(
            f"{len(others) + 1} of {attention.samples} {attention.noun}s are stored; raise budget= for more."
        )
    return pack("bundle", meta, arrays, compress=False)


@dataclass(frozen=True)
class _Wanted:
    """What :func:`bundle` was asked for."""

    first: Sequence[Selection]
    standalone: bool
    measures: Measures
    stepped: Sequence[tuple[str, int, int]]


_LEAST_SHARE = 24_000  # bytes, of one sample: a head or two, besides its smallest thumbnails and its tokens
_MOST_SAMPLES_WORK = 1 << 26  # weights behind the thumbnails of all samples, where there is a kernel to ask: 0.5 s


def samples_of(bundle: bytes) -> set[int]:
    """The samples that a bundle holds."""
    block = unpack(bundle)
    inside = {int(name.removeprefix("sample/")) for name in block.arrays if name.startswith("sample/")}
    return inside | {block.meta["samples"]["at"]}


def _others(attention: Shown, budget: int, standalone: bool) -> list[int]:
    """The samples, besides the one in view, that have room in a bundle."""
    parts = [attention.part(name) for name in attention.parts]
    work = sum(map(_work, parts))
    thumbnails = sum(
        how_many(part) * min(SIDES[-1], len(part.queries)) * min(SIDES[-1], len(part.keys)) for part in parts
    )
    least = _LEAST_SHARE + thumbnails + len(pack("bundle", _meta(attention, parts), {}))
    if isinstance(attention, Difference):
        least, work = 3 * least, 3 * work
    room = int(budget // least if standalone else min(budget // 2 // least, _MOST_SAMPLES_WORK // work - 1))
    following = [(attention.sample + step) % attention.samples for step in range(1, attention.samples)]
    return following[: max(0, room - standalone)]


def _work(part: Part | CommonPart) -> int:
    """Weights of all heads of a part."""
    return len(part.layers) * part.heads * len(part.queries) * len(part.keys)


def _one_bundle(attention: Shown, budget: int, wanted: _Wanted) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a bundle says of the sample in view, and its blocks."""
    if isinstance(attention, Difference):
        return _bundle_of_both(attention, budget, wanted)
    parts = [attention.part(name) for name in attention.parts]
    meta = _meta(attention, parts)
    _put_measures(meta, attention, parts, wanted)
    shelf = _Shelf(budget - len(pack("bundle", meta, {})) - 256)  # for the note, and the sizes of thumbnails
    for part, info in sorted(zip(parts, meta["parts"], strict=True), key=lambda one: len(one[0].layers) * one[0].heads):
        info["thumb"], block = thumbs(attention, part, side_for(part, min(_MOST_THUMB_CELLS, shelf.left)))
        shelf.put(f"thumbs/{part.name}", block, always=True)

    pooled = set()
    for done, (name, layer, head, reduce) in enumerate(wanted.first):
        view = attention.map(layer, head, part=name, reduce=reduce)
        share = shelf.left // (len(wanted.first) - done) if wanted.standalone else shelf.left
        if not shelf.put_map(view, share) and wanted.standalone:
            # At two bytes a cell this fits, unless there is hardly any room: then the budget is overdrawn by 8 kB.
            least = max(1 << 6, (1 << 12) // len(wanted.first))
            shelf.put(_key(view), _weights(view, most=max(least, share // 2)), always=True)
            pooled.add(_key(view))
    for at in wanted.stepped:
        with contextlib.suppress(LookupError, ValueError):  # asked for, it is answered with the reason
            shelf.put("steps/{}/{}/{}".format(*at), steps.block(attention, *at), always=wanted.standalone)
    shelf.put_pictures(meta, _axes(parts))
    for view in _means(attention, parts[0], shelf.left):
        shelf.put_map(view, shelf.left)
    for part in parts:
        for view in _heads(attention, part):
            if not shelf.put_map(view, shelf.left):
                break
    if wanted.standalone:
        heads = {_key(view) for part in parts for view in _heads(attention, part)}
        held = len(heads & shelf.arrays.keys() - pooled)
        if held < len(heads):
            meta["notes"].append(f"{held} of {len(heads)} heads are stored exactly; raise budget= for more.")
    return meta, shelf.arrays


def _bundle_of_both(
    difference: Difference, budget: int, wanted: _Wanted
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a comparison is: what A is, on axes in common, what is different, and a bundle of B."""
    parts = [difference.part(name) for name in difference.parts]
    meta = _meta(difference, parts)
    _put_measures(meta, difference, parts, wanted)
    shelf = _Shelf(budget - len(pack("bundle", meta, {})) - 256)
    for part in sorted(parts, key=lambda part: len(part.layers) * part.heads):
        block = difference_thumbs(difference, part, side_for(part, min(_MOST_THUMB_CELLS, shelf.left // 3)))
        shelf.put(f"thumbs/{part.name}/difference", block, always=True)
    shelf.put_pictures(meta, _axes(parts))
    alone, share = replace(wanted, measures={}), shelf.left // 2
    (of_a, arrays), (of_b, others) = (_one_bundle(one, share, alone) for one in (difference.a, difference.b))
    thumb = {part["name"]: part["thumb"] for part in of_a["parts"]}
    for info in meta["parts"]:
        info["thumb"] = thumb[info["name"]]
    meta["notes"] = [
        f"{name}: {note}" for name, inner in zip(difference.names, (of_a, of_b), strict=True) for note in inner["notes"]
    ]
    packed = pack("bundle", {**of_b, "samples": meta["samples"]}, others, compress=False)
    own = {name: array for name, array in arrays.items() if not name.startswith("picture/")}
    return meta, {**own, **shelf.arrays, "other": np.frombuffer(packed, np.uint8)}


class _Shelf:
    """Blocks, as long as there is room for them."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.arrays: dict[str, NDArray[Any]] = {}

    def put(self, name: str, block: bytes, always: bool = False, most: float = math.inf) -> bool:
        cost = len(block) + len(json.dumps(name)) + 80  # its entry in the header, and up to 7 bytes to a multiple of 8
        if always or cost <= min(self.left, most):
            self.arrays[name] = np.frombuffer(block, np.uint8)
            self.left -= cost
        return name in self.arrays

    def put_pictures(self, meta: Mapping[str, Any], axes: Sequence[Tokens]) -> None:
        """The images of axes, at the largest size that leaves most of the room to maps."""
        for at, axis in enumerate(axes):
            for side in (256, 128, 64):
                if axis.picture is None:
                    break
                block = pack("picture", {}, {"rgb": smaller(axis.picture, side)})
                if len(block) <= self.left // 3 and self.put(f"picture/{at}", block):
                    meta["axes"][at]["picture"] = f"picture/{at}"
                    break

    def put_map(self, view: Map, room: int) -> bool:
        """Whether the map is there, in at most ``room`` bytes. Where it cannot fit, it is not even computed."""
        (n_q, n_k), layer = view.shape, view.single
        # A reduced map has no cell that could be guessed, but those above the diagonal; a head has many that are zero.
        least = min(n_q * n_k, _MOST_CELLS) // (2 if layer is None else 4)
        if layer is not None and layer.q is not None:
            least = min(least, (n_q + n_k) * layer.q.shape[3])
        return _key(view) in self.arrays or (least <= room and self.put(_key(view), map_block(view), most=room))


def _key(view: Map) -> str:
    return f"map/{map_key(view.part.name, view.layer, view.head, view.reduce)}"


def _heads(attention: Attention, part: Part) -> Iterator[Map]:
    for layer, one in enumerate(part.layers):
        for head in range(one.heads):
            yield attention.map(layer, head, part=part.name)


def _means(attention: Attention, part: Part, left: int) -> list[Map]:
    """The means over both axes, over heads and over layers: all of them where that is cheap, else none."""
    layers, heads, size = len(part.layers), part.heads, len(part.queries) * len(part.keys)
    if (layers + heads + 1) * size * 2 > left // 3 or layers * heads * size > 1 << 23:
        return []
    there = [layer for layer, one in enumerate(part.layers) if one.heads]
    which = [(None, None), *((layer, None) for layer in there), *((None, head) for head in range(heads))]
    return [attention.map(*one, part=part.name) for one in which]


_CHEAP_WORK = 1 << 22  # weights behind statistics that travel unasked: 0.1 s of one core
_MOST_MEASURED = 1024  # heads of which they do: 60 kB
_MEASURED_WORK = 1 << 26  # weights behind statistics before rows are sampled: 1 s of one core


def _put_measures(
    meta: Mapping[str, Any], attention: Shown, parts: Sequence[Part | CommonPart], wanted: _Wanted
) -> None:
    """One number per head, where it is cheap or nobody can be asked; what somebody computed himself in any case."""
    left, heads = _CHEAP_WORK, sum(len(part.layers) * part.heads for part in parts)
    for part, info in zip(parts, meta["parts"], strict=True):
        left -= _work(part) * (3 if isinstance(attention, Difference) else 1)
        wanted_here = wanted.standalone or (left >= 0 and heads <= _MOST_MEASURED)
        found = _measured(attention, part.name) if wanted_here else {}
        own = {name: (name, values) for name, values in wanted.measures.get(part.name, {}).items()}
        info["measures"] = _described({**found, **own})


def _measured(attention: Shown, part: str) -> dict[str, tuple[str, Tensor]]:
    """By name, what it is and its values [layer, head]; of evenly spread queries only, where all would take minutes."""
    if not isinstance(attention, Difference):
        queries, over = _queries_of(attention.part(part))
        found = statistics(attention, part, queries=queries)
        return {name: (STATISTICS[name] + over, values) for name, values in found.items()}
    a, b = attention.names
    queries, over = _queries_of(attention.part(part))
    change = f"mean distance between what it attends to in {a} and in {b}, from 0 to 1 (total variation){over}"
    of_a, of_b = (_measured(one, part) for one in (attention.a, attention.b))
    less = {name: (f"{title}: {a} − {b}", values - of_b[name][1]) for name, (title, values) in of_a.items()}
    return {"change": (change, attention.change(part, queries=queries)), **less}


def _queries_of(part: Part | CommonPart) -> tuple[Tensor | None, str]:
    """The queries to average over, and how many these are, in words; None and nothing where it is all of them."""
    every, step = len(part.queries), math.ceil(_work(part) / _MEASURED_WORK)
    if step == 1:
        return None, ""
    some = torch.arange(min(step // 2, every - 1), every, step)
    return some, f", over {len(some)} of {every} queries"


def _described(measures: Mapping[str, tuple[str, Tensor]]) -> list[dict[str, Any]]:
    def number(value: float) -> float | None:
        return float(f"{value:.5g}") if math.isfinite(value) else None

    return [
        {"name": name, "title": title, "values": [[number(value) for value in row] for row in values.tolist()]}
        for name, (title, values) in measures.items()
        if bool(values.isfinite().any())
    ]


def _axes(parts: Sequence[Part | CommonPart]) -> list[Tokens]:
    axes: list[Tokens] = []
    for axis in (axis for part in parts for axis in (part.queries, part.keys)):
        if axis not in axes:
            axes.append(axis)
    return axes


def _meta(attention: Shown, parts: Sequence[Part | CommonPart]) -> dict[str, Any]:
    axes, check = _axes(parts), attention.check
    return {
        "title": attention.model or "Attention",
        "model": attention.model,
        "versions": versions(),
        "samples": {"count": attention.samples, "at": attention.sample, "noun": attention.noun},
        "sides": list(attention.names) if isinstance(attention, Difference) else None,
        "axes": [_axis_meta(axis) for axis in axes],
        "parts": [_part_meta(part, axes) for part in parts],
        "check": None if check is None else {
            "ok": check.ok, "rows": check.rows, "text": check.text,
            "max_error": check.max_error if math.isfinite(check.max_error) else None,
        },
        "notes": list(attention.notes),
    }  # fmt: skip


def _part_meta(part: Part | CommonPart, axes: Sequence[Tokens]) -> dict[str, Any]:
    aligned = None
    if isinstance(part, CommonPart):
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


def versions() -> dict[str, str]:
    """Of this package, and of what the numbers were computed with."""
    loaded = (sys.modules.get(name) for name in ("attnwidget", "torch", "transformers"))
    return {module.__name__: str(module.__version__) for module in loaded if module is not None}


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_CHUNK = 4_000_000  # bytes: hosts move 1 to 100 MB a second, and a message that is too long stops all others
_MOST_COLUMN_WORK = 1 << 30  # weights behind one column of a reduced map: 6 s of one core


@on_host
def answer(attention: Shown, request: Any) -> tuple[dict[str, Any], list[bytes]]:
    """The reply to one request of the browser's, and its block in pieces of at most 4 MB. Never raises.

    Args:
        attention: what is asked about.
        request: {"id", "want": "map" | "row" | "column" | "steps" | "measures", "sample", "part", "layer", "head",
            "reduce", "index", "exact", "side"}; side "a" or "b" of a comparison. "steps" is what one head is computed
            from, "measures" the statistics of a part, of a comparison those of both (of B alone where side is "b");
            of evenly spread queries, as their titles then say, where all would take long.

    Returns:
        {"type": "block", "id", "chunks": number of pieces} and the pieces, or {"type": "error", "id", "message": words}
        and none.
    """
    fields = request if isinstance(request, Mapping) else {}
    return reply(fields, lambda: _answer(attention, fields))


def reply(request: Mapping[str, Any], make: Callable[[], bytes]) -> tuple[dict[str, Any], list[bytes]]:
    """What :func:`answer` returns, of whatever block ``make`` makes for a request."""
    name = request.get("id")
    try:
        block = make()
    except (LookupError, ValueError) as problem:
        message = str(problem.args[0]) if problem.args else repr(problem)
    except Exception as problem:
        message = f"The kernel could not compute this: {problem!r}"
    else:
        pieces = [block[at : at + _CHUNK] for at in range(0, len(block), _CHUNK)]
        return {"type": "block", "id": name, "chunks": len(pieces)}, pieces
    return {"type": "error", "id": name if type(name) is int else None, "message": message}, []


def messages(reply: Mapping[str, Any], pieces: Sequence[bytes]) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """The messages, content and buffers, that carry what :func:`answer` returned: one for each piece."""
    if not pieces:
        yield dict(reply), []
    for at, piece in enumerate(pieces):
        yield {**reply, "chunk": at}, [piece]


_WANTS = ("map", "row", "column", "steps", "measures")


def _answer(shown: Shown, request: Mapping[str, Any]) -> bytes:
    want, exact, part, side = (request.get(name) for name in ("want", "exact", "part", "side"))
    exact = False if "exact" not in request else exact
    _whole_number(request, "id")
    if want not in _WANTS:
        raise WireError(f"want is {want!r}; it must be one of {', '.join(_WANTS)}.")
    if type(exact) is not bool or not isinstance(part, str):
        raise WireError(f"part is {part!r} and exact is {exact!r}; they must be a name, and true or false.")
    if side not in (None, "a", "b"):
        raise WireError(f"side is {side!r}; it must be a or b.")
    if side == "b" and not isinstance(shown, Difference):
        raise WireError("There is no side b: this is no comparison of two attentions.")
    layer, head = (None if request.get(name) is None else _whole_number(request, name) for name in ("layer", "head"))
    shown = shown.select(_whole_number(request, "sample") if "sample" in request else shown.sample)
    attention = shown if isinstance(shown, Attention) else shown.b if side == "b" else shown.a
    if want == "measures":
        of = attention.part(part).name  # refuses a part that is not there
        return pack("measures", {"measures": _described(_measured(attention if side == "b" else shown, of))}, {})
    if want == "steps":
        if layer is None or head is None:
            raise WireError("The steps are those of one head: choose a layer and a head.")
        return steps.block(attention, part, layer, head, exact)
    view = attention.map(layer, head, part=part, reduce=request.get("reduce", "mean"))
    if want == "map":
        return map_block(view, exact)
    (n_q, n_k), at = view.shape, _whole_number(request, "index")
    if at >= (n_q if want == "row" else n_k):
        raise WireError(f"There is no {want} {at} in a map of {n_q} × {n_k}.")
    if want == "row":
        found = _cells(view, torch.tensor([at]))
        return _pack_weights(view, found, _leak(found), exact, {"rows": [at, at + 1], "cols": [0, n_k], "step": [1, 1]})
    if view.single is None and n_q * n_k * view.maps > _MOST_COLUMN_WORK:
        raise WireError("A column over so many heads of so many tokens would take minutes. Choose one head.")
    pieces = pieces_of(torch.arange(n_q), n_k * (1 if view.head is not None else view.part.heads))
    found = torch.cat([_cells(view, rows, torch.tensor([at])) for rows in pieces])
    return _pack_weights(view, found, None, exact, {"rows": [0, n_q], "cols": [at, at + 1], "step": [1, 1]})


def _whole_number(request: Mapping[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is {value!r}; it must be a whole number from 0.")
    return value
