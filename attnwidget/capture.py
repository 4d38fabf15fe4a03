"""A run of a model, turned into an :class:`~attnwidget.attention.Attention`.

How the calls are heard is in ``listen.py``; here is what is kept of them, and the check: as soon as a call has run, a
few of its rows are recomputed from what was kept and compared with what the model itself computed.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import operator
import re
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import recipe
from .attention import Attention
from .check import Comparison
from .inputs import Inputs, Text, given_to, is_encoder_decoder, unwrapped
from .interface import changing
from .layers import Layer
from .listen import LOOKED_FOR, Listener
from .masks import Mask, on_host
from .output import Heads, Output, Read, version_of
from .parts import ROLES, Call, Kept, noun_of, parts_of, place_of, role_of
from .shown import in_words

_LESS = (
    "Keep fewer layers (layers=[0, -1]) or parts (parts=['decoder']), keep them in half precision "
    "(dtype=torch.float16), or shorten the text."
)


_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class NoAttentionError(ValueError):
    """A model ran and no attention was seen by any mechanism."""


# ── the two verbs ────────────────────────────────────────────────────────────────────────────────────────────────────


def capture(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    target: str | Sequence[str] | None = None,
    truncate: bool = False,
    layers: Collection[int] | None = None,
    parts: Collection[str] | None = None,
    dtype: torch.dtype | None = None,
    keep_values: bool = False,
    pin_memory: bool = False,
    progress: bool = True,
    **forward: Any,
) -> Attention:
    """Run ``model`` once and keep the attention of every layer and head.

    The model runs as it is: on its own device, in its own precision, with its own attention implementation; for the one
    run in evaluation mode and without gradients. Afterwards it is as it was, also when the run fails.

    Args:
        model: any ``torch.nn.Module``: of transformers, timm, torchvision, or written by hand.
        inputs: a text, a pair of texts (a tuple), or a list of either, padded for you; or what the model takes: a
            mapping of keyword arguments (a tokenizer's or processor's output), a tensor, a tuple of positional
            arguments.
        tokenizer: turns the text into ids and ids into labels. Needed for a text; for ids it gives readable labels.
        target: for encoder-decoder models, the text the decoder reads.
        truncate: cut a text that is longer than the model allows. Without it such a text is an error.
        layers: keep these only, by the model's own numbers, negative from the end.
        parts: keep these only: "encoder", "decoder", "cross", "vision", "audio".
        dtype: in which Q and K are kept; the model's own unless given. ``attention.check`` states what it changes.
        keep_values: keep the values V too (as large as K): what the heads pass on, to see it step by step.
        pin_memory: copy from the GPU through page-locked memory: faster, and no other program can use that memory.
        progress: a bar for runs that take longer than a second, with the memory that what is kept will take.
        **forward: further keyword arguments of the model's ``forward``.

    Returns:
        The attention, with ``attention.check`` saying how well recomputed rows agree with the model's own output.
        It refers to the weights of the model's output projections, which therefore stay in memory as long as it does.

    Raises:
        ValueError: empty text, text too long, tokenizer and model that do not match, no such layer or part.
        NoAttentionError: the model ran and no attention was seen.
        MemoryError: what is to be kept is larger than the memory that is free; it is said before it is taken.

    Example:
        >>> from attnwidget import capture, tiny
        >>> model, tokenizer = tiny.decoder()
        >>> attention = capture(model, "The cat saw the dog.", tokenizer)
        >>> attention[0, 1].row(3).sum().item()  # doctest: +ELLIPSIS
        1.0...
        >>> capture(model, ["The cat saw the dog.", "The cat"], tokenizer, layers=[-1]).samples
        2

        Anything else takes the arguments of its ``forward``:

        >>> x = torch.randn(1, 5, 16)
        >>> capture(nn.MultiheadAttention(16, 4, batch_first=True), (x, x, x)).part().heads
        4
        >>> capture(nn.Transformer(16, 4, 1, 1, batch_first=True), {"src": x, "tgt": x}).parts
        ('encoder', 'decoder', 'cross')
    """
    refuse_misspelt(model, forward, capture)
    decodes = bool(forward.keys() & {"decoder_input_ids", "decoder_inputs_embeds", "labels"})
    given = given_to(model, inputs, tokenizer, target=target, truncate=truncate, decodes=decodes)
    recorder = record(
        model, tokenizer, layers=layers, parts=parts, dtype=dtype, keep_values=keep_values, pin_memory=pin_memory
    )
    recorder.texts, recorder.targets = given.texts, given.targets
    recorder.made = made_of(
        "capture", inputs, tokenizer, target=target, truncate=truncate or None, layers=layers, parts=parts, dtype=dtype,
        keep_values=keep_values or None, **forward,
    )  # fmt: skip
    with evaluating(model), torch.no_grad(), recorder, _bar(model, recorder, progress):
        try:
            model(*given.args, **{**given.kwargs, **forward})
        except torch.cuda.OutOfMemoryError as problem:
            raise MemoryError(
                "The model itself ran out of memory on its device; what is captured is moved to host memory as it "
                "comes. Shorten the text, take fewer texts at once, or load the model in half precision."
            ) from problem
    return recorder.attention


def made_of(function: str, inputs: Any, tokenizer: Any, **options: Any) -> str:
    """The call of ``function`` with a model, as Python, with those of the options that are not None."""
    positional = {"model": recipe.Name("model"), "inputs": inputs}
    positional |= {} if tokenizer is None else {"tokenizer": recipe.Name("tokenizer")}
    made = recipe.call(function, positional, **{name: one for name, one in options.items() if one is not None})
    return f"# made while something that changes what the model does was open\n{made}" if changing() else made


def refuse_misspelt(model: nn.Module, forward: Collection[str], function: Callable[..., Any]) -> None:
    """Many models swallow arguments that they do not know: one of ``function``, misspelt, would have no effect."""
    own = [name for name, one in inspect.signature(function).parameters.items() if one.kind is one.KEYWORD_ONLY]
    for name in set(forward) - set(inspect.signature(unwrapped(model).forward).parameters):
        if near := difflib.get_close_matches(name, own, n=1, cutoff=0.8):
            raise TypeError(f"There is no option {name}; did you mean {near[0]}?")


def record(
    model: nn.Module,
    tokenizer: Any = None,
    *,
    layers: Collection[int] | None = None,
    parts: Collection[str] | None = None,
    dtype: torch.dtype | None = None,
    keep_values: bool = False,
    pin_memory: bool = False,
) -> Recorder:
    """Listen to a model while you run it yourself. The options are those of :func:`capture`.

    >>> from attnwidget import record, tiny
    >>> model, tokenizer = tiny.decoder()
    >>> with record(model, tokenizer) as rec:
    ...     output = model(**tokenizer("The cat saw the dog.", return_tensors="pt"))
    >>> rec.attention.parts
    ('decoder',)

    Nothing is switched: gradients, training mode and dropout are as you set them. ``rec.attention`` is the last run of
    the model inside the block, ``rec.attentions`` all of them (generation makes one for every step).

    Raises:
        ValueError: the model has no such layer, or there is no part of that name.
    """
    return Recorder(
        model, tokenizer, layers=layers, parts=parts, dtype=dtype, keep_values=keep_values, pin_memory=pin_memory
    )


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


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _Run:
    """One forward of the model: what went in, what was kept of the calls it made, in order, and how they compared."""

    checks: Comparison
    inputs: Inputs = field(default_factory=Inputs)
    kept: list[Kept] = field(default_factory=list)
    remarks: dict[str, list[str]] = field(default_factory=dict)  # what has to be known of the calls of these modules
    # By place in the model and shape: the bytes that the calls that are kept will take.
    planned: dict[tuple[Any, ...], int] = field(default_factory=dict)
    # Masks without the rows of padding, by id of the mask they were made of; that one is kept, so that its id is.
    masks: dict[int, tuple[Mask, Mask]] = field(default_factory=dict)
    size: int = 0  # bytes kept so far
    explained: bool = False  # what could not be had of its layers
    numbers: set[int] = field(default_factory=set)  # those of ``layers`` that were there
    # By module: what was not wanted of it, in words, its role and its shape.
    unwanted: dict[str, tuple[str, str, tuple[int, ...]]] = field(default_factory=dict)


class Recorder(Listener):
    """What :func:`record` returns: open it around the runs you want to see."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any = None,
        *,
        layers: Collection[int] | None = None,
        parts: Collection[str] | None = None,
        dtype: torch.dtype | None = None,
        keep_values: bool = False,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(model)
        # A processor holds the tokenizer that reads ids.
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.layers, self.parts = _chosen_layers(self.model, layers), _chosen_parts(parts)
        if dtype not in (None, *_DTYPES):
            known = ", ".join(map(str, _DTYPES))
            raise ValueError(f"dtype is {dtype!r}; Q and K can be kept in {known}.")
        self.dtype, self.keep_values, self.pin_memory = dtype, keep_values, pin_memory
        self.texts: tuple[Text, ...] = ()  # what is read, as it was cut, and what is decoded
        self.targets: tuple[Text, ...] = ()
        self.generated: Tensor | None = None  # bool [batch, token]: what the model wrote itself
        self.made = ""  # the call of ours that runs the model; "" where somebody else does
        self.on_call: Callable[[], Any] = lambda: None
        self._runs: list[_Run] = []
        self._outputs: dict[tuple[int, str, int], Output] = {}  # by the call whose heads they bring together

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._outputs.clear()  # ids of modules are their own no longer than that

    @property
    def attention(self) -> Attention:
        """The attention of the last run.

        Raises:
            NoAttentionError: nothing has run yet, or it had no attention.
            ValueError: none of it was in ``layers`` and ``parts``.
        """
        seen = [run for run in self._runs if run.kept or run.unwanted]
        return self._attention(seen[-1] if seen else None)

    @property
    def attentions(self) -> tuple[Attention, ...]:
        """The attention of every run that had any, in order."""
        return tuple(self._attention(run) for run in self._runs if run.kept)

    # ── listening ──

    @property
    def batch(self) -> int:
        return self._run.inputs.batch

    @property
    def _run(self) -> _Run:
        if not self._runs:
            self._runs.append(_Run(Comparison(self.dtype)))
        return self._runs[-1]

    def begin(self, given: dict[str, Any]) -> None:
        self._runs.append(_Run(Comparison(self.dtype)))
        self._run.inputs = Inputs.of(given, getattr(self.model, "config", None))

    def end(self) -> None:
        # For what is called from outside the model's own forward, if anything is.
        self._runs.append(_Run(Comparison(self.dtype)))

    def remark(self, name: str, words: str) -> None:
        self._run.remarks.setdefault(words, []).append(name)

    def take(self, call: Call) -> Kept | None:
        run, place = self._run, place_of(call.name)
        turned = tuple(self.turned) if call.q is not None else ()
        self.turned.clear()
        group = place, call.piece, call.shape
        stack, number = self.slot(call)
        unwanted = ""
        if self.layers is not None:
            met = {number, number - len(stack)} & self.layers
            run.numbers |= met
            unwanted = "" if met else f"layer {number}"
        mask, bias = call.rules() if not unwanted else (None, None)
        if mask is None and call.weights is not None and not unwanted:
            mask = _causal_but_for_padding(call.weights, run.inputs.keep)
        role = role_of(self.model, call.name, call.shape, mask)
        if self.parts is not None and role not in self.parts:
            unwanted = f"part {role!r}"
        if unwanted:
            run.unwanted[call.name] = unwanted, role, call.shape
            return None
        if not stack or group not in run.planned:
            self._plan(group, call, self.places[place] if stack else 1)
        weights = self._keep(call.weights)
        if weights is not None and call.weights is not None:
            run.checks.rounded(weights, call.weights)
        layer = Layer(
            name=call.name,
            mask=self._masked(run, role, call, mask, weights),
            q=self._keep(call.q),
            k=self._keep(call.k),
            v=self._keep(call.v) if self.keep_values else None,
            weights=weights,
            scale=call.scale,
            softcap=call.softcap,
            bias=bias,
            sink=None if call.sink is None else call.sink.cpu(),
            turned=turned,
        )
        run.size += layer.nbytes
        return Kept(layer, number, stack, call.block, call.piece)

    def add(self, taken: Kept, call: Call, out: Tensor | None) -> None:
        run = self._run
        run.kept.append(taken)
        if call.changed:
            run.checks.changed.append(call.name or type(self.model).__name__)
        if call.v is not None and out is not None:
            run.checks.compare(taken.layer, call, out)
        if out is not None and out.dim() == 4 and out.shape[0] and out.shape[2]:
            at = len(run.kept) - 1
            owner = id(call.module), call.block, at  # layers may share a module, and have a projection each
            known = self._outputs.get(owner)
            if known is not None and known.version == version_of(known.weight):
                run.kept[-1] = _with(taken, output=known)
            else:
                self.waiting.append(Heads.of(at, owner, out))
        self.on_call()

    def project(self, reads: Sequence[Read], name: str, weight: Tensor | None, across: bool = False) -> None:
        kept = self._run.kept
        for one in reads:
            at, owner = one.heads.at, one.heads.owner
            if weight is None:
                self._outputs.pop(owner, None)
                words = (
                    f"What {name} makes of the outputs of the heads is not told by one weight of the model: there is "
                    "an adapter beside it, or the weight is computed anew in each run."
                )
                kept[at] = _with(kept[at], output=None, why={"output": words})
            else:
                self._outputs[owner] = Output.of(name, weight, across, one)
                kept[at] = _with(kept[at], output=self._outputs[owner])

    @property
    def planned(self) -> int:
        """Bytes that what is kept of the current run will take, as far as the calls so far tell."""
        return sum(self._run.planned.values())

    def _plan(self, group: tuple[Any, ...], call: Call, layers: int) -> None:
        """State the bytes that this call and those like it will take.

        Raises:
            MemoryError: there are not so many, besides what is still to come of others.
        """
        tensors = (call.q, call.k, call.v if self.keep_values else None, call.weights)
        sizes = [t.numel() * (self.dtype or t.dtype).itemsize for t in tensors if t is not None]
        layers = max(1, layers if self.layers is None else min(layers, len(self.layers)))
        planned = self._run.planned
        planned[group] = planned.get(group, 0) + sum(sizes) * layers
        needed, free = self.planned - self._run.size, _free_memory()
        if needed > free:
            raise MemoryError(
                f"Keeping the attention takes {in_words(needed)} more ({layers} layers like {call.name or 'this one'} "
                f"among it), and {in_words(free)} are free. {_LESS}"
            )

    def _keep(self, tensor: Tensor | None) -> Tensor | None:
        """A copy in host memory. A view would pin the fused q-k-v it was cut from, and static caches roll in place."""
        if tensor is None:
            return None
        dtype = self.dtype or tensor.dtype
        if not (self.pin_memory and tensor.is_cuda):
            try:
                return tensor.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            except RuntimeError as problem:
                if "allocate memory" not in str(problem):  # torch has no error of its own for that
                    raise
                size = in_words(tensor.numel() * dtype.itemsize)
                raise MemoryError(f"There is no room for {size} of what is to be kept. {_LESS}") from problem
        held = torch.empty(tensor.shape, dtype=dtype, pin_memory=True)
        held.copy_(tensor.detach(), non_blocking=True)
        torch.cuda.current_stream(tensor.device).synchronize()
        return held

    def _masked(self, run: _Run, role: str, call: Call, mask: Mask | None, weights: Tensor | None) -> Mask:
        """The mask, where padding is what the inputs say: as keys, and as queries whose rows nobody is to read."""
        batch, _, queries, keys = call.shape
        if mask is None:
            mask = Mask.full(queries, keys)
        written = role in ("decoder", "cross") and is_encoder_decoder(self.model)
        asking = run.inputs.keep_decoded if written else run.inputs.keep
        asked = run.inputs.keep_decoded if written and role == "decoder" else run.inputs.keep
        if role in ("vision", "audio"):
            asking = asked = None
        fits = asking is not None and asking.shape == (batch, queries)
        if weights is not None and asking is not None and fits:
            weights.masked_fill_(~asking[:, None, :, None], 0.0)
        if weights is not None and asked is not None and asked.shape == (batch, keys):
            # Stored weights tell padding only by zeros: see that they are there.
            unseen = not bool(weights.amax((1, 2))[~asked].any())
            mask = replace(mask, keep=asked) if unseen else mask
        if asking is None or not fits:
            return mask
        # Layers share the mask: made once, it stays one.
        return run.masks.setdefault(id(mask), (mask, mask.without(asking)))[1]

    @on_host
    def _attention(self, run: _Run | None) -> Attention:
        if run is None:
            raise NoAttentionError(self._nothing())
        if not run.kept:
            seen = ", ".join(dict.fromkeys(words for words, _, _ in run.unwanted.values()))
            wanted = f"layers={sorted(self.layers)}" if self.layers is not None else f"parts={sorted(self.parts or ())}"
            raise ValueError(f"There was no attention in {wanted}. What ran has {seen}.")
        check = run.checks.verdict([one.layer for one in run.kept])
        notes = [] if check.ok else [check.text]
        if broken := list(dict.fromkeys(one.layer.name for one in run.kept if _is_broken(one.layer))):
            run.remarks["NaN or infinite numbers. They are drawn as ×"] = broken
        for words, names in run.remarks.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            notes.append(f"{names[0] or type(self.model).__name__}{more}: {words}.")
        if self.layers is not None and (missed := sorted(self.layers - run.numbers)):
            notes.append(f"layers={missed}: what ran has no layer of that number.")
        self._explain(run)
        dropped = {name: (role, shape) for name, (_, role, shape) in run.unwanted.items()}
        context = self.tokenizer, self.texts, self.targets, self.generated, dropped
        parts = parts_of(self.model, run.kept, run.inputs, *context)
        name = type(self.model).__name__
        made = self.made or self._made(run.inputs)
        return Attention(parts, model=name, check=check, notes=notes, noun=noun_of(parts, run.inputs), made=made)

    def _made(self, inputs: Inputs) -> str:
        """A capture of what a run was given, as far as that is kept."""
        names = {
            "input_ids": inputs.read, "attention_mask": inputs.keep, "decoder_input_ids": inputs.decoded,
            "decoder_attention_mask": inputs.keep_decoded, "token_type_ids": inputs.segments,
        }  # fmt: skip
        ids = {name: one.long() for name, one in names.items() if one is not None}
        remark = "# recorded while the model was run: what else it was given is not known\n"
        return remark + made_of(
            "capture", ids or None, self.tokenizer, dtype=self.dtype, keep_values=self.keep_values or None,
            layers=self.layers, parts=self.parts,
        )  # fmt: skip

    def _explain(self, run: _Run) -> None:
        """Bring what was noted of positions to the host, and say what could not be had of the layers, once."""
        if run.explained:
            return
        run.explained, hosted = True, dict[Any, Tensor]()
        named = (self.model.named_parameters(), self.model.named_modules())
        tables = [name for some in named for name, _ in some if _POSITIONS.search(name)]
        for at, one in enumerate(run.kept):
            layer = one.layer
            turned = tuple(replace(each, some=each.some.cpu(), by=_once(each.by, hosted)) for each in layer.turned)
            why = {"positions": _why_no_positions(layer.name, tables), "output": _NO_OUTPUT, **layer.why}
            run.kept[at] = _with(one, turned=turned, why=why)

    def _nothing(self) -> str:
        name = type(self.model).__name__
        if not self._runs:
            return f"{name} has not run inside the recording block yet, so there is no attention to show."
        broken = [f"{names[0] or name}: {words}" for run in self._runs for words, names in run.remarks.items()]
        if not broken and self.last_softmax:
            broken = [
                f"A softmax ran in {self.last_softmax}, but it did not go on to multiply values as weights @ values"
            ]
        return (
            f"No attention was seen while {name} ran. Looked for: {LOOKED_FOR}. "
            + (f"{broken[0]}. " if broken else "")
            + "A model without attention (convolution, state space) has none. A kernel called directly cannot be seen, "
            f"nor can code compiled by a torch older than 2.6 (this is {torch.__version__}): run it uncompiled, or "
            "bring the weights yourself, Attention.from_weights(…) or Attention.from_qk(…)."
        )


