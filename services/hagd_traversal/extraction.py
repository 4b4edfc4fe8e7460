"""Stage 3 from artifacts to artifact: decode, search, choose, refine, connect, encode."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit
from hagd.graphs.hierarchy import Hierarchy
from hagd.graphs.storage import circuit_to_document, graph_from_document, hierarchy_from_document
from hagd.interventions.activations import Subject
from hagd.interventions.evaluation import prepare
from hagd.interventions.universe import Universe
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.storage import task_from_document
from hagd.tasks.task import Task
from hagd_traversal.domain.connections import choose_edges
from hagd_traversal.domain.evidence import Evidence
from hagd_traversal.domain.frontier import frontier
from hagd_traversal.domain.gate_learning import GateConfig, learn_gates
from hagd_traversal.domain.guidance import Guide
from hagd_traversal.domain.refinement import RefinementConfig, refine_blocks
from hagd_traversal.domain.search import SearchConfig, SearchState, remove_groups, starting_circuit
from hagd_traversal.domain.selection import Family, rank_nodes
from hagd_traversal.handlers import TraversalConfig

_LARGE_PARAMETERS = 10_000_000
_SLACK = 1.3
"""Causal tests start from so many times the nodes whose gates are likelier open than closed."""


@dataclass(frozen=True)
class Plan:
    """The config with every null filled in from the size of the model."""

    mixed: bool
    budget: int
    """Evaluations of gates and tests together; refining blocks has its own."""
    gate_share: float
    """Largest share of the budget that gates may take."""
    gates: GateConfig | None
    """None where tests alone are cheap enough to find a smaller circuit (small models: measured)."""
    refinement_budget: int
    prompts: int
    """Discovery prompts from which all draws are taken."""
    test_prompts: int
    """Discovery prompts of one causal test."""
    select_prompts: int
    edge_prompts: int
    """Of D_select: a run through edges costs several plain ones."""
    largest: int
    """Largest circuit that is offered: a large one costs a whole forward, and nobody reads it."""
    integration_points: tuple[float, ...]
    pace: SearchConfig
    refinement: RefinementConfig

    @staticmethod
    def of(config: TraversalConfig, subject: Subject) -> "Plan":
        model = subject.model.config
        large = model.n_layers * model.d_model * (model.d_mlp * 3 + model.d_model * 4) > _LARGE_PARAMETERS
        mixed = large if config.resolution == "auto" else config.resolution == "mixed"
        budget = config.budget or (24_000 if large else 400_000)
        return Plan(
            mixed=mixed,
            budget=budget,
            gate_share=0.7,
            gates=GateConfig(steps=200, price_nats=1.5e-3, prompts=18) if large else None,
            refinement_budget=6_000 if large else 50_000,
            prompts=config.prompts or 256,
            test_prompts=min(config.prompts or 256, 48 if large else 256),
            select_prompts=96 if large else 400,
            edge_prompts=48 if large else 400,
            largest=500 if large else 5000,
            integration_points=(0.1, 0.3, 0.5, 0.7, 0.9) if model.n_layers > 1 else (0.25, 0.5, 0.75, 1.0),
            pace=SearchConfig(
                budget=budget,
                floor=120 if large else 8,
                first_price=2e-4 if large else 1e-5,
                most_divergence=1.5 if large else 4.0,
            ),
            refinement=RefinementConfig(tolerance_nats=0.0005),
        )


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Search the circuit of a task. See `StageFunction`."""
    settings = TraversalConfig.model_validate(dict(config))
    task = task_from_document(inputs["task"])
    subject = Subject(model_from_document(inputs["model"]), dictionaries_from_document(inputs["dictionaries"]))
    graph = graph_from_document(inputs["graph"])
    hierarchy = hierarchy_from_document(inputs["hierarchy"])
    plan = Plan.of(settings, subject)
    circuit = extract(subject, task, graph, hierarchy, settings, plan, context)
    return {"circuit": circuit_to_document(circuit)}


