"""Models that are large: spread over devices and disk, quantised, in half precision; and keeping less of them."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from attnwidget.attention import Attention
from attnwidget.capture import NoAttentionError, capture, record
from attnwidget.shown import in_words
from models import make
from test_capture import eager_weights, fingerprint, interface_methods, largest_difference, same

# Not `from attnwidget import capture`, which is the function.
MODULE = importlib.import_module("attnwidget.capture")


def equal(one: Attention, other: Attention) -> bool:
    """Whether all maps of the first part are equal, bit by bit."""
    heads = range(one.part().heads)
    return all(
        torch.equal(one[layer, head].weights(), other[layer, head].weights())
        for layer in range(len(one.part().layers))
        for head in heads
    )


# ── where the model is ──

PLACES = {
    "llama": {
        "model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
        "model.rotary_emb": "cpu", "lm_head": "disk",
    },
    "gpt2": {
        "transformer.wte": "cpu", "transformer.wpe": "disk", "transformer.h.0": "disk", "transformer.h.1": "cpu",
        "transformer.ln_f": "cpu", "lm_head": "cpu",
    },
}  # fmt: skip


@pytest.mark.parametrize("family", PLACES)
def test_a_model_that_accelerate_spreads_over_memory_and_disk(family: str, tmp_path: Path) -> None:
    """Oracle: the same model in one place."""
    from accelerate import dispatch_model

    model, inputs = make(family)
    expected = capture(model, inputs)
    spread = dispatch_model(copy.deepcopy(model), PLACES[family], main_device="cpu", offload_dir=str(tmp_path))
    assert "meta" in {p.device.type for p in spread.parameters()}, "nothing is on disk"
    with torch.no_grad():
        before = spread(**inputs).logits
    forwards = [one.__dict__.get("forward") for one in spread.modules()]
    attention = capture(spread, inputs)
    assert equal(attention, expected)
    assert attention.check is not None and attention.check.ok and attention.check.rows > 0
    assert [one.__dict__.get("forward") for one in spread.modules()] == forwards, "accelerate's own hooks are gone"
    assert "meta" in {p.device.type for p in spread.parameters()}, "what was offloaded has come back to stay"
    with torch.no_grad():
        assert torch.equal(spread(**inputs).logits, before)


@pytest.mark.parametrize("family", PLACES)
def test_a_model_whose_weights_wait_in_host_memory(family: str) -> None:
    from accelerate import cpu_offload

    model, inputs = make(family)
    expected = capture(model, inputs)
    offloaded = cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert {p.device.type for p in offloaded.parameters()} == {"meta"}
    attention = capture(offloaded, inputs)
    assert equal(attention, expected)
    assert attention.check is not None and attention.check.ok


def test_a_model_loaded_with_a_device_map(tmp_path: Path) -> None:
    """As users do it: from_pretrained(…, device_map=…) with a folder for what does not fit."""
    model, inputs = make("llama")
    expected = capture(model, inputs)
    model.save_pretrained(tmp_path / "model")
    loaded = type(model).from_pretrained(
        tmp_path / "model", device_map=PLACES["llama"], offload_folder=tmp_path / "offload"
    )
    assert loaded.hf_device_map["model.layers.1"] == "disk"
    assert equal(capture(loaded.eval(), inputs), expected)


@pytest.mark.filterwarnings("ignore")  # torch announces that this will move to a package of its own
def test_a_quantised_model_is_captured_as_it_computes() -> None:
    """Oracle: the check, which compares with the quantised model's own output; and its own queries, heard by a hook."""
    model, inputs = make("llama")
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    projection = quantised.model.layers[1].self_attn.q_proj
    assert not isinstance(projection, nn.Linear), "nothing was quantised"
    with torch.no_grad():
        before = quantised(**inputs).logits
    attention = capture(quantised, inputs)
    assert attention.check is not None and attention.check.ok and attention.check.rows > 0
    q = attention.part().layers[1].q
    assert q is not None and q.dtype == torch.float32
    heard: list[torch.Tensor] = []
    with projection.register_forward_hook(lambda *args: heard.append(args[2])), torch.no_grad():
        assert torch.equal(quantised(**inputs).logits, before)
    # Position 0 is not rotated.
    assert torch.equal(q[0, :, 0], heard[0][0, 0].view(4, 8))
    exact = capture(model, inputs)
    assert float((attention[1, 2].weights() - exact[1, 2].weights()).abs().max()) > 1e-4, "it computes with 8 bits"


