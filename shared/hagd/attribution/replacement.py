"""One view of all kinds of dictionaries: what stands in for the MLPs of a model.

Per-layer dictionaries write to their own layer only, cross-layer ones to every later layer too; layers without a
dictionary have no features, and all that their MLP writes is error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from hagd.dictionaries.cross_layer import CrossLayerTranscoder, Dictionaries
from hagd.errors import InvalidInputError
from hagd.models.language_model import ACTIVATIONS, LanguageModel


@dataclass(frozen=True)
class Encoder:
    """How the features of one layer read: `scalar = factor * (x @ w_enc + b_enc)`, the factor frozen."""

    w_enc: Float[Tensor, "d_model d_feature"]
    b_enc: Float[Tensor, " d_feature"]
    gate: tuple[Float[Tensor, "d_model d_feature"], Float[Tensor, " d_feature"] | None, str] | None
    """Weights, bias and activation of the gate of a product encoder; None where the factor is 1."""

    def factor(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"] | None:
        """Give the gate's value at every feature; None where it is 1 everywhere."""
        if self.gate is None:
            return None
        weights, bias, activation = self.gate
        inner = x @ weights
        return ACTIVATIONS[activation](inner if bias is None else inner + bias)


class Replacement:
    """The dictionaries of a model."""

    def __init__(self, dictionaries: Dictionaries, model: LanguageModel) -> None:
        """Check that the dictionaries belong to a model of this shape.

        Raises:
            InvalidInputError: a dictionary is of another width, or of a layer that the model has not.
        """
        self._dictionaries = dictionaries
        self.n_layers = model.config.n_layers
        self._width = model.config.d_model
        if isinstance(dictionaries, CrossLayerTranscoder):
            layers, widths = range(dictionaries.n_layers), {it.shape[0] for it in dictionaries.w_enc}
        else:
            layers, widths = dictionaries, {it.w_enc.shape[0] for it in dictionaries.values()}
        if widths - {self._width}:
            raise InvalidInputError(
                f"the dictionaries are of width {min(widths - {self._width})}, the model of width {self._width}",
                "give the dictionaries of this model",
            )
        if unknown := sorted(set(layers) - set(range(self.n_layers))):
            raise InvalidInputError(
                f"there is a dictionary of layer {unknown[-1]}, but the model has {self.n_layers} layers",
                "give the dictionaries of this model",
            )

    @property
    def across(self) -> bool:
        """Tell whether features write to later layers than their own."""
        return isinstance(self._dictionaries, CrossLayerTranscoder)

    def has(self, layer: int) -> bool:
        """Tell whether a layer has features."""
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return layer < self._dictionaries.n_layers
        return layer in self._dictionaries

    def n_features(self, layer: int) -> int:
        """Count the features of a layer."""
        return self.encoder(layer).w_enc.shape[1] if self.has(layer) else 0

    def surely_active(self, layer: int) -> int:
        """Count those that are active on any token: all neurons, and what TopK keeps; 0 where that is open."""
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return min(self._dictionaries.k or 0, self.n_features(layer))
        found = self._dictionaries.get(layer)
        if found is None:
            return 0
        return found.n_features if found.kind == "neurons" else min(found.k or 0, found.n_features)

    def encode(self, layer: int, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_feature"]:
        """Give the sparse activations of the features of one layer."""
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return self._dictionaries.encode(layer, x)
        return self._dictionaries[layer].encode(x)

    def decode(
        self,
        layer: int,
        features: Sequence[Float[Tensor, "*batch _"]] | Mapping[int, Float[Tensor, "*batch _"]],
        x: Float[Tensor, "*batch d_model"],
    ) -> Float[Tensor, "*batch d_model"]:
        """Give what features, biases and skip path write in place of a layer's MLP.

        Args:
            layer: where they write.
            features: activations by layer, of this one, and of those before it where features write across layers.
            x: what the MLP reads.
        """
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return self._dictionaries.decode(layer, features, x)
        return self._dictionaries[layer].decode(features[layer], x)

    def encoder(self, layer: int) -> Encoder:
        """Give how the features of a layer read."""
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return Encoder(self._dictionaries.w_enc[layer], self._dictionaries.b_enc[layer], None)
        found = self._dictionaries[layer]
        gate = None if found.w_gate is None else (found.w_gate, found.b_gate, found.activation)
        return Encoder(found.w_enc, found.b_enc, gate)

    def writers(self, layer: int) -> Mapping[int, Float[Tensor, "d_feature d_model"]]:
        """Give the decoders that write to a layer, by the layer whose features they belong to."""
        if not self.has(layer):
            return {}
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return {source: self._dictionaries.w_dec[source][layer - source] for source in range(layer + 1)}
        return {layer: self._dictionaries[layer].w_dec}

    def bias(self, layer: int) -> Float[Tensor, " d_model"] | None:
        """Give what is written to a layer whatever the features do; None without a dictionary."""
        if not self.has(layer):
            return None
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return self._dictionaries.b_dec[layer]
        return self._dictionaries[layer].b_dec

    def skip(self, layer: int) -> Float[Tensor, "d_model d_model"] | None:
        """Give the linear path beside the features of a layer, which edges run through; None without one."""
        if not self.has(layer):
            return None
        if isinstance(self._dictionaries, CrossLayerTranscoder):
            return None if self._dictionaries.w_skip is None else self._dictionaries.w_skip[layer]
        return self._dictionaries[layer].w_skip
