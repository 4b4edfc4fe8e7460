"""Stage 2 as the pipeline sees it: name, inputs, outputs and a validated config. Loads without torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields


class CoarseningConfig(BaseModel):
    """Config of the graph and its hierarchy. Null means: derived from the size of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    resolution: Literal["auto", "feature", "mixed"] = "auto"
    """`feature`: every MLP with a dictionary is resolved into features. `mixed`: every MLP is one block.
    `auto`: mixed for a large model."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """Most prompts of D_discover; null for 512, or 32 for a large model."""
    edges_per_node: Annotated[int, Field(ge=1)] = 64
    """Strongest incoming edges kept per node; the logit keeps all."""
    edge_threshold: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """Edges below this share of the strongest one into the same node are left out."""
    source_value: Literal["activation", "difference"] = "activation"
    """What an edge multiplies the gradient with: the clean output, or clean minus counterfactual."""
    steps: Annotated[int, Field(ge=1, le=64)] = 1
    """Points at which gradients are taken between counterfactual and clean prompt (integrated gradients), which takes
    `source_value` difference and some `steps` times as long; 1 takes them at the clean prompt alone."""
    branching: Annotated[int, Field(ge=2)] = 4
    """A level of n groups has ceil(n / branching) parents."""
    affinity: Literal["log1p", "raw", "row", "functional"] = "log1p"
    """How |weights| become similarity; `functional` adds the likeness of effects on the answers."""
    n_vectors: Annotated[int, Field(ge=2)] = 32
    """Eigenvectors of the embedding."""
    seed: int = 0


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown or out of range.
    """
    return read_config(config).model_dump(mode="json", exclude_defaults=True)


def read_config(config: Config) -> CoarseningConfig:
    """Parse a config; errors as in `resolve`."""
    checked = read_fields("coarsening", CoarseningConfig, config)
    if checked.steps > 1 and checked.source_value != "difference":
        raise InvalidInputError(
            "integrated gradients go from the counterfactual to the clean prompt", "set source_value to 'difference'"
        )
    return checked


STAGE = StageSpec(
    id="coarsening",
    semantics_version=1,
    inputs=("model", "task", "dictionaries"),
    outputs=("graph", "hierarchy"),
    run="hagd_coarsening.stage:run",
    resolve=resolve,
    title="Building the attribution graph and its hierarchy",
    fields=fields_of(CoarseningConfig),
)
