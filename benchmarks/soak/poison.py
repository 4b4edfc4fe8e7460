"""What nobody should have written, straight into topics of work, as bytes that are not made by the product.

One kind comes by a call, because only a run that was accepted gets as far as its missing input.
"""

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.soak.settings import Settings
from benchmarks.soak.workload import PRINCIPAL
from hagd.artifacts.reference import ArtifactRef
from hagd.pipeline.request import PlanEntry, Request, run_id_of

KINDS: Final = ("random bytes", "no event", "wrong plan", "bad reference", "missing input")
_ENTRANCE: Final = "hagd.extraction.requested.v1"
_STAGES: Final = ("hagd.soak-draw.requested.v1", "hagd.soak-sum.requested.v1", "hagd.soak-train.requested.v1")


@dataclass(frozen=True)
class Poison:
    """One message at its time."""

    at: float
    """As of calls."""
    kind: str
    topic: str
    value: bytes = b""
    run_id: str = ""
    """The run that it names, where it can be read."""
    request: Request | None = None
    """What to call with, in place of writing."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.value).hexdigest()


def draw_poison(settings: Settings) -> list[Poison]:
    """Give all poison in the order of its times, of every kind in turn."""
    chance = random.Random(f"poison/{settings.seed}")
    made = [_poison(KINDS[number % len(KINDS)], 0.95 * chance.random(), chance) for number in range(settings.poison)]
    return sorted(made, key=lambda it: it.at)


def _poison(kind: str, at: float, chance: random.Random) -> Poison:
    anywhere = chance.choice((_ENTRANCE, *_STAGES))
    if kind == "random bytes":
        return Poison(at, kind, anywhere, chance.randbytes(chance.randint(1, 4096)))
    if kind == "no event":
        content = {"id": chance.randint(0, 10**9), "plan": [], "nested": [[[{"run_id": None}]]]}
        return Poison(at, kind, anywhere, json.dumps(content).encode())
    run_id = f"{chance.getrandbits(256):064x}"
    if kind == "wrong plan":
        stage, config = chance.choice((("no-such-stage", {}), ("soak-draw", {"no_such_field": 1})))
        topic = _ENTRANCE if stage == "no-such-stage" else chance.choice((_ENTRANCE, _STAGES[0]))
        return Poison(at, kind, topic, _event(run_id, stage, config, {}), run_id)
    missing = ArtifactRef(f"{chance.getrandbits(256):064x}", 7, "application/json")
    if kind == "missing input":
        request = Request(PRINCIPAL, f"missing-{run_id[:16]}", (PlanEntry("soak-train", 1),), {"sum": missing})
        return Poison(at, kind, _STAGES[2], run_id=run_id_of(request.principal, request.request_id), request=request)
    return Poison(at, kind, _STAGES[2], _event(run_id, "soak-train", {}, {"sum": missing.to_json()}), run_id)


def _event(run_id: str, stage: str, config: dict[str, Any], inputs: dict[str, Any]) -> bytes:
    content = {
        "id": hashlib.sha256(run_id.encode()).hexdigest(),
        "run_id": run_id,
        "principal": PRINCIPAL,
        "generation": 0,
        "stage_index": 0,
        "plan": [{"stage_id": stage, "semantics_version": 1, "config": config}],
        "inputs": inputs,
        "data": {},
        "schema_version": 1,
    }
    return json.dumps(content).encode()
