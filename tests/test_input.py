"""What people pass, right and wrong; and that afterwards everything is as it was, however it ended."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from attnwidget import interface, tiny, wire
from attnwidget.attention import Attention
from attnwidget.capture import capture, record
from attnwidget.check import Comparison
from attnwidget.measures import statistics
from attnwidget.shown import in_words
from models import _sharpen, make
from test_capture import eager_weights, fingerprint, interface_methods, largest_difference, minilm, same

TEXTS = ["The cat saw the dog.", "A dog", "The animal didn't cross the street because it was too tired."]


def reader(family: str) -> nn.Module:
    """A small model with random weights that reads what minilm's tokenizer writes."""
    import transformers as t

    vocabulary = 30522
    size: dict[str, Any] = {
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "hidden_size": 32,
        "vocab_size": vocabulary,
    }  # fmt: skip
    ends = {"bos_token_id": 101, "eos_token_id": 102}
    table: dict[str, Any] = {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, **ends)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**size, num_key_value_heads=2)),
        "bert": lambda: t.BertModel(t.BertConfig(**size)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**size, pad_token_id=0)),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                vocab_size=vocabulary, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32,
                word_embed_proj_dim=32,
            )
        ),
        "bloom": lambda: t.BloomForCausalLM(
            t.BloomConfig(vocab_size=vocabulary, hidden_size=32, n_layer=2, n_head=4, **ends)
        ),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, num_layers=2, num_heads=4, d_ff=32)
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return _sharpen(table[family](), 0.2 if family == "t5" else 0.35)


def world(tokenizer: Any = None) -> dict[str, Any]:
    """What is global, or belongs to the tokenizer."""
    import torch._dynamo.eval_frame as compiler

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {
        "lookups": interface_methods(),
        "listeners": list(interface.opened),
        "modes": list(_get_current_function_mode_stack()),
        "random": torch.random.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "dtype": torch.get_default_dtype(),
        "stance": compiler._stance.stance,
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "tokenizer": [getattr(backend, name, None) for name in ("truncation", "padding")],
        "padding": [getattr(tokenizer, name, None) for name in ("padding_side", "pad_token", "truncation_side")],
    }


@contextmanager
def untouched(model: nn.Module, tokenizer: Any = None) -> Iterator[None]:
    """The model, the tokenizer and the global state must be after the block as they were before it."""
    model_before, before = fingerprint(model), world(tokenizer)
    yield
    assert world(tokenizer) == before
    assert same(model_before, fingerprint(model))


def heads_differ(one: Attention, other: Attention, part: str, at: tuple[slice, slice]) -> float:
    """Largest difference of the maps of ``one``, of which only the place ``at`` counts, from those of ``other``."""
    layers, heads = len(other.part(part).layers), other.part(part).heads
    return max(
        float((one[part, layer, head].weights()[at] - other[part, layer, head].weights()).abs().max())
        for layer in range(layers)
        for head in range(heads)
    )


# ── several texts ──


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "roberta", "opt", "bloom"])
def test_padded_texts_have_the_weights_they_have_by_themselves(family: str, side: str) -> None:
    """Oracle: each text in a run of its own, without padding."""
    model, (_, tokenizer) = reader(family), minilm()
    tokenizer.padding_side = side
    with untouched(model, tokenizer):
        batch = capture(model, TEXTS, tokenizer)
    assert batch.samples == 3
    assert batch.check is not None and batch.check.ok
    longest = len(batch.tokens)
    for sample, text in enumerate(TEXTS):
        alone, shown = capture(model, text, tokenizer), batch.select(sample)
        n = len(alone.tokens)
        at = slice(longest - n, longest) if side == "left" else slice(0, n)
        assert heads_differ(shown, alone, alone.parts[0], (at, at)) <= 1e-5
        assert shown.tokens.labels[at] == alone.tokens.labels
        assert shown.tokens.text == text
        padding = [not at.start <= i < at.stop for i in range(longest)]
        assert all(shown.tokens.special[i] for i in range(longest) if padding[i])
        # On the right, a causal model needs no mask over padding: no token sees what comes after it.
        if side == "left" or batch.parts == ("encoder",):
            assert shown[0, 0].padding.tolist() == padding
            assert not shown[0, 0].weights()[at][:, padding].any()


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_batch_of_one_is_that_text(family: str) -> None:
    model, (_, tokenizer) = reader(family), minilm()
    alone, batch = capture(model, TEXTS[0], tokenizer), capture(model, TEXTS[:1], tokenizer)
    assert batch.samples == 1
    assert batch.tokens == alone.tokens
    assert torch.equal(batch[1, 2].weights(), alone[1, 2].weights())


