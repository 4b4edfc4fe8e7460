"""One service in this process, toy stages behind it: everything a client can ask, over a real connection."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from hagd.api.extraction.v1 import extraction_pb2
from hagd.api.run.v1 import run_pb2
from hagd.api.transcoder.v1 import transcoder_pb2_grpc
from hagd.deployment.config import Places, ServiceConfig
from hagd.errors import (
    HagdError,
    InvalidInputError,
    QuotaExceededError,
    RunConflictError,
    UnavailableError,
    UnknownNameError,
)
from hagd.execution.selection import ExecutorSettings
from hagd.pipeline.request import PlanEntry, Request
from hagd.rpc.client import StageClient
from hagd.rpc.codec import request_to_proto, run_from_proto
from hagd.rpc.hosting import StageHost
from hagd.rpc.wiring import Wiring
from hagd_transcoder.servicer import TranscoderServicer

SERVICE = "hagd.api.transcoder.v1.TranscoderService"
STAGES = ("toy-subject", "toy-transcoder")
STREAM_RUNS = 5


def plan(**subject: Any) -> tuple[PlanEntry, ...]:
    config = {"task": {"name": "parity"}, "model": {"seed": 0}} | subject
    return (PlanEntry("toy-subject", 1, config), PlanEntry("toy-transcoder", 1))


@dataclass
class Served:
    """A service that listens, its loops not running until asked for."""

    host: StageHost
    address: str

    def start_loops(self) -> None:
        self.host.start_loops(lambda: None)


@pytest_asyncio.fixture
async def served(workplace: Path) -> AsyncIterator[Served]:
    places = Places(workplace / "root")
    config = ServiceConfig(
        places,
        "127.0.0.1:0",
        executor=ExecutorSettings("inline"),
        drain=timedelta(0),
        stream_runs=STREAM_RUNS,
        principal_runs=7,
    )
    wiring = Wiring.open(config, STAGES, routes=True)
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TranscoderServicer(service, config.stream_runs)
        transcoder_pb2_grpc.add_TranscoderServiceServicer_to_server(servicer, server)

    host = wiring.host("transcoder", service, SERVICE, register)
    address = await host.server.start("127.0.0.1:0")
    yield Served(host, str(address))
    await host.end()
    assert not host.broken
    assert not any(thread.is_alive() for thread in host.threads)


def ask(served: Served, question: Any) -> Any:
    """Call with the blocking client in a thread, since the server runs on this event loop."""

    def call() -> Any:
        with StageClient(served.address) as client:
            return question(client)

    return asyncio.to_thread(call)


async def test_a_request_runs_to_its_end_and_is_watched(served: Served) -> None:
    served.start_loops()
    heard: list[str] = []
    state = await ask(served, lambda client: client.submit(Request("x", "one", plan(pause_seconds=0.3))))
    assert state.outcome is None
    ended = await ask(served, lambda client: client.watch(state.run_id, lambda stage, *_: heard.append(stage)))
    assert ended.outcome is not None
    assert ended.outcome.status == "no claim"
    assert [stage.status for stage in ended.stages] == ["done", "done"]
    assert "toy-subject" in heard


async def test_submit_is_idempotent_and_another_body_is_a_conflict(served: Served) -> None:
    first = await ask(served, lambda client: client.submit(Request("x", "one", plan())))
    again = await ask(served, lambda client: client.submit(Request("x", "one", plan())))
    assert again.run_id == first.run_id
    assert len(await ask(served, lambda client: client.list())) == 1
    with pytest.raises(RunConflictError, match="other settings"):
        await ask(served, lambda client: client.submit(Request("x", "one", plan(seed=5))))


async def test_a_caller_with_as_many_unfinished_runs_as_allowed_has_to_wait(served: Served) -> None:
    for name in "abcdefg":
        await ask(served, lambda client, name=name: client.submit(Request("x", name, plan())))
    with pytest.raises(QuotaExceededError, match="7 are allowed"):
        await ask(served, lambda client: client.submit(Request("x", "h", plan())))
    again = await ask(served, lambda client: client.submit(Request("x", "a", plan())))
    assert again.outcome is None


async def test_a_call_starts_no_work(served: Served) -> None:
    state = await ask(served, lambda client: client.submit(Request("x", "one", plan())))
    later = await ask(served, lambda client: client.wait(state.run_id, timedelta(seconds=0.5)))
    assert later.outcome is None
    assert [stage.status for stage in later.stages] == ["pending", "pending"]


async def test_a_cancelled_run_ends_and_may_be_asked_for_again(served: Served) -> None:
    served.start_loops()
    request = Request("x", "one", plan(pause_seconds=20))
    state = await ask(served, lambda client: client.submit(request))
    while (await ask(served, lambda client: client.get(state.run_id))).stages[0].status != "running":
        await asyncio.sleep(0.05)
    assert (await ask(served, lambda client: client.cancel(state.run_id))).cancel_requested
    ended = await ask(served, lambda client: client.wait(state.run_id, timedelta(seconds=30)))
    assert ended.outcome.status == "cancelled"
    reopened = await ask(served, lambda client: client.submit(request))
    assert (reopened.generation, reopened.outcome) == (1, None)


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ((PlanEntry("nobody", 1),), InvalidInputError, "does not run stage 'nobody'"),
        ((PlanEntry("toy-transcoder", 1),), InvalidInputError, "needs model, task"),
        ((PlanEntry("toy-subject", 7),), InvalidInputError, "version 7"),
        ((PlanEntry("toy-subject", 1, {"refused": 1}),), InvalidInputError, "'refused' is refused"),
    ],
)
async def test_a_plan_that_cannot_run_is_refused(served: Served, entries: Any, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        await ask(served, lambda client: client.submit(Request("x", "one", entries)))
    assert await ask(served, lambda client: client.list()) == []


@pytest.mark.parametrize("run_id", ["ab" * 32, "../state", ""])
async def test_an_unknown_run_is_not_found(served: Served, run_id: str) -> None:
    with pytest.raises(UnknownNameError, match="there is no run"):
        await ask(served, lambda client: client.get(run_id))


async def test_a_service_that_is_not_there_is_unavailable() -> None:
    def call() -> None:
        with StageClient("127.0.0.1:1") as client:
            client.list()

    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 answered") as caught:
        await asyncio.to_thread(call)
    assert "hagd up" in caught.value.hint


async def test_runs_come_in_pages(served: Served) -> None:
    for name in "abcde":
        await ask(served, lambda client, name=name: client.submit(Request("x", name, plan())))
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        seen, token, pages = [], "", 0
        while pages == 0 or token:
            page = await stub.List(run_pb2.ListRunsRequest(page_size=2, page_token=token), timeout=30)
            seen += [run.run_id for run in page.runs]
            token, pages = page.next_page_token, pages + 1
    assert pages == 3
    assert seen == sorted(set(seen))
    assert len(seen) == 5


async def test_the_methods_of_the_stage_answer_like_the_operations(served: Served) -> None:
    state = await ask(served, lambda client: client.submit(Request("x", "one", plan())))
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        got = await stub.Get(run_pb2.GetRunRequest(run_id=state.run_id), timeout=30)
        assert run_from_proto(got) == state
        timeout = duration_pb2.Duration(nanos=100_000_000)
        waited = await stub.Wait(run_pb2.WaitRunRequest(run_id=state.run_id, timeout=timeout), timeout=60)
        assert waited.state == run_pb2.RUN_STATE_RUNNING
        assert (await stub.Cancel(run_pb2.CancelRunRequest(run_id=state.run_id), timeout=30)).cancel_requested


async def test_the_standard_operations_interface_answers_for_the_same_runs(served: Served) -> None:
    served.start_loops()
    state = await ask(served, lambda client: client.submit(Request("x", "one", plan())))
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = operations_pb2_grpc.OperationsStub(channel)
        name = f"runs/{state.run_id}"
        operation = await stub.GetOperation(operations_pb2.GetOperationRequest(name=name), timeout=30)
        assert operation.name == name
        timeout = duration_pb2.Duration(seconds=30)
        ended = await stub.WaitOperation(operations_pb2.WaitOperationRequest(name=name, timeout=timeout), timeout=60)
        assert ended.done
        run = run_pb2.Run()
        assert ended.response.Unpack(run)
        assert run.state == run_pb2.RUN_STATE_NO_CLAIM
        listed = await stub.ListOperations(operations_pb2.ListOperationsRequest(name="runs"), timeout=30)
        assert [it.name for it in listed.operations] == [name]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.DeleteOperation(operations_pb2.DeleteOperationRequest(name=name), timeout=30)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_of_requests_is_answered_one_by_one(served: Served) -> None:
    served.start_loops()
    requests = [
        request_to_proto(Request("x", "good", plan())),
        request_to_proto(Request("x", "bad", plan(refused=1))),
    ]
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        answers = [answer async for answer in stub.StreamExtractions(iter(requests))]
    of: dict[str, list[extraction_pb2.ExtractionUpdate]] = {"good": [], "bad": []}
    for answer in answers:
        of[answer.request_id].append(answer)
    assert [answer.WhichOneof("update") for answer in of["bad"]] == ["refused"]
    assert of["good"][-1].run.state == run_pb2.RUN_STATE_NO_CLAIM


async def test_a_client_in_a_hurry_is_held_back_until_runs_finish(served: Served, workplace: Path) -> None:
    """Requests of 4 KiB each: what the server does not read fills the window of the stream, then the client waits."""
    sent, total = 0, 10_000
    process = psutil.Process()

    async def requests() -> AsyncIterator[extraction_pb2.SubmitRequest]:
        nonlocal sent
        for number in range(total):
            message = request_to_proto(Request("x", f"r{number}", plan(), labels={"ballast": "x" * 4096}))
            sent += 1
            yield message

    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        stream = stub.StreamExtractions(requests())
        accepted = [await stream.read() for _ in range(STREAM_RUNS)]
        assert {answer.WhichOneof("update") for answer in accepted} == {"run"}
        before = process.memory_info().rss
        # Nothing finishes, so nothing more is answered, however long the client waits.
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(stream.read())), 1.0)
        assert len(await ask(served, lambda client: client.list())) == STREAM_RUNS
        stalled = sent
        assert stalled < total // 5
        assert process.memory_info().rss - before < 16 * 2**20
        served.start_loops()
        finished = await reading
        assert finished.run.state == run_pb2.RUN_STATE_NO_CLAIM
        while sent == stalled:
            assert await stream.read() != grpc.aio.EOF
        stream.cancel()


async def test_health_and_reflection_name_the_service_until_it_drains(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        watching = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING

        def reflect() -> list[str]:
            with grpc.insecure_channel(served.address) as blocking:
                return list(ProtoReflectionDescriptorDatabase(blocking).get_services())

        assert {SERVICE, "google.longrunning.Operations"} <= set(await asyncio.to_thread(reflect))
        draining = asyncio.create_task(served.host.server.drain(timedelta(seconds=2)))
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watching.cancel()
        await draining


async def test_a_message_beyond_the_limit_is_refused(served: Served) -> None:
    with pytest.raises(HagdError, match="RESOURCE_EXHAUSTED"):
        await ask(served, lambda client: client.submit(Request("x", "one", plan(blob="x" * 5_000_000))))


async def test_a_defect_inside_tells_nothing_of_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr("hagd.pipeline.runs.RunStore.get", broken)
    with pytest.raises(HagdError) as caught:
        await ask(served, lambda client: client.get("ab" * 32))
    assert "secret" not in caught.value.message
    assert "failed inside" in caught.value.message
