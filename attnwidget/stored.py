"""The file of an attention: :meth:`Attention.save <attnwidget.Attention.save>` writes it, :func:`load` opens it.

It is a `safetensors <https://huggingface.co/docs/safetensors>`_ file and holds no code: arrays in little-endian bytes,
and in the header's ``__metadata__`` the keys "format": "attnwidget" and "attnwidget": JSON text with

    version       1, of this format
    made_with     versions of the packages that wrote it; made: the Python that made the attention
    model, noun, sample, notes, check      as of an Attention
    axes          labels, raw, special, spans, kind, grid, ids, text, segments, generated, image of each axis, as of
                  Tokens; picture: the name of an array uint8 [height, width, 3]
    masks         start, stop: int32 [batch, query]; keep: uint8 [batch, key]; bits: uint8 [batch, head or 1, query,
                  key / 8], lowest bit first, where these do not say it all
    rotary        cos, sin: float32 [batch or 1, token, pair]; pairs, first, before: how positions turned vectors
    parts         name, title; queries, keys: numbers of axes; axes: pairs of them, one for each text of a batch; and
                  layers, each with
        name, absent, why, scale, softcap, positional      as of Layer
        mask, rotary    a number of a mask; two of rotary, for q and k
        q, k, v, weights, sink, offsets, dense             names of arrays, in the precision in which they were kept
        output, output_name                                name of an array [D, head · d_v], and of its module

The output projections are the model's own weights, as large as a layer of it: they are in the file where
``projections=True`` asked for them. What tells how positions turned q and k is fitted once, and the angles are in the
file. Gradients of a trace are not: they mean something beside the model only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import recipe, thin
from .archive import NAME, StoredError, header_of, opened
from .shown import Check, PartOf
from .tokens import Tokens

if TYPE_CHECKING:
    from .attention import Attention

VERSION = 1
_NUMBERS = ("F64", "F32", "F16", "BF16")


def load(path: str | Path) -> Attention | thin.Stored:
    """Open what :meth:`Attention.save <attnwidget.Attention.save>` wrote.

    Returns:
        An :class:`~attnwidget.Attention`, every weight as it was; where torch is not installed a
        :class:`~attnwidget.thin.Stored`, which can be shown and exported like one, and whose rows, tiles and weights
        are arrays of numpy.

    Raises:
        StoredError: another file, another version's, cut short or damaged. Nothing in it is ever run.
        FileNotFoundError: there is none of that name.

    >>> import tempfile, torch
    >>> from attnwidget import Attention
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Attention.from_weights(torch.eye(2), ["a", "b"]).save(f"{folder}/saved.safetensors")
    ...     load(path)[0, 0].row(1)
    tensor([0., 1.])
    """
    metadata, arrays = opened(Path(path))
    try:
        made_of = _of_torch()
    except ImportError:
        made_of = _of_numpy()
    found: Attention | thin.Stored = made_of.read(_said(metadata), arrays, made_of, Path(path))
    return found


def about(path: str | Path) -> dict[str, Any]:
    """What a file says of itself, without its arrays: see the top of this room.

    Raises:
        StoredError: as of :func:`load`.
    """
    with Path(path).open("rb") as file:
        return dict(_said(header_of(file, Path(path))[0]))


# ── what it says of itself ───────────────────────────────────────────────────────────────────────────────────────────


def _said(metadata: Mapping[str, str]) -> _Said:
    try:
        found = json.loads(metadata[NAME])
    except (ValueError, RecursionError):
        raise StoredError("The file is damaged: what it says of the attention cannot be read as JSON.") from None
    if not isinstance(found, dict):
        raise StoredError("The file is damaged: it says nothing of the attention.")
    if found.get("version") != VERSION:
        raise StoredError(
            f"The file was made by another version: format {found.get('version')!r}, this reads {VERSION}. Open it "
            "with the version of attnwidget that wrote it."
        )
    return _Said(found)


class _Said(dict[str, Any]):
    """An object of the file's JSON, whose entries are asked for with the kind they must have."""

    def refuse(self, name: str, what: str) -> Any:
        """Raise that this entry is not what it must be."""
        raise StoredError(f"The file is damaged: {name} is {_shortened(self.get(name))}; it must be {what}.")

    def text(self, name: str) -> str:
        """A text."""
        value: Any = self.get(name)
        return value if isinstance(value, str) else self.refuse(name, "a text")

    def maybe_text(self, name: str) -> str | None:
        """A text or nothing."""
        return None if self.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """Texts."""
        value: Any = self.get(name)
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value)
        return tuple(value) if fits else self.refuse(name, "a list of texts")

    def count(self, name: str, most: float = math.inf) -> int:
        """A whole number from 0, below ``most``."""
        value: Any = self.get(name)
        fits = type(value) is int and 0 <= value < most
        return int(value) if fits else self.refuse(name, f"a whole number from 0, below {most}")

    def counts(self, name: str, least: int = 0, most: float = math.inf) -> tuple[int, ...]:
        """Whole numbers from ``least``, below ``most``."""
        value: Any = self.get(name)
        fits = isinstance(value, list) and all(type(one) is int and least <= one < most for one in value)
        return tuple(value) if fits else self.refuse(name, f"a list of whole numbers from {least}")

    def pairs(self, name: str, most: float = math.inf) -> list[tuple[int, int]]:
        """Pairs of whole numbers from 0."""
        value: Any = self.get(name)
        fits = isinstance(value, list) and all(
            isinstance(one, list) and len(one) == 2 and all(type(n) is int and 0 <= n < most for n in one)
            for one in value
        )
        return [(a, b) for a, b in value] if fits else self.refuse(name, "a list of pairs")

    def number(self, name: str) -> float:
        """A finite number."""
        value: Any = self.get(name)
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
        return float(value) if fits else self.refuse(name, "a number")

    def records(self, name: str) -> list[_Said]:
        """Objects."""
        value: Any = self.get(name)
        fits = isinstance(value, list) and all(isinstance(one, dict) for one in value)
        return [_Said(one) for one in value] if fits else self.refuse(name, "a list of objects")


