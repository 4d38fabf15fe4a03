"""Whether what is kept of a run is what the model computed: a few rows of every call, compared with its own output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from .layers import Layer
from .parts import Call
from .shown import Check

# Rows of each call that are recomputed and compared with what the model computed.
_ROWS = 6
# Largest relative difference that rounding explains, per precision in which the model ran.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


class Comparison:
    """The comparisons of one run.

    Attributes:
        errors: of each call that was compared, largest |ours − theirs| relative to the largest output entry.
        skipped: by module, why a call was not.
    """

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype  # in which Q and K are kept, where that was asked for
        self.errors: list[float] = []
        self.skipped: dict[str, str] = {}
        self.changed: list[str] = []  # modules whose softmax is changed before it multiplies the values
        self._effects: list[float] = []  # largest difference that keeping them so makes to a weight
        self._tolerance = 0.0
        self._rows = 0

    def rounded(self, kept: Tensor, weights: Tensor) -> None:
        """Weights that are kept in another precision than the model has them in."""
        if self.dtype is not None:
            self._effects.append(float((kept.float() - weights.detach().cpu().float()).abs().max()))

    def compare(self, layer: Layer, call: Call, out: Tensor) -> None:
        """Recompute some rows of ``layer`` and multiply the values with them: ``out`` [batch, head, query, d]."""
        batch, heads, queries, _ = layer.shape
        if out.shape[:3] != (batch, heads, queries) or queries == 0:
            self.skipped[layer.name] = "its output has another layout"
            return
        assert call.v is not None
        sample = len(self.errors) % batch
        rows = _sampled(queries)
        p = layer.block(sample, None, rows)[0]
        # Rows without any key are padding: implementations differ in what they write there, and nobody reads it.
        seen = (p != 0).any(-1).any(0)
        rows, p = rows[seen], p[:, seen]
        if not len(rows):
            return
        theirs = out[sample].detach()[:, rows.to(out.device)].cpu().float()
        values = call.v[sample % len(call.v)].detach().cpu().float()
        # Heads that share values stand below each other: [kv_head, group · row, key] @ [kv_head, key, d].
        ours = p.reshape(len(values), -1, p.shape[-1]) @ values
        # Another size than the output's is no rounding: the call was misread.
        fits = ours.numel() == theirs.numel()
        off = float((ours.reshape(theirs.shape) - theirs).abs().max()) if fits else math.inf
        if not math.isfinite(off) and fits and not bool(torch.isfinite(theirs).all()):
            self.skipped[layer.name] = "the model's own output has NaN or infinite numbers"
            return
        self.errors.append(off / max(float(theirs.abs().max()), 1e-6))
        self._rows += len(rows)
        precisions = {call.v.dtype, self.dtype or call.v.dtype}
        self._tolerance = max(self._tolerance, *(_TOLERANCE.get(one, 1e-4) for one in precisions))
        if self.dtype is not None and call.q is not None and call.k is not None:
            exact = replace(layer, q=call.q.detach().cpu(), k=call.k.detach().cpu())
            self._effects.append(float((exact.block(sample, None, rows)[0] - p).abs().max()))

    def verdict(self, kept: Sequence[Layer]) -> Check:
        """What they come to."""
        # Written so that NaN fails the comparison.
        ok = all(error <= self._tolerance for error in self.errors)
        worst = max(self.errors, default=0.0, key=lambda e: math.inf if e != e else e)
        calls = f"{len(kept)} attention calls"
        held = {t.dtype for one in kept for t in (one.q, one.weights) if t is not None}
        stored, effect = (
            ", ".join(sorted(str(one).removeprefix("torch.") for one in held)),
            max(self._effects, default=0.0),
        )
        if self.changed:
            ok = False
            text = (
                f"{self.changed[0]} does not multiply its values with the softmax that is shown, but with numbers made "
                "of it that have signs (talking heads, a difference of two softmaxes). No map shows these"
            )
        elif not self.errors:
            text = f"{calls}, not compared with the model's output: "
            text += next(iter(self.skipped.values()), "dropout is on, or no row has a key")
            if all(one.weights is not None for one in kept):
                text = f"{calls}, kept as the model's own softmax gave them"
        elif not ok:
            text = (
                f"The recomputed attention does not reproduce the model's output: {worst:.1e} off (at most "
                f"{self._tolerance:.0e} is rounding). Do not trust these maps"
            )
            too_small = self.dtype is not None and worst != worst
            text += (
                f": {stored} cannot hold these numbers, keep bfloat16 or float32"
                if too_small
                else ("; please report the model")
            )
        else:
            compared = calls if len(self.errors) == len(kept) else f"{len(self.errors)} of {calls}"
            text = f"{self._rows} rows of {compared} recomputed: they reproduce the model's own output to {worst:.1e}"
        text += "."
        if self.dtype is not None and ok:
            text += f" Kept in {stored}, which moves their weights by at most {effect:.1e}."
        return Check(ok, worst, self._rows, self._tolerance if self.errors else 0.0, text, stored, effect)


@lru_cache(maxsize=32)
def _sampled(queries: int) -> Tensor:
    """Which rows are recomputed, [row]."""
    return torch.linspace(0, queries - 1, min(queries, _ROWS)).long()
