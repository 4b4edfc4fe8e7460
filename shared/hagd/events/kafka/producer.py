"""Writing to Kafka, durable on return: all in-sync replicas have the record. Safe to use from several threads.

The idempotent producer of the client cannot go on after most errors, so it is closed and made anew after any. A record
whose fate was not learned may then be there twice; readers tell events apart by id.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.cloud_event import Headers
from hagd.events.envelope import MAX_EVENT_BYTES
from hagd.events.kafka.connection import connect
from hagd.events.kafka.failures import no_topic, translated
from hagd.events.kafka.settings import MAX_RECORD_BYTES, KafkaSettings

_CLOSE_SECONDS: Final = 1.0


class KafkaWriter:
    """A producer that is made when it is first needed."""

    def __init__(self, settings: KafkaSettings, exists: Callable[[str], bool]) -> None:
        """Prepare to write; `exists` says whether a topic is there."""
        self._settings, self._exists = settings, exists
        self._producer: KafkaProducer | None = None
        self._known: set[str] = set()
        """Topics that were written to."""
        self._closed = False
        self._lock = threading.Lock()

    def write(self, topic: str, key: str, value: bytes | None, headers: Headers = ()) -> None:
        """Append a record and wait until it is safe.

        Raises:
            InvalidInputError: the record is too large.
            UnavailableError: the brokers do not answer, refuse, or have no such topic.
        """
        if value is not None and len(value) > MAX_EVENT_BYTES:
            raise InvalidInputError(f"the event has {len(value)} bytes, at most {MAX_EVENT_BYTES} are carried")
        producer = self._opened()
        # The client would wait for a topic that is not there as it waits for brokers that do not answer.
        if topic not in self._known and not self._exists(topic):
            raise no_topic(topic, self._settings.servers)
        with translated(self._settings.servers):
            try:
                future = producer.send(topic, value, key.encode(), list(headers))
                future.get(self._settings.delivery_timeout_seconds)
            except MessageSizeTooLargeError:
                raise
            except KafkaError:
                self._discard(producer)
                raise
        self._known.add(topic)

    def close(self) -> None:
        """Stop; later writes raise UnavailableError."""
        with self._lock:
            self._closed = True
            producer, self._producer = self._producer, None
        if producer is not None:
            producer.close(self._settings.delivery_timeout_seconds)

    def _opened(self) -> KafkaProducer:
        with self._lock:
            if self._closed:
                raise UnavailableError("the event log is closed", "open it again")
            if self._producer is None:
                with translated(self._settings.servers):
                    self._producer = connect(KafkaProducer, self._settings, **self._options())
            return self._producer

    def _discard(self, producer: KafkaProducer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None
        # Whoever else waits for it gets an error at once, and writes again through the next one.
        producer.close(_CLOSE_SECONDS)

    def _options(self) -> dict[str, Any]:
        timeout_ms = int(self._settings.delivery_timeout_seconds * 1000)
        return {
            "metrics_enabled": False,
            "acks": "all",
            "enable_idempotence": True,
            "allow_auto_create_topics": False,
            "max_request_size": MAX_RECORD_BYTES,
            "delivery_timeout_ms": timeout_ms,
            "max_block_ms": timeout_ms,
        }
