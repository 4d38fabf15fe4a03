"""Capture beside a plain forward of the same model: time, and memory in a process of its own.

`python -m tests.bench.capture plain|capture|eager gpt2|llama N` prints the bytes one run needs above what was there
before it.
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
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from attnwidget.capture import capture

from .table import Row

ROOT = Path(__file__).parents[2]
PLAIN, EAGER = "plain forward", "eager, output_attentions=True"
LONGEST_EAGER = 4096  # tokens of the Llama shape: its maps alone would take 17 GB at twice that


def random_ids(n: int) -> torch.Tensor:
    """[1, n] random tokens."""
    return torch.randint(50257, (1, n), generator=torch.Generator().manual_seed(0))


def random_gpt2(implementation: str = "sdpa") -> Any:
    """The shape of GPT-2 small, with random weights."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(attn_implementation=implementation)).eval()


def random_llama(implementation: str = "sdpa") -> Any:
    """Llama's architecture, 8 layers of 8 heads that share 2 key heads, 512 wide, with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=2,
        vocab_size=50257, max_position_embeddings=8192, attn_implementation=implementation,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


SHAPES: dict[str, Callable[[str], Any]] = {"gpt2": random_gpt2, "llama": random_llama}
NAMES = {"gpt2": "GPT-2", "llama": "Llama"}
# Logits of the last token only: at 8192 tokens all of them are 1.6 GB, and not what is measured here.
ASKED: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}


def _forward(model: Any, ids: torch.Tensor, **asked: Any) -> Any:
    with torch.no_grad():
        return model(ids, **ASKED, **asked)


WAYS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "plain": _forward,
    "capture": lambda model, ids: capture(model, {"input_ids": ids}, progress=False, **ASKED),
    "eager": lambda model, ids: _forward(model, ids, output_attentions=True),
}


def measure(shape: str, lengths: tuple[int, ...], seconds: float) -> Iterator[Row]:
    """Time in turns, plain capture capture plain: what slows the machine down slows down both. Then memory."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    models = {"plain": SHAPES[shape]("sdpa"), "eager": SHAPES[shape]("eager")}
    models["capture"] = models["plain"]
    for n in lengths:
        ids, ways = random_ids(n), [way for way in WAYS if way != "eager" or n <= LONGEST_EAGER]
        WAYS["plain"](models["plain"], ids)  # warms up
        once = _timed("plain", models, ids)[0]
        taken: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        rounds = max(3, min(40, int(seconds / (5 * once))))
        for at in range(rounds):
            # Eager takes many times as long; it is there to be looked at, and no ratio near one hangs on it.
            for way in ("plain", "capture", "capture", "plain", *(["eager"] if at == 0 or once < 0.5 else [])):
                if way in ways:
                    taken[way].append(_timed(way, models, ids))
        yield from _times(NAMES[shape], n, taken)
        peaks = {way: int(apart(__name__, way, shape, str(n))) for way in ways}
        yield from _memory(NAMES[shape], n, peaks)


def _memory(name: str, n: int, peaks: dict[str, int]) -> Iterator[Row]:
    eager = peaks.get("eager")
    limit = 1.0 if n >= 256 and eager is not None else None
    other = EAGER if eager is not None else ""
    yield Row(f"{name}, peak memory of a run", n, peaks["capture"], "bytes", other, eager, ratio_at_most=limit)
    yield Row(f"{name}, peak memory of a run", n, peaks["capture"], "bytes", PLAIN, peaks["plain"])


def _timed(way: str, models: dict[str, Any], ids: torch.Tensor) -> tuple[float, float]:
    """Seconds on the wall and of the processor. Freeing what comes out is not in them."""
    wall, cpu = time.perf_counter(), time.process_time()
    kept = WAYS[way](models[way], ids)
    taken = time.perf_counter() - wall, time.process_time() - cpu
    del kept
    return taken


def _times(name: str, n: int, taken: dict[str, list[tuple[float, float]]]) -> Iterator[Row]:
    """Ratios of pairs that ran side by side; and of the smallest times, which other work disturbs least."""
    limit = 1.05 if n >= 512 else None
    for clock, what in enumerate(("time", "processor time")):
        plain, captured, eager = ([run[clock] for run in taken[way]] for way in ("plain", "capture", "eager"))
        pairs = [(captured[i] + captured[i + 1]) / (plain[i] + plain[i + 1]) for i in range(0, len(plain), 2)]
        usual = (f"{name}, {what}, median of {len(pairs)}", n, median(captured), "s")
        yield Row(*usual, PLAIN, median(plain), median(pairs), ratio_at_most=limit)
        yield Row(f"{name}, {what}, smallest", n, min(captured), "s", PLAIN, min(plain))
        if eager:
            yield Row(*usual, EAGER, median(eager))


def apart(module: str, *arguments: str) -> str:
    """The last word that a module prints, run as a process of its own."""
    # Memory that is freed goes back at once: what stays for later use would count for one way and not for another.
    given_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    run = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(run, cwd=ROOT, env=os.environ | given_back, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1]


def peak(way: str, shape: str, n: int) -> int:
    """Bytes of memory in use at the worst moment of one run, above what was there before it (Linux)."""
    model = SHAPES[shape]("eager" if way == "eager" else "sdpa")
    WAYS[way](model, random_ids(8))  # libraries load
    return peak_of(lambda: WAYS[way](model, random_ids(n)))


def peak_of(act: Callable[[], Any]) -> int:
    """Bytes in use at the worst moment of it, above what was there before it (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # begins the peak anew
    before = _status("VmRSS")
    kept = act()
    after = _status("VmHWM")
    del kept
    return after - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(peak(sys.argv[1], sys.argv[2], int(sys.argv[3])))
