"""Stage 1 on a corpus in place of a task, as the pipeline sees it. Loads without torch."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hagd.dictionaries.names import CROSS_LAYER
from hagd.errors import InvalidInputError
from hagd.pipeline.contract import Config, Sharding, StageSpec
from hagd.pipeline.fields import fields_of, read_fields

Positive = Annotated[int, Field(gt=0)]


class CorpusTranscoderConfig(BaseModel):
    """Config of the dictionaries. Null means: derived from the model."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    kind: Literal["auto", "transcoder", "cross-layer"] = "auto"
    """`auto`: a dictionary for each layer, plain beside plain MLPs and gated beside SwiGLU. `transcoder`: plain ones
    beside SwiGLU too, which is what other tools know. `cross-layer`: one transcoder whose features read one layer and
    write to the MLP outputs of that layer and all later ones; ReLU."""
    decoders: Literal["untied", "tied"] = "untied"
    """Of a cross-layer feature: one for every layer that it writes to, or the same one for all."""
    n_features: Positive | None = None
    """Features per layer; null for the width of the MLP."""
    k: Positive | None = None
    """Features kept per token once annealing is over; null for 64, or 32 where the MLP has no gate."""
    k_start: Positive | None = None
    """Features kept per token at first; null for eight times k."""
    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Layers that get a dictionary; null for all."""
    rule: Literal["topk", "batch-topk"] | None = None
    """Who competes for k: the features of a token, or those of all tokens of a step. The latter ends as JumpReLU. Null
    for the former, or across layers for the latter, since other tools know nothing else there."""
    start: Literal["mlp", "random"] | None = None
    """Where training starts: at the MLP's own weights, or at random ones; null for the latter where there are more
    features than neurons, because what goes beyond the neurons would learn nothing beside them, and for tied decoders
    or plain encoders of gated MLPs, which cannot start at neurons."""
    activation: Literal["mlp", "relu"] | None = None
    """Of the features; null for the MLP's own, or ReLU across layers and for a random start without a gate."""
    skip: bool = True
    """Learn a linear path beside the features."""
    tokens: Positive | None = None
    """Tokens to train on; null for once through the corpus."""
    batch: Positive | None = None
    """Tokens per update of the weights, about; null for 2,048, or fewer, but no fewer than 256, where that would make
    fewer than 1,000 updates."""
    buffer: Positive | None = None
    """Tokens that the model reads at once, to be shuffled and divided into updates; null for 4,096, or the batch where
    that is larger."""
    finetune: Annotated[float, Field(ge=0, le=0.4)] = 0.0
    """Share of the tokens, the last ones, on which the dictionaries of all layers learn together, in place of all
    their MLPs at once: from KL(model || replaced) of the next token beside each layer's own error; 0 for none, and at
    most what is left once k is annealed."""
    finetune_batch: Positive = 512
    """Tokens per update there, about: whole windows."""
    finetune_weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Of KL beside the errors of all layers together, in units in which both are alike when it begins."""
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Of Adam; null for 0.005, or 0.004 with a random start, times the square root of the batch's share of 2,048
    tokens."""
    auxiliary: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Weight of the loss that lets dead features rebuild what is missing; null for 1/32, or 1/4 with a random start."""
    dead_after: Positive | None = None
    """Tokens without firing after which a feature counts as dead, that is as firing on fewer than one of so many; null
    for a tenth of those to train on, but from 25,600 to 204,800."""
    balance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How fast features that are rarely kept are favoured where features compete for k, in the first 90 % of the
    steps; null for 0.02 with a random start and 0, which is not at all, with one at the MLP."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of products in the model's run and in the steps; weights, sums and what is reported stay in float32."""
    traced: Annotated[int, Field(ge=0)] = 16
    """Held-out prompts that are traced to measure what goes past the dictionaries; 0 for none."""
    shown_features: Annotated[int, Field(ge=0)] = 8
    """Features of each layer, drawn among those that fire, that are shown by what they fire on most; 0 for none."""
    shown_windows: Positive = 5
    """Held-out windows that each of them is shown by."""
    checkpoints: Positive = 10
    """How often the state is kept on the way; besides, whenever five minutes have passed."""
    seed: Annotated[int, Field(ge=0)] = 0
    shards: Positive = 1
    """Parts that the layers are divided into, each trained by a worker of its own."""
    workers: Positive = 1
    """Processes on the machine of a worker that train together: each reads a part of the tokens of every update, and
    all share its CPU threads. The result is the same up to the order in which numbers are added."""


