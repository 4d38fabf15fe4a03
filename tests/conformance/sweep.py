"""One model type examined: what attention it has by an independent count, and what attnwidget captured of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import inputs, oracle, shrink

TOLERANCE = 1e-5
# Gains of the random weights: 2 first; less where a model's own rounding is larger than the tolerance then, more where
# its maps are flat.
GAIN, LESS, MORE = 2.0, (1.0, 0.5, 0.25), (4.0, 8.0)
SHARP = 0.1  # from uniform (0) to one key (1), see oracle.sharpness


@dataclass
class Result:
    """A row of the table.

    Attributes:
        type: the model type. inputs: kind of inputs it ran with. status: "run" or "not run". reason: why not.
        calls: attention calls by the independent count. captured: calls that attnwidget captured.
        mechanism: the ways the calls were made. missed: calls whose map is not among the captured ones.
        error: largest difference from the oracle. oracle: which one it was.
        sharpness: of the sharpest map of the oracle. changed: difference of outputs with and without capture.
        apart: difference of the default and the eager run, where that is more than rounding explains.
        named: where nothing was counted, the modules named attention that ran.
        check: ``attention.check.ok``. remarks: what transformers' own output_attentions gets wrong, and the like.
    """

    type: str
    status: str = "run"
    inputs: str = ""
    reason: str = ""
    mechanism: str = "none"
    calls: int = 0
    captured: int = 0
    missed: int = 0
    extra: int = 0
    error: float = 0.0
    oracle: str = ""
    sharpness: float = 0.0
    gain: float = 0.0
    changed: float = 0.0
    apart: float = 0.0
    check: bool | None = None
    named: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def bears(self) -> bool:
        """True where the model has attention."""
        return self.status == "run" and self.calls > 0

    @property
    def reached(self) -> bool:
        """True where every attention call and nothing else was captured, right, and the output is as it was."""
        return (
            self.bears
            and self.missed == self.extra == 0
            and self.error <= TOLERANCE
            and self.changed == 0
            and self.check is True
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"bears": self.bears, "reached": self.reached}


def captured(attention: Any) -> list[tuple[str, Tensor]]:
    """Every captured call as (module, weights [batch, head, query, key]), in the order of the parts."""
    found = []
    for name in attention.parts:
        for layer in attention.part(name).layers:
            if layer.heads:
                rows = torch.arange(layer.shape[2])
                found.append((layer.name, torch.stack([layer.block(b, None, rows)[0] for b in range(layer.shape[0])])))
    return found


def examine(model_type: str, overrides: dict[str, Any] | None = None) -> Result:
    """Build a model of that type, find inputs, run it, and compare, with weights as spread as it bears."""
    said: list[str] = []
    for thin in (True, False):
        try:
            model = shrink.build(model_type, overrides, thin=thin)
            kind, given = inputs.fit(model)
            break
        except (Exception, MemoryError) as problem:
            said.append(f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}")
    else:
        return Result(model_type, "not run", reason=said[0] if said[0] == said[-1] else " ‖ ".join(said))
    best: Result | None = None
    gains = [GAIN]
    while gains:
        gain = gains.pop(0)
        found = compare(model_type, shrink.sharpen(model, gain), given)
        found.inputs, found.gain = kind, gain
        if best is None:
            gains = list(LESS if found.sharpness >= SHARP or not found.reached else MORE)
        if best is None or _rank(found) < _rank(best):
            best = found
        if not found.bears or (found.reached and not found.apart and found.sharpness >= SHARP):
            break
    assert best is not None
    if best.bears and best.sharpness < SHARP:
        best.remarks.append("flat maps: close to uniform whatever the weights")
    return best


def _rank(result: Result) -> tuple[bool, int, float]:
    """Smaller is better."""
    return not result.reached or result.sharpness < SHARP, result.missed, result.apart + result.error


def compare(model_type: str, model: nn.Module, given: Any) -> Result:
    """Capture a run of ``model`` and compare it with what was heard of an eager twin, or else of the same run."""
    result = Result(model_type)
    plain = oracle.run(model, given)
    own = oracle.heard(model, given)
    ours = _capture(model, given, plain, result)
    truth, said = _truth(model, given, plain, own, result)
    result.remarks += said.remarks
    result.mechanism = " + ".join(sorted({call.how for call in own})) or "none"
    maps, result.oracle = _maps(truth)
    if not maps and said.maps:
        maps, result.oracle, result.mechanism = said.maps, "output_attentions", "other"
    errors, extra = oracle.matched(ours, maps)
    if own and truth is not own and max(errors) > TOLERANCE:
        # The eager run is another run: by rounding, or because transformers computes something else there.
        its_own, named = _maps(own)
        again = oracle.matched(ours, its_own)
        if max(again[0]) <= TOLERANCE:
            result.apart = max(errors)
            result.remarks += _apart(result.apart, maps)
            maps, result.oracle, (errors, extra) = its_own, named, again
    result.calls, result.captured = len(maps), len(ours)
    result.sharpness = oracle.sharpness(maps)
    result.missed = sum(not math.isfinite(e) for e in errors)
    result.error = max((e for e in errors if math.isfinite(e)), default=0.0)
    result.extra = extra
    if not maps:
        result.named = oracle.called_attention(model, given)
    if extra and maps:
        result.remarks.append(f"{extra} more captured than counted")
    return result


def _capture(model: nn.Module, given: Any, plain: Any, result: Result) -> list[Tensor]:
    """The maps that attnwidget captures; what it says and whether the output changed goes into ``result``."""
    from attnwidget import record
    from attnwidget.capture import NoAttentionError

    try:
        with record(model) as recorder:
            watched = oracle.run(model, given)
        result.changed = oracle.difference(plain, watched)
        if next(oracle.tensors_in(plain), None) is None:
            result.remarks.append("its output holds no tensor that could change")
        attention = recorder.attention
        assert attention.check is not None
        result.check = attention.check.ok
        if not result.check:
            result.remarks.append(attention.check.text)
        return [weights for _, weights in captured(attention)]
    except NoAttentionError:
        return []
    except Exception as problem:
        result.remarks.append(f"attnwidget raises {type(problem).__name__}: {problem}")
        return []


def _truth(
    model: nn.Module, given: Any, plain: Any, own: list[oracle.Heard], result: Result
) -> tuple[list[oracle.Heard], oracle.Official]:
    """The calls to compare with, the eager twin's where it makes as many, and what transformers says they are."""
    said = oracle.official(model, given, plain, own)
    other = oracle.twin(model)
    try:
        there = oracle.run(other, given)
        eager = oracle.heard(other, given)
    except Exception:
        return own, said
    asked = oracle.official(other, given, there, eager)
    # Under sdpa nothing is returned, so what transformers says is what its eager run says.
    first = said.remarks if said.returned else []
    asked.remarks = first + [remark for remark in asked.remarks if remark not in first]
    if len(eager) != len(own):
        asked.remarks.append(f"the eager run makes {len(eager)} calls, the default run {len(own)}")
        return own, oracle.Official(said.maps, asked.remarks, said.returned)
    return eager, asked


def _maps(calls: list[oracle.Heard]) -> tuple[list[Tensor], str]:
    return [call.weights for call in calls], " + ".join(sorted({call.oracle for call in calls}))


def _apart(gap: float, maps: list[Tensor]) -> list[str]:
    if any(bool(weights.isnan().any()) for weights in maps):
        return ["the eager run computes NaN"]
    if gap <= 1e-3:
        return []  # rounding
    how = f"their maps are {gap:.1g} apart" if math.isfinite(gap) else "their maps differ in shape"
    return [f"the default run and the eager run are two different things: {how}"]
