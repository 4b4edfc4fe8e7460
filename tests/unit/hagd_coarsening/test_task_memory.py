"""What the graph of a task is said to take against what it takes, and graphs that are refused for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hagd.errors import InvalidInputError
from hagd_coarsening import stage
from hagd_coarsening.domain import task_graph
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph, traced_together
from hagd_coarsening.domain.task_memory import needs_files, task_graph_bytes
from hagd_coarsening.handlers import CoarseningConfig
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task

TESTS = Path(__file__).parents[2]


def measured(*arguments: str) -> dict[str, int]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unit.hagd_coarsening.task_process", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_memory_of_traces_is_told_within_a_half(steps: int) -> None:
    found = measured("3001", str(steps))
    assert found["told"] == pytest.approx(found["taken"], rel=1 / 2)


def test_traces_in_files_leave_the_memory_to_those_at_hand(tmp_path: Path) -> None:
    found = measured("6001", "3", str(tmp_path))
    assert found["told"] < 0.3 * found["in_memory"]
    assert found["told"] == pytest.approx(found["taken"], rel=1 / 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("resolution", ["feature", "mixed"])
def test_a_graph_whose_traces_lie_in_files_is_the_same_to_the_bit(
    resolution: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, task = tiny_subject("llama"), tiny_task(61)
    config = GraphConfig(resolution=resolution, source_value="difference", steps=steps)  # pyright: ignore[reportArgumentType]  # one of both
    monkeypatch.setattr(task_graph, "_TRACE_CELLS", 1 << 14)
    assert traced_together(subject, 5) < 61

    here, there = (build_task_graph(subject, task, config, folder=folder) for folder in (None, tmp_path))

    for name in ("source", "target", "weight", "weight_abs"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert here.nodes == there.nodes
    for name, values in here.statistics.items():
        np.testing.assert_array_equal(values, there.statistics[name])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resolution", ["feature", "mixed"])
def test_a_graph_of_too_many_prompts_is_refused_with_as_many_as_fit(resolution: str) -> None:
    subject, task = tiny_subject("llama"), tiny_task(401)
    config = GraphConfig(resolution=resolution, prompts=300)  # pyright: ignore[reportArgumentType]  # one of both
    room = task_graph_bytes(subject, task, config).in_memory
    assert not needs_files(subject, task, config, room, 0)
    with pytest.raises(InvalidInputError, match="takes about") as refused:
        needs_files(subject, task, GraphConfig(resolution=config.resolution), room, 0)
    most = int(refused.value.hint.rpartition("=")[2])
    assert 300 <= most <= 301
    with pytest.raises(InvalidInputError) as refused:
        needs_files(subject, task, config, 100, 0)
    assert "more memory" in refused.value.hint


def test_traces_go_into_files_where_memory_lacks_and_the_disk_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_graph, "_TRACE_CELLS", 1 << 14)
    subject, task = tiny_subject("llama"), tiny_task(6001)
    config = GraphConfig(prompts=12_000, source_value="difference", steps=3)
    told = task_graph_bytes(subject, task, config)
    assert not needs_files(subject, task, config, told.in_memory, 0)
    assert needs_files(subject, task, config, told.in_memory - 1, told.files)
    assert needs_files(subject, task, config, told.with_files, told.files)
    for memory, disk in ((told.with_files - 1, told.files), (told.with_files, told.files - 1)):
        with pytest.raises(InvalidInputError, match="of disk"):
            needs_files(subject, task, config, memory, disk)


def test_a_stage_that_memory_does_not_hold_is_refused_before_a_prompt_is_traced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_given: object) -> None:
        raise AssertionError

    monkeypatch.setattr(stage, "available_bytes", lambda: 100_000)
    monkeypatch.setattr(stage, "build_task_graph", never)
    with pytest.raises(InvalidInputError, match="tracing the prompts of task 'tiny'"):
        stage.coarsen(tiny_subject("llama"), tiny_task(), CoarseningConfig(), lambda *_told: None, tmp_path)
