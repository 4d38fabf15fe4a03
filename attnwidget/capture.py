"""A run of a model, turned into an :class:`~attnwidget.attention.Attention`.

Two mechanisms listen while a model runs, and neither changes what it computes:

* **The interface.** Most models in transformers call ``attention_interface(module, query, key, value, mask, …)``. While
  a :class:`Recorder` is open, whatever implementation the model looks up there (eager, sdpa, flash, flex, its own) is
  handed out in a wrapper that copies q and k, reads the mask as a rule, and calls the very function the model asked
  for. The model is never switched to another implementation: six families would then compute something else.
* **The functions.** Everything else (``nn.MultiheadAttention``, ``F.scaled_dot_product_attention``, a softmax written
  by hand) is seen by a torch function mode. A softmax counts as attention when its result goes on to multiply values.

Each captured call is checked at once: a few rows are recomputed from the copy and compared with the model's output.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from .attention import Attention, Check, Layer
from .masks import Bias, Mask, read
from .parts import Inputs, parts_of

# Rows of each call that are recomputed and compared with what the model computed.
_CHECKED_ROWS = 6
# Largest relative difference that rounding explains, per precision in which the model ran.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class NoAttentionError(ValueError):
    """A model ran and no attention was seen by any mechanism."""


# ── the two verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


def capture(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    target: str | None = None,
    truncate: bool = False,
    keep_values: bool = False,
    progress: bool = True,
    **forward: Any,
) -> Attention:
    """Run ``model`` once and keep the attention of every layer and head.

    The model runs as it is: on its own device, in its own precision, with its own attention implementation; for the one
    run in evaluation mode and without gradients. Afterwards it is as it was, also when the run fails.

    Args:
        model: any ``torch.nn.Module``: of transformers, timm, torchvision, or written by hand.
        inputs: a text; or what the model takes: a mapping of keyword arguments (a tokenizer's or image processor's
            output), a tensor, a tuple of positional arguments.
        tokenizer: turns the text into ids and ids into labels. Needed for a text; for ids it gives readable labels.
        target: for encoder-decoder models, the text the decoder reads.
        truncate: cut a text that is longer than the model allows. Without it such a text is an error.
        keep_values: keep the values V too (as large as K).
        progress: a bar for runs that take longer than a second.
        **forward: further keyword arguments of the model's ``forward``.

    Returns:
        The attention, with ``attention.check`` saying how well recomputed rows agree with the model's own output.

    Raises:
        ValueError: empty text, text too long, tokenizer and model that do not match.
        NoAttentionError: the model ran and no attention was seen.

    Example:
        >>> from attnwidget import capture, tiny
        >>> model, tokenizer = tiny.decoder()
        >>> attention = capture(model, "The cat saw the dog.", tokenizer)
        >>> attention[0, 1].row(3).sum().item()  # doctest: +ELLIPSIS
        1.0...
    """
    args, kwargs, spans = _arguments(model, inputs, tokenizer, target, truncate, forward)
    kwargs |= forward
    _matching(model, args, kwargs, tokenizer)
    recorder = Recorder(model, tokenizer, keep_values=keep_values)
    recorder.spans = spans
    with _evaluating(model), torch.no_grad(), _bar(model, progress) as bar, recorder:
        recorder.on_call = bar.update
        model(*args, **kwargs)
    return recorder.attention


def record(model: nn.Module, tokenizer: Any = None, *, keep_values: bool = False) -> Recorder:
    """Listen to a model while you run it yourself.

    >>> from attnwidget import record, tiny
    >>> model, tokenizer = tiny.decoder()
    >>> with record(model, tokenizer) as rec:
    ...     output = model(**tokenizer("The cat saw the dog.", return_tensors="pt"))
    >>> rec.attention.parts
    ('decoder',)

    Nothing is switched: gradients, training mode and dropout are as you set them. ``rec.attention`` is the last run of
    the model inside the block, ``rec.attentions`` all of them (generation makes one for every step).
    """
    return Recorder(model, tokenizer, keep_values=keep_values)


def load(name: str) -> tuple[nn.Module, Any]:
    """A model and its tokenizer from a local folder or by name, with transformers.

    The class named in the model's own configuration is taken, so that the whole model runs, its head included.

    Raises:
        OSError: no such folder, and no network to fetch that name from.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    named = [getattr(transformers, one, None) for one in config.architectures or ()]
    maker = next((one for one in named if one is not None), transformers.AutoModel)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    return maker.from_pretrained(name), tokenizer


