"""The weights of an attention call computed again, where the model computes them, and others put in their place.

It happens on the model's device, in float32 or wider, and with gradients where the model has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .interface import Change
from .masks import Bias, Mask, row_blocks
from .parts import Call


class Scores(NamedTuple):
    """Of some heads and rows of a call: s [batch, head, row, key], −inf where masked; sink [batch, head, row, 1]."""

    s: Tensor
    sink: Tensor | None


def scores(call: Call, rules: tuple[Mask | None, Bias | None], heads: Tensor, rows: Tensor) -> Scores:
    """What the softmax of a call is of, in float32 or wider.

    Where the call was seen as weights it is their logarithm, which is the same up to a constant of each row. What such
    a row does not give to any key is its sink's, if it is more than rounding explains. A weight that underflowed to
    zero counts as masked.
    """
    batch, size, queries, keys = call.shape
    if call.weights is not None:
        p = wide(call.weights[:, heads][:, :, rows])
        tiny = torch.finfo(p.dtype).tiny
        s = torch.where(p > 0, p.clamp_min(tiny).log(), -torch.inf)
        leak = 1 - p.sum(-1, keepdim=True)
        leak = torch.where(
            (leak > torch.finfo(call.weights.dtype).eps ** 0.5) & (p > 0).any(-1, keepdim=True), leak, 0.0
        )
        return Scores(s, torch.where(leak > 0, leak.clamp_min(tiny).log(), -torch.inf) if bool(leak.any()) else None)
    assert call.q is not None and call.k is not None
    mask, bias = rules
    s = wide(call.q[:, heads][:, :, rows]) @ wide(call.k[:, heads * call.k.shape[1] // size]).mT * call.scale
    if call.softcap is not None:
        s = torch.tanh(s / call.softcap) * call.softcap
    if bias is not None:
        held = bias.offsets if bias.offsets is not None else bias.dense
        assert held is not None
        added = torch.stack([bias.block(one, rows.cpu(), keys) for one in range(min(batch, len(held)))])
        s = s + added[:, heads.cpu() % added.shape[1]].to(s)
    if mask is not None:
        samples = max(len(mask.start), len(mask.keep), 0 if mask.dense is None else len(mask.dense))
        allowed = torch.stack([mask.allowed(one, rows.cpu()) for one in range(min(batch, samples))])
        s = s.masked_fill(~allowed[:, heads.cpu() % allowed.shape[1]].to(s.device), -torch.inf)
    if call.sink is None:
        return Scores(s, None)
    sink = call.sink.to(s)[:, heads]
    sink = sink[:, :, rows] if sink.shape[2] > 1 else sink
    return Scores(s, sink[..., None].expand(*(batch, len(heads), len(rows)), 1))


def softmax(s: Tensor, sink: Tensor | None) -> Tensor:
    """Along the last axis, with what the sink takes left out; 0 in rows that are masked throughout."""
    top = s.detach().amax(-1, keepdim=True)
    if sink is not None:
        top = torch.maximum(top, sink.detach())
    top = top.masked_fill(top == -torch.inf, 0.0)
    e = torch.exp(s - top)
    total = e.sum(-1, keepdim=True)
    if sink is not None:
        total = total + torch.exp(sink - top)
    return e / total.masked_fill(total == 0, 1.0)


def wide(tensor: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 where they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def reweighed(
    call: Call,
    edit: Callable[[Scores, Tensor, Tensor], tuple[Tensor, Tensor]],
    heads: Sequence[int],
    rows: Sequence[int],
    *,
    watched: bool,
    note: str = "",
) -> Change:
    """A change of the weights of some heads and rows.

    Args:
        call: as the model made it.
        edit: from the scores of some heads and rows to their weights [batch, head, row, key], and bool [batch, head,
            row], which of them are others now. The rest keep their output to the last bit.
        heads, rows: that may change.
        watched: somebody wants to know the weights of all of it.
        note: to be said beside it.

    Raises:
        ValueError: the values are not known, which weights multiply.
    """
    if call.v is None:
        raise ValueError(
            f"The weights of {call.name} cannot be changed: their values are not known. Attention that is written by "
            "hand shows them as weights @ values in evaluation mode (model.eval()); heads= with how='zero' or 'mean' "
            "needs none."
        )
    v, size = call.v, call.shape[1]
    device, rules = v.device, call.rules()
    chosen = torch.tensor([*heads], device=device)
    some = torch.tensor([*rows], device=device)
    z, changed, weights = [], [], []
    values = wide(v[:, chosen * v.shape[1] // size])
    for block in row_blocks(some, call.shape[0] * len(heads) * call.shape[3]):
        p, other = edit(scores(call, rules, chosen, block), chosen, block)
        z.append(p @ values)
        changed.append(other)
        weights += [p] if watched else []
    new, other = torch.cat(z, 2), torch.cat(changed, 2)[..., None]

    def apply(out: Tensor) -> Tensor:
        refuse_shape(call, out)
        at = chosen[:, None], some
        return out.index_put((torch.arange(len(out), device=device)[:, None, None], *at),
                             torch.where(other, new.to(out.dtype), out[:, at[0], at[1]]))  # fmt: skip

    if not watched:
        return Change(apply)
    return Change(apply, _told(call, rules, chosen, some, torch.cat(weights, 2)), note)


def _told(
    call: Call, rules: tuple[Mask | None, Bias | None], heads: Tensor, rows: Tensor, new: Tensor
) -> dict[str, Any]:
    """The call as weights, of which some are new."""
    batch, size, queries, keys = call.shape
    every = torch.arange(size, device=new.device)
    blocks = row_blocks(torch.arange(queries, device=new.device), batch * size * keys)
    whole = torch.cat([softmax(*scores(call, rules, every, block)) for block in blocks], 2)
    whole = whole.index_put((torch.arange(batch, device=new.device)[:, None, None], heads[:, None], rows), new)
    return {
        "weights": whole, "q": None, "k": None, "scale": 1.0, "softcap": None, "sink": None,
        "rules": lambda: (rules[0], None),
    }  # fmt: skip


def refuse_shape(call: Call, out: Tensor) -> None:
    """Refused where it is not clear that ``out`` is [batch, head, query, d_v].

    Raises:
        ValueError: it has another shape, or may be laid out otherwise.
    """
    batch, heads, queries, _ = call.shape
    # Without the values nothing tells a query from a head, or from an entry of a value, where there are as many of one.
    unclear = call.v is None and (heads == queries or queries == out.shape[-1])
    if out.shape[:3] != (batch, heads, queries) or unclear:
        raise ValueError(
            f"The attention in {call.name} cannot be changed: how its output {tuple(out.shape)} is laid out in heads "
            "and queries is not clear. Write it as weights @ values, or try a text that is longer by a token."
        )
