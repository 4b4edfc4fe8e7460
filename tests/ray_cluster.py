"""A Ray cluster of one node, one per test session, started when a test first asks for it.

It has two CPUs and says that it has two GPUs, which nobody looks for: tests see where workers are placed. What workers
do there is traced into a file.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from servers.found import must_have_servers

_PATIENCE: Final = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_initial_delay_ms": "60000",
    "RAY_health_check_timeout_ms": "60000",
}
"""On a busy machine a node takes minutes to start and seconds to answer."""


@pytest.fixture(scope="session")
def ray_spans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file into which the workers of the cluster write their spans."""
    return tmp_path_factory.mktemp("ray") / "spans.jsonl"


@pytest.fixture(scope="session")
def ray_address(ray_spans: Path) -> Iterator[str]:
    """Give `host:port` of a cluster to which this process may connect as a driver."""
    if importlib.util.find_spec("ray") is None:
        reason = "no Ray: pip install 'hagd[ray]'"
        if must_have_servers():
            pytest.fail(reason)
        pytest.skip(reason)
    if "ray" in sys.modules:
        pytest.fail("Ray was loaded before its cluster was started, and has read by then that there is no token")
    with pytest.MonkeyPatch.context() as monkeypatch:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        for name, value in {**token, **_PATIENCE, "RAY_USAGE_STATS_ENABLED": "0"}.items():
            monkeypatch.setenv(name, value)
        with _running(ray_spans) as address:
            yield address


@contextmanager
def _running(spans: Path) -> Generator[str]:
    # Not below the folder of the test: paths of its sockets may not be long.
    folder = tempfile.mkdtemp(prefix="ray-")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    size = ["--num-cpus=2", "--num-gpus=2", "--object-store-memory=80000000"]
    place = [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}", "--include-dashboard=false"]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *size, *place]
    paths = [path for path in [os.environ.get("PYTHONPATH", "")] if path]
    paths.append(str(Path(__file__).parent))
    own = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HAGD_TRACE_FILE": str(spans)}
    environment = {**os.environ, **own}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _await_start(head)
        yield f"127.0.0.1:{port}"
    finally:
        _disconnect()
        head.send_signal(signal.SIGTERM)
        head.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _await_start(head: "subprocess.Popen[str]") -> None:
    said: list[str] = []
    for line in head.stdout or []:
        said.append(line)
        if "Ray runtime started" in line:
            return
    pytest.fail(f"Ray did not start: {''.join(said)[-2000:]}")


def _disconnect() -> None:
    import ray  # noqa: PLC0415  # may not be installed

    ray.shutdown()


def ray_param(name: str) -> Any:
    """Give a parameter of tests that need Ray. One worker runs them all, so that one cluster is started."""
    return pytest.param(name, marks=[pytest.mark.ray, pytest.mark.servers, pytest.mark.xdist_group("ray")])
