"""The Python door: `hagd.extract`, `hagd.trace` and `hagd.open_run`."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from hagd.artifacts.filesystem import storage_error
from hagd.errors import InvalidInputError, UsageError
from hagd.extraction.opened import OpenRun
from hagd.extraction.plan import EXTRACT, PRINCIPAL, build_plan, default_folder
from hagd.extraction.prompt_plan import PROMPT_STAGES, TRACE, PromptSettings, build_prompt_plan, prompt_folder
from hagd.extraction.result import Extraction
from hagd.extraction.running import run_request
from hagd.extraction.settings import STAGES, Settings
from hagd.pipeline.request import Request
from hagd.pipeline.shared_store import store_folder
from hagd.telemetry.progress import ProgressView, progress_view

if TYPE_CHECKING:
    from hagd.attribution.trace import Trace

Pairs = str | Path | Iterable[Mapping[str, Any]]
"""A file of prompt pairs, or the pairs themselves: what its lines hold."""
_NAME_DIGITS: Final = 16
_NAMED: Final = {field.name for field in fields(Settings)} - {"task", "model", "prompts", "overrides"}


def extract(
    model: Any,
    pairs: Pairs | None,
    *,
    task: str | None,
    out: str | Path | None,
    store: str | Path | None,
    threads: int | None,
    progress: bool | ProgressView,
    use: Mapping[str, str] | None,
    tokenizer: Any,
    config: Mapping[str, Any],
) -> Extraction:
    """Run an extraction; see `hagd.extract`."""
    out = None if out is None else Path(out).absolute()
    if out is None and ((pairs is not None and not isinstance(pairs, str | Path)) or _is_module(model)):
        raise UsageError("a model or pairs in memory need a folder to be kept in", "add out=FOLDER")
    named, overrides = _sorted(config, _NAMED, STAGES)
    model_path, prompts = _model_path(model, tokenizer, out), _prompts_path(pairs, out)
    settings = Settings(task=task, model=model_path, prompts=prompts, overrides=overrides, **named)
    plan = build_plan(settings, use=use)
    folder = out or default_folder(settings, plan)
    request = Request(PRINCIPAL, EXTRACT, plan, labels={"command": "hagd.extract"})
    return Extraction.open(folder, _run(folder, request, store, threads, progress))


def trace(
    text: str,
    model: Any,
    *,
    dictionaries: str | Path,
    targets: Sequence[str],
    against: str | None,
    nodes: int | None,
    heads: bool,
    vectors: Mapping[str, Sequence[float]],
    out: str | Path | None,
    store: str | Path | None,
    threads: int | None,
    progress: bool | ProgressView,
    tokenizer: Any,
    config: Mapping[str, Any],
) -> "Trace":
    """Trace one prompt; see `hagd.trace`."""
    # The driver of a run does without torch; only who holds a trace needs it.
    from hagd.attribution.trace import Trace  # noqa: PLC0415

    out = None if out is None else Path(out).absolute()
    if out is None and _is_module(model):
        raise UsageError("a model in memory needs a folder to be kept in", "add out=FOLDER")
    named, overrides = _sorted(config, {"gguf", "revision"}, PROMPT_STAGES)
    path = _model_path(model, tokenizer, out)
    settings = Settings(model=path, dictionaries=str(dictionaries), overrides=overrides, **named)
    asked = PromptSettings(text, tuple(targets), against, nodes, heads, vectors)
    plan = build_prompt_plan(settings, asked)
    folder = out or prompt_folder(settings, plan)
    request = Request(PRINCIPAL, TRACE, plan, labels={"command": "hagd.trace"})
    return Trace.of(OpenRun.open(folder, _run(folder, request, store, threads, progress)).document)


def open_run(folder: str | Path, run_id: str | None = None) -> Extraction:
    """Open a run folder; see `hagd.open_run`."""
    return Extraction.open(folder, run_id)


def _run(
    folder: Path, request: Request, store: str | Path | None, threads: int | None, progress: bool | ProgressView
) -> str:
    """Run a request in a folder; give the id of the run."""
    stages = [entry.stage_id for entry in request.plan]
    view = progress_view(stages, quiet=not progress) if isinstance(progress, bool) else progress
    state = run_request(folder, request, view=view, store=store_folder(store), threads=threads)
    state.raise_for_failure()
    return state.run_id


def _sorted(
    config: Mapping[str, Any], names: Set[str], stages: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Sort keywords into named settings and configs of stages."""
    known = names | set(stages)
    if unknown := sorted(set(config) - known):
        raise UsageError(f"there is no setting {unknown[0]!r}", f"settings: {', '.join(sorted(known))}")
    named = {name: value for name, value in config.items() if name in names}
    if "sizes" in named:
        named["sizes"] = tuple(named["sizes"])
    if isinstance(named.get("dictionaries"), Path):
        named["dictionaries"] = str(named["dictionaries"])
    overrides: dict[str, Mapping[str, Any]] = {}
    for stage in sorted(set(config) - names):
        given: Any = config[stage]
        if not isinstance(given, Mapping):
            raise UsageError(f"{stage} must be a mapping of fields, not {given!r}", f"write {stage}={{'field': 1}}")
        overrides[stage] = cast("Mapping[str, Any]", given)
    return named, overrides


def _is_module(model: Any) -> bool:
    return hasattr(model, "save_pretrained")


def _model_path(model: Any, tokenizer: Any, out: Path | None) -> str | None:
    """Give the name of a model; one in memory is kept beside the run, since another process does the work.

    It is kept under a name that follows from its content, so that no call changes what another one reads.
    """
    if model is None or isinstance(model, str | Path):
        return None if model is None else str(model)
    if not _is_module(model) or out is None:
        raise InvalidInputError(
            f"cannot take a {type(model).__name__} as a model", "give a folder, a hub id, or a Hugging Face model"
        )
    inputs = _inputs(out)
    try:
        inputs.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=inputs) as fresh:
            saved = Path(fresh, "model")
            model.save_pretrained(saved)
            if tokenizer is not None:
                tokenizer.save_pretrained(saved)
            folder = inputs / f"model-{_digest_of(sorted(saved.iterdir()))}"
            if not folder.exists():
                saved.rename(folder)
    except OSError as error:
        raise storage_error(error, inputs) from error
    return str(folder)


def _digest_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:_NAME_DIGITS]


def _prompts_path(pairs: Pairs | None, out: Path | None) -> Path | None:
    if pairs is None or out is None or isinstance(pairs, str | Path):
        return Path(pairs) if isinstance(pairs, str | Path) else None
    text = "".join(json.dumps(dict(pair), sort_keys=True, allow_nan=False) + "\n" for pair in pairs)
    if not text:
        raise InvalidInputError("there are no pairs", "give about a hundred of one length or more")
    path = _inputs(out) / f"pairs-{hashlib.sha256(text.encode()).hexdigest()[:_NAME_DIGITS]}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise storage_error(error, path) from error
    return path


def _inputs(out: Path) -> Path:
    """Give the folder of what was in memory: beside the run folder, which takes only what it made itself."""
    return out.with_name(out.name + ".inputs")
