"""The stage that trains the dictionaries of arXiv 2601.12879 as it prints them, to measure what they explain.

This module only checks configs and loads without torch; the work is in `paper_stage.py`.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PaperConfig(BaseModel):
    """Config of the autoencoders."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    n_features: Positive | None = None
    """Features per layer; null for eight times the width of the residual stream."""
    k: Positive = 32
    """Features kept per token."""
    tokens: Positive | None = None
    """Tokens to train on; null for once through the corpus."""
    batch: Positive = 512
    """Tokens per update of the weights, about."""
    buffer: Positive = 4096
    """Tokens that the model reads at once, to be shuffled and divided into updates."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2e-3
    """Of Adam."""
    prediction: Weight = 0.1
    """Weight of the error in the next layer's features; the paper prints no value."""
    sparsity: Weight = 1e-3
    """Weight of the features' L1 norm; the paper prints no value."""
    checkpoints: Positive = 10
    """How often the state is kept on the way; besides, whenever five minutes have passed."""
    seed: Annotated[int, Field(ge=0)] = 0


def read_paper_config(config: Config) -> PaperConfig:
    """Check a config.

    Raises:
        InvalidInputError: a field is unknown or out of range, or k exceeds the features.
    """
    checked = read_fields("paper-autoencoder", PaperConfig, config)
    if checked.n_features is not None and checked.k > checked.n_features:
        raise InvalidInputError(
            f"paper-autoencoder.k is {checked.k}, but there are only {checked.n_features} features",
            "lower k or raise n_features",
        )
    return checked


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default; errors as in `read_paper_config`."""
    return read_paper_config(config).model_dump(mode="json", exclude_defaults=True, exclude={"checkpoints"})


STAGE = StageSpec(
    id="paper-autoencoder",
    semantics_version=1,
    inputs=("model", "corpus"),
    outputs=("dictionaries", "training"),
    run="hagd_transcoder.paper_stage:run",
    resolve=resolve,
    local_fields=frozenset({"checkpoints"}),
    title="Training the paper's autoencoders",
    fields=fields_of(PaperConfig),
)
