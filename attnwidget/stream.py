"""What a running model adds up: where the outputs of the heads go, the norms they pass, and the logits they end in.

No table says how a model is built. While it runs, sums are followed: what the output projection of a layer made, alone
or multiplied by a number, is in every sum that it is added to, and in every sum of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .inputs import unwrapped
from .layers import Layer
from .output import Output
from .trace import Trace

Place: TypeAlias = tuple[str, int]  # part, layer
_Key: TypeAlias = tuple[int, int]  # address of a tensor's numbers, and how many


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer norm or root-mean-square norm, whose scale is held at what it was: linear in what it normalises.

    Attributes:
        weight, bias: [D]. centred: the mean of each vector is taken away first.
        scale: [token, 1], what each vector was multiplied with besides.
    """

    weight: Tensor
    bias: Tensor
    centred: bool
    scale: Tensor

    @classmethod
    def of(cls, module: nn.Module, x: Tensor, y: Tensor, name: str) -> Norm:
        """The one that made ``y`` of ``x``, both [token, D].

        Raises:
            ValueError: it is neither of the two.
        """
        width = x.shape[-1]
        like = next(module.parameters(), x)

        def made(probe: Tensor) -> Tensor:
            values: Tensor = module.forward(probe.to(like.device, like.dtype))  # not the call: no hook hears of it
            return values.detach().double().cpu()

        x, y = x.double(), y.double()
        bias = made(torch.zeros(1, width))
        shifted = made((x[:1] + x[:1].abs().amax()).float())
        tolerance = 1e-4 if like.dtype in (torch.float32, torch.float64) else 3e-2
        centred = _near(shifted, y[:1], tolerance)
        probe = torch.ones(1, width, dtype=torch.float64)
        probe[:, ::2] = -1.0
        probe = _centre(probe, centred)
        # Up to a factor, which `scale` makes good for every vector.
        weight = (made(probe.float()) - bias) / probe
        mapped = weight * _centre(x, centred)
        scale = ((y - bias) * mapped).sum(-1, keepdim=True) / mapped.square().sum(-1, keepdim=True).clamp_min(1e-300)
        if not _near(scale * mapped + bias, y, tolerance):
            raise ValueError(
                f"{name} is neither a layer norm nor a root-mean-square norm, and what it does is not known."
            )
        return cls(weight[0], bias[0], centred, scale)

    def mapped(self, x: Tensor) -> Tensor:
        """``x`` […, D] through it, but for ``scale`` and ``bias``."""
        return _centre(x, self.centred) * self.weight.to(x.dtype)

    def back(self, w: Tensor) -> Tensor:
        """The [D] whose product with any x is that of ``w`` with :meth:`mapped` x."""
        return _centre(w * self.weight, self.centred)


