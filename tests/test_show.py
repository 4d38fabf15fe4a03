"""From a text to the picture: which option goes where, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import attnwidget.tiny
from attnwidget import show_generation, tiny
from attnwidget.attention import Attention
from attnwidget.blocks import unpack
from attnwidget.compare import compare
from attnwidget.show import show
from attnwidget.widget import AttentionWidget


class Small(nn.Module):
    """One layer of attention over vectors [batch, token, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gain = 0.0

    def forward(self, x: torch.Tensor, gain: float = 1.0, **more: Any) -> Any:
        self.gain = gain
        return self.attend(x * gain, x, x)[0]


@pytest.fixture(autouse=True)
def _front_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AttentionWidget, "_esm", "export default { render() {} }")  # stands in for the built front end


def plain() -> Attention:
    return Attention.from_weights(torch.eye(3).expand(2, 2, 3, 3))


def test_an_attention_is_shown_as_it_is() -> None:
    attention = plain()
    widget = show(attention, layer=1, view="heatmap", budget=20_000)
    assert widget.attention is attention
    assert (widget.layer, widget.view) == (1, "heatmap")


def test_inputs_run_through_their_model_and_each_option_goes_where_it_belongs() -> None:
    model = Small()
    widget = show(torch.randn(1, 5, 8), model, head=1, gain=2.0, progress=False)
    assert (widget.head, model.gain) == (1, 2.0)
    assert widget.map.shape == (5, 5)


def test_a_text_alone_is_read_by_the_model_that_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is a stand-in, and so is its capture: what counts is who is called with what."""
    model, called = Small(), []

    def capture(*args: Any, **options: Any) -> Attention:
        called.append((args, options))
        return plain()

    monkeypatch.setattr(attnwidget.tiny, "decoder", lambda: (model, "tokenizer"), raising=False)
    monkeypatch.setattr(sys.modules["attnwidget.capture"], "capture", capture)
    assert show("some text", layer=1).layer == 1
    assert called == [((model, "some text", "tokenizer"), {"keep_values": True})]


def test_values_are_kept_for_the_steps_unless_they_are_not_wanted() -> None:
    widget = show("The cat saw the dog.", measures={"one": torch.ones(4, 4)}, sort="one")
    assert widget.attention.part().layers[0].v is not None
    assert widget.sort == "one"
    assert show("The cat saw the dog.", keep_values=False).attention.part().layers[0].v is None
    written = show_generation("The cat saw the", max_new_tokens=1)
    assert written.attention.part().layers[0].v is not None


def test_measures_stay_while_a_model_writes() -> None:
    widget = show_generation("The cat saw the", max_new_tokens=3, measures={"one": torch.ones(4, 4)}, sort="one")
    assert (widget.sort, list(widget.measures)) == ("one", ["one"])
    assert unpack(widget._bundle).meta["parts"][0]["measures"][-1]["name"] == "one"


def test_a_comparison_is_shown_as_it_is() -> None:
    compared = compare(plain(), plain())
    assert show(compared, sort="change").attention is compared
    with pytest.raises(TypeError, match="captured already"):
        show(compared, Small())


def test_a_misspelt_option_is_named_and_never_reaches_the_model() -> None:
    with pytest.raises(
        TypeError, match=r"no option lair\. There are target, truncate, .*budget, measures, sample, part, layer, "
    ) as problem:
        show(torch.randn(1, 5, 8), Small(), lair=1)
    assert "the model's own" in str(problem.value)


def test_options_that_come_too_late_are_refused() -> None:
    with pytest.raises(TypeError, match="captured already; truncate, model would have no effect"):
        show(plain(), Small(), truncate=True)


@pytest.mark.parametrize("option", [{"layers": [-1]}, {"parts": ["decoder"]}, {"dtype": torch.float16}])
def test_what_is_to_be_kept_is_an_option_of_the_capture(option: dict[str, Any]) -> None:
    widget = show("The cat saw the dog.", **option)
    last = widget.attention.part().layers[-1]
    assert last.heads == 4
    assert last.q is not None and last.q.dtype == option.get("dtype", torch.float32)


def test_inputs_without_a_model_are_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"A Tensor needs its model.*Attention\.from_weights"):
        show(torch.eye(3))


# ── while it writes ──


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for IPython's shell in a kernel; what is displayed is listed."""
    shell = SimpleNamespace(kernel=object(), execution_count=7, shown=[], kept=[])

    def display(widget: AttentionWidget, display_id: bool = False) -> SimpleNamespace:
        assert display_id
        shell.shown.append((widget, widget.attention.part().queries.steps))
        return SimpleNamespace(update=lambda one: shell.kept.append((one, one.attention.part().queries.steps)))

    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", display)
    return shell


