"""The dictionaries that arXiv 2601.12879 prints: an autoencoder of the residual stream behind every block, and a
predictor of the next one's features. For reproduction alone.

    f_l = TopK(ReLU(h_l W_E + b_E), k)        h_l ~ f_l D_l        f_{l+1} ~ ReLU(f_l W_P + b_P)

They stand in for the whole stream, heads included, and not for an MLP; so no graph and no circuit can be made of them.
The paper does not name its second nonlinearity: features are never negative and have no bound, so it is ReLU here.
"""

from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import keep_top

SCHEMA: Final = "hagd.paper-autoencoder/v1"
_PARTS: Final = ("w_enc", "b_enc", "w_dec", "w_next", "b_next")


@dataclass(frozen=True)
class PaperAutoencoder:
    """Weights of all layers, stacked."""

    k: int
    """Features kept per token."""
    w_enc: Float[Tensor, "layer d_model d_feature"]
    b_enc: Float[Tensor, "layer d_feature"]
    w_dec: Float[Tensor, "layer d_feature d_model"]
    w_next: Float[Tensor, "_ d_feature d_feature"]
    """Of every layer but the last: the features that follow from its own."""
    b_next: Float[Tensor, "_ d_feature"]

    @property
    def n_layers(self) -> int:
        return len(self.w_enc)

    def encode(self, layer: int, h: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the features of the residual stream behind a block."""
        dense = torch.relu(h @ self.w_enc[layer] + self.b_enc[layer])
        return keep_top(dense, torch.ones_like(self.b_enc[layer]), self.k)

    def decode(self, layer: int, features: Float[Tensor, "*batch d_feature"]) -> Float[Tensor, "*batch d_model"]:
        """Give the residual stream that features stand for."""
        return features @ self.w_dec[layer]

    def predict(self, layer: int, features: Float[Tensor, "*batch d_feature"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the features expected behind the next block."""
        return torch.relu(features @ self.w_next[layer] + self.b_next[layer])


def paper_to_document(autoencoder: PaperAutoencoder, metrics: dict[str, Any]) -> Document:
    """Serialise the autoencoders, with what was measured of them (JSON content)."""
    tensors = {name: getattr(autoencoder, name).detach().float().cpu().numpy() for name in _PARTS}
    return Document({"schema": SCHEMA, "k": autoencoder.k, "metrics": metrics}, tensors)
