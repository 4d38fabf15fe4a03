"""What a token's values do to other tokens: a weight says how much is read, these say how much arrives.

Head h reads f_h(x_j) = W_O^h v_j of token j, and adds α_ij f_h(x_j) to the stream of token i. The values v carry their
bias; the bias of the output projection belongs to no token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .attribution import Asked, Attribution, Cost, Run, asked, method
from .chosen import within
from .flows import one_axis
from .inputs import unwrapped
from .layers import Layer
from .masks import on_host, row_blocks
from .output import Output
from .stream import Ending, Norm, Stream, Sum, follow, projection_of

BLOCK = 1 << 19  # numbers held at once in a block: 4 MB in double precision


def vectors_of(layer: Layer, projection: Output, sample: int, keys: Tensor) -> Tensor:
    """f_h(x_j), what each head reads of some tokens: float32 [head, key, D]."""
    assert layer.v is not None
    values = layer.v[sample % len(layer.v)][:, keys].float()
    groups = layer.heads // len(values)
    return torch.stack([values[head // groups] @ projection.of_head(head).mT for head in range(layer.heads)])


def size_of(of: Asked) -> tuple[int, int, int, int, int]:
    """Layers, heads, queries, keys, width D."""
    layers = [layer for _, layer in of.layers]
    width = max((len(one.output.made) for one in layers if one.output is not None), default=0)
    return len(layers), of.part.heads, len(of.part.queries), len(of.part.keys), width


def _chosen(of: Asked, layer: int | None) -> list[tuple[int, Layer]]:
    """One layer, or all that have attention."""
    if layer is None:
        return of.layers
    at = within(layer, len(of.part.layers), "layer", of.part.name)
    one = of.part.layers[at]
    if not one.heads:
        raise IndexError(f"Layer {at} of {of.part.name} has no map ({one.absent}).")
    return [(at, one)]


# ── norms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _measuring(of: Asked, **_: Any) -> Cost:
    layers, heads, n, m, width = size_of(of)
    flops = layers * (heads * m * width * 130.0 + n * m * heads * (160.0 + 2 * heads))
    return Cost.of(flops, 8e7 + 8.0 * n * m, f"{layers} layers of {heads} heads, {n} × {m}", "Choose one layer=.")


@method(
    "norm",
    words="‖α f(x)‖, the length of what a head adds to the query's stream of the key: in the stream's units, from 0; "
    "the mean over heads where there are several",
    source="Kobayashi et al. 2020, equation 5",
    needs="values",
    cost=_measuring,
)
@on_host
def norm(
    run: Run, *, part: str | None = None, layer: int | None = None, head: int | None = None, progress: bool = True
) -> Attribution:
    """Value-weighted norms of one head, or their mean over the heads of a layer, or over all.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`. layer, head: all of them unless given.

    Raises:
        ValueError: no values, or no output projection; and as :func:`~attnwidget.attribution.attribute`.
        IndexError: no such layer or head.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat", tokenizer)
    >>> int(norm(run, layer=2, head=0).row(6).argmax())                      # the head of the token before
    5
    """
    of = asked(run, "norm", part)
    layers = _chosen(of, layer)
    maps = [(one, h) for _, one in layers for h in range(one.heads)]
    if head is not None:
        maps = [(one, within(head, one.heads, "head", one.name)) for _, one in layers]
    total = torch.zeros(len(of.part.queries), len(of.part.keys))
    for one, h in of.bar(maps, "head", progress):
        assert one.v is not None
        v = one.v[of.sample % len(one.v)][h * one.v.shape[1] // one.heads].float()
        lengths = (v @ projection_of(one).of_head(h).mT).norm(dim=-1)
        for rows in row_blocks(torch.arange(one.shape[2]), one.shape[3]):
            total[rows] += one.block(of.sample % one.shape[0], h, rows)[0] * lengths
    return of.result(total / len(maps))


@method(
    "norm-sum",
    words="‖Σ_h α f(x)‖, the length of what all heads of a layer together add to the query's stream of the key: in the "
    "stream's units, from 0; the mean over layers where there are several",
    source="Kobayashi et al. 2020, section 3; 2021, equations 8 to 12; by Gram matrices",
    needs="values",
    cost=_measuring,
)
@on_host
def norm_sum(
    run: Run,
    *,
    part: str | None = None,
    layer: int | None = None,
    residual: bool = False,
    norm: bool = False,
    progress: bool = True,
) -> Attribution:
    """Norms of what the heads of a layer add together, where some may cancel what others add.

    ‖Σ_h α_h f_h‖² is Σ_hh' α_h α_h' ⟨f_h(x_j), f_h'(x_j)⟩: one H × H Gram matrix a key, and no n × n × D numbers.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`. layer: all of them unless given.
        residual: what the query's token has of itself is added to its own entry. Needs a trace.
        norm: through the layer norm that follows in post-norm models, its scale held. Needs a trace.

    Raises:
        ValueError: no values or output projection; a trace is needed; no norm follows; and as
            :func:`~attnwidget.attribution.attribute`. IndexError: no such layer.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat", tokenizer)
    >>> bool((norm_sum(run, layer=0).values <= 4 * norm(run, layer=0).values + 1e-5).all())  # four heads
    True
    """
    of = asked(run, "norm-sum", part)
    layers = _chosen(of, layer)
    sums = sums_of(of, layers) if residual or norm else {}
    if norm:
        of.refuse_windows(of.part)
    if residual:
        one_axis(of)
    total = torch.zeros(len(of.part.queries), len(of.part.keys), dtype=torch.float64)
    for at, one in of.bar(layers, "layer", progress):
        found = sums.get(at)
        after = found.norm() if norm and found else None
        if norm and after is None:
            raise ValueError(f"No norm reads what {one.name} adds up: this model normalises before its attention.")
        total += _summed(of, one, found, after, residual)
    return of.result(total / len(layers))


def _summed(of: Asked, layer: Layer, found: Sum | None, after: Norm | None, residual: bool) -> Tensor:
    projection, n, m = projection_of(layer), layer.shape[2], layer.shape[3]
    factor = 1.0 if found is None else found.factor

    def pieces() -> Iterator[tuple[Tensor, Tensor]]:
        for keys in torch.arange(m).split(max(1, BLOCK // (layer.heads * len(projection.made)))):
            vectors = factor * vectors_of(layer, projection, of.sample, keys).double()
            yield keys, after.mapped(vectors) if after else vectors

    grams = torch.cat([(some := vectors.transpose(0, 1)) @ some.mT for _, vectors in pieces()])  # [key, head, head]
    lengths = torch.empty(n, m, dtype=torch.float64)
    own = torch.zeros(layer.heads, n, dtype=torch.float64)  # weights of tokens on themselves
    for rows in torch.arange(n).split(max(1, BLOCK // (layer.heads * m))):
        p = layer.block(of.sample % layer.shape[0], None, rows)[0].double()
        if residual:
            own[:, rows] = p[:, torch.arange(len(rows)), rows]
        p = p.permute(2, 1, 0)
        lengths[rows] = ((p @ grams) * p).sum(-1).clamp_min(0.0).sqrt().mT
    if residual:
        assert found is not None
        for keys, vectors in pieces():
            x = found.residual[keys].double()
            self_added = torch.einsum("hk,hkd->kd", own[:, keys], vectors) + (after.mapped(x) if after else x)
            lengths[keys, keys] = self_added.norm(dim=-1)
    return lengths * after.scale if after else lengths


def sums_of(of: Asked, layers: Sequence[tuple[int, Layer]]) -> dict[int, Sum]:
    """Of each of these layers, what its heads' output was added to."""
    if of.trace is None:
        raise ValueError(
            f"{of.method.name} with what the token has of itself, or through a norm, runs the model again: give it "
            "trace(model, text, tokenizer)."
        )
    for _, layer in layers:
        projection_of(layer)
    found = follow(of.trace).sums
    for at, layer in layers:
        if (of.part.name, at) not in found or not found[of.part.name, at].sequential:
            raise ValueError(
                f"What {layer.name} puts out is not added to the stream as it is: it is normalised first, or added up "
                f"with something else. {of.method.name} does not know this kind of model."
            )
    return {at: found[of.part.name, at] for at, _ in layers}


