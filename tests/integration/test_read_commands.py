"""Every command that reads a finished run: as text for people, as JSON of one form for programs."""

import csv
import io
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hagd.execution.inline import InlineExecutor
from integration.command_line import CommandLine
from integration.toy_results import EVIDENCE
from integration.toy_stages import USE, install

CONTRACT = {
    "verdict": None,
    "scope": None,
    "model": {"digest", "quantisation", "bos"},
    "circuit": {"nodes", "edges", "by_kind", "leaves", "description_length_bits"},
    "headline": {"behavioural_preservation", "chance", "ci95", "faithfulness", "kl_nats", "n", "seed"},
    "edges_only": {"behavioural_preservation", "random_mean"},
    "curve": [{"nodes", "leaves", "behavioural_preservation", "faithfulness"}],
    "negative_controls": [{"name", "verdict", "expected"}],
    "random_control": {"uniform", "matched"},
    "settings": [{"ablation", "errors", "attention", "behavioural_preservation", "faithfulness", "kl_nats"}],
    "feature_mediated_share": None,
    "error_credit": None,
    "tost_p": None,
    "command": None,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a finished run `x` and a smaller one `y`, made once for this file."""
    from hagd.cli.app import run  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        install(folder / "installed", patch)
        patch.setattr("hagd.pipeline.embedded.ProcessExecutor", lambda **_: InlineExecutor())
        for name, sizes in (("x", "3"), ("y", "2")):
            given = ["extract", "--task", "parity", *USE, "--sizes", sizes, "--out", str(folder / name), "--quiet"]
            assert run(given) == 0
    return folder


@pytest.fixture
def x(finished: Path) -> str:
    return str(finished / "x")


@pytest.fixture
def y(finished: Path) -> str:
    return str(finished / "y")


def test_verify_prints_the_document_of_the_contract(hagd: CommandLine, x: str) -> None:
    answer = hagd("verify", x, "--json")
    assert answer.json["kind"] == "verification"
    assert set(answer.data) == set(CONTRACT)
    for name, fields in CONTRACT.items():
        if isinstance(fields, set):
            assert fields <= set(answer.data[name])
        elif isinstance(fields, list):
            assert fields[0] <= set(answer.data[name][0])
    assert {name: value for name, value in answer.data.items() if name != "command"} == {
        name: value for name, value in EVIDENCE.items() if name != "command"
    }
    assert answer.data["command"].split()[0] == "hagd"


def test_show_writes_one_page_that_needs_no_network(hagd: CommandLine, x: str) -> None:
    answer = hagd("show", x, "--no-cards")
    page = Path(answer.out.strip())
    assert answer.code == 0
    assert page == Path(x) / "report.html"
    text = page.read_text()
    assert "feature.0.5@eq" in text
    assert "src=" not in text


def test_a_circuit_is_shown_by_layer_with_its_strongest_edges(hagd: CommandLine, x: str) -> None:
    text = hagd("circuit", "show", x, "--edges", "1").out
    assert "feature.0.5, head.0.1" in text
    assert "feature.0.5@eq  logit@eq" in text
    assert "head.0.1@eq " not in text
    data = hagd("circuit", "show", x, "--json", "--size", "1").data
    assert [node["id"] for node in data["nodes"]] == ["feature.0.5@eq"]
    assert data["size"] == 1
    assert {edge["source"] for edge in data["edges"]} <= {"feature.0.5@eq"}


def test_two_circuits_are_compared_leaf_by_leaf(hagd: CommandLine, x: str, y: str) -> None:
    data = hagd("circuit", "diff", x, y, "--json").data
    assert data["only_first"] == ["token@a"]
    assert data["only_second"] == []
    assert data["jaccard"] == pytest.approx(2 / 3)
    assert "- token@a" in hagd("circuit", "diff", x, y).out


@pytest.mark.parametrize("command", ["graph", "circuit"])
def test_networks_are_exported_in_every_format(hagd: CommandLine, x: str, command: str, tmp_path: Path) -> None:
    network = json.loads(hagd(command, "export", x).out)
    ids = {node["id"] for node in network["nodes"]}
    assert all({edge["source"], edge["target"]} <= ids for edge in network["edges"])
    rows = list(csv.DictReader(io.StringIO(hagd(command, "export", x, "-f", "csv").out)))
    assert [row["source"] for row in rows] == [edge["source"] for edge in network["edges"]]
    graphml = ElementTree.fromstring(hagd(command, "export", x, "-f", "graphml").out)  # noqa: S314  # our own
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert {node.get("id") for node in graphml.iter(f"{space}node")} == ids
    to = tmp_path / "deep" / "network.dot"
    assert hagd(command, "export", x, "-f", "dot", "--to", str(to)).out == ""
    assert '"head.0.1@eq" -> "feature.0.5@eq"' in to.read_text()


def test_networkx_reads_the_graphml(hagd: CommandLine, x: str) -> None:
    networkx = pytest.importorskip("networkx")
    graph = networkx.parse_graphml(hagd("graph", "export", x, "-f", "graphml").out)
    assert graph.edges["feature.0.5@eq", "logit@eq"]["weight"] == 2.0
    assert graph.nodes["token@a"]["layer"] == -1


def test_a_run_is_exported_as_plain_files_and_nothing_is_written_over(
    hagd: CommandLine, x: str, tmp_path: Path
) -> None:
    to = str(tmp_path / "plain")
    names = {Path(entry["path"]).name for entry in hagd("export", x, to, "--json").data}
    assert {"run.json", "circuit.json", "verification.json", "graph.safetensors"} <= names
    again = hagd("export", x, to, "--json")
    assert (again.error["kind"], again.code) == ("usage", 2)


def test_runs_are_listed_and_told_stage_by_stage(hagd: CommandLine, x: str, y: str) -> None:
    listed = hagd("run", "list", x, y, "--json").data
    assert [entry["status"] for entry in listed] == ["verified", "verified"]
    status = hagd("run", "status", x, "--json").data
    assert [stage["status"] for stage in status["stages"]] == ["done"] * 5
    assert status["run_id"] in hagd("run", "status", x).out
    assert status["run_id"][:12] in hagd("run", "list", x).out


def test_a_finished_run_is_neither_cancelled_nor_computed_again(hagd: CommandLine, x: str) -> None:
    assert hagd("run", "cancel", x, "--json").error["kind"] == "run"
    before = hagd("run", "status", x, "--json").data
    resumed = hagd("run", "resume", x, "--json", "--quiet")
    assert resumed.data == before


def test_an_interrupted_run_that_nobody_works_on_ends_when_it_is_cancelled_and_can_then_be_deleted(
    hagd: CommandLine, x: str, tmp_path: Path
) -> None:
    root = tmp_path / "interrupted"
    shutil.copytree(x, root)
    for outcome in (root / "state").rglob("outcome"):
        outcome.unlink()
    for done in (root / "state").rglob("*verification*.done"):
        done.unlink()
    assert hagd("run", "delete", str(root), "--json").error["kind"] == "run"
    assert hagd("run", "cancel", str(root), "--json").data["status"] == "cancelled"
    assert hagd("run", "delete", str(root), "--json").code == 0


def test_a_run_is_chosen_by_the_start_of_its_id(hagd: CommandLine, x: str) -> None:
    run_id = hagd("run", "status", x, "--json").data["run_id"]
    assert hagd("run", "status", x, "--run", run_id[:5], "--json").data["run_id"] == run_id
    assert hagd("run", "status", x, "--run", "zz", "--json").error["kind"] == "unknown-name"


def test_the_quality_of_dictionaries_is_a_table(hagd: CommandLine, x: str) -> None:
    table, together = hagd("transcoder", "eval", x).out.split("all layers together:\n")
    assert table.split() == ["layer", "fvu", "l0", "0", "0.25", "7"]
    assert together == "kl_nats  0.5\n"
    assert hagd("transcoder", "eval", x, "--json").data["layers"][0]["fvu"] == 0.25


def test_what_is_not_known_of_a_layer_is_refused(hagd: CommandLine, x: str) -> None:
    assert hagd("transcoder", "eval", x, "--layer", "3", "--json").error["kind"] == "unknown-name"
    assert "--data" in hagd("transcoder", "eval", x, "--layer", "0", "--json").error["hint"]


def test_logs_of_workers_are_read(hagd: CommandLine, x: str) -> None:
    assert isinstance(hagd("run", "logs", x, "--json").data, list)


def test_stages_say_what_they_need_and_give(hagd: CommandLine) -> None:
    data = hagd("stages", "toy-coarsening", "--json").data
    assert data[0]["inputs"] == ["model", "task", "dictionaries"]
    assert data[0]["outputs"] == ["graph", "hierarchy"]
    assert hagd("stages", "nobody", "--json").error["kind"] == "unknown-name"


def test_doctor_finds_a_damaged_artifact(hagd: CommandLine, workplace: Path) -> None:
    hagd.extract("--out", "z")
    good = {entry["name"]: entry for entry in hagd("doctor", "z", "--json").data}
    assert good["stage toy-subject"]["verdict"] == "ok"
    status = hagd("run", "status", "z", "--json").data
    assert good[f"run {status['run_id'][:12]}"]["verdict"] == "ok"
    digest = status["stages"][3]["outputs"]["circuit"]["sha256"]
    blob = next(Path("z/store/blobs").rglob(f"*{digest[-20:]}*"))
    blob.chmod(0o644)
    blob.write_bytes(b"rot")
    sick = {entry["name"]: entry for entry in hagd("doctor", "z", "--json").data}
    assert sick[f"run {status['run_id'][:12]}"]["verdict"] == "problem"
    assert hagd("circuit", "show", "z", "--json").error["kind"] == "artifact-corrupt"
    assert hagd("run", "resume", "z", "--json").code == 0
    assert hagd("circuit", "show", "z", "--json").code == 0


def test_part_of_the_plan_is_run_on_its_own_and_found_again(hagd: CommandLine, workplace: Path) -> None:
    trained = hagd("transcoder", "train", "--task", "parity", *USE, "--out", "w", "--json")
    assert trained.data["layers"][0]["l0"] == 7.0
    built = hagd("graph", "build", "--task", "parity", *USE, "--out", "w", "--json")
    assert built.data["nodes"] == 4
    assert built.data["by_kind"] == {"token": 1, "head": 1, "feature": 1, "logit": 1}
    whole = hagd("extract", "--task", "parity", *USE, "--out", "w", "--json")
    cached = [stage["status"] for stage in whole.data["run"]["stages"]]
    assert cached == ["cached"] * 3 + ["done"] * 2
    assert hagd("verify", "w", "--json").code == 0
    assert len(hagd("run", "list", "w", "--json").data) == 3


def test_python_gives_the_same_result_as_a_value(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hagd  # noqa: PLC0415

    monkeypatch.setattr("hagd.pipeline.embedded.ProcessExecutor", lambda **_: InlineExecutor())
    use = {place: f"toy-{place}" for place in ("subject", "transcoder", "coarsening", "traversal", "verification")}
    result = hagd.extract(task="parity", out="v", progress=False, use=use, traversal={"max_nodes": 2})
    assert result.verdict == "verified"
    assert result.evidence["headline"]["n"] == 211
    assert result.circuit.size == 2
    assert result.to_html("v/page.html", cards=False).read_text().startswith("<!")
    assert "Verified" in result._repr_html_()
    assert hagd.open_run("v").verdict == "verified"
    monkeypatch.setenv("HAGD_STORE", "shared")
    hagd.extract(task="parity", out="u", progress=False, use=use)
    hagd.extract(task="parity", out="t", store=workplace / "own", progress=False, use=use)
    assert {path.parent.name for path in workplace.glob("*/blobs")} == {"shared", "own"}
    with pytest.raises(hagd.HagdError, match="no setting 'colour'"):
        hagd.extract(task="parity", colour="red")
