"""Several executors behind one port: tasks side by side, never two in one executor, and a wait that can be stopped."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from hagd.errors import CancelledError, StageError
from hagd.execution.executor import Task, TaskResult
from hagd.execution.pooled import PooledExecutor
from hagd.testing import MemoryStore

TASK = Task("toy", "ab" * 32, 1, "nobody:calls", {}, {}, ())


@dataclass
class Gate:
    """An executor whose task ends when it is let go."""

    opened: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    inside: int = 0
    most: int = 0
    closed: bool = False
    error: Exception | None = None

    def execute(self, *_: object) -> TaskResult:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        self.opened.wait(30)
        self.inside -= 1
        if self.error is not None:
            raise self.error
        return TaskResult({}, {}, 0.0, 0, False)

    def close(self) -> None:
        self.closed = True


def run(pool: PooledExecutor, stop: bool = False) -> TaskResult:
    return pool.execute(TASK, MemoryStore(), lambda *_: None, lambda: stop)


def test_tasks_run_side_by_side_and_never_two_in_one_executor() -> None:
    gates = [Gate(), Gate()]
    pool = PooledExecutor(gates)
    with ThreadPoolExecutor(5) as threads:
        results = [threads.submit(run, pool) for _ in range(5)]
        assert all(gate.entered.acquire(timeout=30) for gate in gates)
        for gate in gates:
            gate.opened.set()
        assert [result.result(30) for result in results] == [TaskResult({}, {}, 0.0, 0, False)] * 5
    assert [gate.most for gate in gates] == [1, 1]


def test_the_executor_used_last_comes_first_and_a_failure_gives_its_place_back() -> None:
    gates = [Gate(error=StageError("no")), Gate()]
    gates[0].opened.set()
    pool = PooledExecutor(gates)
    for _ in range(3):
        with pytest.raises(StageError):
            run(pool)
    assert not gates[1].entered.acquire(blocking=False)


def test_a_task_that_waits_for_its_place_can_be_stopped() -> None:
    gate = Gate()
    pool = PooledExecutor([gate])
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(run, pool)
        assert gate.entered.acquire(timeout=30)
        with pytest.raises(CancelledError, match="before it began"):
            run(pool, stop=True)
        gate.opened.set()
        first.result(30)


def test_closing_closes_all() -> None:
    gates = [Gate(), Gate()]
    PooledExecutor(gates).close()
    assert [gate.closed for gate in gates] == [True, True]
