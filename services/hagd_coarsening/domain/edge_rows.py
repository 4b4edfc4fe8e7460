"""Sums over prompts of the edges into a few targets, and their thinning to the strongest.

Rows are dense over the possible sources of these targets only; nothing of size nodes x nodes exists, let alone per
prompt. Edges between two features factor into a fixed matrix and two numbers per prompt, so that both the signed
sum and the sum of absolute values are one matrix product each.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.interventions.activations import Subject
from hagd_coarsening.domain.node_table import NodeTable, stage_of
from hagd_coarsening.domain.readers import FeatureReads
from hagd_coarsening.domain.sources import Sources


class Site(NamedTuple):
    """A place in the residual stream: a position of one layout, and the role that stands there."""

    pos: int
    role: int


@dataclass(frozen=True)
class EdgeList:
    """Edges into some targets, as parallel arrays."""

    source: Int[np.ndarray, " edge"]
    target: Int[np.ndarray, " edge"]
    weight: Float[np.ndarray, " edge"]
    weight_abs: Float[np.ndarray, " edge"]


class EdgeRows:
    """Accumulator of the edges into `targets` from the nodes `columns` (ascending node numbers)."""

    def __init__(
        self,
        subject: Subject,
        table: NodeTable,
        stage: int,
        targets: Int[np.ndarray, " target"],
        columns: Int[np.ndarray, " column"],
    ) -> None:
        self._subject = subject
        self._table = table
        self.targets = targets
        self.columns = columns
        self._n_slots = table.slots_before(stage)
        self._layers = [la for la in sorted(table.feature_nodes) if stage_of("feature", la, table.n_layers) < stage]
        shape = len(targets), len(columns)
        model = subject.model
        self._signed = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self._absolute = torch.zeros(shape, dtype=model.dtype, device=model.device)

    def add(
        self,
        rows: Int[np.ndarray, " row"],
        reads: Float[Tensor, "batch row d_model"],
        sources: Sources,
        site: Site,
    ) -> None:
        """Add the edges into some rows from everything written at one site, by the rows' read vectors there."""
        vectors = sources.vectors[:, site.pos, : self._n_slots]
        values = reads @ vectors.transpose(1, 2)
        self._sum(rows, self._table.slot_nodes[site.role, : self._n_slots], values)
        for layer in self._layers:
            live, nodes = self._table.live_features(layer, site.role)
            at = torch.from_numpy(live).to(reads.device)
            decoded = reads @ self._subject.dictionaries[layer].w_dec[at].T
            self._sum(rows, nodes, decoded * sources.features[layer][:, None, site.pos, at])

    def add_features(self, wanted: Int[Tensor, " target"], reads: FeatureReads, sources: Sources, site: Site) -> None:
        """Add the edges at one site into all targets, which are the features numbered `wanted` of one layer."""
        rows = np.arange(len(self.targets))
        directions, factors = reads.directions[wanted], reads.factors[:, site.pos, wanted]
        vectors = sources.vectors[:, site.pos, : self._n_slots]
        values = (vectors @ directions.T).transpose(1, 2) * factors[:, :, None]
        self._sum(rows, self._table.slot_nodes[site.role, : self._n_slots], values)
        for layer in self._layers:
            live, nodes = self._table.live_features(layer, site.role)
            at = torch.from_numpy(live).to(directions.device)
            virtual = directions @ self._subject.dictionaries[layer].w_dec[at].T
            active = sources.features[layer][:, site.pos, at]
            absolute = virtual.abs() * (factors.abs().T @ active.abs())
            self._place(rows, nodes, virtual * (factors.T @ active), absolute)

    def _sum(
        self, rows: Int[np.ndarray, " row"], nodes: Int[np.ndarray, " node"], values: Float[Tensor, "batch row node"]
    ) -> None:
        self._place(rows, nodes, values.sum(0), values.abs().sum(0))

    def _place(
        self,
        rows: Int[np.ndarray, " row"],
        nodes: Int[np.ndarray, " node"],
        signed: Float[Tensor, "row node"],
        absolute: Float[Tensor, "row node"],
    ) -> None:
        down = torch.from_numpy(rows)[:, None].to(signed.device)
        across = torch.from_numpy(np.searchsorted(self.columns, nodes)).to(signed.device)
        self._signed[down, across] += signed
        self._absolute[down, across] += absolute

    def shares(self) -> Float[Tensor, "target column"]:
        """Give each target's incoming |weight| as shares that sum to 1, or to 0 where nothing comes in."""
        total = self._absolute.sum(1, keepdim=True)
        return self._absolute / torch.where(total > 0, total, 1.0)

    def strongest(self, n_prompts: int, per_target: int | None, threshold: float) -> EdgeList:
        """Keep the `per_target` edges of largest mean |weight| into each target (None keeps all).

        Edges below `threshold` times the largest one into the same target are left out in any case.
        """
        absolute = self._absolute.cpu()
        n_kept = len(self.columns) if per_target is None else min(per_target, len(self.columns))
        top, where = absolute.topk(n_kept, dim=1)
        keep = (top > 0) & (top >= threshold * top[:, :1])
        rows = keep.nonzero()[:, 0]
        where = where[keep]
        order = torch.argsort(rows * len(self.columns) + where)
        rows, where = rows[order], where[order]
        return EdgeList(
            self.columns[where.numpy()],
            self.targets[rows.numpy()],
            (self._signed.cpu()[rows, where] / n_prompts).numpy(),
            (absolute[rows, where] / n_prompts).numpy(),
        )
