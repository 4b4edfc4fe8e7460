"""A Ray cluster of one node on loopback, ended by its id."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from servers.process import free_ports


@contextmanager
def running_ray(environment: Mapping[str, str]) -> Generator[str]:
    """Give `host:port` of a cluster with two processors, whose workers start with these variables.

    Raises:
        RuntimeError: it did not start; the message holds what it said.
    """
    (port,) = free_ports(1)
    # Short, because the paths of its sockets start with it and have a limit.
    folder = tempfile.mkdtemp(prefix="ray-")
    size = ["--num-cpus=2", "--object-store-memory=80000000", "--include-dashboard=false"]
    where = [f"--port={port}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}"]
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", *size, *where],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said: list[str] = []
        for line in head.stdout or []:
            said.append(line)
            if "Ray runtime started" in line:
                break
        else:
            raise RuntimeError(f"Ray did not start: {''.join(said)[-2000:]}")
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.communicate()
        shutil.rmtree(folder, ignore_errors=True)
