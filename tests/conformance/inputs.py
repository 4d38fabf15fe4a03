"""Inputs that a model takes: from the names in its ``forward``, and from what it says when it gets something else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from . import unusual
from .unusual import random as _random


def ids(length: int = 12, batch: int = 1, below: int = 90) -> Tensor:
    return torch.randint(min(20, below // 2), below, (batch, length), generator=torch.Generator().manual_seed(1))


def _config_value(config: Any, *names: str, default: Any = None) -> Any:
    for name in names:
        for one in (config, *(v for v in vars(config).values() if hasattr(v, "to_dict"))):
            value = getattr(one, name, None)
            if value is not None:
                return value
    return default


def _pixels(config: Any) -> tuple[int, int, int]:
    vision = next(
        (
            getattr(config, n)
            for n in ("vision_config", "backbone_config", "image_config", "vision_encoder")
            if hasattr(getattr(config, n, None), "to_dict")
        ),
        config,
    )
    size = getattr(vision, "image_size", None) or getattr(config, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    return channels if isinstance(channels, int) else 3, height, width


def guesses(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Inputs to try, the fullest first."""
    config = model.config
    known = unusual.INPUTS.get(getattr(config, "model_type", ""))
    if known is not None:
        yield known(config)
    takes = inspect.signature(model.forward).parameters
    text: dict[str, Any] = {}
    if "input_ids" in takes:
        rows = getattr(config.get_text_config(), "vocab_size", None)
        text["input_ids"] = ids(below=min(90, rows) if isinstance(rows, int) and rows > 1 else 90)
    if "bbox" in takes:
        text["bbox"] = torch.tensor([[[1, 2, 30, 40]] * 12])
    decoding = {"decoder_input_ids": ids()[:, :7]} if "decoder_input_ids" in takes else {}
    stem = [text | decoding, text] if decoding else [text]
    if any(name in takes for name in _GRIDS):
        yield from _packed(config, text, takes)
    yield from _images(config, text, stem, takes)
    yield from _sounds(config, text, stem, takes)
    if "past_values" in takes:
        yield from _series(config, takes)
    yield from (some for some in stem if some)
    if "inputs_embeds" in takes:
        width = _config_value(config, "hidden_size", "d_model", default=64)
        yield {"inputs_embeds": _random(1, 12, width)}
        if "encoder_hidden_states" in takes:
            yield {"inputs_embeds": _random(1, 12, width), "encoder_hidden_states": _random(1, 9, width)}
    # What a sub-model takes has any name: hidden states, most often, or an image.
    needed = [name for name, p in takes.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    main = getattr(model, "main_input_name", "input_ids")
    for shape in ((1, 12, 64), (1, *_pixels(config)), (1, 64, 12), (12, 64)):
        yield {name: _random(*shape) for name in dict.fromkeys([main, *needed]) if name in takes}


def _images(config: Any, text: dict[str, Any], stem: list[dict[str, Any]], takes: Any) -> Iterator[dict[str, Any]]:
    image = _pixels(config)
    frames = _config_value(config, "frames_per_clip", "num_frames", default=4)
    if "pixel_values" in takes:
        shapes = [(1, *image), (1, frames, *image), (1, 1, *image)]
        yield from (some | {"pixel_values": _random(*shape)} for shape in shapes for some in stem)
        if text:
            for shape in shapes[::2]:
                for count in (4, 16, 1):
                    yield _placed(config, stem[0], count) | {"pixel_values": _random(*shape)}
    if "pixel_values_videos" in takes:
        yield text | {"pixel_values_videos": _random(1, frames, *image)}


def _sounds(config: Any, text: dict[str, Any], stem: list[dict[str, Any]], takes: Any) -> Iterator[dict[str, Any]]:
    mels = _config_value(config, "num_mel_bins", *_BINS)
    if "input_values" in takes:
        length = _config_value(config, "max_length")
        if mels and isinstance(length, int):
            yield {"input_values": _random(1, length, mels)}
        yield from (some | {"input_values": _random(*shape)} for shape in ((1, 8000), (1, 1, 8000)) for some in stem)
    if "input_features" in takes:
        mels, frames = mels or 80, 2 * _config_value(config, "max_source_positions", default=32)
        for shape in ((1, mels, frames), (1, frames, mels), (1, 1, frames, mels)):
            yield from (some | {"input_features": _random(*shape)} for some in stem)


_BINS = ("input_feat_per_channel", "feature_projection_input_dim", "input_dim", "feature_size")
_GRIDS = ("image_grid_thw", "grid_thw", "image_grid_hw", "grid_thws")


def _placed(config: Any, text: dict[str, Any], count: int) -> dict[str, Any]:
    """``count`` image placeholders inside the text."""
    token = _config_value(config, "image_token_id", "image_token_index", "media_placeholder_token_id")
    if not isinstance(token, int):
        return text
    row = text["input_ids"]
    return text | {"input_ids": torch.cat([row[:, :3], torch.full((1, count), token), row[:, 3:]], 1)}


def _packed(config: Any, text: dict[str, Any], takes: Any) -> Iterator[dict[str, Any]]:
    """Patches of one image in a row, as Qwen-VL takes them."""
    vision = getattr(config, "vision_config", config)
    patch, merge = getattr(vision, "patch_size", 14), getattr(vision, "spatial_merge_size", 2)
    time = getattr(vision, "temporal_patch_size", 1)
    channels = getattr(vision, "in_channels", None) or getattr(vision, "num_channels", None) or 3
    grid = next(name for name in _GRIDS if name in takes)
    name = "pixel_values" if "pixel_values" in takes else next(iter(takes))
    rows, columns = 2 * merge, 3 * merge
    for depth in dict.fromkeys((time, 1)):
        rows_of_patches = _random(rows * columns, channels * depth * patch * patch)
        pixels = {name: rows_of_patches, grid: torch.tensor([[1, rows, columns]])}
        if text:
            marked = _placed(config, text, rows * columns // merge**2)
            token = marked["input_ids"][0, 3]
            if "mm_token_type_ids" in takes:
                marked["mm_token_type_ids"] = (marked["input_ids"] == token).int()
            yield marked | pixels
        yield pixels


def _series(config: Any, takes: Any) -> Iterator[dict[str, Any]]:
    length = getattr(config, "context_length", 16)
    lags = max(getattr(config, "lags_sequence", None) or [0])
    future = getattr(config, "prediction_length", None) or 8
    if "past_time_features" in takes:
        yield {
            "past_values": _random(1, length + lags), "past_time_features": _random(1, length + lags, 1),
            "past_observed_mask": torch.ones(1, length + lags), "future_values": _random(1, future),
            "future_time_features": _random(1, future, 1),
        }  # fmt: skip
    yield {"past_values": _random(1, length, getattr(config, "num_input_channels", 1))}
    yield {"past_values": _random(1, length)}


_KINDS = {
    "pixel_values": "image", "pixel_values_videos": "video", "flattened_patches": "image", "visual_feats": "image",
    "input_values": "audio", "input_features": "audio", "audio_mel": "audio", "past_values": "series",
}  # fmt: skip


def kind_of(inputs: dict[str, Any]) -> str:
    """What goes in, in words: "text", "text + image", "audio → text"."""
    found = ["text"] if {"input_ids", "qformer_input_ids"} & set(inputs) else []
    found += [word for name, word in _KINDS.items() if name in inputs]
    if (
        "video" not in found
        and getattr(inputs.get("pixel_values"), "ndim", 0) == 5
        and inputs["pixel_values"].shape[1] > 1
    ):
        found = ["video" if word == "image" else word for word in found]
    kind = " + ".join(found) or "vectors"
    return f"{kind} → text" if "decoder_input_ids" in inputs else kind


def fit(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """The first inputs that the model runs with, and their kind.

    Raises:
        ValueError: none did; says what the model said to each.
    """
    said: dict[str, None] = {}
    for inputs in guesses(model):
        for _ in range(3):
            try:
                with torch.no_grad():
                    torch.manual_seed(0)
                    model(**inputs)
                return kind_of(inputs), inputs
            except Exception as problem:
                said[f"{kind_of(inputs)}: {type(problem).__name__}: {str(problem).strip()[:160]}"] = None
                mended = _mended(model, inputs, str(problem))
                if mended is None:
                    break
                inputs = mended
    raise ValueError(" | ".join(said))


def _mended(model: nn.Module, inputs: dict[str, Any], said: str) -> dict[str, Any] | None:
    """The inputs with as many image tokens as the model says it has features for."""
    if "input_ids" not in inputs:
        return None
    match = re.search(r"tokens: (\d+), features:? (\d+)", said)
    if match and "oken" in said:
        have, want = map(int, match.groups())
        count = want if want % 64 or want < 200 else want // 64
        return _placed(model.config, inputs | {"input_ids": ids()}, count)
    return None
