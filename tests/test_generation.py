"""What is replayed is what the model did while it wrote; and whatever happens, it is left as it was."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from attnwidget import tiny
from attnwidget.attention import Attention
from attnwidget.generation import capture_generation
from models import VOCABULARY, make

generation = importlib.import_module("attnwidget.generation")
STEPS = 9
# Random weights may end a text at any token: these nine are written whatever comes.
NINE: dict[str, Any] = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "pad_token_id": 0, "progress": False}
START = {"t5": {"decoder_start_token_id": 0}}
FAMILIES = ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "t5", "bart"]
MODES = ["dynamic", "padded", "static", "beams"]


def prompt_of(inputs: dict[str, Any], *, decodes: bool = False, padded: bool = False) -> dict[str, Any]:
    """Eleven tokens; or two texts, of which the second has seven and padding where its model wants it."""
    ids = inputs["input_ids"][:, :11]
    if not padded:
        return {"input_ids": ids}
    ids = torch.cat([ids, ids.flip(1)])
    mask = torch.ones_like(ids)
    mask[1, slice(7, None) if decodes else slice(4)] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def eager(model: Any) -> Any:
    """A second model with the same weights that returns its own weights."""
    twin = type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager")
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def stepwise(model: Any, prompt: dict[str, Any], **options: Any) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]]]:
    """The oracle: the sequences, and per part and layer the rows [row, head, query, key] that each step computed.

    Rows nobody computed are NaN: that of the last token, which was never read. Keys that a sliding cache had dropped by
    then, and those that were yet to come, are 0.
    """
    options.pop("progress")
    kept = {"output_attentions": True, "output_scores": True, "return_dict_in_generate": True}
    out = eager(model).generate(**prompt, **options, **kept)
    sequences = out.sequences
    rows, size = sequences.shape
    decodes = model.config.is_encoder_decoder
    found = (
        {"decoder": out.decoder_attentions, "cross": out.cross_attentions} if decodes else {"decoder": out.attentions}
    )
    beams = getattr(out, "beam_indices", None)
    maps: dict[str, list[torch.Tensor]] = {}
    for part, steps in found.items():
        maps[part] = []
        for layer, first in enumerate(steps[0]):
            whole = torch.full(
                (rows, first.shape[1], size, size if part == "decoder" else first.shape[-1]), float("nan")
            )
            for step, each in enumerate(steps):
                weights = each[layer] if beams is None else each[layer][beams[:, step]]
                queries, keys = weights.shape[2:]
                end = size - len(steps) + step  # the tokens that were there when this step was computed
                if part == "decoder":
                    # A static cache has room for more than there is; a sliding one holds the latest only.
                    begin, room = max(0, end - keys), min(keys, size)
                    whole[:, :, end - queries : end] = 0
                    whole[:, :, end - queries : end, begin : begin + room] = weights[..., :room]
                else:
                    whole[:, :, end - queries : end] = weights
            maps[part].append(whole)
    return sequences, maps


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_replay_equals_what_every_step_computed(family: str, mode: str) -> None:
    if family == "gpt_oss" and not hasattr(transformers, "GptOssForCausalLM"):
        pytest.skip("this transformers has no such model")
    if (family, mode) == ("gemma2", "static") and transformers.__version__ < "4.50":
        pytest.skip("its own eager attention fails there")
    model, inputs = make(family)
    if family == "gemma2":
        model = eager(model)  # before transformers 4.50 its sdpa has no soft cap: another model
    decodes = model.config.is_encoder_decoder
    options = NINE | START.get(family, {})
    options |= {"cache_implementation": "static"} if mode == "static" else {}
    options |= {"num_beams": 3, "num_return_sequences": 2} if mode == "beams" else {}
    prompt = prompt_of(inputs, decodes=decodes, padded=mode == "padded")
    sequences, maps = stepwise(model, prompt, **options)
    attention = capture_generation(model, prompt, **options)
    assert attention.samples == len(sequences)
    assert attention.notes == ()
    peaks, size = [], sequences.shape[1]
    for row, ids in enumerate(sequences.tolist()):
        sample = attention.select(row)
        queries = sample.part("decoder").queries
        assert list(queries.ids or ()) == ids
        assert queries.generated == (False,) * (size - STEPS) + (True,) * STEPS
        # The rows of padding in front are nobody's attention.
        begin = 4 if mode == "padded" and not decodes and row == 1 else 0
        for part, layers in maps.items():
            for layer, whole in enumerate(layers):
                ours = torch.stack([sample[part, layer, head].weights() for head in range(whole.shape[1])])
                theirs = whole[row, :, begin:-1]
                peaks.append(float(theirs.max(-1).values.mean()))
                assert float((ours[:, begin:-1] - theirs).abs().max()) <= 1e-5
    assert len(peaks) == len(sequences) * 2 * len(maps)
    assert sum(peaks) / len(peaks) > 0.3, "the oracle is nearly uniform: such a comparison would prove nothing"


def test_the_logits_of_the_replay_are_compared_with_those_of_the_generation() -> None:
    model, inputs = make("llama")
    attention = capture_generation(model, prompt_of(inputs), **NINE)
    assert attention.check is not None
    assert attention.check.ok
    assert "One full pass gives the logits of the generation to" in attention.check.text
    # Beams change places from step to step.
    beams = capture_generation(model, prompt_of(inputs), num_beams=2, **NINE)
    assert beams.check is not None
    assert "One full pass" not in beams.check.text


def test_a_model_that_decodes_otherwise_than_it_reads_is_told_of() -> None:
    """The fault is put in: single steps of the fifth token are off by a tenth."""
    model, inputs = make("llama")

    def off(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        if kwargs["input_ids"].shape[1] == 1 and kwargs["past_key_values"].get_seq_length() == 11 + 4:
            out.logits = out.logits + 0.1 * out.logits.abs().max()
        return out

    hook = model.register_forward_hook(off, with_kwargs=True)
    notes = capture_generation(model, prompt_of(inputs), **NINE).notes
    assert len(notes) == 1
    assert "Cached decoding differs from one full pass by" in notes[0]
    assert "most at generated token 5." in notes[0]
    hook.remove()
    assert capture_generation(model, prompt_of(inputs), **NINE).notes == ()


def test_neither_many_logits_nor_a_cache_for_nobody_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make("llama")
    asked: list[Any] = []
    whole = model.generate
    model.register_forward_pre_hook(lambda _, args, given: asked.append(given["use_cache"]), with_kwargs=True)
    monkeypatch.setattr(generation, "_LOGITS", STEPS * VOCABULARY * 4 - 1)
    monkeypatch.setattr(model, "generate", lambda **o: asked.append(o["output_logits"]) or whole(**o), raising=False)
    attention = capture_generation(model, prompt_of(inputs), **NINE)
    # Steps use their cache; the replay, which has none to use, does not make one.
    assert asked == [False, *[True] * STEPS, False]
    assert attention.check is not None
    assert "One full pass" not in attention.check.text


# ── what was written ──


def test_token_types_that_the_model_does_not_take_are_left_out() -> None:
    """Tokenizers of older transformers make them for every model."""
    model, inputs = make("llama")
    prompt = prompt_of(inputs)
    with_types = capture_generation(model, prompt | {"token_type_ids": torch.zeros(1, 11, dtype=torch.long)}, **NINE)
    assert with_types.part().queries == capture_generation(model, prompt, **NINE).part().queries


def test_what_stands_behind_the_end_of_a_text_is_padding_and_not_written() -> None:
    model, inputs = make("gpt2")
    prompt = prompt_of(inputs, padded=True)
    free = model.generate(**prompt, max_new_tokens=STEPS, min_new_tokens=STEPS, pad_token_id=0, do_sample=False)
    other = set(free[1, 11:].tolist())
    end, at = next((token, at) for at, token in enumerate(free[0, 11:].tolist()) if token not in other)
    attention = capture_generation(
        model, prompt, max_new_tokens=STEPS, eos_token_id=end, pad_token_id=0, do_sample=False, progress=False
    )
    ended, other_text = (attention.select(row).part().queries for row in (0, 1))
    assert ended.generated == (False,) * 11 + (True,) * (at + 1) + (False,) * (STEPS - at - 1)
    assert ended.steps == at + 1 < other_text.steps == STEPS
    assert not attention[0, 0].allowed(torch.tensor([19]))[0, 11 + at + 1 :].any()
    assert attention.notes == ()


def test_a_text_that_another_rule_ended_has_padding_behind_it_too() -> None:
    """The rule: the first text is done after three tokens. 7 beyond the vocabulary is an end that never comes."""
    model, inputs = make("llama")
    done = lambda ids, scores, **_: torch.tensor([ids.shape[1] >= 14, False])  # noqa: E731
    attention = capture_generation(
        model, prompt_of(inputs, padded=True), stopping_criteria=[done], max_new_tokens=STEPS,
        eos_token_id=VOCABULARY + 7, pad_token_id=0, progress=False,
    )  # fmt: skip
    assert [attention.select(row).part().queries.steps for row in (0, 1)] == [3, STEPS]
    assert attention.part().queries.ids[14:] == (0,) * (STEPS - 3)


def test_a_generate_that_returns_only_what_is_new_is_put_behind_its_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make("llama")
    expected, whole = capture_generation(model, prompt_of(inputs), **NINE), model.generate
    monkeypatch.setattr(model, "generate", lambda **options: whole(**options)["sequences"][:, 11:])
    attention = capture_generation(model, prompt_of(inputs), **NINE)
    assert attention.part().queries == expected.part().queries
    assert torch.equal(attention[1, 2].weights(), expected[1, 2].weights())


def test_the_padding_is_the_same_for_both_where_nobody_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def pad(model: Any, tokenizer: Any = None, prompt: Any = "The") -> Any:
        whole = model.generate
        monkeypatch.setattr(model, "generate", lambda **options: asked.append(options) or whole(**options))
        capture_generation(model, prompt, tokenizer, max_new_tokens=1, progress=False)
        return asked.pop()["pad_token_id"]

    model, tokenizer = tiny.decoder()
    model.generation_config.pad_token_id = None
    assert pad(model, tokenizer) == tokenizer.pad_token_id
    other, inputs = make("llama")
    other.generation_config.pad_token_id, other.generation_config.eos_token_id = None, [7, 8]
    assert pad(other, prompt=prompt_of(inputs)) == 7


def test_a_sampled_text_is_the_one_that_generate_writes_from_that_seed() -> None:
    model, inputs = make("llama")
    options = {
        "do_sample": True,
        "num_return_sequences": 3,
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "pad_token_id": 0,
    }
    prompt = prompt_of(inputs, padded=True)
    torch.manual_seed(5)
    expected, after = model.generate(**prompt, **options), torch.rand(1)
    torch.manual_seed(5)
    told: list[Attention] = []
    attention = capture_generation(model, prompt, on_step=told.append, progress=False, **options)
    assert torch.equal(torch.rand(1), after)
    assert attention.samples == 6
    assert len({tuple(row.tolist()) for row in expected}) == 6
    assert [list(attention.select(row).part().queries.ids or ()) for row in range(6)] == expected.tolist()
    assert attention.notes == ()
    assert len(told) >= 2


def test_an_encoder_decoder_marks_what_the_decoder_wrote_and_nothing_else() -> None:
    """Both axes are ten long here."""
    model, inputs = make("bart")
    attention = capture_generation(model, {"input_ids": inputs["input_ids"][:, : STEPS + 1]}, **NINE)
    assert attention.parts == ("encoder", "decoder", "cross")
    cross = attention.part("cross")
    assert cross.queries.generated == (False,) + (True,) * STEPS
    assert attention.part("encoder").queries.generated == ()
    assert cross.keys.generated == ()


def test_texts_are_padded_in_front_and_the_tokenizer_keeps_its_side() -> None:
    model, tokenizer = tiny.decoder()
    tokenizer.padding_side = "right"
    attention = capture_generation(model, ["The cat saw the dog.", "The"], tokenizer, max_new_tokens=2, progress=False)
    assert tokenizer.padding_side == "right"
    assert [attention.select(row).part().queries.labels[:8] for row in (0, 1)] == [
        ("<s>", "The", "cat", "saw", "the", "dog", ".", attention.part().queries.labels[7]),
        ("</s>",) * 5 + ("<s>", "The", attention.select(1).part().queries.labels[7]),
    ]
    assert attention.select(1).part().queries.steps == 2
    assert not attention.select(1)[0, 0].allowed(torch.tensor([8]))[0, :5].any()
    with pytest.raises(ValueError, match="takes at most 512"):
        capture_generation(model, ["The cat", "dog " * 600], tokenizer)
    assert tokenizer.padding_side == "right"


def test_forty_tokens_are_written_where_nobody_says() -> None:
    model, inputs = make("llama")
    prompt = prompt_of(inputs) | {"attention_mask": torch.ones(1, 11, dtype=torch.long)}

    def steps(**options: Any) -> int:
        # 7 is not among the tokens: nothing ends the text.
        found = capture_generation(
            model, prompt, eos_token_id=VOCABULARY + 7, pad_token_id=0, progress=False, **options
        )
        return found.part().queries.steps

    assert steps() == 40
    assert steps(max_length=16) == 5
    assert steps(generation_config=transformers.GenerationConfig(max_new_tokens=3)) == 3
    model.generation_config.max_new_tokens = 4
    assert steps() == 4
    model.generation_config.max_new_tokens = None
    model.config.max_position_embeddings = 13
    assert steps() == 2


def test_options_of_the_capture_hold_for_the_replay() -> None:
    model, inputs = make("llama")
    attention = capture_generation(model, prompt_of(inputs), layers=[-1], dtype=torch.float16, keep_values=True, **NINE)
    gone, kept = attention.part().layers
    assert (gone.heads, kept.heads) == (0, 4)
    assert kept.q is not None and kept.q.dtype == torch.float16
    assert kept.v is not None


def multimodal() -> tuple[Any, dict[str, Any]]:
    """Llava: 2 × 2 patches of an image between the words."""
    t, size = (
        transformers,
        {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    )
    model = t.LlavaForConditionalGeneration(
        t.LlavaConfig(
            vision_config=t.CLIPVisionConfig(**size, image_size=16, patch_size=8),
            text_config=t.LlamaConfig(**size, num_key_value_heads=2, vocab_size=VOCABULARY),
            image_token_index=99,
        )
    )
    ids = torch.tensor([[1, 99, 99, 99, 99, 7, 8]])
    return model.eval(), {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16), "attention_mask": ids > 0}


def prefixed() -> tuple[Any, dict[str, Any]]:
    """PaliGemma: the prompt sees all of itself, what is written only what stands before it. Token types tell which."""
    t, size = (
        transformers,
        {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    )
    model = t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=t.SiglipVisionConfig(**size, image_size=16, patch_size=8),
            text_config=t.GemmaConfig(**size, num_key_value_heads=1, head_dim=8, vocab_size=VOCABULARY),
            image_token_index=99,
            projection_dim=32,
        )
    )
    ids = torch.tensor([[99, 99, 99, 99, 1, 7, 8]])
    more = {"token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    return model.eval(), {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16), **more}


def heard() -> tuple[Any, dict[str, Any]]:
    """Sound goes in."""
    t = transformers
    config = t.Speech2TextConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, input_feat_per_channel=8,
        max_source_positions=60, max_target_positions=30, conv_channels=16,
    )  # fmt: skip
    return t.Speech2TextForConditionalGeneration(config).eval(), {"input_features": torch.randn(1, 40, 8)}


def told() -> tuple[Any, dict[str, Any]]:
    """Whisper: four tokens say language and task; older versions do not return them with what was written."""
    t = transformers
    config = t.WhisperConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8, max_source_positions=20,
        max_target_positions=30, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = t.WhisperForConditionalGeneration(config).eval()
    settings = {"is_multilingual": True, "lang_to_id": {"<|en|>": 10}, "task_to_id": {"transcribe": 12}}
    settings |= {"no_timestamps_token_id": 14, "forced_decoder_ids": None, "language": "en", "task": "transcribe"}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model, {"input_features": torch.randn(2, 8, 40)}


def hybrid() -> tuple[Any, dict[str, Any]]:
    """Jamba: every other layer has a state instead of attention."""
    config = transformers.JambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_dt_rank=4,
        use_mamba_kernels=False,
    )  # fmt: skip
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    return transformers.JambaForCausalLM(config).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("made", [multimodal, prefixed, heard, told, hybrid])
def test_whatever_else_the_model_takes_is_given_to_the_replay_too(
    made: Callable[[], tuple[Any, dict[str, Any]]],
) -> None:
    """The oracle are the logits of the generation itself: without the image they are others."""
    if made is prefixed and transformers.__version__ < "5":
        pytest.skip("it reads a whole text as if all of it were the prompt, and a note says so")
    torch.manual_seed(0)
    model, prompt = made()
    attention = capture_generation(model, prompt, **NINE)
    assert attention.notes == ()
    assert attention.check is not None
    assert "One full pass gives the logits of the generation" in attention.check.text
    written = [attention.part(name).queries for name in attention.parts if attention.part(name).queries.generated]
    assert written
    assert all(axis.steps == STEPS for axis in written)


class Adapter(nn.Module):
    """As peft wraps a model: its forward names nothing of what the model inside takes."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base, self.config, self.generate = model, model.config, model.generate
        self._expand_inputs_for_generation = model._expand_inputs_for_generation
        self._update_model_kwargs_for_generation = model._update_model_kwargs_for_generation

    def get_base_model(self) -> Any:
        return self.base

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base(*args, **kwargs)