def test_several_targets_of_an_encoder_decoder() -> None:
    """Oracle: each text and target in a run of their own."""
    model, (_, tokenizer) = reader("t5"), minilm()
    targets = ["It is tired.", "The street was long and the day was hot", "No"]
    with untouched(model, tokenizer):
        batch = capture(model, TEXTS, tokenizer, target=targets)
    assert batch.samples == 3
    for sample, (text, target) in enumerate(zip(TEXTS, targets, strict=True)):
        alone, shown = capture(model, text, tokenizer, target=target), batch.select(sample)
        for part in ("encoder", "decoder", "cross"):
            queries, keys = alone[part, 0, 0].shape
            assert heads_differ(shown, alone, part, (slice(queries), slice(keys))) <= 1e-5
        assert shown.part("cross").queries.text == target
        assert shown.part("cross").keys.text == text


# ── pairs ──


def test_a_pair_has_segments_and_the_weights_of_a_pair() -> None:
    """Oracle: transformers' eager attention, given what the tokenizer makes of the two texts."""
    model, tokenizer = minilm()
    with untouched(model, tokenizer):
        attention = capture(model, ("The cat sleeps.", "Is the cat awake?"), tokenizer)
    oracle = eager_weights(model, dict(tokenizer("The cat sleeps.", "Is the cat awake?", return_tensors="pt")))
    assert largest_difference(attention, oracle) <= 1e-5
    tokens = attention.tokens
    assert tokens.labels == ("[CLS]", "The", "cat", "sleeps", ".", "[SEP]", "Is", "the", "cat", "awake", "?", "[SEP]")
    assert tokens.segments == (-1, 0, 0, 0, 0, -1, 1, 1, 1, 1, 1, -1)
    assert tokens.text == "The cat sleeps.\nIs the cat awake?"
    assert capture(model, "The cat sleeps.", tokenizer).tokens.segments is None


def test_a_list_of_pairs_is_padded_and_every_pair_keeps_its_own_segments() -> None:
    model, tokenizer = minilm()
    pairs = [("The cat sleeps.", "Is it awake?"), ("Rain", "Sun")]
    with untouched(model, tokenizer):
        batch = capture(model, pairs, tokenizer)
    for sample, pair in enumerate(pairs):
        alone, shown = capture(model, pair, tokenizer), batch.select(sample)
        n = len(alone.tokens)
        assert heads_differ(shown, alone, "encoder", (slice(n), slice(n))) <= 1e-5
        assert shown.tokens.segments is not None and alone.tokens.segments is not None
        assert shown.tokens.segments[:n] == alone.tokens.segments
        assert set(shown.tokens.segments[n:]) <= {-1}
        assert shown.tokens.text == "\n".join(pair)


# ── refused ──

IDS = {"input_ids": torch.tensor([[1, 2, 3]])}
REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([[101, 7, 102], [101, 102]], TypeError, r"2 sequences of ids, 2 to 3 long\. Pad them and pass a mapping"),
    ([torch.tensor([101, 7]), torch.tensor([101])], TypeError, r"2 sequences of ids, 1 to 2 long\. Pad them"),
    (["a text", 7], TypeError, "Not every item of the list is a text"),
    (["a text", ["another"]], TypeError, "Not every item of the list is a text"),
    (["a text", None], TypeError, "Not every item of the list is a text"),
    (["a text", ("a", "pair")], ValueError, "Some of the texts are pairs and some are not"),
    ([], TypeError, "inputs is an empty list. Pass a text"),
    (None, TypeError, "inputs is a NoneType. Pass a text"),
    (7, TypeError, "inputs is a int. Pass a text"),
    (b"bytes", TypeError, "inputs is a bytes. Pass a text"),
    (("one text",), TypeError, "inputs is a tuple"),
    (("three", "texts", "here"), TypeError, "inputs is a tuple"),
    ("", ValueError, "The text is empty"),
    ("  \n", ValueError, "The text is empty"),
    (["a text", ""], ValueError, "Text 1 is empty"),
    ([("a", "pair"), ("", "")], ValueError, "Text 1 is empty"),
    ("word " * 600, ValueError, "602 tokens, and BertModel takes at most 512"),
    (["a text", "word " * 600], ValueError, "602 tokens, and BertModel takes at most 512"),
    ({"input_ids": torch.tensor([[30522]])}, ValueError, "has embeddings for 30522 ids only"),
]


