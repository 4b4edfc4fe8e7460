"""The whole of stage 4: every number of the report, in the order in which it is measured.

D_verify is touched here and nowhere else. Progress is reported between 0 and 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hagd.errors import InvalidInputError
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.interventions.evaluation import Prepared, prepare
from hagd.tasks.task import Task
from hagd_verification.domain.cards import make_cards
from hagd_verification.domain.curve import measure_curve
from hagd_verification.domain.description_length import FORMULA, description_length
from hagd_verification.domain.edge_evidence import EdgePool, measure_edges
from hagd_verification.domain.frontier import Frontier
from hagd_verification.domain.measures import (
    Headline,
    Mediation,
    headline_to_json,
    measure_headline,
    measure_mediation,
    measure_settings,
    minimum_over,
)
from hagd_verification.domain.negative_controls import (
    NegativeControl,
    answered,
    claimability,
    foreign_answers,
    permuted_scores,
    random_weights,
)
from hagd_verification.domain.nulls import candidates, frequencies, matched, permuted, uniform
from hagd_verification.domain.panel import Bill, Panel
from hagd_verification.domain.protocol import Protocol
from hagd_verification.domain.random_circuits import RandomTest, against, necessity, random_control_to_json
from hagd_verification.domain.settings import Settings
from hagd_verification.domain.statistics import ClusterBootstrap, Interval
from hagd_verification.domain.verdict import Claimability, Evidence, Verdict, decide

COMMAND: Final = "hagd verify RUN --json"


@dataclass(frozen=True)
class _Bench:
    """What all parts share."""

    frontier: Frontier
    task: Task
    graph: AttributionGraph
    settings: Settings
    protocol: Protocol
    panel: Panel
    bootstrap: ClusterBootstrap
    discover: Prepared
    report: Callable[[float, float, str], Callable[[float], None]]
    """Start a part: share of the stage before it, its own share, its name. Gives what to call within the part."""


def verify(
    frontier: Frontier,
    task: Task,
    graph: AttributionGraph,
    settings: Settings,
    progress: Callable[[float, float, str], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure everything; give the report's data and the feature cards."""

    def report(start: float, length: float, name: str) -> Callable[[float], None]:
        progress(start, 1, name)
        return lambda done: progress(round(start + length * done, 4), 1, name)

    report(0, 0, "running the model on D_verify")
    bench = _set_up(frontier, task, graph, settings, report)
    panel, bootstrap, protocol = bench.panel, bench.bootstrap, bench.protocol
    circuit = frontier.vector()
    claim = claimability(answered(panel), task.judged, task.minimum_accuracy, settings.seed)
    report(0.05, 0, "headline")
    headline = measure_headline(panel, bootstrap, circuit)
    mediation = measure_mediation(panel, bootstrap, frontier, headline)
    few = panel.first(protocol.side_prompts, protocol.null_donors)
    rows = measure_settings(
        few, _bootstrap(few, settings), circuit, frontier.is_refined, report(0.1, 0.2, "side settings")
    )
    few = panel.first(protocol.curve_prompts, protocol.null_donors)
    curve = measure_curve(
        few, _bootstrap(few, settings), frontier, graph, settings.sizes, report(0.3, 0.1, "preservation by size")
    )
    tests, controls, needed = _against_random(bench, claim)
    pool = EdgePool.of(frontier, panel)
    edges = measure_edges(
        panel.first(protocol.edge_prompts, protocol.null_donors),
        panel.first(protocol.random_edge_prompts, protocol.null_donors),
        frontier,
        pool,
        protocol.edge_draws,
        settings.seed,
        report(0.8, 0.1, "edges"),
    )
    report(0.9, 0, "D_ood")
    elsewhere = _out_of_distribution(bench)
    evidence = Evidence(
        claimability=claim,
        preserved=headline.preserved,
        matched_p=tests[1].p,
        equivalence_p=headline.equivalence_p,
        n_prompts=len(panel),
        feature_share=mediation.feature_share,
        error_credit=mediation.error_credit,
        n_unexplained=_unexplained(frontier),
        controls=[control.outcome for control in controls],
    )
    verdict = decide(evidence, settings.threshold, settings.alpha)
    report(0.95, 0, "feature cards")
    cards = make_cards(frontier, task, protocol.card_prompts, settings.cards)
    bits = description_length(frontier, frontier.circuit.n_edges, int(pool.pairs.sum()))
    data = {
        **_verdict_to_json(verdict, claim, settings),
        "circuit": _circuit_to_json(frontier, bits),
        "headline": headline_to_json(headline, panel, settings.seed),
        "edges_only": edges,
        "curve": curve.pop("points"),
        "curve_areas": curve,
        "negative_controls": [control.to_json() for control in controls],
        "random_control": random_control_to_json(*tests),
        "settings": rows,
        "minimum_over_settings": minimum_over(rows),
        **_mediation_to_json(headline, mediation),
        **needed,
        "ood": elsewhere,
        "evaluations": panel.bill.spent,
        "bootstrap_draws": settings.bootstrap_draws,
        "seed": settings.seed,
        "command": COMMAND,
    }
    return data, cards


