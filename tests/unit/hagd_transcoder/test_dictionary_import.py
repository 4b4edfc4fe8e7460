"""Dictionaries from a folder take the place of trained ones, if they are of the model and explain it on the task."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.cross_layer import CrossLayerTranscoder
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.formats import hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.errors import InvalidInputError, UsageError
from hagd.models.storage import model_to_document
from hagd.models.weights import model_digest
from hagd.tasks.storage import task_to_document
from hagd.testing import RecordingContext
from hagd_transcoder import dictionaries, dictionary_import_stage
from hagd_transcoder.dictionary_import import resolve
from unit.hagd_transcoder.tiny_subjects import tiny_model, tiny_task

MODEL = tiny_model(n_layers=2)
CONFIG = {"n_features": 17, "k": 5, "steps": 150, "behaviour": 0.0, "skip": True}


def inputs(digest: str = "") -> dict[str, Document]:
    """Give a model that was trained on the spot, which has no name, and its task."""
    model = model_to_document(MODEL)
    source = {"kind": "trained", "seed": 0}
    known = {"digest": digest or model_digest(MODEL), "quantisation": "none", "bos": False, "source": source}
    named = Document({**model.content, "provenance": known}, model.tensors)
    return {"model": named, "task": task_to_document(tiny_task())}


def written(content: dict[int, Dictionary] | CrossLayerTranscoder, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    hugging_face.write(content, folder, Belongings("tiny", None, model_digest(MODEL), "hagd-run"), {})
    return {"dictionaries": str(folder)}


@pytest.fixture(scope="module")
def trained() -> Document:
    return dictionaries.run(inputs(), CONFIG, RecordingContext())["dictionaries"]


def test_what_was_trained_comes_back_from_its_folder_measured_the_same(trained: Document, tmp_path: Path) -> None:
    config = written(dictionaries_from_document(trained), tmp_path)

    found = dictionary_import_stage.run(inputs(), config, RecordingContext())["dictionaries"]

    assert found.content["layers"] == trained.content["layers"]
    assert {name: it.tobytes() for name, it in found.tensors.items()} == {
        name: it.tobytes() for name, it in trained.tensors.items()
    }
    measured = {name: it for name, it in trained.content["metrics"].items() if name != "plan"}
    assert found.content["metrics"] == measured
    assert measured["layers"][0]["fvu"] < 1


def test_dictionaries_of_other_weights_are_refused(trained: Document, tmp_path: Path) -> None:
    config = written(dictionaries_from_document(trained), tmp_path)
    with pytest.raises(InvalidInputError, match="belong to weights of digest"):
        dictionary_import_stage.run(inputs("0" * 64), config, RecordingContext())


def test_dictionaries_that_explain_less_than_the_mean_are_refused_unless_taken_as_they_are(
    trained: Document, tmp_path: Path
) -> None:
    content = dictionaries_from_document(trained)
    config = written({layer: replace(it, w_dec=-it.w_dec) for layer, it in content.items()}, tmp_path)
    with pytest.raises(InvalidInputError, match="less than the mean") as refused:
        dictionary_import_stage.run(inputs(), config, RecordingContext())
    assert "--set transcoder.measure=false" in refused.value.hint

    found = dictionary_import_stage.run(inputs(), {**config, "measure": False}, RecordingContext())["dictionaries"]

    assert found.content["metrics"]["layers"][0]["fvu"] > 1


def test_dictionaries_across_layers_are_refused_with_what_they_are_good_for(tmp_path: Path) -> None:
    mlps = [block.mlp for block in MODEL.blocks]
    # The neurons of each layer, which write nothing to later ones.
    w_dec = tuple(
        torch.stack([mlp.w_out, *(torch.zeros_like(mlp.w_out) for _ in mlps[layer + 1 :])])
        for layer, mlp in enumerate(mlps)
    )
    across = CrossLayerTranscoder(
        activation="relu",
        k=None,
        w_enc=tuple(mlp.w_in for mlp in mlps),
        b_enc=tuple(mlp.b_in for mlp in mlps if mlp.b_in is not None),
        w_dec=w_dec,
        b_dec=tuple(mlp.b_out for mlp in mlps if mlp.b_out is not None),
    )
    config = written(across, tmp_path)
    with pytest.raises(InvalidInputError, match="run across layers") as refused:
        dictionary_import_stage.run(inputs(), config, RecordingContext())
    assert "graph build --text" in refused.value.hint


def test_the_result_is_named_by_the_content_of_the_folder_and_not_by_its_place(
    trained: Document, tmp_path: Path
) -> None:
    content = dictionaries_from_document(trained)
    first, second = written(content, tmp_path / "a"), written(content, tmp_path / "b")
    assert first != second
    assert resolve(first) == resolve(second) != resolve({**first, "measure": False})
    assert resolve({"dictionaries": "nowhere", "dictionaries_digest": resolve(first)["dictionaries"]}) == resolve(first)
    with pytest.raises(UsageError, match="no dictionaries to take"):
        resolve({})


def test_a_folder_that_changed_since_it_was_asked_for_is_refused(trained: Document, tmp_path: Path) -> None:
    config = written(dictionaries_from_document(trained), tmp_path)
    with pytest.raises(InvalidInputError, match="not those that were asked for"):
        dictionary_import_stage.run(inputs(), {**config, "dictionaries_digest": "0" * 64}, RecordingContext())
