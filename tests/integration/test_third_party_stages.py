"""The example of stages from outside, installed as its users install it and run to a verdict.

The distribution goes into a folder of its own and never into the environment of these tests, where its stages would be
taken for built-in ones.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hagd.errors import InvalidInputError
from hagd.extraction.plan import EXTRACT, PRINCIPAL, build_plan
from hagd.extraction.result import Extraction
from hagd.extraction.running import run_request
from hagd.extraction.settings import Settings
from hagd.graphs.acyclic import quotient_edges
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.nodes import Node
from hagd.graphs.storage import graph_to_document, hierarchy_from_document
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import find_stage, plan_entry
from hagd.testing import RecordingContext

EXAMPLE = Path(__file__).parents[2] / "examples" / "third-party-stages"
SEAMS = (
    "hagd.artifacts.document",
    "hagd.dictionaries",
    "hagd.errors",
    "hagd.execution.running",
    "hagd.graphs",
    "hagd.interventions",
    "hagd.models",
    "hagd.pipeline.contract",
    "hagd.pipeline.stages",
    "hagd.tasks",
)
"""What a stage from outside may import of hagd."""
ASKED = Settings(task="modular-addition", modulus=23)
HAGD = [sys.executable, "-c", "from hagd.cli.app import main; main()"]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Install the example into a folder that this process and its children search, without a network."""
    folder = tmp_path_factory.mktemp("installed")
    uv = Path(sys.executable).with_name("uv")
    flags = ["--quiet", "--offline", "--no-deps", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([uv, "pip", "install", *flags, "--target", folder, EXAMPLE], check=True, timeout=60)
    known = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        patch.setenv("PYTHONPATH", os.pathsep.join([*known, str(folder)]))
        yield folder


# The distribution


def test_the_example_imports_the_seams_of_hagd_and_no_service() -> None:
    trees = [ast.parse(path.read_text()) for path in sorted((EXAMPLE / "leiden_stages").glob("*.py"))]
    found = {name for tree in trees for name in imported(tree) if name.startswith("hagd")}

    assert len(trees) >= 5
    assert found >= {"hagd.pipeline.contract", "hagd.graphs.storage"}
    assert {name for name in found if not any(f"{name}.".startswith(f"{seam}.") for seam in SEAMS)} == set()


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


def test_its_declarations_load_in_any_process_without_what_the_work_needs() -> None:
    program = "import sys, leiden_stages.handlers; print(sorted({'torch', 'igraph', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"
    assert {find_stage(name).outputs for name in ("leiden", "top-k")} == {("hierarchy",), ("circuit",)}


def test_a_field_that_would_change_nothing_or_is_unknown_is_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidInputError, match="affinity has no effect") as idle:
        plan_entry("leiden-coarsening", {"affinity": "raw"})
    with pytest.raises(InvalidInputError, match="budget") as unknown:
        plan_entry("top-k", {"budget": 7})

    assert idle.value.hint == "leave it out"
    assert "max_nodes" in unknown.value.hint


def test_the_stage_that_makes_the_graph_is_part_of_what_the_key_names() -> None:
    inner = find_stage("coarsening")

    assert find_stage("leiden-coarsening").resolve({"branching": 5}) == {
        "branching": 5,
        "graph_stage": {"id": "coarsening", "semantics_version": inner.semantics_version},
    }


# The hierarchy


def layered_graph(n_layers: int, n_roles: int, n_features: int, n_edges: int, seed: int) -> AttributionGraph:
    """Give a random graph of tokens, heads, features, errors and a logit; some nodes have no edges."""
    draw = np.random.default_rng(seed)
    roles = tuple(f"r{i}" for i in range(n_roles))
    nodes = [Node("token", -1, role) for role in roles]
    for layer in range(n_layers):
        nodes += [Node("head", layer, role, i) for role in roles for i in range(3)]
        nodes += [Node("error", layer, role) for role in roles]
        nodes += [Node("feature", layer, role, i) for role in roles for i in range(n_features)]
    nodes.append(Node("logit", n_layers, roles[-1]))
    stage = np.array([2 * node.layer + (node.kind in ("feature", "error")) for node in nodes])
    drawn = draw.integers(0, len(nodes), (2, n_edges))
    is_error = np.array([node.kind == "error" for node in nodes])
    pairs = {(a, b) for a, b in drawn.T.tolist() if stage[a] < stage[b] and not is_error[b]}
    source, target = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
    weight = draw.normal(size=len(source))
    score = {name: np.zeros(len(nodes)) for name in ("score", "influence")}
    return AttributionGraph(tuple(nodes), roles, n_layers, source, target, weight, abs(weight), score, n_prompts=1)