@pytest.mark.parametrize(("inputs", "error", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_cannot_be_read_is_refused_in_words(inputs: Any, error: type[Exception], words: str) -> None:
    model, tokenizer = minilm()
    ran: list[int] = []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    with untouched(model, tokenizer), pytest.raises(error, match=words):
        capture(model, inputs, tokenizer)
    assert not ran, "nothing is half done"


def test_a_tokenizer_without_a_padding_token_says_how_to_give_it_one() -> None:
    model, (_, tokenizer) = reader("gpt2"), minilm()
    tokenizer.pad_token = None
    with untouched(model, tokenizer):
        with pytest.raises(ValueError, match=r"3 texts have to be padded.*tokenizer\.pad_token = tokenizer\.eos_token"):
            capture(model, TEXTS, tokenizer)
        assert capture(model, TEXTS[0], tokenizer).samples == 1


def test_a_cut_batch_is_as_long_as_the_model_allows() -> None:
    model, tokenizer = minilm()
    with untouched(model, tokenizer):
        attention = capture(model, ["word " * 600, "a text"], tokenizer, truncate=True)
    assert len(attention.tokens) == 512
    assert attention.select(1)[0, 0].padding.sum() == 508


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        ((2, 0), IndexError, "no layer 2 in decoder: it has 2, 0 to 1"),
        ((-3, 0), IndexError, "no layer -3 in decoder"),
        ((0, 4), IndexError, "no head 4 in decoder, layer 0: it has 4, 0 to 3"),
        (("encoder", 0, 0), KeyError, "no part 'encoder'; this attention has 'decoder'"),
        (("decoder", 0), TypeError, "Name the layer and the head, too"),
        ((0,), TypeError, r"Index an attention with \[layer, head\]"),
    ],
)
def test_an_unknown_layer_part_or_head_is_refused_in_words(key: Any, error: type[Exception], words: str) -> None:
    attention = capture(*make("llama"))
    with pytest.raises(error, match=words):
        attention[key]
    with pytest.raises(IndexError, match="Sample 1 of a batch of 1"):
        attention.select(1)


# ── a model that is being trained ──


def test_a_model_in_training_with_gradient_checkpointing() -> None:
    """Oracle: the capture of the model in evaluation. Its mode, its checkpointing, its gradients stay."""
    model, inputs = make("llama")
    expected = capture(model, inputs)
    model.train()
    model.gradient_checkpointing_enable()
    model.model.layers[1].eval()
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model(**inputs, use_cache=False).logits.sum().backward()
    assert model.is_gradient_checkpointing
    gradients = [p.grad.clone() for p in model.parameters()]
    with untouched(model):
        attention = capture(model, inputs)
    assert model.is_gradient_checkpointing
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [torch.equal(attention[i, h].weights(), expected[i, h].weights()) for i in (0, 1) for h in range(4)] == [
        True
    ] * 8
    assert attention.check is not None and attention.check.ok


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_on_or_off_as_before(switch: Any) -> None:
    model, inputs = make("bert")
    expected = capture(model, inputs)
    with switch(), untouched(model):
        attention = capture(model, inputs)
    assert torch.equal(attention[1, 2].weights(), expected[1, 2].weights())


def test_another_default_precision_is_neither_used_nor_changed() -> None:
    model, inputs = make("bert")
    expected = capture(model, inputs)
    torch.set_default_dtype(torch.float64)
    try:
        with untouched(model):
            attention = capture(model, inputs)
            assert attention[1, 2].weights().dtype == torch.float32
            assert torch.equal(attention[1, 2].weights(), expected[1, 2].weights())
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_default_device_is_neither_used_nor_changed() -> None:
    """As after torch.set_default_device("cuda"). What is kept is in host memory; "meta" fails where "cuda" would."""
    expected = capture(*make("gpt2"))
    row = expected[1, 2].row(3)
    torch.set_default_device("meta")
    try:
        assert torch.equal(expected[1, 2].row(3), row)
        assert expected[1, 2].tile(slice(2, 5), [0, 1]).device.type == "cpu"
        assert expected[1, None].weights().device.type == "cpu"
        assert statistics(expected)["entropy"].device.type == "cpu"
        assert wire.bundle(expected)
        assert torch.empty(1).device.type == "meta"
    finally:
        torch.set_default_device(None)


# ── two at once ──


