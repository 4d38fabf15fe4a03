"""A text that the model writes itself, and the attention of all of it.

The model generates freely, with its own ``generate`` and whatever cache it likes. Then one forward over what it wrote
is captured, as if it had been there all along: causal attention over the whole text is what every step saw of it. Where
the model computes something else step by step than at once, its logits differ, and that is said.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .attention import Attention
from .capture import Recorder, evaluating, made_of, record
from .inputs import given_to, is_encoder_decoder, limit_of, unwrapped

# How many tokens are written where nobody says.
_TOKENS = 40
# Share of the time that may go into showing what is there so far, and seconds between two such pictures: a page that
# gets them faster than it can draw them falls behind.
_SHARE, _PAUSE = 0.25, 0.25
# Most bytes of the generation's logits that are held for the comparison.
_LOGITS = 2**28
# Relative differences between logits that rounding explains, per precision: many layers add up.
_ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1}


def capture_generation(
    model: nn.Module,
    prompt: Any,
    tokenizer: Any = None,
    *,
    on_step: Callable[[Attention], Any] | None = None,
    truncate: bool = False,
    layers: Collection[int] | None = None,
    parts: Collection[str] | None = None,
    dtype: torch.dtype | None = None,
    keep_values: bool = False,
    pin_memory: bool = False,
    progress: bool = True,
    **generate: Any,
) -> Attention:
    """Let ``model`` continue ``prompt`` and keep the attention of every layer and head, over prompt and continuation.

    The model writes with its own ``generate``: greedy, sampling, beams, any cache. What it wrote is then replayed in
    one forward, which gives every token's attention at once. An interrupt (Ctrl-C, or the stop button of the notebook)
    ends the writing; what is there by then is returned, with a note.

    Args:
        model: of transformers, one that can ``generate``.
        prompt: a text, a list of texts, or a mapping of what the model takes. For an encoder-decoder model it is what
            the encoder reads.
        tokenizer: the model's.
        on_step: called with the attention of what is there so far: after the first token, then up to four times a
            second as far as a quarter of the time allows, and with all of it at the end.
        truncate, layers, parts, dtype, keep_values, pin_memory: as in :func:`~attnwidget.capture`.
        progress: a bar over the tokens, for generations that take longer than a second.
        **generate: of the model's ``generate``: ``max_new_tokens`` (40 where neither you nor the model says),
            ``do_sample``, ``num_beams``, ``cache_implementation`` …

    Returns:
        The attention. ``Tokens.generated`` marks what the model wrote; several returned sequences are its samples.
        ``attention.check`` says how the replayed logits compare with those of the generation; beams are not compared.

    Raises:
        TypeError: a model that cannot generate.
        ValueError: no room for the tokens in what the model takes; and as :func:`~attnwidget.capture`.

    Example:
        >>> from attnwidget import capture_generation, tiny
        >>> model, tokenizer = tiny.decoder()
        >>> attention = capture_generation(model, "The cat saw the", tokenizer, max_new_tokens=3)
        >>> attention.part().queries.steps
        3
    """
    main = unwrapped(model)
    _refuse_mute(main)
    with _padded_left(main, tokenizer):
        given = given_to(main, prompt, tokenizer, truncate=truncate, decodes=True)
    run = _Generation(main, _named(main, given.args, given.kwargs), generate, tokenizer)

    def listening() -> Recorder:
        recorder = record(
            main, tokenizer, layers=layers, parts=parts, dtype=dtype, keep_values=keep_values, pin_memory=pin_memory
        )
        recorder.texts, recorder.made = given.texts, made
        return recorder

    made = made_of(
        "capture_generation", prompt, tokenizer, truncate=truncate or None, layers=layers, parts=parts, dtype=dtype,
        keep_values=keep_values or None, **generate,
    )  # fmt: skip
    if run.samples:
        made = f"# the text was sampled: another run writes another one\n{made}"
    listening()  # refuses what there is not, before anything is written
    with evaluating(main), torch.no_grad():
        attention = run.written(listening, on_step, progress)
    if on_step is not None:
        on_step(attention)
    return attention


class _Generation:
    """One generation: what it starts from, and how what it wrote is replayed."""

    def __init__(self, model: nn.Module, given: dict[str, Any], options: dict[str, Any], tokenizer: Any) -> None:
        self.model, self.decodes = model, is_encoder_decoder(model)
        self.options = dict(options)
        # The caller's own is left alone; options beside it are on their way out of transformers.
        if (config := options.get("generation_config")) is not None:
            self.options["generation_config"] = copy.deepcopy(config)
        # An adapter (peft) hands what it does not know itself to the model inside.
        inside = getattr(model, "get_base_model", lambda: model)()
        self.takes = {name for one in (model, inside) for name in inspect.signature(one.forward).parameters}
        # What the forward takes may also be among the options of generate.
        inputs = {name for name, one in options.items() if isinstance(one, Tensor) and name in self.takes}
        self.given = {**given, **{name: self.options.pop(name) for name in inputs}}
        if "token_type_ids" not in self.takes:
            self.given.pop("token_type_ids", None)  # some tokenizers make them whatever the model is
        ids = self.given.get("input_ids")
        main = ids if ids is not None else next((one for one in self.given.values() if isinstance(one, Tensor)), None)
        if (ids is None and not self.decodes) or not isinstance(main, Tensor) or main.dim() < 2:
            what = "what its encoder reads" if self.decodes else "token ids [batch, token]"
            raise ValueError(f"{type(model).__name__} writes on from {what}: pass a text, or a mapping of tensors.")
        self.pad = self._stated("pad_token_id")
        self.ends = self._ends()
        if self.pad is None:
            own = getattr(getattr(tokenizer, "tokenizer", tokenizer), "pad_token_id", None)
            self.pad = own if own is not None else next(iter(self.ends), None)
            self._set("pad_token_id", self.pad)
        if ids is not None and "attention_mask" in self.takes and self.given.get("attention_mask") is None:
            padded = self.pad is not None and self.pad not in self.ends
            self.given["attention_mask"] = (ids != self.pad).long() if padded else torch.ones_like(ids)
        self.batch = len(main)
        # What was there before the first token was written, [text, token]; of a decoder it is known when it begins.
        self.start: Tensor = torch.zeros(self.batch, 1) if self.decodes or ids is None else ids
        self.steps = self._room(tokenizer)
        self.beams = int(self._stated("num_beams") or 1)
        self.each = int(self._stated("num_return_sequences") or 1)
        self.samples = bool(self._stated("do_sample"))
        if self._stated("stop_strings") is not None:
            self.options.setdefault("tokenizer", tokenizer)

    @property
    def prompt(self) -> int:
        """Number of tokens that were there before the first one was written."""
        return self.start.shape[1]

    # ── what was asked for ──

    def _stated(self, name: str) -> Any:
        """An option of the generation: the caller's own, or the model's."""
        if name in self.options:
            return self.options[name]
        configs = (self.options.get("generation_config"), getattr(self.model, "generation_config", None))
        return next((one for c in configs if (one := getattr(c, name, None)) is not None), None)

    def _set(self, name: str, value: Any) -> None:
        config = self.options.get("generation_config")
        self.options.pop(name, None)
        if config is None:
            self.options[name] = value
        else:
            setattr(config, name, value)

    def _ends(self) -> tuple[int, ...]:
        stated = self._stated("eos_token_id")
        if isinstance(stated, Tensor):
            stated = stated.tolist()
        return () if stated is None else tuple(stated) if isinstance(stated, (list, tuple)) else (stated,)

    def _room(self, tokenizer: Any) -> int:
        """How many tokens are to be written.

        Raises:
            ValueError: none, or more than the model has positions for.
        """
        config = getattr(self.model, "config", None)
        if self.decodes:
            # The encoder's limit, and the tokenizer's, say nothing about the decoder.
            stated = (getattr(config, name, None) for name in ("max_target_positions", "max_position_embeddings"))
            limit = next((one for one in stated if isinstance(one, int) and one > 0), None)
        else:
            limit = limit_of(self.model, tokenizer)
        start = "start of the decoder" if self.decodes else "prompt"
        name = type(self.model).__name__
        new, total = self._stated("max_new_tokens"), self._stated("max_length")
        if new is None and "max_length" not in self.options and total in (None, 20):
            # 20 is what transformers says where nobody says anything.
            new = _TOKENS if limit is None else min(_TOKENS, limit - self.prompt)
            if new < 1:
                raise ValueError(
                    f"The {start} has {self.prompt} tokens, and {name} takes at most {limit}: no room to write."
                )
            self._set("max_new_tokens", new)
        elif new is None:
            new = total - self.prompt
            if new < 1:
                raise ValueError(f"max_length is {total}, and the {start} has {self.prompt} tokens already.")
        if isinstance(new, bool) or not isinstance(new, int) or new < 1:
            raise ValueError(f"max_new_tokens is {new}; there must be at least 1 token to write.")
        if limit is not None and self.prompt + new > limit:
            raise ValueError(
                f"The {start} has {self.prompt} tokens, and max_new_tokens is {new}: {self.prompt + new} together. "
                f"{name} takes at most {limit}. Shorten the prompt, or let it write at most {limit - self.prompt}."
            )
        return new

    # ── writing ──

    def written(
        self, listening: Callable[[], Recorder], on_step: Callable[[Attention], Any] | None, progress: bool
    ) -> Attention:
        """Generate, and replay what came out."""
        seen: Tensor | None = None
        begun, spent, last = time.perf_counter(), 0.0, 0.0
        bar = tqdm(total=self.steps, desc="writing", unit="token", delay=1.0, leave=False, disable=not progress)

        def step(ids: Tensor, scores: Any, **_: Any) -> Tensor:
            nonlocal seen, spent, last
            first, seen = seen is None, ids
            if first and self.decodes:
                self.start = ids[:: len(ids) // self.batch, :-1]
            bar.update(ids.shape[1] - self.prompt - bar.n)
            now = time.perf_counter()
            due = now - last >= _PAUSE and spent <= _SHARE * (now - begun)
            if on_step is not None and (first or due):
                on_step(self._replayed(self._rows(ids), listening()))
                last = time.perf_counter()
                spent += last - now
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

        from transformers import StoppingCriteriaList

        own = self.options.pop("stopping_criteria", None) or []
        compared = self.beams == 1 and self._logits_fit()
        for name, value in (("return_dict_in_generate", True), ("output_logits", compared)):
            self._set(name, value)
        asked = {**self.given, **self.options, "stopping_criteria": StoppingCriteriaList([*own, step])}
        with bar:
            try:
                out = self.model.generate(**asked)  # type: ignore[operator]  # known to be there
            except KeyboardInterrupt:
                if seen is None:
                    raise
                attention = self._replayed(self._rows(seen), listening())
                count = seen.shape[1] - self.prompt
                attention.notes = (*attention.notes, f"Interrupted: the model had written {count} tokens by then.")
                return attention
        out = out if isinstance(out, Mapping) else {"sequences": out}  # a generate of the model's own may return ids
        return self._replayed(self._whole(out["sequences"]), listening(), out.get("logits"))

    def _logits_fit(self) -> bool:
        config = getattr(self.model, "config", None)
        words = getattr(getattr(config, "get_text_config", lambda: config)(), "vocab_size", None) or 1
        return self.steps * self.batch * self.each * int(words) * 4 <= _LOGITS

    def _rows(self, ids: Tensor) -> Tensor:
        """Of the beams that are being followed, those that would be returned now: the best of each text."""
        if self.beams == 1:
            return ids
        best: Tensor = ids.unflatten(0, (self.batch, -1))[:, : self.each]
        return best.flatten(0, 1)

    def _whole(self, ids: Tensor) -> Tensor:
        """With the prompt in front, which a few models do not return."""
        start = self.start.repeat_interleave(len(ids) // self.batch, 0)
        return ids if torch.equal(ids[:, : self.prompt], start) else torch.cat([start, ids], dim=1)

    # ── replaying ──

    def _replayed(self, ids: Tensor, recorder: Recorder, logits: tuple[Tensor, ...] | None = None) -> Attention:
        """One forward over ``ids`` [row, token]; compared with the ``logits`` of the generation where there are any."""
        written = self._written(ids)
        inputs = self._inputs(ids, written)
        if "use_cache" in self.takes:
            inputs["use_cache"] = False
        steps = ids.shape[1] - self.prompt
        keep = next((name for name in ("logits_to_keep", "num_logits_to_keep") if name in self.takes), None)
        if keep is not None:
            inputs[keep] = 1 if logits is None else steps + 1
        recorder.generated = written.cpu()
        with recorder:
            out = self.model(**inputs)
        attention = recorder.attention
        ours = getattr(out, "logits", None)
        if logits is not None and isinstance(ours, Tensor) and len(logits) == steps:
            _compare(attention, ours[:, -steps - 1 : -1], logits, written[:, self.prompt :], self._precision())
        return attention

    def _precision(self) -> float:
        kinds = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return _ROUNDING.get(next(kinds, torch.float32), 1e-3)

    def _written(self, ids: Tensor) -> Tensor:
        """bool [row, token]: what the model wrote, up to the end of each text and without the padding behind it."""
        new = ids[:, self.prompt :]
        ended = torch.zeros_like(new, dtype=torch.bool)
        for end in self.ends:
            ended |= new == end
        later = (ended.cumsum(1) - ended.long()) > 0
        if self.pad is not None and self.pad not in self.ends:
            # Texts that ended by another rule than an end-of-text token.
            later |= (new != self.pad).flip(1).cumsum(1).flip(1) == 0
        return torch.cat([torch.zeros_like(ids[:, : self.prompt], dtype=torch.bool), ~later], dim=1)

    def _inputs(self, ids: Tensor, written: Tensor) -> dict[str, Any]:
        """Arguments of the forward: those of the prompt, repeated for each returned sequence and made longer."""
        given = {name: one for name, one in self.given.items() if name not in _OF_STEPS}
        read = given.pop("input_ids", None)
        if len(ids) > self.batch:
            repeat: Callable[..., Any] = self.model._expand_inputs_for_generation  # type: ignore[assignment]  # nn.Module's fallback
            read, given = repeat(len(ids) // self.batch, is_encoder_decoder=False, input_ids=read, **given)
        name = "decoder_attention_mask" if self.decodes else "attention_mask"
        before = given.pop(name, None)
        if before is None or before.shape[1] != self.prompt:
            before = torch.ones_like(ids[:, : self.prompt])
        mask = torch.cat([before, written[:, self.prompt :].to(before)], dim=1)
        masked = {name: mask} if name in self.takes else {}
        if self.decodes:
            masked = {} if bool(mask.all()) else masked
            return {**given, **({} if read is None else {"input_ids": read}), "decoder_input_ids": ids, **masked}
        # Whatever else says something of each token (token types, cross-attention masks) goes on as the model wants it.
        given = {**given, name: before, "cache_position": torch.arange(self.prompt, device=ids.device)}
        update = self.model._update_model_kwargs_for_generation
        further: Callable[..., Any] = update  # type: ignore[assignment]  # nn.Module's fallback
        for _ in range(ids.shape[1] - self.prompt):
            given = further({}, given, is_encoder_decoder=False, num_new_tokens=1)
        given = {key: one for key, one in given.items() if key not in {name, *_OF_STEPS}}
        positions = given.pop("position_ids", None)
        if positions is not None and positions.shape[-1] == ids.shape[1]:
            given["position_ids"] = positions
        elif "position_ids" in self.takes and not bool(mask.all()) and not self._turns():
            # Models with learned positions count from the left edge unless they are told.
            given["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, **given, **masked}

    def _turns(self) -> bool:
        """True where positions have several axes (time, height, width), which only the model can make."""
        return any(hasattr(one, "get_rope_index") for one in (self.model, getattr(self.model, "model", None)))


# Arguments that belong to single steps, or to a loss, and not to a replay.
_OF_STEPS = {
    "past_key_values", "cache_position", "use_cache", "labels", "decoder_input_ids", "return_dict",
    "output_attentions", "output_hidden_states",
}  # fmt: skip


def _compare(attention: Attention, ours: Tensor, theirs: tuple[Tensor, ...], written: Tensor, rounding: float) -> None:
    """Say on the attention how the logits [row, step, word] of the replay compare with those of the generation."""
    if ours.shape != (len(theirs[0]), len(theirs), theirs[0].shape[-1]):
        return
    off, size = torch.zeros(len(theirs)), 1e-6
    for step, their in enumerate(theirs):
        rows = written[:, step]
        if bool(rows.any()):
            off[step] = (ours[rows, step].float() - their[rows].float()).abs().max()
            size = max(size, float(their[rows].abs().max()))
    error = float(off.max()) / size
    if not error <= rounding:  # NaN too
        attention.notes = (
            *attention.notes,
            f"Cached decoding differs from one full pass by {error:.1e} of the largest logit, most at generated token "
            f"{int(off.argmax()) + 1}. The maps are those of the full pass.",
        )
    elif attention.check is not None:
        words = f"{attention.check.text} One full pass gives the logits of the generation to {error:.1e}."
        attention.check = replace(attention.check, text=words)


# ── what is refused, and what is set for a while ─────────────────────────────────────────────────────────────────────


def _refuse_mute(model: nn.Module) -> None:
    can = getattr(model, "can_generate", lambda: True)
    if not callable(getattr(model, "generate", None)) or not can():
        raise TypeError(
            f"{type(model).__name__} cannot generate: it has no language model head, or no generate. Load the model "
            "with AutoModelForCausalLM or AutoModelForSeq2SeqLM; or look at a text that is there, "
            "capture(model, text, tokenizer)."
        )


def _named(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if len(args) > 1:
        raise TypeError(f"The prompt is a tuple of {len(args)}. Pass a mapping, so that each has its name.")
    return {**({str(getattr(model, "main_input_name", "input_ids")): args[0]} if args else {}), **kwargs}


@contextlib.contextmanager
def _padded_left(model: nn.Module, tokenizer: Any) -> Iterator[None]:
    """Texts that are continued are padded in front; what a decoder only reads may be padded anywhere."""
    own = getattr(tokenizer, "tokenizer", tokenizer)
    side = getattr(own, "padding_side", None)
    if side is None or is_encoder_decoder(model):
        yield
        return
    own.padding_side = "left"
    try:
        yield
    finally:
        own.padding_side = side
