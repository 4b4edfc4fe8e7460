"""The stage that prepares the subject: a model and the task it is asked about.

Config: {"task": {"name": ..., fields of the task}, "model": {"train": true, "seed": 0, "untrained": false}
or {"path": ..., "revision", "gguf", "digest", "bos"}, "seed": 0}. This module only checks configs and loads without
torch; the work is in `subject_stage.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from hagd.errors import InvalidInputError, UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.pipeline.local_files import digest_of_file
from hagd.tasks.configs import parse_config, resolved_fields
from hagd.tasks.registry import TaskEntry, find_task
from hagd_transcoder.model_source import (
    PretrainedSource,
    TrainedSource,
    checked_seed,
    identify_model,
    parse_model,
    refuse_unknown,
)


@dataclass(frozen=True)
class SubjectConfig:
    """What the stage was asked for, checked."""

    entry: TaskEntry
    task: Any
    model: TrainedSource | PretrainedSource


def parse_subject(config: Config) -> SubjectConfig:
    """Check a config.

    Raises:
        UnknownNameError: there is no such task.
        InvalidInputError: a field is unknown, of the wrong type or out of range.
        UsageError: the task needs a pretrained model and none is given.
    """
    refuse_unknown("subject", config, {"task", "model", "seed"})
    fields = dict(_section(config, "task"))
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise InvalidInputError("the subject's task has no name", 'give {"task": {"name": "modular-addition"}}')
    entry = find_task(name)
    seed = checked_seed(config.get("seed", 0))
    task = parse_config(entry.config, {"seed": seed, **fields})
    model = parse_model(_section(config, "model"), seed)
    if isinstance(model, TrainedSource) and not entry.algorithmic:
        raise UsageError(
            f"the task {entry.name!r} needs a pretrained model", "give a model folder, a hub id or 'smollm2'"
        )
    return SubjectConfig(entry, task, model)


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the result: for files their content, never where they lie."""
    subject = parse_subject(config)
    task = subject.task
    if subject.entry.name == "jsonl":
        task = replace(task, path="", digest=task.digest or _digest_of_prompts(task.path))
    named = {"name": subject.entry.name, **resolved_fields(task)}
    return {"task": named, "model": identify_model(subject.model)}


def _digest_of_prompts(path: str) -> str:
    if not path:
        raise InvalidInputError("the task 'jsonl' needs its file", 'give {"task": {"name": "jsonl", "path": ...}}')
    return digest_of_file(path)


def _section(config: Config, name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise InvalidInputError(
            f"the subject's {name} must be a group of fields, not {section!r}", "correct the config"
        )
    return cast("Mapping[str, Any]", section)


STAGE = StageSpec(
    id="subject",
    semantics_version=1,
    inputs=(),
    outputs=("model", "task"),
    run="hagd_transcoder.subject_stage:run",
    resolve=resolve,
    title="prepare the model and the task",
)
