"""Figures: their numbers against arithmetic done here, their files against what readers of them expect.

The oracle of what is drawn is the file itself: arcs and cells are read back out of it, by a reader of SVG that knows
nothing of the package.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from traitlets import TraitError

from attnwidget import capture_generation, compare, figures, tiny, to_pdf, to_png, to_svg, trace
from attnwidget.attention import Attention
from attnwidget.capture import capture
from attnwidget.figures import draw, inks, looked, words
from attnwidget.selection import VIEWS as VIEWS_
from attnwidget.selection import Selection
from attnwidget.tokens import Tokens
from gallery import figures as kept

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def plain(n: int = 12, layers: int = 2, heads: int = 3, tokens: Any = None, seed: int = 0, **how: Any) -> Attention:
    generator = torch.Generator().manual_seed(seed)
    q, k = 1.6 * torch.randn(2, layers, heads, n, 8, generator=generator)
    labels = [f"word{i}" for i in range(n)] if tokens is None else tokens
    return Attention.from_qk(q, k, labels, model="Toy", **{"causal": True, **how})


def svg(attention: Any, width: float = 85, of: figures.Shows = "view", **traits: Any) -> ElementTree.Element:
    return ElementTree.fromstring(draw(Selection(attention, **traits), "svg", width=width, of=of))


def texts(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    """Every text with the point it is anchored at."""
    found = []
    for one in root.iter(f"{SVG}text"):
        x, y = one.get("x"), one.get("y")
        if x is None:
            x, y = re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", one.get("transform", ""))[0]
        found.append(("".join(one.itertext()), float(x), float(y or 0)))
    return found


def said(root: ElementTree.Element) -> str:
    return " ".join(text for text, _, _ in texts(root))


def shapes(root: ElementTree.Element, colour: str) -> list[tuple[NDArray[Any], float]]:
    """Filled polygons of a colour, [point, (x, y)], with their opacity."""
    found = []
    for path in root.iter(f"{SVG}path"):
        style = path.get("style", "")
        if f"fill: {colour}" not in style:
            continue
        points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", "")), float)
        alpha = re.search(r"fill-opacity: ([\d.]+)", style)
        found.append((points, float(alpha[1]) if alpha else 1.0))
    return found


def ends(points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both ends of an outline that goes along one side of a curve and back along the other."""
    points = points[:-1] if np.allclose(points[0], points[-1]) else points
    half = len(points) // 2
    return (points[0] + points[-1]) / 2, (points[half - 1] + points[half]) / 2


def fewest(row: NDArray[Any], share: float) -> set[int]:
    """The fewest keys that carry a share of a row, by trying one after the other."""
    found: set[int] = set()
    for j in sorted(range(len(row)), key=lambda j: (-row[j], j)):
        if row[list(found)].sum() >= share * row.sum() * (1 - 1e-6):
            break
        found.add(j)
    return found


# ── arcs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_the_arcs_are_the_fewest_that_carry_the_share_and_as_dark_as_their_weights(share: float) -> None:
    attention = plain(9)
    weights = attention[1, 2].weights().double().numpy()
    root = svg(attention, layer=1, head=2, threshold=share)
    rows = {y: int(text[4:]) for text, x, y in texts(root) if text.startswith("word") and x < 100}
    drawn = {}
    for points, alpha in shapes(root, "#5b6673"):
        first, last = ends(points)
        query, key = (rows[min(rows, key=lambda y, at=end[1]: abs(y - 2.3 - at))] for end in (first, last))
        drawn[query, key] = alpha
    wanted = {(i, j) for i, row in enumerate(weights) for j in fewest(row, share) if row[j] > 0}
    assert drawn.keys() == wanted
    for (i, j), alpha in drawn.items():
        assert alpha == pytest.approx(0.16 + 0.6 * math.sqrt(weights[i, j]), abs=2e-6), "fewer than 120: none is paler"


def test_of_too_many_edges_the_strongest_are_drawn_and_the_others_told_in_numbers() -> None:
    attention = plain(60, causal=False)
    weights = attention[0, 0].weights().double().numpy()
    edges = sorted((row[j] for row in weights for j in fewest(row, 0.9)), reverse=True)
    root = svg(attention, layer=0, head=0)
    assert len(shapes(root, "#5b6673")) == 200
    rest = sum(edges[200:]) / 60
    assert f"The strongest 200 of the {len(edges)} edges that carry 90 %" in said(root).replace("\u202f", "")
    assert f"carry {rest:.2f} of a row on average" in said(root)