# ── in which precision ──


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 6e-2), (torch.float16, 6e-3)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_models_in_half_precision(family: str, dtype: torch.dtype, near: float) -> None:
    """Oracle: eager attention in that precision, whose scores are rounded to it."""
    model, inputs = make(family)
    model = model.to(dtype)
    model.set_attn_implementation("eager")
    oracle = {part: tuple(map(torch.Tensor.float, maps)) for part, maps in eager_half(model, inputs).items()}
    attention = capture(model, inputs)
    assert largest_difference(attention, oracle) <= near
    assert attention.check is not None and attention.check.ok
    assert attention.check.stored == str(dtype).removeprefix("torch.")
    assert attention.check.effect == 0.0, "nothing was rounded that the model had not rounded"
    for layer in attention.part().layers:
        assert layer.q is not None and layer.k is not None
        assert layer.q.dtype == layer.k.dtype == dtype


def eager_half(model: nn.Module, inputs: dict[str, Any]) -> dict[str, tuple[torch.Tensor, ...]]:
    with torch.no_grad():
        return {"": model(**inputs, output_attentions=True).attentions}


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 4e-3), (torch.bfloat16, 4e-2)])
def test_a_chosen_precision_states_its_effect(dtype: torch.dtype, most: float) -> None:
    """Oracle: the difference of whole maps, of which a few rows are looked at."""
    model, inputs = make("llama")
    exact = capture(model, inputs)
    attention = capture(model, inputs, dtype=dtype)
    assert attention.nbytes * 2 == exact.nbytes
    difference = max(
        float((attention[layer, head].weights() - exact[layer, head].weights()).abs().max())
        for layer in range(2)
        for head in range(4)
    )
    check = attention.check
    assert check is not None and check.ok
    assert difference / 20 < check.effect <= difference <= most
    name = str(dtype).removeprefix("torch.")
    assert check.stored == name
    assert f"Kept in {name}, which moves their weights by at most {check.effect:.1e}." in check.text
    assert exact.check is not None and exact.check.effect == 0.0 and "Kept in" not in exact.check.text


def test_half_precision_moves_ordinary_weights_by_less_than_three_in_ten_thousand() -> None:
    """With scores as large as in trained models (their spread is about one), not sharpened as in the test above."""
    import transformers as t

    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            for one in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                one.weight.normal_(0.0, 0.12)
    ids = torch.randint(100, (1, 64), generator=torch.Generator().manual_seed(1))
    exact = capture(model, {"input_ids": ids})
    layer = exact.part().layers[0]
    scores = layer.logits(0, None, torch.tensor([63]))
    assert 0.5 < float(scores.std()) < 2, "scores of another size prove nothing"
    check = capture(model, {"input_ids": ids}, dtype=torch.float16).check
    assert check is not None
    assert 0 < check.effect < 3e-4


def test_whole_numbers_are_no_precision() -> None:
    model, _ = make("llama")
    with pytest.raises(ValueError, match=r"dtype is torch\.int8; Q and K can be kept in torch"):
        record(model, dtype=torch.int8)


# ── keeping less ──


def test_some_layers_keep_the_numbers_of_the_model() -> None:
    model, inputs = make("llama")
    whole = capture(model, inputs)
    for chosen in ([1], [-1]):
        attention = capture(model, inputs, layers=chosen)
        assert attention.nbytes * 2 == whole.nbytes
        assert [one.absent for one in attention.part().layers] == ["not kept", None]
        assert torch.equal(attention[1, 3].weights(), whole[1, 3].weights())
        with pytest.raises(IndexError, match=r"Layer 0 of decoder has no map \(not kept\)\. These have: 1\."):
            attention[0, 3]
        assert torch.equal(attention[None, 3].weights(), whole[1, 3].weights()), "a mean over what is there"
        assert attention.check is not None and attention.check.ok


def test_some_parts() -> None:
    model, inputs = make("t5")
    whole = capture(model, inputs)
    attention = capture(model, inputs, parts=["cross"])
    assert attention.parts == ("cross",)
    assert torch.equal(attention["cross", 1, 2].weights(), whole["cross", 1, 2].weights())
    both = capture(model, inputs, parts={"encoder", "decoder"})
    assert both.parts == ("encoder", "decoder")
    assert capture(model, inputs, parts=["decoder"], layers=[0])["decoder", 0, 1].shape == (11, 11)


