"""Make the graph of a task in a process of its own, for tests that look at its memory. Answers one line of JSON."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from hagd.execution.running import peak_rss_bytes, reset_peak_rss
from hagd.pipeline.machine import resident_bytes
from hagd_coarsening.domain import task_graph
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph
from hagd_coarsening.domain.task_memory import task_graph_bytes
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task


def main(n_prompts: int, steps: int, folder: Path | None) -> None:
    subject, task = tiny_subject("llama"), tiny_task(n_prompts)
    if folder is not None:
        # As where models are not tiny: prompts are traced a few at a time.
        task_graph._TRACE_CELLS = 1 << 20
    config = GraphConfig(prompts=2 * n_prompts, source_value="difference", steps=steps)
    # What is loaded by the first graph of a process is none of the next one's.
    build_task_graph(subject, task, replace(config, prompts=7))
    held = resident_bytes()
    reset_peak_rss()
    build_task_graph(subject, task, config, folder=folder)
    told = task_graph_bytes(subject, task, config)
    found = {"told": told.in_memory if folder is None else told.with_files, "taken": peak_rss_bytes() - held}
    print(json.dumps(found | {"in_memory": told.in_memory}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
