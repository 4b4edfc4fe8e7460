"""The curve over sizes, and its integrals."""

import pytest

from hagd.interventions.evaluation import prepare
from hagd_verification.domain.curve import areas, curve_sizes, extension, measure_curve
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.panel import Bill, Panel
from hagd_verification.domain.statistics import ClusterBootstrap
from unit.hagd_verification.lookup import NEURONS, V, lookup_circuit, lookup_graph, lookup_subject, lookup_task


def make_frontier() -> Frontier:
    subject, task = lookup_subject(), lookup_task()
    return Frontier.of(lookup_circuit([18, 17], [16, 15]), subject.model, subject.dictionaries, task)


def test_past_the_family_the_circuit_goes_on_by_score() -> None:
    frontier = make_frontier()
    order = extension(frontier, lookup_graph())
    universe = frontier.universe
    names = [str(universe.node(entry)) for entry in order]
    assert names[:15] == [f"feature.0.{i}@x" for i in range(14, -1, -1)]
    assert names[15 : 15 + V] == [f"feature.0.{i}@x" for i in range(V, NEURONS)]  # decoys score nothing
    heads = {f"head.0.{i}@{role}" for i in (0, 1) for role in ("noise", "x")}
    assert set(names[15 + V :]) == {"token@noise", *heads, *(f"feature.0.{i}@noise" for i in range(NEURONS))}


def test_the_curve_ends_at_the_whole_universe_where_all_is_preserved() -> None:
    frontier, task = make_frontier(), lookup_task()
    panel = Panel.of(prepare(frontier.subject, frontier.universe, task, "verify", seed=0, most=60), Bill())
    bootstrap = ClusterBootstrap.of(panel.groups, 100, 0)
    found = measure_curve(panel, bootstrap, frontier, lookup_graph(), [4, 10_000], lambda _: None)
    points = found["points"]
    total = found["universe_nodes"]
    assert total == 2 + 4 + 2 * NEURONS
    assert points[-1] == {
        "nodes": total,
        "leaves": total,
        "behavioural_preservation": 1.0,
        "faithfulness": pytest.approx(1.0),
    }
    assert 4 in [point["nodes"] for point in points]
    assert [point["nodes"] for point in points] == sorted({point["nodes"] for point in points})


def test_sizes_hold_the_circuits_own_and_stay_within_the_universe() -> None:
    sizes = curve_sizes(make_frontier(), [7, 999], 45)
    assert 3 in sizes
    assert 7 in sizes
    assert sizes[0] >= 1
    assert sizes[-1] == 45


def point(nodes: int, value: float | None) -> dict:
    return {"nodes": nodes, "faithfulness": value}


def test_a_faithful_family_has_all_the_area_and_no_distance() -> None:
    found = areas([point(1, 1.0), point(1000, 1.0)], 1000)
    assert found["cpr"] == pytest.approx(0.9995)
    assert found["cmd"] == pytest.approx(0.0005)
    assert found["cpr_log"] == pytest.approx(1)
    assert found["cmd_log"] == pytest.approx(0)


def test_a_straight_line_has_half_the_area() -> None:
    found = areas([point(500, 0.5), point(1000, 1.0)], 1000)
    assert found["cpr"] == pytest.approx(0.5)
    assert found["cmd"] == pytest.approx(0.5)


def test_overshooting_counts_as_distance() -> None:
    found = areas([point(500, 1.5), point(1000, 1.5)], 1000)
    assert found["cpr"] == pytest.approx(0.375 + 0.75)
    assert found["cmd"] == pytest.approx(0.5 * (1 + 0.5) / 2 + 0.25, abs=0.15)


def test_undefined_faithfulness_has_no_area() -> None:
    assert areas([point(3, None)], 10) == {"cpr": None, "cmd": None, "cpr_log": None, "cmd_log": None}
