"""What a local graph takes, told before it is begun, so that nobody learns it from a killed process.

What is alive at once is counted in cells, step by step. Which features a budget will choose is not known before, so
as many are counted that are spread evenly over all that are active.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hagd.artifacts.mapped import PAGE_BYTES
from hagd.attribution.bands import bands_of, filled
from hagd.attribution.build import BUFFER_CELLS, MOST_TOGETHER, parts_together
from hagd.attribution.build_heads import SOURCES_TOGETHER
from hagd.attribution.columns import Columns
from hagd.attribution.coordinates import coordinate_layers
from hagd.attribution.descent import CHUNK_CELLS, HALF_CHUNK_CELLS
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.heard_tokens import hears_tokens
from hagd.attribution.own_positions import MOST_FILLED, ROOM_TO_SPARE
from hagd.attribution.row_table import READ_CELLS
from hagd.errors import InvalidInputError
from hagd.models.precision import multiplies_bfloat16

Spill = Literal["auto", "always", "never"]
"""Whether rows go into a file: where memory would not hold them, in any case, or not at all."""
_STREAMS: Final = 6
"""Tensors of the size of one chunk's stream that are alive at once."""
_INDEX_CELLS: Final = 4
"""Two numbers of eight bytes, in cells of four."""
_OWN_CELLS: Final = 10
"""Numbers of each edge from the own position while it is put into its column, in cells of four bytes."""
_COLUMN_CELLS: Final = 12
"""Numbers that say of a column what it is, in cells of four bytes."""
_SHARE: Final = 0.9
"""Of the memory and the disk that are there, what may be used."""
_ON_DISK: Final = 2
"""Copies of the rows on the disk: the file, and the artifact."""


@dataclass(frozen=True)
class GraphEstimate:
    """The size of a graph. Memory is at its peak, above what model, dictionaries and the run of the prompt take."""

    features: int
    rows: int
    columns: int
    memory_bytes: int
    """With the rows in memory."""
    memory_with_file_bytes: int
    """With the rows in a file."""
    file_bytes: int
    """That file."""

    @property
    def disk_bytes(self) -> int:
        """Give what a graph in a file takes on the disk, once it is an artifact, too."""
        return _ON_DISK * self.file_bytes


@dataclass(frozen=True)
class Room:
    """What there is to take."""

    memory_bytes: int
    disk_bytes: int

    @property
    def usable(self) -> "Room":
        """Give what may be used of it."""
        return Room(int(_SHARE * self.memory_bytes), int(_SHARE * self.disk_bytes))


@dataclass(frozen=True)
class GraphPlan:
    """A graph that fits, and where its rows go."""

    size: GraphEstimate
    in_file: bool

    @property
    def memory_bytes(self) -> int:
        return self.size.memory_with_file_bytes if self.in_file else self.size.memory_bytes


def plan_graph(
    frozen: FrozenPrompt,
    n_targets: int,
    most_features: int | None,
    room: Room,
    *,
    heads: bool = False,
    half: bool = False,
    spill: Spill = "auto",
) -> GraphPlan:
    """Say where the rows of a graph go.

    Raises:
        InvalidInputError: they fit nowhere; says what would fit.
    """
    usable = room.usable

    def plan(most: int | None) -> GraphPlan | None:
        size = estimate(frozen, n_targets, most, heads=heads, half=half)
        if spill != "always" and size.memory_bytes <= usable.memory_bytes:
            return GraphPlan(size, in_file=False)
        in_file = size.memory_with_file_bytes <= usable.memory_bytes and size.disk_bytes <= usable.disk_bytes
        return GraphPlan(size, in_file=True) if spill != "never" and in_file else None

    if (found := plan(most_features)) is not None:
        return found
    size = estimate(frozen, n_targets, most_features, heads=heads, half=half)
    fits = _largest(lambda most: plan(most) is not None, size.features)
    smaller = "give a shorter prompt, or a machine with more memory"
    raise InvalidInputError(
        f"a graph of {size.features} features takes about {_needs(size, usable, spill)}",
        f"ask for at most {fits} nodes" if fits else smaller + (", or leave heads out" if heads else ""),
    )


def _needs(size: GraphEstimate, usable: Room, spill: Spill) -> str:
    memory = f"{size.memory_bytes / 2**30:.1f} GiB, and {usable.memory_bytes / 2**30:.1f} GiB are there"
    in_file = (
        f"{size.memory_with_file_bytes / 2**30:.1f} GiB with its rows in a file, and {size.disk_bytes / 2**30:.1f} GiB "
        f"of disk; {usable.memory_bytes / 2**30:.1f} and {usable.disk_bytes / 2**30:.1f} GiB are there"
    )
    return {"never": memory, "always": in_file, "auto": f"{size.memory_bytes / 2**30:.1f} GiB, or {in_file}"}[spill]


