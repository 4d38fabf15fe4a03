"""Where a picture came from: the model, the tokens, the versions, and the Python that makes it again.

Every page, figure and notebook output carries this as JSON, and :func:`provenance` reads it back.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from . import __version__, recipe
from .selection import Selection
from .shown import versions
from .stored import about

KIND = "application/vnd.attnwidget.provenance+json"
"""The type of the script element in which a page carries it."""

_NAME = "attnwidget"  # of the text in a PNG, and of the entry in the metadata of a notebook's output


def of(selection: Selection, call: str) -> dict[str, Any]:
    """What is said of where a selection came from, as a dict that goes through JSON.

    Args:
        selection: what is shown.
        call: the call that exports it, of an attention called ``attention``: "to_svg(attention, 'figure.svg')". What is
            selected is added to its arguments.

    >>> import torch
    >>> from attnwidget import Attention
    >>> chosen = Selection(Attention.from_weights(torch.eye(2), ["a", "b"]), layer=0, view="heatmap")
    >>> print(of(chosen, "to_html(attention, 'page.html')")["call"])
    from attnwidget import Attention, to_html
    # weights: Tensor float32 [2, 2], which cannot be written here
    attention = Attention.from_weights(weights, tokens=['a', 'b'])
    to_html(attention, 'page.html', layer=0, view='heatmap')
    """
    attention = selection.attention.select(selection.sample)
    part = attention.part(selection.part)
    queries, keys = list(part.queries.labels), list(part.keys.labels)
    check = attention.check
    return {
        "attnwidget": __version__,
        "model": attention.model,
        "tokens": {"queries": queries} | ({"keys": keys} if keys != queries else {}),
        "versions": versions(),
        "state": selection.state(),
        "method": _method(attention),
        "notes": list(attention.notes),
        "check": None if check is None else {"ok": check.ok, "text": check.text},
        "call": _code(selection, call),
    }


def text(record: Mapping[str, Any]) -> str:
    """JSON that may stand as it is in a script element, in XML, in a PDF string or in a PNG."""
    told = json.dumps(record, separators=(",", ":"))
    return told.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# ── how it was made ──────────────────────────────────────────────────────────────────────────────────────────────────


def _method(shown: Any) -> str:
    """How the numbers came about."""
    if hasattr(shown, "names"):
        sides = zip(shown.names, (shown.a, shown.b), strict=True)
        both = (f"{name}: {_method(one).removesuffix('.')}." for name, one in sides)
        return f"Two attentions on common tokens. {' '.join(both)}"
    if shown.check is not None:
        kept = f"{shown.check.stored} " if shown.check.stored else ""
        return (
            f"Captured from a run of {shown.model}: queries and keys, or weights where there were none, are kept "
            f"({kept}numbers) and weights recomputed in float32. {shown.check.text}"
        )
    _, expression = recipe.split(shown.made)
    if expression.startswith("Attention.from_qk"):
        return "Computed in float32 from queries and keys as they were given."
    if ".attention()" in expression and shown.notes:
        return str(shown.notes[0])
    return "Weights as they were given."


def _code(selection: Selection, call: str) -> str:
    """The whole program, up to ``call``."""
    named = "run" if selection.trace is not None else "attention"
    _, _, chosen = selection.code().removeprefix("AttentionWidget(").removesuffix(")").partition(", ")
    last = call.replace("(attention", f"({named}", 1)
    return _program(selection.attention, named, f"{last[:-1]}, {chosen})" if chosen else last)


def _program(shown: Any, name: str, last: str) -> str:
    """Imports, what is shown under ``name``, and the last line."""
    remarks, assigned = _made(shown, name)
    if "measures=measures" in last:
        remarks.append("# measures: numbers of your own, which cannot be written here")
    code = "\n".join([*assigned, last])
    public = "Attention|AttentionWidget|attribute|capture_generation|capture|compare|embed|load|show|to_\\w+|trace"
    used = sorted({*re.findall(rf"(?:^|[(\s])({public})(?=[(.])", code, re.MULTILINE)})
    imports = ["import torch"] * ("torch." in code) + [f"from attnwidget import {', '.join(used)}"] * bool(used)
    return "\n".join([*imports, *remarks, code])


def _made(shown: Any, name: str) -> tuple[list[str], list[str]]:
    """Comments, and the lines that put what is shown under ``name``."""
    if not hasattr(shown, "names"):
        remarks, expression = recipe.split(shown.made)
        if not expression:
            return [f"# {name}: how it was made is not known"], []
        # A trace is more than what is shown of it; where only that is meant, it has a name of its own.
        of = ".attention" if expression.startswith("trace(") and name != "run" else ""
        return remarks, [f"{name} = {expression}{of}"]
    remarks, lines = [], []
    for side, one in (("a", shown.a), ("b", shown.b)):
        more, assigned = _made(one, side)
        remarks += [one for one in more if one not in remarks]
        lines += assigned
    names = "" if shown.names == ("A", "B") else f", names={shown.names!r}"
    return remarks, [*lines, f"{name} = compare(a, b{names})"]


# ── reading it ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Provenance:
    """Where a picture came from.

    Attributes:
        model: its name, None where it is not known.
        tokens: {"queries": labels, "keys": labels}.
        versions: of packages, by name.
        state: what was selected, as :meth:`AttentionWidget.restore` takes it.
        method: how the numbers came about, in words. notes: what else has to be known.
        check: {"ok", "text"} of the comparison with what the model itself computed; None where there was none.
        code: the Python that makes the picture again, of a ``model`` and a ``tokenizer`` that are there. Nothing runs
            it. Whoever made the file wrote it: read it before you do.
        call: its last line.
    """

    model: str | None
    tokens: dict[str, tuple[str, ...]]
    versions: dict[str, str]
    state: dict[str, Any]
    method: str
    notes: tuple[str, ...]
    check: dict[str, Any] | None
    code: str

    @property
    def call(self) -> str:
        return self.code.splitlines()[-1] if self.code else ""


def provenance(path: str | Path, which: int | None = None) -> Provenance:
    """What a page, a figure, a notebook or a saved attention says of where it came from.

    Args:
        path: a file that attnwidget wrote: .html, .svg, .pdf, .png, .safetensors; or a notebook with its output.
        which: of several in one file, counted from 0.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it says nothing of the kind, or there are several.
    """
    source = Path(path)
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".html": _of_page, ".htm": _of_page, ".svg": _of_svg, ".pdf": _of_pdf, ".png": _of_png,
        ".safetensors": _of_tensors, ".ipynb": _of_notebook,
    }  # fmt: skip
    if source.suffix.lower() not in readers:
        raise ValueError(f"{source.name} is none of {', '.join(readers)}, in which there could be something to read.")
    try:
        found = [one for one in readers[source.suffix.lower()](source) if isinstance(one, dict)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as problem:
        raise ValueError(f"{source.name} cannot be read as {source.suffix}: {problem}") from None
    if not found:
        raise ValueError(f"{source.name} does not say where it came from: attnwidget did not write it.")
    if which is None and len(found) > 1:
        raise ValueError(f"{source.name} holds {len(found)}; say which: provenance(path, 0) is the first.")
    if not -len(found) <= (which or 0) < len(found):
        raise ValueError(f"{source.name} holds {len(found)}, so there is no number {which}.")
    return _read(found[which or 0])


def _read(told: Mapping[str, Any]) -> Provenance:
    """From JSON that anybody may have written."""

    def mapping(name: str) -> dict[str, Any]:
        value = told.get(name)
        return value if isinstance(value, dict) else {}

    def words(name: str) -> str:
        value = told.get(name)
        return value if isinstance(value, str) else ""

    axes = {name: tuple(map(str, one)) for name, one in mapping("tokens").items() if isinstance(one, list)}
    notes = told.get("notes")
    return Provenance(
        model=words("model") or None,
        tokens=({"keys": axes["queries"]} if "queries" in axes else {}) | axes,
        versions={str(name): str(one) for name, one in mapping("versions").items()},
        state=mapping("state"),
        method=words("method"),
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (),
        check=mapping("check") or None,
        code=words("call"),
    )


class _Scripts(HTMLParser):
    """The texts of all script elements of our kind."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "script" and ("type", KIND) in attrs
        if self._inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def _of_page(path: Path) -> Iterator[Any]:
    parser = _Scripts()
    parser.feed(path.read_text("utf-8", "replace"))
    parser.close()
    yield from map(json.loads, parser.texts)


