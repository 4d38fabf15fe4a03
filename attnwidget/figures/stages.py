"""One query of one head, step by step, as the browser computes it (``js/src/head.ts``, ``stages.ts``).

dot = q·k    scaled = dot · scale    capped = c·tanh(scaled / c)    score = (capped + bias) / temperature
p = exp(score) / (Σ exp(score) + exp(sink / temperature))        z = Σ p·v        written = W_O z
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnwidget.blocks import Block
from attnwidget.selection import SWITCHES

Vector = NDArray[Any]
ALLOWED, HIDDEN, ABSENT = 2, 1, 0
"""Why a key takes part in the softmax, or does not: by the mask, or because it is padding."""


@dataclass(frozen=True)
class Row:
    """What happens at one query; arrays have one number per key that exists so far."""

    dot: Vector
    scaled: Vector
    capped: Vector
    score: Vector
    sees: NDArray[Any]
    sink: float
    weight: Vector
    leak: float
    entropy: float
    z: Vector | None
    written: Vector | None

    @property
    def allowed(self) -> int:
        """How many keys take part."""
        return int((self.sees == ALLOWED).sum())

    def spread(self, name: str) -> float:
        """Standard deviation of a step over the keys that take part."""
        seen = getattr(self, name)[(self.sees == ALLOWED) & np.isfinite(getattr(self, name))]
        return float(seen.std()) if len(seen) else 0.0


class Head:
    """What a block of kind "steps" holds, by the names that ``attnwidget/steps.py`` gives it."""

    def __init__(self, block: Block) -> None:
        self.meta: Mapping[str, Any] = block.meta
        self._arrays = block.arrays
        self.n_q, self.n_k = int(self.meta["n_q"]), int(self.meta["n_k"])
        self.d: int | None = self.meta.get("d")
        self.cap = float(self.meta.get("softcap") or 0.0)
        self.scale = float(self.meta.get("scale") or 1.0)
        self.bias = block.arrays.get("bias")

    def vectors(self, name: str) -> Vector | None:
        """[token, d], where they were kept."""
        found = self._arrays.get(name)
        if found is None:
            return None
        steps = self._arrays.get(f"{name}_step")
        return found.astype(float) if steps is None else found * steps.astype(float)[:, None]

    def query(self, i: int, positions: bool = True) -> Vector:
        return self._line("q", i, positions)

    def key(self, j: int, positions: bool = True) -> Vector:
        return self._line("k", j, positions)

    def _line(self, name: str, at: int, positions: bool) -> Vector:
        plain = None if positions else self.vectors(f"{name}_plain")
        found = self.vectors(name) if plain is None else plain
        assert found is not None
        return np.asarray(found[at])

    def sees(self, i: int, mask: bool) -> NDArray[Any]:
        """Which keys query ``i`` may look at, the mask on or off; one that sees nothing does not with it off either."""
        start, stop, keep = (self._arrays[name] for name in ("start", "stop", "keep"))
        j = np.arange(self.n_k)
        within = (j >= start[i]) & (j < stop[i])
        if "bits" in self._arrays:
            within &= np.unpackbits(self._arrays["bits"][i], bitorder="little")[: self.n_k].astype(bool)
        looks = bool((within & (keep > 0)).any())
        return np.where(keep == 0, ABSENT, np.where(within | (not mask and looks), ALLOWED, HIDDEN))

    def row(self, i: int, switches: Mapping[str, Any], keys: int | None = None) -> Row:
        """From vectors to what the head writes; of the first ``keys`` keys, where the others do not exist yet."""
        keys = self.n_k if keys is None else keys
        positions, temperature = bool(switches["positions"]), float(switches["temperature"])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if self.d is None:
                stored = self.vectors("weights")
                assert stored is not None
                dot = np.log(stored[i])[:keys]
            else:
                of_keys = None if positions else self.vectors("k_plain")
                of_keys = self.vectors("k") if of_keys is None else of_keys
                assert of_keys is not None
                dot = of_keys[:keys] @ self.query(i, positions)
            scaled = dot * self.scale if switches["scale"] and self.d is not None else dot
            capped = self.cap * np.tanh(scaled / self.cap) if self.cap else scaled
            score = (capped + self._bias(i, keys, positions)) / temperature
            sees = self.sees(i, bool(switches["mask"]))[:keys]
            sink = self._sink(i) / temperature if not switches["uniform"] else -math.inf
            there = sees == ALLOWED
            used = np.where(there, 0.0 if switches["uniform"] else score, -np.inf)
            base = max(sink, float(used.max(initial=-math.inf)))
            weight = np.exp(used - (0.0 if base == -math.inf else base))
            mass = float(weight.sum())
            whole = mass + (math.exp(sink - base) if sink > -math.inf else 0.0)
            share = weight[weight > 0] / mass if mass else weight[:0]
            entropy = math.nan if math.isnan(mass) else max(0.0, float(-(share * np.log(share)).sum()))
            weight = weight / whole if whole else weight
        v = self.vectors("v")
        z = None if v is None else weight @ v[:keys]
        o = self.vectors("o") if z is not None else None
        leak = 0.0 if sink == -math.inf or not whole else 1 - mass / whole
        return Row(dot, scaled, capped, score, sees, sink, weight, leak, entropy, z, None if o is None else o @ z)

    def _bias(self, i: int, keys: int, positions: bool) -> Any:
        if self.bias is None or (not positions and self.meta.get("bias_positional") is True):
            return 0.0
        if self.bias.ndim == 1:
            return self.bias.astype(float)[np.arange(keys) - i + self.n_q - 1]
        found = self.vectors("bias")
        assert found is not None
        return found[i, :keys]

    def _sink(self, i: int) -> float:
        found = self._arrays.get("sink")
        return -math.inf if found is None else float(found[0 if len(found) == 1 else i])


def changes_of(switches: Mapping[str, Any], head: Head) -> list[str]:
    """What differs from the model, in words; empty where nothing does."""
    if switches["uniform"]:
        return ["uniform attention"]
    off = [
        (not switches["scale"] and head.d is not None, "no scaling"), (not switches["mask"], "no mask"),
        (not switches["positions"] and head.meta.get("positions") is not None, "no positions"),
        (switches["temperature"] != 1, f"temperature {switches['temperature']:.3g}"),
    ]  # fmt: skip
    return [words for is_, words in off if is_]


@dataclass(frozen=True)
class Column:
    """A step that has a number for every key."""

    id: str
    step: int
    head: str
    off: bool = False


def columns_of(head: Head, row: Row, switches: Mapping[str, Any]) -> list[Column]:
    """The steps of a head at one query; those that do nothing in it are left out."""
    found: list[Column] = []

    def add(id: str, text: str, off: bool = False) -> None:
        found.append(Column(id, len(found) + (1 if head.d is None else 2), text, off))

    masked = bool((row.sees != ALLOWED).any())
    told = [
        (head.d is None, "ln p"), (head.bias is not None, "+ bias"), (masked, "mask"),
        (switches["temperature"] != 1, "÷ T"),
    ]  # fmt: skip
    joined = ", ".join(words for is_, words in told if is_)
    if head.d is not None:
        add("dot", "q·k")
        root = abs(head.scale * math.sqrt(head.d) - 1) < 1e-4
        add("scaled", f"÷ √{head.d}" if root else f"× {head.scale:.3g}", not switches["scale"])
    if head.cap:
        add("capped", f"cap ±{head.cap:g}")
    if joined:
        add("score", joined, joined == "mask" and not switches["mask"])
    add("weight", "uniform" if switches["uniform"] else "softmax")
    if head.vectors("v") is not None:
        add("value", "× v")
    return found


def at(row: Row, id: str, key: int) -> float | None:
    """The number of a key in a column; None where it has none. One that is masked has one up to the mask."""
    seen = row.sees[key]
    if seen == ALLOWED or (seen == HIDDEN and id not in ("score", "weight")):
        return float(getattr(row, id)[key])
    return None


def worth_a_line(own: Row, now: Row, limit: int, always: int | None) -> list[int]:
    """The keys that are worth a line, in the order of the text: all where they are few, else the strongest."""
    n = len(own.weight)
    if n <= limit * 1.5:
        return list(range(n))
    size = np.maximum(own.weight, now.weight)
    chosen = {always} - {None}
    for j in np.argsort(-np.nan_to_num(size), kind="stable"):
        if len(chosen) < limit and size[j] > 0:
            chosen.add(int(j))
    return sorted(one for one in chosen if one is not None)


def moved(a: Row, b: Row) -> float:
    """How much weight lies elsewhere, what leaves to a sink with it."""
    return float(np.abs(a.weight - b.weight).sum() + abs(a.leak - b.leak)) / 2


USUAL = SWITCHES
"""Nothing is switched."""
