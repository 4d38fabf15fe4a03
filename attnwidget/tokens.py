"""The axes of an attention map: what stands along the queries and along the keys.

A model sees vocabulary entries (``Ġcross``, ``##ing``, ``âĤ¬``); people read text. :class:`Tokens` keeps both, and the
marks a picture needs: which entries are special, which characters of the text each covers, and, for images, the grid.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

# Characters that would be invisible, or would move the text around them, are drawn as these.
_VISIBLE = {"\n": "⏎", "\t": "⇥", "\u00a0": "⍽", "\u200b": "·", "\u200c": "‿", "\u200d": "‿", "\ufeff": "·"}
# Within a word these shape letters (Persian, Hindi) or hold an emoji together; alone they would be invisible.
_JOINERS = {"\u200c", "\u200d", *map(chr, range(0xE0020, 0xE0080))}
_SUBSCRIPT = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Tokens:
    """One axis of an attention map, of length n.

    Attributes:
        labels: [n] what a reader sees. Never empty, never a control character, never a broken byte.
        raw: [n] the vocabulary entry as the tokenizer stores it.
        special: [n] True for entries that are not text: ``[CLS]``, ``</s>``, padding, class tokens.
        spans: [n] half-open character ranges in the text, or None where there is no text.
        kind: "token", "patch", "frame" or "position".
        grid: (rows, columns) of an image's patches; the last rows · columns entries are the patches in reading order.
    """

    labels: tuple[str, ...]
    raw: tuple[str, ...] = ()
    special: tuple[bool, ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None
    kind: str = "token"
    grid: tuple[int, int] | None = None
    ids: tuple[int, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n = len(self.labels)
        object.__setattr__(self, "raw", self.raw or self.labels)
        object.__setattr__(self, "special", self.special or (False,) * n)
        for name, values in (("raw", self.raw), ("special", self.special), ("spans", self.spans), ("ids", self.ids)):
            if values is not None and len(values) != n:
                raise ValueError(f"{n} labels but {len(values)} {name}: an axis needs one of each per token.")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Any:
        return iter(self.labels)

    def __getitem__(self, index: int) -> str:
        return self.labels[index]

    @classmethod
    def named(cls, labels: Iterable[str]) -> Tokens:
        r"""An axis from plain strings, as somebody with a tensor of his own has them.

        >>> Tokens.named(["The", " cat", "\n"]).labels
        ('The', 'cat', '⏎')
        """
        raw = tuple(str(label) for label in labels)
        return cls(labels=tuple(readable(text) for text in raw), raw=raw)

    @classmethod
    def positions(cls, n: int, kind: str = "position") -> Tokens:
        """An axis of which only the length is known: 0, 1, 2 …"""
        return cls(labels=tuple(str(i) for i in range(n)), kind=kind)

    @classmethod
    def patches(cls, rows: int, columns: int, before: int = 0) -> Tokens:
        """An image cut into rows × columns patches, after ``before`` other entries (class token, registers).

        >>> Tokens.patches(1, 2, before=1).labels
        ('[CLS]', '0,0', '0,1')
        """
        leading = tuple("[CLS]" if i == 0 else f"[REG {i}]" for i in range(before))
        cells = tuple(f"{r},{c}" for r in range(rows) for c in range(columns))
        return cls(
            labels=leading + cells,
            special=(True,) * before + (False,) * len(cells),
            kind="patch",
            grid=(rows, columns),
        )

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        ids: Sequence[int],
        text: str | None = None,
        spans: Sequence[tuple[int, int]] | None = None,
    ) -> Tokens:
        """The axis of ``ids`` under a Hugging Face tokenizer.

        With ``text`` and ``spans`` (a fast tokenizer's offset mapping) every label is cut out of the text itself.
        Without them it is decoded from the ids, bytes that make one character together included.

        Raises:
            ValueError: an id is not in the tokenizer's vocabulary: the tokenizer belongs to another model.
        """
        ids = [int(i) for i in ids]
        raw = _raw(tokenizer, ids)
        special_ids = set(getattr(tokenizer, "all_special_ids", ()))
        special = tuple(i in special_ids for i in ids)
        if text is not None and spans is not None:
            pieces = [text[start:stop] for start, stop in spans]
            owners: list[Any] = [tuple(span) if span[1] > span[0] else None for span in spans]
        else:
            pieces, owners = _decode(tokenizer, ids)
        labels = _label(raw, pieces, owners, special)
        known = tuple((int(a), int(b)) for a, b in spans) if spans is not None else None
        return cls(labels=labels, raw=raw, special=special, spans=known, ids=tuple(ids))


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


def _raw(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    entries = tokenizer.convert_ids_to_tokens(list(ids))
    for position, (i, entry) in enumerate(zip(ids, entries, strict=True)):
        if entry is None:
            raise ValueError(
                f"Token id {i} at position {position} is not in this tokenizer's vocabulary of {len(tokenizer)} "
                "entries. Pass the tokenizer that belongs to the model."
            )
    return tuple(entry.decode("utf-8", "replace") if isinstance(entry, bytes) else str(entry) for entry in entries)


def _decode(tokenizer: Any, ids: Sequence[int]) -> tuple[list[str], list[Any]]:
    """Each id's own text; ids that only together make whole characters share one text and one owner."""

    def text_of(some: Sequence[int]) -> str:
        return str(tokenizer.decode(list(some), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    pieces: list[str] = []
    owners: list[Any] = []
    at = 0
    while at < len(ids):
        width, piece = 1, text_of(ids[at : at + 1])
        # A character is at most four bytes long, so a broken one is whole within four byte-level entries.
        while "\ufffd" in piece and width < 4 and at + width < len(ids):
            wider = text_of(ids[at : at + width + 1])
            width += 1
            if "\ufffd" not in wider:
                piece = wider
                break
        else:
            width = 1
        if piece.startswith("##") and tokenizer.convert_tokens_to_string(["a", piece]) == "a" + piece[2:]:
            # Word pieces know that they continue a word only behind another piece; alone they keep their mark.
            piece = piece[2:]
        pieces += [piece] * width
        owners += [("joined", at) if width > 1 else None] * width
        at += width
    return pieces, owners


def _label(
    raw: Sequence[str], pieces: Sequence[str], owners: Sequence[Any], special: Sequence[bool]
) -> tuple[str, ...]:
    labels = []
    at = 0
    while at < len(raw):
        # Entries that cover the very same characters are bytes of one character: show it, and which piece each one is.
        run = 1
        while owners[at] is not None and at + run < len(raw) and owners[at + run] == owners[at]:
            run += 1
        for piece in range(run):
            text = pieces[at + piece]
            if special[at + piece] or text == "":
                label = readable(raw[at + piece].replace("Ġ", "").replace("▁", "").removeprefix("##"))
            else:
                label = readable(text) if "\ufffd" not in text else _bytes(raw[at + piece])
            labels.append(label + str(piece + 1).translate(_SUBSCRIPT) if run > 1 else label)
        at += run
    return tuple(labels)


def _bytes(entry: str) -> str:
    """A lone byte of a broken character, by value: byte-level vocabularies map bytes 0–255 to printable characters."""
    return "⟨" + " ".join(f"{_BYTE_OF.get(char, ord(char)):02X}" for char in entry) + "⟩"


def _byte_alphabet() -> dict[str, int]:
    # The alphabet of GPT-2's byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 onwards.
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(b): b for b in kept} | {chr(0x100 + i): b for i, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
