"""Methods by gradients: against the formulas written out over autograd's own weights, captum, and identities."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnwidget import Attention, Trace, capture, tiny, trace
from attnwidget.attribution import METHODS, attribute, cost
from attnwidget.gradients import chefer, gradient_attention, knock_out
from attnwidget.integrated import gradient_input, integrated_gradients
from models import Bare, Handmade, make
from test_trace import Stack, number_of, some, unchanged

TEXT = "The cat sat on the mat. The cat sat on the"
NAMES = ["gradient", "knock-out", "chefer", "gradient-input", "integrated-gradients"]


@pytest.fixture(scope="module")
def run() -> Trace:
    model, tokenizer = tiny.decoder()
    return trace(model, TEXT, tokenizer, objective=(" mat", " cat"))


def close(a: Tensor, b: Tensor, within: float) -> None:
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= within * float(b.abs().max())


def eager(model: Any, inputs: dict[str, Any], number: Any = number_of) -> tuple[Any, Any]:
    """transformers' own weights [head, query, key] of each layer and their gradients by autograd, by part."""
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    both = "encoder_attentions" in output
    names = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}
    parts = names if both else {"": "attentions"}
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for part, name in parts.items():
        gradients = torch.autograd.grad(number(output), output[name], retain_graph=True, allow_unused=True)
        pairs = zip(output[name], gradients, strict=True)
        found[part] = [(p[0].detach(), torch.zeros_like(p[0]) if g is None else g[0]) for p, g in pairs]
    return found if both else found[""], output


def relevant(pair: tuple[Tensor, Tensor]) -> Tensor:
    """Ā of the paper's equation 5."""
    return (pair[0] * pair[1]).clamp_min(0.0).mean(0)


# ── edges ──


def test_gradient_is_summed_over_the_heads_chosen_and_says_what_each_adds(run: Trace) -> None:
    """Oracles: autograd through eager attention (2e-5 of the largest, float32); Michel's gate, ∂y/∂ξ = Σ z·g."""
    model, tokenizer = tiny.decoder()
    a, b = run.objective.ids
    inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    layers, _ = eager(model, inputs, lambda output: output.logits[0, -1, a] - output.logits[0, -1, b])
    edges = [p * g for p, g in layers]
    found = gradient_attention(run)
    close(found.values, sum(one.sum(0) for one in edges), 2e-5)
    close(gradient_attention(run, layer=2).values, edges[2].sum(0), 2e-5)
    close(gradient_attention(run, layer=1, head=-1).values, edges[1][3], 2e-5)
    close(gradient_attention(run, heads=[(0, 1), (3, 2)]).values, edges[0][1] + edges[3][2], 2e-5)
    assert found.signed and found.target == run.objective.words and found.per_head is not None
    for at, layer in enumerate(run.attention.part().layers):
        assert layer.gradient is not None and layer.v is not None
        for head in range(4):
            z = run.attention[at, head].weights() @ layer.v[0, head * layer.v.shape[1] // 4]
            assert float(found.per_head[at, head]) == pytest.approx(
                float((z * layer.gradient[0, head]).sum()), abs=2e-5 * float(found.values.abs().max())
            )
    one = gradient_attention(run, layer=2)
    assert one.per_head is not None and bool(one.per_head[0].isnan().all()) and not bool(one.per_head[2].isnan().any())


def test_knock_out_is_the_difference_of_two_runs_where_the_output_is_linear() -> None:
    """Oracles: the edge masked by hand, −∞ before the softmax, exact since y is linear in z; and the closed form."""
    model = Bare().double()
    x = some().double()
    run = trace(model, x, objective=lambda output: output[0, -1].sum() + output[0, 3, 6] + output[0, 0, 5])
    q, k, v = model.qkv(x).view(1, 7, 3, 4, 4).permute(2, 0, 3, 1, 4).detach()

    def y(head: int, query: int, key: int) -> float:
        mask = torch.ones(1, 4, 7, 7).tril().bool()
        if query >= 0:
            mask[0, head, query, key] = False
        out = nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).reshape(1, 7, 16)
        return float(out[0, -1].sum() + out[0, 3, 6] + out[0, 0, 5])

    found = knock_out(run, layer=0, head=1).values
    expected = torch.tensor([[y(1, i, j) - y(1, -1, 0) if 0 < i >= j else 0.0 for j in range(7)] for i in range(7)])
    close(found[1:], expected[1:], 1e-5)
    p, e = run.attention[0, 1].weights(), run.effects(0, 1).weights()
    close(found[1:], ((p * e.sum(1, keepdim=True) - e) / (1 - p))[1:], 1e-5)
    close(found[0], -e[0], 1e-6)  # a first token sees nothing but itself: the head falls silent there
    assert float(found.triu(1).abs().max()) == 0.0


