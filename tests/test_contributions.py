"""Norms, ALTI, value zeroing and direct logits: against the models' own modules, by hand and by surgery."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnwidget import Trace, capture, interface, tiny, trace
from attnwidget.attribution import METHODS, asked, attribute, cost
from attnwidget.contributions import logit, norm, norm_sum, vectors_of
from attnwidget.interactions import alti, value_zeroing
from attnwidget.stream import follow, projection_of
from tests.models import make


@dataclass
class ByHand:
    """A model's own numbers, without any of what is tested: eager attention, and what hooks on its modules see."""

    run: Trace
    p: list[Tensor]  # per layer [head, query, key]
    f: list[Tensor]  # per layer [head, key, D]
    stream: list[Tensor]  # what attention adds to, [token, D]
    total: list[Tensor]  # the sum
    after: list[nn.Module | None]  # the norm that reads it
    blocks: list[nn.Module]
    values: list[tuple[nn.Module, slice]]  # what makes the values, and where they are in what it makes


def by_hand(family: str) -> ByHand:
    """Everything in double precision, so that what differs is the tested code's float32."""
    heads, post = 4, family == "bert"
    model: Any
    if family == "tiny":
        model, tokenizer = tiny.decoder(attn_implementation="eager")
        inputs: Any = "The cat sat on the mat. The cat sat on the"
        run = trace(model, inputs, tokenizer, objective=(" mat", " dog"))
        inputs = dict(tokenizer(inputs, return_tensors="pt"))
        blocks = list(model.model.layers)
        parts = [(b.self_attn.v_proj, slice(None), b.self_attn.o_proj) for b in blocks]
    else:
        model, inputs = make(family)
        model.set_attn_implementation("eager")
        of = (lambda out: out.last_hidden_state[0, 3, 5]) if post else (7, 9)
        run = trace(model, inputs, objective=of)
        if post:
            blocks = list(model.encoder.layer)
            parts = [(b.attention.self.value, slice(None), b.attention.output.dense) for b in blocks]
        else:
            blocks = list(model.transformer.h)
            parts = [(b.attn.c_attn, slice(64, 96), b.attn.c_proj) for b in blocks]
    twin = copy.deepcopy(model).double()
    twins = dict(twin.named_modules())
    names = {id(module): name for name, module in model.named_modules()}

    def of_twin(module: nn.Module) -> nn.Module:
        return twins[names[id(module)]]

    seen: dict[int, Tensor] = {}

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        seen[id(module)] = (output if isinstance(output, Tensor) else output[0]).detach()
        seen[-id(module)] = args[0].detach() if args else seen[id(module)]

    watched = [of_twin(one) for v, _, o in parts for one in (v, o)] + [of_twin(block) for block in blocks]
    hooks = [module.register_forward_hook(hook) for module in watched]
    with torch.no_grad():
        found = twin(**inputs, output_attentions=True)
    for one in hooks:
        one.remove()
    p, f, stream, total, after = [], [], [], [], []
    for (v, where, o), block, weights in zip(parts, blocks, found.attentions, strict=True):
        p.append(weights[0].detach())
        values = seen[id(of_twin(v))][0][:, where]
        d = of_twin(o).weight.shape[0 if family == "gpt2" else 1] // heads
        values = values.reshape(len(values), -1, d).repeat_interleave(heads * d // values.shape[1], 1)
        w = of_twin(o).weight.detach()
        w = w if family == "gpt2" else w.mT
        f.append(torch.einsum("khd,hdD->hkD", values, w.reshape(heads, d, -1)))
        x = seen[-id(of_twin(block))][0]
        stream.append(x)
        total.append(x + seen[id(of_twin(o))][0])
        after.append(of_twin(block.attention.output.LayerNorm) if post else None)
    return ByHand(run, p, f, stream, total, after, blocks, [(v, where) for v, where, _ in parts])


@pytest.fixture(scope="module", params=["tiny", "gpt2", "bert"])
def hand(request: pytest.FixtureRequest) -> ByHand:
    return by_hand(request.param)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """The largest difference, relative to the largest entry, is what float32 explains."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max()) < tolerance


def mapped(one: ByHand, layer: int, vectors: Tensor) -> Tensor:
    """[…, query, key, D] through the norm of a post-norm layer, whose scale is that of the query."""
    after: Any = one.after[layer]
    if after is None:
        return vectors
    deviation = (one.total[layer].var(-1, unbiased=False) + after.eps).sqrt()
    return (vectors - vectors.mean(-1, keepdim=True)) * after.weight.detach() / deviation[:, None, None]


# ── norms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_norms_are_those_of_the_vectors_themselves(hand: ByHand) -> None:
    """Oracle: all n × n × D vectors, from the model's own values, projection and eager weights in double precision."""
    for layer in range(2):
        dense = torch.einsum("hij,hjD->hijD", hand.p[layer], hand.f[layer])
        for head in (0, 3):
            assert close(norm(hand.run, layer=layer, head=head).values, dense[head].norm(dim=-1))
        assert close(norm(hand.run, layer=layer).values, dense.norm(dim=-1).mean(0))
        assert close(norm_sum(hand.run, layer=layer).values, dense.sum(0).norm(dim=-1))
        own = torch.eye(dense.shape[1]).double()[..., None] * hand.stream[layer]
        assert close(norm_sum(hand.run, layer=layer, residual=True).values, (dense.sum(0) + own).norm(dim=-1))
        if hand.after[layer] is not None:
            both = mapped(hand, layer, dense.sum(0) + own).norm(dim=-1)
            assert close(norm_sum(hand.run, layer=layer, residual=True, norm=True).values, both)
            alone = mapped(hand, layer, dense.sum(0)).norm(dim=-1)
            assert close(norm_sum(hand.run, layer=layer, norm=True).values, alone)
    every = [torch.einsum("hij,hjD->hijD", p, f) for p, f in zip(hand.p, hand.f, strict=True)]
    assert close(norm(hand.run).values, torch.stack([one.norm(dim=-1).mean(0) for one in every]).mean(0))
    assert close(norm_sum(hand.run).values, torch.stack([one.sum(0).norm(dim=-1) for one in every]).mean(0))


def test_the_norm_of_a_sum_has_bounds_and_a_closed_form() -> None:
    """Oracle: the triangle inequality; of two heads, one s times the other, the norm is |1 + s| that of one."""
    model, inputs = make("gpt2")
    for layer, times in enumerate((-0.5, 1.0)):
        attention: Any = model.transformer.h[layer].attn
        with torch.no_grad():
            for start in (0, 32, 64):
                for what in (attention.c_attn.weight, attention.c_attn.bias[None]):
                    what[:, start + 8 : start + 16] = what[:, start : start + 8]
            attention.c_proj.weight[8:16] = times * attention.c_proj.weight[:8]
            attention.c_proj.weight[16:] = 0
    run = capture(model, inputs, keep_values=True)
    for layer, times in enumerate((0.5, 2.0)):
        assert close(norm_sum(run, layer=layer).values, times * norm(run, layer=layer, head=0).values)
    whole = capture(*make("gpt2"), keep_values=True)
    assert bool((norm_sum(whole, layer=0).values <= 4 * norm(whole, layer=0).values * (1 + 1e-5)).all())


def test_a_model_that_normalises_first_has_no_norm_behind() -> None:
    run = by_hand("gpt2").run
    with pytest.raises(ValueError, match="this model normalises before its attention"):
        norm_sum(run, norm=True)
    with pytest.raises(ValueError, match=r"norm-sum with what the token has of itself.*give it trace"):
        norm_sum(run.attention, residual=True)


# ── ALTI ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def interactions(hand: ByHand, layer: int) -> Tensor:
    """ALTI's formula on all n × n × D vectors."""
    own = torch.eye(len(hand.stream[layer])).double()[..., None] * hand.stream[layer]
    t = mapped(hand, layer, torch.einsum("hij,hjD->ijD", hand.p[layer], hand.f[layer]) + own)
    after = hand.after[layer]
    y = hand.total[layer] if after is None else after(hand.total[layer]).detach()
    c = (y.abs().sum(-1, keepdim=True) - (y[:, None] - t).abs().sum(-1)).clamp_min(0)
    seen = (hand.p[layer] != 0).any(0) | torch.eye(len(c), dtype=torch.bool)
    return c * seen / (c * seen).sum(-1, keepdim=True)


def test_alti_is_its_formula_on_dense_vectors(hand: ByHand) -> None:
    """Oracle: T_i(x_j) in full, from the model's own modules in double precision; the product without the identity."""
    first, second = interactions(hand, 0), interactions(hand, 1)
    assert close(alti(hand.run, layer=1, roll=False).values, second, 3e-5)
    assert close(alti(hand.run, layer=0).values, first, 3e-5)
    assert close(alti(hand.run, layer=1).values, second @ first, 3e-5)


def test_the_parts_of_what_attention_adds_up_make_the_whole(hand: ByHand) -> None:
    """Oracle: completeness, Σ_j T_i(x_j) + b = y_i, to 1e-5 of the largest entry; what ALTI and the norms rest on."""
    of = asked(hand.run, "alti")
    stream = follow(hand.run)
    for at, layer in of.layers:
        found = stream.sums[of.part.name, at]
        vectors = vectors_of(layer, projection_of(layer), 0, torch.arange(layer.shape[3]))
        p = layer.block(0, None, torch.arange(layer.shape[2]))[0]
        bias = getattr(hand.run.model.get_submodule(projection_of(layer).name), "bias", None)
        parts = torch.einsum("hij,hjD->iD", p, vectors) + found.residual + (0 if bias is None else bias.detach())
        assert close(parts, found.total) and close(found.total, hand.total[at])
        after = found.norm()
        if after is not None:
            y = after.mapped(parts.double()) * after.scale + after.bias
            assert close(y, hand.after[at](hand.total[at]).detach())  # type: ignore[misc]


def test_the_first_token_of_a_causal_model_is_all_its_own() -> None:
    """Oracle: it sees nothing else, in ALTI as in value zeroing, and no token sees what comes after it."""
    run = by_hand("tiny").run
    for found in (alti(run).values, value_zeroing(run).values):
        assert found[0].tolist() == [1.0] + [0.0] * (len(found) - 1)
        assert not found.triu(1).any()


# ── value zeroing ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_value_zeroing_is_surgery_on_the_model(hand: ByHand) -> None:
    """Oracle: the whole model run with the values of one token set to zero, in what makes the values of one layer."""
    model, given = hand.run.model, hand.run.given
    n, layers = len(hand.stream[0]), len(hand.blocks)
    maps = []
    for layer in (0, 1):
        module, where = hand.values[layer]
        outputs: list[Tensor] = []

        def keep(block: nn.Module, args: Any, output: Any, into: list[Tensor] = outputs) -> None:
            into.append((output if isinstance(output, Tensor) else output[0])[0].detach().double())

        with torch.no_grad():
            watch = hand.blocks[layer].register_forward_hook(keep)
            model(*given.args, **given.kwargs)
            for key in range(n):

                def zero(one: nn.Module, args: Any, made: Tensor, key: int = key, where: slice = where) -> Tensor:
                    made = made.clone()
                    made[0, key, where] = 0
                    return made

                change = module.register_forward_hook(zero)
                model(*given.args, **given.kwargs)
                change.remove()
            watch.remove()
        whole, *without = outputs
        c = torch.stack([1 - nn.functional.cosine_similarity(one, whole, dim=-1) for one in without], -1)
        c = c * (hand.p[layer] != 0).any(0)
        maps.append(c / c.sum(-1, keepdim=True))
    assert layers >= 2
    assert close(value_zeroing(hand.run, layer=0).values, maps[0], 1e-4)
    assert close(value_zeroing(hand.run, layer=1, roll=False).values, maps[1], 1e-4)
    assert close(value_zeroing(hand.run, layer=1).values, maps[1] @ maps[0], 1e-4)


def test_a_token_that_is_not_attended_to_turns_nothing() -> None:
    """Oracle: a padding mask. What nobody may read cannot matter to others."""
    model, inputs = make("bert")
    mask = torch.ones_like(inputs["input_ids"])
    mask[0, 20:] = 0
    run = trace(model, {**inputs, "attention_mask": mask}, objective=lambda out: out.last_hidden_state[0, 3, 5])
    assert not value_zeroing(run, roll=False).values[:, 20:].any()
    assert not alti(run, layer=0).values[:20, 20:].any()
    assert not norm_sum(run).values[:, 20:].any()


# ── logits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("family", ["tiny", "gpt2"])
def test_direct_logits_are_the_projected_vectors(family: str) -> None:
    """Oracle: γ/σ and the unembedding by hand, on α f(x) of the model's own modules in double precision."""
    hand = by_hand(family)
    model: Any = hand.run.model
    last = model.model.norm if family == "tiny" else model.transformer.ln_f
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda module, args: seen.append(args[0][0, -1].detach().double()))
    hand.run.run()
    hook.remove()
    h = seen[0]
    a, b = hand.run.objective.ids
    u = (model.lm_head.weight[a] - model.lm_head.weight[b]).detach().double() * last.weight.detach()
    if family == "tiny":
        w = u / (h.square().mean() + last.variance_epsilon).sqrt()
    else:
        w = (u - u.mean()) / (h.var(unbiased=False) + last.eps).sqrt()
    terms = torch.stack([p[:, -1, :, None] * f for p, f in zip(hand.p, hand.f, strict=True)]) @ w  # [layer, head, key]
    found = logit(hand.run)
    assert close(found.values[0], terms.sum((0, 1))) and close(found.per_head, terms.sum(-1))  # type: ignore[arg-type]
    assert abs(found.rest["embedding"] - float(hand.stream[0][-1] @ w)) < 1e-5 * float(terms.abs().max())