_POSITIONS = re.compile(
    r"(?:^|\.)(?:wpe|pos|positions?|(?:\w*_)?(?:pos|position|positional)_(?:emb|enc)\w*|embed_pos\w*)(?:\.weight)?$"
)
_NO_OUTPUT = (
    "No projection was seen that reads the outputs of these heads as they are: they are gated, normalised or mixed "
    "first, dropout is on, or the weight is in a format of its own."
)


def _why_no_positions(layer: str, tables: Sequence[str]) -> str:
    """In words, for a layer in which positions turn nothing and add nothing, in a model with these tables of them."""
    # Of a model with several towers, the table of the layer's own.
    table = max(tables, key=lambda one: _shared(one, layer), default=None)
    if table is None:
        return (
            "No rotation of queries and keys by their positions was seen in this layer, nor a bias that depends on "
            "positions alone: what it knows of positions came with the vectors that it read."
        )
    return (
        f"This model adds positions to its vectors before the first layer ({table.removesuffix('.weight')}); in "
        "the queries and keys of a head nothing tells them from the rest."
    )


def _shared(a: str, b: str) -> int:
    """How many parts of their names two modules share from the start."""
    pairs = enumerate(zip(a.split("."), b.split("."), strict=False))
    return next((at for at, (one, other) in pairs if one != other), 0)


