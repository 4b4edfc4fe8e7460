"""The plans that train dictionaries on text, in place of the prompts of one task, and that measure some on text. Load
without torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hagd.corpora.sources import digest_of_files, files_of
from hagd.dictionaries.names import PAPER
from hagd.errors import UsageError
from hagd.extraction.dictionary_folder import named_folder
from hagd.extraction.plan import PRINCIPAL, RUNS_FOLDER, digest_of_plan
from hagd.extraction.settings import Settings, model_config
from hagd.hub.names import is_hub
from hagd.pipeline.contract import StageSpec
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import check_plan, plan_entry

CORPUS_STAGES: Final = ("corpus", "corpus-transcoder")
PAPER_STAGES: Final = ("corpus", "paper-autoencoder")
EVALUATION_STAGES: Final = ("corpus", "corpus-evaluation")
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
EVALUATE: Final = "transcoder-eval"
"""The request id of a measurement in its folder."""
MEASURED: Final[Mapping[str, Any]] = {"most_tokens": 200_000, "held_out": 0.5}
"""What is read to measure: more would not count. Linear baselines are fitted on the other half."""


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
    read = {"mix": dict(mix)} if mix else {}
    if settings.dictionary == PAPER:
        return _plan(settings, data, read, PAPER_STAGES, {}, TRAIN, stages)
    own = {"kind": settings.dictionary} if settings.dictionary else {}
    return _plan(settings, data, read, CORPUS_STAGES, own, TRAIN, stages)


def build_evaluation_plan(
    settings: Settings,
    dictionaries: Path,
    data: Sequence[Path],
    *,
    any_name: bool = False,
    stages: Mapping[str, StageSpec] | None = None,
) -> tuple[PlanEntry, ...]:
    """Give the plan that measures dictionaries in a folder on text.

    Args:
        settings: of these the model, the seed and the overrides count.
        dictionaries: a folder, or `hub:OWNER/NAME[/FOLDER][@REVISION]`.
        data: as of `build_corpus_plan`.
        any_name: whether they may name another model than this one.
        stages: stages by id; the installed ones when None.

    Raises:
        UsageError: no model is given.
        InvalidInputError: the text or the dictionaries cannot be read, or a field is out of range.
        UnknownNameError, UnauthenticatedError, PermissionDeniedError, UnavailableError: as the hub answers.
    """
    own = {**named_folder(str(dictionaries)), **({"any_name": True} if any_name else {})}
    return _plan(settings, data, MEASURED, EVALUATION_STAGES, own, EVALUATE, stages)


def _plan(
    settings: Settings,
    data: Sequence[Path],
    read: Mapping[str, Any],
    names: tuple[str, str],
    own: Mapping[str, Any],
    request_id: str,
    stages: Mapping[str, StageSpec] | None,
) -> tuple[PlanEntry, ...]:
    """Give the plan whose first stage reads text as `read` says, and whose second one has the config `own`."""
    if settings.model is None:
        raise UsageError("text needs a model that reads it", "add --model with a folder, a hub id or 'smollm2'")
    if unknown := sorted(set(settings.overrides) - set(names)):
        raise UsageError(f"there is no stage {unknown[0]!r} here", f"stages: {', '.join(names)}")
    seed, paths = {"seed": settings.seed} if settings.seed else {}, [str(_absolute(path)) for path in data]
    corpus: dict[str, Any] = {
        "model": model_config(settings),
        "data": paths,
        # The digest is taken here, so that the same path with other text is another run.
        "digest": digest_of_files(files_of(paths)),
        **read,
    }
    plan = tuple(
        plan_entry(stage, {**config, **seed, **settings.overrides.get(stage, {})}, stages)
        for stage, config in zip(names, (corpus, own), strict=True)
    )
    check_plan(Request(PRINCIPAL, request_id, plan), stages)
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


def corpus_folder(settings: Settings, plan: tuple[PlanEntry, ...], purpose: str = "text") -> Path:
    """Give a folder that the same settings always give."""
    return Path(RUNS_FOLDER) / f"{Path(settings.model or 'model').name}-{purpose}-{digest_of_plan(plan)[:8]}"
