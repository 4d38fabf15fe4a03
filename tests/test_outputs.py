"""What a notebook keeps of a widget: which MIME types, how many bytes, and what is left where scripts are taken out."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from ipywidgets import Widget
from PIL import Image
from traitlets import TraitError

from attnwidget import Dashboard, export, options, outputs
from attnwidget.attention import Attention
from attnwidget.compare import compare
from attnwidget.selection import selected
from attnwidget.widget import AttentionWidget

LIVE = "application/vnd.jupyter.widget-view+json"
STRANGE = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "&quot;", "<!--", "\ud83d", "]]>"]


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")
    before = {name: getattr(options, name) for name in ("live", "saved", "budget")}
    yield
    for name, value in before.items():
        setattr(options, name, value)


def plain(n: int = 10, layers: int = 2, heads: int = 3, tokens: Any = None, **traits: Any) -> AttentionWidget:
    q, k = torch.randn(2, layers, heads, n, 8, generator=torch.Generator().manual_seed(0))
    return AttentionWidget(Attention.from_qk(q, k, tokens, causal=True, model="Toy<Model>"), **traits)


def shown(widget: AttentionWidget) -> tuple[dict[str, Any], dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return widget._repr_mimebundle_()


class Fragment(HTMLParser):
    """What a browser finds in an output: the page in the frame, and the rest of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def only(self, tag: str) -> dict[str, Any]:
        (own,) = [own for name, own in self.tags if name == tag]
        return own


def test_an_output_holds_a_live_view_a_page_a_picture_and_words() -> None:
    widget = plain(layer=1, head=2, view="heatmap")
    data, metadata = shown(widget)
    assert set(data) == {LIVE, "text/html", "image/png", "text/plain"}
    assert data[LIVE]["model_id"] == widget.model_id
    words = "Attention of Toy<Model>, attention, layer 1, head 2: 10 × 10 tokens, as a heat map."
    assert data["text/plain"] == words
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert (picture.format, picture.width) == ("PNG", 736)
    assert metadata["attnwidget"]["state"] == widget.state()
    fragment = Fragment(data["text/html"])
    frame = fragment.only("iframe")
    assert frame["sandbox"] == "allow-scripts allow-downloads"
    assert frame["title"] == fragment.only("img")["alt"] == words
    assert fragment.only("img")["src"] == f"data:image/png;base64,{data['image/png']}"
    assert "to see it alive" in fragment.words
    page = Fragment(frame["srcdoc"])
    (stored,) = [own for tag, own in page.tags if own.get("type") == "application/vnd.attnwidget+json"]
    assert page.only("title") == {}
    assert "img" not in [tag for tag, _ in page.tags], "the picture is there once, below the frame"


def test_what_stands_in_an_output_is_the_page_that_was_made() -> None:
    """Oracle: an HTML parser gives back from the frame what was put into it, character by character."""
    widget = plain(len(STRANGE), tokens=STRANGE)
    data, metadata = shown(widget)
    seen: list[str] = []
    without = export.Still(b"", export.described(widget))
    export.page([widget], 10**9, call="AttentionWidget(attention)", still=without, within=lambda p: seen.append(p) or p)
    found = Fragment(data["text/html"])
    assert found.only("iframe")["srcdoc"].replace(outputs._ASKING, "") in seen
    assert {tag for tag, _ in found.tags} == {"div", "iframe", "img", "p", "script", "style"}
    assert not any(name.startswith("on") for _, own in found.tags for name in own)
    json.dumps([data, metadata], ensure_ascii=False).encode("utf-8")  # as kernels pack it, and notebooks are written


@pytest.mark.parametrize("saved", ["page", "picture"])
@pytest.mark.parametrize("budget", [400_000, 180_000, 90_000, 20_000, 6_000, 0])
@pytest.mark.parametrize("n", [6, 150])
def test_an_output_is_never_larger_than_its_budget(budget: int, n: int, saved: str) -> None:
    """Oracle: the bytes in the JSON of a notebook."""
    options.budget, options.saved = budget, saved
    data, metadata = shown(plain(n, layers=4, heads=4))
    beside = {name: one for name, one in data.items() if name not in (LIVE, "text/plain")}
    assert sum(map(outputs.bytes_of, (beside, metadata))) <= max(budget, 4)
    assert data["text/plain"]
    if budget == 90_000 and saved == "page":  # the script alone is larger
        told = Fragment(data["text/html"])
        assert "For a page that is alive here, set attnwidget.options.budget to" in told.words
        assert "it is 90_000" in told.words
        assert "iframe" not in [tag for tag, _ in told.tags]
        assert "image/png" in data


def test_a_page_that_does_not_fit_says_how_many_bytes_would_do() -> None:
    options.budget = 90_000
    widget = plain(40)
    words = Fragment(shown(widget)[0]["text/html"]).words
    options.budget = int(words.split("budget to ")[1].split(";")[0])
    fragment = Fragment(shown(widget)[0]["text/html"])
    assert "iframe" in [tag for tag, _ in fragment.tags]


def test_of_a_long_text_there_is_a_picture_rather_than_all_tokens_twice() -> None:
    widget = plain(40, tokens=["many characters" * 100] * 40)
    options.budget = bytes_of_provenance = outputs.bytes_of(shown(widget)[1])
    data, metadata = shown(widget)
    assert "image/png" in data
    assert "attnwidget" not in metadata
    options.budget = 3 * bytes_of_provenance
    assert shown(widget)[1]["attnwidget"]["model"] == "Toy<Model>"


