"""Run stage 1 on a corpus: derive what the config leaves open, train one dictionary per layer, measure them.

Layers learn apart, so they may be trained in shards, each with every so many layers and a run of the model of its own.
A transcoder across layers has one loss and learns whole, since shards never speak with each other. Whatever one task
trains, several processes may train together: they add up what they learn in every update.

Model, batches and dictionaries lie where `device_of` says; documents lie on the CPU.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from hagd.artifacts.document import Document
from hagd.corpora.corpus import Corpus
from hagd.corpora.storage import corpus_from_document
from hagd.dictionaries.cross_layer import Dictionaries
from hagd.dictionaries.dictionary import Dictionary
from hagd.dictionaries.history import history_from_document, history_to_document, join_histories
from hagd.dictionaries.names import CROSS_LAYER
from hagd.dictionaries.storage import any_dictionaries_to_document, dictionaries_from_document
from hagd.errors import InvalidInputError
from hagd.models.language_model import LanguageModel
from hagd.models.storage import model_from_document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes
from hagd_transcoder.corpus_handlers import CorpusTranscoderConfig, read_config
from hagd_transcoder.domain.corpus_evaluation import evaluate_on_corpus
from hagd_transcoder.domain.corpus_memory import TrainingMemory, require_memory, training_memory
from hagd_transcoder.domain.corpus_plan import CorpusPlan
from hagd_transcoder.domain.corpus_training import Trained, train_on_corpus
from hagd_transcoder.domain.examples import ExamplePlan
from hagd_transcoder.domain.group import Group
from hagd_transcoder.domain.starting import Start
from hagd_transcoder.domain.traced_evaluation import trace_prompts
from hagd_transcoder.members import together

GATED_K = 64
PLAIN_K = 32
START_FACTOR = 8
BATCH_TOKENS = 2048
LEAST_BATCH_TOKENS = 256
LEAST_UPDATES = 1000
BUFFER_TOKENS = 4096
DEAD_SHARE = 0.1
LEAST_DEAD_TOKENS, MOST_DEAD_TOKENS = 25_600, 204_800
"""A feature counts as dead after this share of the tokens, but within these bounds: early enough to be revived, late
enough to be known for rare."""
TAKE_PART = f"{__name__}:take_part"
"""What the other processes of a group call."""


@dataclass(frozen=True)
class _Usual:
    """What is taken where the config says nothing."""

    learning_rate: float
    """At `BATCH_TOKENS`."""
    auxiliary: float
    balance: float


_USUAL: Final = {"mlp": _Usual(5e-3, 1 / 32, 0.0), "random": _Usual(4e-3, 1 / 4, 0.02)}
"""By where training starts."""


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Train the dictionaries of a model, or one transcoder across its layers, on a corpus. See `StageFunction`."""
    checked = read_config(config)
    model, corpus = read_inputs(inputs, device_of(checked, context))
    plan = make_plan(checked, model, corpus)
    trained = _learned(inputs, config, model, corpus, context)
    measured = _measured(inputs, model, corpus, plan, trained.dictionaries, checked, context)
    return {"dictionaries": measured, "training": history_to_document(trained.history)}


