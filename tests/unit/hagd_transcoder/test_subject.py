"""The subject stage: configs and keys without torch, and models that must know their task."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.document import Document
from hagd.errors import AccuracyGateError, InvalidInputError, UnknownNameError, UsageError
from hagd.models.storage import model_from_document
from hagd.models.weights import model_digest
from hagd.pipeline.contract import task_key
from hagd.tasks.configs import ModularAdditionConfig
from hagd.tasks.storage import task_from_document
from hagd.testing import RecordingContext
from hagd_transcoder.domain.base_models import make_module, train_base_model
from hagd_transcoder.domain.exercises import exercise_for
from hagd_transcoder.subject import STAGE, resolve
from hagd_transcoder.subject_stage import run

ADDITION = {"name": "modular-addition", "modulus": 31}


def prepare(config: dict[str, Any]) -> dict[str, Document]:
    return run({}, config, RecordingContext())


@pytest.fixture(scope="module")
def trained() -> dict[str, Document]:
    return prepare({"task": ADDITION})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model that knows addition modulo 31."""
    exercise = exercise_for("modular-addition", ModularAdditionConfig(modulus=31), seed=0)
    path = tmp_path_factory.mktemp("model")
    train_base_model(exercise, 0, RecordingContext()).module.save_pretrained(path)
    return path


def test_the_stage_loads_without_torch() -> None:
    code = (
        "import sys; from hagd_transcoder.subject import STAGE; "
        "STAGE.resolve({'task': {'name': 'parity'}}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_are_left_out_of_the_key() -> None:
    assert resolve({"task": {"name": "modular_addition", "modulus": 113}, "seed": 0}) == {
        "task": {"name": "modular-addition"},
        "model": {"train": True},
    }


def test_the_seed_is_that_of_task_and_model_unless_they_have_their_own() -> None:
    config = {"task": ADDITION, "model": {"seed": 5}, "seed": 3}
    assert resolve(config) == {"task": {**ADDITION, "seed": 3}, "model": {"train": True, "seed": 5}}


def test_prompts_and_models_count_by_content_not_by_place(tmp_path: Path, folder: Path) -> None:
    keys: list[str] = []
    for name in ("here", "there", "changed"):
        place = tmp_path / name
        place.mkdir()
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        (place / "pairs.jsonl").write_text(json.dumps({"clean": "a" if name != "changed" else "b"}))
        task = {"name": "jsonl", "path": str(place / "pairs.jsonl")}
        keys.append(task_key(STAGE, {}, {"task": task, "model": {"path": str(place)}}))
    assert keys[0] == keys[1] != keys[2]
    (tmp_path / "there" / "model.safetensors").write_bytes(b"other weights")
    task = {"name": "jsonl", "path": str(tmp_path / "there" / "pairs.jsonl")}
    assert task_key(STAGE, {}, {"task": task, "model": {"path": str(tmp_path / "there")}}) != keys[1]


def test_a_hub_model_counts_by_id_and_revision() -> None:
    config = {"task": {"name": "ioi"}, "model": {"path": "someone/model", "revision": "abc", "gguf": "m.Q4_1.gguf"}}
    assert resolve(config)["model"] == {"hub": "someone/model", "revision": "abc", "gguf": "m.Q4_1.gguf"}


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({}, InvalidInputError, "the subject's task has no name"),
        ({"task": {"name": "parety"}}, UnknownNameError, "no task 'parety'"),
        ({"task": "parity"}, InvalidInputError, "task must be a group of fields, not 'parity'"),
        ({"task": ADDITION, "device": "cpu"}, InvalidInputError, "unknown subject field 'device'"),
        ({"task": ADDITION, "model": {"sead": 1}}, InvalidInputError, "unknown model field 'sead'"),
        ({"task": ADDITION, "model": {"train": False}}, InvalidInputError, "neither trained nor given by path"),
        ({"task": ADDITION, "model": {"untrained": 1}}, InvalidInputError, "untrained must be true or false"),
        ({"task": ADDITION, "model": {"path": 7}}, InvalidInputError, "model path must be text, not 7"),
        ({"task": ADDITION, "model": {"path": "x", "bos": "no"}}, InvalidInputError, "bos must be true or false"),
        ({"task": ADDITION, "seed": -1}, InvalidInputError, "a seed must be a whole number from 0, not -1"),
        ({"task": {"name": "ioi"}}, UsageError, "the task 'ioi' needs a pretrained model"),
        ({"task": {"name": "jsonl"}, "model": {"path": "x"}}, InvalidInputError, "'jsonl' needs its file"),
    ],
)
def test_bad_configs_are_refused(config: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(config)


def test_a_trained_subject_knows_its_task_and_says_where_it_comes_from(trained: dict[str, Document]) -> None:
    task = task_from_document(trained["task"])
    model = model_from_document(trained["model"])
    provenance = trained["model"].content["provenance"]
    assert set(trained) == set(STAGE.outputs)
    assert (task.name, model.config.vocab_size) == ("modular-addition", 32)
    assert provenance["digest"] == model_digest(model)
    assert (provenance["quantisation"], provenance["bos"]) == ("none", False)
    assert provenance["accuracy"] >= 0.99
    assert provenance["source"]["held_out_accuracy"] >= 0.99
    assert provenance["source"]["kind"] == "trained"


def test_the_same_config_gives_the_same_bytes(trained: dict[str, Document]) -> None:
    again = prepare({"task": ADDITION})
    assert all(again[role].encode() == trained[role].encode() for role in STAGE.outputs)


def test_an_untrained_subject_passes_without_knowing_anything() -> None:
    made = prepare({"task": ADDITION, "model": {"untrained": True}})
    assert made["model"].content["provenance"]["accuracy"] < 0.5
    assert made["model"].content["provenance"]["source"] == {"kind": "untrained", "seed": 0}


def test_a_model_from_a_folder_is_measured_on_the_task(folder: Path, trained: dict[str, Document]) -> None:
    made = prepare({"task": ADDITION, "model": {"path": str(folder)}})
    provenance = made["model"].content["provenance"]
    assert provenance["accuracy"] >= 0.99
    assert provenance["source"] == {"kind": "pretrained", "name": folder.name, "revision": None}
    assert provenance["digest"] == trained["model"].content["provenance"]["digest"]


def test_a_model_with_another_digest_than_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="asked for was 000000000000"):
        prepare({"task": ADDITION, "model": {"path": str(folder), "digest": "0" * 64}})


def test_a_model_with_too_few_tokens_for_the_task_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="needs 38 token ids and 3 positions, the model has 32 and 3"):
        prepare({"task": {**ADDITION, "modulus": 37}, "model": {"path": str(folder)}})


def test_a_pretrained_model_below_the_gate_is_an_error_with_numbers(tmp_path: Path) -> None:
    exercise = exercise_for("modular-addition", ModularAdditionConfig(modulus=31), seed=0)
    make_module(exercise, 0).save_pretrained(tmp_path)
    with pytest.raises(AccuracyGateError, match=r"answers \d+\.\d% of \d+ prompts .* 99% are needed"):
        prepare({"task": ADDITION, "model": {"path": str(tmp_path)}})


def test_a_task_too_small_for_donors_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="16 are needed"):
        prepare({"task": {**ADDITION, "modulus": 7}, "model": {"untrained": True}})
