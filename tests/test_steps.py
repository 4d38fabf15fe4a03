"""One head step by step, of real models: what is sent gives the model's own numbers again, whole and with parts off."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attnwidget import capture, record, steps, tiny
from attnwidget.attention import Attention
from attnwidget.blocks import Block, WireError, unpack
from attnwidget.masks import Bias, Mask
from attnwidget.rotary import Rotary, fitted, turned
from models import VOCABULARY, Bare, Handmade, _sharpen, make

GOLDEN = Path(__file__).parent / "golden"
MODEL: Any = {"scale": True, "mask": True, "positions": True, "temperature": 1, "uniform": False}


# ── what a browser does with a block, in plain torch and float64 ──────────────────────────────────────────────────────


@dataclass
class Computed:
    dot: Tensor
    score: Tensor
    p: Tensor
    z: Tensor | None
    contribution: Tensor | None


def vectors(block: Block, name: str) -> Tensor | None:
    if name not in block.arrays:
        return None
    found = torch.tensor(block.arrays[name]).double()
    step = block.arrays.get(f"{name}_step")
    return found if step is None else found * torch.tensor(step)[:, None].double()


def allowed(block: Block) -> Tensor:
    at = torch.arange(block.meta["n_k"])
    start, stop, keep = (torch.tensor(block.arrays[name]) for name in ("start", "stop", "keep"))
    found = (at >= start[:, None]) & (at < stop[:, None]) & keep.bool()
    if "bits" in block.arrays:
        bits = np.unpackbits(block.arrays["bits"], axis=1, bitorder="little", count=block.meta["n_k"])
        found &= torch.tensor(bits).bool()
    return found


def compute(block: Block, **switches: Any) -> Computed:
    """All queries of a head, from the definitions of the switches."""
    on, meta = MODEL | switches, block.meta
    stored = vectors(block, "weights")
    seen = allowed(block)
    if stored is not None:
        dot = stored.log()
        score = dot / on["temperature"]
    else:
        turned_back = not on["positions"] and meta["positions"] == "rotary"
        q, k = (vectors(block, f"{name}_plain" if turned_back else name) for name in "qk")
        assert q is not None
        assert k is not None
        dot = q @ k.T
        score = dot * meta["scale"] if on["scale"] else dot
        if meta["softcap"]:
            score = meta["softcap"] * torch.tanh(score / meta["softcap"])
        bias = vectors(block, "bias")
        if bias is not None and (on["positions"] or not meta["bias_positional"]):
            if bias.dim() == 1:
                n_q, n_k = score.shape
                bias = bias[torch.arange(n_k) - torch.arange(n_q)[:, None] + n_q - 1]
            score = score + bias
        score = score / on["temperature"]
        if not on["mask"]:
            seen = torch.tensor(block.arrays["keep"]).bool() & seen.any(1, keepdim=True)
    score = score.masked_fill(~seen, -torch.inf)
    terms = score.exp()
    total = terms.sum(1, keepdim=True)
    if "sink" in block.arrays:
        total = total + (torch.tensor(block.arrays["sink"]).double() / on["temperature"]).exp()[:, None]
    p = terms / total.masked_fill(total == 0, 1.0)
    if on["uniform"]:
        p = seen / seen.sum(1, keepdim=True).clamp_min(1)
    v, o = vectors(block, "v"), vectors(block, "o")
    z = None if v is None else p.double() @ v
    return Computed(dot, score, p.double(), z, None if z is None or o is None else z @ o.T)


def of(attention: Attention, part: str, layer: int, head: int, exact: bool = True) -> Block:
    return unpack(steps.block(attention, part, layer, head, exact))


# ── the golden files ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("steps-*.bin")))
def test_a_golden_block_gives_what_its_sidecar_says(name: str) -> None:
    """Oracle: golden/make.py, in numpy and float64, from the numbers before they were packed."""
    block = unpack((GOLDEN / f"{name}.bin").read_bytes())
    beside = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))["steps"]
    assert block.kind == "steps"
    for case in beside["cases"]:
        found, i = compute(block, **case["switches"]), case["query"]
        rows = {"dot": found.dot[i], "score": found.score[i], "weight": found.p[i]}
        assert ("z" in case, "contribution" in case) == (found.z is not None, found.contribution is not None)
        if found.z is not None:
            rows["z"] = found.z[i]
        if found.contribution is not None:
            rows["contribution"] = found.contribution[i]
        for what, row in rows.items():
            wanted = torch.tensor([-math.inf if one is None else one for one in case[what]]).double()
            if what == "weight":
                wanted[wanted == -math.inf] = 0.0
            there = wanted != -math.inf
            assert torch.equal(there, row != -torch.inf), (case["switches"], what)
            size = max(1.0, float(wanted[there].abs().max())) if bool(there.any()) else 1.0
            assert float((row - wanted)[there].abs().max() if there.any() else 0) <= beside["tolerance"] * size, what
        share = rows["weight"][rows["weight"] > 0] / rows["weight"].sum()
        assert float(-(share * share.log()).sum()) == pytest.approx(case["entropy"], abs=beside["tolerance"] * 3)


# ── real models ───────────────────────────────────────────────────────────────────────────────────────────────────────


def more(family: str) -> tuple[nn.Module, dict[str, Any]]:
    """Ways of knowing positions that tests/models.py has no need of."""
    import transformers as t

    size: dict[str, Any] = {
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "hidden_size": 32,
        "vocab_size": VOCABULARY,
    }  # fmt: skip
    short = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = torch.randint(5, VOCABULARY, (1, 23), generator=torch.Generator().manual_seed(1))
    table: dict[str, Callable[[], nn.Module]] = {
        "gpt_neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**size, rotary_pct=0.5)),
        "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**size, num_key_value_heads=2, eos_token_id=1)),
        "gptj": lambda: t.GPTJForCausalLM(
            t.GPTJConfig(
                vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, bos_token_id=0, eos_token_id=1
            )
        ),
        "falcon": lambda: t.FalconForCausalLM(t.FalconConfig(**short, alibi=True)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**size, num_key_value_heads=2, head_dim=8)),
    }
    torch.manual_seed(0)
    return _sharpen(table[family](), 0.35), {"input_ids": ids}


def model_of(family: str) -> tuple[nn.Module, Any]:
    x = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    if family == "torch":
        torch.manual_seed(0)
        return nn.MultiheadAttention(16, 4, batch_first=True).eval(), (x, x, x)
    if family == "torch, seq first":
        torch.manual_seed(0)
        return nn.MultiheadAttention(16, 4).eval(), (x, x, x)
    if family == "handmade":
        torch.manual_seed(0)
        return Handmade().eval(), (x,)
    try:
        return make(family)
    except KeyError:
        return more(family)


@contextmanager
def heard(modules: Sequence[tuple[str, nn.Module]]) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Argument and result of these modules, each time they run."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    hooks = [
        one.register_forward_hook(
            lambda _, given, out, name=name: found.setdefault(name, []).append((given[0] if given else None, out))
        )
        for name, one in modules
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


# family → the name of the output projection, and what becomes of "positions off"
FAMILIES: dict[str, tuple[str, str | None]] = {
    "gpt2": ("c_proj", None),
    "bert": ("attention.output.dense", None),
    "llama": ("o_proj", "rotary"),
    "qwen3": ("o_proj", "rotary"),
    "t5": (".o", "bias"),
    "bart": ("out_proj", None),
    "bloom": ("self_attention.dense", None),
    "falcon": ("self_attention.dense", "bias"),
    "gemma2": ("o_proj", "rotary"),
    "gpt_neox": ("attention.dense", "rotary"),
    "cohere": ("o_proj", "rotary"),
    "gptj": ("out_proj", None),
    "gpt_oss": ("o_proj", "rotary"),
    "vit": ("o_proj", None),
    "torch": ("out_proj", None),
    "torch, seq first": ("out_proj", None),
    "handmade": ("out", None),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_heads_of_a_layer_add_up_to_what_its_attention_adds(family: str) -> None:
    """Oracle: what the model's own projection was given and what it made of it, from hooks on that module."""
    model, inputs = model_of(family)
    plain = capture(model, inputs, keep_values=True, progress=False)
    names = {one.output.name for part in plain.parts for one in plain.part(part).layers if one.output}
    modules = [(name, model.get_submodule(name)) for name in names]
    with heard(modules) as found:
        attention = capture(model, inputs, keep_values=True, progress=False)
    for name in attention.parts:
        part = attention.part(name)
        for index, layer in enumerate(part.layers):
            blocks = [of(attention, name, index, head) for head in range(layer.heads)]
            assert {one.meta["output_why"] for one in blocks} == {None}
            projection = blocks[0].meta["output"]
            assert projection.endswith(FAMILIES[family][0])
            computed = [compute(one) for one in blocks]
            weight_of = dict(modules)[projection]
            bias = getattr(weight_of, "bias", None)
            total = sum(one.contribution for one in computed)  # type: ignore[misc]
            z = torch.cat([one.z for one in computed if one.z is not None], 1)
            if projection in found:
                given, made = found[projection][0]
                given, made = (one.reshape(-1, one.shape[-1])[: len(z)] for one in (given, made))
                close(z, given)
                made = made - (0 if bias is None or family == "falcon" else bias)
            else:  # nn.MultiheadAttention reads the weight of its projection itself
                with torch.no_grad():
                    out, p = model(*inputs, average_attn_weights=False)
                made = (out[:, 0] if family.endswith("first") else out[0]) - bias
                close(torch.stack([one.p for one in computed]), p[0])
            close(total, made)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    theirs = theirs.detach().double()
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= tolerance * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("family", [name for name in FAMILIES if FAMILIES[name][1] == "rotary"])
def test_vectors_that_are_turned_back_are_those_the_model_projected(family: str) -> None:
    """Oracle: hooks on the modules that make queries and keys: q_proj and k_proj, their norms, or one for all three."""
    model, inputs = model_of(family)
    norms = [one for one in model.named_modules() if one[0].endswith(("q_norm", "k_norm"))]
    projections = [one for one in model.named_modules() if one[0].endswith(("q_proj", "k_proj"))]
    fused = [one for one in model.named_modules() if one[0].endswith("query_key_value")]
    with heard(norms or projections or fused) as found:
        attention = capture(model, inputs, keep_values=True, progress=False)
    for index, layer in enumerate(attention.part().layers):
        for head in range(layer.heads):
            block = of(attention, "decoder", index, head)
            assert (block.meta["positions"], block.meta["positions_why"]) == ("rotary", None)
            d, kv_head = block.meta["d"], block.meta["kv_head"]
            for at, (what, which) in enumerate((("q", head), ("k", kv_head))):
                (theirs,) = (
                    out for name, [(_, out)] in found.items() if of_layer(name, index) and kind(name) in (what, "f")
                )
                if fused:  # [head, q k v, d]
                    theirs = theirs.reshape(theirs.shape[1], layer.heads, 3, d)[:, head, at]
                else:
                    theirs = theirs.reshape(theirs.shape[1], -1, d)[:, which]
                ours = vectors(block, f"{what}_plain")
                assert ours is not None
                # YaRN's factor is in the cosines and stays: it is no turning.
                close(ours, theirs * getattr(model.get_submodule("").base_model.rotary_emb, "attention_scaling", 1.0))
                turned_ones = vectors(block, what)
                assert turned_ones is not None
                assert float((turned_ones - ours).abs().max()) > 0.1, "they must differ, or nothing is tested"


