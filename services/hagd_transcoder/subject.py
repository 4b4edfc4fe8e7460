"""The stage that prepares the subject: a model and the task it is asked about.

Config: {"task": {"name": ..., fields of the task}, "model": {"train": true, "seed": 0, "untrained": false}
or {"path": ..., "revision", "gguf", "digest", "bos"}, "seed": 0}. This module only checks configs and loads without
torch; the work is in `subject_stage.py`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hagd.errors import InvalidInputError, UsageError
from hagd.pipeline.contract import Config, StageSpec
from hagd.tasks.configs import parse_config, resolved_fields
from hagd.tasks.registry import TaskEntry, find_task

WEIGHT_FILES = ("*.safetensors", "*.gguf", "config.json", "tokenizer*", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class TrainedSource:
    """A base model trained on the spot."""

    seed: int = 0
    untrained: bool = False
    """Random weights, the accuracy gate bypassed: a negative control whose verdict must be `no claim`."""


@dataclass(frozen=True)
class PretrainedSource:
    """A model from a folder, the hub, or a package (`smollm2`)."""

    path: str
    revision: str | None = None
    gguf: str | None = None
    """Name of a GGUF file in the folder or repository."""
    digest: str | None = None
    """sha256 of the weights as recorded in results; refused when another is found."""
    bos: bool | None = None
    """Start prompts with the beginning-of-sequence token; None follows the model's own rule."""


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
    _refuse_unknown("subject", config, {"task", "model", "seed"})
    fields = dict(_section(config, "task"))
    name = fields.pop("name", None)
    if not isinstance(name, str):
        raise InvalidInputError("the subject's task has no name", 'give {"task": {"name": "modular-addition"}}')
    entry = find_task(name)
    seed = _seed(config.get("seed", 0))
    task = parse_config(entry.config, {"seed": seed, **fields})
    model = _parse_model(_section(config, "model"), seed)
    if isinstance(model, TrainedSource) and not entry.algorithmic:
        raise UsageError(
            f"the task {entry.name!r} needs a pretrained model", "give a model folder, a hub id or 'smollm2'"
        )
    return SubjectConfig(entry, task, model)


def resolve(config: Config) -> dict[str, Any]:
    """Give what determines the result: for files their content, never where they lie.

    A hub model counts by id and revision, so give a commit as revision where its branch may move.
    """
    subject = parse_subject(config)
    task = subject.task
    if subject.entry.name == "jsonl":
        task = replace(task, path="", digest=task.digest or _digest_of_file(task.path))
    named = {"name": subject.entry.name, **resolved_fields(task)}
    return {"task": named, "model": _identify(subject.model)}


def _identify(source: TrainedSource | PretrainedSource) -> dict[str, Any]:
    if isinstance(source, TrainedSource):
        return {"train": True, **resolved_fields(source)}
    chosen: dict[str, Any] = {
        name: value for name, value in (("gguf", source.gguf), ("bos", source.bos)) if value is not None
    }
    if source.digest:
        return {"digest": source.digest, **chosen}
    folder = Path(source.path).expanduser()
    if folder.is_dir():
        return {"files": _digest_of_folder(folder), **chosen}
    return {"hub": source.path, "revision": source.revision, **chosen}


def _parse_model(section: Mapping[str, Any], seed: int) -> TrainedSource | PretrainedSource:
    if "path" not in section:
        _refuse_unknown("model", section, {"train", "seed", "untrained"})
        if section.get("train", True) is not True:
            raise InvalidInputError("the model is neither trained nor given by path", 'give {"path": ...}')
        untrained = section.get("untrained", False)
        if not isinstance(untrained, bool):
            raise InvalidInputError(f"untrained must be true or false, not {untrained!r}", "correct the value")
        return TrainedSource(_seed(section.get("seed", seed)), untrained)
    _refuse_unknown("model", section, {"path", "revision", "gguf", "gguf_file", "digest", "bos"})
    bos = section.get("bos")
    if bos is not None and not isinstance(bos, bool):
        raise InvalidInputError(f"bos must be true or false, not {bos!r}", "correct the value")
    return PretrainedSource(
        path=_text(section, "path") or "",
        revision=_text(section, "revision"),
        gguf=_text(section, "gguf") or _text(section, "gguf_file"),
        digest=_text(section, "digest"),
        bos=bos,
    )


def _text(section: Mapping[str, Any], name: str) -> str | None:
    value = section.get(name)
    if (value is None and name != "path") or (isinstance(value, str) and value):
        return value
    raise InvalidInputError(f"model {name} must be text, not {value!r}", "correct the value")


def _section(config: Config, name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    if not isinstance(section, Mapping):
        raise InvalidInputError(
            f"the subject's {name} must be a group of fields, not {section!r}", "correct the config"
        )
    return cast("Mapping[str, Any]", section)


def _refuse_unknown(where: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise InvalidInputError(f"unknown {where} field {name!r}", f"known fields: {', '.join(sorted(known))}")


def _seed(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidInputError(f"a seed must be a whole number from 0, not {value!r}", "give another seed")
    return value


def _digest_of_file(path: str) -> str:
    if not path:
        raise InvalidInputError("the task 'jsonl' needs its file", 'give {"task": {"name": "jsonl", "path": ...}}')
    try:
        with Path(path).expanduser().open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(f"the prompts {path} cannot be read: {reason}", "check the path") from error


def _digest_of_folder(folder: Path) -> str:
    """Digest the files that make a model, by name and content; read again only when one has changed."""
    found = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern) if file.is_file()})
    digest = hashlib.sha256()
    for file in found:
        status = file.stat()
        digest.update(f"{file.name} {_digest_of_version(file, status.st_mtime_ns, status.st_size)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _digest_of_version(file: Path, modified_ns: int, size_bytes: int) -> str:  # noqa: ARG001 - they are the cache's key
    return _digest_of_file(str(file))


STAGE = StageSpec(
    id="subject",
    semantics_version=1,
    inputs=(),
    outputs=("model", "task"),
    run="hagd_transcoder.subject_stage:run",
    resolve=resolve,
    title="prepare the model and the task",
)
