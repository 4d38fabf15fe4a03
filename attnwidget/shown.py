"""What is looked at, without any arithmetic: all of a run, its parts, and the axes they have.

An :class:`~attnwidget.Attention` computes with torch and a :class:`~attnwidget.thin.Stored` with numpy; what does not
depend on that is here, so that a widget works where torch is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

from .tokens import Tokens

if TYPE_CHECKING:
    from typing_extensions import Self, TypeIs

    from .attribution import Attribution
    from .chosen import Chosen
    from .compare import Difference
    from .trace import Trace

Reduce: TypeAlias = Literal["mean", "max", "min"]
REDUCTIONS: tuple[Reduce, ...] = ("mean", "max", "min")
Side: TypeAlias = Literal["difference", "a", "b"]
SIDES: tuple[Side, ...] = ("difference", "a", "b")


@runtime_checkable
class Shown(Protocol):
    """What a widget asks of whatever it shows: an Attention, two of them compared, or one out of a file."""

    noun: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, the one shown first in front."""

    @property
    def model(self) -> str | None:
        """Its name."""

    @property
    def check(self) -> Check | None:
        """The comparison with what the model itself computed."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What has to be known of it."""

    @property
    def sample(self) -> int:
        """The sample in view."""

    @property
    def samples(self) -> int:
        """How many there are."""

    def part(self, name: str | None = None) -> Any:
        """The part of that name, or the first."""

    def select(self, sample: int) -> Any:
        """The same with another sample in view."""

    @property
    def map(self) -> Callable[..., Any]:
        """One map, of a layer and a head."""


def _is(one: object, room: str, name: str) -> bool:
    """Whether it is of that class, which needs torch: only where its room is loaded can there be one."""
    loaded = sys.modules.get(f"{__package__}.{room}")
    return loaded is not None and isinstance(one, getattr(loaded, name))


def is_trace(one: object) -> TypeIs[Trace]:
    """Whether it is what :func:`~attnwidget.trace` returned."""
    return _is(one, "trace", "Trace")


def is_difference(one: object) -> TypeIs[Difference]:
    """Whether it is what :func:`~attnwidget.compare` made of two."""
    return _is(one, "compare", "Difference")


def is_attribution(one: object) -> TypeIs[Attribution]:
    """Whether it is what :func:`~attnwidget.attribute` returned."""
    return _is(one, "attribution", "Attribution")


