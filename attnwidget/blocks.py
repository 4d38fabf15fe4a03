"""Numbers as bytes that Python and the browser both read; the twin of the first half of ``js/src/wire.ts``.

A *block* is a header in words (JSON) and a payload of numbers:

    0   4   magic "ATTN"
    4   u8  version (1)
    5   u8  encoding: 0 raw, 1 zlib
    6   u16 zero
    8   u32 header length H; 16 + H is a multiple of 8
    12  u32 payload length once decoded
    16  H   {"kind", "meta", "arrays": [{"name", "dtype", "shape", "offset"}]}
    16+H    payload; arrays start at multiples of 8, little-endian, C order

Nothing here trusts the bytes: what cannot be read is refused in words.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MAGIC, _VERSION, _PREAMBLE = b"ATTN", 1, struct.Struct("<4sBBHII")
_DTYPES = {name: np.dtype(f"<{name[0]}{int(name[1:]) // 8}") for name in ("u8", "u16", "u32", "i16", "i32", "f32")}
# zlib's fastest: 0.2 ms for a head of 128 tokens. Level 6 takes twice as long and makes heads 1 to 2 %, thumbnails 5 %
# shorter: half of the bytes are the low ones, noise that nothing makes shorter.
_LEVEL = 1


class WireError(ValueError):
    """Bytes that cannot be read, or a request that cannot be met, in words for the person in front of the screen."""


@dataclass(frozen=True, eq=False)
class Block:
    """What :func:`unpack` found. The arrays are read-only views of the bytes, or of what was decompressed from them."""

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def pack(kind: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], compress: bool = True) -> bytes:
    """One block, from arrays of any shape whose numbers are u8, u16, u32, i16, i32 or f32.

    >>> unpack(pack("example", {"n": 2}, {"x": np.arange(2, dtype=np.int32)})).arrays["x"]
    array([0, 1], dtype=int32)
    """
    payload, entries = bytearray(), []
    for name, array in arrays.items():
        dtype = f"{array.dtype.kind}{array.dtype.itemsize * 8}"
        if dtype not in _DTYPES:
            raise WireError(f"The array {name!r} is {array.dtype}; a block holds {', '.join(_DTYPES)}.")
        payload += bytes(-len(payload) % 8)
        entries.append({"name": name, "dtype": dtype, "shape": list(array.shape), "offset": len(payload)})
        payload += np.ascontiguousarray(array, _DTYPES[dtype]).tobytes()
    words = json.dumps(
        {"kind": kind, "meta": meta, "arrays": entries}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    # Half a surrogate pair has no UTF-8 form. It can only stand in a string, where JSON too writes it as \udXXX.
    header = words.encode("utf-8", "backslashreplace")
    header += b" " * (-(_PREAMBLE.size + len(header)) % 8)
    stored = zlib.compress(payload, _LEVEL) if compress else payload
    shorter = len(stored) < len(payload)
    preamble = _PREAMBLE.pack(_MAGIC, _VERSION, int(shorter), 0, len(header), len(payload))
    return preamble + header + (stored if shorter else payload)


def unpack(data: bytes | bytearray | memoryview) -> Block:
    """The block in ``data``.

    Raises:
        WireError: other bytes, another version's, truncated or damaged ones.
    """
    whole = memoryview(data).cast("B")
    if whole[:4] != _MAGIC:
        raise WireError('This is not attnwidget data: the first bytes are not "ATTN".')
    if len(whole) > 4 and whole[4] != _VERSION:
        raise WireError(f"The data were made by another version: format {whole[4]}, this reads {_VERSION}.")
    if len(whole) < _PREAMBLE.size:
        raise WireError(f"The data are truncated: {len(whole)} bytes, fewer than the 16 that every block starts with.")
    _, _, encoding, reserved, header_length, length = _PREAMBLE.unpack_from(whole)
    if encoding > 1 or reserved:
        raise WireError(f"The data are damaged: unknown encoding {encoding}.")
    start = _PREAMBLE.size + header_length
    if start > len(whole):
        raise WireError(f"The data are truncated: the header needs {header_length} bytes, {len(whole) - 16} are there.")
    if start % 8:
        raise WireError("The data are damaged: the header does not end on a multiple of 8 bytes.")
    payload = _inflate(whole[start:], length) if encoding else whole[start:]
    if len(payload) != length:
        what = "truncated" if len(payload) < length else "damaged"
        raise WireError(f"The data are {what}: {len(payload)} payload bytes where the header says {length}.")
    try:
        header = json.loads(bytes(whole[_PREAMBLE.size : start]))
        kind, meta, entries = header["kind"], header["meta"], header["arrays"]
        if not (isinstance(kind, str) and isinstance(meta, dict) and isinstance(entries, list)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise WireError("The data are damaged: the header is not JSON that names kind, meta and arrays.") from None
    arrays: dict[str, NDArray[Any]] = {}
    for entry in entries:
        name, array = _array(entry, payload)
        if name in arrays:
            raise WireError(f"The data are damaged: two arrays are named {name!r}.")
        arrays[name] = array
    return Block(kind, meta, arrays)


def _inflate(stored: memoryview, length: int) -> memoryview:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(stored, length + 1)  # never more than was announced
    except zlib.error:
        raise WireError("The data are truncated or damaged: the compressed payload makes no sense.") from None
    if len(found) == length and (not reader.eof or reader.unused_data):
        what = "damaged: bytes follow the compressed payload" if reader.eof else "truncated: the last bytes are missing"
        raise WireError(f"The data are {what}.")
    return memoryview(found)


def _array(entry: Any, payload: memoryview) -> tuple[str, NDArray[Any]]:
    try:
        name, dtype, shape, offset = entry["name"], entry["dtype"], entry["shape"], entry["offset"]
        sane = isinstance(name, str) and all(type(n) is int and n >= 0 for n in [*shape, offset]) and offset % 8 == 0
    except (KeyError, TypeError):
        sane = False
    if not sane:
        raise WireError("The data are damaged: an array has no name, shape or offset that can be read.")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise WireError(f"The data are damaged: {name!r} has the unknown number type {dtype!r}.")
    cells = math.prod(shape)
    stop = offset + cells * _DTYPES[dtype].itemsize
    if stop > len(payload):
        raise WireError(f"The data are damaged: {name!r} needs bytes {offset} to {stop} of {len(payload)}.")
    return name, np.frombuffer(payload, _DTYPES[dtype], cells, offset).reshape(shape)


def quantised(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers from −32767 to 32767, [row, d], and the step of each row. NaN and infinity stay what they are."""
    step = values.abs().amax(1) / 32767
    return (values / step.masked_fill(step == 0, 1.0)[:, None]).round(), step


