"""Attention outside transformers: torch's own modules, functions written by hand, timm, torchvision.

Every route is a model, its inputs, and an oracle: the maps it really used, found without attnwidget.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import oracle, vision
from .shrink import sharpen

Made = tuple[nn.Module, Any]
# Runs the model; returns the maps of that run, [batch, head, query, key] each.
Oracle = Callable[[nn.Module, Any], list[Tensor]]

_SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.softmax": lambda s: torch.softmax(s, dim=-1),
    "F.softmax": lambda s: F.softmax(s, -1),
    "s.softmax": lambda s: s.softmax(-1),
    "nn.Softmax": nn.Softmax(dim=-1),
    "exp ÷ sum": lambda s: torch.exp(s) / torch.exp(s).sum(-1, keepdim=True),
    "exp ÷ sum, safe": lambda s: (e := (s - s.amax(-1, keepdim=True)).exp()) / e.sum(-1, True),
}  # fmt: skip
_PRODUCT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "@": lambda p, v: p @ v,
    "matmul": torch.matmul,
    "bmm": lambda p, v: torch.bmm(p.flatten(0, 1), v.flatten(0, 1)).unflatten(0, p.shape[:2]),
    "einsum": lambda p, v: torch.einsum("bhqk,bhkd->bhqd", p, v),
}


class ByHand(nn.Module):
    """softmax(QKᵀ/√d)·V with the softmax and the product written in one of the usual ways. Keeps its weights."""

    def __init__(self, softmax: str, product: str, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.softmax, self.product = _SOFTMAX[softmax], _PRODUCT[product]
        self.qkv = nn.Linear(width, 3 * width)
        self.used: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / (width // self.heads) ** 0.5
        weights = self.softmax(scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf))
        self.used = [weights.detach().clone()]
        return self.product(weights, v).transpose(1, 2).reshape(b, n, width)


class Bare(nn.Module):
    """One call of F.scaled_dot_product_attention, with the options in ``kind``."""

    def __init__(self, kind: str, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.kind, self.heads = kind, heads
        self.qkv = nn.Linear(width, 3 * width)
        self.used: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        options: dict[str, dict[str, Any]] = {
            "causal": {"is_causal": True},
            "boolean mask": {"attn_mask": torch.ones(n, n, dtype=torch.bool).tril(1)},
            "additive mask, scale": {"attn_mask": torch.linspace(-1, 1, n * n).view(n, n), "scale": 0.3},
            "grouped": {"enable_gqa": True},
        }
        given = options[self.kind]
        if self.kind == "grouped":
            k, v = k[:, ::2], v[:, ::2]
        self.used = [oracle.closed_form(q, k, v, **given)]
        return F.scaled_dot_product_attention(q, k, v, **given).transpose(1, 2).reshape(b, n, width)


class MultiHead(nn.Module):
    """nn.MultiheadAttention, asked for its weights in one of three ways."""

    def __init__(self, asked: str) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.options = {
            "no weights": {"need_weights": False},
            "averaged": {},
            "per head": {"average_attn_weights": False},
        }[asked]

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, **self.options)[0]  # type: ignore[no-any-return]  # what a module returns is Any to mypy


def kept(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The weights that the module put aside itself."""
    oracle.run(model, inputs)
    return [used for module in model.modules() for used in getattr(module, "used", [])]


