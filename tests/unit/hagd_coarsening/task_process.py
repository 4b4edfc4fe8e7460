"""Make the graph of a task in a process of its own, for tests that look at its memory. Answers one line of JSON."""

import json
import sys
from dataclasses import replace

from hagd.execution.running import peak_rss_bytes, reset_peak_rss
from hagd.pipeline.machine import resident_bytes
from hagd_coarsening.domain.task_graph import GraphConfig, build_task_graph
from hagd_coarsening.domain.task_memory import task_graph_bytes
from unit.hagd_coarsening.tiny import tiny_subject, tiny_task


def main(n_prompts: int, steps: int) -> None:
    subject, task = tiny_subject("llama"), tiny_task(n_prompts)
    config = GraphConfig(prompts=2 * n_prompts, source_value="difference", steps=steps)
    # What is loaded by the first graph of a process is none of the next one's.
    build_task_graph(subject, task, replace(config, prompts=7))
    held = resident_bytes()
    reset_peak_rss()
    build_task_graph(subject, task, config)
    print(json.dumps({"told": task_graph_bytes(subject, task, config), "taken": peak_rss_bytes() - held}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
