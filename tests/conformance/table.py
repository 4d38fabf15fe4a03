"""The model types that the tests run, one line each, and the sizes of all others that need some.

A line is: type, kind of inputs, number of attention calls in one run, oracle; then keyword arguments of the
configuration where the shared small one (:data:`tests.conformance.shrink.SIZES`) does not do, dotted for
sub-configurations. ``gain`` spreads the random weights: smaller where a model's scores are large by themselves, so that
float32's own rounding stays below the tolerance.

Where a model calls attention in more than one way it has more than one oracle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# The oracles; see tests/conformance/oracle.py.
EAGER = "eager's own return value"
OFFICIAL = "output_attentions"
TORCH = "torch's own weights"
SOFTMAX = "softmax result"
CLOSED = "closed form float64"


class Row(NamedTuple):
    """One model type of the table."""

    type: str
    inputs: str
    calls: int
    oracle: str
    gain: float
    overrides: dict[str, Any]


def row(type: str, inputs: str, calls: int, *oracle: str, gain: float = 2.0, **overrides: Any) -> Row:
    """A line of the table."""
    return Row(type, inputs, calls, " + ".join(sorted(oracle)), gain, overrides)


_LATENT = {"head_dim": 8}  # latent attention rotates qk_rope_head_dim dimensions, and calls them head_dim
_LATENTS = {
    "d_latents": 64, "num_latents": 10, "num_self_attends_per_block": 2, "num_cross_attention_heads": 4,
    "num_self_attention_heads": 4,
}  # fmt: skip
_SERIES = {"prediction_length": 8, "context_length": 16, "lags_sequence": [1, 2, 3], "num_time_features": 1}
_SWIN = {"depths": (2, 2), "num_heads": (3, 6), "window_size": 4, "image_size": 64}
_LEVELS = {"decoder_in_channels": [64, 64, 64]}
_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
_DAVIT = {"embed_dim": (16, 32, 64, 128), "num_heads": (2, 2, 4, 8), "num_groups": (2, 2, 4, 8), "depths": (1, 1, 1, 1)}

# fmt: off
ROWS = [
    # decoders
    row("gpt2", "text", 2, EAGER),
    row("llama", "text", 2, EAGER),
    row("mistral", "text", 2, EAGER),
    row("qwen2", "text", 2, EAGER),
    row("qwen3", "text", 2, EAGER),
    row("gemma", "text", 2, EAGER),
    row("gemma2", "text", 2, EAGER),
    row("gemma3_text", "text", 2, EAGER),
    row("phi", "text", 2, EAGER),
    row("phi3", "text", 2, EAGER),
    row("olmo2", "text", 2, EAGER),
    row("gpt_oss", "text", 2, EAGER),
    row("gpt_neox", "text", 2, EAGER),
    row("opt", "text", 2, EAGER),
    row("bloom", "text", 2, OFFICIAL),
    row("falcon", "text", 2, OFFICIAL),
    row("mpt", "text", 2, OFFICIAL),
    row("gptj", "text", 2, OFFICIAL),
    row("gpt_neo", "text", 2, OFFICIAL, attention_types=[[["global", "local"], 1]], window_size=6, num_layers=2),
    row("codegen", "text", 2, OFFICIAL),
    row("cohere2", "text", 2, EAGER),
    row("xglm", "text", 2, OFFICIAL),
    row("stablelm", "text", 2, EAGER),
    row("starcoder2", "text", 2, EAGER),
    row("granite", "text", 2, EAGER, gain=1),
    row("smollm3", "text", 2, EAGER),
    row("glm4", "text", 2, EAGER),
    row("biogpt", "text", 2, EAGER),
    row("ctrl", "text", 2, EAGER),
    # mixtures of experts, latent attention, compressed keys
    row("mixtral", "text", 2, EAGER),
    row("qwen2_moe", "text", 2, EAGER),
    row("qwen3_moe", "text", 2, EAGER),
    row("llama4_text", "text", 2, EAGER),
    row("deepseek_v2", "text", 2, EAGER, num_experts_per_tok=2, **_LATENT),
    row("deepseek_v3", "text", 2, EAGER, **_LATENT),
    row("deepseek_v4", "text", 2, EAGER),
    row("minimax", "text", 1, EAGER),
    # hybrids: some layers have no attention
    row("jamba", "text", 1, EAGER, attn_layer_period=2, attn_layer_offset=1, expert_layer_period=2),
    row("bamba", "text", 1, EAGER, attn_layer_indices=[1]),
    row("zamba2", "text", 1, EAGER, mamba_ngroups=1, n_mamba_heads=8),
    row("granitemoehybrid", "text", 1, EAGER, layer_types=["mamba", "attention"]),
    row("falcon_h1", "text", 2, EAGER),
    row("lfm2", "text", 2, EAGER),
    row("qwen3_next", "text", 1, EAGER),
    row("recurrent_gemma", "text", 1, EAGER, num_hidden_layers=3),
    row("nemotron_h", "text", 1, EAGER),
    # encoders
    row("bert", "text", 2, EAGER),
    row("roberta", "text", 2, EAGER),
    row("distilbert", "text", 2, EAGER),
    row("albert", "text", 2, EAGER),
    row("electra", "text", 2, EAGER),
    row("deberta", "text", 2, OFFICIAL),
    row("deberta-v2", "text", 2, OFFICIAL),
    row("mpnet", "text", 2, OFFICIAL),
    row("xlnet", "text", 2, OFFICIAL),
    row("xlm", "text", 2, OFFICIAL),
    row("funnel", "text", 14, OFFICIAL),
    row("camembert", "text", 2, EAGER),
    row("modernbert", "text", 2, EAGER),
    row("roformer", "text", 2, OFFICIAL),
    row("big_bird", "text", 2, OFFICIAL),
    row("convbert", "text", 2, OFFICIAL),
    row("squeezebert", "text", 2, SOFTMAX),
    row("mobilebert", "text", 2, EAGER),
    row("rembert", "text", 2, OFFICIAL),
    row("esm", "text", 2, EAGER, mask_token_id=100, pad_token_id=1),
    row("nystromformer", "text", 2, OFFICIAL),
    row("ibert", "text", 2, OFFICIAL),
    row("layoutlm", "text", 2, EAGER),
    row("layoutlmv3", "text", 2, OFFICIAL, coordinate_size=10, shape_size=12),
    row("luke", "text", 2, OFFICIAL),
    row("tapas", "text", 2, OFFICIAL),
    row("canine", "text", 4, OFFICIAL),
    row("perceiver", "vectors", 3, OFFICIAL, **_LATENTS),
    # encoder and decoder
    row("t5", "text → text", 6, EAGER, gain=1),
    row("mt5", "text → text", 6, EAGER, gain=1),
    row("umt5", "text → text", 6, EAGER, gain=1),
    row("bart", "text → text", 6, EAGER),
    row("mbart", "text → text", 6, EAGER),
    row("pegasus", "text → text", 6, EAGER),
    row("marian", "text → text", 6, EAGER),
    row("m2m_100", "text → text", 6, EAGER),
    row("blenderbot", "text → text", 6, EAGER),
    row("prophetnet", "text → text", 8, OFFICIAL, SOFTMAX),
    row("nllb-moe", "text → text", 6, EAGER),
    row("switch_transformers", "text → text", 6, EAGER),
    row("bigbird_pegasus", "text → text", 6, EAGER, OFFICIAL),
    row("informer", "series", 6, EAGER, OFFICIAL, **_SERIES),
    # images
    row("vit", "image", 2, EAGER),
    row("deit", "image", 2, EAGER),
    row("beit", "image", 2, EAGER),
    row("swin", "image", 4, EAGER, gain=1, **_SWIN),
    row("swinv2", "image", 12, OFFICIAL, SOFTMAX),
    row("dinov2", "image", 2, EAGER),
    row("dinov2_with_registers", "image", 2, EAGER),
    row("dinov3_vit", "image", 2, EAGER),
    row("siglip_vision_model", "image", 3, EAGER, TORCH),
    row("clip_vision_model", "image", 2, EAGER),
    row("data2vec-vision", "image", 2, CLOSED),
    row("levit", "image", 14, SOFTMAX),
    row("pvt", "image", 8, OFFICIAL),
    row("pvt_v2", "image", 8, OFFICIAL),
    row("cvt", "image", 13, SOFTMAX),
    row("segformer", "image", 8, EAGER, gain=1),
    row("vit_mae", "image", 2, EAGER),
    row("yolos", "image", 2, EAGER),
    row("detr", "image", 6, EAGER),
    row("conditional_detr", "image", 6, EAGER),
    row("vitdet", "image", 2, OFFICIAL),
    row("vivit", "video", 2, EAGER),
    row("videomae", "video", 2, EAGER),
    row("timesformer", "video", 4, OFFICIAL, SOFTMAX),
    row("sam", "image", 9, CLOSED, EAGER),
    # sound and series
    row("whisper", "audio → text", 6, EAGER),
    row("speech_to_text", "audio → text", 6, EAGER),
    row("wav2vec2", "audio", 2, EAGER),
    row("hubert", "audio", 2, EAGER),
    row("wavlm", "audio", 2, TORCH),
    row("audio-spectrogram-transformer", "audio", 2, EAGER),
    row("sew", "audio", 2, EAGER),
    row("wav2vec2-bert", "audio", 2, EAGER),
    row("wav2vec2-conformer", "audio", 2, EAGER),
    row("patchtst", "series", 2, EAGER, gain=1),
    # text and images
    row("clip", "text + image", 4, EAGER),
    row("siglip", "text + image", 5, EAGER, TORCH),
    row("blip", "text + image", 4, OFFICIAL),
    row("llava", "text + image", 4, EAGER),
    row("paligemma", "text + image", 4, EAGER, **{"vision_config.projection_dim": 64}),
    row("gemma3", "text + image", 5, EAGER, TORCH),
    row("idefics", "text + image", 6, EAGER, gain=1),
    row("blip-2", "text + image → text", 7, EAGER, image_token_index=100),
    row("qwen2_vl", "text + image", 4, EAGER, gain=1),
    row("qwen2_5_vl", "text + image", 4, EAGER, gain=1),
    row("idefics2", "text + image", 6, EAGER, gain=1),
    row("vilt", "text + image", 2, OFFICIAL),
    row("git", "text + image", 4, EAGER, OFFICIAL),
]
# fmt: on

# Types that only the long sweep runs.
FURTHER: dict[str, dict[str, Any]] = {
    "autoformer": _SERIES | {"moving_average": 5},
    "axk1": _LATENT,
    "clap": {"audio_config.hidden_size": 192},
    "clvp": {"text_config.hidden_size": 128, "speech_config.hidden_size": 128},
    "colqwen2": {"vlm_config.vision_config.embed_dim": 64, "vlm_config.vision_config.num_heads": 4},
    "d_fine": _LEVELS,
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "deimv2": _LEVELS,
    "diffusion_gemma": {"text_config." + key: value for key, value in _EXPERTS.items()},
    "diffusion_gemma_text": _EXPERTS,
    "donut-swin": _SWIN,
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_audio_encoder": {"adapter_input_size": 64},
    "dots3_note_vision_encoder": {"adapter_in_dim": 64},
    "eomt": {"num_blocks": 1},
    "eomt_dinov3": {"num_blocks": 1},
    "exaone4_5_vision": {"num_key_value_heads": 2},
    "florence2": {"vision_config." + key: value for key, value in _DAVIT.items()},
    "florence_vision": _DAVIT,
    "gemma3n": {"text_config.num_kv_shared_layers": 0},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "glm5_next_text": {"index_topk": 16},
    "grounding-dino": {"num_queries": 5},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {"text_config.head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16},
    "instructblip": {"image_token_index": 100},
    "instructblipvideo": {"video_token_index": 100},
    "kimi_k25": {"projection_hidden_size": 64, "text_config.head_dim": 8},
    "kosmos-2": {"latent_query_num": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": _LATENT,
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": {"head_dim": 16},
    "mistral4": _LATENT,
    "mllama_vision_model": {"intermediate_layers_indices": [0, 1]},
    "mm-grounding-dino": {"num_queries": 5},
    "mobilevit": {"image_size": 128},
    "mobilevitv2": {"image_size": 128},
    "nemotron": {"num_key_value_heads": 2},
    "pp_doclayout_v2": _LEVELS,
    "pp_doclayout_v3": _LEVELS,
    "pp_doclayout_v4": _LEVELS,
    "rt_detr": _LEVELS,
    "rt_detr_v2": _LEVELS,
    "sam2_hiera_det_model": {"hidden_size": 96, "image_size": [64, 64]},
    "sam2_vision_model": {"backbone_config.hidden_size": 96, "backbone_config.image_size": [64, 64]},
    "sam3_lite_text_text_model": {"num_hidden_layers": 4},
    "shieldgemma2": {"yes_token_index": 101, "no_token_index": 102},
    "step3p5": {"sliding_window": 6},
    "step3p7": {"text_config.sliding_window": 6},
    "time_series_transformer": _SERIES,
    "vjepa2": {
        "crop_size": 64,
        "frames_per_clip": 4,
        "pred_hidden_size": 48,
        "pred_num_attention_heads": 4,
        "pred_num_hidden_layers": 2,
    },
    "xmod": {"default_language": "en_XX"},
    "youtu": _LATENT,
}

_OVERRIDES = FURTHER | {one.type: one.overrides for one in ROWS}


def overrides(model_type: str) -> dict[str, Any]:
    """What the configuration of a type needs beyond the shared sizes."""
    return _OVERRIDES.get(model_type, {})
