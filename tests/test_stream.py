"""Where the outputs of heads go, in models of many kinds: what is followed there adds up to the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnwidget import tiny, trace
from attnwidget.attribution import asked
from attnwidget.contributions import logit, vectors_of
from attnwidget.interactions import alti, value_zeroing
from attnwidget.stream import follow, projection_of
from tests.models import make


@pytest.mark.parametrize("family", ["tiny", "gpt2", "llama", "mistral", "gpt_oss", "bloom", "t5"])
@pytest.mark.parametrize("pair", [True, False])
def test_direct_logits_add_up_to_the_logit(family: str, pair: bool) -> None:
    """Oracle: completeness. Heads and what is left are the traced value, to 1e-5 of the largest term."""
    if family == "tiny":
        model, tokenizer = tiny.decoder()
        run = trace(model, "The cat sat on the mat. The cat", tokenizer, objective=(" sat", " dog") if pair else " sat")
    else:
        run = trace(*make(family), objective=(7, 9) if pair else 7)
    for part in ("decoder", "cross") if family == "t5" else ("decoder",):
        found = logit(run, part=part)
        assert found.per_head is not None and found.target == run.objective.words
        rest, terms = sum(found.rest.values()), [*found.rest.values(), *found.values.flatten().tolist()]
        largest = max(map(abs, [run.value, *terms]))
        assert abs(float(found.values.double().sum()) + rest - run.value) < 1e-5 * largest
        assert abs(float(found.per_head.nansum()) + rest - run.value) < 1e-5 * largest


def sharpened(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for one in model.parameters():
            if one.dim() > 1:
                one.normal_(0.0, 0.2, generator=generator)
    return model.eval()


@pytest.mark.parametrize("family", ["granite", "neox", "cohere"])
def test_streams_of_other_kinds(family: str) -> None:
    """Oracle: completeness, where sums and logits are scaled, and where attention and MLP stand side by side."""
    import transformers as t

    size: dict[str, Any] = {"vocab_size": 100, "num_hidden_layers": 2, "num_attention_heads": 4,
                            "intermediate_size": 32, "hidden_size": 32}  # fmt: skip
    models: dict[str, Callable[[], nn.Module]] = {
        "granite": lambda: t.GraniteForCausalLM(t.GraniteConfig(**size, residual_multiplier=0.22, logits_scaling=2.0)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**size)),
        "cohere": lambda: t.CohereForCausalLM(t.CohereConfig(**size)),
    }
    ids = torch.randint(5, 100, (1, 11), generator=torch.Generator().manual_seed(1))
    run = trace(sharpened(models[family]()), {"input_ids": ids}, objective=(7, 9))
    found = logit(run)
    largest = max(abs(run.value), *map(abs, found.rest.values()))
    assert abs(float(found.values.double().sum()) + sum(found.rest.values()) - run.value) < 1e-5 * largest
    if family == "neox":
        with pytest.raises(ValueError, match="added up with something else"):
            alti(run)


@torch.no_grad()
def _by_hand(layer: nn.TransformerEncoderLayer, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What a layer makes of [token, D]; and of it value zeroing and ALTI, each [query, key] with rows that sum to 1."""
    attend, n, first = layer.self_attn, len(x), layer.norm_first
    read = layer.norm1(x) if first else x
    q, k, v = nn.functional.linear(read, attend.in_proj_weight, attend.in_proj_bias).chunk(3, -1)
    q, k, v = (one.unflatten(-1, (attend.num_heads, -1)).transpose(0, 1) for one in (q, k, v))
    p = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)

    def out(v: Tensor) -> Tensor:
        total = x + attend.out_proj((p @ v).transpose(0, 1).reshape(n, -1))
        after = total if first else layer.norm1(total)
        fed = layer.linear2(layer.linear1(layer.norm2(after) if first else after).relu())
        return after + fed if first else layer.norm2(after + fed)

    whole = out(v)
    gone = [out(v * (torch.arange(n) != key)[:, None]) for key in range(n)]
    zeroed = torch.stack([1 - nn.functional.cosine_similarity(one, whole, dim=-1) for one in gone], -1)
    w = attend.out_proj.weight.unflatten(1, (attend.num_heads, -1))  # [D, head, d]
    t = torch.einsum("hij,hjd,Dhd->ijD", p, v, w) + torch.eye(n)[..., None] * x
    y = x + attend.out_proj((p @ v).transpose(0, 1).reshape(n, -1))
    if not first:
        scale = (y.var(-1, unbiased=False) + layer.norm1.eps).sqrt()[:, None, None]
        t, y = (t - t.mean(-1, keepdim=True)) * layer.norm1.weight / scale, layer.norm1(y)
    near = (y.abs().sum(-1, keepdim=True) - (y[:, None] - t).abs().sum(-1)).clamp_min(0)
    return whole, (zeroed / zeroed.sum(-1, keepdim=True), near / near.sum(-1, keepdim=True))


