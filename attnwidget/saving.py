"""Writing the file of an attention: see ``stored.py`` for what is in it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .archive import MOST_HEADER, NAME
from .layers import Layer, Part
from .masks import Mask, on_host
from .rotary import UNEXPLAINED, Rotary
from .shown import versions
from .stored import VERSION
from .tokens import Tokens

if TYPE_CHECKING:
    from .attention import Attention

_NOT_SAVED = "The output projection is the model's own weight, and this file was saved without projections=True."


@on_host
def save(attention: Attention, path: str | Path, *, values: bool = True, projections: bool = False) -> Path:
    """See :meth:`attnwidget.Attention.save`."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to write {target.name} into.")
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder. Name a file in it: {target / 'attention.safetensors'}.")
    shelf = _Shelf()
    check = attention.check
    said = {
        "version": VERSION,
        "made_with": versions(),
        "made": attention.made,
        "model": attention.model,
        "noun": attention.noun,
        "sample": attention.sample,
        "notes": attention.notes,
        "check": None if check is None else asdict(check),
        "parts": [
            shelf.part(attention.part(name), f"parts.{at}", values, projections)
            for at, name in enumerate(attention.parts)
        ],
        "axes": shelf.axes,
        "masks": shelf.masks,
        "rotary": shelf.rotary,
    }
    beside = target.with_name(f"{target.name}.part")
    try:
        with beside.open("wb") as file:
            shelf.write(file, {"format": NAME, NAME: json.dumps(said)})
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    return target


class _Shelf:
    """The arrays of a file, and what is said once and referred to by number."""

    def __init__(self) -> None:
        self.axes: list[dict[str, Any]] = []
        self.masks: list[dict[str, Any]] = []
        self.rotary: list[dict[str, Any]] = []
        self._tensors: dict[str, Tensor] = {}
        self._known: dict[Any, Any] = {}  # what is there already: by id of an object, by place in memory of a tensor
        self._held: list[Any] = []  # so that ids stay theirs

    def part(self, part: Part, at: str, values: bool, projections: bool) -> dict[str, Any]:
        """What is said of a part, with its arrays put on the shelf."""
        return {
            "name": part.name,
            "title": part.title,
            "queries": self._axis(part.queries),
            "keys": self._axis(part.keys),
            "axes": [[self._axis(one) for one in pair] for pair in part.axes],
            "layers": [
                self._layer(layer, f"{at}.layers.{number}", values, projections)
                for number, layer in enumerate(part.layers)
            ],
        }

    def _layer(self, layer: Layer, at: str, values: bool, projections: bool) -> dict[str, Any]:
        if not layer.heads:
            return {"name": layer.name, "absent": layer.absent}
        bias, output, turned = layer.bias, layer.output, layer.rotary
        arrays = {"q": layer.q, "k": layer.k, "v": layer.v if values else None, "weights": layer.weights}
        arrays["sink"] = layer.sink
        if bias is not None:
            arrays |= {"offsets": bias.offsets, "dense": bias.dense}
        said: dict[str, Any] = {"why": dict(layer.why)}
        if layer.turned and turned is None:
            said["why"]["positions"] = UNEXPLAINED
        if output is not None:
            found, why = layer.output_of(0) if projections else (None, {"output": _NOT_SAVED})
            said["why"] |= why
            if found is not None:
                arrays["output"] = output.rows[:, output.first : output.first + layer.heads * output.width]
                said["output_name"] = output.name
        return {
            "name": layer.name,
            "mask": self._mask(layer.mask),
            "scale": layer.scale,
            "softcap": layer.softcap,
            "positional": bias is not None and bias.positional,
            "rotary": None if turned is None else [self._turned(one) for one in turned],
            **said,
            **{name: self.put(f"{at}.{name}", one) for name, one in arrays.items() if one is not None},
        }

    def _turned(self, rotary: Rotary) -> int:
        if id(rotary) not in self._known:
            at = f"rotary.{len(self.rotary)}"
            arrays = {name: self.put(f"{at}.{name}", getattr(rotary, name)) for name in ("cos", "sin")}
            self._add(
                rotary, self.rotary, {**arrays, "pairs": rotary.pairs, "first": rotary.first, "before": rotary.before}
            )
        found: int = self._known[id(rotary)]
        return found

    def _mask(self, mask: Mask) -> int:
        if id(mask) not in self._known:
            at = f"masks.{len(self.masks)}"
            arrays = {"start": mask.start.int(), "stop": mask.stop.int(), "keep": mask.keep.byte()}
            if mask.dense is not None:
                arrays["bits"] = torch.from_numpy(np.packbits(mask.dense.numpy(), axis=-1, bitorder="little"))
            self._add(mask, self.masks, {name: self.put(f"{at}.{name}", one) for name, one in arrays.items()})
        found: int = self._known[id(mask)]
        return found

    def _axis(self, axis: Tokens) -> int:
        if id(axis) not in self._known:
            names = ("labels", "raw", "spans", "kind", "grid", "ids", "text", "segments")
            said = {name: getattr(axis, name) for name in names}
            said |= {name: _marked(getattr(axis, name)) for name in ("special", "generated", "image")}
            said["raw"] = None if axis.raw == axis.labels else axis.raw
            if axis.picture is not None:
                said["picture"] = self.put(f"axes.{len(self.axes)}.picture", torch.from_numpy(axis.picture.copy()))
            self._add(axis, self.axes, said)
        found: int = self._known[id(axis)]
        return found

    def _add(self, one: Any, to: list[dict[str, Any]], said: dict[str, Any]) -> None:
        self._known[id(one)] = len(to)
        self._held.append(one)
        to.append(said)

    def put(self, name: str, tensor: Tensor) -> str:
        """The name of an array with these numbers: a new one, unless that memory is on the shelf already."""
        tensor = tensor.detach()
        key = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
        if key not in self._known:
            self._known[key], self._tensors[name] = name, tensor
        found: str = self._known[key]
        return found

    def write(self, file: Any, metadata: dict[str, str]) -> None:
        """The file: a header, and the arrays, those of large numbers first, so that all are aligned."""
        kinds = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        kinds |= {torch.int32: "I32", torch.uint8: "U8"}
        ready = {name: one if one.dtype in kinds else one.float() for name, one in self._tensors.items()}
        order = sorted(ready, key=lambda name: -ready[name].element_size())
        header: dict[str, Any] = {"__metadata__": metadata}
        stop = 0
        for name in order:
            start, stop = stop, stop + ready[name].numel() * ready[name].element_size()
            shape = list(ready[name].shape)
            header[name] = {"dtype": kinds[ready[name].dtype], "shape": shape, "data_offsets": [start, stop]}
        words = json.dumps(header, separators=(",", ":")).encode("ascii")
        words += b" " * (-len(words) % 8)
        if len(words) > MOST_HEADER:
            raise ValueError("There are too many tokens for one file: save fewer texts at once.")
        file.write(len(words).to_bytes(8, "little") + words)
        for name in order:
            whole = ready[name].cpu().contiguous()
            whole = whole.view(torch.int16) if whole.dtype == torch.bfloat16 else whole
            file.write(whole.numpy().data)


def _marked(flags: Sequence[bool]) -> list[int]:
    return [at for at, flag in enumerate(flags) if flag]
