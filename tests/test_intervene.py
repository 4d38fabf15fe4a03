"""Heads ablated, edges cut, tokens hidden: against surgery on copies, an attention written anew, and closed forms."""

from __future__ import annotations

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnwidget import Attention, Trace, capture, record, reweigh, tiny, trace
from attnwidget.intervene import ablate, effect
from attnwidget.positions import positions
from models import Bare, Handmade, make

TEXT = "The cat sat on the mat. The cat sat on the"


def out(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        found = model(**inputs)
    return found.logits if hasattr(found, "logits") else found[0]


def close(found: Tensor, wanted: Tensor, tolerance: float = 5e-6) -> None:
    """Equal to ``tolerance`` of the largest entry."""
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.fixture(scope="module")
def decoder() -> tuple[Any, Any]:
    return tiny.decoder()


@pytest.fixture(scope="module")
def run(decoder: tuple[Any, Any]) -> Trace:
    return trace(decoder[0], TEXT, decoder[1])


# ── first oracle: attention written anew, for transformers to call, that edits its own n × n weights ──────────────────

Edit = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]  # scores, allowed → weights, factor of the output


def reference(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **_: Any) -> Any:
    groups = q.shape[1] // k.shape[1]
    k, v = (one.repeat_interleave(groups, 1) for one in (k, v))
    s = q @ k.mT * scaling
    causal = bool(getattr(module, "is_causal", False))
    allowed = torch.ones_like(s, dtype=torch.bool).tril() if causal else torch.ones_like(s, dtype=torch.bool)
    if mask is not None:
        allowed = mask.expand_as(s) if mask.dtype == torch.bool else (mask > -1e30).expand_as(s)
    edit = EDITS.get(module.layer_idx)
    p, factor = edit(s, allowed) if edit else (masked(s, allowed), None)
    z = p @ v
    if factor is not None:
        z = z * factor if factor.dim() else z.mean(2, keepdim=True).expand_as(z)
    return z.transpose(1, 2).contiguous(), p


def masked(s: Tensor, allowed: Tensor) -> Tensor:
    return s.masked_fill(~allowed, -math.inf).softmax(-1).nan_to_num(0.0)


EDITS: dict[int, Edit] = {}


@pytest.fixture
def rewritten() -> Iterator[Callable[[nn.Module, dict[str, Any], dict[int, Edit]], Tensor]]:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register("rewritten", reference)
    AttentionMaskInterface.register("rewritten", sdpa_mask)

    def run(model: nn.Module, inputs: dict[str, Any], edits: dict[int, Edit]) -> Tensor:
        other = copy.deepcopy(model)
        other.set_attn_implementation("rewritten")
        EDITS.update(edits)
        try:
            return out(other, inputs)
        finally:
            EDITS.clear()

    yield run
    AttentionInterface._global_mapping.pop("rewritten")
    AttentionMaskInterface._global_mapping.pop("rewritten")


def at_head(head: int, change: Callable[[Tensor, Tensor], Tensor]) -> Edit:
    """Weights of one head changed, given its scores and what is allowed: both [batch, query, key]."""

    def edit(s: Tensor, allowed: Tensor) -> tuple[Tensor, None]:
        p = masked(s, allowed)
        p[:, head] = change(s[:, head], allowed[:, head])
        return p, None

    return edit


def uniform(s: Tensor, allowed: Tensor) -> Tensor:
    return allowed / allowed.sum(-1, keepdim=True)


def dropped(query: int, key: int, renormalise: bool) -> Callable[[Tensor, Tensor], Tensor]:
    def change(s: Tensor, allowed: Tensor) -> Tensor:
        p = masked(s, allowed)
        p[:, query, key] = 0
        if renormalise:
            p[:, query] /= p[:, query].sum(-1, keepdim=True)
        return p

    return change


def without(key: int) -> Callable[[Tensor, Tensor], Tensor]:
    def change(s: Tensor, allowed: Tensor) -> Tensor:
        allowed = allowed.clone()
        allowed[..., key] = False
        return masked(s, allowed)

    return change


