"""What dictionaries make of one run of a model that is shown to them layer after layer."""

from jaxtyping import Float
from torch import Tensor

from hagd.attribution.replacement import Replacement


class Reconstruction:
    """One run. Features that write across layers are kept until it ends, others no longer than their layer."""

    def __init__(self, replacement: Replacement) -> None:
        self._replacement = replacement
        self._features: dict[int, Tensor] = {}

    def needs(self, layer: int) -> bool:
        """Say whether what follows depends on this layer being shown, even where nobody asks for it."""
        return self._replacement.across and self._replacement.has(layer)

    def show(
        self, layer: int, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Float[Tensor, "*batch d_feature"], Float[Tensor, "*batch d_model"]]:
        """Give the features of a layer, and what stands in for its MLP; every layer below was shown before."""
        if not self._replacement.across:
            self._features.clear()
        features = self._features[layer] = self._replacement.encode(layer, x)
        return features, self._replacement.decode(layer, self._features, x)
