"""Hearing attention that goes through transformers' interface, and what all who change a call do to it.

Most models in transformers call ``attention_interface(module, query, key, value, mask, …)``. While somebody listens,
whatever implementation the model looks up there (eager, sdpa, flash, flex, its own) is handed out in a wrapper that
calls the very function the model asked for. The model is never switched to another implementation: six families would
then compute something else.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from .masks import Bias, Mask
from .parts import Call

if TYPE_CHECKING:
    from .listen import Listener


@dataclass(frozen=True, eq=False)
class Change:
    """What is done to one attention call.

    Attributes:
        apply: what the model goes on with, of what came out of the call: both [batch, head, query, d_v].
        told: fields of the :class:`Call` that are others by that, weights say, for those who look on. They see the
            output that belongs to these; where there are none, that of the model's own function.
        note: what those who look on should say beside it.
    """

    apply: Callable[[Tensor], Tensor]
    told: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


_lock = threading.Lock()
opened: list[Listener] = []  # everybody who listens, in any thread
_patches = contextlib.ExitStack()
last = threading.local()  # the latest turn of this thread


def changing() -> bool:
    """Whether anybody who may change what attention puts out is open in this thread."""
    here = threading.get_ident()
    return any(one._thread == here and one.changes for one in tuple(opened))


@contextlib.contextmanager
def listening_in(listener: Listener) -> Iterator[None]:
    """The interface hands out wrapped functions as long as anybody listens: patched once, restored by the last."""
    with _lock:
        if not opened:
            with contextlib.ExitStack() as stack:
                if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                    # Compiled code calls neither the interface nor torch functions: meanwhile it runs uncompiled.
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                for patched in _interface():
                    stack.enter_context(patched)
                _patches.push(stack.pop_all())
        opened.append(listener)
    try:
        yield
    finally:
        with _lock:
            opened.remove(listener)
            if not opened:
                _patches.close()


class Turn:
    """What is done to one call by all who change it, in the order of :attr:`Listener.turn_of`.

    Attributes:
        changes: in that order.
        asked: whether there was anybody to ask.
        seen, after: the output [batch, head, query, d_v] that those who look on compare with, and that the model gets.
        result: the latter as the model has it.
    """

    def __init__(self, changes: Sequence[Change] = (), call: Call | None = None, asked: bool = False) -> None:
        self.changes, self.asked, self._call = changes, asked, call
        self.seen: Tensor | None = None
        self.after: Tensor | None = None
        self.result: Tensor | None = None

    @classmethod
    def of(cls, module: nn.Module, call: Call | None) -> Turn:
        """Of a call of a module. What cannot be changed raises."""
        asked = [one for one in tuple(opened) if one.changes and one.hears(module)]
        asked.sort(key=lambda one: one.turn_of)
        changes: list[Change] = []
        for one in asked:
            if call is None:
                raise ValueError(f"The attention in {one.name_of(module)} cannot be changed: it could not be read.")
            own = replace(call, name=one.name_of(module), block=one.block())
            for earlier in changes:
                own = replace(own, **earlier.told)
            with one.apart():
                if (found := one.change(own)) is not None:
                    changes.append(found)
        return cls(changes, call, bool(asked))

    def told(self, listener: Listener, call: Call | None) -> Call | None:
        """The call as it is with all of that."""
        for one in self.changes:
            if call is None:
                break
            call = replace(call, **one.told)
            if one.note:
                listener.remark(call.name, one.note)
        return call

    def apply(self, out: Tensor | None) -> None:
        """Sets ``seen`` and ``after``, given what the model's own function computed."""
        if out is None or self._call is None:
            name = self._call.name if self._call is not None else "a module"
            raise ValueError(f"The attention in {name} cannot be changed: its output has a layout of its own.")
        self.seen = self.after = out
        for one in self.changes:
            self.after = one.apply(self.after)
            self.seen = one.apply(self.seen) if one.told else self.seen


def _interface() -> Iterator[contextlib.AbstractContextManager[Any]]:
    """Patches that hand out transformers' attention functions wrapped; none where transformers is absent or too old."""
    try:
        from transformers.modeling_utils import AttentionInterface
    except ImportError:
        return
    lookup = getattr(AttentionInterface, "get_interface", None)
    if lookup is None:
        # Before transformers 5.2 the eager functions never pass through here: the function mode sees all calls.
        return

    def get_interface(self: Any, name: str | None, default: Callable[..., Any]) -> Callable[..., Any]:
        return _listening(lookup(self, name, default), name)

    item: Callable[[Any, str], Callable[..., Any]] = AttentionInterface.__getitem__

    def indexed(self: Any, name: str) -> Callable[..., Any]:
        # A few models index the mapping directly. Calls that come through both wrappers are heard by the outer one.
        return _listening(item(self, name), name)

    yield patch.object(AttentionInterface, "get_interface", get_interface)
    yield patch.object(AttentionInterface, "__getitem__", indexed)


