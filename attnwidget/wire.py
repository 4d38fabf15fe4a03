"""What the browser is told: :func:`bundle`, which must be there without a kernel, and :func:`answer` to what it asks.

Of one head either Q and K are sent or its weights, whichever is shorter. Every weight can be had again from both, to
within 0.001 or, where ``exact`` is asked for, as it is in float32. The bytes themselves are described in ``blocks.py``.
The numbers are computed with torch (``sent.py``); of a file that was opened without torch, with numpy
(``thin_sent.py``).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import held, steps, thin
from .blocks import WireError, pack, unpack
from .measured import Measures
from .picture import smaller
from .shown import REDUCTIONS, Reduce, Shown, is_difference
from .tokens import Tokens
from .told import axes_of, described, meta_of

if TYPE_CHECKING:
    from .compare import Difference

Selection: TypeAlias = tuple[str, int | None, int | None, Reduce]
"""(part, layer, head, reduce); None reduces over that axis."""

_MOST_CELLS = 1 << 22  # a map of weights with more is pooled: 8 MB
_MOST_WORK = 1 << 29  # weights behind a reduced map before rows are sampled: 3 s of one core, at 6 ns each


def _computing(one: Any) -> Any:
    """The room that computes the numbers of an attention, or of a map of one."""
    if isinstance(one, (thin.Stored, thin.Map)):
        from . import thin_sent

        return thin_sent
    from . import sent

    return sent


# ── whole maps ───────────────────────────────────────────────────────────────────────────────────────────────────────


def map_key(part: str, layer: int | None, head: int | None, reduce: str) -> str:
    """``"decoder/5/3"`` for one head; ``"decoder/5/*/mean"`` for a reduced map."""
    key = f"{part}/{'*' if layer is None else layer}/{'*' if head is None else head}"
    return key if layer is not None and head is not None else f"{key}/{reduce}"


def map_block(view: Any, exact: bool = False) -> bytes:
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


def _qk(view: Any, exact: bool) -> bytes:
    found: bytes = _computing(view).qk(view, exact)
    return found


def _weights(view: Any, exact: bool = False, most: float = math.inf) -> bytes:
    found: bytes = _computing(view).weights(view, exact, min(most, _MOST_CELLS), _MOST_WORK)
    return found


# ── every head in small ──────────────────────────────────────────────────────────────────────────────────────────────

SIDES = (48, 40, 32, 24, 16, 12, 8)


def how_many(part: Any) -> int:
    """Thumbnails of a part: every head, and three reductions over heads, over layers and over both."""
    layers, heads = len(part.layers), int(part.heads)
    return layers * heads + len(REDUCTIONS) * (layers + heads + 1)


def side_for(part: Any, room: int) -> int:
    """The largest thumbnails of which a part has at most ``room`` cells; the smallest there are, if none."""
    maps, n_q, n_k = how_many(part), len(part.queries), len(part.keys)
    return next((side for side in SIDES if maps * min(side, n_q) * min(side, n_k) <= room), SIDES[-1])


def thumbs(attention: Shown, part: Any, side: int) -> tuple[dict[str, Any], bytes]:
    """Every head of a part of an attention in small, see :func:`attnwidget.thumbnails.thumbs`."""
    known = held.of(attention, part.name)
    # Bins of 24 are pairs of bins of 48: what was made larger before is pooled, which is the same.
    larger = next((one for one in SIDES if ("thumbs", one) in known and one > side and _nested(part, one, side)), None)
    found: tuple[dict[str, Any], bytes] = held.once(
        attention, part.name, ("thumbs", side),
        lambda: _computing(attention).thumbs(attention, part, side)
        if larger is None
        else _pooled(known["thumbs", larger], part, side),
    )  # fmt: skip
    return dict(found[0]), found[1]


def _nested(part: Any, large: int, small: int) -> bool:
    return large % small == 0 and min(len(part.queries), len(part.keys)) >= large


def _pooled(larger: tuple[dict[str, Any], bytes], part: Any, side: int) -> tuple[dict[str, Any], bytes]:
    """Thumbnails of larger ones: the largest of each group, as the cells themselves are pooled."""
    info, block = larger
    large, times = unpack(block), info["rows"] // side
    arrays = {}
    for name in ("heads", *REDUCTIONS):
        codes = large.arrays[name]
        # NaN over weights over masked over padded, as the cells themselves are ordered.
        rank = np.array([*range(3, 254), 0, 0, 999, 1, 2], np.int16)[codes]
        rank = rank.reshape(*codes.shape[:-2], side, times, side, times).max((-3, -1))
        arrays[name] = np.where(rank == 999, 253, np.where(rank < 3, rank + 253, rank - 3)).astype(np.uint8)
    edges = np.arange(info["rows"] + 1) * len(part.queries) // info["rows"]
    size = np.diff(edges).reshape(side, times).astype(np.float32)
    allowed = large.arrays["allowed"].reshape(-1, side, times)
    arrays["allowed"] = ((allowed * size).sum(-1) / size.sum(-1)).astype(np.float32)
    return {**info, "rows": side, "cols": side}, pack("thumbs", large.meta, arrays)


def difference_thumbs(difference: Difference, part: Any, side: int) -> bytes:
    """The same of a comparison, see :func:`attnwidget.thumbnails.difference_thumbs`."""
    found: bytes = held.once(
        difference,
        part.name,
        ("thumbs", side),
        lambda: _computing(difference).difference_thumbs(difference, part, side),
    )
    return found


# ── the bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────

_MOST_THUMB_CELLS = 600_000


def bundle(
    attention: Shown,
    *,
    budget: int = 700_000,
    first: Sequence[Selection] = (),
    standalone: bool = False,
    measures: Measures | None = None,
    stepped: Sequence[tuple[str, int, int]] = (),
    vectors: bool = False,
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
        vectors: whether those of other heads follow, as long as there is room.
        objective: {"words", "value"} of a number that came out, where effects on it can be asked for.
        beside: further blocks by key, which go in in any case.
    """
    if not (isinstance(budget, Real) and budget > 0):
        raise ValueError(f"budget is {budget!r}; it must be a number of bytes above 0.")
    wanted = _Wanted(first, standalone, measures or {}, stepped, vectors)
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
            f"{len(others) + 1} of {attention.samples} {attention.noun}s are stored; a larger budget holds more."
        )
    return pack("bundle", meta, arrays, compress=False)


