"""A real broker that tells its clients apart, with a user for each of some services, and logs in their names."""

import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from certificates import Authority
from hagd.events.kafka.settings import KafkaSettings
from servers.kafka import Guard, running_kafka


@dataclass
class GuardedKafka:
    """A broker, and how its users reach it."""

    address: str
    folder: Path
    ca: Path
    passwords: dict[str, str] = field(repr=False)

    def environment(self, user: str, password: str | None = None) -> dict[str, str]:
        """Give the variables of a process that works as `user`; the password lies in a file, and may be a wrong one."""
        path = self.folder / f"password-{user}-{secrets.token_hex(4)}"
        path.write_text(password or self.passwords[user])
        return {
            "HAGD_KAFKA_SERVERS": self.address,
            "HAGD_KAFKA_SECURITY": "SASL_SSL",
            "HAGD_KAFKA_CA_FILE": str(self.ca),
            "HAGD_KAFKA_USERNAME": user,
            "HAGD_KAFKA_PASSWORD_FILE": str(path),
        }

    def settings(self, user: str, password: str | None = None, secrets: dict[str, str] | None = None) -> KafkaSettings:
        """Give what a process works with as `user`; `secrets` are the variables of one that was described before."""
        variables = secrets or self.environment(user, password)
        return KafkaSettings(self.address, security="SASL_SSL", ca_file=self.ca, secrets=variables)


@contextmanager
def guarded_kafka(folder: Path, users: Iterable[str], **guard: Any) -> Iterator[GuardedKafka]:
    """Give a broker that ends with the context."""
    authority = Authority(folder / "certificates")
    pair = authority.issue("broker")
    chain = folder / "chain.pem"
    chain.write_bytes(pair.key.read_bytes() + pair.cert.read_bytes() + authority.ca.read_bytes())
    passwords = {user: secrets.token_hex(16) for user in ("admin", *users)}
    with running_kafka(folder / "kafka", guard=Guard(chain, authority.ca, passwords, **guard)) as kafka:
        yield GuardedKafka(kafka.address, folder, authority.ca, passwords)
