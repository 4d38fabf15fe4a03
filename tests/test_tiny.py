"""The small trained model: that it is there, what it is, and that its heads are the textbook ones."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from attnwidget import tiny
from attnwidget.tiny import card, text, train
from attnwidget.tiny import scores as measured

DECODER = Path(tiny.__file__).parent / "decoder"


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    scores: dict[str, Any] = json.loads((DECODER / "scores.json").read_text("utf-8"))
    return scores


@pytest.fixture(scope="module")
def eager() -> tuple[Any, Any]:
    return tiny.decoder(attn_implementation="eager")


def fresh(code: str, **environment: str) -> str:
    """What a new interpreter prints, without a network."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_tiny_loads_nothing_heavy() -> None:
    assert fresh("import sys, attnwidget.tiny as t; print({'torch', 'transformers'} & {*sys.modules})") == "set()\n"


@pytest.mark.parametrize("offline", ["0", "1"])
def test_the_decoder_needs_no_network(offline: str) -> None:
    """Any attempt at a connection fails here, whether or not transformers has been told that it is offline."""
    code = """
import socket
def refuse(*_, **__): raise AssertionError("a connection was attempted")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from attnwidget import tiny
model, tokenizer = tiny.decoder()
ids = tokenizer("The cat sat on the mat. The cat sat on the", return_tensors="pt").input_ids
print(tokenizer.decode(model(ids).logits[0, -1].argmax()))
"""
    assert fresh(code, HF_HUB_OFFLINE=offline) == " mat\n"


def test_the_decoder_is_ready_to_look_at() -> None:
    model, tokenizer = tiny.decoder()
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert (model.config.num_hidden_layers, model.config.num_attention_heads) == (4, 4)
    assert tokenizer("Hello").input_ids[0] == tokenizer.bos_token_id
    other, _ = tiny.decoder()
    assert other is not model


def test_transformers_reads_the_folder_by_itself() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(DECODER)
    assert model.dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(DECODER)) == model.config.vocab_size


def test_a_broken_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "HERE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors.*Install attnwidget again"):
        tiny.decoder()


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DECODER.iterdir()) <= 2_000_000


def test_words_are_whole_and_any_text_comes_back() -> None:
    _, tokenizer = tiny.decoder()
    pieces = [
        tokenizer.decode([i])
        for i in tokenizer("The animal didn't cross the street because it was too tired.").input_ids
    ]
    assert pieces == [
        "<s>",
        "The",
        " animal",
        " didn",
        "'t",
        " cross",
        " the",
        " street",
        " because",
        " it",
        " was",
        " too",
        " tired",
        ".",
    ]
    for any_text in ["naïve 🙂 Ωmega", "שלום", "<script>alert(1)</script>", "tab\tand\nline"]:
        assert tokenizer.decode(tokenizer(any_text).input_ids, skip_special_tokens=True) == any_text


def test_it_works_at_the_length_it_promises(eager: tuple[Any, Any]) -> None:
    """Loss does not rise towards the 256th token."""
    model, tokenizer = eager
    rows = torch.tensor(list(islice(measured.rows(text.documents(5), tokenizer, 256), 16)))
    logits, _ = measured.look(model, rows)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none").mean(0)
    assert losses[192:].mean() < losses[:64].mean()


def test_its_scores_are_those_of_the_card(eager: tuple[Any, Any], stored: dict[str, Any]) -> None:
    found = measured.score(*eager)
    for name, grid in stored["heads"].items():
        assert torch.allclose(torch.tensor(found["heads"][name]), torch.tensor(grid), atol=0.01), name
    for name in stored.keys() - {"heads"}:
        assert found[name] == pytest.approx(stored[name], abs=0.01), name
    readme = (DECODER / "README.md").read_text("utf-8")
    assert card.table(stored) in readme
    assert card.language(stored) in readme


def test_the_textbook_heads_are_textbook_heads(stored: dict[str, Any]) -> None:
    for name, (layer, head) in tiny.DECODER_HEADS.items():
        assert card.strongest(stored, name) == (layer, head)
        assert stored["heads"][name][layer][head] > 0.75
    layer, head = tiny.DECODER_HEADS["induction"]
    assert stored["heads"]["induction in sentences"][layer][head] > 0.6
    layer, head = tiny.DECODER_HEADS["previous token"]
    assert stored["heads"]["previous token, outside text"][layer][head] > 0.8


def test_it_predicts_its_own_kind_of_english(stored: dict[str, Any]) -> None:
    assert stored["accuracy"] > 0.7
    assert stored["recall of random tokens"] > 0.95


def test_scores_refuse_a_model_that_shows_no_attention() -> None:
    with pytest.raises(ValueError, match="eager"):
        measured.score(*tiny.decoder(attn_implementation="sdpa"))


def test_measures_by_hand() -> None:
    """A head that looks one back, on four tokens, and which keys follow a repeated pair."""
    attention = torch.zeros(1, 1, 1, 4, 4)
    attention[..., [0, 1, 2, 3], [0, 0, 1, 2]] = 1.0
    assert measured.diagonal(attention, -1).item() == 1.0
    assert measured.diagonal(attention, 0).item() == 0.0
    assert measured.diagonal(attention, -2, first=2).item() == 0.0

    ids = torch.tensor([[0, 7, 8, 9, 7, 8, 5]])
    assert measured.followers(ids).nonzero().tolist() == [[0, 5, 3]]


def test_every_kind_of_document_is_english() -> None:
    from random import Random

    for kind in text.KINDS:
        for seed in range(50):
            document = kind(Random(seed))
            assert document and "{" not in document and "  " not in document, document
            assert " a a" not in document and " a e" not in document and " a o" not in document, document


def test_a_seed_names_a_library() -> None:
    one, same, other = (list(islice(text.documents(seed), 20)) for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.slow
def test_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    """Short as it is, it goes through all three lessons; and it leaves torch as it was."""
    torch.manual_seed(3)
    before = torch.get_num_threads(), torch.random.get_rng_state()
    runs = [train.train(steps=10, seed=4) for _ in range(2)]
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])

    (one, vocabulary), (two, again) = runs
    assert vocabulary.get_vocab() == again.get_vocab()
    assert train.learn_vocabulary(train.SEED).get_vocab() == tiny.decoder()[1].get_vocab()
    for (name, weight), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name

    train.save(one, vocabulary, tmp_path)
    model, tokenizer = tiny.load(tmp_path)
    assert model.dtype == torch.float32
    assert tokenizer("The cat.").input_ids == vocabulary("The cat.").input_ids