def test_layers_and_parts_that_are_not_there_are_refused_in_words() -> None:
    model, inputs = make("llama")
    before, ran = fingerprint(model), []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    for layers, words in (([2], "There is no layer 2"), ([-3], "There is no layer -3"), ([], "layers is empty")):
        with pytest.raises(ValueError, match=re.escape(words) + r".*goes from 0 to 1"):
            capture(model, inputs, layers=layers)
    for parts in (["decoders"], []):
        with pytest.raises(ValueError, match=r"parts is .*; it may hold 'decoder', 'encoder', 'cross'"):
            capture(model, inputs, parts=parts)
    assert not ran, "this could be said before the model ran"
    with pytest.raises(ValueError, match=r"no attention in parts=\['cross'\]\. What ran has part 'decoder'"):
        capture(model, inputs, parts=["cross"])
    model._forward_pre_hooks.clear()
    assert same(before, fingerprint(model))


def test_values_are_kept_when_asked_for() -> None:
    """Oracle: what the projection gives out, heard by a hook."""
    model, inputs = make("llama")
    assert all(layer.v is None for layer in capture(model, inputs).part().layers)
    heard: list[torch.Tensor] = []
    with model.model.layers[1].self_attn.v_proj.register_forward_hook(lambda *args: heard.append(args[2])):
        attention = capture(model, inputs, keep_values=True)
    v = attention.part().layers[1].v
    assert v is not None
    assert torch.equal(v[0], heard[0][0].view(23, 2, 8).transpose(0, 1))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_what_is_kept_is_a_copy_in_host_memory_and_no_larger_than_it_looks(family: str) -> None:
    """GPT-2 computes q, k and v as one tensor: a view of it would keep three times as much."""
    model, inputs = make(family)
    attention = capture(model, inputs)
    for name in attention.parts:
        for layer in attention.part(name).layers:
            for kept in (layer.q, layer.k):
                assert kept is not None
                assert kept.device.type == "cpu" and not kept.requires_grad
                assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()


# ── memory is stated, and refused, before it is taken ──


@pytest.mark.parametrize("options", [{}, {"layers": [-1]}, {"dtype": torch.float16}, {"keep_values": True}])
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_first_call_already_says_how_much_will_be_kept(family: str, options: dict[str, Any]) -> None:
    """Oracle: what was kept in the end. T5 has three parts, each of which is told when its first call comes."""
    model, inputs = make(family)
    stated: list[int] = []
    recorder = record(model, **options)
    recorder.on_call = lambda: stated.append(recorder.planned)
    with recorder, torch.no_grad():
        model(**inputs)
    attention = recorder.attention
    parts = [attention.part(name) for name in attention.parts]
    held = [sum(t.nbytes for one in part.layers for t in (one.q, one.k, one.v) if t is not None) for part in parts]
    assert stated[0] == held[0]
    assert stated[-1] == sum(held)


def test_too_much_is_refused_before_any_of_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make("llama")
    held = capture(model, inputs).nbytes
    before, lookups = fingerprint(model), interface_methods()
    ran: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    monkeypatch.setattr(MODULE, "_free_memory", lambda: held - 1)
    stated, free = in_words(held), in_words(held - 1)
    words = rf"attention takes {stated} more \(2 layers .*\), and {free} are free.*layers=.*parts=.*float16.*shorten"
    with pytest.raises(MemoryError, match=words):
        capture(model, inputs)
    assert not ran, "the first layer ran to its end"
    model.model.layers[0]._forward_hooks.clear()
    assert same(before, fingerprint(model))
    assert interface_methods() == lookups
    # What it says to do helps.
    assert capture(model, inputs, layers=[0]).nbytes == held / 2
    assert capture(model, inputs, dtype=torch.float16).nbytes == held / 2


def test_free_memory_is_that_of_the_machine_or_less() -> None:
    import psutil

    assert 0 < MODULE._free_memory() <= psutil.virtual_memory().total


# ── a GPU ──


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: page-locked memory is for copies from it"
)
@pytest.mark.parametrize("pinned", [False, True])
def test_on_a_gpu_queries_and_keys_come_to_host_memory(pinned: bool) -> None:
    model, inputs = make("llama")
    oracle = eager_weights(model, inputs)
    attention = capture(model.cuda(), inputs, pin_memory=pinned)
    for layer in attention.part().layers:
        assert layer.q is not None and layer.q.device.type == "cpu"
        assert layer.q.is_pinned() == pinned
    assert largest_difference(attention, oracle) <= 1e-4
    assert attention.check is not None and attention.check.ok


def test_a_model_that_keeps_nothing_says_what_was_looked_for() -> None:
    """`pin_memory` without a GPU changes nothing, and a model without attention is refused as ever."""
    model, inputs = make("llama")
    assert equal(capture(model, inputs, pin_memory=True), capture(model, inputs))
    with pytest.raises(NoAttentionError, match="Looked for"):
        capture(nn.Linear(4, 4), torch.randn(1, 4), pin_memory=True)
