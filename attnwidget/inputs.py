"""What a model is given: texts as tensors on its device, and what of its inputs tells what stands along the axes."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .picture import Picture, picture_of


@dataclass(frozen=True)
class Text:
    """A text as the tokenizer cut it.

    Attributes:
        ids: [token].
        text: what the spans index into; the two texts of a pair stand on lines of their own.
        spans: [token] half-open character ranges.
        segments: [token] 0 or 1 for the first and the second text of a pair, −1 for what the tokenizer added.
    """

    ids: tuple[int, ...]
    text: str
    spans: tuple[tuple[int, int], ...]
    segments: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Inputs:
    """What of a run's inputs tells what stands along its axes. Nothing else of them is kept.

    Attributes:
        read, decoded: ids [batch, token] of the encoder's or only text, and of the decoder's.
        keep, keep_decoded: bool [batch, token], False for padding; None where there is none.
        segments: [batch, token] which text of a pair each token belongs to, as BERT is told.
        pixels: shape of the image [batch, channel, height, width].
        pictures: [batch] the images as they can be looked at, where each sample has one.
        grids: (frames, rows, columns) of patches of each of several images that are packed into one run.
        seconds: length of the sound.
        batch: number of texts or images.
    """

    read: Tensor | None = None
    decoded: Tensor | None = None
    keep: Tensor | None = None
    keep_decoded: Tensor | None = None
    segments: Tensor | None = None
    pixels: tuple[int, ...] | None = None
    pictures: tuple[Picture, ...] = ()
    grids: tuple[tuple[int, int, int], ...] = ()
    seconds: float | None = None
    batch: int = 1

    @classmethod
    def of(cls, arguments: Mapping[str, Any], config: Any = None) -> Inputs:
        """From the arguments of the model's forward, by name."""
        given = {
            name: one
            for name, one in arguments.items()
            if isinstance(one, Tensor) and one.dim() and one.device.type != "meta"
        }

        def ids(name: str, floats: bool = False) -> Tensor | None:
            value = given.get(name)
            if value is None or value.dim() != 2 or (value.is_floating_point() and not floats):
                return None
            return value.detach().to("cpu", copy=True)

        def kept(name: str) -> Tensor | None:
            mask = ids(name, floats=True)
            told = mask is not None and bool(((mask == 0) | (mask == 1)).all())
            return mask.bool() if mask is not None and told and not bool(mask.all()) else None

        pixels, packed = given.get("pixel_values"), given.get("image_grid_thw", given.get("grid_thw"))
        images = [
            one for one in given.values() if one.dim() == 4 and one.is_floating_point() and one.shape[1] in (1, 3)
        ]
        if pixels is None and len(images) == 1 and "input_ids" not in given:
            pixels = images[0]  # models of timm and torchvision call it x
        first = next((given[name] for name in _MAIN if name in given), next(iter(given.values()), None))
        batch = 1 if first is None else max(1, len(first))
        return cls(
            read=ids("input_ids"),
            decoded=ids("decoder_input_ids"),
            keep=kept("attention_mask"),
            keep_decoded=kept("decoder_attention_mask"),
            segments=ids("token_type_ids"),
            # Several images of one text have an axis of their own.
            pixels=tuple(pixels.flatten(0, -4).shape) if pixels is not None and pixels.dim() >= 4 else None,
            pictures=_pictures(pixels, batch),
            grids=tuple(map(tuple, packed.tolist())) if packed is not None and packed.dim() == 2 else (),
            seconds=_seconds(given, config),
            batch=batch,
        )


_MOST_PICTURES = 64  # of 200 kB each


def _pictures(pixels: Tensor | None, batch: int) -> tuple[Picture, ...]:
    """The images of a batch with one for each sample; none where it has others, or what is given is no image."""
    if pixels is None or pixels.dim() < 4:
        return ()
    images = pixels.detach().flatten(0, -4)
    if len(images) != batch or images.shape[1] not in (1, 3) or not images.numel() or batch > _MOST_PICTURES:
        return ()
    return tuple(picture_of(one.permute(1, 2, 0).float().cpu().numpy()) for one in images)


