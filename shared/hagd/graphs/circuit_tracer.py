"""Graphs that circuit-tracer saved with `Graph.to_pt`, read without running anything that the file names.

Such a file holds objects of its makers' classes. torch's reader for weights alone makes tensors and plain values; every
class that it does not trust is replaced by an inert record of fields (`_Inert`), so nothing of the file is called.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import GraphTarget, LocalGraph
from hagd.graphs.neuronpedia import MOST_NODES, check_weights, with_sums

MOST_BYTES: Final = 16 << 30
_MOST_ACTIVE: Final = 1 << 28
_AXES: Final = {
    "adjacency_matrix": (2,),
    "input_tokens": (1, 2),
    "active_features": (2,),
    "selected_features": (1,),
    "activation_values": (1,),
    "logit_probabilities": (1,),
}
"""How many axes each tensor of a graph may have."""


class _Inert:
    """An object of a class that is not known here: what it was made of, and nothing it could do."""

    made_of: tuple[Any, ...]
    fields: dict[str, Any]

    def __new__(cls, *made_of: Any, **fields: Any) -> "_Inert":
        """Keep what it is made of; a file makes objects without calling `__init__`."""
        made = super().__new__(cls)
        made.made_of, made.fields = made_of, dict(fields)
        return made

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.fields.update(part)


def read_circuit_tracer(path: Path) -> LocalGraph:
    """Read a graph.

    Raises:
        InvalidInputError: it is no such file, too large, or its parts do not fit each other.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InvalidInputError(f"{path.name} is larger than {MOST_BYTES >> 30} GiB", "prune the graph first")
        unknown = get_unsafe_globals_in_checkpoint(path)
        with safe_globals([(_Inert, name) for name in unknown]):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InvalidInputError(f"{path.name} cannot be read: {error.strerror}", "check the path") from error
    except InvalidInputError:
        raise
    except Exception as error:  # what a damaged file ends in has no common type
        raise InvalidInputError(
            f"{path.name} is no graph of circuit-tracer that can be read safely ({type(error).__name__})",
            "give a file that Graph.to_pt wrote",
        ) from error
    try:
        return _graph(content)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise InvalidInputError(
            f"{path.name} lacks a part of a graph: {type(error).__name__}: {error}",
            "give a file that Graph.to_pt wrote",
        ) from error


def _graph(content: Any) -> LocalGraph:
    shapes = {name: _tensor(content, name).shape for name in _AXES}
    if wrong := [name for name, axes in _AXES.items() if len(shapes[name]) not in axes]:
        raise ValueError(f"{wrong[0]} has {len(shapes[wrong[0]])} axes")
    n_nodes, n_pos = shapes["adjacency_matrix"][0], shapes["input_tokens"].numel()
    n_features, n_targets = shapes["selected_features"].numel(), shapes["logit_probabilities"].numel()
    n_errors = n_nodes - n_features - n_pos - n_targets
    # Before anything is made of them: a file of a few bytes may claim any size.
    if shapes["adjacency_matrix"] != (n_nodes, n_nodes) or n_nodes > MOST_NODES // 2 or n_pos == 0 or n_targets == 0:
        raise ValueError(f"a matrix of shape {tuple(shapes['adjacency_matrix'])}")
    if n_errors <= 0 or n_errors % n_pos or shapes["active_features"].numel() > _MOST_ACTIVE:
        raise ValueError(f"{n_nodes} nodes for {n_features} features and {n_pos} tokens")
    tokens, active = _tensor(content, "input_tokens").flatten().long(), _tensor(content, "active_features").long()
    chosen, values = _tensor(content, "selected_features").long(), _tensor(content, "activation_values").float()
    square, weights = _tensor(content, "adjacency_matrix").float(), _tensor(content, "logit_probabilities").float()
    if not torch.isfinite(square).all() or not torch.isfinite(values).all():
        raise ValueError("an edge or an activation is NaN or infinite")
    if len(chosen) and (int(chosen.min()) < 0 or len(values) != len(active)):
        raise ValueError("the selected features are not among the active ones")
    check_weights(weights.tolist())
    features = active[chosen]
    n_layers = n_errors // n_pos
    rows = torch.cat([square[:n_features], square[n_nodes - n_targets :]])[:, : n_nodes - n_targets]
    return with_sums(
        prompt=str(content.get("input_string", "")),
        tokens=tokens.numpy(),
        token_texts=(),
        n_layers=n_layers,
        features=features.numpy(),
        activations=values[chosen].numpy(),
        targets=tuple(_targets(content, weights)),
        rows=np.ascontiguousarray(rows.numpy()),
    )


def _tensor(content: Any, name: str) -> Tensor:
    value = content[name]
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is no tensor")
    return value


def _targets(content: Any, weights: Tensor) -> list[GraphTarget]:
    """Name the targets: by text and number, or as older files have them, by numbers alone."""
    found = content.get("logit_targets", content.get("logit_tokens"))
    named: list[GraphTarget] = []
    for number, weight in enumerate(weights.tolist()):
        it = found[number]
        if isinstance(it, _Inert):
            fields = [*it.made_of, it.fields.get("token_str"), it.fields.get("vocab_idx")]
            text = next((str(part) for part in fields if isinstance(part, str)), "")
            token = next((part for part in fields if isinstance(part, int) and not isinstance(part, bool)), None)
        else:
            text, token = "", int(it)
        named.append(GraphTarget(text or str(token), float(weight), token))
    return named
