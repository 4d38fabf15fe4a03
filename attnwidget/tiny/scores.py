"""What the heads of a tiny model do, as numbers, from the attention that transformers itself returns.

The measures are written out here in their plainest form and share no code with the rest of the package, so that they
can be held against it. Attention is ``[layer, text, head, query, key]`` throughout; a query attends *to* a key, and
position 0 is always ``<s>``.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from attnwidget.tiny.text import documents, echo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HELD_OUT = 1_000_003  #: the seed of the texts that no model is trained on
LENGTH = 128  #: tokens in a held-out text, ``<s>`` included
RANDOM = 50  #: random tokens, before they are repeated

#: Sentences that no grammar of ours makes: what a reader may type.
OUTSIDE = """The animal didn't cross the street because it was too tired.
How much wood would a woodchuck chuck if a woodchuck could chuck wood?
She sells sea shells by the sea shore. The shells she sells are sea shells, I am sure.
The cat sat on the mat, and then the cat sat on the hat.
My sister is a doctor, and her husband teaches music at the university.
Nobody knew why the lights went out, but the neighbours lit a candle and waited.
Attention weights say where a head looks, not why the model answered as it did.
In the beginning the universe was created. This has made a lot of people very angry.""".splitlines()


def rows(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[list[int]]:
    """Rows of ``length`` ids: ``<s>``, then documents, each closed by ``</s>``, the last one cut off."""
    row = [tokenizer.bos_token_id]
    for text in texts:
        row += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        if len(row) >= length:
            yield row[:length]
            row = [tokenizer.bos_token_id]


def repeated(count: int, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """``<s>`` and ``RANDOM`` random tokens, twice: ``[text, 1 + 2 * RANDOM]``."""
    generator = torch.Generator().manual_seed(HELD_OUT)
    half = torch.randint(len(tokenizer.all_special_ids), len(tokenizer), (count, RANDOM), generator=generator)
    return torch.cat([torch.full((count, 1), tokenizer.bos_token_id), half, half], dim=1)


def look(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``[text, position, token]`` and attention ``[layer, text, head, query, key]`` of ids [text, position]."""
    with torch.no_grad():
        output = model(ids, output_attentions=True, use_cache=False)
    return output.logits, torch.stack(output.attentions)


def diagonal(attention: torch.Tensor, offset: int, first: int = 1) -> torch.Tensor:
    """Mean weight ``[layer, head]`` from query ``i`` to key ``i + offset``, over the queries from ``first`` on."""
    weights = attention.diagonal(offset, -2, -1)[..., max(first + offset, 0) :]
    return weights.mean(dim=(1, 3))


def followers(ids: torch.Tensor) -> torch.Tensor:
    """True ``[text, query, key]`` where the two tokens ending at the query ended just before the key, too."""
    pair = (ids[:, 1:, None] == ids[:, None, 1:]) & (ids[:, :-1, None] == ids[:, None, :-1])
    found = torch.zeros(*ids.shape, ids.shape[1], dtype=torch.bool)
    found[:, 1:, 2:] = pair[:, :, :-1]
    return found & torch.ones_like(found).tril()


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: int = 32) -> dict[str, Any]:
    """Every number of the model card; ``heads`` holds one ``[layer][head]`` table per measure.

    The model must have been loaded with ``attn_implementation="eager"``, which alone returns its attention.
    """
    if model.config._attn_implementation != "eager":
        raise ValueError('Load the model with attn_implementation="eager": no other returns attention weights.')
    stories = torch.tensor(list(islice(rows(documents(HELD_OUT), tokenizer, LENGTH), texts)))
    echoes = torch.tensor(list(islice(rows(echoing(), tokenizer, LENGTH), texts)))
    doubled = repeated(texts, tokenizer)

    logits, attention = look(model, stories)
    guesses, truth = logits[:, :-1], stories[:, 1:]
    loss = cross_entropy(guesses.flatten(0, 1), truth.flatten()).item()
    heads = {
        "previous token": diagonal(attention, -1),
        "same token": diagonal(attention, 0),
        "first token": attention[..., 1:, 0].mean(dim=(1, 3)),
    }

    logits, attention = look(model, doubled)
    recalled = (logits[:, RANDOM:-1].argmax(-1) == doubled[:, RANDOM + 1 :])[:, 1:]
    heads["induction"] = diagonal(attention, 1 - RANDOM, first=RANDOM + 1)
    heads["duplicate token"] = diagonal(attention, -RANDOM, first=RANDOM + 1)

    where = followers(echoes)
    asked = where.any(-1)
    _, attention = look(model, echoes)
    mass = (attention * where[None, :, None]).sum(-1)  # [layer, text, head, query]
    heads["induction in sentences"] = (mass * asked[None, :, None]).sum((1, 3)) / asked.sum()

    own = [look(model, tokenizer(sentence, return_tensors="pt").input_ids)[1] for sentence in OUTSIDE]
    heads["previous token, outside text"] = torch.stack([diagonal(each, -1) for each in own]).mean(0)
    return {
        "loss": loss,
        "perplexity": float(torch.tensor(loss).exp()),
        "accuracy": (guesses.argmax(-1) == truth).double().mean().item(),
        "recall of random tokens": recalled.double().mean().item(),
        "heads": {name: table.tolist() for name, table in heads.items()},
    }


def echoing() -> Iterator[str]:
    """Held-out sentences, each said more than once."""
    from random import Random

    rng = Random(HELD_OUT)
    while True:
        yield echo(rng)