def silenced(head: int) -> Edit:
    def edit(s: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        factor = torch.ones(s.shape[1], 1, 1)
        factor[head] = 0
        return masked(s, allowed), factor

    return edit


CHANGES: dict[str, tuple[dict[str, Any], dict[int, Edit]]] = {
    "zero": ({"heads": [(1, 2)]}, {1: silenced(2)}),
    "mean of all": ({"heads": [(1, None)], "how": "mean"}, {1: lambda s, a: (masked(s, a), torch.tensor(0.0))}),
    "uniform": ({"heads": [(0, 1), (1, -1)], "how": "uniform"}, {0: at_head(1, uniform), 1: at_head(3, uniform)}),
    "edge": ({"edges": [(0, 2, 7, 7)]}, {0: at_head(2, dropped(7, 7, False))}),
    "knock-out": ({"edges": [(-2, 2, 7, 7)], "renormalise": True}, {0: at_head(2, dropped(7, 7, True))}),
    "token": ({"tokens": [4], "among": [(1, 0)]}, {1: at_head(0, without(4))}),
    "temperature": (
        {"temperature": 2.5, "among": [(0, None)]},
        {0: lambda s, a: (masked(s / 2.5, a), None)},
    ),
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "mistral"])
def test_a_change_is_what_attention_written_anew_makes_of_it(family: str, how: str, rewritten: Any) -> None:
    """Full and causal, grouped keys and a sliding window; agreement to 5e-6 of the largest output."""
    model, inputs = make(family)
    asked, edits = CHANGES[how]
    plain = out(model, inputs)
    close(rewritten(model, inputs, {}), plain)
    with ablate(model, **asked):
        found = out(model, inputs)
    close(found, rewritten(model, inputs, edits))
    assert float((found - plain).abs().max()) > 1e-3 * float(plain.abs().max()), "it changes something"
    assert torch.equal(out(model, inputs), plain)


# ── second oracle: surgery on a copy of the model ─────────────────────────────────────────────────────────────────────


SURGERY = [
    ("llama", None, "model.layers.1.self_attn.o_proj"),
    ("gemma2", None, "model.layers.1.self_attn.o_proj"),
    ("gpt_oss", None, "model.layers.1.self_attn.o_proj"),
    ("gpt2", None, "transformer.h.1.attn.c_proj"),
    ("bert", None, "encoder.layer.1.attention.output.dense"),
    ("bloom", None, "transformer.h.1.self_attention.dense"),
    ("vit", None, "layers.1.attention.o_proj"),
    ("t5", None, "encoder.block.1.layer.0.SelfAttention.o"),
    ("t5", "decoder", "decoder.block.1.layer.0.SelfAttention.o"),
    ("t5", "cross", "decoder.block.1.layer.1.EncDecAttention.o"),
    ("bart", "cross", "model.decoder.layers.1.encoder_attn.out_proj"),
]


@pytest.mark.parametrize(("family", "part", "name"), SURGERY)
def test_a_silent_head_is_one_whose_columns_of_w_o_are_zero(family: str, part: str | None, name: str) -> None:
    model, inputs = make(family)
    other = copy.deepcopy(model)
    weight = other.get_submodule(name).weight
    with torch.no_grad():
        along = weight if family == "gpt2" else weight.mT  # its Conv1D is [feature, D]
        width = len(along) // 4
        along[2 * width : 3 * width] = 0
    with ablate(model, [(1, 2)], part=part):
        close(out(model, inputs), out(other, inputs))


@pytest.mark.parametrize(
    ("family", "q"), [("llama", "model.layers.0.self_attn.q_proj"), ("mistral", "model.layers.0.self_attn.q_proj")]
)
@pytest.mark.parametrize("times", [0.0, 0.4])
def test_queries_that_are_scaled_are_a_temperature_and_none_are_uniform(family: str, q: str, times: float) -> None:
    model, inputs = make(family)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_submodule(q).weight[8:16] *= times  # head 1 of d = 8
    asked = {"temperature": 1 / times, "among": [(0, 1)]} if times else {"heads": [(0, 1)], "how": "uniform"}
    with ablate(model, **asked):
        close(out(model, inputs), out(other, inputs))


def test_a_temperature_divides_what_the_softmax_gets_soft_cap_and_sink_included() -> None:
    model, inputs = make("gemma2")
    other = copy.deepcopy(model)
    for module in other.modules():
        if hasattr(module, "attn_logit_softcapping"):
            # c · tanh(s / c) / T = (c / T) · tanh((s / T) / (c / T))
            module.scaling, module.attn_logit_softcapping = module.scaling / 3, module.attn_logit_softcapping / 3
    other.set_attn_implementation("eager")
    with ablate(model, temperature=3.0):
        close(out(model, inputs), out(other, inputs))
    model, inputs = make("gpt_oss")
    other = copy.deepcopy(model)
    for module in other.modules():
        if hasattr(module, "sinks"):
            module.scaling = module.scaling / 3
            module.sinks.data /= 3
    with ablate(model, temperature=3.0):
        close(out(model, inputs), out(other, inputs))


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_hidden_token_is_one_that_the_attention_mask_leaves_out(family: str) -> None:
    model, inputs = make(family)
    keep = torch.ones_like(inputs["input_ids"])
    keep[0, 5] = 0
    places = torch.arange(keep.shape[1])[None]
    wanted = out(model, {**inputs, "attention_mask": keep, "position_ids": places})
    with ablate(model, tokens=[5]):
        found = out(model, {**inputs, "position_ids": places})
    # Its own row, too, sees itself no more: in both.
    close(found, wanted)


# ── closed forms, on attention that is written by hand ────────────────────────────────────────────────────────────────


