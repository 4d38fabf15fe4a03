"""The file of an attention: it comes back as it was, opens without torch, and is refused in words where it is none."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from attnwidget import Attention, capture, compare, load, provenance, steps, stored, tiny, to_html, trace, wire
from attnwidget.archive import StoredError, opened
from attnwidget.blocks import Block, unpack
from attnwidget.generation import capture_generation
from attnwidget.layers import Layer, Part
from attnwidget.masks import Bias, Mask
from attnwidget.thin import Stored
from attnwidget.tokens import Tokens
from models import make
from test_measures import minilm
from test_wire import cells_of

ROUNDING = 1e-5  # of weights in float32, where scores are 40 or so
FAMILIES = ["gpt2", "bert", "llama", "mistral", "gemma2", "gpt_oss", "t5", "bart", "vit", "swin", "bloom"]


def without_torch(path: Path) -> Stored:
    """What :func:`load` returns where torch is not installed, made here to be compared."""
    metadata, arrays = opened(path)
    found = stored._read(stored._said(metadata), arrays, stored._of_numpy(), path)
    assert isinstance(found, Stored)
    return found


def family(name: str) -> Attention:
    model, inputs = make(name)
    return capture(model, inputs, keep_values=True, progress=False)


def by_hand(kind: str) -> Attention:
    """Configurations that no small model has."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, heads, 17, 8, generator=generator) for heads in (6, 2, 2))
    dense = torch.rand(6, 17, 17, generator=generator) < 0.7
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "a mask of each head's own": {"mask": dense},
        "a dense bias": {"bias": torch.randn(6, 17, 17, generator=generator)},
        "a sink": {"sink": torch.randn(6, generator=generator), "causal": True, "softcap": 2.0},
        "offsets": {"bias": -0.1 * (torch.arange(17) - torch.arange(17)[:, None]).abs().float(), "causal": True},
    }
    if kind in options:
        return Attention.from_qk(q, k, [f"<{i}>" for i in range(17)], v=v, **options[kind])
    weights = torch.rand(3, 2, 4, 9, 12, generator=generator).softmax(-1)
    if kind == "float64":
        return Attention.from_weights(weights.double())
    if kind == "NaN":
        return Attention.from_weights(
            weights.index_fill(3, torch.tensor([2]), torch.nan), tokens=([*"queryaxis"], [*"thekeyaxisis"])
        )
    if kind == "half":
        layers = tuple(
            Layer(f"l{i}", Mask.causal(17, 17, 5), q=q[i : i + 1].to(dtype), k=k[i : i + 1].to(dtype), scale=0.3)
            for i, dtype in enumerate((torch.bfloat16, torch.float16))
        )
        return Attention([Part("half", layers, Tokens.positions(17), Tokens.positions(17))])
    assert kind == "padding"
    keep = torch.ones(2, 17, dtype=torch.bool)
    keep[1, 11:] = False
    mask = Mask.causal(17, 17) & Mask(torch.zeros(1, 17).int(), torch.full((1, 17), 17).int(), keep)
    mask = mask.without(keep)
    bias = Bias(dense=torch.randn(1, 1, 17, 17, generator=generator))
    layer = Layer("l", mask, q=q, k=k, v=v, bias=bias, scale=0.4)
    gap = Layer.gap("mlp", "no attention here", 17, 17)
    axes = tuple((one, one) for one in (Tokens.positions(17), Tokens.named("abcdefghijklmnopq")))
    return Attention([Part("two texts", (layer, gap, layer), *axes[0], axes=axes)], noun="text")


BY_HAND = [
    "plain",
    "a mask of each head's own",
    "a dense bias",
    "a sink",
    "offsets",
    "float64",
    "NaN",
    "half",
    "padding",
]


def heads_of(attention: Any) -> list[tuple[str, int, int]]:
    parts = [attention.part(name) for name in attention.parts]
    return [(p.name, at, head) for p in parts for at, one in enumerate(p.layers) for head in range(one.heads)]


