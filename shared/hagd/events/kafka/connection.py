"""Making the clients of Kafka so that one that cannot be made leaves nothing behind.

A client starts a thread in its constructor, and keeps it when the brokers do not answer; in a long outage every attempt
would leave one more.
"""

import socket
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from kafka import KafkaConsumer
from kafka.errors import KafkaTimeoutError

from hagd.errors import UnavailableError
from hagd.events.kafka.header_names import accept_any_header_name
from hagd.events.kafka.settings import KafkaSettings

T = TypeVar("T")
_KNOCK_SECONDS: Final = 2.0
_DEFAULT_PORT: Final = 9092
accept_any_header_name()


def connect(kind: Callable[..., T], settings: KafkaSettings, **options: Any) -> T:
    """Make a consumer, a producer or an admin client, connected.

    Raises:
        UnavailableError: no broker can be reached, or none lets us in.
        KafkaError: one can, and that is all.
    """
    _knock(settings)
    started: list[Any] = []

    def start(**given: Any) -> Any:
        started.append(KafkaConsumer.DEFAULT_CONFIG["kafka_client"](**given))
        return started[-1]

    try:
        return kind(**settings.options(), kafka_client=start, **options)
    except KafkaTimeoutError as error:
        _close(started)
        if settings.security == "PLAINTEXT":
            raise
        # The client tries again until its time is up and forgets why; that somebody is there, we know.
        raise UnavailableError(
            f"Kafka at {settings.servers} does not let us in",
            "check the user, the password and the certificates; the log of the broker has the reason",
        ) from error
    except BaseException:
        _close(started)
        raise


def _close(clients: Iterable[Any]) -> None:
    for client in clients:
        client.close()


def _knock(settings: KafkaSettings) -> None:
    """Try the addresses without the client, which loses track of sockets that were refused."""
    told = "no address was given"
    for server in settings.servers.split(","):
        host, _, port = server.strip().rpartition(":")
        place = (host, int(port)) if host and port.isdecimal() else (server.strip(), _DEFAULT_PORT)
        try:
            with socket.create_connection(place, timeout=_KNOCK_SECONDS):
                return
        except OSError as error:
            told = str(error)
    raise UnavailableError(
        f"Kafka at {settings.servers} does not answer: {told}", "check that it runs; nothing is lost"
    )
