"""Tell what tracing a prompt will take, in the very process that would do it: the prompt is run, and no graph made."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from hagd.artifacts.document import Document
from hagd.attribution.timing import time_graph
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import clock_of, resident_bytes
from hagd_coarsening.local_handlers import read_config
from hagd_coarsening.local_stage import prepare

_SAMPLE_BYTES: Final = 1 << 26
"""Of the rows, what is stored to time it."""


def estimate(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the document `estimate`. See `StageSpec.estimate`.

    Bytes are above what the process holds once the prompt was run, which is measured; `peak_bytes` is all of it. On a
    GPU they are bytes of the GPU.

    Raises:
        InvalidInputError: as `local_stage.run`, which would refuse the graph as well.
    """
    at_hand = prepare(inputs, read_config(config), context)
    device = context.device()
    began, held, size = time.monotonic(), resident_bytes(device), at_hand.plan.size
    context.progress(0, 1, "timing rows")
    seconds = asdict(time_graph(at_hand.frozen, at_hand.targets, at_hand.config, clock_of(device)))
    sample = Document({}, {"rows": np.zeros(max(1, min(_SAMPLE_BYTES, size.file_bytes) // 4), dtype=np.float32)})
    storing = time.monotonic()
    context.save_checkpoint(1, sample)
    seconds["storing"] = (time.monotonic() - storing) * size.file_bytes / sample.tensor_bytes
    content: dict[str, Any] = {
        "schema": "hagd.estimate/v1",
        "size": {
            "active features": at_hand.frozen.n_active,
            "features": size.features,
            "nodes": size.columns + len(at_hand.targets),
            "rows": size.rows,
            "bytes of rows": size.file_bytes,
            "bytes on disk": size.disk_bytes if at_hand.plan.in_file else size.file_bytes,
        },
        "seconds": seconds,
        "calibration_seconds": time.monotonic() - began,
        "memory_bytes": {"held": held, "graph": at_hand.plan.memory_bytes},
        "peak_bytes": held + at_hand.plan.memory_bytes,
        "available_bytes": held + at_hand.room.usable.memory_bytes,
    }
    return {"estimate": Document(content)}
