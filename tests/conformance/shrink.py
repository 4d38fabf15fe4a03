"""A small model with random weights of every model type of transformers.

The configuration is the type's own default with sizes made small by name (:data:`SIZES`), sub-configurations too, and
with every kind of layer once. What names do not tell stands in :mod:`tests.conformance.table`.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import re
from typing import Any

import torch
from torch import nn

from . import table

VOCABULARY = 160
_SPECIALS = 100  # ids from here on stand for images, sounds and the like
_LARGEST = 130_000_000  # parameters

_NAMES: list[tuple[int, str]] = [
    # widths
    (64,
     "hidden_size d_model n_embd dim emb_dim model_dim embedding_size projection_dim encoder_hidden_size "
     "decoder_hidden_size text_hidden_size out_hidden_size output_channels word_embed_proj_dim upsample_groups "
     "output_hidden_size vision_hidden_size cross_hidden_size fpn_hidden_size encoder_hidden_dim "
     "hidden_dim lm_hidden_size backbone_hidden_size lru_width"),
    (16,
     "hidden_size_per_layer_input head_dim d_kv kv_channels attention_head_dim global_head_dim "
     "swa_head_dim qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank index_head_dim d_head "
     "cross_head_dim linear_key_head_dim linear_value_head_dim linear_head_dim"),
    (32,
     "base_channels moe_intermediate_size expert_ffn_hidden_size shared_expert_intermediate_size "
     "shared_intermediate_size moe_shared_expert_intermediate_size shared_experts_intermediate_size"),
    (4, "mm_tokens_per_image"),
    (8, "qk_rope_head_dim rotary_dim"),
    (24, "qk_head_dim"),
    (6, "index_topk"),
    (96,
     "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner mlp_dim dff dim_ff "
     "ffn_hidden_size d_inner decoder_intermediate_size dim_feedforward hidden_dim_ff "
     "encoder_feedforward_dim speech_encoder_intermediate_size t2u_encoder_ffn_dim t2u_decoder_ffn_dim "
     "intermediate_size_mlp"),
    # heads
    (4,
     "num_attention_heads n_head n_heads encoder_attention_heads decoder_attention_heads attention_heads "
     "encoder_num_attention_heads decoder_num_attention_heads cross_num_attention_heads index_n_heads "
     "linear_num_value_heads linear_num_heads decoder_self_attention_heads decoder_cross_attention_heads "
     "swa_num_attention_heads speech_encoder_attention_heads t2u_encoder_attention_heads "
     "t2u_decoder_attention_heads cross_num_key_value_heads"),
    (2, "linear_num_key_heads swa_num_key_value_heads num_global_key_value_heads"),
    # depth
    (2,
     "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth num_decoder_layers "
     "num_encoder_layers decoder_num_hidden_layers layers encoder_num_hidden_layers speech_encoder_layers "
     "t2u_encoder_layers t2u_decoder_layers num_hidden_layers_first vision_layers aligner_num_add_layers "
     "resampler_depth memory_attention_num_layers"),
    (0, "num_nextn_predict_layers"),
    (1, "num_local_layers num_global_layers"),
    # experts
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts"),
    (2, "num_experts_per_tok num_experts_per_token moe_k moe_topk top_k_experts moe_top_k"),
    (1, "n_group topk_group num_expert_group"),
    # lengths
    (128, "max_position_embeddings n_positions n_ctx"),
    (64, "max_source_positions max_target_positions"),
    (6, "sliding_window sliding_window_size"),
    (10, "num_queries"),
    (4, "num_query_tokens"),
    (1024, "max_2d_position_embeddings"),
    (32, "num_pos_feats"),
    (3, "num_labels"),
    (2, "fullatt_block_interval"),
    (16, "canvas_length"),
    # state space
    (8, "mamba_n_heads mamba_d_state mamba_num_heads state_size mamba_chunk_size ssm_state_size chunk_size"),
    (16, "mamba_d_head mamba_head_dim mamba_headdim"),
    (1, "n_mamba_heads n_groups mamba_ngroups"),
    (128, "mamba_d_ssm"),
    (4, "mamba_dt_rank"),
]  # fmt: skip
SIZES = {name: size for size, names in _NAMES for name in names.split()}


class NotStandaloneError(Exception):
    """A configuration without a model of its own."""


class TooBigError(Exception):
    """The configuration does not become small by name."""


def classes(model_type: str) -> tuple[Any, Any]:
    """The configuration class and the model class of a type: AutoModel's, or the one that belongs to the sub-model."""
    from transformers import PreTrainedModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    try:
        found = MODEL_MAPPING[config_class]
        return config_class, found[0] if isinstance(found, (tuple, list)) else found
    except KeyError:
        pass
    where = config_class.__module__.replace("configuration_", "modeling_")
    module = importlib.import_module(where)
    mine = [
        one
        for _, one in inspect.getmembers(module, inspect.isclass)
        if issubclass(one, PreTrainedModel) and one.__module__ == where and one.config_class is config_class
        and not one.__name__.endswith("PreTrainedModel")
    ]  # fmt: skip
    if not mine:
        raise NotStandaloneError("no model class takes this configuration")
    return config_class, min(
        mine, key=lambda one: (not one.__name__.endswith("Model"), "For" not in one.__name__, len(one.__name__))
    )