# ── relevance ──


@pytest.mark.parametrize("family", ["gpt2", "bert", "vit", "llama"])
def test_relevance_is_the_paper_s_formula_over_the_models_own_weights(family: str) -> None:
    """Oracle: equations 5 and 6 over eager attention and autograd. Float32 explains 2e-5 of the largest."""
    model, inputs = make(family)
    run = trace(model, inputs, objective=number_of)
    layers, _ = eager(model, inputs)
    expected = torch.eye(len(run.attention.part().queries))
    for pair in layers:
        expected = expected + relevant(pair) @ expected
    close(chefer(run).values, expected, 2e-5)
    # One row, by vectors times matrices from the last layer down, is that row.
    row = chefer(run, query=-2)
    close(row.values, expected[-2:-1], 2e-5)
    assert row.queries.labels == (run.attention.part().queries.labels[-2],)
    gradients = attribute(run, "gradient").values
    assert not torch.allclose(chefer(run).values, gradients)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_relevance_of_a_decoder_for_its_encoder(family: str) -> None:
    """Oracle: equations 6 to 10 written out, over eager attention and autograd (2e-5, float32)."""
    model, inputs = make(family)
    run = trace(model, inputs, objective=number_of)
    layers, _ = eager(model, inputs)
    n, m = len(run.attention.part("cross").queries), len(run.attention.part("cross").keys)
    encoder, decoder, cross = torch.eye(m), torch.eye(n), torch.zeros(n, m)

    def shares(r: Tensor) -> Tensor:
        more = r - torch.eye(len(r))
        return torch.nan_to_num(more / more.sum(1, keepdim=True)) + torch.eye(len(r))

    for pair in layers["encoder"]:
        encoder = encoder + relevant(pair) @ encoder
    for own, read in zip(layers["decoder"], layers["cross"], strict=True):
        cross = cross + relevant(own) @ cross
        decoder = decoder + relevant(own) @ decoder
        cross = cross + shares(decoder).T @ relevant(read) @ shares(encoder)
    for part, expected in (("encoder", encoder), ("decoder", decoder), ("cross", cross)):
        close(chefer(run, part=part).values, expected, 2e-5)
    close(chefer(run, part="cross", query=0).values, cross[:1], 2e-5)


def lxmert() -> Any:
    import transformers as t

    torch.manual_seed(0)
    config = t.LxmertConfig(
        vocab_size=100, hidden_size=32, num_attention_heads=4, intermediate_size=32, l_layers=1, x_layers=2, r_layers=1,
        visual_feat_dim=16, num_qa_labels=5,
    )  # fmt: skip
    model = t.LxmertForQuestionAnswering(config).eval()
    with torch.no_grad():
        for one in model.parameters():
            if one.dim() >= 2:
                one.normal_(0.0, 0.2)
    return model


def test_relevance_of_two_streams_that_read_each_other() -> None:
    """Oracle: equations 6 to 11 in the order of LXMERT's layers, whose two directions read what was there before."""
    random = torch.Generator().manual_seed(0)
    run = trace(
        lxmert(),
        {
            "input_ids": torch.arange(5, 12)[None],
            "visual_feats": torch.randn(1, 5, 16, generator=random),
            "visual_pos": torch.rand(1, 5, 4, generator=random),
        },
        objective=lambda output: output.question_answering_score[0, 1],
    )

    def of(part: str, at: int) -> Tensor:
        heads = range(run.attention.part(part).layers[at].heads)
        return torch.stack([run.effects(at, head, part=part).weights() for head in heads]).clamp_min(0).mean(0)

    def shares(r: Tensor) -> Tensor:
        more = r - torch.eye(len(r))
        return torch.nan_to_num(more / more.sum(1, keepdim=True)) + torch.eye(len(r))

    tt, ii = torch.eye(7), torch.eye(5)
    ti, it = torch.zeros(7, 5), torch.zeros(5, 7)
    tt = tt + of("encoder", 0) @ tt
    ii = ii + of("encoder 2", 0) @ ii
    for at in range(2):
        a, b = of("vision", at), of("vision 2", at)
        more_ti, more_tt = shares(tt).T @ a @ shares(ii), a @ it
        more_it, more_ii = shares(ii).T @ b @ shares(tt), b @ ti
        tt, ti, ii, it = tt + more_tt, ti + more_ti, ii + more_ii, it + more_it
        own = of("encoder 3", at)
        tt, ti = tt + own @ tt, ti + own @ ti
        own = of("encoder 4", at)
        ii, it = ii + own @ ii, it + own @ it
    for part, expected in (("encoder", tt), ("encoder 4", ii), ("vision", ti), ("vision 2", it)):
        close(chefer(run, part=part).values, expected, 1e-5)