@dataclass(frozen=True)
class _Wanted:
    """What :func:`bundle` was asked for."""

    first: Sequence[Selection]
    standalone: bool
    measures: Measures
    stepped: Sequence[tuple[str, int, int]]
    vectors: bool


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
    least = _LEAST_SHARE + thumbnails + len(pack("bundle", meta_of(attention, parts), {}))
    if is_difference(attention):
        least, work = 3 * least, 3 * work
    room = int(budget // least if standalone else min(budget // 2 // least, _MOST_SAMPLES_WORK // work - 1))
    following = [(attention.sample + step) % attention.samples for step in range(1, attention.samples)]
    return following[: max(0, room - standalone)]


def _work(part: Any) -> int:
    """Weights of all heads of a part."""
    weights: int = len(part.layers) * part.heads * len(part.queries) * len(part.keys)
    return weights


def _one_bundle(attention: Shown, budget: int, wanted: _Wanted) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a bundle says of the sample in view, and its blocks."""
    if is_difference(attention):
        return _bundle_of_both(attention, budget, wanted)
    parts = [attention.part(name) for name in attention.parts]
    meta = meta_of(attention, parts)
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
        shelf.put_vectors(attention, at, always=wanted.standalone)
    shelf.put_pictures(meta, axes_of(parts))
    for view in _means(attention, parts[0], shelf.left):
        shelf.put_map(view, shelf.left)
    for part in parts:
        for view in _heads(attention, part):
            if not shelf.put_map(view, shelf.left):
                break
    if wanted.vectors:
        every = ((part.name, view.layer, view.head) for part in parts for view in _heads(attention, part))
        all(shelf.put_vectors(attention, at) for at in every)  # up to the first that does not fit
    if wanted.standalone:
        heads = {_key(view) for part in parts for view in _heads(attention, part)}
        exact = len(heads & shelf.arrays.keys() - pooled)
        if exact < len(heads):
            meta["notes"].append(f"{exact} of {len(heads)} heads are stored exactly; a larger budget holds more.")
    return meta, shelf.arrays


def _bundle_of_both(
    difference: Difference, budget: int, wanted: _Wanted
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What a comparison is: what A is, on axes in common, what is different, and a bundle of B."""
    parts = [difference.part(name) for name in difference.parts]
    meta = meta_of(difference, parts)
    _put_measures(meta, difference, parts, wanted)
    shelf = _Shelf(budget - len(pack("bundle", meta, {})) - 256)
    for part in sorted(parts, key=lambda part: len(part.layers) * part.heads):
        block = difference_thumbs(difference, part, side_for(part, min(_MOST_THUMB_CELLS, shelf.left // 3)))
        shelf.put(f"thumbs/{part.name}/difference", block, always=True)
    shelf.put_pictures(meta, axes_of(parts))
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

    def put_vectors(self, attention: Shown, at: tuple[str, int, int], always: bool = False) -> bool:
        """Whether there is room for what a head is computed from; where that cannot be had, who asks is told why."""
        with contextlib.suppress(LookupError, ValueError):
            return self.put("steps/{}/{}/{}".format(*at), steps.block(attention, *at), always=always)
        return True

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

    def put_map(self, view: Any, room: int) -> bool:
        """Whether the map is there, in at most ``room`` bytes. Where it cannot fit, it is not even computed."""
        (n_q, n_k), layer = view.shape, view.single
        # A reduced map has no cell that could be guessed, but those above the diagonal; a head has many that are zero.
        least = min(n_q * n_k, _MOST_CELLS) // (2 if layer is None else 4)
        if layer is not None and layer.q is not None:
            least = min(least, (n_q + n_k) * layer.q.shape[3])
        return _key(view) in self.arrays or (least <= room and self.put(_key(view), map_block(view), most=room))


def _key(view: Any) -> str:
    return f"map/{map_key(view.part.name, view.layer, view.head, view.reduce)}"


def _heads(attention: Shown, part: Any) -> Iterator[Any]:
    for layer, one in enumerate(part.layers):
        for head in range(one.heads):
            yield attention.map(layer, head, part=part.name)


def _means(attention: Shown, part: Any, left: int) -> list[Any]:
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


def _put_measures(meta: Mapping[str, Any], attention: Shown, parts: Sequence[Any], wanted: _Wanted) -> None:
    """One number per head, where it is cheap or nobody can be asked; what somebody computed himself in any case."""
    left, heads = _CHEAP_WORK, sum(len(part.layers) * part.heads for part in parts)
    for part, info in zip(parts, meta["parts"], strict=True):
        left -= _work(part) * (3 if is_difference(attention) else 1)
        wanted_here = wanted.standalone or (left >= 0 and heads <= _MOST_MEASURED)
        found = _measured(attention, part.name) if wanted_here else {}
        own = {name: (name, values) for name, values in wanted.measures.get(part.name, {}).items()}
        info["measures"] = described({**found, **own})


def _measured(attention: Shown, part: str) -> dict[str, tuple[str, Any]]:
    """By name, what it is and its values [layer, head]; of evenly spread queries only, where all would take minutes."""
    found: dict[str, tuple[str, Any]] = held.once(
        attention, part, "measured", lambda: _computing(attention).measured(attention, part, _queries_of)
    )
    return found


def _queries_of(part: Any) -> tuple[range | None, str]:
    """The queries to average over, and how many these are, in words; None and nothing where it is all of them."""
    every, step = len(part.queries), math.ceil(_work(part) / _MEASURED_WORK)
    if step == 1:
        return None, ""
    some = range(min(step // 2, every - 1), every, step)
    return some, f", over {len(some)} of {every} queries"


# ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_CHUNK = 4_000_000  # bytes: hosts move 1 to 100 MB a second, and a message that is too long stops all others
_MOST_COLUMN_WORK = 1 << 30  # weights behind one column of a reduced map: 6 s of one core


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
    if side == "b" and not is_difference(shown):
        raise WireError("There is no side b: this is no comparison of two attentions.")
    layer, head = (None if request.get(name) is None else _whole_number(request, name) for name in ("layer", "head"))
    shown = shown.select(_whole_number(request, "sample") if "sample" in request else shown.sample)
    attention = (shown.b if side == "b" else shown.a) if is_difference(shown) else shown
    if want == "measures":
        of = attention.part(part).name  # refuses a part that is not there
        return pack("measures", {"measures": described(_measured(attention if side == "b" else shown, of))}, {})
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
    if want == "column" and view.single is None and n_q * n_k * view.maps > _MOST_COLUMN_WORK:
        raise WireError("A column over so many heads of so many tokens would take minutes. Choose one head.")
    computed = _computing(view)
    found: bytes = computed.row(view, at, exact) if want == "row" else computed.column(view, at, exact)
    return found


def _whole_number(request: Mapping[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or value < 0:
        raise WireError(f"{name} is {value!r}; it must be a whole number from 0.")
    return value
