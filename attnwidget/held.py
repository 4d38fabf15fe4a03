"""What was costly to compute of an attention: held as long as the attention is, for whoever asks again."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from .shown import Shown, is_difference

T = TypeVar("T")
_held: WeakKeyDictionary[Any, dict[Hashable, Any]] = WeakKeyDictionary()


def of(attention: Shown, part: str) -> dict[Hashable, Any]:
    """What is held of a part of the sample in view, to look into and to put into."""
    # Selecting a sample makes another attention of the same layers; a comparison is its own owner.
    compared = is_difference(attention)
    owner = attention if compared else next(layer for layer in attention.part(part).layers if layer.heads)
    found: dict[Hashable, Any] = _held.setdefault(owner, {}).setdefault((part, attention.sample), {})
    return found


def once(attention: Shown, part: str, key: Hashable, make: Callable[[], T]) -> T:
    """What ``make`` made of that part of the sample in view, when it was first asked for."""
    known = of(attention, part)
    if key not in known:
        known[key] = make()
    made: T = known[key]
    return made
