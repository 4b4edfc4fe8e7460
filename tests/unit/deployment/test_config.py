"""Settings become frozen values, and contradictions are refused before anything is opened."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hagd.deployment.config import Places, S3Place, config_of, kafka_of
from hagd.deployment.settings import ServiceSettings
from hagd.errors import HagdError, InvalidInputError, UsageError
from hagd.events.kafka.settings import KafkaSettings
from hagd.execution.ray.settings import RaySettings
from hagd.execution.selection import ExecutorSettings

BUCKET = "s3:http://127.0.0.1:9000/artifacts"


def settings(**given: Any) -> ServiceSettings:
    return ServiceSettings(**{"root": "root", **given})


def test_a_folder_is_all_that_one_machine_needs() -> None:
    assert config_of(settings()).places == Places(Path("root"))
    assert config_of(settings(store="file:/shared")).places.store == Path("/shared")


def test_a_cluster_needs_no_folder() -> None:
    config = config_of(
        settings(
            root=None, log="kafka", kafka_servers="a:1,b:2", store=BUCKET, s3_ca_file="ca.pem", kafka_security="SSL"
        )
    )
    kafka = KafkaSettings("a:1,b:2", security="SSL")
    assert config.places == Places(None, S3Place(BUCKET, ca_file=Path("ca.pem")), kafka)
    assert config.places.store.environment() == {"HAGD_S3_REGION": "us-east-1", "HAGD_S3_CA_FILE": "ca.pem"}


def test_servers_of_kafka_alone_do_not_move_the_log() -> None:
    assert config_of(settings(kafka_servers="a:1")).places.kafka is None
    assert kafka_of(settings(kafka_servers="a:1")).servers == "a:1"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"root": None}, UsageError, "event log is nowhere"),
        ({"root": None, "store": BUCKET}, UsageError, "event log is nowhere"),
        ({"root": None, "log": "kafka", "kafka_servers": "a:1"}, UsageError, "artifacts are nowhere"),
        ({"log": "kafka"}, UsageError, "no Kafka servers"),
        ({"workers": 0}, InvalidInputError, "0 workers do nothing"),
        ({"executor": "ray", "workers": 0}, InvalidInputError, "0 Ray workers"),
        ({"executor": "ray", "ray_gpus": 1.5}, InvalidInputError, "1.5 GPUs"),
        ({"executor": "ray", "ray_gpus": -1}, InvalidInputError, "-1 GPUs"),
        ({"executor": "ray", "ray_address": "ray://head:10001"}, InvalidInputError, "Ray Client"),
    ],
)
def test_what_cannot_run_is_refused_at_once(given: dict[str, Any], error: type[HagdError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        config_of(settings(**given))
    assert caught.value.hint


def test_stages_drain_and_lease_are_what_was_said() -> None:
    config = config_of(settings(stages="one,two", drain_seconds=3, wait_seconds=5, lease_seconds=7))
    assert config.stages == ("one", "two")
    assert (config.drain, config.wait, config.lease_seconds) == (timedelta(seconds=3), timedelta(seconds=5), 7.0)


def test_the_pool_of_ray_is_what_was_said() -> None:
    config = config_of(settings(executor="ray", workers=3, ray_gpus=0.5, ray_memory_gib=1.5, ray_idle_seconds=7))
    pool = RaySettings(workers=3, gpus=0.5, memory_bytes=3 * 2**29, idle_time=timedelta(seconds=7))
    assert config.executor == ExecutorSettings("ray", 3, pool)


@pytest.mark.parametrize(("threads", "cpus", "reserved"), [(None, None, 1.0), (3, None, 3.0), (3, 0.5, 0.5)])
def test_a_ray_worker_reserves_as_many_cpus_as_it_has_threads(
    threads: int | None, cpus: float | None, reserved: float
) -> None:
    ray = config_of(settings(executor="ray", threads=threads, ray_cpus=cpus)).executor.ray
    assert ray is not None
    assert ray.cpus == reserved