def extract(
    subject: Subject,
    task: Task,
    graph: AttributionGraph,
    hierarchy: Hierarchy,
    settings: TraversalConfig,
    plan: Plan,
    context: StageContext,
) -> Circuit:
    """Run the whole search and give the circuit."""
    model = subject.model.config
    refined = torch.zeros(model.n_layers, len(task.roles), dtype=torch.bool)
    if not plan.mixed:
        refined[list(subject.dictionaries)] = True
    searched = Subject(subject.model, {} if plan.mixed else subject.dictionaries)
    universe = Universe.of(searched, task.roles, refined)
    context.progress(0, 1, "running the model on the discovery prompts")

    def report(spent: int) -> None:
        share = min(0.79, 0.8 * spent / plan.budget)
        context.progress(share, 1, f"{spent} of at most {plan.budget} evaluations")

    discover = prepare(searched, universe, task, "discover", seed=settings.seed, most=plan.prompts)
    evidence = Evidence(discover, plan.test_prompts, settings.seed, report)
    guide = Guide.build(evidence, graph, hierarchy, settings.guide, plan.integration_points)
    first = guide.order
    guide, state = _search(evidence, guide, plan, settings.seed)
    context.progress(0.8, 1, "choosing the size on D_select")
    select = prepare(searched, universe, task, "select", seed=settings.seed, most=plan.select_prompts)
    families = [
        Family.of(select, ranking, plan.largest, settings.max_nodes, settings.target)
        for ranking in (rank_nodes(state, guide.importance), first)
    ]
    evidence.bill(sum(family.evaluated for family in families) * 4 * len(select.groups))
    family = families[1] if families[1].is_better_than(families[0], settings.target) else families[0]
    ranking, size = family.ranking, family.size
    opened = Opened(searched, universe, {})
    if plan.mixed and subject.dictionaries:
        opened = _refine(subject, task, evidence, ranking[:size], plan, settings, context)
    scores_by_entry = np.zeros(len(opened.universe))
    scores_by_entry[: len(universe)] = guide.signed.numpy()
    nodes = frontier(subject, opened.universe, ranking, opened.replaced, scores_by_entry)
    chosen = len(frontier(subject, opened.universe, ranking[:size], opened.replaced, scores_by_entry))
    context.progress(0.92, 1, "choosing edges")
    select = prepare(opened.subject, opened.universe, task, "select", seed=settings.seed, most=plan.edge_prompts)
    edges, n_edges, edge_evaluations = choose_edges(graph, nodes[:chosen], select)
    return Circuit(
        nodes=tuple(nodes),
        size=chosen,
        edges=edges,
        n_edges=n_edges,
        refined=_refined_roles(opened),
        evaluations=evidence.spent + edge_evaluations,
        trace=tuple(state.trace),
    )


@dataclass(frozen=True)
class Opened:
    """What the search found, with some blocks opened into features."""

    subject: Subject
    universe: Universe
    """Names the entries; marks what was refined before the search (blocks opened later are in `replaced`)."""
    replaced: Mapping[int, list[int]]


def _search(evidence: Evidence, guide: Guide, plan: Plan, seed: int) -> tuple[Guide, SearchState]:
    """Let gates narrow down where to start, if they are used, and remove groups until nothing can go."""
    start = len(guide.order)
    if plan.gates is not None:
        tokens = (evidence.universe.kinds == 0) & (guide.importance > 0)
        affordable = int(plan.gate_share * plan.budget) // (4 * plan.gates.prompts)
        gates = replace(plan.gates, steps=min(plan.gates.steps, affordable))
        log_odds = learn_gates(evidence, guide.order, tokens, gates, seed)
        guide = guide.with_gates(log_odds)
        start = max(plan.pace.floor, round(_SLACK * int((log_odds > 0).sum())))
        evidence.redraw(plan.test_prompts)
    state = starting_circuit(guide.order, start, len(evidence.universe))
    remove_groups(evidence, state, guide.importance, guide.levels, plan.pace)
    return guide, state


def _refine(
    subject: Subject,
    task: Task,
    evidence: Evidence,
    chosen: list[int],
    plan: Plan,
    settings: TraversalConfig,
    context: StageContext,
) -> Opened:
    """Resolve the chosen circuit's blocks with the layers' dictionaries; the bill goes on in `evidence`."""
    universe = evidence.universe
    blocks = [i for i in chosen if int(universe.kinds[i]) == 2]
    layers = {int(universe.layers[i]) for i in blocks} & set(subject.dictionaries)
    opened = Subject(subject.model, {layer: subject.dictionaries[layer] for layer in sorted(layers)})
    wide = Universe.of(opened, universe.roles, universe.refined)

    def report(spent: int) -> None:
        context.progress(0.85 + 0.06 * min(1.0, spent / plan.refinement_budget), 1, "refining blocks")

    discover = prepare(opened, wide, task, "discover", seed=settings.seed, most=plan.test_prompts)
    detailed = Evidence(discover, None, settings.seed, report)
    circuit = torch.zeros(len(wide))
    circuit[chosen] = 1.0
    replaced = refine_blocks(detailed, circuit, plan.refinement, plan.refinement_budget)
    evidence.spent += detailed.spent
    return Opened(opened, wide, replaced)


def _refined_roles(opened: Opened) -> dict[int, tuple[str, ...]]:
    """List the roles whose MLP is resolved into features, by layer."""
    universe = opened.universe
    refined = universe.refined.clone()
    for block in opened.replaced:
        refined[universe.layers[block], universe.role_ids[block]] = True
    rows = {layer: refined[layer].nonzero().flatten().tolist() for layer in range(universe.n_layers)}
    return {layer: tuple(universe.roles[i] for i in row) for layer, row in rows.items() if row}
