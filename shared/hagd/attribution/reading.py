"""What the targets of a frozen prompt read: one vector each, at their own position and depth."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hagd.attribution.frozen import FrozenPrompt, Stream
from hagd.attribution.standing import Site, mlp_site
from hagd.attribution.targets import Targets


@dataclass(frozen=True)
class Readers:
    """Targets that read at the same depth, by position."""

    vectors: Float[Tensor, "row d_model"]
    """The gradient of each one's scalar at the residual stream, denominators and gates frozen."""
    positions: Int[Tensor, " row"]
    site: Site
    scalars: Float[Tensor, " row"]
    biases: Float[Tensor, " row"]
    """What the scalar would be if no node wrote anything."""

    def part(self, rows: slice) -> "Readers":
        """Give some of them."""
        return Readers(self.vectors[rows], self.positions[rows], self.site, self.scalars[rows], self.biases[rows])

    def __len__(self) -> int:
        return len(self.positions)


def read_features(frozen: FrozenPrompt, silent: Stream, layer: int, which: Int[Tensor, " row"]) -> Readers:
    """Give how some of the active features of a layer read; `silent` is the stream that biases alone make."""
    active, norm = frozen.layers[layer].features, frozen.model.blocks[layer].norm_mlp
    positions, ids, factors = active.positions[which], active.ids[which], active.factors[which][:, None]
    encoder = frozen.replacement.encoder(layer)
    rows = encoder.w_enc.T[ids] * factors
    own = encoder.b_enc[ids] * factors[:, 0]
    vectors = norm.pull_back(rows, frozen.layers[layer].mlp_scale[positions])
    if norm.bias is not None:
        own = own + rows @ norm.bias
    heard = frozen.stream.before_mlp[layer][positions]
    quiet = silent.before_mlp[layer][positions]
    return Readers(
        vectors,
        positions,
        mlp_site(frozen, layer),
        torch.einsum("rd,rd->r", vectors, heard) + own,
        torch.einsum("rd,rd->r", vectors, quiet) + own,
    )


def read_targets(frozen: FrozenPrompt, silent: Stream, targets: Targets) -> Readers:
    """Give how the ends of a graph read: through the final norm, at the last position."""
    norm, last = frozen.model.norm_final, frozen.n_pos - 1
    vectors = norm.pull_back(targets.directions, frozen.final_scale[last])
    own = targets.directions @ norm.bias if norm.bias is not None else targets.directions.new_zeros(len(targets))
    return Readers(
        vectors,
        torch.full((len(targets),), last, device=vectors.device),
        Site(frozen.model.config.n_layers, between=False),
        vectors @ frozen.stream.final[last] + own,
        vectors @ silent.final[last] + own,
    )
