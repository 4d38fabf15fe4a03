"""The model card, from the numbers: ``decoder/README.md`` is what `write` returns."""

from __future__ import annotations

from typing import Any

CARD = """\
---
license: bsd-3-clause
language: en
library_name: transformers
pipeline_tag: text-generation
---

# The tiny decoder

A causal language model of simple English, small enough to ship with a notebook widget ({megabytes:.1f} MB) and trained
so that its attention shows what textbooks draw: a head that looks at the previous token, and a head that finds what
followed the same token before (an *induction head*). It is for looking at attention. It is of no use for anything else.

```python
from attnwidget import tiny
model, tokenizer = tiny.decoder()
```

It is in Hugging Face format, so `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` read this
folder, too. Licence: BSD-3-Clause, like the package. Weights, tokenizer and data are its own; nothing was downloaded.

## What it is

| | |
|---|---|
| architecture | Llama: {layers} layers × {heads} heads of {head_dim} dimensions, model width {width}, gated MLP {mlp}, rotary positions, RMS norm, biases in attention, tied embeddings |
| parameters | {parameters:,}, stored as 16-bit floats; load them as 32-bit ones, as everything below was measured |
| vocabulary | {vocabulary:,} byte-level BPE tokens: about 900 English words whole, any other text in pieces |
| positions | 512; trained on rows of up to {longest} tokens |
| special tokens | `<s>` begins every text (the tokenizer puts it there), `</s>` ends a document |

## What its heads do

{summary}

{table}

The columns are mean attention weights from 0 to 1, as `transformers` returns them with eager attention; layers and heads
count from 0, and 0.60 and more is in bold. *previous*: to the token before, in held-out documents; *own text*: the same
in sentences that no grammar of ours makes. *induction*: in {random} random tokens said twice, from the second time to
the token after the first time; *in sentences*: in held-out sentences said more than once, to whatever followed the same
two tokens before. *duplicate*: to the same token's first time. *itself* and *first*: to the query itself and to `<s>`.

## How well it predicts

{language}

## How it was made

`python -m attnwidget.tiny.train --seed {seed} --steps {steps}` makes it again, bit for bit on the same machine with the
same version of torch (here {torch}; transformers {transformers}). It took {wall:.0f} minutes on two shared cores, {processor:.0f} of processor time.

The text is made up while it learns: `text.py` holds small grammars for stories, riddles about *it*, gifts between two
people, questions about where things are, memory games, chain rhymes, lists of words said twice, weekdays, opposites and
some proverbs and nursery rhymes that are in the public domain. It read {tokens:.1f} million tokens, each once.

There were three lessons: random tokens repeated in rows of 64 for the first {first:.0%} of the steps; then the documents, in rows
of 128 and at last of 256 tokens, with random repetitions in one document of five. The first time through a random
sequence was not scored, as nobody could have known it. Matrices learned by Muon, everything else by AdamW.

One head of each layer did not begin at random: its W_Q equals W_K and its W_O is −W_Vᵀ (*mimetic initialisation*,
Trockman & Kolter 2023), which says that like looks for like and says nothing about positions or about what comes next.
Without that, and without the first lesson, no induction head formed in the time there was.

## A sample

The first words were given; the rest is what it finds likeliest.

> {sample}

## Limits

- It knows about 900 words and a few dozen kinds of sentence. Other text is cut into pieces and predicted badly, though
  the previous-token and induction heads do on any text what they do here.
- The held-out documents come from the same grammars with another seed. They are new, but no new kind of text: the
  numbers tell that it learned the grammars, not that it knows English.
- Which noun *it* stands for is decided by one adjective in a few patterns. That is no understanding of pronouns.
- Beyond {longest} tokens it was never trained.
- A head that shows a clear picture need not matter for the answer: an attention weight is not a reason.
"""

COLUMNS = {
    "previous": "previous token",
    "own text": "previous token, outside text",
    "induction": "induction",
    "in sentences": "induction in sentences",
    "duplicate": "duplicate token",
    "itself": "same token",
    "first": "first token",
}


def table(scores: dict[str, Any]) -> str:
    """A row for each head, a column for each measure."""
    lines = ["| layer | head | " + " | ".join(COLUMNS) + " |", "|---:|---:|" + "---:|" * len(COLUMNS)]
    for layer, heads in enumerate(scores["heads"]["induction"]):
        for head in range(len(heads)):
            values = [scores["heads"][measure][layer][head] for measure in COLUMNS.values()]
            cells = [f"**{value:.2f}**" if value >= 0.595 else f"{value:.2f}" for value in values]
            lines.append(f"| {layer} | {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def language(scores: dict[str, Any]) -> str:
    """What the model makes of held-out text."""
    names = {
        "loss": "loss on held-out documents (nats per token)",
        "perplexity": "perplexity",
        "accuracy": "next token guessed right",
        "recall of random tokens": "random tokens guessed right, the second time",
    }
    lines = ["| | |", "|---|---:|"]
    lines += [f"| {words} | {scores[name]:.3f} |" for name, words in names.items()]
    return "\n".join(lines)


def strongest(scores: dict[str, Any], measure: str) -> tuple[int, int]:
    """The ``(layer, head)`` with the most of a measure."""
    grid = scores["heads"][measure]
    return max(((i, j) for i in range(len(grid)) for j in range(len(grid[i]))), key=lambda at: grid[at[0]][at[1]])


def summary(scores: dict[str, Any]) -> str:
    """The textbook heads in words."""
    heads = scores["heads"]
    lines = []
    for name, also in (("previous token", "previous token, outside text"), ("induction", "induction in sentences")):
        layer, head = strongest(scores, name)
        one, other = (heads[measure][layer][head] for measure in (name, also))
        lines.append(f"- **{name}: layer {layer}, head {head}** ({one:.2f}; {also}: {other:.2f})")
    return "\n".join(lines)


def write(**facts: Any) -> str:
    """The whole card. ``facts`` are the fields of ``CARD`` that are not made here, and ``scores``."""
    scores = facts.pop("scores")
    return CARD.format(summary=summary(scores), table=table(scores), language=language(scores), **facts)
