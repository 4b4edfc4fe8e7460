"""Run the stage: derive what the config leaves open, train one dictionary per layer, measure them on D_select.

Layers that learn apart may be trained in shards, each with every so many layers, and are measured together by the join.
`neurons` trains nothing. See `domain/training.py` for how the learned kinds come about.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from hagd.artifacts.document import Document
from hagd.dictionaries.dictionary import Dictionary, DictionaryKind, neurons_of
from hagd.dictionaries.storage import dictionaries_from_document, dictionaries_to_document
from hagd.errors import InvalidInputError
from hagd.interventions.activations import Subject
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.storage import task_from_document
from hagd.tasks.task import Task
from hagd_transcoder.domain.evaluation import evaluate
from hagd_transcoder.domain.plan import TrainingPlan
from hagd_transcoder.domain.training import train
from hagd_transcoder.handlers import TranscoderConfig, read_config

TOKENS_PER_STEP = 2048
MOST_PROMPTS_PER_STEP = 512
SMALL_MODEL = 5_000_000
"""Up to this many parameters, circuits are run inside training (a forward and a backward through the whole model)."""
WIDEST_START = 512
"""Features kept per token before annealing, at most; wide gated encoders start here."""
RATE = 0.4
"""A ReLU neuron fires on a bit less than half of its tokens; so should every feature, or circuits are told apart
from random sets by frequency alone."""


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Train the dictionaries of a model on D_discover of a task. See `StageFunction`."""
    model, task = _subject_of(inputs)
    dictionaries, metrics = learn(model, task, read_config(config), context)
    return {"dictionaries": dictionaries_to_document(dictionaries, metrics)}


