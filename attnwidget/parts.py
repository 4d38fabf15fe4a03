"""Where the attention calls of a run belong: encoder, decoder, cross, image tower; and what stands along their axes."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from .inputs import Inputs, Text, is_encoder_decoder
from .layers import Layer, Part, shape_of
from .masks import Bias, Mask
from .tokens import Tokens, pictured

_CROSS = re.compile(r"cross_?att|encoder_attn|encdec")
# What stands between an image and a text, and is neither.
_CONNECTORS = ("qformer", "perceiver", "resampler", "connector")
ROLES = {
    "decoder": "decoder self-attention",
    "encoder": "encoder self-attention",
    "cross": "cross-attention, decoder to encoder",
    "vision": "image self-attention",
    "audio": "audio self-attention",
}
# What the modules are called that stand where attention does in the other layers of a hybrid.
_MIXERS = ("mamba", "mixer", "ssm", "recurrent", "delta", "conv", "linear_attn", "rwkv", "lru", "lstm")


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
        return shape_of(self.q, self.k, self.weights)


@dataclass(frozen=True, eq=False)
class Kept:
    """One captured call and its place in the model.

    Attributes:
        number: of its layer, as the model counts: its place in ``stack``, or the how many-eth call it was.
        stack: the list of modules that the layer is in; empty where that is not clear.
        block: qualified name of the module in that list.
        piece: 0 for the first call in one run of the module.
    """

    layer: Layer
    number: int
    stack: Sequence[nn.Module] = ()
    block: str = ""
    piece: int = 0


def place_of(name: str) -> str:
    """The name without its numbers: calls from the same place are layers of one part."""
    return re.sub(r"\d+", "*", name)


def slot_of(model: nn.Module, name: str, block: str, count: int, alike: int) -> tuple[Sequence[nn.Module], int]:
    """The list of layers a call belongs to, and its number there; ``alike`` modules stand in such a place.

    Where names have no number, or several of which more than the first tells modules apart (stages of blocks), the
    calls are counted. In T5 the second number is the same throughout.
    """
    place = place_of(name)
    if not block or "*" not in place:
        return (), count
    stack, _, number = block.rpartition(".")
    found = model.get_submodule(stack)
    if not isinstance(found, nn.ModuleList):
        return (), count
    if place.count("*") > 1 and not len(found) == alike > 1:
        return (), count
    return tuple(found), int(number)


def role_of(model: nn.Module, name: str, shape: Sequence[int], mask: Mask | None) -> str:
    """One of :data:`ROLES`, from the call's place in the model and from its mask."""
    lowered = place_of(name).lower()
    beside = name.rpartition(".")[0]
    in_torch = name.endswith("multihead_attn") and isinstance(_module(model, beside), nn.TransformerDecoderLayer)
    if _CROSS.search(lowered) or in_torch:
        return "cross"
    words = "decoder" in lowered or "text" in lowered
    between = any(word in lowered for word in _CONNECTORS)
    if "vision" in lowered or "visual" in lowered or (_main_input(model) == "pixel_values" and not words | between):
        return "vision"
    if "audio" in lowered:
        return "audio"
    if is_encoder_decoder(model) or isinstance(model, nn.Transformer):
        return "decoder" if "decoder" in lowered else "encoder"
    if _main_input(model) in ("input_features", "input_values"):
        return "audio"
    if shape[2] == 1 or shape[2] != shape[3]:
        # One query sees no later key in any model, and other keys than the queries are in no order with them: here only
        # the module can tell.
        return "decoder" if getattr(_module(model, name), "is_causal", False) else "encoder"
    return "decoder" if mask is not None and mask.is_causal else "encoder"


