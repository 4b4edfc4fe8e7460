"""What a user may ask for, and the configs of the stages that this means. Loads without torch.

The named settings are those of the everyday commands; `overrides` reaches every field of every stage.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from hagd.errors import InvalidInputError, UsageError
from hagd.extraction.dictionary_folder import named_folder
from hagd.tasks.registry import find_task

STAGES: Final = ("subject", "transcoder", "coarsening", "traversal", "verification")
"""The plan of a whole extraction."""
DICTIONARIES: Final = ("auto", "transcoder", "gated", "neurons")
LARGEST_INTEGER: Final = 2**53 - 1
"""Beyond it JSON numbers are not exact, and results are named by JSON."""
RESOLUTIONS: Final = ("auto", "feature", "mixed")


@dataclass(frozen=True)
class Settings:
    """One extraction. None leaves a choice to the stage."""

    task: str | None = None
    """Name in the task registry; `jsonl` when only `prompts` is given."""
    model: str | None = None
    """Folder, hub id or `smollm2`; None trains a small model for an algorithmic task."""
    gguf: str | None = None
    """Name of a GGUF file in the model folder or repository."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    prompts: Path | None = None
    """Prompt pairs, one JSON object a line."""
    modulus: int | None = None
    """Of modular addition."""
    seed: int = 0
    dictionary: str | None = None
    """`transcoder`, `gated`, `neurons`, or `auto`: by the architecture of the model. On text `transcoder`,
    `cross-layer` or `hagd-paper`."""
    dictionaries: str | None = None
    """A folder in any format that is read, or `hub:OWNER/NAME[/FOLDER][@REVISION]`, in place of training some."""
    resolution: str | None = None
    """`feature`, `mixed` (whole blocks may be nodes), or `auto`: by the size of the model."""
    sizes: tuple[int, ...] = ()
    """Circuit sizes in nodes: the search may use the largest, verification reports on all."""
    budget: int | None = None
    """Causal evaluations that the search may spend; one is one prompt through one forward."""
    draws: int | None = None
    """Random circuits of each null."""
    threshold: float | None = None
    """Behavioural preservation whose lower confidence bound a verified circuit must exceed."""
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Stage -> fields, laid over what the other settings give."""


def stage_configs(settings: Settings) -> dict[str, dict[str, Any]]:
    """Give the config of every stage.

    Raises:
        UnknownNameError: the task, a kind of dictionary or a stage does not exist.
        InvalidInputError: a number is out of range, or the prompts cannot be read.
        UsageError: neither a task nor prompts are given, or settings contradict each other.
        UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers for dictionaries on it.
    """
    _check_numbers(settings)
    _check_choice("dictionary", settings.dictionary, DICTIONARIES)
    _check_choice("resolution", settings.resolution, RESOLUTIONS)
    unknown = sorted(set(settings.overrides) - set(STAGES))
    if unknown:
        raise UsageError(f"there is no stage {unknown[0]!r}", f"stages: {', '.join(STAGES)}")
    configs: dict[str, dict[str, Any]] = {
        "subject": {"task": _task(settings), "model": model_config(settings)},
        "transcoder": _dictionaries(settings),
        "coarsening": _given(resolution=settings.resolution),
        "traversal": _given(
            resolution=settings.resolution, budget=settings.budget, max_nodes=max(settings.sizes, default=None)
        ),
        "verification": _given(sizes=list(settings.sizes) or None, draws=settings.draws, threshold=settings.threshold),
    }
    if settings.seed:
        for stage in STAGES:
            if stage != "transcoder" or settings.dictionaries is None:
                configs[stage]["seed"] = settings.seed
    return {stage: _merged(config, settings.overrides.get(stage, {})) for stage, config in configs.items()}


def parse_assignments(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read `stage.field=value` (or `stage.field.part=value`); a value is JSON, or text when it is not.

    Raises:
        UsageError: an assignment has another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        names = path.split(".")
        if not equals or len(names) < 2 or not all(names):
            raise UsageError(f"cannot read {assignment!r}", "write it like transcoder.n_features=512")
        place: dict[str, Any] = found
        for name in names[:-1]:
            inner: Any = place.setdefault(name, {})
            if not isinstance(inner, dict):
                raise UsageError(f"{path!r} is set both as a value and as a group", "leave one of the two out")
            place = cast("dict[str, Any]", inner)
        place[names[-1]] = _value(text)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _task(settings: Settings) -> dict[str, Any]:
    if settings.prompts is not None:
        if settings.task not in (None, "jsonl"):
            raise UsageError(
                f"both the task {settings.task!r} and a file of prompts are given", "leave one of the two out"
            )
        return {"name": "jsonl", "path": str(settings.prompts.absolute()), "digest": _digest(settings.prompts)}
    if settings.task is None:
        raise UsageError("nothing to explain: no task and no prompts are given", "add --task NAME or --prompts FILE")
    entry = find_task(settings.task)
    if entry.name == "jsonl":
        raise UsageError("the task 'jsonl' needs its file", "add --prompts FILE")
    if not entry.algorithmic and settings.model is None:
        raise UsageError(
            f"the task {entry.name!r} needs a pretrained model", "add --model with a folder, a hub id or 'smollm2'"
        )
    if settings.modulus is not None and entry.name != "modular-addition":
        raise UsageError(f"the task {entry.name!r} has no modulus", "leave --modulus out")
    return {"name": entry.name, **_given(modulus=settings.modulus)}


def _dictionaries(settings: Settings) -> dict[str, Any]:
    """Give what says how dictionaries are trained, or where they lie."""
    if settings.dictionaries is None:
        return _given(kind=settings.dictionary)
    if settings.dictionary is not None:
        raise UsageError("both a kind of dictionary and dictionaries are given", "leave one of the two out")
    if settings.dictionaries in DICTIONARIES:
        raise UsageError(
            f"{settings.dictionaries!r} is a kind of dictionary", f"say --dictionary {settings.dictionaries}"
        )
    return named_folder(settings.dictionaries)


def model_config(settings: Settings) -> dict[str, Any]:
    """Give what says where the model comes from.

    Raises:
        UsageError: the name is blank, or prompts are given and no model.
    """
    if settings.model is None:
        if settings.prompts is not None:
            raise UsageError("prompts need a pretrained model", "add --model with a folder, a hub id or 'smollm2'")
        return {"train": True, "seed": settings.seed}
    if not settings.model.strip():
        raise UsageError("the model has no name", "give --model a folder, a hub id or 'smollm2'")
    folder = Path(settings.model).expanduser()
    path = str(folder.absolute()) if _is_folder(folder) else settings.model
    return {"path": path, **_given(gguf=settings.gguf, revision=settings.revision)}


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Too long to be one.
        return False


def _digest(path: Path) -> str:
    """Digest the prompts here, so that the same path with other lines is another extraction."""
    try:
        if not path.is_file():
            raise InvalidInputError(f"the prompts {path} are no file", "check the path")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidInputError(f"the prompts {path} cannot be read: {reason}", "check the path") from error


def _check_numbers(settings: Settings) -> None:
    for name, value in (("budget", settings.budget), ("draws", settings.draws), ("modulus", settings.modulus)):
        if value is not None and value <= 0:
            raise InvalidInputError(f"{name} must be at least 1, not {value}", "give a positive number")
    for size in settings.sizes:
        if size <= 0:
            raise InvalidInputError(f"a circuit size must be at least 1, not {size}", "give sizes like 49,100,200")
    if not 0 <= settings.seed <= LARGEST_INTEGER:
        raise InvalidInputError(f"seed must lie between 0 and 2^53 - 1, not {settings.seed}", "give another seed")
    threshold = settings.threshold
    if threshold is not None and not (math.isfinite(threshold) and 0 < threshold < 1):
        raise InvalidInputError(f"threshold must lie between 0 and 1, not {threshold}", "0.9 is the default")


def _check_choice(name: str, value: str | None, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UsageError(f"there is no {name} {value!r}", f"choose from {', '.join(known)}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`, groups within groups."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(cast("Mapping[str, Any]", below), cast("Mapping[str, Any]", value))
        else:
            merged[name] = value
    return merged