def agrees(attention: Attention, path: Path) -> None:
    """What is loaded with torch is what was saved, to the bit; without torch it is that within rounding of float32."""
    again, thin = load(path), without_torch(path)
    assert isinstance(again, Attention)
    assert (again.model, again.check, again.notes, again.noun) == (
        attention.model, attention.check, attention.notes, attention.noun,
    )  # fmt: skip
    assert again.sample == thin.sample == attention.sample
    assert again.samples == thin.samples == attention.samples
    for sample in range(attention.samples):
        saved, found, plain = (one.select(sample) for one in (attention, again, thin))
        for name in saved.parts:
            for one in (found, plain):
                assert one.part(name).queries == saved.part(name).queries
                assert one.part(name).keys == saved.part(name).keys
                assert [x.absent for x in one.part(name).layers] == [x.absent for x in saved.part(name).layers]
        for at in heads_of(saved):
            weights = saved[at].weights()
            assert torch.equal(found[at].weights().nan_to_num(-1.0), weights.nan_to_num(-1.0))
            np.testing.assert_allclose(plain[at].weights(), weights.numpy(), atol=ROUNDING)
    assert wire.bundle(again, budget=3_000_000) == wire.bundle(attention, budget=3_000_000)
    same_bundle(unpack(wire.bundle(thin, budget=3_000_000)), unpack(wire.bundle(attention, budget=3_000_000)))


def same_bundle(found: Block, wanted: Block) -> None:
    """What numpy makes is what torch makes: words as they are, thumbnails to one step of their codes, maps to 1e-3."""
    ours, theirs = ({**one.meta, "parts": None} for one in (found, wanted))
    assert ours == theirs
    for part, other in zip(found.meta["parts"], wanted.meta["parts"], strict=True):
        assert {**part, "measures": None} == {**other, "measures": None}
        assert [one["name"] for one in part["measures"]] == [one["name"] for one in other["measures"]]
        for one, another in zip(part["measures"], other["measures"], strict=True):
            ours, theirs = (np.array(measure["values"], float) for measure in (one, another))
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert found.arrays.keys() == wanted.arrays.keys()
    for name in wanted.arrays:
        a, b = unpack(found.arrays[name].tobytes()), unpack(wanted.arrays[name].tobytes())
        if name.startswith("thumbs/"):
            assert abs(a.meta["vmax"] - b.meta["vmax"]) <= 1e-5
            for key in b.arrays:
                assert np.abs(a.arrays[key].astype(float) - b.arrays[key].astype(float)).max() <= 1, f"{name} {key}"
        elif name.startswith("map/"):
            np.testing.assert_allclose(cells_of(a), cells_of(b), atol=1e-3)
        elif name.startswith("sample/"):
            same_bundle(a, b)


