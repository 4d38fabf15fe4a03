"""A run of a model with what one number that came out of it owes to every edge: one forward, one backward.

The output z_i = Σ_j p_ij v_j of a head gets a leaf of zeros added, whose gradient g_i = ∂y/∂z_i is that of z. From it
follow the gradients of all weights without any n × n numbers: ∂y/∂p_ij = g_i · v_j. To first order an edge then adds

    e_ij = p_ij · g_i · v_j

to y (attribution patching, Nanda 2023; gradient × attention). Cutting it takes that away. Cutting it and renormalising
the row puts the others in its place, z' = (z − p_ij v_j) / (1 − p_ij), which changes y by

    (p_ij Σ_k e_ik − e_ij) / (1 − p_ij)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, NoReturn, TypeAlias

import torch
from torch import Tensor, nn

from .attention import Attention
from .capture import Recorder, evaluating, made_of, refuse_misspelt
from .chosen import within
from .inputs import Given, Inputs, given_to, unwrapped
from .interface import Change, changing
from .layers import Layer, Part
from .maps import Computed
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
        calls: pairs (part, layer), in the order in which they ran.
    """

    def __init__(
        self, attention: Attention, objective: Objective, value: float, model: nn.Module, given: Given,
        logits: Tensor | None = None, tokenizer: Any = None, calls: Sequence[tuple[str, int]] = (),
    ) -> None:  # fmt: skip
        self.attention, self.objective, self.value = attention, objective, value
        self.model, self.given, self.logits, self.tokenizer = model, given, logits, tokenizer
        self.calls = tuple(calls)
        self._sound: list[tuple[int, int]] | None = None  # the weights with which the model still did the same

    def save(self, path: object, **_: object) -> NoReturn:
        """Refused: what it can do needs the model. Save its attention."""
        raise TypeError(
            "What a trace can do needs its model, which no file holds: save the attention, trace.attention.save(path), "
            "and trace(model, text, tokenizer, …) again for effects."
        )

    def run(self) -> Any:
        """What the model puts out, run again as it is now, in evaluation mode and without gradients."""
        with evaluating(self.model), torch.no_grad():
            return self.model(*self.given.args, **self.given.kwargs)

    @property
    def tolerance(self) -> float:
        """What rounding in the model's own precision explains of the objective, or nearly: kernels differ by it."""
        dtype = next((one.dtype for one in self.model.parameters() if one.is_floating_point()), torch.float32)
        largest = max(1.0, abs(self.value), *([] if self.logits is None else [float(self.logits.abs().max())]))
        return largest * max(torch.finfo(dtype).eps, 1e-6) * 32

    def checked(self) -> float:
        """The objective of the model as it is now: it runs once more.

        Raises:
            ValueError: it is another than in the trace.
        """
        now = float(self.objective.of(self.run()))
        if not abs(now - self.value) <= self.tolerance:
            raise ValueError(
                f"{self.objective.words} was {self.value:.6g} in the trace and is {now:.6g} now: the model, or what it "
                "was given, is another. Trace it again."
            )
        return now

    def refuse_changed(self) -> None:
        """:meth:`checked`, unless that was done with these weights, and nobody is open who changes what the model does.

        Raises:
            ValueError: the model does something else than in the trace.
        """
        weights = [(id(one), one._version) for one in self.model.parameters()]
        if changing() or self._sound != weights:
            self.checked()
            self._sound = None if changing() else weights

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
            heads: pairs (layer, head) in place of the two, each counted once.
            cut: by how much the objective changes instead if the edge is cut: its weight set to "zero", or
                "knock-out": masked, so that the rest of its row takes its place.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: the layer has no gradient; ``heads``
                is empty.
        """
        of = self.attention.part(part)

        def of_layer(at: int, head: int | None) -> list[tuple[int, int]]:
            at = within(at, len(of.layers), "layer", of.name)
            has = of.layers[at].heads
            return [(at, h) for h in (range(has) if head is None else [within(head, has, "head", f"layer {at}")])]

        if heads is None:
            layers = range(len(of.layers)) if layer is None else [layer]
            pairs = [pair for at in layers if layer is not None or of.layers[at].heads for pair in of_layer(at, head)]
        else:
            pairs = list(dict.fromkeys(pair for at, h in heads for pair in of_layer(at, h)))
            if not pairs:
                raise ValueError("heads is empty; name at least one pair (layer, head), or leave it out.")
        return Effects(self.attention, of, pairs, cut)

    def reaches(self, part: str | None = None) -> list[Tensor]:
        """bool [head, query] of each layer: False where nothing that the head puts out there can reach the objective.

        There the gradient is exactly zero: no path leads from it to the number that is explained, as from the last
        layer's other tokens; or every path ends at a unit that is off, or below what the model's precision can hold.

        Raises:
            KeyError: no such part. ValueError: a layer has no gradient.
        """
        of = self.attention.part(part)
        sample = self.attention.sample_in(of)
        return [
            (gradient_of(layer)[sample % layer.shape[0]] != 0).any(-1)
            if layer.heads
            else torch.empty(0, layer.shape[2], dtype=torch.bool)
            for layer in of.layers
        ]

    def __repr__(self) -> str:
        return f"<Trace: {self.objective.words} = {self.value:.4g}, of {self.attention!r}>"


def attention_of(run: Attention | Trace) -> Attention:
    """The attention itself."""
    return run.attention if isinstance(run, Trace) else run


def gradient_of(layer: Layer) -> Tensor:
    """float32 [batch, head, query, d_v].

    Raises:
        ValueError: there is none.
    """
    if layer.gradient is None or layer.v is None:
        raise ValueError(
            f"{layer.name} has no gradient: its output {layer.why['gradient']}."
            if "gradient" in layer.why
            else f"{layer.name} has no gradient and values: trace(model, text, tokenizer) keeps them. A softmax that "
            "multiplies its values with einsum, or changes its weights first, shows none; nor does what ran without "
            "gradients, or before something that did."
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
            p, lse = layer.block(sample, head, rows)
            e = p * slopes(layer, sample, head, rows)
            if self.cut == "zero":
                e = -e
            elif self.cut == "knock-out":
                e = _knocked_out(p, e, _leak(layer, sample, head, rows, p, lse))
            total += e
        return total

    def __repr__(self) -> str:
        return f"<Effects of {len(self.heads)} heads of {self.part.name}: {self.shape[0]} × {self.shape[1]}>"


def _leak(layer: Layer, sample: int, head: int, rows: Tensor, p: Tensor, lse: Tensor) -> Tensor:
    """Weight of rows ``p`` [row, key] that goes to no key, [row, 1]."""
    if layer.sink is not None:
        sink = layer.sink[sample % len(layer.sink), head].float()
        return torch.exp((sink[rows] if len(sink) > 1 else sink) - lse)[:, None]
    missing = 1 - p.sum(1, keepdim=True)
    return torch.where(missing > 1e-5, missing, 0.0)  # less is rounding


def _knocked_out(p: Tensor, e: Tensor, leak: Tensor) -> Tensor:
    """What masking each entry of rows ``p`` [row, key] changes, to first order, given what each adds.

    What is left of a row beside its largest entry may be less than float32 tells 1 from, so it is added up by itself.
    """
    top = p.argmax(1, keepdim=True)

    def others(x: Tensor) -> Tensor:
        beside = x.scatter(1, top, 0.0).sum(1, keepdim=True)
        return (x.sum(1, keepdim=True) - x).scatter(1, top, beside)

    left = others(p) + leak
    # A token that attends to nothing else has nothing to put in its place: the head falls silent there.
    return torch.where(left > 0, p * others(e) / left.masked_fill(left <= 0, 1.0) - e, -e)


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
    refuse_misspelt(model, forward, trace)
    if isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], (str, tuple)):
        inputs = inputs[0]
    decodes = bool(forward.keys() & {"decoder_input_ids", "decoder_inputs_embeds", "labels"})
    with torch.inference_mode(False), evaluating(model), torch.enable_grad():
        given = given_to(model, inputs, tokenizer, target=target, truncate=truncate, decodes=decodes)
        kwargs = {name: _differentiable(one) for name, one in {**given.kwargs, **forward}.items()}
        given = replace(given, args=tuple(map(_differentiable, given.args)), kwargs=kwargs)
        if any(one.is_inference() for one in model.parameters()):
            raise ValueError(
                "The model was made under torch.inference_mode(), and torch computes no gradients through its weights: "
                "load it outside."
            )
        recorder = _Tracer(model, tokenizer, dtype=dtype)
        recorder.texts, recorder.targets = given.texts, given.targets
        recorder.made = made_of(
            "trace", inputs, tokenizer, objective=objective, position=position, target=target,
            truncate=truncate or None, dtype=dtype, **forward,
        )  # fmt: skip
        return _traced(model, given, recorder, objective, position)


def _traced(model: nn.Module, given: Given, recorder: _Tracer, objective: Any, position: int | None) -> Trace:
    with recorder:
        output = model(*given.args, **given.kwargs)
        told = recorder.inputs
        if told.batch != 1:
            raise ValueError(f"Here are {told.batch} texts or images, and one number is to be explained: trace one.")
        decoded = told.decoded is not None
        found = Objective.resolved(
            objective, output, position=position, tokenizer=recorder.tokenizer,
            config=getattr(unwrapped(model), "config", None),
            ids=told.decoded if decoded else told.read, causal=decoded or recorder.is_causal,
            keep=told.keep_decoded if decoded else told.keep,
        )  # fmt: skip
        value = found.scalar(output)
        recorder.backward(value, found.words)
    logits = None
    if found.ids:
        every = logits_of(output).detach().float().cpu()[0]
        logits = every if found.position is None else every[found.position]
    attention = recorder.attention
    calls = recorder.in_order(attention)
    return Trace(attention, found, float(value.detach()), model, given, logits, recorder.tokenizer, calls)


def _differentiable(value: Any) -> Any:
    """What was made under torch.inference_mode() cannot be kept for a backward pass; a copy can."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


