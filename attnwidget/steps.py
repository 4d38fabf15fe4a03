"""One head step by step: what it is computed from, for a browser that computes it again with some of it switched off.

A block of kind "steps" holds the head's own q, k and v, what masks, what is added, its slice of the output projection,
and where positions turn q and k, what they were before. What is left out is said in words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import Attention
from .blocks import WireError, pack, quantised
from .layers import Layer, Part
from .masks import on_host

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


@on_host
def block(attention: Attention, part: str, layer: int, head: int, exact: bool = False) -> bytes:
    """A block of kind "steps": what one head of the sample in view is computed from.

    Vectors are float32; where there are more than 8 MB of them and ``exact`` is not asked for, 16 bits a number with
    one step per row.

    Raises:
        LookupError: no such part, layer or head.
        WireError: too much for a browser: n × n numbers that have no shorter form.
    """
    view = attention.map(layer, head, part=part)
    whole, h = view.single, view.head
    assert whole is not None and h is not None
    sample = view.sample % whole.shape[0]
    one = whole.of_head(sample, h)
    vectors, meta = _vectors(one, whole, view.part, sample)
    _refuse_too_large(vectors)
    output, why = _output(whole, h)
    size = 4 * sum(values.numel() for values in vectors.values())
    arrays: dict[str, Tensor] = {}
    for name, values in vectors.items():
        arrays |= _written(name, values, exact or size <= _MOST_EXACT)
    if output is not None:
        arrays |= _written("o", output, exact or 4 * output.numel() <= _MOST_OUTPUT)
    arrays |= one.mask.arrays()
    if one.bias is not None and one.bias.offsets is not None:
        arrays["bias"] = one.bias.offsets[0, 0]
    sink = _sink(one)
    if sink is not None:
        arrays["sink"] = sink
    n_q, n_k = view.shape
    meta = {
        "part": view.part.name, "layer": view.layer, "head": h, "kv_head": h * whole.kv_heads // whole.heads,
        "name": whole.name, "n_q": n_q, "n_k": n_k, "scale": one.scale, "softcap": one.softcap,
        "sink": sink is not None, **meta,
        "output": None if output is None or whole.output is None else whole.output.name,
        "output_why": why, "model_width": None if output is None else len(output),
        "exact": not any(name.endswith("_step") for name in arrays),
    }  # fmt: skip
    return pack("steps", meta, {name: values.numpy() for name, values in arrays.items()})


def _vectors(one: Layer, whole: Layer, part: Part, sample: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What there is a row of for every token, and what is to be said of it."""
    vectors: dict[str, Tensor] = {}
    meta: dict[str, Any] = {"d": None, "d_v": None, "positions": None, "positions_why": None, "rotary": None}
    meta |= {"bias_positional": False, "stored": None, "missing": None}
    if one.q is None or one.k is None:
        assert one.weights is not None
        vectors["weights"] = one.weights[0, 0]
        meta |= {"stored": _STORED, "positions_why": _STORED}
    else:
        vectors |= {"q": one.q[0, 0], "k": one.k[0, 0]}
        meta["d"] = one.q.shape[3]
        if one.bias is not None:
            axis = part.queries
            grid = axis.grid if axis is part.keys or axis == part.keys else None
            allowed = one.mask.allowed(0, torch.arange(one.shape[2]), 0)
            meta["bias_positional"] = one.bias.of_positions(allowed, grid)
            if one.bias.dense is not None:
                vectors["bias"] = one.bias.dense[0, 0]
        rotary = whole.rotary
        if rotary is not None:
            q, k = (turn.undone(vectors[name], sample) for turn, name in zip(rotary, ("q", "k"), strict=True))
            vectors |= {"q_plain": q, "k_plain": k}
            meta |= {"positions": "rotary", "rotary": {"pairs": rotary[0].pairs, "width": rotary[0].width}}
        elif meta["bias_positional"]:
            meta["positions"] = "bias"
        else:
            meta["positions_why"] = _why_no_positions(one, part)
    if one.v is not None and one.v.shape[2] == one.shape[3]:
        vectors["v"] = one.v[0, 0]
        meta["d_v"] = one.v.shape[3]
    else:
        meta["missing"] = _NO_VALUES
    return vectors, meta


def _why_no_positions(one: Layer, part: Part) -> str:
    if part.name.startswith("decoder") and one.shape[2] != one.shape[3]:
        return (
            "Keys of this head came out of a cache, and what positions did to them was done when they were new. "
            "Capture the whole text in one run, as capture_generation does."
        )
    if one.turned:
        return (
            "Queries and keys of this layer are multiplied by something of their positions, but no rotation of pairs "
            "of entries by angles was found that explains what the attention got; so none is taken back."
        )
    return one.why.get("positions", _NO_MODEL)


def _output(whole: Layer, head: int) -> tuple[Tensor | None, str | None]:
    """The head's slice of the output projection, [D, d_v], or why there is none."""
    found = whole.output
    if found is None:
        return None, whole.why.get("output", _NO_MODEL)
    if whole.v is not None and whole.v.shape[3] != found.width:
        return None, f"The values are {whole.v.shape[3]} wide, and {found.name} reads {found.width} of each head."
    if found.changed():
        return None, f"The weight of {found.name} has changed since this was captured."
    return found.of_head(head), None


def _sink(one: Layer) -> Tensor | None:
    """Logits that take weight without being a key, [1] or [query]."""
    if one.sink is not None:
        return one.sink[0, 0]
    if one.weights is None:
        return None
    # Stored weights are ln p again; what their rows lack to one went to something that is no key.
    leak = (1 - one.weights[0, 0].sum(1)).nan_to_num(0.0).clamp_min(0.0)
    leak = leak.masked_fill(~(one.weights[0, 0] > 0).any(1), 0.0)
    return leak.log() if bool((leak > _LEAK).any()) else None


def _refuse_too_large(vectors: dict[str, Tensor]) -> None:
    for name in ("bias", "weights"):
        if name in vectors and vectors[name].numel() > _MOST_CELLS:
            n_q, n_k = vectors[name].shape
            raise WireError(
                f"The {name} of this head have no form shorter than {n_q} × {n_k} numbers, which is too much to send. "
                "Capture a shorter text."
            )


def _written(name: str, values: Tensor, exact: bool) -> dict[str, Tensor]:
    if exact:
        return {name: values}
    codes, step = quantised(values)
    # What is not finite has no code. What is added to scores may be off by little, and one large entry spoils a row.
    if not bool(step.isfinite().all()) or (name == "bias" and float(step.max()) > _FINE):
        return {name: values}
    return {name: codes.short(), f"{name}_step": step}
