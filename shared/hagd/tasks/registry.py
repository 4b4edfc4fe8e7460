"""The tasks by name. Loads without torch: a builder is named here and imported when it is asked for."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hagd.errors import InvalidInputError, UnknownNameError
from hagd.tasks.configs import (
    FactsConfig,
    IoiConfig,
    JsonlConfig,
    ModularAdditionConfig,
    ParityConfig,
    SortingConfig,
    parse_config,
)

if TYPE_CHECKING:
    from hagd.models.tokenizer import Tokenizer
    from hagd.tasks.task import Task


@dataclass(frozen=True)
class TaskEntry:
    """One task: what it can be asked, and where it is built."""

    name: str
    title: str
    config: type[Any]
    builder: str
    """`module:function` taking (config) or, for text tasks, (config, tokenizer)."""
    algorithmic: bool
    """True where prompts are ids of a closed vocabulary and the base model is trained on the spot."""


TASKS: Mapping[str, TaskEntry] = {
    entry.name: entry
    for entry in (
        TaskEntry(
            "modular-addition",
            "(a + b) mod p",
            ModularAdditionConfig,
            "hagd.tasks.modular_addition:build_modular_addition",
            True,
        ),
        TaskEntry("parity", "running parity of a bit string", ParityConfig, "hagd.tasks.parity:build_parity", True),
        TaskEntry("sorting", "a list in rising order", SortingConfig, "hagd.tasks.sorting:build_sorting", True),
        TaskEntry("ioi", "indirect object identification", IoiConfig, "hagd.tasks.ioi:build_ioi", False),
        TaskEntry("facts", "factual recall in a few relations", FactsConfig, "hagd.tasks.facts:build_facts", False),
        TaskEntry("jsonl", "prompt pairs from a file", JsonlConfig, "hagd.tasks.jsonl:build_jsonl", False),
    )
}


def find_task(name: str) -> TaskEntry:
    """Look a task up; `_` and `-` are the same.

    Raises:
        UnknownNameError: no task has this name.
    """
    entry = TASKS.get(name.replace("_", "-"))
    if entry is None:
        raise UnknownNameError(f"there is no task {name!r}", f"tasks: {', '.join(TASKS)}")
    return entry


def build_task(name: str, values: Mapping[str, Any], tokenizer: "Tokenizer | None" = None) -> "Task":
    """Build a task from its name and config values.

    Raises:
        UnknownNameError: no task has this name.
        InvalidInputError: a config value is wrong, or a text task came without a tokenizer.
    """
    entry = find_task(name)
    config = parse_config(entry.config, values)
    module, function = entry.builder.split(":")
    builder = cast("Callable[..., Task]", getattr(importlib.import_module(module), function))
    if entry.algorithmic:
        return builder(config)
    if tokenizer is None:
        raise InvalidInputError(f"task {name!r} needs a pretrained model with a tokenizer", "give a model path or id")
    return builder(config, tokenizer)
