"""How much of everything a soak has. One seed chooses all the rest."""

from dataclasses import dataclass
from typing import Final

POINTS: Final = (
    "after-blob",
    "after-manifest",
    "after-event",
    "before-ack",
    "mid-checkpoint",
    "mid-rebalance",
    "mid-cancel",
    "after-outcome",
    "lease-takeover",
)
"""Where processes die; at the last one the holder of a lease is stopped until another has taken it over."""


@dataclass(frozen=True)
class Least:
    """How often each fault must have happened for the soak to prove anything."""

    point: int = 3
    """Every named point."""
    kills: int = 30
    """Kills of services and workers at any moment."""
    stops: int = 5
    """Services stopped for longer than session timeout and lease together."""
    restarts: int = 3
    """Broker and store, each."""
    wasted: float = 0.15
    """Not a number of faults: the largest share of computing that may have been in vain."""
    is_floor: bool = True
    """Whether a soak fails for a fault that happened less often."""


@dataclass(frozen=True)
class Settings:
    """One soak."""

    seed: int
    """Chooses requests, their times, and the faults."""
    runs: int = 500
    """Runs of the protocol: stages of 50 ms."""
    extractions: int = 40
    """Real extractions, small ones."""
    minutes: float = 15.0
    """Over which requests and faults are spread; what is left then takes as long as it takes."""
    patience_minutes: float = 15.0
    """How long runs may take to end after the last request."""
    least: Least = Least()
    """What must have happened."""
    replicas: int = 2
    """Processes of each service."""
    partitions: int = 4
    """Partitions of each topic of work."""
    session_seconds: float = 6.0
    """Silence after which Kafka gives the requests of a service to others."""
    lease_seconds: float = 6.0
    """Silence after which a task is taken over."""

    @property
    def poison(self) -> int:
        """Give how many messages are poison: 1 % at least, and each kind once at least."""
        return max(5, round(0.02 * self.runs))

    @property
    def stopped_seconds(self) -> float:
        """Give how long a service is stopped: longer than session timeout and lease together."""
        return self.session_seconds + self.lease_seconds + 2.0


SMALL: Final = Least(point=1, kills=2, stops=1, restarts=1, wasted=1.0, is_floor=False)
"""What a soak of a minute can show: its few computations meet as many faults, or happen to miss one."""