def _of_svg(path: Path) -> Iterator[Any]:
    content = path.read_text("utf-8", "replace")
    for inside in re.findall(r'<metadata id="attnwidget">(.*?)</metadata>', content, re.DOTALL):
        yield json.loads(unescape(inside))


def _of_pdf(path: Path) -> Iterator[Any]:
    for found in re.finditer(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", path.read_bytes(), re.DOTALL):
        yield json.loads(re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL))


def _of_png(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("it is no PNG")
    at = 8
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        data, at = content[at + 8 : at + 8 + size], at + 12 + size
        name, _, value = data.partition(b"\0")
        if kind == b"tEXt" and name == _NAME.encode():
            yield json.loads(value)


def _of_tensors(path: Path) -> Iterator[Any]:
    """Of a saved attention, of which nothing is selected."""
    said = about(path)
    check = None if said["check"] is None else SimpleNamespace(**said["check"])
    shown = SimpleNamespace(check=check, **{name: said[name] for name in ("model", "notes", "made")})
    first = said["parts"][0]
    yield {
        **{name: said[name] for name in ("model", "notes", "check")},
        "tokens": {name: said["axes"][first[name]]["labels"] for name in ("queries", "keys")},
        "versions": said["made_with"],
        "method": _method(shown),
        "call": _program(shown, "attention", f"attention.save({path.name!r})"),
    }


def _of_notebook(path: Path) -> Iterator[Any]:
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        for output in cell.get("outputs", ()):
            yield output.get("metadata", {}).get(_NAME)
