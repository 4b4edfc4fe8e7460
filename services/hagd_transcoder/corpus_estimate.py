"""Tell what training on a corpus will take, by a calibration in the very process that would do it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from hagd.artifacts.document import Document
from hagd.pipeline.contract import Config, StageContext
from hagd.pipeline.machine import available_bytes, clock_of, resident_bytes
from hagd_transcoder.corpus_dictionaries import device_of, make_plan, memory_of, read_inputs
from hagd_transcoder.corpus_handlers import read_config
from hagd_transcoder.domain.corpus_calibration import time_learning, time_training
from hagd_transcoder.domain.corpus_memory import require_memory, usable_bytes
from hagd_transcoder.domain.group import Group
from hagd_transcoder.members import together

TAKE_PART = f"{__name__}:take_part"
"""What the other processes of a group call."""


def estimate(inputs: Mapping[str, Document], config: Config, context: StageContext) -> Mapping[str, Document]:
    """Give the document `estimate`. See `StageSpec.estimate`.

    Seconds are by kind of work. Bytes are by phase, above what the process holds with model and corpus in it, which
    is measured; `peak_bytes` is all of it. On a GPU they are bytes of the GPU.

    Processes that train together are started and take the steps that are timed together, since they share caches and
    memory.

    Raises:
        InvalidInputError: a transcoder across layers, which is made whole to be timed, does not fit into the memory.
    """
    began = time.monotonic()
    checked = read_config(config)
    device = device_of(checked, context)
    model, corpus = read_inputs(inputs, device)
    plan = make_plan(checked, model, corpus)
    memory, held, free = memory_of(checked, plan, model, corpus), resident_bytes(device), available_bytes(device)
    if plan.decoders != "own":
        require_memory(memory, free)
    clock, entered = clock_of(device), time.monotonic()
    with together(TAKE_PART, inputs, config, context, checked.workers) as (group, _):
        met = time.monotonic() - entered
        learning = time_learning(model, corpus, plan, context, group, clock)
    seconds = time_training(
        model, corpus, plan, context, learning=learning, shards=checked.shards, traced=checked.traced, clock=clock
    )
    # Each shard waits for a group of its own.
    seconds = replace(seconds, start=seconds.start + checked.shards * met)
    content: dict[str, Any] = {
        "schema": "hagd.estimate/v1",
        "seconds": asdict(seconds),
        "calibration_seconds": time.monotonic() - began,
        "memory_bytes": {"held": held, **asdict(memory)},
        "peak_bytes": held + memory.peak_bytes,
        "available_bytes": held + usable_bytes(free),
    }
    return {"estimate": Document(content)}


def take_part(inputs: Mapping[str, Document], config: Config, context: StageContext, group: Group) -> None:
    """Take the steps that are timed, as one of the others of a group. See `MemberFunction`."""
    model, corpus = read_inputs(inputs)
    time_learning(model, corpus, make_plan(read_config(config), model, corpus), context, group)
