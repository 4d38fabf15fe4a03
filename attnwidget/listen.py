"""Hearing the attention calls of a running model. Two mechanisms listen, and neither changes what it computes.

* **The interface.** Most models in transformers call ``attention_interface(module, query, key, value, mask, …)``. While
  somebody listens, whatever implementation the model looks up there (eager, sdpa, flash, flex, its own) is handed out
  in a wrapper that calls the very function the model asked for. The model is never switched to another implementation:
  six families would then compute something else.
* **The functions.** Everything else (``nn.MultiheadAttention``, ``F.scaled_dot_product_attention``, a softmax written
  by hand) is seen by a torch function mode. A softmax counts as attention when its result goes on to multiply values.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .inputs import unwrapped
from .masks import Bias, Mask, read
from .parts import place_of

LOOKED_FOR = (
    "calls through transformers' attention interface, nn.MultiheadAttention, F.scaled_dot_product_attention, and a "
    "softmax (or exp / sum) whose result multiplies values"
)


@dataclass(eq=False)
class Call:
    """One attention call, with the model's own tensors, where they are.

    Attributes:
        name, module: which module called.
        block: qualified name of the outermost numbered module that is running, "model.layers.11", or "". Where layers
            share one attention module, its name says where it was first mentioned and the block where it is running.
        piece: 0 for the first call in one run of the module (a model that packs several images calls once for each).
        q, k, v: [batch, head, query, d], [batch, kv_head, key, d], [batch, kv_head, key, d_v].
        weights: [batch, head, query, key], where the call was seen as a softmax and not as q and k.
        changed: the weights are those of the softmax, and what multiplied the values was made of them and has signs.
        rules: the mask and the bias, read when somebody wants them.
    """

    name: str
    module: nn.Module
    block: str = ""
    piece: int = 0
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    weights: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    sink: Tensor | None = None
    changed: bool = False
    rules: Callable[[], tuple[Mask | None, Bias | None]] = field(default=lambda: (None, None), repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(batch, head, query, key)."""
        if self.weights is not None:
            return tuple(self.weights.shape)  # type: ignore[return-value]  # four by construction
        assert self.q is not None and self.k is not None
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]


