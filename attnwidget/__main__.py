"""``python -m attnwidget "some text" -o page.html``: a page of the attention of a model reading that text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from . import __version__
from .selection import Selection
from .shown import Shown, needing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line of error."""
    options = _parser().parse_args(arguments)
    try:
        _write(options)
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        words = problem.args[0] if isinstance(problem, KeyError) and problem.args else problem
        print(f"attnwidget: {' '.join(str(words).split()) or type(problem).__name__}", file=sys.stderr)
        return 2
    return 0


def _attention(options: argparse.Namespace) -> Shown:
    """What a model attends to in the text, or what a file holds."""
    if options.text.endswith(".safetensors"):
        from .stored import load as opened

        given = [f"--{name}" for name in ("model", "target", "truncate") if getattr(options, name)]
        if given:
            raise ValueError(f"{options.text} has been captured already; {', '.join(given)} would have no effect.")
        return opened(options.text)
    with needing("capturing a text"):
        from .capture import capture, load
        from .tiny import decoder

    text = sys.stdin.read() if options.text == "-" else options.text
    model, tokenizer = load(options.model) if options.model else decoder()
    extra: dict[str, Any] = {} if options.target is None else {"target": options.target}
    extra |= {"keep_values": True} if options.view == "steps" else {}
    return capture(model, text, tokenizer, truncate=options.truncate, **extra)


def _write(options: argparse.Namespace) -> None:
    from .export import to_html

    attention = _attention(options)
    names = ("part", "layer", "head", "reduce", "view", "scale", "threshold", "theme")
    traits = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    path = to_html(attention, options.output, budget=options.budget, title=options.title, **traits)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB. {attention!r}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m attnwidget",
        description="Write a page that shows what a model attends to in a text. It needs no kernel and no network.",
    )
    parser.add_argument("text", help='the text, "-" reads it from standard input; or name.safetensors')
    parser.add_argument("-o", "--output", default="attention.html", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--model", metavar="NAME", help="folder or name; default: the small one that comes along")
    parser.add_argument("--target", metavar="TEXT", help="what the decoder of an encoder-decoder model reads")
    parser.add_argument("--truncate", action="store_true", help="cut a text that is too long for the model")
    parser.add_argument("--budget", type=int, default=1_800_000, metavar="BYTES", help="of the file: %(default)s")
    parser.add_argument("--title", help="of the page")
    parser.add_argument("--part", help="which part the page opens with, of a model with several")
    parser.add_argument("--layer", type=int, help="default: the mean over layers")
    parser.add_argument("--head", type=int, help="default: the mean over heads")
    parser.add_argument("--threshold", type=float, help="share of each row's weight that the drawn edges carry")
    for trait in (Selection.reduce, Selection.view, Selection.scale, Selection.theme):
        parser.add_argument(f"--{trait.name}", choices=trait.values, help=trait.help)
    parser.add_argument("--version", action="version", version=f"attnwidget {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