def configuration(model_type: str, overrides: dict[str, Any] | None = None, *, thin: bool = True) -> Any:
    """The type's default configuration, made small. ``thin=False`` keeps widths and heads as they are."""
    config_class, _ = classes(model_type)
    given = table.overrides(model_type) | (overrides or {})
    return _small(config_class, given, thin, {})


def _small(config_class: type, given: dict[str, Any], thin: bool, ids: dict[int, int], like: Any = None) -> Any:
    from transformers import PreTrainedConfig

    default = config_class() if like is None else like
    kept = ("layer", "depth", "expert", "vocab", "moe_top", "moe_k", "group")
    values: dict[str, Any] = {}
    for name, value in vars(default).items():
        if isinstance(value, PreTrainedConfig):
            inner = {key.split(".", 1)[1]: v for key, v in given.items() if key.startswith(name + ".")}
            values[name] = _small(type(value), inner, thin, ids, like=value)
        elif isinstance(value, bool) or name.startswith("_"):
            continue
        elif value is None and name == "vocab_size":
            values[name] = VOCABULARY
        elif isinstance(value, int):
            if "vocab_size" in name and value > VOCABULARY:
                values[name] = VOCABULARY
            elif re.search(r"_token_(id|index)$", name) and value >= _SPECIALS:
                values[name] = ids.setdefault(value, _SPECIALS + len(ids) % 50)
            elif name in SIZES and value > SIZES[name] and (thin or any(word in name for word in kept)):
                values[name] = SIZES[name]
    if thin and isinstance(getattr(default, "num_heads", None), int) and default.num_heads > 4:
        values |= {"num_heads": 4} | ({"embed_dim": 64} if isinstance(getattr(default, "embed_dim", None), int) else {})
    heads = values.get("num_attention_heads")
    kv = vars(default).get("num_key_value_heads")  # getattr is refused where layers differ in it
    if heads and isinstance(kv, int) and kv > 2:
        values["num_key_value_heads"] = heads if kv == vars(default)["num_attention_heads"] else 2
    if isinstance(getattr(default, "image_size", None), int) and default.image_size > 64:
        values["image_size"] = _image(getattr(default, "patch_size", None))
    values |= _per_layer(default, values, {key: v for key, v in given.items() if "." not in key})
    if thin and "mrope_section" in getattr(config_class, "ignore_keys_at_rope_validation", ()):
        values["rope_parameters"] = _sectioned(getattr(default, "rope_parameters", None))
    values |= {key: v for key, v in given.items() if "." not in key}
    extra = {} if like is None else _identity(like) | _taken(like, values)
    try:
        return config_class(**(extra | values))
    except Exception:
        if like is None:
            raise
        # A sub-configuration that its parent made with other values than its class's defaults.
        made = copy.deepcopy(like)
        for name, value in values.items():
            setattr(made, name, value)
        return made


