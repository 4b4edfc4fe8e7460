"""The plans that trace one prompt of a pretrained model, and that take in such a graph. Load without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hagd.dictionaries.names import NEURONS
from hagd.errors import UsageError
from hagd.extraction.dictionary_folder import named_folder
from hagd.extraction.plan import PRINCIPAL, RUNS_FOLDER, digest_of_plan
from hagd.extraction.settings import Settings, model_config
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.local_files import digest_of_file
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import check_plan, plan_entry

PROMPT_STAGES: Final = ("prompt", "local-graph")
TRACE: Final = "graph-trace"
"""The request id of a trace in its folder."""
IMPORT_STAGES: Final = ("graph-import", "local-hierarchy")
IMPORT: Final = "graph-import"
"""The request id of an import in its folder."""
_OF_A_TASK: Final = ("task", "prompts", "modulus", "resolution", "sizes", "budget", "draws", "threshold")


@dataclass(frozen=True)
class PromptSettings:
    """What is traced, and how far."""

    text: str
    targets: tuple[str, ...] = ()
    against: str | None = None
    nodes: int | None = None
    heads: bool = False
    """Whether heads are nodes."""
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    """Directions behind the final norm to end at, by name."""


def build_prompt_plan(
    settings: Settings, asked: PromptSettings, stages: Mapping[str, StageSpec] | None = None
) -> tuple[PlanEntry, ...]:
    """Give the plan, every config checked by its stage.

    Args:
        settings: of these the model, the dictionaries (neurons where there are none) and the overrides count.
        asked: the prompt.
        stages: stages by id; the installed ones when None.

    Raises:
        UsageError: no model is given, or something that belongs to a task.
        InvalidInputError: a field is out of range, or the dictionaries cannot be read.
        UnknownNameError, UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    if given := [name for name in _OF_A_TASK if getattr(settings, name) not in (None, ())]:
        raise UsageError(f"--text and --{given[0]} exclude each other", "trace a text, or build the graph of a task")
    if settings.model is None:
        raise UsageError("a text needs a model that reads it", "add --model with a folder, a hub id or 'smollm2'")
    if settings.dictionary is not None and settings.dictionaries is not None:
        raise UsageError("both a kind of dictionary and dictionaries are given", "leave one of the two out")
    if settings.dictionary not in (None, NEURONS):
        raise UsageError(
            f"there are no dictionaries of kind {settings.dictionary} for a text", "name a folder with --dictionaries"
        )
    if unknown := sorted(set(settings.overrides) - set(PROMPT_STAGES)):
        raise UsageError(f"there is no stage {unknown[0]!r} here", f"stages: {', '.join(PROMPT_STAGES)}")
    configs: dict[str, dict[str, Any]] = {
        "prompt": {"model": model_config(settings), "text": asked.text},
        "local-graph": {"targets": list(asked.targets)} if asked.targets else {},
    }
    if settings.dictionaries not in (None, NEURONS):
        configs["prompt"] |= named_folder(settings.dictionaries)
    if asked.vectors:
        configs["local-graph"]["vectors"] = {name: list(map(float, it)) for name, it in asked.vectors.items()}
    if asked.against is not None:
        configs["local-graph"]["against"] = asked.against
    if asked.nodes is not None:
        configs["local-graph"]["nodes"] = asked.nodes
    if asked.heads:
        configs["local-graph"]["heads"] = True
    plan = tuple(
        plan_entry(stage, {**configs[stage], **settings.overrides.get(stage, {})}, stages) for stage in PROMPT_STAGES
    )
    check_plan(Request(PRINCIPAL, TRACE, plan), stages)
    return plan


def build_import_plan(path: Path, stages: Mapping[str, StageSpec] | None = None) -> tuple[PlanEntry, ...]:
    """Give the plan that takes in the graph of one prompt from a file, and coarsens it.

    Raises:
        InvalidInputError: the file cannot be read.
    """
    where = path.expanduser().absolute()
    configs: dict[str, dict[str, Any]] = {
        "graph-import": {"path": str(where), "digest": digest_of_file(str(where))},
        "local-hierarchy": {},
    }
    plan = tuple(plan_entry(stage, configs[stage], stages) for stage in IMPORT_STAGES)
    check_plan(Request(PRINCIPAL, IMPORT, plan), stages)
    return plan


def prompt_folder(settings: Settings, plan: tuple[PlanEntry, ...]) -> Path:
    """Give a folder that the same settings always give."""
    return Path(RUNS_FOLDER) / f"{Path(settings.model or 'model').name}-trace-{digest_of_plan(plan)[:8]}"
