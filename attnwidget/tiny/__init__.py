"""Small trained models that ship with the package, so that every lesson runs offline and in a second.

model, tokenizer = decoder()

text.py      simple English made on the spot: what they learn from
train.py     python -m attnwidget.tiny.train: how they were made
scores.py    what their heads do, as numbers
decoder/     the model itself, in Hugging Face format, with its card
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from attnwidget.shown import needing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["DECODER_HEADS", "decoder"]

HERE = Path(__file__).parent

#: The decoder's textbook heads, as ``(layer, head)`` counted from 0. How clearly they show is in ``decoder/README.md``.
DECODER_HEADS: dict[str, tuple[int, int]] = {"previous token": (2, 0), "induction": (1, 0)}


def decoder(*, attn_implementation: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A trained causal language model of simple English, and its tokenizer.

    A Llama of four layers with four heads each (0.7 million parameters), in evaluation mode and 32-bit floats. It reads
    up to 512 tokens, of which the first is always ``<s>``. Each call loads a model of its own: change it as you like.

        >>> from attnwidget import tiny
        >>> model, tokenizer = tiny.decoder()
        >>> ids = tokenizer("The cat sat on the mat. The cat sat on the", return_tensors="pt").input_ids
        >>> tokenizer.decode(model(ids).logits[0, -1].argmax())
        ' mat'

    Args:
        attn_implementation: as in ``from_pretrained``; ``"eager"`` for a model that returns its own attention weights.

    Raises:
        FileNotFoundError: the model's files are not where the package was installed.
    """
    return load(HERE / "decoder", attn_implementation)


def load(folder: Path, attn_implementation: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer in a folder, with no look at the network and no progress bar."""
    missing = [name for name in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"The trained model that ships with attnwidget is incomplete: {', '.join(missing)} not found in {folder}. "
            "Install attnwidget again, or make the model anew (some minutes): python -m attnwidget.tiny.train"
        )
    with needing("tiny.decoder"):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, attn_implementation=attn_implementation
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    return model.float().eval(), tokenizer
