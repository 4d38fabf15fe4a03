"""What a laptop without torch does with a saved attention; run as a program beside ``saved.safetensors``."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import numpy as np

import attnwidget
from attnwidget import AttentionWidget, __main__, load, provenance, show, to_html, to_png, to_svg, wire
from attnwidget.blocks import unpack
from attnwidget.shown import needing

attention = load("saved.safetensors")
assert type(attention).__name__ == "Stored", attention
part = attention.parts[0]
row = attention[0, 1].row(2)
assert isinstance(row, np.ndarray), row
assert abs(row.sum() - 1) < 1e-6, row

widget = AttentionWidget(attention, layer=1, head=2, query=3)
assert unpack(widget._bundle).kind == "bundle"
assert np.array_equal(widget.map.row(3), attention[1, 2].row(3))
widget.group = "word"
assert abs(widget.map.row(0).sum() - 1) < 1e-5
assert show(attention, layer=0).layer == 0
fields = {"id": 1, "part": part, "layer": 1, "head": 2, "reduce": "mean", "index": 1}
for want in ("map", "row", "column", "steps", "measures"):
    reply, pieces = wire.answer(attention, {**fields, "want": want})
    assert reply["type"] == "block", reply
    assert unpack(b"".join(pieces)).arrays or want == "measures"

to_html(attention, "page.html", layer=1, head=2)
to_html(widget, "steps.html", group="token", view="steps", query=2)
for view in ("arcs", "heatmap", "steps"):
    to_svg(attention, f"{view}.svg", layer=1, head=2, query=3, view=view)
to_png(widget, "figure.png", dpi=100)
assert "Stored" not in provenance("page.html").code
with redirect_stdout(io.StringIO()):
    assert __main__.main(["saved.safetensors", "-o", "command.html", "--layer", "0"]) == 0

NEEDING = ("capture", "Attention", "compare", "trace", "attribute", "Dashboard", "effect")
for what in (
    *(lambda name=name: getattr(attnwidget, name) for name in NEEDING),
    lambda: attnwidget.tiny.decoder(),
    lambda: attnwidget.show("some text"),
    lambda: attnwidget.show_generation("some text"),
):
    try:
        found = what()
    except ModuleNotFoundError as problem:
        found = str(problem)
    assert "needs PyTorch, which is not installed here: pip install torch" in str(found), found
try:
    with needing("AttentionWidget"):
        raise ModuleNotFoundError(name="anywidget")
except ModuleNotFoundError as problem:
    found = str(problem)
assert found == "AttentionWidget needs anywidget, which is not installed here: pip install anywidget", found
with redirect_stderr(io.StringIO()) as said:
    assert __main__.main(["some text", "-o", "no.html"]) == 2
assert "needs PyTorch" in said.getvalue()

loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "transformers", "scipy", "tqdm", "bqplot"}, loaded
print("done")
