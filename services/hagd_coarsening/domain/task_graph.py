"""The task attribution graph: nodes keyed by (kind, layer, role, index), edges averaged over D_discover.

An edge s -> t is the gradient of t's scalar at the residual stream where s writes, along direct residual paths
only and with attention patterns and norm denominators frozen, times the vector that s writes (`readers.py` lists
the scalars). The weight of an edge into a head is its OV part plus its QK part: the values that the head moves, and
to first order the queries and keys that decide where it looks, since a circuit without those is no explanation.

With several steps (integrated gradients) the gradient is averaged over the path on which what a target reads moves from
the counterfactual to the clean prompt, norms and attention live, and an edge is that times what the source's output
moves by; so the edges into a target add up to how far its scalar moves (`path.py`).

Targets are visited from the logit down. So the influence of a node, its share of the |weight| that flows into the
logit, is exact: it is summed over all edges before they are thinned. Nothing is attributed to nodes without
influence (in the last layer, all that is not at an answer position): they stay nodes, without incoming edges.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.errors import InvalidInputError, NonFiniteError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.interventions.activations import Subject
from hagd.models.language_model import LanguageModel, Norm
from hagd.tasks.donors import draw_donors
from hagd.tasks.task import PromptBatch, Task
from hagd_coarsening.domain.edge_rows import EdgeList, EdgeRows, Site
from hagd_coarsening.domain.node_table import NodeTable, build_table, mlp_reads_before
from hagd_coarsening.domain.path import PathPoint, path_of
from hagd_coarsening.domain.readers import HeadReads, live, read_block, read_features, read_logit, read_skip
from hagd_coarsening.domain.sources import Sources, SourceValue, sources_of
from hagd_coarsening.domain.spilling import Spill
from hagd_coarsening.domain.statistics import NodeStatistics
from hagd_coarsening.domain.trace import DonorPrompts, Trace, trace_prompts

Resolution = Literal["feature", "mixed"]
Progress = Callable[[float, float, str], None]

LARGE_WEIGHTS = 10_000_000
"""Models with more weights than this in their blocks are large: fewer prompts, and blocks instead of features."""
_ROW_CELLS = 1 << 25
"""Targets are split so that one block of rows has at most this many cells."""
_TRACE_CELLS = 1 << 27
"""Prompts are split so that no tensor of one trace has more cells than this."""


def silent(_done: float, _total: float, _message: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class GraphConfig:
    """What decides the graph of a given model, task and dictionaries."""

    resolution: Resolution = "feature"
    """`feature`: layers with a dictionary are resolved into features; `mixed`: every MLP is one block."""
    prompts: int | None = None
    """Most prompts of D_discover to use; None chooses 512, or 32 for a large model."""
    edges_per_node: int = 64
    """Strongest incoming edges kept per node, by mean |weight|; the logit keeps all."""
    edge_threshold: float = 1e-4
    """Edges below this share of the strongest one into the same node are left out."""
    source_value: SourceValue = "activation"
    """What an edge multiplies the gradient with: the clean output, or clean minus counterfactual."""
    steps: int = 1
    """Points at which gradients are taken between counterfactual and clean; 1 takes them at the clean prompt."""
    seed: int = 0


@dataclass(frozen=True)
class _Run:
    """A trace with its source vectors, and which role stands where."""

    path: tuple[PathPoint, ...]
    sources: Sources
    positions: tuple[int, ...]
    """Role index of each position."""


@dataclass(frozen=True)
class _Runs:
    """All of them, gone through one after the other."""

    runs: tuple[_Run, ...]
    spill: Spill

    def __iter__(self) -> Iterator[_Run]:
        for run in self.runs:
            yield run
            self.spill.let_go()


def build_task_graph(
    subject: Subject, task: Task, config: GraphConfig, progress: Progress = silent, folder: Path | None = None
) -> AttributionGraph:
    """Build the graph of a task over D_discover.

    Args:
        subject: model and dictionaries.
        task: its prompts.
        config: what decides the graph.
        progress: told of what is done.
        folder: where traces go into files, which go with the graph; None for memory. The graph is the same.

    Raises:
        OSError: the folder has no room for the traces.
        InvalidInputError: the split is empty, or gradients are to be integrated over whole activations.
        NonFiniteError: a weight or a score is NaN or infinite.
    """
    if config.steps > 1 and config.source_value != "difference":
        raise InvalidInputError(
            "integrated gradients go from the counterfactual to the clean prompt", "set source_value to 'difference'"
        )
    if config.resolution == "mixed":
        subject = Subject(subject.model)
    chosen = choose_prompts(subject, task, config)
    n_prompts = sum(map(len, chosen))
    n_layers = subject.model.config.n_layers
    steps = 2.0 * n_layers + 2
    progress(0.0, steps, f"tracing {n_prompts} prompts")
    spill = Spill(folder)
    traces: list[Trace] = [
        spill.keep(trace_prompts(subject, part))
        for prompts in chosen
        for part in prompts.chunks(traced_together(subject, prompts.batch.clean.shape[1]))
    ]
    number = {role: i for i, role in enumerate(task.roles)}
    table = build_table(
        task.roles,
        traces[0].layout.roles[max(traces[0].layout.answer_positions)],
        n_layers=n_layers,
        n_heads=subject.model.config.n_heads,
        live=_live(subject, task.roles, traces, both_ends=config.steps > 1),
        skips=frozenset(layer for layer, dictionary in subject.dictionaries.items() if dictionary.w_skip is not None),
    )
    statistics = NodeStatistics(subject, table)
    runs: list[_Run] = []
    for trace in traces:
        clean = sources_of(subject, table, trace.clean)
        counterfactual = sources_of(subject, table, trace.counterfactual)
        positions = tuple(number[role] for role in trace.layout.roles)
        statistics.add(trace, positions, clean)
        values = clean.minus(counterfactual) if config.source_value == "difference" else clean
        runs.append(spill.keep(_Run(path_of(subject, trace, config.steps), values, positions)))
        spill.let_go()
    every = _Runs(tuple(runs), spill)
    edges, influence = _all_edges(subject, table, every, n_prompts=n_prompts, config=config, progress=progress)
    found = statistics.finish(n_prompts) | {"influence": influence}
    for name, value in [*found.items(), ("weight", edges.weight), ("weight_abs", edges.weight_abs)]:
        if not np.isfinite(value).all():
            raise NonFiniteError(f"{name} of the attribution graph holds NaN or infinity", "check the model's weights")
    return AttributionGraph(
        nodes=table.nodes,
        roles=task.roles,
        n_layers=n_layers,
        source=edges.source,
        target=edges.target,
        weight=edges.weight,
        weight_abs=edges.weight_abs,
        statistics=found,
        n_prompts=n_prompts,
    )


def is_large(model: LanguageModel) -> bool:
    """Tell whether a model is large; the search makes the same distinction."""
    shape = model.config
    return shape.n_layers * shape.d_model * (3 * shape.d_mlp + 4 * shape.d_model) > LARGE_WEIGHTS


def most_prompts(subject: Subject, config: GraphConfig) -> int:
    """Give how many prompts to use at most."""
    if config.prompts is not None:
        return config.prompts
    return 32 if is_large(subject.model) else 512


def count_prompts(batches: Sequence[PromptBatch], most: int) -> list[int]:
    """Give how many prompts to take of every layout, in proportion, one at least."""
    total = max(1, sum(map(len, batches)))
    return [min(len(batch), max(1, round(most * len(batch) / total))) for batch in batches]


def choose_prompts(subject: Subject, task: Task, config: GraphConfig) -> list[DonorPrompts]:
    """Take prompts of D_discover, from every layout in proportion, with their unpaired donors."""
    batches = task.batches.get("discover", ())
    if sum(map(len, batches)) == 0:
        raise InvalidInputError(f"task {task.name!r} has no prompts to discover on", "give more prompts")
    chosen: list[DonorPrompts] = []
    for batch, wanted in zip(batches, count_prompts(batches, most_prompts(subject, config)), strict=True):
        donors = draw_donors(batch, 0, config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        index = torch.randperm(len(batch), generator=generator)[:wanted].sort().values
        chosen.append(DonorPrompts(batch.take(index), batch.clean[donors[index]]))
    return chosen


def traced_together(subject: Subject, n_pos: int) -> int:
    """Give how many prompts of a length are traced at once, at most."""
    shape = subject.model.config
    slots = 1 + shape.n_layers * (shape.n_heads + 2)
    widest = max([slots, *(dictionary.n_features for dictionary in subject.dictionaries.values())])
    features = sum(dictionary.n_features for dictionary in subject.dictionaries.values())
    cells = max(n_pos * slots * shape.d_model, n_pos * features, n_pos * shape.n_heads * widest * 4)
    return max(1, _TRACE_CELLS // cells)


def _live(
    subject: Subject, roles: tuple[str, ...], traces: Sequence[Trace], *, both_ends: bool
) -> dict[int, Bool[np.ndarray, "role d_feature"]]:
    """Find the features that are active on any prompt, by role; with both ends of paths, on counterfactuals too."""
    live: dict[int, Bool[np.ndarray, "role d_feature"]] = {}
    for layer, dictionary in sorted(subject.dictionaries.items()):
        alive = np.zeros((len(roles), dictionary.n_features), dtype=bool)
        for trace in traces:
            ends = [trace.clean, trace.counterfactual] if both_ends else [trace.clean]
            seen = torch.stack([(run.features[layer] != 0).any(0) for run in ends]).any(0).cpu().numpy()
            for pos, role in enumerate(trace.layout.roles):
                alive[roles.index(role)] |= seen[pos]
        live[layer] = alive
    return live


def _all_edges(
    subject: Subject,
    table: NodeTable,
    runs: _Runs,
    *,
    n_prompts: int,
    config: GraphConfig,
    progress: Progress,
) -> tuple[EdgeList, Float[np.ndarray, " node"]]:
    """Visit all targets from the logit down; give the kept edges by (target, source), and every node's influence."""
    influence = np.zeros(len(table.nodes))
    influence[table.logit] = 1.0
    steps = 2.0 * table.n_layers + 2
    kept: list[EdgeList] = []

    def take(rows: EdgeRows, per_target: int | None) -> None:
        through = influence[rows.targets] @ rows.shares().cpu().double().numpy()
        influence[rows.columns] += through
        edges = rows.strongest(n_prompts, per_target, config.edge_threshold)
        kept.append(_select(edges, influence[edges.target] > 0))

    take(_logit_rows(subject, table, runs), None)
    for layer in reversed(range(table.n_layers)):
        progress(steps - 2.0 * layer - 2, steps, f"attributing layer {layer}")
        for rows in _mlp_rows(subject, table, runs, layer, influence):
            take(rows, config.edges_per_node)
        take(_head_rows(subject, table, runs, layer), config.edges_per_node)
    merged = EdgeList(
        *(
            np.concatenate([getattr(part, name) for part in kept])
            for name in ("source", "target", "weight", "weight_abs")
        )
    )
    return _select(merged, np.lexsort((merged.source, merged.target))), influence


