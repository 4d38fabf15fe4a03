"""Positions taken away or exchanged: against models whose tables and rotations were replaced, and by symmetry."""

from __future__ import annotations

import copy
import math
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnwidget import capture, compare, tiny
from attnwidget.intervene import effect
from attnwidget.positions import positions
from models import Bare, Handmade, make

N = 23  # tokens of the models' inputs
SHUFFLED = torch.randperm(N, generator=torch.Generator().manual_seed(0))
REVERSED = torch.arange(N - 1, -1, -1)


def out(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        found = model(**inputs)
    return found.logits if hasattr(found, "logits") else found[0]


def close(found: Tensor, wanted: Tensor, tolerance: float = 5e-6) -> None:
    """Equal to ``tolerance`` of the largest entry."""
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


# ── first oracle: copies whose positions were replaced ────────────────────────────────────────────────────────────────


def without_table(model: nn.Module, *names: str) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            other.get_parameter(name).zero_()
    return other


def without_rotation(model: nn.Module) -> nn.Module:
    """All angles 0: cos is 1, and sin 0."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq.zero_()
    return other


TABLES = {
    "gpt2": ["transformer.wpe.weight"],
    "bert": ["embeddings.position_embeddings.weight"],
    "bart": ["model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"],
    "vit": ["embeddings.position_embeddings"],
    "t5": [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight" for side in ("encoder", "decoder")],
}


@pytest.mark.parametrize("family", TABLES)
def test_without_a_table_is_a_table_of_zeros(family: str) -> None:
    model, inputs = make(family)
    plain = out(model, inputs)
    with positions(model):
        found = out(model, inputs)
    close(found, out(without_table(model, *TABLES[family]), inputs))
    assert float((found - plain).abs().max()) > 1e-3 * float(plain.abs().max())
    assert torch.equal(out(model, inputs), plain)


@pytest.mark.parametrize(
    ("family", "made"), [("llama", "sdpa"), ("llama", "eager"), ("mistral", "sdpa"), ("gemma2", "eager")]
)
def test_without_rotation_is_one_by_no_angle(family: str, made: str) -> None:
    model, inputs = make(family)
    model.set_attn_implementation(made)  # type: ignore[operator]
    with positions(model):
        found = out(model, inputs)
    close(found, out(without_rotation(model), inputs))


def test_gpt_oss_keeps_its_sinks() -> None:
    """Rotated by YaRN, which also scales: angle 0 leaves that factor."""
    model, inputs = make("gpt_oss")
    with positions(model):
        found = out(model, inputs)
    close(found, out(without_rotation(model), inputs))


def test_without_alibi(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.bloom import modeling_bloom

    model, inputs = make("bloom")
    plain = out(model, inputs)
    with positions(model):
        found = out(model, inputs)
    assert not torch.allclose(found, plain)
    zeros = modeling_bloom._get_alibi_slopes(4, torch.device("cpu")) * 0
    monkeypatch.setattr(modeling_bloom, "_get_alibi_slopes", lambda *_: zeros)
    close(found, out(model, inputs))
    with pytest.raises(ValueError, match="how='off'"), positions(model, "shuffled"):
        out(model, inputs)


@pytest.mark.parametrize("how", ["shuffled", "reversed"])
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "mistral"])
def test_exchanged_positions_are_those_that_a_model_can_be_given(family: str, how: Any) -> None:
    """transformers takes position_ids; a mask of its own keeps it from taking them for packed texts."""
    model, inputs = make(family)
    order = SHUFFLED if how == "shuffled" else REVERSED
    more = {"position_ids": order[None]}
    if family != "bert":
        allowed = torch.ones(N, N, dtype=torch.bool).tril()
        if family == "mistral":
            allowed = allowed.triu(-5)
        more["attention_mask"] = allowed[None, None]
    with positions(model, how):
        found = out(model, inputs)
    close(found, out(model, {**inputs, **more}))


# ── second oracle: what a model without positions cannot tell ─────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["bert", "t5", "vit"])
def test_an_encoder_without_positions_reads_a_bag_of_tokens(family: str) -> None:
    """Tokens in another order give the same vectors in that order. With positions they do not."""
    model, inputs = make(family)
    if family == "vit":
        image = inputs["pixel_values"]
        patches = image.unfold(2, 8, 8).unfold(3, 8, 8).reshape(1, 3, 12, 8, 8)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
        moved = patches[:, :, order].view(1, 3, 3, 4, 8, 8).permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 24, 32)
        others, order = {"pixel_values": moved}, torch.cat([torch.tensor([0]), order + 1])
    else:
        if family == "t5":
            model = model.encoder
        order = SHUFFLED
        inputs = {"input_ids": inputs["input_ids"]}
        others = {"input_ids": inputs["input_ids"][:, order]}
    assert float((out(model, others) - out(model, inputs)[:, order]).abs().max()) > 1e-2
    with positions(model):
        close(out(model, others), out(model, inputs)[:, order])


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_one_layer_without_positions_reads_a_bag_of_what_came_before(family: str) -> None:
    """The last token sees all, in any order; further layers would know the order by the causal mask."""
    model, inputs = make(family)
    stack = model.model.layers if family == "llama" else model.transformer.h
    del stack[1]
    ids = inputs["input_ids"]
    moved = torch.cat([ids[:, SHUFFLED[SHUFFLED < N - 1]], ids[:, -1:]], 1)
    assert float((out(model, {"input_ids": moved}) - out(model, inputs))[:, -1].abs().max()) > 1e-2
    with positions(model):
        close(out(model, {"input_ids": moved})[:, -1], out(model, inputs)[:, -1])


def test_an_encoder_read_backwards_with_positions_reversed_is_itself() -> None:
    for family in ("bert", "t5"):
        model, inputs = make(family)
        model = model.encoder if family == "t5" else model
        ids = inputs["input_ids"]
        with positions(model, "reversed"):
            found = out(model, {"input_ids": ids.flip(1)})
        close(found, out(model, {"input_ids": ids}).flip(1))


def test_under_a_causal_mask_a_bias_goes_by_the_distance() -> None:
    """T5's decoder, one layer: weights against softmax(q · k + b(|π(i) − π(j)|)) with b read off its first column."""
    model, inputs = make("t5")
    plain = capture(model, inputs, keep_values=True)
    with positions(model, "shuffled"):
        found = capture(model, inputs)
    assert found.check.ok
    layer = plain.part("decoder").layers[0]
    assert layer.q is not None and layer.k is not None and layer.bias is not None
    size = layer.shape[2]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    by_distance = layer.bias.block(0, torch.tensor([size - 1]), size, 1)[0].flip(0)
    s = layer.q[0, 1] @ layer.k[0, 1].mT * layer.scale + by_distance[(order[:, None] - order).abs()]
    wanted = s.masked_fill(torch.ones(size, size).triu(1).bool(), -math.inf).softmax(-1)
    torch.testing.assert_close(found["decoder", 0, 1].weights(), wanted, atol=1e-6, rtol=0)


# ── what is seen of it ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_capture_shows_queries_and_keys_as_they_were_used() -> None:
    model, inputs = make("llama")
    plain = capture(model, inputs)
    with positions(model):
        inside = capture(model, inputs)
    assert inside.check.ok and inside.check.max_error < 1e-5
    assert any("positions were taken away" in note for note in inside.notes)
    layer, own = inside.part().layers[0], plain.part().layers[0]
    assert layer.q is not None and own.q is not None and own.rotary is not None
    torch.testing.assert_close(layer.q[0], own.rotary[0].undone(own.q[0]))


def test_the_dog_and_the_man() -> None:
    """Without positions the planted previous-token head has nothing to go by; what bit whom is another text's map."""
    model, tokenizer = tiny.decoder()
    text = "The dog bit the man."
    with positions(model):
        without = capture(model, text, tokenizer)
    with_ = capture(model, text, tokenizer)
    p, q = (one[2, 0].weights().diagonal(-1).mean() for one in (with_, without))
    assert float(p) > 0.75 and float(q) < 0.3
    assert compare(with_, without).ranking(1)[0][:2] == tiny.DECODER_HEADS["previous token"]
    told = effect(model, text, tokenizer, by=positions(model, "reversed"))
    assert told.delta != 0 and told.kl is not None and told.kl > 0
    assert told.attention.check.ok


# ── what is left behind, and what cannot be ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("family", ["vit", "bert", "bloom", "llama"])
def test_the_model_is_left_as_it_was(family: str, error: type[BaseException] | None) -> None:
    model, inputs = make(family)
    plain, rng = out(model, inputs), torch.get_rng_state()

    def state() -> Any:
        held = [(id(one), one.data_ptr(), one._version, one.requires_grad, one.grad) for one in model.parameters()]
        return held, [(len(one._forward_hooks), len(one._forward_pre_hooks)) for one in model.modules()]

    before = state()
    last = [one for name, one in model.named_modules() if isinstance(one, nn.LayerNorm) or "norm" in name][-1]

    def fail(*_: Any) -> None:
        if error is not None:
            raise error("now")

    handle = last.register_forward_pre_hook(fail)
    if error is None:
        with positions(model, "off"):
            out(model, inputs)
    else:
        with pytest.raises(error, match="now"), positions(model, "off"):
            out(model, inputs)
    handle.remove()
    assert state() == before and torch.equal(torch.get_rng_state(), rng)
    assert torch.equal(out(model, inputs), plain)


def test_gradients_go_through() -> None:
    """Those of a copy that rotates by no angle."""
    model, inputs = make("llama")
    other = without_rotation(model)
    with positions(model):
        model(**inputs).logits.square().mean().backward()
    other(**inputs).logits.square().mean().backward()
    for one, wanted in zip(model.parameters(), other.parameters(), strict=True):
        assert one.grad is not None and wanted.grad is not None
        close(one.grad, wanted.grad, 2e-5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("family", "how"), [("llama", "off"), ("llama", "reversed"), ("bloom", "off"), ("gpt2", "reversed")]
)
def test_checkpointing_runs_again_without_positions(family: str, how: Any, reentrant: bool) -> None:
    """Gradients are those of the same run without checkpoints, to the last bit."""
    found = []
    for checkpoints in (False, True):
        model, inputs = make(family)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        model.train()
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
        with positions(model, how):
            model(**inputs, use_cache=False).logits.square().mean().backward()
        found.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
    assert torch.equal(*found)
    with positions(model, how):
        output = model(**inputs, use_cache=False).logits.square().mean()
    with pytest.raises(RuntimeError, match="inside the with block"):
        output.backward()


def test_a_table_of_the_model_s_own_that_is_read_again_is_refused() -> None:
    class Tabled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pos_embed = nn.Parameter(torch.randn(1, 6, 16))
            self.attention = Bare()

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x + self.pos_embed)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tabled()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    model, x = Whole().eval(), torch.randn(1, 6, 16)
    with positions(model), pytest.raises(ValueError, match=r"runs inner again.*turn checkpointing off"):
        model(x).sum().backward()