def test_a_model_in_an_adapter_gets_all_that_it_needs() -> None:
    """Without positions a padded GPT-2 is another model: its logits would differ."""
    model, inputs = make("gpt2")
    attention = capture_generation(Adapter(model), prompt_of(inputs, padded=True), **NINE)
    assert attention.notes == ()
    assert attention.check is not None
    assert "One full pass gives the logits" in attention.check.text


def test_lookups_in_the_prompt_write_several_tokens_in_one_step() -> None:
    model, inputs = make("llama")
    attention = capture_generation(model, inputs, prompt_lookup_num_tokens=3, **NINE)
    assert attention.part().queries.generated == (False,) * 23 + (True,) * STEPS
    assert attention.notes == ()


# ── while it writes ──


def test_each_step_tells_what_is_there_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_PAUSE", 0.0)
    monkeypatch.setattr(generation, "_SHARE", 1.0)
    model, inputs = make("gpt2")
    for beams in (1, 3):
        told: list[Attention] = []
        attention = capture_generation(model, prompt_of(inputs), on_step=told.append, num_beams=beams, **NINE)
        assert [one.part().queries.steps for one in told] == [*range(1, STEPS + 1), STEPS]
        assert [one.samples for one in told] == [1] * (STEPS + 1)
        assert told[-1] is attention
        if beams == 1:
            # What was there of the text then is still the same now.
            half = told[4]
            size = len(half.part().queries)
            assert half.part().queries.labels == attention.part().queries.labels[:size]
            difference = half[1, 2].weights() - attention[1, 2].weights()[:size, :size]
            assert float(difference.abs().max()) <= 1e-6