@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_a_capture_while_a_recorder_is_open_in_this_thread(family: str) -> None:
    """bloom does not go through the interface: there, two function modes are open at once."""
    model, inputs = make(family)
    expected = capture(model, inputs)
    with untouched(model):
        with record(model) as outer:
            inner = capture(model, inputs)
            with torch.no_grad():
                model(**inputs)
        assert len(outer.attentions) == 2
        for one in (inner, *outer.attentions):
            assert len(one.part().layers) == 2
            assert torch.equal(one[1, 2].weights(), expected[1, 2].weights())


@pytest.mark.parametrize("other", ["gpt2", "bloom"])
def test_a_capture_while_a_recorder_is_open_in_another_thread(other: str) -> None:
    """Of the same model, or of another: neither hears the other's thread."""
    model, inputs = make("gpt2")
    theirs, their_inputs = (model, inputs) if other == "gpt2" else make(other)
    expected, expected_there = capture(model, inputs), capture(theirs, their_inputs)
    opened, done = threading.Event(), threading.Event()
    found: list[Attention] = []

    def elsewhere() -> None:
        with record(theirs) as rec, torch.no_grad():
            opened.set()
            done.wait(20)
            theirs(**their_inputs)
        found.extend(rec.attentions)

    thread = threading.Thread(target=elsewhere)
    with untouched(model), untouched(theirs):
        thread.start()
        assert opened.wait(20)
        attention = capture(model, inputs)
        done.set()
        thread.join(20)
    assert torch.equal(attention[1, 2].weights(), expected[1, 2].weights())
    assert len(found) == 1, "a run of this thread was recorded there"
    assert torch.equal(found[0][1, 2].weights(), expected_there[1, 2].weights())


def test_a_recorder_that_is_open_cannot_be_opened_again() -> None:
    model, inputs = make("gpt2")
    with untouched(model):
        with record(model) as rec:
            with pytest.raises(RuntimeError, match=r"open already\. Use a new record\(model\)"):
                rec.__enter__()
            with torch.no_grad():
                model(**inputs)
        assert rec.attention.check is not None and rec.attention.check.ok
        with rec, torch.no_grad():  # closed, it may be
            model(**inputs)
        assert len(rec.attentions) == 2


# ── the run breaks off ──


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("family", ["gpt2", "bloom", "t5"])
def test_a_run_that_breaks_off_leaves_nothing_behind(family: str, error: type[BaseException]) -> None:
    model, inputs = make(family)
    expected = capture(model, inputs)
    modules = [one for one in model.modules() if "Attention" in type(one).__name__]

    def fail(*_: Any) -> None:
        raise error("in the middle")

    model.train()
    with modules[-1].register_forward_hook(fail), untouched(model), pytest.raises(error, match="in the middle"):
        capture(model, inputs)
    model.eval()
    assert torch.equal(capture(model, inputs)[0, 1].weights(), expected[0, 1].weights())

    # A recorder outlives it, and what it hears next is whole.
    with untouched(model):
        with record(model) as rec, torch.no_grad():
            with modules[-1].register_forward_hook(fail), pytest.raises(error):
                model(**inputs)
            model(**inputs)
        assert rec.attention.parts == expected.parts
        assert [len(rec.attention.part(name).layers) for name in expected.parts] == [2] * len(expected.parts)
        assert torch.equal(rec.attention[0, 1].weights(), expected[0, 1].weights())


def test_an_interrupt_while_something_is_being_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come while our own code runs, too."""
    model, inputs = make("gpt2")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with untouched(model):
        with monkeypatch.context() as patched:
            patched.setattr(Comparison, "compare", interrupted)
            with pytest.raises(KeyboardInterrupt):
                capture(model, inputs)
        assert capture(model, inputs).check.ok  # type: ignore[union-attr]


def test_a_hook_of_the_user_that_replaces_what_attention_gives_out() -> None:
    """The maps are those of the call; what the hook makes of its output is the model's own business and stays."""
    model, inputs = make("gpt2")
    plain = capture(model, inputs)
    calls: list[int] = []

    def replace(module: nn.Module, args: Any, output: Any) -> Any:
        calls.append(1)
        return (output[0] * 0.5, *output[1:])

    handle = model.transformer.h[0].attn.register_forward_hook(replace)
    with torch.no_grad():
        expected = model(**inputs).logits
    calls.clear()
    with untouched(model):
        with record(model) as rec, torch.no_grad():
            assert torch.equal(model(**inputs).logits, expected)
        attention = capture(model, inputs)
    assert len(calls) == 2
    for found in (rec.attention, attention):
        assert found.check is not None and found.check.ok
        assert torch.equal(found[0, 1].weights(), plain[0, 1].weights()), "before the hook nothing has changed"
        assert not torch.allclose(found[1, 1].weights(), plain[1, 1].weights()), "and what comes after it has"
    handle.remove()
    assert torch.equal(capture(model, inputs)[1, 1].weights(), plain[1, 1].weights())