class Listener:
    """Open it around runs of ``model``: :meth:`take` and :meth:`add` are called for each of its attention calls.

    Heard are calls from the thread that opened the listener and from a module of this model; other models may run at
    the same time.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = unwrapped(model)
        self.running = False  # the model's own forward
        self._modules: dict[int, tuple[str, nn.Module]] = {}
        self._blocks: dict[int, str] = {}
        self.places: Counter[str] = Counter()  # how many modules there are of each name, numbers left out
        self._rules: dict[tuple[Any, ...], tuple[Tensor, Mask | None, Bias | None]] = {}
        self._thread = 0
        self._busy = False
        self._last: tuple[int, int, int] = (0, 0, 0)  # module, projections so far, piece
        self.projections = 0
        self.last_softmax = ""  # name of the module in which the latest one ran
        self._functions: _Functions | None = None
        self._open: contextlib.ExitStack | None = None

    # ── what is done with a call ──

    def take(self, call: Call) -> Any:
        """Before the call runs, since it may write over its arguments. None: not wanted."""
        raise NotImplementedError

    def add(self, taken: Any, call: Call, out: Tensor | None) -> None:
        """After it: what was taken, and the output [batch, head, query, d_v] where it can be compared with."""
        raise NotImplementedError

    def remark(self, name: str, words: str) -> None:
        """Something about the calls of a module that whoever looks at them has to know."""
        raise NotImplementedError

    @property
    def batch(self) -> int:
        """Number of texts or images in the current run, as far as its inputs tell."""
        return 1

    # ── opening ──

    def __enter__(self) -> Any:
        if self._open is not None:
            raise RuntimeError("This recorder is open already. Use a new record(model) for a nested block.")
        self._thread = threading.get_ident()
        self._modules = {id(module): (name, module) for name, module in self.model.named_modules()}
        self.places = Counter(place_of(name) for name, _ in self._modules.values())
        self._blocks = {
            id(child): f"{name}.{at}".removeprefix(".")
            for name, module in self._modules.values()
            if isinstance(module, nn.ModuleList)
            for at, child in enumerate(module)
        }
        with contextlib.ExitStack() as stack:
            for hook in (
                self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
                self.model.register_forward_hook(self._end, always_call=True),
            ):
                stack.callback(hook.remove)
            stack.enter_context(_listening_in(self))
            self._functions = stack.enter_context(_Functions(self))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if [one for one in _open if one._thread == self._thread][-1:] != [self]:
            raise RuntimeError("Recorders are closed in the order opposite to that in which they were opened.")
        stack, self._open = self._open, None
        assert stack is not None
        stack.close()
        self._functions = None
        for held in (self._rules, self._modules, self._blocks):
            held.clear()  # or they would keep the model

    def begin(self, given: dict[str, Any]) -> None:
        """The model's forward begins, with these arguments."""

    def end(self) -> None:
        """The model's forward is over, however it ended."""

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self.running = True
            self.attempt("", lambda: self.begin(_named(module, args, kwargs)))

    def _end(self, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self.running = False
            self._rules.clear()
            if self._functions is not None:
                self._functions.forget()
            self.end()

    # ── who is calling ──

    def hears(self, module: object) -> bool:
        """True where a call from ``module`` is one of this listener's now."""
        here = not self._busy and id(module) in self._modules and threading.get_ident() == self._thread
        # Gradient checkpointing runs attention again while it goes backwards: that is no run of its own.
        return here and (self.running or not _going_backwards())

    def name_of(self, module: nn.Module) -> str:
        """Qualified name of a module of this model."""
        return self._modules[id(module)][0]

    def caller(self) -> tuple[str, nn.Module | None]:
        """The innermost module of this model that is running."""
        return next((self._modules[one] for one in self._stack() if one in self._modules), ("", None))

    def block(self) -> str:
        """Qualified name of the outermost numbered module that is running, or ""."""
        return next((self._blocks[one] for one in reversed([*self._stack()]) if one in self._blocks), "")

    def _stack(self) -> Iterator[int]:
        """Ids of whatever is called ``self`` up the call stack, the innermost first."""
        frame = sys._getframe(1)
        while frame is not None:
            found = frame.f_locals
            owner = id(found.get("self"))
            if sys.version_info < (3, 13) and owner in self._modules and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                # A copy that the frame would keep until it is left, and with it tensors that it deletes before.
                found.clear()
            yield owner
            if owner == id(self.model):
                break  # who calls the model is of no interest
            frame = frame.f_back  # type: ignore[assignment]  # None ends the loop

    def may_attend(self, name: str, module: nn.Module) -> bool:
        """False for what multiplies values in a model of transformers and is not called attention: say a router."""
        if not type(self.model).__module__.startswith("transformers."):
            return True
        path = name.split(".")
        around = [self.model.get_submodule(".".join(path[:end])) for end in range(1, len(path) + 1)]
        classes = " ".join(type(one).__name__ for one in (*around, module)).lower()
        return "attn" in classes or "attention" in classes

    def piece_of(self, module: nn.Module) -> int:
        """0 for the first call in one run of ``module``: between two runs something is projected, within one not."""
        last, projections, piece = self._last
        again = last == id(module) and projections == self.projections
        self._last = (id(module), self.projections, piece + 1 if again else 0)
        return self._last[2]

    def attempt(self, name: str, act: Callable[[], Any]) -> Any:
        """What ``act`` returns. Where listening fails, the model runs on; memory that runs out is said at once."""
        busy, self._busy = self._busy, True
        try:
            # What is computed here is nobody's attention: others may be listening in this thread, too.
            with torch._C.DisableTorchFunction():
                return act()
        except MemoryError:
            raise
        except Exception as problem:
            self.remark(name, f"could not be recorded ({type(problem).__name__}: {problem})")
            return None
        finally:
            self._busy = busy

    def read(
        self,
        mask: Tensor,
        queries: int,
        keys: int,
        *,
        additive: bool,
        shaped: Callable[[Tensor], Tensor] = lambda mask: mask,
    ) -> tuple[Mask | None, Bias | None]:
        """The mask and the bias behind the tensor a model passed as its attention mask; read once per tensor and run.

        ``shaped`` brings it to [batch, head or 1, query or 1, key].
        """
        # Written in place between two calls, a tensor keeps its id and changes its version.
        version = 0 if mask.is_inference() else mask._version
        key = (id(mask), version, queries, keys, additive)
        if key not in self._rules:
            # The tensor itself is kept until the run is over, so that its id stays its own.
            self._rules[key] = (mask, *read(shaped(mask), queries, keys, additive=additive))
        return self._rules[key][1:]


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the module's forward by name."""
    given = inspect.signature(module.forward).bind_partial(*args, **kwargs)
    found = dict(given.arguments)
    for name, one in given.signature.parameters.items():
        if one.kind is one.VAR_KEYWORD:
            found |= found.pop(name, {})
        elif one.kind is one.VAR_POSITIONAL:
            found |= {f"{name} {at}": value for at, value in enumerate(found.pop(name, ()))}
    return found


def _going_backwards() -> bool:
    graph = getattr(torch._C, "_current_graph_task_id", None)
    return graph is not None and graph() != -1


# ── the interface ────────────────────────────────────────────────────────────────────────────────────────────────────

_lock = threading.Lock()
_open: list[Listener] = []  # everybody who listens, in any thread
_patches = contextlib.ExitStack()


@contextlib.contextmanager
def _listening_in(listener: Listener) -> Iterator[None]:
    """The interface hands out wrapped functions as long as anybody listens: patched once, restored by the last."""
    with _lock:
        if not _open:
            with contextlib.ExitStack() as stack:
                if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                    # Compiled code calls neither the interface nor torch functions: meanwhile it runs uncompiled.
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                for patched in _interface():
                    stack.enter_context(patched)
                _patches.push(stack.pop_all())
        _open.append(listener)
    try:
        yield
    finally:
        with _lock:
            _open.remove(listener)
            if not _open:
                _patches.close()


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
        listeners = [one for one in _open if one.hears(module)]
        if not listeners:
            return function(module, *args, **kwargs)
        given = dict(zip(("query", "key", "value", "attention_mask"), args, strict=False)) | kwargs
        heard = []
        for one in listeners:
            call = one.attempt(one.name_of(module), partial(_through_interface, one, module, name or "eager", given))
            taken = None if call is None else one.attempt(call.name, partial(one.take, call))
            heard.append((one, call, taken))
        try:
            for one in listeners:
                one._busy = True  # what the function calls in turn is part of this call
            result = function(module, *args, **kwargs)
        finally:
            for one in listeners:
                one._busy = False
        out = result[0] if isinstance(result, tuple) else result
        dropped = bool(given.get("dropout")) and module.training
        seen = out.transpose(1, 2) if isinstance(out, Tensor) and out.dim() == 4 and not dropped else None
        for one, call, taken in heard:
            if taken is not None:
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
        bias = numbers if bias is None else bias.plus(numbers, queries, keys)
    return mask, bias


# ── the functions ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Candidate:
    """What became of a softmax since: the tensor as it is now, and the weights it was."""

    now: Tensor
    weights: Tensor
    name: str
    module: nn.Module | None


class _Functions(TorchFunctionMode):
    """Sees every torch function call of this thread while somebody listens."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener = listener
        self.candidates: dict[int, _Candidate] = {}  # by id of the tensor, the latest last
        self.logarithm: Tensor | None = None  # the latest result of log_softmax, which exp makes a softmax
        self.exponentials: list[Tensor] = []  # the latest results of exp; divided by its sums, one becomes a softmax
        # Heads of the nn.MultiheadAttention that is running: it folds them into the batch.
        self.heads: int | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types_: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # Nearly every call ends here: what stands before it is paid for hundreds of times in each run.
        if self.listener._busy or not (self.candidates or function in _OF_INTEREST):
            return function(*args, **kwargs)
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
        result = function(*args, **kwargs)
        if function in _PROJECTIONS:
            self.listener.projections += 1
            self.exponentials = []
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
            self._follow(function, (*args, *kwargs.values()), result)
        return result

    def forget(self) -> None:
        """Let go of what was waiting for its values."""
        self.candidates, self.exponentials, self.logarithm = {}, [], None

    def _sdpa(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = dict(zip(names, args, strict=False)) | kwargs
        name, module = self.listener.caller()
        call, taken = None, None
        if module is not None and self.listener.hears(module) and given["query"].numel() > 0:
            call = self.listener.attempt(name, partial(self._call_of_sdpa, name, module, given))
            taken = None if call is None else self.listener.attempt(name, partial(self.listener.take, call))
        result = F.scaled_dot_product_attention(*args, **kwargs)
        if call is not None and taken is not None:
            out = None if given.get("dropout_p") else _rank4(result, self.listener.batch, module)
            self.listener.attempt(name, partial(self.listener.add, taken, call, out))
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

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        operands = list(_operands(args))
        found = next((self.candidates[id(a)] for a in operands if id(a) in self.candidates), None)
        if found is None:
            return
        if function in _PRODUCTS:
            self.candidates = {at: one for at, one in self.candidates.items() if one.weights is not found.weights}
            used, changed = _as_multiplied(function, args, found.now, found.weights)
            if found.module is not None and found.module.training and used is not None:
                # Dropout may be in between, and is not shown.
                used, changed = (found.weights if used.shape == found.weights.shape else used), False
            if found.module is None or used is None or not self.listener.may_attend(found.name, found.module):
                return
            if self.listener.hears(found.module):
                self.listener.attempt(
                    found.name, partial(self._add_stored, found, used, changed, function, args, result)
                )
        elif (
            (function in _PROJECTIONS or getattr(function, "__name__", "") in _KEEPING)
            and isinstance(result, Tensor)
            and result.dim() >= 2
            and result.numel() <= found.now.numel()
        ):
            self._keep(_Candidate(result, found.weights, found.name, found.module))

    def _add_stored(
        self,
        found: _Candidate,
        used: Tensor,
        changed: bool,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        result: Tensor,
    ) -> None:
        module, batch = found.module, self.listener.batch
        assert module is not None

        def shaped(tensor: Tensor) -> Tensor:
            # [batch · head, query, key], as nn.MultiheadAttention and older models fold them.
            folded = self.heads and tensor.dim() == 3
            return tensor.unflatten(0, (-1, self.heads)) if folded else _rank4(tensor, batch, module)

        weights = shaped(used.detach())
        queries, keys = weights.shape[2:]

        def rules() -> tuple[Mask | None, Bias | None]:
            # A softmax tells what is masked only by zeros: a whole upper triangle of them is a causal mask.
            causal = queries == keys > 1 and not bool(weights.triu(1).any())
            return (Mask.causal(queries, keys) if causal else None), None

        where = found.name, module, self.listener.block(), self.listener.piece_of(module)
        call = Call(*where, weights=weights, changed=changed, rules=rules)
        out = None
        if function in _PLAIN_PRODUCTS and args[0] is found.now and not call.changed and not module.training:
            call.v, out = shaped(args[1].detach()), shaped(result.detach())
        taken = self.listener.take(call)
        if taken is not None:
            self.listener.add(taken, call, out)

    def __exit__(self, *error: object) -> None:
        self.forget()
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch's


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
# What makes queries and keys out of hidden states.
_PROJECTIONS = {F.linear, torch.addmm, Tensor.addmm, F.conv1d, F.conv2d, F.multi_head_attention_forward}
_OF_INTEREST = {
    F.multi_head_attention_forward, F.scaled_dot_product_attention, *_PROJECTIONS, *_SOFTMAX, *_LOG_SOFTMAX, *_EXP,
    *_DIVISIONS,
}  # fmt: skip
# The body of torch's own function under another name. Called as itself it would hand itself back to the mode for ever;
# its copy does not ask whether a mode is open, and the functions it calls do.
_body = F.multi_head_attention_forward
_multi_head_attention = types.FunctionType(
    _body.__code__, {**_body.__globals__, "has_torch_function": lambda _: False}, _body.__name__, _body.__defaults__
)
_multi_head_attention.__kwdefaults__ = _body.__kwdefaults__


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
