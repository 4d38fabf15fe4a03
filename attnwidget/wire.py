"""What the browser is told: :func:`bundle`, which must be there without a kernel, and :func:`answer` to what it asks.

Of one head either Q and K are sent or its weights, whichever is shorter. Every weight can be had again from both, to
within 0.001 or, where ``exact`` is asked for, as it is in float32. The bytes themselves are described in ``blocks.py``.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .attention import REDUCTIONS, Attention, Layer, Map, Part, Reduce
from .blocks import MASKED, PADDED, Block, WireError, bins, cells, coded, ground, largest, pack, pool, specials, unpack
from .masks import Bias, Mask, on_host
from .tokens import Tokens

__all__ = ["Block", "Selection", "WireError", "answer", "bundle", "map_key", "messages", "pack", "thumbs", "unpack"]

Selection: TypeAlias = tuple[str, int | None, int | None, Reduce]
"""(part, layer, head, reduce); None reduces over that axis."""

_BLOCK = 1 << 19  # weights computed at once: 2 MB, which stays in a core's cache
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
    one = _one_head(view)
    assert one.q is not None and one.k is not None
    q, k, (n_q, n_k) = one.q[0, 0], one.k[0, 0], view.shape
    arrays, sent, error = {"q": q, "k": k}, one, 0.0
    if not exact:
        (q_codes, q_step), (k_codes, k_step) = _quantise(q), _quantise(k)
        near = replace(one, q=(q_codes * q_step[:, None])[None, None], k=(k_codes * k_step[:, None])[None, None])
        rows = torch.arange(n_q) if n_q <= 64 else torch.linspace(0, n_q - 1, 64).long()
        error = float((near.block(0, 0, rows)[0] - one.block(0, 0, rows)[0]).abs().max())
        error *= 1 if len(rows) == n_q else 2  # rows that were not looked at may be somewhat worse
        exact = not error <= _TOLERANCE  # also where it is NaN
        if exact:
            error = 0.0
        else:
            sent, arrays = near, {"q": q_codes.short(), "q_step": q_step, "k": k_codes.short(), "k_step": k_step}
    some = list(_pieces(torch.arange(n_q), n_k))
    lse = torch.cat([sent.block(0, 0, rows)[1] for rows in some])
    seen = torch.cat([one.mask.allowed(0, rows, 0).any(1) for rows in some])
    arrays |= {"lse": lse.masked_fill(~seen, -torch.inf), **_rule(one.mask, n_k)}
    if one.bias is not None and one.bias.offsets is not None:
        arrays["bias"] = one.bias.offsets[0, 0]
    if one.sink is not None:
        arrays["sink"] = one.sink[0, 0]
    meta = {
        "part": view.part.name, "layer": view.layer, "head": view.head, "scale": one.scale, "softcap": one.softcap,
        "exact": exact, "max_error": error, "n_q": n_q, "n_k": n_k, "d": q.shape[1],
    }  # fmt: skip
    return pack("qk", meta, {name: values.numpy() for name, values in arrays.items()})


def _one_head(view: Map) -> Layer:
    """The layer behind the map of one head, as a layer of that head and sample only, in float32."""
    layer, h = view.single, view.head
    assert layer is not None and layer.q is not None and layer.k is not None and h is not None
    sample, mask, bias, sink = view.sample % layer.shape[0], layer.mask, layer.bias, layer.sink

    def of(values: Tensor, head: int | None = None) -> Tensor:
        chosen = values[sample % len(values)]
        return chosen[None] if head is None else chosen[head % len(chosen)][None, None]

    dense = None if mask.dense is None else of(mask.dense, h)
    return Layer(
        name=layer.name,
        mask=Mask(of(mask.start), of(mask.stop), of(mask.keep), dense),
        q=of(layer.q, h).float(),
        k=of(layer.k, h * layer.kv_heads // layer.heads).float(),
        scale=layer.scale,
        softcap=layer.softcap,
        bias=None if bias is None or bias.offsets is None else Bias(offsets=of(bias.offsets, h).float()),
        sink=None if sink is None else of(sink, h).float(),
    )


def _quantise(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from −32767 to 32767, [row, d], and the step of each row. NaN and infinity stay what they are."""
    step = values.abs().amax(1) / 32767
    return (values / step.masked_fill(step == 0, 1.0)[:, None]).round(), step


