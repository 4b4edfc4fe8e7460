"""Causal evidence on the discovery prompts, with its bill.

Prompts and donors are drawn anew whenever a method asks for it, so that nothing is fitted to one draw.

One evaluation is one prompt through one forward; a backward counts two. A run that starts at a later layer is
still billed whole, so that the bill does not depend on how clever the engine is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.interventions.activations import Activations
from hagd.interventions.engine import CircuitRun, run_circuit
from hagd.interventions.evaluation import Prepared, PreparedBatch, concatenate, divergence, metric
from hagd.interventions.gates import Gates
from hagd.interventions.universe import Universe
from hagd.tasks.donors import draw_donors
from hagd.tasks.splits import generator_for
from hagd.tasks.task import PromptBatch

_COUNTERFACTUAL_ONE_IN = 3


@dataclass(frozen=True)
class DonatedBatch:
    """Runs on prompts of one layout: first some with their counterfactual donor, then all with an unpaired one."""

    n_counterfactual: int
    batch: PromptBatch
    donor: Activations
    reference: Float[Tensor, "batch answer vocab"]


def _donate(prompts: PreparedBatch, most: int, draw: int, seed: int) -> DonatedBatch:
    """Draw prompts and pair them with donors. Unpaired donors, the harder test, take three runs in four."""
    generator = generator_for(seed, "evidence", draw)
    drawn = torch.randperm(len(prompts.batch), generator=generator)[:most]
    some = drawn[: -(-len(drawn) // _COUNTERFACTUAL_ONE_IN)]
    index = torch.cat([some, drawn])
    unpaired = draw_donors(prompts.batch, draw, seed)[drawn]
    donors = [prompts.counterfactual.take(some), prompts.clean.take(unpaired)]
    return DonatedBatch(len(some), prompts.batch.take(index), concatenate(donors), prompts.clean.logits[index])


class Evidence:
    """Divergence of circuits from the model on D_discover, under both donors of the headline."""

    def __init__(
        self,
        prepared: Prepared,
        prompts: int | None = None,
        seed: int = 0,
        on_spent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Make the first draw.

        Args:
            prepared: all discovery prompts.
            prompts: how many of them a draw holds; None for all.
            seed: equal seeds give equal draws.
            on_spent: hears the bill whenever it grows.
        """
        self.on_spent = on_spent
        self.subject = prepared.subject
        self.universe: Universe = prepared.universe
        self.spent = 0
        self._prepared, self._prompts, self._seed, self._draw = prepared, prompts, seed, 0
        self.redraw()

    def redraw(self, prompts: int | None = None) -> None:
        """Take other prompts and donors, as many as before or `prompts` from now on; older runs then do not compare."""
        self._prompts = prompts or self._prompts
        batches = self._prepared.batches
        most = max(len(b.batch) for b in batches) if self._prompts is None else -(-self._prompts // len(batches))
        self.batches = tuple(_donate(batch, most, self._draw, self._seed) for batch in batches)
        self.n_runs = sum(len(donated.batch) for donated in self.batches)
        self._draw += 1

    def bill(self, evaluations: int) -> None:
        """Add to what was spent."""
        self.spent += evaluations
        self.on_spent(self.spent)

    @torch.no_grad()
    def runs(
        self, circuit: Float[Tensor, " node"], start: int = 0, bases: Sequence[CircuitRun] | None = None
    ) -> list[CircuitRun]:
        """Run a circuit on every prompt; from layer `start` on top of `bases` if given."""
        self.bill(self.n_runs)
        return [
            self._run(d, self.universe.gates_at(circuit, d.batch.layout), start, bases[i] if bases else None)
            for i, d in enumerate(self.batches)
        ]

    def _run(self, donated: DonatedBatch, gates: Gates, start: int = 0, base: CircuitRun | None = None) -> CircuitRun:
        at = donated.batch.layout.answer_positions
        return run_circuit(self.subject, donated.batch.clean, at, donated.donor, gates, start=start, base=base)

    def divergence_of(self, runs: Sequence[CircuitRun]) -> float:
        """Give the mean KL(model || circuit) in nats, each prompt under each donor."""
        total = sum(float(divergence(d.reference, run.logits).sum()) for d, run in zip(self.batches, runs, strict=True))
        return total / self.n_runs

    def divergence(self, circuit: Float[Tensor, " node"]) -> float:
        """Run a circuit and give its mean KL in nats."""
        return self.divergence_of(self.runs(circuit))

    def opened_divergence(self, gates: Float[Tensor, " node"]) -> Float[Tensor, ""]:
        """Give the mean KL in nats with gates between 0 and 1, differentiable where a gate is not 0."""
        self.bill(3 * self.n_runs)
        total = torch.zeros(())
        for donated in self.batches:
            at, layout = donated.batch.layout.answer_positions, donated.batch.layout
            spread = self.universe.gates_at(gates, layout)
            run = run_circuit(self.subject, donated.batch.clean, at, donated.donor, spread, skip_closed=True)
            total = total + divergence(donated.reference, run.logits).sum()
        return total / self.n_runs

    def gate_gradients(
        self,
        circuit: Float[Tensor, " node"],
        points: Sequence[float],
        *,
        objective: str,
        parts: int,
    ) -> Float[Tensor, "donor node"]:
        """Integrate the gradient of the objective with respect to the gates, from 0 to `circuit`.

        `objective` is `metric` (what the node adds to the metric) or `divergence` (how much KL its removal adds,
        to first order). The two rows are the means over prompts under the counterfactual and the unpaired donors.
        """
        total = torch.zeros(2, len(circuit))
        counts = torch.zeros(2, 1)
        for donated in self.batches:
            runs = torch.arange(len(donated.batch)).tensor_split([donated.n_counterfactual])
            for donor, mine in enumerate(runs):
                counts[donor] += len(mine)
                for index in mine.split(parts):
                    for point in points:
                        gradient = self._gradient(donated, index, circuit * point, objective)
                        total[donor] += gradient / len(points)
                        self.bill(3 * len(index))
        return total / counts.clamp(min=1)

    def _gradient(
        self, donated: DonatedBatch, index: Int[Tensor, " kept"], at: Float[Tensor, " node"], objective: str
    ) -> Float[Tensor, " node"]:
        values = at.clone().requires_grad_(True)
        some = DonatedBatch(0, donated.batch.take(index), donated.donor.take(index), donated.reference[index])
        logits = self._run(some, self.universe.gates_at(values, some.batch.layout)).logits
        score = metric(logits, some.batch) if objective == "metric" else -divergence(some.reference, logits)
        return torch.autograd.grad(score.sum(), values)[0]
