"""Stage 1 as the pipeline sees it: name, inputs, outputs and a validated config. Loads without torch."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, Sharding, StageSpec
from hagd.pipeline.fields import fields_of, read_fields

Positive = Annotated[int, Field(gt=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TranscoderConfig(BaseModel):
    """Config of the dictionaries. Null means: derived from the model and the task (see `domain/plan.py`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["auto", "transcoder", "gated", "neurons"] = "auto"
    """`auto`: transcoder for plain MLPs, gated for SwiGLU. `neurons`: the MLP's own basis, exact, nothing trained."""
    n_features: Positive | None = None
    """Features per layer."""
    k: Positive | None = None
    """Features kept per token once annealing is over."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers that get a dictionary; null for all."""
    start: Literal["mlp", "random"] = "mlp"
    """Where training starts: at the MLP's own weights, or at random ones (a control)."""
    skip: bool = False
    """Learn a linear path beside the features."""
    steps: Positive | None = None
    batch: Positive | None = None
    """Prompts per step."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    behaviour: Weight | None = None
    """Weight of the KL after everything outside a random prefix of the features took another prompt's values."""
    nested: Weight | None = None
    """Weight of the squared error of random prefixes: the cheap, local relative of `behaviour`."""
    smallest_prefix: Positive | None = None
    """Fewest features that a random prefix may hold; null for twice the directions in which the output varies."""
    balance: Weight | None = None
    """Weight of the penalty on features that fire more rarely than `rate` (ReLU only)."""
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of tokens on which a feature should fire at least."""
    auxiliary: Weight = 1 / 32
    """Weight of the loss that lets dead features rebuild what is missing."""
    seed: int = 0
    shards: Positive = 1
    """Parts that the layers are divided into, each trained by a worker of its own; not with `behaviour`."""


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown, out of range, or contradicts another.
    """
    checked = read_config(config)
    return checked.model_dump(mode="json", exclude_defaults=True)


def read_config(config: Config) -> TranscoderConfig:
    """Parse a config; errors as in `resolve`."""
    checked = read_fields("transcoder", TranscoderConfig, config)
    if checked.k is not None and checked.n_features is not None and checked.k > checked.n_features:
        raise InvalidInputError(
            f"transcoder.k is {checked.k}, but there are only {checked.n_features} features",
            "lower k or raise n_features",
        )
    if checked.layers is not None and (not checked.layers or len(set(checked.layers)) < len(checked.layers)):
        raise InvalidInputError(
            f"transcoder.layers names {list(checked.layers)}", "name each layer once, or leave it null for all"
        )
    return checked


def split(config: Config) -> Sequence[Config]:
    """Give the config of every shard: that of the task, and which of the shards it is."""
    count = read_config(config).shards
    return [{**config, "shard": number} for number in range(count)]


STAGE = StageSpec(
    id="transcoder",
    semantics_version=4,
    inputs=("model", "task"),
    outputs=("dictionaries",),
    run="hagd_transcoder.dictionaries:run",
    resolve=resolve,
    title="Training dictionaries",
    fields=fields_of(TranscoderConfig),
    sharding=Sharding(
        split, "hagd_transcoder.dictionaries:run_shard", ("dictionaries",), "hagd_transcoder.dictionaries:join"
    ),
)