def _shortened(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return repr(value) if not isinstance(value, str) or len(value) <= 60 else f"{value[:60]!r} …"


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_numpy() -> SimpleNamespace:
    """What an attention out of a file is made of where torch is not installed."""

    def array(kind: str, values: NDArray[Any]) -> NDArray[Any]:
        if kind != "BF16":
            return values
        return (values.astype(np.uint32) << 16).view(np.float32)  # the upper half of a float32

    def layer(output: Any, width: int, **fields: Any) -> thin.Layer:
        return thin.Layer(output=output, **fields)

    def gap(name: str, absent: str, queries: int, keys: int) -> thin.Layer:
        every = np.zeros((1, queries), np.int32)
        mask = thin.Mask(every, every + np.int32(keys), np.ones((1, keys), bool))
        return thin.Layer(name, mask, weights=np.empty((1, 0, queries, keys), np.float32), absent=absent)

    return SimpleNamespace(
        array=array, layer=layer, gap=gap, Mask=thin.Mask, Bias=thin.Bias, Rotary=thin.Rotary, Part=PartOf,
        Run=thin.Stored, read=_read,
    )  # fmt: skip


def _of_torch() -> SimpleNamespace:
    """What it is made of where torch is installed."""
    import torch

    from .attention import Attention
    from .layers import Layer, Part
    from .masks import Bias, Mask, on_host
    from .output import Output
    from .rotary import Rotary

    def array(kind: str, values: NDArray[Any]) -> torch.Tensor:
        if kind == "BF16":
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)

    def layer(output: Any, output_name: str | None, width: int, rotary: Any, **fields: Any) -> Layer:
        held = None if output is None else Output.saved(output_name or "", output, width)
        return Layer(known=rotary, output=held, **fields)

    return SimpleNamespace(
        array=array, layer=layer, gap=Layer.gap, Mask=Mask, Bias=Bias, Rotary=Rotary, Part=Part, Run=Attention,
        read=on_host(_read),
    )  # fmt: skip


_Arrays = Mapping[str, tuple[str, NDArray[Any]]]


def _read(said: _Said, arrays: _Arrays, of: SimpleNamespace, path: Path) -> Any:
    """The attention, made of what ``of`` holds."""
    axes = [_axis(one, arrays) for one in said.records("axes")]
    masks = [_mask(one, arrays, of) for one in said.records("masks")]
    rotary = [_rotary(one, arrays, of) for one in said.records("rotary")]
    try:
        parts = [_part(one, arrays, of, axes, masks, rotary) for one in said.records("parts")]
        run = of.Run(
            parts, model=said.maybe_text("model"), check=_check(said.get("check")), notes=said.texts("notes"),
            noun=said.text("noun"), made=_made(said, path),
        )  # fmt: skip
        return run.select(said.count("sample", run.samples))
    except StoredError:
        raise
    except ValueError as problem:
        raise StoredError(f"The file is damaged: {problem}") from None


