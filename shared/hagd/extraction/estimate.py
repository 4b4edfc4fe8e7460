"""What a plan is likely to cost, and how much of it is there already.

The figures are measurements on two CPU cores, scaled by what drives the cost; they are good for choosing between a
coffee and a night, not for scheduling. A stage without a measurement says so instead of guessing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hagd.artifacts.manifests import find_result
from hagd.artifacts.reference import ArtifactRef
from hagd.errors import NotARunError
from hagd.extraction.settings import STAGES
from hagd.pipeline.contract import task_key
from hagd.pipeline.folder import RunFolder
from hagd.pipeline.request import PlanEntry
from hagd.pipeline.stages import find_stage

_MIB: Final = 2**20
_MODULUS: Final = 113
# Seconds and MiB by subject and place in the plan.
_MEASURED: Final[dict[str, dict[str, tuple[float, int]]]] = {
    "modular-addition": {
        "subject": (8.0, 700),
        "transcoder": (10.0, 800),
        "coarsening": (1.0, 800),
        "traversal": (4.0, 900),
        "verification": (11.0, 1100),
    },
    "parity": {
        "subject": (15.0, 600),
        "transcoder": (25.0, 600),
        "coarsening": (5.0, 600),
        "traversal": (30.0, 700),
        "verification": (40.0, 800),
    },
    "smollm2": {
        "subject": (44.0, 3000),
        "transcoder": (21.0, 4000),
        "coarsening": (11.0, 4300),
        "traversal": (195.0, 6300),
        "verification": (125.0, 7600),
    },
}


@dataclass(frozen=True)
class StageEstimate:
    """The likely cost of one stage."""

    stage_id: str
    seconds: float | None
    """None when nothing comparable was measured."""
    peak_bytes: int | None
    cached: bool
    """The result is in the run folder already: it costs nothing."""
    available_bytes: int | None = None
    """Memory that the stage may fill, where that was measured."""
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """By kind of work, where that was measured; `size` says how much of it there is."""

    @property
    def fits(self) -> bool:
        """Whether the memory is there, as far as that is known."""
        return self.peak_bytes is None or self.available_bytes is None or self.peak_bytes <= self.available_bytes

    def to_json(self) -> dict[str, Any]:
        plain = {
            "stage_id": self.stage_id,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "cached": self.cached,
        }
        measured = {"available_bytes": self.available_bytes, "fits": self.fits, "parts": self.parts}
        return plain if self.available_bytes is None else plain | measured


def estimate_plan(plan: tuple[PlanEntry, ...], out: Path | None) -> list[StageEstimate]:
    """Estimate every stage of a plan; `out` is the run folder, which may not exist."""
    there = _cached_stages(plan, out) if out is not None else 0
    subject = plan[0].config
    return [
        StageEstimate(entry.stage_id, *((0.0, 0) if i < there else _cost(subject, place)), cached=i < there)
        for i, (entry, place) in enumerate(zip(plan, STAGES, strict=False))
    ]


def _cost(subject: Any, place: str) -> tuple[float | None, int | None]:
    task, model = subject.get("task", {}), subject.get("model", {})
    name = task.get("name")
    measured = _MEASURED.get("smollm2" if model.get("path") == "smollm2" else str(name) if "path" not in model else "")
    if measured is None:
        return None, None
    seconds, mebibytes = measured[place]
    scale = max(0.3, (task.get("modulus", _MODULUS) / _MODULUS) ** 2) if name == "modular-addition" else 1.0
    return round(seconds * scale, 1), mebibytes * _MIB


def _cached_stages(plan: tuple[PlanEntry, ...], out: Path) -> int:
    """Count the first stages whose results the folder holds."""
    try:
        store = RunFolder.open(out).open_store(create=False)
    except NotARunError:
        return 0
    inputs: dict[str, ArtifactRef] = {}
    for done, entry in enumerate(plan):
        spec = find_stage(entry.stage_id)
        manifest = find_result(store, task_key(spec, inputs, entry.config))
        if manifest is None:
            return done
        inputs |= manifest.outputs
    return len(plan)
