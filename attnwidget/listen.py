"""Hearing the attention calls of a running model. Two mechanisms listen, and neither changes what it computes.

* **The interface.** Most models in transformers call ``attention_interface(module, query, key, value, mask, …)``; how
  these calls are heard is in ``interface.py``.
* **The functions.** Everything else (``nn.MultiheadAttention``, ``F.scaled_dot_product_attention``, a softmax written
  by hand) is seen by a torch function mode, which is in ``functions.py``. A softmax counts as attention when its result
  goes on to multiply values.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from . import interface
from .functions import Functions
from .inputs import unwrapped
from .interface import Change, Turn
from .masks import Bias, Mask, read
from .output import Heads, Read
from .parts import Call, place_of, slot_of
from .rotary import Turned

_MOST_TURNED = 16  # gpt_oss makes eight multiplications for the queries and keys of a layer
LOOKED_FOR = (
    "calls through transformers' attention interface, nn.MultiheadAttention, F.scaled_dot_product_attention, and a "
    "softmax (or exp / sum) whose result multiplies values"
)


class Listener:
    """Open it around runs of ``model``: :meth:`take` and :meth:`add` are called for each of its attention calls.

    Heard are calls from the thread that opened the listener and from a module of this model; other models may run at
    the same time.

    Attributes:
        acts: the run is not to go on unchanged. What gradient checkpointing runs again is then changed again, and a
            failure to listen ends the run.
        looks: whether the weights of a call are of interest to it.
        turn_of: who changes a call is asked in this order, and of one number in that in which they were opened: 0
            changes queries and keys, 1 weights, 2 outputs, 3 nothing that counts.
    """

    acts = False
    looks = True
    turn_of = 3

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
        self._functions: Functions | None = None
        self._open: contextlib.ExitStack | None = None
        # Since the last attention call: what multiplied vectors by something of their positions.
        self.turned: deque[Turned] = deque(maxlen=_MOST_TURNED)
        self.waiting: list[Heads] = []  # outputs of heads that no projection has read yet
        # By place in the model and shape: how many calls there were in this run.
        self._counts: Counter[tuple[Any, ...]] = Counter()

    # ── what is done with a call ──

    @property
    def changes(self) -> bool:
        """Whether it may change what attention puts out."""
        return type(self).change is not Listener.change

    def change(self, call: Call) -> Change | None:
        """What is to come out of a call instead; None: what it computes. Asked before anybody takes the call.

        Raises:
            Exception: whatever it raises ends the model's run.
        """
        return None

    def take(self, call: Call) -> Any:
        """Before the call runs, since it may write over its arguments. None: not wanted."""
        raise NotImplementedError

    def add(self, taken: Any, call: Call, out: Tensor | None) -> None:
        """After it: what was taken, and the output [batch, head, query, d_v] where it can be compared with."""
        raise NotImplementedError

    def slot(self, call: Call) -> tuple[Sequence[nn.Module], int]:
        """The list of modules that a call belongs to, empty where that is not clear, and the number of its layer.

        To be asked once for each call: those of one place are counted.
        """
        place = place_of(call.name)
        group = place, call.piece, call.shape
        self._counts[group] += 1
        return slot_of(self.model, call.name, call.block, self._counts[group] - 1, self.places[place])

    def project(self, reads: Sequence[Read], name: str, weight: Tensor | None, across: bool = False) -> None:
        """The projection of that name has read the outputs of heads that were waiting for it.

        Its weight is [D, feature], or [feature, D] where ``across``; None where it does not say what is made of them.
        """

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
            stack.enter_context(interface.listening_in(self))
            self._functions = stack.enter_context(Functions(self))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        mine = [one for one in tuple(interface.opened) if one._thread == self._thread]
        inner = mine[mine.index(self) + 1 :] if self in mine else []
        for one in (*reversed(inner), self):
            one._close()  # torch's modes lie on a stack: only the uppermost can be taken off it
        if inner:
            raise RuntimeError(
                "Recorders are closed in the order opposite to that in which they were opened; those that were opened "
                "after this one are closed now, too."
            )

    def _close(self) -> None:
        stack, self._open = self._open, None
        if stack is None:
            return
        stack.close()
        self._functions = None
        for held in (self._rules, self._modules, self._blocks, self.turned, self.waiting):
            held.clear()  # or they would keep the model

    def begin(self, given: dict[str, Any]) -> None:
        """The model's forward begins, with these arguments."""

    def end(self) -> None:
        """The model's forward is over, however it ended."""

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            self.running = True
            self._forget()
            self.attempt("", lambda: self.begin(_named(module, args, kwargs)))

    def _end(self, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self.running = False
            self._rules.clear()
            self._forget()
            if self._functions is not None:
                self._functions.forget()
            self.end()

    def _forget(self) -> None:
        interface.last.turn = None
        for of_a_run in (self.turned, self.waiting, self._counts):
            of_a_run.clear()

    # ── who is calling ──

    def hears(self, module: object) -> bool:
        """True where a call from ``module`` is one of this listener's now."""
        # Gradient checkpointing runs attention again while it goes backwards: that is no run of its own.
        return self._here(module) and (self.running or self.acts or not going_backwards())

    def _here(self, module: object) -> bool:
        return not self._busy and id(module) in self._modules and threading.get_ident() == self._thread

    def others(self, module: nn.Module) -> bool:
        """True where the weights in the calls of ``module`` are of interest to somebody else.

        Also while checkpointing runs them again: it counts what is saved for gradients, and takes it for an error if
        that is less than the first time.
        """
        return any(one is not self and one.looks and one._here(module) for one in tuple(interface.opened))

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
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            found = frame.f_locals
            owner = id(found.get("self"))
            if sys.version_info < (3, 13) and owner in self._modules and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
                # A copy that the frame would keep until it is left, and with it tensors that it deletes before.
                found.clear()
            yield owner
            if owner == id(self.model):
                break  # who calls the model is of no interest
            frame = frame.f_back

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
        """What ``act`` returns. Where listening fails, the model runs on; memory that runs out is said at once.

        Raises:
            RuntimeError: it fails in a listener that :attr:`acts`.
        """
        try:
            with self.apart():
                return act()
        except MemoryError:
            raise
        except Exception as problem:
            if self.acts:
                what = f"the attention in {name}" if name else f"what {type(self.model).__name__} was given"
                raise RuntimeError(
                    f"The run cannot be changed: {what} could not be read ({type(problem).__name__}: {problem})."
                ) from problem
            self.remark(name, f"could not be recorded ({type(problem).__name__}: {problem})")
            return None

    def turn(self, module: nn.Module, call: Call | None, result: Tensor) -> Turn:
        """What is done to a call that torch's own functions made, and that came to ``result``: found once for all."""
        last: Turn | None = getattr(interface.last, "turn", None)
        if last is None or last.result is not result:
            last = Turn.of(module, call)
            last.result, interface.last.turn = result, last if last.asked else None
        return last

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """What is computed meanwhile is nobody's attention: others may be listening in this thread, too."""
        busy, self._busy = self._busy, True
        try:
            with torch._C.DisableTorchFunction():
                yield
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


def going_backwards() -> bool:
    """True in what autograd calls while it computes gradients."""
    graph = getattr(torch._C, "_current_graph_task_id", None)
    return graph is not None and graph() != -1
