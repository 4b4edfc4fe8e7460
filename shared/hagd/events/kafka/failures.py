"""What the errors of the Kafka client mean to us."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from kafka.errors import (
    AuthorizationError,
    KafkaConfigurationError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    SaslAuthenticationFailedError,
    SecurityDisabledError,
    UnknownTopicOrPartitionError,
)

from hagd.errors import HagdError, InvalidInputError, UnavailableError

MAKE_TOPICS: Final = "make the topics with `hagd admin topics create`"


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
            return InvalidInputError(f"the event is larger than Kafka takes: {told}", MAKE_TOPICS)
        case KafkaConfigurationError() | ValueError():
            return InvalidInputError(f"Kafka at {servers} cannot be used so: {told}", "correct the settings")
        case UnknownTopicOrPartitionError():
            return UnavailableError(f"a topic is missing on Kafka at {servers}: {told}", MAKE_TOPICS)
        case SecurityDisabledError():
            return InvalidInputError(
                f"Kafka at {servers} keeps no ACLs: {told}", "set authorizer.class.name in the settings of its brokers"
            )
        case AuthorizationError() | SaslAuthenticationFailedError():
            return UnavailableError(f"Kafka at {servers} refuses: {told}", "check the credentials and what they may do")
        case _:
            return UnavailableError(
                f"Kafka at {servers} does not answer: {told}", "check that it runs; nothing is lost"
            )


def no_topic(topic: str, servers: str) -> UnavailableError:
    """Give the error for a topic that is missing."""
    hint = f"{MAKE_TOPICS}; a principal sees only topics that it may use, see `hagd admin acls create`"
    return UnavailableError(f"there is no topic {topic} on Kafka at {servers}", hint)
