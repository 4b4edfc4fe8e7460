"""The Kafka cluster that a command means: the one it names, or else the one that the services are set to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hagd.events.kafka.settings import KafkaSettings


def kafka_settings(servers: str | None) -> "KafkaSettings":
    """Give the cluster at `servers`, spoken to as the services are set to.

    Raises:
        UsageError: nobody names one, or a setting is refused.
    """
    from hagd.deployment.config import kafka_of  # noqa: PLC0415
    from hagd.deployment.sources import read_settings  # noqa: PLC0415

    return kafka_of(read_settings(flags={"kafka_servers": servers} if servers else {}).settings)