# ── models that do not add up so, and models left as they were ───────────────────────────────────────────────────────


def test_what_a_model_does_not_allow_is_said() -> None:
    gemma = trace(*make("gemma2"), objective=(7, 9))
    bart = trace(*make("bart"), objective=(7, 9))
    loss = trace(*make("gpt2"), objective="loss")
    for act, words in (
        (lambda: logit(gemma), "changed after the last linear map, by a bound, say"),
        (lambda: alti(gemma), "not added to the stream as it is: it is normalised first"),
        (lambda: logit(bart, part="decoder"), "no sum over heads: what the logits are read from is not"),
        (lambda: logit(loss), "explains a logit or the difference of two; traced was the mean cross-entropy"),
        (lambda: alti(bart, part="cross"), "different tokens"),
        (lambda: norm(capture(*make("gpt2"))), "captured without them"),
        (lambda: logit(gemma.attention), r"needs the model.*trace\(model"),
    ):
        with pytest.raises(ValueError, match=words):
            act()
    with pytest.raises(IndexError, match="no layer 2"):
        norm(loss, layer=2)


def test_weights_that_have_changed_since_are_not_used() -> None:
    model, inputs = make("gpt2")
    run = trace(model, inputs)
    with torch.no_grad():
        model.transformer.h[0].attn.c_proj.weight.mul_(2)
    for act in (norm, norm_sum, alti, logit):
        with pytest.raises(ValueError, match=r"c_proj has changed since the run: capture or trace again"):
            act(run)


