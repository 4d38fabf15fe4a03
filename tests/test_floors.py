"""The rules of the house that a machine can keep: who may import whom, what the package shows, one name per thing."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attnwidget

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "attnwidget"


def floors() -> dict[str, int]:
    """Module → floor, read from the map in the package's docstring: the reader and this test go by the same one."""
    found = {"__init__": 9}  # the roof
    floor = None
    for line in (attnwidget.__doc__ or "").splitlines():
        if number := re.match(r" {4}(\d)  ", line):
            floor = int(number[1])
        if floor is not None and (room := re.search(r"\b(\w+)(?:\.py|/)  ", line)):
            found[room[1]] = floor
    return found


# Imports go from a floor to the floors below it, and to these few neighbours.
FLOOR = floors()
NEIGHBOURS = {
    "shown": {"tokens"},
    "chosen": {"shown", "tokens"},
    "masks": {"alone"},
    "layers": {"alone", "masks", "output", "rotary", "shown"},
    "held": {"shown"},
    "maps": {"chosen", "layers", "masks", "tokens"},
    "attention": {"layers", "maps", "masks", "recipe", "saving", "shown", "tokens"},
    "thin": {"alone", "chosen", "shown", "tokens"},
    "stored": {"archive", "attention", "layers", "masks", "output", "recipe", "rotary", "shown", "thin", "tokens"},
    "saving": {"archive", "layers", "masks", "rotary", "shown", "stored", "tokens"},
    "tokens": {"picture", "vocabulary"},
    "inputs": {"picture"},
    "parts": {"tokens", "masks", "layers", "inputs"},
    "listen": {"functions", "interface"},
    "acting": {"listen"},
    "reweigh": {"interface"},
    "trace": {"capture", "interface", "objective"},
    "attribution": {"compare", "trace"},
    "flows": {"attribution"},
    "stream": {"trace"},
    "contributions": {"attribution", "flows", "stream"},
    "gradients": {"attribution", "trace"},
    "integrated": {"attribution", "capture"},
    "interactions": {"attribution", "capture", "contributions", "flows", "interface", "listen", "stream"},
    "compare": {"trace"},
    "measures": {"rows", "trace"},
    "labels": {"capture", "measures", "rows", "trace"},
    "thumbnails": {"compare"},
    "thin_sent": {"steps"},
    "sent": {"compare", "measures", "thumbnails"},
    "wire": {"sent", "steps", "thin_sent", "told"},
    "capture": {"check", "interface", "listen"},
    "generation": {"capture"},
    "copies": {"intervene"},
    "pruning": {"copies", "intervene"},
    "study": {"copies"},
    "truth": {"intervene"},
    "provenance": {"selection"},
    "figures": {"provenance", "selection", "truth"},
    "export": {"figures", "provenance", "selection", "truth"},
    "outputs": {"export", "figures", "provenance", "selection"},
    "widget": {"figures", "outputs", "selection", "truth"},
    "show": {"tiny"},
    "dashboard": {"charts"},
    "__main__": {"tiny"},
}

WIDGETS = {"IPython", "anywidget", "bqplot", "ipywidgets", "traitlets"}
PUBLIC = {
    "MEASURES", "METHODS", "Attention", "AttentionWidget", "Attribution", "Dashboard", "Trace", "__version__", "ablate",
    "attribute", "capture", "capture_generation", "compare", "effect", "embed", "embed_script", "faithfulness",
    "importance", "label", "load", "options", "positions", "provenance", "pruning", "record", "show",
    "show_generation", "statistics", "tiny", "to_html", "to_pdf", "to_png", "to_svg", "trace",
}  # fmt: skip

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "static" not in path.parts)


def module_of(path: Path) -> str:
    """The room a file is in: its module, or the folder that stands for one."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """This node and every one in it that can run: all but what is under `if TYPE_CHECKING`."""
    yield node
    typing_only = isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}
    for child in node.orelse if typing_only else ast.iter_child_nodes(node):
        yield from running(child)


def imports_of(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its top or in a function: `torch.nn`, `attnwidget.tokens`."""
    package = ["attnwidget", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found |= {str(name.value).lstrip(".") for name in node.args[:1] if isinstance(name, ast.Constant)}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(path)}


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    module = module_of(path)
    assert module in FLOOR, f"{module} is not on the map in the package's docstring: give it a floor there"
    if module == "__init__":
        return
    for name in imports_of(path):
        if not name.startswith("attnwidget.") or name == "attnwidget.__version__":
            continue
        target = name.split(".")[1]
        assert target in FLOOR, f"{module} imports {name} from the package's root, not from its module"
        allowed = FLOOR[target] < FLOOR[module] or target in {module, *NEIGHBOURS.get(module, ())}
        assert allowed, f"{module} (floor {FLOOR[module]}) imports {target} (floor {FLOOR[target]})"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    module = module_of(path)
    imported = tops(path)
    if FLOOR.get(module, 0) <= 1:
        assert not imported & WIDGETS, "floors 0 and 1 know no widget"
    if module not in {"capture", "generation", "interface", "tiny"}:
        assert "transformers" not in imported, "only the rooms that run models know transformers"
    if module not in {"charts", "dashboard"}:
        assert "bqplot" not in imported, "only charts and dashboard know bqplot"


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = json.loads(fresh("import json, sys, attnwidget; print(json.dumps(sorted(sys.modules)))"))
    assert not {"torch", "transformers", "numpy", "pandas", *WIDGETS}.intersection(loaded)


def test_the_package_shows_its_public_names() -> None:
    assert set(attnwidget.__all__) == PUBLIC
    assert set(dir(attnwidget)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(attnwidget, name) is not None
    with pytest.raises(AttributeError):
        attnwidget.no_such_name  # noqa: B018  (the access is the test)


@pytest.mark.parametrize("first", ["attnwidget.capture", "attnwidget.widget", "attnwidget.tiny"])
def test_a_public_name_is_never_hidden_by_a_module_of_that_name(first: str) -> None:
    """Importing a submodule binds it in the package: `attnwidget.capture` the module over `capture` the function."""
    assert fresh(f"import {first}, attnwidget; print(callable(attnwidget.capture))").strip() == "True"


def fields_of(interface: str) -> set[str]:
    """The names an interface of the front end declares, with those it extends."""
    for path in (ROOT / "js/src").glob("*.ts"):
        pattern = rf"export interface {interface}(?: extends (\w+))? {{\n(.*?)\n}}"
        if found := re.search(pattern, path.read_text("utf-8"), re.DOTALL):
            inherited = fields_of(found[1]) if found[1] else set()
            return inherited | set(re.findall(r"^ +(?:readonly )?(\w+)\??:", found[2], re.MULTILINE))
    raise AssertionError(f"js/src exports no interface {interface}")


def test_the_synced_traits_have_one_name_in_both_languages() -> None:
    """`Traits` in js/src/state.ts is what Python and the browser share; `_bundle` is read apart from it."""
    from anywidget import AnyWidget

    from attnwidget.widget import AttentionWidget

    own = AttentionWidget.class_traits(sync=True).keys() - AnyWidget.class_traits().keys() - {"_esm", "_css"}
    assert own == fields_of("Traits") | {"_bundle"}
    assert '"_bundle"' in (ROOT / "js/src/state.ts").read_text("utf-8")


def test_nothing_lies_about_in_the_package() -> None:
    """It is packed as it stands: what a tool leaves behind would travel in every wheel."""
    known = {".py", ".typed", ".json", ".safetensors", ".md", ".js", ".sha256", ".txt"}
    left = [path.name for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in known | {".pyc"}]
    assert not left
