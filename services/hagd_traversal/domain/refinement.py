"""Refine kept MLP blocks into features where a sparse part of them does the work.

For every kept block the features of its dictionary are ranked by what they add to the metric in place; the smallest
power-of-two set that keeps the circuit's KL within a tolerance replaces the block, as one supernode. A block that needs
most of its features stays a block, marked unexplained.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hagd.interventions.engine import CircuitRun
from hagd.interventions.universe import Universe
from hagd_traversal.domain.evidence import Evidence


@dataclass(frozen=True)
class RefinementConfig:
    """When a refinement is worth it."""

    tolerance_nats: float
    """KL that refining one block may add."""
    largest_share: float = 0.5
    """Share of a block's features above which it stays whole."""
    smallest: int = 8
    """First number of features tried."""


def refine_blocks(
    evidence: Evidence, circuit: Float[Tensor, " node"], config: RefinementConfig, budget: int
) -> Mapping[int, list[int]]:
    """Give, for each kept block that was refined, the features that replace it (as entries of the universe).

    Args:
        evidence: over a universe where nothing is refined yet but dictionaries are present; its universe is
            replaced as blocks are refined.
        circuit: the chosen circuit with whole blocks.
        config: tolerances.
        budget: evaluations that may be spent in total.
    """
    universe = evidence.universe
    importance = _feature_importance(evidence, circuit)
    runs = evidence.runs(circuit)
    state = _State(circuit, runs, evidence.divergence_of(runs))
    live: list[int] = (circuit != 0).nonzero().flatten().tolist()
    blocks = sorted((i for i in live if int(universe.kinds[i]) == 2), key=universe.layers.tolist().__getitem__)
    with_dictionary = {layer for layer, _ in universe.feature_counts}
    replaced: dict[int, list[int]] = {}
    for block in reversed(blocks):
        if int(universe.layers[block]) not in with_dictionary or evidence.spent >= budget:
            continue
        features = _features_of(universe, block)
        ranked: list[int] = features[importance[features].argsort(descending=True)].tolist()
        kept = _refine_one(evidence, state, block, ranked, config)
        if kept is not None:
            replaced[block] = kept
    return replaced


@dataclass
class _State:
    circuit: Float[Tensor, " node"]
    runs: list[CircuitRun]
    kl_nats: float


def _refine_one(
    evidence: Evidence, state: _State, block: int, ranked: list[int], config: RefinementConfig
) -> list[int] | None:
    """Replace one block by its smallest sufficient set of features; None leaves it whole."""
    universe, layer = evidence.universe, int(evidence.universe.layers[block])
    refined = universe.refined.clone()
    refined[layer, universe.role_ids[block]] = True
    evidence.universe = universe.coarsened(refined)
    size = config.smallest
    while size <= config.largest_share * len(ranked):
        trial = state.circuit.clone()
        trial[block] = 0.0
        trial[ranked[:size]] = 1.0
        runs = evidence.runs(trial, layer, state.runs)
        kl_nats = evidence.divergence_of(runs)
        if kl_nats <= state.kl_nats + config.tolerance_nats:
            state.circuit, state.runs, state.kl_nats = trial, runs, kl_nats
            return ranked[:size]
        size *= 2
    evidence.universe = universe
    return None


def _features_of(universe: Universe, block: int) -> Tensor:
    here = (universe.layers == universe.layers[block]) & (universe.role_ids == universe.role_ids[block])
    return (here & (universe.kinds == 5)).nonzero().flatten()


def _feature_importance(evidence: Evidence, circuit: Float[Tensor, " node"]) -> Float[Tensor, " node"]:
    """Give |metric gradient times difference| of every feature of the kept blocks, all of them refined at once."""
    universe = evidence.universe
    blocks = (circuit != 0) & (universe.kinds == 2)
    refined = universe.refined.clone()
    with_dictionary = {layer for layer, _ in universe.feature_counts}
    opened = circuit.clone()
    for block in blocks.nonzero().flatten().tolist():
        if int(universe.layers[block]) in with_dictionary:
            refined[universe.layers[block], universe.role_ids[block]] = True
            opened[block] = 0.0
            opened[_features_of(universe, block)] = 1.0
    evidence.universe = universe.coarsened(refined)
    scores = evidence.gate_gradients(opened, (1.0,), objective="metric", parts=8)
    evidence.universe = universe
    return scores.abs().amax(0)
