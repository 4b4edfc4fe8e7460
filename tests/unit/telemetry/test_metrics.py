"""Metrics are declared once: the code reports those and no others, and dashboard and alerts name what exists."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hagd.errors import UnavailableError, UsageError
from hagd.telemetry import metrics
from hagd.telemetry.metrics import METRICS, Metric

ROOT = Path(__file__).parents[3]
DASHBOARD = ROOT / "deploy" / "dashboards" / "hagd.json"
ALERTS = ROOT / "deploy" / "dashboards" / "alerts.yaml"
BOUNDED = {"stage", "outcome", "reason", "tier", "operation", "kind", "method", "code"}
"""Labels whose values are few whatever is run."""
DECLARED = {name: value for name, value in vars(metrics).items() if isinstance(value, Metric)}


def reports() -> Iterator[tuple[str, str, set[str]]]:
    """Give every report of a metric in the source: the constant, the method of the meter, the labels."""
    for path in (ROOT / "shared" / "hagd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="add" | "observe" | "set" | "ask" as method), args=[first, *_]):
                    name = first.attr if isinstance(first, ast.Attribute) else getattr(first, "id", "")
                    if name in DECLARED:
                        yield name, method, {str(keyword.arg) for keyword in node.keywords}


def names_in(text: str) -> set[str]:
    """Give the metrics that a query names, series of histograms by the name of the whole."""
    found = set(re.findall(r"\bhagd_\w+", text))
    return {re.sub(r"_(?:bucket|sum|count)$", "", name) for name in found}


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS) == len(DECLARED)
    for metric in METRICS:
        assert re.fullmatch(r"hagd_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert metric.buckets == tuple(sorted(metric.buckets))
        assert metric.help.endswith("."), metric.name
        if metric.unit in ("seconds", "bytes"):
            assert metric.unit in metric.name, metric.name


def test_no_label_can_hold_a_run_or_a_caller() -> None:
    assert {label for metric in METRICS for label in metric.labels} <= BOUNDED


def test_every_declared_metric_is_reported_and_with_the_labels_it_declares() -> None:
    found = list(reports())

    assert {name for name, _, _ in found} == set(DECLARED)
    assert [(name, labels) for name, _, labels in found if labels != set(DECLARED[name].labels)] == []


def test_every_metric_is_reported_as_the_kind_that_it_is() -> None:
    methods = {"counter": {"add"}, "gauge": {"add", "set", "ask"}, "histogram": {"observe"}}

    assert [name for name, method, _ in reports() if method not in methods[DECLARED[name].kind]] == []


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in names_in(target["expr"])}

    assert shown == {metric.name for metric in METRICS}


def test_every_panel_is_named_and_placed_and_none_lies_on_another() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    cells = [
        (x, y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in panels())


def test_legends_of_the_dashboard_name_labels_that_the_queries_keep() -> None:
    for panel in panels():
        for target in panel["targets"]:
            kept = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept, panel["title"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_alerts_watch_metrics_that_exist() -> None:
    watched = {name for rule in rules() for name in names_in(rule["expr"])}

    assert watched <= {metric.name for metric in METRICS}
    assert {
        "hagd_oldest_unacknowledged_seconds",
        "hagd_dead_letters_total",
        "hagd_unreadable_records_total",
        "hagd_lease_takeovers_total",
        "hagd_requests_settled_total",
    } <= watched
    assert all({"summary", "description"} <= set(rule["annotations"]) for rule in rules())


def test_a_gauge_that_cannot_be_asked_leaves_the_others_readable() -> None:
    prometheus = pytest.importorskip("hagd.telemetry.prometheus")
    from prometheus_client import generate_latest  # noqa: PLC0415  # an extra

    def unanswered() -> float:
        raise UnavailableError("the log does not answer")

    meter = prometheus.PrometheusMeter()
    meter.ask(metrics.OLDEST_UNACKNOWLEDGED, unanswered, stage="a")
    meter.ask(metrics.LEASE_AGE, lambda: 7.0, stage="a")
    text = generate_latest(meter.registry).decode()

    assert 'hagd_oldest_unacknowledged_seconds{stage="a"} NaN' in text
    assert 'hagd_lease_age_seconds{stage="a"} 7.0' in text


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:", "host:12x"])
def test_an_address_for_metrics_that_cannot_be_read_is_refused(listen: str) -> None:
    prometheus = pytest.importorskip("hagd.telemetry.prometheus")

    with pytest.raises(UsageError, match=r"write it like|cannot read the address"):
        prometheus.PrometheusMeter().serve(listen)