@settings(max_examples=25, deadline=None)
@given(
    n_layers=st.sampled_from([1, 2, 13]),
    n_roles=st.sampled_from([1, 3]),
    n_features=st.sampled_from([2, 7]),
    n_edges=st.sampled_from([0, 11, 997]),
    branching=st.sampled_from([2, 5]),
    seed=st.integers(0, 2**31),
)
def test_every_level_has_the_promised_number_of_groups_and_runs_from_tokens_to_the_logit(
    n_layers: int, n_roles: int, n_features: int, n_edges: int, branching: int, seed: int
) -> None:
    from leiden_stages.tree import build_tree  # noqa: PLC0415  # installed by the fixture

    graph = layered_graph(n_layers, n_roles, n_features, n_edges, seed)
    groups, n_kinds = np.arange(graph.n_nodes), 4
    apart = np.array([node.kind if node.kind in ("token", "error", "logit") else "rest" for node in graph.nodes])
    parents = build_tree(graph, branching, seed=7)

    assert bool(parents) == (graph.n_nodes > 2 * branching)
    for parent in parents:
        groups = parent[groups]
        assert parent.max() + 1 == max(n_kinds, -(-len(parent) // branching))
        assert len(np.unique(parent)) == parent.max() + 1
        source, target, _ = quotient_edges(graph.source, graph.target, graph.weight_abs, groups)
        assert (source < target).all()
        assert all(len(set(apart[groups == group])) == 1 for group in np.unique(groups))
    assert len(np.unique(groups)) <= max(2 * branching, n_kinds)


def test_planted_communities_come_back_as_modules_and_stay_whole_as_long_as_they_can() -> None:
    graph = planted_graph(n_communities=3, n_features=20)
    made = run_leiden(graph, {"branching": 5})
    planted = np.array([node.index % 3 for node in graph.nodes if node.kind == "feature"])
    features = np.array([node.kind == "feature" for node in graph.nodes])

    modules = made.module_labels[features]
    assert {(int(a), int(b)) for a, b in zip(planted, modules, strict=True)} == set(enumerate(modules[:3].tolist()))
    low = made.members(1)[features]
    assert all(len(set(planted[low == group])) == 1 for group in np.unique(low))
    assert made.module_report.intra_weight > 0.9


def planted_graph(n_communities: int, n_features: int) -> AttributionGraph:
    """Give two layers of features that feed each other by community alone, then weakly the logit."""
    layers = [[Node("feature", layer, "eq", i) for i in range(n_features)] for layer in (0, 1)]
    nodes = (*layers[0], *layers[1], Node("logit", 2, "eq"))
    inside = [(i, n_features + j) for i in range(n_features) for j in range(n_features) if (i - j) % n_communities == 0]
    out = [(n_features + i, 2 * n_features) for i in range(n_features)]
    source, target = np.array(inside + out).T
    weight = np.array([1.0] * len(inside) + [0.01] * len(out))
    score = {"score": np.zeros(len(nodes))}
    return AttributionGraph(nodes, ("eq",), 2, source, target, weight, weight, score, n_prompts=1)


def run_leiden(graph: AttributionGraph, config: Mapping[str, Any]) -> Any:
    from leiden_stages.hierarchy_stage import run  # noqa: PLC0415  # installed by the fixture

    first, second = (run({"graph": graph_to_document(graph)}, config, RecordingContext()) for _ in range(2))
    assert first["hierarchy"].encode() == second["hierarchy"].encode()
    return hierarchy_from_document(first["hierarchy"])


# The circuit of most influential nodes


@pytest.mark.parametrize(
    ("preserved", "chosen"),
    [([0.5, 0.98, 0.99], 5), ([0.98, 0.5, 0.99], 7), ([0.98, 0.99, 0.5], 5), ([0.3, 0.5, 0.5], 5)],
)
def test_the_smallest_size_that_holds_with_all_larger_ones_is_chosen_else_the_best(
    preserved: list[float], chosen: int
) -> None:
    from leiden_stages.top_k_stage import SizeScore, choose_size  # noqa: PLC0415  # installed by the fixture

    scores = [SizeScore(size, value, 0.0) for size, value in zip((3, 5, 7), preserved, strict=True)]
    assert choose_size(scores, 0.97) == chosen


# The pipeline, for real and small


def hagd(*arguments: str | Path, expect: tuple[int, ...] = (0,)) -> Any:
    done = subprocess.run([*HAGD, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode in expect, done.stderr[-2000:]
    return json.loads(done.stdout)["data"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of runs that share a store, with one of the built-in stages, up to its circuit."""
    folder = tmp_path_factory.mktemp("runs")
    run_plan(folder, "built-in", build_plan(ASKED, upto="traversal"))
    return folder


def run_plan(shared: Path, name: str, plan: tuple[PlanEntry, ...]) -> Extraction:
    state = run_request(shared / name, Request(PRINCIPAL, EXTRACT, plan), store=shared / "store", threads=1)
    state.raise_for_failure()
    return Extraction.open(shared / name)


@pytest.fixture(scope="module")
def swapped(shared: Path) -> Any:
    """Give the answer of `hagd extract` with both stages swapped."""
    task = ["--task", "modular-addition", "--modulus", "23", "--threads", "1", "--set", "verification.draws=99"]
    use = ["--use", "coarsening=leiden-coarsening", "--use", "traversal=top-k"]
    return hagd("extract", *task, *use, "--store", shared / "store", "--out", shared / "swapped", "--json")


@pytest.mark.slow
def test_swapped_stages_run_to_a_verdict_like_any_other(swapped: Any) -> None:
    evidence = swapped["verification"]

    assert swapped["run"]["status"] == evidence["verdict"] == "verified"
    assert evidence["headline"]["ci95"][0] > 0.9
    assert evidence["random_control"]["matched"]["p"] <= 0.01
    assert all(control["verdict"] == control["expected"] for control in evidence["negative_controls"])


@pytest.mark.slow
def test_swapping_changes_keys_from_that_stage_on_and_finds_the_work_before_it(shared: Path, swapped: Any) -> None:
    built_in = [stage.task_key for stage in Extraction.open(shared / "built-in").run.state.stages]
    stages = swapped["run"]["stages"]

    assert [stage["status"] for stage in stages] == ["cached", "cached", "done", "done", "done"]
    assert [stage["task_key"] for stage in stages[:2]] == built_in[:2]
    assert {stage["task_key"] for stage in stages[2:]} & set(built_in) == set()


@pytest.mark.slow
def test_one_more_entry_of_the_plan_gives_the_same_hierarchy_and_the_search_walks_it(
    shared: Path, swapped: Any
) -> None:
    *before, search = build_plan(ASKED, upto="traversal")
    longer = run_plan(shared, "longer", (*before, plan_entry("leiden", {}), search))
    stages = longer.run.state.stages
    built_in, both = (Extraction.open(shared / name).run.roles for name in ("built-in", "swapped"))

    assert [stage.status for stage in stages] == ["cached", "cached", "cached", "done", "done"]
    assert longer.run.roles["graph"] == both["graph"] == built_in["graph"]
    assert longer.run.roles["hierarchy"] == both["hierarchy"] != built_in["hierarchy"]
    assert longer.run.roles["circuit"] != built_in["circuit"]
    assert len(longer.hierarchy.levels) >= 3
    assert longer.circuit.size > 0


@pytest.mark.slow
def test_circuits_of_swapped_stages_compare_with_the_built_in_ones(shared: Path, swapped: Any) -> None:
    found = hagd("circuit", "diff", shared / "built-in", shared / "swapped", "--json")
    shown = hagd("circuit", "show", shared / "swapped", "--json")

    assert len(found["both"]) + len(found["only_second"]) == shown["size"]
    assert 0 < found["jaccard"] < 1
    assert 0 < found["edge_jaccard"] < 1
