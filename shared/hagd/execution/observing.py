"""What is told of a task by the process that runs it: a span, and log lines, all with its run and trace."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from hagd.errors import HagdError
from hagd.execution.executor import Task
from hagd.telemetry.logs import working_on
from hagd.telemetry.traceparent import trace_id_of
from hagd.telemetry.tracing import span

_LOG: Final = logging.getLogger(__name__)


@contextmanager
def observed(task: Task) -> Generator[None]:
    """Tell when a task begins and how it ends, and put its names into whatever else is logged inside."""
    run_id, stage_id, key = task.run_id, task.stage_id, task.task_key
    with working_on(run_id=run_id, stage_id=stage_id, trace_id=trace_id_of(task.traceparent)):
        _LOG.info("task begins", extra={"task_key": key, "epoch": task.epoch})
        try:
            with span("execute", parent=task.traceparent, run_id=run_id, stage_id=stage_id, task_key=key):
                yield
        except HagdError as error:
            # Whether that is bad is for the driver to say.
            _LOG.info("task ends without a result", extra={"kind": error.kind, "reason": error.message})
            raise
        except Exception:
            _LOG.exception("task broke")
            raise
        _LOG.info("task is done")