# ── it comes back ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_model_attended_to_comes_back(name: str, tmp_path: Path) -> None:
    """Oracle: the attention that was saved."""
    attention = family(name)
    agrees(attention, attention.save(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("kind", BY_HAND)
def test_whatever_an_attention_holds_comes_back(kind: str, tmp_path: Path) -> None:
    """Oracle: the attention that was saved."""
    attention = by_hand(kind)
    agrees(attention.select(attention.samples - 1), attention.select(attention.samples - 1).save(tmp_path / "a"))


def test_a_batch_a_text_that_was_written_and_bert_come_back(tmp_path: Path) -> None:
    """Oracle: the attention that was saved."""
    model, tokenizer = tiny.decoder()
    batch = capture(model, ["The cat saw the dog.", "The cat"], tokenizer, keep_values=True)
    agrees(batch, batch.save(tmp_path / "batch"))
    written = capture_generation(model, "The cat saw the", tokenizer, max_new_tokens=3, progress=False)
    agrees(written, written.save(tmp_path / "written"))
    assert load(tmp_path / "written").part().queries.steps == 3
    bert = capture(*minilm()[:1], "Naïve café 🙂: 你好, isn't it?", minilm()[1])
    agrees(bert, bert.save(tmp_path / "bert"))


def test_an_image_comes_back_with_its_axis(tmp_path: Path) -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    axis = Tokens.patches(2, 2, before=1, picture=pixels)
    Attention.from_weights(torch.eye(5), (axis, axis)).save(tmp_path / "a")
    for one in (load(tmp_path / "a"), without_torch(tmp_path / "a")):
        found = one.part().queries
        assert found is one.part().keys
        assert (found, found.grid, found.first_patch) == (axis, (2, 2), 1)
        assert found.picture is not None
        assert np.array_equal(found.picture, pixels)


def test_a_file_holds_what_is_shared_once(tmp_path: Path) -> None:
    """Layers that are views of one matrix are one matrix in the file. Oracle: safetensors' own reader."""
    Attention.from_weights(torch.rand(300, 300).softmax(-1).expand(4, 300, 300)).save(tmp_path / "heads")
    attention = Attention.from_weights([torch.rand(1, 64, 64).softmax(-1)] * 8)
    path = attention.save(tmp_path / "layers")
    with safe_open(path, "np") as file:
        assert sum(file.get_tensor(name).ndim == 4 for name in file.keys()) == 1  # noqa: SIM118  # it is no dict
    assert path.stat().st_size < 40_000


def test_the_file_is_one_of_safetensors(tmp_path: Path) -> None:
    """Oracle: safetensors' own reader."""
    attention = by_hand("half")
    path = attention.save(tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["attnwidget"])
        layers = [file.get_tensor(one["q"]) for one in said["parts"][0]["layers"]]
        with pytest.raises(TypeError, match="save both"):
            compare(attention, attention).save("x")
    for layer, q in zip(attention.part().layers, layers, strict=True):
        assert layer.q is not None
        assert layer.q.dtype == q.dtype
        assert torch.equal(layer.q, q)
    assert stored.about(path)["made_with"]["torch"] == torch.__version__


# ── what it keeps for the steps ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_step_by_step_is_what_it_was(name: str, tmp_path: Path) -> None:
    """Oracle: the steps of the attention that was saved."""
    attention = family(name)
    path = attention.save(tmp_path / "a", projections=True)
    for part, layer, head in heads_of(attention)[::3]:
        wanted = unpack(steps.block(attention, part, layer, head))
        again = unpack(steps.block(load(path), part, layer, head))
        thin = unpack(steps.block(without_torch(path), part, layer, head))
        assert again.meta == wanted.meta == thin.meta
        for key in wanted.arrays:
            assert np.array_equal(again.arrays[key], wanted.arrays[key], equal_nan=True)
            np.testing.assert_allclose(thin.arrays[key], wanted.arrays[key], atol=2e-6)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 19280])
def test_a_header_of_whatever_length_is_a_header(length: int, saved: Path, tmp_path: Path) -> None:
    """Lengths whose bytes are those that a pickle or an archive begins with."""
    data = saved.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    said = json.loads(header["__metadata__"]["attnwidget"])
    said["notes"] = ["x" * 20_000]
    header["__metadata__"]["attnwidget"] = json.dumps(said)
    words = json.dumps(header).encode()
    target = next(n for n in range(length, 10**6, 65536) if n >= len(words))
    words += b" " * (target - len(words))
    path = tmp_path / "a"
    path.write_bytes(len(words).to_bytes(8, "little") + words + data[8 + int.from_bytes(data[:8], "little") :])
    assert load(path).notes == ("x" * 20_000,)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    attention = family("llama")
    path = attention.save(tmp_path / "a", values=False)
    for one in (load(path), without_torch(path)):
        said = unpack(steps.block(one, "decoder", 0, 0)).meta
        assert said["output_why"] == (
            "The output projection is the model's own weight, and this file was saved without projections=True."
        )
        assert said["missing"].startswith("The values V were not kept")
        assert said["positions"] == "rotary"
    again = load(path)
    assert isinstance(again, Attention)
    agrees(again, again.save(tmp_path / "twice"))


