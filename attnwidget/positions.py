"""The same model without its positions, or with others: what its attention owes to the order of the tokens."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from .acting import Acting
from .inputs import unwrapped
from .interface import Change
from .listen import going_backwards
from .masks import Bias, Mask, on_host
from .parts import Call
from .reweigh import Scores, reweighed, softmax
from .rotary import Rotary, fitted

Order: TypeAlias = Literal["off", "shuffled", "reversed"]
ORDERS: tuple[Order, ...] = ("off", "shuffled", "reversed")


def positions(model: nn.Module, how: Order = "off", *, seed: int = 0) -> Positions:
    """Take the positions from ``model`` while a with block is open, or give its tokens those of one another.

    Whatever kind the model has: a table that is added to the embeddings (learned or sinusoidal), queries and keys that
    are turned (rotary), or a bias on the scores that depends on how far apart two tokens are (ALiBi, T5, windows of
    images). The causal mask stays: it tells a decoder something of the order by itself.

    A table that is no ``nn.Embedding`` is exchanged in the model itself while it runs: no other thread may run the same
    model meanwhile.

    Args:
        model: whose runs are changed; its weights are not.
        how: "off": no table is added, nothing is turned, no bias is added; "shuffled": token i stands where token
            order[i] did, the first and special tokens included; "reversed": where the one as far from the end did.
            Under a causal mask a bias goes by the distance of two tokens, whichever comes first.
        seed: of the shuffled order, ``torch.randperm(n, generator=torch.Generator().manual_seed(seed))``.

    Raises:
        ValueError: no such ``how``. While the model runs: it has no positions of a kind that is known, or padding or a
            cache, where tokens are to change places.

    Warns:
        UserWarning: at the end of the block, of layers that kept their positions.

    >>> from attnwidget import capture, compare, tiny
    >>> model, tokenizer = tiny.decoder()
    >>> text = "The dog bit the man."
    >>> with positions(model, "off"):
    ...     without = capture(model, text, tokenizer)
    >>> compare(capture(model, text, tokenizer), without, names=("on", "off")).ranking(1)[0][:2]  # the previous token
    (2, 0)
    """
    if how not in ORDERS:
        raise ValueError(f"how is {how!r}; it may be {', '.join(map(repr, ORDERS))}.")
    unwrapped(model)
    return Positions(model, how, seed)


class Positions(Acting):
    """What :func:`positions` returns: open it around the runs that are to be changed."""

    turn_of = 0

    def __init__(self, model: nn.Module, how: Order, seed: int) -> None:
        super().__init__(model, None, ())
        self.how, self.seed = how, seed
        self._used = False  # some positions were changed in this run
        self._called = False
        self._cached: tuple[str, int, int] | None = None  # name and shape of a call beside a cache
        self._alibi: dict[int, str] = {}  # modules that are given what ALiBi adds, and under which name
        self._tabled = False  # a table was
        self._left: dict[str, None] = {}  # modules whose queries and keys came as they were
        self._swapped: list[tuple[dict[str, Any], str, Tensor]] = []

    def __enter__(self) -> Any:
        self._left.clear()
        self._tabled = False
        with contextlib.ExitStack() as stack:
            stack.callback(self._restore)
            stack.callback(self._alibi.clear)
            for _, owner, _ in self._tables():
                hook = (
                    owner.register_forward_hook(self._looked_up)
                    if isinstance(owner, nn.Embedding)
                    else owner.register_forward_pre_hook(self._read)
                )
                stack.callback(hook.remove)
            for module in self.model.modules():
                takes = inspect.signature(module.forward).parameters
                if name := next((one for one in _ALIBI if one in takes), None):
                    self._alibi[id(module)] = name
                    stack.callback(module.register_forward_pre_hook(self._given, with_kwargs=True).remove)
            super().__enter__()
            self._hooks = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()
        super().__exit__(*error)
        if self._left and not self._tabled and not any(error):
            first, *more = self._left
            also = f" and {len(more)} more" if more else ""
            warnings.warn(
                f"{first}{also} kept what positions it may have: how they enter there was not seen.", stacklevel=2
            )

    # ── tables ──

    def _tables(self) -> Iterator[tuple[str, nn.Module, str]]:
        """Of each table of positions its name, its module and what it is called there.

        Those that turn queries and keys are left out: they stand in attention, or are as wide as a head.
        """
        seen = set()
        config = getattr(self.model, "config", None)
        hidden, heads = (getattr(config, name, None) for name in ("hidden_size", "num_attention_heads"))
        head = hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads > 1 else 0
        for path, owner in self.model.named_modules():
            if "att" in path.lower() or isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                continue
            for name, held in (*owner._parameters.items(), *owner._buffers.items()):
                full = f"{path}.{name}".removeprefix(".")
                if held is None or id(held) in seen or held.dim() < 2 or not held.is_floating_point():
                    continue
                if held.shape[-1] > head and _TABLE.search(full):
                    seen.add(id(held))
                    yield full, owner, name

    def begin(self, given: dict[str, Any]) -> None:
        super().begin(given)
        self._used, self._called, self._cached = False, False, None
        if self.how != "off" and self._padded:
            return  # refused at the first call
        for _, owner, name in self._tables():
            if not isinstance(owner, nn.Embedding):
                held: dict[str, Any] = owner._parameters if name in owner._parameters else owner._buffers
                self._swapped.append((held, name, held[name]))
                held[name] = self._placed(held[name], owner)
                self._used = self._tabled = True

    def _restore(self) -> None:
        while self._swapped:
            held, name, table = self._swapped.pop()
            held[name] = table

    def _placed(self, table: Tensor, owner: nn.Module) -> Tensor:
        """What stands in for a table: [(1,) token, width] or [token, 1, width]."""
        if self.how == "off":
            return torch.zeros_like(table)
        along = table.dim() - 2 if table.shape[-2] > 1 else 0
        # A table for texts of any length is read from its start on, or from where the module says.
        first = int(getattr(owner, "offset", 0) or 0)
        read = self.inputs.decoded if self.inputs.decoded is not None else self.inputs.read
        size = table.shape[along] - first
        size = size if read is None else min(size, read.shape[1])
        order = torch.arange(table.shape[along])
        order[first : first + size] = first + self._order(size)
        return table.index_select(along, order.to(table.device))

    def _looked_up(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        if not self.hears(module):
            return out
        self._used = self._tabled = True
        if self.how == "off":
            return torch.zeros_like(out)
        return out.index_select(-2, self._order(out.shape[-2]).to(out.device))

    def _read(self, module: nn.Module, args: Any) -> None:
        if not self.running and self.hears(module) and going_backwards():
            raise ValueError(
                f"Gradient checkpointing runs {self.name_of(module)} again, and its table of positions is the model's "
                "own by then: turn checkpointing off."
            )

    def _given(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.how != "off" or not self.hears(module):
            return None
        name = self._alibi[id(module)]
        at = [*inspect.signature(module.forward).parameters].index(name)
        self._used = True
        if at < len(args):
            return (*args[:at], _silent(args[at]), *args[at + 1 :]), kwargs
        return args, {**kwargs, name: _silent(kwargs.get(name))}

    @property
    def _padded(self) -> bool:
        return self.inputs.keep is not None or self.inputs.keep_decoded is not None

    def _order(self, size: int) -> Tensor:
        """Int [token]: where each token stands."""
        if self._padded:
            raise ValueError("Tokens cannot change places with padding: give the texts one at a time.")
        if self.how == "reversed":
            return torch.arange(size - 1, -1, -1, device="cpu")
        return torch.randperm(size, generator=torch.Generator("cpu").manual_seed(self.seed), device="cpu")

    # ── queries, keys and scores ──

    def change(self, call: Call) -> Change | None:
        noted = tuple(self.turned)
        self.turned.clear()
        self.runs_again(call)  # refuses it where that cannot be changed
        if self.how != "off":
            self._order(call.shape[2])  # refuses padding
        if call.q is None or call.k is None:
            if id(call.module) not in self._alibi:
                self._left[call.name] = None
            elif self.how != "off":
                raise ValueError(
                    f"What ALiBi adds in {call.name} is added in code of its own: it can be taken away, how='off', but "
                    "tokens cannot change places."
                )
            self._called = True
            return None
        q, k = (fitted(noted, one[0].detach().cpu()) for one in (call.q, call.k))
        mask, bias = call.rules()
        batch, _, queries, keys = call.shape
        turns = q is not None and k is not None
        adds = bias is not None and bias.of_positions(_allowed(mask, queries, keys), _grid(queries, keys))
        cached = q is not None and k is not None and q.before != k.before
        if cached or ((turns or adds) and self.how != "off" and queries != keys):
            raise ValueError(_CACHED.format(call.name, queries, keys))
        self._called = True
        if not (turns or adds):
            # A single query beside keys out of a cache: nothing tells how it was turned.
            self._cached = self._cached or (call.name, queries, keys) if queries == 1 < keys else self._cached
            if noted and any(one.some.shape[-1] <= call.q.shape[-1] for one in noted):
                self._left[call.name] = None
            return None
        self._used = True
        if turns:
            assert q is not None and k is not None
            call = replace(call, q=self._turned(call.q, q), k=self._turned(call.k, k))
        if adds:
            assert bias is not None
            bias = None if self.how == "off" else self._moved(bias, mask, keys)
            call = replace(call, rules=lambda: (mask, bias))

        def every(scores: Scores, heads: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            p = softmax(*scores)
            return p, torch.ones_like(p[..., 0], dtype=torch.bool)

        change = reweighed(call, every, range(call.shape[1]), range(queries), watched=False)
        told = {"q": call.q, "k": call.k, "rules": call.rules}
        return replace(change, told=told, note=_NOTES[self.how])

    def _turned(self, vectors: Tensor, way: Rotary) -> Tensor:
        """[batch, head, token, d] as if the tokens stood elsewhere: at position 0, or in another order."""
        way = replace(way, cos=way.cos.to(vectors.device), sin=way.sin.to(vectors.device))
        samples = [way.undone(one, at) for at, one in enumerate(vectors)]
        if self.how != "off":
            # The tokens before the first that is turned are turned by nothing, and may change places, too.
            order = self._order(vectors.shape[2]).to(vectors.device)
            back = replace(way, cos=way.cos[:, order], sin=-way.sin[:, order])
            samples = [back.undone(one, at) for at, one in enumerate(samples)]
        return torch.stack(samples).to(vectors.dtype)

    @on_host
    def _moved(self, bias: Bias, mask: Mask | None, size: int) -> Bias:
        """The bias of tokens in another order."""
        order = self._order(size)
        held = bias.offsets if bias.offsets is not None else bias.dense
        assert held is not None
        if mask is not None and mask.is_causal:
            # What it would be for later keys is not known: of any two tokens, the distance counts.
            back = torch.stack([bias.block(one, torch.tensor([size - 1]), size)[:, 0] for one in range(len(held))])
            far = (order[:, None] - order).abs()
            return Bias(dense=back.flip(-1)[:, :, far], positional=True)
        rows = torch.arange(size)
        whole = torch.stack([bias.block(one, rows, size) for one in range(len(held))])
        return Bias(dense=whole[:, :, order][..., order], positional=True)

    def end(self) -> None:
        self._restore()
        used, called = self._used, self._called
        super().end()
        if called and not used and self._cached:
            raise ValueError(_CACHED.format(*self._cached))
        if called and not used:
            raise ValueError(
                f"No positions were found that could be taken from {type(self.model).__name__}: no table of that name "
                "(position_embeddings, wpe, pos_embed …), no queries and keys that are turned by their positions, and "
                "no bias that depends on positions alone. Convolutions and disentangled attention are not known."
            )


_TABLE = re.compile(
    r"(?:^|\.)(?:wpe|pe|pos|positions?|(?:\w*_)?(?:pos|position|positional)_?(?:emb|enc)\w*|embed_pos\w*)"
    r"(?:\.(?:weights?|pe))?$"
)
# What is added to the scores, as it is handed down to layers that add it themselves (Press et al. 2022).
_ALIBI = ("alibi", "position_bias")
_CACHED = (
    "{} has {} queries and {} keys, some of them out of a cache, where they are kept with their positions. Run the "
    "whole text at once (use_cache=False)."
)
_NOTES = {
    "off": "the positions were taken away",
    "shuffled": "the tokens have the positions of one another, in a random order",
    "reversed": "the tokens have the positions of one another, in the opposite order",
}


def _silent(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) and value.is_floating_point() else value


@on_host
def _allowed(mask: Mask | None, queries: int, keys: int) -> Tensor:
    every = torch.arange(queries)
    return torch.ones(queries, keys, dtype=torch.bool) if mask is None else mask.allowed(0, every, 0)


def _grid(queries: int, keys: int) -> tuple[int, int] | None:
    """Of a square image or window, which stands behind at most a few tokens of its own."""
    side = math.isqrt(keys)
    return (side, side) if queries == keys and side > 1 and keys - side * side <= 1 else None
