"""The scores of a task graph are what a hand-made graph says they are."""

from dataclasses import replace

import numpy as np
import pytest

from hagd.graphs.influence import node_influence
from hagd.graphs.scores import score_task_graph
from unit.graphs.planted import chain_graph


def test_scores_of_the_chain_are_those_worked_out_by_hand() -> None:
    """Token and error bring half of the influence each; half of what reaches the logit comes from the error."""
    graph = chain_graph()
    found = score_task_graph(replace(graph, statistics={"influence": node_influence(graph)}))
    assert found.replacement == pytest.approx(0.5)
    assert found.errors_by_layer == pytest.approx((0.5,))
    # Influences .5, 3/8, 1/8, 1/2 and 1, of which the logit's is explained by half.
    assert found.completeness == pytest.approx(2.0 / 2.5)


def test_without_errors_all_is_explained() -> None:
    graph = chain_graph()
    keep = graph.source != 3
    part = replace(
        graph,
        source=graph.source[keep],
        target=graph.target[keep],
        weight=graph.weight[keep],
        weight_abs=graph.weight_abs[keep],
    )
    found = score_task_graph(replace(part, statistics={"influence": node_influence(part)}))
    assert (found.replacement, found.completeness, found.errors_by_layer) == (1.0, pytest.approx(1.0), (0.0,))


def test_a_graph_that_nothing_flows_through_has_no_share_to_give() -> None:
    graph = replace(chain_graph(), statistics={"influence": np.array([0.0, 0.0, 0.0, 0.0, 1.0])})
    assert score_task_graph(graph).replacement == 1.0
    assert score_task_graph(graph).errors_by_layer == (0.0,)