def _made(said: _Said, path: Path) -> str:
    """The call that opens it, below what made it first."""
    before = [f"# {line}" for line in said.text("made").splitlines()]
    return "\n".join(
        [*(["# saved of what this made:", *before] if before else []), recipe.call("load", {"path": path.name})]
    )


def _check(found: Any) -> Check | None:
    if found is None:
        return None
    said = _Said(found if isinstance(found, dict) else {})
    numbers = {name: _any_number(said, name) for name in ("max_error", "tolerance", "effect")}
    return Check(
        ok=said.get("ok") is True,
        rows=said.count("rows"),
        text=said.text("text"),
        stored=said.text("stored"),
        **numbers,
    )


def _any_number(said: _Said, name: str) -> float:
    value = said.get(name)
    return value if isinstance(value, float) else said.number(name)  # NaN where there was one


def _axis(said: _Said, arrays: _Arrays) -> Tokens:
    labels = said.texts("labels")
    n = len(labels)
    flags = {}
    for name in ("special", "generated", "image"):
        marked = set(said.counts(name, 0, n))
        flags[name] = tuple(at in marked for at in range(n))
    grid = None if said.get("grid") is None else said.counts("grid", 1)
    if grid is not None and len(grid) != 2:
        said.refuse("grid", "rows and columns")
    segments = None if said.get("segments") is None else said.counts("segments", -1)
    ids = None if said.get("ids") is None else said.counts("ids", -(2**63))
    picture = said.get("picture") and _array(said, "picture", arrays, ("U8",), (None, None, 3))[1]
    try:
        axis = Tokens(
            labels=labels, raw=() if said.get("raw") is None else said.texts("raw"), kind=said.text("kind"),
            spans=None if said.get("spans") is None else tuple(said.pairs("spans")), ids=ids,
            text=said.maybe_text("text"), segments=segments, grid=None if grid is None else (grid[0], grid[1]),
            picture=picture, **flags,
        )  # fmt: skip
    except ValueError as problem:
        raise StoredError(f"The file is damaged: {problem}") from None
    if not n or (grid is not None and (axis.first_patch or 0) + grid[0] * grid[1] > n):
        raise StoredError(f"The file is damaged: an axis of {n} tokens has the grid {grid}.")
    return axis


def _array(
    said: _Said, name: str, arrays: _Arrays, kinds: tuple[str, ...], shape: tuple[int | None, ...]
) -> tuple[str, NDArray[Any]]:
    """An array by the name under ``name``, of one of these kinds and of that shape (None: any length)."""
    where = said.text(name)
    if where not in arrays:
        raise StoredError(f"The file is damaged: the array {where!r} is missing.")
    kind, values = arrays[where]
    fits = len(values.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, values.shape, strict=True))
    if kind not in kinds or not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise StoredError(
            f"The file is damaged: the array {where!r} is {kind} {list(values.shape)}; expected {kinds[0]} [{wanted}]."
        )
    return kind, values


