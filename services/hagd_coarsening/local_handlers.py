"""The stage that traces one prompt, as the pipeline sees it. Loads without torch."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields


class LocalGraphStageConfig(BaseModel):
    """Config of a local graph."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    targets: tuple[str, ...] = ()
    """Tokens whose logits the graph ends at, each as text or as `#` and its number; none for the likeliest ones."""
    against: str | None = None
    """A token whose logit is taken from that of the one target."""
    vectors: dict[str, tuple[float, ...]] = {}
    """Directions behind the final norm that the graph ends at as well, or instead of the likeliest tokens, by name: one
    number per dimension of the residual stream."""
    logit_share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Of the likeliest tokens, as many as hold this share of the probability."""
    most_logits: Annotated[int, Field(ge=1)] = 10
    """And no more than these."""
    nodes: Annotated[int, Field(ge=1)] | None = None
    """Features with a node, chosen by influence; null for all that are active."""
    plain_positions: Annotated[int, Field(ge=0)] = 1
    """First positions without features: all that MLPs write there is error."""
    heads: bool = False
    """Heads are nodes, one at every position, and cut points: all other edges stay at their position."""
    half: bool = False
    """Products in bfloat16, where the processor has instructions for it."""
    spill: Literal["auto", "always", "never"] = "auto"
    """Whether rows go into a file on the disk of the run: where memory would not hold them, always, or never."""


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown or out of range.
    """
    return read_config(config).model_dump(mode="json", exclude_defaults=True)


def read_config(config: Config) -> LocalGraphStageConfig:
    """Parse a config; errors as in `resolve`."""
    checked = read_fields("local-graph", LocalGraphStageConfig, config)
    if checked.against is not None and len(checked.targets) != 1:
        raise InvalidInputError(
            f"a difference of logits needs one target, not {len(checked.targets)}", "name one target beside `against`"
        )
    return checked


STAGE = StageSpec(
    id="local-graph",
    semantics_version=2,
    inputs=("model", "dictionaries", "prompt"),
    outputs=("local_graph",),
    run="hagd_coarsening.local_stage:run",
    resolve=resolve,
    local_fields=frozenset({"spill"}),
    title="Tracing the prompt",
    estimate="hagd_coarsening.local_estimate:estimate",
    fields=fields_of(LocalGraphStageConfig),
)