def test_streams_of_the_same_length_are_not_taken_for_one() -> None:
    """LXMERT with as many image regions as tokens: which part reads which is not told. Two towers are none of that."""
    import transformers as t

    run = trace(
        lxmert(),
        {
            "input_ids": torch.arange(5, 12)[None],
            "visual_feats": torch.randn(1, 7, 16),
            "visual_pos": torch.rand(1, 7, 4),
        },
        objective=lambda output: output.question_answering_score[0, 1],
    )
    for part in run.attention.parts:
        with pytest.raises(ValueError, match=r"have 7 each.*longer by a token"):
            chefer(run, part=part)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    towers = t.CLIPConfig(
        text_config={"vocab_size": 50, "eos_token_id": 9, **size},
        vision_config={"image_size": 16, "patch_size": 8, **size},
        projection_dim=8,
    )
    clip = t.CLIPModel(towers).eval()
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    run = trace(clip, {"input_ids": torch.tensor([[3, 4, 5, 6, 9]]), "pixel_values": pixels},
                objective=lambda output: output.logits_per_image[0, 0])  # fmt: skip
    assert len(run.attention.parts) == 2
    for part in run.attention.parts:
        assert len(run.attention.part(part).queries) == 5
        expected = torch.eye(5)
        for at in range(2):
            edges = torch.stack([run.effects(at, head, part=part).weights() for head in range(2)])
            expected = expected + edges.clamp_min(0).mean(0) @ expected
        close(chefer(run, part=part).values, expected, 1e-5)


def test_windows_are_followed_by_no_method() -> None:
    """They are cut anew from layer to layer. A stage that is one window is like any other part."""
    run = trace(*make("swin"), objective=number_of)
    for name in ("chefer", "gradient-input", "integrated-gradients"):
        with pytest.raises(ValueError, match=r"blocks\.0\.attention attends within windows"):
            attribute(run, name, part="vision")
    edges = torch.stack([run.effects(0, head, part="vision 2").weights() for head in range(4)])
    close(chefer(run, part="vision 2").values, torch.eye(16) + edges.clamp_min(0).mean(0), 1e-6)


def test_relevance_in_closed_form() -> None:
    """No gradients: the identity. One layer: I + Ā. Heads in another order: the same."""
    x = some()
    nothing = trace(Stack(Bare), x, objective=lambda output: 0 * output.sum())
    assert torch.equal(chefer(nothing).values, torch.eye(7))
    torch.manual_seed(0)
    model = Handmade()
    run = trace(model, x, objective=lambda output: output[0, -1, 3])
    maps = torch.stack([run.effects(0, head).weights() for head in range(4)])
    close(chefer(run).values, torch.eye(7) + maps.clamp_min(0).mean(0), 1e-6)
    order = torch.tensor([2, 0, 3, 1])
    turned = Handmade()
    with torch.no_grad():
        at = torch.arange(16).view(4, 4)[order].flatten()
        turned.qkv.weight.copy_(model.qkv.weight.view(3, 16, 16)[:, at].reshape(48, 16))
        turned.qkv.bias.copy_(model.qkv.bias.view(3, 16)[:, at].flatten())
        turned.out.weight.copy_(model.out.weight[:, at])
        turned.out.bias.copy_(model.out.bias)
    close(chefer(trace(turned, x, objective=lambda output: output[0, -1, 3])).values, chefer(run).values, 1e-5)


# ── inputs ──


def embedded(model: Any, inputs: dict[str, Any], number: Any = number_of) -> tuple[Tensor, Any]:
    """The vectors of a text, and y as a function of them, by transformers' own inputs_embeds."""
    table = model.get_input_embeddings()
    rest = {name: one for name, one in inputs.items() if name != "input_ids"}
    vectors = table(inputs["input_ids"]).detach()
    return vectors, lambda x: number(model(inputs_embeds=x, **rest))