def _seconds(given: Mapping[str, Tensor], config: Any) -> float | None:
    """Length of the sound that speech models are given: 16 000 samples or 100 spectra a second; None where unclear."""
    wave, spectra = given.get("input_values"), given.get("input_features")
    if wave is not None and wave.dim() == 2:
        return wave.shape[1] / 16_000
    if spectra is None or spectra.dim() != 3:
        return None
    named = (getattr(config, name, None) for name in ("num_mel_bins", "feature_projection_input_dim"))
    bands = {n for n in named if isinstance(n, int)} or {80, 128, 160}
    lengths = [n for n, other in (spectra.shape[1:], spectra.shape[:0:-1]) if other in bands]
    # 160 bands are two spectra of 80 in one.
    wide = 2 if 160 in spectra.shape[1:] else 1
    return lengths[0] * wide / 100 if len(lengths) == 1 else None


# Whose first axis is the batch, whatever else is among the arguments (packed images are not).
_MAIN = ("input_ids", "inputs_embeds", "input_features", "input_values")


@dataclass(frozen=True)
class Given:
    """Arguments of a model's forward, on its device; and the texts that are read, and those to be decoded, as cut."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    texts: tuple[Text, ...] = ()
    targets: tuple[Text, ...] = ()


def given_to(
    model: nn.Module,
    inputs: Any,
    tokenizer: Any = None,
    *,
    target: str | Sequence[str] | None = None,
    truncate: bool = False,
    decodes: bool = False,
) -> Given:
    """The arguments that ``inputs`` stand for.

    Args:
        model: whose forward is to be called.
        inputs: a text, a pair of texts (a tuple), a list of either; or a mapping of keyword arguments, a tensor, a
            tuple of positional arguments.
        tokenizer: for texts.
        target: for encoder-decoder models, what the decoder reads.
        truncate: cut texts that are longer than the model allows.
        decodes: something else says what the decoder reads.

    Raises:
        TypeError: none of these. ValueError: an empty or overlong text, ids that the model has no embedding for, an
            encoder-decoder model that was not told what to decode.
    """
    takes = inspect.signature(unwrapped(model).forward).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    if target is not None and not is_encoder_decoder(model) and "decoder_input_ids" not in takes:
        raise ValueError(f"{type(model).__name__} has no decoder that reads a text of its own: leave target= out.")
    device = device_of(model)
    inputs = _as_tensors(inputs)
    reads = getattr(model, "main_input_name", "input_ids") == "input_ids"
    if _is_text(inputs) and "input_ids" not in takes and not (anything and reads):
        wanted = ", ".join(name for name, one in takes.items() if one.default is one.empty)
        raise ValueError(
            f"{type(model).__name__} reads no text: its forward takes {wanted or ', '.join(takes)}. Pass that, as a "
            "mapping or a tuple."
        )
    texts: list[Text] = []
    targets: list[Text] = []
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(inputs, Tensor):
        args = (inputs,)
    elif isinstance(inputs, Mapping):
        kwargs = dict(inputs)
    elif _is_text(inputs):
        encoded, cut = _encoded(model, inputs, tokenizer, truncate, "text")
        kwargs |= encoded | _positions(model, encoded.get("attention_mask"))
        texts += cut
    elif isinstance(inputs, tuple) and not any(isinstance(one, str) for one in inputs):
        args = inputs
    else:
        raise TypeError(_what_it_may_be(inputs))
    if target is not None:
        encoded, cut = _encoded(model, target, tokenizer, truncate, "target")
        kwargs["decoder_input_ids"] = encoded["input_ids"]
        if len(encoded["input_ids"]) > 1:
            kwargs["decoder_attention_mask"] = encoded["attention_mask"]
        targets += cut
    elif texts and not decodes and is_encoder_decoder(model):
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder: say what the decoder reads, target='…', or pass "
            "decoder_input_ids in a mapping; or let it write, capture_generation(model, text, tokenizer)."
        )
    args = tuple(_on(one, device) for one in args)
    kwargs = {name: _on(one, device) for name, one in kwargs.items()}
    _matching(model, kwargs.get("input_ids", args[0] if args else None), tokenizer if texts else None)
    _matching(model, kwargs.get("decoder_input_ids"), tokenizer if targets else None)
    return Given(args, kwargs, tuple(texts), tuple(targets))


def _positions(model: nn.Module, keep: Tensor | None) -> dict[str, Tensor]:
    """Positions that begin at the first token of each text, for models that would count the padding before it."""
    if keep is None or bool(keep[:, 0].all()):
        return {}
    takes = inspect.signature(unwrapped(model).forward).parameters
    # Some find them by themselves: from the ids, or along the axes of an image.
    finds = ("create_position_ids_from_input_ids", "get_rope_index")
    if "position_ids" not in takes or any(hasattr(one, name) for one in model.modules() for name in finds):
        return {}
    return {"position_ids": (keep.long().cumsum(1) - 1).clamp_min(0)}


def device_of(model: nn.Module) -> torch.device:
    """Where the model expects its inputs. Offloaded weights are on the device "meta" until they are needed."""
    placed = getattr(model, "hf_device_map", None) or {}
    places = [p for p in placed.values() if p not in ("disk", "cpu", "meta")]
    if places:
        return torch.device(places[0]) if not isinstance(places[0], int) else torch.device("cuda", places[0])
    return next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself: a compiled one is a shell around it.

    Raises:
        TypeError: it is no model.
    """
    if not isinstance(model, nn.Module):
        named = " Load it first, with from_pretrained." if isinstance(model, str) else ""
        if hasattr(model, "parts"):  # an attention
            named = " An attention without its model cannot be run again."
        raise TypeError(
            f"model is of type {type(model).__name__}: it has to be a torch.nn.Module, as in capture(model, text, "
            f"tokenizer) or show(text, model, tokenizer).{named}"
        )
    inside: nn.Module = getattr(model, "_orig_mod", model)
    return inside


