"""What one timed step is: shapes and data, the same for all that are timed. Loads the standard library alone."""

import json
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Size:
    """A layer, and how much of it a round measures."""

    width: int
    features: int
    k: int = 32
    tokens: int = 2048
    steps: int = 4
    seed: int = 0

    def to_argument(self) -> str:
        """Give it as an argument of a process."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_argument() -> "Size":
        """Read it from the first argument of this process."""
        return Size(**json.loads(sys.argv[1]))


def tell(**answer: float) -> None:
    """Answer whoever started this process, `seconds` of processor time among it."""
    sys.stdout.write(json.dumps(answer) + "\n")
