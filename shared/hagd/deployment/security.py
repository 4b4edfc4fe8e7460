"""What a service asks of its callers: TLS, tokens, limits, and which addresses it may then serve.

A service without any of it serves this machine alone: another address needs TLS and somebody to tell callers apart,
or the plain words `--insecure`.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from hagd.deployment.settings import ServiceSettings
from hagd.errors import InvalidInputError

_MIB: Final = 2**20
MESSAGE_LIMIT_BYTES: Final = 4 * _MIB
"""Tensors never travel in messages: a larger one is a mistake and is refused."""


@dataclass(frozen=True)
class TlsFiles:
    """Files in PEM; they are read again when they change."""

    cert: Path
    """The certificate of the service, followed by those that lead to its authority."""
    key: Path
    """Its private key, without a password."""
    client_ca: Path | None = None
    """Who signs the certificates of callers; callers need none when this is None."""


@dataclass(frozen=True)
class TokenRules:
    """Which tokens count."""

    keys: Path
    """A folder of public keys, `<kid>.pem` each; one that is added counts at once, one that is removed no more."""
    issuer: str
    """What `iss` must be."""
    audience: str
    """What `aud` must be, or hold."""
    leeway: timedelta = timedelta(seconds=30)
    """How far the clock of the issuer may be off."""


@dataclass(frozen=True)
class CallLimits:
    """What a service takes upon itself at once.

    Raises:
        InvalidInputError: a limit lets nothing through.
    """

    message_bytes: int = MESSAGE_LIMIT_BYTES
    """The largest message, either way."""
    concurrent_calls: int = 1024
    """Calls at work in the whole service; those about its health are not counted."""
    concurrent_streams: int = 128
    """Calls at work on one connection; further ones wait at the caller."""
    keepalive: timedelta = timedelta(minutes=1)
    """How long a connection may be silent before it is asked whether it is alive."""
    keepalive_answer: timedelta = timedelta(seconds=20)
    """How long that answer may take before the connection is closed."""
    shortest_ping: timedelta = timedelta(seconds=20)
    """A caller that asks more often than this whether the service lives is disconnected."""
    deadlines: bool = True
    """Whether a call that is no stream must say how long it waits."""

    def __post_init__(self) -> None:
        if min(self.message_bytes, self.concurrent_calls, self.concurrent_streams) < 1:
            raise InvalidInputError("a limit of calls or bytes is below 1", "give at least 1")

    def options(self) -> list[tuple[str, int]]:
        """Give them as arguments of a gRPC server, as far as that keeps them."""
        return [
            *message_options(self.message_bytes),
            ("grpc.max_concurrent_streams", self.concurrent_streams),
            ("grpc.keepalive_time_ms", _milliseconds(self.keepalive)),
            ("grpc.keepalive_timeout_ms", _milliseconds(self.keepalive_answer)),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _milliseconds(self.shortest_ping)),
            ("grpc.http2.max_ping_strikes", 2),
        ]


@dataclass(frozen=True)
class SecurityConfig:
    """Everything of this page for one service."""

    tls: TlsFiles | None = None
    """Plain text when None."""
    tokens: TokenRules | None = None
    """Callers need no token when None."""
    insecure: bool = False
    """Serve any address without asking who calls; for networks that keep strangers out by other means."""
    limits: CallLimits = field(default_factory=CallLimits)
    """How much at once."""

    @property
    def tells_callers_apart(self) -> bool:
        """Say whether a call comes with a name that somebody has vouched for."""
        return self.tokens is not None or (self.tls is not None and self.tls.client_ca is not None)

    def check_address(self, listen: str) -> None:
        """Refuse to serve strangers.

        Raises:
            InvalidInputError: the address is open to other machines, and callers are not told apart or overheard.
        """
        if self.insecure or is_loopback(listen) or (self.tls is not None and self.tells_callers_apart):
            return
        lacks = "TLS" if self.tls is None else "client certificates or tokens"
        raise InvalidInputError(
            f"{listen} is open to other machines, and the service has no {lacks}",
            "give --tls-cert and --tls-key, with --tls-client-ca or --token-keys; "
            "or listen on 127.0.0.1; or say --insecure",
        )


def message_options(limit_bytes: int = MESSAGE_LIMIT_BYTES) -> list[tuple[str, int]]:
    """Give the limits of messages, which servers and clients share."""
    return [("grpc.max_receive_message_length", limit_bytes), ("grpc.max_send_message_length", limit_bytes)]


def is_loopback(address: str) -> bool:
    """Say whether `host:port` can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or address.startswith("unix:"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def security_of(settings: ServiceSettings) -> SecurityConfig:
    """Give what the settings say.

    Raises:
        InvalidInputError: one is missing beside another, or names a file that is not there.
    """
    limits = CallLimits(
        int(settings.message_mib * _MIB),
        settings.concurrent_calls,
        settings.concurrent_streams,
        timedelta(seconds=settings.keepalive_seconds),
    )
    return SecurityConfig(_tls_of(settings), _tokens_of(settings), settings.insecure, limits)


def _tls_of(settings: ServiceSettings) -> TlsFiles | None:
    cert, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise InvalidInputError("TLS needs a certificate and its key", "give both --tls-cert and --tls-key")
    for path in (cert, key, client_ca):
        if path is not None and not path.is_file():
            raise InvalidInputError(f"there is no file {path}", "correct the --tls options")
    return TlsFiles(cert, key, client_ca)


def _tokens_of(settings: ServiceSettings) -> TokenRules | None:
    keys = settings.token_keys
    if keys is None:
        return None
    if not keys.is_dir():
        raise InvalidInputError(f"there is no folder {keys}", "make it and put public keys into it")
    if not settings.token_issuer or not settings.token_audience:
        raise InvalidInputError("tokens without an issuer could be anybody's", "give --token-issuer")
    return TokenRules(keys, settings.token_issuer, settings.token_audience)


def _milliseconds(length: timedelta) -> int:
    return int(length.total_seconds() * 1000)
