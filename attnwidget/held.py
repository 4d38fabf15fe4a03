"""What was costly to compute of an attention: held as long as the attention is, for whoever asks again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

from .shown import Shown, is_difference

T = TypeVar("T")
_held: WeakKeyDictionary[Any, dict[Hashable, Any]] = WeakKeyDictionary()


def of(attention: Shown, part: str) -> dict[Hashable, Any]:
    """What is held of a part of the sample in view, to look into and to put into."""
    whole: Any = attention
    owner, key = whole, (part,)  # of a comparison
    if not is_difference(attention):
        # Another sample is another attention of the same layers; others may share some layers, and not the rest.
        one = whole.part(part)
        owner = next(layer for layer in one.layers if layer.heads)
        key = (part, whole.sample_in(one), one.queries, one.keys, *map(ref, one.layers))
    found: dict[Hashable, Any] = _held.setdefault(owner, {}).setdefault(key, {})
    return found


def once(attention: Shown, part: str, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` made of that part of the sample in view, when it was first asked for."""
    known = of(attention, part)
    if key not in known:
        known[key] = make()
    made: T = known[key]
    return made