def test_a_map_that_would_be_long_in_coming_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the weights behind it, counted here; every head in small has been computed for the widget already."""
    widget = plain(10, layers=2, heads=3)
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 6), ({"layer": 1}, 3), ({"head": 1}, 2), ({"layer": 1, "head": 1}, 1), ({"heads": [(0, 1), (1, 2)]}, 2),
        ({"layer": 0, "head": 0, "view": "graph"}, 2),
    ]  # fmt: skip
    for traits, maps in cases:
        chosen = selected(widget, None, traits)
        monkeypatch.setattr(export, "_MOST_WORK", maps * 100)
        assert "every head" not in export.Still.of(chosen).words
        monkeypatch.setattr(export, "_MOST_WORK", maps * 100 - 1)
        still = export.Still.of(chosen)
        assert still.words == "Attention of Toy<Model>, attention, every head in small: 10 × 10 tokens."
        assert still.png
        assert still.png != export.Still.of(selected(widget, None, {"scale": "log"})).png


def test_each_part_can_be_left_out() -> None:
    options.saved = "picture"
    assert set(shown(plain())[0]) == {LIVE, "image/png", "text/plain"}
    options.saved = "nothing"
    data, metadata = shown(plain())
    assert (set(data), metadata) == ({LIVE, "text/plain"}, {})


def test_without_a_live_view_nothing_is_opened() -> None:
    """For books: where there is a comm, tools store the state of the widget, and load scripts to show it."""
    options.live = False
    before = set(Widget._instances) if hasattr(Widget, "_instances") else set()
    widget = plain()
    assert widget.comm is None
    data, _ = shown(widget)
    assert set(data) == {"text/html", "image/png", "text/plain"}
    widget.layer = 1
    assert widget.size()["state"] == 0
    widget.attention = Attention.from_weights(torch.eye(3))
    assert widget.layer is None
    assert before == (set(Widget._instances) if hasattr(Widget, "_instances") else set())


def test_the_size_of_what_is_kept_is_reported() -> None:
    widget = plain(60)
    data, metadata = shown(widget)
    size = widget.size()
    assert size["page"] == outputs.bytes_of(data["text/html"])
    assert size["picture"] >= outputs.bytes_of(data["image/png"])
    assert size["state"] >= len(widget._bundle) * 4 / 3 + len(widget._esm)
    options.saved = "nothing"
    assert widget.size()["page"] == 0


def test_nothing_that_fails_reaches_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    widget = plain()

    def broken(*_: Any, **__: Any) -> str:
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(export, "page", broken)
        with pytest.warns(UserWarning, match="keeps no picture .* the disk is on fire"):
            data, _ = widget._repr_mimebundle_()
    assert set(data) == {LIVE, "text/plain"}
    assert data["text/plain"].startswith("<AttentionWidget")
    with monkeypatch.context() as patch:
        patch.setattr(export, "_drawn", broken)  # no picture is no reason to have no page
        data, _ = shown(widget)
    assert set(data) == {LIVE, "text/html", "text/plain"}


def test_every_view_and_kind_of_attention_has_an_output() -> None:
    for view in ("arcs", "heatmap", "graph", "text", "steps", "image", "table"):
        assert {"text/html", "image/png"} <= shown(plain(view=view, layer=0, head=0))[0].keys(), view
    both = compare(plain().attention, plain(12).attention)  # type: ignore[arg-type]
    assert {"text/html", "image/png"} <= shown(AttentionWidget(both))[0].keys()


def test_options_refuse_what_there_is_not() -> None:
    with pytest.raises(AttributeError, match="no option 'lives'; there are live, saved and budget"):
        options.lives = False
    with pytest.raises(TraitError, match=r"options.budget is -1"):
        options.budget = -1
    for name, value in (("saved", "pages"), ("live", "no"), ("budget", True)):
        with pytest.raises(TraitError):
            setattr(options, name, value)


@pytest.mark.parametrize(
    ("told", "found", "words"),
    [
        ({"LIVE": "0", "SAVED": "picture", "BUDGET": "1234"}, (False, "picture", 1234), ""),
        ({"LIVE": "true", "SAVED": "", "BUDGET": ""}, (True, "page", 400_000), ""),
        (
            {"LIVE": "maybe"},
            (True, "page", 400_000),
            "ATTNWIDGET_LIVE is 'maybe' in the environment: it must be 0 or 1.",
        ),
        (
            {"BUDGET": "lots"},
            (True, "page", 400_000),
            "ATTNWIDGET_BUDGET is 'lots' in the environment: it must be a number of bytes, 0 or more.",
        ),
        ({"SAVED": "all"}, (True, "page", 400_000), "ATTNWIDGET_SAVED is 'all' in the environment"),
    ],
)
def test_options_begin_as_the_environment_says(told: dict[str, str], found: tuple[Any, ...], words: str) -> None:
    code = "from attnwidget import options; print((options.live, options.saved, options.budget))"
    environment = {**os.environ, **{f"ATTNWIDGET_{name}": value for name, value in told.items()}}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)
    assert words in done.stderr
    assert bool(words) == bool(done.stderr)


def test_a_dashboard_keeps_its_heads_and_a_word_on_its_charts() -> None:
    board = Dashboard(plain(6))
    data, metadata = board._repr_mimebundle_()
    assert data[LIVE]["model_id"] == board.model_id
    assert "The charts of this dashboard are drawn where a kernel runs." in Fragment(data["text/html"]).words
    assert metadata["attnwidget"]["model"] == "Toy<Model>"
