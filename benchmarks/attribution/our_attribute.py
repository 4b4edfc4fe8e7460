"""Build graphs from the files of a subject, in a process of its own like the rival. Answers one line of JSON."""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.attribution.stored import load_subject
from hagd.attribution.build import LocalGraphConfig, PromptText, build_local_graph, silent
from hagd.attribution.frozen import freeze
from hagd.attribution.replacement import Replacement
from hagd.attribution.targets import LogitChoice, likeliest
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.local_influence import missed_influence, prune


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--prune", action="store_true")
    parser.add_argument("--prune-theirs", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    subject = load_subject(asked.folder)
    replacement = Replacement(subject.dictionaries, subject.model)

    def attribute() -> LocalGraph:
        frozen = freeze(subject.model, replacement, subject.tokens, plain=1)
        config = LocalGraphConfig(most_features=asked.nodes, half=asked.half)
        return build_local_graph(frozen, PromptText("", ()), likeliest(frozen, LogitChoice()), config, silent)

    graph, seconds = attribute(), list[float]()
    # Of one graph: later ones are made while the one before is still there.
    memory = peak_bytes()
    for _ in range(asked.repeats):
        begun = time.perf_counter()
        graph = attribute()
        seconds.append(time.perf_counter() - begun)
    answer = {"seconds": min(seconds), "memory_bytes": memory, "features": graph.n_features}
    found = {
        "rows": torch.from_numpy(graph.rows),
        "features": torch.from_numpy(graph.features),
        "row_nodes": torch.from_numpy(graph.rows_of_nodes()),
        "logits": torch.tensor([target.token for target in graph.targets]),
    }
    if asked.nodes is not None:
        answer["missed_influence"] = missed_influence(graph)
    if asked.prune_theirs:
        edges = load_file(asked.folder / "rival.safetensors")["adjacency"]
        graph.rows[:] = edges[found["row_nodes"]][:, : graph.rows.shape[1]].numpy()
    if asked.prune or asked.prune_theirs:
        # The rival drops what MLPs write at the first position.
        for layer in range(graph.n_layers):
            graph.rows[:, graph.n_features + layer * graph.n_pos] = 0
        begun = time.perf_counter()
        pruned = prune(graph)
        answer["prune_seconds"] = time.perf_counter() - begun
        found |= {"nodes": torch.from_numpy(pruned.nodes), "edges": torch.from_numpy(pruned.edges)}
    save_file(found, asked.folder / "ours.safetensors")
    print(json.dumps(answer))


def peak_bytes() -> int:
    """Give the largest memory of this process since its program began; `getrusage` would count its parent's, too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