def state(model: nn.Module) -> list[Any]:
    kept = [one.clone() for one in model.state_dict().values()]
    flags = [(one.requires_grad, one.grad) for one in model.parameters()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return [kept, flags, hooks, [m.training for m in model.modules()], torch.get_rng_state()]


def same(a: list[Any], b: list[Any]) -> bool:
    whole = all(torch.equal(one, other) for one, other in zip(a[0], b[0], strict=True))
    return whole and a[1:4] == b[1:4] and torch.equal(a[4], b[4])


@pytest.fixture
def stopping() -> Iterator[Callable[[nn.Module, int], None]]:
    hooks = []

    def at(module: nn.Module, run: int) -> None:
        left = [run]

        def stop(*_: Any) -> None:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        hooks.append(module.register_forward_hook(stop))

    yield at
    for one in hooks:
        one.remove()


@pytest.mark.parametrize("name", ["alti", "value-zeroing", "logit", "norm-sum"])
def test_the_model_is_left_as_it_was(name: str, stopping: Callable[[nn.Module, int], None]) -> None:
    model, tokenizer = tiny.decoder()
    model.train()
    run = trace(model, "The cat sat on the mat.", tokenizer)
    before = state(model)
    options = {"residual": True} if name == "norm-sum" else {}
    first = attribute(run, name, **options)
    assert same(before, state(model))
    # Interrupted in the middle: at the third layer's run of the whole model, or at a later run of a block.
    stopping(model.model.layers[2], 3 if name == "value-zeroing" else 1)
    watched = state(model)
    with pytest.raises(KeyboardInterrupt):
        attribute(run, name, **options)
    assert same(watched, state(model)) and not interface.opened
    model.model.layers[2]._forward_hooks.clear()
    assert torch.equal(attribute(run, name, **options).values, first.values)


def test_costs_are_said_before() -> None:
    run = by_hand("tiny").run
    for name in ("norm", "norm-sum", "alti", "value-zeroing", "logit"):
        price = cost(run, name)
        assert price.seconds < 1 and price.bytes < 2e8 and METHODS[name].source
