"""How far a picture can be trusted on this very input: what maps say matters, beside what cutting it changes, exactly.

Two questions are asked of each ranking. Does it put edges in the order of what the output loses without them? And does
the output fall once the tokens that it ranks first are hidden, or stay when all others are (comprehensiveness and
sufficiency, DeYoung et al. 2020), sooner than in a random order?
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import psutil
import torch
from torch import Tensor, nn

from .attribution import attribute
from .chosen import within
from .copies import Entry, changes, doubled, refuse_long
from .inputs import is_encoder_decoder
from .layers import Part
from .masks import on_host
from .trace import Cut, Trace, trace

Cell: TypeAlias = tuple[int, ...]

CUTS: tuple[Cut, ...] = ("zero", "knock-out")
COMPARED = ("mean", "rollout", "norm-sum", "chefer")
"""The maps that :func:`faithfulness` asks about unless told otherwise, beside the weights and the two estimates."""
_ESTIMATES: dict[str, Cut] = {"gradient": "zero", "knock-out": "knock-out"}
_POINTS = 10  # of a curve


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation, from −1 to 1; equal numbers share their mean rank. NaN where one of the two never changes.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 30.0, 20.0]))
    0.5
    """
    ranks = []
    for one in (a, b):
        _, place, count = torch.unique(one, return_inverse=True, return_counts=True)
        rank = (count.cumsum(0) - (count - 1) / 2)[place].double()
        ranks.append(rank - rank.mean())
    x, y = ranks
    return float((x @ y) / (x.square().sum() * y.square().sum()).sqrt())


