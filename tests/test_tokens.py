"""Tokens as people read them: no marks of the vocabulary, no broken bytes, nothing invisible."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from attnwidget.tokens import Tokens, readable

CORPUS = ["the animal crossed the street because it was tired"] * 20 + ["naïve café €5 😀 שלום مرحبا 你好"]


def byte_level() -> Any:
    """GPT-2's kind: bytes, leading space as Ġ."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS[:20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def word_piece() -> Any:
    """BERT's kind: lower case, continuations as ##."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS[:20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def sentence_piece() -> Any:
    """Llama's kind: leading space as ▁, unknown characters as bytes <0xF0>."""
    vocabulary = [("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("a", -3.0), ("n", -3.0)]
    vocabulary += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def axis(tokenizer: Any, text: str, with_text: bool) -> Tokens:
    made = tokenizer(text, return_offsets_mapping=True)
    return Tokens.of(tokenizer, made["input_ids"], *((text, made["offset_mapping"]) if with_text else ()))


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("make", [byte_level, word_piece, sentence_piece])
def test_marks_of_the_vocabulary_are_not_shown(make: Any, with_text: bool) -> None:
    tokens = axis(make(), "the animal crossed the street", with_text)
    assert not any(mark in label for label in tokens for mark in ("Ġ", "▁", "##", "\ufffd"))
    assert all(tokens.labels)


@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_the_bytes_of_one_character_show_that_character_and_their_place_in_it(make: Any, with_text: bool) -> None:
    tokens = axis(make(), "a😀", with_text)
    assert tokens.labels[-4:] == ("😀₁", "😀₂", "😀₃", "😀₄")


def test_half_a_character_is_shown_as_its_bytes() -> None:
    tokenizer = byte_level()
    ids = tokenizer("😀")["input_ids"][:2]
    assert Tokens.of(tokenizer, ids).labels == ("⟨F0⟩", "⟨9F⟩")


def test_labels_are_the_very_characters_of_the_text() -> None:
    text = "The Animal crossed"
    tokens = axis(word_piece(), text, with_text=True)
    assert tokens.spans is not None
    for label, (start, stop) in zip(tokens.labels, tokens.spans, strict=True):
        assert label == text[start:stop].strip()
    assert "".join(tokens.labels) == text.replace(" ", "")


def test_special_tokens_are_marked_and_keep_their_name() -> None:
    tokenizer = word_piece()
    ids = [tokenizer.cls_token_id, *tokenizer("the")["input_ids"], tokenizer.sep_token_id]
    tokens = Tokens.of(tokenizer, ids)
    assert (tokens.labels[0], tokens.labels[-1]) == ("[CLS]", "[SEP]")
    assert tokens.special == (True, *[False] * (len(ids) - 2), True)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("\n", "⏎"),
        ("\n\n", "⏎⏎"),
        ("\t", "⇥"),
        (" ", "␣"),
        ("", "∅"),
        ("\x00", "⟨00⟩"),
        ("\x7f", "⟨7F⟩"),
        ("\u202e", "⟨202E⟩"),
        ("\u200b", "·"),
        ("\u0301", "◌\u0301"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("שלום", "שלום"),
        ("👩‍👩‍👧", "👩‍👩‍👧"),
        ("\u200d", "‿"),
        ("\ufe0f", "◌\ufe0f"),
        ("می\u200cخواهم", "می\u200cخواهم"),
    ],
)
def test_nothing_is_invisible(text: str, label: str) -> None:
    assert readable(text) == label


def test_a_token_of_ten_thousand_characters_is_cut() -> None:
    assert readable("x" * 20_000) == "x" * 10_000 + "…"


def test_an_id_outside_the_vocabulary_names_the_tokenizer() -> None:
    with pytest.raises(ValueError, match="Token id 9999 at position 1 is not in this tokenizer's vocabulary"):
        Tokens.of(word_piece(), [0, 9999])


def test_an_image_is_a_grid_after_its_class_token() -> None:
    tokens = Tokens.patches(2, 3, before=1)
    assert tokens.labels == ("[CLS]", "0,0", "0,1", "0,2", "1,0", "1,1", "1,2")
    assert tokens.grid == (2, 3)
    assert tokens.special == (True, *[False] * 6)
