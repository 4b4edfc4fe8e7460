"""A real Kafka of one node: broker and controller in one process, in KRaft mode, over a folder of its own."""

import base64
import subprocess
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from servers.places import KAFKA_JARS
from servers.process import ServerProcess, free_ports

_LOGGING: Final = Path(__file__).with_name("kafka-log4j2.properties")
_STARTED: Final = "Kafka Server started"
# Small and quick to start; nothing that changes what a client sees.
_JAVA: Final = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{KAFKA_JARS}/*")


class Kafka:
    """A broker on loopback that may be stopped, killed and started again over its data."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Prepare the folder; nothing runs yet.

        Args:
            folder: where data and log go; made when missing.
            settings: broker settings beside or in place of the usual ones.
        """
        broker, controller = free_ports(2)
        self.address = f"127.0.0.1:{broker}"
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        values = {**_settings(folder, broker, controller), **(settings or {})}
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        command = [*_JAVA, f"-Dlog4j2.configurationFile={_LOGGING}", "kafka.Kafka", str(self._properties)]
        self.process = ServerProcess("kafka", command, folder, {})

    def format(self) -> None:
        """Prepare the data folder, once before the first start."""
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["kafka.tools.StorageTool", "format", "-t", identity, "-c", str(self._properties)]
        subprocess.run([*_JAVA, *tool], check=True, capture_output=True)

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
def running_kafka(folder: Path, settings: Mapping[str, str] | None = None) -> Generator[Kafka]:
    """Give a broker that ends with the context. Takes about five seconds.

    Raises:
        ServerDidNotStartError: it ended, or does not serve in time.
    """
    kafka = Kafka(folder, settings)
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
