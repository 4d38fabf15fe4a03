"""Which attention calls of a running model are meant: by part, layer and head, as a capture of the run numbers them."""

from __future__ import annotations

import contextlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from numbers import Integral
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from .inputs import Inputs, unwrapped
from .listen import Listener, going_backwards
from .parts import Call, place_of, role_of


class Entry(NamedTuple):
    """One head or edge that was named; None stands for all."""

    layer: int | None
    head: int | None
    query: int | None = None
    key: int | None = None
    sample: int | None = None

    @property
    def words(self) -> str:
        edge = (("query", self.query), ("key", self.key), ("sample", self.sample))
        more = [f"{noun} {n}" for noun, n in edge if n is not None]
        first = ("every layer" if self.layer is None else f"layer {self.layer}",
                 "every head" if self.head is None else f"head {self.head}")  # fmt: skip
        return ", ".join([*first, *more])


def entries_of(given: Collection[Sequence[int | None]], size: int, name: str) -> tuple[Entry, ...]:
    """What somebody named: ``size`` numbers each, and one more for a sample.

    Raises:
        ValueError: something else.
    """
    shape = "(layer, head)" if size == 2 else "(layer, head, query, key)"
    found = []
    for one in given:
        numbers = tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else ()
        whole = all(n is None or (isinstance(n, Integral) and not isinstance(n, bool)) for n in numbers)
        if not whole or len(numbers) not in (size, size + 1):
            raise ValueError(
                f"{name} holds {one!r}; it holds whole numbers {shape}, None for all of them, and after them the "
                "number of a sample, where only one of a batch is meant."
            )
        filled = (*numbers[:size], *(None,) * (4 - size), *(numbers[size:] or (None,)))
        found.append(Entry(*filled))
    return tuple(dict.fromkeys(found))


def refuse_absent(model: nn.Module, entries: Collection[Entry]) -> None:
    """What the model cannot have by its own account; layers that share weights are more than there are modules."""
    own = getattr(unwrapped(model), "config", None)
    configs = [own, *(one for one in vars(own).values() if hasattr(one, "to_dict"))] if own is not None else []

    def most(names: Sequence[str]) -> int:
        found = (getattr(config, name, None) for config in configs for name in names)
        return max((n for n in found if isinstance(n, int)), default=0)

    lists = (len(one) for one in unwrapped(model).modules() if isinstance(one, (nn.ModuleList, nn.Sequential)))
    layers, heads = max([most(_LAYERS), *lists]), most(_HEADS)
    for one in entries:
        for noun, number, size in (("layer", one.layer, layers), ("head", one.head, heads)):
            if size and number is not None and not -size <= number < size:
                raise ValueError(
                    f"There is no {noun} {number}: those of {type(model).__name__} go from 0 to {size - 1}, or from "
                    f"the end −1 to −{size}."
                )