def is_encoder_decoder(model: nn.Module) -> bool:
    """What its configuration says."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _as_tensors(inputs: Any) -> Any:
    """numpy arrays as tensors, and lists of ids, as tokenizers make them, too."""
    if isinstance(inputs, np.ndarray):
        return torch.from_numpy(inputs)
    if not isinstance(inputs, Mapping):
        return inputs
    made: dict[str, Any] = {}
    for name, value in inputs.items():
        if name.endswith(("_ids", "_mask")) and isinstance(value, list):
            rows = value if value and isinstance(value[0], list) else [value]
            if len({len(row) for row in rows}) > 1:
                raise ValueError(
                    f"{name} holds texts of different lengths. Let the tokenizer pad them and make tensors: "
                    "tokenizer(texts, padding=True, return_tensors='pt')."
                )
            made[name] = torch.tensor(rows)
        else:
            made[name] = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
    return made


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _is_text(inputs: Any) -> bool:
    """A text, a pair of texts, or a list of them."""
    if isinstance(inputs, list):
        return bool(inputs) and all(_is_text(one) and not isinstance(one, list) for one in inputs)
    return isinstance(inputs, str) or (
        isinstance(inputs, tuple) and len(inputs) == 2 and all(isinstance(one, str) for one in inputs)
    )


def _what_it_may_be(inputs: Any) -> str:
    if isinstance(inputs, list) and inputs and all(isinstance(one, (list, Tensor)) for one in inputs):
        lengths = sorted({len(one) for one in inputs})
        return (
            f"inputs is a list of {len(inputs)} sequences of ids, {lengths[0]} to {lengths[-1]} long. Pad them and "
            "pass a mapping, {'input_ids': …, 'attention_mask': …}; or pass the texts themselves."
        )
    more = " Not every item of the list is a text." if isinstance(inputs, list) and inputs else ""
    if isinstance(inputs, tuple):
        more = f" This tuple has {len(inputs)} items, and a pair has two texts; several texts are a list."
    found = "an empty list" if isinstance(inputs, list) and not inputs else f"a {type(inputs).__name__}"
    return (
        f"inputs is {found}. Pass a text, a pair of texts (a tuple), a list of either, a mapping of the model's "
        f"keyword arguments, a tensor, or a tuple of tensors.{more}"
    )


def _encoded(
    model: nn.Module, inputs: Any, tokenizer: Any, truncate: bool, what: str
) -> tuple[dict[str, Any], list[Text]]:
    """The tokenizer's output, padded to one length, and each text as it was cut, where the tokenizer can tell."""
    if tokenizer is None:
        raise ValueError(f"A {what} needs a tokenizer: capture(model, {what}, tokenizer).")
    if not callable(tokenizer):
        raise TypeError(f"tokenizer is a {type(tokenizer).__name__}, not a tokenizer.")
    each = list(inputs) if isinstance(inputs, list) else [inputs]
    pairs = [one if isinstance(one, tuple) else (one, None) for one in each]
    if len({second is None for _, second in pairs}) > 1:
        raise ValueError("Some of the texts are pairs and some are not. Pass all of them as pairs, or none.")
    limit = limit_of(model, tokenizer)
    options: dict[str, Any] = {"truncation": True, "max_length": limit} if truncate and limit else {}
    if len(each) > 1:
        if getattr(tokenizer, "pad_token_id", 0) is None:
            raise ValueError(
                f"{len(each)} texts have to be padded to one length, and {type(tokenizer).__name__} has no padding "
                "token. Give it one, tokenizer.pad_token = tokenizer.eos_token: padding is masked, whatever it is."
            )
        options["padding"] = True
    fast = bool(getattr(tokenizer, "is_fast", False))
    seconds = [second for _, second in pairs if second is not None]
    with _as_before(tokenizer):
        encoding = tokenizer(
            [first for first, _ in pairs],
            *([seconds] if seconds else []),
            return_tensors="pt",
            **options,
            **({"return_offsets_mapping": True} if fast else {}),
        )
    # Tokenizers may make more than the model takes: token types, say.
    takes = inspect.signature(unwrapped(model).forward).parameters
    anything = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    encoded = {k: v for k, v in encoding.items() if anything or k in takes or k in ("input_ids", "offset_mapping")}
    offsets = encoded.pop("offset_mapping", None)
    ids = encoded["input_ids"]
    special = set(getattr(tokenizer, "all_special_ids", ()))
    for at, one in enumerate(pairs):
        which = f"The {what}" if len(pairs) == 1 else f"{what.capitalize()} {at}"
        blank = not any(part and part.strip() for part in one)
        if ids.shape[1] == 0 or (blank and all(i in special for i in ids[at].tolist())):
            raise ValueError(f"{which} is empty: there are no tokens to attend to.")
    if limit and ids.shape[1] > limit:
        raise ValueError(
            f"The {what} has {ids.shape[1]} tokens, and {type(model).__name__} takes at most {limit}. Pass "
            f"truncate=True to keep the first {limit}, or shorten it."
        )
    if offsets is None:
        return encoded, []
    return encoded, [
        _cut(ids[at].tolist(), one, offsets[at].tolist(), encoding.sequence_ids(at)) for at, one in enumerate(pairs)
    ]