def test_showing_takes_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still during the generation, and moves by a second whenever something is shown."""
    model, inputs = make("gpt2")
    now = [0.0]
    monkeypatch.setattr(generation.time, "perf_counter", lambda: now[0])

    def slow(attention: Attention) -> None:
        told.append(attention.part().queries.steps)
        now[0] += 1.0

    told: list[int] = []
    capture_generation(model, prompt_of(inputs), on_step=slow, **NINE)
    assert told == [1, STEPS]
    # Forwards take a second each, replays too: showing the first token took two, a quarter of eight.
    told.clear()
    hook = model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1.0))
    capture_generation(model, prompt_of(inputs), on_step=slow, **NINE)
    hook.remove()
    assert told == [1, 6, STEPS]


def test_an_interrupt_keeps_what_is_there() -> None:
    model, inputs = make("llama")
    calls = []

    def stop(ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        calls.append(ids)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return torch.zeros(len(ids), dtype=torch.bool)

    told: list[Attention] = []
    attention = capture_generation(model, prompt_of(inputs), stopping_criteria=[stop], on_step=told.append, **NINE)
    assert attention.part().queries.steps == 4
    assert attention.notes == ("Interrupted: the model had written 4 tokens by then.",)
    assert told[-1] is attention
    # Before anything is written there is nothing to show.
    calls[:] = [None] * 4
    with pytest.raises(KeyboardInterrupt):
        capture_generation(model, prompt_of(inputs), stopping_criteria=[stop], **NINE)


# ── as before ──


def state(model: Any) -> Any:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    flags = [m.training for m in model.modules()]
    config = model.generation_config
    return hooks, flags, id(config), config.to_dict(), model.config.to_dict(), torch.is_grad_enabled()


@pytest.mark.parametrize("ending", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was_however_it_ends(ending: type[BaseException] | None) -> None:
    model, inputs = make("gpt2")  # has dropout: generated and replayed with it, its logits would differ
    model.train()
    model.transformer.h[1].eval()
    before, weights = state(model), copy.deepcopy(model.state_dict())
    settings = transformers.GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=0)
    stated = settings.to_dict()

    def on_step(attention: Attention) -> None:
        if ending is not None and attention.part().queries.steps == 1:
            raise ending("stop here")

    options: dict[str, Any] = {"on_step": on_step, "generation_config": settings, "progress": False}
    if ending is RuntimeError:
        with pytest.raises(RuntimeError, match="stop here"):
            capture_generation(model, prompt_of(inputs), **options)
    elif ending is KeyboardInterrupt:
        # The one at the end, which shows the first token again, is not caught.
        with pytest.raises(KeyboardInterrupt):
            capture_generation(model, prompt_of(inputs), **options)
    else:
        assert capture_generation(model, prompt_of(inputs), **options).notes == ()
    assert state(model) == before
    assert settings.to_dict() == stated
    assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


# ── refused in words ──


def test_what_cannot_generate_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Linear cannot generate.*AutoModelForCausalLM"):
        capture_generation(nn.Linear(2, 2), torch.ones(1, 2))
    bert, inputs = make("bert")
    with pytest.raises(TypeError, match="BertModel cannot generate"):
        capture_generation(bert, inputs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; there must be at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        (
            {"max_new_tokens": 505},
            r"prompt has 11 tokens, and max_new_tokens is 505: 516 together.*at most 512.*most 501",
        ),
        ({"max_length": 7}, "max_length is 7, and the prompt has 11 tokens already"),
        ({"layers": [9]}, "There is no layer 9"),
        ({"parts": ["ear"]}, "it may hold 'decoder'"),
        ({"lair": 3}, "lair"),  # transformers' own words
    ],
)
def test_bad_options_are_refused_before_anything_is_written(options: dict[str, Any], words: str) -> None:
    model, inputs = make("llama")
    model.config.max_position_embeddings = 512
    written: list[Attention] = []
    with pytest.raises(ValueError, match=words):
        capture_generation(model, prompt_of(inputs), on_step=written.append, progress=False, **options)
    assert written == []


def test_prompts_that_leave_no_room_or_are_none_are_refused() -> None:
    model, inputs = make("llama")
    model.config.max_position_embeddings = 11
    with pytest.raises(ValueError, match="The prompt has 11 tokens, and LlamaForCausalLM takes at most 11: no room"):
        capture_generation(model, prompt_of(inputs))
    with pytest.raises(ValueError, match=r"writes on from token ids \[batch, token\]"):
        capture_generation(model, {"inputs_embeds": torch.ones(1, 3, 32)})
    with pytest.raises(TypeError, match="tuple of 2"):
        capture_generation(model, (torch.ones(1, 2), torch.ones(1, 2)))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        capture_generation(model, "The cat")
    tiny_model, tokenizer = tiny.decoder()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        capture_generation(tiny_model, ["The cat", "The"], tokenizer)
