"""Three small stages without torch: numbers -> total -> verdict. Each computation leaves a line in `journal`."""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hagd.artifacts.document import Document
from hagd.errors import AccuracyGateError, InvalidInputError, QuotaExceededError, StoreFullError, UnavailableError
from hagd.pipeline.contract import Config, Sharding, StageContext, StageSpec

Documents = Mapping[str, Document]
LOCAL = frozenset({"journal", "pause_seconds", "trouble"})


def resolve(config: Config) -> dict[str, Any]:
    """Accept what the toy stages know."""
    unknown = sorted(set(config) - LOCAL - {"seed", "steps", "threshold", "shards"})
    if unknown:
        raise InvalidInputError(f"unknown settings: {', '.join(unknown)}")
    return dict(config)


def make_numbers(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Draw numbers in steps, with a checkpoint after each."""
    steps, start = config.get("steps", 3), 0
    numbers = np.zeros(steps)
    saved = context.load_checkpoint()
    if saved is not None:
        start, numbers = saved[0], saved[1].tensors["numbers"].copy()
    note(config, f"numbers from {start}")
    for step in range(start, steps):
        numbers[step] = np.random.default_rng([config["seed"], step]).normal()
        time.sleep(config.get("pause_seconds", 0))
        context.save_checkpoint(step + 1, Document({"step": step + 1}, {"numbers": numbers}))
        context.progress(step + 1, steps, "drawing")
    note(config, "numbers done")
    return {"numbers": Document({"steps": steps}, {"numbers": numbers})}


def add(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Add the numbers, or run into the trouble that the config names."""
    note(config, "total")
    time.sleep(config.get("pause_seconds", 0))
    make_trouble(config)
    context.progress(1, 1, "added")
    return {"total": Document({"total": float(inputs["numbers"].tensors["numbers"].sum())})}


def split(config: Config) -> list[Config]:
    """Give each shard every so many numbers."""
    shards = config.get("shards", 1)
    local = {name: value for name, value in config.items() if name in LOCAL}
    return [{"first": first, "each": shards, **local} for first in range(shards)]


def add_some(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Add the numbers of a shard."""
    note(config, f"part {config['first']}")
    make_trouble(config)
    some = inputs["numbers"].tensors["numbers"][config["first"] :: config["each"]]
    return {"part": Document({"total": float(some.sum())})}


def add_parts(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Add what the shards gave."""
    note(config, "join")
    parts = [document.content["total"] for role, document in sorted(inputs.items()) if role.startswith("part/")]
    return {"total": Document({"total": float(sum(parts))})}


def judge(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Compare the total with a threshold."""
    note(config, "verdict")
    passed = inputs["total"].content["total"] > config.get("threshold", 0.0)
    return {"evidence": Document({"data": {"verdict": "verified" if passed else "refuted"}})}


def note(config: Config, line: str) -> None:
    """Write down that work was done."""
    if "journal" in config:
        with Path(config["journal"]).open("a") as stream:
            stream.write(line + "\n")


def make_trouble(config: Config) -> None:
    """Fail in the way that the first line of the file `trouble` names, and take that line away."""
    path = Path(config.get("trouble", "/nonexistent"))
    lines = path.read_text().split() if path.exists() else []
    if not lines:
        return
    path.write_text("\n".join(lines[1:]))
    if lines[0] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    errors = {
        "gate": AccuracyGateError("the model knows 3 of 7", "train it longer"),
        "defect": ZeroDivisionError("by 0"),
        "outage": UnavailableError("the hub does not answer"),
        "busy": QuotaExceededError("too many of them"),
        "full": StoreFullError("no room left", "free some space"),
    }
    raise errors[lines[0]]


_HERE = "unit.pipeline.toy_stages"
NUMBERS = StageSpec("numbers", 1, (), ("numbers",), f"{_HERE}:make_numbers", resolve, LOCAL)
PARTS = Sharding(split, f"{_HERE}:add_some", ("part",), f"{_HERE}:add_parts")
TOTAL = StageSpec("total", 1, ("numbers",), ("total",), f"{_HERE}:add", resolve, LOCAL, sharding=PARTS)
VERDICT = StageSpec("verdict", 2, ("total",), ("evidence",), f"{_HERE}:judge", resolve, LOCAL)
STAGES = {spec.id: spec for spec in (NUMBERS, TOTAL, VERDICT)}