# ── logits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _reading(of: Asked, **_: Any) -> Cost:
    layers, heads, _queries, m, width = size_of(of)
    return Cost.of(layers * heads * m * (width * 2.0 + 400), 1e8, "one run of the model beside")


@method(
    "logit",
    words="what the heads add of a token to the logit on the way that leads through no later layer, the norm's scale "
    "held: in logits, signed",
    source="Elhage et al. 2021, direct paths; Ferrando et al. 2023",
    needs="model",
    signed=True,
    cost=_reading,
)
@on_host
def logit(run: Run, *, part: str | None = None, progress: bool = True) -> Attribution:
    """Direct logit attribution: a logit, or the difference of two, as a sum over heads and tokens, and what is left.

    Returns:
        ``values`` [1, key], of the token that the logits are of; ``per_head`` [layer, head]; ``rest``: embedding, MLPs,
        biases. ``values`` and ``rest`` add up to the traced value, as do ``per_head`` and ``rest``.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`; a trace.

    Raises:
        ValueError: no trace; an objective that is no logit; a model in which something stands between its layers and
            its logits; no output projection; and as :func:`~attnwidget.attribution.attribute`.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat", tokenizer)
    >>> found = logit(run)
    >>> abs(float(found.values.sum()) + sum(found.rest.values()) - run.value) < 1e-4
    True
    """
    of = asked(run, "logit", part)
    objective = of.traced.objective
    if not objective.ids:
        raise ValueError(f"logit explains a logit or the difference of two; traced was {objective.words}.")
    for _, layer in of.layers:
        projection_of(layer)
    stream = follow(of.traced)
    end = stream.ending
    carried = {} if isinstance(end, str) else end.carried
    lost = [layer.name for at, layer in of.layers if (of.part.name, at) not in carried]
    if isinstance(end, str) or lost:
        why = end if isinstance(end, str) else f"what {lost[0]} puts out is not just added to what they are read from"
        raise ValueError(f"These logits are no sum over heads: {why}. attribute(run, 'gradient') works for any model.")
    if len(stream.outputs[of.part.name, of.layers[0][0]]) != len(of.part.queries):
        raise ValueError(f"The tokens of {of.part.name} are not those that the logits are read from.")
    w, constant = _direction(end, objective.ids)
    values = torch.zeros(len(of.part.keys), dtype=torch.float64)
    heads = torch.full((len(of.part.layers), of.part.heads), torch.nan)
    biases = 0.0
    for at, layer in of.layers:
        projection, factor = projection_of(layer), end.carried[of.part.name, at]
        p = layer.block(of.sample % layer.shape[0], None, torch.tensor([end.row]))[0][:, 0].double()
        assert layer.v is not None
        v = layer.v[of.sample % len(layer.v)].double()
        for head in range(layer.heads):
            read = projection.of_head(head).double().mT @ w
            terms = factor * p[head] * (v[head * len(v) // layer.heads] @ read)
            values += terms
            heads[at, head] = float(terms.sum())
        bias = getattr(unwrapped(of.traced.model).get_submodule(projection.name), "bias", None)
        biases += 0.0 if bias is None else factor * float(bias.detach().double().cpu() @ w)
    rest = {"biases of the output projections": biases, **_elsewhere(of, stream, end, w)}
    rest["biases of norm and logits"] = constant
    return of.result(values[None], query=end.row, target=objective.words, per_head=heads, rest=rest)


def _direction(end: Ending, ids: tuple[int, ...]) -> tuple[Tensor, float]:
    """float64 [D], the product with which a vector in the sum adds to the objective; and what is added besides."""
    rows = end.weight[list(ids)].double().cpu()
    w = end.factor * (rows[0] - rows[1] if len(ids) == 2 else rows[0])
    bias = torch.zeros(len(ids)) if end.bias is None else end.bias[list(ids)]
    constant = float(bias[0] - bias[1] if len(ids) == 2 else bias[0])
    if end.norm is None:
        return w, constant
    return end.norm.back(w) * end.norm.scale[0], constant + float(end.norm.bias @ w)


def _elsewhere(of: Asked, stream: Stream, end: Ending, w: Tensor) -> dict[str, float]:
    """What is in the sum besides what this part's heads put out, and what it adds to the objective."""
    part, row, sums, outputs = of.part.name, end.row, stream.sums, stream.outputs
    layers = [at for at, _ in of.layers]
    theirs = {at: end.carried[part, at] * float(outputs[part, at][row].double() @ w) for at in layers}
    alone = all(other == part for other, _ in end.carried)
    if not alone or not all((part, at) in sums and sums[part, at].sequential for at in layers):
        return {"embedding, MLPs and all else": float(end.final.double() @ w) - sum(theirs.values())}
    # Before the heads of a layer add to it, the stream is what it was before the last layer, with that layer's part.
    before = [float(sums[part, at].residual[row].double() @ w) for at in layers]
    after = [*before[1:], float(end.final.double() @ w)]
    between = {f"MLP {at}": then - now - theirs[at] for at, now, then in zip(layers, before, after, strict=True)}
    return {"embedding": before[0], **between}
