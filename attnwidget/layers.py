"""What a model's attention consists of: layers, each one attention call, and the parts that share their axes.

An attention matrix has n × n entries a head; the queries and keys that determine it have n × d. What is kept here is

    s_ij = softcap · tanh(q_i · k_j · scale / softcap) + bias_ij        where query i may attend to key j
    p_ij = exp(s_ij − lse_i),    lse_i = log(Σ_j exp(s_ij) + exp(sink_i))

with the mask and the bias as rules of O(n) numbers wherever they have such a form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .alone import Head
from .masks import Bias, Mask, on_host, row_blocks
from .output import Output
from .rotary import UNEXPLAINED, Rotary, Turned, fitted
from .shown import PartOf


def shape_of(q: Tensor | None, k: Tensor | None, weights: Tensor | None) -> tuple[int, int, int, int]:
    """(batch, head, query, key) of weights, or of the queries and keys that determine them."""
    if weights is not None:
        batch, heads, queries, keys = weights.shape
        return batch, heads, queries, keys
    assert q is not None and k is not None
    return q.shape[0], q.shape[1], q.shape[2], k.shape[2]


@dataclass(frozen=True, eq=False)
class Layer:
    """What one attention module computed in one call: Q and K and the rules, or weights as they are.

    Attributes:
        name: the module's qualified name in the model.
        q: [batch, head, query, d], after rotary embedding and normalisation.
        k: [batch, kv_head, key, d]; kv_head divides head (grouped-query attention).
        v: [batch, kv_head, key, d_v], where it was asked for.
        scale: multiplies q · k.
        softcap: bound c of c · tanh(s / c), or None.
        sink: logits that take weight without being a key, [batch or 1, head, query or 1]; rows then sum to less than 1.
        weights: [batch, head, query, key] in place of q and k.
        gradient: float32 [batch, head, query, d_v], of one number that came out of the model with respect to what each
            head put out, where :func:`~attnwidget.trace` asked for it.
        absent: why there is no attention at this place of the model, or none that was kept; such a layer has no heads.
        turned: what tells how positions turned q and k (see :attr:`rotary`). known: how they did, out of a file.
        output: the projection that brings the heads back together; its weight is the model's own and no copy.
        why: what could not be had of this layer ("output", "positions"), and why, in words.
    """

    name: str
    mask: Mask
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    bias: Bias | None = None
    sink: Tensor | None = None
    weights: Tensor | None = None
    gradient: Tensor | None = None
    absent: str | None = None
    turned: tuple[Turned, ...] = ()
    known: tuple[Rotary, Rotary] | None = None
    output: Output | None = None
    why: Mapping[str, str] = field(default_factory=dict)
    _norms: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.q is None or self.k is None):
            raise ValueError("A layer holds either q and k, or weights.")

    @classmethod
    def gap(cls, name: str, absent: str, queries: int, keys: int) -> Layer:
        """A place in the model without attention: it keeps the numbers of the layers after it the model's own."""
        return cls(name, Mask.full(queries, keys), weights=torch.empty(1, 0, queries, keys), absent=absent)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        return shape_of(self.q, self.k, self.weights)

    @property
    def heads(self) -> int:
        return self.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.heads if self.k is None else self.k.shape[1]

    @cached_property
    def rotary(self) -> tuple[Rotary, Rotary] | None:
        """How positions turned the queries and the keys, found and verified when it is first asked for."""
        if self.q is None or self.k is None or not self.turned:
            return self.known
        q, k = fitted(self.turned, self.q[0]), fitted(self.turned, self.k[0])
        # Keys out of a cache were turned when they came: what turned the new ones says nothing of them.
        return (q, k) if q is not None and k is not None and q.before == k.before else None

    def of_head(self, sample: int, head: int) -> Layer:
        """The same layer with that head and sample only, in float32."""
        sample %= self.shape[0]

        def of(values: Tensor, head: int | None = None) -> Tensor:
            chosen = values[sample % len(values)]
            return chosen[None] if head is None else chosen[head % len(chosen)][None, None]

        def number(values: Tensor | None, head: int) -> Tensor | None:
            return None if values is None else of(values, head).float()

        kv_head = head * self.kv_heads // self.heads
        v_head = kv_head if self.v is None else head * self.v.shape[1] // self.heads
        mask, bias = self.mask, self.bias
        return replace(
            self,
            mask=Mask(
                of(mask.start), of(mask.stop), of(mask.keep), None if mask.dense is None else of(mask.dense, head)
            ),
            q=number(self.q, head),
            k=number(self.k, kv_head),
            v=number(self.v, v_head),
            weights=number(self.weights, head),
            gradient=number(self.gradient, head),
            bias=None
            if bias is None
            else replace(bias, offsets=number(bias.offsets, head), dense=number(bias.dense, head)),
            sink=number(self.sink, head),
        )

    @on_host
    def alone(self, sample: int, head: int) -> Head:
        """What there is of that head and sample, as arrays."""
        one, sample = self.of_head(sample, head), sample % self.shape[0]

        def array(values: Tensor | None) -> NDArray[np.float32] | None:
            return None if values is None else values[0, 0].numpy()

        plain, rotary = None, self.rotary
        if rotary is not None and one.q is not None and one.k is not None:
            plain = rotary[0].undone(one.q[0, 0], sample).numpy(), rotary[1].undone(one.k[0, 0], sample).numpy()
        output, why = self.output_of(head)
        bias = one.bias or Bias()
        return Head(
            name=self.name, kv_head=head * self.kv_heads // self.heads, scale=self.scale, softcap=self.softcap,
            mask={name: values.numpy() for name, values in one.mask.arrays().items()},
            q=array(one.q), k=array(one.k), v=array(one.v), weights=array(one.weights), sink=array(one.sink),
            offsets=array(bias.offsets), dense=array(bias.dense), positional=bias.positional,
            plain=plain, pairs="" if rotary is None else rotary[0].pairs,
            width=0 if rotary is None else rotary[0].width,
            output=None if output is None else output.numpy(),
            output_name=None if self.output is None else self.output.name,
            why={**self.why, **({"positions": UNEXPLAINED} if self.turned else {}), **why},
        )  # fmt: skip

    def output_of(self, head: int) -> tuple[Tensor | None, dict[str, str]]:
        """The head's slice of the output projection, [D, d_v], or why there is none."""
        found = self.output
        if found is None:
            return None, {}
        if self.v is not None and self.v.shape[3] != found.width:
            words = f"The values are {self.v.shape[3]} wide, and {found.name} reads {found.width} of each head."
            return None, {"output": words}
        if found.changed():
            return None, {"output": f"The weight of {found.name} has changed since this was captured."}
        return found.of_head(head), {}

    @property
    def nbytes(self) -> int:
        held = (self.q, self.k, self.v, self.weights, self.gradient, self.mask.dense, self.bias and self.bias.dense)
        return sum(t.numel() * t.element_size() for t in held if isinstance(t, Tensor))

    def logits(self, sample: int, head: int | None, rows: Tensor) -> Tensor:
        """Scores s, −inf where masked: float32 [row, key], or [head, row, key] where ``head`` is None."""
        assert self.q is not None and self.k is not None
        groups = self.heads // self.kv_heads
        if head is None:
            # Query heads that share keys stand below each other, so that no key is copied: [kv_head, group · row, d].
            q = self.q[sample][:, rows].float().reshape(self.kv_heads, groups * len(rows), -1)
            s = (q @ self.k[sample].float().mT).reshape(self.heads, len(rows), -1)
        else:
            s = self.q[sample, head][rows].float() @ self.k[sample, head // groups].float().mT
        s *= self.scale
        if self.softcap is not None:
            s = torch.tanh(s / self.softcap) * self.softcap
        if self.bias is not None:
            s = s + self.bias.block(sample, rows, self.shape[3], head)
        if not self.mask.is_full:
            s = s.masked_fill_(~self.mask.allowed(sample, rows, head), -torch.inf)
        return s

    def block(self, sample: int, head: int | None, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of whole rows and their log-sum-exp: [row, key], [row]; one axis more where ``head`` is None."""
        if self.weights is not None:
            p = self.weights[sample][:, rows] if head is None else self.weights[sample, head][rows]
            return p.float(), p.new_zeros(p.shape[:-1], dtype=torch.float32)
        s = self.logits(sample, head, rows)
        top = s.amax(-1)
        sink = self._sink(sample, head, rows)
        if sink is not None:
            top = torch.maximum(top, sink)
        # A row without any key has −inf everywhere; any finite top makes its weights exp(−inf) = 0 instead of NaN.
        top = top.masked_fill(top == -torch.inf, 0.0)
        e = s.sub_(top[..., None]).exp_()  # in place: a block is as large as memory allows
        total = e.sum(-1)
        if sink is not None:
            total = total + torch.exp(sink - top)
        lse = top + torch.log(total)
        return e.div_(total.masked_fill(total == 0, 1.0)[..., None]), lse

    def lse(self, sample: int, head: int) -> Tensor:
        """Log-sum-exp of every query's scores, sink included: float32 [query], computed once and kept."""
        if (sample, head) not in self._norms:
            every = row_blocks(torch.arange(self.shape[2]), self.shape[3])
            found = [self.block(sample, head, rows)[1] for rows in every]
            self._norms[sample, head] = torch.cat(found)
        return self._norms[sample, head]

    def tile(self, sample: int, head: int, rows: Tensor, cols: Tensor) -> Tensor:
        """float32 [row, col] without computing the rest of the rows (given :meth:`lse`)."""
        if self.weights is not None:
            return self.weights[sample, head][rows[:, None], cols].float()
        assert self.k is not None
        if len(cols) * 2 >= self.shape[3]:
            # Most of the rows is wanted: whole rows cost hardly more, and need no norms.
            return self.block(sample, head, rows)[0][:, cols]
        bias = None if self.bias is None else self.bias.columns(cols, self.shape[2])
        part = replace(self, k=self.k[:, :, cols], mask=self.mask.columns(cols), bias=bias)
        lse = self.lse(sample, head)[rows, None]
        # Rows without any key: −inf − 0, so that their weights are exp(−inf) = 0 instead of NaN.
        return torch.exp(part.logits(sample, head, rows) - lse.masked_fill(lse == -torch.inf, 0.0))

    def _sink(self, sample: int, head: int | None, rows: Tensor) -> Tensor | None:
        if self.sink is None:
            return None
        of_sample = self.sink[sample % self.sink.shape[0]].float()
        of_rows = of_sample[:, rows] if of_sample.shape[1] > 1 else of_sample.expand(-1, len(rows))
        return of_rows if head is None else of_rows[head]


class Part(PartOf[Layer]):
    """Layers that share their axes, of an :class:`~attnwidget.Attention`."""