def _largest(fits: Callable[[int], bool], beyond: int) -> int:
    """Give the largest number below one that does not fit; 0 where none does."""
    known = 0
    while beyond - known > 1:
        middle = (known + beyond) // 2
        if fits(middle):
            known = middle
        else:
            beyond = middle
    return known


def estimate(
    frozen: FrozenPrompt, n_targets: int, most_features: int | None, *, heads: bool = False, half: bool = False
) -> GraphEstimate:
    """Estimate a graph with so many features, all that are active when None, and perhaps with heads as nodes."""
    chunk = HALF_CHUNK_CELLS if half and multiplies_bfloat16(frozen.model.device) else CHUNK_CELLS
    active, shape = frozen.n_active, frozen.model.config
    features = active if most_features is None else min(active, most_features)
    columns = Columns.of(frozen, spread(frozen, features))
    everything = Columns.of(frozen) if features < active else columns
    n_heads = shape.n_layers * shape.n_heads * frozen.n_pos if heads else 0
    rows, width, largest = features + n_heads + n_targets, len(columns) + n_heads, _largest_layer(columns)
    # Both the columns of all features and those of the graph are there to its end.
    always = _COLUMN_CELLS * (len(everything) + (width if features < active else 0))
    choosing = _choosing_cells(frozen, everything, features, chunk) if features < active else 0
    if heads:
        making = _climbing_cells(frozen, columns, active - features)
        at_hand = max(frozen.n_pos, int(_counts(columns).max())) * width
    else:
        # What features read, while it is taken.
        making = _descent_cells(frozen, columns, chunk) + 5 * largest * shape.d_model
        at_hand = min(rows, MOST_TOGETHER) * shape.n_layers * _page_cells(frozen) + _deep_rows(frozen, chunk) * width
    held = _written_cells(frozen, columns, n_targets, chunk, heads=heads)
    cell = frozen.embed.element_size()
    # Rows are read back to be summed; what a budget left out is found from absolute values, which are a copy.
    read = min(READ_CELLS, rows * width)
    copied = read if features < active and not heads else 0
    in_memory = always + max(choosing, held + max(making, copied))
    in_file = always + max(choosing, making + min(held, at_hand), read + copied)
    return GraphEstimate(features, rows, width, cell * in_memory, cell * in_file, cell * rows * width)


def spread(frozen: FrozenPrompt, features: int) -> list[Bool[Tensor, " _"]]:
    """Mark so many active features in each layer, evenly over all of them."""
    number = torch.arange(frozen.n_active + 1, device=frozen.embed.device) * features // max(1, frozen.n_active)
    marks = number[1:] > number[:-1]
    return list(marks.split([len(layer.features) for layer in frozen.layers]))


def _counts(columns: Columns) -> np.ndarray:
    """Give how many features a (layer, position) has."""
    return np.diff(columns.starts, axis=1)


def _largest_layer(columns: Columns) -> int:
    return int(_counts(columns).sum(1).max())


def _page_cells(frozen: FrozenPrompt) -> int:
    return PAGE_BYTES // frozen.embed.element_size()


