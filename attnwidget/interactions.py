"""How much of each token is in another, layer by layer: by how near its vector brings the sum, or by taking it away."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

from .attribution import Asked, Attribution, Cost, Run, asked, method
from .capture import evaluating
from .contributions import BLOCK, size_of, sums_of, vectors_of
from .flows import normalised, one_axis, upto
from .inputs import unwrapped
from .interface import Change
from .layers import Layer
from .listen import Listener
from .masks import on_host, row_blocks
from .parts import Call
from .stream import Sum, projection_of

# ── ALTI ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _approaching(of: Asked, **_: Any) -> Cost:
    layers, heads, n, m, width = size_of(of)
    flops = layers * n * m * width * (2.0 * heads + 8) + 2.0 * layers * n**3
    held = 8e7 + 4.0 * heads * m * width + 8.0 * 4 * n * m
    return Cost.of(flops, held, f"{layers} layers, {n} × {m} vectors of {width}", "Shorten the text.")


@method(
    "alti",
    words="share of a token, as the last layer's attention has it, that came from a token of the input, by how much "
    "closer each brings the sum: of 0 to 1, rows sum to 1",
    source="Ferrando et al. 2022, equations 10 and 11",
    needs="model",
    cost=_approaching,
)
@on_host
def alti(
    run: Run, *, part: str | None = None, layer: int | None = None, roll: bool = True, progress: bool = True
) -> Attribution:
    """Aggregation of layer-wise token-to-token interactions.

    In each layer, y_i = Σ_j T_i(x_j) + b: what attention adds up, with the token itself, through the norm that follows
    in post-norm models. Token j counts max(0, ‖y_i‖₁ − ‖y_i − T_i(x_j)‖₁); rows are divided by their sum and multiplied
    over layers.

    Args:
        run, part: see :func:`~attnwidget.attribution.attribute`; a trace.
        layer: up to which layer, that one included; the last unless given.
        roll: multiply over the layers before; otherwise the map of that one layer.

    Raises:
        ValueError: no trace; no output projection; attention to other tokens; a model that does not add up so; and as
            :func:`~attnwidget.attribution.attribute`. IndexError: no such layer.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat", tokenizer)
    >>> alti(run).row(0)
    tensor([1., 0., 0., 0., 0., 0., 0., 0., 0., 0.])
    """
    of = asked(run, "alti", part)
    n = one_axis(of)
    layers = upto(of, layer)
    layers = layers if roll else layers[-1:]
    sums = sums_of(of, layers)
    found: Tensor | None = None
    with of.bar(n * len(layers), "row", progress) as bar:
        for at, one in reversed(layers):
            shares = torch.zeros(n, n, dtype=torch.float64)
            for rows, block in _closer(of, one, sums[at]):
                shares[rows] = block
                bar.update(len(rows))
            shares = normalised(shares)
            found = shares if found is None else found @ shares
    assert found is not None
    return of.result(found)


def _closer(of: Asked, layer: Layer, found: Sum) -> Iterator[tuple[Tensor, Tensor]]:
    """How much closer each token brings each sum, some rows at a time: [row], [row, key]."""
    n, projection = layer.shape[2], projection_of(layer)
    after = found.norm()
    vectors = found.factor * vectors_of(layer, projection, of.sample, torch.arange(n))
    own, y = found.residual, found.total
    if after is not None:
        assert found.after is not None
        vectors, own, y = after.mapped(vectors), after.mapped(own), found.after[2]
    vectors = vectors.transpose(0, 1)  # [key, head, D]
    side = max(1, math.isqrt(4 * BLOCK // len(projection.made)))
    for rows in torch.arange(n).split(side):
        p = layer.block(of.sample % layer.shape[0], None, rows)[0]
        length = y[rows].abs().sum(-1)
        closer = torch.zeros(len(rows), n, dtype=torch.float64)
        for keys in torch.arange(n).split(side):
            read, itself = p[:, :, keys], bool(keys[0] == rows[0])
            seen = (read != 0).any(0)
            if not itself and not bool(seen.any()):
                continue
            added = read.permute(2, 1, 0) @ vectors[keys]  # [key, row, D]
            if itself:
                added.diagonal().add_(own[rows].mT)
                seen.fill_diagonal_(True)
            if after is not None:
                added *= after.scale[rows].float()
            near = length - added.sub_(y[rows]).abs_().sum(-1)
            # What is not attended to adds nothing, and brings nothing closer.
            closer[:, keys] = near.mT.double().clamp_min(0.0).masked_fill(~seen, 0.0)
        yield rows, closer


# ── value zeroing ────────────────────────────────────────────────────────────────────────────────────────────────────


def _rerunning(of: Asked, **_: Any) -> Cost:
    layers, heads, n, m, width = size_of(of)
    # A block has 12 D² weights, and its attention.
    flops = layers * m * (24.0 * n * width**2 + 4.0 * n * m * width)
    instead = "Shorten the text, or choose one layer with layer=…, roll=False; ALTI costs less."
    return Cost.of(flops, 5e7 + 4.0 * heads * n * m + 32.0 * n * m, f"{m} runs of each of {layers} layers", instead)


@method(
    "value-zeroing",
    words="share of a token, as the last layer has it, that came from a token of the input, by how far each layer's "
    "output turns if that token's values are zero: of 0 to 1, rows sum to 1",
    source="Mohebbi et al. 2023, section 3",
    needs="model",
    cost=_rerunning,
)
@on_host
def value_zeroing(
    run: Run, *, part: str | None = None, layer: int | None = None, roll: bool = True, progress: bool = True
) -> Attribution:
    """How far the output of each layer turns when the values of one token are zero: the cosine distance.

    Each layer runs by itself, on the input that it had, once for every token. Rows are divided by their sum and
    multiplied over layers.

    Args, Raises: as for :func:`alti`, and without a projection; ``roll=False`` for attention to other tokens.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat", tokenizer)
    >>> value_zeroing(run).row(0)
    tensor([1., 0., 0., 0., 0., 0., 0., 0., 0., 0.])
    """
    of = asked(run, "value-zeroing", part, layer=layer, roll=roll)
    if roll:
        one_axis(of)
    layers = upto(of, layer)
    layers = layers if roll else layers[-1:]
    found: Tensor | None = None
    with of.bar(len(layers) * len(of.part.keys), "run", progress) as bar, _Blocks(of, layers) as blocks:
        for at, one in reversed(layers):
            turned = torch.zeros(one.shape[2:], dtype=torch.float64)
            for key, column in blocks.turns(at, one):
                turned[:, key] = column
                bar.update()
            turned = normalised(turned)
            found = turned if found is None else found @ turned
    assert found is not None
    return of.result(found)


class _Zeroing(Listener):
    """Takes from what the heads of one layer put out the share of one token."""

    name, share = "", torch.empty(0)

    def change(self, call: Call) -> Change | None:
        if call.name != self.name or not len(self.share):
            return None
        return Change(lambda out: out - self.share.to(out.device, out.dtype))

    def take(self, call: Call) -> None:
        return None

    def add(self, taken: Any, call: Call, out: Tensor | None) -> None:
        raise AssertionError("nothing is taken")

    def remark(self, name: str, words: str) -> None:
        return None


class _Blocks(contextlib.ExitStack):
    """The blocks of a model, each to be run again on what it was given."""

    def __init__(self, of: Asked, layers: Sequence[tuple[int, Layer]]) -> None:
        super().__init__()
        self.of, self.model = of, unwrapped(of.traced.model)
        every = {layer.name for _, layer in of.layers}
        self._names: dict[int, str] = {at: _block(self.model, layer.name, every) for at, layer in of.layers}
        self._wanted = {self._names[at] for at, _ in layers}
        self._calls: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {name: [] for name in self._wanted}

    def __enter__(self) -> _Blocks:
        super().__enter__()
        with contextlib.ExitStack() as hooks:
            for name in self._wanted:

                def kept(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                    # A cache would get the same keys again.
                    self._calls[name].append(
                        (tuple(map(_uncached, args)), {k: _uncached(v) for k, v in kwargs.items()})
                    )

                module = self.model.get_submodule(name)
                hooks.callback(module.register_forward_pre_hook(kept, with_kwargs=True).remove)
            self.of.traced.run()
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            stack.enter_context(torch.no_grad())
            self._zeroing = stack.enter_context(_Zeroing(self.model))
            self.push(stack.pop_all())
        return self

    def turns(self, at: int, layer: Layer) -> Iterator[tuple[int, Tensor]]:
        """For each key, how far the block's output of each query turns without its values: float64 [query]."""
        name, sample = self._names[at], self.of.sample
        before = [other for other, _ in self.of.layers if other < at and self._names[other] == name]
        if len(self._calls[name]) <= len(before):
            raise ValueError(
                f"{name} runs once for several layers of attention, so that it cannot be run again for {layer.name}."
            )
        args, kwargs = self._calls[name][len(before)]
        module, zeroing = self.model.get_submodule(name), self._zeroing

        def out() -> Tensor:
            found = module(*args, **kwargs)
            first = found if isinstance(found, Tensor) else next(one for one in found if isinstance(one, Tensor))
            return first.detach().double().cpu().reshape(-1, first.shape[-1])

        zeroing.name, zeroing.share = layer.name, torch.empty(0)
        whole = out()
        if len(whole) != layer.shape[2]:
            raise ValueError(f"{name} puts out {len(whole)} vectors for {layer.shape[2]} tokens: which are whose?")
        assert layer.v is not None
        v = layer.v[sample % len(layer.v)].float().repeat_interleave(layer.heads // layer.v.shape[1], 0)
        p = torch.empty(layer.heads, *layer.shape[2:])
        for rows in row_blocks(torch.arange(layer.shape[2]), layer.heads * layer.shape[3]):
            p[:, rows] = layer.block(sample % layer.shape[0], None, rows)[0]
        for key in range(layer.shape[3]):
            zeroing.share = (p[:, :, key, None] * v[:, None, key])[None]
            now = out()
            apart = 1 - nn.functional.cosine_similarity(now, whole, dim=-1)
            yield key, apart.clamp_min(0.0).masked_fill((now == whole).all(-1), 0.0)


def _block(model: nn.Module, name: str, every: Set[str]) -> str:
    """Qualified name of the outermost numbered module around the attention of that name.

    So far out that ``every`` layer still has one of its own: in stages of blocks it is the block, not the stage.
    """
    path = name.split(".")
    for end in range(1, len(path) + 1):
        above = model.get_submodule(".".join(path[: end - 1]))
        blocks = {".".join(one.split(".")[:end]) for one in every}
        if isinstance(above, nn.ModuleList) and len(blocks) == len(every):
            return ".".join(path[:end])
    raise ValueError(f"{name} is in no list of layers, so that it is not known what to run again.")


def _uncached(argument: Any) -> Any:
    return None if hasattr(argument, "get_seq_length") else argument
