"""Attention as a thing to ask questions of: exact weights of any layer and head, computed when somebody looks.

Axes are always in the order ``layer, head, query, key``. A query attends *to* a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .layers import Check, Layer, Part
from .maps import Map, Reduce
from .masks import Bias, Mask, on_host
from .tokens import Tokens


class Attention:
    """The attention of one run of a model, every head of it, exact and lazy.

    Indexing gives a :class:`Map`, of which :meth:`Map.row`, :meth:`Map.tile` and :meth:`Map.weights` are computed on
    demand:

    >>> import torch
    >>> attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3), tokens=["a", "b", "c"])
    >>> attention[1, 3].row(2)                     # layer 1, head 3: what the third token attends to
    tensor([0., 0., 1.])
    >>> attention[1, None].weights().shape         # the mean over the heads of layer 1
    torch.Size([3, 3])

    Where a model has several parts, name one: ``attention["cross", 1, 3]``. ``attention.parts`` lists them.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        model: str | None = None,
        check: Check | None = None,
        notes: Sequence[str] = (),
        sample: int = 0,
        noun: str = "sample",
    ) -> None:
        if not parts or not all(part.layers and part.heads for part in parts):
            raise ValueError("An Attention needs at least one part with at least one layer.")
        self._parts = {part.name: part for part in parts}
        if len(self._parts) != len(parts):
            raise ValueError(f"Part names must differ: {[part.name for part in parts]}.")
        self.model = model
        self.check = check
        self.notes = tuple(notes)
        self.sample = sample
        self.noun = noun  # what one sample is: "text", "image", "window" or "sample"

    # ── making one from what people have ──

    @classmethod
    @on_host
    def from_weights(
        cls,
        weights: Any,
        tokens: Any = None,
        *,
        part: str = "attention",
        model: str | None = None,
    ) -> Attention:
        """An Attention from weights that are already there.

        Args:
            weights: [query, key], [head, query, key], [layer, head, query, key] or [layer, batch, head, query, key];
                or a sequence of one [head, query, key] or [batch, head, query, key] per layer, as transformers has it.
            tokens: labels of both axes, or a pair (queries, keys) of them; positions if left out.

        Raises:
            ValueError: not such a shape; labels that do not match it; negative or infinite entries.
                NaN is kept, drawn as such, and noted.
        """
        layers = [_as_layer(w, i) for i, w in enumerate(_per_layer(weights))]
        notes = ["Some weights are NaN. They are drawn as ×."] if any(_has_nan(w) for w in layers) else []
        queries, keys = _axes(tokens, layers[0].shape[2], layers[0].shape[3])
        made = tuple(Layer(name=f"layer {i}", weights=w, mask=_mask_of_zeros(w)) for i, w in enumerate(layers))
        return cls([Part(part, made, queries, keys)], model=model, notes=notes)

    @classmethod
    @on_host
    def from_qk(
        cls,
        q: Any,
        k: Any,
        tokens: Any = None,
        *,
        v: Any = None,
        scale: float | None = None,
        causal: bool = False,
        mask: Any = None,
        softcap: float | None = None,
        bias: Any = None,
        sink: Any = None,
        part: str = "attention",
        model: str | None = None,
    ) -> Attention:
        """An Attention from queries and keys.

        Args:
            q: [query, d], [head, query, d] or [layer, head, query, d].
            k: the same with keys; fewer heads than q where heads share keys (grouped-query attention).
            v: values, shaped like k, kept for whoever needs them.
            scale: multiplies q · k; 1 / √d unless given (Vaswani et al. 2017, eq. 1).
            causal: query i sees the keys j ≤ i only.
            mask: bool, broadcastable to [query, key] or [head, query, key]; True where attending is allowed.
            softcap, bias, sink: see :class:`Layer`; bias broadcasts to [head, query, key], sink is one logit per head.
        """
        q4, k4 = _rank4(q, "q"), _rank4(k, "k")
        n_layers, heads, queries_n, d = q4.shape
        if k4.shape[0] != n_layers or k4.shape[3] != d or heads % k4.shape[1]:
            raise ValueError(
                f"q is {tuple(q4.shape)} and k is {tuple(k4.shape)} as [layer, head, token, d]: layers and d must be "
                "equal, and the number of key heads must divide the number of query heads."
            )
        keys_n = k4.shape[2]
        rule = Mask.causal(queries_n, keys_n) if causal else Mask.full(queries_n, keys_n)
        if mask is not None:
            given = torch.as_tensor(mask)
            if given.dtype != torch.bool:
                raise ValueError(f"mask must be boolean, True where attending is allowed; it is {given.dtype}.")
            shape = (heads if given.dim() > 2 and given.shape[-3] > 1 else 1, queries_n, keys_n)
            cells = _fits(given, shape, "mask")[None]
            rule = Mask.of(cells & rule.allowed(0, torch.arange(queries_n)))
        numbers = None
        if bias is not None:
            numbers = Bias.of(_fits(torch.as_tensor(bias), (heads, queries_n, keys_n), "bias")[None])
        sinks = None if sink is None else _fits(torch.as_tensor(sink).float(), (heads,), "sink")[None, :, None]
        v4 = None if v is None else _rank4(v, "v")
        if v4 is not None and v4.shape[:3] != k4.shape[:3]:
            raise ValueError(f"v is {tuple(v4.shape)} and k is {tuple(k4.shape)}: heads and tokens must agree.")
        axes = _axes(tokens, queries_n, keys_n)
        made = tuple(
            Layer(
                name=f"layer {i}", mask=rule, q=q4[i : i + 1], k=k4[i : i + 1], v=None if v4 is None else v4[i : i + 1],
                scale=d**-0.5 if scale is None else float(scale), softcap=softcap, bias=numbers, sink=sinks,
            )
            for i in range(n_layers)
        )  # fmt: skip
        return cls([Part(part, made, *axes)], model=model)

    # ── asking ──

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, the one shown first in front."""
        return tuple(self._parts)

    @property
    def tokens(self) -> Tokens:
        """The query axis of the first part."""
        return self.part().queries

    @property
    def samples(self) -> int:
        """Number of texts or images in the batch."""
        return max(part.batch for part in self._parts.values())

    @property
    def nbytes(self) -> int:
        """Memory held by Q, K, V, weights and dense masks, in bytes."""
        return sum(layer.nbytes for part in self._parts.values() for layer in part.layers)

    def part(self, name: str | None = None) -> Part:
        """The part of that name; the first one where the name is left out."""
        if name is None:
            return next(iter(self._parts.values()))
        if name not in self._parts:
            raise KeyError(f"There is no part {name!r}; this attention has {', '.join(map(repr, self.parts))}.")
        return self._parts[name]

    def map(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        part: str | None = None,
        reduce: Reduce = "mean",
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> Map:
        """The map of one head, or reduced over the heads of a layer, the layers of a head, both, or some heads.

        Args:
            layer, head: index, negative from the end; None reduces over that axis.
            reduce: "mean", "max" or "min". Only the mean keeps rows that sum to one.
            heads: pairs (layer, head) in place of the two: the map is reduced over exactly these, each counted once.
                What one of them may not see counts there as 0.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: no such reduction; ``heads`` is
                empty, or given along with a layer or head. TypeError: ``heads`` holds something else than pairs.

        >>> import torch
        >>> attention = Attention.from_weights(torch.stack([torch.eye(2), torch.full((2, 2), 0.5)])[:, None])
        >>> attention.map(heads=[(0, 0), (1, 0)], reduce="max").weights()
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
        """
        if heads is None:
            return Map(self, self.part(part), layer, head, reduce)
        if layer is not None or head is not None:
            raise ValueError("Choose a layer and a head, or several heads=[(layer, head), …]: not both.")
        return Map(self, self.part(part), None, None, reduce, heads)

    def __getitem__(self, key: tuple[Any, ...]) -> Map:
        if not isinstance(key, tuple) or len(key) not in (2, 3):
            raise TypeError(
                "Index an attention with [layer, head] or [part, layer, head]; None averages over that axis."
            )
        if len(key) == 2 and isinstance(key[0], str):
            raise TypeError(f"Name the layer and the head, too: attention[{key[0]!r}, layer, head].")
        part = key[0] if len(key) == 3 else None
        return self.map(key[-2], key[-1], part=part)

    def select(self, sample: int) -> Attention:
        """The same attention with another text of the batch in view. Nothing is copied."""
        if not -self.samples <= sample < self.samples:
            raise IndexError(f"Sample {sample} of a batch of {self.samples}.")
        at = sample % self.samples

        def axes_of(part: Part) -> tuple[Tokens, Tokens]:
            return part.axes[at * len(part.axes) // self.samples]

        shown = [
            replace(part, queries=axes_of(part)[0], keys=axes_of(part)[1]) if part.axes else part
            for part in self._parts.values()
        ]
        return Attention(shown, model=self.model, check=self.check, notes=self.notes, sample=at, noun=self.noun)

    def sample_in(self, part: Part) -> int:
        """The sample in view as ``part`` counts: several windows, of images say, belong to one text of another part."""
        return self.sample * part.batch // self.samples

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{p.name}: {len(p.layers)} layers × {p.heads} heads, {len(p.queries)} × {len(p.keys)}"
            for p in self._parts.values()
        )
        parts += f"; {self.samples} {self.noun}s" if self.samples > 1 else ""
        return f"<Attention{f' of {self.model}' if self.model else ''}: {parts}; {in_words(self.nbytes)}>"


# ── reading what the caller brought ──────────────────────────────────────────────────────────────────────────────────


def in_words(size: int) -> str:
    """A number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _axes(tokens: Any, queries: int, keys: int) -> tuple[Tokens, Tokens]:
    """The two axes from labels for both, from a pair of label lists, or from nothing."""
    if tokens is None:
        kind = Tokens.positions(queries)
        return kind, kind if queries == keys else Tokens.positions(keys)
    pair = tokens if isinstance(tokens, tuple) and len(tokens) == 2 and not isinstance(tokens[0], str) else None
    axes = [one if isinstance(one, Tokens) else Tokens.named(one) for one in (pair or (tokens, tokens))]
    for axis, size, what in zip(axes, (queries, keys), ("queries", "keys"), strict=True):
        if len(axis) != size:
            raise ValueError(
                f"{len(axis)} tokens for {size} {what}. Pass one label per position"
                + (", or tokens=(query_labels, key_labels) for a map that is not square." if pair is None else ".")
            )
    return axes[0], axes[1]


