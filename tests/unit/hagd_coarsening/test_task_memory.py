"""What the graph of a task is said to take against what it takes, and graphs that are refused for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hagd.errors import InvalidInputError
from hagd_coarsening import stage
from hagd_coarsening.domain.task_graph import GraphConfig
from hagd_coarsening.domain.task_memory import require_room, task_graph_bytes
from hagd_coarsening.handlers import CoarseningConfig
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task

TESTS = Path(__file__).parents[2]


@pytest.mark.parametrize("steps", [1, 3])
def test_the_memory_of_traces_is_told_within_a_half(steps: int) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unit.hagd_coarsening.task_process", "3001", str(steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["told"] == pytest.approx(found["taken"], rel=1 / 2)


@pytest.mark.parametrize("resolution", ["feature", "mixed"])
def test_a_graph_of_too_many_prompts_is_refused_with_as_many_as_fit(resolution: str) -> None:
    subject, task = tiny_subject("llama"), tiny_task(401)
    config = GraphConfig(resolution=resolution, prompts=300)  # pyright: ignore[reportArgumentType]  # one of both
    room = task_graph_bytes(subject, task, config)
    require_room(subject, task, config, room)
    with pytest.raises(InvalidInputError, match="takes about") as refused:
        require_room(subject, task, GraphConfig(resolution=config.resolution), room)
    most = int(refused.value.hint.rpartition("=")[2])
    assert 300 <= most <= 301
    with pytest.raises(InvalidInputError) as refused:
        require_room(subject, task, config, 100)
    assert "more memory" in refused.value.hint


def test_a_stage_that_memory_does_not_hold_is_refused_before_a_prompt_is_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_given: object) -> None:
        raise AssertionError

    monkeypatch.setattr(stage, "available_bytes", lambda: 100_000)
    monkeypatch.setattr(stage, "build_task_graph", never)
    with pytest.raises(InvalidInputError, match="tracing the prompts of task 'tiny'"):
        stage.coarsen(tiny_subject("llama"), tiny_task(), CoarseningConfig(), lambda *_told: None)
