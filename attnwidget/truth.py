"""What edges do to an output, beside what they look like: to first order for all of them, exactly for one.

The browser asks for two kinds of blocks. "effects" holds what every edge of a map adds to the objective of a
:class:`~attnwidget.Trace`; "verified" what removing an edge, a row, a column or a whole map changes, found by running
the model without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .blocks import WireError, pack
from .intervene import effect
from .layers import Part
from .masks import on_host
from .trace import Trace

_MOST_CELLS = 1 << 22  # 8 MB
_MOST = 32000  # the code of the largest effect
_NOT_THERE = -32768  # the code of an edge that is masked


@on_host
def effects(trace: Trace, part: str, heads: Sequence[tuple[int, int]]) -> bytes:
    """A block of kind "effects": what each edge adds to the objective by way of these heads, to first order.

    Arrays: codes int16 [query, key], −32768 where the edge is masked, otherwise ``step`` times the code is the effect;
    reach uint8 [query], 0 where nothing that any of these heads puts out there can reach the objective.

    Raises:
        KeyError, IndexError: no such part or head. WireError: too many edges. ValueError: no gradient.
    """
    found = trace.effects(part=part, heads=heads)
    n_q, n_k = found.shape
    if n_q * n_k > _MOST_CELLS:
        raise WireError(
            f"The effects of {n_q} × {n_k} edges are too many to send, {_MOST_CELLS} at most. Trace a shorter text, or "
            "read them in Python: trace.effects(layer, head).row(query)."
        )
    of = trace.attention.part(part)
    pieces, largest = list(found.blocks()), 0.0
    largest = max(float(block.abs().max()) for _, block in pieces)
    if not math.isfinite(largest):
        raise WireError("Some of these effects are NaN or infinite: the model's gradients overflowed.")
    step = largest / _MOST or 1.0
    codes = torch.cat([(block / step).round().short() for _, block in pieces])
    codes.masked_fill_(~_allowed(trace, of, heads), _NOT_THERE)
    reaching = trace.reaches(part)
    reach = torch.stack([reaching[layer][head] for layer, head in found.heads]).any(0)
    meta = {"part": part, "n_q": n_q, "n_k": n_k, "step": step, "largest": largest}
    return pack("effects", meta, {"codes": codes.numpy(), "reach": reach.byte().numpy()})


def verified(
    trace: Trace, part: str, heads: Sequence[tuple[int, int]], query: int | None, key: int | None
) -> dict[str, Any]:
    """What removing edges changes of the objective, exactly, beside what was expected to first order.

    Args:
        heads: in which heads. query, key: which edge; None for all queries, or keys: a column, a row, the whole map.

    Returns:
        "zero" and "knock_out": the change where the weights are set to zero, and where the edges are masked and the
        rest of the row takes their place; None where there is no rest. "estimate" and "knock_out_estimate": the same
        to first order, added up over the edges. "p", "rank": before and after of zero, None where the objective is of
        no token or class. "words": the objective. With the question: "part", "heads", "query", "key".

    Raises:
        KeyError, IndexError, ValueError: no such part, head or token.
    """
    of = trace.attention.part(part)
    _refuse_absent(of, query, key)
    # Of several windows it is the one in view.
    window = (trace.attention.sample_in(of),) if of.batch > 1 else ()
    edges = [(layer, head, query, key, *window) for layer, head in heads]
    cut = effect(trace, edges=edges, part=part)
    told: dict[str, Any] = {
        "part": part, "heads": [list(one) for one in heads], "query": query, "key": key, "words": trace.objective.words,
        "zero": cut.delta, "estimate": _sum(trace, part, heads, query, key, "zero"),
        "p": cut.p, "rank": cut.rank, "knock_out": None, "knock_out_estimate": None,
    }  # fmt: skip
    if key is not None:
        told["knock_out"] = effect(trace, edges=edges, part=part, renormalise=True).delta
        told["knock_out_estimate"] = _sum(trace, part, heads, query, key, "knock-out")
    return told


@on_host
def _sum(
    trace: Trace, part: str, heads: Sequence[tuple[int, int]], query: int | None, key: int | None, cut: Any
) -> float:
    found = trace.effects(part=part, heads=heads, cut=cut)
    if query is not None:
        row = found.row(query)
        return float(row.sum() if key is None else row[key])
    return float(found.column(key).sum()) if key is not None else sum(float(block.sum()) for _, block in found.blocks())


def answer(trace: Trace, request: Mapping[str, Any]) -> tuple[bytes, dict[str, Any] | None]:
    """The block that a request wants, and what was verified, if that was asked for.

    Args:
        request: {"want": "effects" | "verified", "part", "heads": [[layer, head], …], "query", "key"}.

    Raises:
        LookupError, ValueError: what was asked for is not there.
    """
    part, given = request.get("part"), request.get("heads")
    of = trace.attention.part(part if isinstance(part, str) else None)
    heads = [pair for one in (given if isinstance(given, list) else []) for pair in _heads(of, one)]
    if not heads:
        raise WireError("The effects are those of heads: choose at least one.")
    if request.get("want") == "effects":
        return effects(trace, of.name, heads), None
    query, key = request.get("query"), request.get("key")
    found = verified(trace, of.name, heads, query, key)
    return pack("verified", found, {}), found


def stored(trace: Trace, part: str, heads: Sequence[tuple[int | None, int | None]]) -> dict[str, bytes]:
    """The block of the effects of heads, None for all of either, by the key that the browser asks for it with."""
    of = trace.attention.part(part)
    named = ",".join(f"{'*' if layer is None else layer}.{'*' if head is None else head}" for layer, head in heads)
    pairs = [pair for one in heads for pair in _heads(of, list(one))]
    return {f"effects/{of.name}/{named}": effects(trace, of.name, pairs)}


def _heads(part: Part, named: Any) -> list[tuple[int, int]]:
    """Pairs of one [layer, head], None for all of either."""
    if not (isinstance(named, list) and len(named) == 2 and all(n is None or type(n) is int for n in named)):
        raise WireError(f"heads holds {named!r}; it holds [layer, head].")
    layer, head = named
    pairs = [(at, h) for at, one in enumerate(part.layers) for h in range(one.heads)]
    return [(at, h) for at, h in pairs if layer in (None, at) and head in (None, h)]


def _refuse_absent(part: Part, query: int | None, key: int | None) -> None:
    for noun, at, size in (("query", query, len(part.queries)), ("key", key, len(part.keys))):
        if at is not None and not (type(at) is int and 0 <= at < size):
            raise WireError(f"{noun} is {at!r}; it must be a token from 0 to {size - 1}.")


def _allowed(trace: Trace, part: Part, heads: Sequence[tuple[int, int]]) -> Tensor:
    """bool [query, key]: which edges are there in any of the heads."""
    sample, rows = trace.attention.sample_in(part), torch.arange(len(part.queries))
    found = torch.zeros(len(part.queries), len(part.keys), dtype=torch.bool)
    for mask in {id(one.mask): one.mask for one in (part.layers[layer] for layer, _ in heads)}.values():
        found |= mask.allowed(sample, rows).any(0)
    return found
