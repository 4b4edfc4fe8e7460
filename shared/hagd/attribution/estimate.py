"""What a local graph takes, told before it is begun, so that nobody learns it from a killed process."""

from dataclasses import dataclass
from typing import Final

from hagd.attribution.build import BUFFER_CELLS, CHUNK_CELLS
from hagd.attribution.build_heads import SOURCES_TOGETHER
from hagd.attribution.coordinates import coordinate_layers
from hagd.attribution.frozen import FrozenPrompt
from hagd.attribution.heard_tokens import hears_tokens
from hagd.errors import InvalidInputError

_STREAMS: Final = 8
"""Tensors of the size of one chunk's stream that are alive at once."""
_SHARE: Final = 0.9
"""Of the memory that is there, what may be used."""


@dataclass(frozen=True)
class GraphEstimate:
    """The size of a graph."""

    features: int
    rows: int
    columns: int
    memory_bytes: int
    """At its peak, above what model, dictionaries and the run of the prompt take."""


def estimate(frozen: FrozenPrompt, n_targets: int, most_features: int | None, *, heads: bool = False) -> GraphEstimate:
    """Estimate a graph with so many features, all that are active when None, and perhaps with heads as nodes."""
    active, n_pos, shape = frozen.n_active, frozen.n_pos, frozen.model.config
    others = (shape.n_layers + 1) * n_pos
    features = active if most_features is None else min(active, most_features)
    n_heads = shape.n_layers * shape.n_heads * n_pos if heads else 0
    rows, columns = features + n_heads + n_targets, features + others + n_heads
    kv_width = shape.n_kv_heads * shape.d_head
    written = sum(
        n_pos + sum(len(frozen.layers[source].features) for source in frozen.replacement.writers(layer))
        for layer in range(shape.n_layers)
    )
    spans = coordinate_layers(frozen, written)
    coordinates = kv_width * spans * (spans + 1) // 2
    cells = written * (shape.d_model + coordinates) + shape.n_layers * coordinates * shape.n_heads * shape.d_head
    if hears_tokens(frozen):
        cells += n_pos * (n_pos + 1) // 2 * (shape.d_model + coordinates)
    cells += 2 * shape.n_layers * shape.n_heads * n_pos * n_pos
    cells += _STREAMS * max(CHUNK_CELLS, 16 * n_pos * shape.d_model)
    # What a row cannot reach, half of all, is never touched; while the graph is stored there are two of it.
    cells += 2 * rows * columns
    if features < active:
        cells += min(BUFFER_CELLS, rows * (active + others))
    if heads:
        # What sources have put into the stream, its part that is read, and the edges of one head.
        cells += 3 * max(columns, min(active - features, SOURCES_TOGETHER)) * max(shape.d_model, n_pos)
    return GraphEstimate(features, rows, columns, cells * frozen.embed.element_size())


def require_memory(
    frozen: FrozenPrompt, n_targets: int, most_features: int | None, available_bytes: int, *, heads: bool = False
) -> GraphEstimate:
    """Refuse a graph that does not fit into the memory that is there.

    Raises:
        InvalidInputError: says what would fit.
    """
    found, there = estimate(frozen, n_targets, most_features, heads=heads), int(_SHARE * available_bytes)
    if found.memory_bytes <= there:
        return found
    fits, beyond = 0, found.features
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if estimate(frozen, n_targets, middle, heads=heads).memory_bytes <= there:
            fits = middle
        else:
            beyond = middle
    smaller = "give a shorter prompt, or a machine with more memory"
    hint = f"ask for at most {fits} nodes" if fits else smaller + (", or leave heads out" if heads else "")
    raise InvalidInputError(
        f"a graph of {found.features} features takes about {found.memory_bytes / 2**30:.1f} GiB, "
        f"and {there / 2**30:.1f} GiB are there",
        hint,
    )