def run_shard(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Train the dictionaries of the layers of one shard. See `StageFunction`."""
    model, task = _subject_of(inputs)
    whole = {name: value for name, value in config.items() if name != "shard"}
    plan = _plan_for(model, task, read_config(whole))
    layers = plan.layers[int(config["shard"]) :: read_config(whole).shards]
    dictionaries = _make(model, task, replace(plan, layers=layers), context)
    return {"dictionaries": dictionaries_to_document(dictionaries, {})}


def join(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Measure together what the shards have trained. See `StageFunction`."""
    model, task = _subject_of(inputs)
    plan = _plan_for(model, task, read_config(config))
    dictionaries: dict[int, Dictionary] = {}
    for role in sorted(inputs):
        if role.startswith("dictionaries/"):
            dictionaries |= dictionaries_from_document(inputs[role])
    return {"dictionaries": dictionaries_to_document(dictionaries, _measure(model, task, plan, dictionaries, context))}


def learn(
    model: LanguageModel, task: Task, config: TranscoderConfig, context: StageContext
) -> tuple[dict[int, Dictionary], dict[str, Any]]:
    """Give one dictionary per planned layer, and what is known about them as JSON.

    Raises:
        InvalidInputError: the config does not fit the model, or D_discover is empty.
        NonFiniteError: training diverged.
    """
    plan = _plan_for(model, task, config)
    dictionaries = _make(model, task, plan, context)
    return dictionaries, _measure(model, task, plan, dictionaries, context)


def _subject_of(inputs: Mapping[str, Document]) -> tuple[LanguageModel, Task]:
    return model_from_document(inputs["model"]), task_from_document(inputs["task"])


def _plan_for(model: LanguageModel, task: Task, config: TranscoderConfig) -> TrainingPlan:
    batches = task.batches.get("discover", ())
    if not batches:
        raise InvalidInputError("the task has no prompts in D_discover", "give more prompts")
    return make_plan(config, model, max(map(len, batches)), max(len(batch.layout.roles) for batch in batches))


def _make(model: LanguageModel, task: Task, plan: TrainingPlan, context: StageContext) -> dict[int, Dictionary]:
    if plan.kind == "neurons":
        return {layer: neurons_of(model.blocks[layer].mlp, layer) for layer in plan.layers}
    return train(model, task.batches["discover"], plan, context)


def _measure(
    model: LanguageModel, task: Task, plan: TrainingPlan, dictionaries: Mapping[int, Dictionary], context: StageContext
) -> dict[str, Any]:
    context.progress(0.97, 1, "measuring the dictionaries on D_select")
    return {"plan": asdict(plan), **evaluate(Subject(model, dictionaries), task)}


def make_plan(config: TranscoderConfig, model: LanguageModel, n_prompts: int, n_pos: int) -> TrainingPlan:
    """Derive what the config leaves open.

    Args:
        n_prompts: prompts to train on.
        n_pos: tokens of the longest prompt.

    Raises:
        InvalidInputError: the kind does not fit the MLP, a layer does not exist, or k exceeds the features.
    """
    shape, gated_mlp = model.config, model.blocks[0].mlp.w_gate is not None
    kind = _kind_for(config, gated_mlp)
    layers = tuple(range(shape.n_layers)) if config.layers is None else tuple(sorted(config.layers))
    if layers[-1] >= shape.n_layers:
        raise InvalidInputError(
            f"transcoder.layers names layer {layers[-1]}, but the model has {shape.n_layers}", "layers count from 0"
        )
    relu = shape.activation == "relu" and kind == "transcoder"
    circuits = kind == "transcoder" and _count_parameters(model) <= SMALL_MODEL
    n_features = config.n_features or shape.d_mlp
    k = config.k or (max(1, n_features // 2) if relu else min(64, n_features))
    if k > n_features:
        raise InvalidInputError(
            f"transcoder.k is {k}, but there are only {n_features} features (the width of the MLP unless given)",
            "lower k or raise n_features",
        )
    behaviour = _first(config.behaviour, 1.0 if circuits else 0.0)
    _check_shards(config.shards, len(layers), behaviour)
    return TrainingPlan(
        kind=kind,
        layers=layers,
        n_features=n_features,
        k_start=max(k, n_features if kind == "transcoder" else min(n_features, WIDEST_START)),
        k=k,
        start=config.start,
        skip=config.skip,
        steps=config.steps or (600 if circuits else 250),
        batch=min(n_prompts, config.batch or max(1, min(MOST_PROMPTS_PER_STEP, TOKENS_PER_STEP // n_pos))),
        learning_rate=config.learning_rate or (5e-3 if circuits else 1e-3),
        behaviour=behaviour,
        nested=_first(config.nested, 1.0 if kind == "transcoder" and not behaviour else 0.0),
        smallest_prefix=config.smallest_prefix,
        balance=_first(config.balance, 1.0 if relu else 0.0) * relu,
        rate=config.rate or min(RATE, 0.9 * k / n_features),
        auxiliary=config.auxiliary,
        seed=config.seed,
    )


def _check_shards(shards: int, n_layers: int, behaviour: float) -> None:
    if shards > n_layers:
        raise InvalidInputError(
            f"transcoder.shards is {shards}, but only {n_layers} layers get a dictionary", "a shard needs a layer"
        )
    if shards > 1 and behaviour:
        raise InvalidInputError(
            f"transcoder.shards is {shards}, but with transcoder.behaviour all layers learn together",
            "set transcoder.behaviour to 0, or transcoder.shards to 1",
        )


def _kind_for(config: TranscoderConfig, gated_mlp: bool) -> DictionaryKind:
    if config.kind == "auto":
        return "gated" if gated_mlp else "transcoder"
    if config.kind == "gated" and not gated_mlp:
        raise InvalidInputError(
            "transcoder.kind is 'gated', but the MLPs of this model have no gate", "use 'transcoder' or 'auto'"
        )
    if config.kind == "transcoder" and gated_mlp:
        raise InvalidInputError(
            "transcoder.kind is 'transcoder', but the MLPs of this model are gated (SwiGLU)", "use 'gated' or 'auto'"
        )
    return config.kind


def _count_parameters(model: LanguageModel) -> int:
    shape = model.config
    attention = 2 * shape.d_model * shape.d_head * (shape.n_heads + shape.n_kv_heads)
    mlp = shape.d_model * shape.d_mlp * (2 if model.blocks[0].mlp.w_gate is None else 3)
    return shape.n_layers * (attention + mlp) + model.embed.numel()


def _first(given: float | None, derived: float) -> float:
    return derived if given is None else given
