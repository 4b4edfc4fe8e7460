"""The stages that take in the graph of one prompt that another tool made, and that coarsen such a graph.

Load without torch; the work is in `import_stage.py`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.fields import fields_of, read_fields
from hagd.pipeline.local_files import digest_of_file


class ImportConfig(BaseModel):
    """Config of an import."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: str = ""
    """A `.pt` file of circuit-tracer, or the JSON that Neuronpedia shows."""
    digest: str | None = None
    """sha256 of the file, in place of reading it to find out; refused when another is found."""


class LocalHierarchyConfig(BaseModel):
    """Config of the hierarchy over the graph of one prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    branching: Annotated[int, Field(ge=2)] = 4
    """A level of n groups has ceil(n / branching) parents."""
    affinity: Literal["log1p", "raw", "row"] = "log1p"
    """How |weights| become similarity."""
    n_vectors: Annotated[int, Field(ge=2)] = 32
    """Eigenvectors of the embedding."""
    seed: int = 0


def read_import(config: Config) -> ImportConfig:
    """Parse a config.

    Raises:
        InvalidInputError: a field is unknown or of the wrong type.
        UsageError: no file is named.
    """
    checked = read_fields("graph-import", ImportConfig, config)
    if not checked.path:
        raise UsageError("there is no graph to take in", "name a file in path")
    return checked


def read_hierarchy(config: Config) -> LocalHierarchyConfig:
    """Parse a config; InvalidInputError as in `read_import`."""
    return read_fields("local-hierarchy", LocalHierarchyConfig, config)


def resolve_import(config: Config) -> dict[str, Any]:
    """Give what determines the graph: the content of the file, and how it is read."""
    checked = read_import(config)
    digest = checked.digest or digest_of_file(checked.path)
    return {"digest": digest, "format": Path(checked.path).suffix.lower()}


def resolve_hierarchy(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default."""
    return read_hierarchy(config).model_dump(mode="json", exclude_defaults=True)


IMPORT: StageSpec = StageSpec(
    id="graph-import",
    semantics_version=1,
    inputs=(),
    outputs=("local_graph",),
    run="hagd_coarsening.import_stage:take_in",
    resolve=resolve_import,
    title="Taking in a graph",
    fields=fields_of(ImportConfig),
)
HIERARCHY: StageSpec = StageSpec(
    id="local-hierarchy",
    semantics_version=1,
    inputs=("local_graph",),
    outputs=("graph", "hierarchy"),
    run="hagd_coarsening.import_stage:coarsen",
    resolve=resolve_hierarchy,
    title="Building the hierarchy of the graph",
    fields=fields_of(LocalHierarchyConfig),
)
