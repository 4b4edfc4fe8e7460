"""A service whose tasks run on a Ray cluster, from the command line to the span of a worker."""

import json
from pathlib import Path
from typing import Any

import pytest

from integration.observed_service import service_process
from integration.toy_stages import PLACES, install

pytestmark = [pytest.mark.ray, pytest.mark.servers, pytest.mark.xdist_group("ray")]


def test_a_run_on_ray_is_one_trace_from_the_command_line_to_the_workers(
    ray_address: str, ray_spans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.sdk")
    install(tmp_path / "installed", monkeypatch)
    monkeypatch.setenv("HAGD_TRACE_FILE", str(tmp_path / "spans.jsonl"))
    monkeypatch.chdir(tmp_path)
    with service_process(
        tmp_path / "root", "--executor", "ray", "--ray-address", ray_address, "--ray-cpus", "0.5"
    ) as service:
        done = service.submit()
        assert done.returncode == 0, done.stdout + done.stderr + service.log.read_text()

    run = json.loads(done.stdout)["data"]
    assert [stage["status"] for stage in run["stages"]] == ["done"] * len(PLACES)
    own = [span for span in spans(tmp_path / "spans.jsonl") if span["attributes"].get("run_id") == run["run_id"]]
    (trace,) = {span["trace_id"] for span in own}
    stages = [span for span in own if span["name"].startswith("stage ")]
    # Written by the actors, whose environment is that of the cluster.
    executions = [span for span in spans(ray_spans) if span["trace_id"] == trace and span["name"] == "execute"]
    assert {span["service"] for span in executions} == {"worker"}
    assert sorted(span["parent_id"] for span in executions) == sorted(span["span_id"] for span in stages)
    assert len(executions) == len(PLACES)


def spans(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
