"""Small graphs with a known answer."""

import numpy as np

from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.nodes import Node


def chain_graph() -> AttributionGraph:
    """Give token -> two features -> logit with weights whose influence is known by hand.

    feature.0.0 reads the token only; the logit reads feature 0 (|w| = 3), feature 1 (|w| = 1); an error feeds both.
    """
    nodes = (
        Node("token", -1, "a"),
        Node("feature", 0, "a", 0),
        Node("feature", 0, "a", 4),
        Node("error", 0, "a"),
        Node("logit", 1, "a"),
    )
    weight = np.array([2.0, -0.5, 3.0, -1.0, 4.0])
    return AttributionGraph(
        nodes=nodes,
        roles=("a",),
        n_layers=1,
        source=np.array([0, 0, 1, 2, 3]),
        target=np.array([1, 2, 4, 4, 4]),
        weight=weight,
        weight_abs=abs(weight),
        statistics={"score": np.array([1.0, 2.0, -3.0, 0.0, 5.0]), "frequency": np.array([1.0, 0.5, 0.25, 1.0, 1.0])},
        n_prompts=7,
    )
