"""What nodes write into the residual stream: one vector per vector node, one number per feature.

A feature's vector is its activation times a decoder row that never changes, so it is kept as the number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.interventions.activations import Activations, Subject
from hagd_coarsening.domain.node_table import NodeTable

SourceValue = Literal["activation", "difference"]


@dataclass(frozen=True)
class Sources:
    """Outputs of all nodes at all positions, `vectors` in the order of `NodeTable.slots`."""

    vectors: Float[Tensor, "batch pos slot d_model"]
    features: Mapping[int, Float[Tensor, "batch pos d_feature"]]

    def minus(self, other: "Sources") -> "Sources":
        """Give the difference to the outputs of another run."""
        features = {layer: value - other.features[layer] for layer, value in self.features.items()}
        return Sources(self.vectors - other.vectors, features)


def sources_of(subject: Subject, table: NodeTable, values: Activations) -> Sources:
    """Stack the vectors that one run's nodes write."""
    stacked: list[Float[Tensor, "batch pos part d_model"]] = [values.embed[:, :, None]]
    for layer, block in enumerate(subject.model.blocks):
        stacked.append(torch.einsum("bphk,hkd->bphd", values.heads[layer], block.attention.w_o))
        if layer not in table.feature_nodes:
            stacked.append(values.mlp_out[layer][:, :, None])
            continue
        stacked.append(values.errors[layer][:, :, None])
        if layer in values.skips:
            stacked.append(values.skips[layer][:, :, None])
    return Sources(torch.cat(stacked, dim=2), {layer: values.features[layer] for layer in table.feature_nodes})
