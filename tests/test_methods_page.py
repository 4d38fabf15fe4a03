"""The page of methods names all of them, with two oracles each; its examples run; the exercises have answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from attnwidget import MEASURES, METHODS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = (NOTEBOOKS / "methods.md").read_text("utf-8")
ROWS = {
    cells[0].strip("` "): [cell.strip().replace(r"\|", "|") for cell in cells]
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for cells in [re.split(r"(?<!\\)\|", line)[1:-1]]
}
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_measure_and_method_is_in_the_table_as_the_code_has_it() -> None:
    for name, measure in MEASURES.items():
        assert ROWS[name][1] == f"{measure.words}; {measure.unit}, {measure.range}", name
        assert ROWS[name][2] == measure.source, name
    for name, method in METHODS.items():
        assert ROWS[name][1].startswith(method.words) and ("signed" in ROWS[name][1]) >= method.signed, name
        assert ROWS[name][2] == method.source, name


def test_each_row_has_two_oracles_or_more_and_how_well_they_agree() -> None:
    assert len(ROWS) >= len(MEASURES) + len(METHODS) + 10
    for name, (_, _, _, oracles, agreement, cost) in ROWS.items():
        assert len(oracles.split("; ")) >= 2 and len(agreement.split("; ")) >= 2 and cost, name
    for file in re.findall(r"`(?:tests/)?(test_\w+\.py)`", PAGE):
        assert (Path(__file__).parent / file).is_file(), file


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.strip().splitlines()[-1])
def test_the_examples_of_bugs_run(code: str) -> None:
    assert "assert" in code and "attnwidget" not in code
    exec(compile(code, "methods.md", "exec"), {})


ANSWERS = {"key = None": "key = 6", "head = None": "head = 1"}


@pytest.mark.slow
def test_the_exercises_know_right_from_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Each refuses all answers but one."""
    import nbformat

    book = nbformat.read(NOTEBOOKS / "02_when_a_map_misleads.ipynb", as_version=4)
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    exercises = [(cell, blank) for cell in code for blank in ANSWERS if cell.startswith(blank)]
    assert [blank for _, blank in exercises] == [*ANSWERS]
    names: dict[str, Any] = {}
    exec(code[0], names)
    for cell, blank in exercises:
        exec(cell, names)  # without an answer, nothing is said
        for number in range(13 if "key" in blank else 4):
            mine = blank.replace("None", str(number))
            if mine == ANSWERS[blank]:
                exec(cell.replace(blank, mine), names)
            else:
                with pytest.raises(AssertionError):
                    exec(cell.replace(blank, mine), names)
    assert capsys.readouterr().out.count("Yes: ") == 2
