"""One number that comes out of a model, which methods explain and interventions change."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A scalar of a model's output.

    Attributes:
        words: what it is, as in "the logit of ' mat' after token 11".
        of: from the model's output to the scalar, a tensor without axes.
        position: the query token whose output it is read from; None where it is of all of them, or of no token.
        ids: the entries of the logits it is made of: one, or two whose difference it is; () where it is something else.
    """

    words: str
    of: Callable[[Any], Tensor]
    position: int | None = None
    ids: tuple[int, ...] = ()

    @classmethod
    def resolved(
        cls,
        wanted: Any,
        output: Any,
        *,
        tokenizer: Any = None,
        config: Any = None,
        ids: Tensor | None = None,
        keep: Tensor | None = None,
        causal: bool = True,
        position: int | None = None,
    ) -> Objective:
        """What somebody asked for, given what one run of the model put out.

        Args:
            wanted: None for the largest logit; a token, a class or its number for that logit; a pair of them for the
                difference of two logits; "loss" for the mean cross-entropy of the text under the model itself (a token
                of that name is asked for by its number); an Objective; or a function of the model's output.
            output: what the model returned.
            tokenizer: turns a token into its number. config: the model's, which may name classes.
            ids: what the logits speak of, [1, token]. keep: bool [1, token], False for padding.
            causal: each token is told by those before it, so that there is a loss of the text.
            position: which token's logits, negative from the end; the last that is no padding, or the mask, unless
                given. Models that classify have one row of logits for the whole text.

        Raises:
            ValueError: no such token, class or position; no logits; a number that gradients cannot explain.
            TypeError: none of these.
        """
        whole = isinstance(wanted, Objective) or callable(wanted) or (isinstance(wanted, str) and wanted == "loss")
        if whole and position is not None:
            raise ValueError(
                "position says whose logits are meant, and this objective is of no one token: leave it out."
            )
        if isinstance(wanted, Objective):
            return wanted
        if callable(wanted):
            name = getattr(wanted, "__name__", type(wanted).__name__)
            return cls(f"{'a function of the output' if name == '<lambda>' else name}", wanted)
        if whole and isinstance(_loss_of(output), Tensor):
            return cls("the loss that the model returned", _loss_of)
        logits = logits_of(output)
        if whole:
            if not causal or logits.dim() != 3 or ids is None or ids.shape != logits.shape[:2]:
                raise ValueError(
                    "There is no loss of a text here, of which each token is told by those before it: give the model "
                    "labels=, so that it returns its own, or pass a function of its output instead."
                )
            return cls("the mean cross-entropy of the text", _loss(ids, keep))
        at = _position(logits, position, tokenizer, ids, keep)
        row = logits[0] if at is None else logits[0, at]
        names = _Names(tokenizer, config, len(row), at is None or _tags(config, len(row)))
        chosen = (
            list(wanted) if isinstance(wanted, (tuple, list)) else [int(row.argmax()) if wanted is None else wanted]
        )
        if not 1 <= len(chosen) <= 2:
            raise ValueError(f"objective names {len(chosen)} outputs; name one, or two whose difference it is to be.")
        found = tuple(names.number(one) for one in chosen)
        words = "the logit of " + " less that of ".join(map(names.name, found))
        words += "" if at is None else f" at token {at}"

        def of(output: Any) -> Tensor:
            every = logits_of(output)
            row = every[0] if at is None else every[0, at]
            return row[found[0]] if len(found) == 1 else row[found[0]] - row[found[1]]

        return cls(words, of, at, found)

    def scalar(self, output: Any) -> Tensor:
        """Its value, checked.

        Raises:
            ValueError: it is no single finite real number.
        """
        value = self.of(output)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
            what = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"The objective must be one real number that torch computed from the model's output; it is {what}. "
                "Reduce it, with .mean() or .sum() say, and do not call .item()."
            )
        if not bool(torch.isfinite(value)):
            raise ValueError(f"The objective, {self.words}, is {float(value.detach())}: there is nothing to explain.")
        return value.reshape(())


def _loss_of(output: Any) -> Any:
    return output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)