@dataclass(frozen=True, eq=False)
class Agreement:
    """Scores of the same edges by several rankings, and what cutting each of them changes.

    Attributes:
        cells: which edges: (layer, head, query, key); or (query, key) for those that are cut in all heads at once.
        total: how many can matter: they have a weight, and the objective can be reached from their query. Where that
            is more than there are ``cells``, these are drawn from them at random.
        exact: by cut, "zero" or "knock-out", the change of the objective: float64 [cell].
        scores: by ranking, float64 [cell]. Estimates of the change have its units and its sign.
    """

    cells: tuple[Cell, ...]
    total: int
    exact: Mapping[Cut, Tensor]
    scores: Mapping[str, Tensor]

    def rank(self, ranking: str, cut: Cut | None = None, *, signed: bool = False) -> float:
        """Spearman's correlation of the sizes of scores and changes; of the two as they are, where ``signed``.

        Args:
            cut: which change; what the ranking estimates unless given: "knock-out" of that, "zero" of all others.

        Raises:
            KeyError: no such ranking or cut.
        """
        cut = cut or ("knock-out" if ranking == "knock-out" else "zero")
        score, exact = self.scores[ranking], self.exact[cut]
        return spearman(score, exact) if signed else spearman(score.abs(), exact.abs())


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of the objective as tokens are hidden from all others, by rankings of the tokens.

    A hidden token gets no weight in any head of the part; the rest of each row takes its place.

    Attributes:
        tokens: how many tokens there are to hide. counts: [point], how many are hidden, or left.
        deletion: by ranking, change of the objective with the first ones hidden: float64 [point].
        sufficiency: with all but the first ones hidden.
        random_deletion, random_sufficiency: in orders drawn at random: float64 [repeat, point].
    """

    tokens: int
    counts: tuple[int, ...]
    deletion: Mapping[str, Tensor]
    sufficiency: Mapping[str, Tensor]
    random_deletion: Tensor
    random_sufficiency: Tensor


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """How far rankings of edges and tokens agree with what cutting them does; what :func:`faithfulness` returns.

    Attributes:
        words: the objective. value: what it is. part: of which part of the model.
        edges: single edges. pairs: query and key, cut in all layers and heads at once.
        curves: tokens hidden one after the other.
        left_out: by method, why it could not be asked here.
        precision: in which the model ran: "float64", or its own.
    """

    words: str
    value: float
    part: str
    edges: Agreement
    pairs: Agreement
    curves: Curves
    left_out: Mapping[str, str]
    precision: str

    def table(self) -> str:
        """Markdown: for each ranking Spearman's correlations with exact cuts, and the mean of its curves."""
        heads = ["ranking", "edges, zeroed", "edges, knocked out", "pairs, zeroed", "pairs, knocked out"]
        rows = [[*heads, "first tokens hidden", "only they left"]]
        for name in dict.fromkeys([*self.edges.scores, *self.pairs.scores]):
            row = [name]
            for of in (self.edges, self.pairs):
                for cut in CUTS:
                    row.append(f"{of.rank(name, cut):.2f}" if name in of.scores else "")
                    if _ESTIMATES.get(name) == cut:
                        row[-1] += f" (signed {of.rank(name, cut, signed=True):.2f})"
            for curve in (self.curves.deletion, self.curves.sufficiency):
                row.append(f"{float(curve[name].mean()):+.3g}" if name in curve else "")
            if name == "random":
                for drawn in (self.curves.random_deletion, self.curves.random_sufficiency):
                    each = drawn.mean(1)
                    row[row.index("", 4)] = f"{float(each.mean()):+.3g} ± {float(each.std(correction=0)):.2g}"
            rows.append(row)
        rows.insert(1, [":---", *["---:"] * (len(heads) + 1)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {self.edges.rank(name):.2f}" for name in self.edges.scores)
        return f"<Faithfulness of {self.words}: {len(self.edges.cells)} of {self.edges.total} edges; {best}>"


@on_host
def faithfulness(
    model: nn.Module | Trace,
    inputs: Any = None,
    tokenizer: Any = None,
    *,
    objective: Any = None,
    part: str | None = None,
    methods: Sequence[str] = COMPARED,
    edges: int | Collection[Cell] = 1000,
    pairs: int = 500,
    repeats: int = 20,
    seed: int = 0,
    double: bool | None = None,
    progress: bool = True,
    **forward: Any,
) -> Faithfulness:
    """Whether what maps of this very input say matters is what matters: beside exact cuts, and beside chance.

    Rankings of single edges are the "weight", the "norm" of what it carries, the first-order estimates "gradient" (of
    setting it to zero) and "knock-out", and "random". Of pairs of tokens and of tokens the ``methods`` are asked, too.
    Of tokens they tell by the row of the token that the objective is read from, or by the mean of all rows where that
    is none of the part's. Where a model attends within windows, it is all of the window in view.

    Args:
        model, inputs, tokenizer, objective, **forward: as for :func:`~attnwidget.trace`; or a trace of them.
        part: which part of the model; the first unless given.
        methods: of :data:`~attnwidget.attribution.METHODS`, those that make maps [query, key].
        edges: how many of the edges that can matter are drawn, or which (layer, head, query, key).
        pairs: how many pairs (query, key) are drawn. repeats: how many random orders of tokens. seed: of the draws.
        double: cut in a copy of the model that computes in float64: what an edge changes is often less than float32
            tells one run from another by. Where memory allows, unless given.
        progress: a bar where it takes longer than a second.

    Raises:
        ValueError: nothing that could matter; numbers below 1; more runs of the model than an hour has room for; a
            model that cannot compute in float64, if that was asked for; and as :func:`~attnwidget.trace`.
        IndexError: no such edge. KeyError: no such part.

    >>> from attnwidget import tiny
    >>> model, tokenizer = tiny.decoder()
    >>> found = faithfulness(model, "The cat sat on the mat. The cat", tokenizer, edges=200, pairs=20, repeats=3)
    >>> found.edges.rank("gradient") > 0.95 > found.edges.rank("weight")
    True
    """
    if not isinstance(model, Trace):
        model = trace(model, inputs, tokenizer, objective=objective, **forward)
    elif inputs is not None or objective is not None or forward:
        raise ValueError("A trace has its own inputs and objective: leave them out, or pass the model instead.")
    for name, number in (("edges", edges), ("pairs", pairs), ("repeats", repeats)):
        if isinstance(number, int) and number < 1:
            raise ValueError(f"{name} is {number}; it is 1 or more.")
    own, run = model, _precise(model, double)
    of = run.attention.part(part)
    draw = torch.Generator().manual_seed(seed)
    matter = _matter(run, of)
    chosen, total = (
        _drawn(matter, edges, draw) if isinstance(edges, int) else (_given(edges, of), sum(map(_count, matter)))
    )
    maps, left_out = _maps(own, run, of, methods)
    seen = functools.reduce(torch.logical_or, (one() for _, _, one in matter))
    which, every = _drawn([(0, 0, lambda: seen)], pairs, draw)
    if not chosen or not which:
        raise ValueError(f"Nothing in {of.name} can reach {run.objective.words}: there is nothing to cut.")
    hidden = 2 * (_POINTS + 1) * (len(maps) + repeats)
    instead = "Give a shorter text, or smaller numbers: edges=, pairs=, repeats=."
    refuse_long("faithfulness", [run], of.name, len(CUTS) * (len(chosen) + len(which)) + hidden, instead)

    def exactly(cells: Sequence[Entry]) -> dict[Cut, Tensor]:
        cut = [[cell] for cell in cells]
        return {
            how: changes(run, edges=cut, part=of.name, renormalise=how == "knock-out", progress=progress)
            for how in CUTS
        }

    at = tuple(torch.tensor(which).T[2:])
    scores = {name: values[at].double() for name, values in maps.items()}
    scores["random"] = torch.rand(len(which), generator=draw, dtype=torch.float64)
    return Faithfulness(
        words=run.objective.words,
        value=run.value,
        part=of.name,
        edges=Agreement(tuple(chosen), total, exactly(chosen), _scores(own, run, of, chosen, left_out, draw)),
        pairs=Agreement(
            tuple((i, j) for _, _, i, j in which), every, exactly([(None, None, i, j) for _, _, i, j in which]), scores
        ),
        curves=_curves(run, of, maps, seen, repeats, draw, progress),
        left_out=left_out,
        precision=str(next(run.model.parameters()).dtype).removeprefix("torch."),
    )


def _precise(run: Trace, double: bool | None) -> Trace:
    if double is None:
        size = 8 * sum(one.numel() for one in run.model.parameters())
        if size > psutil.virtual_memory().available / 4:
            return run
        try:
            return doubled(run)
        except ValueError:
            return run
    return doubled(run) if double else run


# ── which edges, and what is said of them ────────────────────────────────────────────────────────────────────────────

# Layer, head, and what finds which of its edges can matter, bool [query, key]: held for one head at a time.
_Matter: TypeAlias = tuple[int, int, Callable[[], Tensor]]


def _matter(run: Trace, of: Part) -> list[_Matter]:
    reaches = run.reaches(of.name)

    def finder(layer: int, head: int) -> Callable[[], Tensor]:
        return lambda: (run.attention[of.name, layer, head].weights() > 0) & reaches[layer][head][:, None]

    return [(at, head, finder(at, head)) for at, layer in enumerate(of.layers) for head in range(layer.heads)]


def _count(one: _Matter) -> int:
    return int(one[2]().sum())


def _drawn(matter: Sequence[_Matter], most: int, draw: torch.Generator) -> tuple[list[Cell], int]:
    """So many of those that can matter, in order, and how many there are."""
    counts = list(map(_count, matter))
    total = sum(counts)
    places = torch.randperm(total, generator=draw)[:most].sort().values if total > most else torch.arange(total)
    found: list[Cell] = []
    start = 0
    for (layer, head, find), count in zip(matter, counts, strict=True):
        mine = places[(places >= start) & (places < start + count)] - start
        if len(mine):
            found += [(layer, head, i, j) for i, j in find().nonzero()[mine].tolist()]
        start += count
    return found, total


def _given(edges: Collection[Cell], of: Part) -> list[Cell]:
    found: list[Cell] = []
    for one in edges:
        if len(one) != 4:
            raise ValueError(f"edges holds {one}; an edge is (layer, head, query, key).")
        layer = within(one[0], len(of.layers), "layer", of.name)
        sizes = (*of.layers[layer].shape[1:],)
        nouns = ("head", "query", "key")
        rest = (within(n, size, noun, of.name) for n, size, noun in zip(one[1:], sizes, nouns, strict=True))
        found.append((layer, *rest))
    return found


def _maps(own: Trace, run: Trace, of: Part, methods: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """By name [query, key], and why some methods make none here."""
    found: dict[str, Tensor] = {}
    left_out: dict[str, str] = {}
    for name in methods:
        try:
            values = attribute(own, name, part=of.name, progress=False).values
        except ValueError as problem:
            left_out[name] = str(problem)
            continue
        if values.shape == (len(of.queries), len(of.keys)):
            found[name] = values
        else:
            left_out[name] = f"its map is {values.shape[0]} × {values.shape[1]}: it is of one token."
    for name, cut in _ESTIMATES.items():
        found[name] = run.effects(part=of.name, cut=cut).weights()
    return found, left_out


def _scores(
    own: Trace, run: Trace, of: Part, cells: Sequence[Cell], left_out: dict[str, str], draw: torch.Generator
) -> dict[str, Tensor]:
    """By ranking, of single edges: float64 [cell]."""
    by_head: dict[tuple[int, int], list[int]] = {}
    for number, (layer, head, _, _) in enumerate(cells):
        by_head.setdefault((layer, head), []).append(number)
    at = torch.tensor(cells).T[2:]

    def norm(layer: int, head: int) -> Tensor:
        return attribute(own, "norm", part=of.name, layer=layer, head=head, progress=False).values

    def estimate(cut: Cut, layer: int, head: int) -> Tensor:
        return run.effects(layer, head, part=of.name, cut=cut).weights()

    maps: dict[str, Callable[[int, int], Tensor]] = {
        "weight": lambda layer, head: run.attention[of.name, layer, head].weights(),
        "norm": norm,
        **{name: functools.partial(estimate, cut) for name, cut in _ESTIMATES.items()},
    }
    found = {}
    for name, make in maps.items():
        score = torch.zeros(len(cells), dtype=torch.float64)
        try:
            for (layer, head), numbers in by_head.items():
                score[numbers] = make(layer, head)[tuple(at[:, numbers])].double()
        except ValueError as problem:
            left_out[name] = str(problem)
            continue
        found[name] = score
    return found | {"random": torch.rand(len(cells), generator=draw, dtype=torch.float64)}


# ── tokens hidden one after the other ────────────────────────────────────────────────────────────────────────────────


def _curves(
    run: Trace, of: Part, maps: Mapping[str, Tensor], seen: Tensor, repeats: int, draw: torch.Generator, progress: bool
) -> Curves:
    tokens = seen.any(0).nonzero()[:, 0]
    orders = {name: _order(run, of, name, values, tokens) for name, values in maps.items()}
    drawn = [tokens[torch.randperm(len(tokens), generator=draw)].tolist() for _ in range(repeats)]
    counts = sorted({round(x) for x in torch.linspace(0, len(tokens), _POINTS + 1).tolist()})
    every = [*orders.values(), *drawn]
    hidden = [order[:count] for order in every for count in counts]
    hidden += [order[count:] for order in every for count in counts]
    cut = [[(None, None, None, key) for key in keys] for keys in hidden]
    found = changes(run, edges=cut, part=of.name, renormalise=True, progress=progress, words="hiding tokens")
    deletion, sufficiency = found.reshape(2, len(every), len(counts))
    named = len(orders)
    return Curves(
        tokens=len(tokens),
        counts=tuple(counts),
        deletion=dict(zip(orders, deletion, strict=False)),
        sufficiency=dict(zip(orders, sufficiency, strict=False)),
        random_deletion=deletion[named:],
        random_sufficiency=sufficiency[named:],
    )


def _order(run: Trace, of: Part, name: str, values: Tensor, tokens: Tensor) -> list[int]:
    """The tokens, the one that matters most first."""
    role = of.name.split()[0]
    elsewhere = role in ("vision", "audio") or (role == "encoder" and is_encoder_decoder(run.model))
    at = None if elsewhere else run.objective.position
    if name in _ESTIMATES:
        # Hidden everywhere, a token loses its whole column. Of a logit it is known which tokens speak for it: those
        # without which it falls. A loss falls when it gets better.
        score = values.sum(0)
        score = -score if run.objective.ids else score.abs()
    else:
        score = (values.mean(0) if at is None else values[at]).abs()
    return [int(key) for key in tokens[score[tokens].argsort(descending=True, stable=True)]]
