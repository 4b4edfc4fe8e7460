"""Stage 4 as the pipeline sees it: name, inputs, outputs and a validated config. Loads without torch."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields

Count = Annotated[int, Field(gt=0)]


class VerificationConfig(BaseModel):
    """Config of the verification. Null means: derived from the size of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    draws: Count | None = None
    """Random circuits of each null: 999 on small models; on large ones 99 of the matched, 49 of the uniform null. Fewer
    than 1/alpha - 1 exclude nothing."""
    sequential: bool | None = None
    """Stop a random test at its tenth exceedance; on for models above ten million parameters."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Behavioural preservation that the lower bound of a verified circuit must exceed."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Largest p-value against matched random circuits."""
    sizes: tuple[Count, ...] = ()
    """Sizes in nodes that the curve reports beside its own."""
    bootstrap_draws: Annotated[int, Field(ge=100)] = 5000
    """Resamples of the cluster bootstrap."""
    max_prompts: Annotated[int, Field(ge=16)] | None = None
    """Most prompts of D_verify to use; null uses all."""
    null_prompts: Annotated[int, Field(ge=16)] | None = None
    """Prompts on which random circuits are scored; 200 on small models, 24 on large ones."""
    cards: Annotated[int, Field(ge=0)] = 400
    """Most feature cards to make."""
    seed: int = 0


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown or out of range.
    """
    return read_fields("verification", VerificationConfig, config).model_dump(mode="json", exclude_defaults=True)


STAGE = StageSpec(
    id="verification",
    semantics_version=2,
    inputs=("model", "task", "dictionaries", "graph", "circuit"),
    outputs=("verification", "cards"),
    run="hagd_verification.stage:run",
    resolve=resolve,
    title="Verifying in the real model",
    fields=fields_of(VerificationConfig),
)
