"""The bytes: golden files that both languages read, damaged ones that nobody does, and what is sent for what."""

from __future__ import annotations

import contextlib
import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnwidget import steps, thumbnails, wire
from attnwidget.attention import Attention
from attnwidget.blocks import Block, WireError, pack, unpack
from attnwidget.cells import bins
from attnwidget.compare import Difference
from attnwidget.layers import Layer, Part
from attnwidget.masks import Mask
from attnwidget.measured import STATISTICS
from attnwidget.measures import statistics
from attnwidget.shown import Check
from attnwidget.tokens import Tokens
from golden import make

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.bin"))
MASKED, PADDED = -1.0, -2.0


# ── a reader, as the browser has one: cells [row, col] from a block ───────────────────────────────────────────────────


def cells_of(block: Block) -> Any:
    return cells_of_qk(block) if block.kind == "qk" else cells_of_weights(block)


def cells_of_weights(block: Block) -> Any:
    if "exact" in block.arrays:
        special = block.arrays["code"]
        cells = block.arrays["exact"].astype(float)
    else:
        codes = block.arrays["hi"].astype(int) * 256 + block.arrays["lo"]
        special = np.where(codes > 65000, codes - 65280, 0)
        cells = block.meta["vmax"] * (codes / 65000) ** 2
    return np.select([special == 255, special == 254, special == 253], [MASKED, PADDED, np.nan], cells)


def cells_of_qk(block: Block) -> Any:
    a, meta = block.arrays, block.meta
    q, k = (a[name].astype(float) * (a[f"{name}_step"][:, None] if f"{name}_step" in a else 1.0) for name in "qk")
    at, keep = np.arange(meta["n_k"]), a["keep"].astype(bool)
    allowed = (at >= a["start"][:, None]) & (at < a["stop"][:, None]) & keep
    if "bits" in a:
        allowed &= np.unpackbits(a["bits"], axis=1, count=meta["n_k"], bitorder="little").astype(bool)
    s = q @ k.T * meta["scale"]
    if meta["softcap"]:
        s = meta["softcap"] * np.tanh(s / meta["softcap"])
    if "bias" in a:
        s = s + a["bias"][at[None, :] - np.arange(meta["n_q"])[:, None] + meta["n_q"] - 1]
    empty = ~allowed.any(1)
    assert (a["lse"][empty] == -np.inf).all()
    s = np.where(allowed, s - np.where(empty, 0.0, a["lse"])[:, None], 0.0)
    cells = np.where(allowed, np.exp(s), np.where(keep, MASKED, PADDED))
    return np.where(empty[:, None], PADDED, cells)


def differences(found: Any, wanted: list[Any]) -> Any:
    """|found − wanted| over a line, ∞ where one is a weight and the other is not."""
    null = np.array([cell is None for cell in wanted])
    numbers = np.array([np.nan if cell in (None, "nan") else cell for cell in wanted], float)
    off = np.where(null, np.where(found < 0, 0.0, np.inf), np.abs(found - numbers))
    return np.where(~null & np.isnan(numbers), np.where(np.isnan(found), 0.0, np.inf), off)


def ask(
    attention: Attention | Difference, want: str = "map", part: str = "attention", layer: Any = 0, **fields: Any
) -> Block:
    request = {"id": 1, "want": want, "part": part, "layer": layer, "head": 0, "reduce": "mean", **fields}
    reply, pieces = wire.answer(attention, request)
    assert reply == {"type": "block", "id": 1, "chunks": len(pieces)}, reply
    return unpack(b"".join(pieces))


def refusal(attention: Attention, **fields: Any) -> str:
    request = {"id": 1, "want": "map", "part": "attention", "layer": 0, "head": 0, "reduce": "mean", **fields}
    reply, pieces = wire.answer(attention, request)
    assert (reply["type"], pieces) == ("error", [])
    return str(reply["message"])


def random(layers: int = 2, heads: int = 3, n: int = 20, d: int = 8, **options: Any) -> Attention:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, layers, heads, n, d, generator=generator) * 1.5
    return Attention.from_qk(q, k, **{"causal": True, **options})