# ── no memory left ──

FULL = (
    "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
)


def test_a_gpu_without_memory_says_what_to_do() -> None:
    model, inputs = make("gpt2")

    def full(*_: Any) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    model.transformer.h[1].register_forward_hook(full)
    words = r"ran out of memory.*Shorten the text.*half precision"
    with untouched(model), pytest.raises(MemoryError, match=words) as found:
        capture(model, inputs)
    assert "20.00 GiB" in str(found.value.__cause__)


def test_a_host_without_memory_for_what_is_kept_says_what_to_keep_less_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no error of its own for that: it is told by its words."""
    model, inputs = make("gpt2")
    needed = capture(model, inputs).part().layers[0].q.nbytes  # type: ignore[union-attr]
    convert = torch.Tensor.to

    def full(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("copy") and self.is_floating_point():
            raise RuntimeError(FULL)
        return convert(self, *args, **kwargs)

    with untouched(model):
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "to", full)
            words = rf"{re.escape(in_words(needed))}.*layers=.*parts=.*float16.*shorten the text"
            with pytest.raises(MemoryError, match=words) as found:
                capture(model, inputs)
        assert FULL in str(found.value.__cause__)
        assert capture(model, inputs).check.ok  # type: ignore[union-attr]


# ── NaN ──


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_not_a_number_in_what_goes_in_is_said_and_kept(family: str) -> None:
    model, inputs = make(family)
    embedded = model.get_input_embeddings()(inputs["input_ids"]).detach()
    embedded[0, 5, 3] = torch.nan
    with untouched(model):
        attention = capture(model, {"inputs_embeds": embedded})
    assert any("NaN or infinite numbers. They are drawn as ×" in note for note in attention.notes)
    rows = attention[0, 0].weights().isnan().any(1)
    assert rows[5], "the token itself asks with NaN"
    assert rows[:5].any() == (family == "bert"), "earlier tokens of a decoder do not see it"


# ── words that say what to do next ──


def test_what_a_newcomer_gets_wrong_is_said_in_words() -> None:
    model, tokenizer = tiny.decoder()
    with pytest.raises(TypeError, match=r"model is of type str.*show\(text, model, tokenizer\).*from_pretrained"):
        capture("The cat", model, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"no option layer; did you mean layers"):
        capture(model, "The cat", tokenizer, layer=[0])
    with pytest.raises(ValueError, match="no decoder that reads a text"):
        capture(model, "The cat", tokenizer, target="The dog")
    with pytest.raises(ValueError, match=r"one row of 3 ids.*ids\[None\]"):
        capture(model, torch.tensor([5, 6, 7]))
    with pytest.raises(ValueError, match="The input has token id 999999"):
        capture(model, torch.tensor([[999999]]), tokenizer)
    with pytest.raises(ValueError, match=r"input_ids holds texts of different lengths.*padding=True"):
        capture(model, dict(tokenizer(["The cat", "The cat saw the dog"])), tokenizer)
    vit, image = make("vit")
    with pytest.raises(ValueError, match=r"ViTModel reads no text"):
        capture(vit, "The cat", tokenizer)
    handmade = torch.nn.MultiheadAttention(4, 1)
    with pytest.raises(ValueError, match=r"reads no text: its forward takes query, key, value"):
        capture(handmade, "The cat", tokenizer)


def test_lists_and_arrays_are_as_good_as_tensors() -> None:
    model, tokenizer = tiny.decoder()
    expected = capture(model, "The cat saw the dog", tokenizer)[1, 0].weights()
    for given in (
        dict(tokenizer("The cat saw the dog")),
        {name: one.numpy() for name, one in tokenizer("The cat saw the dog", return_tensors="pt").items()},
        tokenizer("The cat saw the dog", return_tensors="pt")["input_ids"].numpy(),
    ):
        assert torch.equal(capture(model, given, tokenizer)[1, 0].weights(), expected)


def test_the_bar_states_the_memory_while_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("attnwidget.capture")
    said: list[str] = []
    monkeypatch.setattr(module.tqdm, "set_postfix_str", lambda _, words, **__: said.append(words))
    model, inputs = make("llama")
    held = capture(model, inputs).nbytes
    assert said == [f"keeps {held / 1e3:.1f} kB"] * 2, "one for each layer, and all of it from the first on"