def _with(one: Kept, **changes: Any) -> Kept:
    return replace(one, layer=replace(one.layer, **changes))


def _once(tensor: Tensor, held: dict[Any, Tensor]) -> Tensor:
    """A copy in host memory; the same one for tensors that are the same, or hold the same numbers."""
    key = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
    if key not in held:
        copy = tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
        alike = (one for one in held.values() if one.dtype == copy.dtype and torch.equal(one, copy))
        held[key] = next(alike, copy)
    return held[key]


def _chosen_layers(model: nn.Module, layers: Collection[int] | None) -> frozenset[int] | None:
    """Refused before anything runs where no list of modules in the model is so long."""
    if layers is None:
        return None
    given = [layers] if isinstance(layers, int) else list(layers)
    if any(isinstance(one, bool) for one in given):
        raise ValueError(f"layers is {given}; it holds the numbers of layers.")
    chosen = frozenset(operator.index(one) for one in given)
    longest = max((len(module) for module in model.modules() if isinstance(module, nn.ModuleList)), default=0)
    wrong = sorted(one for one in chosen if longest and not -longest <= one < longest)
    if wrong or not chosen:
        which = f"There is no layer {wrong[0]}" if wrong else "layers is empty"
        raise ValueError(
            f"{which}: the longest list of modules in {type(model).__name__} goes from 0 to {longest - 1}, or from the "
            f"end −1 to −{longest}."
        )
    return chosen


