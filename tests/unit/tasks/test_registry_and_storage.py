"""Tasks by name, and tasks as artifacts."""

import subprocess
import sys

import pytest
import torch

from hagd.artifacts.document import Document
from hagd.errors import CorruptArtifactError, InvalidInputError, UnknownNameError
from hagd.tasks.registry import TASKS, build_task, find_task
from hagd.tasks.storage import task_from_document, task_to_document


def test_an_unknown_task_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownNameError, match="no task 'modular-multiplication'") as caught:
        find_task("modular-multiplication")
    assert all(name in caught.value.hint for name in TASKS)


def test_underscores_and_dashes_name_the_same_task() -> None:
    assert find_task("modular_addition") is find_task("modular-addition")


def test_a_text_task_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'ioi' needs a pretrained model"):
        build_task("ioi", {})


def test_the_registry_loads_without_torch() -> None:
    code = "import sys, hagd.tasks.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["modular-addition", "parity", "sorting"])
def test_a_task_survives_its_artifact_byte_for_byte(name: str) -> None:
    task = build_task(name, {"modulus": 13} if name == "modular-addition" else {})
    data = task_to_document(task).encode()
    read = task_from_document(Document.decode(data))
    assert task_to_document(read).encode() == data
    assert (read.name, read.roles, read.judged, read.bos) == (task.name, task.roles, task.judged, task.bos)
    assert read.token_text == task.token_text
    for split, batches in task.batches.items():
        for batch, other in zip(batches, read.batches[split], strict=True):
            assert batch.layout == other.layout
            assert batch.groups == other.groups
            assert torch.equal(batch.foils, other.foils)


def test_a_document_of_another_kind_is_refused() -> None:
    with pytest.raises(CorruptArtifactError, match=r"expected a document of schema 'hagd.task/v1', got None"):
        task_from_document(Document({"kind": "model"}))


def test_a_document_with_a_missing_tensor_is_refused() -> None:
    document = task_to_document(build_task("modular-addition", {"modulus": 13}))
    tensors = {name: value for name, value in document.tensors.items() if name != "verify.0.foils"}
    with pytest.raises(CorruptArtifactError, match=r"verify\.0\.foils"):
        task_from_document(Document(document.content, tensors))


def test_a_document_whose_shapes_disagree_is_refused() -> None:
    document = task_to_document(build_task("modular-addition", {"modulus": 13}))
    tensors = dict(document.tensors) | {"select.0.answers": document.tensors["select.0.answers"][:-1]}
    with pytest.raises(CorruptArtifactError, match="shapes of select batch 0"):
        task_from_document(Document(document.content, tensors))
