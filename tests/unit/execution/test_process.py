"""The process executor beside its contract: last words, recycled workers, and workers that end with their driver."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hagd.artifacts.document import Document
from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import get_document, put_document
from hagd.errors import WorkerDiedError
from hagd.execution.executor import Task
from hagd.execution.process import ProcessExecutor


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(tmp_path / "store")


def total_task(store: FilesystemStore, run: str) -> Task:
    ref = put_document(store, Document({}, {"numbers": np.float64([1.5, 2.0, 3.0])}))
    return Task("total", "cd" * 32, 1, run, {}, {"numbers": ref}, ("total",))


def never() -> bool:
    return False


def ignore(done: float, total: float, message: str) -> None:
    pass


def test_a_worker_that_ends_by_itself_tells_its_last_words(store: FilesystemStore, tmp_path: Path) -> None:
    (tmp_path / "quitter.py").write_text(
        "import os, sys\ndef run(i, c, x):\n    print('out of luck', file=sys.stderr, flush=True)\n    os._exit(3)\n"
    )
    executor = ProcessExecutor(threads=1, environment={"PYTHONPATH": str(tmp_path)})
    with pytest.raises(WorkerDiedError, match="ended with exit status 3: out of luck"):
        executor.execute(total_task(store, "quitter:run"), store, ignore, never)
    executor.close()


def test_a_worker_is_warm_until_its_tasks_are_used_up_and_what_it_prints_does_no_harm(
    store: FilesystemStore, tmp_path: Path
) -> None:
    (tmp_path / "teller.py").write_text(
        "import os\nfrom hagd.artifacts.document import Document\n"
        "def run(i, c, x):\n    print('chatter', flush=True)\n    os.system('echo more chatter')\n"
        "    return {'total': Document({'pid': os.getpid(), 'threads': os.environ['OMP_NUM_THREADS']})}\n"
    )
    log = tmp_path / "worker.log"
    executor = ProcessExecutor(threads=3, max_tasks=2, log_path=log, environment={"PYTHONPATH": str(tmp_path)})
    told: list[Any] = []
    for _ in range(3):
        result = executor.execute(total_task(store, "teller:run"), store, ignore, never)
        told.append(get_document(store, result.outputs["total"]).content)
    executor.close()
    assert told[0]["pid"] == told[1]["pid"] != told[2]["pid"]
    assert told[0]["threads"] == "3"
    assert log.read_text().count("chatter") == 6


def test_a_worker_ends_with_its_driver(store: FilesystemStore, tmp_path: Path) -> None:
    driver = f"""
import sys
from pathlib import Path
from hagd.artifacts.filesystem import FilesystemStore
from hagd.execution.executor import Task
from hagd.execution.process import ProcessExecutor
task = Task("t", "ab" * 32, 1, "sleeper:run", {{}}, {{}}, ())
executor = ProcessExecutor(threads=1, environment={{"PYTHONPATH": {str(tmp_path)!r}}})
store = FilesystemStore(Path({str(tmp_path / "store")!r}))
executor.execute(task, store, lambda *_: print("up", flush=True), lambda: False)
"""
    (tmp_path / "sleeper.py").write_text(
        "import os, time\ndef run(i, c, x):\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "    x.progress(1, 1, '')\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
    worker = int((tmp_path / "pid").read_text())
    ended = threading.Event()
    for _ in range(100):
        status = Path(f"/proc/{worker}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            ended.set()
            break
        time.sleep(0.05)
    assert ended.is_set()


def test_the_driver_never_imports_torch() -> None:
    modules = "hagd.pipeline.embedded, hagd.pipeline.loop, hagd.execution.process, hagd.testing"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
