"""Every model type of the table and every other route: what is captured equals an oracle that knows no attnwidget."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from attnwidget.layers import Layer
from conformance import inputs, oracle, report, routes, shrink, sweep, vision
from conformance.table import ROWS, Row

TABLE = Path(__file__).parent / "conformance" / "TABLE.md"


def test_the_table_is_long_enough_and_names_each_type_once() -> None:
    assert len({row.type for row in ROWS}) == len(ROWS) >= 70


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.type)
def test_a_type_of_transformers_is_captured_exactly(row: Row) -> None:
    """Oracle: named in the row. The output is the same bit for bit with and without the recorder."""
    vision.load()
    model = shrink.build(row.type)
    kind, given = inputs.fit(model)
    result = sweep.compare(row.type, shrink.sharpen(model, row.gain), given)
    assert (kind, result.calls, result.oracle) == (row.inputs, row.calls, row.oracle)
    assert result.sharpness >= sweep.SHARP, "the oracle is nearly uniform: such a comparison would prove nothing"
    assert (result.missed, result.extra) == (0, 0)
    assert result.error <= sweep.TOLERANCE
    assert result.changed == 0
    assert result.check is True


@pytest.mark.parametrize("name", routes.ROUTES)
def test_a_route_outside_transformers_is_captured_exactly(name: str) -> None:
    """Oracle: named with the route. torch's fused fast path steps aside for the recorder, so outputs are compared
    bit for bit without it, and to rounding with it."""
    if name.startswith(("timm", "torchvision")) and not vision.load():
        pytest.skip("timm and torchvision are not installed")
    from attnwidget import record

    _, told, calls = routes.ROUTES[name]
    model, given = routes.made(name)
    truth = told(model, given)
    fast = oracle.run(model, given)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = oracle.run(model, given)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    with record(model) as recorder:
        seen = oracle.run(model, given)
    ours = [weights for _, weights in sweep.captured(recorder.attention)]
    errors, extra = oracle.matched(ours, truth)
    assert (len(truth), len(ours), extra) == (calls, calls, 0)
    assert oracle.sharpness(truth) >= sweep.SHARP
    assert max(errors) <= sweep.TOLERANCE
    assert oracle.difference(plain, seen) == 0
    assert oracle.difference(fast, seen) <= sweep.TOLERANCE
    assert recorder.attention.check is not None
    # Talking heads mix the softmaxes, with signs, before they multiply the values: that is said.
    assert recorder.attention.check.ok is not ("cait" in name)


def test_the_comparison_finds_a_wrong_map() -> None:
    """The oracle of one model against another, and one head exchanged with its neighbour."""
    maps = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert oracle.matched([maps], [maps]) == ([0.0], 0)
    assert oracle.matched([maps.flip(1)], [maps])[0][0] > 0.1
    assert oracle.matched([maps.mT], [maps])[0][0] > 0.1
    assert oracle.matched([maps[:, :, :6]], [maps])[0] == [float("inf")]
    assert oracle.matched([maps, maps], [maps])[1] == 1


def test_a_capture_with_its_keys_in_another_order_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shrink.sharpen(shrink.build("gpt2"), 2.0)
    _, given = inputs.fit(model)
    assert sweep.compare("gpt2", model, given).reached
    true = Layer.block
    monkeypatch.setattr(Layer, "block", lambda *args: (true(*args)[0].roll(1, -1), true(*args)[1]))
    broken = sweep.compare("gpt2", model, given)
    assert not broken.reached
    assert broken.error > 0.1


def test_the_head_of_the_published_table_counts_its_rows() -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert report.counted(text) == report.stated(text)
    stated = report.stated(text)
    assert stated["reached"] >= 0.95 * stated["bearing"]
    assert re.search(r"transformers 5\.\d+\.\d+", text)
