"""Three stages of a known cost, found by entry point like those of any other package: no torch, the same bytes always.

    soak-draw   a number from a seed
    soak-sum    divided into shards, and joined
    soak-train  steps with a checkpoint after each, and a verdict

Each takes about 50 ms of one CPU. Where a soak says so, a worker dies here, after its blob or between the two writes
of a checkpoint; both leave the store as such a death leaves it in any stage.
"""

# ruff: noqa: ARG001  # every stage function has the same three arguments

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from benchmarks.soak.faults import Faults
from hagd.artifacts.document import Document
from hagd.artifacts.store import ArtifactStore, put_document
from hagd.errors import InvalidInputError
from hagd.execution.running import TaskContext
from hagd.pipeline.contract import Config, Sharding, StageContext, StageSpec

ROOT: Final = Path(__file__).parents[2]
Documents = Mapping[str, Document]
ITERATIONS: Final = 150_000
"""Of PBKDF2, in all pieces together: about 50 ms."""
_PIECES: Final = 5
_STEPS: Final = 4
_FIELDS: Final = {"soak-draw": {"seed"}, "soak-sum": {"shards", "salt"}, "soak-train": {"salt"}}


def draw(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Give a number."""
    return _dying(context, {"number": Document({"number": _work("draw", config, context, _PIECES)})})


def shard(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Give a part of the sum."""
    start = inputs["number"].content["number"]
    return _dying(context, {"part": Document({"part": _work(start, config, context, _PIECES)})})


def join(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Put the parts together."""
    parts = [inputs[role].content["part"] for role in sorted(inputs) if role.startswith("part/")]
    return {"sum": Document({"sum": _hashed("join".join(parts), 1), "parts": len(parts)})}


def whole(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Give the sum in one piece: what `split` never asks for."""
    raise InvalidInputError("soak-sum is always divided", "ask for two shards or more")


def train(inputs: Documents, config: Config, context: StageContext) -> Documents:
    """Go on from the last checkpoint to the last step."""
    begun = context.load_checkpoint()
    done, state = (0, inputs["sum"].content["sum"]) if begun is None else (begun[0], begun[1].content["state"])
    for step in range(done, _STEPS):
        context.progress(step, _STEPS, "training")
        state = _hashed(f"{state}/{step}/{config.get('salt', 0)}", ITERATIONS // _STEPS)
        _keeping(context).save_checkpoint(step + 1, Document({"state": state}))
    return _dying(context, {"evidence": Document({"data": {"verdict": "verified", "state": state}})})


def split(config: Config) -> Sequence[Config]:
    """Give the configs of the shards."""
    return [{"shard": number, "salt": config.get("salt", 0)} for number in range(config.get("shards", 3))]


def _resolver(stage_id: str) -> Any:
    def resolve(config: Config) -> dict[str, Any]:
        unknown = sorted(set(config) - _FIELDS[stage_id])
        if unknown:
            raise InvalidInputError(f"{stage_id} has no field {unknown[0]!r}", "leave it out")
        return dict(config)

    return resolve


def _spec(stage_id: str, inputs: tuple[str, ...], output: str, function: str, **more: Any) -> StageSpec:
    run = f"{__name__}:{function}"
    return StageSpec(stage_id, 1, inputs, (output,), run, _resolver(stage_id), title=stage_id, **more)


DRAW: Final = _spec("soak-draw", (), "number", "draw")
SUM: Final = _spec(
    "soak-sum",
    ("number",),
    "sum",
    "whole",
    sharding=Sharding(split, f"{__name__}:shard", ("part",), f"{__name__}:join"),
)
TRAIN: Final = _spec("soak-train", ("sum",), "evidence", "train")
PROTOCOL: Final = ("soak-draw", "soak-sum", "soak-train")
"""The plan of a run of the protocol."""


def install(folder: Path) -> dict[str, str]:
    """Put a distribution with these stages into a folder, and the folder onto the path of this process.

    Give the variables with which other processes find it too.
    """
    info = folder / "hagd_soak_stages-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hagd-soak-stages\nVersion: 1.0\n", encoding="utf-8")
    names = zip(PROTOCOL, ("DRAW", "SUM", "TRAIN"), strict=True)
    lines = [f"{stage_id} = {__name__}:{name}\n" for stage_id, name in names]
    (info / "entry_points.txt").write_text("[hagd.stages]\n" + "".join(lines), encoding="utf-8")
    sys.path.append(str(folder))
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT), str(folder)]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


class _DyingStore:
    """A store in whose worker a token may strike between the blob of a checkpoint and its name."""

    def __init__(self, store: ArtifactStore, faults: Faults) -> None:
        self._store, self._faults = store, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put_if_absent(self, key: str, data: bytes) -> str | None:
        self._faults.die_at("mid-checkpoint", key=key)
        return self._store.put_if_absent(key, data)


def _keeping(context: StageContext) -> StageContext:
    faults = Faults.of_this_process()
    if faults is None or not isinstance(context, TaskContext):
        return context
    return replace(context, store=cast(ArtifactStore, _DyingStore(context.store, faults)))


def _dying(context: StageContext, outputs: Documents) -> Documents:
    """Give the outputs, unless a token says that the worker dies once they are stored."""
    faults = Faults.of_this_process()
    if faults is not None and isinstance(context, TaskContext) and faults.claims("after-blob"):
        for document in outputs.values():
            put_document(context.store, document)
        faults.die("after-blob", key=context.task.task_key)
    return outputs


def _work(start: str, config: Config, context: StageContext, pieces: int) -> str:
    state = f"{start}/{sorted(config.items())}"
    for piece in range(pieces):
        context.progress(piece, pieces, "at work")
        state = _hashed(state, ITERATIONS // pieces)
    return state


def _hashed(text: str, iterations: int) -> str:
    return hashlib.pbkdf2_hmac("sha256", text.encode(), b"soak", iterations).hex()
