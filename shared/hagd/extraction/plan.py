"""From settings to a plan that the installed stages accept, and to the folder of its run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import rfc8785
from pydantic import TypeAdapter, ValidationError

from hagd.errors import InvalidInputError, UsageError
from hagd.extraction.settings import STAGES, Settings, stage_configs
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.intake import complaint_of
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import check_plan, plan_entry

RUNS_FOLDER: Final = "runs"
PRINCIPAL: Final = "local"
EXTRACT: Final = "extract"
"""The request id of a whole extraction in its folder: one folder, one extraction."""
SENT: Final = frozenset(field.name for field in fields(Settings)) - {"prompts", "dictionaries"}
"""The settings that another system may send; the others would be files of this machine."""
IMPORT_DICTIONARIES: Final = "dictionary-import"
"""The stage that stands in the place of training where dictionaries are given."""
_SETTINGS: Final = TypeAdapter(Settings)


def build_plan(
    settings: Settings,
    *,
    upto: str = STAGES[-1],
    use: Mapping[str, str] | None = None,
    stages: Mapping[str, StageSpec] | None = None,
) -> tuple[PlanEntry, ...]:
    """Give the plan of an extraction, or of its beginning, every config checked by its stage.

    Args:
        settings: what is asked for.
        upto: the last stage of the plan.
        use: place in the plan -> id of another implementation of that stage.
        stages: stages by id; the installed ones when None.

    Raises:
        UnknownNameError: a task or stage does not exist.
        UsageError: a setting is refused.
    """
    chosen = dict(use or {})
    if settings.dictionaries is not None:
        if "transcoder" in chosen:
            raise UsageError("both dictionaries and a stage that makes some are given", "leave one of the two out")
        chosen["transcoder"] = IMPORT_DICTIONARIES
    unknown = sorted(set(chosen) - set(STAGES))
    if unknown:
        raise UsageError(f"the plan has no place {unknown[0]!r}", f"places: {', '.join(STAGES)}")
    configs = stage_configs(settings)
    wanted = STAGES[: STAGES.index(upto) + 1]
    plan = tuple(plan_entry(chosen.get(stage, stage), configs[stage], stages) for stage in wanted)
    check_plan(Request(PRINCIPAL, EXTRACT, plan), stages)
    return plan


def plan_of_settings(
    settings: Mapping[str, Any], use: Mapping[str, str], stages: Mapping[str, StageSpec] | None = None
) -> tuple[PlanEntry, ...]:
    """Give the plan for settings that another system sent, as JSON; `use` and `stages` are those of `build_plan`.

    Raises:
        UnknownNameError, UsageError: as `build_plan`.
        InvalidInputError: a setting is unknown, of another type, or names a file of this machine.
    """
    if unknown := sorted(set(settings) - SENT):
        raise InvalidInputError(f"there is no setting {unknown[0]!r} to send", f"settings: {', '.join(sorted(SENT))}")
    try:
        # As JSON, where a list may stand for a tuple and nothing else for anything else.
        read = _SETTINGS.validate_json(json.dumps(dict(settings)), strict=True)
    except (ValidationError, RecursionError) as error:
        raise InvalidInputError(
            f"the settings cannot be read: {complaint_of(error)}", "see docs/reference/events.md"
        ) from error
    return build_plan(read, use=use, stages=stages)


def digest_of_plan(plan: tuple[PlanEntry, ...]) -> str:
    """Give sha256 of the plan as asked for; errors as in `plan_to_json`."""
    return hashlib.sha256(rfc8785.dumps(plan_to_json(plan))).hexdigest()


def default_folder(settings: Settings, plan: tuple[PlanEntry, ...]) -> Path:
    """Give a folder that the same settings always give, so that asking again goes on instead of starting anew."""
    subject = settings.task or (settings.prompts.stem if settings.prompts else "run")
    return Path(RUNS_FOLDER) / f"{subject}-{digest_of_plan(plan)[:8]}"


def use_of(assignments: list[str]) -> dict[str, str]:
    """Read `place=stage-id` pairs.

    Raises:
        UsageError: one has another form.
    """
    pairs = [assignment.partition("=") for assignment in assignments]
    for (place, equals, stage), text in zip(pairs, assignments, strict=True):
        if not (place and equals and stage):
            raise UsageError(f"cannot read {text!r}", "write it like transcoder=my-transcoder")
    return {place: stage for place, _, stage in pairs}


def plan_to_json(plan: tuple[PlanEntry, ...]) -> list[dict[str, Any]]:
    """Give a plan as JSON.

    Raises:
        InvalidInputError: a config holds what JSON cannot.
    """
    entries = [entry.to_json() for entry in plan]
    try:
        rfc8785.dumps(entries)
    except (rfc8785.CanonicalizationError, UnicodeError) as error:
        raise InvalidInputError(f"the plan cannot be written as JSON: {error}") from error
    return entries
