"""How much of each test is run: everything on small models, fixed subsets and early stops on large ones."""

from dataclasses import dataclass

from hagd.models.language_model import LanguageModel

LARGE_PARAMETERS = 10_000_000
"""Weights in blocks above which a model counts as large."""


@dataclass(frozen=True)
class Protocol:
    """Prompts and draws of every part. All subsets are the first prompts of each layout, so that they are fixed."""

    draws: int
    """Of the matched null, the one that counts."""
    uniform_draws: int
    stop_after: int | None
    """Exceedances that end a random test; None draws all."""
    null_prompts: int
    null_donors: int
    """Unpaired donors per prompt in all but the headline, of its three."""
    side_prompts: int
    """Of the side settings, some of which run almost the whole model."""
    curve_prompts: int
    edge_prompts: int
    edge_draws: int
    random_edge_prompts: int
    necessity_prompts: int
    necessity_draws: int
    control_prompts: int
    control_draws: int
    discover_prompts: int
    card_prompts: int

    @staticmethod
    def of(model: LanguageModel, *, draws: int | None, sequential: bool | None, null_prompts: int | None) -> "Protocol":
        """Choose the amounts for a model; what the caller gives stands."""
        large = parameters(model) > LARGE_PARAMETERS
        stop = 10 if (large if sequential is None else sequential) else None
        if large:
            return Protocol(
                draws=draws or 99,
                uniform_draws=min(49, draws or 49),
                stop_after=stop,
                null_prompts=null_prompts or 24,
                null_donors=1,
                side_prompts=64,
                curve_prompts=24,
                edge_prompts=48,
                edge_draws=4,
                random_edge_prompts=24,
                necessity_prompts=32,
                necessity_draws=5,
                control_prompts=48,
                control_draws=199,
                discover_prompts=64,
                card_prompts=64,
            )
        return Protocol(
            draws=draws or 999,
            uniform_draws=draws or 999,
            stop_after=stop,
            null_prompts=null_prompts or 200,
            null_donors=3,
            side_prompts=1 << 30,
            curve_prompts=200,
            edge_prompts=1 << 30,
            edge_draws=19,
            random_edge_prompts=100,
            necessity_prompts=200,
            necessity_draws=29,
            control_prompts=200,
            control_draws=199,
            discover_prompts=512,
            card_prompts=512,
        )


def parameters(model: LanguageModel) -> int:
    """Count the weights in blocks."""
    config = model.config
    matrices = 2 if model.blocks[0].mlp.w_gate is None else 3
    attention = 2 * config.d_model * config.d_head * (config.n_heads + config.n_kv_heads)
    return config.n_layers * (attention + matrices * config.d_model * config.d_mlp)
