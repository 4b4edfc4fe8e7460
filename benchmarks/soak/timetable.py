"""Which fault comes when, chosen by the seed: spread over the soak, each kind evenly."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.soak.settings import POINTS, Settings

Kind = Literal["token", "kill", "stop", "restart"]


@dataclass(frozen=True)
class Fault:
    """One fault at its time."""

    at: float
    """Between 0 and 1, as of calls."""
    kind: Kind
    target: str = ""
    """A named point; `service` or `worker`; `broker` or `store`."""
    kill: bool = True
    """Of a restart: by force."""


def draw_timetable(settings: Settings) -> list[Fault]:
    """Give all faults in the order of their times."""
    chance, least = random.Random(f"faults/{settings.seed}"), settings.least
    faults = [Fault(at, "token", point) for point in POINTS for at in _spread(least.point + 1, chance)]
    faults += [
        Fault(at, "kill", "service" if number % 2 else "worker")
        for number, at in enumerate(_spread(least.kills, chance))
    ]
    # One more, because one may come while no service serves.
    faults += [Fault(at, "stop") for at in _spread(least.stops + 1, chance)]
    for server in ("broker", "store"):
        times = list(_spread(least.restarts, chance))
        # All but the last by force.
        faults += [Fault(at, "restart", server, number + 1 < len(times)) for number, at in enumerate(times)]
    return sorted(faults, key=lambda fault: fault.at)


def _spread(count: int, chance: random.Random) -> Iterator[float]:
    """Give a time in each of `count` equal parts of what lies between start and end."""
    for number in range(count):
        yield 0.04 + 0.86 * (number + chance.random()) / count
