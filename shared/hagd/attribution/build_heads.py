"""All rows of a graph whose heads are nodes: features, heads, targets, and what features without a column hand on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hagd.attribution.columns import Columns
from hagd.attribution.frozen import FrozenPrompt, Stream
from hagd.attribution.head_nodes import HeadOutputs, OutputReaders, biases_of_outputs, climb
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.row_table import RowTable
from hagd.attribution.targets import Targets

SOURCES_TOGETHER: Final = 1 << 14
"""Features without a column that go up together, at most."""


@dataclass(frozen=True)
class HeadRows:
    """Edges and what belongs to them, as `LocalGraph` names them."""

    heads: Int[np.ndarray, "head_node 3"]
    table: RowTable
    scalars: Float[Tensor, " row"]
    biases: Float[Tensor, " row"]
    left_out_abs: Float[Tensor, " row"]


@dataclass
class RowReaders:
    """What every row reads, by place."""

    points: list[tuple[slice, Readers]]
    outputs: list[tuple[slice, OutputReaders]]


@torch.no_grad()
def take_rows(
    frozen: FrozenPrompt,
    columns: Columns,
    targets: Targets,
    left: Sequence[Bool[Tensor, " _"]] | None,
    progress: Callable[[float, float, str], None],
    folder: Path | None,
) -> HeadRows:
    """Take all rows.

    Args:
        frozen: the prompt.
        columns: the sources, without heads.
        targets: what the graph ends at.
        left: by layer, which active features have no column; None where all have one.
        progress: told of what is done.
        folder: where rows go into a file; None for memory.
    """
    outputs, silent = HeadOutputs.of(frozen), frozen.replay(nodes=False, heads=False)
    asked = all_readers(frozen, columns, targets, outputs, silent)
    n_heads, size = frozen.model.config.n_heads, columns.n_pos
    n_nodes = columns.n_layers * n_heads * size
    n_rows = columns.n_features + n_nodes + len(targets)
    table = RowTable(n_rows, len(columns) + n_nodes, frozen.embed, folder)
    scalars, biases, left_out_abs = (frozen.embed.new_zeros(n_rows) for _ in range(3))
    for place, it in asked.points:
        scalars[place], biases[place] = it.scalars, it.biases
    for place, it in asked.outputs:
        scalars[place] = (it.directions * outputs.inner[it.layer][it.head]).sum(1)
        biases[place] = biases_of_outputs(frozen, silent, it)

    def put(place: slice, there: Int[Tensor, " source"], edges: Float[Tensor, "row source"]) -> None:
        table.edges[place, there.cpu()] = edges.cpu()
        table.let_go()

    def put_left(place: slice, there: Int[Tensor, " source"], edges: Float[Tensor, "row source"]) -> None:
        del there
        left_out_abs[place] += edges.abs().sum(1)

    others = [] if left is None else list(pieces(left))
    progress(0, 1 + len(others), f"edges of {n_rows} nodes, {n_nodes} of them heads")
    climb(frozen, columns, outputs, asked.points, asked.outputs, put)
    for done, keep in enumerate(others):
        progress(1 + done, 1 + len(others), "edges of features without a node")
        climb(frozen, Columns.of(frozen, keep), None, asked.points, asked.outputs, put_left)
    heads = np.stack(np.unravel_index(np.arange(n_nodes), (columns.n_layers, n_heads, size)), axis=1)
    return HeadRows(heads.astype(np.int64), table, scalars, biases, left_out_abs)


def all_readers(
    frozen: FrozenPrompt, columns: Columns, targets: Targets, outputs: HeadOutputs, silent: Stream
) -> RowReaders:
    """Give what features, heads and targets read, in the order of the rows."""
    points = [
        (columns.of_layer(layer), read_features(frozen, silent, layer, chosen))
        for layer, chosen in enumerate(columns.chosen)
        if len(chosen)
    ]
    heads: list[tuple[slice, OutputReaders]] = []
    at = columns.n_features
    for layer in range(columns.n_layers):
        for head in range(frozen.model.config.n_heads):
            heads.append((slice(at, at + columns.n_pos), outputs.along_output(frozen, layer, head)))
            at += columns.n_pos
    points.append((slice(at, at + len(targets)), read_targets(frozen, silent, targets)))
    return RowReaders(points, heads)


def pieces(left: Sequence[Bool[Tensor, " _"]]) -> Iterator[list[Bool[Tensor, " _"]]]:
    """Split features into those that go up together."""
    sizes, number = [len(it) for it in left], torch.cat(list(left)).nonzero()[:, 0]
    for part in number.split(SOURCES_TOGETHER):
        marks = torch.zeros(sum(sizes), dtype=torch.bool, device=number.device)
        marks[part] = True
        yield list(marks.split(sizes))
