"""Where the brokers are and how to speak with them. Loads without the client, which is an extra."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from hagd.errors import UnavailableError
from hagd.events.envelope import MAX_EVENT_BYTES

MAX_RECORD_BYTES: Final = MAX_EVENT_BYTES + (64 << 10)
"""An event with its key and headers; what topics are made for."""
_BOOTSTRAP_SECONDS: Final = 5.0
Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


@dataclass(frozen=True)
class KafkaSettings:
    """One Kafka cluster as one process uses it."""

    servers: str
    """`host:port`, several with commas."""
    group_prefix: str = ""
    """Put before the name of a topic, this makes the consumer group that works it off."""
    client_id: str = "hagd"
    security: Security = "PLAINTEXT"
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
    secrets: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False, compare=False)
    """Where HAGD_KAFKA_USERNAME and _PASSWORD are looked up, or with _FILE the files that hold them."""

    def options(self) -> dict[str, Any]:
        """Give what every client is made with.

        Raises:
            UnavailableError: the name or the password is missing.
        """
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
                "sasl_plain_username": secret(self.secrets, "HAGD_KAFKA_USERNAME"),
                "sasl_plain_password": _password(self.secrets, self.mechanism),
            }
        return options


class Password:
    """Stands where the client expects a password, and looks it up whenever the client shows who it is.

    SCRAM asks for nothing but its bytes. So a connection that is made or renewed uses the password that its file holds
    then, and nothing that prints the settings of a client prints it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Look it up once, so that one that is missing is told at once.

        Raises:
            UnavailableError: it is missing.
        """
        self._environment = environment
        self.encode()

    def encode(self, encoding: str = "utf-8") -> bytes:
        """Give the password as it is now."""
        return secret(self._environment, "HAGD_KAFKA_PASSWORD").encode(encoding)

    def __repr__(self) -> str:
        return "Password(...)"


def _password(environment: Mapping[str, str], mechanism: str) -> "Password | str":
    # PLAIN puts it together with other text, so it stays what it was when the client was made.
    return secret(environment, "HAGD_KAFKA_PASSWORD") if mechanism == "PLAIN" else Password(environment)


def secret(environment: Mapping[str, str], name: str) -> str:
    """Give what a variable holds, or the file that the same name with _FILE names.

    Raises:
        UnavailableError: neither is there.
    """
    path = environment.get(f"{name}_FILE")
    try:
        value = Path(path).read_text(encoding="utf-8").strip() if path else environment.get(name, "")
    except OSError as error:
        raise UnavailableError(f"the file that {name}_FILE names cannot be read: {error}", "check it") from error
    if not value:
        raise UnavailableError(f"Kafka asks who we are, and {name} is not set", f"set it, or {name}_FILE")
    return value
