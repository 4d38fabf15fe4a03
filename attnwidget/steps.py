"""One head step by step: what it is computed from, for a browser that computes it again with some of it switched off.

A block of kind "steps" holds the head's own q, k and v, what masks, what is added, its slice of the output projection,
and where positions turn q and k, what they were before. What is left out is said in words.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .alone import Head, Numbers
from .blocks import WireError, pack
from .shown import PartOf, Shown

_MOST_EXACT = 8_000_000  # bytes in float32; what is larger is sent in 16 bits
_MOST_OUTPUT = 4_000_000
_MOST_CELLS = 1 << 24  # of a bias, or of weights, that have no shorter form
_FINE = 2e-3  # the step of what is added to scores: a thousandth of a weight is half of that
_LEAK = 4e-3  # below that, a row does not sum to one because weights in bfloat16 are rounded

_NO_VALUES = "The values V were not kept: capture with keep_values=True."
_NO_MODEL = "These numbers did not come from the run of a model."
_STORED = (
    "This head was captured as the weights that its softmax gave, and not as Q and K: its scores are the logarithms of "
    "these weights, and scale, mask and positions cannot be taken out of them."
)


def block(attention: Shown, part: str, layer: int, head: int, exact: bool = False) -> bytes:
    """A block of kind "steps": what one head of the sample in view is computed from.

    Vectors are float32; where there are more than 8 MB of them and ``exact`` is not asked for, 16 bits a number with
    one step per row.

    Raises:
        LookupError: no such part, layer or head.
        WireError: too much for a browser: n × n numbers that have no shorter form.
    """
    view = attention.map(layer, head, part=part)
    one: Head = view.single.alone(view.sample, view.head)
    vectors, meta = _vectors(one, view.part)
    _refuse_too_large(vectors)
    size = 4 * sum(values.size for values in vectors.values())
    arrays: dict[str, NDArray[Any]] = {}
    for name, values in vectors.items():
        arrays |= _written(name, values, exact or size <= _MOST_EXACT)
    if one.output is not None:
        arrays |= _written("o", one.output, exact or 4 * one.output.size <= _MOST_OUTPUT)
    arrays |= one.mask
    if one.offsets is not None:
        arrays["bias"] = one.offsets
    sink = _sink(one)
    if sink is not None:
        arrays["sink"] = sink
    n_q, n_k = one.shape
    meta = {
        "part": view.part.name, "layer": view.layer, "head": view.head, "kv_head": one.kv_head,
        "name": one.name, "n_q": n_q, "n_k": n_k, "scale": one.scale, "softcap": one.softcap,
        "sink": sink is not None, **meta,
        **_output_of(one),
        "exact": not any(name.endswith("_step") for name in arrays),
    }  # fmt: skip
    return pack("steps", meta, arrays)


def _output_of(one: Head) -> dict[str, Any]:
    """What is said of the head's slice of the output projection."""
    if one.output is None:
        return {"output": None, "output_why": _why(one, "output"), "model_width": None}
    return {"output": one.output_name, "output_why": None, "model_width": len(one.output)}


def _why(one: Head, what: str) -> str:
    return (one.why or {}).get(what, _NO_MODEL)


def _vectors(one: Head, part: PartOf[Any]) -> tuple[dict[str, Numbers], dict[str, Any]]:
    """What there is a row of for every token, and what is to be said of it."""
    vectors: dict[str, Numbers] = {}
    meta: dict[str, Any] = {"d": None, "d_v": None, "positions": None, "positions_why": None, "rotary": None}
    meta |= {"bias_positional": False, "stored": None, "missing": None}
    if one.q is None or one.k is None:
        assert one.weights is not None
        vectors["weights"] = one.weights
        meta |= {"stored": _STORED, "positions_why": _STORED}
    else:
        vectors |= {"q": one.q, "k": one.k}
        meta["d"] = one.q.shape[1]
        if one.offsets is not None or one.dense is not None:
            axis = part.queries
            grid = axis.grid if axis is part.keys or axis == part.keys else None
            meta["bias_positional"] = one.bias_of_positions(grid)
            if one.dense is not None:
                vectors["bias"] = one.dense
        if one.plain is not None:
            vectors |= {"q_plain": one.plain[0], "k_plain": one.plain[1]}
            meta |= {"positions": "rotary", "rotary": {"pairs": one.pairs, "width": one.width}}
        elif meta["bias_positional"]:
            meta["positions"] = "bias"
        else:
            meta["positions_why"] = _why_no_positions(one, part)
    if one.v is not None and len(one.v) == one.shape[1]:
        vectors["v"] = one.v
        meta["d_v"] = one.v.shape[1]
    else:
        meta["missing"] = _NO_VALUES
    return vectors, meta


def _why_no_positions(one: Head, part: PartOf[Any]) -> str:
    if part.name.startswith("decoder") and one.shape[0] != one.shape[1]:
        return (
            "Keys of this head came out of a cache, and what positions did to them was done when they were new. "
            "Capture the whole text in one run, as capture_generation does."
        )
    return _why(one, "positions")


def _sink(one: Head) -> Numbers | None:
    """Logits that take weight without being a key, [1] or [query]."""
    if one.sink is not None:
        return one.sink
    if one.weights is None:
        return None
    # Stored weights are ln p again; what their rows lack to one went to something that is no key.
    leak = np.nan_to_num(1 - one.weights.sum(1), nan=0.0).clip(0.0)
    leak[~(one.weights > 0).any(1)] = 0.0
    if not (leak > _LEAK).any():
        return None
    with np.errstate(divide="ignore"):
        found: Numbers = np.log(leak)
    return found


def _refuse_too_large(vectors: dict[str, Numbers]) -> None:
    for name in ("bias", "weights"):
        if name in vectors and vectors[name].size > _MOST_CELLS:
            n_q, n_k = vectors[name].shape
            raise WireError(
                f"The {name} of this head have no form shorter than {n_q} × {n_k} numbers, which is too much to send. "
                "Capture a shorter text."
            )


def _written(name: str, values: Numbers, exact: bool) -> dict[str, NDArray[Any]]:
    if exact:
        return {name: values}
    codes, step = quantised(values)
    # What is not finite has no code. What is added to scores may be off by little, and one large entry spoils a row.
    if not np.isfinite(step).all() or (name == "bias" and float(step.max()) > _FINE):
        return {name: values}
    return {name: codes.astype(np.int16), f"{name}_step": step}


def quantised(values: Numbers) -> tuple[Numbers, Numbers]:
    """Whole numbers from −32767 to 32767, [row, d], and the step of each row. NaN and infinity stay what they are."""
    step = np.abs(values).max(1) / np.float32(32767)
    with np.errstate(invalid="ignore"):
        return (values / np.where(step == 0, np.float32(1), step)[:, None]).round(), step
