"""Dictionaries in a folder are measured as those that a run has just trained."""

from pathlib import Path
from typing import Any

import pytest

from hagd.artifacts.document import Document
from hagd.dictionaries.formats import hugging_face
from hagd.dictionaries.formats.card import Belongings
from hagd.dictionaries.storage import any_dictionaries_from_document
from hagd.errors import InvalidInputError, UsageError
from hagd.models.weights import model_digest
from hagd.testing import RecordingContext
from hagd_transcoder import corpus_dictionaries, evaluation_stage
from hagd_transcoder.evaluation import resolve
from unit.hagd_transcoder.test_corpus_training import CONFIG, MODEL, inputs


def named(digest: str = "") -> dict[str, Document]:
    """Give model and corpus, the former with what the corpus stage says of it."""
    found = inputs()
    provenance = {
        "digest": digest or model_digest(MODEL),
        "quantisation": "none",
        "bos": False,
        "source": {"kind": "pretrained", "name": "tiny", "revision": None},
    }
    model = found["model"]
    return found | {"model": Document({**model.content, "provenance": provenance}, model.tensors)}


def write(document: Document, folder: Path) -> Path:
    belongings = Belongings("tiny", None, model_digest(MODEL), "hagd-run")
    hugging_face.write(any_dictionaries_from_document(document), folder, belongings, {})
    return folder


@pytest.mark.parametrize("kind", ["auto", "cross-layer"])
def test_a_folder_is_measured_as_the_run_that_it_came_from(kind: str, tmp_path: Path) -> None:
    trained = corpus_dictionaries.run(named(), {**CONFIG, "kind": kind}, RecordingContext())["dictionaries"]
    config = {"dictionaries": str(write(trained, tmp_path)), "traced": CONFIG["traced"]}
    document = evaluation_stage.run(named(), config, RecordingContext())["dictionaries"]
    found, expected = document.content["metrics"], trained.content["metrics"]
    same: dict[str, Any] = {name: value for name, value in expected.items() if name != "plan"}
    assert {"layers", "kl_nats", "completeness", "fvu_mean", "corpus"} < set(same)
    assert found == same
    assert any_dictionaries_from_document(document)


def test_dictionaries_of_another_model_are_refused(tmp_path: Path) -> None:
    trained = corpus_dictionaries.run(named(), {**CONFIG, "tokens": 120}, RecordingContext())["dictionaries"]
    config = {"dictionaries": str(write(trained, tmp_path))}
    with pytest.raises(InvalidInputError, match="belong to weights of digest"):
        evaluation_stage.run(named("0" * 64), config, RecordingContext())


def test_the_result_is_named_by_the_content_of_the_folder_and_not_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no dictionaries to measure"):
        resolve({})
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, text in zip(folders, "xxy", strict=True):
        folder.mkdir()
        (folder / "config.json").write_text(text)
    first, second, other = (resolve({"dictionaries": str(folder)}) for folder in folders)
    assert first == second != other