def test_a_generation_is_shown_when_it_is_there_where_no_notebook_runs() -> None:
    told: list[Attention] = []
    options: dict[str, Any] = {"max_new_tokens": 3, "step": 2, "layer": 1, "on_step": told.append, "budget": 20_000}
    widget = show_generation("The cat saw the", **options)
    assert not hasattr(widget, "_ipython_display_")
    assert widget.attention is told[-1]
    assert (widget.step, widget.layer, widget.attention.part().queries.steps) == (2, 1, 3)


def test_in_a_notebook_it_is_displayed_with_the_first_token_and_grows(
    notebook: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["attnwidget.generation"], "_PAUSE", 0.0)
    monkeypatch.setattr(sys.modules["attnwidget.generation"], "_SHARE", 1.0)
    seen: list[int] = []

    def on_step(attention: Attention) -> None:
        (widget, _), *others = notebook.shown
        assert not others
        assert widget.attention is attention
        seen.append(attention.part().queries.steps)

    model, tokenizer = tiny.decoder()
    # Neither token 9 nor step 3 is there when it is displayed.
    chosen = {"query": 9, "step": 3, "head": 2, "view": "heatmap"}
    widget = show_generation("The cat saw the", model, tokenizer, max_new_tokens=5, on_step=on_step, **chosen)
    assert notebook.shown == [(widget, 1)]
    assert notebook.kept == [(widget, 5)], "what the notebook keeps is of all that was written"
    assert seen == [1, 2, 3, 4, 5, 5]
    assert {name: widget.state()[name] for name in chosen} == chosen


def test_it_is_not_displayed_again_as_the_result_of_its_own_cell(notebook: SimpleNamespace) -> None:
    """IPython's own formatter decides what a cell's result looks like."""
    from IPython.core.formatters import DisplayFormatter

    look = DisplayFormatter().format
    widget = show_generation("The cat saw the", max_new_tokens=1)
    assert look(widget) == ({}, {})
    assert "application/vnd.jupyter.widget-view+json" in look(widget)[0]  # asked for once more
    other = show_generation("The cat saw the", max_new_tokens=1)
    notebook.execution_count += 1
    assert "application/vnd.jupyter.widget-view+json" in look(other)[0]


def test_a_terminal_is_no_notebook(notebook: SimpleNamespace) -> None:
    notebook.kernel = None
    assert not hasattr(show_generation("The cat", max_new_tokens=1), "_ipython_display_")
    assert notebook.shown == []


def test_several_texts_are_continued_at_once_and_shown_one_at_a_time(notebook: SimpleNamespace) -> None:
    widget = show_generation(["The cat saw the dog.", "The"], max_new_tokens=2, sample=1)
    assert widget.attention.samples == 2
    assert widget.sample == 1


def test_a_generation_that_fails_leaves_nothing_behind(notebook: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        show_generation("The cat", max_new_tokens=0)
    with pytest.raises(TypeError, match=r"A Tensor needs its model: show_generation\(inputs, model\)"):
        show_generation(torch.ones(1, 3))
    assert notebook.shown == []
