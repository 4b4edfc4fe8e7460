"""Tell what training on a corpus will take, by a calibration in the very process that would do it."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hagd.artifacts.document import Document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes, clock_of, resident_bytes
from hagd_transcoder.corpus_dictionaries import make_plan, memory_of, read_inputs
from hagd_transcoder.corpus_handlers import read_config
from hagd_transcoder.domain.corpus_calibration import time_training
from hagd_transcoder.domain.corpus_memory import require_memory, usable_bytes


def estimate(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the document `estimate`. See `StageSpec.estimate`.

    Seconds are by kind of work. Bytes are by phase, above what the process holds with model and corpus in it, which
    is measured; `peak_bytes` is all of it. On a GPU they are bytes of the GPU.

    Raises:
        InvalidInputError: a transcoder across layers, which is made whole to be timed, does not fit into the memory.
    """
    began = time.monotonic()
    device = context.device()
    model, corpus = read_inputs(inputs, device)
    checked = read_config(config)
    plan = make_plan(checked, model, corpus)
    memory, held, free = memory_of(checked, plan, model, corpus), resident_bytes(device), available_bytes(device)
    if plan.decoders != "own":
        require_memory(memory, free)
    clock = clock_of(device)
    seconds = time_training(model, corpus, plan, context, shards=checked.shards, traced=checked.traced, clock=clock)
    content: dict[str, Any] = {
        "schema": "hagd.estimate/v1",
        "seconds": asdict(seconds),
        "calibration_seconds": time.monotonic() - began,
        "memory_bytes": {"held": held, **asdict(memory)},
        "peak_bytes": held + memory.peak_bytes,
        "available_bytes": held + usable_bytes(free),
    }
    return {"estimate": Document(content)}
