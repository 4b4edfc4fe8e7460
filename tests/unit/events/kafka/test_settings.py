"""How the brokers are spoken with, and what their errors become."""

from pathlib import Path

import pytest
from kafka.errors import (
    KafkaConfigurationError,
    KafkaConnectionError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from hagd.errors import InvalidInputError, UnavailableError
from hagd.events.kafka.failures import translate, translated
from hagd.events.kafka.settings import KafkaSettings


def test_passwords_come_from_a_file_or_the_environment_and_are_never_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = KafkaSettings("a:1", security="SASL_SSL")
    monkeypatch.setenv("HAGD_KAFKA_USERNAME", "somebody")
    with pytest.raises(UnavailableError, match="HAGD_KAFKA_PASSWORD is not set"):
        settings.options()
    (tmp_path / "password").write_text("hidden\n")
    monkeypatch.setenv("HAGD_KAFKA_PASSWORD_FILE", str(tmp_path / "password"))
    password = settings.options()["sasl_plain_password"]
    assert password.encode() == b"hidden"
    assert "hidden" not in f"{settings!r} {settings.options()!r} {password}"
    (tmp_path / "password").write_text("replaced\n")
    assert password.encode() == b"replaced"
    monkeypatch.setenv("HAGD_KAFKA_PASSWORD_FILE", str(tmp_path / "none"))
    with pytest.raises(UnavailableError, match="cannot be read"):
        settings.options()


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (MessageSizeTooLargeError(), InvalidInputError, "larger than Kafka takes"),
        (KafkaConfigurationError("x"), InvalidInputError, "cannot be used so"),
        (UnknownTopicOrPartitionError(), UnavailableError, "a topic is missing"),
        (TopicAuthorizationFailedError(), UnavailableError, "refuses: TopicAuthorizationFailedError"),
        (KafkaConnectionError("x"), UnavailableError, "does not answer: KafkaConnectionError"),
        (OSError("x"), UnavailableError, "does not answer"),
    ],
)
def test_errors_of_the_client_become_those_of_the_tree(error: Exception, kind: type[Exception], message: str) -> None:
    assert isinstance(translate(error, "a:1"), kind)
    assert message in str(translate(error, "a:1"))


def test_errors_are_translated_where_they_pass() -> None:
    with pytest.raises(UnavailableError, match="Kafka at a:1 does not answer"), translated("a:1"):
        raise KafkaConnectionError
