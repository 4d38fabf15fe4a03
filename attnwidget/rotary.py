"""Queries and keys that are turned by their positions (Su et al. 2021), and turned back.

No table says how a model turns them. While it runs, what multiplies vectors by something of their positions is noted,
with two rows of the vectors: the multiplications by cos and sin are among it. A way of turning is believed when it
takes these rows to what the attention then got.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

Pairs: TypeAlias = Literal["halves", "neighbours"]

UNEXPLAINED = (
    "Queries and keys of this layer are multiplied by something of their positions, but no rotation of pairs "
    "of entries by angles was found that explains what the attention got; so none is taken back."
)
"""Why there is no :class:`Rotary` where something was noted."""

# Largest difference that rounding explains, relative to the largest entry, by the precision of what was multiplied.
_TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}


@dataclass(frozen=True, eq=False)
class Rotary:
    """How the vectors of one axis were turned: each pair of their entries by an angle of its own at each position.

    Attributes:
        cos, sin: float32 [batch or 1, token, pair].
        pairs: "halves": entries i and i + width / 2 are a pair; "neighbours": entries 2i and 2i + 1.
        first: the first entry that is turned.
        before: how many tokens stand before the first that is turned, a class token say.
    """

    cos: Tensor
    sin: Tensor
    pairs: Pairs
    first: int = 0
    before: int = 0

    @property
    def width(self) -> int:
        """How many entries are turned."""
        return 2 * self.cos.shape[-1]

    def undone(self, vectors: Tensor, sample: int = 0) -> Tensor:
        """float32 [token, d]: ``vectors`` [token, d] of one head as if all stood at position 0.

        What else cos and sin do, a factor on every entry say (YaRN), stays done.
        """
        cos, sin = self.cos[sample % len(self.cos)], self.sin[sample % len(self.sin)]
        size = torch.hypot(cos, sin)
        cos, sin = cos / size, sin / size
        last = self.first + self.width
        before, a, b, after = _split(vectors.float(), self.pairs, self.first, last)
        return torch.cat([before, _joined(a * cos + b * sin, b * cos - a * sin, self.pairs), after], -1)


@dataclass(frozen=True, eq=False)
class Turned:
    """One multiplication of vectors by something of their positions, noted as it was, since it is noted in every layer.

    Attributes:
        some: what was multiplied, of the tokens of :func:`_sampled` only.
        by: with what.
        along: the axes of ``some`` along which ``by`` differs: tokens, or batch and tokens.
    """

    some: Tensor
    by: Tensor
    along: tuple[int, ...]

    @property
    def rows(self) -> Tensor:
        """[head, row, width], of the first sample, in host memory."""
        x, token = self.some.cpu(), self.along[-1]
        if len(self.along) == 2 or (x.dim() == 4 and token > 0):
            x, token = x.select(self.along[0] if len(self.along) == 2 else 0, 0), token - 1
        x = x.movedim(token, -2)
        return x.reshape(-1, *x.shape[-2:])

    @property
    def angles(self) -> Tensor:
        """[batch or 1, token, width]: what they were multiplied with, in host memory; complex where pairs are."""
        missing = self.some.dim() - self.by.dim()
        batch = self.by.shape[self.along[0] - missing] if len(self.along) == 2 else 1
        return self.by.cpu().reshape(batch, -1, self.by.shape[-1])


def multiplied(args: Sequence[Any]) -> tuple[Tensor, Tensor] | None:
    """The two factors, the larger first, where one may be queries or keys and the other something of their positions.

    Asked of every multiplication of a model, so it is quick.
    """
    if len(args) != 2:
        return None
    x, by = args
    if not (isinstance(x, Tensor) and isinstance(by, Tensor)) or x.shape[-1:] != by.shape[-1:]:
        return None
    if x.dim() < by.dim() or x.numel() < by.numel():
        x, by = by, x
    # The weight of a norm has one axis; what gates a hidden state is as large as it, and has three.
    if by.dim() < 2 or x.dim() < 3 or x.dim() < by.dim() or (x.dim() == 3 and x.numel() == by.numel()):
        return None
    return x, by


def turned(x: Tensor, by: Tensor) -> Turned | None:
    """What to note of x · by, with x [batch, head, token, width] or those axes in another order, or fewer of them."""
    missing = x.dim() - by.dim()
    along = tuple(axis + missing for axis, size in enumerate(by.shape[:-1]) if size > 1)
    if not 1 <= len(along) <= 2 or len(along) == x.dim() - 1:
        return None
    if any(by.shape[axis - missing] != x.shape[axis] for axis in along):
        return None
    token = along[-1]
    return Turned(x.detach().index_select(token, _sampled(x.shape[token], x.device)), by.detach(), along)


@lru_cache(maxsize=32)
def _sampled(tokens: int, device: torch.device) -> Tensor:
    return torch.tensor([tokens // 2, tokens - 1], device=device)


def fitted(noted: Sequence[Turned], vectors: Tensor) -> Rotary | None:
    """How ``vectors`` [head, token, d], those of the first sample, were turned, where what was noted tells."""
    heads, tokens, d = vectors.shape
    found: dict[int, Rotary] = {}
    for tried in _ways(noted):
        way, x, length = tried.rotary, tried.x, tried.rotary.cos.shape[1]
        width = way.width
        if width > d or length > tokens or (heads % len(x) and len(x) < heads):
            continue
        # Heads that share their keys may have been repeated since.
        x = x[:heads] if len(x) >= heads else x.repeat_interleave(heads // len(x), 0)
        at = _sampled(length, torch.device("cpu"))
        theirs = vectors[:, tokens - length + at].float()
        a, b = _split(x, way.pairs, 0, width)[1:3]
        cos, sin = way.cos[0, at], way.sin[0, at]
        ours = _joined(a * cos - b * sin, b * cos + a * sin, way.pairs)
        bound = max(tried.tolerance, _TOLERANCE.get(vectors.dtype, 0.0)) * float(theirs.abs().max())
        for first in range(0, d - width + 1, width) if d % width == 0 else (0, d - width):
            if first not in found and _alike(ours, theirs[..., first : first + width], bound):
                still = tokens - length
                cos, sin = (pad(one, (0, 0, still, 0), value=at_rest) for one, at_rest in tried.angles)
                found[first] = Rotary(cos, sin, way.pairs, first, still)
        if found and width == d:
            break
    # Turned in several pieces, each in a way of its own: that is not for one rotation to undo.
    return next(iter(found.values())) if len(found) == 1 else None


def _alike(ours: Tensor, theirs: Tensor, bound: float) -> bool:
    """Whether they are the same, but for a factor of each vector: norms may come after the turning, which they keep."""
    factor = (ours * theirs).sum(-1, keepdim=True) / (ours * ours).sum(-1, keepdim=True).clamp_min(1e-30)
    return bool(((ours * factor - theirs).abs() <= bound).all())


@dataclass(frozen=True, eq=False)
class _Way:
    x: Tensor  # [head, row, width], before it was turned
    rotary: Rotary
    tolerance: float

    @property
    def angles(self) -> tuple[tuple[Tensor, float], tuple[Tensor, float]]:
        """cos and sin, and what they are where nothing is turned."""
        return (self.rotary.cos, 1.0), (self.rotary.sin, 0.0)


def _ways(noted: Sequence[Turned]) -> Iterator[_Way]:
    """What the vectors and the angles may have been, the likeliest first."""
    known = [(one, one.rows, one.angles) for one in noted]
    for one, x, by in known:
        tolerance = max(_TOLERANCE.get(t.dtype, 1e-5) for t in (x, by))
        if by.is_complex():
            yield _Way(torch.view_as_real(x).flatten(-2), Rotary(by.real, by.imag, "neighbours"), tolerance)
            continue
        x, cos, width = x.float(), by.float(), by.shape[-1]
        for other, _, also in known:
            if also.shape != by.shape or also.is_complex() or _same(other.by, one.by):
                continue
            sin = also.float()
            # x · cos + turned by a quarter(x) · sin, with each angle there twice …
            if width % 2 == 0:
                for pairs in _PAIRS:
                    (a, b), (c, s) = _split(cos, pairs, 0, width)[1:3], _split(sin, pairs, 0, width)[1:3]
                    # The signs of the quarter turn may be in the sine.
                    if torch.equal(a, b) and (torch.equal(c, s) or torch.equal(c, -s)):
                        yield from (_Way(x, Rotary(a, sign * c, pairs), tolerance) for sign in (1, -1))
            # … or both halves of x by themselves, each times cos and times sin.
            for third, half, _ in known:
                if third is not one and third.by.shape == one.by.shape and _same(third.by, one.by):
                    second = half.float()
                    if second.shape == x.shape and not torch.equal(second, x):
                        for pairs in _PAIRS:
                            whole = _joined(x, second, pairs)
                            yield from (_Way(whole, Rotary(cos, sign * sin, pairs), tolerance) for sign in (1, -1))


_PAIRS: tuple[Pairs, ...] = ("halves", "neighbours")


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.stride() == b.stride()


def _split(x: Tensor, pairs: Pairs, first: int, last: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What comes before, the first and the second entries of the pairs, and what comes after."""
    inside = x[..., first:last]
    half = (last - first) // 2
    both = (inside[..., :half], inside[..., half:]) if pairs == "halves" else (inside[..., ::2], inside[..., 1::2])
    return x[..., :first], *both, x[..., last:]


def _joined(a: Tensor, b: Tensor, pairs: Pairs) -> Tensor:
    return torch.cat([a, b], -1) if pairs == "halves" else torch.stack([a, b], -1).flatten(-2)
