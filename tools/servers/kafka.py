"""A real Kafka of one node: broker and controller in one process, in KRaft mode, over a folder of its own.

With `Guard` it listens with TLS, knows its users by SCRAM, and lets each do what an ACL says and nothing else.
"""

import base64
import subprocess
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from servers.places import KAFKA_JARS
from servers.process import ServerDidNotStartError, ServerProcess, free_ports

_LOGGING: Final = Path(__file__).with_name("kafka-log4j2.properties")
MECHANISM: Final = "SCRAM-SHA-512"
_STARTED: Final = "Kafka Server started"
# Small and quick to start; nothing that changes what a client sees.
_JAVA: Final = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{KAFKA_JARS}/*")


@dataclass(frozen=True)
class Guard:
    """What a broker needs to tell its clients apart."""

    chain: Path
    """PEM: the private key of the broker, its certificate, that of the authority."""
    authority: Path
    """PEM: who signed it."""
    users: Mapping[str, str] = field(repr=False)
    """Passwords by name, made for one test: the formatting tool takes them as arguments alone."""
    administrator: str = "admin"
    """The one of `users` who may do everything."""
    session_seconds: float = 0.0
    """After this time a client must show its password again; never when 0."""

    def settings(self, port: int) -> dict[str, str]:
        """Give the broker settings beside the usual ones."""
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required"
        own = f'username="{self.administrator}" password="{self.users[self.administrator]}"'
        return {
            "listeners": f"SASL_SSL://127.0.0.1:{port}",
            "advertised.listeners": f"SASL_SSL://127.0.0.1:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "sasl.enabled.mechanisms": MECHANISM,
            f"listener.name.sasl_ssl.{MECHANISM.lower()}.sasl.jaas.config": f"{login} {own};",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.chain),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The broker speaks with its own controller without a name.
            "super.users": f"User:{self.administrator};User:ANONYMOUS",
            "connections.max.reauth.ms": str(int(self.session_seconds * 1000)),
        }


class Kafka:
    """A broker on loopback that may be stopped, killed and started again over its data."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, guard: Guard | None = None) -> None:
        """Prepare the folder; nothing runs yet.

        Args:
            folder: where data and log go; made when missing.
            settings: broker settings beside or in place of the usual ones.
            guard: how clients are told apart; anybody may do anything when None.
        """
        self._guard = guard
        broker, controller = free_ports(2)
        self.address = f"127.0.0.1:{broker}"
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        guarded = guard.settings(broker) if guard else {}
        if guard:
            guarded["listeners"] += f",CONTROLLER://127.0.0.1:{controller}"
        values = {**_settings(folder, broker, controller), **guarded, **(settings or {})}
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        command = [*_JAVA, f"-Dlog4j2.configurationFile={_LOGGING}", "kafka.Kafka", str(self._properties)]
        self.process = ServerProcess("kafka", command, folder, {})

    def format(self) -> None:
        """Prepare the data folder, once before the first start.

        Raises:
            ServerDidNotStartError: the tool of Kafka could not, with what it said.
        """
        # Without its first bit, because one in 64 would begin with a hyphen, which the tool takes for an option.
        first, *others = uuid.uuid4().bytes
        identity = base64.urlsafe_b64encode(bytes([first & 0x7F, *others])).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "-t", identity, "-c", str(self._properties)]
        for name, password in (self._guard.users if self._guard else {}).items():
            tool += ["--add-scram", f"{MECHANISM}=[name={name},password={password}]"]
        done = subprocess.run([*_JAVA, *tool], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            # Without the command, in which the passwords are.
            raise ServerDidNotStartError(f"kafka could not be formatted:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            ServerDidNotStartError: it ended, or does not serve in time.
        """
        log = self.process.log_path
        before = log.stat().st_size if log.exists() else 0

        def has_started() -> bool:
            return _STARTED in log.read_bytes()[before:].decode(errors="replace")

        self.process.start(has_started)


@contextmanager
def running_kafka(
    folder: Path, settings: Mapping[str, str] | None = None, guard: Guard | None = None
) -> Generator[Kafka]:
    """Give a broker that ends with the context. Takes about five seconds.

    Raises:
        ServerDidNotStartError: it ended, or does not serve in time.
    """
    kafka = Kafka(folder, settings, guard)
    kafka.format()
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.process.stop()


def _settings(folder: Path, broker: int, controller: int) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        # One node cannot keep more copies.
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # Fifty by default, each with files of its own, made when the first group joins.
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.num.partitions": "4",
        # Tests wait for neither of these.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
    }
