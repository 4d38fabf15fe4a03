"""From a vocabulary's entries to the text that people read, and to where in it each entry stands.

Tokenizers store ``Ġcross`` (GPT-2: bytes as printable characters), ``▁cross`` and ``<0xE2>`` (SentencePiece), ``##ing``
(BERT) or bytes as they are (tiktoken), and may give exact offsets, coarse ones, or none. Behind this file nobody
knows which.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

Span: TypeAlias = tuple[int, int]
_Decode: TypeAlias = Callable[[Sequence[int]], str]

# Characters that would be invisible, or would move the text around them, are drawn as these.
_VISIBLE = {"\n": "⏎", "\t": "⇥", "\u00a0": "⍽", "\u200b": "·", "\u200c": "‿", "\u200d": "‿", "\ufeff": "·"}
# Within a word these shape letters (Persian, Hindi) or hold an emoji together; alone they would be invisible.
_JOINERS = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def readable(text: str, limit: int = 10_000) -> str:
    r"""``text`` as one visible line: white space and control characters as symbols, at most ``limit`` characters.

    >>> readable(" the"), readable(" "), readable("a\nb"), readable("\x00")
    ('the', '␣', 'a⏎b', '⟨00⟩')
    """
    core = text.strip(" ") or text.replace(" ", "␣")
    shown = "".join(
        char if char in _JOINERS and 0 < at < len(core) - 1 else _glyph(char) for at, char in enumerate(core[:limit])
    )
    if len(core) > limit:
        shown += "…"
    # A mark alone would attach itself to whatever stands before it: give it a dotted circle to sit on.
    if shown and unicodedata.category(shown[0]) in ("Mn", "Me", "Mc"):
        shown = "◌" + shown
    return shown or "∅"


def _glyph(char: str) -> str:
    if char in _VISIBLE:
        return _VISIBLE[char]
    if unicodedata.category(char) in ("Cc", "Cf", "Co", "Cs", "Zl", "Zp"):
        return f"⟨{ord(char):02X}⟩"
    return char


def entries(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """[n] the entries of ``ids`` as the tokenizer stores them.

    Raises:
        ValueError: an id is not in the vocabulary.
    """
    found = tokenizer.convert_ids_to_tokens(list(ids))
    for position, (i, entry) in enumerate(zip(ids, found, strict=True)):
        if entry is None:
            raise ValueError(
                f"Token id {i} at position {position} is not in this tokenizer's vocabulary of {len(tokenizer)} "
                "entries. Pass the tokenizer that belongs to the model."
            )
    return tuple(_spelled(entry) if isinstance(entry, bytes) else str(entry) for entry in found)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids that are no text. Markers of a chat template are, without being among the named ones."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*getattr(tokenizer, "all_special_ids", ()), *(i for i, entry in added.items() if entry.special)}


def decoded(
    tokenizer: Any, ids: Sequence[int], raw: Sequence[str], special: Sequence[bool], silent: Collection[int]
) -> tuple[str, list[Span], tuple[str, ...]]:
    """The text of ``ids`` without the ``silent`` ones, and each one's place in it and label."""
    text, pieces, spans = _laid_out(_decoder(tokenizer), ids, silent)
    return text, spans, _label(raw, pieces, spans, special)


def placed(
    tokenizer: Any, ids: Sequence[int], raw: Sequence[str], special: Sequence[bool], text: str, spans: Sequence[Span]
) -> tuple[list[Span], tuple[str, ...]]:
    """Each one's place in ``text``, made exact from a tokenizer's offsets ``spans``, and its label."""
    pieces, places = _mended(_decoder(tokenizer), ids, raw, special, text, spans)
    return places, _label(raw, pieces, places, special)


def trimmed(text: str, start: int, stop: int) -> Span:
    """The range without the white space at its ends; as it is where there is nothing else."""
    core = text[start:stop].strip()
    if not core:
        return start, stop
    start += text[start:stop].index(core)
    return start, start + len(core)


def _decoder(tokenizer: Any) -> _Decode:
    def decode(ids: Sequence[int]) -> str:
        text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        if text.startswith("##") and tokenizer.convert_tokens_to_string(["a", "##b"]) == "ab":
            # Word pieces know that they continue a word only behind another piece; in front they keep their mark.
            return text[2:]
        return text

    return decode


