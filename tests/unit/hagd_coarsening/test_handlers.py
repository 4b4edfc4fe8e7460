"""The stage as the pipeline sees it: light to load, strict about its config, same bytes for the same input."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.graphs.storage import graph_from_document, hierarchy_from_document
from hagd.interventions.activations import Subject
from hagd.models.storage import model_to_document
from hagd.tasks.storage import task_to_document
from hagd.tasks.task import Task
from hagd_coarsening.handlers import STAGE, resolve
from hagd_coarsening.stage import run
from unit.hagd_coarsening.tiny import in_single_precision, tiny_subject, tiny_task


class Recorder:
    def __init__(self) -> None:
        self.shares: list[float] = []

    def progress(self, done: float, total: float, _message: str) -> None:
        self.shares.append(done / total)

    def save_checkpoint(self, _step: int, _state: Document) -> None:
        raise AssertionError("this stage is short")

    def load_checkpoint(self) -> tuple[int, Document] | None:
        return None

    def scratch_folder(self) -> Path:
        return Path(tempfile.gettempdir())

    def device(self, rank: int = 0, world_size: int = 1) -> str:
        del rank, world_size
        raise AssertionError("this stage is small")


def inputs(subject: Subject) -> dict[str, Document]:
    subject = in_single_precision(subject)
    documents = {
        "model": model_to_document(subject.model),
        "task": task_to_document(tiny_task()),
        "dictionaries": dictionaries_to_document(subject.dictionaries, {}),
    }
    return {role: Document.decode(document.encode()) for role, document in documents.items()}


def test_the_spec_loads_without_torch() -> None:
    code = "import sys; import hagd_coarsening.handlers; print('torch' in sys.modules, 'scipy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"]


def test_fields_at_their_default_are_left_out_of_the_key() -> None:
    assert resolve({}) == {}
    assert resolve({"branching": 4, "affinity": "raw", "seed": 0}) == {"affinity": "raw"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"branching": 1}, "coarsening.branching"),
        ({"affinity": "cosine"}, "coarsening.affinity"),
        ({"edge_threshold": float("nan")}, "coarsening.edge_threshold"),
        ({"prompts": 0}, "coarsening.prompts"),
        ({"colour": "red"}, "coarsening.colour"),
    ],
)
def test_a_bad_config_is_refused_by_name(config: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        resolve(config)


@pytest.mark.parametrize("config", [{}, {"resolution": "mixed"}, {"affinity": "functional", "branching": 2}])
def test_the_same_input_gives_the_same_bytes(config: dict[str, object]) -> None:
    recorder = Recorder()
    given = inputs(tiny_subject("llama"))
    first, second = run(given, config, recorder), run(given, config, Recorder())
    assert set(first) == set(STAGE.outputs)
    assert all(first[role].encode() == second[role].encode() for role in STAGE.outputs)
    graph, hierarchy = graph_from_document(first["graph"]), hierarchy_from_document(first["hierarchy"])
    assert len(hierarchy.module_labels) == graph.n_nodes
    assert {node.kind for node in graph.nodes} >= ({"mlp"} if "resolution" in config else {"feature", "error", "skip"})
    assert recorder.shares == sorted(recorder.shares)
    assert recorder.shares[-1] == 1.0


def test_a_task_without_discovery_prompts_is_refused() -> None:
    given = inputs(tiny_subject("gpt2"))
    empty = task_to_document(Task("tiny", ("a",), {}, {}, "vocabulary", False, 0.0))
    with pytest.raises(InvalidInputError, match="no prompts"):
        run({**given, "task": empty}, {}, Recorder())
