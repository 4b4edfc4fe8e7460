"""The model card of the membership network, written from what its checkpoint says of itself.

Training writes it beside the checkpoint, and a test compares the two; so no figure stands in the card that was not
measured with that checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hagd.artifacts.document import Document
from hagd_traversal.membership.features import EDGE_FEATURES, NODE_FEATURES
from hagd_traversal.membership.labels import KEPT
from hagd_traversal.membership.network import CHECKPOINT, MembershipNetwork

CARD = CHECKPOINT.with_name("MODEL_CARD.md")
_RIVALS = ("network", "influence", "logistic", "boosting")

_HEAD = """# Model card: the membership network

A bidirectional graph attention network (GATv2, two rounds in each direction, {parameters} parameters) that says of
every node of an attribution graph, and of every group of its hierarchy, how likely it belongs to the circuit. It sees
{node_features} scale-free features of a node and {edge_features} of an edge (`features.py`), so that one network serves
graphs of any size, model and task. The file is safetensors with a JSON description inside; licence Apache-2.0.

## What it is for

It orders the search. A node's predicted cost of removal is scaled by its score, down to a quarter and no further, and
every removal is decided by a causal test in the real model. A wrong score therefore costs evaluations or leaves a
larger circuit; it never supports a claim, and nothing in a verdict uses it. `--set traversal.guide=influence` searches
without it. On large models it only orders the start: learned gates then take its place.

## What it learns

Members are the fewest nodes that together carry 95 % of the positive effect, every kind of node counting equally. In a
trained model the effect of a node is what its absence adds to the KL divergence (nats) over random circuits, in which
each feature is with a probability between {low} and {high}; it counts where it is positive by two standard errors
(`labels.py`). In planted graphs, which are random and layered, the members are known (`synthetic.py`).
"""

_LIMITS = """## Limits

- The models whose nodes it can learn from train in seconds, so they are small and shallow; depth comes from planted
  graphs.
- Labels depend on the intervention that made them: means over prompts, not the donors by which circuits are judged.
- A score is a probability only as far as the calibration of the checkpoint was measured.

## Train it anew

```console
$ make train-membership
```

runs `{command}`, which trains the small models of `subjects.py`, holds out one task at
a time and then a third of the models at a time, compares the network with influence and with models without a graph,
calibrates it, and writes the checkpoint and this card. It runs on one thread; the same seed gives the same weights on
the same machine. A new checkpoint changes what a search finds, so it bumps the `semantics_version` of the traversal.
"""


def render_card(described: Mapping[str, Any], command: str) -> str:
    """Give the card as Markdown.

    Args:
        described: what `training.train` says of the checkpoint.
        command: what trains a new checkpoint.
    """
    head = _HEAD.format(
        parameters=sum(value.numel() for value in MembershipNetwork().parameters()),
        node_features=len(NODE_FEATURES),
        edge_features=len(EDGE_FEATURES),
        low=KEPT[0],
        high=KEPT[1],
    )
    parts = [head, _examples(described), _comparison(described, described["metrics"]), _LIMITS.format(command=command)]
    return "\n".join(parts)


def write_card(described: Mapping[str, Any], command: str, checkpoint: Path) -> Path:
    """Write the card beside a checkpoint; give its path. Raises OSError."""
    path = checkpoint.with_name(CARD.name)
    path.write_text(render_card(described, command), encoding="utf-8")
    return path


def describe_checkpoint(path: Path = CHECKPOINT) -> Mapping[str, Any]:
    """Read what a checkpoint says of itself. Raises CorruptArtifactError."""
    return Document.decode(path.read_bytes()).content


def _examples(described: Mapping[str, Any]) -> str:
    examples: Sequence[Mapping[str, Any]] = described["examples"]
    lines = ["## What this checkpoint was trained on", "", "| task | models | graphs | nodes judged | members |"]
    lines.append("|---|---|---|---|---|")
    for task in sorted({str(example["task"]) for example in examples}):
        own = [example for example in examples if example["task"] == task]
        models = len({example["model"] for example in own})
        judged, members = (sum(int(example[name]) for example in own) for name in ("judged", "members"))
        lines.append(f"| {task} | {models} | {len(own)} | {judged} | {members} |")
    fitting = described["fitting"]
    lines += [
        "",
        f"and {described['n_planted']} planted graphs. Cross-entropy over all levels, {fitting['steps']} steps of "
        f"{fitting['together']} graphs, seed {described['seed']}.",
        "",
    ]
    return "\n".join(lines)


def _comparison(described: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    seeds = ", ".join(str(seed) for seed in described["comparison_seeds"])
    lines = [
        "## Measured",
        "",
        "AUROC of members among the judged nodes of graphs that were held out, each graph counted once; ± is the",
        f"spread over the seeds {seeds} where several networks were fitted. Influence is the rank of the mean",
        "|attribution|; the others see the same features of a node and no graph.",
        "",
        f"| held out | graphs | {' | '.join(_RIVALS)} |",
        "|---|---|" + "---|" * len(_RIVALS),
    ]
    rows = {f"task {name}": result for name, result in metrics["leave_one_task_out"].items()}
    rows |= {f"models, {name}": result for name, result in metrics["leave_one_model_out"].items()}
    rows |= {"planted graphs": metrics["unseen_planted"]}
    lines += [_row(name, result) for name, result in rows.items()]
    errors = ", ".join(f"{error:.3f}" for error in metrics["calibration_error_by_level"])
    lines += ["", f"Expected calibration error by level, finest first, on models held out: {errors}.", ""]
    return "\n".join(lines)


def _row(name: str, result: Mapping[str, Any]) -> str:
    cells = [_cell(result[rival]["all"]) if "all" in result[rival] else "-" for rival in _RIVALS]
    n_graphs = result["network"].get("all", {}).get("n_examples", 0)
    return f"| {name} | {n_graphs} | {' | '.join(cells)} |"


def _cell(found: Mapping[str, float]) -> str:
    spread = f" ± {found['auroc_spread']:.3f}" if found["auroc_spread"] else ""
    return f"{found['auroc']:.3f}{spread}"