def test_projections_that_are_no_longer_those_of_the_run_are_left_out(tmp_path: Path) -> None:
    model, inputs = make("gpt2")
    attention = capture(model, inputs, keep_values=True, progress=False)
    with torch.no_grad():
        model.transformer.h[1].attn.c_proj.weight.add_(1.0)
    path = attention.save(tmp_path / "a", projections=True)
    for one in (load(path), without_torch(path)):
        found = [unpack(steps.block(one, "decoder", layer, 0)).meta for layer in (0, 1)]
        assert found[0]["model_width"] == 32
        assert found[1]["output_why"].endswith("has changed since this was captured.")


def test_a_trace_is_saved_as_its_attention(tmp_path: Path) -> None:
    model, tokenizer = tiny.decoder()
    traced = trace(model, "The cat saw the", tokenizer)
    with pytest.raises(TypeError, match=r"trace\.attention\.save\(path\)"):
        traced.save(tmp_path / "a")
    traced.attention.save(tmp_path / "a")
    agrees(replace_gradients(traced.attention), tmp_path / "a")


def replace_gradients(attention: Attention) -> Attention:
    parts = [attention.part(name) for name in attention.parts]
    bare = [replace(p, layers=tuple(replace(one, gradient=None) for one in p.layers)) for p in parts]
    return Attention(bare, model=attention.model, check=attention.check, notes=attention.notes, noun=attention.noun)


# ── without torch ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reduce", ["mean", "max", "min"])
def test_maps_of_several_heads_and_of_words_are_the_same_without_torch(reduce: Any, tmp_path: Path) -> None:
    """Oracle: the maps of the attention that was saved."""
    model, tokenizer = tiny.decoder()
    attention = capture(model, ["The cat saw the dog.", "The unhappy cat."], tokenizer).select(1)
    thin = without_torch(attention.save(tmp_path / "a"))
    for which in ({}, {"layer": 1}, {"head": 2}, {"heads": [(0, 1), (2, 3)]}, {"layer": 0, "head": 0}):
        ours, theirs = (one.map(**which, reduce=reduce) for one in (thin, attention))
        assert repr(ours) == repr(theirs)
        np.testing.assert_allclose(ours.weights(), theirs.weights().numpy(), atol=ROUNDING)
        np.testing.assert_allclose(ours.tile(slice(1, 5), [0, 2]), theirs.tile(slice(1, 5), [0, 2]), atol=ROUNDING)
        np.testing.assert_allclose(ours.column(1), theirs.column(1), atol=ROUNDING)
        np.testing.assert_allclose(ours.row(-1), theirs.row(-1), atol=ROUNDING)
        words, others = ours.grouped("word"), theirs.grouped("word")
        assert words.keys == others.keys
        np.testing.assert_allclose(words.weights(), others.weights().numpy(), atol=ROUNDING)


REQUESTS = [
    {"want": "map"}, {"want": "map", "exact": True}, {"want": "map", "head": None}, {"want": "row", "index": 3},
    {"want": "map", "layer": None, "head": None, "reduce": "max"}, {"want": "column", "index": 2},
    {"want": "row", "index": 3, "head": None, "exact": True}, {"want": "measures"}, {"want": "steps"},
    {"want": "column", "index": 0, "layer": None, "exact": True}, {"want": "steps", "exact": True},
    {"want": "row", "index": 99}, {"want": "map", "layer": 9}, {"want": "map", "part": "none"},
    {"want": "steps", "head": None},
]  # fmt: skip


