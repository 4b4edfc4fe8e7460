"""Where the brokers are, how to speak with them, and what their errors mean to us."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    UnknownTopicOrPartitionError,
)

from hagd.errors import HagdError, InvalidInputError, UnavailableError
from hagd.events.envelope import MAX_EVENT_BYTES

MAX_RECORD_BYTES: Final = MAX_EVENT_BYTES + (64 << 10)
"""An event with its key and headers; what topics are made for."""
_MAKE_TOPICS: Final = "make the topics with `hagd admin topics create`"
_BOOTSTRAP_SECONDS: Final = 5.0
_SECURITY: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")


@dataclass(frozen=True)
class KafkaSettings:
    """One Kafka cluster as one process uses it."""

    servers: str
    """`host:port`, several with commas."""
    group_prefix: str = ""
    """Put before the name of a topic, this makes the consumer group that works it off."""
    client_id: str = "hagd"
    security: str = "PLAINTEXT"
    """PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL."""
    mechanism: str = "SCRAM-SHA-512"
    """How to authenticate, with SASL."""
    ca_file: Path | None = None
    """Certificates to trust; those of the system when None."""
    cert_file: Path | None = None
    """Certificate to show, with SSL."""
    key_file: Path | None = None
    session_timeout_seconds: float = 30.0
    """After this silence a member's partitions go to others."""
    delivery_timeout_seconds: float = 20.0
    """How long an append waits for the brokers."""
    patience_seconds: float = 0.2
    """How long a claim waits for an event."""
    commit_seconds: float = 0.1
    """How often acknowledgements are told to the brokers."""

    def options(self) -> dict[str, Any]:
        """Give what every client is made with. Passwords come from the environment, or from a file that it names."""
        options: dict[str, Any] = {
            "bootstrap_servers": [server for server in self.servers.split(",") if server],
            "client_id": self.client_id,
            "security_protocol": self.security,
            "bootstrap_timeout_ms": int(min(_BOOTSTRAP_SECONDS, self.delivery_timeout_seconds) * 1000),
            "request_timeout_ms": int(self.delivery_timeout_seconds * 1000 / 2),
            "reconnect_backoff_max_ms": 1_000,
        }
        files = {"ssl_cafile": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        options |= {name: str(path) for name, path in files.items() if path is not None}
        if self.security.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": _secret(os.environ, "HAGD_KAFKA_USERNAME"),
                "sasl_plain_password": _secret(os.environ, "HAGD_KAFKA_PASSWORD"),
            }
        return options

    @staticmethod
    def from_environment(servers: str | None = None, environment: Mapping[str, str] = os.environ) -> "KafkaSettings":
        """Read HAGD_KAFKA_SERVERS, _GROUP_PREFIX, _SECURITY, _MECHANISM, _CA_FILE, _CERT_FILE and _KEY_FILE.

        Args:
            servers: goes before HAGD_KAFKA_SERVERS.
            environment: where to read.

        Raises:
            InvalidInputError: there are no servers, or a value is none.
        """

        def path(name: str) -> Path | None:
            return Path(environment[name]) if environment.get(name) else None

        servers = servers or environment.get("HAGD_KAFKA_SERVERS", "")
        security = environment.get("HAGD_KAFKA_SECURITY", "PLAINTEXT")
        if not servers:
            raise InvalidInputError("no Kafka servers were given", "give --servers host:port or set HAGD_KAFKA_SERVERS")
        if security not in _SECURITY:
            raise InvalidInputError(f"HAGD_KAFKA_SECURITY is {security!r}", f"give one of {', '.join(_SECURITY)}")
        return KafkaSettings(
            servers,
            environment.get("HAGD_KAFKA_GROUP_PREFIX", ""),
            security=security,
            mechanism=environment.get("HAGD_KAFKA_MECHANISM", "SCRAM-SHA-512"),
            ca_file=path("HAGD_KAFKA_CA_FILE"),
            cert_file=path("HAGD_KAFKA_CERT_FILE"),
            key_file=path("HAGD_KAFKA_KEY_FILE"),
        )


@contextmanager
def translated(servers: str) -> Generator[None]:
    """Turn the errors of the client into those of our tree."""
    try:
        yield
    except (KafkaError, OSError) as error:
        raise translate(error, servers) from error


def translate(error: Exception, servers: str) -> HagdError:
    """Give the error of our tree for one of the client."""
    name = type(error).__name__
    # Some errors of the client begin with their own name.
    told = f"{name}: {str(error).removeprefix(f'{name}: ').removeprefix(name)}".rstrip(": ")
    match error:
        case MessageSizeTooLargeError() | RecordListTooLargeError():
            return InvalidInputError(f"the event is larger than Kafka takes: {told}", _MAKE_TOPICS)
        case KafkaConfigurationError() | ValueError():
            return InvalidInputError(f"Kafka at {servers} cannot be used so: {told}", "correct the settings")
        case UnknownTopicOrPartitionError():
            return UnavailableError(f"a topic is missing on Kafka at {servers}: {told}", _MAKE_TOPICS)
        case AuthorizationError() | SaslAuthenticationFailedError():
            return UnavailableError(f"Kafka at {servers} refuses: {told}", "check the credentials and what they may do")
        case _:
            return UnavailableError(
                f"Kafka at {servers} does not answer: {told}", "check that it runs; nothing is lost"
            )


def no_topic(topic: str, servers: str) -> UnavailableError:
    """Give the error for a topic that is missing."""
    return UnavailableError(f"there is no topic {topic} on Kafka at {servers}", _MAKE_TOPICS)


def _secret(environment: Mapping[str, str], name: str) -> str:
    path = environment.get(f"{name}_FILE")
    try:
        value = Path(path).read_text(encoding="utf-8").strip() if path else environment.get(name, "")
    except OSError as error:
        raise UnavailableError(f"the file that {name}_FILE names cannot be read: {error}", "check it") from error
    if not value:
        raise UnavailableError(f"Kafka asks who we are, and {name} is not set", f"set it, or {name}_FILE")
    return value
