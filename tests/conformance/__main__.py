"""The long sweep: ``python -m tests.conformance [--types a,b] [--jobs 2] [--out FILE] [--resume]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = HERE.parent / "out" / "conformance.jsonl"
_SECONDS, _BYTES = 120, 10 << 30


def main() -> None:
    """Every type in a process of its own, results as they come, a table at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--types", help="comma-separated; all of transformers if left out")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the Markdown table; TABLE.md beside this file, if left out")
    parser.add_argument(
        "--resume", action="store_true", help="keep what an earlier sweep found; with --types, do these again"
    )
    given = parser.parse_args()

    from . import report

    warnings.simplefilter("ignore")
    _preload()
    done = _earlier() if given.resume else {}
    chosen = given.types.split(",") if given.types else every_type()
    left = chosen if given.types else [name for name in chosen if name not in done]
    # A sweep over some types leaves the cache and the table of the whole one alone, unless it is to go into them.
    whole = given.resume or not given.types
    target = CACHE if whole else Path(os.devnull)
    target.parent.mkdir(exist_ok=True)
    with target.open("a" if given.resume else "w") as cache:
        for count, row in enumerate(_results(left, given.jobs), 1):
            done[row["type"]] = row
            cache.write(json.dumps(row, ensure_ascii=False) + "\n")
            cache.flush()
            print(f"{count}/{len(left)} {report.line(row)}", flush=True)
    rows = list(done.values())
    if given.out or whole:
        (given.out or HERE / "TABLE.md").write_text(report.table(rows), encoding="utf-8")
    print("\n" + report.head(rows))


def _earlier() -> dict[str, dict[str, Any]]:
    """Rows of the cache, the last of each type."""
    rows = [_read(line) for line in CACHE.read_bytes().splitlines()] if CACHE.exists() else []
    return {row["type"]: row for row in rows if row}


def _read(data: bytes) -> dict[str, Any] | None:
    """A row, or None where its writer was cut off."""
    try:
        row: dict[str, Any] = json.loads(data)
    except ValueError:
        return None
    return row


def every_type() -> list[str]:
    """All model types of the installed transformers, AutoModel's and those of sub-models."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return sorted(CONFIG_MAPPING_NAMES)


def _preload() -> None:
    """Import what every worker needs before it is forked."""
    from . import vision

    vision.load()  # before transformers looks what there is
    import torch
    import transformers

    for name in ("auto", "bert", "clip", "llama"):
        importlib.import_module(f"transformers.models.{name}.modeling_{name}")
    importlib.import_module("attnwidget.capture")
    importlib.import_module(".sweep", __package__)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()


def _results(names: list[str], jobs: int) -> Any:
    """Rows as workers finish. A worker that dies, hangs or takes too much memory is a row that says so."""
    waiting, running = list(reversed(names)), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reader)
                _work(name, writer)
            os.close(writer)
            running[reader] = [name, pid, b"", time.monotonic()]
        ready, _, _ = select.select(list(running), [], [], 1.0)
        for reader in list(running):
            name, pid, data, since = running[reader]
            late = time.monotonic() - since > _SECONDS
            if late:
                os.kill(pid, signal.SIGKILL)
            elif reader not in ready:
                continue
            else:
                chunk = os.read(reader, 1 << 16)
                if chunk:
                    running[reader][2] += chunk
                    continue
            os.close(reader)
            _, status = os.waitpid(pid, 0)
            del running[reader]
            reason = f"longer than {_SECONDS} s" if late else f"the process died ({status})"
            row = _read(data) or {"type": name, "status": "not run", "reason": reason}
            yield row | {"seconds": round(time.monotonic() - since, 1)}


def _work(name: str, writer: int) -> None:
    from .sweep import Result, examine

    try:
        resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            row = examine(name).as_dict()
        except BaseException as problem:
            row = Result(name, "not run", reason=f"{type(problem).__name__}: {problem}").as_dict()
        data = json.dumps(row).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
