"""A service with certificates and tokens over real connections: who is let in, under which name, and who is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.longrunning import operations_pb2, operations_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from certificates import AUDIENCE, ISSUER, Authority, Issuer, Pair, public_pem
from hagd.api.transcoder.v1 import transcoder_pb2_grpc
from hagd.deployment.config import Places, ServiceConfig
from hagd.deployment.security import CallLimits, SecurityConfig, TlsFiles, TokenRules
from hagd.errors import (
    HagdError,
    InvalidInputError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from hagd.execution.selection import ExecutorSettings
from hagd.pipeline.request import PlanEntry, Request
from hagd.rpc.client import StageClient
from hagd.rpc.codec import request_to_proto
from hagd.rpc.hosting import StageHost
from hagd.rpc.security.channel import ClientSecurity
from hagd.rpc.wiring import Wiring
from hagd_transcoder.servicer import TranscoderServicer

SERVICE = "hagd.api.transcoder.v1.TranscoderService"
PLAN = (PlanEntry("toy-subject", 1, {"task": {"name": "parity"}, "model": {"seed": 0}}), PlanEntry("toy-transcoder", 1))
REQUEST = Request("not-the-server-s-word", "one", PLAN)


@dataclass
class Site:
    """The files of a deployment, and a service that reads them."""

    folder: Path
    authority: Authority
    server: Pair
    issuer: Issuer

    def security(self, *, mutual: bool = True, tokens: bool = True, **changes: Any) -> SecurityConfig:
        tls = TlsFiles(self.server.cert, self.server.key, self.authority.ca if mutual else None)
        rules = TokenRules(self.issuer.folder, ISSUER, AUDIENCE) if tokens else None
        return SecurityConfig(tls, rules, **changes)

    def client(self, pair: Pair | None = None, token: str | None = None) -> ClientSecurity:
        path = None
        if token is not None:
            path = self.folder / f"token-{hashlib.sha256(token.encode()).hexdigest()[:8]}"
            path.write_text(token + "\n")
        cert, key = (pair.cert, pair.key) if pair else (None, None)
        return ClientSecurity(self.authority.ca, cert, key, path)


@pytest.fixture
def site(workplace: Path) -> Site:
    folder = workplace / "security"
    authority = Authority(folder)
    issuer = Issuer(folder / "keys")
    issuer.add("one")
    return Site(folder, authority, authority.issue("service"), issuer)


@asynccontextmanager
async def serving(
    security: SecurityConfig, listen: str = "127.0.0.1:0", *, reflection: bool = True
) -> AsyncGenerator[tuple[StageHost, str]]:
    """Give a service whose loops do not run, and its address."""
    config = ServiceConfig(
        Places(Path("root")), listen, executor=ExecutorSettings("inline"), reflection=reflection, security=security
    )
    wiring = Wiring.open(config, ("toy-subject", "toy-transcoder"))
    service = wiring.service()

    def register(server: grpc.aio.Server) -> None:
        servicer: Any = TranscoderServicer(service, 7)
        transcoder_pb2_grpc.add_TranscoderServiceServicer_to_server(servicer, server)

    host = wiring.host("transcoder", service, SERVICE, register)
    try:
        yield host, str(await host.server.start(listen))
    finally:
        await host.end()


def ask(address: str, security: ClientSecurity, question: Callable[[StageClient], Any]) -> Any:
    """Call with the blocking client in a thread, since the server runs on this event loop."""

    def call() -> Any:
        with StageClient(address, security=security) as client:
            return question(client)

    return asyncio.to_thread(call)


def submit(client: StageClient) -> Any:
    return client.submit(REQUEST)


async def test_the_token_says_whose_run_it_is(site: Site) -> None:
    pair = site.authority.issue("laptop")
    async with serving(site.security()) as (_, address):
        alice = site.client(pair, site.issuer.token("one", "alice"))
        bob = site.client(pair, site.issuer.token("one", "bob"))
        first, second = await ask(address, alice, submit), await ask(address, bob, submit)

        assert (first.request.principal, second.request.principal) == ("alice", "bob")
        assert first.run_id != second.run_id
        assert (await ask(address, bob, lambda client: client.get(first.run_id))).request.principal == "alice"
        assert (await ask(address, bob, lambda client: client.cancel(first.run_id))).cancel_requested


async def test_a_stream_of_requests_keeps_the_name_of_who_opened_it(site: Site) -> None:
    async with serving(site.security()) as (_, address):
        client = site.client(site.authority.issue("laptop"), site.issuer.token("one", "alice"))

        def stream() -> str:
            with client.open(address) as channel:
                stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
                metadata = client.metadata()
                answers = stub.StreamExtractions(iter([request_to_proto(REQUEST)]), metadata=metadata, timeout=30)
                principal = next(answers).run.principal
                answers.cancel()
                return str(principal)

        assert await asyncio.to_thread(stream) == "alice"


@pytest.mark.parametrize(
    ("name", "others", "principal"),
    [("ci.build", [], "ci.build"), ("", ["robot.example", "other.example"], "robot.example")],
)
async def test_without_tokens_the_certificate_says_whose_run_it_is(
    name: str, others: list[str], principal: str, site: Site
) -> None:
    async with serving(site.security(tokens=False)) as (_, address):
        state = await ask(address, site.client(site.authority.issue(name, others)), submit)

        assert state.request.principal == principal


async def test_a_certificate_whose_name_cannot_be_kept_is_refused(site: Site) -> None:
    async with serving(site.security(tokens=False)) as (_, address):
        with pytest.raises(UnauthenticatedError, match="cannot be kept"):
            await ask(address, site.client(site.authority.issue("Alice Smith", file="spaces")), submit)


async def test_on_loopback_without_either_everybody_is_local(workplace: Path) -> None:
    async with serving(SecurityConfig()) as (_, address):
        assert (await ask(address, ClientSecurity(), submit)).request.principal == "local"


async def test_who_shows_no_certificate_or_a_foreign_one_is_refused(site: Site) -> None:
    stranger = Authority(site.folder / "elsewhere", "stranger").issue("laptop")
    late = site.authority.issue("late", days=-1)
    token = site.issuer.token("one")
    async with serving(site.security()) as (_, address):
        for client in (site.client(None, token), site.client(stranger, token), site.client(late, token)):
            with pytest.raises(UnavailableError):
                await ask(address, client, submit)
        with pytest.raises(UnavailableError):
            await ask(address, ClientSecurity(), submit)


async def test_a_client_refuses_a_service_of_a_foreign_authority(site: Site) -> None:
    other = Authority(site.folder / "elsewhere", "stranger")
    client = replace(site.client(site.authority.issue("laptop"), site.issuer.token("one")), ca_file=other.ca)
    async with serving(site.security()) as (_, address):
        with pytest.raises(UnavailableError):
            await ask(address, client, submit)


def forged(issuer: Issuer, algorithm: str) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "mallory", "exp": 2_000_000_000, "scope": "runs:submit"}
    signed = f"{part({'alg': algorithm, 'kid': 'one'})}.{part(claims)}"
    digest = hmac.new(public_pem(issuer.keys["one"]), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).decode().rstrip('=') if algorithm == 'HS256' else ''}"


@pytest.mark.parametrize(
    ("token", "error", "words"),
    [
        (
            lambda issuer: issuer.token("one", exp=datetime(2020, 1, 1, tzinfo=UTC)),
            UnauthenticatedError,
            "expired",
        ),
        (lambda issuer: issuer.token("one", aud="other"), UnauthenticatedError, "another audience"),
        (lambda issuer: issuer.token("one", iss="other"), UnauthenticatedError, "another issuer"),
        (lambda issuer: forged(issuer, "none"), UnauthenticatedError, "algorithm"),
        (lambda issuer: forged(issuer, "HS256"), UnauthenticatedError, "algorithm"),
        (lambda issuer: issuer.token("one", scope="runs:read"), PermissionDeniedError, "lacks the scope runs:submit"),
        (lambda _: None, UnauthenticatedError, "without a token"),
    ],
    ids=["expired", "audience", "issuer", "none", "hmac", "scope", "no token"],
)
async def test_a_wrong_token_is_refused_and_never_repeated(
    token: Any, error: type[HagdError], words: str, site: Site, caplog: Any, capsys: Any
) -> None:
    made = token(site.issuer)
    client = site.client(site.authority.issue("laptop"), made)
    async with serving(site.security()) as (host, address):
        with pytest.raises(error, match=words) as caught:
            await ask(address, client, submit)
        assert host.loops[0].runs.list() == []
    out = capsys.readouterr()
    told = "".join([str(caught.value), caught.value.hint, repr(client), caplog.text, out.out, out.err])
    assert not made or made.split(".")[1] not in told


async def test_each_method_asks_for_its_own_scope(site: Site) -> None:
    pair = site.authority.issue("laptop")
    async with serving(site.security()) as (_, address):
        everything = site.client(pair, site.issuer.token("one"))
        run_id = (await ask(address, everything, submit)).run_id
        reader = site.client(pair, site.issuer.token("one", scope="runs:read"))

        assert len(await ask(address, reader, lambda client: client.list())) == 1
        with pytest.raises(PermissionDeniedError, match="runs:cancel"):
            await ask(address, reader, lambda client: client.cancel(run_id))
        nothing = site.client(pair, site.issuer.token("one", scope=""))
        with pytest.raises(PermissionDeniedError, match="runs:read"):
            await ask(address, nothing, lambda client: client.watch(run_id, lambda *_: None))


async def test_health_asks_for_no_token(site: Site) -> None:
    client = site.client(site.authority.issue("laptop"))
    async with serving(site.security()) as (_, address):

        def check() -> int:
            with client.open(address) as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)
                return int(stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=30).status)

        assert await asyncio.to_thread(check) == health_pb2.HealthCheckResponse.SERVING


async def test_reflection_can_be_switched_off(workplace: Path) -> None:
    async with serving(SecurityConfig(), reflection=False) as (_, address):

        def reflect() -> list[str]:
            with grpc.insecure_channel(address) as channel:
                return list(ProtoReflectionDescriptorDatabase(channel).get_services())

        with pytest.raises(grpc.RpcError) as caught:
            await asyncio.to_thread(reflect)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


async def test_a_call_without_a_deadline_is_refused_and_a_stream_needs_none(workplace: Path) -> None:
    async with serving(SecurityConfig()) as (_, address), grpc.aio.insecure_channel(address) as channel:
        operations: Any = operations_pb2_grpc.OperationsStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="no deadline") as caught:
            await operations.ListOperations(operations_pb2.ListOperationsRequest(name="runs"))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        call = stub.StreamExtractions(iter([request_to_proto(REQUEST)]))
        assert (await call.read()).run.request_id == "one"
        call.cancel()


async def test_calls_beyond_the_limit_are_sent_away_and_health_is_not(workplace: Path) -> None:
    limits = CallLimits(concurrent_calls=1)
    async with serving(SecurityConfig(limits=limits)) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        held = stub.StreamExtractions(iter([request_to_proto(REQUEST)]))
        assert (await held.read()).run.request_id == "one"
        with pytest.raises(UnavailableError, match="at work on 1 calls"):
            await ask(address, ClientSecurity(), lambda client: client.list())
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=30)).status
        held.cancel()
        ended = asyncio.get_running_loop().time() + 30
        while True:
            try:
                assert len(await ask(address, ClientSecurity(), lambda client: client.list())) == 1
                break
            except UnavailableError:
                assert asyncio.get_running_loop().time() < ended


async def test_a_connection_carries_no_more_streams_than_allowed(workplace: Path) -> None:
    limits = CallLimits(concurrent_streams=1)
    async with serving(SecurityConfig(limits=limits)) as (_, address), grpc.aio.insecure_channel(address) as channel:
        stub: Any = transcoder_pb2_grpc.TranscoderServiceStub(channel)
        held = stub.StreamExtractions(iter([request_to_proto(REQUEST)]))
        await held.read()
        operations: Any = operations_pb2_grpc.OperationsStub(channel)
        listing = operations_pb2.ListOperationsRequest(name="runs")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await operations.ListOperations(listing, timeout=0.5)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        held.cancel()
        assert len((await operations.ListOperations(listing, timeout=30)).operations) == 1


async def test_strangers_are_not_served_by_mistake(workplace: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"0\.0\.0\.0:0 is open to other machines"):
        async with serving(SecurityConfig(), "0.0.0.0:0"):
            pass
    async with serving(SecurityConfig(insecure=True), "0.0.0.0:0") as (_, address):
        assert address.startswith("0.0.0.0:")


async def test_files_that_do_not_belong_together_are_refused_at_the_start(site: Site) -> None:
    other = site.authority.issue("other")
    site.server = Pair(site.server.cert, other.key)
    with pytest.raises(InvalidInputError, match="no certificate and its key"):
        async with serving(site.security()):
            pass


def test_a_token_does_not_travel_in_plain_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    with pytest.raises(InvalidInputError, match="plain text"):
        StageClient("hagd.example:50051", security=ClientSecurity(token_file=tmp_path / "token"))


@pytest.mark.parametrize("content", ["", "two words", "Bearer x", "é"])
def test_a_file_without_a_token_is_refused_before_anything_is_sent(content: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(InvalidInputError, match="holds no token"):
        ClientSecurity(token_file=path).metadata()


async def test_certificate_and_token_keys_are_replaced_under_load_and_no_call_fails(site: Site) -> None:
    """Callers connect anew all the time; half-way, first the key and then the certificate are copied into place."""
    pair = site.authority.issue("laptop")
    current = site.folder / "current-token"
    current.write_text(site.issuer.token("one"))
    client = replace(site.client(pair), token_file=current)
    answered, failed = [0, 0, 0, 0], list[HagdError]()
    stop = threading.Event()

    def call_on(number: int) -> None:
        while not stop.is_set():
            try:
                with StageClient(address, security=client) as connection:
                    connection.list()
                answered[number] += 1
            except HagdError as error:
                failed.append(error)

    async def more(calls: int) -> None:
        before = list(answered)
        while not failed and any(now < then + calls for now, then in zip(answered, before, strict=True)):
            await asyncio.sleep(0.01)

    async with serving(site.security()) as (_, address):
        callers = [asyncio.create_task(asyncio.to_thread(call_on, number)) for number in range(len(answered))]
        await more(3)
        fresh = site.authority.issue("service", file="fresh")
        fresh.key.rename(site.server.key)
        await more(3)
        fresh.cert.rename(site.server.cert)
        await more(3)
        site.issuer.add("two", ec.generate_private_key(ec.SECP256R1()))
        (site.folder / "next-token").write_text(site.issuer.token("two"))
        (site.folder / "next-token").rename(current)
        await more(3)
        site.issuer.remove("one")
        await more(3)
        stop.set()
        await asyncio.gather(*callers)
        shown = await asyncio.to_thread(certificate_shown, address, client)
    assert failed == []
    assert min(answered) >= 15
    assert shown.strip() == site.server.cert.read_text().strip()


def certificate_shown(address: str, client: ClientSecurity) -> str:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(client.ca_file))
    context.load_cert_chain(str(client.cert_file), client.key_file)
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")
