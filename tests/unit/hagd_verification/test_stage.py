"""The stage from documents to documents, on the lookup: everything is known, so the verdict is too."""

import json
from dataclasses import replace

import pytest

from hagd.dictionaries.storage import dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.graphs.circuit import Circuit
from hagd.graphs.storage import circuit_to_document, graph_to_document
from hagd.models.storage import model_to_document
from hagd.tasks.storage import task_to_document
from hagd.tasks.task import Task
from hagd.testing import RecordingContext
from hagd_verification.handlers import STAGE, resolve
from hagd_verification.stage import run
from unit.hagd_verification.lookup import V, lookup_circuit, lookup_graph, lookup_subject, lookup_task

QUICK = {"draws": 199, "bootstrap_draws": 300, "null_prompts": 40}
GOOD = list(range(V))
"""All neurons that look something up, and no decoy."""


def inputs(circuit: Circuit, task: Task | None = None) -> dict:
    subject = lookup_subject()
    return {
        "model": model_to_document(subject.model),
        "task": task_to_document(task or lookup_task()),
        "dictionaries": dictionaries_to_document(subject.dictionaries, {}),
        "graph": graph_to_document(lookup_graph()),
        "circuit": circuit_to_document(circuit),
    }


@pytest.fixture(scope="module")
def verified() -> tuple[dict, dict, RecordingContext]:
    context = RecordingContext()
    found = run(inputs(lookup_circuit(GOOD, [V])), QUICK, context)
    for document in found.values():
        document.encode()
    return found["verification"].content, found["cards"].content, context


def test_the_output_follows_the_contract(verified) -> None:
    content, _, _ = verified
    assert (content["schema"], content["kind"]) == ("hagd.cli/v1", "verification")
    data = content["data"]
    assert {
        "verdict", "scope", "model", "circuit", "headline", "edges_only", "curve", "negative_controls",
        "random_control", "settings", "feature_mediated_share", "error_credit", "tost_p", "command",
    } <= set(data)  # fmt: skip
    assert set(data["model"]) == {"digest", "quantisation", "bos"}
    assert {"nodes", "edges", "by_kind", "leaves", "description_length_bits"} <= set(data["circuit"])
    wanted = {"behavioural_preservation", "chance", "ci95", "faithfulness", "kl_nats", "n", "seed"}
    assert wanted <= set(data["headline"])
    assert {"behavioural_preservation", "random_mean"} <= set(data["edges_only"])
    assert all({"mean", "q95", "p"} <= set(data["random_control"][name]) for name in ("uniform", "matched"))
    points = {"nodes", "leaves", "behavioural_preservation", "faithfulness"}
    assert all(points <= set(point) for point in data["curve"])
    rows = {"ablation", "errors", "attention", "behavioural_preservation", "faithfulness", "kl_nats"}
    assert all(rows <= set(row) for row in data["settings"])
    json.dumps(data, allow_nan=False)


def test_the_numbers_are_those_of_the_lookup(verified) -> None:
    data = verified[0]["data"]
    assert (data["verdict"], data["scope"], data["reasons"]) == ("verified", "feature-level", [])
    assert data["headline"]["behavioural_preservation"] == 1
    assert data["task_accuracy"] == 1
    assert data["circuit"]["by_kind"] == {"feature": V, "token": 1}
    assert (data["circuit"]["nodes"], data["circuit"]["leaves"]) == (V + 1, V + 1)
    assert data["feature_mediated_share"] == pytest.approx(1)
    assert data["error_credit"] == pytest.approx(0, abs=1e-6)
    assert data["edges_only"]["behavioural_preservation"] == pytest.approx(data["headline"]["behavioural_preservation"])


def test_every_control_comes_out_as_expected(verified) -> None:
    controls = verified[0]["data"]["negative_controls"]
    assert [control["name"] for control in controls] == [
        "random weights",
        "donors' answers mismatched",
        "node scores permuted",
    ]
    assert [control["expected"] for control in controls] == ["no claim", "no claim", "refuted"]
    assert all(control["verdict"] == control["expected"] for control in controls)


def test_cards_are_of_the_circuits_features(verified) -> None:
    cards = verified[1]["data"]
    assert "feature.0.7@x" in cards
    assert set(cards["feature.0.7@x"]) == {"label", "frequency", "examples", "promoted", "suppressed"}


def test_progress_rises_to_the_end(verified) -> None:
    reports = verified[2].reports
    shares = [done / total for done, total, _ in reports]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9
    assert len({message for _, _, message in reports}) > 8


def test_equal_inputs_give_equal_bytes() -> None:
    quick = {**QUICK, "draws": 9, "bootstrap_draws": 100, "max_prompts": 40}
    first, second = (run(inputs(lookup_circuit([1, 2])), quick, RecordingContext()) for _ in range(2))
    assert {role: document.encode() for role, document in first.items()} == {
        role: document.encode() for role, document in second.items()
    }


def test_a_circuit_of_decoys_is_refuted() -> None:
    found = run(inputs(lookup_circuit([V, V + 1, V + 2], [4, 5])), QUICK, RecordingContext())["verification"].content[
        "data"
    ]
    assert (found["verdict"], found["scope"]) == ("refuted", None)
    assert any("matched random circuits are not excluded" in reason for reason in found["reasons"])


def test_a_model_that_does_not_know_the_task_allows_no_claim() -> None:
    task = lookup_task()
    batches = {
        split: tuple(replace(batch, answers=(batch.answers + 1) % V, foils=(batch.foils + 1) % V) for batch in parts)
        for split, parts in task.batches.items()
    }
    wrong = replace(task, batches=batches)
    found = run(inputs(lookup_circuit(GOOD), wrong), QUICK, RecordingContext())["verification"].content["data"]
    assert found["verdict"] == "no claim"
    assert any("the model answers 0.000 rightly" in reason for reason in found["reasons"])


def test_a_task_without_verification_prompts_is_refused() -> None:
    task = lookup_task()
    empty = replace(task, batches={**task.batches, "verify": ()})
    with pytest.raises(InvalidInputError, match="no prompts to verify on"):
        run(inputs(lookup_circuit([1]), empty), QUICK, RecordingContext())


def test_too_few_prompts_elsewhere_are_reported_and_not_fatal() -> None:
    task = lookup_task()
    few = replace(task, batches={**task.batches, "ood": tuple(b.take(b.answers[:9, 0]) for b in task.batches["ood"])})
    quick = {**QUICK, "draws": 9, "bootstrap_draws": 100, "max_prompts": 40}
    found = run(inputs(lookup_circuit([1, 2]), few), quick, RecordingContext())["verification"].content["data"]
    assert found["ood"]["behavioural_preservation"] is None
    assert "possible donors" in found["ood"]["reason"]


@pytest.mark.parametrize(
    ("config", "field"),
    [({"draws": 0}, "draws"), ({"threshold": 1.5}, "threshold"), ({"size": 3}, "size"), ({"sizes": [0]}, "sizes.0")],
)
def test_a_bad_config_is_refused_by_name(config: dict, field: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"verification\.{field}"):
        resolve(config)


def test_fields_at_their_default_are_left_out_of_the_key() -> None:
    assert resolve({}) == resolve({"threshold": 0.9, "seed": 0, "draws": None}) == {}
    assert resolve({"sizes": [49, 100], "draws": 99}) == {"sizes": [49, 100], "draws": 99}
    assert STAGE.run == "hagd_verification.stage:run"
