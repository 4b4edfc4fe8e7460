"""Make a graph in a process of its own, for tests that look at its memory or kill it. Answers one line of JSON."""

import json
import os
import signal
import sys
from pathlib import Path

from hagd.artifacts.filesystem import FilesystemStore
from hagd.artifacts.store import put_document
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.estimate import Room, plan_graph
from hagd.attribution.targets import LogitChoice, likeliest
from hagd.execution.running import peak_rss_bytes, reset_peak_rss
from hagd.graphs.local_storage import local_graph_to_document
from hagd.pipeline.machine import resident_bytes
from unit.attribution.wide_prompts import wide_prompt

N_FEATURES = 433


def main(folder: Path, memory_bytes: int, nodes: int | None, heads: bool, killed: bool) -> None:
    frozen, text = wide_prompt(N_FEATURES), PromptText("", ())
    targets = likeliest(frozen, LogitChoice())
    # What is loaded by the first graph of a process is none of the next one's.
    build_local_graph(frozen, text, targets, LocalGraphConfig(most_features=97, heads=heads), silent)
    plan = plan_graph(frozen, len(targets), nodes, Room(memory_bytes, 1 << 40), heads=heads)
    told, held = plan.memory_bytes, resident_bytes()
    reset_peak_rss()

    def progress(_done: float, _total: float, message: str) -> None:
        if killed and "layer 3" in message:
            os.kill(os.getpid(), signal.SIGKILL)

    config = LocalGraphConfig(most_features=nodes, heads=heads)
    graph = build_local_graph(frozen, text, targets, config, progress, folder if plan.in_file else None)
    ref = put_document(FilesystemStore(folder / "store"), local_graph_to_document(graph))
    print(
        json.dumps(
            {
                "told": told,
                "taken": peak_rss_bytes() - held,
                "in_file": plan.in_file,
                "digest": ref.sha256,
                "bytes": graph.rows.nbytes,
            }
        )
    )


if __name__ == "__main__":
    nodes = int(sys.argv[3]) or None
    main(Path(sys.argv[1]), int(sys.argv[2]), nodes, "heads" in sys.argv[4:], "killed" in sys.argv[4:])