def test_a_token_in_focus_has_its_weights_in_numbers() -> None:
    attention = plain(9)
    root = svg(attention, layer=1, head=2, query=7)
    row = attention[1, 2].row(7).double().numpy()
    told = {round(y, 1): text for text, x, y in texts(root) if re.fullmatch(r"[<\d.]+", text)}
    places = {round(y, 1): int(text[4:]) for text, x, y in texts(root) if text.startswith("word") and x > 100}
    shown = fewest(row, 0.9) | {j for j in range(9) if row[j] >= 0.005}
    assert {places[min(places, key=lambda at, y=y: abs(at - y))]: text for y, text in told.items()} == {
        j: words.weight_text(float(row[j])) for j in shown
    }


def test_pinned_rows_are_added_up() -> None:
    attention = plain(6)
    looking = looked.Looking(Selection(attention, layer=0, head=1, pinned=[4, 5]))
    assert looking.focus == [4, 5]
    total = looked.summed(looking.map.rows(looking.focus))
    assert total == pytest.approx(attention[0, 1].tile([4, 5], range(6)).sum(0).numpy())
    assert "Σ over 2" in said(svg(attention, layer=0, head=1, pinned=[4, 5]))


def test_several_heads_have_colours_of_their_own_and_a_legend() -> None:
    root = svg(plain(), heads=[(0, 1), (1, 0), (1, 2)], query=5)
    for head in ("layer 0 · head 1", "layer 1 · head 0", "layer 1 · head 2"):
        assert head in said(root)
    assert shapes(root, "#3488e3")
    assert shapes(root, "#e75508")
    assert shapes(root, "#196560")


def test_a_difference_says_which_side_has_more() -> None:
    difference = compare(plain(seed=0), plain(seed=1), names=("new", "old"))
    root = svg(difference, layer=0, head=0, query=7)
    assert "more in new than in old" in said(root)
    assert "new − old" in said(root)
    row = difference.map(0, 0).row(7).numpy()
    strongest = float(row[np.nanargmax(np.abs(row))])
    assert words.delta_text(strongest) in said(root)
    assert svg(difference, layer=0, head=0, view="heatmap") is not None


def test_what_rows_give_to_no_key_stands_beside_them() -> None:
    attention = plain(6, sink=torch.full((3,), 1.0))
    leak = 1 - attention[0, 0].weights().sum(1).double()
    root = svg(attention, layer=0, head=0)
    assert "leaves" in said(root)
    for share in leak.tolist():
        assert words.weight_text(share) in [text for text, _, _ in texts(root)]


@pytest.mark.parametrize("causal", [True, False])
def test_above_one_line_arcs_back_are_above_and_arcs_ahead_below(causal: bool) -> None:
    root = svg(plain(8, causal=causal), layer=0, head=0, arrangement="line")
    assert ("below: ahead" in said(root)) is not causal
    assert {f"word{i}" for i in range(8)} <= {text for text, _, _ in texts(root)}


# ── heat map, matrix ─────────────────────────────────────────────────────────────────────────────────────────────────