@pytest.mark.parametrize("kind", BY_HAND)
def test_every_request_is_answered_alike_without_torch(kind: str, tmp_path: Path) -> None:
    """Oracle: the answers of the attention that was saved; weights to 1e-3, and to 1e-6 where they are exact."""
    attention = by_hand(kind)
    thin = without_torch(attention.save(tmp_path / "a"))
    for request in REQUESTS:
        asked = {"id": 1, "part": attention.parts[0], "layer": 0, "head": 0, "reduce": "mean", **request}
        (ours, pieces), (theirs, others) = (wire.answer(one, asked) for one in (thin, attention))
        assert ours == theirs, request
        if ours["type"] == "error":
            continue
        found, wanted = (unpack(b"".join(one)) for one in (pieces, others))
        assert (found.kind, found.arrays.keys()) == (wanted.kind, wanted.arrays.keys())
        if found.kind in ("qk", "weights"):
            off = ROUNDING if request.get("exact") else 1e-3
            np.testing.assert_allclose(cells_of(found), cells_of(wanted), atol=off)


def test_a_long_text_is_pooled_and_sampled_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what torch makes of it."""
    q, k = torch.randn(2, 2, 3, 90, 8, generator=torch.Generator().manual_seed(5)) * 1.5
    attention = Attention.from_qk(q, k, causal=True)
    thin = without_torch(attention.save(tmp_path / "a"))
    monkeypatch.setattr(wire, "_MOST_CELLS", 600)
    monkeypatch.setattr(wire, "_MOST_WORK", 20_000)
    monkeypatch.setattr(wire, "_MEASURED_WORK", 9_000)
    same_bundle(unpack(wire.bundle(thin, standalone=True)), unpack(wire.bundle(attention, standalone=True)))
    for which in ({"layer": 0}, {"layer": None}):
        ours, theirs = (unpack(wire._weights(one.map(**which))) for one in (thin, attention))
        assert ours.meta["sampled"] == theirs.meta["sampled"]
        np.testing.assert_allclose(cells_of(ours), cells_of(theirs), atol=1e-4)


HOOK = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "scipy", "tqdm", "psutil", "bqplot", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refused())
"""


