"""Every setting of a service as it is written outside: flag `--kafka-servers`, variable HAGD_KAFKA_SERVERS, and key
`kafka_servers` of the file are one setting. Passwords and keys are none: they come from the environment, or from files
that it names, and nothing here can print them.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hagd.events.kafka.settings import Security
from hagd.execution.devices import DeviceKind
from hagd.execution.selection import Kind

PREFIX = "HAGD_"


class ServiceSettings(BaseSettings):
    """What a service can be told. Built from values alone; `sources` reads them."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=PREFIX, env_ignore_empty=True, cli_kebab_case=True
    )

    listen: str = Field("", description="host:port; port 0 takes a free one")
    root: Path | None = Field(None, description="folder of log, store and run state, shared by services of a machine")
    log: Literal["sqlite", "kafka"] = Field("sqlite", description="event log: a file in the root, or Kafka")
    store: str | None = Field(
        None, description="artifacts: a folder, or s3:http://host:port/bucket[/folder]; inside the root by default"
    )
    kafka_servers: str = Field("", description="host:port of Kafka, several with commas")
    kafka_group_prefix: str = Field("", description="put before topics, names the consumer groups")
    kafka_security: Security = Field("PLAINTEXT", description="how to speak with Kafka")
    kafka_mechanism: str = Field("SCRAM-SHA-512", description="how to authenticate at Kafka, with SASL")
    kafka_ca_file: Path | None = Field(None, description="certificates to trust at Kafka")
    kafka_cert_file: Path | None = Field(None, description="certificate to show to Kafka, with SSL")
    kafka_key_file: Path | None = Field(None, description="key of that certificate")
    session_timeout_seconds: float = Field(
        30.0, ge=1, le=1800, description="silence after which Kafka gives a service's requests to others"
    )
    s3_region: str = Field("us-east-1", description="region of the bucket")
    s3_ca_file: Path | None = Field(None, description="certificates to trust at the S3 server")
    lease_seconds: float = Field(
        30.0, ge=2, le=3600, description="after which a task whose worker shows no life is taken over"
    )
    executor: Kind = Field("process", description="where tasks run")
    workers: int = Field(1, description="tasks at a time")
    threads: int | None = Field(None, ge=1, description="CPU threads of a worker; all, shared out, by default")
    device: DeviceKind = Field("auto", description="what tasks compute on; auto is a GPU where Ray reserves one")
    ray_address: str = Field("auto", description="host:port of the cluster; 'auto' is RAY_ADDRESS, else this machine's")
    ray_cpus: float | None = Field(None, description="CPUs that a Ray worker reserves; as many as threads by default")
    ray_gpus: float = Field(0.0, description="GPUs that a Ray worker reserves: 0, a part of one, or whole ones")
    ray_memory_gib: float | None = Field(None, description="memory that a Ray worker reserves")
    ray_idle_seconds: float = Field(60.0, ge=0, description="how long a Ray worker without a task keeps its place")
    stages: str = Field("", description="installed stages to run in place of its own, comma-separated")
    tls_cert: Path | None = Field(None, description="certificate of the service, PEM; without it all is plain text")
    tls_key: Path | None = Field(None, description="key of that certificate, PEM")
    tls_client_ca: Path | None = Field(None, description="who signs the certificates that callers then need, PEM")
    token_keys: Path | None = Field(None, description="folder of public keys <kid>.pem; callers then need a token")
    token_issuer: str = Field("", description="what iss of a token must be")
    token_audience: str = Field("hagd", description="what aud of a token must be")
    insecure: bool = Field(False, description="serve any address, whoever calls")
    concurrent_calls: int = Field(1024, ge=1, description="calls at work in the whole service")
    concurrent_streams: int = Field(128, ge=1, description="calls at work on one connection")
    message_mib: float = Field(4.0, gt=0, le=64, description="largest message of a call, in MiB, either way")
    keepalive_seconds: float = Field(60.0, ge=10, description="silence after which a connection is asked for life")
    reflection: bool = Field(True, description="tell callers which services and messages there are")
    stream_runs: int = Field(256, ge=1, description="unfinished runs of one stream, after which it is read no further")
    principal_runs: int | None = Field(None, ge=1, description="unfinished runs of a caller; no limit by default")
    metrics: str = Field("", description="[host:]port where Prometheus reads; loopback, 0 is free; none by default")
    drain_seconds: float = Field(20.0, ge=0, description="how long tasks at work may go on after SIGTERM")
    wait_seconds: float = Field(0.0, ge=0, description="how long to wait at the start for log and store")
    until_eof: bool = Field(False, description="stop when stdin ends")

    @classmethod
    def settings_customise_sources(  # the signature is the library's
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what is given and look nowhere else, since the order and its memory are those of `sources`."""
        return (init_settings,)