class _Staged(nn.Module):
    """The same three layers in one list, in stages of two and one, or all in the first of two loops."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0) for _ in range(3)]
        self.how = how
        self.stages = nn.ModuleList(layers if how == "flat" else [nn.ModuleList(layers[:2]), nn.ModuleList(layers[2:])])
        if how == "looped":
            self.stages = nn.ModuleList([nn.Sequential(layers[0], layers[0])])

    def forward(self, x: Tensor) -> Tensor:
        for one in self.stages:
            for layer in one if isinstance(one, nn.ModuleList) else [one]:
                x = layer(x)
        return x


def test_values_are_zeroed_in_the_blocks_of_stages_as_in_a_plain_stack() -> None:
    """Oracles: the same layers in one list; a layer of windows, and a module that runs one layer twice, are refused."""
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(1))
    flat, staged, looped = (
        trace(_Staged(how).eval(), x, objective=lambda out: out[0, 2, 3]) for how in ("flat", "staged", "looped")
    )
    for roll in (True, False):
        expected = value_zeroing(flat, roll=roll).values
        assert torch.allclose(value_zeroing(staged, roll=roll).values, expected, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match=r"stages\.0 runs once for several layers of attention"):
        value_zeroing(looped)
    swin = trace(*make("swin"), objective=lambda out: out.last_hidden_state[0, 2, 3])
    with pytest.raises(ValueError, match="puts out 64 vectors for 16 tokens"):
        value_zeroing(swin, roll=False)


def test_layers_that_share_one_module() -> None:
    """Oracle: completeness of each layer's own sum, where one module runs for all of them."""
    import transformers as t

    config = t.AlbertConfig(vocab_size=100, embedding_size=16, hidden_size=32, num_hidden_layers=2,
                            num_attention_heads=4, intermediate_size=32)  # fmt: skip
    ids = torch.randint(5, 100, (1, 11), generator=torch.Generator().manual_seed(1))
    run = trace(sharpened(t.AlbertForMaskedLM(config)), {"input_ids": ids}, objective=(7, 9))
    of, stream = asked(run, "alti"), follow(run)
    for at, layer in of.layers:
        found = stream.sums["encoder", at]
        vectors = vectors_of(layer, projection_of(layer), 0, torch.arange(11))
        p = layer.block(0, None, torch.arange(11))[0]
        bias: Any = run.model.get_submodule(projection_of(layer).name).bias
        total = torch.einsum("hij,hjD->iD", p, vectors) + found.residual + bias.detach()
        assert (total - found.total).abs().max() < 1e-5 * found.total.abs().max()
    assert not torch.equal(stream.sums["encoder", 0].total, stream.sums["encoder", 1].total)
    with pytest.raises(ValueError, match="no sum over heads"):
        logit(run)


def test_an_image_classifier_reads_its_class_token() -> None:
    """Oracle: completeness, of a model whose logits are of one token only."""
    import transformers as t

    torch.manual_seed(0)
    config = t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=32,
                         image_size=(24, 32), patch_size=8, num_labels=5)  # fmt: skip
    run = trace(t.ViTForImageClassification(config).eval(), {"pixel_values": torch.randn(1, 3, 24, 32)}, objective=2)
    found = logit(run)
    assert found.values.shape == (1, 13) and found.queries.labels == (run.attention.tokens.labels[0],)
    assert abs(float(found.values.sum()) + sum(found.rest.values()) - run.value) < 1e-5


@pytest.mark.parametrize("first", [True, False])
def test_torchs_own_encoder(first: bool) -> None:
    """Oracles: completeness of the logits where they are a sum; and each layer written anew, its values taken out."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=first, dropout=0.0)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(20, 16), nn.Linear(16, 20)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.out(self.encoder(self.embed(ids)))
            return found

    model = Model().eval()
    run = trace(model, torch.arange(6)[None], objective=(3, 4))
    x, turned, closer = model.embed(torch.arange(6)).detach(), torch.eye(6), torch.eye(6)
    for one in model.encoder.layers:
        x, own = _by_hand(one, x)  # type: ignore[arg-type]
        turned, closer = own[0] @ turned, own[1] @ closer
    assert torch.allclose(value_zeroing(run).values, turned, atol=1e-5, rtol=0)
    assert torch.allclose(alti(run).values, closer, atol=1e-5, rtol=0)
    if first:
        found = logit(run)
        assert abs(float(found.values.sum()) + sum(found.rest.values()) - run.value) < 1e-5
    else:
        with pytest.raises(ValueError, match="no sum over heads"):
            logit(run)