def _mask(said: _Said, arrays: _Arrays, of: SimpleNamespace) -> Any:
    start = _array(said, "start", arrays, ("I32",), (None, None))[1]
    stop = _array(said, "stop", arrays, ("I32",), start.shape)[1]
    keep = _array(said, "keep", arrays, ("U8",), (None, None))[1]
    dense = None
    if "bits" in said:
        (_, queries), (_, keys) = start.shape, keep.shape
        bits = _array(said, "bits", arrays, ("U8",), (None, None, queries, -(-keys // 8)))[1]
        dense = np.unpackbits(bits, axis=-1, count=keys, bitorder="little").astype(bool)
    return of.Mask(*(None if one is None else of.array("", one) for one in (start, stop, keep != 0, dense)))


def _rotary(said: _Said, arrays: _Arrays, of: SimpleNamespace) -> Any:
    cos = _array(said, "cos", arrays, ("F32",), (None, None, None))[1]
    sin = _array(said, "sin", arrays, ("F32",), cos.shape)[1]
    if said.text("pairs") not in ("halves", "neighbours"):
        said.refuse("pairs", "halves or neighbours")
    first, before = said.count("first"), said.count("before")
    return of.Rotary(of.array("", cos), of.array("", sin), said["pairs"], first, before)


def _part(
    said: _Said, arrays: _Arrays, of: SimpleNamespace, axes: list[Tokens], masks: list[Any], rotary: list[Any]
) -> Any:
    queries, keys = (axes[said.count(name, len(axes))] for name in ("queries", "keys"))
    size = len(queries), len(keys)
    pairs = tuple((axes[i], axes[j]) for i, j in said.pairs("axes", len(axes)))
    if any((len(i), len(j)) != size for i, j in pairs):
        raise StoredError(f"The file is damaged: texts of {said.text('name')!r} differ in their numbers of tokens.")
    layers = tuple(
        of.gap(one.text("name"), one.text("absent"), *size)
        if one.get("absent") is not None
        else _layer(one, arrays, of, size, masks, rotary)
        for one in said.records("layers")
    )
    batch = max((layer.shape[0] for layer in layers), default=1)
    if len(pairs) > batch:
        raise StoredError(
            f"The file is damaged: {len(pairs)} texts in {said.text('name')!r}, whose layers have {batch}."
        )
    return of.Part(said.text("name"), layers, queries, keys, said.text("title"), pairs)


def _layer(
    said: _Said, arrays: _Arrays, of: SimpleNamespace, size: tuple[int, int], masks: list[Any], rotary: list[Any]
) -> Any:
    n_q, n_k = size
    found: dict[str, tuple[str, NDArray[Any]]] = {}

    def take(name: str, shape: tuple[int | None, ...], kinds: tuple[str, ...] = _NUMBERS) -> NDArray[Any]:
        found[name] = _array(said, name, arrays, kinds, shape)
        return found[name][1]

    if "weights" in said:
        batch, heads = take("weights", (None, None, n_q, n_k)).shape[:2]
        shared = [heads]
    else:
        batch, heads, _, d = take("q", (None, None, n_q, None)).shape
        shared = [take("k", (batch, None, n_k, d)).shape[1]]
    if "v" in said:
        shared.append(take("v", (batch, None, None, None)).shape[1])
    if any(heads % one for one in shared):
        raise StoredError(f"The file is damaged: {heads} heads of {said.text('name')!r} share {shared} heads of keys.")
    biased = {"offsets": (None, None, n_q + n_k - 1), "dense": (None, None, n_q, n_k), "sink": (None, heads, None)}
    for name, shape in biased.items():
        if name in said:
            take(name, shape, ("F32",))
    mask, turned = masks[said.count("mask", len(masks))], None
    each = [found[name][1].shape[1] for name in ("offsets", "dense") if name in found]
    each += [] if mask.dense is None else [mask.dense.shape[1]]
    rows = found["sink"][1].shape[2] if "sink" in found else 1
    if mask.start.shape[1] != n_q or mask.keep.shape[1] != n_k or not {*each} <= {1, heads} or rows not in (1, n_q):
        raise StoredError(f"The file is damaged: mask, bias or sink of {said.text('name')!r} do not fit its heads.")
    if said.get("rotary") is not None:
        at = said.counts("rotary", 0, len(rotary))
        if len(at) != 2:
            said.refuse("rotary", "two numbers of what fits q and k")
        turned = rotary[at[0]], rotary[at[1]]
        for one, name, n in zip(turned, ("q", "k"), size, strict=True):
            width = found[name][1].shape[3] if name in found else 0
            if one.cos.shape[1] != n or one.first + one.width > width:
                said.refuse("rotary", "two numbers of what fits q and k")
    width = 0
    if "output" in said:
        width = take("output", (None, None)).shape[1] // heads
        if width * heads != found["output"][1].shape[1] or ("v" in found and found["v"][1].shape[3] != width):
            said.refuse("output", f"an array of {heads} heads")
    softcap = None if said.get("softcap") is None else said.number("softcap")
    if softcap == 0:
        said.refuse("softcap", "a number other than 0")
    made = {name: of.array(*one) for name, one in found.items()}
    bias = None
    if "offsets" in made or "dense" in made:
        bias = of.Bias(made.pop("offsets", None), made.pop("dense", None), said.get("positional") is True)
    why = said.get("why")
    if not (isinstance(why, dict) and all(isinstance(one, str) for one in why.values())):
        said.refuse("why", "an object of texts")
    return of.layer(
        name=said.text("name"), mask=mask, bias=bias, scale=said.number("scale"), softcap=softcap, rotary=turned,
        why=why, output=made.pop("output", None), output_name=said.maybe_text("output_name"), width=width, **made,
    )  # fmt: skip
