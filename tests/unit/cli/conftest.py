"""A model and transcoders of its MLPs in files of another tool, for the commands that read such files."""

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hagd.dictionaries.dictionary import neurons_of
from hagd.dictionaries.formats import circuit_tracer
from hagd.models.architectures import convert
from unit.tasks.words import BOS, word_tokenizer, words_of

WORDS = words_of("the cat sat on a mat and saw the other cat that had once sat there")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose MLPs are relu, so that their own 17 neurons are transcoders of other tools."""
    tokenizer = word_tokenizer(WORDS)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=13,
        n_embd=10,
        n_layer=2,
        n_head=2,
        n_inner=17,
        activation_function="relu",
        bos_token_id=None,
        eos_token_id=None,
    )
    module = GPT2LMHeadModel(config).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=draw)
            weight.copy_(4 + 0.3 * noise if "ln_2" in name and name.endswith("weight") else 0.5 * noise)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    module.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS).save_pretrained(folder)
    return folder


@pytest.fixture
def source(model: Path, tmp_path: Path) -> Path:
    """Write the model's own neurons as circuit-tracer has its transcoders, without a card."""
    blocks = convert(GPT2LMHeadModel.from_pretrained(model).eval()).blocks
    folder = tmp_path / "source"
    folder.mkdir()
    circuit_tracer.write({layer: neurons_of(it.mlp, layer) for layer, it in enumerate(blocks)}, folder, "tiny")
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Write a text in the model's language."""
    path = tmp_path / "text.txt"
    path.write_text(" ".join(WORDS * 5))
    return path