def of_layer(name: str, index: int) -> bool:
    return f".{index}." in name


def kind(name: str) -> str:
    last = name.rpartition(".")[2]
    return "f" if last == "query_key_value" else last[0]


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "cohere", "gpt_oss"])
def test_positions_off_is_what_a_model_computes_in_which_all_stands_at_position_0(family: str) -> None:
    """Oracle: the same model run with position_ids that are all 0; its first layer reads the same vectors."""
    model, inputs = model_of(family)
    attention = capture(model, inputs, keep_values=True, progress=False)
    still = torch.zeros_like(inputs["input_ids"])
    oracle = capture(model, {**inputs, "position_ids": still}, keep_values=True, progress=False)
    for head in range(4):
        ours = compute(of(attention, "decoder", 0, head), positions=False)
        close(ours.p, oracle["decoder", 0, head].weights())
        assert float((ours.p - attention["decoder", 0, head].weights()).abs().max()) > 0.01


@pytest.mark.parametrize("family", ["llama", "bert", "gemma2", "t5", "gpt_oss", "falcon"])
def test_switches_do_what_a_model_without_that_part_computes(family: str) -> None:
    """Oracle: softmax over Q and K of the capture, written out here in plain torch."""
    model, inputs = model_of(family)
    attention = capture(model, inputs, keep_values=True, progress=False)
    part = attention.parts[0]
    layer = attention.part(part).layers[1]
    head = 2
    block = of(attention, part, 1, head)
    assert layer.q is not None
    assert layer.k is not None
    q = layer.q[0, head].double()
    k = layer.k[0, head * layer.kv_heads // layer.heads].double()
    n_q, n_k = len(q), len(k)
    seen = torch.ones(n_q, n_k).tril().bool() if part == "decoder" else torch.ones(n_q, n_k).bool()
    if family in ("gemma2", "gpt_oss") and layer.mask.window:
        seen &= torch.ones(n_q, n_k).triu(1 - layer.mask.window).bool()
    bias = torch.zeros(n_q, n_k).double()
    if layer.bias is not None:
        bias = layer.bias.block(0, torch.arange(n_q), n_k, head).double()
    sink = None if layer.sink is None else float(layer.sink[0, head, 0])

    def softmax(score: Tensor, where: Tensor, temperature: float = 1.0) -> Tensor:
        score = score.masked_fill(~where, -math.inf)
        if sink is not None:
            score = torch.cat([score, torch.full((n_q, 1), sink).double()], 1)
        return (score / temperature).softmax(1)[:, :n_k]

    def capped(score: Tensor) -> Tensor:
        return score if layer.softcap is None else layer.softcap * torch.tanh(score / layer.softcap)

    scaled = capped(q @ k.T * layer.scale) + bias
    close(compute(block).p, softmax(scaled, seen))
    close(compute(block, scale=False).p, softmax(capped(q @ k.T) + bias, seen))
    close(compute(block, mask=False).p, softmax(scaled, torch.ones_like(seen)))
    close(compute(block, temperature=0.4).p, softmax(scaled, seen, 0.4))
    close(compute(block, uniform=True).p, seen / seen.sum(1, keepdim=True))
    close(compute(block, uniform=True, mask=False).p, torch.full((n_q, n_k), 1 / n_k))
    if block.meta["positions"] == "bias":
        close(compute(block, positions=False).p, softmax(capped(q @ k.T * layer.scale), seen))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_positions_do_is_found_or_said_in_words(family: str) -> None:
    model, inputs = model_of(family)
    attention = capture(model, inputs, keep_values=True, progress=False)
    for name in attention.parts:
        meta = of(attention, name, 1 if len(attention.part(name).layers) > 1 else 0, 0).meta
        wanted = None if name == "cross" else FAMILIES[family][1]
        assert meta["positions"] == wanted
        assert (meta["positions_why"] is None) == (wanted is not None)
    if family in ("gpt2", "bert", "bart", "vit"):
        assert "adds positions to its vectors before the first layer" in meta["positions_why"]


def test_stored_weights_are_sent_as_they_are() -> None:
    """Oracle: the map itself; at temperature 2 the square root of it, each row divided by its sum."""
    model, inputs = model_of("bloom")
    attention = capture(model, inputs, keep_values=True, progress=False)
    block = of(attention, "decoder", 1, 3)
    p = attention[1, 3].weights().double()
    assert block.meta["stored"]
    assert block.meta["d"] is None
    close(compute(block).p, p)
    close(compute(block, temperature=2).p, p.sqrt() / p.sqrt().sum(1, keepdim=True))


def test_rows_of_stored_weights_that_leak_stay_leaking() -> None:
    weights = torch.rand(1, 1, 6, 6).softmax(-1) * torch.linspace(0.3, 1, 6)[:, None]
    attention = Attention.from_weights(weights)
    close(compute(of(attention, "attention", 0, 0)).p, weights[0, 0])


# ── what is left out is said ──────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_not_kept_is_said_in_words() -> None:
    model, tokenizer = tiny.decoder()
    meta = of(capture(model, "The cat saw the dog.", tokenizer), "decoder", 0, 0).meta
    assert "keep_values=True" in meta["missing"]
    assert meta["d_v"] is None
    assert meta["output_why"] is None
    brought = of(Attention.from_qk(torch.randn(4, 8), torch.randn(4, 8)), "attention", 0, 0).meta
    assert brought["output"] is brought["positions"] is brought["model_width"] is None
    assert "did not come from the run of a model" in brought["output_why"]
    assert "did not come from the run of a model" in brought["positions_why"]


@pytest.mark.parametrize("how", ["in place", "behind torch's back", "not at all"])
def test_a_weight_that_has_changed_since_is_left_out(how: str) -> None:
    model, inputs = model_of("llama")
    attention = capture(model, inputs, keep_values=True, progress=False)
    weight = model.get_submodule("model.layers.1.self_attn.o_proj").weight
    assert isinstance(weight, nn.Parameter)
    if how == "in place":
        with torch.no_grad():
            weight[0, 0] += 1e-3
    elif how == "behind torch's back":
        weight.data.mul_(1.01)
    else:
        model.to(torch.device("cpu")).zero_grad()
    meta = of(attention, "decoder", 1, 0).meta
    assert (meta["output"] is None) == (how != "not at all")
    if how != "not at all":
        assert "has changed since this was captured" in meta["output_why"]
    assert of(attention, "decoder", 0, 0).meta["output"] is not None


def test_a_weight_whose_memory_is_gone_is_left_out() -> None:
    model, inputs = model_of("llama")
    attention = capture(model, inputs, keep_values=True, progress=False)
    model.get_submodule("model.layers.1.self_attn.o_proj").weight.untyped_storage().resize_(0)  # type: ignore[union-attr]
    assert "has changed since this was captured" in of(attention, "decoder", 1, 0).meta["output_why"]
    assert of(attention, "decoder", 0, 0).meta["output"] is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_knows_the_projection_and_needs_no_model(copied: Any) -> None:
    model, inputs = model_of("llama")
    with torch.no_grad():
        model.get_submodule("model.layers.0.self_attn.o_proj").weight.mul_(1.0)  # as loading does: written to
    attention = capture(model, inputs, keep_values=True, progress=False)
    before = {layer: of(attention, "decoder", layer, 1) for layer in (0, 1)}
    other = copied(attention)
    with torch.no_grad():
        model.get_submodule("model.layers.1.self_attn.o_proj").weight.add_(1.0)
    for layer, block in before.items():
        found = of(other, "decoder", layer, 1)
        assert found.meta == block.meta
        np.testing.assert_array_equal(found.arrays["o"], block.arrays["o"])
    assert "has changed" in of(copied(attention), "decoder", 1, 1).meta["output_why"], "a copy of what has changed"


def test_a_weight_that_changes_between_two_runs_is_that_of_each() -> None:
    model, inputs = model_of("llama")
    with record(model, keep_values=True) as rec, torch.no_grad():
        model(**inputs)
        model.get_submodule("model.layers.1.self_attn.o_proj").weight.mul_(2)
        model(**inputs)
    first, second = rec.attentions
    assert of(first, "decoder", 1, 0).meta["output"] is None
    assert of(second, "decoder", 1, 0).meta["output"] is not None
    assert of(second, "decoder", 0, 0).meta["output"] is not None


class Adapted(nn.Module):
    """A projection with an adapter of low rank beside it, as peft makes it."""

    def __init__(self, inside: nn.Linear) -> None:
        super().__init__()
        self.inside = inside
        self.down, self.up = nn.Linear(inside.in_features, 2), nn.Linear(2, inside.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x) + self.up(self.down(x))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.gate, self.out = Bare(), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x) * torch.sigmoid(self.gate(x)))


