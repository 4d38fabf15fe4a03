"""The Python that makes something again, as far as what it was made of can be written down."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence, Set
from typing import Any

_MOST_NUMBERS = 4096  # of a tensor of ids


class Name(str):
    """A name that stands for itself: ``model``, ``tokenizer``."""


def call(function: str, arguments: Mapping[str, Any], **options: Any) -> str:
    """The call of ``function``, under a comment for whatever of it cannot be written.

    Args:
        arguments: those by position, by the names that stand for them where they cannot be written.
        options: those by keyword.

    >>> print(call("capture", {"model": Name("model"), "inputs": "The cat"}, layers=[0], hook=print))
    # hook: a builtin_function_or_method, which cannot be written here
    capture(model, 'The cat', layers=[0], hook=hook)
    """
    remarks, words = [], []
    for name, value in [*arguments.items(), *options.items()]:
        found = written(value)
        if found is None:
            remarks.append(f"# {name}: {_described(value)}, which cannot be written here")
        words.append(f"{name}=" * (name not in arguments) + (found or name))
    return "\n".join([*remarks, f"{function}({', '.join(words)})"])


def split(made: str) -> tuple[list[str], str]:
    """The comments of a recipe, and the expression below them."""
    *remarks, expression = made.splitlines() or [""]
    return remarks, expression


def written(value: Any) -> str | None:
    r"""``value`` as Python writes it; None where it is something that has no short and exact form.

    >>> written({"ids": (1, 2), "text": "a\u2028b"})
    "{'ids': (1, 2), 'text': 'a\\u2028b'}"
    """
    if isinstance(value, Name):
        return str(value)
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, str):
        return str.__repr__(value)  # of numpy's, too
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        items = [(written(key), written(one)) for key, one in value.items()]
        return None if any(None in pair for pair in items) else f"{{{', '.join(f'{k}: {v}' for k, v in items)}}}"
    if isinstance(value, (tuple, list, Set, range)):
        ones = [written(one) for one in (sorted(value, key=repr) if isinstance(value, Set) else value)]
        if None in ones:
            return None
        inside = ", ".join(map(str, ones))
        return (f"({inside},)" if len(ones) == 1 else f"({inside})") if isinstance(value, tuple) else f"[{inside}]"
    if hasattr(value, "shape") and hasattr(value, "tolist"):
        is_number = value.shape == () and not str(value.dtype).startswith("torch.")  # of numpy
        return written(value.tolist()) if is_number else _tensor(value)
    if type(value).__name__ == "dtype":
        return str(value) if str(value).startswith("torch.") else None
    try:
        return repr(operator.index(value))
    except TypeError:
        return None


def _tensor(value: Any) -> str | None:
    """Whole numbers, as ids and masks are."""
    size = math.prod(value.shape)
    kind = str(value.dtype).removeprefix("torch.")
    if size > _MOST_NUMBERS or not kind.startswith(("int", "uint", "bool")) or str(value.dtype) == kind:
        return None
    dtype = "" if kind in ("int64", "bool") else f", dtype=torch.{kind}"
    return f"torch.tensor({value.tolist()!r}{dtype})"


def _described(value: Any) -> str:
    shape: Sequence[int] | None = getattr(value, "shape", None)
    if shape is not None:
        return f"{type(value).__name__} {str(value.dtype).removeprefix('torch.')} {list(shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_described(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)) and len(value) <= 8:
        return "(" + ", ".join(_described(one) for one in value) + ")"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
