"""What the last stage of a plan will take on this machine: the stages before it are run, and it tells by a calibration.

All of it happens in the worker process that would do the work. Nothing stays behind but, where a store is shared, what
the stages before gave, which the run itself then finds there.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.reference import ArtifactRef
from hagd.errors import CorruptArtifactError
from hagd.execution.checkpoints import clear_checkpoints
from hagd.execution.executor import Task
from hagd.extraction.estimate import StageEstimate
from hagd.extraction.plan import PRINCIPAL
from hagd.extraction.running import StageProgress, stopped_by_sigterm
from hagd.pipeline.contract import StageSpec, task_key
from hagd.pipeline.embedded import EmbeddedRuntime
from hagd.pipeline.request import PlanEntry, Request
from hagd.pipeline.stages import find_stage
from hagd.pipeline.state import StageState
from hagd.telemetry.progress import ProgressView, SilentProgress

SCHEMA: Final = "hagd.estimate/v1"
_EPOCH: Final = 1


def calibrate_plan(
    plan: tuple[PlanEntry, ...],
    beside: Path,
    *,
    view: ProgressView | None = None,
    store: Path | None = None,
    threads: int | None = None,
    stages: Mapping[str, StageSpec] | None = None,
) -> list[StageEstimate]:
    """Estimate every stage of a plan.

    Args:
        plan: its last stage has `StageSpec.estimate`.
        beside: the folder that the run would have; what is computed on the way lies beside it, or as near as there are
            folders, until this returns.
        view: shows the progress; nothing when None.
        store: folder of artifacts that runs share.
        threads: CPU threads of the worker process; all that may be used when None.
        stages: the stages by id; the installed ones when None.

    Raises:
        HagdError: what the stages before raise, or the calibration.
        KeyboardInterrupt: asked to stop, by Ctrl-C or SIGTERM.
    """
    specs = {entry.stage_id: find_stage(entry.stage_id, stages) for entry in plan}
    shown = view or SilentProgress()
    progress = StageProgress([entry.stage_id for entry in plan], shown)
    there = next(folder for folder in beside.absolute().parents if folder.is_dir())
    with (
        stopped_by_sigterm(),
        tempfile.TemporaryDirectory(prefix=".dry-run-", dir=there) as place,
        EmbeddedRuntime(Path(place), store=store, threads=threads, stages=specs) as runtime,
        shown,
    ):
        state = runtime.run(Request(PRINCIPAL, "dry-run", plan[:-1]), progress.update)
        state.raise_for_failure()
        last = _calibrate(specs[plan[-1].stage_id], plan[-1].config, state.outputs, runtime, progress)
    return [*map(_measured, state.stages), last]


def _measured(stage: StageState) -> StageEstimate:
    return StageEstimate(stage.stage_id, stage.seconds, stage.peak_rss_bytes, cached=stage.status == "cached")


def _calibrate(
    spec: StageSpec,
    config: Mapping[str, Any],
    inputs: Mapping[str, ArtifactRef],
    runtime: EmbeddedRuntime,
    progress: StageProgress,
) -> StageEstimate:
    """Run the calibration of a stage. It is no result of anything, so it gets no manifest: it holds for this hour."""
    given = {role: inputs[role] for role in spec.inputs}
    key = task_key(spec, given, config)
    task = Task(spec.id, key, _EPOCH, str(spec.estimate), config, given, ("estimate",))

    def tell(done: float, total: float, message: str) -> None:
        progress.update(spec.id, done, total, message)

    result = runtime.executor.execute(task, runtime.store, tell, runtime.stop.is_set)
    clear_checkpoints(runtime.store, key)
    content = runtime.load(result.outputs["estimate"]).content
    if content.get("schema") != SCHEMA:
        raise CorruptArtifactError(f"stage {spec.id!r} gives no estimate of schema {SCHEMA!r}", "update its package")
    # What is not of the calibration itself, such as reading the inputs, the run will do too.
    around = max(0.0, result.seconds - float(content["calibration_seconds"]))
    seconds = around + sum(float(value) for value in content["seconds"].values())
    return StageEstimate(
        spec.id,
        round(seconds, 1),
        int(content["peak_bytes"]),
        cached=False,
        parts={name: dict(content[name]) for name in ("seconds", "memory_bytes", "size") if name in content},
        available_bytes=int(content["available_bytes"]),
    )