_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers")
_HEADS = (
    "num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip


class Acting(Listener):
    """A listener that changes what calls put out, in the layers and heads of one part."""

    acts = True

    def __init__(self, model: nn.Module, part: str | None, entries: Sequence[Entry]) -> None:
        super().__init__(model)
        self.part, self.entries = part, tuple(entries)
        self.parts: dict[str, None] = {}  # all that ran, in order
        self._met: set[Entry] = set()
        self._inputs = Inputs()  # of the run, or of the one that checkpointing repeats
        self._again: dict[tuple[int, bytes], _Placed] = {}  # calls under checkpointing, the latest last
        self._learns = False  # the run keeps what gradients need
        self._checkpointed = False  # some of its calls will run again
        self._groups: dict[tuple[Any, ...], tuple[str, set[int], list[int]]] = {}
        self._roles: Counter[str] = Counter()
        self._joined: dict[str, int] = {}  # heads so far, where each is a module of its own
        self._runs: Counter[str] = Counter()  # of each of these modules

    @property
    def missed(self) -> list[Entry]:
        """What was named and never ran."""
        return [one for one in self.entries if one not in self._met]

    @property
    def inputs(self) -> Inputs:
        """What the run was given that the call is part of."""
        return self._inputs if self.running or going_backwards() else Inputs()

    @property
    def batch(self) -> int:
        return self.inputs.batch

    def __enter__(self) -> Any:
        self._met.clear()
        with contextlib.ExitStack() as stack:
            # Before the hook that ends the run.
            stack.callback(self.model.register_forward_hook(self._guard).remove)
            super().__enter__()
            self._guarding = stack.pop_all()
        return self

    def _close(self) -> None:
        self._guarding.close()
        super()._close()
        self._again.clear()
        self._inputs = Inputs()

    def begin(self, given: dict[str, Any]) -> None:
        self._learns = torch.is_grad_enabled()
        self._checkpointed = False
        self._inputs = Inputs.of(given, getattr(self.model, "config", None))

    def _guard(self, module: nn.Module, args: Any, output: Any) -> None:
        """Gradients of a run with checkpoints, computed where they cannot be run again with the change, are refused."""
        if not (self.running and self._checkpointed and threading.get_ident() == self._thread):
            return

        def refuse(_: Tensor) -> None:
            if self._open is None or threading.get_ident() != self._thread:
                raise RuntimeError(
                    f"{_AGAIN}: compute the gradients inside the with block, in the thread that opened it, or turn "
                    "checkpointing off."
                )

        for one in pytree.tree_leaves(output):
            if isinstance(one, Tensor) and one.requires_grad:
                one.register_hook(refuse)

    def end(self) -> None:
        for of_a_run in (self._groups, self._roles, self._joined, self._runs):
            of_a_run.clear()

    def take(self, call: Call) -> None:
        """Nothing is kept."""

    def add(self, taken: Any, call: Call, out: Tensor | None) -> None:
        """Nothing is kept."""

    def remark(self, name: str, words: str) -> None:
        """Said by those who look on."""

    def runs_again(self, call: Call) -> bool:
        """True where checkpointing will run this call again for its gradients.

        Raises:
            ValueError: it cannot be changed then.
        """
        if not (self.running and self._learns and _in_checkpoint()):
            return False
        of = call.weights if call.weights is not None else call.q
        if of is not None and of.device.type != "cpu":
            # There autograd has a thread of its own, in which nobody listens.
            raise ValueError(f"{_AGAIN}, which cannot be done on {of.device}: turn checkpointing off.")
        self._checkpointed = True
        return True

    def place(self, call: Call) -> tuple[int, int, int | None] | None:
        """Number of the layer, how many there are (0: that is not clear), and of its head where it has a module alone.

        None in other parts. The numbers are those that a capture of the same run gives.

        Raises:
            ValueError: gradient checkpointing will run, or runs, the call again where it cannot be changed alike.
        """
        again = not self.running and going_backwards()
        if not self.runs_again(call) and not again:
            return self._place(call)
        # A module may run several times, and runs may wait for their gradients: a call is known by its numbers.
        of = call.weights if call.weights is not None else call.q
        assert of is not None
        some = of.detach().flatten()[:: max(1, of.numel() // _SOME)]
        key = id(call.module), some.float().cpu().numpy().tobytes()
        if again:
            known = self._again.get(key)
            if known is None or known.shape != call.shape:
                raise ValueError(f"{_AGAIN}, and this call of {call.name} is not known: turn checkpointing off.")
            self._inputs = known.inputs
            return known.place
        placed = _Placed(self._place(call), call.shape, self._inputs)
        if self._again.setdefault(key, placed).place != placed.place:
            raise ValueError(f"{_AGAIN}, and two calls of {call.name} are the same to the bit: turn checkpointing off.")
        self._again[key] = self._again.pop(key)._replace(inputs=self._inputs)
        while len(self._again) > _MOST_AGAIN:
            del self._again[next(iter(self._again))]
        return placed.place

    def _place(self, call: Call) -> tuple[int, int, int | None] | None:
        stack, number = self.slot(call)
        name, first, size = call.name, None, len(stack)
        alone = re.fullmatch(r"(.*\bheads?)\.\d+(\..*)?", name) if call.shape[1] == 1 else None
        if alone is not None and call.sink is None and call.rules()[1] is None:
            self._runs[name] += 1
            name = alone[1] if self._runs[name] == 1 else f"{alone[1]} ({self._runs[name]})"
            first = self._joined.setdefault(name, 0)
            self._joined[name] += 1
            number, size = [*self._joined].index(name), 0
        batch, _, queries, keys = call.shape
        group = place_of(name), call.piece, batch, queries, keys
        if group not in self._groups:
            # The mask tells encoders from decoders; it is not read where only the first part is wanted.
            mask = None if self.part is None else call.rules()[0]
            role = role_of(self.model, call.name, call.shape, mask)
            self._roles[role] += 1
            title = role if self._roles[role] == 1 else f"{role} {self._roles[role]}"
            self._groups[group] = title, set(), []
        title, numbers, calls = self._groups[group]
        self.parts[title] = None
        if not first:
            if number in numbers:  # a module that is called again and again: each call is a layer
                number, size = len(calls), 0
            numbers.add(number)
            calls.append(number)
        if self.part is None:
            # The first part is the text's, where there is one, and otherwise what ran first.
            reads = self.inputs.read is not None
            ahead = (
                one for one, _, _ in self._groups.values() if not (reads and one.split()[0] in ("vision", "audio"))
            )
            return (number, size, first) if title == next(ahead, "") else None
        return (number, size, first) if title == self.part else None

    def of_call(self, call: Call, place: tuple[int, int, int | None], entries: Sequence[Entry]) -> list[Entry]:
        """Those of the entries that are of this call: with its own, positive numbers of layer and head."""
        number, size, own = place
        found = []
        for one in entries:
            if one.layer is not None and one.layer < 0 and not size:
                raise ValueError(f"Of {call.name} it is not clear which layer it is from the end: count from 0.")
            if one.layer not in (None, number, number - size if size else None):
                continue
            if own is not None and one.head not in (None, own):
                continue
            batch, heads, _, _ = call.shape
            head = one.head if own is None else None
            if head is not None:
                head = within(head, heads, "head", f"layer {number} ({call.name})")
            sample = None if one.sample is None else within(one.sample, batch, "sample", "the batch")
            found.append(one._replace(layer=number, head=head, sample=sample))
            self._met.add(one)
        return found


class _Placed(NamedTuple):
    """Where a call belongs, and what its run was given."""

    place: tuple[int, int, int | None] | None
    shape: tuple[int, int, int, int]
    inputs: Inputs


_SOME = 256  # numbers of a call by which it is known
_MOST_AGAIN = 4096  # calls that may wait for their gradients
_AGAIN = "Gradient checkpointing runs attention again, and it has to be changed then as it was the first time"


def _in_checkpoint() -> bool:
    """True in what checkpointing will run again."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == _CHECKPOINT:
            return True
        frame = frame.f_back
    return False


_CHECKPOINT = CheckpointFunction.forward.__code__.co_filename


def within(number: int, size: int, noun: str, where: str) -> int:
    """The number counted from the start.

    Raises:
        ValueError: there are only ``size``.
    """
    if not -size <= number < size:
        raise ValueError(f"There is no {noun} {number}: {where} has {size}.")
    return number % size


def marked(call: Call, entries: Sequence[Entry]) -> Tensor:
    """bool [batch, head]: which an entry names."""
    batch, heads, _, _ = call.shape
    found = torch.zeros(batch, heads, dtype=torch.bool)
    for one in entries:
        found[_all_or(one.sample), _all_or(one.head)] = True
    return found


def cuts_of(edges: Sequence[Entry], call: Call) -> tuple[Tensor, dict[int, list[Entry]]]:
    """The columns that are cut at all queries, bool [batch, head, key], and by query the edges that are not."""
    batch, heads, _, keys = call.shape
    columns = torch.zeros(batch, heads, keys, dtype=torch.bool)
    places: dict[int, list[Entry]] = {}
    for one in edges:
        if one.query is None:
            columns[_all_or(one.sample), _all_or(one.head), _all_or(one.key)] = True
        else:
            places.setdefault(one.query, []).append(one)
    return columns, places


def cut_of(columns: Tensor, places: dict[int, list[Entry]], heads: Tensor, rows: Sequence[int]) -> Tensor:
    """bool [batch, head, row, key] of some heads and rows: which edges are cut."""
    cut = columns[:, heads, None].repeat(1, 1, len(rows), 1)
    for at, row in enumerate(rows):
        for one in places.get(row, ()):
            head = slice(None) if one.head is None else int((heads == one.head).nonzero().item())
            cut[_all_or(one.sample), head, at, _all_or(one.key)] = True
    return cut


def _all_or(number: int | None) -> int | slice:
    """An index of one, or of all."""
    return slice(None) if number is None else number
