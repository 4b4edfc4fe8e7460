"""`hagd up` as a person starts it: four processes, a request sent to them, and an orderly end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import psutil

from integration.command_line import TASK, CommandLine
from integration.toy_stages import USE

MAIN = [sys.executable, "-c", "from hagd.cli.app import main; main()"]


@dataclass
class Services:
    """A running `hagd up`."""

    process: "subprocess.Popen[bytes]"
    rows: dict[str, dict[str, str | int]]
    said: list[bytes]
    """Lines on stderr so far."""

    @property
    def address(self) -> str:
        return str(self.rows["transcoder"]["address"])

    def pids(self) -> list[int]:
        return [int(row["pid"]) for row in self.rows.values()]


@contextlib.contextmanager
def services_up(root: Path) -> Generator[Services]:
    command = [*MAIN, "up", "--root", str(root), "--store", str(root.parent / "artifacts"), "--port", "0"]
    command += ["--threads", "1", "--json", *USE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out = process.stdout
    assert out is not None
    said: list[bytes] = []
    drain = threading.Thread(target=lambda: said.extend(process.stderr or []), daemon=True)
    drain.start()
    try:
        text = ""
        for line in iter(out.readline, b""):
            text += line.decode()
            with contextlib.suppress(ValueError):
                answer = json.loads(text)
                break
        yield Services(process, {row["service"]: row for row in answer["data"]}, said)
    finally:
        process.terminate()
        process.wait(60)
        drain.join(10)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def gone(pids: list[int], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(psutil.pid_exists(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def test_four_services_take_a_request_to_its_verdict_and_end_together(hagd: CommandLine, workplace: Path) -> None:
    before = psutil.Process().children()
    with services_up(workplace / "root") as services:
        assert list(services.rows) == ["transcoder", "coarsening", "traversal", "verification"]
        submit = ["submit", *TASK, *USE, "--address", services.address, "--watch", "--json"]
        answer = hagd(*submit)
        assert (answer.code, answer.data["status"]) == (0, "verified")
        assert [stage["status"] for stage in answer.data["stages"]] == ["done"] * 5
        again = hagd(*submit)
        assert again.data["run_id"] == answer.data["run_id"]
        assert hagd("verify", "root", "--json").data["verdict"] == "verified"
        assert (workplace / "artifacts" / "blobs").is_dir()
        assert not (workplace / "root" / "store").exists()
        asked = ["--address", str(services.rows["verification"]["address"]), "--json"]
        assert hagd("run", "status", answer.data["run_id"][:7], *asked).data == answer.data
        assert [entry["status"] for entry in hagd("run", "list", *asked).data] == ["verified"]
        assert hagd("run", "cancel", answer.data["run_id"], *asked).error["kind"] == "run"
        locked = hagd.extract("--out", "root", "--json")
        assert locked.error["kind"] == "run-locked"
        taken = hagd("up", "--root", "two", "--port", services.address.rpartition(":")[2], "--json", *USE)
        assert (taken.code, taken.error["kind"]) == (4, "unavailable")
        assert set(psutil.Process().children()) - set(before) == {psutil.Process(services.process.pid)}
        services.process.send_signal(signal.SIGINT)
        assert services.process.wait(60) == 0
        assert gone(services.pids(), 1)
    assert not [line for line in services.said if b"Traceback" in line or b"Fatal" in line]


def test_no_service_outlives_the_process_that_started_it(workplace: Path) -> None:
    command = [sys.executable, "-m", "hagd_coarsening", "--root", "root", "--listen", "127.0.0.1:0", "--until-eof"]
    service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert service.stdin is not None
    assert service.stdout is not None
    assert json.loads(service.stdout.readline())["service"] == "coarsening"
    service.stdin.close()
    assert service.wait(60) == 0
    service.stdin = None
    assert b"Fatal" not in service.communicate()[1]


def test_a_service_that_dies_ends_the_others_with_a_failure(workplace: Path) -> None:
    with services_up(workplace / "root") as services:
        os.kill(int(services.rows["traversal"]["pid"]), signal.SIGKILL)
        assert services.process.wait(60) == 1
        assert gone(services.pids(), 1)


def test_a_request_to_nobody_says_how_to_start_somebody(hagd: CommandLine, workplace: Path) -> None:
    answer = hagd("submit", *TASK, *USE, "--address", "127.0.0.1:1", "--json")
    assert (answer.code, answer.error["kind"]) == (4, "unavailable")
    assert "hagd up" in answer.error["hint"]
