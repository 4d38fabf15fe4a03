"""What a model's attention is, found without any code of attnwidget.

Two sources, both of the very run they watch:

* :class:`Watch` hears every attention call. Of transformers' interface it keeps the weights that the model's own eager
  function **returned**; of ``F.scaled_dot_product_attention``, softmax(QKᵀ·scale + mask) written out in float64; of a
  softmax inside a module that is named attention, its result; of ``F.multi_head_attention_forward``, the weights that
  torch itself returns.
* :func:`official` asks transformers, ``output_attentions=True``, and says where the answer is not attention.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


@dataclass(eq=False)
class Heard:
    """One attention call: the module that made it, how it was heard, and its weights [batch, head, query, key]."""

    name: str
    how: str
    weights: Tensor
    oracle: str = "closed form float64"


class Watch(TorchFunctionMode):
    """Open around a run of a model: ``calls`` holds its attention, in order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.calls: list[Heard] = []
        self.inside = False
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        with contextlib.suppress(ImportError):
            from transformers.modeling_utils import AttentionInterface

            lookup, item = AttentionInterface.get_interface, AttentionInterface.__getitem__
            for name, heard in (
                ("get_interface", lambda s, key, default: self._wrapped(lookup(s, key, default))),
                ("__getitem__", lambda s, key: self._wrapped(item(s, key))),
            ):
                self._patches.enter_context(patch.object(AttentionInterface, name, heard))
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patches.close()

    def _wrapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(module, *args, **kwargs)
            before, self.inside = len(self.calls), True
            try:
                result = function(module, *args, **kwargs)
            finally:
                self.inside = False
            weights = result[1] if isinstance(result, tuple) and len(result) > 1 else None
            if weights is not None:
                self.calls[before:] = [
                    Heard(self.names.get(id(module), "?"), "interface", _kept(weights), "eager's own return value")
                ]
            else:
                # sdpa returns no weights: what stands here is the closed form of the call it made.
                for one in self.calls[before:]:
                    one.name, one.how = self.names.get(id(module), "?"), "interface"
            return result

        return call

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            with torch.no_grad():
                asked = kwargs | {"need_weights": True, "average_attn_weights": False}
                weights = function(*args, **asked)[1] if len(args) < 16 else None
            if weights is not None:
                self.calls.append(
                    Heard(self._running()[0], "nn.MultiheadAttention", _kept(weights), "torch's own weights")
                )
            return function(*args, **kwargs)
        result = function(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            self.calls.append(Heard(self._running()[0], "sdpa", closed_form(*args, **kwargs)))
        elif function in _SOFTMAX and not self.inside and result.dim() >= 3:
            name, module = self._running()
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            weighs = result.shape[-1] > 1 or result.dim() > 3  # [batch, token, 1] is a gate
            if weighs and is_attention(module) and dim in (-1, result.dim() - 1):
                self.calls.append(Heard(name, "softmax", _kept(result), "softmax result"))
        return result

    def _running(self) -> tuple[str, Any]:
        """The innermost module of this model on the call stack."""
        frame = sys._getframe(2)
        while frame is not None:
            one = frame.f_locals.get("self")
            if id(one) in self.names and isinstance(one, nn.Module) and not isinstance(one, nn.Softmax):
                return self.names[id(one)], one
            frame = frame.f_back
        return "?", None


def is_attention(module: Any) -> bool:
    """True where the module's class says so. Deformable attention weighs sampled points: there are no keys."""
    name = type(module).__name__.lower()
    return ("attention" in name or "attn" in name) and "deformable" not in name


def _kept(weights: Tensor) -> Tensor:
    return weights.detach().clone()


def closed_form(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(QKᵀ·scale + mask) as torch documents it, in float64."""
    q, k = query.detach().double(), key.detach().double()
    if enable_gqa:
        k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask.detach().double()
    return scores.softmax(-1).nan_to_num(0.0).float()


def twin(model: nn.Module) -> nn.Module:
    """A second model with the same weights that runs transformers' eager attention."""
    other = copy.deepcopy(model)
    for module in other.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = "eager"
            # Some copies of a configuration are not reached by its setter's own recursion.
            config._attn_implementation_internal = "eager"
    return other


def run(model: nn.Module, inputs: Any, **more: Any) -> Any:
    """One forward without gradients, with the same random numbers every time."""
    torch.manual_seed(0)
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return model(**inputs, **more)
        return model(*inputs, **more) if isinstance(inputs, tuple) else model(inputs, **more)


def heard(model: nn.Module, inputs: Any) -> list[Heard]:
    """The attention calls of one run."""
    with Watch(model) as watch:
        run(model, inputs)
    # SAM 2 computes a softmax, throws it away and calls the interface.
    through = {call.name for call in watch.calls if call.how == "interface"}
    return [call for call in watch.calls if call.how != "softmax" or call.name not in through]


def called_attention(model: nn.Module, inputs: Any) -> list[str]:
    """Classes of the modules named attention that ran."""
    ran: set[str] = set()
    with contextlib.ExitStack() as stack:
        for module in filter(is_attention, model.modules()):
            stack.callback(module.register_forward_hook(lambda one, *_: ran.add(type(one).__name__)).remove)
        run(model, inputs)
    return sorted(ran)


# ── what transformers says ────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Official:
    """What ``output_attentions=True`` returned.

    Attributes:
        maps: the returned tensors that are distributions over their last axis (or less, where there is a sink).
        remarks: in what way the answer is wrong.
    """

    maps: list[Tensor] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    returned: int = 0


def official(model: nn.Module, inputs: Any, plain: Any, calls: list[Heard]) -> Official:
    """What ``model`` says its attention is, judged by what was heard of the same model.

    A softmax alone does not tell which of its axes holds the queries. Where transformers returns the same numbers with
    other axes in front, the call is given transformers' layout.
    """
    found = Official()
    try:
        output = run(model, inputs, output_attentions=True)
    except Exception as problem:
        found.remarks.append(f"output_attentions fails ({type(problem).__name__})")
        return found
    off = difference(_without_attentions(plain), _without_attentions(output))
    if off > 1e-3:
        found.remarks.append(f"asking for attentions changes the output by {off:.1g}")
    tensors = [t for name, value in _items(output) if "attention" in name for t in tensors_in(value)]
    found.returned = len(tensors)
    fine = [t for t in tensors if is_distribution(t)]
    if len(fine) < len(tensors):
        bad = [t for t in tensors if not is_distribution(t)]
        found.remarks.append(f"output_attentions: {len(bad)} of {len(tensors)} are {_no_distributions(bad, calls)}")
    left, wrong = list(calls), []
    for t in fine:
        if _claimed(t, left):
            found.maps.append(t)
        elif not any(same(t, call.weights) for call in calls):  # the same call may be returned twice
            wrong.append(t)
    if wrong and calls:
        found.remarks.append(f"output_attentions: {_what(wrong[0], calls)}")
    elif wrong:
        found.maps += wrong
    if calls and 0 < len(tensors) < len(calls):
        found.remarks.append(f"output_attentions lacks {len(calls) - len(tensors)} of {len(calls)} calls")
    return found


def _claimed(t: Tensor, left: list[Heard]) -> bool:
    """Take the call whose map ``t`` is out of ``left``; False where there is none."""
    for call in left:
        as_heard = same(t, call.weights)
        if as_heard or (call.how == "softmax" and _is_turned(call.weights, t)):
            if not as_heard:
                call.weights = t.detach()
            if call.how == "softmax":
                call.oracle = "output_attentions"
            left.remove(call)
            return True
    return False


def _no_distributions(bad: list[Tensor], calls: list[Heard]) -> str:
    if all(bool(t.isnan().any()) for t in bad):
        return "NaN"
    keys = {call.weights.shape[-1] for call in calls}
    return "hidden states" if any(t.dim() < 4 or t.shape[-1] not in keys for t in bad) else "no distributions"


def _is_turned(weights: Tensor, t: Tensor) -> bool:
    """True where ``t`` is ``weights`` with its second and third axes exchanged, and padding cut off."""
    if weights.dim() != 4 or t.dim() != 4 or weights.shape[1] == weights.shape[2]:
        return False
    return same(weights.transpose(1, 2)[:, :, : t.shape[2]], t)


def _what(wrong: Tensor, calls: list[Heard]) -> str:
    """In what way a distribution is not that of any call."""
    for call in calls:
        w = call.weights
        if w.shape == wrong.shape and same(w.mean(1, keepdim=True).expand_as(w), wrong):
            return "head average, repeated"
        square = w.dim() == 4 and w.shape == wrong.shape and w.shape[-1] == w.shape[-2]
        if square and not w.triu(1).any() and wrong.triu(1).any():
            return f"not causal ({float(wrong.triu(1).max()):.2g} above the diagonal)"
    if all(wrong.shape != call.weights.shape for call in calls):
        return f"also {tuple(wrong.shape)}, the shape of no call"
    return "another map than the one the model used"


def is_distribution(t: Tensor) -> bool:
    """Entries from 0 to 1 whose sum over the last axis is one, or less where some of the weight goes to a sink."""
    if not t.is_floating_point() or t.dim() < 3 or not t.numel():
        return False
    total = t.float().sum(-1)
    return bool((t >= 0).all()) and bool((total <= 1 + 1e-3).all()) and float(total.max()) > 1e-3


def _items(output: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(output, "items"):
        for name, value in output.items():
            if hasattr(value, "items"):
                yield from _items(value)
            else:
                yield name, value


def _without_attentions(output: Any) -> Any:
    return {n: v for n, v in _items(output) if "attention" not in n} if hasattr(output, "items") else output


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping) or hasattr(value, "items"):
        for _, one in value.items():
            yield from tensors_in(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors_in(one)


# ── comparing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def difference(a: Any, b: Any) -> float:
    """Largest difference of two outputs, 0.0 where they are equal bit for bit; infinite where their layouts differ."""
    left, right = list(tensors_in(a)), list(tensors_in(b))
    if len(left) != len(right):
        return float("inf")
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if x.shape != y.shape or not torch.equal(x.isnan(), y.isnan()):
            return float("inf")
        gap = (x.float() - y.float()).abs().nan_to_num(nan=0.0, posinf=torch.inf)
        worst = max(worst, float(gap.max()) if gap.numel() else 0.0)
    return worst


def four(t: Tensor) -> Tensor:
    """[.., head, query, key] with everything before the heads in one axis."""
    return t.reshape(-1, *t.shape[-3:]) if t.dim() > 4 else t[(None,) * (4 - t.dim())]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two stacks of maps; infinite where they are not the same stack.

    Heads folded into the batch are unfolded. A NaN is infinitely far from everything. Rows that may attend to nothing
    are left out: we show no weight there, eager shows uniform weight, and nobody reads it.
    """
    if ours.shape[-2:] != theirs.shape[-2:] or ours.numel() != theirs.numel():
        return float("inf")
    if theirs.dim() == 5 and ours.dim() == 4:
        # [batch, head, window, query, key] or [batch, window, head, query, key], either with windows among the samples.
        return min(distance(ours, four(theirs)), distance(ours, four(theirs.transpose(1, 2))))
    a, b = ours.reshape(-1, *ours.shape[-2:]).float(), theirs.reshape(-1, *theirs.shape[-2:]).float()
    empty = (a.sum(-1) == 0) & ((b - b.mean(-1, keepdim=True)).abs().amax(-1) < 1e-6)
    gap = (a - b).abs().amax(-1)[~empty]
    return float(gap.max().nan_to_num(torch.inf)) if gap.numel() else float("inf")


def same(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return distance(a, b) <= tolerance


def matched(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> tuple[list[float], int]:
    """Each of ``theirs`` with one of ``ours`` of its own, the first that agrees or else the nearest.

    Returns:
        The difference of each pair (infinite where nothing of that shape was left), and how many of ours are left over.
    """
    left = list(ours)
    errors: list[float] = []
    for map_ in theirs:
        gaps: list[float] = []
        for one in left:
            gaps.append(distance(one, map_))
            if gaps[-1] <= tolerance:
                break
        best = min(range(len(gaps)), key=gaps.__getitem__, default=None)
        errors.append(float("inf") if best is None else gaps[best])
        if best is not None and gaps[best] < float("inf"):
            left.pop(best)
    return errors, len(left)


def sharpness(maps: list[Tensor]) -> float:
    """How far the maps are from uniform: mean over rows of (largest − 1/k) / (1 − 1/k), of the sharpest map."""
    found = [0.0]
    for one in maps:
        k = one.shape[-1]
        if k > 1:
            # A causal row of few keys is sharp by itself: rows are taken from the last half.
            rows = one[..., one.shape[-2] // 2 :, :].float()
            found.append(float((rows.amax(-1).mean() - 1 / k) / (1 - 1 / k)))
    return max(found)


def words(name: str) -> str:
    """A module's name with its numbers left out."""
    return re.sub(r"\d+", "*", name)
