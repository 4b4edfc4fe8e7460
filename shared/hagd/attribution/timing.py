"""How long the graph of a prompt takes here: some of the very rows that it will take, timed and multiplied out.

Which features a budget will choose is not known before, so as many are timed that are spread evenly over all that are
active.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from hagd.attribution.build import BUFFER_CELLS, MOST_TOGETHER, LocalGraphConfig, chunks
from hagd.attribution.build_heads import all_readers, pieces
from hagd.attribution.columns import Columns
from hagd.attribution.descent import Descent
from hagd.attribution.estimate import spread
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.head_nodes import HeadOutputs, OutputReaders, climb
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.row_table import RowTable
from hagd.attribution.targets import Targets

Seconds = Callable[[], float]


@dataclass(frozen=True)
class GraphTime:
    """Seconds by kind of work."""

    choosing: float
    edges: float


@torch.no_grad()
def time_graph(
    frozen: FrozenPrompt, targets: Targets, config: LocalGraphConfig, clock: Seconds = time.monotonic
) -> GraphTime:
    """Estimate the seconds of a graph.

    Args:
        frozen: the prompt.
        targets: what the graph ends at.
        config: what decides it.
        clock: seconds from any moment.
    """
    active = frozen.n_active
    features = active if config.most_features is None else min(active, config.most_features)
    keep = spread(frozen, features)
    columns = Columns.of(frozen, keep)
    choosing = 0.0
    if features < active:
        choosing = _time_descent(frozen, Columns.of(frozen), columns, targets, config, clock, sums=True)
    if not config.heads:
        return GraphTime(choosing, _time_descent(frozen, columns, columns, targets, config, clock, sums=False))
    return GraphTime(choosing, _time_climb(frozen, columns, keep, targets, clock))


def _time_descent(
    frozen: FrozenPrompt,
    columns: Columns,
    asked: Columns,
    targets: Targets,
    config: LocalGraphConfig,
    clock: Seconds,
    *,
    sums: bool,
) -> float:
    """Time rows over some columns, of the features that have columns among `asked`; with `sums` nothing else is kept
    of them."""
    began = clock()
    descent, quiet = Descent(frozen, columns, half=config.half), frozen.replay(nodes=False)
    seconds = clock() - began
    most = max(16, min(MOST_TOGETHER, BUFFER_CELLS // len(columns))) if sums else MOST_TOGETHER
    influence = torch.zeros(len(columns), dtype=torch.float64, device=frozen.embed.device)

    def take(some: Readers) -> None:
        # On pages of their own, as the rows of a graph are, and read back: that is some of the time.
        with RowTable(len(some), len(columns), frozen.embed, None).writing() as out:
            descent.run(some.vectors, some.positions, some.site, out)
            if sums:
                absolute = out.abs_()
                influence.add_(absolute.sum(1) @ absolute)
            else:
                out.sum()

    for layer in range(columns.n_layers + 1):
        began = clock()
        if layer == columns.n_layers:
            readers = read_targets(frozen, quiet, targets)
        elif len(asked.chosen[layer]):
            readers = read_features(frozen, quiet, layer, asked.chosen[layer])
        else:
            continue
        parts = [some for _, some in chunks(readers, descent.most_places, most)]
        seconds += clock() - began + _time_parts(parts, take, clock)
    return seconds


def _time_parts(parts: list[Readers], take: Callable[[Readers], None], clock: Seconds) -> float:
    """Time two of some chunks, one of them twice: the first one at a layer makes what all others use."""
    work = [len(some) * (int(some.positions[-1]) + 1) for some in parts]
    first, second = len(parts) // 4, 3 * len(parts) // 4

    def timed(number: int) -> float:
        began = clock()
        take(parts[number])
        return clock() - began

    made = timed(first)
    if len(parts) == 1:
        return made
    again, other = timed(first), timed(second)
    return max(0.0, made - again) + (again + other) * sum(work) / (work[first] + work[second])


def _time_climb(frozen: FrozenPrompt, columns: Columns, keep: list[Tensor], targets: Targets, clock: Seconds) -> float:
    """Time what goes up: once without rows of heads, once with those of one head in each layer."""
    began = clock()
    outputs, silent = HeadOutputs.of(frozen), frozen.replay(nodes=False, heads=False)
    asked = all_readers(frozen, columns, targets, outputs, silent)
    seconds = clock() - began
    shape = frozen.model.config
    n_sources = len(columns) + shape.n_layers * shape.n_heads * frozen.n_pos

    def put(place: slice, there: Int[Tensor, " source"], edges: Tensor) -> None:
        rows = RowTable(place.stop - place.start, n_sources, frozen.embed, None).edges
        rows[:, there.cpu()] = edges.cpu()
        rows.sum()

    def timed(columns: Columns, outputs: HeadOutputs | None, heads: list[tuple[slice, OutputReaders]]) -> float:
        began = clock()
        climb(frozen, columns, outputs, asked.points, heads, put)
        return clock() - began

    def all_heads(columns: Columns, outputs: HeadOutputs | None) -> float:
        none = timed(columns, outputs, [])
        one = timed(columns, outputs, [it for it in asked.outputs if it[1].head == 0])
        return none + max(0.0, one - none) * shape.n_heads

    seconds += all_heads(columns, outputs)
    left = list(pieces([~it for it in keep]))
    return seconds + (all_heads(Columns.of(frozen, left[0]), None) * len(left) if left else 0.0)