def _chosen_parts(parts: Collection[str] | None) -> frozenset[str] | None:
    if parts is None:
        return None
    chosen = frozenset([parts] if isinstance(parts, str) else parts)
    if not chosen or chosen - set(ROLES):
        raise ValueError(
            f"parts is {sorted(chosen)}; it may hold {', '.join(map(repr, ROLES))}. Numbered parts are kept "
            "together: 'vision 2' with 'vision'."
        )
    return chosen


def _causal_but_for_padding(weights: Tensor, keep: Tensor | None) -> Mask | None:
    """The causal mask, where only rows of padding see later keys: what they hold differs between implementations."""
    batch, _, queries, keys = weights.shape
    if keep is None or not keep.shape == (batch, queries) == (batch, keys):
        return None
    later = weights.triu(1).amax((1, 3))[keep.to(weights.device)]
    return None if bool(later.any()) else Mask.causal(queries, keys)


def _free_memory() -> int:
    """Bytes this process may still take: the machine's, or less where a container limits them."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        told = Path("/sys/fs/cgroup/memory.stat").read_text().split()
        pages = int(told[told.index("inactive_file") + 1])  # of files, which give way
        free = min(free, limit - used + pages)
    return free


def _is_broken(layer: Layer) -> bool:
    held = (layer.weights,) if layer.weights is not None else (layer.q, layer.k)
    # A sum costs a fraction of looking at every entry, and is finite wherever all of them are and none is huge.
    return any(not bool(torch.isfinite(t.sum())) and not bool(torch.isfinite(t).all()) for t in held if t is not None)


# ── leaving things as they were ──────────────────────────────────────────────────────────────────────────────────────


_lock = threading.Lock()
# How many are evaluating a model now, in any thread, and its modules that were in training before the first of them.
_training: dict[int, tuple[int, list[nn.Module]]] = {}


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back exactly the flag it had."""
    with _lock:
        count, trained = _training.get(id(model), (0, []))
        # Not model.eval(): some modules merge or convert their weights when they are told to.
        trained = trained if count else [module for module in model.modules() if module.training]
        _training[id(model)] = count + 1, trained
        for module in trained:
            module.training = False
    try:
        yield
    finally:
        with _lock:
            count, trained = _training.pop(id(model))
            if count > 1:
                _training[id(model)] = count - 1, trained
            else:
                for module in trained:
                    module.training = True


@contextlib.contextmanager
def _bar(model: nn.Module, recorder: Recorder, wanted: bool) -> Iterator[None]:
    """A progress bar over the attention layers, shown only when the run takes longer than a second."""
    config = getattr(model, "config", None)
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
    total = max((n for n in (getattr(config, name, 0) for name in names) if isinstance(n, int)), default=0)
    with tqdm(
        total=total or None, desc="capturing attention", unit="layer", delay=1.0, leave=False, disable=not wanted
    ) as bar:

        def count() -> None:
            bar.set_postfix_str(f"keeps {in_words(recorder.planned)}", refresh=False)
            bar.update()

        recorder.on_call = count
        try:
            yield
        finally:
            recorder.on_call = lambda: None  # or the two would keep each other, and the model
