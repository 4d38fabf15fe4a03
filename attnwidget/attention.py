"""Attention as a thing to ask questions of: exact weights of any layer and head, computed when somebody looks.

An attention matrix has n × n entries a head; the queries and keys that determine it have n × d. What is kept here is

    s_ij = softcap · tanh(q_i · k_j · scale / softcap) + bias_ij        where query i may attend to key j
    p_ij = exp(s_ij − lse_i),    lse_i = log(Σ_j exp(s_ij) + exp(sink_i))

with the mask and the bias as rules of O(n) numbers wherever they have such a form. Rows, columns, tiles and whole maps
are recomputed from that, in float32, in blocks; nothing of size n × n is stored unless the caller brought it.

Axes are always in the order ``layer, head, query, key``. A query attends *to* a key.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from .masks import Bias, Mask, on_host, row_blocks
from .tokens import Tokens, numbered

Reduce: TypeAlias = Literal["mean", "max", "min"]
REDUCTIONS: tuple[Reduce, ...] = ("mean", "max", "min")
# How blocks [head, row, key] are joined over heads, and blocks [row, key] over layers; a mean is a sum until the end.
_OVER_HEADS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda block: block.sum(0),
    "max": lambda block: block.amax(0),
    "min": lambda block: block.amin(0),
}
_JOIN: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": lambda a, b: a + b,
    "max": torch.maximum,
    "min": torch.minimum,
}

# ── one attention call of the model ───────────────────────────────────────────────────────────────────────────────────


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
        absent: why there is no attention at this place of the model, or none that was kept; such a layer has no heads.
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
    absent: str | None = None
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
        if self.weights is not None:
            return tuple(self.weights.shape)  # type: ignore[return-value]  # four by construction
        assert self.q is not None and self.k is not None
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def heads(self) -> int:
        return self.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.heads if self.k is None else self.k.shape[1]

    @property
    def nbytes(self) -> int:
        held = (self.q, self.k, self.v, self.weights, self.mask.dense, self.bias and self.bias.dense)
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
            s = s.masked_fill(~self.mask.allowed(sample, rows, head), -torch.inf)
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
        e = torch.exp(s - top[..., None])
        total = e.sum(-1)
        if sink is not None:
            total = total + torch.exp(sink - top)
        lse = top + torch.log(total)
        return e / total.masked_fill(total == 0, 1.0)[..., None], lse

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


# ── the whole capture ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Check:
    """What the comparison of recomputed rows with the model's own output said.

    Attributes:
        ok: the largest relative difference is within ``tolerance``.
        max_error: largest |recomputed − model's| over the sampled rows, relative to the largest output entry.
        rows: number of rows compared (0: there was nothing to compare with).
        tolerance: what rounding in the model's own precision explains.
        text: the result in a sentence.
        stored: the precision in which Q and K, or weights, are kept: "float32", "bfloat16" …
        effect: largest |p of what is kept − p of what the model had| over the sampled rows; 0 without ``dtype=``.
    """

    ok: bool
    max_error: float
    rows: int
    tolerance: float
    text: str
    stored: str = ""
    effect: float = 0.0


@dataclass(frozen=True, eq=False)
class Part:
    """Layers that share their axes: an encoder, a decoder, the attention of one to the other, an image tower.

    Attributes:
        queries, keys: the axes of the text or image in view.
        axes: [batch] pairs of axes, where the texts of a batch differ.
    """

    name: str
    layers: tuple[Layer, ...]
    queries: Tokens
    keys: Tokens
    title: str = ""
    axes: tuple[tuple[Tokens, Tokens], ...] = ()

    def __post_init__(self) -> None:
        for layer in self.layers:
            if layer.shape[2:] != (len(self.queries), len(self.keys)):
                raise ValueError(
                    f"Layer {layer.name!r} is {layer.shape[2]} queries × {layer.shape[3]} keys, but part {self.name!r} "
                    f"has {len(self.queries)} × {len(self.keys)} tokens."
                )

    @property
    def heads(self) -> int:
        """Largest number of heads of any layer."""
        return max(layer.heads for layer in self.layers)

    @property
    def batch(self) -> int:
        """Number of samples."""
        return max(layer.shape[0] for layer in self.layers)

    @property
    def is_causal(self) -> bool:
        return all(layer.mask.is_causal for layer in self.layers if layer.heads)


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
    ) -> Map:
        """The map of one head, or reduced over the heads of a layer, over the layers of a head, or over both.

        Args:
            layer, head: index, negative from the end; None reduces over that axis.
            reduce: "mean", "max" or "min". Only the mean keeps rows that sum to one.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: no such reduction.
        """
        return Map(self, self.part(part), layer, head, reduce)

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


class Map:
    """One map over the tokens, [query, key]: a head's own or a reduction over several.

    Attributes:
        part: the :class:`Part` it belongs to. layer, head: indices, None where reduced. reduce: how.
        queries, keys: its axes. shape: (number of queries, number of keys).
    """

    def __init__(self, attention: Attention, part: Part, layer: int | None, head: int | None, reduce: Reduce) -> None:
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce is {reduce!r}; it must be one of {', '.join(REDUCTIONS)}.")
        self.part, self.reduce = part, reduce
        self.layer = _index(layer, len(part.layers), "layer", part.name)
        if self.layer is not None and part.layers[self.layer].absent:
            there = ", ".join(str(i) for i, one in enumerate(part.layers) if one.heads)
            raise IndexError(
                f"Layer {self.layer} of {part.name} has no map ({part.layers[self.layer].absent}). These have: {there}."
            )
        bound = part.heads if self.layer is None else part.layers[self.layer].heads
        self.head = _index(head, bound, "head", part.name if self.layer is None else f"{part.name}, layer {self.layer}")
        self.sample = attention.sample_in(part)
        chosen = part.layers if self.layer is None else (part.layers[self.layer],)
        # Layers may differ in their number of heads: head 9 reduced over layers is taken over those that have it.
        self._layers = tuple(one for one in chosen if one.heads > (self.head or 0))

    @property
    def queries(self) -> Tokens:
        return self.part.queries

    @property
    def keys(self) -> Tokens:
        return self.part.keys

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.queries), len(self.keys)

    @property
    def single(self) -> Layer | None:
        """The layer behind the map of one head, None for reduced maps."""
        return self._layers[0] if self.layer is not None and self.head is not None else None

    @on_host
    def row(self, query: int) -> Tensor:
        """What query ``query`` attends to: float32 [key]."""
        return self._rows(torch.tensor([_index(query, self.shape[0], "query", self.part.name)]))[0]

    @on_host
    def column(self, key: int) -> Tensor:
        """How much each query attends to key ``key``: float32 [query]."""
        at = _index(key, self.shape[1], "key", self.part.name)
        return self.tile(slice(None), slice(at, at + 1))[:, 0]  # type: ignore[operator]  # an int in, an int out

    @on_host
    def tile(self, rows: Any, cols: Any) -> Tensor:
        """float32 [row, col] for slices, index lists or tensors of positions."""
        at = _positions(rows, self.shape[0], "rows"), _positions(cols, self.shape[1], "cols")
        if self.single is not None and self.head is not None:
            return self.single.tile(self.sample % self.single.shape[0], self.head, *at)
        blocks = [self._rows(some)[:, at[1]] for some in self._pieces(at[0])]
        return torch.cat(blocks) if blocks else torch.empty(0, len(at[1]))

    @on_host
    def weights(self) -> Tensor:
        """The whole map: float32 [query, key]. Makes n × n numbers, and keeps none of them."""
        return torch.cat([block for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole map in pieces that fit: pairs of row indices [row] and weights [row, key]."""
        for rows in self._pieces(torch.arange(self.shape[0], device="cpu")):
            yield rows, self._rows(rows)

    def grouped(self, by: str | tuple[Sequence[int], Sequence[int]]) -> GroupedMap:
        """The map between groups of tokens: weights summed over the keys of a group, averaged over its queries.

        Args:
            by: "word", "sentence" or "segment"; or the group of each query and of each key, −1 for one by itself.

        Raises:
            ValueError: no such grouping; neither axis has a text; not one group a token.
        """
        if isinstance(by, str):
            if by not in ("word", "sentence", "segment"):
                raise ValueError(f"by is {by!r}; it must be word, sentence, segment or a pair of group numbers.")
            found = [axis.groups(by) for axis in (self.queries, self.keys)]
            if found[0] is None and found[1] is None:
                raise ValueError(
                    f"There is no text to find a {by} in. Capture with the tokenizer, or pass the groups: "
                    "grouped((of_each_query, of_each_key))."
                )
            alone = ((-1,) * size for size in self.shape)
            by_query, by_key = (one if groups is None else groups for groups, one in zip(found, alone, strict=True))
            return GroupedMap(self, by_query, by_key)
        return GroupedMap(self, *by)

    @on_host
    def allowed(self, rows: Tensor) -> Tensor:
        """bool [row, key]: where attending is allowed in at least one of the maps behind this one."""
        found: Tensor | None = None
        for layer in self._layers:
            cells = layer.mask.allowed(self.sample, rows, self.head)
            cells = cells.any(0) if self.head is None else cells
            found = cells if found is None else found | cells
        assert found is not None
        return found

    @property
    def padding(self) -> Tensor:
        """bool [key], True where a key is padding in every layer."""
        kept = [layer.mask.keep[self.sample % len(layer.mask.keep)] for layer in self._layers]
        return ~torch.stack(kept).any(0)

    def _seeing(self, rows: Tensor, block: Tensor) -> Tensor:
        """bool [row]: which rows, of weights ``block``, may attend to anything."""
        seeing = self.allowed(rows).any(-1)
        if self.reduce != "min" and all(layer.weights is not None for layer in self._layers):
            # Stored weights have no padding but rows of zeros; the least of several heads may be that elsewhere.
            seeing &= (block != 0).any(-1)
        return seeing

    def _pieces(self, rows: Tensor) -> Iterator[Tensor]:
        return row_blocks(rows, self.shape[1] * (1 if self.head is not None else self.part.heads))

    @on_host
    def _rows(self, rows: Tensor) -> Tensor:
        result: Tensor | None = None
        count = 0
        for layer in self._layers:
            block, _ = layer.block(self.sample % layer.shape[0], self.head, rows)
            if self.head is None:
                block = _OVER_HEADS[self.reduce](block)
            # The mean over both axes weighs every head alike, also where layers have different numbers of heads.
            count += layer.heads if self.head is None else 1
            result = block if result is None else _JOIN[self.reduce](result, block)
        assert result is not None
        return result / count if self.reduce == "mean" and count > 1 else result

    def __repr__(self) -> str:
        where = f"layer {'*' if self.layer is None else self.layer}, head {'*' if self.head is None else self.head}"
        how = "" if self.single is not None else f", {self.reduce}"
        return f"<Map {self.part.name}, {where}{how}: {self.shape[0]} × {self.shape[1]}>"


