"""What a graph is said to take against what it takes, and where its rows go."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.estimate import Room, estimate, plan_graph
from hagd.attribution.targets import LogitChoice, likeliest
from hagd.attribution.timing import time_graph
from hagd.errors import CancelledError, InvalidInputError
from hagd.graphs.local_storage import local_graph_to_document
from unit.attribution.frozen_models import frozen_prompt
from unit.attribution.test_edges import ends
from unit.attribution.wide_prompts import wide_prompt

PLENTY = 1 << 40
TESTS = Path(__file__).parents[2]


@cache
def whole(nodes: int, *asked: str) -> dict[str, Any]:
    """Give what a process tells that has all the memory it wants."""
    with TemporaryDirectory() as folder:
        return answered(graph_process(Path(folder), PLENTY, nodes, *asked))


def graph_process(folder: Path, memory_bytes: int, nodes: int = 0, *asked: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "unit.attribution.graph_process", str(folder), str(memory_bytes), str(nodes)]
    return subprocess.run([*command, *asked], env=environment, capture_output=True, text=True, check=False)


def answered(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("nodes", [0, 3001])
@pytest.mark.parametrize("heads", [(), ("heads",)])
def test_memory_is_told_within_a_quarter(nodes: int, heads: tuple[str, ...]) -> None:
    found = whole(nodes, *heads)
    assert not found["in_file"]
    assert found["told"] == pytest.approx(found["taken"], rel=0.25)


@pytest.mark.parametrize("heads", [(), ("heads",)])
def test_a_graph_larger_than_the_memory_is_the_same_and_stays_within_it(heads: tuple[str, ...], tmp_path: Path) -> None:
    in_memory = whole(0, *heads)
    limit = in_memory["bytes"] // 4
    spilled = answered(graph_process(tmp_path, limit, 0, *heads))
    assert spilled["in_file"]
    assert spilled["digest"] == in_memory["digest"]
    assert spilled["taken"] <= limit < in_memory["taken"]


def test_a_killed_process_leaves_no_file_of_rows(tmp_path: Path) -> None:
    assert graph_process(tmp_path, whole(0)["bytes"] // 4, 0, "killed").returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config",
    [
        LocalGraphConfig(),
        LocalGraphConfig(most_features=17),
        LocalGraphConfig(heads=True),
        LocalGraphConfig(most_features=17, heads=True),
    ],
)
def test_rows_in_a_file_are_those_in_memory_to_the_bit(config: LocalGraphConfig, tmp_path: Path) -> None:
    frozen, text = frozen_prompt("llama", "plain"), PromptText("", ())
    graphs = [build_local_graph(frozen, text, ends(frozen), config, silent, folder) for folder in (None, tmp_path)]
    assert [isinstance(graph.rows, np.memmap) for graph in graphs] == [False, True]
    assert local_graph_to_document(graphs[0]).encode() == local_graph_to_document(graphs[1]).encode()
    np.testing.assert_array_equal(graphs[0].rows, graphs[1].rows)


def test_a_graph_that_is_stopped_takes_its_file_along(tmp_path: Path) -> None:
    def stop(_done: float, _total: float, _message: str) -> None:
        assert list(tmp_path.iterdir()) == []
        assert str(tmp_path) in Path("/proc/self/maps").read_text()
        raise CancelledError("enough", "")

    frozen = frozen_prompt("llama", "plain")
    with pytest.raises(CancelledError):
        build_local_graph(frozen, PromptText("", ()), ends(frozen), LocalGraphConfig(), stop, tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_rows_go_into_a_file_where_memory_lacks_and_only_then() -> None:
    frozen = wide_prompt(211)
    size = estimate(frozen, 3, None)
    assert size.memory_with_file_bytes < size.memory_bytes
    enough, little = int(size.memory_bytes / 0.9) + 9, int(size.memory_with_file_bytes / 0.9) + 9
    assert not plan_graph(frozen, 3, None, Room(enough, 0)).in_file
    found = plan_graph(frozen, 3, None, Room(little, PLENTY))
    assert found.in_file
    assert found.memory_bytes == size.memory_with_file_bytes
    assert plan_graph(frozen, 3, None, Room(enough, PLENTY), spill="always").in_file
    for room, spill in ((Room(little, PLENTY), "never"), (Room(little, size.disk_bytes), "auto"), (Room(9, 0), "auto")):
        with pytest.raises(InvalidInputError, match="GiB"):
            plan_graph(frozen, 3, None, room, spill=spill)  # pyright: ignore[reportArgumentType]  # one of them each


@pytest.mark.parametrize("there", [False, True])
def test_the_wider_chunks_of_bfloat16_are_counted_where_it_is_taken(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hagd.attribution.estimate.CHUNK_CELLS", 1 << 12)
    monkeypatch.setattr("hagd.attribution.estimate.HALF_CHUNK_CELLS", 1 << 14)
    monkeypatch.setattr("hagd.attribution.estimate.multiplies_bfloat16", lambda _device: there)
    frozen = wide_prompt(211)
    single, half = (estimate(frozen, 3, None, half=it).memory_bytes for it in (False, True))
    assert (half > single) is there


@pytest.mark.parametrize("heads", [False, True])
def test_a_graph_that_fits_nowhere_is_refused_with_one_that_fits(heads: bool) -> None:
    frozen = wide_prompt(101)
    active = frozen.n_active
    room = Room(int(estimate(frozen, 3, active // 2, heads=heads).memory_bytes / 0.9) + 1000, 0)
    with pytest.raises(InvalidInputError, match=f"a graph of {active} features takes about") as refused:
        plan_graph(frozen, 3, None, room, heads=heads)
    most = int("".join(filter(str.isdigit, refused.value.hint)))
    assert plan_graph(frozen, 3, most, room, heads=heads).size.features == most >= active // 2
    with pytest.raises(InvalidInputError):
        plan_graph(frozen, 3, most + 50, room, heads=heads)


@pytest.mark.parametrize("config", [LocalGraphConfig(), LocalGraphConfig(heads=True), LocalGraphConfig(2003)])
def test_the_size_told_is_that_of_the_graph_and_the_time_not_far_from_it(config: LocalGraphConfig) -> None:
    """In processor time, which other work on the machine hardly changes."""
    frozen, threads = wide_prompt(433), torch.get_num_threads()
    targets = likeliest(frozen, LogitChoice())
    torch.set_num_threads(1)
    try:
        # What is compiled for shapes of products that are new is none of the time of large graphs.
        build_local_graph(frozen, PromptText("", ()), targets, config, silent)
        told = time_graph(frozen, targets, config, time.process_time)
        began = time.process_time()
        graph = build_local_graph(frozen, PromptText("", ()), targets, config, silent)
        taken = time.process_time() - began
    finally:
        torch.set_num_threads(threads)
    size = estimate(frozen, len(targets), config.most_features, heads=config.heads)
    assert (size.rows, size.columns) == graph.rows.shape
    assert size.features == graph.n_features
    assert size.file_bytes == graph.rows.nbytes
    assert taken / 2 < told.choosing + told.edges < 2 * taken
