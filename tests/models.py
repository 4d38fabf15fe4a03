"""Small models with random weights, one per way of computing attention: real classes, nothing downloaded."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VOCABULARY = 100


def _sharpen(model: nn.Module, spread: float) -> nn.Module:
    """Spread weights far enough that attention is anything but uniform: near-uniform maps agree whatever one does."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, spread, generator=generator)
            elif not torch.equal(parameter, torch.ones_like(parameter)):
                parameter.normal_(0.0, 0.2, generator=generator)
    return model.eval()


def make(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """A model of that family and inputs for it."""
    import transformers as t

    size: dict[str, Any] = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "hidden_size": 32,
    }
    grouped = size | {"num_key_value_heads": 2, "vocab_size": VOCABULARY}
    ids = torch.randint(5, VOCABULARY, (1, 23), generator=torch.Generator().manual_seed(1))
    text = {"input_ids": ids}
    both = text | {"decoder_input_ids": ids[:, :11]}
    table: dict[str, Any] = {
        "gpt2": lambda: (t.GPT2LMHeadModel(t.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)), text),
        "bert": lambda: (t.BertModel(t.BertConfig(vocab_size=VOCABULARY, **size)), text),
        "llama": lambda: (t.LlamaForCausalLM(t.LlamaConfig(**grouped)), text),
        "mistral": lambda: (t.MistralForCausalLM(t.MistralConfig(**grouped, sliding_window=6)), text),
        "gemma2": lambda: (
            t.Gemma2ForCausalLM(
                t.Gemma2Config(
                    **grouped, head_dim=8, sliding_window=6, attn_logit_softcapping=3.0, query_pre_attn_scalar=24
                )
            ),
            text,
        ),
        "gpt_oss": lambda: (
            t.GptOssForCausalLM(
                t.GptOssConfig(**grouped, head_dim=8, sliding_window=6, num_local_experts=2, num_experts_per_tok=1)
            ),
            text,
        ),
        "t5": lambda: (
            t.T5ForConditionalGeneration(
                t.T5Config(vocab_size=VOCABULARY, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=32)
            ),
            both,
        ),
        "bart": lambda: (
            t.BartForConditionalGeneration(
                t.BartConfig(
                    vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
                    decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32,
                )
            ),
            both,
        ),
        "vit": lambda: (
            t.ViTModel(t.ViTConfig(**size, image_size=(24, 32), patch_size=8)),
            {"pixel_values": torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(2))},
        ),
        "swin": lambda: (  # four windows, shifted in the second layer; then a stage that is one window
            t.SwinModel(
                t.SwinConfig(
                    image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4,
                    drop_path_rate=0.0,
                )
            ),
            {"pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))},
        ),
        "bloom": lambda: (
            t.BloomForCausalLM(t.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)),
            text,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model, inputs = table[family]()
    # T5 does not divide by √d: the same spread would make scores so large that float32 itself rounds by 1e-5.
    return _sharpen(model, 0.2 if family == "t5" else 0.35), inputs


class Handmade(nn.Module):
    """softmax(QKᵀ/√d)·V as a tutorial writes it: one layer, ``heads`` heads."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        self.seen = weights.detach().clone()
        return self.out((nn.functional.dropout(weights, 0.1, self.training) @ v).transpose(1, 2).reshape(b, n, width))


class Bare(nn.Module):
    """One call of F.scaled_dot_product_attention, as nanoGPT makes it."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, width)