def _rule(mask: Mask, keys: int) -> dict[str, Tensor]:
    """start [query], stop [query], keep [key], and bits [query, key / 8] where these three do not say it all."""
    if mask.dense is None:
        stop = mask.stop[0].clamp(0, keys)
        return {"start": mask.start[0].clamp_min(0).minimum(stop), "stop": stop, "keep": mask.keep[0].byte()}
    allowed = mask.dense[0, 0]
    bits = torch.from_numpy(np.packbits(allowed.numpy(), axis=1, bitorder="little"))
    start = torch.zeros(len(allowed), dtype=torch.int32)
    return {"start": start, "stop": start + keys, "keep": (mask.keep[0] | allowed.any(0)).byte(), "bits": bits}


def _weights(view: Map, exact: bool = False, most: float = math.inf) -> bytes:
    """A whole map as weights; pooled, and of sampled rows only, where there would be too many of them."""
    (n_q, n_k), heads, maps = view.shape, view.part.heads if view.head is None else 1, _maps_behind(view)
    step = max(1, math.ceil(math.sqrt(n_q * n_k / min(most, _MOST_CELLS))))
    sampled = maps > 1 and n_q * n_k * maps > _MOST_WORK
    high = max(step, math.ceil(n_q * n_k * maps / _MOST_WORK)) if sampled else step
    width = 1 if sampled else high
    pieces, leaks = [], []
    for starts in _pieces(torch.arange(0, n_q, high), n_k * heads * width):
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


