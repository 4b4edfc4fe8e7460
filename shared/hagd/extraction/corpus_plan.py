"""The plan that trains dictionaries on text, in place of the prompts of one task. Loads without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hagd.corpora.sources import digest_of_files, files_of
from hagd.errors import UsageError
from hagd.extraction.plan import PRINCIPAL, RUNS_FOLDER, digest_of_plan
from hagd.extraction.settings import Settings, model_config
from hagd.hub.names import is_hub
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import check_plan, plan_entry

CORPUS_STAGES: Final = ("corpus", "corpus-transcoder")
_OF_A_TASK: Final = (
    "task",
    "prompts",
    "modulus",
    "resolution",
    "sizes",
    "budget",
    "draws",
    "threshold",
)
TRAIN: Final = "transcoder-train"
"""The request id of a training run in its folder."""


def build_corpus_plan(
    settings: Settings,
    data: Sequence[Path],
    mix: Mapping[str, float] | None = None,
    stages: Mapping[str, StageSpec] | None = None,
) -> tuple[PlanEntry, ...]:
    """Give the plan, every config checked by its stage.

    Args:
        settings: of these the model, the kind of dictionary, the seed and the overrides count.
        data: files or folders of text, or dataset repositories: `hub:OWNER/NAME[/FOLDER][@REVISION]`.
        mix: task -> share of the tokens that are its prompts.
        stages: stages by id; the installed ones when None.

    Raises:
        UsageError: no model is given, something that belongs to a task, or prompts cannot be mixed in.
        UnknownNameError: there is no such task.
        InvalidInputError: the text cannot be read, or a field is out of range.
        UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    given = [name for name in _OF_A_TASK if getattr(settings, name) not in (None, ())]
    if given:
        raise UsageError(f"--data and --{given[0]} exclude each other", "train on text or on the prompts of a task")
    if settings.model is None:
        raise UsageError("text needs a model that reads it", "add --model with a folder, a hub id or 'smollm2'")
    if unknown := sorted(set(settings.overrides) - set(CORPUS_STAGES)):
        raise UsageError(f"there is no stage {unknown[0]!r} here", f"stages: {', '.join(CORPUS_STAGES)}")
    seed, paths = {"seed": settings.seed} if settings.seed else {}, [str(_absolute(path)) for path in data]
    configs = {
        # The digest is taken here, so that the same path with other text is another run.
        "corpus": {
            "model": model_config(settings),
            "data": paths,
            "digest": digest_of_files(files_of(paths)),
            **({"mix": dict(mix)} if mix else {}),
            **seed,
        },
        "corpus-transcoder": {**({"kind": settings.dictionary} if settings.dictionary else {}), **seed},
    }
    plan = tuple(
        plan_entry(stage, {**configs[stage], **settings.overrides.get(stage, {})}, stages) for stage in CORPUS_STAGES
    )
    check_plan(Request(PRINCIPAL, TRAIN, plan), stages)
    return plan


def parse_mix(assignments: Sequence[str]) -> dict[str, float]:
    """Read `task=share` pairs.

    Raises:
        UsageError: one has another form.
    """
    found: dict[str, float] = {}
    for text in assignments:
        task, _, share = text.partition("=")
        try:
            found[task] = float(share)
        except ValueError as error:
            raise UsageError(f"cannot read the mix {text!r}", "write it like ioi=0.1") from error
    return found


def _absolute(path: Path) -> Path:
    if is_hub(str(path)):
        # The hub's library, which comes with the extra of the service that trains.
        from hagd.corpora.hub import text_at  # noqa: PLC0415

        return text_at(str(path))
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        # The home of nobody; that there is nothing is said by who reads it.
        return path.absolute()


def corpus_folder(settings: Settings, plan: tuple[PlanEntry, ...]) -> Path:
    """Give a folder that the same settings always give."""
    return Path(RUNS_FOLDER) / f"{Path(settings.model or 'model').name}-text-{digest_of_plan(plan)[:8]}"
