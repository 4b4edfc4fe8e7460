"""Small trained models with their graphs, hierarchies and causal labels: real examples to learn from.

The other stages are driven as any run drives them, by plan and artifact, so this module needs none of their code and
finished work is found again in the folder of the runs. Examples are made at two resolutions: features, and whole
blocks.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hagd.artifacts.document import Document
from hagd.dictionaries.storage import dictionaries_from_document
from hagd.execution.inline import InlineExecutor
from hagd.graphs.attribution_graph import AttributionGraph
from hagd.graphs.storage import graph_from_document, hierarchy_from_document
from hagd.interventions.activations import Subject
from hagd.interventions.evaluation import prepare
from hagd.interventions.universe import Universe
from hagd.models.storage import model_from_document
from hagd.pipeline.embedded import EmbeddedRuntime
from hagd.pipeline.request import Request
from hagd.pipeline.stages import find_stage, plan_entry
from hagd.tasks.storage import task_from_document
from hagd_traversal.membership.examples import Example, make_example
from hagd_traversal.membership.labels import SetEffects, measure_set_effects

_STAGES = ("subject", "transcoder", "coarsening")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """One small model and its dictionaries."""

    task: Mapping[str, Any]
    seed: int
    transcoder: Mapping[str, Any] = field(default_factory=dict[str, Any])
    n_sets: int = 24
    prompts_per_set: int = 24

    @property
    def family(self) -> str:
        return str(self.task["name"])

    @property
    def model(self) -> str:
        """Name the base model: examples that share one must not stand on both sides of a split."""
        details = "-".join(str(value) for name, value in sorted(self.task.items()) if name != "name")
        return f"{self.family}-{details}-seed{self.seed}".replace("--", "-")

    @property
    def name(self) -> str:
        return f"{self.model}-{self.transcoder.get('kind', 'transcoder')}"


def _recipes() -> Iterator[Recipe]:
    learned = {"kind": "transcoder", "steps": 200}
    for modulus, seed in ((23, 0), (29, 0), (29, 1), (31, 0), (31, 1), (37, 0), (43, 0)):
        task = {"name": "modular-addition", "modulus": modulus}
        yield Recipe(task, seed, learned)
    yield Recipe({"name": "modular-addition", "modulus": 31}, 0, {"kind": "neurons"})
    for seed in (0, 1, 2):
        yield Recipe({"name": "parity"}, seed, {**learned, "n_features": 64, "k": 32}, 12)
    yield Recipe({"name": "parity"}, 0, {"kind": "neurons"}, 6)
    for seed in (0, 1, 2):
        yield Recipe({"name": "sorting"}, seed, {**learned, "n_features": 96, "k": 48}, 12)
    yield Recipe({"name": "sorting"}, 0, {"kind": "neurons"}, 6)


RECIPES = tuple(_recipes())


def real_examples(recipes: Sequence[Recipe], folder: Path, tell: Callable[[str], None]) -> list[Example]:
    """Make the examples of every recipe whose model learns its task; the others are named and left out.

    Raises:
        HagdError: the folder cannot be used.
    """
    stages = {stage: find_stage(stage) for stage in _STAGES}
    examples: list[Example] = []
    with EmbeddedRuntime(folder, executor=InlineExecutor(), stages=stages) as runtime:
        for recipe in recipes:
            for resolution in ("feature", "mixed"):
                if resolution == "mixed" and recipe.transcoder.get("kind") == "neurons":
                    continue
                documents = _run_stages(runtime, recipe, resolution)
                if documents is None:
                    tell(f"{recipe.name}: left out, {resolution} resolution did not come to a result")
                    continue
                example, effects = _label(recipe, documents, resolution)
                tell(
                    f"{recipe.name}, {resolution}: {int(example.labels[0].sum())} of {len(example.judged[0])} nodes "
                    f"are members, {effects.evaluations} evaluations"
                )
                examples.append(example)
    return examples


def _run_stages(runtime: EmbeddedRuntime, recipe: Recipe, resolution: str) -> Mapping[str, Document] | None:
    """Run subject, transcoder and coarsening; None where one of them failed."""
    configs: Mapping[str, Mapping[str, Any]] = {
        "subject": {"task": dict(recipe.task), "model": {"train": True, "seed": recipe.seed}},
        "transcoder": recipe.transcoder,
        "coarsening": {"resolution": resolution},
    }
    plan = tuple(plan_entry(stage, configs[stage]) for stage in _STAGES)
    state = runtime.run(Request("training", f"{recipe.name}-{resolution}", plan))
    if state.outcome is None or any(stage.status not in ("done", "cached") for stage in state.stages):
        _LOG.info("%s: %s", recipe.name, state.outcome)
        return None
    return {role: runtime.load(ref) for stage in state.stages for role, ref in stage.outputs.items()}


def _label(recipe: Recipe, documents: Mapping[str, Document], resolution: str) -> tuple[Example, SetEffects]:
    """Measure the effects of all nodes with a path to the logit, and carry them to the graph."""
    model, task = model_from_document(documents["model"]), task_from_document(documents["task"])
    graph = graph_from_document(documents["graph"])
    dictionaries = dictionaries_from_document(documents["dictionaries"]) if resolution == "feature" else {}
    subject = Subject(model, dictionaries)
    refined = torch.zeros(model.config.n_layers, len(task.roles), dtype=torch.bool)
    refined[list(dictionaries)] = True
    universe = Universe.of(subject, task.roles, refined)
    prepared = prepare(subject, universe, task, "discover", seed=recipe.seed, most=256)
    places = candidate_nodes(graph)
    entries = torch.tensor([universe.entry(graph.nodes[place]) for place in places])
    candidates = torch.zeros(len(universe), dtype=torch.bool)
    candidates[entries] = True
    effects = measure_set_effects(
        prepared, candidates, n_sets=recipe.n_sets, prompts_per_set=recipe.prompts_per_set, seed=recipe.seed
    )
    by_entry = torch.zeros(len(universe))
    by_entry[effects.entries] = effects.certain
    effect = np.full(graph.n_nodes, np.nan)
    effect[places] = by_entry[entries].double().numpy()
    hierarchy = hierarchy_from_document(documents["hierarchy"])
    return make_example(recipe.family, recipe.model, graph, hierarchy, effect), effects


def candidate_nodes(graph: AttributionGraph) -> list[int]:
    """List the nodes that may be in a circuit and have a path to the logit."""
    reached = graph.statistics["influence"] > 0
    return [i for i, node in enumerate(graph.nodes) if node.kind not in ("logit", "error") and reached[i]]
