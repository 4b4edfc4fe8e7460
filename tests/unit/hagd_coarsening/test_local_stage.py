"""Tracing as the pipeline sees it: the same bytes wherever rows lie, and an estimate of what it takes."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.reference import ArtifactRef
from hagd.dictionaries.storage import dictionaries_to_document
from hagd.errors import InvalidInputError, StoreFullError
from hagd.models.storage import model_to_document
from hagd.pipeline.contract import task_key
from hagd.tasks.prompt import Prompt, prompt_to_document
from hagd.testing import RecordingContext
from hagd_coarsening import local_stage
from hagd_coarsening.local_estimate import estimate
from hagd_coarsening.local_handlers import STAGE
from hagd_coarsening.local_stage import run
from pretended_gpu import GPUS, GpuOfTest, pretended_gpu
from unit.hagd_coarsening.tiny import in_single_precision, tiny_subject

TOKENS = np.array([3, 11, 7, 3, 19, 2])


def inputs() -> dict[str, Document]:
    subject = in_single_precision(tiny_subject("llama"))
    documents = {
        "model": model_to_document(subject.model),
        "dictionaries": dictionaries_to_document(subject.dictionaries, {}),
        "prompt": prompt_to_document(Prompt("", TOKENS, (), (), "0" * 64, "tiny")),
    }
    return {role: Document.decode(document.encode()) for role, document in documents.items()}


@pytest.mark.parametrize("config", [{}, {"nodes": 13}, {"heads": True}])
def test_the_graph_is_the_same_wherever_its_rows_lie(config: dict[str, Any], tmp_path: Path) -> None:
    context = RecordingContext(scratch=tmp_path)
    found = {
        spill: run(inputs(), {**config, "spill": spill}, context)["local_graph"]
        for spill in ("auto", "always", "never")
    }
    assert [isinstance(it.tensors["rows"], np.memmap) for it in found.values()] == [False, True, False]
    assert len({it.encode() for it in found.values()}) == 1


def test_where_rows_lie_is_no_part_of_the_key() -> None:
    given = {role: ArtifactRef("0" * 64, 1, "x/y") for role in STAGE.inputs}
    keys = {task_key(STAGE, given, {"spill": spill}) for spill in ("auto", "always", "never")}
    assert keys == {task_key(STAGE, given, {})}
    with pytest.raises(InvalidInputError, match=r"local-graph\.spill"):
        STAGE.resolve({"spill": "perhaps"})


def test_a_disk_that_fills_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: int, _start: int, _n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFullError, match="no room left"):
        run(inputs(), {"spill": "always"}, RecordingContext(scratch=tmp_path))


@pytest.mark.parametrize("config", [{}, {"nodes": 13}, {"heads": True}, {"nodes": 13, "heads": True}])
def test_the_estimate_tells_the_size_of_the_graph(config: dict[str, Any]) -> None:
    told = estimate(inputs(), config, RecordingContext())["estimate"].content
    rows = run(inputs(), config, RecordingContext())["local_graph"].tensors["rows"]
    n_targets = rows.shape[0] - told["size"]["features"] - (2 * 6 * 6 if "heads" in config else 0)
    assert told["size"]["rows"] == len(rows)
    assert told["size"]["nodes"] == rows.shape[1] + n_targets
    assert told["size"]["bytes of rows"] == rows.nbytes
    assert told["peak_bytes"] == told["memory_bytes"]["held"] + told["memory_bytes"]["graph"]
    assert set(told["seconds"]) == {"choosing", "edges", "storing"}
    assert (told["seconds"]["choosing"] > 0) == ("nodes" in config)
    assert 0 < told["calibration_seconds"] < 60


@pytest.mark.parametrize("tokens", [(), ("#3", "#5")])
def test_a_graph_ends_at_vectors_and_the_tokens_that_are_named(tokens: tuple[str, ...]) -> None:
    vectors = {"ramp": list(range(14)), "first": [1.0] + 13 * [0.0]}
    found = run(inputs(), {"vectors": vectors, "targets": tokens}, RecordingContext())["local_graph"]
    assert [target["name"] for target in found.content["targets"]] == [*(it[1:] for it in tokens), *vectors]
    np.testing.assert_array_equal(found.tensors["directions"][len(tokens) :], list(vectors.values()))
    assert "directions" not in run(inputs(), {}, RecordingContext())["local_graph"].tensors
    with pytest.raises(InvalidInputError, match="14 wide"):
        run(inputs(), {"vectors": {"short": [1.0]}}, RecordingContext())


def test_a_prompt_that_memory_does_not_hold_is_refused_before_it_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_given: object, **_named: object) -> None:
        raise AssertionError

    monkeypatch.setattr(local_stage, "available_bytes", lambda _device: 1000)
    monkeypatch.setattr(local_stage, "freeze", never)
    for start in (run, estimate):
        with pytest.raises(InvalidInputError, match="running 6 tokens takes about") as refused:
            start(inputs(), {}, RecordingContext())
        assert refused.value.hint


def test_what_would_be_refused_is_refused_by_its_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_stage, "available_bytes", lambda _device: 1000)
    monkeypatch.setattr(local_stage, "require_room", lambda *_given: None)
    for start in (run, estimate):
        with pytest.raises(InvalidInputError, match="GiB of disk") as refused:
            start(inputs(), {}, RecordingContext())
        assert "nodes" in refused.value.hint or "shorter prompt" in refused.value.hint


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("config", [{}, {"nodes": 13}, {"heads": True}, {"nodes": 13, "heads": True, "half": True}])
def test_the_graph_of_a_gpu_is_that_of_the_cpu(config: dict[str, Any], gpu: GpuOfTest, tmp_path: Path) -> None:
    expected = run(inputs(), config, RecordingContext())["local_graph"]
    for spill in ("never", "always"):
        with gpu() as place:
            context = RecordingContext(scratch=tmp_path, place=place)
            found = run(inputs(), {**config, "spill": spill}, context)["local_graph"]
        assert found.content == expected.content
        for name, tensor in expected.tensors.items():
            np.testing.assert_allclose(found.tensors[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("config", [{"nodes": 13}, {"nodes": 13, "heads": True}])
def test_rows_on_a_gpu_are_timed(config: dict[str, Any]) -> None:
    with pretended_gpu() as place:
        told = estimate(inputs(), config, RecordingContext(place=place))["estimate"].content
    assert told["memory_bytes"]["held"] == 0
    assert told["seconds"]["edges"] >= 0