def _set_up(
    frontier: Frontier,
    task: Task,
    graph: AttributionGraph,
    settings: Settings,
    report: Callable[[float, float, str], Callable[[float], None]],
) -> _Bench:
    if not task.size("verify"):
        raise InvalidInputError(f"the task {task.name!r} has no prompts to verify on", "give it a larger data set")
    protocol = Protocol.of(
        frontier.subject.model,
        draws=settings.draws,
        sequential=settings.sequential,
        null_prompts=settings.null_prompts,
    )
    subject, universe, bill = frontier.subject, frontier.universe, Bill()
    discover = prepare(subject, universe, task, "discover", seed=settings.seed, most=protocol.discover_prompts)
    bill.spent += 2 * len(discover.groups)
    verify = prepare(
        subject,
        universe,
        task,
        "verify",
        seed=settings.seed,
        most=settings.max_prompts,
        keep_patterns=True,
        mean_from=discover,
    )
    panel = Panel.of(verify, bill)
    return _Bench(frontier, task, graph, settings, protocol, panel, _bootstrap(panel, settings), discover, report)


def _bootstrap(panel: Panel, settings: Settings) -> ClusterBootstrap:
    return ClusterBootstrap.of(panel.groups, settings.bootstrap_draws, settings.seed)


def _against_random(
    bench: _Bench, claim: Claimability
) -> tuple[tuple[RandomTest, RandomTest], list[NegativeControl], dict[str, Any]]:
    """Run both nulls, the negative controls and necessity."""
    frontier, panel, protocol, settings = bench.frontier, bench.panel, bench.protocol, bench.settings
    universe, circuit, seed = frontier.universe, frontier.vector(), settings.seed
    frequency = frequencies(bench.discover)
    layouts = [prompts.batch.layout for prompts in panel.prepared.batches]
    usable = candidates(universe, frequency, layouts)
    families = (
        uniform(universe, circuit, usable, seed),
        matched(universe, circuit, usable, frequency, seed + 1),
    )
    few = panel.first(protocol.null_prompts, protocol.null_donors)
    places = ((0.4, 0.1, "uniform random circuits"), (0.5, 0.2, "matched random circuits"))
    first, second = (
        against(few, circuit, family, draws, protocol.stop_after, bench.report(*place))
        for family, draws, place in zip(families, (protocol.uniform_draws, protocol.draws), places, strict=True)
    )
    bench.report(0.7, 0, "negative controls")
    broken = permuted(universe, circuit, usable, seed + 2)
    controls = [
        random_weights(panel, bench.task.minimum_accuracy, seed),
        foreign_answers(panel, bench.task.minimum_accuracy, seed),
        permuted_scores(
            panel.first(protocol.control_prompts, protocol.null_donors),
            broken,
            matched(universe, broken, usable, frequency, seed + 3),
            claim,
            draws=protocol.control_draws,
            threshold=settings.threshold,
            alpha=settings.alpha,
            seed=seed,
        ),
    ]
    bench.report(0.75, 0, "necessity")
    needed = necessity(
        panel.first(protocol.necessity_prompts, protocol.null_donors), frontier, *families, protocol.necessity_draws
    )
    part = needed.get("parts", needed["whole"])
    return (first, second), controls, {"necessity": needed, "necessity_excess": part["excess"]}


def _out_of_distribution(bench: _Bench) -> dict[str, Any] | None:
    """Measure the headline on D_ood; None where the task has none, or too few prompts to draw donors from."""
    if not bench.task.size("ood"):
        return None
    settings, frontier = bench.settings, bench.frontier
    try:
        prepared = prepare(
            frontier.subject,
            frontier.universe,
            bench.task,
            "ood",
            seed=settings.seed,
            most=settings.max_prompts,
            mean_from=bench.discover,
        )
    except InvalidInputError as error:
        return {"behavioural_preservation": None, "reason": error.message}
    panel = Panel.of(prepared, bench.panel.bill)
    headline = measure_headline(panel, _bootstrap(panel, settings), frontier.vector())
    return {**headline_to_json(headline, panel, settings.seed), "task_accuracy": float(panel.right.mean())}


def _verdict_to_json(verdict: Verdict, claim: Claimability, settings: Settings) -> dict[str, Any]:
    return {
        "verdict": verdict.name,
        "scope": verdict.scope,
        "reasons": list(verdict.reasons),
        "threshold": settings.threshold,
        "alpha": settings.alpha,
        "task_accuracy": claim.accuracy,
        "minimum_accuracy": claim.minimum_accuracy,
        "metric_gap": claim.metric_gap.value,
        "metric_gap_ci95": claim.metric_gap.pair(),
    }


def _circuit_to_json(frontier: Frontier, bits: float) -> dict[str, Any]:
    circuit = frontier.circuit
    return {
        "nodes": circuit.size,
        "edges": circuit.n_edges,
        "by_kind": frontier.by_kind(),
        "leaves": frontier.leaves(),
        "unexplained": _unexplained(frontier),
        "description_length_bits": bits,
        "description_length_formula": FORMULA,
        "search_evaluations": circuit.evaluations,
    }


def _unexplained(frontier: Frontier) -> int:
    return sum(node.unexplained for node in frontier.chosen)


def _mediation_to_json(headline: Headline, mediation: Mediation) -> dict[str, Any]:
    def value(found: Interval | None) -> float | None:
        return None if found is None else found.value

    def bounds(found: Interval | None) -> list[float] | None:
        return None if found is None else found.pair()

    return {
        "feature_mediated_share": value(mediation.feature_share),
        "feature_mediated_share_ci95": bounds(mediation.feature_share),
        "error_credit": value(mediation.error_credit),
        "error_credit_ci95": bounds(mediation.error_credit),
        "tost_p": headline.equivalence_p,
        "tost_margin": 0.1,
    }
