"""What an output owes to every edge: against finite differences, autograd through eager attention, exact cuts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnwidget import Attention, Trace, ablate, compare, label, record, statistics, tiny, trace
from attnwidget.interface import Change
from attnwidget.layers import Layer, Part
from attnwidget.listen import Listener
from attnwidget.masks import Mask
from attnwidget.measures import similarity, spectrum
from attnwidget.parts import Call
from attnwidget.tokens import Tokens
from attnwidget.trace import Effects, gradient_of
from models import Bare, Handmade, make

# Of what an edge carries. Larger where models compute norms, softmax or all of it in float32 whatever they are given.
STEPS = {"decoder": 0.03, "gemma2": 0.03, "bloom": 0.03, "gpt_oss": 0.01, "t5": 0.01}
TEXT = "The cat sat on the mat. The cat sat on the"
BERT: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
FAMILIES = ["gpt2", "bert", "gemma2", "gpt_oss", "t5", "bart", "vit", "bloom", "swin"]


class Added(Listener):
    """Adds [head, query, d_v], or numbers of each sample, to what one call puts out."""

    def __init__(self, model: nn.Module, name: str, numbers: Tensor) -> None:
        super().__init__(model)
        self.name, self.numbers = name, numbers

    def change(self, call: Call) -> Change | None:
        return Change(lambda out: out + self.numbers.to(out)) if call.name == self.name else None

    def take(self, call: Call) -> None:
        return None

    def remark(self, name: str, words: str) -> None:
        assert "was set to" in words, words  # what an intervention says, and no failure


def value_with(run: Trace, layer: Layer, numbers: Tensor) -> float:
    """The objective, when [head, query, d_v] is added to what a layer puts out."""
    with Added(run.model, layer.name, numbers):
        return float(run.objective.of(run.run()))


def number_of(output: Any) -> Tensor:
    """Some number of whatever a model of models.py returns."""
    if isinstance(output, Tensor):
        return output[0, -1, 3]
    found: Tensor = output.logits if hasattr(output, "logits") else output.last_hidden_state
    return found[0, -1, 3]


class Stack(nn.Module):
    """Attention modules one after the other, and a class at the end; as a checkpoint or not."""

    def __init__(self, make: Callable[[], nn.Module], how: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([make() for _ in range(3)])
        self.out = nn.Linear(16, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        for at, layer in enumerate(self.layers):

            def attend(x: Tensor, layer: nn.Module = layer) -> Tensor:
                if isinstance(layer, nn.MultiheadAttention):
                    return x + layer(x, x, x, need_weights=False)[0]
                return x + layer(x)

            with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.how == "blind" and at == 1)):
                inside = checkpoint(attend, x, use_reentrant=self.how == "reentrant") if "rant" in self.how else None
                x = attend(x) if inside is None else inside
        return self.out(x.tanh().mean(1))


def some(n: int = 7) -> Tensor:
    return torch.randn(1, n, 16, generator=torch.Generator().manual_seed(3))


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "MultiheadAttention": lambda: nn.MultiheadAttention(16, 4, batch_first=True),
    "by hand": Handmade,
    "sdpa": Bare,
}


def run_of(family: str) -> Trace:
    if family == "decoder":
        model, tokenizer = tiny.decoder()
        return trace(model.double(), TEXT, tokenizer)
    if family in PLAIN:
        return trace(Stack(PLAIN[family]).double().eval(), some().double(), objective=1)
    model, inputs = make(family)
    if family == "gpt_oss":
        return trace(model, inputs, objective=number_of)
    inputs = {name: one.double() if one.is_floating_point() else one for name, one in inputs.items()}
    for module in model.modules():
        if isinstance(getattr(module, "act", None), nn.ReLU):
            module.act = nn.GELU()  # T5's kinks have no slope that differences could agree with
    run = trace(model.double(), inputs, objective=number_of)
    if family == "swin":
        run.attention = run.attention.select(2)  # of four windows
    return run


def layers_of(run: Trace) -> Iterator[tuple[Part, int, Layer]]:
    for name in run.attention.parts:
        part = run.attention.part(name)
        yield from ((part, at, layer) for at, layer in enumerate(part.layers) if layer.heads)


@pytest.mark.parametrize("family", ["decoder", *PLAIN, *FAMILIES])
def test_what_an_edge_adds_is_the_finite_difference_of_its_weight(family: str) -> None:
    """Central differences of fourth order, the model in float64: agreement to 1e-4 of the largest effect."""
    run, small = run_of(family), STEPS.get(family, 1e-3)
    random = torch.Generator().manual_seed(0)
    for part, at, layer in layers_of(run):
        heads = torch.stack([run.effects(at, head, part=part.name).weights() for head in range(layer.heads)])
        sample = run.attention.sample_in(part)
        largest = heads.abs().flatten().topk(2).indices
        others = torch.multinomial((heads != 0).flatten().double() + 1e-12, 2, generator=random)
        for flat in torch.cat([largest, others]).tolist():
            head, query, key = (int(i) for i in torch.unravel_index(torch.tensor(flat), heads.shape))
            p = layer.block(sample, head, torch.tensor([query]))[0][0, key].double()
            assert layer.v is not None
            numbers = torch.zeros(*layer.shape[:3], layer.v.shape[-1], dtype=torch.float64)
            numbers[sample, head, query] = p * layer.v[sample, head * layer.v.shape[1] // layer.heads, key]
            y = {step: value_with(run, layer, step * small * numbers) for step in (-2, -1, 1, 2)}
            slope = (8 * (y[1] - y[-1]) - (y[2] - y[-2])) / (12 * small)
            assert slope == pytest.approx(float(heads[head, query, key]), abs=1e-4 * float(heads.abs().max()))


@pytest.mark.parametrize("family", ["decoder", *FAMILIES])
def test_effects_are_the_weights_times_their_gradients_in_eager_attention(family: str) -> None:
    """The oracle is torch's autograd through transformers' own n × n weights; float32 explains 2e-5 of the largest."""
    if family == "decoder":
        model, tokenizer = tiny.decoder()
        inputs = dict(tokenizer(TEXT, return_tensors="pt"))
    else:
        model, inputs = make(family)
    run = trace(model, inputs, objective=number_of)
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    names = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}
    both = "cross" in run.attention.parts
    run.attention = run.attention.select(run.attention.samples // 2)  # of Swin's windows, the third
    for number, name in enumerate(run.attention.parts):
        maps = output[names[name] if both else "attentions"]
        maps = maps[number : number + 1] if family == "swin" else maps  # it tells the last layer of each stage
        gradients = torch.autograd.grad(number_of(output), maps, retain_graph=True, allow_unused=True)
        for at, (weights, gradient) in enumerate(zip(maps, gradients, strict=True)):
            assert gradient is not None
            part = run.attention.part(name)
            at = len(part.layers) - 1 if family == "swin" else at
            expected = (weights * gradient)[run.attention.sample_in(part)].detach()
            found = torch.stack([run.effects(at, head, part=name).weights() for head in range(len(expected))])
            assert torch.allclose(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max())), (name, at)
            total = run.effects(at, part=name).weights()
            assert torch.allclose(total, expected.sum(0), rtol=0, atol=1e-4 * float(expected.abs().max()))


def edges(weights: Tensor, values: Tensor, sink: Tensor | None = None) -> Iterator[tuple[int, int, Tensor]]:
    """Exact knock-outs of one head: query, key, the change of its output there, with the rest renormalised."""
    for query, row in enumerate(weights):
        for key in range(len(row)):
            left = row.clone()
            left[key] = 0
            total = left.sum() + (0 if sink is None else sink[query])
            new = left / total if total else left
            if row[key] > 0:
                yield query, key, (new - row) @ values


@pytest.mark.parametrize("sharp", [1.0, 30.0])
def test_where_the_output_is_linear_both_cuts_are_exact(sharp: float) -> None:
    """Oracle: y is linear in z, so what a cut changes is g · Δz, with Δz of weights cut and renormalised by hand.

    With sharp rows, whose largest weight is 1 − 1e-9, the rest must still take over as it does. The weights themselves
    are tested elsewhere; of these, float32 explains 1e-5 of the largest change.
    """
    random = torch.Generator().manual_seed(0)
    q, k, v, g = torch.randn(4, 1, 2, 9, 8, generator=random).unbind(0)
    sink = torch.randn(1, 2, 1, generator=random)
    for given in (None, sink):
        layer = Layer("one", Mask.causal(9, 9), q, k, v, scale=sharp / 8**0.5, sink=given, gradient=g)
        part = Part("decoder", (layer,), Tokens.positions(9), Tokens.positions(9))
        attention = Attention([part])
        for head in range(2):
            scores = (q[0, head].double() @ k[0, head].double().T * layer.scale).masked_fill(
                torch.ones(9, 9).triu(1).bool(), -torch.inf
            )
            scores = scores if given is None else torch.cat([scores, given[0, head].expand(9, 1)], 1)
            rest = None if given is None else scores.softmax(1)[:, 9]
            weights = layer.block(0, head, torch.arange(9))[0].double()
            expected = torch.zeros(9, 9, dtype=torch.float64)
            zeroed = torch.zeros(9, 9, dtype=torch.float64)
            for query, key, change in edges(weights, v[0, head].double(), rest):
                expected[query, key] = change @ g[0, head, query].double()
                zeroed[query, key] = -weights[query, key] * (v[0, head, key].double() @ g[0, head, query].double())
            tolerance = 1e-5 * float(expected.abs().max())
            found = Effects(attention, part, [(0, head)], "knock-out").weights().double()
            assert torch.allclose(found, expected, rtol=0, atol=tolerance)
            found = Effects(attention, part, [(0, head)], "zero").weights().double()
            assert torch.allclose(found, zeroed, rtol=0, atol=tolerance)


def test_the_effects_of_a_linear_model_add_up_to_its_output() -> None:
    """Completeness: with one layer of attention, linear to the end, Σ e_ij is y less what y is without attention."""
    model = Bare().double()
    run = trace(model, some().double(), objective=lambda output: output[0, -1].sum())
    assert run.effects().weights().sum().item() == pytest.approx(run.value, rel=1e-5)
    assert trace(model, some().double(), objective=lambda output: output.sum()).effects().weights().sum().item() == (
        pytest.approx(float(model(some().double()).detach().sum()), rel=1e-5)
    )


@pytest.mark.parametrize("family", ["decoder", "MultiheadAttention", "bert", "t5", "gpt2"])
def test_what_cannot_reach_the_objective_changes_no_bit_of_it(family: str) -> None:
    """Oracle: noise in place of all that cannot reach it, layer by layer; precision 100 %, and the rest does reach."""
    run = run_of(family)
    dead = 0
    # torch takes a way of its own through nn.MultiheadAttention as soon as anybody listens.
    some_layer = run.attention.part().layers[0]
    before = value_with(run, some_layer, torch.zeros(()))
    for name in run.attention.parts:
        for layer, reaches in zip(run.attention.part(name).layers, run.reaches(name), strict=True):
            assert layer.v is not None
            noise = torch.randn(*reaches.shape, layer.v.shape[-1], generator=torch.Generator().manual_seed(1))
            assert value_with(run, layer, noise.masked_fill(reaches[..., None], 0.0)) == before
            for head, query in reaches.nonzero()[::17].tolist():
                one = torch.zeros_like(noise)
                one[head, query] = noise[head, query]
                assert value_with(run, layer, one) != before
            dead += int((~reaches).sum())
    assert dead > 0 or family == "MultiheadAttention"  # which averages over its tokens


def test_a_later_token_reaches_no_earlier_logit() -> None:
    """Closed form: of a causal model's logits at token 5, the last layer's token 5 and the tokens up to it before."""
    model, tokenizer = tiny.decoder()
    run = trace(model, TEXT, tokenizer, position=5)
    *earlier, last = run.reaches()
    at = torch.arange(13)
    assert torch.equal(last, (at == 5).expand(4, -1))
    for layer in earlier:
        assert torch.equal(layer, (at <= 5).expand(4, -1))


# ── the user's model, and who else is there ──────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Nothing of the model, of the random numbers, or of what torch computes gradients of is another afterwards."""

    def state() -> list[Any]:
        hooks = [
            len(getattr(module, name))
            for module in model.modules()
            for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        ]
        return [
            [(one._version, one.requires_grad, one.grad is None) for one in model.parameters()],
            [module.training for module in model.modules()],
            hooks,
            torch.get_rng_state().tolist(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        ]

    before = state()
    yield
    assert state() == before


def test_the_model_is_left_as_it_was_also_when_it_fails() -> None:
    model, inputs = make("gpt2")
    model.train()
    model.transformer.h[0].eval()
    for at, one in enumerate(model.parameters()):
        one.requires_grad_(at % 3 > 0)

    def stops(output: Any) -> Tensor:
        raise KeyboardInterrupt

    with unchanged(model):
        run = trace(model, inputs, objective=number_of)
        run.effects().weights()
        run.run()
        with pytest.raises(KeyboardInterrupt):
            trace(model, inputs, objective=stops)
        with pytest.raises(ZeroDivisionError):
            trace(model, inputs, objective=lambda output: 1 / 0)
        with torch.no_grad(), pytest.raises(RuntimeError):
            trace(model, {"inputs_embeds": torch.zeros(1, 3, 7)}, objective=number_of)


@pytest.mark.parametrize("how", ["frozen", "no_grad", "inference", "training", "sdpa", "eager", "list"])
def test_it_is_the_same_however_the_model_stands(how: str) -> None:
    """Oracle: the plain trace of the same model; 1e-5 of the largest effect between implementations of attention."""
    model, tokenizer = tiny.decoder()
    expected = trace(model, TEXT, tokenizer).effects().weights()
    model.requires_grad_(how != "frozen").train(how == "training")
    if how in ("sdpa", "eager"):
        model.set_attn_implementation(how)
    around = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(how, contextlib.nullcontext)
    with unchanged(model), around():
        inputs: Any = tokenizer(TEXT, return_tensors="pt") if how == "inference" else TEXT
        run = trace(model, [TEXT] if how == "list" else inputs, tokenizer)
        found = run.effects().weights()
        assert float(run.objective.of(run.run())) == pytest.approx(run.value, abs=1e-5)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_half_precision_tells_what_single_precision_does() -> None:
    """bfloat16 has 8 bits: rounding through four layers moves the effects by 5 % of the largest."""
    model, tokenizer = tiny.decoder()
    expected = trace(model, TEXT, tokenizer, objective=" mat").effects().weights()
    run = trace(model.bfloat16(), TEXT, tokenizer, objective=" mat")
    assert run.attention.part().layers[0].k.dtype is torch.bfloat16
    assert float((run.effects().weights() - expected).abs().max()) < 0.1 * float(expected.abs().max())


@pytest.mark.parametrize("name", PLAIN)
def test_checkpointing_is_traced_as_the_plain_run(name: str) -> None:
    expected = trace(Stack(PLAIN[name]), some(), objective=1).effects().weights()
    found = trace(Stack(PLAIN[name], "rant"), some(), objective=1)
    assert torch.equal(found.effects().weights(), expected)


def test_recording_leaves_checkpointing_to_the_user() -> None:
    """A recorder must save nothing for the backward pass: checkpointing counts what is saved."""
    model = Stack(PLAIN["MultiheadAttention"], "rant")
    with record(model) as rec:
        model(some()).sum().backward()
    expected = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    model(some()).sum().backward()
    assert all(torch.equal(a, b.grad) for a, b in zip(expected, model.parameters(), strict=True))
    assert len(rec.attentions) == 1


def test_what_ran_without_gradients_is_said_and_not_called_zero() -> None:
    run = trace(Stack(PLAIN["sdpa"], "blind"), some(), objective=1)
    [note] = run.attention.notes
    assert "layers.1" in note and "ran without gradients" in note
    # What comes after it is known as ever: z of the last layer is read by what has gradients.
    assert torch.equal(run.effects(2).weights(), trace(Stack(PLAIN["sdpa"]), some(), objective=1).effects(2).weights())
    for act in (lambda: run.effects(0), lambda: run.effects(1), run.effects, run.reaches):
        with pytest.raises(ValueError, match=r"layers.. has no gradient"):
            act()
    with pytest.raises(ValueError, match="All of the attention ran without gradients"):
        trace(Stack(PLAIN["sdpa"], "reentrant"), some().requires_grad_(), objective=1)
    with torch.inference_mode():
        model = Bare()
    with pytest.raises(ValueError, match="The model was made under"):
        trace(model, some(), objective=lambda output: output.sum())


def test_several_may_listen_at_once() -> None:
    """A recorder of the user's sees the same run; a change of the user's is what is traced."""
    model, tokenizer = tiny.decoder()
    alone = trace(model, TEXT, tokenizer)
    with record(model, tokenizer) as rec:
        beside = trace(model, TEXT, tokenizer)
    assert torch.equal(beside.effects().weights(), alone.effects().weights())
    assert torch.equal(rec.attention[2, 1].weights(), alone.attention[2, 1].weights())
    layer = alone.attention.part().layers[1]
    assert layer.v is not None
    numbers = torch.randn(4, 13, layer.v.shape[-1], generator=torch.Generator().manual_seed(0))
    with Added(model, layer.name, numbers):
        changed = trace(model, TEXT, tokenizer, objective=alone.objective)
    assert changed.value == pytest.approx(value_with(alone, layer, numbers), abs=1e-5) != alone.value
    assert torch.equal(changed.effects(0).weights(), changed.effects(0).weights())
    assert not torch.allclose(changed.effects(3).weights(), alone.effects(3).weights(), atol=1e-3)


@pytest.mark.parametrize("name", ["decoder", *PLAIN])
def test_where_an_intervention_puts_something_else_in_place_of_what_weights_give_it_says_so(name: str) -> None:
    """The mean over tokens is made of no weights. Of what comes before it, oracle: the finite difference inside."""
    model = tiny.decoder()[0].double() if name == "decoder" else Stack(PLAIN[name]).double().eval()
    inputs: Any = {"input_ids": torch.arange(5, 12)[None]} if name == "decoder" else some().double()
    with ablate(model, heads=[(1, 0)], how="mean"):
        run = trace(model, inputs, objective=1)
        layer = run.attention.part().layers[0]
        assert layer.v is not None
        edges = run.effects(0, 1).weights()
        query, key = divmod(int(edges.abs().argmax()), edges.shape[1])
        added = torch.zeros(*layer.shape[1:3], layer.v.shape[-1], dtype=torch.float64)
        added[1, query] = run.attention[0, 1].row(query)[key] * layer.v[0, layer.v.shape[1] // 4, key]
        small = STEPS.get(name, 1e-3)
        y = {step: value_with(run, layer, step * small * added) for step in (-2, -1, 1, 2)}
    assert run.attention.part().layers[1].gradient is None
    assert any("an intervention that is open put something else there" in one for one in run.attention.notes)
    for act in (run.effects, run.reaches, lambda: run.effects(1, 3)):
        with pytest.raises(ValueError, match=r"layers\.1.* has no gradient: its output is not what its weights"):
            act()
    slope = (8 * (y[1] - y[-1]) - (y[2] - y[-2])) / (12 * small)
    assert slope == pytest.approx(float(edges[query, key]), rel=1e-4)
    # Where weights or values are told, they are the ones that are explained.
    for how in ("zero", "uniform"):
        with ablate(model, heads=[(1, 0)], how=how):  # type: ignore[arg-type]
            told = trace(model, inputs, objective=1)
        assert torch.isfinite(told.effects().weights()).all() and told.effects(1, 3).weights().any()
        assert told.effects(1, 0).weights().any() == (how == "uniform")


def test_an_objective_that_depends_on_no_attention_is_refused() -> None:
    """The embeddings have gradients, and no attention has any part in them."""
    model, tokenizer = tiny.decoder()
    with pytest.raises(ValueError, match=r"does not depend on any attention .* read from something else"):
        trace(model, TEXT, tokenizer, output_hidden_states=True, objective=lambda output: output.hidden_states[0].sum())


def test_the_calls_are_told_in_the_order_in_which_they_ran() -> None:
    run = run_of("t5")
    towers = [("encoder", 0), ("encoder", 1)]
    assert list(run.calls) == [*towers, ("decoder", 0), ("cross", 0), ("decoder", 1), ("cross", 1)]


def test_what_it_says_of_itself_and_what_it_refuses() -> None:
    model, tokenizer = tiny.decoder()
    run = trace(model, TEXT, tokenizer)
    assert repr(run).startswith("<Trace: the logit of ' mat' at token 12 = ") and "13 × 13" in repr(run)
    assert repr(run.effects(1)) == "<Effects of 4 heads of decoder: 13 × 13>"
    assert torch.equal(
        run.effects(heads=[(1, 0), (-1, -1)]).row(12), (run.effects(1, 0).row(12) + run.effects(3, 3).row(12))
    )
    assert torch.equal(run.effects(heads=[(1, 0), (1, 0), (-3, 0)]).row(12), run.effects(1, 0).row(12))
    with pytest.raises(ValueError, match="heads is empty; name at least one pair"):
        run.effects(heads=[])
    with pytest.raises(IndexError, match="no layer 4"):
        run.effects(4)
    with pytest.raises(IndexError, match="no head 4"):
        run.effects(0, 4)
    with pytest.raises(KeyError):
        run.effects(part="cross")
    with pytest.raises(ValueError, match="cut is 'mean'; it may be 'zero' or 'knock-out'"):
        run.effects(cut="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Here are 2 texts or images"):
        trace(model, [TEXT, TEXT], tokenizer)
    with pytest.raises(TypeError, match="no option objectiv; did you mean objective"):
        trace(model, TEXT, tokenizer, objectiv=" mat")
    import transformers as t

    masked = t.BertForMaskedLM(t.BertConfig(**BERT)).eval()  # which sees later tokens, too
    with pytest.raises(ValueError, match="no loss of a text here"):
        trace(masked, {"input_ids": torch.arange(5, 12)[None]}, objective="loss")
    plain = run.attention.part().layers[0]
    with pytest.raises(ValueError, match="has no gradient and values: trace"):
        gradient_of(Layer("one", plain.mask, plain.q, plain.k))


def test_a_trace_goes_where_its_attention_goes() -> None:
    model, tokenizer = tiny.decoder()
    run = trace(model, "The cat saw the dog.", tokenizer)
    for of in (statistics, spectrum, similarity, label):
        ours, theirs = of(run), of(run.attention)
        assert repr(ours) == repr(theirs)
    assert compare(run, run).ranking(1)[0][2] == 0.0
