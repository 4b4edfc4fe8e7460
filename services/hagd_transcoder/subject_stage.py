"""Do the work of the subject stage: train or load the model, build the task, and check that the one knows the other."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hagd.artifacts.document import Document
from hagd.errors import AccuracyGateError, InvalidInputError
from hagd.interventions.activations import Subject, record
from hagd.models.architectures import convert
from hagd.models.language_model import LanguageModel
from hagd.models.loading import LoadedModel, load_model
from hagd.models.storage import model_to_document
from hagd.models.weights import model_digest
from hagd.pipeline.contract import Config, StageContext
from hagd.tasks.donors import check_donors
from hagd.tasks.registry import build_task
from hagd.tasks.storage import task_to_document
from hagd.tasks.task import PromptBatch, Split, Task
from hagd_transcoder.domain.base_models import make_module, train_base_model
from hagd_transcoder.domain.exercises import exercise_for
from hagd_transcoder.model_source import PretrainedSource, TrainedSource
from hagd_transcoder.subject import SubjectConfig, parse_subject

GATED: tuple[Split, ...] = ("select", "verify")
"""Splits whose prompts the model must answer."""
_CHUNK = 32


@dataclass(frozen=True)
class _Prepared:
    model: LanguageModel
    task: Task
    provenance: dict[str, Any]
    gated: bool


def run(inputs: Mapping[str, Document], config: Config, context: StageContext) -> dict[str, Document]:
    """Give the documents `model` (with its provenance) and `task`.

    Raises:
        AccuracyGateError: the model does not know the task.
        InvalidInputError: the prompts do not make a task, or the model is not the one asked for.
        UnknownNameError, UnavailableError, UnsupportedArchitectureError: as `load_model`.
    """
    del inputs
    subject = parse_subject(config)
    if isinstance(subject.model, TrainedSource):
        prepared = _train(subject, subject.model, context)
    else:
        prepared = _load(subject, subject.model, context)
    check_donors(prepared.task)
    reached = measure_accuracy(prepared.model, prepared.task, context)
    if prepared.gated:
        _require_accuracy(prepared.task, reached)
    document = model_to_document(prepared.model)
    provenance = {**prepared.provenance, "accuracy": reached["gate"], "accuracy_by_split": reached}
    return {
        "model": Document({**document.content, "provenance": provenance}, document.tensors),
        "task": task_to_document(prepared.task),
    }


def _train(subject: SubjectConfig, source: TrainedSource, context: StageContext) -> _Prepared:
    task = build_task(subject.entry.name, dataclasses.asdict(subject.task))
    exercise = exercise_for(subject.entry.name, subject.task, source.seed)
    details: dict[str, Any] = {"kind": "untrained" if source.untrained else "trained", "seed": source.seed}
    if source.untrained:
        module = make_module(exercise, source.seed)
    else:
        base = train_base_model(exercise, source.seed, context)
        module = base.module
        details |= {
            "held_out_accuracy": base.held_out_accuracy,
            "train_share": base.train_share,
            "steps": base.steps,
        }
    model = convert(module)
    provenance = {"digest": model_digest(model), "quantisation": "none", "bos": False, "source": details}
    return _Prepared(model, task, provenance, gated=not source.untrained)


def _load(subject: SubjectConfig, source: PretrainedSource, context: StageContext) -> _Prepared:
    loaded = load_model(source.path, source.revision, source.gguf, tell=lambda message: context.progress(0, 1, message))
    if source.digest is not None and loaded.digest != source.digest:
        raise InvalidInputError(
            f"the model's weights have digest {loaded.digest[:12]}, asked for was {source.digest[:12]}",
            "give the model that the digest belongs to, or leave the digest out",
        )
    bos = loaded.bos if source.bos is None else source.bos
    task = _build_for(subject, loaded, bos)
    details = {"kind": "pretrained", "name": loaded.name, "revision": loaded.revision}
    provenance = {
        "digest": loaded.digest,
        "quantisation": loaded.quantisation,
        "bos": task.bos,
        "source": details,
    }
    return _Prepared(loaded.model, task, provenance, gated=True)


def _build_for(subject: SubjectConfig, loaded: LoadedModel, bos: bool) -> Task:
    """Build the task with the model's tokenizer and refuse token ids that the model does not have."""
    tokenizer = loaded.tokenizer
    if tokenizer is not None:
        if bos and tokenizer.bos_id is None:
            raise InvalidInputError("the tokenizer has no beginning-of-sequence token", "leave bos out")
        tokenizer = dataclasses.replace(tokenizer, bos=bos)
    task = build_task(subject.entry.name, dataclasses.asdict(subject.task), tokenizer)
    config = loaded.model.config
    longest = max(len(batch.layout.roles) for batches in task.batches.values() for batch in batches)
    if max(task.token_text) >= config.vocab_size or longest > config.n_positions:
        raise InvalidInputError(
            f"the task needs {max(task.token_text) + 1} token ids and {longest} positions, "
            f"the model has {config.vocab_size} and {config.n_positions}",
            "give the model that the task was made for",
        )
    return task


def measure_accuracy(model: LanguageModel, task: Task, context: StageContext) -> dict[str, float]:
    """Give the share of prompts answered right by split, and over the gated splits together (`gate`)."""
    batches = [(split, batch) for split in (*GATED, "ood") for batch in task.batches.get(split, ())]
    total = sum(len(batch) for _, batch in batches)
    right: dict[str, list[bool]] = {}
    done = 0
    for split, batch in batches:
        for index in torch.arange(len(batch)).split(_CHUNK if model.config.d_model > 128 else 4096):
            part = batch.take(index)
            logits = record(Subject(model), part.clean, batch.layout.answer_positions).logits
            right.setdefault(split, []).extend(answered_right(logits, part, task.judged).tolist())
            done += len(part)
            context.progress(done, total, "measuring the model's accuracy")
    reached = {split: sum(values) / len(values) for split, values in right.items()}
    gated = [value for split in GATED for value in right.get(split, [])]
    return reached | {"gate": sum(gated) / len(gated), "n": float(len(gated))}


def answered_right(
    logits: Float[Tensor, "batch answer vocab"], batch: PromptBatch, judged: str
) -> Bool[Tensor, " batch"]:
    """Tell which prompts have the likeliest token (of the vocabulary, or of answer and foils) right everywhere."""
    if judged == "vocabulary":
        return (logits.argmax(-1) == batch.answers).all(1)
    of_answer = logits.gather(-1, batch.answers[..., None])
    return (of_answer > logits.gather(-1, batch.foils)).all(-1).all(1)


def _require_accuracy(task: Task, reached: Mapping[str, float]) -> None:
    if reached["gate"] < task.minimum_accuracy:
        raise AccuracyGateError(
            f"the model answers {reached['gate']:.1%} of {reached['n']:.0f} prompts of task {task.name!r}; "
            f"{task.minimum_accuracy:.0%} are needed, or there is nothing to explain",
            "give a model that knows the task, prompts that it can answer, or a lower minimum_accuracy",
        )
