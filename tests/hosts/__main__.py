"""The README's table of hosts, made of what their tests showed.

bash tests/run hosts             runs the tests, and compares the README with them
python -m tests.hosts            compares again: a cell that no test showed, or showed otherwise, is an error
python -m tests.hosts --write    puts the table into the README
"""

from __future__ import annotations

import json
import sys
from difflib import unified_diff
from importlib.metadata import version
from pathlib import Path

from .conftest import CELLS, COLUMNS

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- hosts: python -m tests.hosts --write -->\n", "<!-- /hosts -->\n"
NONE = "–"
# By the name under which tests record it: how it is called in the table, and whose version stands there.
HOSTS = {
    "JupyterLab 4": ("JupyterLab", "jupyterlab"),
    "Notebook 7": ("Notebook", "notebook"),
    "VS Code": ("VS Code’s widget manager", "@vscode/jupyter-ipywidgets8"),
    "Voilà": ("Voilà", "voila"),
    "marimo": ("marimo", "marimo"),
    "nbconvert HTML": ("nbconvert, HTML", "nbconvert"),
    "nbconvert slides": ("nbconvert, slides", "nbconvert"),
    "Sphinx with myst-nb": ("Sphinx with myst-nb (Jupyter Book 1)", "myst-nb"),
    "exported page": ("page of `to_html`", ""),
    "without torch": ("Python without torch", ""),
}


def version_of(package: str) -> str:
    if not package.startswith("@"):
        return version(package) if package else ""
    return next(Path(sys.prefix).glob(f"npm/{package}/*")).name


def table(cells: Path) -> str:
    """Markdown, a row for every host of which a test showed something."""
    shown: dict[tuple[str, str], str] = {}
    for line in cells.read_text("utf-8").splitlines():
        host, column, words = json.loads(line)
        if host not in HOSTS:
            raise SystemExit(f"A test recorded a host that has no row: {host}.")
        if shown.setdefault((host, column), words) != words:
            raise SystemExit(f"{host}, {column}: one test says “{shown[host, column]}”, another “{words}”.")
    columns = (*COLUMNS, "tested how")
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for host, (name, package) in HOSTS.items():
        if any(found == host for found, _ in shown):
            told = " | ".join(shown.get((host, column), NONE) for column in columns)
            lines.append(f"| {name} {version_of(package)}".rstrip() + f" | {told} |")
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    if not CELLS.exists():
        print("No test has shown anything yet: bash tests/run hosts")
        return 1
    made, readme = table(CELLS), README.read_text("utf-8")
    before, begin, rest = readme.partition(BEGIN)
    written, end, after = rest.partition(END)
    if not (begin and end):
        print(f"{made}\nREADME.md has no place for this table: put it between {BEGIN.strip()} and {END.strip()}.")
        return 1
    if "--write" in sys.argv[1:]:
        README.write_text(before + begin + made + end + after, "utf-8")
        return 0
    sys.stdout.writelines(unified_diff(written.splitlines(True), made.splitlines(True), "README.md", "tests/hosts"))
    if made != written:
        print("The README's table says something else than the tests: python -m tests.hosts --write")
    return int(made != written)


if __name__ == "__main__":
    sys.exit(main())