def parts_of(
    model: nn.Module,
    kept: Sequence[Kept],
    inputs: Inputs,
    tokenizer: Any = None,
    texts: Sequence[Text] = (),
    targets: Sequence[Text] = (),
    generated: Tensor | None = None,
    dropped: Mapping[str, tuple[str, Sequence[int]]] = MappingProxyType({}),
) -> list[Part]:
    """Calls that share their module's place and their axes become one part, in the order in which they ran.

    Args:
        model: that ran.
        kept: its calls.
        inputs: what went in.
        tokenizer: reads ids.
        texts, targets: what is read and what is decoded, as it was cut.
        generated: bool [batch, token], the tokens that the model wrote itself.
        dropped: role and shape of the calls that were heard and not wanted, by name of their modules.
    """
    groups: dict[tuple[Any, ...], list[Kept]] = {}
    for one in _with_heads_joined(kept):
        key = place_of(one.layer.name), one.piece, one.layer.shape[0], *one.layer.shape[2:]
        groups.setdefault(key, []).append(one)
    named: dict[str, list[Kept]] = {}
    titles = {}
    for members in groups.values():
        first = members[0].layer
        role = name = role_of(model, first.name, first.shape, first.mask)
        count = 2
        while name in named:
            name, count = f"{role} {count}", count + 1
        title = ROLES[role] if role != "cross" or is_encoder_decoder(model) else "cross-attention"
        named[name], titles[name] = members, name.replace(role, title, 1)
    axes = _Axes(model, inputs, tokenizer, texts, targets, generated)
    for role, shape in dropped.values():
        if role in ("vision", "audio"):
            axes.see(shape[0], shape[2])  # what a text that is kept may attend to, or hold in its placeholders
    parts = []
    for name, members in named.items():
        each = pictured(axes.of(name.split()[0], members[0]), inputs.pictures)
        layers = tuple(_layers(members, named, dropped))
        parts.append(Part(name, layers, *each[0], title=titles[name], axes=each))
    # Of a model that reads a text and an image, the text comes first; axes were made in the order in which it all ran.
    reads = inputs.read is not None
    return sorted(parts, key=lambda part: reads and part.name.split()[0] in ("vision", "audio"))


def _with_heads_joined(kept: Sequence[Kept]) -> list[Kept]:
    """Heads that are modules of their own, one after the other in a list called so, as the heads of one layer."""
    joined: list[Kept] = []
    blocks: dict[str, list[Layer]] = {}
    times: Counter[str] = Counter()  # that each head has run
    for one in kept:
        found = re.fullmatch(r"(.*\bheads?)\.\d+(\..*)?", one.layer.name)
        if found is None or one.layer.heads > 1 or one.layer.bias is not None or one.layer.sink is not None:
            joined.append(one)
            continue
        times[one.layer.name] += 1
        name = f"{found[1]} ({times[one.layer.name]})" if times[one.layer.name] > 1 else found[1]
        block = blocks.setdefault(name, [])
        if not block:
            # The how many-eth block this is, since the number was that of a head.
            joined.append(replace(one, number=len(blocks) - 1, stack=(), block=name))
        block.append(one.layer)
    return [
        replace(one, layer=_as_heads(one.block, blocks[one.block])) if one.block in blocks else one for one in joined
    ]


def _as_heads(name: str, layers: Sequence[Layer]) -> Layer:
    def together(tensors: Iterable[Tensor | None]) -> Tensor | None:
        held = [one for one in tensors if one is not None]
        return torch.cat(held, 1) if held else None

    outputs = [one.output for one in layers]
    first = outputs[0]
    beside = all(
        one is not None and first is not None and one.weight is first.weight and one.first == at * first.width
        for at, one in enumerate(outputs)
    )
    return replace(
        layers[0],
        name=name,
        turned=(),
        output=first if beside else None,
        q=together(one.q for one in layers),
        k=together(one.k for one in layers),
        v=together(one.v for one in layers),
        weights=together(one.weights for one in layers),
        gradient=together(one.gradient for one in layers),
    )


def noun_of(parts: Sequence[Part], inputs: Inputs) -> str:
    """What one sample of the batch is."""
    if max(part.batch for part in parts) > inputs.batch:
        return "window" if any(part.queries.kind == "window" for part in parts) else "sample"
    return "text" if inputs.read is not None or inputs.decoded is not None else "image" if inputs.pixels else "sample"


def _layers(members: Sequence[Kept], named: dict[str, list[Kept]], dropped: Collection[str]) -> Iterable[Layer]:
    """The layers of a part at their numbers, and between them those without attention."""
    at = {one.number: one for one in members}
    if len(at) < len(members):
        # One module that is called again and again: each call is a layer.
        return [one.layer for one in members]
    first = members[0]
    _, _, queries, keys = first.layer.shape

    def gap(number: int) -> Layer:
        block = f"{first.block.rpartition('.')[0]}.{number}".removeprefix(".")

        def inside(name: str) -> bool:
            return bool(first.stack) and f"{name}.".startswith(f"{block}.")

        elsewhere = next((name for name, those in named.items() if any(inside(one.layer.name) for one in those)), None)
        if elsewhere is not None:
            return Layer.gap(block, f"it is in part {elsewhere}", queries, keys)
        if not first.stack or any(map(inside, dropped)):
            return Layer.gap(block, "not kept", queries, keys)
        return Layer.gap(block, f"{_mixer(first.stack[number])}: no attention seen", queries, keys)

    return [at[n].layer if n in at else gap(n) for n in range(len(first.stack) or max(at) + 1)]