def by_hand(model: Handmade | Bare, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, weights and values of the two hand-made models."""
    b, n, width = x.shape
    q, k, v = model.qkv(x).view(b, n, 3, model.heads, -1).permute(2, 0, 3, 1, 4)
    s = (q @ k.mT / (width // model.heads) ** 0.5).masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf)
    return s, s.softmax(-1), v


@pytest.mark.parametrize("kind", [Handmade, Bare])
def test_each_change_has_its_closed_form(kind: Any) -> None:
    """In float64, to 1e-12."""
    torch.manual_seed(0)
    model = kind().double().eval()
    x = torch.randn(2, 6, 16, dtype=torch.float64) * 2

    def put_out(z: Tensor) -> Tensor:
        z = z.transpose(1, 2).reshape(2, 6, 16)
        return model.out(z) if kind is Handmade else z

    with torch.no_grad():
        s, p, v = by_hand(model, x)
        close(model(x), put_out(p @ v), 1e-12)

        z = p @ v
        z[:, 1] = z[:, 1].mean(1, keepdim=True)
        with ablate(model, [(0, 1)], "mean"):
            close(model(x), put_out(z), 1e-12)

        z = p @ v
        z[:, 3] = v[:, 3].cumsum(1) / torch.arange(1, 7)[:, None]  # the mean of all values so far
        with ablate(model, [(0, 3)], "uniform"):
            close(model(x), put_out(z), 1e-12)

        z = p @ v
        z[1, 2, 4] -= p[1, 2, 4, 1] * v[1, 2, 1]
        with ablate(model, edges=[(0, 2, 4, 1, 1)]):  # of the second sample
            close(model(x), put_out(z), 1e-12)

        z = p @ v
        for head in range(4):
            for row in range(3, 6):  # z' = (z − p v) / (1 − p)
                z[:, head, row] -= p[:, head, row, 3, None] * v[:, head, 3]
                z[:, head, row] /= 1 - p[:, head, row, 3, None]
        with ablate(model, edges=[(0, None, None, 3)], renormalise=True):
            close(model(x), put_out(z), 1e-12)

        with ablate(model, temperature=0.5):
            close(model(x), put_out((2 * s).softmax(-1) @ v), 1e-12)

        # A token that sees only itself, hidden, leaves nothing to attend to.
        with ablate(model, tokens=[0]):
            z = s.index_fill(-1, torch.tensor([0]), -math.inf).softmax(-1).nan_to_num(0.0) @ v
            close(model(x), put_out(z), 1e-12)


def test_a_mask_by_hand_knocks_the_same_edge_out() -> None:
    torch.manual_seed(0)
    model, x = Bare().eval(), torch.randn(1, 7, 16) * 3
    _, _, v = by_hand(model, x)
    q, k, v = model.qkv(x).view(1, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    allowed = torch.ones(1, 4, 7, 7, dtype=torch.bool).tril()
    allowed[:, 2, 5, 3] = False
    wanted = F.scaled_dot_product_attention(q, k, v, allowed).transpose(1, 2).reshape(1, 7, 16)
    with ablate(model, edges=[(0, 2, 5, 3)], renormalise=True):
        close(model(x).detach(), wanted.detach())


@pytest.mark.parametrize("weighs", [False, True])
def test_multihead_attention_of_torch(weighs: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(16, 4, batch_first=True).eval(), torch.randn(2, 5, 16) * 2
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.out_proj.weight[:, 4:8] = 0
        with ablate(model, [(0, 1)]):
            close(model(x, x, x, need_weights=weighs)[0], other(x, x, x)[0])
        other = copy.deepcopy(model)
        other.in_proj_weight[8:12] = 0  # the queries of head 2
        other.in_proj_bias[8:12] = 0
        with ablate(model, [(0, 2)], "uniform"):
            close(model(x, x, x, need_weights=weighs)[0], other(x, x, x)[0])


def test_layers_of_torch_and_heads_that_are_modules() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(16, 12)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).chunk(3, -1)
            return torch.softmax(q @ k.mT, -1) @ v

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(Head() for _ in range(4))
            self.out = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.out(torch.cat([head(x) for head in self.heads], -1))

    torch.manual_seed(0)
    model, x = nn.Sequential(*(Block() for _ in range(3))).eval(), torch.randn(1, 5, 16)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].out.weight[:, 4:8] = 0
        with ablate(model, [(2, 1)]):
            close(model(x), other(x))
        stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 3).eval()
        other = copy.deepcopy(stack)
        other.layers[1].self_attn.out_proj.weight[:, 12:] = 0
        with ablate(stack, [(-2, 3)]):
            close(stack(x), other(x))


def test_the_mean_is_over_the_tokens_of_each_text(decoder: tuple[Any, Any]) -> None:
    """Padding is in nobody's mean: each text of a batch is what it is alone."""
    model, tokenizer = decoder
    texts = ["The cat saw the dog.", "The old man saw the small red dog on the mat."]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with ablate(model, [(2, None), (1, 0)], "mean"):
        together = out(model, dict(batch))
        for at, text in enumerate(texts):
            alone = out(model, dict(tokenizer(text, return_tensors="pt")))[0]
            keep = batch["attention_mask"][at].bool()
            close(together[at][keep], alone)


def test_one_sample_of_a_batch_leaves_the_others_to_the_last_bit(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"].expand(3, -1)
    plain = out(model, {"input_ids": ids})
    with ablate(model, [(1, 0, 1)], edges=[(0, 2, 6, 1, 2)]):
        found = out(model, {"input_ids": ids})
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[2, :6], plain[2, :6]) and not torch.equal(found[2, 6:], plain[2, 6:])
    alone = {"input_ids": ids[:1]}
    with ablate(model, [(1, 0)]):
        close(found[1], out(model, alone)[0])
    with ablate(model, edges=[(0, 2, 6, 1)]):
        close(found[2], out(model, alone)[0])


def test_what_changes_nothing_changes_no_bit(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    plain = out(model, inputs)
    for asked in ({"edges": [(1, 0, 2, 7)], "renormalise": True}, {"edges": [(1, 0, 2, 7)]}, {"temperature": 1.0}):
        with ablate(model, **asked):
            assert torch.equal(out(model, inputs), plain)
    with ablate(model, tokens=[8]):
        assert torch.equal(out(model, inputs)[:, :8], plain[:, :8]), "whoever cannot see it is as before"


# ── blocks in blocks, and those who look on ───────────────────────────────────────────────────────────────────────────


def test_several_changes_at_once_are_blocks_in_blocks(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    changes: list[dict[str, Any]] = [
        {"edges": [(1, 0, 12, 6)], "renormalise": True}, {"edges": [(1, 0, 12, 5)], "renormalise": True},
        {"temperature": 2.0}, {"heads": [(2, 1)]},
    ]  # fmt: skip
    with ExitStack() as stack:
        for asked in changes:
            stack.enter_context(ablate(model, **asked))
        nested = out(model, inputs)
    both = {"edges": [(1, 0, 12, 6), (1, 0, 12, 5)], "renormalise": True, "temperature": 2.0, "heads": [(2, 1)]}
    with ablate(model, **both):
        close(out(model, inputs), nested)


def surgery(model: nn.Module, how: str) -> nn.Module:
    """A copy whose layer 0 does at head 1 what an ablation would."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        if how == "positions":
            for module in other.modules():
                if hasattr(module, "inv_freq"):
                    module.inv_freq.zero_()  # angle 0
        else:
            times = {"uniform": 0.0, "temperature": 0.4}[how]
            other.get_submodule("model.layers.0.self_attn.q_proj").weight[8:16] *= times
    return other


INNER: dict[str, dict[str, Any]] = {
    "mean": {"heads": [(0, 1)], "how": "mean"}, "zero": {"heads": [(0, 1)]},
    "uniform": {"heads": [(0, 1)], "how": "uniform"}, "temperature": {"temperature": 2.5, "among": [(0, 1)]},
}  # fmt: skip


def opened(model: nn.Module, how: str) -> Any:
    return positions(model) if how == "positions" else ablate(model, **INNER[how])


@pytest.mark.parametrize("one", ["mean", "zero", "uniform", "temperature"])
@pytest.mark.parametrize("other", ["positions", "uniform", "temperature"])
def test_no_block_undoes_another(one: str, other: str) -> None:
    """Of two blocks, in either order, one done by surgery on a copy. Of the same head, weights and output."""
    model, inputs = make("llama")
    plain, copied = out(model, inputs), surgery(model, other)
    with opened(copied, one):
        wanted = out(copied, inputs)
    if one == other:  # twice over
        copied = surgery(copied, other)
        wanted = out(copied, inputs)
    for first, second in ((one, other), (other, one)):
        with opened(model, first), opened(model, second):
            close(out(model, inputs), wanted)
    assert float((wanted - plain).abs().max()) > 1e-3 * float(plain.abs().max())


def test_weights_that_nobody_wants_to_know_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []
    told = reweigh._told
    monkeypatch.setattr(reweigh, "_told", lambda call, *more: kept.append(call.name) or told(call, *more))
    model, inputs = make("llama")
    with ablate(model, [(1, 0)], temperature=2.0):
        out(model, inputs)
        assert not kept
        capture(model, inputs)
        assert len(kept) == 2


@pytest.mark.parametrize("made", ["sdpa", "eager", "by hand"])
def test_a_capture_inside_shows_the_weights_that_were_used(made: str) -> None:
    if made == "by hand":
        model: nn.Module = Handmade().eval()
        inputs: Any = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    else:
        model, inputs = make("llama")
        model.set_attn_implementation(made)  # type: ignore[operator]  # of transformers
    plain = capture(model, inputs)
    asked: dict[str, Any] = {"edges": [(0, 1, 4, 2)], "among": [(0, 3)], "tokens": [1]}
    with ablate(model, **asked), record(model) as rec:
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    inside = rec.attention
    assert inside.check.ok and inside.check.rows and inside.check.max_error < 1e-5
    p = plain[0, 1].weights()
    wanted = p.clone()
    wanted[4, 2] = 0
    torch.testing.assert_close(inside[0, 1].weights(), wanted, atol=1e-6, rtol=0)
    hidden = plain[0, 3].weights()
    hidden[:, 1] = 0
    torch.testing.assert_close(
        inside[0, 3].weights(), hidden / hidden.sum(1, keepdim=True).clamp_min(1e-9), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(inside[0, 0].weights(), plain[0, 0].weights(), atol=1e-6, rtol=0)
    assert torch.equal(capture(model, inputs)[0, 1].weights(), p)


def test_a_capture_says_whose_output_was_changed(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    with ablate(model, [(1, 0), (1, 2)]):
        inside = capture(model, TEXT, tokenizer)
    assert inside.check.ok
    assert any("the output of head 0, head 2 was set to zero" in note for note in inside.notes)
    torch.testing.assert_close(inside[1, 0].weights(), capture(model, TEXT, tokenizer)[1, 0].weights())


def test_a_model_of_texts_and_images_counts_as_its_capture_does() -> None:
    """The number of each layer, and the part, are those of the capture: that head's map alone is uniform."""
    for family, part in (("t5", "encoder"), ("t5", "decoder"), ("t5", "cross"), ("bart", "decoder"), ("vit", "vision")):
        model, inputs = make(family)
        with ablate(model, [(-1, 1)], "uniform", part=part):
            found = capture(model, inputs)
        p = found[part, 1, 1].weights()
        for row in p:
            seen = row[row > 0]
            torch.testing.assert_close(seen, torch.full_like(seen, 1 / len(seen)))
        assert float(found[part, 1, 0].weights().std()) > 1e-3


def test_a_trace_inside_explains_the_model_as_it_is_then(decoder: tuple[Any, Any], run: Trace) -> None:
    model, tokenizer = decoder
    with ablate(model, [(1, 0)]):
        inside = trace(model, TEXT, tokenizer, objective=" mat")
    told = effect(run, heads=[(1, 0)])
    assert inside.value == pytest.approx(told.value[1], abs=1e-5)
    assert not inside.effects(1, 0).weights().any(), "a head that is silent adds nothing"
    assert bool(inside.effects(1, 1).weights().any())


def test_a_text_that_is_written_inside_is_the_one_without_a_cache(decoder: tuple[Any, Any]) -> None:
    """Of every step, the most likely token of a run of the whole text with the same heads silent."""
    model, tokenizer = decoder
    ids = tokenizer("The cat sat on the", return_tensors="pt")["input_ids"]
    with ablate(model, [(1, 0), (2, None)]):
        written = model.generate(ids, max_new_tokens=6, do_sample=False)
        assert written.shape[1] > ids.shape[1]
        for at in range(ids.shape[1], written.shape[1]):
            assert int(out(model, {"input_ids": written[:, :at]})[0, -1].argmax()) == int(written[0, at])


# ── gradients ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gradients_go_through_a_change() -> None:
    """Those of every parameter are the ones of a copy that surgery changed alike, in training mode, too."""
    model, inputs = make("llama")
    other = copy.deepcopy(model).train()
    model.train()
    with torch.no_grad():
        other.get_submodule("model.layers.0.self_attn.q_proj").weight[8:16] *= 0.5
    with ablate(model, temperature=2.0, among=[(0, 1)]):
        model(**inputs).logits.square().mean().backward()
    other(**inputs).logits.square().mean().backward()
    for (name, one), wanted in zip(model.named_parameters(), other.parameters(), strict=True):
        assert one.grad is not None and wanted.grad is not None
        grad = wanted.grad.clone()
        if name == "model.layers.0.self_attn.q_proj.weight":
            grad[8:16] *= 0.5  # by the chain rule
        close(one.grad, grad, 2e-5)


@pytest.mark.parametrize("kind", [Bare, Handmade])
def test_gradients_are_those_of_finite_differences(kind: Any) -> None:
    torch.manual_seed(0)
    model = kind(4, 2).double().eval()
    x = torch.randn(1, 4, 4, dtype=torch.float64, requires_grad=True)
    for asked in ({"edges": [(0, 1, 3, 2)], "renormalise": True}, {"heads": [(0, 0)], "how": "mean"}, {"tokens": [1]}):
        with ablate(model, **asked):
            assert torch.autograd.gradcheck(model, (x,))


class Stack(nn.Module):
    """Attention modules one after the other, plain or each a checkpoint; or one module again and again."""

    def __init__(self, make: Callable[[], nn.Module], reentrant: bool | None, shared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shared = make().double() if shared else None
        self.layers = nn.ModuleList([] if shared else [make().double() for _ in range(3)])
        self.reentrant = reentrant

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        for layer in [*self.layers] or [self.shared] * 3:
            x = x + (layer(x) if self.reentrant is None else checkpoint(layer, x, use_reentrant=self.reentrant))
        return x


class OfTorch(nn.MultiheadAttention):
    def __init__(self) -> None:
        super().__init__(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x, need_weights=False)[0]


def some(seed: int, batch: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(batch, 6, 16, dtype=torch.float64, requires_grad=True)


def gradients(model: nn.Module) -> Tensor:
    found = torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])
    model.zero_grad()
    return found


CHECKPOINTED: list[dict[str, Any]] = [
    {"temperature": 2.0}, {"heads": [(1, 0)], "how": "mean"}, {"heads": [(1, 0)]},
    {"heads": [(1, 0)], "edges": [(2, None, None, 1), (0, 1, 3, 3)], "renormalise": True},
]  # fmt: skip


@pytest.mark.parametrize("asked", CHECKPOINTED)
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", [OfTorch, Handmade, Bare])
def test_what_checkpointing_runs_again_is_changed_again(kind: Any, reentrant: bool, asked: dict[str, Any]) -> None:
    """Gradients are those of the same run without checkpoints, to the last bit; also while somebody looks on."""
    models = [Stack(kind, how).eval() for how in (None, reentrant)]
    found = []
    for model in models:
        with ablate(model, **asked):
            model(some(1)).square().sum().backward()
            found.append(gradients(model))
            with record(model) as rec:
                torch.autograd.backward(model(some(1)).square().sum())
            found.append(gradients(model))
            assert len(rec.attentions) == 1 and rec.attention.check.ok
    assert all(torch.equal(one, found[0]) for one in found[1:])
    models[0](some(1)).square().sum().backward()
    assert not torch.allclose(gradients(models[0]), found[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_runs_that_wait_for_their_gradients_are_told_apart(reentrant: bool) -> None:
    """Three of them, of different padding; and layers that are one module, of which one is changed."""
    found = []
    keep = torch.ones(2, 6, dtype=torch.long)
    keep[1, 4:] = 0
    for how in (None, reentrant):
        model = Stack(Bare, how).eval()
        with ablate(model, [(1, None)], "mean"):
            outputs = [
                model(some(1, 2), attention_mask=keep), model(some(2)), model(some(3, 2), attention_mask=keep.flip(0)),
            ]  # fmt: skip
            sum(one.square().sum() for one in outputs).backward()  # type: ignore[union-attr]
        found.append(gradients(model))
        model = Stack(Bare, how, shared=True).eval()
        with ablate(model, [(1, 2)], edges=[(2, 0, 3, 1)]):
            model(some(1)).square().sum().backward()
        found.append(gradients(model))
    assert torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_that_would_be_of_the_unchanged_model_are_refused(reentrant: bool) -> None:
    model = Stack(Bare, reentrant).eval()
    with ablate(model, [(1, 0)], temperature=2.0):
        output = model(some(1)).sum()
    with pytest.raises(RuntimeError, match="inside the with block"):
        output.backward()
    assert all(one.grad is None for one in model.parameters())
    plain = Stack(Bare, None).eval()
    with ablate(plain, [(1, 0)]):
        output = plain(some(1)).sum()
    output.backward()


def test_a_trace_inside_is_the_same_with_checkpoints() -> None:
    found = []
    for how in (None, False):
        model = Stack(Bare, how).eval()
        with ablate(model, temperature=2.0, among=[(1, 0)]):
            found.append(trace(model, some(1).detach(), objective=lambda out: out[0, -1].sum()).effects().weights())
    assert torch.equal(*found)


# ── what is left behind ───────────────────────────────────────────────────────────────────────────────────────────────


def state_of(model: nn.Module) -> Any:
    hooks = [
        (len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks)) for one in model.modules()
    ]
    held = [(one.data_ptr(), one._version, one.requires_grad, one.grad) for one in model.parameters()]
    return hooks, held, [one.training for one in model.modules()], torch.get_rng_state().sum().item()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_model_is_left_as_it_was(error: type[BaseException] | None, decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    plain = out(model, inputs)
    model.model.layers[1].train()
    before = state_of(model)

    def fail(*_: Any) -> None:
        if error is not None:
            raise error("now")

    handle = model.model.layers[2].register_forward_pre_hook(fail)
    expected = contextlib.nullcontext() if error is None else pytest.raises(error, match="now")
    with expected, warnings.catch_warnings():
        warnings.simplefilter("error")
        with ablate(model, [(1, 0)], edges=[(2, 0, 5, 4)], temperature=2.0):
            model(**inputs)
    handle.remove()
    assert state_of(model) == before
    model.eval()
    assert torch.equal(out(model, inputs), plain)


# ── what cannot be ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "nothing to change"),
        ({"heads": [(9, 0)]}, "no layer 9: those of LlamaForCausalLM go from 0 to 3"),
        ({"heads": [(0, 4)]}, "no head 4"),
        ({"heads": [(0, -5)]}, "no head -5"),
        ({"edges": [(4, 0, 1, 0)]}, "no layer 4"),
        ({"heads": [(0, 0)], "how": "nought"}, "how is 'nought'; it may be 'zero', 'mean', 'uniform'"),
        ({"heads": [(0,)]}, "whole numbers"),
        ({"heads": (0, 1)}, "whole numbers"),
        ({"heads": [(0.5, 1)]}, "whole numbers"),
        ({"edges": [(0, 1)]}, "(layer, head, query, key)"),
        ({"temperature": 0.0}, "positive number"),
        ({"temperature": math.nan}, "positive number"),
        ({"temperature": "hot"}, "positive number"),
        ({"tokens": ["the"]}, "numbers of keys"),
        ({"heads": [(0, 0)], "among": [(1, 0)]}, "among"),
        ({"heads": [(0, 0)], "renormalise": True}, "give some"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_run(asked: Any, words: str, decoder: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ablate(decoder[0], **asked)


def test_what_the_map_does_not_have_ends_the_run(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = tokenizer("The cat saw the dog.", return_tensors="pt")
    for asked, words in (
        ({"edges": [(0, 0, 70, 1)]}, "no query 70"),
        ({"edges": [(0, 0, 1, 70)]}, "no key 70"),
        ({"tokens": [70]}, "no token 70"),
        ({"heads": [(0, 0, 1)]}, "no sample 1"),
    ):
        with pytest.raises(ValueError, match=words), ablate(model, **asked):  # type: ignore[arg-type]
            model(**inputs)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        ablate("gpt2", [(0, 0)])  # type: ignore[arg-type]


def test_the_mean_over_a_text_needs_the_whole_text(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    ids = tokenizer("The cat sat on the", return_tensors="pt")["input_ids"]
    with ablate(model, [(1, 0)], "mean"):
        with pytest.raises(ValueError, match=r"use_cache=False"):
            model.generate(ids, max_new_tokens=3, do_sample=False)
        written = model.generate(ids, max_new_tokens=3, do_sample=False, use_cache=False)
        for at in range(ids.shape[1], written.shape[1]):
            assert int(out(model, {"input_ids": written[:, :at]})[0, -1].argmax()) == int(written[0, at])
    model, inputs = make("bart")
    with ablate(model, [(1, 0)], "mean", part="cross"):
        out(model, inputs)  # fewer queries than keys, and all of them
        with pytest.raises(ValueError, match=r"use_cache=False"):
            model.generate(inputs["input_ids"], max_new_tokens=3, do_sample=False)


def test_what_cannot_be_read_of_a_run_ends_it(monkeypatch: pytest.MonkeyPatch, decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = tokenizer("The cat saw the dog.", return_tensors="pt")

    def fail(*_: Any) -> Any:
        raise KeyError("pixels")

    monkeypatch.setattr("attnwidget.acting.Inputs.of", fail)
    with pytest.raises(RuntimeError, match="LlamaForCausalLM was given could not be read"), ablate(model, [(0, 0)]):
        model(**inputs)


def test_rows_that_are_no_number_are_no_layout_of_their_own() -> None:
    """The first token attends to nothing, not even to itself: its softmax is 0 / 0, its row NaN."""

    class Strict(Bare):
        def forward(self, x: Tensor) -> Tensor:
            b, n, width = x.shape
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            p = (q @ k.mT).masked_fill(torch.ones(n, n).triu().bool(), -math.inf).softmax(-1)
            return (p @ v).transpose(1, 2).reshape(b, n, width)

    torch.manual_seed(0)
    model, x = Strict().eval(), torch.randn(1, 5, 16)
    plain = model(x).detach()
    assert plain[0, 0].isnan().all() and plain[0, 1:].isfinite().all()
    with ablate(model, [(0, 1)]):
        found = model(x).detach()
    wanted = plain.clone()
    wanted[..., 4:8] = 0
    assert torch.equal(found.isnan(), wanted.isnan()) and torch.equal(found[0, 1:], wanted[0, 1:])
    assert bool((trace(model, x, objective=lambda out: out[0, -1].sum()).effects().weights()[-1] != 0).any())


def test_what_never_ran_is_said_at_the_end(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = tokenizer("The cat saw the dog.", return_tensors="pt")
    with (
        pytest.warns(UserWarning, match=r"layer 0, head 1.*has the parts decoder"),
        ablate(model, [(0, 1)], part="cross"),
    ):
        model(**inputs)
    with pytest.warns(UserWarning, match="The model did not run"), ablate(model, [(0, 1)]):
        pass


def test_attention_that_hides_its_values_says_so() -> None:
    class Einsum(Handmade):
        def forward(self, x: Tensor) -> Tensor:
            s, _, v = by_hand(self, x)
            z = torch.einsum("bhij,bhjd->bihd", torch.softmax(s, -1), v)
            return self.out(z.flatten(2))

    torch.manual_seed(0)
    model, x = Einsum().eval(), torch.randn(1, 6, 16)
    with pytest.raises(ValueError, match="values are not known"), ablate(model, temperature=2.0):
        model(x)
    with pytest.raises(ValueError, match="laid out"), ablate(model, [(0, 1)]):
        model(x)


# ── effect ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_effect_is_the_difference_of_two_runs(decoder: tuple[Any, Any], run: Trace) -> None:
    """Each number computed by hand from the logits of both."""
    model, tokenizer = decoder
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    before = out(model, inputs)[0, -1].double()
    with ablate(model, [(1, 0)], "uniform"):
        after = out(model, inputs)[0, -1].double()
    mat = int(before.argmax())
    told = effect(run, heads=[(1, 0)], how="uniform")
    assert told.delta == pytest.approx(float(after[mat] - before[mat]), abs=1e-5)
    assert told.logit == pytest.approx((float(before[mat]), float(after[mat])))
    assert told.p == pytest.approx((float(before.softmax(0)[mat]), float(after.softmax(0)[mat])))
    assert told.rank == (1, 1 + int((after.argsort(descending=True) == mat).nonzero()))
    kl = F.kl_div(after.log_softmax(0), before.log_softmax(0), log_target=True, reduction="sum")
    assert told.kl == pytest.approx(float(kl), rel=1e-6)
    assert "15.32 → -0.16" in repr(told) and "\n" not in repr(told)
    same = effect(model, TEXT, tokenizer, heads=[(1, 0)], how="uniform")
    assert same.value == told.value


def test_an_effect_tells_the_heads_that_changed(run: Trace) -> None:
    told = effect(run, heads=[(1, 0)], how="uniform")
    first, *others = told.changed(16)
    assert first[:2] == (1, 0)
    # What lies before it in the model is as it was.
    assert {(at, head): change for at, head, change in others if at == 0} == {(0, h): 0.0 for h in range(4)}
    assert {change for at, _, change in others if at == 1} == {0.0}


def test_nothing_changed_is_no_effect(run: Trace) -> None:
    told = effect(run, edges=[(3, 1, 4, 2)])  # the last layer's other tokens reach no logit of the last one
    assert (told.delta, told.kl, told.rank) == (0.0, 0.0, (1, 1))


def test_an_effect_on_a_difference_on_a_loss_and_on_any_number(decoder: tuple[Any, Any]) -> None:
    model, tokenizer = decoder
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    mat, dog = (tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" mat", " dog"))
    with ablate(model, [(2, 0)]):
        after = out(model, inputs)
    before = out(model, inputs)
    pair = effect(model, TEXT, tokenizer, objective=(" mat", " dog"), heads=[(2, 0)])
    gap = [float(one[0, -1, mat] - one[0, -1, dog]) for one in (before, after)]
    assert pair.value == pytest.approx(tuple(gap), abs=1e-4)
    loss = effect(model, TEXT, tokenizer, objective="loss", heads=[(2, 0)])
    told = [float(F.cross_entropy(one[0, :-1], inputs["input_ids"][0, 1:])) for one in (before, after)]
    assert loss.value == pytest.approx(tuple(told), rel=1e-5)
    assert (loss.p, loss.rank, loss.logit, loss.kl) == (None,) * 4
    assert (
        repr(loss)
        == f"<Effect: the mean cross-entropy of the text {told[0]:.4g} → {told[1]:.4g} ({told[1] - told[0]:+.3g})>"
    )
    mine = effect(model, TEXT, tokenizer, objective=lambda output: output.logits[0, 3, 5], heads=[(2, 0)])
    assert mine.delta == pytest.approx(float(after[0, 3, 5] - before[0, 3, 5]), abs=1e-5)


def test_what_an_effect_cannot_be_asked(decoder: tuple[Any, Any], run: Trace) -> None:
    model, tokenizer = decoder
    with pytest.raises(ValueError, match="A trace has its own inputs"):
        effect(run, TEXT, heads=[(0, 0)])
    with pytest.raises(ValueError, match="Say what the model reads"):
        effect(model, heads=[(0, 0)])
    with pytest.raises(ValueError, match="nothing to change"):
        effect(run)
    with pytest.raises(ValueError, match="whole intervention"):
        effect(run, by=ablate(model, [(0, 0)]), heads=[(0, 1)])
    with pytest.raises(ValueError, match="no token of this model's vocabulary"):
        effect(model, TEXT, tokenizer, objective="xyzzy", heads=[(0, 0)])


def test_how_is_of_heads() -> None:
    model, tokenizer = tiny.decoder()
    with pytest.raises(ValueError, match="how says what becomes of heads="):
        ablate(model, edges=[(1, 0, 3, 2)], how="mean")
    with pytest.raises(TypeError, match="An attention without its model cannot be run again"):
        effect(Attention.from_weights(torch.eye(3)), "text", tokenizer, heads=[(0, 0)])