def resolve(config: Config) -> dict[str, Any]:
    """Validate a config and keep the fields that differ from their default.

    Raises:
        InvalidInputError: a field is unknown, out of range, or contradicts another.
    """
    return read_config(config).model_dump(mode="json", exclude_defaults=True, exclude={"checkpoints", "workers"})


def read_config(config: Config) -> CorpusTranscoderConfig:
    """Parse a config; errors as in `resolve`."""
    checked = read_fields("corpus-transcoder", CorpusTranscoderConfig, config)
    if checked.k is not None and checked.n_features is not None and checked.k > checked.n_features:
        raise InvalidInputError(
            f"corpus-transcoder.k is {checked.k}, but there are only {checked.n_features} features",
            "lower k or raise n_features",
        )
    if checked.buffer is not None and checked.batch is not None and checked.buffer < checked.batch:
        raise InvalidInputError(
            f"corpus-transcoder.buffer is {checked.buffer}, which is less than the batch of {checked.batch}",
            "raise the buffer, or leave it null",
        )
    if checked.layers is not None and (not checked.layers or len(set(checked.layers)) < len(checked.layers)):
        raise InvalidInputError(
            f"corpus-transcoder.layers names {list(checked.layers)}", "name each layer once, or leave it null for all"
        )
    _check_across(checked)
    if checked.finetune and checked.shards > 1:
        raise InvalidInputError(
            f"corpus-transcoder.shards is {checked.shards}, but with corpus-transcoder.finetune all layers learn "
            "together",
            "set corpus-transcoder.finetune to 0, or corpus-transcoder.shards to 1",
        )
    return checked


def _check_across(config: CorpusTranscoderConfig) -> None:
    if config.kind != CROSS_LAYER:
        if config.decoders != "untied":
            raise InvalidInputError(
                "corpus-transcoder.decoders is tied, but each dictionary writes to one layer",
                "leave it out, or set corpus-transcoder.kind=cross-layer",
            )
        return
    usual_values = ("layers", config.layers, None), ("shards", config.shards, 1), ("finetune", config.finetune, 0.0)
    for name, value, usual in usual_values:
        if value != usual:
            raise InvalidInputError(
                f"corpus-transcoder.{name} is {value}, but a cross-layer transcoder learns all layers by one loss",
                f"leave {name} out",
            )
    if config.decoders == "tied" and config.start == "mlp":
        raise InvalidInputError(
            "corpus-transcoder.start is mlp, but tied decoders have none for their own layer alone to start at",
            "leave start out, or untie the decoders",
        )


def split(config: Config) -> Sequence[Config]:
    """Give the config of every shard: that of the task, and which of the shards it is."""
    return [{**config, "shard": number} for number in range(read_config(config).shards)]


STAGE = StageSpec(
    id="corpus-transcoder",
    semantics_version=4,
    inputs=("model", "corpus"),
    outputs=("dictionaries", "training"),
    run="hagd_transcoder.corpus_dictionaries:run",
    resolve=resolve,
    local_fields=frozenset({"checkpoints", "workers"}),
    title="Training dictionaries on text",
    fields=fields_of(CorpusTranscoderConfig),
    estimate="hagd_transcoder.corpus_estimate:estimate",
    sharding=Sharding(
        split,
        "hagd_transcoder.corpus_dictionaries:run_shard",
        ("dictionaries", "training"),
        "hagd_transcoder.corpus_dictionaries:join",
    ),
)
