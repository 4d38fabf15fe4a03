"""Which heads a model can do without: how important each is, what its loss becomes without them, and a model that has.

The gate of a head is a factor ξ = 1 of what it puts out. The slope of the loss in it,

    ∂L/∂ξ_h = Σ_i z_i · g_i        with g_i = ∂L/∂z_i,

says to first order what removing the head costs; its size, averaged over texts, is the importance of Michel, Levy and
Neubig 2019 (Are Sixteen Heads Really Better than One?, equation 2).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .attention import Attention
from .copies import changes, refuse_long
from .inputs import unwrapped
from .intervene import ablate
from .layers import Layer
from .masks import on_host, row_blocks
from .trace import Trace, gradient_of, trace

Head: TypeAlias = tuple[int, int]


def importance(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    objective: Any = "loss",
    part: str | None = None,
    exact: bool = False,
    normalise: bool = False,
    progress: bool = True,
    **forward: Any,
) -> Tensor:
    """How much an objective depends on each head: float32 [layer, head], in its units; NaN where there is no head.

    Args:
        model, inputs, tokenizer: as for :func:`~attnwidget.trace`; or a list of inputs, over which it is averaged.
        objective: as for :func:`~attnwidget.trace`; the mean cross-entropy of the text unless given.
        part: which part of the model; the first unless given.
        exact: by how much the objective rises if the head puts out zeros, signed, found by running the model without
            it; in place of the size of the slope in the head's gate, which takes one forward and one backward.
        normalise: divide each layer by the root of its sum of squares, as Michel et al. do before they compare layers.
        progress: a bar where it takes longer than a second.
        **forward: as for :func:`~attnwidget.trace`, ``position`` and ``target`` included.

    Raises:
        ValueError: an empty list; more exact runs than an hour has room for; and as :func:`~attnwidget.trace`.
        KeyError: no such part.

    >>> from attnwidget import tiny
    >>> model, tokenizer = tiny.decoder()
    >>> found = importance(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    >>> found.shape, divmod(int(found.argmax()), 4)[0]
    (torch.Size([4, 4]), 0)
    """
    texts = _each(inputs)
    found: list[Tensor] = []
    with tqdm(total=len(texts), desc="importance", unit="text", delay=1.0, leave=False, disable=not progress) as bar:
        for one in texts:
            run = trace(model, one, tokenizer, objective=objective, **forward)
            if exact and not found:
                count = len(_heads(run.attention, part))
                instead = "Give fewer texts, or leave exact=True out: the slopes take one forward and one backward."
                refuse_long("importance", [run], part, count, instead, len(texts))
            found.append(_exact(run, part, progress) if exact else gates(run, part).abs())
            bar.update()
    mean = torch.stack(found).mean(0)
    if normalise:
        mean = mean / mean.square().nansum(1, keepdim=True).sqrt().clamp_min(1e-20)
    return mean.float()


@on_host
def gates(run: Trace, part: str | None = None) -> Tensor:
    """∂y/∂ξ of the gate ξ = 1 of each head, signed: float64 [layer, head], in the units of the objective.

    To first order, −∂y/∂ξ is what removing the head changes. NaN where there is no head.

    Raises:
        KeyError: no such part. ValueError: a layer has no gradient.
    """
    of = run.attention.part(part)
    found = torch.full((len(of.layers), of.heads), torch.nan, dtype=torch.float64)
    for at, layer in enumerate(of.layers):
        if layer.heads:
            total = torch.zeros(layer.heads, dtype=torch.float64)
            for sample in range(layer.shape[0]):  # windows, in all of which a head has one gate
                g, v = gradient_of(layer)[sample].double(), _values(layer, sample)
                for rows in row_blocks(torch.arange(layer.shape[2]), layer.heads * layer.shape[3]):
                    z = layer.block(sample, None, rows)[0] @ v
                    total += (z * g[:, rows]).sum((1, 2))
            found[at, : layer.heads] = total
    return found


def _values(layer: Layer, sample: int) -> Tensor:
    """float32 [head, key, d_v]."""
    assert layer.v is not None
    of = layer.v[sample % len(layer.v)].float()
    return of.repeat_interleave(layer.heads // len(of), 0)


def _exact(run: Trace, part: str | None, progress: bool) -> Tensor:
    of = run.attention.part(part)
    heads = _heads(run.attention, part)
    found = torch.full((len(of.layers), of.heads), torch.nan, dtype=torch.float64)
    layers, places = zip(*heads, strict=True)
    alone = [[head] for head in heads]
    found[list(layers), list(places)] = changes(run, heads=alone, part=part, progress=progress, words="removing heads")
    return found


def _heads(attention: Attention, part: str | None) -> list[Head]:
    return [(at, head) for at, layer in enumerate(attention.part(part).layers) for head in range(layer.heads)]


def _each(inputs: Any) -> list[Any]:
    texts = list(inputs) if isinstance(inputs, list) else [inputs]
    if not texts:
        raise ValueError("inputs is an empty list: give at least one text.")
    return texts


# ── removing one after the other ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Columns:
    """Where the weight of an output projection meets what the heads of a layer put out; as in Output."""

    name: str
    across: bool
    first: int
    width: int

    def silence(self, model: nn.Module, head: int) -> None:
        weight = model.get_submodule(self.name).weight
        assert isinstance(weight, Tensor)
        start = self.first + head * self.width
        with torch.no_grad():
            (weight.mT if self.across else weight)[:, start : start + self.width] = 0.0


@dataclass(frozen=True, eq=False)
class Pruning:
    """What a loss becomes as heads are removed one after the other; what :func:`pruning` returns.

    Curves are float64 [removed], from no head to all of them, averaged over the texts.

    Attributes:
        words: what the loss is. part: of the model. texts: how many it is the mean of.
        order: all heads (layer, head), the one that is removed first first. curve: in that order.
        exact_order, exact_curve: the same in the order of what removing each alone costs; None where that was not
            wanted.
        random: [repeat, removed], in orders drawn at random.
        importance: float32 [layer, head], by which ``order`` begins.
    """

    words: str
    part: str
    texts: int
    order: tuple[Head, ...]
    curve: Tensor
    random: Tensor
    importance: Tensor
    exact_order: tuple[Head, ...] | None = None
    exact_curve: Tensor | None = None
    _projections: Mapping[int, _Columns] = field(default_factory=dict, repr=False)

    def heads(self, tolerance: float, *, exact: bool = False) -> list[Head]:
        """The most heads, in order, whose removal raises the loss by no more than ``tolerance``, in its units.

        Raises:
            ValueError: a negative tolerance; the exact order was not computed.
        """
        if not 0 <= tolerance < math.inf:
            raise ValueError(f"tolerance is {tolerance}; it is by how much the loss may rise, 0 or more.")
        order, curve = (self.exact_order, self.exact_curve) if exact else (self.order, self.curve)
        if order is None or curve is None:
            raise ValueError("The exact order was not computed: pruning(…, exact=True).")
        count = int((curve - curve[0] <= tolerance).nonzero().max())
        return list(order[:count])

    def table(self) -> str:
        """Markdown: how many heads are removed, and the loss in each order."""
        columns = [("by importance", self.curve)]
        columns += [] if self.exact_curve is None else [("by exact cost", self.exact_curve)]
        names = " | ".join(name for name, _ in columns)
        rows = [f"| heads removed | {names} | at random |", "|" + " ---: |" * (len(columns) + 2)]
        spread = self.random.std(0) if len(self.random) > 1 else torch.zeros_like(self.random[0])
        for at in sorted({round(x) for x in torch.linspace(0, len(self.order), 9).tolist()}):
            numbers = " | ".join(f"{curve[at]:.4g}" for _, curve in columns)
            rows.append(f"| {at} | {numbers} | {self.random[:, at].mean():.4g} ± {spread[at]:.2g} |")
        return "\n".join(rows)

    def prune(
        self,
        model: nn.Module,
        tolerance: float | None = None,
        *,
        heads: Collection[Head] | None = None,
        in_place: bool = False,
    ) -> nn.Module:
        """A model without these heads: a copy, in which what a head puts out meets only zeros of the output projection.

        The copy computes exactly what the model does without the heads. Where transformers can cut heads out of
        a model (``model.prune_heads``, until version 4), it is smaller and faster, too; otherwise it is neither.

        Args:
            model: whose heads they are. tolerance: by how much the loss may rise.
            heads: which ones (layer, head), in its place.
            in_place: change ``model`` itself and return it.

        Raises:
            ValueError: neither or both of tolerance and heads; no such head; a layer whose output projection is not
                known, or is that of other layers too. Nothing is changed then.
        """
        if (tolerance is None) == (heads is None):
            raise ValueError("Say either by how much the loss may rise, tolerance=, or which heads to remove, heads=.")
        chosen = self.heads(tolerance) if tolerance is not None else list(dict.fromkeys(heads or ()))
        names = Counter(one.name for one in self._projections.values())
        for layer, head in chosen:
            if (layer, head) not in self.order:
                raise ValueError(f"There is no head {head} in layer {layer} of {self.part}.")
            columns = self._projections.get(layer)
            if columns is None or names[columns.name] > 1:
                why = "is not known" if columns is None else "is that of other layers too"
                raise ValueError(f"The output projection of layer {layer} {why}, so its heads cannot be removed.")
        pruned = unwrapped(model) if in_place else copy.deepcopy(unwrapped(model))
        own = getattr(pruned, "prune_heads", None)
        if own is not None:
            by_layer: dict[int, list[int]] = {}
            for layer, head in chosen:
                by_layer.setdefault(layer, []).append(head)
            with contextlib.suppress(NotImplementedError):
                own(by_layer)
                return pruned
        for layer, head in chosen:
            self._projections[layer].silence(pruned, head)
        return pruned

    def __repr__(self) -> str:
        return f"<Pruning: {self.words}, {len(self.order)} heads of {self.part}, {self.texts} texts>"


def pruning(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    objective: Any = "loss",
    part: str | None = None,
    again: int | None = None,
    exact: bool = True,
    repeats: int = 5,
    seed: int = 0,
    progress: bool = True,
    **forward: Any,
) -> Pruning:
    """What the loss of a model becomes as its heads are removed one after the other, the least important first.

    Args:
        model, inputs, tokenizer, objective, part: as for :func:`importance`; the objective is a loss: less is better.
        again: ask for the importance again each time so many heads are gone, since it was to first order; never, unless
            given.
        exact: also in the order of what removing each head alone costs.
        repeats: how many random orders to compare with. seed: of these.
        progress: a bar where it takes longer than a second.
        **forward: as for :func:`~attnwidget.trace`.

    Raises:
        ValueError: ``again`` or ``repeats`` below 1; more runs of the model than an hour has room for; and as
            :func:`importance`.

    >>> from attnwidget import tiny
    >>> model, tokenizer = tiny.decoder()
    >>> found = pruning(model, "The cat sat on the mat. The cat sat on the", tokenizer, exact=False, repeats=2)
    >>> found.curve.shape, found.random.shape
    (torch.Size([17]), torch.Size([2, 17]))
    >>> smaller = found.prune(model, tolerance=0.1)
    """
    for name, number in (("again", again), ("repeats", repeats)):
        if number is not None and number < 1:
            raise ValueError(f"{name} is {number}; it is 1 or more.")
    runs = [trace(model, one, tokenizer, objective=objective, **forward) for one in _each(inputs)]
    of = runs[0].attention.part(part)
    heads = _heads(runs[0].attention, of.name)
    count = (len(heads) + 1) * (1 + repeats + exact) + len(heads) * exact
    count += 0 if again is None else 3 * math.ceil(len(heads) / again)  # a forward and a backward: of three
    refuse_long("pruning", runs, of.name, count, "Give fewer texts, or take exact=False and repeats=1.")

    def curve(order: Sequence[Head]) -> Tensor:
        gone = [order[:count] for count in range(len(order) + 1)]
        found = [run.value + changes(run, heads=gone, part=of.name, progress=progress, words="removing heads")
                 for run in runs]  # fmt: skip
        return torch.stack(found).mean(0)

    def sorted_by(values: Tensor) -> tuple[Head, ...]:
        return tuple(sorted(heads, key=lambda head: float(values[head])))

    mean = torch.stack([gates(run, of.name).abs() for run in runs]).mean(0)
    order = sorted_by(mean)
    if again is not None:
        gone: list[Head] = []
        while len(gone) < len(heads):
            left = [head for head in order if head not in gone]
            gone += left[:again]
            if len(gone) < len(heads):
                order = sorted_by(_importance_without(runs, gone, of.name))
        order = tuple(gone)
    costs = torch.stack([_exact(run, of.name, progress) for run in runs]).mean(0) if exact else None
    exact_order = None if costs is None else sorted_by(costs)
    draw = torch.Generator().manual_seed(seed)
    drawn = [[heads[at] for at in torch.randperm(len(heads), generator=draw).tolist()] for _ in range(repeats)]
    return Pruning(
        words=runs[0].objective.words,
        part=of.name,
        texts=len(runs),
        order=order,
        curve=curve(order),
        random=torch.stack([curve(one) for one in drawn]),
        importance=mean.float(),
        exact_order=exact_order,
        exact_curve=None if exact_order is None else curve(exact_order),
        _projections={
            at: _Columns(one.output.name, one.output.across, one.output.first, one.output.width)
            for at, one in enumerate(of.layers)
            if one.output is not None
        },
    )


def _importance_without(runs: Sequence[Trace], gone: Collection[Head], part: str) -> Tensor:
    found = []
    for run in runs:
        with ablate(run.model, heads=gone, part=part):
            args, kwargs = run.given.args, run.given.kwargs
            now = trace(run.model, args or kwargs, run.tokenizer, objective=run.objective, **(kwargs if args else {}))
        found.append(gates(now, part).abs())
    return torch.stack(found).mean(0)
