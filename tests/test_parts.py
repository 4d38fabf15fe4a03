"""Which calls belong together, what the parts are called, and what stands along their axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attnwidget.capture import capture
from attnwidget.parts import place_of, slot_of
from models import VOCABULARY, make
from test_capture import minilm

SIZE: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


def ids(n: int, batch: int = 1) -> torch.Tensor:
    return torch.randint(5, VOCABULARY - 1, (batch, n), generator=torch.Generator().manual_seed(1))


def word_tokenizer(*words: str) -> Any:
    """A vocabulary of whole words; a real fast tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = ["<pad>", "<unk>", "<s>", *words]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(entries)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", unk_token="<unk>", bos_token="<s>")


def llava() -> Any:
    import transformers as t

    vision = t.CLIPVisionConfig(**SIZE, image_size=(24, 32), patch_size=8)
    text = t.LlamaConfig(**SIZE, vocab_size=VOCABULARY, num_key_value_heads=2)
    vision.image_size = 32
    config = t.LlavaConfig(vision_config=vision, text_config=text, image_token_id=7)
    torch.manual_seed(0)
    return t.LlavaForConditionalGeneration(config).eval()


def test_a_model_of_text_and_image_has_a_part_for_each_and_marks_the_image_in_the_text() -> None:
    tokenizer = word_tokenizer("what", "is", "this", "?", "<image>")
    given = tokenizer("what is this ? " + "<image> " * 16 + "what", return_tensors="pt")
    assert int((given["input_ids"] == 7).sum()) == 16
    attention = capture(
        llava(), {"input_ids": given["input_ids"], "pixel_values": torch.randn(1, 3, 32, 32)}, tokenizer
    )
    assert attention.parts == ("decoder", "vision")
    text, image = attention.tokens, attention.part("vision").queries
    assert text.image == (False,) * 4 + (True,) * 16 + (False,)
    assert text.grid == image.grid == (4, 4)
    assert text.labels[:6] == ("what", "is", "this", "?", "0,0", "0,1")
    assert text.cell(4 + 6) == (1, 2)
    assert image.labels[:2] == ("[CLS]", "0,0")


def test_a_speech_model_hears_frames_and_writes_tokens() -> None:
    import transformers as t

    size = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = t.WhisperConfig(
        vocab_size=VOCABULARY, d_model=32, **size, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=8,
        max_source_positions=50, max_target_positions=20, pad_token_id=0, decoder_start_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model: Any = t.WhisperForConditionalGeneration(config).eval()
    attention = capture(model, {"input_features": torch.randn(1, 8, 100), "decoder_input_ids": ids(5)})
    assert attention.parts == ("encoder", "decoder", "cross")
    cross = attention.part("cross")
    assert (len(cross.queries), cross.queries.kind) == (5, "token")
    assert (cross.keys.kind, cross.keys.labels[:3]) == ("frame", ("0.00 s", "0.02 s", "0.04 s"))


def test_raw_sound_is_labelled_in_seconds() -> None:
    import transformers as t

    config = t.Wav2Vec2Config(
        **SIZE, conv_dim=(8, 8), conv_stride=(5, 4), conv_kernel=(10, 4), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    attention = capture(t.Wav2Vec2Model(config).eval(), torch.randn(1, 16_000))
    assert attention.parts == ("audio",)
    seconds = [float(label.removesuffix(" s")) for label in attention.tokens.labels]
    assert seconds[-1] == pytest.approx(1 - 1 / len(seconds), abs=0.01)


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(24, 32, (3, 4)), (32, 32, (4, 4))],
)
def test_patches_stand_in_their_grid_also_when_it_is_not_square(height: int, width: int, grid: tuple[int, int]) -> None:
    import transformers as t

    model = t.ViTModel(t.ViTConfig(**SIZE, image_size=(height, width), patch_size=8)).eval()
    tokens = capture(model, {"pixel_values": torch.randn(1, 3, height, width)}).tokens
    assert (tokens.grid, tokens.first_patch, tokens.labels[0]) == (grid, 1, "[CLS]")


def test_registers_and_a_missing_class_token_are_told_apart() -> None:
    import transformers as t

    image = {"pixel_values": torch.randn(1, 3, 32, 32)}
    registers = t.Dinov2WithRegistersConfig(**{k: v for k, v in SIZE.items() if k != "intermediate_size"})
    registers.image_size, registers.patch_size, registers.num_register_tokens = 32, 8, 4
    tokens = capture(t.Dinov2WithRegistersModel(registers).eval(), image).tokens
    assert tokens.labels[:6] == ("[CLS]", "[REG 1]", "[REG 2]", "[REG 3]", "[REG 4]", "0,0")
    plain = t.SiglipVisionModel(t.SiglipVisionConfig(**SIZE, image_size=32, patch_size=8)).eval()
    assert capture(plain, image).tokens.labels[0] == "0,0"


def test_windows_of_an_image_are_the_samples_of_a_batch() -> None:
    import transformers as t

    config = t.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4)
    attention = capture(t.SwinModel(config).eval(), {"pixel_values": torch.randn(1, 3, 32, 32)})
    assert (attention.samples, attention.noun) == (16, "window")
    assert [attention.part(name).queries.kind for name in attention.parts] == ["window", "window"]
    assert attention.part("vision 2").heads == 4
    assert attention.select(9)["vision 2", 0, 3].shape == (16, 16)


