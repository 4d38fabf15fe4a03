"""What the methods cost: measures and a trace beside the forward pass they explain, norm maps beside a limit.

`python -m tests.bench.methods norm|norm-sum` prints the seconds that such a map of a layer of BERT's shape takes, and
the bytes above what was there before it, as a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from attnwidget import MEASURES, capture, statistics, trace
from attnwidget.attribution import attribute

from .capture import PLAIN, apart, peak_of, random_gpt2, random_ids
from .table import Row


def rows(quick: bool) -> Iterator[Row]:
    """All of them."""
    n = 256 if quick else 1024
    yield from _beside_a_forward(n, 3 if quick else 5)
    for method in ("norm", "norm-sum"):
        told = json.loads(apart(__name__, method, str(n)))
        yield Row(f"{method} map, a layer of BERT base", n, told["seconds"], "s", at_most=5.0)
        yield Row("  memory above what was there", n, told["bytes"], "bytes", at_most=100e6)


def _beside_a_forward(n: int, times: int) -> Iterator[Row]:
    """In turns: what slows the machine down slows down both."""
    model, ids = random_gpt2(), {"input_ids": random_ids(n)}

    def forward() -> None:
        with torch.no_grad():
            model(**ids, use_cache=False)

    attention = capture(model, ids, progress=False)
    ways: dict[str, Callable[[], Any]] = {
        "forward": forward,
        f"all {len(MEASURES)} measures of 144 heads": lambda: statistics(attention, names=MEASURES),
        "trace, one forward and one backward": lambda: trace(model, ids, objective="loss"),
    }
    forward()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(times):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - start)
    plain = taken.pop("forward")
    for name, seconds in taken.items():
        ratio = median(ours / theirs for ours, theirs in zip(seconds, plain, strict=True))
        limit = 1.0 if "measures" in name else None
        yield Row(f"GPT-2 small, {name}", n, median(seconds), "s", PLAIN, median(plain), ratio, ratio_at_most=limit)


def _map_of_bert(method: str, n: int) -> dict[str, float]:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(num_hidden_layers=1, max_position_embeddings=max(512, n))).eval()
    run = trace(model, {"input_ids": random_ids(n) % 30_000}, objective=lambda out: out.last_hidden_state[0, 0, 0])
    start = time.perf_counter()
    peak = peak_of(lambda: attribute(run, method, progress=False))
    return {"seconds": time.perf_counter() - start, "bytes": peak}


if __name__ == "__main__":
    print(json.dumps(_map_of_bert(sys.argv[1], int(sys.argv[2]))))
