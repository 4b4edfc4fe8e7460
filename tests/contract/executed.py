"""Small tasks that tell what reached them, and that end in every way a task can end. Workers import this module."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hagd import errors
from hagd.artifacts.document import Document
from hagd.pipeline.contract import Config, StageContext

Documents = Mapping[str, Document]


def tell(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Give back what came, and what kind of process this is."""
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    total = {role: float(document.tensors["numbers"].sum()) for role, document in inputs.items()}
    content = {"config": dict(config), "total": total, "pid": os.getpid()}
    content |= {name: os.environ.get(name) for name in names}
    print("chatter", flush=True)
    context.progress(1, 1, "told")
    return {"told": Document(content)}


def draw(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Draw numbers in steps, with a checkpoint after each; the message of the progress is the process id."""
    steps, start = config["steps"], 0
    numbers = np.zeros(steps)
    saved = context.load_checkpoint()
    if saved is not None:
        start, numbers = saved[0], saved[1].tensors["numbers"].copy()
    for step in range(start, steps):
        numbers[step] = np.random.default_rng([config["seed"], step]).normal()
        context.save_checkpoint(step + 1, Document({"step": step + 1}, {"numbers": numbers}))
        context.progress(step + 1, steps, str(os.getpid()))
        time.sleep(config.get("pause_seconds", 0))
    return {"drawn": Document({"began": start} if config.get("tell_begin") else {}, {"numbers": numbers})}


def fail(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Raise the error of that name."""
    kind = getattr(errors, config["error"], None)
    raise kind("the model knows 3 of 7", "train it longer") if kind else ZeroDivisionError("by 0")


def ignore_everything(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Heed no stop."""
    context.progress(0, 1, str(os.getpid()))
    time.sleep(120)
    return {}


def flood(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Report progress as fast as it can for a second."""
    end, count = time.monotonic() + 1.0, 0
    while time.monotonic() < end:
        count += 1
        context.progress(count, count + 1, "")
    context.progress(count, count, "last")
    return {"told": Document({"reports": count})}


def meet(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """End once `parties` tasks are in here at a time, and tell which GPUs this one has."""
    folder = Path(config["folder"])
    (folder / config["name"]).touch()
    while len(list(folder.iterdir())) < config["parties"]:
        context.progress(0, 0, "waiting")
        time.sleep(0.05)
    return {"told": Document({"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES")})}
