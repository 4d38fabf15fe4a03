"""Capture beside a plain forward of the same model: time, and memory in a process of its own.

`python -m tests.bench.capture plain|capture|eager N` prints the bytes one run needs above what was there before it.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from attnwidget.capture import capture

from .table import Row

ROOT = Path(__file__).parents[2]
PLAIN, EAGER = "plain forward", "eager, output_attentions=True"


def random_ids(n: int) -> torch.Tensor:
    """[1, n] random tokens."""
    return torch.randint(50257, (1, n), generator=torch.Generator().manual_seed(0))


def random_gpt2(implementation: str = "sdpa") -> Any:
    """The shape of GPT-2 small, with random weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(attn_implementation=implementation)).eval()


def _forward(model: Any, ids: torch.Tensor, **asked: Any) -> Any:
    with torch.no_grad():
        return model(ids, **asked)


WAYS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "plain": _forward,
    "capture": lambda model, ids: capture(model, {"input_ids": ids}, progress=False),
    "eager": lambda model, ids: _forward(model, ids, output_attentions=True),
}


def measure(lengths: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """Time in turns, plain capture capture plain: what slows the machine down slows down both. Then memory."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    models = {"plain": random_gpt2(), "eager": random_gpt2("eager")}
    models["capture"] = models["plain"]
    for n in lengths:
        ids = random_ids(n)
        kept = {way: WAYS[way](models[way], ids) for way in WAYS}  # warms up, too
        sizes = {"capture": kept["capture"].nbytes, "eager": sum(map.nbytes for map in kept["eager"].attentions)}
        once = _timed("plain", models, ids)[0]
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(max(3, min(40, int(seconds / (5 * once))))):
            for way in ("plain", "capture", "capture", "plain", "eager"):
                taken[way].append(_timed(way, models, ids))
        yield from _times(n, taken)
        yield Row("memory that is kept", n, sizes["capture"], "bytes", EAGER, sizes["eager"])
        peaks = {way: _peak_apart(way, n) for way in WAYS}
        extra = {way: peaks[way] - peaks["plain"] for way in WAYS}
        yield Row("extra peak memory, above a plain forward's", n, extra["capture"], "bytes", EAGER, extra["eager"])


def _timed(way: str, models: dict[str, Any], ids: torch.Tensor) -> tuple[float, float]:
    """Seconds on the wall and of the processor. Freeing what comes out is not in them."""
    wall, cpu = time.perf_counter(), time.process_time()
    kept = WAYS[way](models[way], ids)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    del kept
    return taken


def _times(n: int, taken: dict[str, list[tuple[float, float]]]) -> Iterator[Row]:
    """Ratios of pairs that ran side by side; and of the smallest times, which other work disturbs least."""
    limit = 1.10 if n == 1024 else None
    for clock, name in enumerate(("time", "processor time")):
        plain, captured, eager = ([run[clock] for run in taken[way]] for way in ("plain", "capture", "eager"))
        pairs = [(captured[i] + captured[i + 1]) / (plain[i] + plain[i + 1]) for i in range(0, len(plain), 2)]
        usual = (f"{name}, median of {len(pairs)}", n, median(captured), "s")
        yield Row(*usual, PLAIN, median(plain), median(pairs), ratio_at_most=None if clock else limit)
        yield Row(f"{name}, smallest", n, min(captured), "s", PLAIN, min(plain))
        yield Row(*usual, EAGER, median(eager))


def _peak_apart(way: str, n: int) -> int:
    # Memory that is freed goes back at once: what stays for later use would count for one way and not for another.
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    run = [sys.executable, "-m", __name__, way, str(n)]
    done = subprocess.run(run, cwd=ROOT, env=os.environ | given_back, check=True, stdout=subprocess.PIPE, text=True)
    return int(done.stdout.split()[-1])


def peak(way: str, n: int) -> int:
    """Bytes of memory in use at the worst moment of one run, above what was there before it (Linux)."""
    model = random_gpt2("eager" if way == "eager" else "sdpa")
    WAYS[way](model, random_ids(8))  # libraries load
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = _status("VmRSS")
    kept = WAYS[way](model, random_ids(n))
    after = _status("VmHWM")
    del kept
    return after - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(peak(sys.argv[1], int(sys.argv[2])))
