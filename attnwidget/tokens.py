"""The axes of an attention map: what stands along the queries and along the keys.

A model sees vocabulary entries (``Ġcross``, ``##ing``, ``âĤ¬``); people read text. :class:`Tokens` keeps both, and the
marks a picture needs: which entries are special, which characters of the text each covers, which of them make a word or
a sentence together, and, for images, the grid.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from .picture import Picture, picture_of
from .vocabulary import Span, decoded, entries, placed, readable, special_ids, trimmed


@dataclass(frozen=True)
class Tokens:
    """One axis of an attention map, of length n.

    Spans begin and end at visible characters: the space that byte-level vocabularies count to the word behind it is in
    no span. Only a token that is white space and nothing else covers that white space. Tokens that hold bytes of one
    character share its span. A token that has no characters has an empty span where it stands.

    Attributes:
        labels: [n] what a reader sees. Never empty, never a control character, never a broken byte.
        raw: [n] the vocabulary entry as the tokenizer stores it.
        special: [n] True for entries that are not text: ``[CLS]``, ``</s>``, padding, class tokens.
        spans: [n] half-open character ranges in ``text``, or None where there is no text.
        kind: what an entry is: "token", "patch", "frame", "window", "position", "latent", "channel" …
        grid: (rows, columns) of an image, whose patches stand in reading order from :attr:`first_patch` on.
        text: what ``spans`` index; the decoded text where it was not given. Two texts stand one below the other.
        segments: [n] 0 in the first text of a pair, 1 in the second, −1 for specials; None where there is one text.
        generated: [n] True where the model wrote the token itself; empty where it wrote none.
        image: [n] True for placeholders of an image inside a text; empty where there are none.
        picture: uint8 [height, width, 3], the image itself; None where it is not known. Two axes that differ in nothing
            else are equal.
    """

    labels: tuple[str, ...]
    raw: tuple[str, ...] = ()
    special: tuple[bool, ...] = ()
    spans: tuple[Span, ...] | None = None
    kind: str = "token"
    grid: tuple[int, int] | None = None
    ids: tuple[int, ...] | None = field(default=None, repr=False)
    text: str | None = field(default=None, repr=False)
    segments: tuple[int, ...] | None = None
    generated: tuple[bool, ...] = ()
    image: tuple[bool, ...] = ()
    picture: Picture | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.labels)
        object.__setattr__(self, "raw", self.raw or self.labels)
        object.__setattr__(self, "special", self.special or (False,) * n)
        for name in ("generated", "image"):
            if not any(getattr(self, name)):
                object.__setattr__(self, name, ())
        for name in ("raw", "special", "spans", "ids", "segments", "generated", "image"):
            values = getattr(self, name)
            if values is not None and len(values) != n and (values or name not in ("generated", "image")):
                raise ValueError(f"{n} labels but {len(values)} {name}: an axis needs one of each per token.")
        if self.text is not None and self.spans:
            first, last = min(start for start, _ in self.spans), max(stop for _, stop in self.spans)
            if first < 0 or last > len(self.text) or any(start > stop for start, stop in self.spans):
                raise ValueError(f"Spans reach from {first} to {last}, but the text has {len(self.text)} characters.")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Any:
        return iter(self.labels)

    def __getitem__(self, index: int) -> str:
        return self.labels[index]

    # ── making one ──

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
        """An axis of which only the length is known: 0, 1, 2 …; other kinds than "position" go by their name.

        >>> Tokens.positions(2).labels, Tokens.positions(2, "latent").labels
        (('0', '1'), ('latent 0', 'latent 1'))
        """
        return cls(labels=tuple(str(i) if kind == "position" else f"{kind} {i}" for i in range(n)), kind=kind)

    @classmethod
    def patches(
        cls,
        rows: int,
        columns: int,
        before: int | Sequence[str] = 0,
        after: int | Sequence[str] = 0,
        registers: int | None = None,
        *,
        picture: Any = None,
    ) -> Tokens:
        """An image cut into rows × columns patches, with other entries in front of them or behind.

        Args:
            before: number of entries in front, or their labels. Of a number, the last ``registers`` are registers, the
                first of the others is the class token and the second the distillation token.
            after: number of entries behind, or their labels.
            registers: how many of ``before`` are registers; all but the first unless given.
            picture: the image, to be shown under its patches: [height, width, 3] or [height, width] as an array, a
                tensor on the host or an image of PIL; numbers from 0 to 1 or to 255, others are stretched to that.

        Raises:
            ValueError: more registers than entries; a picture of another shape.

        >>> Tokens.patches(1, 2, before=2).labels                        # class token and one register
        ('[CLS]', '[REG 1]', '0,0', '0,1')
        >>> Tokens.patches(1, 2, before=2, registers=0).labels           # DeiT
        ('[CLS]', '[DIST]', '0,0', '0,1')
        >>> Tokens.patches(1, 2, after=["[DET 1]"]).labels
        ('0,0', '0,1', '[DET 1]')
        """
        if isinstance(before, int):
            count = max(0, before - 1) if registers is None else registers
            if not 0 <= count <= before:
                raise ValueError(f"registers={count} of {before} entries in front of the patches.")
            others = ("[CLS]", "[DIST]", *(f"[EXTRA {i}]" for i in range(1, before)))[: before - count]
            before = (*others, *(f"[REG {i + 1}]" for i in range(count)))
        if isinstance(after, int):
            after = tuple(f"[EXTRA {i + 1}]" for i in range(after))
        cells = _cells(rows, columns)
        return cls(
            labels=(*before, *cells, *after),
            special=(True,) * len(before) + (False,) * len(cells) + (True,) * len(after),
            kind="patch",
            grid=(rows, columns),
            picture=None if picture is None else picture_of(picture),
        )

    @classmethod
    def window(cls, rows: int, columns: int) -> Tokens:
        """The rows × columns places of one window of an image (Swin): its corner is 0,0 wherever the window lies."""
        return cls(labels=_cells(rows, columns), kind="window", grid=(rows, columns))

    @classmethod
    def frames(cls, n: int, seconds: float) -> Tokens:
        """Sound in n frames, one every ``seconds``; labels say when a frame begins.

        >>> Tokens.frames(3, 0.02).labels
        ('0.00 s', '0.02 s', '0.04 s')
        """
        if not 0 < seconds < float("inf"):
            raise ValueError(f"A frame lasts {seconds} seconds: give a number above 0.")
        digits = 0
        # As many decimals as say it exactly; where none do (1/75 s), as many as keep neighbours well apart.
        while abs(round(seconds, digits) - seconds) > 1e-9 * seconds and 10**-digits > seconds / 100:
            digits += 1
        return cls(labels=tuple(f"{i * seconds:.{digits}f} s" for i in range(n)), kind="frame")

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        ids: Sequence[int],
        text: str | tuple[str, str] | None = None,
        spans: Sequence[Span] | None = None,
        *,
        segments: Sequence[int | None] | None = None,
        image_ids: Collection[int] = (),
        grid: tuple[int, int] | None = None,
    ) -> Tokens:
        """The axis of ``ids`` under a Hugging Face tokenizer.

        Args:
            ids: [n] vocabulary indices.
            text: what was tokenized, where ``spans`` are known; a pair of texts needs ``segments``. They are joined by
                a line break, and the spans of the second one are moved to where it then stands.
            spans: [n] a fast tokenizer's offset mapping. Without it everything is decoded from the ids, special tokens
                left out; each of them begins a new line, except those that stand for a word (unknown, masked).
            segments: [n] a fast tokenizer's ``sequence_ids``, or ``token_type_ids``.
            image_ids: ids that stand for a piece of an image; their entries count as image, not as special.
            grid: (rows, columns) of that image; kept if its placeholders stand together and are rows · columns.

        Raises:
            ValueError: an id is not in the tokenizer's vocabulary: the tokenizer belongs to another model.
        """
        ids = [int(i) for i in ids]
        raw = entries(tokenizer, ids)
        image = tuple(i in image_ids for i in ids)
        named = special_ids(tokenizer)
        special = tuple(i in named and not picture for i, picture in zip(ids, image, strict=True))
        if text is None or spans is None:
            words = {getattr(tokenizer, f"{name}_token_id", None) for name in ("unk", "mask")}
            whole, places, shown = decoded(tokenizer, ids, raw, special, (named - words) | {*image_ids})
        else:
            whole, given = _joined(text, spans, segments)
            places, shown = placed(tokenizer, ids, raw, special, whole, given)
        labels = list(shown)
        if grid is not None:
            first, size = image.index(True) if any(image) else 0, grid[0] * grid[1]
            if image == tuple(first <= i < first + size for i in range(len(ids))):
                labels[first : first + size] = _cells(*grid)
            else:
                grid = None
        sides = tuple(
            -1 if mark or side is None else int(side)
            for side, mark in zip(segments or [None] * len(ids), special, strict=True)
        )
        return cls(
            labels=tuple(labels),
            raw=raw,
            special=special,
            spans=tuple(places),
            grid=grid,
            ids=tuple(ids),
            text=whole,
            segments=sides if len({*sides} - {-1}) > 1 else None,
            image=image,
        )

    # ── reading it ──

    @property
    def steps(self) -> int:
        """Number of generated tokens."""
        return sum(self.generated)

    @property
    def punctuation(self) -> tuple[bool, ...]:
        """[n] True for tokens of punctuation marks and nothing else.

        >>> Tokens.named(["Stop", "!", "3.5", "…"]).punctuation
        (False, True, False, True)
        """
        return tuple(
            not special and all(unicodedata.category(char)[0] == "P" for char in self._reading(i))
            for i, special in enumerate(self.special)
        )

    @property
    def first_patch(self) -> int | None:
        """Index of the image's patch at row 0, column 0; None where there is no grid."""
        if self.grid is None or all(self.special):
            return None
        return self.image.index(True) if self.image else self.special.index(False)

    @property
    def before(self) -> tuple[str, ...] | None:
        r"""[n] what stands in the text before each token and belongs to none; None where there is no text.

        Texts read from ``before`` and the tokens in turns, as they were written. A token that itself is white space
        shows it as signs (``⏎``), so that a line that ends in it has to be broken there.

        >>> Tokens(("a", "b", "⏎", "c"), spans=((0, 1), (3, 4), (4, 5), (5, 6)), text="a\n b\nc").before
        ('', '\n ', '', '')
        """
        if self.text is None or self.spans is None:
            return None
        found, end = [], 0
        for start, stop in self.spans:
            # A special token that stands nowhere in the text has nothing before it: what follows it has.
            found.append(self.text[end:start] if stop > start else "")
            end = max(end, stop if stop > start else end)
        return tuple(found)

    def cell(self, index: int) -> tuple[int, int] | None:
        """(row, column) in the image of entry ``index``; None where it is no patch.

        >>> Tokens.patches(2, 3, before=1).cell(5)
        (1, 1)
        """
        if self.grid is None or self.first_patch is None:
            return None
        at = index - self.first_patch
        return divmod(at, self.grid[1]) if 0 <= at < self.grid[0] * self.grid[1] else None

    def words(self) -> tuple[int, ...] | None:
        """[n] number of the word each token belongs to, −1 for specials; None where there is no text.

        A word is letters, digits and marks, with apostrophes and hyphens inside it; numbers keep their decimals. Of
        punctuation, symbols and scripts without spaces (Chinese, Japanese, Thai …) each character is a word, unless a
        token spans more of them. A token in several words makes them one. A single space goes with what follows it.
        """
        if self.text is None or self.spans is None:
            return None
        kinds = "".join(map(_kind, self.text))
        # The word of each character. An empty token at the very end goes by the last one.
        word_of = [n for n, word in enumerate(_WORD.finditer(kinds)) for _ in range(*word.span())]
        groups: list[int] = []
        count, reached, before = -1, -1, None
        for i, (start, stop) in enumerate(self.spans):
            segment = self.segments and self.segments[i]
            if self.special[i] or not word_of:
                groups.append(-1 if self.special[i] else (count := count + 1))
                reached = -1
                continue
            apart = self.image != () and self.image[i]
            if apart or segment != before or word_of[min(start, len(word_of) - 1)] > reached:
                count, reached = count + 1, -1
            groups.append(count)
            reached = -1 if apart else max(reached, word_of[min(max(start, stop - 1), len(word_of) - 1)])
            before = segment
        return tuple(groups)

    def sentences(self) -> tuple[int, ...] | None:
        """[n] number of the sentence each token belongs to, −1 for specials; None where there is no text.

        Sentences end at ``. ! ? … 。！？`` and their like and at line breaks, not within a word, and not at the point
        of an abbreviation. A sentence is made of whole words; the placeholders of an image are one sentence.
        """
        words = self.words()
        if words is None or self.text is None or self.spans is None:
            return None
        starts = _sentence_starts(self.text)
        number: dict[Any, int] = {}
        of_word: dict[int, int] = {-1: -1}
        for i, word in enumerate(words):
            if word not in of_word:
                place = bisect_right(starts, self.spans[i][0])
                key = (place, self.image != () and self.image[i], self.segments and self.segments[i])
                of_word[word] = number.setdefault(key, len(number))
        return tuple(of_word[word] for word in words)

    def groups(self, by: str) -> tuple[int, ...] | None:
        """[n] group of each token "by" word, sentence or segment, −1 for specials; None where there is no text."""
        if by == "segment":
            return self.segments or (None if self.text is None else tuple(-int(special) for special in self.special))
        return self.words() if by == "word" else self.sentences()

    def grouped(self, groups: Sequence[int]) -> Tokens:
        """The axis of groups of tokens, in the order in which the groups begin.

        Args:
            groups: [n] group of each token, as from :meth:`words`; −1 for a token that stays by itself.
        """
        members: list[list[int]] = []
        for i, group in enumerate(numbered(groups, len(self))):
            if group == len(members):
                members.append([])
            members[group].append(i)
        if len(members) == len(self):
            return self
        spans = None
        if self.spans is not None:
            spans = [(min(self.spans[i][0] for i in some), max(self.spans[i][1] for i in some)) for some in members]
            spans = spans if self.text is None else [trimmed(self.text, *span) for span in spans]
        labels = []
        for at, some in enumerate(members):
            whole = "" if self.text is None or spans is None or len(some) == 1 else self.text[slice(*spans[at])]
            parts = [self.labels[i] for i in some]
            long = len(some) > 2 and self.kind != "token"
            labels.append(readable(whole) if whole else f"{parts[0]} … {parts[-1]}" if long else " ".join(parts))

        def marks(values: tuple[bool, ...], of: Callable[[Iterable[bool]], bool]) -> tuple[bool, ...]:
            return tuple(of(values[i] for i in some) for some in members) if values else ()

        return Tokens(
            labels=tuple(labels),
            raw=tuple(" ".join(self.raw[i] for i in some) for some in members),
            special=marks(self.special, all),
            spans=None if spans is None else tuple(spans),
            kind=self.kind,
            text=self.text,
            segments=self.segments and tuple(max(self.segments[i] for i in some) for some in members),
            generated=marks(self.generated, any),
            image=marks(self.image, all),
        )

    def _reading(self, index: int) -> str:
        start, stop = self.spans[index] if self.spans is not None else (0, 0)
        return self.text[start:stop] if self.text is not None and stop > start else self.labels[index]