@pytest.mark.parametrize(
    ("family", "inside"),
    [("bert", "embeddings.LayerNorm"), ("bloom", "transformer.h.0.input_layernorm"), ("llama", "model.layers.0")],
)
def test_another_thread_keeps_its_positions(family: str, inside: str) -> None:
    model, inputs = make(family)
    wanted, found = out(model, inputs), []
    during = threading.Event(), threading.Event()

    def other() -> None:
        during[0].wait(20)
        found.append(out(model, inputs))
        during[1].set()

    def pause(*_: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            during[0].set()
            assert during[1].wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    handle = model.get_submodule(inside).register_forward_pre_hook(pause)
    with positions(model):
        without = out(model, inputs)
        assert found, "it ran meanwhile"
    handle.remove()
    thread.join()
    assert torch.equal(found[0], wanted) and not torch.allclose(without, wanted)


def test_a_model_of_another_kind_is_refused_in_words() -> None:
    model = Handmade().eval()
    x = torch.randn(1, 5, 16)
    with pytest.raises(ValueError, match="No positions were found"), positions(model):
        model(x)
    with pytest.raises(ValueError, match="how is 'on'; it may be 'off', 'shuffled', 'reversed'"):
        positions(model, "on")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        positions("gpt2")  # type: ignore[arg-type]


def test_padding_and_caches_stand_where_they_are() -> None:
    model, tokenizer = tiny.decoder()
    batch = tokenizer(["The dog bit the man.", "The man"], return_tensors="pt", padding=True)
    with pytest.raises(ValueError, match="padding"), positions(model, "shuffled"):
        model(**batch)
    with positions(model):
        together = model(**batch).logits
        alone = model(**tokenizer("The dog bit the man.", return_tensors="pt")).logits
    close(together[0].detach(), alone[0].detach())
    ids = tokenizer("The dog bit the man.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        held = model(ids[:, :-1], use_cache=True).past_key_values
        for how in ("off", "reversed"):
            with pytest.raises(ValueError, match="out of a cache"), positions(model, how):  # type: ignore[arg-type]
                model(ids[:, -1:], past_key_values=copy.deepcopy(held))