def images(root: ElementTree.Element) -> list[NDArray[Any]]:
    """The pictures in a file, [row, column, 3 or 4]."""
    found = []
    for one in root.iter(f"{SVG}image"):
        data = base64.b64decode(one.get(LINK, "").split(",", 1)[1])
        found.append(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")))
    return found


def once(picture: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """One pixel of each cell of a picture whose cells are squares of pixels, all of them alike."""
    tall, wide = picture.shape[0] // shape[0], picture.shape[1] // shape[1]
    blocks = picture.reshape(shape[0], tall, shape[1], wide, -1)
    assert (blocks == blocks[:, :1, :, :1]).all(), "nothing is smoothed"
    return blocks[:, 0, :, 0]


@pytest.mark.parametrize("scale", ["linear", "sqrt", "log", "uniform"])
def test_the_colour_of_a_cell_is_its_weight(scale: str) -> None:
    attention = plain(10)
    weights = attention[0, 2].weights().double().numpy()
    root = svg(attention, layer=0, head=2, view="heatmap", scale=scale)
    pixels = once(images(root)[0], (10, 10))
    seen = np.tril(np.ones((10, 10), bool))
    assert (pixels[~seen] == 255).all(), "masked cells are white, which no weight is"
    ramp = inks.ramp(scale).astype(int)
    level = abs(pixels[..., None, :3].astype(int) - ramp).sum(-1).argmin(-1) / 255
    assert (ramp[(255 * level).round().astype(int)] == pixels[..., :3])[seen].all()
    allowed = np.arange(1, 11)[:, None]
    p = np.where(seen, weights, 1.0)
    wanted = {"linear": p, "sqrt": p**0.5, "log": 1 + np.log2(p) / 16, "uniform": 0.5 + np.log2(p * allowed) / 8}[scale]
    # Neighbours on the ramp may be the same colour once they are rounded to bytes.
    assert abs(level - wanted.clip(0, 1))[seen].max() <= 1.5 / 255
    assert inks.LEGENDS[scale][2] in said(root)
    assert "masked" in said(root)


def test_padding_is_hatched_and_nan_crossed() -> None:
    weights = torch.rand(6, 6)
    weights[2, 3] = torch.nan
    root = svg(Attention.from_weights(weights), layer=0, head=0, view="heatmap")
    assert "not a number" in said(root)
    assert (once(images(root)[0], (6, 6))[2, 3, :3] == 255).all()
    keep = torch.tensor([True] * 4 + [False] * 2)
    padded = plain(6, causal=False, mask=keep[None].expand(6, 6) & keep[:, None])
    root = svg(padded, layer=0, head=0, view="heatmap")
    assert "padding" in said(root)
    assert (once(images(root)[0], (6, 6))[:, 4:, 3] == 0).sum() >= 4, "they let the hatching through"


def test_a_map_with_more_cells_than_dots_is_pooled_by_its_strongest() -> None:
    attention = plain(1400, layers=1, heads=1)
    root = svg(attention, layer=0, head=0, view="heatmap")
    picture = images(root)[0]
    rows, cols = picture.shape[:2]
    assert rows < 1400
    weights = attention[0, 0].weights().numpy()
    at = np.arange(rows) * 1400 // rows
    pooled = np.maximum.reduceat(np.maximum.reduceat(weights, at, 0), np.arange(cols) * 1400 // cols, 1)
    ramp = inks.ramp("sqrt").astype(int)
    there = pooled > 0
    wanted = ramp[np.floor(255 * np.sqrt(pooled) + 0.5).astype(int)]
    assert (picture[..., :3].astype(int) == wanted)[there].all()
    assert f"A dot is the strongest of {-(-1400 // rows)} × {-(-1400 // cols)} weights." in said(root)


def test_small_maps_have_their_numbers_in_the_cells() -> None:
    root = svg(plain(4), layer=0, head=0, view="heatmap")
    told = [text for text, _, _ in texts(root)]
    for weight in plain(4)[0, 0].weights().double().flatten().tolist():
        if weight > 0:
            assert words.cell_text(weight, False) in told


def test_sinks_are_set_aside_and_the_scale_ends_at_what_is_left() -> None:
    weights = torch.full((12, 12), 0.02)
    weights[:, 0] = 0.78
    root = svg(Attention.from_weights(weights), layer=0, head=0, view="heatmap", sinks=False)
    assert "set aside" in said(root)
    assert "“0” takes 0.78 of the weight." in said(root)
    assert "0.02" in [text for text, _, _ in texts(root)], "the end of the ramp"


def test_the_matrix_holds_every_head_at_its_place() -> None:
    attention = plain(12, layers=3, heads=4)
    root = svg(attention, of="matrix")
    mosaic = images(root)[0]
    for name in ("0", "1", "2", "3", "mean", "x̄", "weight, square-root scale"):
        assert name in [text for text, _, _ in texts(root)]
    thumbs = looked_codes(attention)
    left, top, size = places(mosaic, 4, 3)
    for layer in range(3):
        for head in range(4):
            tile = mosaic[top[layer] :, left[head] :]
            at = [int((i + 0.5) * size / 12) for i in range(12)]
            cells = [[tile[y, x, :3] for x in at] for y in at]
            p = thumbs[layer, head].astype(np.float32).astype(float)  # as both languages have them
            shade = inks.ramp("sqrt")[np.floor(255 * np.sqrt(p) + 0.5).astype(int)]
            assert (np.array(cells) == shade)[np.tril(np.ones((12, 12), bool))].all(), (layer, head)
            assert (np.array(cells) == 255)[np.triu(np.ones((12, 12), bool), 1)].all(), "masked"


def test_sorted_heads_stand_in_the_order_of_their_measure() -> None:
    own = np.array([[0.1, 0.9, 0.5], [0.3, 0.2, 0.8]])
    root = svg_sorted(own)
    left, top, size = places(images(root)[0], 3, 2)
    plainly = images(svg(plain(), 400, "matrix"))[0]
    old_left, old_top, _ = places(plainly, 3, 2)
    for layer, order in enumerate([[1, 2, 0], [2, 0, 1]]):
        for col, head in enumerate(order):
            new = images(root)[0][top[layer] :, left[col] :][:size, :size]
            assert (new == plainly[old_top[layer] :, old_left[head] :][:size, :size]).all(), (layer, head)
    assert "sorted by mine, 0.10 to 0.90" in said(root)
    statistic = said(svg(plain(), of="matrix", sort="entropy"))
    assert "sorted by entropy" in statistic


def svg_sorted(own: NDArray[Any]) -> ElementTree.Element:
    chosen = Selection(plain(), measures={"mine": own}, sort="mine")
    return ElementTree.fromstring(draw(chosen, "svg", width=400, of="matrix"))


def looked_codes(attention: Attention) -> NDArray[Any]:
    """[layer, head, query, key] the weights of a thumbnail, which keeps 250 steps of their square roots."""
    weights = np.stack([[attention[la, he].weights().double().numpy() for he in range(4)] for la in range(3)])
    return (np.round(250 * np.sqrt(weights)) / 250) ** 2


def places(mosaic: NDArray[Any], heads: int, layers: int) -> tuple[list[int], list[int], int]:
    """Where pictures begin, across and down, and how large they are: gaps are white all along."""
    white = (mosaic[..., :3] == 255).all(-1)
    found = []
    for axis, count in ((0, heads), (1, layers)):
        gap = white.all(axis)
        found.append([i for i in range(len(gap)) if not gap[i] and (i == 0 or gap[i - 1])][:count])
    return found[0], found[1], int(np.argmax(white.all(0)))


def test_words_and_sentences_add_up_as_the_map_does() -> None:
    model, tokenizer = tiny.decoder()
    attention = capture(model, "The cat saw the dog, and the dog saw it too. It was unbelievably tired.", tokenizer)
    for group in ("word", "sentence"):
        chosen = Selection(attention, layer=1, head=0, group=group)
        found = looked.Looking(chosen).map
        assert found.cells.clip(0) == pytest.approx(np.asarray(chosen.map.weights()), abs=1e-6)
        assert [words.printable(one) for one in found.queries.labels] == list(chosen.map.queries.labels)


# ── graph, steps ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_strongest_path_is_the_strongest_of_all() -> None:
    attention = plain(5, layers=3, heads=1)
    root = svg(attention, view="graph", head=0, query=4, threshold=1.0)
    weights = [attention[layer, 0].weights().double().numpy() for layer in range(3)]
    paths = [
        (weights[2][4, a] * weights[1][a, b] * weights[0][b, c], (a, b, c))
        for a in range(5) for b in range(5) for c in range(5)
    ]  # fmt: skip
    product, (a, b, c) = max(paths)
    told = said(root)
    assert f"Strongest path, product {product:.2f}:" in told
    assert f"{weights[2][4, a]:.2f} “word{a}” → {weights[1][a, b]:.2f} “word{b}” →" in told.replace("“ ", "“")
    assert f"{weights[0][b, c]:.2f} “word{c}”." in told


def test_the_steps_are_those_that_the_model_took() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 7, 8, generator=generator)
    attention = Attention.from_qk(q, k, [f"t{i}" for i in range(7)], v=v, causal=True)
    root = svg(attention, width=170, view="steps", layer=0, head=0, query=5)
    told = [text for text, _, _ in texts(root)]
    dot = (q[0, 0, 5] @ k[0, 0].T).double()
    weight = (dot[:6] / math.sqrt(8)).softmax(0)
    for j in range(6):
        for text in (
            words.figure(float(dot[j])),
            words.figure(float(dot[j]) / math.sqrt(8)),
            words.weight_figure(float(weight[j])),
        ):
            assert text in told, j
    assert {"q·k", "÷ √8", "mask", "softmax", "× v", "masked"} <= set(told)
    z = weight @ v[0, 0, :6].double()
    assert f"norm {words.figure(float(z.norm()))}" in told


@pytest.mark.parametrize("width", kept.WIDTHS)
def test_the_strongest_key_of_the_steps_is_whole_and_the_steps_count_from_one(width: int) -> None:
    """The strongest key is bold, which is wider; here it is also the longest."""
    q, k, v = torch.randn(3, 1, 1, 7, 8, generator=torch.Generator().manual_seed(0))
    k[..., 0, :] = 3 * q[..., 6, :]
    attention = Attention.from_qk(q, k, ["<s>", *"abcdef"], v=v, causal=True)
    root = svg(attention, width=width, view="steps", layer=0, head=0, query=6)
    bold = [one for one in root.iter(f"{SVG}text") if "font-weight: 700" in one.get("style", "")]
    assert "<s>" in ["".join(one.itertext()) for one in bold]
    numbers = [text for text, _, _ in texts(root) if re.fullmatch(r"[1-9]", text)]
    assert numbers == ["1", "2", "3", "4", "5"], "q and k, q·k, ÷ √8, softmax, × v"


def test_switched_steps_say_what_has_changed() -> None:
    root = svg(plain(), view="steps", layer=0, head=0, switches={"scale": False})
    assert "Changed: no scaling;" in said(root)
    assert "÷ √8, off" in said(root)


def test_text_table_and_image_are_drawn() -> None:
    assert "word3" in said(svg(plain(), view="text", layer=0, head=0, query=7))
    table = said(svg(plain(), view="table", layer=0, head=0))
    strongest = float(np.sort(plain()[0, 0].weights().numpy().ravel())[-2])
    assert f"{strongest:.4f}" in table
    count = sum(len(fewest(row, 0.9)) for row in plain()[0, 0].weights().double().numpy())
    assert f"{count} edges carry 90 % of each row; the strongest 40 of 78 are listed." in table
    assert "the weight of 2 pinned tokens; 11 edges listed." in said(svg(plain(), view="table", head=0, pinned=[4, 5]))
    assert "with any weight in each row; 10 edges listed." in said(
        svg(Attention.from_weights(torch.eye(10)), view="table", threshold=1.0)
    ), "no weight is no edge"
    axis = Tokens.patches(2, 3, before=1, picture=np.full((20, 30, 3), 128, np.uint8))
    root = svg(plain(7, tokens=axis, causal=False), view="image", layer=0, head=0, query=3)
    assert len(images(root)) == 3, "the picture, its patches, the ramp"
    assert "on the picture" in said(root)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [85, 170, 20, 400])
def test_a_figure_is_as_wide_as_it_was_asked_to_be(tmp_path: Path, width: float) -> None:
    attention = plain()
    root = ElementTree.fromstring(to_svg(attention, tmp_path / "a.svg", width=width).read_bytes())
    assert re.fullmatch(r"[\d.]+mm", root.get("width", ""))
    assert float(root.get("width", "")[:-2]) == pytest.approx(width, rel=1e-3)
    pdf = to_pdf(attention, tmp_path / "a.pdf", width=width).read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", pdf)
    assert box is not None
    assert float(box[1]) / 72 * 25.4 == pytest.approx(width, rel=1e-3)
    picture = Image.open(to_png(attention, tmp_path / "a.png", width=width, dpi=150))
    assert picture.width == pytest.approx(width / 25.4 * 150, abs=1)
    assert picture.info["dpi"][0] == pytest.approx(150, abs=0.1)
    assert np.asarray(picture).std() > 5, "something is drawn"


VIEWS: list[dict[str, Any]] = [
    {"view": "arcs", "query": 3}, {"view": "arcs", "arrangement": "line"}, {"view": "heatmap"}, {"view": "graph"},
    {"view": "steps"}, {"view": "text"}, {"view": "table"},
]  # fmt: skip
HOSTILE = [
    "$x^2_{", "<script>alert(1)</script>", "a\nb", "\x00\x1b\u200b", "שלום", "مرحبا", "🙂👩‍🔬", "x" * 10_000, "&amp;",
    "]]>", "\ud83d", "\\textbf{", "漢字", "\u202eevil", "",
]  # fmt: skip


@pytest.mark.parametrize("traits", VIEWS, ids=lambda traits: "-".join(map(str, traits.values())))
@pytest.mark.filterwarnings("error")
def test_tokens_are_text_whatever_they_hold(traits: dict[str, Any]) -> None:
    tokens = Tokens(tuple(HOSTILE))  # past named(), which would have made some of them harmless
    attention = Attention.from_qk(*torch.randn(2, 2, 1, len(HOSTILE), 8), tokens, causal=True, model="<b>&\x01")
    chosen = Selection(attention, layer=0, head=0, **traits)
    root = ElementTree.fromstring(draw(chosen, "svg", of="both"))
    assert not [one for one in root.iter() if "script" in str(one.tag)]
    told = said(root)
    if traits["view"] in ("arcs", "heatmap", "text"):
        assert "$x^2_{" in told
        assert "<script>" in told
        assert "שלום" in told
    assert len(max(told.split(), key=len)) < 200
    draw(chosen, "png", dpi=60)
    draw(chosen, "pdf")


@pytest.mark.filterwarnings("error")
def test_names_are_text_whatever_they_hold() -> None:
    """Oracle: a reader of XML; and no format refuses them."""
    strange = "a\x00\x1b<b>\ud83d\u2028"
    both = compare(plain(seed=0), plain(seed=1), names=(strange, strange[::-1]))
    one = Attention.from_weights(torch.eye(4), part=strange, model=strange)
    for chosen in (
        Selection(both, layer=0, head=0, query=5),
        Selection(one, measures={strange: np.ones((1, 1))}, sort=strange),
    ):
        told = said(ElementTree.fromstring(draw(chosen, "svg", of="both")))
        assert "a··<b>" in told
        draw(chosen, "png", of="both", dpi=60)
        draw(chosen, "pdf", of="both")


def test_letters_are_letters(tmp_path: Path) -> None:
    attention = plain(tokens=["needle", *"abcdefghijk"])
    assert ">needle</text>" in to_svg(attention, tmp_path / "a.svg").read_text("utf-8")
    pdf = to_pdf(attention, tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in pdf, "TrueType"
    assert b"/Type3" not in pdf
    sizes = [
        float(one)
        for one in re.findall(
            r"font(?:-size)?: (?:bold |italic |\d+ )*([\d.]+)px", to_svg(attention, tmp_path / "a.svg").read_text()
        )
    ]
    assert sizes
    assert min(sizes) >= 5.5


AGAIN = """
import hashlib, torch
from attnwidget import Attention
from attnwidget.figures import draw
from attnwidget.selection import Selection
torch.manual_seed(0)
attention = Attention.from_qk(*torch.randn(2, 2, 3, 9, 8), [f"t{i} é漢" for i in range(9)], causal=True)
for view in ("arcs", "heatmap", "graph", "steps"):
    for format in ("svg", "pdf", "png"):
        made = draw(Selection(attention, layer=0, head=0, view=view), format, of="both", dpi=72)
        print(view, format, hashlib.sha256(made).hexdigest())
"""


def fresh(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**__import__("os").environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_same_figure_is_the_same_file_and_holds_no_date() -> None:
    assert fresh(AGAIN, PYTHONHASHSEED="1") == fresh(AGAIN, PYTHONHASHSEED="2", SOURCE_DATE_EPOCH="7")
    for format in ("svg", "pdf", "png"):
        made = draw(Selection(plain()), format)  # type: ignore[arg-type]
        assert not re.search(rb"CreationDate|ModDate|dc:date|tIME", made)
        assert str(time.localtime().tm_year).encode() + b"-" not in made


def test_what_a_user_has_set_in_matplotlib_neither_shows_nor_changes() -> None:
    chosen = Selection(plain(), view="heatmap", layer=0, head=0)
    before = draw(chosen, "svg")
    own = {"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9, "text.color": "red", "savefig.bbox": "tight"}
    with matplotlib.rc_context(own):
        kept = dict(matplotlib.rcParams)
        assert draw(chosen, "svg") == before
        assert dict(matplotlib.rcParams) == kept


def test_figures_of_several_threads_are_those_of_one() -> None:
    chosen = [Selection(plain(), view=view, layer=0, head=0) for view in ("heatmap", "arcs", "table")]
    before, kept = [draw(one, "svg") for one in chosen], dict(matplotlib.rcParams)
    with ThreadPoolExecutor(3) as several:
        assert list(several.map(draw, chosen * 2, ["svg"] * 6)) == before * 2
    assert dict(matplotlib.rcParams) == kept


def test_drawing_needs_no_pyplot() -> None:
    assert fresh(AGAIN + "import sys; print('matplotlib.pyplot' in sys.modules)").splitlines()[-1] == "False"


def test_a_figure_carries_the_python_that_makes_it_again(tmp_path: Path) -> None:
    model, tokenizer = tiny.decoder()
    attention = capture(model, "The cat saw the dog.", tokenizer)
    for write, name in ((to_svg, "a.svg"), (to_pdf, "a.pdf"), (to_png, "a.png")):
        path = write(attention, tmp_path / name, width=100, of="both", layer=1, head=0, query=3)  # type: ignore[operator]
        first = path.read_bytes()
        found = figures_provenance(path)
        assert found["state"]["layer"] == 1
        path.unlink()
        scope = {"model": model, "tokenizer": tokenizer}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            exec(found["call"], scope)
        assert path.read_bytes() == first


def figures_provenance(path: Path) -> dict[str, Any]:
    """The JSON in a file, found by what its format says."""
    data = path.read_bytes()
    if path.suffix == ".svg":
        (one,) = ElementTree.fromstring(data).iter(f"{SVG}metadata")
        text = one.text or ""
    elif path.suffix == ".png":
        text = Image.open(io.BytesIO(data)).info["attnwidget"]
    else:
        held = re.search(rb"/Keywords \(((?:\\.|[^\\)])*)\)", data, re.DOTALL)
        assert held is not None
        text = re.sub(rb"\\(.)", rb"\1", held[1]).decode()
    found: dict[str, Any] = json.loads(text)
    return found


def test_figures_need_no_torch(tmp_path: Path) -> None:
    """Numbers out of a file, read by numpy: the same as with torch, but for rounding."""
    attention = plain(9)
    attention.save(tmp_path / "a.safetensors")
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "scipy", "tqdm", "psutil", "bqplot"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from attnwidget import load
from attnwidget.figures import draw
from attnwidget.selection import Selection
attention = load({str(tmp_path / "a.safetensors")!r})
for view in ("arcs", "heatmap", "graph", "steps", "text", "table"):
    made = draw(Selection(attention, layer=0, head=1, view=view, query=6), "svg", of="both")
    open({str(tmp_path)!r} + "/" + view + ".svg", "wb").write(made)
"""
    fresh(code)
    for view in ("arcs", "heatmap", "graph", "steps", "text", "table"):
        thin = ElementTree.parse(tmp_path / f"{view}.svg").getroot()
        assert texts(thin) == texts(svg(attention, of="both", layer=0, head=1, view=view, query=6))
        for a, b in zip(
            images(thin), images(svg(attention, of="both", layer=0, head=1, view=view, query=6)), strict=True
        ):
            assert abs(a.astype(int) - b).max() <= 3


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "words_"),
    [
        ({"width": 0}, "width is 0; it must be a number above 0, in millimetres: 85 is one column"),
        ({"width": math.nan}, "width is nan"),
        ({"width": "85"}, "width is '85'"),
        ({"width": 19.9}, "width is 19.9; it must be 20 to 2000, in millimetres: 85 is one column, 170 are two"),
        ({"width": 1e6}, "width is 1000000.0; it must be 20 to 2000, in millimetres"),
        ({"dpi": -1}, "dpi is -1"),
        ({"width": 2000, "dpi": 1200}, "Lower one of the two"),
        ({"of": "page"}, "of is 'page'; it must be 'view', 'matrix' or 'both'"),
    ],
)
def test_a_size_that_is_none_is_refused(tmp_path: Path, how: dict[str, Any], words_: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words_)):
        to_png(plain(), tmp_path / "a.png", **how)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name", "words_"),
    [
        (to_svg, "a.pdf", "to_svg writes SVG, but a.pdf does not end in .svg. Call to_pdf, or name the file a.svg."),
        (to_pdf, "a.PNG", "to_pdf writes PDF, but a.PNG does not end in .pdf. Call to_png, or name the file a.pdf."),
        (to_png, "a.svg", "to_png writes PNG, but a.svg does not end in .png. Call to_svg, or name the file a.png."),
        (to_svg, "Fig", "to_svg writes SVG, but Fig does not end in .svg. Name the file Fig.svg."),
        (to_png, "a.txt", "to_png writes PNG, but a.txt does not end in .png. Name the file a.png."),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path: Path, write: Any, name: str, words_: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words_)}$"):
        write(plain(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_end_of_a_name_may_be_in_capitals(tmp_path: Path) -> None:
    assert to_svg(plain(), tmp_path / "A.SVG").read_bytes().startswith(b"<?xml")


def test_what_cannot_be_drawn_says_what_can(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layer=0, head=0"):
        to_svg(plain(), tmp_path / "a.svg", view="steps")
    difference = compare(plain(seed=0), plain(seed=1))
    with pytest.raises(ValueError, match="Choose side='a' or side='b'"):
        to_svg(difference, tmp_path / "a.svg", view="graph")
    with pytest.raises(ValueError, match="view='text' and view='heatmap'"):
        to_svg(plain(), tmp_path / "a.svg", view="image")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        to_svg(plain(), tmp_path / "nowhere" / "a.svg")
    with pytest.raises(IsADirectoryError, match=re.escape("attention.svg")):
        to_svg(plain(), tmp_path)
    with pytest.raises(TraitError, match="layer is 7"):
        to_svg(plain(), tmp_path / "a.svg", layer=7)
    assert not list(tmp_path.iterdir())


def test_of_a_trace_edges_have_the_colours_of_what_they_add() -> None:
    model, tokenizer = tiny.decoder()
    run = trace(model, "The cat sat on the mat. The cat sat on the", tokenizer)
    effects = np.asarray(run.effects(layer=1, head=0).weights())
    largest = float(abs(effects).max())
    for view in ("arcs", "heatmap"):
        root = svg(run, layer=1, head=0, view=view, effects=True, query=12)
        assert f"{words.signed_text(largest)} raises" in said(root)
        assert "the logit of ' mat' at token 12, to first order" in said(root)
    share = looked.Looking(Selection(run, layer=1, head=0, effects=True)).effects
    assert share is not None
    there = share.shares > looked.MASKED
    assert share.shares[there] * share.largest == pytest.approx(effects[there], abs=largest / 30_000)


def test_generated_tokens_are_not_there_before_they_are_made() -> None:
    model, tokenizer = tiny.decoder()
    attention = capture_generation(model, "The cat saw", tokenizer, max_new_tokens=4)
    first = [i for i, flag in enumerate(attention.tokens.generated) if flag][1]
    looking = looked.Looking(Selection(attention, layer=1, head=0, step=2))
    assert (looking.moment, looking.asking, looking.focus) == (first, first, [first - 1])
    assert looked.picked(looking).edges.query.max() < first
    for view in ("arcs", "heatmap", "graph", "steps", "text", "table"):
        assert svg(attention, layer=1, head=0, step=2, view=view) is not None


@pytest.mark.parametrize(
    "name", ["matrix", "arcs", "overlay", "line", "difference", "heatmap", "graph", "steps", "both"]
)
@pytest.mark.parametrize("width", kept.WIDTHS)
def test_a_figure_looks_as_it_did_when_somebody_last_looked_at_it(name: str, width: int) -> None:
    figure = next(one for one in kept.FIGURES if one.name == name)
    drawn, file = kept.made(figure, width), kept.file_of(figure, width)
    assert kept.apart(drawn, file.read_bytes()) < 24, f"python -m tests.gallery.figures {name}, and look at it"
    other = next(one for one in kept.FIGURES if one.name == f"{'line' if name == 'arcs' else 'arcs'}")
    assert kept.apart(drawn, kept.file_of(other, width).read_bytes()) > 60, "the measure tells two figures apart"


def test_every_figure_that_is_kept_is_in_the_gallery() -> None:
    files = {kept.file_of(figure, width) for figure in kept.FIGURES for width in kept.WIDTHS}
    assert files == set(kept.FOLDER.glob("*"))
    assert kept.PAGE.read_text("utf-8").endswith(kept.contents())
    views = {figure.traits.get("view", "arcs") for figure in kept.FIGURES if figure.of == "view"}
    assert views == set(VIEWS_)


def test_the_colours_are_those_of_the_browser() -> None:
    """The stops of the ramps, and a colour between two of them as the standard's own arithmetic has it."""
    text = (Path(__file__).parents[1] / "js/src/theme.ts").read_text("utf-8")
    light = re.search(r'"light", "([^"]+)",\s*"([^"]+)", "([^"]+)", "([^"]+)",\s*"([^"]+)"', text)
    assert light is not None
    for names, group in (((inks.RAMP), 2), ((inks._BELOW), 3), ((inks.LESS), 4), ((inks.SEVERAL), 5)):
        assert ["".join(f"{int(c):02x}" for c in one) for one in names] == light[group].split()
    black, white = np.zeros(3), np.full(3, 255.0)
    assert inks.mix(black, white, 0.5) == pytest.approx([99.0] * 3, abs=1), "OKLab's middle grey is #636363"
