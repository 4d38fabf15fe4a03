"""One map over the tokens, [query, key], however it was found: what a method returns, and the table of all methods.

The methods themselves are in ``flows.py`` (of weights alone), ``contributions.py`` and ``interactions.py`` (of what the
values make of them), and ``gradients.py`` (of one number that came out of the model). They share one signature,

    method(run, *, part=None, …, progress=True) -> Attribution

where ``run`` is an :class:`~attnwidget.Attention`, or a :class:`~attnwidget.Trace`, which every method takes and some
need.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypeVar

import psutil
from torch import Tensor
from tqdm.auto import tqdm

from . import recipe
from .attention import Attention
from .chosen import within
from .compare import Difference, compare
from .layers import Layer, Part
from .masks import Mask
from .shown import in_words
from .tokens import Tokens
from .trace import Trace, attention_of

Run: TypeAlias = Attention | Trace
Needs: TypeAlias = Literal["attention", "values", "gradients", "model"]
_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, eq=False)
class Attribution:
    """What a method says of every pair of tokens.

    Attributes:
        values: float32 [query, key]; [1, key] where it is of one token.
        queries, keys: the axes of ``values``.
        method: its name in :data:`METHODS`. source: the paper.
        words: what one entry means, with its units and its range.
        signed: entries may be below zero.
        target: what is explained, in words; None where it is of no particular output.
        part: name of the part of the attention.
        per_head: float32 [layer, head], what each head adds, where the method tells them apart.
        rest: what belongs to no edge, by name, where the method accounts for everything: with it, ``values`` add up to
            the target.
        made: the Python that made it, as far as that can be written.
    """

    values: Tensor
    queries: Tokens
    keys: Tokens
    method: str
    words: str
    source: str
    signed: bool = False
    target: str | None = None
    part: str = "attention"
    per_head: Tensor | None = None
    rest: Mapping[str, float] = field(default_factory=dict)
    mask: Mask | None = None  # where entries can be
    made: str = ""

    def row(self, query: int) -> Tensor:
        """What belongs to query ``query``: float32 [key].

        Raises:
            IndexError: no such query.
        """
        return self.values[within(query, len(self.queries), "query", self.part)]

    def top(self, k: int = 10) -> list[tuple[int, int, float]]:
        """The k entries that are farthest from zero: (query, key, value), the largest first.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k is {k}; ask for at least one entry.")
        flat = self.values.flatten()
        order = flat.abs().nan_to_num(-1.0).argsort(descending=True, stable=True)[:k].tolist()
        return [(*divmod(at, len(self.keys)), float(flat[at])) for at in order if not flat[at].isnan()]

    def attention(self) -> Attention | Difference:
        """The same to look at: whatever takes an attention takes it, ``AttentionWidget`` and ``to_html`` included.

        Signed maps become a comparison of what raises the target with what lowers it. Where entries exceed 1, all are
        divided by the largest, which the picture's notes say.
        """
        most = float(self.values.nan_to_num().abs().max())
        scale = most if most > 1 else 1.0
        notes = [f"No attention weights, but {self.method}: {self.words}"]
        notes += [f"All entries are divided by the largest, {most:.4g}."] if scale > 1 else []

        def shown(values: Tensor, side: str = "") -> Attention:
            mask = self.mask or Mask.full(len(self.queries), len(self.keys))
            layer = Layer(self.method, mask, weights=(values / scale)[None, None])
            made = f"{self.made}.attention(){side}" if self.made else ""
            return Attention([Part(self.part, (layer,), self.queries, self.keys)], notes=notes, made=made)

        if not self.signed:
            return shown(self.values)
        what = self.target or self.method
        up, down = (shown((sign * self.values).clamp_min(0.0), side) for sign, side in ((1, ".a"), (-1, ".b")))
        cut = "cutting it " if self.method == "knock-out" else ""  # whose entries are changes, not what edges add
        return compare(up, down, names=(f"{cut}raises {what}", f"{cut}lowers {what}"))

    def __repr__(self) -> str:
        of = f" ({self.target})" if self.target else ""
        return f"<Attribution {self.method}{of}, {self.part}: {len(self.queries)} × {len(self.keys)}>"


# ── what a method costs ──────────────────────────────────────────────────────────────────────────────────────────────

_RATE = 1e10  # floating-point operations a second: two cores, in small blocks
LONGEST = 3600.0  # seconds: nothing longer is begun


