"""What the same work gives when nothing fails: every plan once, in the embedded runtime, before the servers start."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.soak.workload import Asked
from hagd.execution.process import ProcessExecutor
from hagd.pipeline.embedded import EmbeddedRuntime

RUNTIMES = 2
"""Runtimes side by side, each with a folder and a worker of its own."""


@dataclass(frozen=True)
class Undisturbed:
    """The result of a plan."""

    status: str
    """The outcome."""
    outputs: dict[str, str]
    """`{role: sha256}` over all stages."""


def run_undisturbed(asked: Iterable[Asked], folder: Path, environment: Mapping[str, str]) -> dict[str, Undisturbed]:
    """Give the result of every content that is asked for; `environment` lets workers find the stages."""
    first = list({it.content: it for it in reversed(list(asked))}.values())
    first.sort(key=lambda it: (it.is_real, it.content))
    shares = [first[number::RUNTIMES] for number in range(RUNTIMES)]
    roots = [folder / f"runtime-{number}" for number in range(RUNTIMES)]
    stop = threading.Event()
    with ThreadPoolExecutor(RUNTIMES) as pool:
        running = [
            pool.submit(_run, *it, folder / "store", environment, stop) for it in zip(shares, roots, strict=True)
        ]
        try:
            parts = [it.result() for it in running]
        except BaseException:
            # Also KeyboardInterrupt: the pool waits for what is at work.
            stop.set()
            raise
    return {content: result for part in parts for content, result in part.items()}


def _run(
    asked: Sequence[Asked], root: Path, store: Path, environment: Mapping[str, str], stop: threading.Event
) -> dict[str, Undisturbed]:
    found: dict[str, Undisturbed] = {}
    executor = ProcessExecutor(threads=1, environment=environment)
    with EmbeddedRuntime(root, store=store, executor=executor) as runtime:
        for it in asked:
            if stop.is_set():
                break
            state = runtime.run(replace(it.request, request_id=it.content))
            state.raise_for_failure()
            outputs = {role: ref.sha256 for role, ref in state.outputs.items()}
            found[it.content] = Undisturbed(state.outcome.status if state.outcome else "", outputs)
    return found
