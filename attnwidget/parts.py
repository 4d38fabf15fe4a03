"""Where the attention calls of a run belong: encoder, decoder, cross, image tower; and what stands along their axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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


def parts_of(
    model: nn.Module, layers: Sequence[Layer], inputs: Mapping[str, Any], tokenizer: Any = None, text: str | None = None
) -> list[Part]:
    """Calls that share their module's place and their axes become one part, in the order in which they ran."""
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        place = re.sub(r"\d+", "*", layer.name)
        groups.setdefault((place, layer.shape[0], *layer.shape[2:]), []).append(layer)
    axes = _Axes(model, inputs, tokenizer, text)
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
    if "vision" in lowered or "visual" in lowered or getattr(model, "main_input_name", "") == "pixel_values":
        return "vision"
    if "audio" in lowered:
        return "audio"
    both = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    if both or isinstance(model, nn.Transformer):
        return "decoder" if "decoder" in lowered else "encoder"
    return "decoder" if layer.mask.is_causal else "encoder"


class _Axes:
    """Labels for the axes, as far as the inputs of the run tell."""

    def __init__(self, model: nn.Module, inputs: Mapping[str, Any], tokenizer: Any, text: str | None) -> None:
        self.model, self.inputs, self.tokenizer, self.text = model, inputs, tokenizer, text
        self.read, self.decoded = self._ids("input_ids"), None
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            self.decoded = self._ids("decoder_input_ids")
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
        spans = self._spans(row) if ids is self.read and self.text is not None else None
        return Tokens.of(self.tokenizer, row, self.text if spans else None, spans)

    def _ids(self, name: str) -> Tensor | None:
        ids = self.inputs.get(name)
        return ids if isinstance(ids, Tensor) and ids.dim() == 2 and not ids.is_floating_point() else None

    def _spans(self, ids: list[int]) -> list[tuple[int, int]] | None:
        """Character spans of a text that the tokenizer turns into these very ids (truncation cuts the end)."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        made = self.tokenizer(self.text, return_offsets_mapping=True, truncation=True, max_length=len(ids))
        return [tuple(span) for span in made["offset_mapping"]] if made["input_ids"] == ids else None

    def _shifted(self, ids: Tensor) -> Tensor | None:
        """BART reads its own input moved by one where it is given nothing to decode."""
        start = getattr(self.model.config, "decoder_start_token_id", None)
        return None if start is None else torch.cat([torch.full_like(ids[:, :1], start), ids[:, :-1]], dim=1)

    def _patches(self, size: int) -> Tokens:
        pixels = self.inputs.get("pixel_values")
        config = getattr(self.model, "config", None)
        patch_size = getattr(config, "patch_size", None)
        if isinstance(pixels, Tensor) and pixels.dim() == 4 and isinstance(patch_size, int):
            rows, columns = pixels.shape[2] // patch_size, pixels.shape[3] // patch_size
            before = size - rows * columns
            if 0 <= before <= 16:
                return Tokens.patches(rows, columns, before)
        return Tokens.positions(size)