# ── cells: weights, and what stands where there is none ──────────────────────────────────────────────────────────────

# A cell is a weight ≥ 0, NaN (the model made one), or one of two codes. They are ordered so that the largest of a group
# of cells is also its pooled cell: weight > masked > padded.
MASKED, PADDED = -1.0, -2.0


def ground(allowed: Tensor, padding: Tensor) -> Tensor:
    """0 where a weight belongs, else MASKED or PADDED: [..., row, key] from bool [..., row, key] and bool [key].

    Padded are keys that are padding, and rows that see no key at all.
    """
    code = torch.where(padding | ~allowed.any(-1, keepdim=True), PADDED, MASKED)
    return torch.where(allowed, 0.0, code)


def cells(ground: Tensor, weights: Tensor) -> Tensor:
    """Weights on their ground. A weight where there should be none is still a weight; NaN there is nothing."""
    return torch.where((ground == 0) | (weights > 0), weights, ground)


def specials(cells: Tensor) -> Tensor:
    """int: 0 for weights, 253 NaN, 254 padded, 255 masked."""
    return 253 * cells.isnan() + 254 * (cells == PADDED) + 255 * (cells == MASKED)


def coded(cells: Tensor, vmax: float, top: int, special: int = 0) -> Tensor:
    """int: v where a weight is vmax · (v / top)², which keeps the digits of small ones; else special + 253 … 255."""
    codes = (cells.nan_to_num(0.0).clamp_min(0.0) / vmax).sqrt().mul(top).round().int()
    marks = specials(cells)
    return torch.where(marks > 0, special + marks, codes)


def largest(cells: Tensor) -> float:
    """The largest weight; 1 where there is none."""
    most = float(cells.nan_to_num(0.0).amax()) if cells.numel() else 0.0
    return most if most > 0 else 1.0


def bins(n: int, count: int) -> Tensor:
    """Which of n things each bin holds, from floor(b·n / count) on: [bin, most in one]. Short bins repeat the last."""
    edges = torch.arange(count + 1) * n // count
    width = int(edges.diff().max())
    return torch.minimum(edges[:-1, None] + torch.arange(width), edges[1:, None] - 1)


def pool(values: Tensor, rows: int, cols: Tensor | None = None) -> Tensor:
    """[..., row, key] → [..., row / rows, bin]: the largest of ``rows`` rows each, and of the keys of each bin."""
    folded = values.reshape(*values.shape[:-2], -1, rows, values.shape[-1]).amax(-2) if rows > 1 else values
    return folded if cols is None else folded[..., cols].amax(-1)


_AT_ONCE = 1 << 19  # weights computed at once: 2 MB, which stays in a core's cache


def pieces_of(rows: Tensor, work: int) -> Iterator[Tensor]:
    """``rows``, as many at once as there is to be computed at once if each takes ``work`` weights."""
    step = max(1, _AT_ONCE // work)
    return (rows[at : at + step] for at in range(0, len(rows), step))
