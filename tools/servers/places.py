"""Where the servers lie once they were obtained, and what of them is there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PLACE: Final = ROOT / ".servers"
BINARIES: Final = PLACE / "bin"
KAFKA_JARS: Final = PLACE / "kafka" / "jars"
KAFKA_SUMS: Final = Path(__file__).with_name("kafka.sha256")

PROGRAMS: Final[Mapping[str, str]] = {
    "minio": "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.7.0",
}
"""Servers that the Go toolchain builds: `{program: package@version}`."""


def jars_wanted() -> dict[str, str]:
    """Give `{file name: sha256}` of everything on the class path of Kafka."""
    lines = KAFKA_SUMS.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def has_kafka() -> bool:
    """Say whether every file of Kafka is there; their digests were checked when they came."""
    return all((KAFKA_JARS / name).is_file() for name in jars_wanted())


def has_program(name: str) -> bool:
    """Say whether a program of `PROGRAMS` was built."""
    return (BINARIES / name).is_file()
