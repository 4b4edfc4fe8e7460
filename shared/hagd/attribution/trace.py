"""The trace of one prompt as a value: its graph, what is left of it when pruned, and what its heads do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float

from hagd.artifacts.document import Document
from hagd.attribution.columns import Columns
from hagd.attribution.descent import Descent
from hagd.attribution.frozen import FrozenPrompt, freeze
from hagd.attribution.heads import head_loadings
from hagd.attribution.reading import Readers, read_features, read_targets
from hagd.attribution.replacement import Replacement
from hagd.attribution.scores import attribute_score
from hagd.attribution.targets import of_tokens, of_vector
from hagd.dictionaries.storage import any_dictionaries_from_document
from hagd.errors import InvalidInputError
from hagd.graphs.local_graph import LocalGraph
from hagd.graphs.local_influence import Pruned, column_influence, missed_influence, prune, score
from hagd.graphs.local_storage import local_graph_from_document
from hagd.graphs.neuronpedia import Labels, to_neuronpedia
from hagd.graphs.scores import GraphScores
from hagd.models.storage import model_from_document

MODEL: Final = "model"
DICTIONARIES: Final = "dictionaries"
LOCAL_GRAPH: Final = "local_graph"
"""The artifacts of a trace by role."""


@dataclass(frozen=True)
class HeadShare:
    """What one head, the last on the way, carries of an edge."""

    layer: int
    head: int
    weight: float


@dataclass(frozen=True)
class Trace:
    """One prompt, traced."""

    graph: LocalGraph
    document: Callable[[str], Document]
    """Gives an artifact of its run by role; model and dictionaries are asked for when edges or scores are split."""

    @staticmethod
    def of(document: Callable[[str], Document]) -> "Trace":
        """Read the graph of a run.

        Raises:
            CorruptArtifactError: it is none.
            RunError: as of `document`.
        """
        return Trace(local_graph_from_document(document(LOCAL_GRAPH)), document)

    @cached_property
    def scores(self) -> GraphScores:
        """Give how much of what reaches the targets it explains."""
        return score(self.graph)

    @cached_property
    def influence(self) -> Float[np.ndarray, " column"]:
        """Give the influence of every source."""
        return column_influence(self.graph)

    def summary(self) -> dict[str, Any]:
        """Give numbers about the graph."""
        graph = self.graph
        return {
            "prompt": graph.prompt,
            "tokens": graph.n_pos,
            "features": graph.n_features,
            "heads": graph.n_head_nodes,
            "targets": [{"name": it.name, "token": it.token, "weight": it.weight} for it in graph.targets],
            "replacement": self.scores.replacement,
            "completeness": self.scores.completeness,
            "errors_by_layer": list(self.scores.errors_by_layer),
            "missed_influence": missed_influence(graph),
        }

    def prune(self, node_share: float = 0.8, edge_share: float = 0.98) -> Pruned:
        """Keep the strongest nodes and edges; see `hagd.graphs.local_influence.prune`."""
        return prune(self.graph, node_share, edge_share)

    def to_neuronpedia(self, slug: str, scan: str, node_share: float = 0.8, edge_share: float = 0.98) -> dict[str, Any]:
        """Give the pruned graph as the JSON that Neuronpedia shows."""
        return to_neuronpedia(self.graph, self.prune(node_share, edge_share), Labels(slug, scan, node_share))

    def names(self) -> list[str]:
        """Give the name of every node: columns, then targets."""
        graph = self.graph
        features = [f"feature.{layer}.{name}@{pos}" for layer, pos, name in graph.features.tolist()]
        errors = [f"error.{layer}@{pos}" for layer in range(graph.n_layers) for pos in range(graph.n_pos)]
        tokens = [f"token@{pos}" for pos in range(graph.n_pos)]
        heads = [f"head.{layer}.{head}@{pos}" for layer, head, pos in graph.heads.tolist()]
        return [*features, *errors, *tokens, *heads, *(f"target.{number}" for number in range(len(graph.targets)))]

    def number(self, name: str) -> int:
        """Find a node by its name.

        Raises:
            InvalidInputError: there is none.
        """
        try:
            return self.names().index(name)
        except ValueError as error:
            raise InvalidInputError(
                f"the graph has no node {name!r}",
                "nodes are called like feature.3.120@7, error.3@7, token@7, head.3.5@7, target.0; "
                "`hagd graph prune` lists some",
            ) from error

    def row(self, number: int) -> int:
        """Give the row of a node, which is what flows into it.

        Raises:
            InvalidInputError: nothing flows into errors and tokens.
        """
        graph = self.graph
        if number < graph.n_features:
            return number
        row = number - graph.rows.shape[1] + graph.n_head_nodes + graph.n_features
        if row < graph.n_features:
            raise InvalidInputError("nothing flows into errors and tokens", "name a feature, a head or a target")
        return row

    def heads(self, source: int, target: int) -> tuple[float, list[HeadShare]]:
        """Split an edge into what needs no head, and by the last head that it runs through, strongest first.

        Raises:
            InvalidInputError: nothing flows into the target, or source or target is itself a head.
        """
        is_head = range(self.graph.rows.shape[1] - self.graph.n_head_nodes, self.graph.rows.shape[1])
        if source in is_head or target in is_head:
            raise InvalidInputError("edges of a head are not split by heads", "name features, errors, tokens, targets")
        self.row(target)
        frozen = self._frozen
        keep = [torch.zeros(len(layer.features), dtype=torch.bool) for layer in frozen.layers]
        # Of the features only the one that is asked about needs a column.
        column = source - self.graph.n_features
        if column < 0:
            layer, at = self._active(source)
            keep[layer][at] = True
            column = 0
        descent = Descent(frozen, Columns.of(frozen, keep))
        found = head_loadings(descent, self._reader(target), frozen.model.config.n_heads)
        by_head = found.by_head[:, :, 0, column]
        shares = [HeadShare(layer, head, float(by_head[layer, head])) for layer, head in np.ndindex(*by_head.shape)]
        return float(found.direct[0, column]), sorted(shares, key=lambda share: -abs(share.weight))

    def score_of(self, layer: int, head: int, query: int, key: int) -> tuple[float, Sequence[Mapping[str, Any]]]:
        """Split the score of a head into pairs of nodes, strongest first, and biases.

        Raises:
            InvalidInputError: there is no such head or position.
        """

        frozen = self._frozen
        columns = Columns.of(frozen, self._kept())
        found = attribute_score(frozen, Descent(frozen, columns), layer, head, query, key)
        names = [*self.names()[: len(columns)], "others", "bias"]
        rows = [
            {"query": names[query], "key": names[key], "weight": weight}
            for query, key, weight in found.strongest(_MOST_PAIRS)
        ]
        return found.score, rows

    @cached_property
    def _frozen(self) -> FrozenPrompt:

        model = model_from_document(self.document(MODEL))
        dictionaries = any_dictionaries_from_document(self.document(DICTIONARIES))
        plain = int(self.graph.provenance.get("plain_positions", "0"))
        tokens = torch.from_numpy(self.graph.tokens)
        return freeze(model, Replacement(dictionaries, model), tokens, plain=min(plain, len(tokens) - 1))

    def _active(self, number: int) -> tuple[int, int]:
        """Give the layer of a feature, and which of its active features it is."""
        layer, pos, name = self.graph.features[number].tolist()
        active = self._frozen.layers[layer].features
        return layer, int(((active.positions == pos) & (active.ids == name)).nonzero()[0])

    def _kept(self) -> list[Any]:
        """Mark the active features of each layer that have a node."""

        keep: list[Any] = []
        for layer, it in enumerate(self._frozen.layers):
            mine = self.graph.features[self.graph.features[:, 0] == layer]
            nodes = torch.from_numpy(mine[:, 1] * (1 << 40) + mine[:, 2])
            keep.append(torch.isin(it.features.positions * (1 << 40) + it.features.ids, nodes))
        return keep

    def _reader(self, target: int) -> Readers:
        """Give how a feature or target reads."""

        frozen = self._frozen
        silent = frozen.replay(nodes=False)
        if target < self.graph.n_features:
            layer, at = self._active(target)
            return read_features(frozen, silent, layer, torch.tensor([at]))
        number = target - self.graph.rows.shape[1]
        named, directions = self.graph.targets[number], self.graph.directions
        if directions is not None:
            # The graph may be of an array that nobody may write to, which torch warns about.
            targets = of_vector(frozen, torch.from_numpy(directions[number].copy()), named.name)
        elif named.token is not None:
            targets = of_tokens(frozen, [named.token])
        else:
            raise InvalidInputError(
                f"the graph does not say what its target {named.name!r} reads", "trace the prompt with this version"
            )
        return read_targets(frozen, silent, targets)


_MOST_PAIRS: Final = 200
