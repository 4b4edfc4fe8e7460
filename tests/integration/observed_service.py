"""A stage service as a process of its own, with the toy stages of all places behind it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from integration.toy_stages import PLACES, USE

MAIN = [sys.executable, "-c", "from hagd.cli.app import main; main()"]
TASK = ["--task", "modular-addition", "--modulus", "7"]


@dataclass
class Service:
    """A service that serves."""

    process: "subprocess.Popen[bytes]"
    address: str
    metrics: str
    log: Path
    """Its standard error."""

    def submit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Call `hagd submit` in another process, and follow the run to its end."""
        command = [*MAIN, "submit", *TASK, *USE, "--address", self.address, "--watch", "--json", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@contextlib.contextmanager
def service_process(root: Path, *arguments: str) -> Generator[Service]:
    """Start a service that works off all toy stages, with more arguments; it has ended on the way out."""
    stages = ",".join(f"toy-{place}" for place in PLACES)
    command = [sys.executable, "-m", "hagd_transcoder", "--root", str(root), "--listen", "127.0.0.1:0"]
    command += ["--threads", "1", "--stages", stages, "--metrics", "0", "--until-eof", *arguments]
    log = root.parent / f"{root.name}.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        said = json.loads(line)
        yield Service(process, said["address"], said["metrics"], log)
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
