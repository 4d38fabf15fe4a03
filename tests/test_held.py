"""What is computed once of an attention: the same as computed anew, and gone with the attention."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from attnwidget import held, wire
from attnwidget.attention import Attention
from attnwidget.blocks import unpack
from attnwidget.compare import compare
from attnwidget.thumbnails import thumbs
from attnwidget.tokens import Tokens


def random(n: int, **options: object) -> Attention:
    q, k = torch.randn(2, 3, 4, n, 8, generator=torch.Generator().manual_seed(n)) * 2
    q[0, 0, 7] = torch.nan
    return Attention.from_qk(q, k, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [48, 100, 131])
@pytest.mark.parametrize("side", [24, 16, 12, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_smaller_thumbnails_are_pooled_exactly_from_larger_ones(n: int, side: int, masked: bool) -> None:
    """Oracle: the same thumbnails made of the weights themselves."""
    mask = torch.rand(n, n, generator=torch.Generator().manual_seed(1)) > 0.3
    mask[5] = False
    attention = random(n, mask=mask) if masked else random(n, causal=True)
    wire.thumbs(attention, attention.part(), 48)
    info, block = wire.thumbs(attention, attention.part(), side)
    expected, other = thumbs(attention, attention.part(), side)
    assert info == expected
    found, anew = unpack(block), unpack(other)
    assert (found.meta, found.arrays.keys()) == (anew.meta, anew.arrays.keys())
    for name, values in anew.arrays.items():
        assert np.allclose(found.arrays[name], values, rtol=1e-6, atol=0), name


def test_a_page_is_the_same_whatever_was_computed_before() -> None:
    fresh, used = random(100, causal=True), random(100, causal=True)
    wire.bundle(used)
    assert wire.bundle(used, budget=60_000, standalone=True) == wire.bundle(fresh, budget=60_000, standalone=True)


def test_attentions_that_share_layers_share_nothing_else() -> None:
    """Oracle: the same attention, of whose layers nothing is held."""
    whole, part = random(20, causal=True), random(20, causal=True).part()
    few = replace(whole.part(), layers=whole.part().layers[:2])
    other = replace(whole.part(), queries=(marks := Tokens(tuple("." * 20))), keys=marks)
    wire.bundle(whole)
    assert wire.bundle(Attention([few])) == wire.bundle(Attention([replace(part, layers=part.layers[:2])]))
    assert wire.bundle(Attention([other])) == wire.bundle(Attention([replace(part, queries=marks, keys=marks)]))


def test_what_is_held_is_computed_once_of_each_sample_and_goes_with_the_attention() -> None:
    attention = Attention.from_weights(torch.rand(1, 2, 3, 4, 4).softmax(-1))
    found = [held.once(attention.select(sample), "attention", "x", object) for sample in (0, 1, 0, 1)]
    assert found[0] is found[2] is not found[1]
    assert found[1] is found[3]
    both = compare(attention, attention)
    assert held.once(both, "attention", "x", lambda: 7) == 7
    assert held.once(both, "attention", "x", lambda: 8) == 7
    gone = weakref.ref(attention.part().layers[0])
    del attention, both
    gc.collect()
    assert gone() is None