class Separate(nn.Module):
    """Heads that are modules of their own, as a lecture writes them."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(16, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(
                self.q(x)[:, None], self.k(x)[:, None], self.v(x)[:, None], is_causal=True
            )[:, 0]

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(self.Head() for _ in range(4))
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([head(x) for head in self.heads], -1))


class Bilinear(nn.Module):
    """A projection that is a bare matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.w = Bare(), nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x) @ self.w


def test_no_projection_is_shown_where_another_has_a_say() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 7, 16)
    adapted = Handmade()
    adapted.out = Adapted(adapted.out)  # type: ignore[assignment]
    assert "an adapter beside it" in of(capture(adapted, x), "decoder", 0, 0).meta["output_why"]
    assert "gated, normalised or mixed" in of(capture(Gated(), x), "decoder", 0, 0).meta["output_why"]


@pytest.mark.parametrize("kind", [Separate, Bilinear])
def test_other_ways_of_writing_a_projection(kind: type[nn.Module]) -> None:
    """Oracle: the module's own output."""
    torch.manual_seed(0)
    model, x = kind(), torch.randn(1, 7, 16)
    attention = capture(model, x, keep_values=True)
    total = sum(compute(of(attention, attention.parts[0], 0, head)).contribution for head in range(4))  # type: ignore[misc]
    bias = model.out.bias if isinstance(model, Separate) else 0
    assert isinstance(total, Tensor)
    close(total, model(x)[0] - bias)