@dataclass(frozen=True)
class Cost:
    """What a method will take: an estimate from the shapes, good to a factor of three or so.

    Attributes:
        seconds: on two cores of a laptop. bytes: at its peak, beyond what is there already.
        words: where it comes from. instead: how to make it fit.
    """

    seconds: float
    bytes: float
    words: str = ""
    instead: str = ""

    @classmethod
    def of(cls, flops: float, bytes: float, words: str = "", instead: str = "") -> Cost:
        """From the number of floating-point operations."""
        return cls(flops / _RATE, bytes, words, instead)

    def __str__(self) -> str:
        held = f" and {in_words(int(self.bytes))}" if self.bytes else ""
        return f"about {_duration(self.seconds)}{held}" + (self.words and f" ({self.words})")


def affordable(name: str, price: Cost) -> None:
    """Nothing is begun that takes longer than an hour, or more than half of the memory that is free.

    Raises:
        ValueError: it does, in words that say how to make it fit.
    """
    free = psutil.virtual_memory().available
    if price.bytes > free / 2 or price.seconds > LONGEST:
        why = "" if price.seconds > LONGEST else f" {in_words(free)} of memory are free, of which half is used."
        raise ValueError(f"{name} would take {price}.{why} {price.instead}".rstrip())


def _duration(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.2g} s" if seconds >= 0.01 else "no time"


# ── the table of methods ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Method:
    """One way to find an :class:`Attribution`.

    Attributes:
        name: as in :func:`attribute`. function: what computes it.
        words: what one entry means. source: the paper, with the equation.
        needs: what it needs more than Q and K: the values, the gradients that ``trace`` keeps, or the model to run.
        cost: from an :class:`Asked` and the method's own keywords to its :class:`Cost`.
        signed: entries may be below zero.
    """

    name: str
    function: Callable[..., Attribution]
    words: str
    source: str
    needs: Needs
    cost: Callable[..., Cost]
    signed: bool


# Where each method lives. Its module is loaded when somebody asks for the method, and enters it with `method`.
_HOMES: dict[str, str] = {
    "mean": "flows",
    "max": "flows",
    "min": "flows",
    "discard": "flows",
    "weighted": "flows",
    "rollout": "flows",
    "flow": "flows",
    "norm": "contributions",
    "norm-sum": "contributions",
    "logit": "contributions",
    "alti": "interactions",
    "value-zeroing": "interactions",
    "gradient": "gradients",
    "knock-out": "gradients",
    "chefer": "gradients",
    "integrated-gradients": "integrated",
    "gradient-input": "integrated",
}
_entered: dict[str, Method] = {}


class _Methods(Mapping[str, Method]):
    def __getitem__(self, name: str) -> Method:
        if name not in _entered and name in _HOMES:
            importlib.import_module(f".{_HOMES[name]}", __package__)
        return _entered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


METHODS: Mapping[str, Method] = _Methods()
"""All methods by name; see :class:`Method`."""


def method(
    name: str, *, words: str, source: str, cost: Callable[..., Cost], needs: Needs = "attention", signed: bool = False
) -> Callable[[_Function], _Function]:
    """Enter a function into :data:`METHODS`, under a name that `_HOMES` has."""
    assert name in _HOMES, f"{name} has no home"

    def enter(function: _Function) -> _Function:
        _entered[name] = Method(name, function, words, source, needs, cost, signed)
        return function

    return enter


@dataclass(frozen=True, eq=False)
class Asked:
    """What a method is to explain, checked: see :func:`asked`.

    Attributes:
        method: its entry. attention, part: of which. sample: the text in view, as ``part`` counts.
        trace: where there is one.
    """

    method: Method
    attention: Attention
    part: Part
    sample: int
    trace: Trace | None

    @property
    def layers(self) -> list[tuple[int, Layer]]:
        """Those that have attention, with their numbers."""
        return [(at, layer) for at, layer in enumerate(self.part.layers) if layer.heads]

    @property
    def traced(self) -> Trace:
        """For a method that needs gradients or the model."""
        assert self.trace is not None
        return self.trace

    def refuse_windows(self, part: Part) -> None:
        """For a method that follows tokens: windows are cut anew in each layer, and their places are no tokens.

        Raises:
            ValueError: ``part`` attends within windows.
        """
        # A trace is of one image: what it has more samples of is windows.
        if part.queries.kind == "window" or (self.trace is not None and part.batch > 1):
            name = next(layer.name for layer in part.layers if layer.heads)
            raise ValueError(
                f"{self.method.name} follows tokens through the layers; {name} attends within windows, which are cut "
                "anew from layer to layer. Choose a part without windows, or one layer's fused map (attribute(run, "
                "'mean', layer=0))."
            )

    def bar(self, steps: Any, unit: str, progress: bool) -> Any:
        """A progress bar over ``steps``, or over so many of them; it shows when they take more than a second."""
        over = {"total": steps} if isinstance(steps, int) else {"iterable": steps}
        return tqdm(**over, desc=self.method.name, unit=unit, delay=1.0, leave=False, disable=not progress)

    def result(self, values: Tensor, *, query: int | None = None, words: str | None = None, **more: Any) -> Attribution:
        """What the method returns: ``values`` [query, key], or [1, key] of the one token ``query``."""
        queries = self.part.queries if query is None else _only(self.part.queries, query)
        made = self.method
        return Attribution(
            values.detach().float().cpu(), queries, self.part.keys, made.name, words or made.words, made.source,
            signed=made.signed, part=self.part.name, mask=_seen(self.part, self.sample, query), **more,
        )  # fmt: skip