def _mixer(block: nn.Module) -> str:
    """The class that stands in a block where attention does in others; the block's own where that is not clear."""
    for name, child in block.named_children():
        if any(word in f"{name} {type(child).__name__}".lower() for word in _MIXERS):
            return type(child).__name__
    return type(block).__name__


def _main_input(model: nn.Module) -> str:
    return str(getattr(model, "main_input_name", ""))


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


class _Axes:
    """What stands along the axes, as far as the inputs of the run tell."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        tokenizer: Any,
        texts: Sequence[Text],
        targets: Sequence[Text],
        generated: Tensor | None,
    ) -> None:
        self.model, self.inputs, self.tokenizer, self.generated = model, inputs, tokenizer, generated
        self.texts, self.targets = texts, targets
        self.config = getattr(model, "config", None)
        self.read, self.decoded = inputs.read, None
        if is_encoder_decoder(model):
            self.decoded = inputs.decoded
            if self.decoded is None and self.read is not None:
                self.decoded = self._shifted(self.read)
        self.known: dict[int, Tokens] = {}  # by length: axes of images and sounds, to which a text may attend

    def of(self, role: str, one: Kept) -> tuple[tuple[Tokens, Tokens], ...]:
        """The pairs of axes, queries and keys, of each text of the batch; one pair where they do not differ."""
        layer = one.layer
        batch, _, queries, keys = layer.shape
        if role in ("vision", "audio") or (role == "encoder" and self.read is None):
            if "channel" in layer.name.lower() or "channel" in type(_module(self.model, layer.name)).__name__.lower():
                channels = Tokens.positions(queries, "channel")
                return ((channels, channels if queries == keys else Tokens.positions(keys, "channel")),)
            along = self.see(batch, queries, one.piece)
            return ((along, along if queries == keys else self._seen(batch, keys, one.piece)),)
        decodes = self.decoded is not None and role in ("decoder", "cross")
        asking = self.decoded if decodes else self.read
        asked = self.decoded if decodes and role != "cross" else self.read
        samples = max(1 if ids is None else len(ids) for ids in (asking, asked))
        pairs = []
        for sample in range(min(batch, samples)):
            along = self._tokens(asking, queries, sample)
            same = role != "cross" and queries == keys
            pairs.append((along, along if same else self._tokens(asked, keys, sample)))
        return tuple(pairs)

    def see(self, batch: int, size: int, piece: int = 0) -> Tokens:
        """The axis of an image or a sound, which other axes may be of, too."""
        along = self._seen(batch, size, piece)
        if along.kind in ("patch", "window", "frame"):
            self.known[size] = along
        return along

    def _tokens(self, ids: Tensor | None, size: int, sample: int) -> Tokens:
        if ids is None or ids.shape[1] != size:
            if ids is not None and ids.shape[1] < size and self.known.get(size) is None:
                return self._compressed(ids, size, sample)
            return self.known.get(size) or self._learned(size)
        at = sample % len(ids)
        row = tuple(ids[at].tolist())
        marks: dict[str, Any] = {}
        written = ids is (self.decoded if is_encoder_decoder(self.model) else self.read)
        if self.generated is not None and written and self.generated.shape == ids.shape:
            marks["generated"] = tuple(self.generated[at].tolist())
        image = self._image_token()
        if self.tokenizer is None:
            seen = tuple(i == image for i in row)
            return Tokens(labels=tuple(map(str, row)), ids=row, image=seen, **marks)
        known = self.texts if ids is self.read else self.targets
        text = known[at] if at < len(known) and known[at].ids == row else None
        types = self.inputs.segments
        if text is not None:
            segments = text.segments
        else:
            told = types is not None and types.shape == ids.shape and bool(types.any())
            segments = tuple(types[at].tolist()) if told and types is not None else None
        cut = (text.text, text.spans) if text is not None else (None, None)
        grid = self._grid_of(row.count(image)) if image is not None else None
        images = () if image is None else (image,)
        return replace(Tokens.of(self.tokenizer, row, *cut, segments=segments, image_ids=images, grid=grid), **marks)

    def _compressed(self, ids: Tensor, size: int, sample: int) -> Tokens:
        """The tokens, and behind them the keys that stand for several of them (DeepSeek-V4)."""
        own, learned = self._tokens(ids, ids.shape[1], sample), self._learned(size)
        if learned.kind != "position" or not any("compress" in key for key in vars(self.config or ())):
            return learned
        more = tuple(f"compressed {i}" for i in range(size - len(own)))
        return Tokens(labels=own.labels + more, raw=own.raw + more, special=own.special + (False,) * len(more))

    def _learned(self, size: int) -> Tokens:
        """An axis of entries that the model brings itself, where its configuration has so many of them."""
        named = {"num_latents": "latent", "num_query_tokens": "query", "num_queries": "query"}
        kind = next((kind for name, kind in named.items() if getattr(self.config, name, None) == size), "position")
        return Tokens.positions(size, kind)

    def _image_token(self) -> int | None:
        names = ("image_token_id", "image_token_index")
        return next((n for n in (getattr(self.config, name, None) for name in names) if isinstance(n, int)), None)

    def _grid_of(self, count: int) -> tuple[int, int] | None:
        """The grid that ``count`` placeholders of an image form: that of its patches, or of blocks of them joined."""
        side = self._merged()
        for _, rows, columns in self.inputs.grids:
            if rows * columns == count * side**2:
                return rows // side, columns // side
        for rows, columns in (axis.grid for axis in self.known.values() if axis.grid):
            for side in (1, 2, 3, 4):
                if rows % side == columns % side == 0 and rows * columns == count * side**2:
                    return rows // side, columns // side
        return None

    def _shifted(self, ids: Tensor) -> Tensor | None:
        """BART reads its own input moved by one where it is given nothing to decode."""
        start = getattr(self.config, "decoder_start_token_id", None)
        return None if start is None else torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)

    def _seen(self, batch: int, size: int, piece: int) -> Tokens:
        """An axis of patches, of windows of patches, or of sound."""
        pixels, seconds = self.inputs.pixels, self.inputs.seconds
        if piece < len(self.inputs.grids) and math.prod(self.inputs.grids[piece]) == size:
            return self._packed(*self.inputs.grids[piece])
        if seconds is not None:
            return Tokens.frames(size, seconds / size)
        if pixels is None or len(pixels) != 4:
            return Tokens.positions(size)
        if batch > pixels[0] and batch % pixels[0] == 0:
            side = round(size**0.5)
            return Tokens.window(side, side) if side * side == size else Tokens.positions(size)
        registers = int(getattr(self.config, "num_register_tokens", 0) or 0)
        for rows, columns in self._grids(*pixels[2:]):
            before = size - rows * columns
            if 0 <= before <= max(5, registers + 1):
                return Tokens.patches(rows, columns, before, registers=min(registers, max(0, before - 1)))
        return self._learned(size)

    def _packed(self, frames: int, rows: int, columns: int) -> Tokens:
        """The patches of one image among several. Qwen2-VL reads them in blocks that become one token of the text."""
        side = self._merged()
        cells = torch.arange(rows * columns).view(rows // side, side, columns // side, side).permute(0, 2, 1, 3)
        places = [divmod(int(cell), columns) for cell in cells.reshape(-1)]
        labels = (f"{row},{column}" for _ in range(frames) for row, column in places)
        return Tokens(labels=tuple(labels), kind="patch")

    def _merged(self) -> int:
        """Patches along the side of a block that becomes one token of the text."""
        configs = (self.config, getattr(self.config, "vision_config", None))
        sides = (getattr(config, "spatial_merge_size", None) for config in configs)
        return next((side for side in sides if isinstance(side, int)), 1)

    def _grids(self, height: int, width: int) -> Iterable[tuple[int, int]]:
        """Ways to cut the image into square patches: the configuration's own first, then coarser ones of pyramids."""
        configs = (self.config, getattr(self.config, "vision_config", None))
        sides = [side for one in configs if isinstance(side := getattr(one, "patch_size", None), int)]
        # Other libraries say it with the convolution that cuts the image.
        convolutions = (one for one in self.model.modules() if isinstance(one, nn.Conv2d))
        sides += [one.stride[0] for one in convolutions if one.stride[0] == one.kernel_size[0] > 1][:1]
        sides += [side for side in range(1, min(height, width) + 1) if height % side == width % side == 0]
        return ((height // side, width // side) for side in sides)
