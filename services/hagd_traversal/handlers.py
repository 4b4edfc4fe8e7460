"""Stage 3 as the pipeline sees it: name, inputs, outputs and a validated config. Loads without torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields


class TraversalConfig(BaseModel):
    """Config of the traversal. Null means: derived from the size of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    resolution: Literal["auto", "feature", "mixed"] = "auto"
    """`feature`: every MLP is resolved into features. `mixed`: whole blocks, refined where a sparse part works."""
    budget: Annotated[int, Field(gt=0)] | None = None
    """Causal evaluations the search may spend."""
    max_nodes: Annotated[int, Field(gt=0)] | None = None
    """Largest circuit that may be chosen."""
    target: Annotated[float, Field(gt=0, le=1)] = 0.97
    """Behavioural preservation on D_select that the chosen size must reach, if any does."""
    prompts: Annotated[int, Field(ge=16)] | None = None
    """Discovery prompts used for causal tests."""
    guide: Literal["gnn", "influence"] = "gnn"
    """What orders the groups: membership scores on top of influence, or influence alone (a control)."""
    seed: int = 0


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown or out of range.
    """
    return read_fields("traversal", TraversalConfig, config).model_dump(exclude_defaults=True)


STAGE = StageSpec(
    id="traversal",
    semantics_version=2,
    inputs=("model", "task", "dictionaries", "graph", "hierarchy"),
    outputs=("circuit",),
    run="hagd_traversal.extraction:run",
    resolve=resolve,
    title="Searching the circuit",
    fields=fields_of(TraversalConfig),
)
