"""Local attribution graphs, beside circuit-tracer (`make bench-attribution`).

Writes `build/attribution.json` and exits with 1 when a floor is missed. `python -m benchmarks.attribution speed`
measures only those rows.
"""

import sys
import time
from collections.abc import Callable

from benchmarks.attribution.measuring import measure_long, measure_speed
from benchmarks.attribution.models import measure_smollm2, measure_task
from benchmarks.tables import Row, report

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "task": measure_task,
    "long": measure_long,
    "smollm2": measure_smollm2,
    "speed": measure_speed,
}


def main(names: list[str]) -> int:
    """Measure the rows of these names, all of them when there are none."""
    if unknown := sorted(set(names) - set(MEASURES)):
        sys.stderr.write(f"unknown: {', '.join(unknown)}; there are {', '.join(MEASURES)}\n")
        return 2
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in names or MEASURES:
        began = time.monotonic()
        rows += MEASURES[name]()
        seconds[name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name}: {seconds[name]:.0f} s\n")
    return report("Attribution graphs of one prompt", "attribution", rows, {"seconds": seconds})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