def _pieces(rows: Tensor, work: int) -> Iterator[Tensor]:
    """``rows``, as many at once as there is to be computed at once if each takes ``work`` weights."""
    step = max(1, _BLOCK // work)
    return (rows[at : at + step] for at in range(0, len(rows), step))


def _maps_behind(view: Map) -> int:
    layers = len(view.part.layers) if view.layer is None else 1
    return layers * (view.part.heads if view.head is None else 1)


# ── thumbnails ───────────────────────────────────────────────────────────────────────────────────────────────────────

_SIDES = (48, 40, 32, 24, 16, 12, 8)
_MOST_THUMB_CELLS = 600_000
_MOST_THUMB_WORK = 1 << 28  # weights behind the thumbnails of a part before rows are sampled: 2.5 s of one core


@on_host
def thumbs(attention: Attention, part: Part, side: int = _SIDES[0]) -> tuple[dict[str, Any], bytes]:
    """Every head of a part, and its reductions over layers and heads, at most ``side`` × ``side`` cells each.

    Returns:
        {"rows", "cols", "sampled"} and a block of kind "thumbs".
    """
    n_q, n_k, layers, heads = len(part.queries), len(part.keys), len(part.layers), part.heads
    rows, cols = min(n_q, side), min(n_k, side)
    row_bins, col_bins = bins(n_q, rows), bins(n_k, cols) if cols < n_k else None
    sampled = rows < n_q and layers * heads * n_q * n_k > _MOST_THUMB_WORK
    if sampled:
        row_bins = row_bins[:, row_bins.shape[1] // 2, None]
    width = row_bins.shape[1]
    single = torch.full((layers, heads, rows, cols), MASKED)
    # [mean max min; over heads for each layer, over layers for each head, over both; row; col]
    reduced = torch.full((len(REDUCTIONS), layers + heads + 1, rows, cols), MASKED)
    counts = torch.zeros(layers, rows)
    sharing = torch.tensor([sum(h < layer.heads for layer in part.layers) for h in range(heads)])

    for at in _pieces(torch.arange(rows), heads * width * n_k):
        chosen = row_bins[at].reshape(-1)
        total, most = torch.zeros(2, heads, len(chosen), n_k)
        least = torch.full_like(total, torch.inf)
        anywhere = torch.full((heads, len(at), cols), PADDED)
        for index, layer in enumerate(part.layers):
            if not layer.heads:
                continue
            sample, h = attention.sample_in(part) % layer.shape[0], layer.heads
            allowed = layer.mask.allowed(sample, chosen)
            floor = pool(ground(allowed, ~layer.mask.keep[sample % len(layer.mask.keep)]), width, col_bins)
            p, _ = layer.block(sample, None, chosen)
            pooled = pool(p, width, col_bins)
            if bool(pooled.isnan().any()):  # a masked cell in a row of NaN must not blot out other rows
                p = p.masked_fill(~allowed, 0.0)
                pooled = pool(p, width, col_bins)
            single[index, :h, at] = cells(floor, pooled)
            over_heads = torch.stack([p.mean(0), p.amax(0), p.amin(0)])
            reduced[:, index, at] = cells(floor.amax(0), pool(over_heads, width, col_bins))
            counts[index, at] = _mean_of_bins(allowed.sum(-1).float().mean(0), row_bins[at])
            total[:h] += p
            most[:h] = torch.maximum(most[:h], p)
            least[:h] = torch.minimum(least[:h], p)
            anywhere[:h] = torch.maximum(anywhere[:h], floor)
        over_layers = torch.stack([total / sharing[:, None, None], most, least])
        # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
        over_both = torch.stack([total.sum(0) / sharing.sum(), most.amax(0), least.amin(0)])
        reduced[:, layers:-1, at] = cells(anywhere, pool(over_layers, width, col_bins))
        reduced[:, -1, at] = cells(anywhere.amax(0), pool(over_both, width, col_bins))

    vmax = max(1.0, largest(single))
    maps = {"heads": single, **dict(zip(REDUCTIONS, reduced, strict=True))}
    arrays = {name: coded(found, vmax, 250).byte().numpy() for name, found in maps.items()}
    block = pack("thumbs", {"vmax": vmax}, {**arrays, "allowed": counts.numpy()})
    return {"rows": rows, "cols": cols, "sampled": sampled}, block


def _mean_of_bins(values: Tensor, which: Tensor) -> Tensor:
    """Means of [bin · width] values over the bins [bin, width]; an entry that a bin repeats counts once."""
    once = torch.ones(which.shape)
    once[:, 1:] = (which.diff(dim=1) > 0).float()
    return (values.reshape(which.shape) * once).sum(1) / once.sum(1)


def _maps(part: Part) -> int:
    """Thumbnails of a part: every head, and three reductions over heads, over layers and over both."""
    layers, heads = len(part.layers), part.heads
    return layers * heads + len(REDUCTIONS) * (layers + heads + 1)


def _side(part: Part, room: int) -> int:
    """The largest thumbnails of which a part has at most ``room`` cells; the smallest there are, if none."""
    maps, n_q, n_k = _maps(part), len(part.queries), len(part.keys)
    return next((side for side in _SIDES if maps * min(side, n_q) * min(side, n_k) <= room), _SIDES[-1])


# ── the bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────


@on_host
def bundle(
    attention: Attention, *, budget: int = 700_000, first: Sequence[Selection] = (), standalone: bool = False
) -> bytes:
    """What must survive without a kernel: thumbnails of every head, and as many whole maps as fit.

    Args:
        attention: all of it. The sample in view comes first, the others as whole bundles inside this one.
        budget: bytes. Thumbnails get smaller to keep within it, down to 8 × 8 cells, and are there in any case.
        first: the maps that go in before all others.
        standalone: there will be no kernel to ask for the rest. Then the maps in ``first`` are pooled where they would
            not fit, and a note says how many heads are there.
    """
    if not (isinstance(budget, Real) and budget > 0):
        raise ValueError(f"budget is {budget!r}; it must be a number of bytes above 0.")
    others = _others(attention, budget, standalone)
    share = budget if not others else budget // (len(others) + 1) if standalone else budget // 2
    meta, arrays = _one_bundle(attention, share, first, standalone)
    for other in others:
        left = (budget - share) // len(others)
        arrays[f"sample/{other}"] = np.frombuffer(
            pack("bundle", *_one_bundle(attention.select(other), left, first, standalone), compress=False), np.uint8
        )
    if standalone and len(others) < attention.samples - 1:
        meta["notes"].append(
            f"{len(others) + 1} of {attention.samples} {attention.noun}s are stored; raise budget= for more."
        )
    return pack("bundle", meta, arrays, compress=False)


_LEAST_SHARE = 24_000  # bytes, of one sample: a head or two, besides its smallest thumbnails and its tokens
_MOST_SAMPLES_WORK = 1 << 26  # weights behind the thumbnails of all samples, where there is a kernel to ask: 0.5 s


def samples_of(bundle: bytes) -> set[int]:
    """The samples that a bundle holds."""
    block = unpack(bundle)
    inside = {int(name.removeprefix("sample/")) for name in block.arrays if name.startswith("sample/")}
    return inside | {block.meta["samples"]["at"]}


def _others(attention: Attention, budget: int, standalone: bool) -> list[int]:
    """The samples, besides the one in view, that have room in a bundle."""
    parts = [attention.part(name) for name in attention.parts]
    work = sum(len(part.layers) * part.heads * len(part.queries) * len(part.keys) for part in parts)
    thumbnails = sum(
        _maps(part) * min(_SIDES[-1], len(part.queries)) * min(_SIDES[-1], len(part.keys)) for part in parts
    )
    least = _LEAST_SHARE + thumbnails + len(pack("bundle", _meta(attention, parts), {}))
    room = int(budget // least if standalone else min(budget // 2 // least, _MOST_SAMPLES_WORK // work - 1))
    following = [(attention.sample + step) % attention.samples for step in range(1, attention.samples)]
    return following[: max(0, room - standalone)]


def _one_bundle(
    attention: Attention, budget: int, first: Sequence[Selection], standalone: bool
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a bundle says of the sample in view, and its blocks."""
    parts = [attention.part(name) for name in attention.parts]
    meta = _meta(attention, parts)
    shelf = _Shelf(budget - len(pack("bundle", meta, {})) - 256)  # for the note, and the sizes of thumbnails
    for part, info in sorted(zip(parts, meta["parts"], strict=True), key=lambda one: len(one[0].layers) * one[0].heads):
        info["thumb"], block = thumbs(attention, part, _side(part, min(_MOST_THUMB_CELLS, shelf.left)))
        shelf.put(f"thumbs/{part.name}", block, always=True)

    pooled = set()
    for name, layer, head, reduce in first:
        view = attention.map(layer, head, part=name, reduce=reduce)
        if not shelf.put_map(view) and standalone:
            # At two bytes a cell this fits, unless there is hardly any room: then the budget is overdrawn by 8 kB.
            shelf.put(_key(view), _weights(view, most=max(1 << 12, shelf.left // 2)), always=True)
            pooled.add(_key(view))
    for view in _means(attention, parts[0], shelf.left):
        shelf.put_map(view)
    for part in parts:
        for view in _heads(attention, part):
            if not shelf.put_map(view):
                break
    if standalone:
        heads = {_key(view) for part in parts for view in _heads(attention, part)}
        held = len(heads & shelf.arrays.keys() - pooled)
        if held < len(heads):
            meta["notes"].append(f"{held} of {len(heads)} heads are stored exactly; raise budget= for more.")
    return meta, shelf.arrays


class _Shelf:
    """Blocks, as long as there is room for them."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.arrays: dict[str, NDArray[Any]] = {}

    def put(self, name: str, block: bytes, always: bool = False) -> bool:
        cost = len(block) + len(json.dumps(name)) + 80  # its entry in the header, and up to 7 bytes to a multiple of 8
        if always or cost <= self.left:
            self.arrays[name] = np.frombuffer(block, np.uint8)
            self.left -= cost
        return name in self.arrays

    def put_map(self, view: Map) -> bool:
        """Whether the map is there. Where it cannot fit, it is not even computed."""
        (n_q, n_k), layer = view.shape, view.single
        # A reduced map has no cell that could be guessed, but those above the diagonal; a head has many that are zero.
        least = min(n_q * n_k, _MOST_CELLS) // (2 if layer is None else 4)
        if layer is not None and layer.q is not None:
            least = min(least, (n_q + n_k) * layer.q.shape[3])
        return _key(view) in self.arrays or (least <= self.left and self.put(_key(view), map_block(view)))


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


def _meta(attention: Attention, parts: Sequence[Part]) -> dict[str, Any]:
    axes: list[Tokens] = []
    for axis in (axis for part in parts for axis in (part.queries, part.keys)):
        if axis not in axes:
            axes.append(axis)
    check = attention.check
    return {
        "title": attention.model or "Attention",
        "model": attention.model,
        "versions": versions(),
        "samples": {"count": attention.samples, "at": attention.sample, "noun": attention.noun},
        "axes": [_axis_meta(axis) for axis in axes],
        "parts": [_part_meta(part, axes) for part in parts],
        "check": None if check is None else {
            "ok": check.ok, "rows": check.rows, "text": check.text,
            "max_error": check.max_error if math.isfinite(check.max_error) else None,
        },
        "notes": list(attention.notes),
    }  # fmt: skip


def _part_meta(part: Part, axes: Sequence[Tokens]) -> dict[str, Any]:
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
    }  # fmt: skip


def _axis_meta(axis: Tokens, longest: int = 10_000) -> dict[str, Any]:
    def marked(flags: Sequence[bool]) -> list[int]:
        return [i for i, flag in enumerate(flags) if flag]

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
    }


def versions() -> dict[str, str]:
    """Of this package, and of what the numbers were computed with."""
    loaded = (sys.modules.get(name) for name in ("attnwidget", "torch", "transformers"))
    return {module.__name__: str(module.__version__) for module in loaded if module is not None}


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_CHUNK = 4_000_000  # bytes: hosts move 1 to 100 MB a second, and a message that is too long stops all others
_MOST_COLUMN_WORK = 1 << 30  # weights behind one column of a reduced map: 6 s of one core


@on_host
def answer(attention: Attention, request: Any) -> tuple[dict[str, Any], list[bytes]]:
    """The reply to one request of the browser's, and its block in pieces of at most 4 MB. Never raises.

    Args:
        attention: what is asked about.
        request: {"id", "want": "map" | "row" | "column", "sample", "part", "layer", "head", "reduce", "index",
            "exact"}.

    Returns:
        {"type": "block", "id", "chunks": number of pieces} and the pieces, or {"type": "error", "id", "message": words}
        and none.
    """
    fields = request if isinstance(request, Mapping) else {}
    name = fields.get("id")
    try:
        block = _answer(attention, fields)
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


def _answer(attention: Attention, request: Mapping[str, Any]) -> bytes:
    want, exact, part = request.get("want"), request.get("exact", False), request.get("part")
    _whole_number(request, "id")
    if want not in ("map", "row", "column"):
        raise WireError(f'want is {want!r}; it must be "map", "row" or "column".')
    if type(exact) is not bool or not isinstance(part, str):
        raise WireError(f"part is {part!r} and exact is {exact!r}; they must be a name, and true or false.")
    layer, head = (None if request.get(name) is None else _whole_number(request, name) for name in ("layer", "head"))
    attention = attention.select(_whole_number(request, "sample") if "sample" in request else attention.sample)
    view = attention.map(layer, head, part=part, reduce=request.get("reduce", "mean"))
    if want == "map":
        return map_block(view, exact)
    (n_q, n_k), at = view.shape, _whole_number(request, "index")
    if at >= (n_q if want == "row" else n_k):
        raise WireError(f"There is no {want} {at} in a map of {n_q} × {n_k}.")
    if want == "row":
        found = _cells(view, torch.tensor([at]))
        return _pack_weights(view, found, _leak(found), exact, {"rows": [at, at + 1], "cols": [0, n_k], "step": [1, 1]})
    if view.single is None and n_q * n_k * _maps_behind(view) > _MOST_COLUMN_WORK:
        raise WireError("A column over so many heads of so many tokens would take minutes. Choose one head.")
    pieces = _pieces(torch.arange(n_q), n_k * (1 if view.head is not None else view.part.heads))
    found = torch.cat([_cells(view, rows, torch.tensor([at])) for rows in pieces])
    return _pack_weights(view, found, None, exact, {"rows": [0, n_q], "cols": [at, at + 1], "step": [1, 1]})


def _whole_number(request: Mapping[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is {value!r}; it must be a whole number from 0.")
    return value
