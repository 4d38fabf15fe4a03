"""The same input several times in one run of a model, each copy with cuts of its own: what they change, exactly."""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from .attribution import LONGEST, Cost, affordable
from .capture import evaluating
from .inputs import unwrapped
from .intervene import ablate
from .layers import Part
from .trace import Trace, trace

Entry: TypeAlias = tuple[int | None, ...]

_BYTES = 1 << 28  # of what the copies of one run put out, and of the weights of one layer
_MOST = 64  # copies in one run: more are hardly faster


def changes(
    run: Trace,
    *,
    heads: Sequence[Collection[Entry]] = (),
    edges: Sequence[Collection[Entry]] = (),
    part: str | None = None,
    renormalise: bool = False,
    at_once: int | None = None,
    progress: bool = True,
    words: str = "cutting",
) -> Tensor:
    """By how much the objective of a trace changes in each copy of its input: float64 [copy].

    The model runs in evaluation mode and without gradients, with several copies as one batch where it takes a batch.
    Where it attends within windows, edges are those of the window in view; heads are silent in all of them.

    Args:
        run: what runs again.
        heads, edges: what each copy goes without, one of the two: heads (layer, head) that put out zeros, edges
            (layer, head, query, key) that are cut. None in place of a number stands for all of them.
        part: which part of the model; the first unless given.
        renormalise: the weights that are left in a row take the place of those that are cut.
        at_once: how many copies in one run; as many as fit, unless given.
        progress: a bar where it takes longer than a second. words: what it says.

    Raises:
        ValueError: the model no longer does what it did in the trace; what is to be cut is not there.

    >>> from attnwidget import tiny, trace
    >>> model, tokenizer = tiny.decoder()
    >>> run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    >>> whole, one, none = changes(run, heads=[[(1, None)], [(1, 0)], []]).tolist()
    >>> whole < -1, one < -1, abs(none) < 1e-4
    (True, True, True)
    """
    copies = edges or heads
    which = "edges" if edges else "heads"
    of = run.attention.part(part)
    base, fits = _batch(run, of, len(copies), at_once)
    if edges and _windows(of):
        copies = [[(*one, run.attention.sample_in(of)) if len(one) == 4 else one for one in each] for each in edges]
    found: list[float] = []
    step = max(1, fits - 1)
    with tqdm(total=len(copies), desc=words, unit="cut", delay=1.0, leave=False, disable=not progress) as bar:
        for start in range(0, len(copies), step):
            some = copies[start : start + step]
            # An uncut copy beside the others: kernels round batches of different sizes differently.
            uncut = [()] if fits > 1 else []
            first, *values = [*([] if uncut else [base]), *_values(run, [*uncut, *some], which, of.name, renormalise)]
            found += [value - first for value in values]
            bar.update(len(some))
    return torch.tensor(found, dtype=torch.float64, device="cpu")


def _batch(run: Trace, of: Part, count: int, at_once: int | None = None) -> tuple[float, int]:
    """The objective with nothing cut, and how many copies run at once.

    Raises:
        ValueError: the model no longer does what it did in the trace.
    """
    base = run.checked()
    fits = max(1, min(_at_once(run) if at_once is None else at_once, count + 1))
    # Windows come as a batch: a sample of theirs is no copy.
    return base, fits if fits > 1 and not _windows(of) and _takes_copies(run, base) else 1


def _windows(of: Part) -> bool:
    return any(layer.shape[0] > 1 for layer in of.layers if layer.heads)


def refuse_long(name: str, runs: Sequence[Trace], part: str | None, count: int, instead: str, texts: int = 0) -> None:
    """Before many copies are run: how long that takes, going by a run with nothing cut.

    Args:
        name: of what it is for. runs: of one or some of the texts. count: how many copies of each. instead: how to make
            it fit. texts: how many there are; as many as ``runs`` unless given.

    Raises:
        ValueError: longer than anything that is begun; and as :func:`changes`.
    """
    times = count * (texts or len(runs))
    seconds = times * sum(_seconds(run.checked) for run in runs) / len(runs)
    if seconds > LONGEST:
        # One by one they take too long: beside each other they may not.
        run = runs[0]
        _, fits = _batch(run, run.attention.part(part), count)
        if fits > 1:
            seconds = times * _seconds(lambda: _values(run, [()] * fits, "edges", "", False)) / (fits - 1)
    affordable(name, Cost(seconds, 0.0, f"{times} runs of the model, by the time that one took", instead))


