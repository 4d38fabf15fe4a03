"""Seeing attention that goes through torch's own functions: whatever is not called through transformers' interface.

A torch function mode sees every call of ``F.scaled_dot_product_attention`` and ``nn.MultiheadAttention``, and follows a
softmax until it multiplies the values. What it sees it hands to a :class:`~attnwidget.listen.Listener`.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .masks import Bias, Mask
from .output import Read, read_by
from .parts import Call
from .rotary import multiplied, turned

if TYPE_CHECKING:
    from .listen import Listener


@dataclass
class _Candidate:
    """What became of a softmax since: the tensor as it is now, and the weights it was."""

    now: Tensor
    weights: Tensor
    name: str
    module: nn.Module | None


class Functions(TorchFunctionMode):
    """Sees every torch function call of this thread while somebody listens."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener = listener
        self.candidates: dict[int, _Candidate] = {}  # by id of the tensor, the latest last
        self.logarithm: Tensor | None = None  # the latest result of log_softmax, which exp makes a softmax
        self.exponentials: list[Tensor] = []  # the latest results of exp; divided by its sums, one becomes a softmax
        # Heads of the nn.MultiheadAttention that is running: it folds them into the batch.
        self.heads: int | None = None
        # What the latest projection of heads read, by whom, and how often others read none of those that wait.
        self.read: tuple[weakref.ref[Tensor], list[Read]] | None = None
        self.missed = 0

    def __torch_function__(
        self, function: Callable[..., Any], types_: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Nearly every call ends here: what stands before it is paid for hundreds of times in each run.
        if self.listener._busy or not (function in _OF_INTEREST or self.candidates or self.listener.waiting):
            return function(*args, **kwargs)
        if function in _MULTIPLICATIONS and (factors := multiplied(args)) is not None:
            self.listener.attempt("", partial(self._multiplied, *factors))
        if function is F.multi_head_attention_forward:
            self.heads = args[4] if len(args) > 4 else kwargs.get("num_heads")
            try:
                # A mode is off while it handles a call, and this one makes calls of its own that must be seen.
                with self:
                    return _multi_head_attention(*args, **kwargs)
            finally:
                self.heads = None
        if function is F.scaled_dot_product_attention:
            return self._sdpa(args, kwargs)
        if function in _BACKWARDS and self.listener.acts:
            with self:  # what checkpointing runs again is to be seen
                return _BACKWARDS[function](*args, **kwargs)
        result = function(*args, **kwargs)
        if function in _PROJECTIONS:
            self.listener.projections += 1
            self.exponentials = []
        if (self.listener.waiting or self.read is not None) and (function in _PROJECTIONS or function in _PRODUCTS):
            self.listener.attempt("", partial(self._projected, function, args, kwargs, result))
        if function in _SOFTMAX:
            self._softmax(result, args, kwargs)
        elif function in _LOG_SOFTMAX:
            self.logarithm = result
        elif function in _EXP:
            if self.logarithm is not None and args and args[0] is self.logarithm:
                self._candidate(result)
            self.exponentials = [*self.exponentials[-1:], result]
        elif self.exponentials and function in _DIVISIONS and self._divided(args, result):
            self.exponentials = []
        elif self.candidates:
            return self._follow(function, (*args, *kwargs.values()), result)
        return result

    def forget(self) -> None:
        """Let go of what was waiting for its values."""
        self.candidates, self.exponentials, self.logarithm, self.read = {}, [], None, None

    def _multiplied(self, x: Tensor, by: Tensor) -> None:
        if (found := turned(x, by)) is not None:
            self.listener.turned.append(found)

    def _projected(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        """A projection ran: does it read the outputs of heads?"""
        if function is F.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
        elif function in _ADDED and len(args) == 3 and not kwargs:
            given = dict(zip(("bias", "input", "weight"), args, strict=True))
        elif function in _PLAIN_PRODUCTS and len(args) == 2 and args[1].dim() == 2:
            given = {"input": args[0], "weight": args[1]}
        else:
            return
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        if self.read is not None:
            (of, reads), self.read = self.read, None
            if of() is x:
                # An adapter beside it: what is made of the heads is the sum of several projections.
                self.listener.project(reads, self.listener.caller()[0], None)
                return
        if not any(one.rows.shape[1] <= x.shape[-1] for one in self.listener.waiting) or x.dim() < 2:
            return
        reads = read_by(self.listener.waiting, x)
        if not reads:
            self.missed += any(one.rows.shape[1] == x.shape[-1] for one in self.listener.waiting)
            if self.missed > _PATIENCE:
                self.listener.waiting.clear()
                self.missed = 0
            return
        last = max(self.listener.waiting.index(one.heads) for one in reads)
        del self.listener.waiting[: last + 1]
        self.read, self.missed = (weakref.ref(x), reads), 0
        caller, module = self.listener.caller()
        own = iter(()) if module is None else module.named_parameters()
        names = [name for name, one in own if one.data_ptr() == weight.data_ptr() and one.numel() == weight.numel()]
        # A weight of the module itself has no module of its own to be named by.
        parameter = names[0].removesuffix(".weight") if names else ""
        name = f"{caller}.{parameter}".strip(".").removesuffix(".weight")
        rows = (result.detach()[one.place] for one in reads)
        made = (row if bias is None else row - bias.detach() for row in rows)
        reads = [replace(one, made=row) for one, row in zip(reads, made, strict=True)]
        self.listener.project(reads, name, weight if names else None, function is not F.linear)

    def _sdpa(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = dict(zip(names, args, strict=False)) | kwargs
        name, module = self.listener.caller()
        result = F.scaled_dot_product_attention(*args, **kwargs)
        if module is None or not self.listener.hears(module) or not given["query"].numel():
            return result
        call = self.listener.attempt(name, partial(self._call_of_sdpa, name, module, given))
        shaped = partial(_rank4, batch=self.listener.batch, module=module)
        return self._heard(call, module, result, shaped, compared=not given.get("dropout_p"))

    def _heard(
        self, call: Call | None, module: nn.Module, result: Tensor, shaped: Callable[[Tensor], Tensor], compared: bool
    ) -> Tensor:
        """A call has run and come to ``result``: it is taken, and what the model goes on with is returned.

        Args:
            shaped: brings what came out to [batch, head, query, d_v].
            compared: whether that is what the weights and the values give.
        """
        # Modes come here from the outermost to the innermost: what the first of them changes, the others see.
        turn = self.listener.turn(module, call, result)
        if turn.changes and turn.after is None:
            places = torch.arange(result.numel(), device="cpu").reshape(result.shape)
            turn.apply(shaped(result) if torch.equal(shaped(places).reshape(result.shape), places) else None)
            assert turn.after is not None
            result = turn.result = turn.after.reshape(result.shape)
        call = turn.told(self.listener, call)

        def take(call: Call) -> None:
            taken = self.listener.take(call)
            if taken is not None:
                out = turn.seen if turn.changes else shaped(result)
                self.listener.add(taken, call, out if compared else None)

        if call is not None:
            self.listener.attempt(call.name, partial(take, call))
        return result

    def _call_of_sdpa(self, name: str, module: nn.Module, given: dict[str, Any]) -> Call:
        q, k, v = (_rank4(given[one], self.listener.batch, module) for one in ("query", "key", "value"))
        k, v = (one.expand(len(q), -1, -1, -1) if len(one) == 1 else one for one in (k, v))
        queries, keys = q.shape[2], k.shape[2]

        def rules() -> tuple[Mask | None, Bias | None]:
            if given.get("attn_mask") is None:
                return (Mask.causal(queries, keys) if given.get("is_causal") else None), None
            lead = tuple(given["query"].shape[:-2])
            shaped = partial(_broadcast, lead=lead, module=module, batch=self.listener.batch)
            return self.listener.read(given["attn_mask"], queries, keys, additive=False, shaped=shaped)

        scale = given.get("scale")
        scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
        where = name, module, self.listener.block(), self.listener.piece_of(module)
        return Call(*where, q, k, v, scale=scale, rules=rules)

    def _softmax(self, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if result.dim() >= 2 and dim in (-1, result.dim() - 1):
            self._candidate(result)

    def _candidate(self, weights: Tensor) -> None:
        """A softmax. Several may wait for their values at once; whose never come are not kept for long."""
        name, module = self.listener.caller()
        self.listener.last_softmax = name or type(self.listener.model).__name__
        self._keep(_Candidate(weights, weights, name, module))

    def _keep(self, one: _Candidate) -> None:
        self.candidates[id(one.now)] = one
        while len(self.candidates) > _WAITING:
            del self.candidates[next(iter(self.candidates))]

    def _divided(self, args: tuple[Any, ...], result: Any) -> bool:
        """Whether this was a softmax written out: exp(s) / exp(s).sum(-1, keepdim=True)."""
        above, below = args[0], args[1] if len(args) > 1 else None
        if not any(above is one for one in self.exponentials) or not isinstance(below, Tensor) or above.dim() < 2:
            return False
        if below.shape != (*above.shape[:-1], 1) or not torch.allclose(below, above.sum(-1, keepdim=True)):
            return False
        self._candidate(result)
        return True

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> Any:
        """What the model goes on with: ``result``, unless somebody changes it."""
        operands = list(_operands(args))
        found = next((self.candidates[id(a)] for a in operands if id(a) in self.candidates), None)
        if found is None:
            return result
        if function in _PRODUCTS:
            self.candidates = {at: one for at, one in self.candidates.items() if one.weights is not found.weights}
            used, changed = _as_multiplied(function, args, found.now, found.weights)
            if found.module is not None and found.module.training and used is not None:
                # Dropout may be in between, and is not shown.
                used, changed = (found.weights if used.shape == found.weights.shape else used), False
            if found.module is None or used is None or not self.listener.may_attend(found.name, found.module):
                return result
            if self.listener.hears(found.module):
                plain = function in _PLAIN_PRODUCTS and args[0] is found.now
                return self._stored(found, used, changed, args[1] if plain else None, result)
        elif (
            (function in _PROJECTIONS or getattr(function, "__name__", "") in _KEEPING)
            and isinstance(result, Tensor)
            and result.dim() >= 2
            and result.numel() <= found.now.numel()
        ):
            self._keep(_Candidate(result, found.weights, found.name, found.module))
        return result

    def _stored(self, found: _Candidate, used: Tensor, changed: bool, values: Tensor | None, result: Tensor) -> Tensor:
        module = found.module
        assert module is not None
        shaped = partial(self._shaped, module)
        # What is computed of the weights is of no interest to gradients; what is done to the output may be.
        values = None if changed or module.training else values
        call = self.listener.attempt(found.name, partial(self._call_of_stored, found, used, changed, values))
        return self._heard(call, module, result, shaped, compared=values is not None)

    def _shaped(self, module: nn.Module, tensor: Tensor) -> Tensor:
        # [batch · head, query, key], as nn.MultiheadAttention and older models fold them.
        folded = self.heads and tensor.dim() == 3
        return tensor.unflatten(0, (-1, self.heads)) if folded else _rank4(tensor, self.listener.batch, module)

    def _call_of_stored(self, found: _Candidate, used: Tensor, changed: bool, values: Tensor | None) -> Call:
        module = found.module
        assert module is not None
        weights = self._shaped(module, used)
        queries, keys = weights.shape[2:]

        def rules() -> tuple[Mask | None, Bias | None]:
            # A softmax tells what is masked only by zeros: a whole upper triangle of them is a causal mask.
            causal = queries == keys > 1 and not bool(weights.triu(1).any())
            return (Mask.causal(queries, keys) if causal else None), None

        where = found.name, module, self.listener.block(), self.listener.piece_of(module)
        v = None if values is None else self._shaped(module, values)
        return Call(*where, weights=weights, v=v, changed=changed, rules=rules)

    def __exit__(self, *error: object) -> None:
        self.forget()
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch's


_PATIENCE = 8  # projections as wide as the heads that wait: the next is theirs, as a rule
_MULTIPLICATIONS = {torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_}
_ADDED = {torch.addmm, Tensor.addmm}
_WAITING = 16  # tensors that are or were a softmax and have not met their values
_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
# Names of functions after which weights are still weights, if no more of them: cast, cut, moved, masked, scaled; and
# projected, where heads are mixed (Shazeer et al. 2020).
_KEEPING = {
    "alpha_dropout", "bfloat16", "cat", "chunk", "clone", "contiguous", "cpu", "cuda", "detach", "div", "double",
    "dropout", "expand", "flatten", "float", "half", "masked_fill", "masked_fill_", "movedim", "mul", "mul_",
    "nan_to_num", "narrow", "permute", "reshape", "rsub", "select", "squeeze", "sub", "swapaxes", "swapdims", "to",
    "transpose", "type", "type_as", "unflatten", "unsqueeze", "view", "view_as", "where",
    "__get__", "__getitem__", "__mul__", "__rmul__", "__sub__", "__truediv__",
}  # fmt: skip
_LOG_SOFTMAX = {F.log_softmax, torch.log_softmax, Tensor.log_softmax}
_EXP = {torch.exp, Tensor.exp}
_DIVISIONS = {torch.div, torch.true_divide, Tensor.div, Tensor.__truediv__, Tensor.true_divide}
_PLAIN_PRODUCTS = {torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm}
_PRODUCTS = {*_PLAIN_PRODUCTS, torch.einsum, torch.baddbmm, Tensor.baddbmm}


def _unasked(body: Any) -> types.FunctionType:
    """torch's own function under another name.

    Called as itself it would hand itself back to the mode for ever; its copy does not ask whether a mode is open, and
    the functions it calls do.
    """
    unasked = dict.fromkeys(("has_torch_function", "has_torch_function_unary"), lambda _: False)
    copy = types.FunctionType(body.__code__, {**body.__globals__, **unasked}, body.__name__, body.__defaults__)
    copy.__kwdefaults__ = body.__kwdefaults__
    return copy


_multi_head_attention = _unasked(F.multi_head_attention_forward)
_BACKWARDS = {one: _unasked(one) for one in (Tensor.backward, torch.autograd.backward, torch.autograd.grad)}
# What makes queries and keys out of hidden states.
_PROJECTIONS = {F.linear, torch.addmm, Tensor.addmm, F.conv1d, F.conv2d, F.multi_head_attention_forward}
_OF_INTEREST = {
    F.multi_head_attention_forward, F.scaled_dot_product_attention, *_PROJECTIONS, *_SOFTMAX, *_LOG_SOFTMAX, *_EXP,
    *_DIVISIONS, *_MULTIPLICATIONS, *_BACKWARDS,
}  # fmt: skip


def _operands(args: tuple[Any, ...]) -> Iterator[Any]:
    for one in args[:3]:
        # einsum and cat take their operands in a list.
        yield from one if isinstance(one, (list, tuple)) else (one,)


def _as_multiplied(
    function: Callable[..., Any], args: tuple[Any, ...], operand: Tensor, weights: Tensor
) -> tuple[Tensor | None, bool]:
    """What multiplies the values, as [.., query, key], and whether it cannot be shown and its softmax is instead.

    None if that is no sum over keys, and so no attention.
    """
    # A sink is a column that takes weight and is cut off before the values: what is multiplied is what counts.
    sunk = operand.shape[:-1] == weights.shape[:-1] and operand.shape[-1] < weights.shape[-1]
    if not sunk and operand.numel() != weights.numel():
        return None, False  # bands that were cut and padded into chunks: neither shape is [query, key]
    if function is not torch.einsum:
        left, right = [a for a in args if isinstance(a, Tensor)][-2:]
        turned = right is operand and operand.shape == weights.mT.shape and torch.equal(operand, weights.mT)
        if turned:
            return weights, False  # Vᵀ Aᵀ
        if left is not operand or right.dim() < 2 or right.shape[-2] != operand.shape[-1]:
            return None, False
        # Folded or cast, it is still the softmax, whose own shape says more.
        if not sunk and torch.equal(operand.reshape(weights.shape), weights.to(operand.dtype)):
            return weights, False
        return _if_shown(operand, weights)
    terms, factors = str(args[0]).replace(" ", "").split("->")[0].split(","), list(_operands(args[1:]))
    if len(terms) != 2 or len(factors) != 2:
        return None, False
    if factors[1] is operand:
        terms, factors = terms[::-1], factors[::-1]
    # "..." stands for the axes that are not named; the last of them is the same axis in both factors.
    free = "ABCDEFGH"
    along, values = (
        term.replace("...", free[8 - (one.dim() - len(term.replace("...", ""))) :]) if "..." in term else term
        for term, one in zip(terms, factors, strict=True)
    )
    # Queries stand on the left only, keys are summed over: "bnhm,bmhd->bnhd" has its queries in the second place.
    queries = [at for at, letter in enumerate(along[:-1]) if letter not in values]
    if len(queries) != 1 or along[-1] not in values:
        return None, False
    used, changed = _if_shown(operand, weights)
    return used.movedim(queries[0], -2), changed


def _if_shown(operand: Tensor, weights: Tensor) -> tuple[Tensor, bool]:
    """What multiplies the values, if it is weights: with a sign (talking heads, a difference of two) it is none."""
    signed = bool((operand < 0).any())
    return (weights if signed and operand.shape == weights.shape else operand), signed


def _rank4(tensor: Tensor, batch: int, module: nn.Module | None = None) -> Tensor:
    """[batch, head, token, d]. Three axes are unfolded by the batch of the run; axes beyond four are folded into it."""
    if tensor.dim() > 4:
        # Blocks come before the heads (LongT5) or behind them (Hiera): the module says how many heads it has.
        named = ("num_heads", "num_attention_heads", "n_heads", "heads")
        heads = next((n for n in (getattr(module, one, None) for one in named) if isinstance(n, int)), 0)
        if tensor.shape[-3] != heads and heads in tensor.shape[1:-3]:
            tensor = tensor.movedim(tensor.shape.index(heads, 1), -3)
        return tensor.reshape(-1, *tensor.shape[-3:])
    if tensor.dim() == 3:
        return tensor.unflatten(0, (batch, -1)) if len(tensor) % batch == 0 else tensor[None]
    return tensor[(None,) * (4 - tensor.dim())]


def _broadcast(mask: Tensor, lead: tuple[int, ...], module: nn.Module, batch: int) -> Tensor:
    """A mask of a bare scaled dot product as [batch, head or 1, query, key], folded as the queries are."""
    if len(lead) == 1 and mask.dim() == 3:
        return _rank4(mask.expand(*lead, *mask.shape[-2:]), batch)
    if len(lead) <= 2:
        return mask[(None,) * (4 - mask.dim())]
    return _rank4(mask.expand(*lead, *mask.shape[-2:]), 1, module)
