"""Stage 3 without a search: the nodes through which most of the metric's flow passes, as many as D_select asks for.

A rival that every search must beat. The order costs nothing, since the graph already knows it; only the size is
decided by intervention, by the rule of the built-in search: the smallest size that reaches the target, one standard
error to be sure, with every larger one reaching it as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.circuit import Circuit, CircuitEdge, CircuitNode
from hagd.graphs.nodes import Node
from hagd.graphs.storage import circuit_to_document, graph_from_document
from hagd.interventions.activations import Subject
from hagd.interventions.evaluation import HEADLINE, Prepared, evaluate, prepare
from hagd.interventions.universe import Universe
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.donors import DRAWS
from hagd.tasks.storage import task_from_document
from hagd.tasks.task import Task
from leiden_stages.handlers import TopKConfig, read_config

_SMALLEST = 4
_STEPS_PER_OCTAVE = 4
_RUNS_PER_PROMPT = 1 + DRAWS
"""Of one score: the counterfactual donor and every draw of unpaired ones."""


@dataclass(frozen=True)
class SizeScore:
    """How well one size does on D_select."""

    size: int
    cautious: float
    """Headline preservation less one standard error, since a choice among many sizes favours the lucky ones."""
    kl_nats: float


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Take the most influential nodes. See `StageFunction`.

    Raises:
        CorruptArtifactError: an input is not what its role says.
    """
    settings = read_config(TopKConfig, config, "top-k")
    task = task_from_document(inputs["task"])
    graph = graph_from_document(inputs["graph"])
    refined = refined_roles(graph)
    whole = Subject(model_from_document(inputs["model"]), dictionaries_from_document(inputs["dictionaries"]))
    subject = Subject(whole.model, {layer: whole.dictionaries[layer] for layer in refined})
    ranking = rank_nodes(graph)
    context.progress(0, 1, f"{len(ranking)} nodes ranked, choosing the size on D_select")
    select = prepare(
        subject, universe_of(subject, task, refined), task, "select", seed=settings.seed, most=settings.prompts
    )
    scores = score_sizes(select, [graph.nodes[i] for i in ranking], settings, context)
    size = choose_size(scores, settings.target)
    circuit = Circuit(
        nodes=tuple(as_circuit_node(whole, graph, i) for i in ranking),
        size=size,
        edges=(edges := edges_among(graph, ranking[:size])),
        n_edges=len(edges),
        refined=refined,
        evaluations=len(scores) * _RUNS_PER_PROMPT * len(select.groups),
        trace=trace_of(scores, len(select.groups)),
    )
    return {"circuit": circuit_to_document(circuit)}


def refined_roles(graph: AttributionGraph) -> dict[int, tuple[str, ...]]:
    """Give the roles, by layer, at which the graph resolves the MLP into features."""
    places = {(node.layer, node.role) for node in graph.nodes if node.kind == "feature"}
    layers = sorted({layer for layer, _ in places})
    return {layer: tuple(role for role in graph.roles if (layer, role) in places) for layer in layers}


def universe_of(subject: Subject, task: Task, refined: Mapping[int, Sequence[str]]) -> Universe:
    """Give the universe whose MLPs are resolved where those of the graph are."""
    at = torch.zeros(subject.model.config.n_layers, len(task.roles), dtype=torch.bool)
    for layer, roles in refined.items():
        at[layer, [task.roles.index(role) for role in roles]] = True
    return Universe.of(subject, task.roles, at)


def rank_nodes(graph: AttributionGraph) -> list[int]:
    """Order the nodes that a circuit may hold by |influence|, ties by place in the network. Errors explain nothing."""
    influence = abs(graph.statistics["influence"])
    usable = [i for i, node in enumerate(graph.nodes) if node.kind not in ("logit", "error")]
    return sorted(usable, key=lambda i: (-influence[i], i))


def score_sizes(
    select: Prepared, ranked: Sequence[Node], settings: TopKConfig, context: StageContext
) -> list[SizeScore]:
    """Score nested circuits in geometric steps, by the smaller of counterfactual and unpaired agreement."""
    entries = [select.universe.entry(node) for node in ranked]
    last = min(len(entries), settings.max_nodes or len(entries))
    steps = range(max(1, last).bit_length() * _STEPS_PER_OCTAVE)
    sizes = sorted({min(last, round(_SMALLEST * 2 ** (step / _STEPS_PER_OCTAVE))) for step in steps})
    scores: list[SizeScore] = []
    for size in sizes:
        circuit = torch.zeros(len(select.universe))
        circuit[entries[:size]] = 1.0
        outcomes = [evaluate(select, circuit, setting) for setting in HEADLINE]
        worst = min(outcomes, key=lambda outcome: float(outcome.agreement.mean()))
        error = float(worst.agreement.std()) / len(worst.agreement) ** 0.5
        scores.append(SizeScore(size, float(worst.agreement.mean()) - error, float(worst.kl_nats.mean())))
        context.progress(len(scores), len(sizes), f"{size} nodes preserve {scores[-1].cautious:.3f}")
    return scores


def choose_size(scores: Sequence[SizeScore], target: float) -> int:
    """Give the smallest size that reaches the target and stays above it; else the best one. Scores rise in size."""
    holding = None
    for score in reversed(scores):
        if score.cautious < target:
            break
        holding = score.size
    return holding or max(scores, key=lambda score: (score.cautious, -score.size)).size


def as_circuit_node(subject: Subject, graph: AttributionGraph, place: int) -> CircuitNode:
    """Write one node of the graph down."""
    node = graph.nodes[place]
    block = node.kind == "mlp"
    n_leaves = hidden_leaves(subject, node.layer) if block else 1
    score = float(graph.statistics["score"][place])
    return CircuitNode(str(node), node.kind, node.layer, node.role, (node,), n_leaves, unexplained=block, score=score)


def hidden_leaves(subject: Subject, layer: int) -> int:
    """Count what a whole block keeps live: every feature, the error, and the skip path if there is one."""
    dictionary = subject.dictionaries.get(layer)
    if dictionary is None:
        return subject.model.config.d_mlp + 1
    return dictionary.n_features + 1 + (dictionary.w_skip is not None)


def edges_among(graph: AttributionGraph, places: Sequence[int]) -> tuple[CircuitEdge, ...]:
    """Give the graph's edges among some nodes and into the logit, strongest first."""
    inside = {*places, *(i for i, node in enumerate(graph.nodes) if node.kind == "logit")}
    ends = list(zip(graph.source.tolist(), graph.target.tolist(), strict=True))
    kept = [edge for edge, (source, target) in enumerate(ends) if source in inside and target in inside]
    kept.sort(key=lambda edge: (-graph.weight_abs[edge], edge))
    names = [(str(graph.nodes[source]), str(graph.nodes[target])) for source, target in (ends[edge] for edge in kept)]
    return tuple(CircuitEdge(*name, float(graph.weight[edge])) for name, edge in zip(names, kept, strict=True))


def trace_of(scores: Sequence[SizeScore], n_prompts: int) -> tuple[Mapping[str, float], ...]:
    """Give the scored sizes as the steps of a search."""
    bill = _RUNS_PER_PROMPT * n_prompts
    return tuple(
        {"nodes": score.size, "kl_nats": score.kl_nats, "evaluations": bill * number}
        for number, score in enumerate(scores, start=1)
    )
