"""Inputs that do not follow from the names in a model's ``forward``: per type, and per argument that a model misses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def _ids(*shape: int) -> Tensor:
    return torch.randint(10, 20, shape, generator=torch.Generator().manual_seed(1))


def _ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.long)


def _grid(rows: int = 4, columns: int = 6) -> Tensor:
    """x and y of every patch [1, patch, 2]."""
    return torch.cartesian_prod(torch.arange(columns), torch.arange(rows))[None]


_TEXT = {"input_ids": _ids(1, 12)}
_THW = torch.tensor([[1, 4, 6]])  # one image of 4 × 6 patches
_IMAGE = {"pixel_values": random(1, 3, 64, 64)}

INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "audioflamingo3_encoder": lambda c: {
        "input_features": random(1, c.num_mel_bins, 2 * c.max_source_positions),
        "input_features_mask": _ones(1, 2 * c.max_source_positions),
    },
    "blip_2_qformer": lambda c: {
        "query_embeds": random(1, 5, 64),
        "encoder_hidden_states": random(1, 9, c.encoder_hidden_size),
    },
    "decision_transformer": lambda c: {
        "states": random(1, 5, c.state_dim),
        "actions": random(1, 5, c.act_dim),
        "rewards": random(1, 5, 1),
        "returns_to_go": random(1, 5, 1),
        "timesteps": torch.arange(5)[None],
        "attention_mask": _ones(1, 5),
    },
    "dia": lambda c: _TEXT | {"decoder_input_ids": _ids(1, 7, 9)},
    "dia_decoder": lambda c: {
        "input_ids": _ids(1, 7, 9),
        "encoder_hidden_states": random(1, 9, 64),
    },
    "fun_asr_nano_encoder": lambda c: {
        "input_features": random(1, 16, c.input_size if hasattr(c, "input_size") else 560),
        "input_features_mask": _ones(1, 16),
    },
    "gemma3n_audio": lambda c: {
        "audio_mel": random(1, 64, c.input_feat_size),
        "audio_mel_mask": torch.zeros(1, 64, dtype=torch.bool),
    },
    "gemma4_audio": lambda c: {"input_features": random(1, 64, 128), "attention_mask": _ones(1, 64).bool()},
    "gemma4_vision": lambda c: {
        "pixel_values": random(1, 36, 3 * c.patch_size**2),
        "pixel_position_ids": _grid(6, 6),
    },
    "granite_speech5_ctc": lambda c: {"input_features": random(1, 24, 320)},
    "granite_speech5_encoder": lambda c: {"input_features": random(1, 24, 320)},
    "granite_speech_encoder": lambda c: {"hidden_states": random(1, 24, c.input_dim)},
    "granite_speech_plus_encoder": lambda c: {"hidden_states": random(1, 24, c.input_dim)},
    "idefics": lambda c: _TEXT | {
        "pixel_values": random(1, 1, 3, c.vision_config.image_size, c.vision_config.image_size),
        "image_attention_mask": _ones(1, 12, 1),
    },
    "idefics2_perceiver": lambda c: {"context": random(1, 12, 64), "attention_mask": _ones(1, 12)},
    "inkling_audio": lambda c: {"input_ids": _ids(1, 12, 80)},
    "instructblip": lambda c: _placed(4) | {"pixel_values": _vision(c), "qformer_input_ids": _ids(1, 6)},
    "instructblipvideo": lambda c: _placed(16) | {
        "pixel_values": _vision(c)[:, None].expand(-1, 4, -1, -1, -1), "qformer_input_ids": _ids(1, 6),
    },
    "kimi_k25": lambda c: _placed(6) | {
        "pixel_values": random(24, 3, c.vision_config.patch_size, c.vision_config.patch_size),
        "image_grid_thw": _THW,
    },
    "kimi_k25_vision": lambda c: {"pixel_values": random(24, 3, c.patch_size, c.patch_size), "grid_thw": _THW},
    "kosmos-2": lambda c: _TEXT | {
        "pixel_values": _vision(c),
        "image_embeds_position_mask": (torch.arange(12) < c.latent_query_num).int()[None],
    },
    "kosmos_2_5_vision_model": lambda c: {"flattened_patches": _flat(c.patch_embed_hidden_size)},
    "lightglue": lambda c: {"pixel_values": random(1, 2, 3, 64, 64)},
    "llama4_vision_model": lambda c: {"pixel_values": random(1, 3, c.image_size, c.image_size)},
    "lxmert": lambda c: _TEXT | {"visual_feats": random(1, 5, c.visual_feat_dim), "visual_pos": random(1, 5, 4)},
    "mllama_vision_model": lambda c: {
        "pixel_values": random(1, 1, c.max_num_tiles, 3, c.image_size, c.image_size),
        "aspect_ratio_ids": _ones(1, 1),
        "aspect_ratio_mask": _ones(1, 1, c.max_num_tiles),
    },
    "molmo2_vision": lambda c: {"pixel_values": random(1, 9, 3 * c.patch_size**2)},
    "muse_glimmer_vision": lambda c: {"pixel_values": random(24, 6 * c.patch_size**2), "grid_thw": _THW},
    "muse_spark_audio": lambda c: {"input_values": random(1, 96 * 20)},
    "muse_spark_vision": lambda c: {"pixel_values": random(24, 6 * c.patch_size**2), "grid_thw": _THW},
    "omdet-turbo": lambda c: _IMAGE | {
        "classes_input_ids": _ids(2, 5), "classes_attention_mask": _ones(2, 5), "tasks_input_ids": _ids(1, 5),
        "tasks_attention_mask": _ones(1, 5), "classes_structure": torch.tensor([2]),
    },
    "paddleocr_vl": lambda c: _placed(6) | {
        "pixel_values": random(24, 3, c.vision_config.patch_size, c.vision_config.patch_size),
        "image_grid_thw": _THW,
        "mm_token_type_ids": (_placed(6)["input_ids"] == 100).int(),
    },
    "paddleocr_vl_vision": lambda c: {
        "pixel_values": random(1, 24, 3, c.patch_size, c.patch_size),
        "grid_thw": _THW,
    },
    "colpali": lambda c: INPUTS["paligemma"](c.vlm_config),
    "paligemma": lambda c: _placed(16) | {"pixel_values": _vision(c), "token_type_ids": 0 * _ones(1, 28)},
    "pix2struct": lambda c: {
        "flattened_patches": _flat(c.vision_config.patch_embed_hidden_size), "decoder_input_ids": _ids(1, 7),
    },
    "pix2struct_vision_model": lambda c: {"flattened_patches": _flat(c.patch_embed_hidden_size)},
    "pp_ocrv5_mobile_rec": lambda c: {"pixel_values": random(1, 3, 48, 320)},
    "pp_ocrv5_server_rec": lambda c: {"pixel_values": random(1, 3, 48, 320)},
    "qwen2_5_omni_audio_encoder": lambda c: {
        "input_features": random(c.num_mel_bins, 80), "feature_lens": torch.tensor([80]),
        "aftercnn_lens": torch.tensor([40]),
    },
    "qwen3_omni_moe_audio_encoder": lambda c: {
        "input_features": random(c.num_mel_bins, 80), "feature_lens": torch.tensor([80]),
    },
    "qwen3_asr_encoder": lambda c: {
        "input_features": random(1, c.num_mel_bins, 100), "input_features_mask": _ones(1, 100),
    },
    "siglip2": lambda c: _TEXT | INPUTS["siglip2_vision_model"](c.vision_config),
    "siglip2_vision_model": lambda c: {
        "pixel_values": random(1, 6, 3 * c.patch_size**2),
        "pixel_attention_mask": _ones(1, 6),
        "spatial_shapes": torch.tensor([[2, 3]]),
    },
    "slanet": lambda c: _IMAGE,
    "slanext": lambda c: {"pixel_values": random(1, 3, 512, 512)},
    "speecht5": lambda c: {"input_values": random(1, 9, 64), "decoder_input_values": random(1, 7, 64)},
    "timesfm": lambda c: {
        "past_values": random(1, c.context_length),
        "past_values_padding": 0 * _ones(1, c.context_length),
        "freq": torch.zeros(1, 1, dtype=torch.long),
    },
    "tvp": lambda c: _TEXT | {"pixel_values": random(1, 2, 3, 448, 448), "attention_mask": _ones(1, 12)},
    "video_llama_3_vision": lambda c: {
        "pixel_values": random(24, 3 * c.patch_size**2), "grid_thw": _THW, "merge_sizes": torch.tensor([2]),
    },
    "vjepa2": lambda c: {"pixel_values_videos": random(1, 4, 3, c.crop_size, c.crop_size)},
    "xclip_vision_model": lambda c: {"pixel_values": random(8, 3, c.image_size, c.image_size)},
}  # fmt: skip


def _flat(width: int) -> Tensor:
    """Patches of an image in a row, each with its row and column in front."""
    return torch.cat([_grid(3, 4).float(), random(1, 12, width)], -1)


def _vision(config: Any) -> Tensor:
    size = config.vision_config.image_size
    return random(1, 3, size, size)


def _placed(count: int, token: int = 100) -> dict[str, Any]:
    """A text with ``count`` image placeholders in it."""
    row = _TEXT["input_ids"]
    return {"input_ids": torch.cat([row[:, :3], torch.full((1, count), token), row[:, 3:]], 1)}
