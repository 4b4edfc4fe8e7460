"""What a verification is asked for, validated before it gets here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The config of the stage; None means: derived from the size of the model."""

    draws: int | None = None
    """Random circuits of each null."""
    sequential: bool | None = None
    """Stop a random test at its tenth exceedance."""
    threshold: float = 0.9
    """Behavioural preservation that the lower bound of a verified circuit must exceed."""
    alpha: float = 0.01
    """Largest p-value against matched random circuits."""
    sizes: tuple[int, ...] = ()
    """Sizes in nodes that the curve reports beside its own."""
    bootstrap_draws: int = 5000
    """Resamples of the cluster bootstrap."""
    max_prompts: int | None = None
    """Most prompts of D_verify to use."""
    null_prompts: int | None = None
    """Prompts on which random circuits are scored."""
    cards: int = 400
    """Most feature cards to make."""
    seed: int = 0