def _select(edges: EdgeList, which: Bool[np.ndarray, " edge"] | Int[np.ndarray, " kept"]) -> EdgeList:
    return EdgeList(edges.source[which], edges.target[which], edges.weight[which], edges.weight_abs[which])


def _logit_rows(subject: Subject, table: NodeTable, runs: _Runs) -> EdgeRows:
    rows = EdgeRows(subject, table, 2 * table.n_layers + 1, np.array([table.logit]), np.arange(table.logit))
    for run in runs:
        found = [(read_logit(subject.model, point.trace), point.weight) for point in run.path]
        for pos in found[0][0]:
            reads = _weighted((reads[pos], weight) for reads, weight in found)
            rows.add(np.array([0]), reads, run.sources, Site(pos, run.positions[pos]))
    return rows


def _head_rows(subject: Subject, table: NodeTable, runs: _Runs, layer: int) -> EdgeRows:
    stage = 2 * layer + 1
    targets = table.nodes_of_slots("head", layer)
    place = np.arange(targets.size).reshape(targets.shape)
    rows = EdgeRows(subject, table, stage, targets.flatten(), np.arange(table.nodes_before(stage)))
    for run in runs:
        found = [(HeadReads(subject.model, point.trace, layer), point.weight) for point in run.path]
        for pos, role in enumerate(run.positions):
            queries = place[list(run.positions[pos:])].flatten()
            reads = _weighted((heads.at(pos).flatten(1, 2), weight) for heads, weight in found)
            rows.add(queries, reads, run.sources, Site(pos, role))
    return rows