def test_a_file_is_shown_and_exported_where_torch_is_not_installed(tmp_path: Path) -> None:
    """In an interpreter that refuses torch and all else that a teacher's laptop may lack."""
    model, tokenizer = tiny.decoder()
    capture(model, "The cat saw the dog.", tokenizer, keep_values=True).save(tmp_path / "saved.safetensors")
    code = Path(__file__).with_name("thinly.py").read_text("utf-8")
    done = subprocess.run([sys.executable, "-c", HOOK + code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]
    assert {one.suffix for one in tmp_path.iterdir()} >= {".html", ".svg", ".png"}


# ── refused in words ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return by_hand("a sink").save(tmp_path_factory.mktemp("saved") / "a.safetensors")


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> bytes:
    """The file with its header, and what it says of the attention, changed."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    said = json.loads(header["__metadata__"]["attnwidget"])
    change(header, said)
    if isinstance(header.get("__metadata__"), dict) and "attnwidget" in header["__metadata__"]:
        header["__metadata__"]["attnwidget"] = json.dumps(said)
    words = json.dumps(header).encode()
    return len(words).to_bytes(8, "little") + words + data[8 + length :]


def at(*path: Any, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Puts ``value`` there, in what the file says; None takes it away."""

    def change(_: dict[str, Any], said: Any) -> None:
        for step in path[:-1]:
            said = said[step]
        said[path[-1]] = value

    return change


def entry(name: str, **fields: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda header, _: header[name].update(fields)


LAYER = ("parts", 0, "layers", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("version", value=2), r"made by another version: format 2, this reads 1"),
        (at("version", value=None), r"another version: format None"),
        (lambda header, _: header.pop("__metadata__"), r"of something else \(\d+ arrays"),
        (at(*LAYER, "q", value="no such"), r"the array 'no such' is missing"),
        (at(*LAYER, "q", value=7), r"q is 7; it must be a text"),
        (at(*LAYER, "k", value="parts.0.layers.0.v"), None),  # another array of the same shape is no damage
        (at(*LAYER, "k", value="masks.0.start"), r"is I32 \[1, 17\]; expected F64"),
        (at(*LAYER, "mask", value=5), r"mask is 5; it must be a whole number from 0, below 1"),
        (at(*LAYER, "scale", value=float("nan")), r"scale is nan; it must be a number"),
        (at(*LAYER, "softcap", value=0), r"softcap is 0; it must be a number other than 0"),
        (at(*LAYER, "softcap", value="1"), r"softcap is '1'"),
        (at(*LAYER, "why", value={"output": []}), r"why is an object; it must be an object of texts"),
        (at(*LAYER, "rotary", value=[0, 0]), r"rotary is a list"),
        (at(*LAYER, "rotary", value=[]), r"rotary is a list; it must be two numbers"),
        (at("parts", value=[]), r"at least one part"),
        (at("parts", 0, "layers", value=[]), r"at least one part with at least one layer"),
        (at("parts", 0, "queries", value=3), r"queries is 3; it must be a whole number from 0, below"),
        (at("parts", 0, "axes", value=[[0, 9]]), r"axes is a list; it must be a list of pairs"),
        (at("parts", 0, "axes", value=[[0, 0]] * 5), r"5 texts in 'attention', whose layers have 1"),
        (at("sample", value=1), r"sample is 1"),
        (at("axes", 0, "labels", value=[]), r"an axis of 0 tokens"),
        (at("axes", 0, "labels", value=["a"]), r"is F32 \[1, 6, 17, 8\]; expected F64 \[any, any, 1, any\]"),
        (at("axes", 0, "special", value=[17]), r"special is a list; it must be a list of whole numbers"),
        (at("axes", 0, "grid", value=[]), r"grid is a list; it must be rows and columns"),
        (at("axes", 0, "grid", value=[9, 9]), r"an axis of 17 tokens has the grid"),
        (at("axes", 0, "grid", value=[10**9, 10**9]), r"an axis of 17 tokens has the grid"),
        (at("axes", 0, "spans", value=[[5, 2]] * 17), None),  # without a text they say nothing
        (at("axes", 0, "picture", value="masks.0.start"), r"expected U8 \[any, any, 3\]"),
        (at("notes", value="a text"), r"notes is 'a text'; it must be a list of texts"),
        (at("check", value={"rows": -1}), r"max_error is None; it must be a number"),
        (entry("masks.0.start", shape=[1, 18]), r"'masks\.0\.start' is said to be I32 \[1, 18\] at bytes"),
        (entry("masks.0.start", shape=[10**12, 10**12]), r"is said to be I32"),
        (entry("masks.0.start", dtype="F99"), r"does not say where its arrays are"),
        (entry("masks.0.start", data_offsets=[4, 72]), r"is said to be"),
        (entry("masks.0.start", data_offsets=[-1, 68]), r"is said to be"),
        (entry("masks.0.start", data_offsets=[0.0, 68.0]), r"is said to be"),
        (entry("masks.0.start", data_offsets="ab"), r"does not say where|is said to be"),
        (entry("masks.0.start", shape=[True, 17]), r"is said to be"),
        (entry("masks.0.start", shape=[0, 17]), r"is said to be"),
    ],
)
def test_a_damaged_file_is_refused_in_words(saved: Path, tmp_path: Path, change: Any, words: str | None) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(rewritten(saved, change))
    for open_ in (load, without_torch):
        if words is None:
            assert unpack(wire.bundle(open_(path))).kind == "bundle"
            continue
        with pytest.raises(StoredError, match=words):
            open_(path)


