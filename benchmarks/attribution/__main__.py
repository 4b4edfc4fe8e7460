"""Local attribution graphs, beside circuit-tracer (`make bench-attribution`).

Writes `build/attribution.json` and exits with 1 when a floor is missed. `python -m benchmarks.attribution speed`
measures only those rows.
"""

import sys
from collections.abc import Callable

from benchmarks.attribution.measuring import measure_long, measure_speed
from benchmarks.attribution.models import measure_smollm2, measure_task
from benchmarks.tables import Row, run

MEASURES: dict[str, Callable[[], list[Row]]] = {
    "task": measure_task,
    "long": measure_long,
    "smollm2": measure_smollm2,
    "speed": measure_speed,
}


if __name__ == "__main__":
    sys.exit(run("Attribution graphs of one prompt", "attribution", MEASURES, sys.argv[1:]))
