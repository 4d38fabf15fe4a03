"""The projection that brings the heads of a layer back together, and what a head adds by it.

No table says which of a model's projections that is: it is the one that reads the outputs of the heads, side by side,
as they were.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Largest difference that rounding explains, relative to the largest entry of what the projection made.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True, eq=False)
class Output:
    """W of W · [z_1 … z_H] + b, where z_h is what head h made of the values.

    The weight is the model's own, not a copy: it stays in memory as long as this does. One row that the projection was
    given, and what it made of it, are kept to see whether the weight is still what it was.

    Attributes:
        name: qualified name of the module.
        weight: [D, feature], or [feature, D] where ``across`` (transformers' Conv1D).
        first: the first feature that belongs to these heads. width: how many belong to each of them, d_v.
        given: float32 [feature]. made: float32 [D], without the bias.
        tolerance: largest difference that rounding explains, relative to the largest entry of ``made``.
        version: of the weight, which torch counts up when it is written to.
    """

    name: str
    weight: Tensor
    across: bool
    first: int
    width: int
    given: Tensor
    made: Tensor
    tolerance: float
    version: int

    @classmethod
    def of(cls, name: str, weight: Tensor, across: bool, read: Read) -> Output:
        """That of the heads whose outputs were ``read``."""
        # A model may run in less than the precision of its weights; GPUs multiply float32 with fewer digits, if told.
        coarse = 5e-3 if weight.is_cuda else 1e-4
        tolerance = max(_TOLERANCE.get(one.dtype, coarse) for one in (weight, read.made))
        row, made = read.row.cpu().float(), read.made.cpu().float()
        return cls(name, weight, across, read.first, read.heads.width, row, made, tolerance, version_of(weight))

    @classmethod
    def saved(cls, name: str, weight: Tensor, width: int) -> Output:
        """That of a file, ``weight`` [D, head · width], which belongs to these heads alone."""
        given = torch.ones(weight.shape[1])
        return cls(name, weight, False, 0, width, given, weight.float() @ given, 1e-4, version_of(weight))

    @property
    def rows(self) -> Tensor:
        """The weight, [D, feature]."""
        weight = self.weight.detach()
        return weight.mT if self.across else weight

    def of_head(self, head: int) -> Tensor:
        """float32 [D, d_v]: what brings the output z of a head into the model's width."""
        start = self.first + head * self.width
        return self.rows[:, start : start + self.width].float().cpu()

    def changed(self) -> bool:
        """Whether the weight is no longer the one that the model ran with."""
        if version_of(self.weight) != self.version:
            return True
        try:
            made = (self.rows.float() @ self.given.to(self.weight.device)).cpu()
        except RuntimeError:  # its memory has been given back, as models do that hold a part of their weights at a time
            return True
        off = float((made - self.made).abs().max()) if made.shape == self.made.shape else math.inf
        return not off <= self.tolerance * float(self.made.abs().max())

    # A copy, or what a file keeps, has numbers of its own in host memory, and torch counts anew for them.

    def __getstate__(self) -> dict[str, Any]:
        version = self.version if version_of(self.weight) == self.version else -1
        own = {"weight": self.weight.detach().cpu().clone(), "version": version}
        return {one.name: own.get(one.name, getattr(self, one.name)) for one in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        version = version_of(state["weight"]) if state["version"] >= 0 else -1
        self.__dict__.update(state, version=version)


@dataclass(frozen=True, eq=False)
class Heads:
    """The outputs of the heads of one call, which wait for the projection that reads them.

    Attributes:
        at: where the call stands among those kept. owner: what it has in common with calls in other runs of the model.
        tokens: how many, in one sample. batch: how many samples. width: d_v.
        rows: [2, feature], those of :func:`_sampled` of the first sample, heads side by side.
    """

    at: int
    owner: tuple[int, str, int]
    batch: int
    tokens: int
    width: int
    rows: Tensor

    @classmethod
    def of(cls, at: int, owner: tuple[int, str, int], out: Tensor) -> Heads:
        """Of ``out`` [batch, head, token, d_v]."""
        batch, _, tokens, width = out.shape
        rows = out.detach()[0].index_select(1, torch.tensor(_sampled(tokens), device=out.device))
        return cls(at, owner, batch, tokens, width, rows.transpose(0, 1).flatten(1))


def _sampled(tokens: int) -> list[int]:
    return [tokens // 2, tokens - 1]


@dataclass(frozen=True, eq=False)
class Read:
    """That a projection reads the outputs of some heads.

    Attributes:
        heads: whose outputs. first: the first feature that is theirs.
        row: [feature], one row of what it reads. place: where in its argument that row is.
        made: [D], what it makes of that row, without its bias.
    """

    heads: Heads
    first: int
    row: Tensor
    place: tuple[int, ...]
    made: Tensor = field(default_factory=lambda: torch.empty(0))


def read_by(waiting: Sequence[Heads], x: Tensor) -> list[Read]:
    """Those whose outputs a projection of ``x`` […, feature] reads; mostly none."""
    width, x = x.shape[-1], x.detach()  # looking at it leaves nothing behind for a backward pass
    for one in reversed(waiting):
        if one.rows.shape[1] == width and (place := _place(x, one.rows, one)):
            return [Read(one, 0, one.rows[-1], place)]
    # Several images in one run of a module come one after the other …
    start, after = 0, []
    for one in waiting:
        if one.rows.shape[1] != width or not (place := _place(x, one.rows, one, start)):
            break
        after.append(Read(one, 0, one.rows[-1], place))
        start += one.batch * one.tokens
    else:
        return after
    # … and heads that are modules of their own side by side.
    firsts = [0, *itertools.accumulate(one.rows.shape[1] for one in waiting)]
    first = firsts[-1] - width
    if first in firsts:
        beside = [(one, at - first) for one, at in zip(waiting, firsts, strict=False) if at >= first]
        if len({(one.batch, one.tokens) for one, _ in beside}) == 1:
            rows = torch.cat([one.rows for one, _ in beside], 1)
            if place := _place(x, rows, beside[0][0]):
                return [Read(one, at, rows[-1], place) for one, at in beside]
    return []


def _place(x: Tensor, rows: Tensor, of: Heads, start: int = 0) -> tuple[int, ...]:
    """Where ``x`` has the last of these rows, if it has them where the tokens belong; its batch may be either axis."""
    at = [start + token for token in _sampled(of.tokens)]
    batch_first = x if x.dim() == 2 else x[0].flatten(0, -2)
    if len(batch_first) > at[-1] and torch.equal(batch_first[at], rows.to(x.dtype)):
        return (at[-1],) if x.dim() == 2 else (0, *(int(i) for i in np.unravel_index(at[-1], x.shape[1:-1])))
    if of.batch == 1:
        return ()
    at = [token * of.batch for token in at] if x.dim() == 2 else at
    tokens_first = x if x.dim() == 2 else x[:, 0] if x.dim() == 3 else x[:0]
    if len(tokens_first) > at[-1] and torch.equal(tokens_first[at], rows.to(x.dtype)):
        return (at[-1], 0)[: x.dim() - 1]
    return ()


def version_of(tensor: Tensor) -> int:
    """How often it has been written to, as far as torch counts."""
    return 0 if tensor.is_inference() else tensor._version