class Trap:
    """What runs when a pickle of it is opened."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("opened",)


def test_other_files_are_refused_and_nothing_in_them_is_run(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = saved.read_bytes()
    torch.save({"x": Trap()}, "torch.pt")
    others = {
        "pickle": (pickle.dumps(Trap()), "looks like a pickle"),
        "torch": (Path("torch.pt").read_bytes(), "looks like a pickle"),
        "empty": (b"", "said to have 0 bytes, and 0 follow"),
        "text": (b'{"version": 1}', "is no safetensors file, or is cut short"),
        "page": (b"<!DOCTYPE html><html></html>", "cut short: its header is said to have"),
        "huge": ((2**62).to_bytes(8, "little") + b"{}", "its header is said to have 4611686018427387904 bytes"),
        "deep": ((200_000).to_bytes(8, "little") + b"[" * 200_000, "cannot be read as JSON"),
        "longer": (data + b"more", "4 bytes follow its arrays"),
        **{f"cut at {n}": (data[:n], "cut short") for n in (1, 7, 8, 500, len(data) // 2, len(data) - 1)},
    }
    for name, (content, words) in others.items():
        Path(name).write_bytes(content)
        with pytest.raises(StoredError, match=words):
            load(name)
    weights = next((Path(tiny.__file__).parent / "decoder").rglob("*.safetensors"))
    with pytest.raises(StoredError, match="a safetensors file of something else"):
        load(weights)
    with pytest.raises(FileNotFoundError):
        load("none")
    assert not Path("opened").exists()


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_to_a_file_it_opens_or_is_refused(seed: int, saved: Path, tmp_path: Path) -> None:
    """Random damage, to bytes and to what the header says: words or an attention that can be sent, nothing else."""
    chance = random.Random(seed)
    junk: list[Any] = [
        None, True, -1, 0, 1, 10**9, 2**70, 0.5, "", "q", "\ud800", "</script>", [], {}, [[]], [None], ["a"], [-1],
        [[0, 1]], {"a": 1},
    ]  # fmt: skip

    def places(value: Any) -> list[tuple[Any, Any]]:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        found = [(value, key) for key in keys]
        return found + [one for key in keys for one in places(value[key])]

    def change(header: dict[str, Any], said: dict[str, Any]) -> None:
        for _ in range(chance.randint(1, 3)):
            one, key = chance.choice(places(said) if chance.random() < 0.8 else places(header))
            if chance.random() < 0.2 and isinstance(one, dict):
                del one[key]
            else:
                one[key] = chance.choice(junk)

    refused, path = 0, tmp_path / "damaged"
    for turn in range(60):
        if turn % 3:
            data = bytearray(rewritten(saved, change))
        else:
            data = bytearray(saved.read_bytes())
            for _ in range(chance.randint(1, 4)):
                data[chance.randrange(len(data) if chance.random() < 0.3 else 2000)] = chance.randrange(256)
        path.write_bytes(data)
        for open_ in (load, without_torch):
            try:
                found = open_(path)
            except StoredError:
                refused += 1
            else:
                assert unpack(wire.bundle(found)).kind == "bundle"
    assert refused > 30


def test_a_page_of_a_file_says_how_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: what the code that the page carries makes when it is run."""
    monkeypatch.chdir(tmp_path)
    attention = by_hand("a sink")
    attention.save("saved.safetensors")
    to_html(load("saved.safetensors"), "page.html", layer=1, head=2)
    before = Path("page.html").read_bytes()
    Path("page.html").unlink()
    code = provenance_of(before, tmp_path)
    exec(code, {})
    assert Path("page.html").read_bytes() == before
    assert "# Attention.from_qk(q, k" in code


def provenance_of(page: bytes, folder: Path) -> str:
    (folder / "other.html").write_bytes(page)
    return provenance(folder / "other.html").code


def test_where_nothing_can_be_written_nothing_is(tmp_path: Path) -> None:
    attention = by_hand("plain")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        attention.save(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError, match="Name a file in it"):
        attention.save(tmp_path)
    path = attention.save(tmp_path / "a")
    before = path.read_bytes()
    broken = replace(attention.part().layers[0], q=None, weights=torch.eye(17).expand(1, 6, 17, 17).to_sparse())
    other = Attention([replace(attention.part(), layers=(broken,))])
    with pytest.raises(RuntimeError):
        other.save(path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    shutil.rmtree(tmp_path)
