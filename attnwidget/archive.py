"""Safetensors files: arrays by name behind a header of JSON, read with numpy alone. Nothing here trusts the bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "attnwidget"  # of the format, and of its entry in the header
MOST_HEADER = 100_000_000  # bytes, as safetensors has it
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "U8": "|u1"}


class StoredError(ValueError):
    """A file that cannot be opened, in words."""


def header_of(file: Any, path: Path) -> tuple[Mapping[str, str], dict[str, Any], int]:
    """The metadata of a safetensors file, its entries, and how many bytes of arrays follow."""
    size = path.stat().st_size
    start = file.read(8)
    length = int.from_bytes(start, "little")
    fits = len(start) == 8 and length <= min(size - 8, MOST_HEADER)
    if not fits and start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"):
        raise StoredError(
            f"{path.name} looks like a pickle, as torch.save writes it. A pickle can run anything when it is "
            "opened, so it is not: save the attention itself with attention.save(path)."
        )
    if not fits:
        raise StoredError(
            f"{path.name} is no safetensors file, or is cut short: its header is said to have {length} bytes, and "
            f"{max(0, size - 8)} follow."
        )
    try:
        entries = json.loads(file.read(length))
        metadata = entries.pop("__metadata__", {})
        if not all(isinstance(one, str) for one in [*metadata, *metadata.values()]):
            raise TypeError
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise StoredError(f"{path.name} is damaged: its header cannot be read as JSON.") from None
    if metadata.get("format") != NAME or NAME not in metadata:
        raise StoredError(
            f"{path.name} is a safetensors file of something else ({len(entries)} arrays, "
            f"{', '.join(map(repr, list(entries)[:3]))} …): a model's weights, say. What attention.save(path) wrote "
            "can be opened here."
        )
    return metadata, entries, size - 8 - length


def opened(path: Path) -> tuple[Mapping[str, str], dict[str, tuple[str, NDArray[Any]]]]:
    """The metadata, and the arrays by name: their kind, and views of the bytes. Nothing is taken on trust."""
    with path.open("rb") as file:
        metadata, entries, size = header_of(file, path)
        places: dict[str, tuple[str, tuple[int, ...], int]] = {}
        reached = 0
        try:
            ordered = sorted(entries.items(), key=lambda item: item[1]["data_offsets"])
            for name, entry in ordered:
                kind, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
                whole = all(type(n) is int and n > 0 for n in shape) and len(shape) <= 8
                whole = whole and type(start) is type(stop) is int
                length = math.prod(shape) * np.dtype(DTYPES[kind]).itemsize if whole else 0
                if not whole or start != reached or stop - start != length or stop > size:
                    raise StoredError(
                        f"{path.name} is damaged or cut short: the array {name!r} is said to be {kind} {shape} at "
                        f"bytes {start} to {stop} of {size}."
                    )
                places[name], reached = (kind, tuple(shape), start), stop
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            if isinstance(problem, StoredError):
                raise
            raise StoredError(f"{path.name} is damaged: its header does not say where its arrays are.") from None
        if reached != size:
            raise StoredError(f"{path.name} is damaged: {size - reached} bytes follow its arrays.")
        data = bytearray(size)
        if file.readinto(data) < size:
            raise StoredError(f"{path.name} was cut short while it was read.")
    return metadata, {
        name: (kind, np.frombuffer(data, DTYPES[kind], math.prod(shape), start).reshape(shape))
        for name, (kind, shape, start) in places.items()
    }