_BLIND = (
    "ran without gradients, under torch.no_grad() or checkpointing with use_reentrant=True: what the objective owes to "
    "it, and to what ran before it, is not known"
)


_OVERWRITTEN = (
    "is not what its weights and values come to, since an intervention that is open put something else there: what the "
    "objective owes to them is not known"
)


class _Tracer(Recorder):
    """A recorder that adds zeros to what every call puts out, to have their gradient."""

    def __init__(self, model: nn.Module, tokenizer: Any, dtype: torch.dtype | None) -> None:
        super().__init__(model, tokenizer, dtype=dtype, keep_values=True)
        self._zeros: Tensor | None = None  # those of the call that is being heard
        self._before: Tensor | None = None  # what it put out, before they were added
        self._leaves: list[tuple[int, Tensor]] = []  # place among the calls that are kept, zeros
        self._blind = 0  # how many calls have run, up to the last one without gradients

    def change(self, call: Call) -> Change:
        def apply(out: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                self._blind = len(self._run.kept) + 1
                self.remark(call.name, _BLIND)
                return out
            self._zeros, self._before = torch.zeros_like(out, requires_grad=True), out.detach()
            return out + self._zeros

        return Change(apply)

    def add(self, taken: Kept, call: Call, out: Tensor | None) -> None:
        super().add(taken, call, out)
        zeros, before = self._zeros, self._before
        self._zeros = self._before = None
        if zeros is None:
            return
        at = len(self._run.kept) - 1
        self._leaves.append((at, zeros))
        if out is not None and before is not None and not _same(out.detach(), before):
            # Others changed it before the zeros were added, by something else than other weights or values.
            self.remark(call.name, _OVERWRITTEN)
            layer = self._run.kept[at].layer
            self._run.kept[at] = replace(taken, layer=replace(layer, why={**layer.why, "gradient": _OVERWRITTEN}))

    @property
    def is_causal(self) -> bool:
        """Whether there is a text of which each token is told by those before it."""
        return any(one.layer.mask.is_causal for one in self._run.kept)

    def in_order(self, attention: Attention) -> list[tuple[str, int]]:
        """Pairs (part, layer), as they ran."""
        ran = {id(one.layer.gradient): at for at, one in enumerate(self._run.kept)}
        parts = [attention.part(name) for name in attention.parts]
        every = [(part.name, at, layer) for part in parts for at, layer in enumerate(part.layers) if layer.heads]
        every.sort(key=lambda one: ran.get(id(one[2].gradient), 0))  # heads that were joined keep their own order
        return [(name, at) for name, at, _ in every]

    @property
    def inputs(self) -> Inputs:
        """What the run was given."""
        return self._run.inputs

    def end(self) -> None:
        """One run is all there is: what comes after it belongs to it."""

    def backward(self, value: Tensor, words: str) -> None:
        """Put the gradient of ``value`` into every layer that was heard."""
        if not value.requires_grad:
            raise ValueError(_independent(words))
        if not self._leaves:
            raise ValueError(f"All of the attention {_BLIND}.")
        found = torch.autograd.grad(value, [zeros for _, zeros in self._leaves], allow_unused=True)
        if all(gradient is None for gradient in found):
            raise ValueError(_independent(words))
        kept = self._run.kept
        for (at, zeros), gradient in zip(self._leaves, found, strict=True):
            if at < self._blind or "gradient" in kept[at].layer.why:
                continue
            gradient = torch.zeros_like(zeros) if gradient is None else gradient
            kept[at] = replace(kept[at], layer=replace(kept[at].layer, gradient=gradient.detach().float().cpu()))
        self._leaves.clear()


def _independent(words: str) -> str:
    return (
        f"The objective, {words}, does not depend on any attention in a way that torch can differentiate: it was "
        "detached, computed without gradients, or read from something else."
    )


def _same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, NaN included."""
    return a.data_ptr() == b.data_ptr() or torch.equal(a.nan_to_num(), b.nan_to_num())