def _per_layer(weights: Any) -> list[Tensor]:
    if isinstance(weights, Mapping):
        raise ValueError("weights must be a tensor or a sequence of one tensor per layer.")
    # numpy arrays, nested lists and tensors become one tensor; a tuple of tensors is one tensor a layer.
    if isinstance(weights, (list, tuple)) and len(weights) and hasattr(weights[0], "shape"):
        return [torch.as_tensor(w) for w in weights]
    whole = torch.as_tensor(weights)
    if whole.dim() not in (2, 3, 4, 5):
        raise ValueError(
            f"weights have shape {tuple(whole.shape)}; expected [query, key], [head, query, key], "
            "[layer, head, query, key] or [layer, batch, head, query, key]."
        )
    return [whole] if whole.dim() < 4 else list(whole)


def _as_layer(weights: Tensor, index: int) -> Tensor:
    where = f"Layer {index} of the weights"
    if weights.dim() not in (2, 3, 4):
        raise ValueError(f"{where} has shape {tuple(weights.shape)}; expected [batch, head, query, key] or less.")
    if 0 in weights.shape:
        raise ValueError(f"{where} has shape {tuple(weights.shape)}: there is nothing to show.")
    if not weights.is_floating_point():
        weights = weights.float()
    whole = weights.detach().to("cpu")[(None,) * (4 - weights.dim())]
    if bool((whole < 0).any()) or bool(torch.isinf(whole).any()):
        raise ValueError(f"{where} has negative or infinite entries: attention weights are numbers from 0 to 1.")
    return whole


def _has_nan(weights: Tensor) -> bool:
    return bool(torch.isnan(weights).any())


def _mask_of_zeros(weights: Tensor) -> Mask:
    """A map whose upper triangle is zero throughout came out of a causal model; nothing else can be told from zeros."""
    queries, keys = weights.shape[2:]
    square = queries == keys and queries > 1
    return Mask.causal(queries, keys) if square and not bool(weights.triu(1).any()) else Mask.full(queries, keys)


def _fits(values: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    try:
        return torch.broadcast_to(values, shape)
    except RuntimeError:
        raise ValueError(f"{name} is {tuple(values.shape)}, which does not broadcast to {shape}.") from None


def _rank4(tensor: Any, name: str) -> Tensor:
    values = torch.as_tensor(tensor).detach().to("cpu")
    if values.dim() not in (2, 3, 4) or 0 in values.shape:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; expected [token, d], [head, token, d] or [layer, head, token, d]."
        )
    return values[(None,) * (4 - values.dim())]
