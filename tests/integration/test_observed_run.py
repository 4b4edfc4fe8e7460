"""One run over real processes (command line, service, worker): one trace, its metrics, and every line of its logs."""

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from integration.observed_service import Service, service_process
from integration.toy_stages import PLACES, install

pytest.importorskip("opentelemetry.sdk")
STAGES = [f"toy-{place}" for place in PLACES]
SECRET = "a-secret-of-the-house"


@dataclass(frozen=True)
class Observed:
    """What was left by a run that was submitted, and by one that found everything computed."""

    run: dict[str, Any]
    again: dict[str, Any]
    spans: list[dict[str, Any]]
    service_lines: list[str]
    worker_lines: list[str]
    metrics: str
    """What Prometheus read."""
    metrics_address: str

    def named(self, name: str, run_id: str) -> list[dict[str, Any]]:
        found = [span for span in self.spans if span["name"] == name and self.trace_of(run_id) == span["trace_id"]]
        return sorted(found, key=lambda span: span["start_ns"])

    def trace_of(self, run_id: str) -> str:
        traces = {span["trace_id"] for span in self.spans if span["attributes"].get("run_id") == run_id}
        assert len(traces) == 1, f"{len(traces)} traces of one run"
        return traces.pop()


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    with pytest.MonkeyPatch.context() as patch:
        install(folder / "installed", patch)
        patch.setenv("HAGD_TRACE_FILE", str(folder / "spans.jsonl"))
        patch.setenv("HAGD_TOKEN", SECRET)
        patch.chdir(folder)
        with service_process(folder / "root") as service:
            run = submitted(service, "--set", "subject.ballast_bytes=3000000")
            again = submitted(service, "--id", "again", "--set", "subject.ballast_bytes=3000000")
            metrics = urllib.request.urlopen(f"http://{service.metrics}/metrics", timeout=10).read().decode()
        lines = service.log.read_text().splitlines()
        spans = [json.loads(line) for line in (folder / "spans.jsonl").read_text().splitlines()]
        worker = (folder / "root" / "worker.log").read_text().splitlines()
        yield Observed(run, again, spans, lines, worker, metrics, service.metrics)


