"""The page: one file, no kernel, no network, nothing in it that a token could break out of."""

from __future__ import annotations

import base64
import importlib
import io
import json
import random
import re
import subprocess
import sys
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from traitlets import TraitError

from attnwidget import __version__, export, wire
from attnwidget.attention import Attention
from attnwidget.blocks import Block
from attnwidget.compare import compare
from attnwidget.export import embed, to_html
from attnwidget.selection import NAMES
from attnwidget.widget import AttentionWidget

STATIC = Path(export.__file__).parent / "static"
STRANGE = [
    "</script><script>alert(1)</script>",
    "<!--",
    "שלום עולם",
    "🙂👩‍🔬",
    "\ud83d",
    "&amp;",
    "\u2028",
    '"',
    "'",
    "\x00",
]


@pytest.fixture(autouse=True)
def _front_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stand-ins for the built front end, so that these tests need no Node."""
    code = tmp_path / "page.js"
    code.write_text("void 'stands in for the page';", "utf-8")
    monkeypatch.setattr(export, "_PACKED", code)
    monkeypatch.setattr(export, "_PLAIN", code)
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")


def plain(n: int = 10, tokens: Any = None) -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 3, n, 8, generator=generator)
    return Attention.from_qk(q, k, tokens, causal=True, model="Toy<Model>")


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any], str]] = []
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = tag, attributes, text + data

    def only(self, tag: str, **attributes: str) -> str:
        (text,) = [text for name, own, text in self.found if name == tag and attributes.items() <= own.items()]
        return text


def read(path: Path) -> tuple[dict[str, Any], Block, Elements]:
    elements = Elements(path.read_text("utf-8"))
    data = json.loads(elements.only("script", type="application/vnd.attnwidget+json"))
    assert data.keys() == {"state", "bundle"}
    return data["state"], wire.unpack(base64.b64decode(data["bundle"])), elements


def test_a_page_holds_every_head_and_says_nothing_is_missing(tmp_path: Path) -> None:
    path = to_html(plain(), tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    state, bundle, elements = read(path)
    assert state.keys() == set(NAMES)
    assert {f"map/attention/{layer}/{head}" for layer in range(2) for head in range(3)} <= bundle.arrays.keys()
    assert bundle.meta["notes"] == []
    assert elements.only("title") == "Attention of Toy<Model>"
    assert "Toy<Model>. Made with attnwidget" in elements.only("p", **{"class": "about"})
    assert f"torch {torch.__version__}" in elements.only("p", **{"class": "about"})
    assert "scripts are switched off" in elements.only("noscript")


def test_a_page_that_cannot_hold_every_head_says_how_many_it_holds(tmp_path: Path) -> None:
    _, bundle, _ = read(to_html(plain(n=120), str(tmp_path / "page.html"), budget=90_000))
    held = sum(bool(re.fullmatch(r"map/attention/\d/\d", name)) for name in bundle.arrays)
    assert 0 < held < 6
    assert bundle.meta["notes"] == [f"{held} of 6 heads are stored exactly; a larger budget holds more."]


def test_a_widgets_selection_is_what_its_page_opens_with(tmp_path: Path) -> None:
    widget = AttentionWidget(plain(n=120), layer=1, head=2, pinned=[3], view="heatmap", theme="dark")
    state, bundle, elements = read(to_html(widget, tmp_path / "page.html", budget=60_000, scale="log"))
    assert state | {"attnwidget": __version__} == {**widget.state(), "scale": "log", "views": {}}
    assert "map/attention/1/2" in bundle.arrays
    assert ("html", {"lang": "en", "data-theme": "dark"}) in [(tag, own) for tag, own, _ in elements.found]
    assert widget.scale == "sqrt", "the widget itself stays as it is"


def test_a_page_of_steps_holds_the_vectors_of_that_head(tmp_path: Path) -> None:
    _, bundle, _ = read(to_html(plain(), tmp_path / "page.html", layer=1, head=2, view="steps"))
    assert wire.unpack(bytes(bundle.arrays["steps/attention/1/2"])).kind == "steps"


def test_a_page_holds_the_vectors_of_as_many_heads_as_it_has_room_for(tmp_path: Path) -> None:
    stored = []
    for budget in range(10_000, 160_000, 3_000):
        with suppress(ValueError):  # not even the smallest page fits
            path = to_html(plain(), tmp_path / "page.html", budget=budget, layer=1, head=2, view="steps")
            stored.append({name for name in read(path)[1].arrays if name.startswith("steps/")})
    assert stored[0] == {"steps/attention/1/2"}  # that of the head in view first
    assert all(stored[0] <= heads for heads in stored)
    assert {len(heads) for heads in stored} >= {1, 3, 6}
    assert stored[-1] == {f"steps/attention/{layer}/{head}" for layer in range(2) for head in range(3)}


def test_a_page_of_several_heads_holds_them_however_small_it_is(tmp_path: Path) -> None:
    heads = [(0, 0), (1, 2)]
    state, bundle, _ = read(to_html(plain(n=120), tmp_path / "page.html", budget=20_000, heads=heads))
    assert state["heads"] == [[0, 0], [1, 2]]
    assert {f"map/attention/{layer}/{head}" for layer, head in heads} <= bundle.arrays.keys()


def test_a_page_of_a_comparison_holds_both_and_the_measures(tmp_path: Path) -> None:
    compared = compare(plain(), plain(), names=("before", "after"))
    measures = {"own": torch.ones(2, 3)}
    state, bundle, elements = read(to_html(compared, tmp_path / "page.html", sort="own", measures=measures))
    assert bundle.meta["sides"] == ["before", "after"]
    assert {"thumbs/attention", "thumbs/attention/difference", "other"} <= bundle.arrays.keys()
    names = [one["name"] for one in bundle.meta["parts"][0]["measures"]]
    assert (names[0], names[-1], state["sort"]) == ("change", "own", "own")
    widget = AttentionWidget(plain(), measures=measures, sort="own")
    _, bundle, _ = read(to_html(widget, tmp_path / "page.html"))
    assert bundle.meta["parts"][0]["measures"][-1]["name"] == "own"


def test_tokens_are_data_and_survive(tmp_path: Path) -> None:
    """Oracle: the tokens that went in, and an HTML parser that finds no element of theirs."""
    attention = plain(len(STRANGE), STRANGE)
    path = to_html(attention, tmp_path / "page.html", title="</title><script>alert(2)</script>\ud800")
    _, bundle, elements = read(path)
    assert bundle.meta["axes"][0]["raw"] == STRANGE
    assert bundle.meta["axes"][0]["labels"] == list(attention.tokens.labels)
    tags = [tag for tag, _, _ in elements.found]
    assert tags.count("script") == 3
    assert elements.only("title") == "</title><script>alert(2)</script>?"


def test_no_part_name_ends_the_script_it_stands_in(tmp_path: Path) -> None:
    attention = Attention.from_weights(torch.eye(3), part="</script><b>")
    state, _, elements = read(to_html(attention, tmp_path / "page.html"))
    assert state["part"] == "</script><b>"
    assert "b" not in [tag for tag, _, _ in elements.found]


def assert_nothing_is_fetched(page: str) -> None:
    elements = Elements(page)
    for tag, attributes, _ in elements.found:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        assert not {"src", "href", "srcset", "action"} & attributes.keys() or (
            tag == "img" and attributes["src"].startswith("data:image/png;base64,")
        )
    policy = next(own["content"] for _, own, _ in elements.found if own.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    code = [text for tag, own, text in elements.found if tag == "script" and "type" not in own]
    ways_out = r"\b(import|fetch|eval|importScripts|XMLHttpRequest|WebSocket|EventSource)\s*\(|https?:"
    assert not re.search(ways_out, code[0].replace("http://www.w3.org/", ""))  # that one is a name, not an address


def test_nothing_of_a_page_comes_from_the_network(tmp_path: Path) -> None:
    assert_nothing_is_fetched(to_html(plain(), tmp_path / "page.html").read_text("utf-8"))


@pytest.mark.skipif(not (STATIC / "page.js").is_file(), reason="the front end is not built")
def test_neither_does_the_front_end_as_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("page.js", "page.packed.js"):
        monkeypatch.setattr(export, "_PACKED", STATIC / name)
        page = to_html(plain(), tmp_path / "page.html").read_text("utf-8")
        assert_nothing_is_fetched(page)
        assert (STATIC / name).read_text("utf-8") in page


@pytest.mark.parametrize("code", ["let a = '</ScRiPt>'", "<!-- old"])
def test_code_that_would_end_its_script_is_refused(code: str, tmp_path: Path) -> None:
    export._PACKED.write_text(code, "utf-8")
    with pytest.raises(ValueError, match="cannot stand in a page"):
        to_html(plain(), tmp_path / "page.html")


def test_what_cannot_be_written_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        to_html(plain(), tmp_path / "missing" / "page.html")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        to_html(plain(), tmp_path)
    target = tmp_path / "page.html"
    target.write_text("old", "utf-8")
    with pytest.raises(TraitError, match="layer is 9"):
        to_html(plain(), target, layer=9)
    with pytest.raises(TypeError, match="no option lair"):
        to_html(plain(), target, lair=9)
    with pytest.raises(TypeError, match="cannot"):
        to_html(torch.eye(3), target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="budget"):
        to_html(plain(), target, budget=0)
    export._PACKED.unlink()
    with pytest.raises(FileNotFoundError, match="not built"):
        to_html(plain(), target)
    assert target.read_text("utf-8") == "old"


# ── budgets, several pictures, fragments ─────────────────────────────────────────────────────────────────────────────


def test_a_page_is_never_larger_than_its_budget(tmp_path: Path) -> None:
    """Oracle: the size of the file, over many shapes and budgets; what does not fit is refused with what would."""
    long = Attention.from_weights(torch.eye(300)[None], tokens=["</script>" + "ü" * 40] * 300)
    batch = Attention.from_weights(torch.eye(20).expand(2, 5, 3, 20, 20), model="Batch")
    both = compare(plain(60), plain(60))
    generator = random.Random(0)
    kept = refused = 0
    for shown in (plain(4), plain(150), long, batch, both, [plain(40), both, plain(90)]):
        for _ in range(4):
            budget = int(10 ** generator.uniform(3.5, 6))
            path = tmp_path / "page.html"
            try:
                size = to_html(shown, path, budget=budget).stat().st_size
            except ValueError as problem:
                least = int(re.search(r"this takes (\d+) bytes", str(problem))[1])  # type: ignore[index]
                assert least > budget
                assert to_html(shown, path, budget=least).stat().st_size <= least
                refused += 1
            else:
                assert size <= budget
                kept += 1
    assert min(kept, refused) >= 4


def test_several_pictures_share_one_copy_of_the_script(tmp_path: Path) -> None:
    shown = [plain(), AttentionWidget(plain(6), layer=1, view="heatmap"), compare(plain(), plain())]
    elements = Elements(to_html(shown, tmp_path / "page.html", budget=600_000).read_text("utf-8"))
    states = [
        json.loads(text)["state"]
        for tag, own, text in elements.found
        if own.get("type") == "application/vnd.attnwidget+json"
    ]
    assert [(one["layer"], one["view"]) for one in states] == [(None, "arcs"), (1, "heatmap"), (None, "arcs")]
    assert [own for tag, own, _ in elements.found if tag == "script"].count({}) == 1
    places = [own["id"] for tag, own, _ in elements.found if tag == "div"]
    assert len(places) == len(set(places)) == 3
    with pytest.raises(ValueError, match="The list is empty"):
        to_html([], tmp_path / "page.html")


def test_the_same_page_twice_is_the_same_bytes(tmp_path: Path) -> None:
    pages = [to_html(plain(50), tmp_path / "page.html", layer=0, head=1).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_a_page_shows_a_picture_until_its_script_runs(tmp_path: Path) -> None:
    elements = Elements(to_html(plain(), tmp_path / "page.html", layer=1, head=0).read_text("utf-8"))
    (image,) = [own for tag, own, _ in elements.found if tag == "img"]
    assert image["alt"] == "Attention of Toy<Model>, attention, layer 1, head 0: 10 × 10 tokens, as arcs."
    picture = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))))
    assert picture.width == 736  # 170 mm at 110 dpi
    assert len(picture.convert("RGB").getcolors() or ()) > 8


def test_a_fragment_carries_the_script_or_says_where_it_is() -> None:
    def scripts(**options: Any) -> list[dict[str, Any]]:
        found = Elements(embed(plain(), **options)).found
        return [own for tag, own, _ in found if tag == "script" and "type" not in own]

    assert scripts() == [{}]
    assert scripts(script=False) == []
    assert scripts(script='a"b.js') == [{"src": 'a"b.js'}]
    assert scripts(nonce="r4nd0m") == [{"nonce": "r4nd0m"}]
    assert scripts(script="a.js", nonce="r4nd0m") == [{"src": "a.js", "nonce": "r4nd0m"}]
    assert len(embed(plain(90), budget=50_000, script=False).encode()) <= 50_000
    with pytest.raises(TypeError, match="no option lair"):
        embed(plain(), lair=1)


def test_the_script_of_a_fragment_is_a_file_of_its_own(tmp_path: Path) -> None:
    path = export.embed_script(tmp_path / "attnwidget.js")
    assert path.read_text("utf-8") == export._PLAIN.read_text("utf-8")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        export.embed_script(tmp_path / "missing" / "attnwidget.js")


# ── python -m attnwidget ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the model that comes along: weights by the number of words, no model at all."""

    def capture(model: str, text: str, tokenizer: str, **options: Any) -> Attention:
        if not text.split():
            raise ValueError("The text is empty:\nthere are no tokens to attend to.")
        return Attention.from_weights(torch.eye(len(text.split())), tokens=text.split(), model=f"{model}/{tokenizer}")

    module = importlib.import_module("attnwidget.capture")
    monkeypatch.setattr(module, "capture", capture)
    monkeypatch.setattr(module, "load", lambda name: (name, "its own"))
    monkeypatch.setattr(
        importlib.import_module("attnwidget.tiny"), "decoder", lambda: ("small", "words"), raising=False
    )


