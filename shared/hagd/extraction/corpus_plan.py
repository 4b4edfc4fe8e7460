"""The plan that trains dictionaries on text, in place of the prompts of one task. Loads without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hagd.errors import UsageError
from hagd.extraction.plan import PRINCIPAL, RUNS_FOLDER, digest_of_plan
from hagd.extraction.settings import Settings
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import check_plan, plan_entry

CORPUS_STAGES: Final = ("corpus", "corpus-transcoder")
TRAIN: Final = "transcoder-train"
"""The request id of a training run in its folder."""


def build_corpus_plan(
    settings: Settings, data: Sequence[Path], stages: Mapping[str, StageSpec] | None = None
) -> tuple[PlanEntry, ...]:
    """Give the plan, every config checked by its stage.

    Args:
        settings: of these the model, the seed and the overrides count.
        data: files or folders of text.
        stages: stages by id; the installed ones when None.

    Raises:
        UsageError: no model is given, or something that belongs to a task.
        InvalidInputError: the text cannot be read, or a field is out of range.
    """
    given = [name for name in ("task", "prompts", "modulus", "dictionary") if getattr(settings, name) is not None]
    if given:
        raise UsageError(f"--data and --{given[0]} exclude each other", "train on text or on the prompts of a task")
    if settings.model is None:
        raise UsageError("text needs a model that reads it", "add --model with a folder, a hub id or 'smollm2'")
    if unknown := sorted(set(settings.overrides) - set(CORPUS_STAGES)):
        raise UsageError(f"there is no stage {unknown[0]!r} here", f"stages: {', '.join(CORPUS_STAGES)}")
    folder = Path(settings.model).expanduser()
    model: dict[str, Any] = {"path": str(folder.absolute()) if folder.is_dir() else settings.model}
    named = (("gguf", settings.gguf), ("revision", settings.revision))
    model |= {name: value for name, value in named if value is not None}
    seed = {"seed": settings.seed} if settings.seed else {}
    configs = {
        "corpus": {"model": model, "data": [str(path.expanduser().absolute()) for path in data], **seed},
        "corpus-transcoder": seed,
    }
    plan = tuple(
        plan_entry(stage, {**configs[stage], **settings.overrides.get(stage, {})}, stages) for stage in CORPUS_STAGES
    )
    check_plan(Request(PRINCIPAL, TRAIN, plan), stages)
    return plan


def corpus_folder(settings: Settings, plan: tuple[PlanEntry, ...]) -> Path:
    """Give a folder that the same settings always give."""
    return Path(RUNS_FOLDER) / f"{Path(settings.model or 'model').name}-text-{digest_of_plan(plan)[:8]}"
