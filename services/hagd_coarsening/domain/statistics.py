"""What each node does on average: its attribution to the metric, its activity.

The attribution of a node on one prompt is g · (clean output - donor's output), g the gradient of the metric at
that output through the whole real model: to first order what the metric loses when the node is replaced. It is
averaged over two donors, the counterfactual and an unpaired prompt, because a circuit is judged on both.
"""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.interventions.activations import Activations, Subject
from hagd_coarsening.domain.node_table import NodeTable
from hagd_coarsening.domain.sources import Sources
from hagd_coarsening.domain.trace import Trace

NAMES = (
    "score",
    "score_abs",
    "score_gradient_activation",
    "score_gradient_activation_abs",
    "activation",
    "frequency",
)
"""`score` and `score_abs`: mean over prompts and donors of the attribution and of its absolute value, in logits.
`score_gradient_activation(_abs)`: the same with a donor of zero. `activation`: mean activation of a feature, mean
length of the written vector of other nodes. `frequency`: share of prompts where the node is active."""

_Values = Mapping[str, Float[Tensor, "batch entry"]]


class NodeStatistics:
    """Accumulator over traces. The logit's score is the metric's own drop from clean to donor."""

    def __init__(self, subject: Subject, table: NodeTable) -> None:
        self._subject = subject
        self._table = table
        self._sums = {name: np.zeros(len(table.nodes)) for name in NAMES}

    def add(self, trace: Trace, roles: tuple[int, ...], clean: Sources) -> None:
        """Add the prompts of one trace; `roles` holds the role index of each position."""
        lengths = clean.vectors.norm(dim=-1)
        values = {"activation": lengths, "frequency": torch.ones_like(lengths)}
        values |= _scores(
            *(self._vector_attributions(trace, run) for run in (trace.counterfactual, trace.unpaired, None))
        )
        for pos, role in enumerate(roles):
            self._sum(self._table.slot_nodes[role], {name: value[:, pos] for name, value in values.items()})
        for layer in self._table.feature_nodes:
            self._add_features(trace, roles, layer)
        drops = [(trace.metric - donor)[:, None] for donor in trace.donor_metrics]
        metric = trace.metric[:, None]
        values = {"activation": metric, "frequency": torch.ones_like(metric), **_scores(drops[0], drops[1], metric)}
        self._sum(np.array([self._table.logit]), values)

    def finish(self, n_prompts: int) -> dict[str, Float[np.ndarray, " node"]]:
        """Give the means."""
        return {name: value / n_prompts for name, value in self._sums.items()}

    def _vector_attributions(self, trace: Trace, donor: Activations | None) -> Float[Tensor, "batch pos slot"]:
        """Attribute to every slot; without a donor, to its whole output."""
        clean, gradients = trace.clean, trace.gradients

        def attribute(gradient: Tensor, here: Tensor, there: Tensor | None) -> Tensor:
            return (gradient * (here if there is None else here - there)).sum(-1)

        parts = [attribute(gradients.embed, clean.embed, donor and donor.embed)[..., None]]
        for layer, toward in enumerate(gradients.mlps):
            parts.append(attribute(gradients.heads[layer], clean.heads[layer], donor and donor.heads[layer]))
            if layer not in self._table.feature_nodes:
                parts.append(attribute(toward, clean.mlp_out[layer], donor and donor.mlp_out[layer])[..., None])
                continue
            parts.append(attribute(toward, clean.errors[layer], donor and donor.errors[layer])[..., None])
            if layer in clean.skips:
                parts.append(attribute(toward, clean.skips[layer], donor and donor.skips[layer])[..., None])
        return torch.cat(parts, -1)

    def _add_features(self, trace: Trace, roles: tuple[int, ...], layer: int) -> None:
        decoder = self._subject.dictionaries[layer].w_dec
        for pos, role in enumerate(roles):
            live, nodes = self._table.live_features(layer, role)
            at = torch.from_numpy(live).to(decoder.device)
            toward = trace.gradients.mlps[layer][:, pos] @ decoder[at].T
            here = trace.clean.features[layer][:, pos, at]
            drops = [here - run.features[layer][:, pos, at] for run in (trace.counterfactual, trace.unpaired)]
            values = {"activation": here, "frequency": (here != 0).to(here.dtype)}
            self._sum(nodes, values | _scores(toward * drops[0], toward * drops[1], toward * here))

    def _sum(self, nodes: Int[np.ndarray, " entry"], values: _Values) -> None:
        for name, value in values.items():
            self._sums[name][nodes] += value.double().sum(0).cpu().numpy()


def _scores(first: Tensor, second: Tensor, whole: Tensor) -> dict[str, Tensor]:
    """Name attributions against two donors, and of the whole output, as statistics."""
    return {
        "score": (first + second) / 2,
        "score_abs": (first.abs() + second.abs()) / 2,
        "score_gradient_activation": whole,
        "score_gradient_activation_abs": whole.abs(),
    }