def _laid_out(decode: _Decode, ids: Sequence[int], silent: Collection[int]) -> tuple[str, list[str], list[Span]]:
    """The decoded text, each id's piece of it and its place; ids that only together make characters share both."""
    text = ""
    pieces: list[str] = []
    spans: list[Span] = []
    before: Sequence[int] = ()
    at = 0
    while at < len(ids):
        if ids[at] in silent:
            before, width, piece = (), 1, ""
        else:
            width = _width(decode, ids, at, silent)
            some = ids[at : at + width]
            # Whether a space belongs in front shows only behind another piece.
            ahead = decode(before) if before else ""
            both = decode([*before, *some])
            piece = (both[len(ahead) :] if both.startswith(ahead) else "") or decode(some)
            if text and piece and not before and "\n" not in text[-1] + piece[0]:
                text += "\n"
            before = some
        start, stop = trimmed(piece, 0, len(piece))
        span = len(text) + start, len(text) + stop
        text += piece
        pieces += [piece] * width
        spans += [span] * width
        at += width
    return text, pieces, spans


def _width(decode: _Decode, ids: Sequence[int], at: int, silent: Collection[int]) -> int:
    """How many ids from ``at`` on it takes until their last character is whole; 1 where it never is."""
    width, piece = 1, decode(ids[at : at + 1])
    # One token may hold the end of a character and the beginning of the next: such chains are rarely long.
    while piece.endswith("\ufffd") and width < 16 and at + width < len(ids) and ids[at + width] not in silent:
        width += 1
        piece = decode(ids[at : at + width])
    return 1 if "\ufffd" in piece else width


def _mended(
    decode: _Decode,
    ids: Sequence[int],
    raw: Sequence[str],
    special: Sequence[bool],
    text: str,
    spans: Sequence[Span],
) -> tuple[list[str], list[Span]]:
    """Each token's piece of the text and its place, where a tokenizer's offsets say less than the truth."""
    pieces: list[str] = []
    places: list[Span] = []
    at = end = 0
    while at < len(ids):
        start, stop = spans[at]
        run = 1
        if special[at]:
            start, stop = (start, stop) if start < stop else (end, end)
        elif start < stop and not raw[at].strip("▁") and not text[start:stop].isspace():
            # The space that SentencePiece puts in front of a text is not in the text.
            stop = start
        elif start == stop:
            # RoBERTa's offsets leave out white space, that of tokens that are nothing else included.
            blank = decode(ids[at : at + 1])
            start = max(start, end)
            for first in (start - len(blank), start):
                if blank.isspace() and first >= 0 and text[first : first + len(blank)] == blank:
                    start, stop = first, first + len(blank)
                    break
            stop = max(start, stop)
        elif stop - start > 1:
            # Unigram's bytes are told apart only by decoding: each has the place of the whole unknown stretch.
            while at + run < len(ids) and spans[at + run] == spans[at] and not special[at + run]:
                run += 1
        whole, parts, within = _laid_out(decode, ids[at : at + run], ()) if run > 1 else ("", [], [])
        if run > 1 and whole == text[start:stop]:
            pieces += parts
            places += [(start + a, start + b) for a, b in within]
        else:
            pieces += [text[start:stop]] * run
            places += [trimmed(text, start, stop)] * run
        at += run
        end = max(end, stop)
    return pieces, places


def _label(
    raw: Sequence[str], pieces: Sequence[str], spans: Sequence[Span], special: Sequence[bool]
) -> tuple[str, ...]:
    labels = []
    at = 0
    while at < len(raw):
        # Entries that cover the very same characters are bytes of one character: show it, and which piece each one is.
        run = 1
        covers = spans[at][1] > spans[at][0] and not special[at]
        while covers and at + run < len(raw) and spans[at + run] == spans[at] and not special[at + run]:
            run += 1
        for piece in range(run):
            text = pieces[at + piece]
            if special[at + piece] or text == "":
                label = readable(raw[at + piece].replace("Ġ", " ").replace("▁", " ").removeprefix("##"))
            else:
                label = readable(text) if "\ufffd" not in text else _bytes(raw[at + piece])
            labels.append(label + str(piece + 1).translate(_SUBSCRIPT) if run > 1 else label)
        at += run
    return tuple(labels)


def _bytes(entry: str) -> str:
    """A lone byte of a broken character, by value: byte-level vocabularies map bytes 0–255 to printable characters."""
    if re.fullmatch(r"<0x[0-9A-F]{2}>", entry):
        return f"⟨{entry[3:5]}⟩"
    return "⟨" + " ".join(f"{_BYTE_OF.get(char, ord(char)):02X}" for char in entry) + "⟩"


def _spelled(entry: bytes) -> str:
    """Bytes as text; where they are none, as a byte-level vocabulary would write them."""
    try:
        return entry.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(_CHAR_OF[byte] for byte in entry)


def _byte_alphabet() -> dict[str, int]:
    # The alphabet of GPT-2's byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 onwards.
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(b): b for b in kept} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_CHAR_OF = {byte: char for char, byte in _BYTE_OF.items()}
