"""Measure everything, print the table, write build/bench-runtime.json; the exit status says whether a floor was missed.

`python -m benchmarks.runtime driver computed` measures only those rows.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cluster.place import Place, running_place
from benchmarks.cluster.stages import STAGES
from benchmarks.runtime import artifact, burst, computed, driver, scaling
from benchmarks.tables import Row, report
from hagd.pipeline.stages import discover_stages

MEASURES: dict[str, Callable[[Place], list[Row]]] = {
    "driver": driver.measure,
    "artifact": artifact.measure,
    "computed": computed.measure,
    "burst": burst.measure,
    "process": scaling.measure_process,
    "ray": scaling.measure_ray,
}


def main(names: list[str]) -> int:
    """Measure the rows of these names, all of them when there are none; each on servers of its own."""
    if unknown := sorted(set(names) - set(MEASURES)):
        sys.stderr.write(f"unknown: {', '.join(unknown)}; there are {', '.join(MEASURES)}\n")
        return 2
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in names or MEASURES:
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="hagd-bench-") as folder,
            running_place(Path(folder), [*discover_stages(), *STAGES]) as place,
        ):
            rows += MEASURES[name](place)
        seconds[name] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{name}: {seconds[name]:.0f} s\n")
    return report("Runtime over Kafka and MinIO", "bench-runtime", rows, {"seconds": seconds})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