def run_shard(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Train the dictionaries of the layers of one shard. See `StageFunction`."""
    model, corpus = read_inputs(inputs, device_of(_of_whole(config), context))
    trained = _learned(inputs, config, model, corpus, context)
    return {
        "dictionaries": any_dictionaries_to_document(trained.dictionaries, {}),
        "training": history_to_document(trained.history),
    }


def take_part(inputs: Mapping[str, Document], config: Config, context: StageContext, group: Group) -> None:
    """Train as one of the others of a group. See `MemberFunction`."""
    model, corpus = read_inputs(inputs)
    train_on_corpus(model, corpus.windows("train"), _plan_of(config, model, corpus), context, group)


def _learned(
    inputs: Mapping[str, Document], config: Config, model: LanguageModel, corpus: Corpus, context: StageContext
) -> Trained:
    """Train what a task or one of its shards is to train, with the processes that it may have."""
    whole = _of_whole(config)
    memory = memory_of(whole, make_plan(whole, model, corpus), model, corpus)
    require_memory(memory, available_bytes(str(model.device)))
    with together(TAKE_PART, inputs, config, context, whole.workers) as (group, shared):
        return train_on_corpus(model, corpus.windows("train"), _plan_of(config, model, corpus), shared, group)


def _of_whole(config: Config) -> CorpusTranscoderConfig:
    """Parse the config of a task, or that of one of its shards."""
    return read_config({name: value for name, value in config.items() if name != "shard"})


def _plan_of(config: Config, model: LanguageModel, corpus: Corpus) -> CorpusPlan:
    """Give what a task trains: with the config of a shard, the layers of that."""
    whole = _of_whole(config)
    plan = make_plan(whole, model, corpus)
    return replace(plan, layers=plan.layers[int(config["shard"]) :: whole.shards]) if "shard" in config else plan


def join(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Measure together what the shards have trained. See `StageFunction`."""
    device = context.device()
    model, corpus = read_inputs(inputs, device)
    dictionaries: dict[int, Dictionary] = {}
    for role in sorted(inputs):
        if role.startswith("dictionaries/"):
            dictionaries |= dictionaries_from_document(inputs[role], device)
    checked = read_config(config)
    plan = make_plan(checked, model, corpus)
    measured = _measured(inputs, model, corpus, plan, dictionaries, checked, context)
    histories = [history_from_document(inputs[role]) for role in sorted(inputs) if role.startswith("training/")]
    return {"dictionaries": measured, "training": history_to_document(join_histories(histories))}


def make_plan(config: CorpusTranscoderConfig, model: LanguageModel, corpus: Corpus) -> CorpusPlan:
    """Derive what the config leaves open.

    Raises:
        InvalidInputError: a layer does not exist, k exceeds the features, there are more shards than layers or more
            processes than windows of a step, or the MLPs are not such that what was asked for could start at them or
            be like them.
    """
    shape, gated = model.config, model.blocks[0].mlp.w_gate is not None
    layers = tuple(range(shape.n_layers)) if config.layers is None else tuple(sorted(config.layers))
    if layers[-1] >= shape.n_layers:
        raise InvalidInputError(
            f"corpus-transcoder.layers names layer {layers[-1]}, but the model has {shape.n_layers}",
            "layers count from 0",
        )
    if config.shards > len(layers):
        raise InvalidInputError(
            f"corpus-transcoder.shards is {config.shards}, but only {len(layers)} layers get a dictionary",
            "a shard needs a layer",
        )
    n_features = config.n_features or shape.d_mlp
    k = config.k or min(GATED_K if gated else PLAIN_K, n_features)
    if k > n_features:
        raise InvalidInputError(
            f"corpus-transcoder.k is {k}, but there are only {n_features} features (the width of the MLP unless given)",
            "lower k or raise n_features",
        )
    # Looked at now, so that hours of training do not end in an error.
    corpus.windows("held-out")
    windows = corpus.windows("train")
    per_window = sum(windows.bounds.diff(dim=1).flatten().tolist()) / len(windows)
    tokens = config.tokens or len(windows) * per_window
    batch = config.batch or min(BATCH_TOKENS, max(LEAST_BATCH_TOKENS, round(tokens / LEAST_UPDATES)))
    buffer = config.buffer or max(BUFFER_TOKENS, batch)
    per_step = max(1, round(min(buffer, tokens) / per_window))
    if config.workers > per_step:
        raise InvalidInputError(
            f"corpus-transcoder.workers is {config.workers}, but a step reads only {per_step} windows",
            "take fewer workers, or a larger corpus-transcoder.buffer",
        )
    updates = max(1, round(per_step * per_window / batch))
    steps = max(1, round(tokens / (per_step * per_window)))
    finetune_steps = _finetune_steps(config.finetune, steps)
    across, has_gate = config.kind == CROSS_LAYER, gated and config.kind == "auto"
    no_neurons = n_features > shape.d_mlp or config.decoders == "tied" or has_gate != gated
    place = config.start or ("random" if no_neurons else "mlp")
    usual = _USUAL[place]
    usual_rate = usual.learning_rate * math.sqrt(per_step * per_window / updates / BATCH_TOKENS)
    activation = config.activation or ("relu" if across or (place == "random" and not has_gate) else "mlp")
    named = model.blocks[0].mlp.activation if activation == "mlp" else activation
    if place == "mlp" and has_gate != gated:
        raise InvalidInputError(
            "corpus-transcoder.start is mlp, but these MLPs are gated and the encoders that were asked for are not",
            "leave start out",
        )
    if across and named != "relu":
        raise InvalidInputError(
            f"corpus-transcoder.activation is mlp, which is {named}, but a cross-layer transcoder is ReLU",
            "leave activation out",
        )
    return CorpusPlan(
        layers=layers,
        start=Start(n_features, place, config.skip, named, has_gate),
        k_start=min(n_features, max(k, config.k_start or START_FACTOR * k)),
        k=k,
        rule=config.rule or ("batch-topk" if across else "topk"),
        steps=steps,
        windows=per_step,
        updates=updates,
        finetune_steps=finetune_steps,
        finetune_windows=min(per_step, max(1, round(config.finetune_batch / per_window))),
        finetune_weight=config.finetune_weight,
        learning_rate=config.learning_rate or usual_rate,
        auxiliary=usual.auxiliary if config.auxiliary is None else config.auxiliary,
        dead_after=config.dead_after or min(MOST_DEAD_TOKENS, max(LEAST_DEAD_TOKENS, round(DEAD_SHARE * tokens))),
        balance=usual.balance if config.balance is None else config.balance,
        half=config.precision == "bfloat16",
        checkpoints=config.checkpoints,
        seed=config.seed,
        decoders=config.decoders if across else "own",
    )


def _finetune_steps(share: float, steps: int) -> int:
    """Give the share of the steps; one at least on either side where there is a share at all.

    Raises:
        InvalidInputError: there are fewer than two steps to divide.
    """
    if not share:
        return 0
    if steps < 2:
        raise InvalidInputError(
            f"corpus-transcoder.finetune is {share:g}, but there is only one step to divide",
            "give more tokens, or a smaller corpus-transcoder.buffer",
        )
    return min(steps - 1, max(1, round(share * steps)))


def memory_of(config: CorpusTranscoderConfig, plan: CorpusPlan, model: LanguageModel, corpus: Corpus) -> TrainingMemory:
    """Count what one worker will hold at once, with the processes of its group."""
    trained = -(-len(plan.layers) // config.shards)
    return training_memory(plan, model, corpus.windows("train"), trained=trained, workers=config.workers)


def device_of(config: CorpusTranscoderConfig, context: StageContext) -> str:
    """Give where dictionaries are trained: several processes together stay on the CPU, over which they speak."""
    return context.device() if config.workers == 1 else "cpu"


def read_inputs(inputs: Mapping[str, Document], device: str = "cpu") -> tuple[LanguageModel, Corpus]:
    """Give the model that the stage gets, on a device, and the corpus, whose batches go there."""
    return model_from_document(inputs["model"], device), corpus_from_document(inputs["corpus"], device)


def measure(
    model: LanguageModel,
    corpus: Corpus,
    dictionaries: Dictionaries,
    context: StageContext,
    *,
    seed: int,
    traced: int,
    examples: ExamplePlan,
) -> dict[str, Any]:
    """Measure dictionaries on held-out documents, and on so many prompts that are traced, as JSON content.

    Raises:
        NonFiniteError: a dictionary gives NaN or infinity.
    """
    held_out = corpus.windows("held-out")
    found = evaluate_on_corpus(model, dictionaries, corpus.windows("train"), held_out, context, seed, examples)
    if traced:
        said = trace_prompts(model, dictionaries, held_out, traced, context, seed)
        layers = [layer | said.layers[layer["layer"]] for layer in found["layers"]]
        found |= {**said.together, "layers": layers}
    return found


def _measured(
    inputs: Mapping[str, Document],
    model: LanguageModel,
    corpus: Corpus,
    plan: CorpusPlan,
    dictionaries: Dictionaries,
    config: CorpusTranscoderConfig,
    context: StageContext,
) -> Document:
    examples = ExamplePlan(config.shown_features, config.shown_windows)
    found = measure(model, corpus, dictionaries, context, seed=plan.seed, traced=config.traced, examples=examples)
    metrics: dict[str, Any] = {
        "plan": {name: value for name, value in asdict(plan).items() if name != "checkpoints"},
        "model": dict(inputs["model"].content.get("provenance", {})),
        "corpus": dict(inputs["corpus"].content.get("provenance", {})),
        **found,
    }
    return any_dictionaries_to_document(dictionaries, metrics)
