"""The stages as the pipeline sees them: names, inputs, outputs and validated configs. Loads without torch and igraph.

Every process loads this file: the command line to check a plan, a service to compute task keys. What does the work is
named by `run`, as text, and imported by worker processes alone.
"""

from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.stages import find_stage

GRAPH_STAGE: Final = "coarsening"
"""The installed stage whose graph `leiden-coarsening` keeps."""
_SPECTRAL_FIELDS: Final = ("affinity", "n_vectors")
"""Fields of that stage that decide only the hierarchy which is replaced."""


class LeidenConfig(BaseModel):
    """Config of the Leiden hierarchy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    branching: Annotated[int, Field(ge=2)] = 4
    """A level of n groups has ceil(n / branching) parents."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order in which Leiden visits nodes."""


class TopKConfig(BaseModel):
    """Config of the circuit of most influential nodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_nodes: Annotated[int, Field(gt=0)] | None = None
    """Largest circuit that may be chosen; null for all nodes of the graph."""
    target: Annotated[float, Field(gt=0, le=1)] = 0.97
    """Behavioural preservation on D_select that the chosen size must reach, if any does."""
    prompts: Annotated[int, Field(ge=16)] = 400
    """Most prompts of D_select."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the donors that replace what is outside a circuit."""


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def read_config(kind: type[ConfigT], config: Config, stage: str) -> ConfigT:
    """Parse a config.

    Raises:
        InvalidInputError: a field is unknown or out of range.
    """
    try:
        return kind.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(kind.model_fields)
        raise InvalidInputError(f"{stage}: {name}: {first['msg']}", f"fields of {stage}: {known}") from error


def resolve_leiden(config: Config) -> dict[str, Any]:
    """Give the fields that differ from their default; errors as in `read_config`."""
    return read_config(LeidenConfig, config, "leiden").model_dump(mode="json", exclude_defaults=True)


def resolve_top_k(config: Config) -> dict[str, Any]:
    """Give the fields that differ from their default; errors as in `read_config`."""
    return read_config(TopKConfig, config, "top-k").model_dump(mode="json", exclude_defaults=True)


def resolve_leiden_coarsening(config: Config) -> dict[str, Any]:
    """Give the resolved config of the stage that makes the graph, and which stage that is.

    Its version enters the key of this stage, because the graph is part of the result: were it left out, a graph made
    by an old version would be found again after an upgrade.

    Raises:
        UnknownNameError: the stage that makes the graph is not installed.
        InvalidInputError: it refuses the config, or a field would have no effect.
    """
    idle = [name for name in _SPECTRAL_FIELDS if name in config]
    if idle:
        raise InvalidInputError(
            f"leiden-coarsening: {idle[0]} has no effect, since the spectral hierarchy is replaced", "leave it out"
        )
    inner = find_stage(GRAPH_STAGE)
    return {**inner.resolve(config), "graph_stage": {"id": inner.id, "semantics_version": inner.semantics_version}}


LEIDEN = StageSpec(
    id="leiden",
    semantics_version=1,
    inputs=("graph",),
    outputs=("hierarchy",),
    run="leiden_stages.hierarchy_stage:run",
    resolve=resolve_leiden,
    title="Grouping the graph by Leiden communities",
)
LEIDEN_COARSENING = StageSpec(
    id="leiden-coarsening",
    semantics_version=1,
    inputs=("model", "task", "dictionaries"),
    outputs=("graph", "hierarchy"),
    run="leiden_stages.hierarchy_stage:run_with_graph",
    resolve=resolve_leiden_coarsening,
    title="Building the attribution graph and its Leiden communities",
)
TOP_K = StageSpec(
    id="top-k",
    semantics_version=1,
    inputs=("model", "task", "dictionaries", "graph"),
    outputs=("circuit",),
    run="leiden_stages.top_k_stage:run",
    resolve=resolve_top_k,
    title="Taking the most influential nodes",
)