# ── listening ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Run:
    """One forward of the model: what went in, and the attention calls it made, in order."""

    inputs: Inputs = field(default_factory=Inputs)
    calls: list[Layer] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    tolerance: float = 0.0
    rows: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


class Recorder:
    """What :func:`record` returns: open it around the runs you want to see.

    Calls are recorded when they come from the thread that opened the recorder and from a module of this model; other
    models may run at the same time.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None, *, keep_values: bool = False) -> None:
        # A compiled model is a shell around the original; its modules are the ones that run.
        self.model: nn.Module = getattr(model, "_orig_mod", model)
        self.tokenizer = tokenizer
        self.keep_values = keep_values
        self.spans: tuple[list[int], str, list[tuple[int, int]]] | None = None
        self.on_call: Callable[[], Any] = lambda: None
        self._modules: dict[int, tuple[str, nn.Module]] = {}
        self._runs: list[_Run] = []
        self._rules: dict[tuple[Any, ...], tuple[Tensor, Mask | None, Bias | None]] = {}
        self._thread = 0
        self._busy = False
        self._running = False
        self._open: contextlib.ExitStack | None = None

    def __enter__(self) -> Recorder:
        if self._open is not None:
            raise RuntimeError("This recorder is open already. Use a new record(model) for a nested block.")
        self._thread = threading.get_ident()
        self._modules = {id(module): (name, module) for name, module in self.model.named_modules()}
        with contextlib.ExitStack() as stack:
            for hook in (
                self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
                self.model.register_forward_hook(self._end, always_call=True),
            ):
                stack.callback(hook.remove)
            stack.enter_context(_listening_in(self))
            stack.enter_context(_Functions(self))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        stack, self._open = self._open, None
        assert stack is not None
        self._rules.clear()
        stack.close()

    @property
    def attention(self) -> Attention:
        """The attention of the last run.

        Raises:
            NoAttentionError: nothing has run yet, or it had no attention.
        """
        return self._attention(next((run for run in reversed(self._runs) if run.calls), None))

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of every run that had any, in order."""
        return tuple(self._attention(run) for run in self._runs if run.calls)

    def listens_to(self, module: object) -> bool:
        """True where a call from ``module`` is to be recorded now."""
        here = not self._busy and id(module) in self._modules and threading.get_ident() == self._thread
        # Gradient checkpointing runs attention again while it goes backwards: that is no run of its own.
        return here and (self._running or not _going_backwards())

    def name_of(self, module: nn.Module) -> str:
        """Qualified name of a module of this model."""
        return self._modules[id(module)][0]

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() == self._thread:
            # The first positional argument of every transformers model is its main input.
            main = {getattr(module, "main_input_name", "input_ids"): args[0]} if args else {}
            self._runs.append(_Run(Inputs.of({**main, **kwargs})))
            self._running = True

    def _end(self, *_: Any) -> None:
        if threading.get_ident() == self._thread:
            self._running = False
            self._runs.append(_Run())  # for what is called from outside the model's own forward, if anything is

    def running(self) -> tuple[str, nn.Module | None]:
        """Name of the innermost module of this model that is running, read off the call stack."""
        frame = sys._getframe(1)
        while frame is not None:
            found = self._modules.get(id(frame.f_locals.get("self")))
            if found:
                return found
            frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
        return "", None

    def add(self, layer: Layer, value: Tensor | None, out: Tensor | None) -> None:
        """Keep one call, compared with ``value`` [batch, kv_head, key, d] and ``out`` [batch, head, query, d]."""
        if not self._runs:
            self._runs.append(_Run())
        run = self._runs[-1]
        run.calls.append(layer)
        if value is not None and out is not None:
            self._compare(run, layer, value, out)
        self.on_call()

    def attempt(self, name: str, record: Callable[[], Any]) -> Any:
        """What ``record`` returns. Where listening fails, the model runs on and the attention says what is missing."""
        try:
            return record()
        except Exception as problem:
            if not self._runs:
                self._runs.append(_Run())
            self._runs[-1].skipped[name] = f"could not be recorded ({type(problem).__name__}: {problem})"
            return None

    @property
    def batch(self) -> int:
        """Number of texts or images in the current run, as far as its inputs tell."""
        return self._runs[-1].inputs.batch if self._runs else 1

    def keep(self, tensor: Tensor) -> Tensor:
        """A copy in host memory. A view would pin the fused q-k-v it was cut from, and static caches roll in place."""
        return tensor.detach().to("cpu", copy=True)

    def rules(
        self, mask: Tensor, queries: int, keys: int, *, additive: bool, lead: tuple[int, ...] | None = None
    ) -> tuple[Mask | None, Bias | None]:
        """The mask and the bias behind the tensor a model passed as its attention mask; read once per tensor.

        ``lead`` are the leading axes of the queries, to which the mask of a bare scaled dot product broadcasts.
        """
        # Written in place between two calls, a tensor keeps its id and changes its version.
        version = 0 if mask.is_inference() else mask._version
        key = (id(mask), version, queries, keys, additive)
        if key not in self._rules:
            shaped = mask if lead is None else _broadcast(mask, lead)
            # The tensor itself is kept until the recorder closes, so that its id stays its own.
            self._rules[key] = (mask, *read(shaped, queries, keys, additive=additive))
        return self._rules[key][1:]

    def _compare(self, run: _Run, layer: Layer, value: Tensor, out: Tensor) -> None:
        batch, heads, queries, _ = layer.shape
        if out.shape[:3] != (batch, heads, queries) or queries == 0:
            run.skipped[layer.name] = "its output has another layout"
            return
        sample = len(run.errors) % batch
        rows = torch.linspace(0, queries - 1, min(queries, _CHECKED_ROWS)).long()
        # Rows without any key are padding: implementations differ in what they write there, and nobody reads it.
        rows = rows[layer.mask.allowed(sample, rows).any(0).any(-1)]
        if not len(rows):
            return
        values = value[sample].detach().cpu().float()
        p = layer.block(sample, None, rows)[0]
        # Heads that share values stand below each other: [kv_head, group · row, key] @ [kv_head, key, d].
        ours = (p.reshape(len(values), -1, p.shape[-1]) @ values).reshape(heads, len(rows), -1)
        theirs = out[sample].detach()[:, rows.to(out.device)].cpu().float()
        largest = float(theirs.abs().max())
        error = float((ours - theirs).abs().max())
        run.errors.append(error / largest if largest > 0 else error)
        run.tolerance = max(run.tolerance, _TOLERANCE.get(out.dtype, 5e-2))
        run.rows += len(rows)

    def _attention(self, run: _Run | None) -> Attention:
        if run is None:
            raise NoAttentionError(self._nothing())
        check = _verdict(run)
        notes = [] if check.ok else [check.text]
        notes += [f"{name}: {words}." for name, words in run.skipped.items() if words.startswith("could not")]
        broken = sorted({layer.name for layer in run.calls if _is_broken(layer)}, key=str)
        if broken:
            more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
            notes.append(f"{broken[0]}{more}: NaN or infinite numbers. They are drawn as ×.")
        parts = parts_of(self.model, run.calls, run.inputs, self.tokenizer, self.spans)
        return Attention(parts, model=type(self.model).__name__, check=check, notes=notes)

    def _nothing(self) -> str:
        name = type(self.model).__name__
        if not self._runs:
            return f"{name} has not run inside the recording block yet, so there is no attention to show."
        return (
            f"No attention was seen while {name} ran. Looked for: calls through transformers' attention interface, "
            "nn.MultiheadAttention, F.scaled_dot_product_attention, and a softmax whose result multiplies values. "
            "A model without attention (convolution, state space) has none. A kernel called directly cannot be seen, "
            f"nor can code compiled by a torch older than 2.6 (this is {torch.__version__}): run it uncompiled, or "
            "bring the weights yourself, Attention.from_weights(…) or Attention.from_qk(…)."
        )