def _listening(function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """``function`` of the attention interface, heard by whoever listens to the module that calls it."""

    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        listeners = [one for one in tuple(opened) if one.hears(module)]
        if not listeners:
            return function(module, *args, **kwargs)
        given = dict(zip(("query", "key", "value", "attention_mask"), args, strict=False)) | kwargs
        calls = [
            one.attempt(one.name_of(module), partial(_through_interface, one, module, name or "eager", given))
            for one in listeners
        ]
        turn = Turn.of(module, calls[0])
        heard = []
        for one, call in zip(listeners, calls, strict=True):
            call = turn.told(one, call)
            heard.append((one, call, None if call is None else one.attempt(call.name, partial(one.take, call))))
        try:
            for one in listeners:
                one._busy = True  # what the function calls in turn is part of this call
            result = function(module, *args, **kwargs)
        finally:
            for one in listeners:
                one._busy = False
        out = result[0] if isinstance(result, tuple) else result
        dropped = bool(given.get("dropout")) and module.training
        seen = out.transpose(1, 2) if isinstance(out, Tensor) and out.dim() == 4 else None
        if turn.changes:
            turn.apply(seen)
            assert turn.after is not None
            seen, after = turn.seen, turn.after.transpose(1, 2)
            result = (after, *result[1:]) if isinstance(result, tuple) else after
        seen = None if dropped else seen
        for one, call, taken in heard:
            if call is not None and taken is not None:
                one.attempt(call.name, partial(one.add, taken, call, seen))
        return result

    return attend


def _through_interface(listener: Listener, module: nn.Module, name: str, given: dict[str, Any]) -> Call:
    q, k = given["query"], given["key"]
    sink = next(
        (s for s in (given.get("s_aux"), given.get("sinks"), getattr(module, "sinks", None)) if s is not None), None
    )
    if sink is not None:
        sink = sink.detach().float()
        sink = sink[None, :, None] if sink.dim() == 1 else sink.reshape(*sink.shape[:3])
    scaling = given.get("scaling")
    return Call(
        name=listener.name_of(module),
        module=module,
        block=listener.block(),
        piece=listener.piece_of(module),
        q=q,
        k=k,
        v=given["value"],
        scale=q.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap=None if name == "sdpa" else given.get("softcap"),  # transformers 5.2 passes it, and sdpa leaves it out
        sink=sink,
        rules=partial(_rules_of_interface, listener, module, name, given),
    )


def _rules_of_interface(
    listener: Listener, module: nn.Module, name: str, given: dict[str, Any]
) -> tuple[Mask | None, Bias | None]:
    queries, keys = given["query"].shape[2], given["key"].shape[2]
    eager, flash = name.endswith("eager"), "flash" in name
    passed = given.get("attention_mask")
    mask: Mask | None = None
    bias: Bias | None = None
    if isinstance(passed, Tensor):
        mask, bias = listener.read(passed, queries, keys, additive=eager)
    elif passed is not None:
        # flex_attention's BlockMask holds a function of (batch, head, query, key) indices.
        at = torch.arange(passed.shape[0], device=passed.kv_num_blocks.device)[:, None, None, None]
        i, j = (torch.arange(n, device=at.device) for n in (queries, keys))
        mask = Mask.of(passed.mask_mod(at, torch.zeros_like(at), i[:, None], j).expand(len(at), 1, queries, keys))
    causal = given.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if flash and (causal or given.get("sliding_window")):
        # Flash kernels get no mask but flags, and align the diagonal with the last query (the bottom right corner).
        rule = Mask.causal(queries, keys, given.get("sliding_window"), offset=keys - queries)
        mask = rule if mask is None else mask & rule
    elif not eager and passed is None and causal and queries > 1:
        mask = Mask.causal(queries, keys)
    position = given.get("position_bias")
    if position is not None:
        also, numbers = listener.read(position[..., :keys], queries, keys, additive=True)
        mask = also if mask is None else mask
        numbers = numbers and replace(numbers, positional=True)
        bias = numbers if bias is None else bias.plus(numbers, queries, keys)
    return mask, bias