def asked(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What every nn.MultiheadAttention returns when it is given the same arguments again and asked for all weights."""
    found: list[Tensor] = []

    def again(module: Any, args: Any, kwargs: Any, _: Any) -> None:
        with torch.no_grad():
            wanted = kwargs | {"need_weights": True, "average_attn_weights": False}
            found.append(type(module).forward(module, *args, **wanted)[1])

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention):
                stack.callback(module.register_forward_hook(again, with_kwargs=True).remove)
        oracle.run(model, inputs)
    return found


def dropped(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What goes into every ``attn_drop`` of timm, which multiplies the values next, with fused attention off."""
    twin = copy.deepcopy(model)
    found: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        for name, module in twin.named_modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
            if name.endswith("attn_drop"):
                stack.callback(module.register_forward_hook(lambda _, args, __: found.append(args[0].detach())).remove)
        oracle.run(twin, inputs)
    return found


def watched(model: nn.Module, inputs: Any) -> list[Tensor]:
    """What :class:`tests.conformance.oracle.Watch` heard."""
    return [call.weights for call in oracle.heard(model, inputs)]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def torch_modules() -> Iterator[tuple[str, Callable[[], Made], Oracle, int]]:
    """nn.MultiheadAttention and the modules made of it, in evaluation mode, where torch prefers its fast path."""
    text = _random(2, 7, 16)

    def layer(kind: Any) -> Any:
        return kind(16, 4, 32, batch_first=True)

    for how in ("no weights", "averaged", "per head"):
        yield f"nn.MultiheadAttention, {how}", lambda how=how: (MultiHead(how), text), asked, 1
    yield (
        "nn.TransformerEncoder",
        lambda: (nn.TransformerEncoder(layer(nn.TransformerEncoderLayer), 2), text),
        asked,
        2,
    )
    yield (
        "nn.TransformerEncoder, padded",
        lambda: (
            nn.TransformerEncoder(layer(nn.TransformerEncoderLayer), 2, enable_nested_tensor=False),
            {"src": text, "src_key_padding_mask": torch.arange(7).expand(2, 7) > torch.tensor([[6], [4]])},
        ),
        asked,
        2,
    )
    yield (
        "nn.TransformerDecoder",
        lambda: (nn.TransformerDecoder(layer(nn.TransformerDecoderLayer), 2), (text, _random(2, 5, 16))),
        asked,
        4,
    )
    yield (
        "nn.Transformer",
        lambda: (nn.Transformer(16, 4, 2, 2, 32, batch_first=True), (text, _random(2, 5, 16))),
        asked,
        6,
    )


def by_hand() -> Iterator[tuple[str, Callable[[], Made], Oracle, int]]:
    """Functions of torch as tutorials use them."""
    text = _random(1, 7, 16)
    for kind in ("causal", "boolean mask", "additive mask, scale", "grouped"):
        yield f"F.scaled_dot_product_attention, {kind}", lambda kind=kind: (Bare(kind), text), kept, 1
    for softmax in _SOFTMAX:
        yield f"{softmax} with @", lambda softmax=softmax: (ByHand(softmax, "@"), text), kept, 1
    for product in ("matmul", "bmm", "einsum"):
        for softmax in ("torch.softmax", "exp ÷ sum"):
            yield (
                f"{softmax} with {product}",
                lambda softmax=softmax, product=product: (ByHand(softmax, product), text),
                kept,
                1,
            )


_TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    # name: calls, sizes
    "vit_tiny_patch16_224": (2, {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "deit3_small_patch16_224": (2, {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "beit_base_patch16_224": (2, {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "eva02_tiny_patch14_224": (2, {"img_size": 42, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "vit_small_patch14_dinov2": (2, {"img_size": 42, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "vit_base_patch16_siglip_224": (3, {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "cait_xxs24_224": (4, {"img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "xcit_nano_12_p16_224": (4, {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 4}),
    "swin_tiny_patch4_window7_224": (4, {"img_size": 56, "embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6)}),
    "swinv2_tiny_window8_256": (4, {"img_size": 64, "embed_dim": 24, "depths": (2, 2), "num_heads": (3, 6)}),
    "pit_ti_224": (4, {"img_size": 64, "base_dims": (8, 8), "depth": (2, 2), "heads": (2, 4)}),
    "levit_128s": (5, {"img_size": 64, "embed_dim": (32, 48), "depth": (2, 2), "num_heads": (2, 3), "key_dim": 8}),
}


# LeViT has no dropout, SigLIP's pooling calls none. CaiT mixes its heads after the softmax: shown is the softmax.
_NO_DROPOUT = ("levit", "vit_base_patch16_siglip", "cait")


def timm_models() -> Iterator[tuple[str, Callable[[], Made], Oracle, int]]:
    """Vision transformers of timm, made small."""

    def make(name: str, sizes: dict[str, Any]) -> Made:
        vision.load()
        import timm

        model = timm.create_model(name, pretrained=False, num_classes=5, **sizes)
        return model, _random(1, 3, sizes["img_size"], sizes["img_size"])

    for name, (calls, sizes) in _TIMM.items():
        drops = not name.startswith(_NO_DROPOUT)
        yield f"timm {name}", lambda name=name, sizes=sizes: make(name, sizes), dropped if drops else watched, calls


def torchvision_models() -> Iterator[tuple[str, Callable[[], Made], Oracle, int]]:
    """The two vision transformers of torchvision, made small."""

    def vit() -> Made:
        vision.load()
        from torchvision.models import VisionTransformer

        return VisionTransformer(48, 16, 2, 4, 32, 64, num_classes=5), _random(1, 3, 48, 48)

    def swin() -> Made:
        vision.load()
        from torchvision.models import SwinTransformer

        return SwinTransformer([4, 4], 24, [2, 2], [3, 6], [4, 4], num_classes=5), _random(1, 3, 64, 64)

    yield "torchvision VisionTransformer", vit, asked, 2
    yield "torchvision SwinTransformer", swin, watched, 4


ROUTES = {
    name: (make, told, calls)
    for group in (torch_modules, by_hand, timm_models, torchvision_models)
    for name, make, told, calls in group()
}


def made(name: str) -> Made:
    """The model of a route, in evaluation mode with spread weights, and its inputs."""
    torch.manual_seed(0)
    model, inputs = ROUTES[name][0]()
    return sharpen(model.eval(), 2.0), inputs