class Shared(nn.Module):
    """Layers that share the module that attends, and have a projection each."""

    class Layer(nn.Module):
        def __init__(self, attention: nn.Module) -> None:
            super().__init__()
            self.attention, self.out = attention, nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.attention(x))

    def __init__(self) -> None:
        super().__init__()
        attention = Bare()
        self.layers = nn.ModuleList(self.Layer(attention) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def test_layers_that_share_their_attention_have_a_projection_each() -> None:
    torch.manual_seed(0)
    model, x = Shared(), torch.randn(1, 7, 16)
    with record(model, keep_values=True) as rec, torch.no_grad():
        model(x)
        model(x)
    for attention in rec.attentions:
        names = [layer.output and layer.output.name for layer in attention.part().layers]
        assert names == ["layers.0.out", "layers.1.out"]


def test_a_model_that_runs_in_less_than_its_weights_have() -> None:
    model, inputs = model_of("llama")
    with torch.autocast("cpu", torch.bfloat16):
        attention = capture(model, inputs, keep_values=True, progress=False)
    meta = of(attention, "decoder", 1, 0).meta
    assert meta["output_why"] is None
    assert meta["positions"] == "rotary"


# ── batches, caches, precision ────────────────────────────────────────────────────────────────────────────────────────


def test_each_text_of_a_padded_batch_has_its_own_numbers() -> None:
    """Oracle: the text captured by itself."""
    model, inputs = model_of("llama")
    ids = inputs["input_ids"]
    short = torch.cat([torch.zeros(1, 6, dtype=torch.long), ids[:, :17]], 1)
    keep = (torch.arange(23) >= 6).long()
    batch = {"input_ids": torch.cat([ids, short]), "attention_mask": torch.stack([torch.ones(23).long(), keep])}
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    attention = capture(model, batch, keep_values=True, progress=False).select(1)
    alone = capture(model, {"input_ids": ids[:, :17]}, keep_values=True, progress=False)
    for head in range(4):
        ours, theirs = (of(one, "decoder", 1, head) for one in (attention, alone))
        for switches in ({}, {"positions": False}, {"mask": False, "temperature": 2}):
            a, b = compute(ours, **switches), compute(theirs, **switches)
            close(a.p[6:, 6:], b.p)
            assert a.contribution is not None
            assert b.contribution is not None
            close(a.contribution[6:], b.contribution)
            assert not bool(a.p[:, :6].any())
            assert not bool(a.p[:6].any()), "rows of padding see nothing, whatever is switched"


def test_steps_of_a_generation_have_no_positions_to_take_away() -> None:
    """Keys out of a cache were turned when they were new; the last step knows how its own were, and no others."""
    model, tokenizer = tiny.decoder()
    with record(model, tokenizer, keep_values=True) as rec, torch.no_grad():
        model.generate(**tokenizer("The cat saw", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    for one in rec.attentions[1:]:
        meta = of(one, "decoder", 0, 0).meta
        assert meta["positions"] is None
        assert "came out of a cache" in meta["positions_why"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_believed_to_its_rounding(dtype: torch.dtype) -> None:
    model, inputs = model_of("llama")
    attention = capture(model.to(dtype), inputs, keep_values=True, progress=False)
    meta = of(attention, "decoder", 1, 3).meta
    assert meta["positions"] == "rotary"
    assert meta["output"] == "model.layers.1.self_attn.o_proj"


def test_training_and_gradients_are_left_alone() -> None:
    model, inputs = model_of("llama")
    other = copy.deepcopy(model)
    model.train()
    other.train()
    with record(model, keep_values=True):
        model(**inputs).logits.sum().backward()
    other(**inputs).logits.sum().backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


# ── large ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_long_vectors_are_sent_in_16_bits_unless_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = model_of("llama")
    attention = capture(model, inputs, keep_values=True, progress=False)
    monkeypatch.setattr(steps, "_MOST_EXACT", 0)
    monkeypatch.setattr(steps, "_MOST_OUTPUT", 0)
    near, exact = (of(attention, "decoder", 1, 2, exact=which) for which in (False, True))
    assert (near.meta["exact"], exact.meta["exact"]) == (False, True)
    assert {near.arrays[name].dtype.name for name in ("q", "k", "v", "q_plain", "k_plain", "o")} == {"int16"}
    assert "q_step" not in exact.arrays
    for switches in ({}, {"positions": False}):
        a, b = compute(near, **switches), compute(exact, **switches)
        close(a.p, b.p, 1e-3)
        assert a.contribution is not None
        assert b.contribution is not None
        close(a.contribution, b.contribution, 1e-3)


def test_numbers_that_16_bits_would_spoil_are_sent_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_MOST_EXACT", 0)
    generator = torch.Generator().manual_seed(0)
    q, k, bias = torch.randn(3, 1, 8, 8, generator=generator)
    bias[0, 2, 5] = -1e9  # somebody's mask, in the row of numbers that matter
    q[0, 3, 1] = math.nan
    block = of(Attention.from_qk(q, k, bias=bias), "attention", 0, 0, exact=False)
    np.testing.assert_array_equal(block.arrays["bias"], bias[0])
    np.testing.assert_array_equal(block.arrays["q"], q[0])
    assert block.arrays["k"].dtype == np.int16


def test_what_is_too_much_for_a_browser_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_MOST_CELLS", 30)
    with pytest.raises(WireError, match="no form shorter than 6 × 6 numbers"):
        steps.block(Attention.from_weights(torch.eye(6)), "attention", 0, 0)


def test_there_is_no_such_head() -> None:
    attention = Attention.from_weights(torch.eye(6))
    with pytest.raises(IndexError):
        steps.block(attention, "attention", 0, 1)
    with pytest.raises(KeyError):
        steps.block(attention, "decoder", 0, 0)


# ── the parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_rotation_is_found_and_undone(pairs: Any, first: int, factor: float) -> None:
    """Oracle: pairs as complex numbers, times e^iθ."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 9, 12, generator=generator)
    angles = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01])
    inside = x[..., first : first + 8]
    a, b = (inside[..., :4], inside[..., 4:]) if pairs == "halves" else (inside[..., ::2], inside[..., 1::2])
    z = torch.complex(a, b) * torch.exp(1j * angles) * factor
    both = (z.real, z.imag)
    y = x.clone()
    y[..., first : first + 8] = torch.cat(both, -1) if pairs == "halves" else torch.stack(both, -1).flatten(-2)
    cos, sin = (one * factor for one in (angles.cos(), angles.sin()))
    spread = [torch.cat([one, one], -1) if pairs == "halves" else one.repeat_interleave(2, -1) for one in (cos, sin)]
    noted = [turned(inside[None], one) for one in spread]
    found = fitted([one for one in noted if one is not None], y)
    assert isinstance(found, Rotary)
    assert (found.pairs, found.first, found.width) == (pairs, first, 8)
    wanted = x.clone()
    wanted[..., first : first + 8] *= factor
    close(found.undone(y[1]).double(), wanted[1], 1e-6)


def test_a_rotation_that_explains_nothing_is_not_believed() -> None:
    x, y = torch.randn(2, 3, 9, 8)
    angles = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.01]).repeat(2)
    noted = [turned(x[None], one) for one in (angles.cos(), angles.sin())]
    assert fitted([one for one in noted if one is not None], y) is None
    assert fitted([], y) is None


def test_which_bias_is_of_positions() -> None:
    n = 12
    far = torch.arange(n) - torch.arange(n)[:, None]
    every, lower = torch.ones(n, n).bool(), torch.ones(n, n).tril().bool()
    generator = torch.Generator().manual_seed(0)

    def dense(numbers: Tensor) -> Bias:
        return Bias(dense=numbers.float()[None, None])

    keys = 0.25 * torch.arange(n).expand(n, n)
    assert dense(keys).of_positions(every), "ALiBi as BLOOM has it: of the key alone"
    assert dense(keys.masked_fill(~lower, 0)).of_positions(lower)
    assert not dense(torch.randn(n, n, generator=generator)).of_positions(every)
    assert not dense(torch.randn(n, generator=generator).expand(n, n)).of_positions(every)
    relative = torch.randn(2 * n, generator=generator)[far + n]
    assert dense(relative + torch.randn(n, 1, generator=generator)).of_positions(every)
    y, x = torch.arange(n) // 4, torch.arange(n) % 4
    table = torch.randn(9, 9, generator=generator)
    image = table[y[:, None] - y + 4, x[:, None] - x + 4]
    assert not dense(image).of_positions(every)
    assert dense(image).of_positions(every, (3, 4))
    assert not dense(image).of_positions(every, (4, 3))


def test_one_head_of_a_layer_is_that_head() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 7, 8, generator=generator), torch.randn(1, 2, 7, 8, generator=generator)
    bias, mask = torch.randn(4, 7, 7, generator=generator), torch.rand(4, 7, 7, generator=generator) < 0.6
    whole = Attention.from_qk(q, k, bias=bias, mask=mask, sink=[0.0, 1.0, 2.0, 3.0], softcap=2.0)
    for head in range(4):
        one = whole.part().layers[0].of_head(0, head)
        close(one.block(0, 0, torch.arange(7))[0].double(), whole[0, head].weights(), 1e-6)
        computed = compute(of(whole, "attention", 0, head))
        close(computed.p, whole[0, head].weights(), 1e-6)


def test_a_mask_in_arrays_says_all_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    scattered = Mask.of(torch.rand(1, 1, 5, 11, generator=generator) < 0.5)
    for mask in (Mask.full(5, 11), Mask.causal(11, 11, 4), scattered):
        n_q, n_k = mask.start.shape[1], mask.keep.shape[1]
        arrays = {name: one.numpy() for name, one in mask.arrays().items()}
        block = Block("steps", {"n_q": n_q, "n_k": n_k}, arrays)
        assert torch.equal(allowed(block), mask.allowed(0, torch.arange(n_q), 0))
