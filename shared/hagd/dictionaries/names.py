"""Names of dictionaries, for those who only pass them on and load no torch."""

from typing import Final

NEURONS: Final = "neurons"
"""The model's own neurons, which need no folder."""
CROSS_LAYER: Final = "cross-layer"
"""The kind of one transcoder whose features write to their own layer and all later ones."""
PAPER: Final = "hagd-paper"
"""The autoencoders of the residual stream that arXiv 2601.12879 prints; they replace no MLP."""