def _deep_rows(frozen: FrozenPrompt, chunk: int) -> int:
    """Give how many rows that read the whole prompt go down together."""
    return max(16, min(MOST_TOGETHER, chunk // (frozen.n_pos * frozen.model.config.d_model)))


def _descent_cells(frozen: FrozenPrompt, columns: Columns, chunk: int) -> int:
    """Count what a descent holds at its peak, beside what it writes to."""
    shape, n_pos, layers = frozen.model.config, frozen.n_pos, range(columns.n_layers)
    counts = _counts(columns).sum(1).tolist()
    written = [n_pos + sum(counts[source] for source in frozen.replacement.writers(layer)) for layer in layers]
    kv_width, width, d_model = shape.n_kv_heads * shape.d_head, shape.n_heads * shape.d_head, shape.d_model
    spans = coordinate_layers(frozen, sum(written))
    packed = [_packed(frozen, columns, layer) for layer in layers]
    cells = 0
    for layer, here in enumerate(written):
        coordinates = kv_width * min(spans, shape.n_layers - 1 - layer)
        # Rows from far above come down as vectors of the stream.
        stream = d_model if layer < shape.n_layers - 1 - spans else 0
        cells += here * d_model + packed[layer] * (stream + coordinates)
        cells += (coordinates + d_model) * width + kv_width * d_model
        cells += shape.n_heads * n_pos * n_pos
    cells += _own_slots(frozen, columns) * (d_model + _INDEX_CELLS)
    if hears_tokens(frozen):
        cells += filled(bands_of(range(1, n_pos + 1), MOST_FILLED, ROOM_TO_SPARE)) * d_model
        cells += _triangle(n_pos) * (d_model + kv_width * min(spans, shape.n_layers - 1))
    # Own positions are met when the stream has gone all the way.
    own = int(_own_counts(frozen, columns).max()) * _OWN_CELLS
    together = _deep_rows(frozen, chunk) * max(_STREAMS * n_pos * d_model + max(packed) + max(written), own)
    return cells + max(3 * max(written) * d_model, together)


def _packed(frozen: FrozenPrompt, columns: Columns, layer: int) -> int:
    """Count all that is written to a layer, with the room that bands leave empty."""
    counts = _counts(columns)
    packed = {
        source: bands_of((counts[source] + (source == layer)).tolist()) for source in frozen.replacement.writers(layer)
    }
    if layer not in packed:
        packed[layer] = bands_of([1] * columns.n_pos)
    return sum(map(filled, packed.values()))


def _own_counts(frozen: FrozenPrompt, columns: Columns) -> Int[np.ndarray, " pos"]:
    """Count what is written at each position, by features and errors."""
    counts, layers = _counts(columns), range(columns.n_layers)
    written = [counts[source] for layer in layers for source in frozen.replacement.writers(layer)]
    found = np.sum(written, axis=0) if written else np.zeros(columns.n_pos, dtype=np.int64)
    return found + columns.n_layers


def _own_slots(frozen: FrozenPrompt, columns: Columns) -> int:
    """Count all that is written anywhere, with the room that wide bands leave empty."""
    by_pos = _own_counts(frozen, columns)
    return filled(bands_of(by_pos.tolist(), MOST_FILLED, ROOM_TO_SPARE))


def _choosing_cells(frozen: FrozenPrompt, columns: Columns, features: int, chunk: int) -> int:
    """Count what is held while features are chosen: a descent to all columns, rows over them, and sums."""
    shape = frozen.model.config
    most = max(16, min(MOST_TOGETHER, BUFFER_CELLS // len(columns)))
    # Rows go down together until the product of their number and the last one's position is reached; late layers have
    # more of them than early ones.
    spread_out = math.isqrt(2 * chunk // shape.d_model * features // (columns.n_layers * frozen.n_pos))
    together = min(most, max(16, spread_out))
    return _descent_cells(frozen, columns, chunk) + (together + 6) * len(columns)


def _climbing_cells(frozen: FrozenPrompt, columns: Columns, left: int) -> int:
    """Count what is held while sources go up to rows that heads have, too."""
    shape, n_pos = frozen.model.config, frozen.n_pos
    n_heads = shape.n_layers * shape.n_heads * n_pos
    sources = max(len(columns) + n_heads, min(left, SOURCES_TOGETHER))
    kv_width = shape.n_kv_heads * shape.d_head
    # What each has put into the stream, the part that is read, its values; and the edges of one head on their way.
    cells = sources * (2 * shape.d_model + kv_width + 4 * n_pos)
    # What heads write, what features read, and what those of a layer write.
    cells += n_heads * (shape.d_model + 2 * shape.d_head) + columns.n_features * shape.d_model
    return cells + 2 * _largest_layer(columns) * shape.d_model


def _written_cells(frozen: FrozenPrompt, columns: Columns, n_targets: int, chunk: int, *, heads: bool) -> int:
    """Count the cells of the rows on whose pages an edge is written."""
    shape, n_pos, page = frozen.model.config, frozen.n_pos, _page_cells(frozen)
    counts, before = _counts(columns), columns.starts[:, 1:] - columns.starts[:, :1]
    whole, others = counts.sum(1, keepdims=True), (columns.n_layers + 1) * n_pos
    per_layer = shape.n_heads * n_pos if heads else 0
    width = len(columns) + columns.n_layers * per_layer
    # A row reaches what stands before it, in each lower layer; with heads as nodes only at its own position.
    # What is left out between two of these parts is whole pages only beyond the length of one.
    edges = counts if heads else before
    reached, left = np.minimum(whole, edges + page).cumsum(0), np.maximum(0, page - (whole - edges))
    below = np.concatenate([np.full_like(reached[:1], page), (reached + left)[:-1]])
    heads_below = (per_layer * np.arange(1, columns.n_layers + 1) + heads * page)[:, None]
    of_features = np.minimum(width, below + others + heads_below)
    rows = counts if heads else _rows_by_reach(frozen, columns, chunk)
    cells = int((rows * of_features).sum()) + n_targets * width
    if heads:
        below_layer = columns.starts[:, 0] + others + per_layer * np.arange(columns.n_layers) + 2 * page
        cells += int((per_layer * np.minimum(width, below_layer)).sum())
    return cells


def _rows_by_reach(frozen: FrozenPrompt, columns: Columns, chunk: int) -> Int[np.ndarray, "layer pos"]:
    """Count the features of a layer by the last position of those that they go down with; up to there is written."""
    found = np.zeros_like(_counts(columns))
    for layer in range(columns.n_layers):
        positions: list[int] = columns.positions[columns.of_layer(layer)].tolist()
        for rows in parts_together(positions, chunk // frozen.model.config.d_model):
            found[layer, positions[rows.stop - 1]] += rows.stop - rows.start
    return found


def _triangle(number: int) -> int:
    return number * (number + 1) // 2
