"""Where the attention calls of a run belong: encoder, decoder, cross, image tower; and what stands along their axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Layer, Part
from .tokens import Tokens

_CROSS = ("cross", "encoder_attn", "encdec", "multihead_attn")
_TITLES = {
    "decoder": "decoder self-attention",
    "encoder": "encoder self-attention",
    "cross": "cross-attention, decoder to encoder",
    "vision": "image self-attention",
    "audio": "audio self-attention",
}


@dataclass(frozen=True)
class Inputs:
    """What of a run's inputs tells what stands along its axes. Nothing else of them is kept.

    Attributes:
        read, decoded: ids [batch, token] of the encoder's or only text, and of the decoder's.
        pixels: shape of the image [batch, channel, height, width].
        batch: number of texts or images.
    """

    read: Tensor | None = None
    decoded: Tensor | None = None
    pixels: tuple[int, ...] | None = None
    batch: int = 1

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Inputs:
        """From the arguments of the model's forward."""

        def ids(name: str) -> Tensor | None:
            value = given.get(name)
            whole = isinstance(value, Tensor) and value.dim() == 2 and not value.is_floating_point()
            return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) and whole else None

        pixels = given.get("pixel_values")
        first = next((value for value in given.values() if isinstance(value, Tensor) and value.dim()), None)
        return cls(
            read=ids("input_ids"),
            decoded=ids("decoder_input_ids"),
            pixels=tuple(pixels.shape) if isinstance(pixels, Tensor) else None,
            batch=1 if first is None else max(1, len(first)),
        )


def parts_of(
    model: nn.Module,
    layers: Sequence[Layer],
    inputs: Inputs,
    tokenizer: Any = None,
    spans: tuple[list[int], str, list[tuple[int, int]]] | None = None,
) -> list[Part]:
    """Calls that share their module's place and their axes become one part, in the order in which they ran."""
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        place = re.sub(r"\d+", "*", layer.name)
        groups.setdefault((place, layer.shape[0], *layer.shape[2:]), []).append(layer)
    axes = _Axes(model, inputs, tokenizer, spans)
    parts: dict[str, Part] = {}
    for (place, batch, *_), members in groups.items():
        role = _role(model, place, members[0])
        name, count = role, 2
        while name in parts:
            name, count = f"{role} {count}", count + 1
        title = name.replace(role, _TITLES[role], 1)
        each = tuple(axes.of(role, members[0], sample) for sample in range(min(batch, axes.samples)))
        parts[name] = Part(name, tuple(members), *each[0], title=title, axes=each)
    return list(parts.values())


def _role(model: nn.Module, place: str, layer: Layer) -> str:
    lowered = place.lower()
    if any(word in lowered for word in _CROSS):
        return "cross"
    words = "decoder" in lowered or "text" in lowered
    if "vision" in lowered or "visual" in lowered or (_takes_pixels(model) and not words):
        return "vision"
    if "audio" in lowered:
        return "audio"
    both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if both or isinstance(model, nn.Transformer):
        return "decoder" if "decoder" in lowered else "encoder"
    if layer.shape[2] == 1:
        # One query sees no later key in any model: here only the module can tell.
        return "decoder" if getattr(_module(model, layer.name), "is_causal", False) else "encoder"
    return "decoder" if layer.mask.is_causal else "encoder"


def _takes_pixels(model: nn.Module) -> bool:
    return getattr(model, "main_input_name", "") == "pixel_values"


def _module(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


class _Axes:
    """Labels for the axes, as far as the inputs of the run tell."""

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        tokenizer: Any,
        spans: tuple[list[int], str, list[tuple[int, int]]] | None,
    ) -> None:
        self.model, self.inputs, self.tokenizer, self.spans = model, inputs, tokenizer, spans
        self.read, self.decoded = inputs.read, None
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            self.decoded = inputs.decoded
            if self.decoded is None and self.read is not None:
                self.decoded = self._shifted(self.read)
        self.samples = 1 if self.read is None else len(self.read)

    def of(self, role: str, layer: Layer, sample: int) -> tuple[Tokens, Tokens]:
        """Axes of the queries and of the keys for one text of the batch."""
        _, _, queries, keys = layer.shape
        if role == "vision":
            return self._patches(queries), self._patches(keys)
        decodes = self.decoded is not None and role in ("decoder", "cross")
        along_queries = self._tokens(self.decoded if decodes else self.read, queries, sample)
        if role != "cross" and queries == keys:
            return along_queries, along_queries
        return along_queries, self._tokens(self.decoded if decodes and role != "cross" else self.read, keys, sample)

    def _tokens(self, ids: Tensor | None, size: int, sample: int) -> Tokens:
        if ids is None or ids.shape[1] != size:
            return Tokens.positions(size)
        row = ids[sample % len(ids)].tolist()
        if self.tokenizer is None:
            return Tokens(labels=tuple(map(str, row)), ids=tuple(row))
        if self.spans is not None and self.spans[0] == row:
            return Tokens.of(self.tokenizer, row, *self.spans[1:])
        return Tokens.of(self.tokenizer, row)

    def _shifted(self, ids: Tensor) -> Tensor | None:
        """BART reads its own input moved by one where it is given nothing to decode."""
        start = getattr(self.model.config, "decoder_start_token_id", None)
        return None if start is None else torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)

    def _patches(self, size: int) -> Tokens:
        pixels = self.inputs.pixels
        config = getattr(self.model, "config", None)
        patch_size = getattr(config, "patch_size", None)
        if pixels is not None and len(pixels) == 4 and isinstance(patch_size, int):
            rows, columns = pixels[2] // patch_size, pixels[3] // patch_size
            before = size - rows * columns
            if 0 <= before <= 16:
                return Tokens.patches(rows, columns, before)
        return Tokens.positions(size)