def _centre(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@dataclass(frozen=True, eq=False)
class Sum:
    """That what the heads of a layer put out was added to something.

    Attributes:
        residual: float32 [token, D], to what. total: the sum. factor: what the heads' part was multiplied with.
        sequential: ``residual`` is the stream, with all that the layers before added; not the output of an MLP beside.
        after: name, module and output of the norm, where nothing but a norm reads the sum (post-norm).
    """

    residual: Tensor
    total: Tensor
    factor: float
    sequential: bool
    after: tuple[str, nn.Module, Tensor] | None = None

    def norm(self) -> Norm | None:
        """The norm that follows, None where the sum goes on as it is."""
        return None if self.after is None else Norm.of(self.after[1], self.total, self.after[2], self.after[0])


@dataclass(frozen=True, eq=False)
class Stream:
    """What :func:`follow` found.

    Attributes:
        sums: by part and layer. outputs: what each layer's projection made, float32 [token, D].
        ending: see :class:`Ending`; a sentence where the logits are something else.
    """

    sums: Mapping[Place, Sum]
    outputs: Mapping[Place, Tensor]
    ending: Ending | str


@dataclass(frozen=True, eq=False)
class Ending:
    """How one row of logits came out of a sum: factor · norm(final) · Wᵀ + bias.

    Attributes:
        final: float32 [D], the sum. row: the token it is of.
        carried: what is in it of the output of each layer: a factor.
        norm: the one between; its scale is [1, 1]. factor: what its result was multiplied with.
        weight: [vocabulary, D]. bias: [vocabulary] or None.
    """

    final: Tensor
    row: int
    carried: Mapping[Place, float]
    norm: Norm | None
    factor: float
    weight: Tensor
    bias: Tensor | None


def follow(run: Trace) -> Stream:
    """Run a traced model again, and follow what its heads put out.

    Raises:
        ValueError: no output projection of the heads was found.
    """
    model = unwrapped(run.model)
    following = _Following(model, run)
    with contextlib.ExitStack() as stack:
        for module, hook in following.hooks():
            stack.callback(module.register_forward_hook(hook).remove)
        for module in following.blocks:
            stack.callback(module.register_forward_pre_hook(following.entered, with_kwargs=True).remove)
        stack.enter_context(following)
        run.run()
    with torch.no_grad():
        return Stream(following.sums(), following.outputs, following.ending())


def projection_of(layer: Layer) -> Output:
    """The output projection of the heads of a layer.

    Raises:
        ValueError: it is not known, or not what the model ran with.
    """
    if layer.output is None:
        why = layer.why.get("output", "these numbers did not come from the run of a model.")
        raise ValueError(
            f"What the heads of {layer.name} add to the model's stream is known only with the projection that brings "
            f"them together: {why}"
        )
    if layer.output.changed():
        raise ValueError(f"The weight of {layer.output.name} has changed since the run: capture or trace again.")
    return layer.output


@dataclass(eq=False)
class _Normed:
    """A norm that read a sum."""

    name: str
    module: nn.Module
    key: _Key
    carried: Mapping[Place, float]
    x: Tensor
    y: Tensor


@dataclass(eq=False)
class _First:
    """The first sum that the output of a layer's heads is part of."""

    found: Sum
    key: _Key
    carried: Mapping[Place, float]


# They give back the numbers that they were given, in evaluation mode at least.
_PASSING = {"dropout", "reshape", "contiguous", "to", "type", "type_as", "float", "half", "bfloat16", "double", "clone"}


class _Following(TorchFunctionMode):
    def __init__(self, model: nn.Module, run: Trace) -> None:
        super().__init__()
        self.model, self.run = model, run
        self.outputs: dict[Place, Tensor] = {}
        self._carried: dict[_Key, Mapping[Place, float]] = {}
        self._alive: list[Tensor] = []  # or their addresses would be used again
        self._firsts: dict[Place, _First] = {}
        self._added: set[_Key] = set()  # sums that were added to something
        self._inputs: set[_Key] = set()  # of blocks
        self._norms: list[_Normed] = []
        self._read: list[tuple[nn.Module, Tensor, Tensor, Mapping[Place, float]]] = []  # by what may make the logits
        self._projections: dict[int, list[Place]] = {}  # layers may share theirs: in the order in which they run
        self.blocks = [one for found in model.modules() if isinstance(found, nn.ModuleList) for one in found]
        for part in run.attention.parts:
            for at, layer in enumerate(run.attention.part(part).layers):
                if layer.heads and layer.output is not None:
                    self._projections.setdefault(id(self._module(layer.output.name)), []).append((part, at))

    def _module(self, name: str) -> nn.Module:
        found = self.model.get_submodule(name)
        above = self.model.get_submodule(name.rpartition(".")[0]) if "." in name else self.model
        # torch's own module reads the weight of its projection and never calls it.
        return above if isinstance(above, nn.MultiheadAttention) else found

    def hooks(self) -> list[tuple[nn.Module, Callable[..., None]]]:
        logits = self.run.logits
        unembedding = getattr(self.model, "get_output_embeddings", lambda: None)()
        found: list[tuple[nn.Module, Callable[..., None]]] = []
        for name, module in self.model.named_modules():
            if id(module) in self._projections:
                found.append((module, self._projected))
            ends = isinstance(module, nn.Linear) and module.out_features == len(() if logits is None else logits)
            if module is unembedding if unembedding is not None else ends:
                found.append((module, self._ended))
            if "norm" in type(module).__name__.lower() and not [*module.children()]:
                found.append((module, self._normed(name)))
        return found

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for one in (*args, *kwargs.values()):
            if isinstance(one, Tensor):
                self._inputs.add(_key(one))

    def _projected(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        output = output if isinstance(output, Tensor) else output[0]
        place = next((one for one in self._projections[id(module)] if one not in self.outputs), None)
        if place is not None:
            self.outputs[place] = _rows(output)
            self._carry(output, {place: 1.0})

    def _normed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                carried = self._carried.get(_key(args[0]))
                if carried:
                    self._inputs.add(_key(output))
                    self._alive.append(output)
                    x, y = _rows(args[0]), _rows(output)
                    self._norms.append(_Normed(name, module, _key(args[0]), carried, x, y))

        return hook

    def _ended(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._read.append((module, _rows(args[0]), _rows(output), self._carried.get(_key(args[0]), {})))

    def _carry(self, tensor: Tensor, what: Mapping[Place, float]) -> None:
        self._carried[_key(tensor)] = what
        self._alive.append(tensor)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        keys = [_key(one) if isinstance(one, Tensor) else None for one in args[:2]]
        carried = [self._carried.get(key, {}) if key else {} for key in keys]
        if not any(carried):
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        verb = name.strip("_")
        in_place = name.startswith("__i") or (name.endswith("_") and not name.startswith("_"))
        terms = [one.clone() if in_place and isinstance(one, Tensor) else one for one in args[:2]]
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        if verb in ("add", "iadd", "radd") and not kwargs and all(keys):
            self._sum(result, terms, keys, carried)
        elif verb in ("mul", "rmul", "imul", "div", "truediv", "itruediv") and (number := _number(*terms)) is not None:
            number = number if "mul" in verb else 1 / number
            self._carry(result, {place: factor * number for place, factor in (carried[0] or carried[-1]).items()})
        elif verb in _PASSING:
            self._carry(result, carried[0])
        elif in_place:
            self._carried.pop(_key(result), None)
        return result

    def _sum(
        self, result: Tensor, terms: list[Tensor], keys: list[_Key | None], carried: list[Mapping[Place, float]]
    ) -> None:
        both = {
            place: carried[0].get(place, 0.0) + carried[1].get(place, 0.0) for place in {**carried[0], **carried[1]}
        }
        self._added |= {key for key, what in zip(keys, carried, strict=True) if key and what}
        for own, other, at in ((carried[0], terms[1], 1), (carried[1], terms[0], 0)):
            for place in own.keys() - self._firsts.keys():
                if other.numel() != result.numel():
                    continue  # a bias
                stream = bool(carried[at]) or keys[at] in self._inputs
                found = Sum(_rows(other), _rows(result), own[place], stream)
                self._firsts[place] = _First(found, _key(result), both)
                self._added.discard(_key(result))
        self._carry(result, both)

    def sums(self) -> dict[Place, Sum]:
        found = {}
        for place, first in self._firsts.items():
            after = None
            if first.key not in self._added:
                read = (one for one in self._norms if one.key == first.key and one.carried == first.carried)
                after = next(((one.name, one.module, one.y) for one in read), None)
            found[place] = replace(first.found, after=after)
        return found

    def ending(self) -> Ending | str:
        wanted = self.run.logits
        if wanted is None:
            return f"the objective, {self.run.objective.words}, is of no logits"
        if not self._read:
            return "no linear map from the last layer to the logits was found"
        for module, x, out, carried in reversed(self._read):
            if out.shape[-1] != len(wanted):
                continue
            times = (out * wanted).sum(-1, keepdim=True) / out.square().sum(-1, keepdim=True).clamp_min(1e-30)
            off = (times * out - wanted).abs().amax(-1)
            near = (off <= 1e-4 * wanted.abs().max()).nonzero()[:, 0].tolist()
            if not near:
                continue
            at = near[0] if self.run.objective.position not in near else int(self.run.objective.position or 0)
            weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
            if weight is None:
                continue
            scale = float(times[at])  # some models multiply their logits with a number
            weight, bias = weight.detach(), None if bias is None else scale * bias.detach().float().cpu()
            for one in (norm for norm in reversed(self._norms) if norm.y.shape[-1] == x.shape[-1]):
                factor = (one.y * x[at]).sum(-1) / one.y.square().sum(-1).clamp_min(1e-30)
                same = (factor[:, None] * one.y - x[at]).abs().amax(-1) <= 1e-5 * x[at].abs().max()
                if bool(same.any()):
                    row = at if at < len(same) and bool(same[at]) else int(same.int().argmax())
                    norm = Norm.of(one.module, one.x, one.y, one.name)
                    norm = replace(norm, scale=norm.scale[row : row + 1])
                    return Ending(one.x[row], row, one.carried, norm, scale * float(factor[row]), weight, bias)
            if carried:
                return Ending(x[at], at, carried, None, scale, weight, bias)
            return "what the logits are read from is not what the last layer put out, alone or normalised"
        return "the logits are changed after the last linear map, by a bound, say"


def _key(tensor: Tensor) -> _Key:
    return tensor.data_ptr(), tensor.numel()


def _rows(tensor: Tensor) -> Tensor:
    """float32 [token, D], of its own."""
    return tensor.detach().reshape(-1, tensor.shape[-1]).to("cpu", torch.float32, copy=True)


def _number(*terms: Any) -> float | None:
    """The one of two factors that is a number."""
    for one in terms:
        if isinstance(one, (int, float)) or (isinstance(one, Tensor) and one.numel() == 1):
            return float(one)
    return None