@pytest.mark.filterwarnings("ignore:The integral misses", "ignore:Input Tensor 0 did not")
@pytest.mark.parametrize("family", ["gpt2", "bert", "llama", "gemma2", "bart", "t5"])
def test_inputs_against_captum_and_autograd_through_inputs_embeds(family: str) -> None:
    """Oracles: captum's InputXGradient and IntegratedGradients on inputs_embeds; 1e-4 of the largest, float32."""
    from captum.attr import InputXGradient, IntegratedGradients

    model, inputs = make(family)
    run = trace(model, inputs, objective=number_of)
    part = "cross" if "cross" in run.attention.parts else None  # whose keys are what the encoder reads
    x, y = embedded(model, inputs)
    if family == "bart":
        x = model.get_encoder().embed_tokens(inputs["input_ids"]).detach()  # scaled, as it enters
    with unchanged(model):
        slopes = gradient_input(run, part=part)
        found = integrated_gradients(run, part=part, steps=7) if family != "gemma2" else None
    close(slopes.values, InputXGradient(lambda x: y(x)[None]).attribute(x.clone()).detach().sum(2), 1e-4)
    assert slopes.queries.labels == (run.objective.words,) and slopes.keys == run.attention.part(part).keys
    if found is None:
        return
    plain = IntegratedGradients(lambda x: torch.stack([y(one[None]) for one in x]))
    close(found.values, plain.attribute(x, n_steps=7).sum(2), 1e-4)
    # It accounts for everything, by definition of its rest; what is at the baseline is the model's own value there.
    assert float(found.values.sum()) + sum(found.rest.values()) == pytest.approx(run.value, abs=1e-4)
    with torch.no_grad():
        assert found.rest["the baseline"] == pytest.approx(float(y(torch.zeros_like(x))), abs=1e-4)


def test_integrated_gradients_are_complete_and_begin_where_they_are_told(run: Trace) -> None:
    """Completeness: Σ = y(x) − y(x′), to 1e-4 with 50 steps from a token; from zeros an RMS norm needs far more."""
    the = run.attention.tokens.ids
    assert the is not None
    few, same = (integrated_gradients(run, steps=steps, baseline=the[-1]) for steps in (10, 50))
    error = abs(same.rest["error of the integral"])
    assert error < 1e-4 * abs(run.value - same.rest["the baseline"])
    assert error < 0.1 * abs(few.rest["error of the integral"])
    with pytest.warns(UserWarning, match="or another baseline"):
        assert abs(integrated_gradients(run, steps=20).rest["error of the integral"]) > 1.0
    # A token in place of itself adds nothing.
    assert float(same.values[0, -1]) == 0.0 and float(same.values[0, 6].abs()) > 0
    table = run.model.get_input_embeddings()  # type: ignore[operator]
    vectors = table(torch.full((1, 13), the[-1])).detach()
    close(integrated_gradients(run, steps=50, baseline=vectors).values, same.values, 1e-6)


