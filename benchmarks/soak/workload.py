"""What a soak asks for and when, all chosen by its seed: runs, both kinds of repetition, and cancels."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.soak.settings import Settings
from benchmarks.soak.stages import PROTOCOL
from hagd.extraction.plan import build_plan
from hagd.extraction.settings import Settings as ExtractionSettings
from hagd.pipeline.request import PlanEntry, Request, run_id_of
from hagd.pipeline.stages import plan_entry

PRINCIPAL: Final = "local"
_EQUAL_CONTENT: Final = 0.05
"""Share of runs that ask under another name for what was asked before; at most 10 % may."""
_ASKED_AGAIN: Final = 0.05
"""Share of runs whose request is sent once more under its own name."""
_CANCELLED: Final = 0.06
_CANCELS_PER_DEATH: Final = 4
"""So many runs at least for every process that is to die while it hears of a cancel: some end before they hear."""
_SHARING: Final = 20
"""Extractions that explain the same model."""
_SHARDS: Final = (2, 3, 4)


@dataclass(frozen=True)
class Asked:
    """One call at its time."""

    at: float
    """Between 0, when the soak starts, and 1, when nothing more is asked."""
    request: Request
    content: str
    """Equal where equal results are asked for."""
    cancelled: bool = False
    """Whether the run is cancelled as soon as it was accepted."""

    @property
    def run_id(self) -> str:
        return run_id_of(self.request.principal, self.request.request_id)

    @property
    def is_real(self) -> bool:
        """Say whether it is an extraction."""
        return self.request.plan[0].stage_id not in PROTOCOL


def draw_workload(settings: Settings) -> list[Asked]:
    """Give all calls in the order of their times."""
    chance = random.Random(f"workload/{settings.seed}")
    runs = [*_protocol(settings, chance), *_extractions(settings, chance)]
    again = chance.sample([it for it in runs if not it.cancelled], round(_ASKED_AGAIN * len(runs)))
    runs += [replace(it, at=min(1.0, it.at + chance.uniform(0.0, 0.2))) for it in again]
    return sorted(runs, key=lambda it: it.at)


def distinct_share(asked: list[Asked]) -> float:
    """Give the share of runs whose results nobody else asked for."""
    contents = {it.run_id: it.content for it in asked}
    return len(set(contents.values())) / len(contents)


def _protocol(settings: Settings, chance: random.Random) -> Iterator[Asked]:
    earlier: list[Asked] = []
    repeated = int(_EQUAL_CONTENT * settings.runs)
    cancels = max(_CANCELS_PER_DEATH * settings.least.point, round(_CANCELLED * settings.runs))
    cancelled = set(chance.sample(range(settings.runs - repeated), cancels))
    for number in range(settings.runs):
        name = f"soak-{settings.seed}-{number:04d}"
        if number >= settings.runs - repeated:
            twin = chance.choice(earlier)
            yield replace(twin, at=chance.random(), request=replace(twin.request, request_id=name), cancelled=False)
            continue
        plan = _plan(settings.seed * 1_000_000 + number, chance.choice(_SHARDS))
        asked = Asked(chance.random(), Request(PRINCIPAL, name, plan), name, number in cancelled)
        earlier.append(asked)
        yield asked


def _plan(seed: int, shards: int) -> tuple[PlanEntry, ...]:
    configs: tuple[dict[str, Any], ...] = ({"seed": seed}, {"shards": shards, "salt": seed}, {"salt": seed})
    return tuple(plan_entry(stage_id, config) for stage_id, config in zip(PROTOCOL, configs, strict=True))


def _extractions(settings: Settings, chance: random.Random) -> Iterator[Asked]:
    for number in range(settings.extractions):
        name = f"soak-{settings.seed}-real-{number:02d}"
        plan = build_plan(small_extraction(number))
        # The last ones come early enough to end with the others.
        yield Asked(0.9 * chance.random(), Request(PRINCIPAL, name, plan), name)


def small_extraction(number: int) -> ExtractionSettings:
    """Give the settings of an extraction of seconds; every twentieth trains a model, which the others explain too."""
    overrides: dict[str, dict[str, Any]] = {
        "subject": {"seed": 0, "model": {"train": True, "seed": number // _SHARING}},
        "traversal": {"budget": 2000},
        "verification": {"bootstrap_draws": 200, "cards": 20},
    }
    return ExtractionSettings(
        "modular-addition", modulus=23, dictionary="neurons", seed=number + 1, draws=19, overrides=overrides
    )