@pytest.mark.usefixtures("_small_model")
def test_the_command_writes_a_page_and_says_what_is_in_it(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from attnwidget.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["one two three", "--layer", "0", "--head", "0", "--view", "heatmap", "--title", "T"]) == 0
    assert re.match(r"attention\.html: 0\.\d+ MB\. <Attention of small/words: .*3 × 3", capsys.readouterr().out)
    state, _, elements = read(tmp_path / "attention.html")
    assert (state["layer"], state["head"], state["view"], elements.only("title")) == (0, 0, "heatmap", "T")
    assert main(["a b", "-o", "other.html", "--model", "big"]) == 0
    assert read(tmp_path / "other.html")[1].meta["model"] == "big/its own"


@pytest.mark.usefixtures("_small_model")
def test_the_command_reads_standard_input(tmp_path: Path, monkeypatch: Any) -> None:
    import io

    from attnwidget.__main__ import main

    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert main(["-", "-o", str(tmp_path / "page.html")]) == 0
    assert read(tmp_path / "page.html")[1].meta["axes"][0]["labels"] == ["from", "a", "pipe"]


@pytest.mark.usefixtures("_small_model")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([" "], "The text is empty: there are no tokens"),
        (["a b", "--layer", "7"], "layer is 7"),
        (["a b", "-o", "nowhere/page.html"], "There is no folder nowhere"),
        (["a b", "--budget", "-1"], "budget is -1"),
        (["a b", "--part", "cross"], "There is no part 'cross'"),
    ],
)
def test_what_goes_wrong_is_one_plain_line(
    arguments: list[str], words: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from attnwidget.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"attnwidget: {words}")
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


def test_the_command_explains_itself_without_loading_a_model() -> None:
    done = subprocess.run([sys.executable, "-m", "attnwidget", "--help"], capture_output=True, text=True, check=True)
    for option in (
        "--layer",
        "--head",
        "--view {arcs,heatmap,graph,text,steps,image,table}",
        "--model",
        "--truncate",
        "--budget",
    ):
        assert option in done.stdout