def test_the_two_texts_of_a_pair_are_told_apart() -> None:
    model, tokenizer = minilm()
    attention = capture(model, ("Who ran?", "The dog ran."), tokenizer)
    assert attention.tokens.labels == ("[CLS]", "Who", "ran", "?", "[SEP]", "The", "dog", "ran", ".", "[SEP]")
    assert attention.tokens.segments == (-1, 0, 0, 0, -1, 1, 1, 1, 1, -1)
    same = capture(model, dict(tokenizer("Who ran?", "The dog ran.", return_tensors="pt")), tokenizer)
    assert same.tokens.segments == attention.tokens.segments
    spans = [attention.tokens.text[a:b] for a, b in attention.tokens.spans or ()]  # type: ignore[index]
    assert spans == ["", "Who", "ran", "?", "", "The", "dog", "ran", ".", ""]


def test_texts_of_a_list_are_padded_and_keep_their_own_tokens() -> None:
    model, tokenizer = minilm()
    attention = capture(model, ["a dog", "the old cat slept"], tokenizer)
    assert (attention.samples, attention.noun) == (2, "text")
    assert attention.tokens.labels == ("[CLS]", "a", "dog", "[SEP]", "[PAD]", "[PAD]")
    assert attention.select(1).tokens.labels == ("[CLS]", "the", "old", "cat", "slept", "[SEP]")
    assert attention[0, 0].padding.tolist() == [False] * 4 + [True] * 2


def test_an_encoder_and_a_decoder_each_keep_their_own_text() -> None:
    model, _ = make("t5")
    tokenizer = word_tokenizer("the", "cat", "sat", "down", "le", "chat")
    attention = capture(model, ["the cat sat down", "the cat"], tokenizer, target=["le chat", "le"])
    assert attention.parts == ("encoder", "decoder", "cross")
    cross = attention.select(1).part("cross")
    assert cross.queries.labels == ("le", "<pad>")
    assert cross.keys.labels == ("the", "cat", "<pad>", "<pad>")


def test_calls_are_numbered_by_the_list_they_stand_in() -> None:
    model = nn.Module()
    model.layers = nn.ModuleList(nn.ModuleDict({"attention": nn.Linear(1, 1)}) for _ in range(3))
    assert place_of("layers.2.attention") == "layers.*.attention"
    assert slot_of(model, "layers.2.attention", "layers.2", 0, 3)[1] == 2
    assert len(slot_of(model, "layers.2.attention", "layers.2", 0, 3)[0]) == 3
    assert slot_of(model, "attention", "", 5, 1) == ((), 5), "without a list the calls are counted"


def test_samples_of_parts_that_have_different_numbers_of_them_belong_together() -> None:
    """Two images in 16 windows each, then in 4: window 20 of the first stage is of the second image, as is what is
    beside it."""
    import transformers as t

    config = t.SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=4)
    attention = capture(t.SwinModel(config).eval(), {"pixel_values": torch.randn(2, 3, 32, 32)})
    first, second = (attention.part(name).batch for name in attention.parts)
    assert (first, second, attention.samples) == (32, 32, 32) or second < first
    for sample in range(attention.samples):
        shown = attention.select(sample)
        images = [shown.sample_in(shown.part(name)) * 2 // shown.part(name).batch for name in shown.parts]
        assert len(set(images)) == 1, "two parts of one image"


def test_texts_with_the_same_ids_keep_their_own_letters() -> None:
    model, tokenizer = minilm()
    attention = capture(model, ["The Dog", "THE DOG"], tokenizer)
    assert attention.tokens.labels[1:3] == ("The", "Dog")
    assert attention.select(1).tokens.labels[1:3] == ("THE", "DOG")


def test_self_attention_is_not_called_cross_attention_for_its_name() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.multihead_attn = nn.MultiheadAttention(8, 2, batch_first=True)
            self.cross_scale = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            return self.cross_scale(*(self.multihead_attn(x, x, x)[0],) * 3)

    assert capture(Own().eval(), torch.randn(1, 5, 8)).parts == ("encoder", "encoder 2")


def test_stacked_spectra_are_twice_as_long() -> None:
    from attnwidget.inputs import Inputs

    assert Inputs.of({"input_features": torch.zeros(1, 50, 160)}).seconds == 1.0
    assert Inputs.of({"input_features": torch.zeros(1, 80, 3000)}).seconds == 30.0
    assert Inputs.of({"input_features": torch.zeros(1, 80, 128)}).seconds is None, "either may be the bands"


def test_an_image_is_an_image_whatever_it_is_called() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, 8, 4, stride=4)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> Any:
            x = self.cut(x).flatten(2).mT
            return self.attention(x, x, x)[0]

    for given in (torch.randn(1, 3, 8, 12), {"x": torch.randn(1, 3, 8, 12)}):
        tokens = capture(Small().eval(), given).tokens
        assert (tokens.kind, tokens.grid) == ("patch", (2, 3))


def test_the_image_is_marked_in_the_text_also_when_its_own_part_is_not_kept() -> None:
    tokenizer = word_tokenizer("what", "is", "this", "?", "<image>")
    given = tokenizer("what is this ? " + "<image> " * 16, return_tensors="pt")
    inputs = {"input_ids": given["input_ids"], "pixel_values": torch.randn(1, 3, 32, 32)}
    attention = capture(llava(), inputs, tokenizer, parts="decoder")  # type: ignore[arg-type]
    assert attention.parts == ("decoder",)
    assert attention.tokens.grid == (4, 4)
