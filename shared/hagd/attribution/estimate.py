"""What a local graph takes, told before it is begun, so that nobody learns it from a killed process."""

import os
from dataclasses import dataclass
from typing import Final

from hagd.attribution.build import BUFFER_CELLS, CHUNK_CELLS
from hagd.attribution.frozen import FrozenPrompt
from hagd.errors import InvalidInputError

_CELL: Final = 4
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
    """At its peak, above what model and dictionaries take."""


def estimate(frozen: FrozenPrompt, n_targets: int, most_features: int | None) -> GraphEstimate:
    """Estimate a graph with so many features, all that are active when None."""
    active, n_pos = frozen.n_active, frozen.n_pos
    shape = frozen.model.config
    others = (shape.n_layers + 1) * n_pos
    features = active if most_features is None else min(active, most_features)
    rows, columns = features + n_targets, features + others
    written = (active + shape.n_layers * n_pos) * shape.d_model
    patterns = shape.n_layers * shape.n_heads * n_pos * n_pos
    # Rows are held once while they are taken; what a row cannot reach, half of all, is never touched.
    cells = rows * columns + 2 * written + 2 * patterns + _STREAMS * max(CHUNK_CELLS, 16 * n_pos * shape.d_model)
    if features < active:
        cells += min(BUFFER_CELLS, rows * (active + others))
    return GraphEstimate(features, rows, columns, cells * _CELL)


def require_memory(frozen: FrozenPrompt, n_targets: int, most_features: int | None) -> GraphEstimate:
    """Refuse a graph that does not fit into the memory of this machine.

    Raises:
        InvalidInputError: says what would fit.
    """
    found, there = estimate(frozen, n_targets, most_features), int(_SHARE * available_bytes())
    if found.memory_bytes <= there:
        return found
    fits, beyond = 0, found.features
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if estimate(frozen, n_targets, middle).memory_bytes <= there:
            fits = middle
        else:
            beyond = middle
    hint = f"ask for at most {fits} nodes" if fits else "give a shorter prompt, or a machine with more memory"
    raise InvalidInputError(
        f"a graph of {found.features} features takes about {found.memory_bytes / 2**30:.1f} GiB, "
        f"and {there / 2**30:.1f} GiB are there",
        hint,
    )


def available_bytes() -> int:
    """Give the memory that is free, or can be made free, on this machine."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no file of anybody's
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
