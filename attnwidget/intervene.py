"""Acting on the attention of a running model: heads silenced, edges cut, tokens hidden; and what that changes.

What is changed is what an attention call puts out, while a ``with`` block is open. No weight of the model is touched.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .acting import Acting, Entry, cut_of, cuts_of, entries_of, marked, refuse_absent, within
from .attention import Attention
from .capture import record
from .compare import Difference, compare
from .inputs import is_encoder_decoder, unwrapped
from .interface import Change
from .objective import logits_of
from .parts import Call, role_of
from .reweigh import Scores, refuse_shape, reweighed, softmax, wide
from .trace import Trace, trace

N = TypeVar("N", int, float)
How: TypeAlias = Literal["zero", "mean", "uniform"]
HOW: dict[How, str] = {
    "zero": "its output is set to zero",
    "mean": "its output is set to its mean over the text",
    "uniform": "its weights are spread evenly over all keys that it may attend to",
}


def ablate(
    model: nn.Module,
    heads: Collection[Sequence[int | None]] = (),
    how: How = "zero",
    *,
    part: str | None = None,
    edges: Collection[Sequence[int | None]] = (),
    renormalise: bool = False,
    tokens: Collection[int] = (),
    temperature: float | None = None,
    among: Collection[Sequence[int | None]] | None = None,
) -> Ablation:
    """Change the attention of ``model`` while a with block is open; several changes at once, and blocks in blocks.

    Every run inside the block is changed: the model is called, captured or generates as always, in evaluation mode or
    in training, with gradients or without. A :func:`~attnwidget.capture` inside shows the weights that were used.
    Heads and rows that are not named stay what they are to the last bit.

    Args:
        model: whose runs are changed; its weights are not.
        heads: (layer, head) to ablate; None in place of a number stands for all of them, and negative numbers count
            from the end. A third number names one sample of the batch.
        how: "zero": a head puts out nothing; "mean": at every token its mean over the tokens of the text that are no
            padding; "uniform": all keys that a query may attend to weigh the same.
        part: which part of the model ("encoder", "decoder", "cross", "vision"); the first unless given.
        edges: (layer, head, query, key), whose weight is set to 0; None stands for all, so that (2, 0, None, 3) is a
            column. A fifth number names one sample.
        renormalise: cut edges as if masked (knock-out, Geva et al. 2023): the rest of the row takes their place.
        tokens: keys that nobody may attend to; the rest of each row takes their place.
        temperature: T > 0 of softmax(scores / T): below 1 sharper, above 1 flatter. Bias, soft-cap and sink included.
        among: heads (layer, head) in which ``tokens`` are hidden and ``temperature`` holds; all of the part unless
            given.

    A query that may attend to nothing any more puts out zero. Dropout on weights does not act on rows that are changed.
    Of blocks in blocks weights are changed first, and outputs of those weights, whichever is opened first. Where
    gradient checkpointing runs attention again it is changed again, if the gradients are computed inside the block.

    Raises:
        ValueError: nothing to change; no such layer or head; numbers that make no sense. While the model runs: no such
            query, key or token in its map; attention that does not show its values; a mean over a text of which a part
            is out of a cache; gradient checkpointing on a GPU.
        RuntimeError: gradients are computed outside the block, and checkpointing would run the model unchanged there.
        TypeError: ``model`` is no model.

    Warns:
        UserWarning: at the end of the block, of what was named and never ran.

    >>> from attnwidget import tiny
    >>> model, tokenizer = tiny.decoder()
    >>> ids = tokenizer("The cat sat on the mat. The cat sat on the", return_tensors="pt")
    >>> with ablate(model, heads=[(1, None)]):  # the layer of the induction head
    ...     other = model(**ids).logits[0, -1]
    >>> mat = tokenizer.convert_tokens_to_ids("Ġmat")
    >>> bool(other[mat] < model(**ids).logits[0, -1, mat] - 1)
    True
    """
    if how not in HOW:
        raise ValueError(f"how is {how!r}; it may be {', '.join(map(repr, HOW))}.")
    if temperature is not None and not (isinstance(temperature, (int, float)) and 0 < temperature < math.inf):
        raise ValueError(f"temperature is {temperature}; it is a positive number: 1 changes nothing.")
    if among is not None and not tokens and temperature is None:
        raise ValueError("among says in which heads tokens= are hidden and temperature= holds: give one of them.")
    if how != "zero" and not heads:
        raise ValueError("how says what becomes of heads=: give some. Edges are cut, and renormalise= says how.")
    if renormalise and not edges:
        raise ValueError("renormalise says how edges= are cut: give some.")
    unwrapped(model)
    named, cut = entries_of(heads, 2, "heads"), entries_of(edges, 4, "edges")
    hidden = tuple(tokens)
    if any(isinstance(one, bool) or not isinstance(one, Integral) for one in hidden):
        raise ValueError(f"tokens is {list(hidden)}; it holds the numbers of keys.")
    where = entries_of([(None, None)] if among is None else among, 2, "among") if hidden or temperature else ()
    if not (named or cut or where):
        raise ValueError("There is nothing to change: give heads=, edges=, tokens= or temperature=.")
    refuse_absent(model, [*named, *cut, *where])
    acting: list[Acting] = []
    uniform = named if how == "uniform" else ()
    if uniform or cut or where:
        acting.append(_Weights(model, part, uniform, cut, renormalise, hidden, temperature or 1.0, where))
    if named and not uniform:
        acting.append(_Outputs(model, part, named, how))
    return Ablation(acting)


class Ablation(contextlib.AbstractContextManager["Ablation"]):
    """What :func:`ablate` returns: open it around the runs that are to be changed, as often as you like."""

    def __init__(self, acting: Sequence[Acting]) -> None:
        self._acting = tuple(acting)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Ablation:
        with contextlib.ExitStack() as stack:
            for one in self._acting:
                stack.enter_context(one)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._stack.__exit__(kind, *error)
        missed = [] if kind is not None else [one.words for acting in self._acting for one in acting.missed]
        if missed:
            more = f" and {len(missed) - 1} more" if len(missed) > 1 else ""
            parts = ", ".join(dict.fromkeys(name for acting in self._acting for name in acting.parts))
            warnings.warn(
                f"Nothing was changed at {missed[0]}{more}: no such attention ran inside the block. "
                + (f"What ran has the parts {parts}: say which with part=." if parts else "The model did not run."),
                stacklevel=2,
            )


class _Outputs(Acting):
    """What heads put out, set to zero or to their mean."""

    turn_of = 2  # a head that is silenced stays so
    looks = False

    def __init__(self, model: nn.Module, part: str | None, heads: Sequence[Entry], how: How) -> None:
        super().__init__(model, part, heads)
        self.how = how

    def change(self, call: Call) -> Change | None:
        place = self.place(call)
        entries = [] if place is None else self.of_call(call, place, self.entries)
        if not entries:
            return None
        if self.how == "mean":
            self._refuse_cached(call)
        chosen = marked(call, entries)[..., None, None]

        def apply(out: Tensor) -> Tensor:
            refuse_shape(call, out)
            there = chosen.to(out.device)
            if self.how == "zero":
                return out.masked_fill(there, 0.0)
            padding = self._padding(call)
            told = wide(out) if padding is None else wide(out).masked_fill(padding.to(out.device), 0.0)
            count = out.shape[2] if padding is None else (~padding.to(out.device)).sum(2, keepdim=True).clamp_min(1)
            return torch.where(there, (told.sum(2, keepdim=True) / count).to(out.dtype), out)

        told = {}
        if self.how == "zero" and call.v is not None and self.others(call.module):
            # For those who look on it is the values that are zero. No values of their own come to a mean: of that, what
            # the weights give is shown, and the note says the rest.
            each = call.v.repeat_interleave(call.shape[1] // call.v.shape[1], 1)
            told = {"v": each.masked_fill(chosen.to(each.device), 0.0)}
        return Change(apply, told, f"the output of {_words(entries, call)} was {_DONE[self.how]}")

    def begin(self, given: dict[str, Any]) -> None:
        super().begin(given)
        held = given.get("past_key_values")
        length = getattr(held, "get_seq_length", lambda: 0)
        self._cached = int(length()) > 0

    def _refuse_cached(self, call: Call) -> None:
        queries, keys = call.shape[2:]
        across = role_of(self.model, call.name, call.shape, None) == "cross"
        if self._cached or (queries < keys and not across):
            raise ValueError(
                f"There is no mean over the text in {call.name}: only {queries} of it are computed in this run, beside "
                f"{keys} keys, the rest is out of a cache. Run the whole text at once (use_cache=False)."
            )

    def _padding(self, call: Call) -> Tensor | None:
        """bool [batch, 1, query, 1]; None where there is none."""
        batch, _, queries, _ = call.shape
        role = role_of(self.model, call.name, call.shape, None)
        decodes = is_encoder_decoder(self.model) and role in ("decoder", "cross")
        keep = self.inputs.keep_decoded if decodes else self.inputs.keep
        if keep is None or keep.shape != (batch, queries) or role in ("vision", "audio"):
            return None
        return ~keep[:, None, :, None]


_DONE = {"zero": "set to zero", "mean": "set to its mean over the text"}


def _words(entries: Sequence[Entry], call: Call) -> str:
    heads = {one.head for one in entries if one.head is not None}
    every = len(heads) in (0, call.shape[1]) or any(one.head is None for one in entries)
    return "all heads" if every else ", ".join(f"head {head}" for head in sorted(heads))


class _Weights(Acting):
    """Weights that are others: their rows are computed anew, and multiply the values."""

    turn_of = 1

    def __init__(
        self, model: nn.Module, part: str | None, uniform: Sequence[Entry], edges: Sequence[Entry],
        renormalise: bool, tokens: Sequence[int], temperature: float, where: Sequence[Entry],
    ) -> None:  # fmt: skip
        super().__init__(model, part, [*uniform, *edges, *where])
        self.uniform, self.edges, self.renormalise = uniform, edges, renormalise
        self.tokens, self.temperature, self.where = tokens, temperature, where

    def change(self, call: Call) -> Change | None:
        place = self.place(call)
        if place is None:
            return None
        uniform, edges, where = (self.of_call(call, place, one) for one in (self.uniform, self.edges, self.where))
        if not (uniform or edges or where):
            return None
        batch, heads, queries, keys = call.shape
        tokens = [within(one, keys, "token", call.name) for one in self.tokens]
        edges = [
            one._replace(
                query=None if one.query is None else within(one.query, queries, "query", call.name),
                key=None if one.key is None else within(one.key, keys, "key", call.name),
            )
            for one in edges
        ]
        evenly, hidden = marked(call, uniform), marked(call, where)
        columns, places = cuts_of(edges, call)

        def edit(scores: Scores, heads: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            s, may = scores.s, scores.s > -torch.inf
            device = s.device
            cut = cut_of(columns, places, heads.cpu(), rows.tolist()).to(device)
            removed = cut if self.renormalise else torch.zeros_like(cut)
            chosen = hidden.to(device)[:, heads][..., None]
            if tokens:
                at = torch.zeros(keys, dtype=torch.bool, device=device)
                at[tokens] = True
                removed = removed | (chosen[..., None] & at)
            warm = torch.where(chosen, self.temperature, 1.0)[..., None].to(s)
            sink = None if scores.sink is None else scores.sink / warm
            p = softmax((s / warm).masked_fill(removed, -torch.inf), sink)
            level = evenly.to(device)[:, heads][..., None]
            if uniform:
                left = may & ~removed
                even = left.to(s) / left.sum(-1, keepdim=True).clamp_min(1)
                p = torch.where(level[..., None], even, p)
            changed = (cut & may).any(-1) | (removed & may).any(-1) | level
            if self.temperature != 1.0:
                changed = changed | chosen
            return (p if self.renormalise else p.masked_fill(cut, 0.0)), changed.expand(p.shape[:-1])

        everything = bool(uniform or where) or any(one.head is None for one in edges)
        some_heads = sorted({one.head for one in edges if one.head is not None})
        whole = bool(uniform or where) or any(one.query is None for one in edges)
        some_rows = sorted({one.query for one in edges if one.query is not None})
        return reweighed(
            call, edit, range(heads) if everything else some_heads, range(queries) if whole else some_rows,
            watched=self.others(call.module),
        )  # fmt: skip


# ── what that changes ────────────────────────────────────────────────────────────────────────────────────────────────


def effect(
    run: Trace | nn.Module,
    inputs: Any = None,
    tokenizer: Any = None,
    *,
    objective: Any = None,
    position: int | None = None,
    target: str | None = None,
    by: contextlib.AbstractContextManager[Any] | None = None,
    heads: Collection[Sequence[int | None]] = (),
    how: How = "zero",
    part: str | None = None,
    edges: Collection[Sequence[int | None]] = (),
    renormalise: bool = False,
    tokens: Collection[int] = (),
    temperature: float | None = None,
    among: Collection[Sequence[int | None]] | None = None,
) -> Effect:
    """What an intervention changes of a model's answer, exactly: the model runs with it.

    Args:
        run: a :class:`~attnwidget.Trace`, so that several questions share what it was before; or a model, which is
            then traced with ``inputs``, ``tokenizer``, ``objective``, ``position`` and ``target``.
        inputs, tokenizer, objective, position, target: as for :func:`~attnwidget.trace`.
        by: the intervention, where it is not one of :func:`ablate`: :func:`~attnwidget.positions`, say.
        heads, how, part, edges, renormalise, tokens, temperature, among: as for :func:`ablate`.

    Raises:
        ValueError, TypeError: as :func:`~attnwidget.trace` and :func:`ablate`; inputs beside a trace, which has its
            own; a trace of a model that does something else now.

    >>> from attnwidget import tiny
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    >>> told = effect(run, heads=[(1, None)])
    >>> told.delta < -1, told.rank[0]
    (True, 1)
    """
    if isinstance(run, Trace):
        if any(one is not None for one in (inputs, tokenizer, objective, position, target)):
            raise ValueError("A trace has its own inputs and objective: leave them out, or pass the model instead.")
    else:
        unwrapped(run)
        if inputs is None:
            raise ValueError("Say what the model reads: effect(model, text, tokenizer, heads=[(5, 3)]).")
    model = run.model if isinstance(run, Trace) else run
    made = ablate(
        model, heads, how, part=part, edges=edges, renormalise=renormalise, tokens=tokens, temperature=temperature,
        among=among,
    ) if by is None else by  # fmt: skip
    if by is not None and (heads or edges or tokens or temperature is not None):
        raise ValueError("by= is the whole intervention: leave heads=, edges=, tokens= and temperature= out.")
    if isinstance(run, Trace):
        run.refuse_changed()
    else:
        run = trace(run, inputs, tokenizer, objective=objective, position=position, target=target)
    with made:
        output = run.run()
        after = _Measured(float(run.objective.scalar(output)), _row(run, output))
    return Effect(run, made, _Measured(run.value, run.logits), after)


class _Measured(NamedTuple):
    """What came out of a run: the objective, and the logits it is of."""

    value: float
    logits: Tensor | None


def _row(run: Trace, output: Any) -> Tensor | None:
    if run.logits is None:
        return None
    every = logits_of(output).float().cpu()[0]
    return every if run.objective.position is None else every[run.objective.position]


@dataclass(frozen=True, eq=False)
class Effect:
    """What an intervention changed; what :func:`effect` returns.

    Pairs are (before, after). Where the objective is no logit of a token or class, all but ``value`` are None.

    Attributes:
        run: what was asked about. by: the intervention.
    """

    run: Trace
    by: contextlib.AbstractContextManager[Any]
    _before: _Measured
    _after: _Measured

    @property
    def words(self) -> str:
        """What the objective is."""
        return self.run.objective.words

    @property
    def value(self) -> tuple[float, float]:
        """The objective."""
        return self._before.value, self._after.value

    @property
    def delta(self) -> float:
        """By how much the objective changed."""
        return self._after.value - self._before.value

    @property
    def logit(self) -> tuple[float, float] | None:
        """Of the token or class that the objective is of, the first of a pair."""
        return self._both(lambda row, at: float(row[at]))

    @property
    def p(self) -> tuple[float, float] | None:
        """Its probability, between 0 and 1."""
        return self._both(lambda row, at: float(row.double().softmax(0)[at]))

    @property
    def rank(self) -> tuple[int, int] | None:
        """How many have a larger logit, and itself: 1 for the most likely."""
        return self._both(lambda row, at: 1 + int((row > row[at]).sum()))

    @property
    def kl(self) -> float | None:
        """Kullback–Leibler divergence of all probabilities, before from after, in nats: 0 where none changed."""
        if self._before.logits is None or self._after.logits is None:
            return None
        p, q = (one.double().log_softmax(0) for one in (self._before.logits, self._after.logits))
        # A logit of −inf has no probability, and no part in the sum.
        return max(0.0, float(torch.where(p > -torch.inf, p.exp() * (p - q), 0.0).sum()))

    def _both(self, of: Callable[[Tensor, int], N]) -> tuple[N, N] | None:
        before, after = self._before.logits, self._after.logits
        if before is None or after is None:
            return None
        at = self.run.objective.ids[0]
        return of(before, at), of(after, at)

    @cached_property
    def attention(self) -> Attention:
        """Of the run with the intervention: the model runs once more, when this is first asked for."""
        recorder = record(self.run.model, self.run.tokenizer)
        recorder.texts, recorder.targets = self.run.given.texts, self.run.given.targets
        with self.by, recorder:
            self.run.run()
        return recorder.attention

    @cached_property
    def difference(self) -> Difference:
        """The attention with the intervention less that without, to be shown."""
        return compare(self.attention, self.run.attention, names=("changed", "as it is"))

    def changed(self, k: int = 10, part: str | None = None) -> list[tuple[int, int, float]]:
        """The k heads whose maps changed most: (layer, head, change); see :meth:`Difference.change`."""
        return self.difference.ranking(k, part)

    def __repr__(self) -> str:
        told = f"{self.words} {self.value[0]:.4g} → {self.value[1]:.4g} ({self.delta:+.3g})"
        p, rank = self.p, self.rank
        if p is not None and rank is not None and self.kl is not None:
            told += f", p {p[0]:.3g} → {p[1]:.3g}, rank {rank[0]} → {rank[1]}, KL {self.kl:.3g} nats"
        return f"<Effect: {told}>"
