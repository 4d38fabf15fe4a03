"""How the tiny decoder was made: ``python -m attnwidget.tiny.train`` makes it again, in minutes, from a seed.

It learns in three lessons. First it repeats: random tokens in random order, over and over, until a head has found out
that what followed a token before will follow it again. Then it reads the documents of ``text.py``, and at last it reads
longer pages of them, among a few more random repetitions so that it does not forget. The order matters: with reading
first, or both at once, no induction head formed within twice the time.

The same seed gives the same bits on the same machine with the same version of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from attnwidget.tiny import HERE, card, load
from attnwidget.tiny.scores import RANDOM, score
from attnwidget.tiny.text import LEXICON, documents

STEPS = 2500
SEED = 1
THREADS = 2  #: the number of threads is part of the recipe: it decides the order of additions
TOKENS = 2048  #: per step, in every lesson
VOCABULARY = 2048
LESSONS = [(64, 0.1), (128, 0.6), (256, 1.0)]  #: length of a row; at which share of the steps the lesson ends
REPETITION = 0.2  #: share of random repetitions among the documents of the later lessons


def learn_vocabulary(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in which the words of ``text.py`` are whole tokens and any other text is possible."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lexicon = " " + " ".join(LEXICON)
    bpe.train_from_iterator(chain(islice(documents(seed), 6000), [lexicon] * 300), trainer)
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build() -> LlamaForCausalLM:
    """The untrained model.

    The first head of each layer begins as Trockman & Kolter (2023, *Mimetic initialization of self-attention layers*)
    propose: W_Q = W_K, so that like looks for like, and W_O = −W_Vᵀ. All the others begin at random.
    """
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=32,
            attention_bias=True,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.1)
    with torch.no_grad():
        for layer in model.model.layers:
            q, k, v, o = (getattr(layer.self_attn, f"{name}_proj").weight for name in "qkvo")
            first = slice(model.config.head_dim)
            k[first] = torch.nn.init.orthogonal_(q[first]).mul_(0.5)
            o[:, first] = -torch.nn.init.orthogonal_(v[first]).mul_(0.3).T
    return model


def pages(tokenizer: PreTrainedTokenizerBase, steps: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A batch for each step: ids ``[row, position]``, and the same as labels, −100 where nobody could know."""
    rng, library = Random(seed), documents(seed)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    plain = range(len(tokenizer.all_special_ids), len(tokenizer))

    def row(length: int, lesson: int) -> tuple[list[int], list[int]]:
        ids, labels = [begin], [-100]
        while len(ids) < length:
            if lesson == 0:
                piece = rng.choices(plain, k=rng.randint(3, 20))
                again = piece * (length // len(piece))
            elif rng.random() < REPETITION:
                piece = rng.choices(plain, k=rng.randint(4, 50))
                again = [*piece * rng.randint(1, 2), end]
            else:
                piece, again = [], [*tokenizer.encode(next(library), add_special_tokens=False), end]
            ids += piece + again
            labels += [-100] * len(piece) + again
        return ids[:length], labels[:length]

    for step in range(steps):
        lesson = next(index for index, (_, until) in enumerate(LESSONS) if step < until * steps)
        length = LESSONS[lesson][0]
        rows = torch.tensor([row(length, lesson) for _ in range(TOKENS // length)])  # [row, ids or labels, position]
        yield rows[:, 0], rows[:, 1]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Everything random from ``seed``, everything summed in one order; afterwards all as before."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict)


def train(steps: int = STEPS, seed: int = SEED) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model trained from nothing, and its tokenizer."""
    if not hasattr(torch.optim, "Muon"):
        raise RuntimeError(f"Training needs torch 2.9 or newer, for its Muon optimiser; this is {torch.__version__}.")
    with reproducible(seed):
        tokenizer, model = learn_vocabulary(seed), build()
        named = dict(model.named_parameters())
        biases = [weight for name, weight in named.items() if name.endswith("bias")]
        matrices = [weight for name, weight in named.items() if weight.ndim == 2 and "embed" not in name]
        others = [weight for name, weight in named.items() if name.endswith(("norm.weight", "embed_tokens.weight"))]
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
            # Biases move fast: they are how a rotary head learns to look one token back, whatever the token.
            torch.optim.AdamW(
                [{"params": others, "lr": 0.003}, {"params": biases, "lr": 0.03}], betas=(0.9, 0.95), weight_decay=0.0
            ),
        ]
        schedules = [
            torch.optim.lr_scheduler.LambdaLR(
                each, lambda step: min((step + 1) / 50, (steps - step) / (0.4 * steps), 1)
            )
            for each in optimisers
        ]
        progress = tqdm(pages(tokenizer, steps, seed + 1), total=steps, unit="step")
        for ids, labels in progress:
            logits = model(ids, use_cache=False).logits
            loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser, schedule in zip(optimisers, schedules, strict=True):
                optimiser.step()
                schedule.step()
            model.zero_grad()
            progress.set_postfix(loss=f"{loss.item():.2f}", tokens_in_a_row=ids.shape[1])
    return model.eval(), tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write both, small: weights as 16-bit floats (to be loaded as 32-bit ones), the tokenizer without its spaces."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rewrite(folder / "config.json", dtype="float32")
    rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")  # known to every version
    vocabulary = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")), "utf-8")


def rewrite(path: Path, **changes: Any) -> None:
    """A JSON file with some of its entries changed."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes, indent=2) + "\n", "utf-8")


def main() -> None:
    """Train, save, read back, measure, and write the card."""
    parser = argparse.ArgumentParser(prog="python -m attnwidget.tiny.train", description="Make the tiny decoder again.")
    parser.add_argument(
        "--out", type=Path, default=HERE / "decoder", metavar="DIR", help="where to (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, metavar="N", help="which one (default: %(default)s)")
    arguments = parser.parse_args()

    start, worked = time.time(), time.process_time()
    model, tokenizer = train(arguments.steps, arguments.seed)
    save(model, tokenizer, arguments.out)
    minutes = (time.time() - start) / 60, (time.process_time() - worked) / 60
    describe(arguments.out, arguments.steps, arguments.seed, *minutes)
    print(arguments.out / "README.md")


def describe(folder: Path, steps: int, seed: int, wall: float, processor: float) -> None:
    """Measure the model in ``folder``, and write its scores and its card beside it."""
    model, tokenizer = load(folder, "eager")
    scores = score(model, tokenizer)
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    config = model.config
    start = tokenizer("Once upon a time,", return_tensors="pt").input_ids
    grown: torch.Tensor = model.generate(  # type: ignore[operator]  # nn.Module's fallback hides it
        start, attention_mask=torch.ones_like(start), max_new_tokens=60, do_sample=False
    )
    text = card.write(
        scores=scores,
        sample=tokenizer.decode(grown[0], skip_special_tokens=True),
        megabytes=sum(path.stat().st_size for path in folder.iterdir()) / 1e6,
        parameters=model.num_parameters(),
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        head_dim=config.head_dim,
        width=config.hidden_size,
        mlp=config.intermediate_size,
        vocabulary=config.vocab_size,
        longest=LESSONS[-1][0],
        first=LESSONS[0][1],
        random=RANDOM,
        tokens=steps * TOKENS / 1e6,
        steps=steps,
        seed=seed,
        torch=torch.__version__.partition("+")[0],
        transformers=transformers.__version__,
        wall=wall,
        processor=processor,
    )
    (folder / "README.md").write_text(text, "utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    main()
