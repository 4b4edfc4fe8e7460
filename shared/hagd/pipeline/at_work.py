"""Which tasks of a run somebody computes now: those that were started and whose lease is held by a living process."""

from collections.abc import Callable

from hagd.artifacts.leases import NOBODY, LeaseTable, Owner
from hagd.pipeline.runs import RunStore
from hagd.pipeline.state import RunState


def tasks_at_work(
    state: RunState, runs: RunStore, leases: LeaseTable, ended: Callable[[Owner], bool], stage_id: str | None = None
) -> list[str]:
    """Give the keys of the tasks at work, shards among them, as far as can be known from here.

    Args:
        state: the run.
        runs: where its shards are noted.
        leases: only read.
        ended: says of an owner that its process is known to have ended.
        stage_id: of this stage alone.
    """
    keys: list[str] = []
    for index, stage in enumerate(state.stages):
        if stage.status == "running" and stage_id in (None, stage.stage_id):
            keys += [stage.task_key, *runs.shards(state.run_id, state.generation, index, stage.stage_id)]
    held = [(key, lease) for key in keys if (lease := leases.read(key)) is not None]
    return [key for key, lease in held if lease.owner != NOBODY and not ended(lease.owner)]