def test_what_is_linear_is_integrated_at_once() -> None:
    """Closed form: for y = w · Σ_j x_j both methods give w · x_j, whatever the steps; a decoder has its own tokens."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.attend, self.w = nn.Embedding(9, 16), Bare(), nn.Linear(16, 1, bias=False)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.table(input_ids)
            return self.w(x + 0 * self.attend(x)).sum(1)

    model, ids = Sum(), torch.tensor([[1, 4, 4, 7, 2]])
    run = trace(model, {"input_ids": ids}, objective=lambda output: output.sum())
    expected = model.w(model.table(ids))[..., 0].detach()
    close(gradient_input(run).values, expected, 1e-6)
    close(integrated_gradients(run, steps=1).values, expected, 1e-6)
    model, inputs = make("bart")
    run = trace(model, inputs, objective=number_of)
    own = gradient_input(run, part="decoder")
    x = model.get_decoder().embed_tokens(inputs["decoder_input_ids"]).detach().requires_grad_()
    output = number_of(model(input_ids=inputs["input_ids"], decoder_inputs_embeds=x))
    [slope] = torch.autograd.grad(output, [x])
    close(own.values, (x * slope).sum(2).detach(), 1e-4)


def test_pixels_are_added_up_over_their_patches() -> None:
    """Oracles: autograd on the pixels, cut into patches by hand; completeness."""
    model, inputs = make("vit")
    run = trace(model, inputs, objective=number_of)
    x = inputs["pixel_values"].clone().requires_grad_()
    [slope] = torch.autograd.grad(number_of(model(pixel_values=x)), [x])
    expected = [0.0]
    for row in range(3):
        for col in range(4):
            cell = (..., slice(8 * row, 8 * row + 8), slice(8 * col, 8 * col + 8))
            expected.append(float((x * slope).detach()[cell].sum()))
    found = gradient_input(run)
    close(found.values, torch.tensor([expected]), 1e-4)
    whole = integrated_gradients(run, steps=60, baseline=0.5)
    assert float(whole.values.sum()) + sum(whole.rest.values()) == pytest.approx(run.value, abs=1e-4)
    with torch.no_grad():
        grey = number_of(model(pixel_values=torch.full_like(x, 0.5)))
    assert whole.rest["the baseline"] == pytest.approx(float(grey), abs=1e-4)


# ── as methods ──


@pytest.mark.filterwarnings("ignore:The integral misses")
def test_all_are_in_the_table_and_state_their_cost(run: Trace) -> None:
    for name in NAMES:
        found = attribute(run, name, progress=False)
        assert found.method == name and found.target == run.objective.words and found.part == "decoder"
        price = cost(run, name)
        assert price.seconds > 0 and price.bytes > 0 and price.words
        assert found.signed == METHODS[name].signed and found.words and found.source
    once = cost(run, "gradient-input").seconds
    assert cost(run, "integrated-gradients", steps=7).seconds == pytest.approx(7 * once)
    assert cost(run, "integrated-gradients").seconds == pytest.approx(50 * once)
    assert cost(run, "chefer", query=0).seconds < cost(run, "chefer").seconds


def test_what_they_need_is_said(run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = run.attention
    for name in NAMES:
        with pytest.raises(ValueError, match=rf"{name} needs .*: give it trace\(model, text, tokenizer\)"):
            attribute(attention, name)
        with pytest.raises(ValueError, match="Weights alone, without their model, have neither"):
            attribute(Attention.from_weights(torch.eye(3)), name)
        with pytest.raises(KeyError):
            attribute(run, name, part="cross")
    with pytest.raises(IndexError, match="no query 13 in decoder"):
        chefer(run, query=13)
    with pytest.raises(IndexError):
        gradient_attention(run, layer=9)
    for steps in (0, True, 2.5):
        with pytest.raises(ValueError, match="steps is"):
            integrated_gradients(run, steps=steps)  # type: ignore[arg-type]
    for baseline, error, words in (
        ("mat", TypeError, "baseline is 'mat'"),
        (5000, ValueError, "no token id 5000"),
        (torch.zeros(2), ValueError, r"baseline is \(2,\)"),
    ):
        with pytest.raises(error, match=words):
            integrated_gradients(run, baseline=baseline)
    with pytest.raises(ValueError, match="it has no get_input_embeddings"):
        gradient_input(trace(Stack(Bare), some(), objective=1))
    with pytest.warns(UserWarning, match="in 1 steps: take more"):
        integrated_gradients(run, steps=1)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"pip install 'attnwidget\[captum\]'"):
        integrated_gradients(run)


def test_nothing_is_left_behind_by_an_interrupt(run: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third run of the model is interrupted: no hook, no gradient, no flag remains."""
    left = iter(range(3))

    def interrupted(*_: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    hook = run.model.register_forward_hook(interrupted)
    run.model.train()
    with unchanged(run.model), pytest.raises(KeyboardInterrupt):
        integrated_gradients(run)
    hook.remove()
    with unchanged(run.model), torch.no_grad():
        gradient_input(run)
    run.model.eval()


def test_captum_is_loaded_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refused(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith(("captum", "matplotlib"))
        return plain(name, *args, **kwargs)

    model, tokenizer = tiny.decoder()
    monkeypatch.setattr(builtins, "__import__", refused)
    gradient_input(trace(model, TEXT, tokenizer))
    assert capture(model, TEXT, tokenizer).parts == ("decoder",)


def test_unless_told_steps_are_taken_until_the_integral_is_complete() -> None:
    """Completeness (Sundararajan et al. 2017, proposition 1), beside zeros, where a norm changes abruptly."""
    model, tokenizer = tiny.decoder()
    run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    found = attribute(run, "integrated-gradients", progress=False)
    gained = run.value - found.rest["the baseline"]
    assert abs(float(found.values.sum()) - gained) < 0.01 * abs(gained)
    assert abs(found.rest["error of the integral"]) < 0.01 * abs(gained)