def _mlp_rows(
    subject: Subject, table: NodeTable, runs: _Runs, layer: int, influence: Float[np.ndarray, " node"]
) -> Iterator[EdgeRows]:
    """Give the rows of the MLP of one layer: its blocks and skip paths by role, then its features in pieces."""
    stage = mlp_reads_before(layer, subject.model.config)
    before = np.arange(table.nodes_before(stage))
    dictionary = subject.dictionaries.get(layer)
    kinds = (["skip"] if dictionary.w_skip is not None else []) if dictionary is not None else ["mlp"]
    for kind in kinds:
        targets = table.nodes_of_slots("skip" if kind == "skip" else "mlp", layer)[:, 0]
        rows = EdgeRows(subject, table, stage, targets, before)
        for run in runs:
            w_skip = None if dictionary is None else dictionary.w_skip
            reads = _weighted(
                (
                    read_block(subject.model, point.trace, layer)
                    if w_skip is None
                    else read_skip(subject.model, point.trace, layer, w_skip),
                    point.weight,
                )
                for point in run.path
            )
            for pos, role in enumerate(run.positions):
                rows.add(np.array([role]), reads[:, pos, None], run.sources, Site(pos, role))
        yield rows
    if dictionary is None:
        return
    features = [[(read_features(subject.model, point.trace, dictionary), point) for point in run.path] for run in runs]
    norm = subject.model.blocks[layer].norm_mlp
    widest = max(len(run.path[0].trace) for run in runs.runs) if len(runs.runs[0].path) > 1 else 1
    for role in range(len(table.roles)):
        live, nodes = table.live_features(layer, role)
        wanted = influence[nodes] > 0
        columns = before[table.role_of_node[before] == role]
        pieces = max(1, -(-int(wanted.sum()) * len(columns) * widest // _ROW_CELLS))
        for part in np.array_split(np.flatnonzero(wanted), pieces):
            rows = EdgeRows(subject, table, stage, nodes[part], columns)
            at = torch.from_numpy(live[part]).to(subject.model.device)
            for run, reads in zip(runs, features, strict=True):
                for pos in [p for p, here in enumerate(run.positions) if here == role]:
                    if len(reads) == 1:
                        rows.add_features(at, reads[0][0], run.sources, Site(pos, role))
                        continue
                    # Where denominators move, read vectors do not factor any more.
                    moved = _weighted(
                        (_live_features(norm, found.at(pos, at), point.trace, layer, pos), point.weight)
                        for found, point in reads
                    )
                    rows.add(np.arange(len(part)), moved, run.sources, Site(pos, role))
            yield rows


def _live_features(
    norm: Norm, reads: Float[Tensor, "batch target d_model"], trace: Trace, layer: int, pos: int
) -> Float[Tensor, "batch target d_model"]:
    if trace.stream is None:
        return reads
    return live(norm, reads, trace.stream.before_mlp[layer][:, pos, None], trace.mlp_scale[layer][:, pos, None])


def _weighted(parts: Iterable[tuple[Float[Tensor, "*shape"], float]]) -> Float[Tensor, "*shape"]:
    """Give the weighted sum of the parts; of one part, that."""
    (first, weight), *others = parts
    total = first if weight == 1.0 else weight * first
    for part, weight in others:
        total = total + weight * part
    return total