_WITHOUT_TORCH = ("anywidget", "ipywidgets", "matplotlib", "numpy", "traitlets")  # what is used where it is not


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Says in words that ``what`` needs a package that is not installed.

    >>> with needing("capture"):  # doctest: +ELLIPSIS
    ...     raise ModuleNotFoundError(name="torch")
    Traceback (most recent call last):
    ModuleNotFoundError: capture needs PyTorch, which is not installed here: pip install torch transformers. What ...
    """
    try:
        yield
    except ModuleNotFoundError as problem:
        package = (problem.name or "").partition(".")[0]
        if package in ("", __package__):
            raise
        if package not in _WITHOUT_TORCH:
            try:
                import torch  # noqa: F401  # is it there? What is missed first may be something smaller
            except ImportError:
                package = "torch"
        words = f"{what} needs {package}, which is not installed here: pip install {package}"
        if package == "torch":
            words = f"{what} needs PyTorch, which is not installed here: pip install torch transformers. What "
            words += "attention.save(path) wrote opens without it: attnwidget.load(path)."
        raise ModuleNotFoundError(words, name=problem.name) from None


@dataclass(frozen=True)
class Check:
    """What the comparison of recomputed rows with the model's own output said.

    Attributes:
        ok: the largest relative difference is within ``tolerance``.
        max_error: largest |recomputed − model's| over the sampled rows, relative to the largest output entry.
        rows: number of rows compared (0: there was nothing to compare with).
        tolerance: what rounding in the model's own precision explains.
        text: the result in a sentence.
        stored: the precision in which Q and K, or weights, are kept: "float32", "bfloat16" …
        effect: largest |p of what is kept − p of what the model had| over the sampled rows; 0 without ``dtype=``.
    """

    ok: bool
    max_error: float
    rows: int
    tolerance: float
    text: str
    stored: str = ""
    effect: float = 0.0


L = TypeVar("L", bound=Any)
P = TypeVar("P", bound="PartOf[Any]")
M = TypeVar("M", bound="Chosen[Any]")


@dataclass(frozen=True, eq=False)
class PartOf(Generic[L]):
    """Layers that share their axes: an encoder, a decoder, the attention of one to the other, an image tower.

    Attributes:
        layers: each one attention call: :class:`~attnwidget.layers.Layer`, or :class:`~attnwidget.thin.Layer`.
        queries, keys: the axes of the text or image in view.
        axes: [batch] pairs of axes, where the texts of a batch differ.
    """

    name: str
    layers: tuple[L, ...]
    queries: Tokens
    keys: Tokens
    title: str = ""
    axes: tuple[tuple[Tokens, Tokens], ...] = ()

    def __post_init__(self) -> None:
        for layer in self.layers:
            if layer.shape[2:] != (len(self.queries), len(self.keys)):
                raise ValueError(
                    f"Layer {layer.name!r} is {layer.shape[2]} queries × {layer.shape[3]} keys, but part {self.name!r} "
                    f"has {len(self.queries)} × {len(self.keys)} tokens."
                )

    @property
    def heads(self) -> int:
        """Largest number of heads of any layer."""
        most: int = max(layer.heads for layer in self.layers)
        return most

    @property
    def batch(self) -> int:
        """Number of samples."""
        most: int = max(layer.shape[0] for layer in self.layers)
        return most

    @property
    def is_causal(self) -> bool:
        return all(layer.mask.is_causal for layer in self.layers if layer.heads)


# ── all of a run ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Run(Generic[P, M]):
    """All of a run of a model: its parts, and what is known of them.

    Attributes:
        model, check, notes: as of :class:`Shown`.
        sample: the text or image in view. noun: what one sample is: "text", "image", "window" or "sample".
        made: the Python that made it, as far as that can be written; "" where it is not known.
    """

    def __init__(
        self,
        parts: Sequence[P],
        *,
        model: str | None = None,
        check: Check | None = None,
        notes: Sequence[str] = (),
        sample: int = 0,
        noun: str = "sample",
        made: str = "",
    ) -> None:
        if not parts or not all(part.layers and part.heads for part in parts):
            raise ValueError("An Attention needs at least one part with at least one layer.")
        self._parts = {part.name: part for part in parts}
        if len(self._parts) != len(parts):
            raise ValueError(f"Part names must differ: {[part.name for part in parts]}.")
        self.model, self.check, self.notes = model, check, tuple(notes)
        self.sample, self.noun, self.made = sample, noun, made

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, the one shown first in front."""
        return tuple(self._parts)

    @property
    def tokens(self) -> Tokens:
        """The query axis of the first part."""
        return self.part().queries

    @property
    def samples(self) -> int:
        """Number of texts or images in the batch."""
        return max(part.batch for part in self._parts.values())

    @property
    def nbytes(self) -> int:
        """Memory held by Q, K, V, weights and dense masks, in bytes."""
        return sum(layer.nbytes for part in self._parts.values() for layer in part.layers)

    def part(self, name: str | None = None) -> P:
        """The part of that name; the first one where the name is left out."""
        if name is None:
            return next(iter(self._parts.values()))
        if name not in self._parts:
            raise KeyError(f"There is no part {name!r}; this attention has {', '.join(map(repr, self.parts))}.")
        return self._parts[name]

    _map: type[M]  # the class of its maps

    def map(
        self,
        layer: int | None = None,
        head: int | None = None,
        *,
        part: str | None = None,
        reduce: Reduce = "mean",
        heads: Sequence[tuple[int, int]] | None = None,
    ) -> M:
        """The map of one head, or reduced over the heads of a layer, the layers of a head, both, or some heads.

        Args:
            layer, head: index, negative from the end; None reduces over that axis.
            reduce: "mean", "max" or "min". Only the mean keeps rows that sum to one.
            heads: pairs (layer, head) in place of the two: the map is reduced over exactly these, each counted once.
                What one of them may not see counts there as 0.

        Raises:
            IndexError: no such layer or head. KeyError: no such part. ValueError: no such reduction; ``heads`` is
                empty, or given along with a layer or head. TypeError: ``heads`` holds something else than pairs.

        >>> import torch
        >>> from attnwidget import Attention
        >>> attention = Attention.from_weights(torch.stack([torch.eye(2), torch.full((2, 2), 0.5)])[:, None])
        >>> attention.map(heads=[(0, 0), (1, 0)], reduce="max").weights()
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
        """
        return self._map(self, self.part(part), layer, head, reduce, heads)

    def __getitem__(self, key: tuple[Any, ...]) -> M:
        if not isinstance(key, tuple) or len(key) not in (2, 3):
            raise TypeError(
                "Index an attention with [layer, head] or [part, layer, head]; None averages over that axis."
            )
        if len(key) == 2 and isinstance(key[0], str):
            raise TypeError(f"Name the layer and the head, too: attention[{key[0]!r}, layer, head].")
        part = key[0] if len(key) == 3 else None
        return self.map(key[-2], key[-1], part=part)

    def select(self, sample: int) -> Self:
        """The same attention with another text of the batch in view. Nothing is copied."""
        if not -self.samples <= sample < self.samples:
            raise IndexError(f"Sample {sample} of a batch of {self.samples}.")
        at = sample % self.samples

        def axes_of(part: P) -> tuple[Tokens, Tokens]:
            return part.axes[at * len(part.axes) // self.samples]

        shown = [
            replace(part, queries=axes_of(part)[0], keys=axes_of(part)[1]) if part.axes else part
            for part in self._parts.values()
        ]
        return type(self)(
            shown, model=self.model, check=self.check, notes=self.notes, sample=at, noun=self.noun, made=self.made
        )

    def sample_in(self, part: P) -> int:
        """The sample in view as ``part`` counts: several windows, of images say, belong to one text of another part."""
        return self.sample * part.batch // self.samples

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{p.name}: {len(p.layers)} layers × {p.heads} heads, {len(p.queries)} × {len(p.keys)}"
            for p in self._parts.values()
        )
        parts += f"; {self.samples} {self.noun}s" if self.samples > 1 else ""
        of = f" of {self.model}" if self.model else ""
        return f"<{type(self).__name__}{of}: {parts}; {in_words(self.nbytes)}>"


def in_words(size: int) -> str:
    """A number of bytes."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def versions() -> dict[str, str]:
    """Of this package, and of what the numbers were computed with."""
    loaded = (sys.modules.get(name) for name in ("attnwidget", "torch", "transformers"))
    return {module.__name__: str(module.__version__) for module in loaded if module is not None}