def _seconds(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _values(run: Trace, copies: Sequence[Collection[Entry]], which: str, part: str, renormalise: bool) -> list[float]:
    """The objective in each copy."""
    count = len(copies)
    args, kwargs = run.given.args, run.given.kwargs
    if count > 1:
        args = tuple(_repeated(one, count) for one in args)
        kwargs = {name: _repeated(one, count) for name, one in kwargs.items()}
    entries = [(*one, *([at] if count > 1 else [])) for at, copy in enumerate(copies) for one in copy]
    options: dict[str, Any] = {which: entries, "part": part, "renormalise": renormalise}
    cut = ablate(run.model, **options) if entries else contextlib.nullcontext()
    with warnings.catch_warnings(), evaluating(run.model), torch.no_grad():
        warnings.filterwarnings("error", "Nothing was changed")
        try:
            with cut:
                output = run.model(*args, **kwargs)
        except UserWarning as nothing:
            raise ValueError(str(nothing)) from None
        found = [run.objective.of(_of_copy(output, at, count) if count > 1 else output) for at in range(count)]
    return torch.stack([one.detach().double().cpu().reshape(()) for one in found]).tolist()


def _takes_copies(run: Trace, base: float) -> bool:
    """Whether a batch, to this model, is texts beside each other that have nothing to do with one another."""
    try:
        return all(abs(value - base) <= run.tolerance for value in _values(run, [(), ()], "edges", "", False))
    except (_NoBatchError, RuntimeError, ValueError, TypeError, IndexError):
        return False


def _at_once(run: Trace) -> int:
    """How many copies fit: by the weights of a layer, of which a model may make several n × n, and by the logits."""
    layers = [layer for name in run.attention.parts for layer in run.attention.part(name).layers if layer.heads]
    size = max(4 * math.prod(layer.shape[1:]) for layer in layers)
    if run.logits is not None:
        size += len(run.logits) * max(layer.shape[2] for layer in layers)
    return max(1, min(_MOST, _BYTES // (4 * size)))


class _NoBatchError(Exception):
    """What the model is given, or puts out, cannot be told apart by copies."""


def _repeated(given: Any, count: int) -> Any:
    of_one = isinstance(given, Tensor) and given.dim() > 1 and given.shape[0] == 1
    return given.expand(count, *given.shape[1:]).clone() if of_one else given


def _of_copy(output: Any, at: int, count: int) -> Any:
    """What the model would have put out for this copy alone."""
    if isinstance(output, Tensor):
        if not output.dim() or output.shape[0] != count:
            raise _NoBatchError
        return output[at : at + 1]
    if isinstance(output, Mapping):
        held = {name: _of_copy(one, at, count) for name, one in output.items() if isinstance(one, (Tensor, tuple))}
        return type(output)(**held)
    if isinstance(output, (tuple, list)):
        return type(output)(_of_copy(one, at, count) for one in output)
    raise _NoBatchError


# ── in float64 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def doubled(run: Trace) -> Trace:
    """The same run traced in a copy of the model that computes in float64: twice the memory of float32 weights.

    What one edge of many changes is often less than float32 tells one run from another by.

    Raises:
        ValueError: the model cannot compute in float64: its weights are quantised, or it has code for one type only.
    """
    try:
        model = copy.deepcopy(unwrapped(run.model)).double()
        model.forward = _in_float64(model.forward)
        objective = replace(run.objective, of=_in_float64(run.objective.of))
        given = {name: _doubled(one) for name, one in run.given.kwargs.items()}
        args = tuple(map(_doubled, run.given.args))
        return trace(model, args or given, run.tokenizer, objective=objective, **(given if args else {}))
    except (RuntimeError, TypeError, NotImplementedError) as problem:
        raise ValueError(f"{type(run.model).__name__} cannot compute in float64: {problem}") from problem


def _doubled(given: Any) -> Any:
    return given.double() if isinstance(given, Tensor) and given.is_floating_point() else given


class _Float64(TorchFunctionMode):
    """Float64 wherever code asks for float32: norms and softmaxes of many models compute in it whatever they get."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is Tensor.float:
            function = Tensor.double
        wide = {name: _wide(one) for name, one in (kwargs or {}).items()}
        return function(*map(_wide, args), **wide)


def _wide(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


def _in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inner(*args: Any, **kwargs: Any) -> Any:
        with _Float64():
            return function(*args, **kwargs)

    return inner
