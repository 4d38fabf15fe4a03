"""Attention as a thing to ask questions of: exact weights of any layer and head, computed when somebody looks.

Axes are always in the order ``layer, head, query, key``. A query attends *to* a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import recipe, saving
from .layers import Layer, Part
from .maps import Map
from .masks import Bias, Mask, on_host
from .shown import Run
from .tokens import Tokens


class Attention(Run[Part, Map]):
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

    _map = Map

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
        kept = _kept(part=part, model=model, tokens=tokens)
        return cls(
            [Part(part, made, queries, keys)],
            model=model,
            notes=notes,
            made=recipe.call("Attention.from_weights", {"weights": weights}, **kept),
        )

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
        kept = _kept(
            part=part, model=model, tokens=tokens, v=v, scale=scale, mask=mask, softcap=softcap, bias=bias, sink=sink
        )
        kept |= {"causal": True} if causal else {}
        return cls(
            [Part(part, made, *axes)], model=model, made=recipe.call("Attention.from_qk", {"q": q, "k": k}, **kept)
        )

    def save(self, path: str | Path, *, values: bool = True, projections: bool = False) -> Path:
        """Write it into a file that :func:`attnwidget.load` opens, with torch or without: see ``stored.py``.

        Args:
            path: where to write, "name.safetensors". The folder has to exist; a file of that name is replaced.
            values: whether the values V go in, where they were kept. The view that goes step by step needs them.
            projections: whether the model's output projections go in, too: what the last step needs.

        Returns:
            The path.

        Raises:
            FileNotFoundError: there is no such folder. IsADirectoryError: the path is one.
        """
        return saving.save(self, path, values=values, projections=projections)


# ── reading what the caller brought ──────────────────────────────────────────────────────────────────────────────────


def _kept(**options: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: one for name, one in options.items() if one is not None and (name, one) != ("part", "attention")}


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
