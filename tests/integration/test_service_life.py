"""How a service process ends: orderly and with its work done, orderly and with its work given back, or at once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.state import RunState
from hagd.rpc.client import StageClient
from integration.service_process import ServiceProcess, ended_at_last, start_service

STAGES = ("--stages", "toy-subject")


@pytest.fixture
def services(workplace: Path) -> Iterator[list[ServiceProcess]]:
    with ended_at_last([]) as started:
        yield started


def started(services: list[ServiceProcess], *arguments: str) -> ServiceProcess:
    services.append(start_service("transcoder", Path(), "--root", "root", *STAGES, *arguments))
    return services[-1]


def at_work(service: ServiceProcess, pause_seconds: float) -> str:
    """Ask for a run of one stage, wait until the stage has been started, give the id."""
    config = {"task": {"name": "parity"}, "model": {"seed": 0}, "pause_seconds": pause_seconds}
    with StageClient(service.address) as client:
        state = client.submit(Request("x", "one", (PlanEntry("toy-subject", 1, config),)))
        while not any(it.status == "running" for it in client.get(state.run_id).stages):
            time.sleep(0.05)
    return state.run_id


def state_of(service: ServiceProcess, run_id: str, seconds: float = 0.0) -> RunState:
    with StageClient(service.address) as client:
        return client.wait(run_id, timedelta(seconds=seconds))


def test_a_task_at_work_may_end_before_its_service_does(services: list[ServiceProcess]) -> None:
    service = started(services, "--drain-seconds", "60")
    run_id = at_work(service, pause_seconds=2.0)
    with grpc.insecure_channel(service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        health = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        service.process.send_signal(signal.SIGTERM)
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
    assert service.process.wait(60) == 0
    # Another service takes nothing up, because nothing was left.
    later = state_of(started(services), run_id)
    assert later.outcome is not None
    assert [stage.status for stage in later.stages] == ["done"]


def test_what_does_not_end_within_the_drain_is_given_back(services: list[ServiceProcess]) -> None:
    service = started(services, "--drain-seconds", "0.2")
    run_id = at_work(service, pause_seconds=5.0)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0
    following = started(services)
    assert state_of(following, run_id).outcome is None
    ended = state_of(following, run_id, seconds=60)
    assert ended.outcome is not None


def test_a_second_signal_ends_it_at_once_and_its_worker_with_it(services: list[ServiceProcess]) -> None:
    service = started(services, "--drain-seconds", "600")
    run_id = at_work(service, pause_seconds=20.0)
    service.process.send_signal(signal.SIGTERM)
    while not any("stopping" in line for line in service.told()):
        time.sleep(0.02)
    service.process.send_signal(signal.SIGINT)
    assert service.process.wait(5) == 130
    # The claim of a process that ended so runs out after a minute; until then the run is as it was.
    assert state_of(started(services), run_id).outcome is None


def test_a_log_that_does_not_answer_is_told_and_is_the_exit_code(workplace: Path) -> None:
    command = [sys.executable, "-m", "hagd_coarsening", "--log", "kafka", "--kafka-servers", "127.0.0.1:1"]
    command += ["--store", "artifacts", "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60, env=dict(os.environ))
    assert done.returncode == 4
    told = json.loads(done.stderr.splitlines()[-1])
    assert "Kafka at 127.0.0.1:1 does not answer" in told["event"]
    assert done.stdout == b""
