"""Where a picture came from: what every file says of it, and that the Python in it makes the same view again."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnwidget import (
    AttentionWidget,
    attribute,
    capture,
    capture_generation,
    compare,
    provenance,
    recipe,
    record,
    tiny,
    to_html,
    trace,
)
from attnwidget.attention import Attention
from attnwidget.selection import Selection

of = importlib.import_module("attnwidget.provenance").of
text = importlib.import_module("attnwidget.provenance").text
TEXT = "The cat saw the dog. The cat saw"
HOSTILE = "</script><script>alert(1)</script><!-- \u2028 \u202e $x$ ]]> \ud83d \x00 (\\) &amp;"


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    return tiny.decoder()


def told(shown: Any, call: str = "Selection(attention)", **traits: Any) -> dict[str, Any]:
    found: dict[str, Any] = of(Selection(shown, **traits), call)
    assert json.loads(text(found)) == found, "it goes through JSON"
    return found


def made_again(code: str, **names: Any) -> Any:
    """What the last line of a recipe comes to, once all of it has run."""
    *before, last = code.splitlines()
    space = {"Selection": Selection, **names}
    exec("\n".join(before), space)
    return eval(last, space)


def assert_same(one: Selection, other: Selection) -> None:
    assert one.state() == other.state()
    assert one.attention.parts == other.attention.parts
    for name in one.attention.parts:
        assert one.attention.part(name).queries.labels == other.attention.part(name).queries.labels
        assert one.attention.part(name).keys.labels == other.attention.part(name).keys.labels
    a, b = one.map.weights(), other.map.weights()
    assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


CASES: dict[str, tuple[Callable[[Any, Any], Any], dict[str, Any]]] = {
    "capture": (lambda m, t: capture(m, TEXT, t), {"layer": 1, "head": 0, "view": "heatmap"}),
    "some layers": (lambda m, t: capture(m, TEXT, t, layers=[0, -1], dtype=torch.float16), {"layer": 0, "head": 2}),
    "batch": (lambda m, t: capture(m, [TEXT, "The dog."], t), {"sample": 1, "heads": [(0, 1), (1, 2)]}),
    "ids": (lambda m, t: capture(m, dict(t(TEXT, return_tensors="pt")), t), {"layer": 0, "pinned": [2]}),
    "ids alone": (lambda m, t: capture(m, t(TEXT, return_tensors="pt")["input_ids"]), {"layer": 0, "pinned": [2]}),
    "hostile": (lambda m, t: capture(m, HOSTILE.replace("\ud83d", ""), t), {"layer": 0, "head": 0}),
    "compare": (
        lambda m, t: compare(capture(m, TEXT, t), capture(m, TEXT.replace("dog", "cat"), t), names=("it's", 'a "b"')),
        {"layer": 1, "head": 0, "side": "b"},
    ),
    "trace": (lambda m, t: trace(m, TEXT, t, objective=" the"), {"layer": 1, "head": 0, "effects": True}),
    "generation": (
        lambda m, t: capture_generation(m, "The cat saw the", t, max_new_tokens=3, progress=False),
        {"layer": 1, "step": 2},
    ),
    "attribution": (
        lambda m, t: attribute(capture(m, TEXT, t), "rollout", fuse="max").attention(),
        {"view": "heatmap"},
    ),
    "signed attribution": (lambda m, t: attribute(trace(m, TEXT, t), "gradient").attention(), {"side": "a"}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_code_makes_the_same_view_again(case: str, small: tuple[Any, Any]) -> None:
    """Oracle: the code is run, and its view has the same state, tokens and weights, bit for bit."""
    make, traits = CASES[case]
    model, tokenizer = small
    chosen = Selection(make(model, tokenizer), **traits)
    code = of(chosen, "Selection(attention)")["call"]
    assert_same(made_again(code, model=model, tokenizer=tokenizer), chosen)


def test_what_was_recorded_is_captured_from_its_ids(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    with record(model, tokenizer) as rec, torch.no_grad():
        model(**tokenizer([TEXT, "The dog."], return_tensors="pt", padding=True))
    code = told(rec.attention)["call"]
    assert "# recorded while the model was run" in code
    assert_same(made_again(code, model=model, tokenizer=tokenizer), Selection(rec.attention))


def test_numbers_of_your_own_are_named_and_said_to_be_missing() -> None:
    weights = torch.rand(2, 3, 4, 4)
    measures = {"own": torch.rand(2, 3)}
    attention = Attention.from_weights(weights, tokens=list("abcd"), model="Mine")
    chosen = Selection(attention, measures=measures, sort="own")
    code = of(chosen, "Selection(attention)")["call"]
    assert "# weights: Tensor float32 [2, 3, 4, 4], which cannot be written here" in code
    assert "# measures: numbers of your own" in code
    assert_same(made_again(code, weights=weights, measures=measures), chosen)
    q, k = torch.randn(2, 3, 4, 8)
    chosen = Selection(Attention.from_qk(q, k, causal=True, softcap=5.0))
    assert_same(made_again(of(chosen, "Selection(attention)")["call"], q=q, k=k), chosen)


def test_what_cannot_be_written_is_said_in_a_comment(small: tuple[Any, Any]) -> None:
    attention = capture(torch.nn.MultiheadAttention(16, 4, batch_first=True), (torch.randn(1, 5, 16),) * 3)
    assert "# inputs: (Tensor float32 [1, 5, 16], " in told(attention)["call"]
    unknown = Attention([attention.part()])
    assert "# attention: how it was made is not known" in told(unknown)["call"]
    model, tokenizer = small
    from attnwidget import ablate

    with ablate(model, heads=[(0, 0)]):
        changed = capture(model, TEXT, tokenizer)
    assert "something that changes what the model does was open" in told(changed)["call"]
    assert (
        "the text was sampled"
        in told(capture_generation(model, "The cat", tokenizer, max_new_tokens=2, do_sample=True, progress=False))[
            "call"
        ]
    )


def test_the_method_says_how_the_numbers_came_about(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    captured = capture(model, TEXT, tokenizer, dtype=torch.float16)
    assert captured.check is not None
    assert told(captured)["method"].endswith(captured.check.text)
    assert "float16" in told(captured)["method"]
    assert told(Attention.from_weights(torch.eye(3)))["method"] == "Weights as they were given."
    assert "queries and keys as they were given" in told(Attention.from_qk(*torch.randn(2, 3, 4)))["method"]
    assert "rollout" in told(attribute(captured, "rollout").attention())["method"]
    both = told(compare(captured, capture(model, TEXT, tokenizer), names=("half", "whole")))["method"]
    assert re.search(r"half: Captured .*float16.* whole: Captured .*float32", both)


def test_no_name_ends_the_comment_it_stands_in() -> None:
    """Oracle: Python, which finds one call in it and nothing else."""
    inputs = {name: torch.rand(2) for name in ("a\nraised()", "b\rraised()", "c\u2028raised()", "d\x0craised()")}
    made = recipe.call("capture", {"model": recipe.Name("model"), "inputs": inputs}, more={1, "a", None})
    (only,) = ast.parse(made).body
    assert ast.unparse(only) == "capture(model, inputs, more=['a', 1, None])"
    assert recipe.split(made)[1].startswith("capture(")


def test_the_call_of_a_page_is_all_of_it(tmp_path: Path) -> None:
    path = to_html(hostile(), tmp_path / "page.html", budget=400_000, title="'Mine'", layer=0)
    assert provenance(path).call == "to_html(attention, 'page.html', budget=400000, title=\"'Mine'\", layer=0)"


def test_a_recipe_writes_what_it_can_exactly() -> None:
    """Oracle: Python reads back what was written."""
    values = [None, True, 3, 0.1, "a\u2028\u202e'\"\n", (1,), [1, (2, "b")], {"a": {1: None}}, torch.float16]
    values += [torch.arange(6).reshape(2, 3).numpy().sum(), np.array(["it's"])[0]]
    for value in values:
        assert eval(recipe.written(value) or "", {"torch": torch}) == value
    for tensor in (torch.tensor([[1, 2]]), torch.tensor([True]), torch.tensor([3], dtype=torch.int32)):
        again = eval(recipe.written(tensor) or "", {"torch": torch})
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)
    for value in (float("nan"), torch.rand(2), torch.zeros(5000, dtype=torch.long), object(), {"f": print}, [object()]):
        assert recipe.written(value) is None


# ── reading it back ──────────────────────────────────────────────────────────────────────────────────────────────────


def hostile() -> Attention:
    tokens = ["</script><script>alert(1)</script>", "<!--", "\u2028", "]]>", "(\\)", "\ud83d", "&amp;", "שלום"]
    return Attention.from_weights(torch.eye(8), tokens, model=HOSTILE)


def written(kind: str, folder: Path) -> Path:
    chosen = AttentionWidget(hostile(), layer=0, head=0, view="heatmap")
    if kind == "html":
        return to_html(chosen, folder / "page.html")
    if kind == "ipynb":
        data, metadata = chosen._repr_mimebundle_()
        output = {"output_type": "display_data", "data": data, "metadata": metadata}
        cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [{"output_type": "stream"}, output]}]
        path = folder / "notebook.ipynb"
        path.write_text(json.dumps({"cells": cells, "metadata": {}}), "utf-8")
        return path
    figures = importlib.import_module("attnwidget.figures")
    path = folder / f"figure.{kind}"
    path.write_bytes(figures.draw(chosen, kind))
    return path


@pytest.mark.parametrize("kind", ["html", "ipynb", "svg", "pdf", "png"])
def test_every_export_says_where_it_came_from(kind: str, tmp_path: Path) -> None:
    """Oracle: the attention that went in, strange characters and all."""
    found = provenance(written(kind, tmp_path))
    attention = hostile()
    # A notebook is packed as UTF-8, which has no halves of characters.
    assert found.model == (HOSTILE.replace("\ud83d", "?") if kind == "ipynb" else HOSTILE)
    assert found.tokens == {"queries": attention.tokens.labels, "keys": attention.tokens.labels}
    assert found.versions["torch"] == torch.__version__
    assert (found.state["view"], found.state["layer"]) == ("heatmap", 0)
    assert found.method == "Weights as they were given."
    assert "# weights: Tensor" in found.code
    assert re.search(r"\(attention, .*layer=0, head=0, view='heatmap'", found.call)
    AttentionWidget(attention).restore(found.state)


def test_a_saved_attention_says_where_it_came_from(small: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = small
    attention = capture(model, TEXT, tokenizer)
    found = provenance(attention.save(tmp_path / "saved.safetensors"))
    assert attention.check is not None
    assert (found.model, found.tokens["keys"]) == (attention.model, attention.tokens.labels)
    assert found.method == told(attention)["method"]
    assert found.versions["torch"] == torch.__version__
    assert found.call == "attention.save('saved.safetensors')"
    again = made_again(found.code.replace(found.call, "Selection(attention)"), model=model, tokenizer=tokenizer)
    assert_same(again, Selection(attention))


def test_of_several_in_one_file_one_is_asked_for(tmp_path: Path) -> None:
    path = to_html([hostile(), Attention.from_weights(torch.eye(2))], tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"page.html holds 2; say which: provenance\(path, 0\) is the first"):
        provenance(path)
    assert len(provenance(path, 1).tokens["keys"]) == 2
    assert provenance(path, -2).model == HOSTILE
    with pytest.raises(ValueError, match="no number 2"):
        provenance(path, 2)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.html", b"<p>hello", "does not say where it came from"),
        ("a.html", b'<script type="application/vnd.attnwidget.provenance+json">{</script>', "cannot be read as .html"),
        ("a.png", b"GIF89a", "it is no PNG"),
        ("a.png", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xfftEXtattnwidget\0{", "cannot be read as .png"),
        ("a.svg", b"<svg><metadata>none</metadata></svg>", "does not say"),
        ("a.pdf", b"%PDF-1.4 /Keywords (a, b)", "cannot be read as .pdf"),
        ("a.ipynb", b"[]", "cannot be read as .ipynb"),
        ("a.ipynb", b'{"cells": []}', "does not say"),
        ("a.ipynb", b"[" * 100_000, "cannot be read as .ipynb"),
        ("a.safetensors", b"\x80\x04", "a.safetensors"),
        ("a.txt", b"", "a.txt is none of .html"),
    ],
)
def test_other_files_are_refused_in_words(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)):
        provenance(tmp_path / name)


def test_nothing_of_a_wrong_kind_gets_out(tmp_path: Path) -> None:
    """Whoever reads a foreign file gets texts and dicts, or words."""
    for told in (
        {"model": 3, "tokens": [1], "state": "x", "notes": 5, "call": None},
        {"tokens": {"queries": [1, None]}},
    ):
        path = tmp_path / "a.html"
        path.write_text(
            f'<script type="application/vnd.attnwidget.provenance+json">{json.dumps(told)}</script>', "utf-8"
        )
        found = provenance(path)
        assert found.model is None
        assert (found.state, found.notes, found.code, found.call) == ({}, (), "", "")
        assert all(isinstance(label, str) for axis in found.tokens.values() for label in axis)