def logits_of(output: Any) -> Tensor:
    """The logits [1, class] or [1, token, vocabulary] among what a model returned.

    Raises:
        ValueError: there are none, or of several texts.
    """
    found = output
    if not isinstance(output, Tensor):
        get = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
        found = next((one for one in map(get, ("logits", "prediction_logits")) if isinstance(one, Tensor)), None)
        if found is None and isinstance(output, Sequence) and output and isinstance(output[0], Tensor):
            found = output[0] if type(output) in (tuple, list) else None
    if not isinstance(found, Tensor) or found.dim() not in (2, 3):
        raise ValueError(
            f"The model returned {type(output).__name__}, which has no logits of tokens or classes: pass "
            "objective=a function of it that returns one number, or load the model with its head."
        )
    if len(found) != 1:
        raise ValueError(f"The model returned logits of {len(found)} texts: give it one at a time.")
    return found


def _position(
    logits: Tensor, position: int | None, tokenizer: Any, ids: Tensor | None, keep: Tensor | None
) -> int | None:
    if logits.dim() == 2:
        if position is not None:
            raise ValueError("This model classifies whole texts or images: its logits have no position.")
        return None
    size = logits.shape[1]
    if position is not None:
        if not -size <= position < size:
            raise ValueError(f"position is {position}; there are logits of {size} tokens.")
        return position % size
    masked = getattr(tokenizer, "mask_token_id", None)
    if ids is not None and masked is not None and ids.shape == (1, size) and bool((ids == masked).any()):
        return int((ids[0] == masked).nonzero()[0])
    if keep is not None and keep.shape == (1, size):
        return int(keep[0].nonzero()[-1])
    return size - 1


def _loss(ids: Tensor, keep: Tensor | None) -> Callable[[Any], Tensor]:
    """Mean cross-entropy of each token after the first, in nats, under the logits of the token before."""

    def of(output: Any) -> Tensor:
        logits = logits_of(output)[0, :-1].float()
        told = torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(logits.device), reduction="none")
        # The first token of a text is told by nothing, not by padding on its left.
        return told.mean() if keep is None else told[(keep[0, 1:] & keep[0, :-1]).to(told.device)].mean()

    return of


def _tags(config: Any, size: int) -> bool:
    """Whether each token has logits of classes and not of the vocabulary."""
    config = getattr(config, "get_text_config", lambda: config)()
    return size == len(getattr(config, "id2label", None) or ()) != getattr(config, "vocab_size", size)


class _Names:
    """What the entries of the logits are called."""

    def __init__(self, tokenizer: Any, config: Any, size: int, classes: bool) -> None:
        self.tokenizer, self.size, self.classes = tokenizer, size, classes
        self.labels = dict(getattr(config, "id2label", None) or {}) if classes else {}

    def name(self, number: int) -> str:
        if self.classes:
            return repr(self.labels.get(number, f"class {number}"))
        return repr(self.tokenizer.decode([number])) if self.tokenizer is not None else f"token id {number}"

    def number(self, wanted: Any) -> int:
        if not isinstance(wanted, str):
            with contextlib.suppress(TypeError, ValueError):
                wanted = wanted if isinstance(wanted, bool) else operator.index(wanted)
        if isinstance(wanted, bool) or not isinstance(wanted, (int, str)):
            raise TypeError(
                f"objective is {wanted!r}; it may be a token, a class or its number, a pair of them, 'loss', or a "
                "function of the model's output."
            )
        noun = "class" if self.classes else "token id"
        if isinstance(wanted, int):
            if not 0 <= wanted < self.size:
                raise ValueError(f"There is no {noun} {wanted}: the model has {self.size} logits.")
            return wanted
        if self.classes:
            by_name = {label: number for number, label in self.labels.items()}
            if not by_name:
                raise ValueError(f"The model does not say which class {wanted!r} is: pass its number.")
            if wanted not in by_name:
                raise ValueError(f"There is no class {wanted!r}; there are {', '.join(map(repr, by_name))}.")
            return int(by_name[wanted])
        if self.tokenizer is None:
            raise ValueError(f"The token {wanted!r} has a number only the tokenizer knows: pass it, or the number.")
        if not wanted:
            raise ValueError("objective is an empty text: name a token, or its number.")
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        tried = []
        for text in (wanted, f" {wanted}"):
            pieces = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(pieces) == 1 and pieces[0] != unknown and pieces[0] < self.size:
                return int(pieces[0])
            tried.append(pieces)
        held = self.tokenizer.convert_tokens_to_ids(wanted)
        if isinstance(held, int) and held != unknown and 0 <= held < self.size:
            return held
        into = ", ".join(repr(self.tokenizer.decode([one])) for one in tried[0])
        raise ValueError(
            f"{wanted!r} is no token of this model's vocabulary: it is cut into {into or 'nothing'}. Name one of "
            "these, or its number."
        )