_lock = threading.Lock()
_open: list[Recorder] = []  # every recorder that is listening, in any thread
_patches = contextlib.ExitStack()


@contextlib.contextmanager
def _listening_in(recorder: Recorder) -> Iterator[None]:
    """The interface hands out wrapped functions as long as any recorder is open: patched once, restored by the last."""
    with _lock:
        if not _open:
            with contextlib.ExitStack() as stack:
                if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
                    # Compiled code calls neither the interface nor torch functions: meanwhile it runs uncompiled.
                    stack.enter_context(torch.compiler.set_stance("force_eager"))
                for patched in _interface():
                    stack.enter_context(patched)
                _patches.push(stack.pop_all())
        _open.append(recorder)
    try:
        yield
    finally:
        with _lock:
            _open.remove(recorder)
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
        # A few models index the mapping directly. Calls that come through both wrappers are recorded by the outer one.
        return _listening(item(self, name), name)

    yield patch.object(AttentionInterface, "get_interface", get_interface)
    yield patch.object(AttentionInterface, "__getitem__", indexed)


def _listening(function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
    """``function`` of the attention interface, recorded by whoever listens to the module that calls it."""

    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        listeners = [recorder for recorder in _open if recorder.listens_to(module)]
        if not listeners:
            return function(module, *args, **kwargs)
        given = dict(zip(("query", "key", "value", "attention_mask"), args, strict=False)) | kwargs
        layers = [
            one.attempt(one.name_of(module), partial(_of_interface, one, module, name or "eager", given))
            for one in listeners
        ]
        for one in listeners:
            one._busy = True
        try:
            result = function(module, *args, **kwargs)
        finally:
            for one in listeners:
                one._busy = False
        out = result[0] if isinstance(result, tuple) else result
        dropped = bool(given.get("dropout")) and module.training
        checked = isinstance(out, Tensor) and out.dim() == 4 and not dropped
        for one, layer in zip(listeners, layers, strict=True):
            if layer is not None:
                seen = out.transpose(1, 2) if checked else None
                one.attempt(layer.name, partial(one.add, layer, given["value"], seen))
        return result

    return attend


def _of_interface(recorder: Recorder, module: nn.Module, name: str, given: dict[str, Any]) -> Layer:
    q, k = given["query"], given["key"]
    queries, keys = q.shape[2], k.shape[2]
    eager, flash = name.endswith("eager"), "flash" in name
    mask, bias = _masked(recorder, given.get("attention_mask"), queries, keys, eager)
    causal = given.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    if flash and (causal or given.get("sliding_window")):
        # Flash kernels get no mask but flags, and align the diagonal with the last query (the bottom right corner).
        rule = Mask.causal(queries, keys, given.get("sliding_window"), offset=keys - queries)
        mask = rule if mask is None else mask & rule
    elif not eager and given.get("attention_mask") is None and causal and queries > 1:
        mask = Mask.causal(queries, keys)
    position = given.get("position_bias")
    if position is not None:
        also, numbers = recorder.rules(position[..., :keys], queries, keys, additive=True)
        mask = also if mask is None else mask
        bias = numbers if bias is None else bias.plus(numbers, queries, keys)
    sink = next(
        (s for s in (given.get("s_aux"), given.get("sinks"), getattr(module, "sinks", None)) if s is not None), None
    )
    if sink is not None:
        sink = recorder.keep(sink).float()
        sink = sink[None, :, None] if sink.dim() == 1 else sink.reshape(*sink.shape[:3])
    scaling = given.get("scaling")
    return Layer(
        name=recorder.name_of(module),
        mask=Mask.full(queries, keys) if mask is None else mask,
        q=recorder.keep(q),
        k=recorder.keep(k),
        v=recorder.keep(given["value"]) if recorder.keep_values else None,
        scale=q.shape[-1] ** -0.5 if scaling is None else float(scaling),
        softcap=given.get("softcap"),
        bias=bias,
        sink=sink,
    )


def _masked(recorder: Recorder, mask: Any, queries: int, keys: int, additive: bool) -> tuple[Mask | None, Bias | None]:
    if mask is None:
        return None, None
    if not isinstance(mask, Tensor):
        # flex_attention's BlockMask holds a function of (batch, head, query, key) indices.
        at = torch.arange(mask.shape[0], device=mask.kv_num_blocks.device)[:, None, None, None]
        i, j = (torch.arange(n, device=at.device) for n in (queries, keys))
        cells = mask.mask_mod(at, torch.zeros_like(at), i[:, None], j)
        return Mask.of(cells.expand(len(at), 1, queries, keys)), None
    return recorder.rules(mask, queries, keys, additive=additive)


class _Functions(TorchFunctionMode):
    """Sees every torch function call of this thread while a recorder is open."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        # The latest softmax result and what became of it since (dropout, cast, view): id → (tensor, weights, module).
        self.candidates: dict[int, tuple[Tensor, Tensor, tuple[str, nn.Module | None]]] = {}
        # Heads of the nn.MultiheadAttention that is running: it folds them into the batch.
        self.heads: int | None = None

    def __torch_function__(
        self, function: Callable[..., Any], types_: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.recorder._busy:
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
        if function in _SOFTMAX:
            self._softmax(result, args, kwargs)
        elif self.candidates:
            self._follow(function, args, result)
        return result

    def _sdpa(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = F.scaled_dot_product_attention(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
        given = dict(zip(names, args, strict=False)) | kwargs
        name, module = self.recorder.running()
        if module is not None and self.recorder.listens_to(module) and given["query"].numel():
            self.recorder.attempt(name, partial(self._add_sdpa, name, given, result))
        return result

    def _add_sdpa(self, name: str, given: dict[str, Any], result: Tensor) -> None:
        batch = self.recorder.batch
        q, k, v, out = (_rank4(one, batch) for one in (given["query"], given["key"], given["value"], result))
        k, v = (one.expand(len(q), -1, -1, -1) if len(one) == 1 else one for one in (k, v))
        queries, keys = q.shape[2], k.shape[2]
        mask, bias = None, None
        if given.get("attn_mask") is not None:
            lead = q.shape[:1] + q.shape[1:2] if given["query"].dim() < 5 else given["query"].shape[:-2]
            mask, bias = self.recorder.rules(given["attn_mask"], queries, keys, additive=False, lead=tuple(lead))
        elif given.get("is_causal"):
            mask = Mask.causal(queries, keys)
        scale = given.get("scale")
        layer = Layer(
            name=name,
            mask=Mask.full(queries, keys) if mask is None else mask,
            q=self.recorder.keep(q),
            k=self.recorder.keep(k),
            v=self.recorder.keep(v) if self.recorder.keep_values else None,
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            bias=bias,
        )
        self.recorder.add(layer, v, out if not given.get("dropout_p") else None)

    def _softmax(self, result: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if result.dim() >= 2 and dim in (-1, result.dim() - 1):
            self.candidates = {id(result): (result, result, self.recorder.running())}

    def _follow(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        operands = list(_operands(args))
        found = next((self.candidates[id(a)] for a in operands if id(a) in self.candidates), None)
        if found is None:
            return
        operand, weights, (name, module) = found
        if function in _PRODUCTS:
            self.candidates = {}
            used = _as_multiplied(function, args, operand, weights)
            if module is not None and used is not None and self.recorder.listens_to(module):
                self.recorder.attempt(name, partial(self._add_stored, name, used))
        elif isinstance(result, Tensor):
            self.candidates[id(result)] = (result, weights, (name, module))

    def _add_stored(self, name: str, weights: Tensor) -> None:
        self.recorder.add(_stored(name, weights, self.heads, self.recorder), None, None)

    def __exit__(self, *error: object) -> None:
        self.candidates = {}
        super().__exit__(*error)  # type: ignore[no-untyped-call]  # torch's


_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}
_PRODUCTS = {
    torch.matmul, torch.bmm, torch.mm, torch.einsum, torch.baddbmm,
    Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm, Tensor.baddbmm,
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
) -> Tensor | None:
    """The weights as [.., query, key] if they are the left factor of a sum over keys; None if that is no attention."""
    # A sink is a column that takes weight and is cut off before the values: what is multiplied is what counts.
    used = operand if operand.dim() == weights.dim() and operand.shape[-1] < weights.shape[-1] else weights
    if function is not torch.einsum:
        left, right = [a for a in args if isinstance(a, Tensor)][-2:]
        return used if left is operand and right.dim() >= 2 and right.shape[-2] == used.shape[-1] else None
    equation, factors = str(args[0]).replace(" ", ""), list(_operands(args[1:]))
    terms = equation.split("->")[0].split(",")
    if len(terms) != 2 or len(factors) != 2 or factors[0] is not operand or "." in equation:
        return None
    # Queries stand on the left only, keys are summed over: "bnhm,bmhd->bnhd" has its queries in the second place.
    along, values = terms
    queries = [at for at, letter in enumerate(along[:-1]) if letter not in values]
    return used.movedim(queries[0], -2) if len(queries) == 1 and along[-1] in values else None


def _going_backwards() -> bool:
    graph = getattr(torch._C, "_current_graph_task_id", None)
    return graph is not None and graph() != -1


def _rank4(tensor: Tensor, batch: int) -> Tensor:
    """[batch, head, token, d]. Three axes are unfolded by the batch of the run; axes beyond four are folded into it."""
    if tensor.dim() > 4:
        return tensor.reshape(-1, *tensor.shape[-3:])
    if tensor.dim() == 3:
        return tensor.unflatten(0, (batch, -1)) if len(tensor) % batch == 0 else tensor[None]
    return tensor[(None,) * (4 - tensor.dim())]


def _broadcast(mask: Tensor, lead: tuple[int, ...]) -> Tensor:
    """A mask of a bare scaled dot product as [batch, head or 1, query, key], folded as the queries are."""
    if len(lead) <= 2:
        return mask[(None,) * (4 - mask.dim())]
    return mask.expand(*lead, *mask.shape[-2:]).reshape(-1, lead[-1], *mask.shape[-2:])


def _stored(name: str, weights: Tensor, heads: int | None, recorder: Recorder) -> Layer:
    w = weights.detach()
    # [batch · head, query, key], as nn.MultiheadAttention and older models fold them.
    w = w.unflatten(0, (-1, heads)) if heads and w.dim() == 3 else _rank4(w, recorder.batch)
    w = recorder.keep(w)
    causal = w.shape[2] == w.shape[3] > 1 and not bool(w.triu(1).any())
    mask = Mask.causal(*w.shape[2:]) if causal else Mask.full(*w.shape[2:])
    return Layer(name=name, mask=mask, weights=w)


def _is_broken(layer: Layer) -> bool:
    held = (layer.weights,) if layer.weights is not None else (layer.q, layer.k)
    # A sum costs a fraction of looking at every entry, and is finite wherever all of them are and none is huge.
    return any(not bool(torch.isfinite(t.sum())) and not bool(torch.isfinite(t).all()) for t in held if t is not None)


def _verdict(run: _Run) -> Check:
    # Written so that NaN fails the comparison.
    ok = all(error <= run.tolerance for error in run.errors)
    worst = max(run.errors, default=0.0, key=lambda e: float("inf") if e != e else e)
    calls = f"{len(run.calls)} attention calls"
    if not run.errors:
        if all(layer.weights is not None for layer in run.calls):
            return Check(True, 0.0, 0, 0.0, f"{calls}; these are the very weights the model computed.")
        why = next(iter(run.skipped.values()), "dropout is on, or no row has a key")
        return Check(True, 0.0, 0, 0.0, f"{calls}, not compared with the model's output: {why}.")
    if not ok:
        text = (
            f"The recomputed attention does not reproduce the model's output: {worst:.1e} off (at most "
            f"{run.tolerance:.0e} is rounding). Do not trust these maps; please report the model."
        )
        return Check(False, worst, run.rows, run.tolerance, text)
    compared = calls if len(run.errors) == len(run.calls) else f"{len(run.errors)} of {calls}"
    text = f"{run.rows} rows of {compared} recomputed: they reproduce the model's own output to {worst:.1e}."
    return Check(True, worst, run.rows, run.tolerance, text)


# ── what goes in, and leaving things as they were ────────────────────────────────────────────────────────────────────


def _arguments(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any,
    target: str | None,
    truncate: bool,
    forward: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any], tuple[list[int], str, list[tuple[int, int]]] | None]:
    """Positional and keyword arguments of the model's forward, on its device; and the text with its tokens' spans."""
    spans = None
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def here(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(inputs, str):
        encoded, offsets = _encoded(model, inputs, tokenizer, truncate, "text")
        spans = (encoded["input_ids"][0].tolist(), inputs, offsets) if offsets else None
        kwargs = {name: here(value) for name, value in encoded.items()}
    elif isinstance(inputs, Mapping):
        kwargs = {name: here(value) for name, value in inputs.items()}
    elif isinstance(inputs, Tensor):
        return (here(inputs),), {}, None
    elif isinstance(inputs, tuple):
        return tuple(map(here, inputs)), {}, None
    else:
        raise TypeError(
            f"inputs is a {type(inputs).__name__}. Pass a text, a mapping of the model's keyword arguments, a "
            "tensor, or a tuple of tensors."
        )
    if target is not None:
        kwargs["decoder_input_ids"] = here(_encoded(model, target, tokenizer, truncate, "target")[0]["input_ids"])
    elif isinstance(inputs, str) and _decodes(model) and not forward.keys() & {"decoder_input_ids", "labels"}:
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder: say what the decoder reads, target='…', or pass "
            "decoder_input_ids in a mapping."
        )
    return (), kwargs, spans


def _decodes(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _encoded(
    model: nn.Module, text: str, tokenizer: Any, truncate: bool, what: str
) -> tuple[dict[str, Any], list[tuple[int, int]] | None]:
    """The tokenizer's output without offsets, and the offsets, where it knows them."""
    if tokenizer is None:
        raise ValueError(f"A {what} needs a tokenizer: capture(model, text, tokenizer).")
    if not callable(tokenizer):
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__}, not a tokenizer.")
    limit = _limit(model, tokenizer)
    cut = {"truncation": True, "max_length": limit} if truncate and limit else {}
    fast = {"return_offsets_mapping": True} if getattr(tokenizer, "is_fast", False) else {}
    with _as_before(tokenizer):
        encoded = dict(tokenizer(text, return_tensors="pt", **cut, **fast))
    offsets = encoded.pop("offset_mapping", None)
    ids = encoded["input_ids"]
    special = set(getattr(tokenizer, "all_special_ids", ()))
    if ids.shape[1] == 0 or (not text.strip() and all(i in special for i in ids[0].tolist())):
        raise ValueError(f"The {what} is empty: there are no tokens to attend to.")
    if limit and ids.shape[1] > limit:
        raise ValueError(
            f"The {what} has {ids.shape[1]} tokens, and {type(model).__name__} takes at most {limit}. Pass "
            f"truncate=True to keep the first {limit}, or shorten it."
        )
    return encoded, None if offsets is None else [(int(a), int(b)) for a, b in offsets[0]]


