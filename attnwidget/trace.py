"""A run of a model with what one number that came out of it owes to every edge: one forward, one backward.

The output z_i = Σ_j p_ij v_j of a head gets a leaf of zeros added, whose gradient g_i = ∂y/∂z_i is that of z. From it
follow the gradients of all weights without any n × n numbers: ∂y/∂p_ij = g_i · v_j. To first order an edge then adds

    e_ij = p_ij · g_i · v_j

to y (attribution patching, Nanda 2023; gradient × attention). Cutting it takes that away. Cutting it and renormalising
the row puts the others in its place, z' = (z − p_ij v_j) / (1 − p_ij), which changes y by

    (p_ij Σ_k e_ik − e_ij) / (1 − p_ij)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .attention import Attention
from .capture import Recorder, evaluating
from .inputs import Given, Inputs, given_to, unwrapped
from .layers import Layer, Part
from .listen import Change
from .maps import Computed, within
from .masks import on_host
from .objective import Objective, logits_of
from .parts import Call, Kept

Cut: TypeAlias = Literal["zero", "knock-out"]


class Trace:
    """One text through a model, and what one number that came out owes to each head and edge, to first order.

    What :func:`trace` returns. It keeps the model and what it was given, so that it can run again.

    Attributes:
        attention: of the run, with values, and the gradient in each of its layers.
        objective: the number that is explained. value: what it was.
        model: as it was given. given: what its forward was given.
        logits: float32 [vocabulary or class], those that the objective is of; None where it is of none.
    """

    def __init__(
        self, attention: Attention, objective: Objective, value: float, model: nn.Module, given: Given,
        logits: Tensor | None = None, tokenizer: Any = None,
    ) -> None:  # fmt: skip
        self.attention, self.objective, self.value = attention, objective, value
        self.model, self.given, self.logits, self.tokenizer = model, given, logits, tokenizer

    def run(self) -> Any:
        """What the model puts out, run again as it is now, in evaluation mode and without gradients."""
        with evaluating(self.model), torch.no_grad():
            return self.model(*self.given.args, **self.given.kwargs)

    def effects(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        part: str | None = None,
        heads: Collection[tuple[int, int]] | None = None,
        cut: Cut | None = None,
    ) -> Effects:
        """What each edge adds to the objective, to first order: a map [query, key], in the objective's units, signed.

        Args:
            layer, head: which head; None adds up over that axis, as effects do to first order.
            heads: pairs (layer, head) in place of the two.
            cut: by how much the objective changes instead if the edge is cut: its weight set to "zero", or
                "knock-out": masked, so that the rest of its row takes its place.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: the layer has no gradient.
        """
        of = self.attention.part(part)

        def of_layer(at: int, head: int | None) -> list[tuple[int, int]]:
            at = within(at, len(of.layers), "layer", of.name)
            has = of.layers[at].heads
            return [(at, h) for h in (range(has) if head is None else [within(head, has, "head", f"layer {at}")])]

        if heads is None:
            layers = range(len(of.layers)) if layer is None else [layer]
            pairs = [pair for at in layers if of.layers[at].heads for pair in of_layer(at, head)]
        else:
            pairs = [pair for at, h in heads for pair in of_layer(at, h)]
        return Effects(self.attention, of, pairs, cut)

    def reaches(self, part: str | None = None) -> list[Tensor]:
        """bool [head, query] of each layer: False where nothing that the head puts out there can reach the objective.

        There the gradient is exactly zero: no path leads from it to the number that is explained, as from the last
        layer's other tokens.
        """
        of = self.attention.part(part)
        sample = self.attention.sample_in(of)
        return [
            (gradient_of(layer)[sample % layer.shape[0]] != 0).any(-1)
            if layer.heads
            else torch.empty(0, layer.shape[2])
            for layer in of.layers
        ]

    def __repr__(self) -> str:
        return f"<Trace: {self.objective.words} = {self.value:.4g}, of {self.attention!r}>"


def gradient_of(layer: Layer) -> Tensor:
    """float32 [batch, head, query, d_v].

    Raises:
        ValueError: there is none.
    """
    if layer.gradient is None or layer.v is None:
        raise ValueError(
            f"{layer.name} has no gradient and values: trace(model, text, tokenizer) keeps them. A softmax that "
            "multiplies its values with einsum, or changes its weights first, shows none."
        )
    return layer.gradient


class Effects(Computed):
    """What edges add to an objective, or what cutting each changes, to first order: computed when somebody looks.

    Rows, columns and tiles as in a :class:`~attnwidget.attention.Map`, signed, in the units of the objective.
    """

    def __init__(self, attention: Attention, part: Part, heads: Collection[tuple[int, int]], cut: Cut | None) -> None:
        if cut not in (None, "zero", "knock-out"):
            raise ValueError(f"cut is {cut!r}; it may be 'zero' or 'knock-out'.")
        self.part, self.heads, self.cut = part, tuple(heads), cut
        self.queries, self.keys, self._where = part.queries, part.keys, part.name
        self._sample = attention.sample_in(part)
        for at in {at for at, _ in self.heads}:
            gradient_of(part.layers[at])

    @on_host
    def _rows(self, rows: Tensor) -> Tensor:
        total = torch.zeros(len(rows), self.shape[1])
        for at, head in self.heads:
            layer = self.part.layers[at]
            sample = self._sample % layer.shape[0]
            p = layer.block(sample, head, rows)[0]
            e = p * slopes(layer, sample, head, rows)
            if self.cut == "zero":
                e = -e
            elif self.cut == "knock-out":
                # A token that attends to nothing else has nothing to put in its place: the head falls silent there.
                e = torch.where(p < 1, (p * e.sum(1, keepdim=True) - e) / (1 - p).clamp_min(1e-12), -e)
            total += e
        return total

    def __repr__(self) -> str:
        return f"<Effects of {len(self.heads)} heads of {self.part.name}: {self.shape[0]} × {self.shape[1]}>"


def slopes(layer: Layer, sample: int, head: int, rows: Tensor) -> Tensor:
    """∂y/∂p of some rows of a head, g_i · v_j: float32 [row, key]."""
    assert layer.v is not None
    v = layer.v[sample % len(layer.v), head * layer.v.shape[1] // layer.heads].float()
    return gradient_of(layer)[sample, head, rows] @ v.mT


def trace(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    objective: Any = None,
    position: int | None = None,
    target: str | None = None,
    truncate: bool = False,
    dtype: torch.dtype | None = None,
    **forward: Any,
) -> Trace:
    """Run ``model`` once forward and once backward, and keep the attention with what an output owes to it.

    The model runs as it is, with its own attention implementation, in evaluation mode; none of its weights gets a
    gradient, and none is changed.

    Args:
        model, inputs, tokenizer, target, truncate, dtype, **forward: as for :func:`~attnwidget.capture`; one text or
            image.
        objective: what is explained: a token or a class (" mat", 17, "POSITIVE") for its logit; a pair of them for the
            difference of two logits; "loss" for the mean cross-entropy of the text; a function of the model's output
            that returns one number. The largest logit unless given.
        position: the token whose logits are meant, negative from the end; the last one, or the masked one, unless
            given.

    Raises:
        ValueError: several texts; no such token, class or position; an objective that gradients cannot explain; and
            as :func:`~attnwidget.capture`.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    >>> run.objective.words
    "the logit of ' mat' at token 12"
    >>> run.effects(1, 0).shape
    (13, 13)
    """
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], (str, tuple)):
        inputs = inputs[0]
    decodes = bool(forward.keys() & {"decoder_input_ids", "decoder_inputs_embeds", "labels"})
    given = given_to(model, inputs, tokenizer, target=target, truncate=truncate, decodes=decodes)
    given = replace(given, kwargs={**given.kwargs, **forward})
    recorder = _Tracer(model, tokenizer, dtype=dtype)
    recorder.texts, recorder.targets = given.texts, given.targets
    with evaluating(model), torch.enable_grad(), recorder:
        output = model(*given.args, **given.kwargs)
        told = recorder.inputs
        if told.batch != 1:
            raise ValueError(f"Here are {told.batch} texts or images, and one number is to be explained: trace one.")
        decoded = told.decoded is not None
        found = Objective.resolved(
            objective, output, position=position, tokenizer=recorder.tokenizer,
            config=getattr(unwrapped(model), "config", None), ids=told.decoded if decoded else told.read,
            keep=told.keep_decoded if decoded else told.keep,
        )  # fmt: skip
        value = found.scalar(output)
        recorder.backward(value, found.words)
    logits = None
    if found.ids:
        every = logits_of(output).detach().float().cpu()[0]
        logits = every if found.position is None else every[found.position]
    return Trace(recorder.attention, found, float(value.detach()), model, given, logits, recorder.tokenizer)


class _Tracer(Recorder):
    """A recorder that adds zeros to what every call puts out, to have their gradient."""

    def __init__(self, model: nn.Module, tokenizer: Any, dtype: torch.dtype | None) -> None:
        super().__init__(model, tokenizer, dtype=dtype, keep_values=True)
        self._zeros: Tensor | None = None  # those of the call that is being heard
        self._leaves: list[tuple[int, Tensor]] = []  # place among the calls that are kept, zeros

    def change(self, call: Call) -> Change:
        def apply(out: Tensor) -> Tensor:
            self._zeros = torch.zeros_like(out, requires_grad=True)
            return out + self._zeros

        return Change(apply)

    def add(self, taken: Kept, call: Call, out: Tensor | None) -> None:
        super().add(taken, call, out)
        if self._zeros is not None:
            self._leaves.append((len(self._run.kept) - 1, self._zeros))
            self._zeros = None

    @property
    def inputs(self) -> Inputs:
        """What the run was given."""
        return self._run.inputs

    def end(self) -> None:
        """One run is all there is: what comes after it belongs to it."""

    def backward(self, value: Tensor, words: str) -> None:
        """Put the gradient of ``value`` into every layer that was heard."""
        if not value.requires_grad:
            raise ValueError(
                f"The objective, {words}, does not depend on any attention in a way that torch can differentiate: it "
                "was detached, computed without gradients, or read from something else."
            )
        found = torch.autograd.grad(value, [zeros for _, zeros in self._leaves], allow_unused=True)
        kept = self._run.kept
        for (at, zeros), gradient in zip(self._leaves, found, strict=True):
            gradient = torch.zeros_like(zeros) if gradient is None else gradient
            kept[at] = replace(kept[at], layer=replace(kept[at].layer, gradient=gradient.detach().float().cpu()))
        self._leaves.clear()
