"""What `make servers` runs: obtain each server that is not there yet. Takes minutes the first time, nothing later.

Kafka comes as Java archives by Maven and is compared with the digests in `kafka.sha256`; MinIO and versitygw are built
by the Go toolchain, which checks its modules itself. Java, Maven and Go are installed from Debian where they are
missing and this may be done without a question, that is, as root.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from servers.places import BINARIES, KAFKA_JARS, PROGRAMS, has_kafka, has_program, jars_wanted

_JAVA_AT_LEAST: Final = (17,)
# From this version on the toolchain fetches a newer one for a module that asks for it.
_GO_AT_LEAST: Final = (1, 21)
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_POM: Final = Path(__file__).with_name("kafka-pom.xml")


class CannotObtainError(Exception):
    """A server cannot be had on this machine; the message says what to install."""


def main() -> int:
    """Obtain everything; give 0 when all servers are there."""
    steps: dict[str, tuple[Callable[[], bool], Callable[[], None]]] = {"kafka": (has_kafka, obtain_kafka)}
    for name in PROGRAMS:
        steps[name] = (lambda name=name: has_program(name), lambda name=name: build_program(name))
    failed = False
    for name, (is_there, obtain) in steps.items():
        if is_there():
            _say(f"{name}: there")
            continue
        try:
            obtain()
        except (CannotObtainError, subprocess.CalledProcessError, OSError) as error:
            failed = True
            _say(f"{name}: {error}")
        else:
            _say(f"{name}: obtained")
    return 1 if failed else 0


def obtain_kafka() -> None:
    """Copy Kafka and all it needs into `KAFKA_JARS`, whole or not at all.

    Raises:
        CannotObtainError: Java or Maven is missing, or a file is not what it should be.
    """
    need("java", _JAVA_AT_LEAST, ["-version"], "default-jre-headless")
    need("mvn", (3,), ["-version"], "maven")
    KAFKA_JARS.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KAFKA_JARS.parent) as folder:
        copy = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}/jars"]
        _run(["mvn", "-q", "-B", "-f", str(_POM), *copy])
        check_jars(Path(folder, "jars"), jars_wanted())
        shutil.rmtree(KAFKA_JARS, ignore_errors=True)
        Path(folder, "jars").rename(KAFKA_JARS)


def check_jars(folder: Path, wanted: Mapping[str, str]) -> None:
    """Compare files with their digests.

    Raises:
        CannotObtainError: one is missing, is too many, or differs.
    """
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    wrong = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    if wrong:
        raise CannotObtainError(f"not the files that kafka.sha256 names: {', '.join(wrong)}")


def build_program(name: str) -> None:
    """Build a program of `PROGRAMS` into `BINARIES`, yielding the processor to whoever else wants it.

    Raises:
        CannotObtainError: Go is missing or too old.
    """
    need("go", _GO_AT_LEAST, ["version"], "golang-go")
    BINARIES.mkdir(parents=True, exist_ok=True)
    _say(f"{name}: building, which takes minutes")
    # Built from outside the repository, so that no module file of a folder above is read.
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "GOBIN": str(BINARIES)}
        _run(["nice", "-n", "19", "go", "install", PROGRAMS[name]], cwd=folder, env=environment)


def need(program: str, at_least: tuple[int, ...], question: Sequence[str], package: str) -> None:
    """Make sure that a program is there and new enough, installing it from Debian as root.

    Raises:
        CannotObtainError: it is not, and cannot be installed.
    """
    if version_of(program, question) >= at_least:
        return
    wanted = f"{program} {'.'.join(map(str, at_least))} or newer"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise CannotObtainError(f"{wanted} is needed: install it (Debian: {package}) and repeat `make servers`")
    _run(["apt-get", "update", "-qq"])
    _run(["apt-get", "install", "-y", "-qq", package], env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if version_of(program, question) < at_least:
        raise CannotObtainError(f"{wanted} is needed, Debian's {package} is older: install a newer one")


def version_of(program: str, question: Sequence[str]) -> tuple[int, ...]:
    """Give the version of an installed program as numbers, () when there is none."""
    if shutil.which(program) is None:
        return ()
    done = subprocess.run([program, *question], capture_output=True, text=True, check=False)
    # Maven colours its first line also where nobody sees it, and a colour is a number too.
    found = re.search(r"\d+(?:\.\d+)*", _COLOUR.sub("", done.stdout + done.stderr))
    return tuple(map(int, found.group().split("."))) if found else ()


def _run(command: Sequence[str], cwd: str | None = None, env: Mapping[str, str] | None = None) -> None:
    # What these programs tell belongs to the person, and not to who reads stdout.
    subprocess.run(command, cwd=cwd, env=env, stdout=sys.stderr, check=True)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