def _identity(like: Any) -> dict[str, Any]:
    """What a parent configuration says in its sub-configuration beyond the class's defaults."""
    default = vars(type(like)())
    return {
        name: value
        for name, value in vars(like).items()
        if name in default and not name.startswith("_") and name not in ("transformers_version", "model_type", "dtype")
        and isinstance(value, (bool, str, int, float, list, tuple)) and default[name] != value
    }  # fmt: skip


def _taken(like: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Of which stages a backbone's features are taken; where stages are layers, it needs that many."""
    stages = getattr(like, "out_indices", None) if "_out_indices" in vars(like) else None
    if not stages or min(stages) < 0:
        return {}
    if "num_hidden_layers" in values:
        values["num_hidden_layers"] = max(stages)
    return {"out_indices": list(stages)}


def _image(patch: Any) -> int:
    size = max(patch) if isinstance(patch, (tuple, list)) else patch
    return 64 if not isinstance(size, int) or size <= 4 else 4 * size


def _per_layer(default: Any, values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Lists with an entry for each layer: each kind of layer once, at least two."""
    name = next(
        (n for n in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(getattr(default, n, None), int)), None
    )
    if name is None or "layer_types" in given:
        return {}
    old = getattr(default, name)
    lists = {
        key: value
        for key, value in vars(default).items()
        if isinstance(value, (list, tuple)) and len(value) == old > 2 and key in type(default).__dataclass_fields__
    }
    kinds = next((v for k, v in lists.items() if k in ("layer_types", "layers_block_type", "block_types")), None)
    picked = list(range(values.get(name, old)))
    if kinds:
        picked = sorted({kind: at for at, kind in reversed(list(enumerate(kinds)))}.values())
        picked += [at for at in range(old) if at not in picked][: max(0, 2 - len(picked))]
        picked.sort()
    count = given.get(name, len(picked))
    picked = (picked * count)[:count]
    found: dict[str, Any] = {key: type(value)(value[at] for at in picked) for key, value in lists.items()}
    return found | {name: len(picked)} if kinds else found


def _sectioned(rope: Any) -> dict[str, Any]:
    """Rotary parameters whose sections for time, height and width add up to half of a head of 16."""
    if rope and all(isinstance(inner, dict) for inner in rope.values()):
        return {kind: _sectioned(inner) for kind, inner in rope.items()}
    made = copy.deepcopy(rope) or {"rope_type": "default", "rope_theta": 10000.0}
    half = int(16 * made.get("partial_rotary_factor", 1)) // 2
    return made | {"mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}


def build(model_type: str, overrides: dict[str, Any] | None = None, *, thin: bool = True) -> nn.Module:
    """A model of that type with random weights."""
    config = configuration(model_type, overrides, thin=thin)
    _, model_class = classes(model_type)
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in model_class(copy.deepcopy(config)).parameters())
    except Exception:
        count = 0  # not every model can be made without memory
    if count > _LARGEST:
        raise TooBigError(f"{count / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model: nn.Module = model_class(config)
    return model.eval()


def sharpen(model: nn.Module, gain: float) -> nn.Module:
    """Spread weights far enough that attention is anything but uniform: near-uniform maps agree whatever one does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point() or "duration" in name:
                continue  # a speech model speaks as long as its duration predictor says: for ever, with such weights
            if parameter.dim() >= 2:
                fan = math.prod(parameter.shape[1:]) if parameter.dim() > 3 else parameter.shape[-1]
                parameter.normal_(0.0, gain / math.sqrt(fan), generator=generator)
            elif "norm" not in name.lower() and not torch.equal(parameter, torch.ones_like(parameter)):
                parameter.normal_(0.0, 0.1, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.fill_(1.0)  # some are made so small that an image vanishes on its way
    return model
