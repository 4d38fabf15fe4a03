"""From a text to the picture: which option goes where, and what is refused."""

from __future__ import annotations

import doctest
import sys
from typing import Any

import pytest
import torch
from torch import nn

import attnwidget.tiny
from attnwidget.attention import Attention
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
    monkeypatch.setattr(sys.modules["attnwidget.show"], "capture", capture)
    assert show("some text", layer=1).layer == 1
    assert called == [((model, "some text", "tokenizer"), {})]


def test_the_example_in_its_documentation_runs() -> None:
    """With the model that comes along."""
    assert doctest.testmod(sys.modules["attnwidget.show"]).failed == 0


def test_a_misspelt_option_is_named_and_never_reaches_the_model() -> None:
    with pytest.raises(
        TypeError, match=r"no option lair\. There are target, truncate, .*budget, head, layer"
    ) as problem:
        show(torch.randn(1, 5, 8), Small(), lair=1)
    assert "the model's own" in str(problem.value)


def test_options_that_come_too_late_are_refused() -> None:
    with pytest.raises(TypeError, match="captured already; truncate, model would have no effect"):
        show(plain(), Small(), truncate=True)


def test_inputs_without_a_model_are_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"A Tensor needs its model.*Attention\.from_weights"):
        show(torch.eye(3))