def submitted(service: Service, *arguments: str) -> dict[str, Any]:
    done = service.submit(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr + service.log.read_text()
    return json.loads(done.stdout)["data"]


def test_a_run_is_one_trace_across_command_line_service_and_worker(observed: Observed) -> None:
    trace = observed.trace_of(observed.run["run_id"])
    spans = [span for span in observed.spans if span["trace_id"] == trace]

    assert {span["service"] for span in spans} == {"hagd", "transcoder", "worker"}
    assert [span["name"] for span in spans if not span["parent_id"]] == ["hagd submit"]
    ids = {span["span_id"] for span in spans}
    assert all(span["parent_id"] in ids for span in spans if span["parent_id"])
    assert trace != observed.trace_of(observed.again["run_id"])


def test_every_span_stands_under_what_it_is_part_of(observed: Observed) -> None:
    run_id = observed.run["run_id"]
    method = "hagd.api.transcoder.v1.TranscoderService/Submit"
    [root] = observed.named("hagd submit", run_id)
    [client, server] = sorted(observed.named(method, run_id), key=lambda span: span["kind"])
    [submit] = observed.named("submit", run_id)
    [route] = observed.named("route", run_id)
    stages = [span for stage in STAGES for span in observed.named(f"stage {stage}", run_id)]
    executions = observed.named("execute", run_id)
    [put] = observed.named("store put", run_id)

    assert (client["kind"], client["service"], client["parent_id"]) == ("client", "hagd", root["span_id"])
    assert (server["kind"], server["service"], server["parent_id"]) == ("server", "transcoder", client["span_id"])
    assert submit["parent_id"] == server["span_id"]
    assert {span["parent_id"] for span in [route, *stages]} == {submit["span_id"]}
    assert [span["parent_id"] for span in executions] == [span["span_id"] for span in stages]
    assert {span["service"] for span in executions} == {"worker"}
    assert (put["service"], put["parent_id"]) == ("worker", executions[0]["span_id"])
    assert put["attributes"]["bytes"] > 3_000_000


def test_the_span_of_a_stage_tells_what_was_done(observed: Observed) -> None:
    [stage] = observed.named("stage toy-subject", observed.run["run_id"])
    [cached] = observed.named("stage toy-subject", observed.again["run_id"])
    state = observed.run["stages"][0]

    assert stage["attributes"] == {
        "run_id": observed.run["run_id"],
        "stage_id": "toy-subject",
        "task_key": state["task_key"],
        "cached": False,
        "attempts": 1,
        "generation": 0,
        "outcome": "done",
    }
    assert cached["attributes"]["cached"] is True
    assert cached["attributes"]["outcome"] == "cached"
    assert cached["attributes"]["task_key"] == state["task_key"]
    assert observed.named("execute", observed.again["run_id"]) == []


def test_every_line_of_a_service_and_its_worker_is_json_and_names_its_service(observed: Observed) -> None:
    assert {json.loads(line)["service"] for line in observed.service_lines} == {"transcoder"}
    assert {json.loads(line)["service"] for line in observed.worker_lines} == {"worker"}
    assert all({"event", "level", "timestamp"} <= set(json.loads(line)) for line in observed.service_lines)


def test_lines_written_while_working_on_a_run_bear_its_run_stage_and_trace(observed: Observed) -> None:
    lines = [json.loads(line) for line in [*observed.service_lines, *observed.worker_lines]]
    working = [line for line in lines if line["event"] not in ("serving", "stopping")]

    for run in (observed.run, observed.again):
        own = [line for line in working if line["run_id"] == run["run_id"]]
        assert {line["stage_id"] for line in own} >= set(STAGES)
        assert {line["trace_id"] for line in own} == {observed.trace_of(run["run_id"])}
    assert {line["run_id"] for line in working} == {observed.run["run_id"], observed.again["run_id"]}


def test_no_secret_of_the_environment_is_in_a_log_or_a_span(observed: Observed) -> None:
    said = "\n".join([*observed.service_lines, *observed.worker_lines, json.dumps(observed.spans)])

    assert SECRET not in said


def value(text: str, sample: str) -> float:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", text, re.MULTILINE)
    assert found, f"{sample} is not told"
    return float(found.group(1))


def test_metrics_count_what_the_service_did(observed: Observed) -> None:
    for stage in STAGES:
        assert value(observed.metrics, f'hagd_requests_claimed_total{{stage="{stage}"}}') == 2
        assert value(observed.metrics, f'hagd_requests_settled_total{{outcome="done",stage="{stage}"}}') == 1
        assert value(observed.metrics, f'hagd_manifest_hits_total{{stage="{stage}"}}') == 1
        assert value(observed.metrics, f'hagd_stage_seconds_count{{stage="{stage}"}}') == 1
        assert value(observed.metrics, f'hagd_task_capacity{{stage="{stage}"}}') == 1
        for gauge in ("tasks_in_flight", "oldest_unacknowledged_seconds", "lease_age_seconds", "stage_paused"):
            assert value(observed.metrics, f'hagd_{gauge}{{stage="{stage}"}}') == 0
    method = "/hagd.api.transcoder.v1.TranscoderService/Submit"
    assert value(observed.metrics, f'hagd_grpc_requests_total{{code="OK",method="{method}"}}') == 2
    assert value(observed.metrics, 'hagd_store_requests_total{operation="put_if_absent"}') > 10
    assert observed.run["run_id"] not in observed.metrics


def test_metrics_are_served_on_loopback_unless_told(observed: Observed) -> None:
    assert observed.metrics_address.startswith("127.0.0.1:")