def asked(run: Run, name: str, part: str | None = None, **options: Any) -> Asked:
    """Every method begins with this: what it needs is there, and what it costs can be paid.

    Args:
        run, part: as the method was given them. name: its own. options: what its cost depends on.

    Raises:
        TypeError: no attention. KeyError: no such part.
        ValueError: the method needs more than that; it is too large for this length.
    """
    found = _found(run, name, part)
    affordable(name, found.method.cost(found, **options))
    return found


def _found(run: Run, name: str, part: str | None) -> Asked:
    if name not in METHODS:
        raise ValueError(f"There is no method {name!r}; there are {', '.join(METHODS)}.")
    known = METHODS[name]
    if not isinstance(run, (Attention, Trace)):
        raise TypeError(
            f"{name} explains an attention, or a trace of one, not a {type(run).__name__}: "
            "attribute(capture(model, text, tokenizer))."
        )
    traced = run if isinstance(run, Trace) else None
    attention = traced.attention if traced else run
    assert isinstance(attention, Attention)
    of = attention.part(part)
    layers = [layer for layer in of.layers if layer.heads]
    if known.needs in ("gradients", "model") and traced is None:
        what = "gradients" if known.needs == "gradients" else "the model, to run it again"
        alone = " Weights alone, without their model, have neither." if all(one.q is None for one in layers) else ""
        raise ValueError(f"{name} needs {what}: give it trace(model, text, tokenizer).{alone}")
    if known.needs in ("values", "gradients") and any(one.v is None for one in layers):
        said = "came as weights" if all(one.q is None for one in layers) else "was captured without them"
        raise ValueError(
            f"{name} needs the values, and this attention {said}: trace(model, text, tokenizer), or "
            "capture(…, keep_values=True), keeps them."
        )
    return Asked(known, attention, of, attention.sample_in(of), traced)


def attribute(run: Run, method: str = "rollout", *, part: str | None = None, **options: Any) -> Attribution:
    """One map over the tokens by one of :data:`METHODS`.

    Args:
        run: an attention, or a trace, which some methods need.
        method: its name. part: which part; the first one unless given.
        **options: the method's own keywords, and ``progress``.

    Raises:
        ValueError: no such method; it needs more than ``run`` has; it is too large for this length.
        TypeError: an option that the method does not have.
        KeyError: no such part.

    >>> import torch
    >>> attention = Attention.from_weights(torch.eye(3).expand(2, 4, 3, 3))
    >>> attribute(attention, "rollout").values
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    found = _found(run, method, part).method
    _refuse_unknown(found, options)
    of = recipe.split(attention_of(run).made)
    given = {name: one for name, one in {"part": part, **options}.items() if one is not None and name != "progress"}
    made = recipe.call("attribute", {"run": recipe.Name(of[1] or "run"), "method": method}, **given)
    return replace(found.function(run, part=part, **options), made="\n".join([*of[0], made]))


def cost(run: Run, method: str, *, part: str | None = None, **options: Any) -> Cost:
    """What a method would take here, before it runs.

    Raises:
        ValueError, KeyError, TypeError: as :func:`attribute`, but for what is too large.
    """
    found = _found(run, method, part)
    _refuse_unknown(found.method, options)
    return found.method.cost(found, **options)


def _refuse_unknown(method: Method, options: Mapping[str, Any]) -> None:
    known = [name for name in inspect.signature(method.function).parameters if name != "run"]
    for name in options.keys() - set(known):
        raise TypeError(f"{method.name!r} has no option {name}=; it has {', '.join(f'{one}=' for one in known)}.")


def _only(tokens: Tokens, at: int) -> Tokens:
    """An axis of one of these tokens."""
    return replace(Tokens.named([tokens.labels[at]]), special=(tokens.special[at],))


def _seen(part: Part, sample: int, query: int | None) -> Mask:
    """Where entries can be: padding apart, and the future where no layer sees it."""
    queries = len(part.queries) if query is None else 1
    rule = Mask.causal if part.is_causal and query is None else Mask.full
    mask = rule(queries, len(part.keys))
    keep = next(layer for layer in part.layers if layer.heads).mask.keep
    return replace(mask, keep=keep[sample % len(keep)][None])