@contextlib.contextmanager
def _as_before(tokenizer: Any) -> Iterator[None]:
    """A fast tokenizer remembers how it was last told to truncate and pad; give that back."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = (getattr(backend, name, None) for name in ("truncation", "padding"))
    try:
        yield
    finally:
        if backend is not None:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
            backend.enable_padding(**padding) if padding else backend.no_padding()


def _limit(model: nn.Module, tokenizer: Any) -> int | None:
    """Most tokens the model takes, from its configuration and its tokenizer; None where neither says."""
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    stated = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    stated.append(getattr(tokenizer, "model_max_length", None))
    # A tokenizer that does not know says 10³⁰.
    limits = [int(n) for n in stated if isinstance(n, int) and 0 < n < 10**9]
    return min(limits, default=None)


def _matching(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], tokenizer: Any) -> None:
    """Refuse ids that the model has no embedding for, before torch does it with an index out of range."""
    ids = kwargs.get("input_ids", args[0] if args else None)
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]  # absent on plain modules
    except (AttributeError, NotImplementedError, TypeError):
        return
    rows = getattr(getattr(table, "weight", None), "shape", (0,))[0]
    if isinstance(ids, Tensor) and ids.dtype == torch.long and ids.numel() and rows and int(ids.max()) >= rows:
        whose = f"The tokenizer ({type(tokenizer).__name__})" if tokenizer is not None else "The input"
        raise ValueError(
            f"{whose} makes token id {int(ids.max())}, but {type(model).__name__} has embeddings for {rows} ids only. "
            "Pass the tokenizer that belongs to this model."
        )


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back exactly the flag it had."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        # Not model.eval(): some modules merge or convert their weights when they are told to.
        for module, _ in flags:
            module.training = False
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextlib.contextmanager
def _bar(model: nn.Module, wanted: bool) -> Iterator[Any]:
    """A progress bar over the attention layers, shown only when the run takes longer than a second."""
    config = getattr(model, "config", None)
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
    total = max((n for n in (getattr(config, name, 0) for name in names) if isinstance(n, int)), default=0)
    with tqdm(
        total=total or None, desc="capturing attention", unit="layer", delay=1.0, leave=False, disable=not wanted
    ) as bar:
        yield bar