def pictured(axes: Sequence[tuple[Tokens, Tokens]], pictures: Sequence[Picture]) -> tuple[tuple[Tokens, Tokens], ...]:
    """Pairs of axes of each sample, with that sample's image on those that show its patches or hold its placeholders.

    Args:
        axes: [sample] queries and keys, or one pair for all samples.
        pictures: [sample], see :func:`~attnwidget.picture.picture_of`; none of them where they are not known.
    """

    def of(axis: Tokens, picture: Picture) -> Tokens:
        shows = (axis.kind == "patch" and axis.grid is not None) or axis.image
        return replace(axis, picture=picture) if shows else axis

    if not pictures or len(axes) not in (1, len(pictures)):
        return tuple(axes)
    each = tuple(axes) * (len(pictures) // len(axes))
    made = []
    for (queries, keys), picture in zip(each, pictures, strict=True):
        along = of(queries, picture)
        made.append((along, along if keys is queries else of(keys, picture)))
    changed = any(a is not b for pair, old in zip(made, each, strict=True) for a, b in zip(pair, old, strict=True))
    return tuple(made) if changed else tuple(axes)


def numbered(groups: Sequence[int], size: int) -> tuple[int, ...]:
    """[size] groups counted from 0 in the order in which they begin; every −1 is a group of its own.

    >>> numbered([-1, 7, 7, -1, 3], 5)
    (0, 1, 1, 2, 3)
    """
    if len(groups) != size:
        raise ValueError(f"{len(groups)} group numbers for {size} tokens: give one each, -1 for a token by itself.")
    found: dict[Any, int] = {}
    return tuple(found.setdefault((i, None) if group < 0 else group, len(found)) for i, group in enumerate(groups))


def _joined(
    text: str | tuple[str, str], spans: Sequence[Span], segments: Sequence[int | None] | None
) -> tuple[str, list[Span]]:
    if isinstance(text, str):
        return text, [(int(a), int(b)) for a, b in spans]
    if segments is None:
        raise ValueError("Two texts need segments: which of them each token belongs to, as a tokenizer's sequence_ids.")
    shifts = [len(text[0]) + 1 if segment == 1 else 0 for segment in segments]
    return "\n".join(text), [(int(a) + by, int(b) + by) for (a, b), by in zip(spans, shifts, strict=True)]


def _cells(rows: int, columns: int) -> tuple[str, ...]:
    return tuple(f"{r},{c}" for r in range(rows) for c in range(columns))


# ── words and sentences of a text ─────────────────────────────────────────────────────────────────────────────────────

_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# Over the kinds of the characters, see _kind: words, flags, white space, and any other character with what extends it.
_WORD = re.compile(
    r"(?:(?<![os])o(?![os]))?"
    r"(?:[wd][wdmz]*(?:(?:j|(?<=d)n(?=d))[wd][wdmz]*)*|fm*fm*|c[mz]*|[^os][m]*(?:zm*[^oswdcz]m*|z)*)|[os]+"
)


@lru_cache(maxsize=4096)
def _kind(char: str) -> str:
    """One letter: w(ord), d(igit), c (a script without spaces), m(ark), f(lag half), o or s: (other) white space …"""
    category = unicodedata.category(char)
    if char.isspace():
        return "o" if char == " " else "s"
    if category[0] == "M" or "\U0001f3fb" <= char <= "\U0001f3ff" or category == "Cf":
        return "z" if char == "\u200d" else "m"
    if category == "Nd":
        return "d"
    if category[0] in "LN" or category == "Pc":
        return "c" if unicodedata.name(char, "").startswith(_SPACELESS) else "w"
    if "\U0001f1e6" <= char <= "\U0001f1ff":
        return "f"
    return "j" if char in "'’-‐‑·" else "n" if char in ".," else "p"


_SENTENCE_END = re.compile(
    r"([.!?…؟۔।॥]+)[\"'”’»)\]]*(?=\s|$)|[。！？｡]+[」』”’）]*|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]"
)
# Never the end of a sentence (initials and the numbers of a list included), and not one where a small letter follows.
_NEVER_END = re.compile(
    r"\b(?i:e\.g|i\.e|cf|vs|dr|mr|mrs|ms|prof|st|figs?|eq|vol|pp|approx|[^\W\d]\.[^\W\d])\.$"
    r"|(?<![\w'’])[^\W\d]\.$|(?:^|\n)\s*\d{1,3}\.$"
)
_SELDOM_END = re.compile(
    r"\b(?i:etc|al|inc|ltd|co|corp|no|nr|jr|sr|ca|jan|feb|aug|sept|oct|nov|dec|\d+)\.$|[.…]{2}$|…$|[\"'”’»)\]]$"
)


def _sentence_starts(text: str) -> list[int]:
    """Where sentences begin, 0 included; white space in front of one belongs to the one before."""
    starts = [0]
    for end in _SENTENCE_END.finditer(text):
        start = end.end()
        while start < len(text) and text[start].isspace():
            start += 1
        follows = text[start : start + 1]
        if text[end.end() : start] == " ":
            start = end.end()  # as in words: a single space goes with what follows it
        head = text[max(0, end.end() - 16) : end.end()]
        more = follows.islower() or follows.isdigit()
        inside = (end[0] == "." and _NEVER_END.search(head)) or (more and end[1] and _SELDOM_END.search(head))
        if follows and not inside and start > starts[-1]:
            starts.append(start)
    return starts
