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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
