"""What is asked of a long capture takes a small multiple of its Q and K, and never n × n numbers at once.

Memory is counted, not sampled: every tensor that an operation makes, from then until its storage is freed, and what
numpy and Python allocate. So the numbers are the same on every machine.
"""

from __future__ import annotations

import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnwidget import thumbnails, wire
from attnwidget.attention import Attention
from attnwidget.capture import capture
from attnwidget.measured import STATISTICS
from attnwidget.measures import statistics

N, LAYERS, HEADS, KV_HEADS, WIDTH = 4096, 8, 8, 2, 64


class Ledger(TorchDispatchMode):
    """Bytes of the tensors that were made while it was open and are still there; and of the largest one."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for one in tree_leaves((args, kwargs)):
            self._enter(one, new=False)
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            self._enter(one, new=True)
        return result

    def _enter(self, tensor: Any, new: bool) -> None:
        if not isinstance(tensor, torch.Tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.sizes:
            return
        self.sizes[key] = storage.nbytes() if new else 0
        self.now += self.sizes[key]
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, self.sizes[key])
        weakref.finalize(storage, self._leave, key)

    def _leave(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


class Taken:
    """Bytes: ``peak`` of everything together, ``largest`` of one tensor."""

    peak = largest = 0


@contextmanager
def counted() -> Iterator[Taken]:
    taken = Taken()
    tracemalloc.start()
    try:
        with Ledger() as ledger:
            yield taken
        taken.peak = ledger.peak + tracemalloc.get_traced_memory()[1]
        taken.largest = ledger.largest
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def attention() -> Attention:
    """Of a Llama-shaped model with random weights, over 4096 tokens."""
    import transformers as t

    torch.manual_seed(0)
    config = t.LlamaConfig(
        vocab_size=1000, hidden_size=HEADS * WIDTH, intermediate_size=256, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=N,
    )  # fmt: skip
    model = t.LlamaForCausalLM(config).eval()
    ids = torch.randint(1000, (1, N), generator=torch.Generator().manual_seed(0))
    return capture(model, {"input_ids": ids}, logits_to_keep=1, progress=False)


def everything(blocks: Any) -> None:
    for _ in blocks:
        pass


ASKED: dict[str, Callable[[Attention], Any]] = {
    "one row": lambda a: a[3, 5].row(N - 1),
    "one tile": lambda a: a[3, 5].tile(slice(2000, 2256), slice(1000, 1256)),
    "one column": lambda a: a[3, 5].column(7),
    "one head, in blocks": lambda a: everything(a[3, 5].blocks()),
    "the mean of a layer, one row": lambda a: a[3, None].row(N - 1),
    "the mean of a layer, in blocks": lambda a: everything(a[3, None].blocks()),
    "the mean of all, one row": lambda a: a[None, None].row(N - 1),
    "statistics of all heads": statistics,
    "thumbnails of all heads": lambda a: thumbnails.thumbs(a, a.part()),
    "one head for the browser": lambda a: wire.map_block(a[3, 5]),
    "one head for the browser, exact": lambda a: wire.map_block(a[3, 5], exact=True),
    "the mean of a layer for the browser": lambda a: wire.map_block(a[3, None]),
    "the bundle": lambda a: wire.bundle(a),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", ASKED)
def test_no_question_takes_more_than_three_times_the_queries_and_keys(attention: Attention, what: str) -> None:
    held = LAYERS * N * (HEADS + KV_HEADS) * WIDTH * 4
    assert attention.nbytes == held
    assert 3 * held < N * N * 4 * HEADS / 2, "the bound must be far below the maps of even one layer"
    with counted() as taken:
        ASKED[what](attention)
    print(
        f"{what}: {taken.peak / 1e6:.1f} MB, largest tensor {taken.largest / 1e6:.1f} MB; Q and K {held / 1e6:.1f} MB"
    )
    assert 0 < taken.peak <= 3 * held
    assert taken.largest < N * N * 4, "somewhere a whole map is there at once"


@pytest.mark.slow
def test_the_ledger_sees_a_map_that_is_made(attention: Attention) -> None:
    """`weights()` makes n × n numbers, twice while it joins its blocks: known, so the count can be held against it."""
    with counted() as taken:
        attention[3, 5].weights()
    assert taken.largest == N * N * 4
    assert 2 * taken.largest <= taken.peak <= 5 * taken.largest


@pytest.mark.slow
def test_a_capture_takes_little_more_than_the_queries_and_keys() -> None:
    """Two layers of it: what is there at the worst moment of a capture, above that of a plain forward."""
    import transformers as t

    config = t.LlamaConfig(
        vocab_size=1000, hidden_size=HEADS * WIDTH, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=N,
    )  # fmt: skip
    model, ids = t.LlamaForCausalLM(config).eval(), torch.zeros(1, N, dtype=torch.long)
    with counted() as plain, torch.no_grad():
        model(ids, logits_to_keep=1)
    with counted() as captured:
        kept = capture(model, {"input_ids": ids}, logits_to_keep=1, progress=False)
    assert captured.largest < N * N * 4
    assert captured.peak - plain.peak <= 3 * kept.nbytes


def test_statistics_never_hold_a_whole_map() -> None:
    """The quick one of the tests above: 64 heads of 700 tokens."""
    q = torch.randn(64, 700, 4, generator=torch.Generator().manual_seed(0))
    attention = Attention.from_qk(q, q, causal=True)
    with counted() as taken:
        found = statistics(attention)
    assert set(found) == set(STATISTICS)
    assert taken.largest < 64 * 700 * 700 * 4 / 16
