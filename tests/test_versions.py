"""The oldest transformers that is supported gives the same maps as the newest, compared with its own eager attention.

    python -m pytest tests/test_versions.py -s                        the oldest and the one that is installed
    ATTNWIDGET_VERSIONS=all python -m pytest tests/test_versions.py -s    and those between, at which something changed

Other versions are installed from the package index, once, into a folder of the virtual environment, and put in front of
the path of a new interpreter, which runs this file.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# The version, and what it needs that is not the newest.
OLDEST = "4.48.3"
NEEDS = {
    OLDEST: ["tokenizers==0.21.4", "huggingface-hub==0.36.2"],
    "4.53.3": ["tokenizers==0.21.4", "huggingface-hub==0.36.2"],
    "4.57.6": ["tokenizers==0.22.2", "huggingface-hub==0.36.2"],
    "5.0.0": ["tokenizers==0.22.2", "huggingface-hub==1.33.0"],
    "5.2.0": ["tokenizers==0.22.2", "huggingface-hub==1.33.0"],
}
INSTALLED = "installed"
VERSIONS = [*NEEDS, INSTALLED] if os.environ.get("ATTNWIDGET_VERSIONS") == "all" else [OLDEST, INSTALLED]
FAMILIES = ["llama", "gpt2", "gemma2", "bert", "t5", "vit"]


def folder_of(version: str) -> Path:
    """Where that version is, installed if it is not yet there."""
    folder = Path(sys.prefix) / "versions" / version
    if not folder.exists():
        fresh = folder.with_name(f"{version}.{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*command, "--target", fresh, f"transformers=={version}", *NEEDS[version]], check=True)
        shutil.rmtree(fresh / "bin", ignore_errors=True)
        fresh.rename(folder)  # a folder of that name is always complete
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_of_transformers_gives_what_its_own_eager_attention_gives(version: str) -> None:
    # Without the torchvision that only this process has made ready to load.
    paths = [ROOT, ROOT / "tests", *(one for one in sys.path[1:] if Path(one).name != "vision")]
    if version != INSTALLED:
        paths.insert(0, folder_of(version))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    if version != INSTALLED:
        assert answer["transformers"] == version, "another version was in front of it on the path"
    print(f"\ntransformers {answer['transformers']}")
    print(f"| {' | '.join(answer['rows'][0])} |")
    for row in answer["rows"]:
        print(f"| {' | '.join(f'{one:.0e}' if isinstance(one, float) else str(one) for one in row.values())} |")
    assert {row["family"] for row in answer["rows"]} == set(FAMILIES)
    for row in answer["rows"]:
        assert row["check"] <= 1e-4, row
        assert row["same output"], row
        # Where a version computes something else than with eager attention, there is nothing to compare maps with.
        assert row["error"] <= 1e-5 or not row["computes what eager does"], row
    other = {(row["family"], row["runs as"]) for row in answer["rows"] if not row["computes what eager does"]}
    # Older ones leave the soft-cap out with sdpa; the newest refuses to run so.
    assert other == (set() if version == INSTALLED else {("gemma2", "sdpa")})
    kept = {(row["family"], row["runs as"]): row["kept"] for row in answer["rows"]}
    for family in ("llama", "gpt2", "bert", "vit"):
        assert kept[family, "sdpa"] == "Q and K", "whole maps are kept"


# ── what the other interpreter runs ──────────────────────────────────────────────────────────────────────────────────


def rows() -> list[dict[str, Any]]:
    """Each family with each implementation it has: how far the capture is from the weights eager attention returns."""
    import torch

    from attnwidget.capture import capture
    from models import make

    labels = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}
    found = []
    for family in FAMILIES:
        trained, inputs = make(family)
        for implementation in ("eager", "sdpa"):
            if implementation == "sdpa" and not trained._supports_sdpa:
                continue

            def twin(implementation: str, of: Any = trained) -> Any:
                model = type(of)._from_config(deepcopy(of.config), attn_implementation=implementation).eval()
                model.load_state_dict(of.state_dict())
                return model

            model = twin(implementation)
            with torch.no_grad():
                before = model(**inputs)[0]
                oracle = twin("eager")(**inputs, output_attentions=True)
            attention = capture(model, inputs, progress=False)
            with torch.no_grad():
                after = model(**inputs)[0]
            named = {part: getattr(oracle, field, None) for part, field in labels.items()}
            expected = {part: maps for part, maps in named.items() if maps} or {attention.parts[0]: oracle.attentions}
            assert set(attention.parts) == set(expected), attention.parts
            error = 0.0
            for part, maps in expected.items():
                assert len(maps) == len(attention.part(part).layers)
                for index, weights in enumerate(maps):
                    ours = torch.stack([attention[part, index, head].weights() for head in range(weights.shape[1])])
                    error = max(error, float((ours - weights[0]).abs().max()))
            layers = [layer for part in attention.parts for layer in attention.part(part).layers]
            kept = {"weights" if layer.weights is not None else "Q and K" for layer in layers}
            check = attention.check
            assert check is not None
            found.append({
                "family": family, "runs as": implementation, "kept": " or ".join(sorted(kept)), "error": error,
                "check": check.max_error if check.ok else math.inf, "same output": torch.equal(before, after),
                "computes what eager does": torch.allclose(before, oracle[0], atol=1e-4),
            })  # fmt: skip
    return found


if __name__ == "__main__":
    import transformers

    print(json.dumps({"transformers": transformers.__version__, "rows": rows()}))
