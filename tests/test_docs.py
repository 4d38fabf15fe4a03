"""What the README and the notebooks show is run as it stands."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import attnwidget

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def models_of_the_reader() -> dict[str, Any]:
    """What the README speaks of as the reader's own: real models, small and with random weights."""
    import torch
    import transformers as t

    from attnwidget import tiny
    from conformance import vision
    from test_capture import hybrid, minilm
    from test_parts import llava

    assert vision.load(), "timm and torchvision: bash .ci/install .venv dev"
    bert, wordpieces = minilm()
    vocabulary = len(tiny.decoder()[1])
    size = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    size |= {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": vocabulary}
    speech = {"num_mel_bins": 8, "max_source_positions": 50, "max_target_positions": 20}
    ids = torch.randint(8, 90, (1, 5))
    return {
        "bert": bert,
        "wordpieces": wordpieces,
        "bart": t.BartForConditionalGeneration(t.BartConfig(**size)),
        "vit": t.ViTModel(
            t.ViTConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=2, image_size=32, patch_size=8)
        ),
        "whisper": t.WhisperForConditionalGeneration(t.WhisperConfig(**size, **speech, pad_token_id=0)),
        "llava": llava(),
        "jamba": hybrid("jamba", vocabulary),
        "image": torch.randn(1, 3, 32, 32),
        "sound": torch.randn(1, 8, 100),
        "ids": ids,
        "ids_with_image": torch.cat([ids, torch.full((1, 16), 7)], 1),
        "x": torch.randn(1, 6, 16),
    }


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = models_of_the_reader()
    for code in blocks("python"):
        if "**inputs" in code:
            # `inputs` stands there for whatever the reader's own model takes.
            names["inputs"] = names["tokenizer"]("Any text", return_tensors="pt")
        exec(compile(code, "README.md", "exec"), names)
    from attnwidget import AttentionWidget

    assert isinstance(names["widget"], AttentionWidget)
    assert names["widget"].layer == 1
    assert len(names["rec"].attention.tokens)


def test_the_readme_shows_three_lines_two_commands_and_pictures_that_exist() -> None:
    first_screen = README[: README.index("## What you can do")]
    assert len(blocks("python")[0].strip().splitlines()) == 3
    assert [line.split("  ")[0] for line in blocks("sh")[0].strip().splitlines()] == [
        "bash notebooks/open",
        "bash tests/run",
    ]
    pictures = re.findall(r'src(?:set)?="([^"]+)"', first_screen)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture
    for script in ("notebooks/open", "tests/run", "js/dev"):
        assert (ROOT / script).is_file()


MODULES = sorted(path.stem for path in (ROOT / "attnwidget").glob("*.py") if not path.stem.startswith("__"))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_say_what_happens(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"attnwidget.{name}")).failed == 0


def test_capturing_and_writing_are_shown_by_example() -> None:
    for function in ("capture", "capture_generation", "record", "show", "show_generation"):
        assert ">>> " in str(getattr(attnwidget, function).__doc__), function


def test_links_in_the_readme_lead_to_files() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_every_notebook_runs_offline_and_is_stored_without_output(path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert code
    assert not any(cell.outputs for cell in code), "clear the outputs before committing"
    NotebookClient(book, timeout=300, kernel_name="python3").execute()
    shown = [
        out
        for cell in code
        for out in cell.outputs
        if "application/vnd.jupyter.widget-view+json" in out.get("data", {})
    ]
    assert shown, "a lesson without a widget"
