"""`hagd transcoder` on text, from an estimate to a folder for sharing, with a tiny model in real worker processes."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hagd.dictionaries.formats.registry import read_folder
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.extraction.opened import OpenRun
from hagd.tasks import ioi
from integration.command_line import CommandLine
from unit.tasks.words import BOS, word_tokenizer, words_of

WORDS = words_of(*ioi.TEMPLATES, *ioi.OOD_TEMPLATES, ioi.NAMES, ioi.OOD_NAMES, *ioi.PLACES, *ioi.OBJECTS)
LARGE = [
    "--set",
    "corpus-transcoder.n_features=16381",
    "--set",
    "corpus-transcoder.batch=256",
    "--set",
    "corpus-transcoder.k=11",
]
SMALL = ["--set", "corpus-transcoder.n_features=67", "--set", "corpus-transcoder.batch=256"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    module = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=tokenizer.vocab_size,
            n_positions=32,
            n_embd=60,
            n_layer=3,
            n_head=4,
            n_inner=67,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    module.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend, bos_token=BOS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(40, 90))) for _ in range(150)]
    path = tmp_path_factory.mktemp("text") / "text.parquet"
    parquet.write_table(pa.table({"text": texts}), path)
    return path


def train(hagd: CommandLine, model: Path, text: Path, *arguments: str) -> Any:
    fixed = ["--data", str(text), "--model", str(model), "--set", "corpus.context=32", "--threads", "1", "--json"]
    answer = hagd("transcoder", "train", *fixed, *arguments)
    assert answer.code == 0, answer.out + answer.err
    return answer.data


@pytest.mark.parametrize("kind", [[], ["--dictionary", "cross-layer"]])
def test_memory_is_told_before_the_worker_takes_it(
    kind: list[str], hagd: CommandLine, workplace: Path, model: Path, text: Path
) -> None:
    told = train(hagd, model, text, "--out", "x", "--dry-run", *LARGE, *kind)
    assert list(workplace.iterdir()) == []
    estimate = told["plan"][1]["estimate"]
    train(hagd, model, text, "--out", "x", *LARGE, *kind)
    (taken,) = (it for it in OpenRun.open(Path("x")).state.stages if it.stage_id == "corpus-transcoder")
    held = estimate["parts"]["memory_bytes"]["held"]
    assert estimate["fits"]
    assert estimate["peak_bytes"] > held + (256 << 20)
    # What the worker holds beforehand differs from process to process, once by half of all it took.
    assert 0.75 * taken.peak_rss_bytes < estimate["peak_bytes"] < 1.5 * taken.peak_rss_bytes


def test_a_shared_store_keeps_what_was_read_for_the_run(
    hagd: CommandLine, workplace: Path, model: Path, text: Path
) -> None:
    train(hagd, model, text, "--dry-run", "--store", "s", *SMALL)
    again = train(hagd, model, text, "--dry-run", "--store", "s", *SMALL)
    assert [it["estimate"]["cached"] for it in again["plan"]] == [True, False]
    assert not list((workplace / "s" / "objects").rglob("checkpoints/*/*/*/*"))


def test_what_a_run_on_mixed_text_trained_is_converted_with_what_it_measured(
    hagd: CommandLine, workplace: Path, model: Path, text: Path
) -> None:
    train(hagd, model, text, "--out", "x", "--mix", "ioi=0.25", *SMALL)
    corpus = OpenRun.open(Path("x")).document("corpus")
    lengths = corpus.tensors["offsets"][1:] - corpus.tensors["offsets"][:-1]
    trained = lengths[corpus.tensors["held_out"] == 0].sum()
    assert lengths[-corpus.content["n_prompts"] :].sum() / trained == pytest.approx(0.25, abs=0.005)

    answer = hagd("transcoder", "convert", "x", "--model", str(model), "--out", "shared", "--json")
    assert answer.code == 0, answer.out
    assert (answer.data["format"], answer.data["space"]) == ("hagd-run", "mlp-input")
    run = OpenRun.open(Path("x")).document("dictionaries")
    found = read_folder(Path("shared"))
    for layer, dictionary in dictionaries_from_document(run).items():
        assert isinstance(found.content, dict)
        assert torch.equal(found.content[layer].w_enc, dictionary.w_enc)
        assert found.content[layer].k == dictionary.k
    measured = json.loads(Path("shared/config.json").read_text())["metrics"]["layers"]
    assert [it["fvu"] for it in measured] == [it["fvu"] for it in run.content["metrics"]["layers"]]
    (header,) = (line for line in Path("shared/README.md").read_text().splitlines() if line.startswith("| layer |"))
    assert {"fvu", "l0", "dead_share"} <= set(header.split())


def test_a_run_of_another_model_is_refused(hagd: CommandLine, workplace: Path, model: Path, text: Path) -> None:
    train(hagd, model, text, "--out", "x", *SMALL, "--set", "corpus-transcoder.tokens=300")
    other = GPT2LMHeadModel.from_pretrained(model)
    with torch.no_grad():
        other.transformer.wte.weight.mul_(1.01)
    other.save_pretrained("other")
    answer = hagd("transcoder", "convert", "x", "--model", "other", "--out", "shared", "--json")
    assert answer.error["kind"] == "invalid-input"
    assert "belong to weights of digest" in answer.error["message"]
    assert not Path("shared").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mix", "ioi=0.1", "--task", "ioi"], "--mix needs text"),
        (["--mix", "ioi", "--data", "."], "cannot read the mix"),
        (["--dictionaries", "mine", "--task", "ioi"], "are there already"),
        (["--dictionaries", "mine", "--data", "."], "are there already"),
    ],
)
def test_what_means_nothing_for_training_is_refused(
    hagd: CommandLine, workplace: Path, arguments: list[str], said: str
) -> None:
    answer = hagd("transcoder", "train", *arguments, "--model", "x", "--json")
    assert answer.code == 2
    assert said in answer.error["message"]