# ── golden files ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_file_holds_what_its_sidecar_says(name: str) -> None:
    """Oracle: the definition of attention in golden/make.py, entry by entry in Python floats."""
    beside = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    data = (GOLDEN / f"{name}.bin").read_bytes()
    if "refuse" in beside:
        with pytest.raises(WireError, match=beside["refuse"]):
            unpack(data)
        return
    block = unpack(data)
    if "expect" in beside:
        cells, (r0, _), (c0, _) = cells_of(block), *(block.meta.get(axis, (0, 0)) for axis in ("rows", "cols"))
        step = block.meta.get("step", [1, 1])
        for i, row in beside["expect"]["rows"].items():
            found = np.repeat(cells[(int(i) - r0) // step[0]], step[1])[: len(row)]
            assert differences(found, row).max() <= beside["tolerance"], f"row {i}"
        for j, column in beside["expect"]["columns"].items():
            found = np.repeat(cells[:, (int(j) - c0) // step[1]], step[0])[: len(column)]
            assert differences(found, column).max() <= beside["tolerance"], f"column {j}"
    for array, lines in beside.get("thumbs", {}).items():
        for where, line in lines.items():
            codes = block.arrays[array][tuple(int(i) for i in where.split("/"))]
            if array != "allowed":
                codes = np.where(codes > 250, MASKED, block.meta["vmax"] * (codes.astype(float) / 250) ** 2)
            assert differences(codes, line).max() <= beside["tolerance"], f"{array} {where}"
    if "map_keys" in beside:
        assert {f"map/{key}" for key in beside["map_keys"]} <= block.arrays.keys()
        assert block.meta["axes"][0]["labels"] == beside["labels"]
        assert block.meta["axes"][0]["raw"] == beside["raw"]


def test_the_golden_files_are_those_that_this_version_writes(tmp_path: Path) -> None:
    """Oracle: golden/make.py run again. Numbers are compared, not bytes: zlib may compress otherwise elsewhere."""
    make.write(tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.bin")) == NAMES
    for name in NAMES:
        beside = (GOLDEN / f"{name}.json").read_text("utf-8")
        assert (tmp_path / f"{name}.json").read_text("utf-8") == beside
        if "refuse" not in json.loads(beside):
            same(unpack((tmp_path / f"{name}.bin").read_bytes()), unpack((GOLDEN / f"{name}.bin").read_bytes()))


def same(new: Block, old: Block) -> None:
    assert new.kind == old.kind
    assert new.arrays.keys() == old.arrays.keys()
    if new.kind == "bundle":
        assert {**new.meta, "versions": 0} == {**old.meta, "versions": 0}
        for name, array in new.arrays.items():
            same(unpack(array.tobytes()), unpack(old.arrays[name].tobytes()))
        return
    for name, array in new.arrays.items():
        other = old.arrays[name]
        assert (array.dtype, array.shape) == (other.dtype, other.shape)
        if array.dtype.kind == "f":
            np.testing.assert_allclose(array, other, rtol=1e-5, atol=1e-6)
        elif {"hi", "lo"} > {name}:
            codes = [one.arrays["hi"].astype(int) * 256 + one.arrays["lo"] for one in (new, old)]
            assert np.abs(codes[0] - codes[1]).max() <= 1
        else:
            assert np.abs(array.astype(int) - other).max(initial=0) <= 1


def test_maps_made_of_maps_are_what_their_golden_files_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: golden/make.py. The attentions behind the two bundles are caught as they are packed."""
    caught: list[Any] = []
    original = wire.bundle

    def bundle(shown: Any, **options: Any) -> bytes:
        caught.append(shown)
        return original(shown, **options)

    monkeypatch.setattr(wire, "bundle", bundle)
    beside = [one for _, _, one in make.combined_cases(np.random.default_rng(5))]
    for shown, wanted in zip(caught, beside, strict=True):
        for one in wanted["combined"]:
            options = {"side": one["side"]} if isinstance(shown, Difference) else {}
            found = shown.map(heads=one["heads"], reduce=one["reduce"], **options)
            cells = (found.grouped("word") if one["group"] else found).weights().numpy()
            for row, line in zip(cells, one["rows"], strict=True):
                # What is masked is 0 here, and what a side lacks is NaN: neither is a number to the browser.
                null = np.array([cell is None for cell in line])
                assert (np.isnan(row[null]) | (row[null] == 0)).all()
                np.testing.assert_allclose(row[~null], [cell for cell in line if cell is not None], atol=1e-5)


def test_the_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.glob("*.*") if path.suffix in (".bin", ".json")) < 300_000


# ── the format ────────────────────────────────────────────────────────────────────────────────────────────────────────

DTYPES = ["u1", "u2", "u4", "i2", "i4", "f4"]


@settings(deadline=None)
@given(st.data())
def test_a_block_comes_back_as_it_was(data: st.DataObject) -> None:
    """Oracle: what was packed, whatever its types and shapes, empty ones included."""
    arrays = {}
    for name in data.draw(st.lists(st.text(max_size=4), unique=True, max_size=4)):
        dtype, shape = data.draw(st.sampled_from(DTYPES)), data.draw(st.lists(st.integers(0, 5), max_size=3))
        size = int(np.prod(shape)) * int(dtype[1])
        arrays[name] = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), f"<{dtype}").reshape(shape)
    values = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
    meta = data.draw(st.dictionaries(st.text(), st.recursive(values, st.lists, max_leaves=4), max_size=3))
    packed = pack("some", meta, arrays, compress=data.draw(st.booleans()))
    block = unpack(packed)
    assert (block.kind, block.meta) == ("some", meta)
    assert list(block.arrays) == list(arrays)
    for name, array in arrays.items():
        assert block.arrays[name].dtype.itemsize == array.dtype.itemsize
        assert block.arrays[name].shape == array.shape
        assert block.arrays[name].tobytes() == array.tobytes()
    header = int.from_bytes(packed[8:12], "little")
    assert (16 + header) % 8 == 0
    assert all(entry["offset"] % 8 == 0 for entry in json.loads(packed[16 : 16 + header])["arrays"])


@pytest.mark.parametrize("compress", [True, False])
def test_no_beginning_of_a_block_can_be_read_as_a_block(compress: bool) -> None:
    whole = pack("some", {"a": [1]}, {"x": np.arange(40, dtype=np.int32)}, compress)
    for length in range(len(whole)):
        with pytest.raises(WireError, match=r"truncated|not attnwidget data"):
            unpack(whole[:length])
    with pytest.raises(WireError, match="damaged"):
        unpack(whole + b"\0")


@pytest.mark.parametrize("compress", [True, False])
def test_a_damaged_byte_is_refused_or_does_no_harm(compress: bool) -> None:
    whole = bytearray(pack("some", {"a": [1]}, {"x": np.arange(40, dtype=np.int32)}, compress))
    for at in range(len(whole)):
        for value in (0, 0x22, 0x39, 0xFF):
            damaged = whole.copy()
            damaged[at] = value
            with contextlib.suppress(WireError):  # any other error fails the test
                unpack(damaged)


def test_a_header_that_promises_too_much_is_refused() -> None:
    block = pack("some", {}, {"x": np.zeros(1000, np.uint8)})
    with pytest.raises(WireError, match="truncated"):
        unpack(block[:12] + (2**32 - 1).to_bytes(4, "little") + block[16:])
    with pytest.raises(WireError, match="damaged"):  # and what unpacks to more than was announced
        unpack(block[:12] + (10).to_bytes(4, "little") + block[16:])


def test_numbers_that_the_format_does_not_know_are_refused_by_name() -> None:
    with pytest.raises(WireError, match="'x' is float64"):
        pack("some", {}, {"x": np.zeros(3)})


def test_what_unpacks_to_more_than_it_says_is_never_unpacked_whole() -> None:
    """Oracle: tracemalloc. 40 kB that unpack to 40 MB."""
    block = pack("some", {}, {"x": np.zeros(40_000_000, np.uint8)})
    tracemalloc.start()
    with pytest.raises(WireError, match="damaged"):
        unpack(block[:12] + (1000).to_bytes(4, "little") + block[16:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_an_array_that_is_not_aligned_is_refused() -> None:
    block = pack("some", {}, {"x": np.zeros(4, np.uint8), "y": np.zeros(4, np.uint8)}, compress=False)
    with pytest.raises(WireError, match="offset"):
        unpack(block.replace(b'"offset":8', b'"offset":7'))


def test_a_view_of_bytes_is_read_wherever_it_lies() -> None:
    block = pack("some", {}, {"x": np.arange(5, dtype=np.int32)}, compress=False)
    assert unpack(memoryview(b"abc" + block)[3:]).arrays["x"].tolist() == [0, 1, 2, 3, 4]


# ── maps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("n", [5, 40, 90])
@pytest.mark.parametrize("exact", [False, True])
def test_a_head_is_sent_in_the_shorter_form_and_comes_back(n: int, exact: bool) -> None:
    """Oracle: Map.weights(). A head of 5 tokens is shorter as weights, one of 90 tokens by 4 numbers as Q and K."""
    attention = random(n=n, d=4)
    block = ask(attention, layer=1, head=2, exact=exact)
    assert block.kind == ("weights" if n == 5 else "qk")
    error = np.abs(np.clip(cells_of(block), 0, None) - attention[1, 2].weights().numpy()).max()
    assert error <= (1e-6 if exact else block.meta.get("max_error", 2e-5) + 1e-6)
    assert block.meta.get("exact", "exact" in block.arrays) == exact


def test_numbers_too_large_for_16_bits_are_sent_exactly_unasked() -> None:
    """Oracle: Map.weights(). Keys that come in pairs, hardly apart, and scores of ±10⁴: every last bit counts."""
    q, k = torch.randn(2, 90, 4, generator=torch.Generator().manual_seed(0))
    k[1::2] = k[::2] + k[1::2] * 1e-3
    attention = Attention.from_qk(q, k, causal=True, scale=1000.0)
    block = ask(attention)
    assert block.kind == "qk"
    assert block.meta["exact"] is True
    assert block.arrays["q"].dtype == np.float32
    assert np.abs(np.clip(cells_of(block), 0, None) - attention[0, 0].weights().numpy()).max() < 2e-3  # float32's own


def test_nan_in_q_reaches_the_browser_as_nan() -> None:
    q, k = torch.randn(2, 90, 4)
    q[7, 1] = torch.nan
    cells = cells_of(ask(Attention.from_qk(q, k, causal=True)))
    assert np.isnan(cells[7, :8]).all()
    assert (cells[7, 8:] == MASKED).all()
    assert not np.isnan(np.delete(cells, 7, 0)).any()


def test_every_kind_of_mask_comes_back_as_it_was() -> None:
    """Oracle: Map.weights() and Mask.allowed, for rules that reach outside the map and for a mask that contradicts its
    own padding."""
    axes = Tokens.positions(70), Tokens.positions(50)
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, n, 4, generator=generator) for n in (70, 50))
    scattered = torch.rand(1, 1, 70, 50, generator=generator) < 0.3
    scattered[0, 0, 7] = False
    rules = [
        Mask.causal(70, 50, window=3, offset=10),
        Mask.causal(70, 50, offset=-20),
        Mask(*(torch.full((1, 70), n, dtype=torch.int32) for n in (0, 50)), torch.zeros(1, 50).bool(), scattered),
    ]
    for rule in rules:
        layer = Layer("one", rule, q=q, k=k, sink=torch.ones(1, 1, 1))
        view = Attention([Part("attention", (layer,), *axes)])[0, 0]
        block = unpack(wire._qk(view, exact=True))
        assert (block.arrays["start"] >= 0).all()
        assert (block.arrays["start"] <= block.arrays["stop"]).all()
        assert (block.arrays["stop"] <= 50).all()
        cells, allowed = cells_of(block), view.allowed(torch.arange(70)).numpy()
        assert ((cells >= 0) == allowed).all()
        # Scores reach 10, of which float32 knows 1e-6; so much is a weight off, relatively.
        np.testing.assert_allclose(np.clip(cells, 0, None), view.weights(), atol=5e-6)
        assert (cells[~allowed.any(1)] == PADDED).all()


def test_a_weight_where_there_should_be_none_is_shown() -> None:
    weights = torch.full((1, 1, 6, 6), 1 / 6)
    axis = Tokens.positions(6)
    attention = Attention([Part("attention", (Layer("one", Mask.causal(6, 6), weights=weights),), axis, axis)])
    np.testing.assert_allclose(cells_of(ask(attention)), 1 / 6, atol=1e-5)
    np.testing.assert_allclose(thumbs(attention)[1]["heads"][0, 0], 1 / 6, atol=5e-3)


def test_another_text_of_the_batch_is_sent_when_that_is_in_view() -> None:
    """Oracle: Map.weights() of the selected sample."""
    q, k = torch.randn(2, 2, 3, 90, 4)
    layer = Layer("one", Mask.causal(90, 90), q=q, k=k, scale=0.5)
    axis = Tokens.positions(90)
    attention = Attention([Part("attention", (layer,), axis, axis)])
    for sample in (0, 1):
        chosen = attention.select(sample)
        cells = np.clip(cells_of(ask(chosen)), 0, None)
        np.testing.assert_allclose(cells, chosen[0, 0].weights(), atol=1e-3)


@pytest.mark.parametrize("reduce", ["mean", "max", "min"])
@pytest.mark.parametrize(("layer", "head"), [(None, None), (1, None), (None, 2), (1, 2)])
def test_rows_columns_and_maps_agree_with_the_attention(layer: int | None, head: int | None, reduce: Any) -> None:
    """Oracle: Map.row, Map.column and Map.weights()."""
    attention = random()
    view = attention.map(layer, head, reduce=reduce)
    which: dict[str, Any] = {"layer": layer, "head": head, "reduce": reduce}
    np.testing.assert_allclose(np.clip(cells_of(ask(attention, **which)), 0, None), view.weights(), atol=2e-5)
    for want, expected in (("row", view.row(13)), ("column", view.column(13))):
        for exact in (False, True):
            block = ask(attention, want, index=13, exact=exact, **which)
            assert block.meta["rows" if want == "row" else "cols"] == [13, 14]
            found = np.clip(cells_of(block), 0, None).reshape(-1)
            np.testing.assert_allclose(found, expected, atol=1e-6 if exact else 2e-5)


def test_a_row_with_a_sink_says_how_much_leaks() -> None:
    """Oracle: 1 − row sum of Map.weights()."""
    attention = random(sink=[1.0, 2.0, 3.0])
    missing = 1 - attention[0, 0].weights().sum(1).numpy()
    np.testing.assert_allclose(ask(attention, "row", index=4).arrays["leak"], missing[4:5], atol=1e-6)
    np.testing.assert_allclose(ask(attention).arrays["leak"], missing, atol=1e-6)
    assert "leak" not in ask(attention, head=None, reduce="max").arrays, "the sum of largest weights means nothing"
    assert "leak" not in ask(random()).arrays


def test_weights_rounded_to_bfloat16_do_not_leak() -> None:
    weights = torch.randn(1, 60, 60).softmax(-1).bfloat16()
    assert "leak" not in ask(Attention.from_weights(weights)).arrays


def test_a_map_too_large_for_the_browser_is_pooled_and_its_rows_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the largest of each 3 × 3 weights. The bound is made small for the test."""
    monkeypatch.setattr(wire, "_MOST_CELLS", 60)
    attention = Attention.from_weights(torch.rand(20, 20))
    block = ask(attention)
    assert block.meta["step"] == [3, 3]
    padded = np.pad(attention[0, 0].weights().numpy(), (0, 1))
    np.testing.assert_allclose(cells_of(block), padded.reshape(7, 3, 7, 3).max((1, 3)), atol=2e-5)
    np.testing.assert_allclose(cells_of(ask(attention, "row", index=19))[0], attention[0, 0].row(19), atol=2e-5)
    causal = cells_of(ask(random(n=20), head=None))
    assert ((causal == MASKED) == ~np.tri(7, dtype=bool)).all(), "what lies outside the map masks nothing and adds none"


def test_a_reduced_map_with_too_much_behind_it_is_sampled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: every second row of Map.weights(). The bound is made small for the test."""
    attention = random(n=20)
    monkeypatch.setattr(wire, "_MOST_WORK", 20 * 20 * 6 // 2)
    block = ask(attention, layer=None, head=None)
    assert block.meta["step"] == [2, 1]
    assert block.meta["sampled"] is True
    np.testing.assert_allclose(np.clip(cells_of(block), 0, None), attention[None, None].weights()[1::2], atol=2e-5)


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"want": "everything"}, "want is 'everything'"),
        ({"part": "decoder"}, "no part 'decoder'"),
        ({"part": None}, "part is None"),
        ({"layer": 2}, "no layer 2"),
        ({"layer": -1}, "layer is -1"),
        ({"layer": True}, "layer is True"),
        ({"head": 3}, "no head 3"),
        ({"head": 1.0}, "head is 1.0"),
        ({"reduce": "sum"}, "reduce is 'sum'"),
        ({"reduce": ["mean"]}, "reduce is"),
        ({"want": "row"}, "index is None"),
        ({"want": "row", "index": 20}, "no row 20"),
        ({"want": "column", "index": 10**30}, "no column"),
        ({"exact": "yes"}, "exact is 'yes'"),
        ({"id": "x"}, "id is 'x'"),
        ({"id": None}, "id is None"),
    ],
)
def test_a_request_for_what_is_not_there_is_answered_in_words(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(random(), **fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["id", "want", "part", "layer", "head", "reduce", "index", "exact"]
plausible = st.sampled_from([0, 1, None, True, "map", "row", "column", "attention", "mean", "max", -1, 1.5])


@settings(deadline=None, max_examples=300)
@given(json_values | st.dictionaries(st.sampled_from(FIELDS), json_values | plausible))
def test_no_request_makes_the_answer_raise(request: Any) -> None:
    reply, pieces = wire.answer(random(n=6), request)
    assert reply["type"] == ("block" if pieces else "error")
    json.dumps(reply)


def test_an_error_while_computing_becomes_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise MemoryError("no room")

    monkeypatch.setattr(wire, "map_block", fail)
    assert "no room" in refusal(random())


def test_long_answers_travel_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the same answer in one piece. The bound is made small for the test."""
    attention = random()
    request = {"id": 9, "want": "map", "part": "attention", "layer": 0, "head": 0}
    (content, buffers), *rest = wire.messages(*wire.answer(attention, request))
    assert (content, rest) == ({"type": "block", "id": 9, "chunk": 0, "chunks": 1}, [])
    monkeypatch.setattr(wire, "_CHUNK", 100)
    pieces = list(wire.messages(*wire.answer(attention, request)))
    assert [content["chunk"] for content, _ in pieces] == list(range(len(pieces)))
    assert {content["chunks"] for content, _ in pieces} == {len(pieces)}
    assert all(len(some) == 1 and len(some[0]) <= 100 for _, some in pieces)
    assert b"".join(some[0] for _, some in pieces) == buffers[0]
    error = {"type": "error", "id": 1, "message": "words"}
    assert list(wire.messages(error, [])) == [(error, [])]


# ── thumbnails ────────────────────────────────────────────────────────────────────────────────────────────────────────


def thumbs(attention: Attention, side: int = 48) -> tuple[dict[str, Any], dict[str, Any]]:
    size, block = thumbnails.thumbs(attention, attention.part(), side)
    found = unpack(block)
    assert found.kind == "thumbs"
    decoded = {
        name: np.select(
            [codes == 255, codes == 254, codes == 253],
            [MASKED, PADDED, np.nan],
            found.meta["vmax"] * (codes / 250.0) ** 2,
        )
        for name, codes in found.arrays.items()
        if name != "allowed"
    }
    return size, decoded | {"allowed": found.arrays["allowed"]}


@pytest.mark.parametrize("n", [3, 12, 13, 30, 97])
def test_thumbnails_are_the_largest_weight_of_each_bin(n: int) -> None:
    """Oracle: Map.weights() of every head and reduction, pooled bin by bin."""
    attention = random(n=n)
    size, found = thumbs(attention, side=12)
    t = min(n, 12)
    assert size == {"rows": t, "cols": t, "sampled": False}
    edges = [b * n // t for b in range(t + 1)]

    def pooled(layer: int | None, head: int | None, reduce: Any) -> Any:
        whole = attention.map(layer, head, reduce=reduce).weights().masked_fill(torch.ones(n, n).triu(1).bool(), MASKED)
        each = [[whole[a:b, c:d].max() for c, d in itertools.pairwise(edges)] for a, b in itertools.pairwise(edges)]
        return np.array(each)

    for layer in range(2):
        for head in range(3):
            np.testing.assert_allclose(found["heads"][layer, head], pooled(layer, head, "mean"), atol=5e-3)
    for reduce in ("mean", "max", "min"):
        maps: list[tuple[int | None, int | None]] = [
            (0, None),
            (1, None),
            (None, 0),
            (None, 1),
            (None, 2),
            (None, None),
        ]
        for at, (one, other) in enumerate(maps):
            np.testing.assert_allclose(found[reduce][at], pooled(one, other, reduce), atol=5e-3)
    np.testing.assert_allclose(
        found["allowed"][1], [np.mean(range(a + 1, b + 1)) for a, b in itertools.pairwise(edges)]
    )


def test_bins_cut_evenly_and_miss_nothing() -> None:
    for n in range(1, 60):
        for count in range(1, n + 1):
            which = bins(n, count)
            assert sorted(set(which.reshape(-1).tolist())) == list(range(n))
            assert which[:, 0].tolist() == [b * n // count for b in range(count)]


def test_thumbnails_of_long_texts_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: one exact row for each row of the thumbnail, pooled over keys. The bound is made small for the test."""
    monkeypatch.setattr(thumbnails, "_MOST_WORK", 1000)
    attention = random(n=40)
    size, found = thumbs(attention, side=8)
    assert size["sampled"] is True
    exact = attention[1, 2].weights()[2::5].reshape(8, 8, 5).amax(-1)
    np.testing.assert_allclose(np.clip(found["heads"][1, 2], 0, None), exact, atol=5e-3)
    np.testing.assert_allclose(found["allowed"][0], np.arange(3, 41, 5))


def test_layers_with_fewer_heads_leave_their_places_empty() -> None:
    """Oracle: Map.weights(), which reduces over the layers that have a head."""
    axis = Tokens.positions(6)
    layers = tuple(
        Layer(f"{h}", Mask.full(6, 6), weights=torch.rand(1, h, 6, 6, generator=torch.Generator().manual_seed(h)))
        for h in (2, 4)
    )
    attention = Attention([Part("attention", layers, axis, axis)])
    _, found = thumbs(attention)
    assert (found["heads"][0, 2:] == MASKED).all()
    for reduce in ("mean", "max", "min"):
        for at, where in enumerate([(0, None), (1, None), (None, 0), (None, 1), (None, 2), (None, 3), (None, None)]):
            expected = attention.map(*where, reduce=reduce).weights()  # type: ignore[arg-type]
            np.testing.assert_allclose(found[reduce][at], expected, atol=5e-3)


def test_nan_stays_in_its_row_and_is_no_masked_cell() -> None:
    q, k = torch.randn(2, 1, 30, 4)
    q[0, 10] = torch.nan
    _, found = thumbs(Attention.from_qk(q, k, causal=True), side=10)
    for name in ("heads", "mean", "max", "min"):
        cells = found[name][0, 0] if name == "heads" else found[name][0]
        assert np.isnan(cells[3, :4]).all(), "any NaN among the pooled cells makes the cell NaN"
        assert (cells[3, 4:] == MASKED).all()
        assert np.isnan(cells).sum() == 4


def test_a_row_of_nan_leaves_others_alone_where_it_sees_nothing() -> None:
    q, k = torch.randn(2, 1, 30, 4)
    q[0, 10] = torch.nan
    allowed = torch.ones(30, 30).bool()
    allowed[10, 3:] = False
    _, found = thumbs(Attention.from_qk(q, k, mask=allowed), side=10)
    for name in ("heads", "mean", "max", "min"):
        cells = found[name][0, 0] if name == "heads" else found[name][0]
        assert np.argwhere(np.isnan(cells)).tolist() == [[3, 0]]


def test_padding_is_told_from_masking_in_thumbnails() -> None:
    allowed = torch.ones(12, 12).tril().bool()
    allowed[:, :5] = False
    _, found = thumbs(random(n=12, mask=allowed))
    head = found["heads"][0, 0]
    assert (head[:5] == PADDED).all(), "rows without any key"
    assert (head[:, :5] == PADDED).all(), "keys that are padding"
    assert (head[5:, 5:][~np.tri(7, dtype=bool)] == MASKED).all()
    assert (head[5:, 5:][np.tri(7, dtype=bool)] >= 0).all()
    assert found["allowed"][0].tolist() == [0] * 5 + [1, 2, 3, 4, 5, 6, 7]


def test_a_mask_of_each_heads_own_is_respected() -> None:
    allowed = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    allowed[:, 0, 0] = True
    attention = random(n=12, mask=allowed, causal=False)
    _, found = thumbs(attention)
    for head in range(3):
        rows = allowed[head].any(-1)
        assert ((found["heads"][1, head][rows] >= 0) == allowed[head][rows].numpy()).all()
    for reduce in ("mean", "max", "min"):
        for at in (0, 1, -1):
            assert ((found[reduce][at] >= 0) == allowed.any(0).numpy()).all()
    np.testing.assert_allclose(found["allowed"][0], allowed.sum(-1).float().mean(0), rtol=1e-6)


def test_weights_above_one_are_scaled_not_cut() -> None:
    weights = torch.rand(1, 6, 6) * 3
    _, found = thumbs(Attention.from_weights(weights))
    np.testing.assert_allclose(found["heads"][0, 0], weights[0], atol=3 * 5e-3)


# ── the bundle ────────────────────────────────────────────────────────────────────────────────────────────────────────


def maps_of(block: Block) -> list[str]:
    return [name.removeprefix("map/") for name in block.arrays if name.startswith("map/")]


@pytest.mark.parametrize("n", [6, 40, 130])
@pytest.mark.parametrize("budget", [12_000, 40_000, 200_000, 10**7])
def test_a_bundle_keeps_within_its_budget_and_uses_it(n: int, budget: int) -> None:
    attention = random(layers=3, heads=4, n=n, d=8)
    packed = wire.bundle(attention, budget=budget)
    assert len(packed) <= budget
    held = maps_of(unpack(packed))
    everything = {f"attention/{layer}/{head}" for layer in range(3) for head in range(4)}
    largest = max(len(wire.map_block(attention[0, head])) for head in range(4))
    assert everything <= set(held) or len(packed) > budget - 1.1 * largest - 512


@pytest.mark.parametrize("budget", range(8_000, 30_000, 1_000))
def test_a_bundle_of_many_small_maps_keeps_within_its_budget(budget: int) -> None:
    assert len(wire.bundle(random(layers=6, heads=6, n=4, d=2), budget=budget)) <= budget


def test_every_map_in_a_bundle_is_what_the_attention_says() -> None:
    """Oracle: Map.weights()."""
    attention = random(layers=2, heads=3, n=16)
    block = unpack(wire.bundle(attention, first=[("attention", None, None, "max")]))
    assert len(maps_of(block)) == 1 + (1 + 2 + 3) + 6
    for key in maps_of(block):
        _, layer, head, reduce = [*key.split("/"), "mean"][:4]
        view = attention.map(*(None if one == "*" else int(one) for one in (layer, head)), reduce=reduce)  # type: ignore[arg-type]
        cells = np.clip(cells_of(unpack(block.arrays[f"map/{key}"].tobytes())), 0, None)
        np.testing.assert_allclose(cells, view.weights(), atol=1e-3, err_msg=key)


def test_what_is_wanted_first_is_there_first() -> None:
    attention = random(layers=3, heads=4, n=60)
    wanted: list[wire.Selection] = [("attention", 2, 3, "mean"), ("attention", None, None, "mean")]
    thin = wire.bundle(attention, budget=1)
    block = unpack(wire.bundle(attention, budget=len(thin) + 16_000, first=wanted))
    assert maps_of(block)[:2] == ["attention/2/3", "attention/*/*/mean"]


def test_nothing_is_computed_that_could_not_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, computed = random(layers=8, heads=8, n=60), []
    original = wire.map_block

    def counted(view: Any, exact: bool = False) -> bytes:
        computed.append(view)
        return original(view, exact)

    monkeypatch.setattr(wire, "map_block", counted)
    thin = wire.bundle(attention, budget=1)
    computed.clear()
    packed = wire.bundle(attention, budget=len(thin) + 20_000)
    assert len(computed) <= len(maps_of(unpack(packed))) + 1
    computed.clear()
    wire.bundle(random(n=400), budget=12_000, first=[("attention", None, None, "mean"), ("attention", 0, 0, "mean")])
    assert computed == []


def test_however_small_the_budget_every_head_has_a_thumbnail() -> None:
    block = unpack(wire.bundle(random(n=130), budget=1))
    assert block.arrays.keys() == {"thumbs/attention"}
    assert block.meta["parts"][0]["thumb"] == {"rows": 8, "cols": 8, "sampled": False}


def test_a_page_without_a_kernel_gets_its_first_map_pooled_rather_than_not_at_all() -> None:
    attention = random(n=300)
    wanted: list[wire.Selection] = [("attention", None, None, "mean")]
    alone = unpack(wire.bundle(attention, budget=60_000, first=wanted, standalone=True))
    nested = unpack(alone.arrays["map/attention/*/*/mean"].tobytes())
    assert max(nested.meta["step"]) > 1
    assert alone.meta["notes"] == ["1 of 6 heads are stored exactly; a larger budget holds more."]
    one = unpack(wire.bundle(attention, budget=14_000, first=[("attention", 1, 2, "mean")], standalone=True))
    assert one.meta["notes"] == ["0 of 6 heads are stored exactly; a larger budget holds more."], (
        "a pooled one is not exact"
    )
    assert "map/attention/1/2" in one.arrays
    live = unpack(wire.bundle(attention, budget=60_000, first=wanted))
    assert "map/attention/*/*/mean" not in live.arrays, "the kernel is asked: it has the exact one"
    assert live.meta["notes"] == []
    whole = unpack(wire.bundle(attention, budget=10**7, first=wanted, standalone=True))
    assert whole.meta["notes"] == []


@pytest.mark.parametrize("budget", [0, -5, "many", None, float("nan")])
def test_a_budget_that_is_none_is_refused(budget: Any) -> None:
    with pytest.raises(ValueError, match="budget is"):
        wire.bundle(random(), budget=budget)


def test_a_bundle_describes_parts_axes_and_check() -> None:
    words, image = Tokens.named(["a", "\ud800", "c"]), Tokens.patches(2, 2, before=1)
    parts = [
        Part("text", (Layer("t.0", Mask.causal(3, 3, window=2), weights=torch.rand(1, 2, 3, 3)),), words, words),
        Part("cross", (Layer("c.0", Mask.full(3, 5), weights=torch.rand(1, 4, 3, 5)),), words, image, title="looks"),
    ]
    check = Check(ok=False, max_error=float("nan"), rows=6, tolerance=1e-4, text="words")
    attention = Attention(parts, model="Two", check=check, notes=["a note"])
    block = unpack(wire.bundle(attention))
    meta = block.meta
    assert {"thumbs/text", "thumbs/cross"} <= block.arrays.keys()
    assert (meta["title"], meta["model"], meta["notes"]) == ("Two", "Two", ["a note"])
    assert meta["check"] == {"ok": False, "max_error": None, "rows": 6, "text": "words"}
    assert len(meta["axes"]) == 2, "the words stand on three axes and are sent once"
    nothing = {"generated": [], "image": [], "segments": None, "words": None, "sentences": None, "grid": None}
    nothing |= {"first_patch": None, "picture": None, "before": None}
    assert meta["axes"][0] | {"labels": 0} == nothing | {
        "kind": "token", "labels": 0, "raw": ["a", "\ud800", "c"], "special": [], "punctuation": [],
    }  # fmt: skip
    assert meta["samples"] == {"count": 1, "at": 0, "noun": "sample"}
    assert [meta["axes"][1][name] for name in ("special", "grid", "first_patch")] == [[0], [2, 2], 1]
    assert meta["sides"] is None
    text, cross = meta["parts"]
    assert (text["queries"], text["keys"], text["causal"], text["title"]) == (0, 0, True, "text")
    assert text["aligned"] is None
    assert text["layers"] == [{"name": "t.0", "heads": 2, "kv_heads": 2, "window": 2, "absent": None}]
    assert (cross["queries"], cross["keys"], cross["causal"], cross["title"]) == (0, 1, False, "looks")
    assert cross["thumb"] == {"rows": 3, "cols": 5, "sampled": False}
    assert meta["versions"].keys() >= {"attnwidget", "torch"}


def test_an_axis_says_what_stands_between_its_tokens() -> None:
    text = Tokens(("a", "b", "⏎"), spans=((0, 1), (4, 5), (5, 6)), text="a \n b\n")
    attention = Attention.from_weights(torch.eye(3), text)
    assert unpack(wire.bundle(attention)).meta["axes"][0]["before"] == ["", " \n ", ""]


def test_an_image_travels_with_its_axis() -> None:
    """Oracle: the pixels that went in; at a small size, their means."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    seen = Tokens.patches(3, 4, before=1, picture=pixels)
    attention = Attention.from_weights(torch.eye(13), seen)
    packed = unpack(wire.bundle(attention))
    assert packed.meta["axes"][0]["picture"] == "picture/0"
    picture = unpack(packed.arrays["picture/0"].tobytes())
    assert picture.kind == "picture"
    np.testing.assert_array_equal(picture.arrays["rgb"], pixels)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    large = Attention.from_weights(torch.eye(13), Tokens.patches(3, 4, before=1, picture=noise))
    smaller = unpack(wire.bundle(large, budget=60_000))
    assert unpack(smaller.arrays["picture/0"].tobytes()).arrays["rgb"].shape == (64, 64, 3)
    none = unpack(wire.bundle(large, budget=20_000))
    assert (none.meta["axes"][0]["picture"], "picture/0" in none.arrays) == (None, False)


def test_placeholders_of_an_image_are_its_patches() -> None:
    text = Tokens(tuple("abcd"), image=(False, True, True, False), grid=(1, 2), picture=np.zeros((2, 4, 3), np.uint8))
    axis = unpack(wire.bundle(Attention.from_weights(torch.eye(4), text))).meta["axes"][0]
    assert (axis["image"], axis["grid"], axis["first_patch"], axis["picture"]) == ([1, 2], [1, 2], None, "picture/0")


def test_statistics_travel_where_they_are_cheap_and_are_answered_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: measures.statistics."""
    attention = random()
    found = statistics(attention)
    listed = unpack(wire.bundle(attention)).meta["parts"][0]["measures"]
    assert [one["name"] for one in listed] == list(found)
    for one in listed:
        np.testing.assert_allclose(one["values"], found[one["name"]], rtol=1e-4)
        assert one["title"] == STATISTICS[one["name"]]
    monkeypatch.setattr(wire, "_CHEAP_WORK", 10)
    own = {"attention": {"mine": torch.tensor([[1.0, torch.nan, torch.inf]] * 2)}}
    [only] = unpack(wire.bundle(attention, measures=own)).meta["parts"][0]["measures"]
    assert only == {"name": "mine", "title": "mine", "values": [[1.0, None, None]] * 2}
    assert len(unpack(wire.bundle(attention, standalone=True)).meta["parts"][0]["measures"]) == len(listed)
    answered = ask(attention, "measures", layer=None, head=None)
    assert (answered.kind, answered.meta["measures"]) == ("measures", listed)
    replaced = {"attention": {"entropy": torch.zeros(2, 3)}}
    assert unpack(wire.bundle(attention, measures=replaced)).meta["parts"][0]["measures"][0]["title"] == "entropy"


def test_measures_of_what_is_large_are_those_of_some_queries_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a pointer that comes near the matrix would keep a kernel busy for minutes. Oracles: statistics, change."""
    attention, queries = random(), torch.tensor([4, 12])
    monkeypatch.setattr(wire, "_MEASURED_WORK", 300)  # of 2 · 3 · 20 · 20 weights
    monkeypatch.setattr(wire, "_CHEAP_WORK", 10)
    some = statistics(attention, queries=queries)
    stored = unpack(wire.bundle(attention, standalone=True)).meta["parts"][0]["measures"]
    for one in stored:
        assert one["title"] == f"{STATISTICS[one['name']]}, over 2 of 20 queries"
        np.testing.assert_allclose(one["values"], some[one["name"]], rtol=1e-4, atol=1e-7)
    assert ask(attention, "measures", layer=None, head=None).meta["measures"] == stored
    compared = Difference(attention, random(causal=False))
    change, *less = ask(compared, "measures", layer=None, head=None).meta["measures"]
    np.testing.assert_allclose(change["values"], compared.change(queries=queries), rtol=1e-4)
    assert change["title"].endswith("over 2 of 20 queries")
    assert less[0]["title"].endswith("over 2 of 20 queries: A − B")


def test_many_heads_that_a_page_opens_with_share_its_room() -> None:
    """Or the last would have none, and the page be as large as it takes."""
    attention, first = random(heads=20, n=400), [("attention", 1, head, "mean") for head in range(20)]
    bundle = wire.bundle(attention, budget=120_000, first=first, standalone=True)
    assert len(bundle) <= 120_000
    blocks = [unpack(bytes(unpack(bundle).arrays[f"map/attention/1/{head}"])) for head in range(20)]
    sides = [block.meta["step"][0] for block in blocks]
    assert 1 < max(sides) <= 2 * min(sides)


def test_measures_of_very_many_heads_leave_the_room_to_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MOST_MEASURED", 5)
    assert unpack(wire.bundle(random())).meta["parts"][0]["measures"] == []
    assert unpack(wire.bundle(random(), standalone=True)).meta["parts"][0]["measures"] != []


def test_a_statistic_that_means_nothing_here_is_left_out() -> None:
    cross = Attention.from_weights(torch.full((2, 3), 1 / 3), (["a", "b"], ["c", "d", "e"]))
    names = {one["name"] for one in unpack(wire.bundle(cross)).meta["parts"][0]["measures"]}
    assert names == STATISTICS.keys() - {"distance", "previous", "diagonal"}


def test_the_steps_of_one_head_are_answered_and_stored() -> None:
    """Oracle: steps.block."""
    attention = random()
    assert ask(attention, "steps", layer=1, head=2).kind == "steps"
    assert "choose a layer and a head" in refusal(attention, want="steps", head=None)
    assert "no head 9" in refusal(attention, want="steps", head=9)
    packed = unpack(wire.bundle(attention, stepped=[("attention", 1, 2), ("attention", 9, 9)]))
    assert [name for name in packed.arrays if name.startswith("steps/")] == ["steps/attention/1/2"]
    assert packed.arrays["steps/attention/1/2"].tobytes() == steps.block(attention, "attention", 1, 2)


def test_a_batch_is_a_bundle_with_a_bundle_for_each_other_text() -> None:
    """Oracle: the exact rows that Python computes of the other text."""
    attention = make.hybrid_batch(np.random.default_rng(5))
    packed = unpack(wire.bundle(attention, budget=200_000))
    assert packed.meta["samples"] == {"count": 2, "at": 0, "noun": "text"}
    assert packed.meta["axes"][0]["generated"] == [6, 7, 8]
    inner = unpack(packed.arrays["sample/1"].tobytes())
    assert inner.meta["samples"]["at"] == 1
    assert inner.meta["axes"][0]["generated"] == [6, 7]
    block = unpack(inner.arrays["map/decoder/2/1"].tobytes())
    assert block.kind == "weights"
    codes = block.arrays["hi"].astype(int) * 256 + block.arrays["lo"]
    row = attention.select(1)["decoder", 2, 1].row(8)
    seen = row > 0
    np.testing.assert_allclose((codes[8][seen] / 65000) ** 2 * block.meta["vmax"], row[seen], atol=1e-3)
    alone = unpack(wire.bundle(attention, budget=20_000, standalone=True))
    assert alone.meta["notes"][-1].startswith("1 of 2 texts are stored")


def test_a_layer_without_attention_is_a_row_of_nothing() -> None:
    attention = make.hybrid_batch(np.random.default_rng(5))
    info, block = thumbnails.thumbs(attention, attention.part())
    heads = unpack(block).arrays["heads"]
    assert (heads[1] > 250).all(), "no cell of it holds a weight"
    meta = unpack(wire.bundle(attention)).meta
    assert [(one["heads"], one["absent"]) for one in meta["parts"][0]["layers"]] == [
        (2, None), (0, "MambaMixer: no attention seen"), (2, None),
    ]  # fmt: skip
    reply, _ = wire.answer(
        attention, {"id": 1, "want": "map", "part": "decoder", "layer": 1, "head": 0, "reduce": "mean"}
    )
    assert reply["type"] == "error"
    assert "Layer 1 of decoder has no map (MambaMixer: no attention seen). These have: 0, 2." in reply["message"]


def test_a_token_of_a_million_characters_does_not_fill_the_bundle() -> None:
    for tokens in (["x" * 10**6, "y"], Tokens(labels=("x" * 10**6, "y"))):
        assert len(wire.bundle(Attention.from_weights(torch.eye(2), tokens=tokens))) < 50_000
