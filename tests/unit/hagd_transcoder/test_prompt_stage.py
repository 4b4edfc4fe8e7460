"""The prompt stage: dictionaries are measured before a prompt is traced with them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats import hugging_face
from hagd.dictionaries.formats.found import Found, InputSpace
from hagd.dictionaries.formats.hugging_face import Belongings
from hagd.dictionaries.formats.registry import read_folder
from hagd.dictionaries.formats.spaces import fold
from hagd.errors import InvalidInputError
from hagd.models.architectures import convert
from hagd.models.weights import model_digest
from hagd.testing import RecordingContext
from hagd_transcoder import dictionary_reading
from hagd_transcoder.prompt_stage import run
from unit.models.tiny_models import tiny_gpt2
from unit.tasks.words import BOS, word_tokenizer

TOKENS = [3, 11, 7, 3, 19, 2, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose gains are far from 1, as those of trained models are."""
    module = tiny_gpt2()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "ln_2" in name and name.endswith("weight"):
                weight.mul_(4)
    return saved(module, tmp_path_factory.mktemp("models") / "tiny")


def saved(module: GPT2LMHeadModel, folder: Path) -> Path:
    module.save_pretrained(folder)
    return folder


def dictionaries(model: Path, folder: Path, space: InputSpace) -> Path:
    """Write the model's own neurons as if they had read `space`."""
    weights = convert(GPT2LMHeadModel.from_pretrained(model).eval())
    neurons = {layer: neurons_of(block.mlp, layer) for layer, block in enumerate(weights.blocks)}
    content = fold(Found("x", neurons, space), weights).content
    folder.mkdir()
    belongings = Belongings(model.name, None, model_digest(weights), "x")
    hugging_face.write(content, folder, belongings, {})
    return folder


def prepare(model: Path, folder: Path, **config: Any) -> dict[str, Document]:
    asked = {"model": {"path": str(model)}, "dictionaries": str(folder), **config}
    return run({}, asked, RecordingContext())


def test_dictionaries_that_explain_the_prompt_are_taken(model: Path, tmp_path: Path) -> None:
    documents = prepare(model, dictionaries(model, tmp_path / "right", "mlp-input"), tokens=TOKENS)
    assert documents["prompt"].tensors["tokens"].tolist() == TOKENS


def test_dictionaries_of_another_space_are_refused_unless_they_are_asked_for(model: Path, tmp_path: Path) -> None:
    folder = dictionaries(model, tmp_path / "wrong", "normalised")
    with pytest.raises(InvalidInputError, match="of the variance unexplained") as caught:
        prepare(model, folder, tokens=TOKENS)
    assert "--set prompt.measure=false" in caught.value.hint
    assert prepare(model, folder, tokens=TOKENS, measure=False)["dictionaries"].tensors


def test_a_prompt_that_is_too_short_to_tell_is_measured_with_a_text_behind_it(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(["cat", "sat"])
    module = tiny_gpt2()
    module.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
    with torch.no_grad():
        module.transformer.wte.weight.normal_(generator=torch.Generator().manual_seed(3))
        for block in module.transformer.h:
            block.ln_2.weight.mul_(4)
    model = saved(module, tmp_path / "worded")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS).save_pretrained(model)
    with pytest.raises(InvalidInputError, match="of the variance unexplained"):
        prepare(model, dictionaries(model, tmp_path / "wrong", "normalised"), text="cat")
    assert prepare(model, dictionaries(model, tmp_path / "right", "mlp-input"), text="cat")


def test_what_hook_normalized_means_is_found_out(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dictionaries(model, tmp_path / "right", "mlp-input")
    expected = prepare(model, folder, tokens=TOKENS)["dictionaries"].encode()

    def left_open(path: Path) -> Found:
        return replace(read_folder(path), space="hook-normalized")

    monkeypatch.setattr(dictionary_reading, "read_folder", left_open)
    assert prepare(model, folder, tokens=TOKENS)["dictionaries"].encode() == expected
    with pytest.raises(InvalidInputError, match="the file does not say") as caught:
        prepare(model, folder, tokens=TOKENS, measure=False)
    assert "hagd transcoder convert" in caught.value.hint


@pytest.mark.parametrize("tokens", [[23], [1, 99]])
def test_a_token_that_the_model_has_not_is_refused(model: Path, tokens: list[int]) -> None:
    with pytest.raises(InvalidInputError, match="there is no token"):
        prepare(model, Path("neurons"), tokens=tokens)
