"""What the README and the notebooks show is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
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