def _cut(ids: list[int], pair: tuple[str, str | None], offsets: list[list[int]], owners: list[int | None]) -> Text:
    first, second = pair
    if second is None:
        return Text(tuple(ids), first, tuple((a, b) for a, b in offsets))
    shift = len(first) + 1
    spans = tuple(
        (a + shift, b + shift) if owner == 1 else (a, b) for (a, b), owner in zip(offsets, owners, strict=True)
    )
    return Text(tuple(ids), f"{first}\n{second}", spans, tuple(-1 if owner is None else owner for owner in owners))


@contextlib.contextmanager
def _as_before(tokenizer: Any) -> Iterator[None]:
    """A fast tokenizer remembers how it was last told to truncate and pad; give that back."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    truncation, padding = (getattr(backend, name, None) for name in ("truncation", "padding"))
    try:
        yield
    finally:
        if backend is not None:
            backend.enable_truncation(**truncation) if truncation else backend.no_truncation()
            backend.enable_padding(**padding) if padding else backend.no_padding()


def limit_of(model: nn.Module, tokenizer: Any = None) -> int | None:
    """Most tokens the model takes, from its configuration and its tokenizer; None where neither says."""
    config = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    stated = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    stated.append(getattr(tokenizer, "model_max_length", None))
    # A tokenizer that does not know says 10³⁰.
    limits = [int(n) for n in stated if isinstance(n, int) and 0 < n < 10**9]
    return min(limits, default=None)


def _matching(model: nn.Module, ids: Any, tokenizer: Any) -> None:
    """Refuse ids that the model has no embedding for, before torch does it with an index out of range."""
    try:
        table = model.get_input_embeddings()  # type: ignore[operator]  # absent on plain modules
    except (AttributeError, NotImplementedError, TypeError):
        return
    if isinstance(ids, Tensor) and ids.dim() == 1 and ids.dtype == torch.long:
        raise ValueError(f"The input is one row of {len(ids)} ids; a model takes a batch of them: pass ids[None].")
    rows = getattr(getattr(table, "weight", None), "shape", (0,))[0]
    if isinstance(ids, Tensor) and ids.dtype == torch.long and ids.numel() and rows and int(ids.max()) >= rows:
        whose = f"The tokenizer ({type(tokenizer).__name__}) makes" if tokenizer is not None else "The input has"
        raise ValueError(
            f"{whose} token id {int(ids.max())}, but {type(model).__name__} has embeddings for {rows} ids only. "
            "Pass the tokenizer that belongs to this model."
        )