class GroupedMap:
    """A map between groups of tokens, [query group, key group], computed from a :class:`Map` when somebody looks.

    What a group of queries attends to is the mean over its tokens, and what a group of keys receives is the sum
    (Clark et al. 2019, section 4.1), so that rows sum to what they summed to: one, or less where they leak. Queries
    that may attend to nothing, which is padding, do not count unless a group has no others.

    >>> import torch
    >>> map = Attention.from_weights(torch.eye(3), tokens=["un", "able", "."])[0, 0]
    >>> map.grouped(([0, 0, 1], [0, 0, 1])).weights()
    tensor([[1., 0.],
            [0., 1.]])

    Attributes:
        map: the map of the single tokens.
        queries, keys: its axes, whose tokens are the groups. shape: (number of query groups, number of key groups).
    """

    def __init__(self, map: Map, of_query: Sequence[int], of_key: Sequence[int]) -> None:
        self.map = map
        self.queries, self.keys = map.queries.grouped(of_query), map.keys.grouped(of_key)
        self._of_query = torch.tensor(numbered(of_query, map.shape[0]), device="cpu")
        self._of_key = torch.tensor(numbered(of_key, map.shape[1]), device="cpu")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.queries), len(self.keys)

    @on_host
    def row(self, query: int) -> Tensor:
        """What group ``query`` attends to: float32 [key group]."""
        return self._rows(torch.tensor([_index(query, self.shape[0], "query group", self.map.part.name)]))[0]

    @on_host
    def column(self, key: int) -> Tensor:
        """How much each group attends to group ``key``: float32 [query group]."""
        at = _index(key, self.shape[1], "key group", self.map.part.name)
        return torch.cat([block[:, at] for _, block in self.blocks()])

    @on_host
    def tile(self, rows: Any, cols: Any) -> Tensor:
        """float32 [row, col] for slices, index lists or tensors of group numbers."""
        at = _positions(rows, self.shape[0], "rows"), _positions(cols, self.shape[1], "cols")
        blocks = [self._rows(some)[:, at[1]] for some in row_blocks(at[0], self.shape[1])]
        return torch.cat(blocks) if blocks else torch.empty(0, len(at[1]))

    @on_host
    def weights(self) -> Tensor:
        """The whole map: float32 [query group, key group]. The map of the tokens is never there as a whole."""
        return torch.cat([block for _, block in self.blocks()])

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The whole map in pieces that fit: pairs of group numbers [row] and weights [row, key group]."""
        for rows in row_blocks(torch.arange(self.shape[0], device="cpu"), self.shape[1]):
            yield rows, self._rows(rows)

    @on_host
    def _rows(self, groups: Tensor) -> Tensor:
        wanted, back = groups.unique(return_inverse=True)
        at = torch.full((self.shape[0],), -1)
        at[wanted] = torch.arange(len(wanted))
        total = torch.zeros(len(wanted), self.shape[1], dtype=torch.float64)
        counted = torch.zeros(len(wanted), 1, dtype=torch.float64)
        for rows in self.map._pieces((at[self._of_query] >= 0).nonzero()[:, 0]):
            block = self.map._rows(rows)
            seeing = self.map._seeing(rows, block)
            merged = torch.zeros(len(rows), self.shape[1], dtype=torch.float64)
            merged.scatter_add_(1, self._of_key.expand(len(rows), -1), block.double())
            into = at[self._of_query[rows]][seeing]
            total.index_add_(0, into, merged[seeing])
            counted.index_add_(0, into, torch.ones(len(into), 1, dtype=torch.float64))
        return (total / counted.clamp(min=1))[back].float()

    def __repr__(self) -> str:
        return f"<{self.map!r} in {self.shape[0]} × {self.shape[1]} groups>"


# ── reading what the caller brought ───────────────────────────────────────────────────────────────────────────────────


def in_words(size: int) -> str:
    """A number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _index(value: int | None, size: int, what: str, where: str) -> int | None:
    if value is None:
        return None
    position = operator.index(value)
    if not -size <= position < size:
        raise IndexError(f"There is no {what} {value} in {where}: it has {size}, 0 to {size - 1}.")
    return position % size


def _positions(chosen: Any, size: int, what: str) -> Tensor:
    if isinstance(chosen, slice):
        return torch.tensor(range(size)[chosen], dtype=torch.long)
    given = torch.as_tensor(chosen).reshape(-1)
    if given.dtype == torch.bool:
        if len(given) != size:
            raise IndexError(f"{what} is a choice of {len(given)} positions, but there are {size}.")
        given = given.nonzero()[:, 0]
    at = given.to(torch.long)
    if at.numel() and (int(at.min()) < -size or int(at.max()) >= size):
        raise IndexError(f"{what} reach from {int(at.min())} to {int(at.max())}, but there are {size}.")
    return at % size if size else at


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
